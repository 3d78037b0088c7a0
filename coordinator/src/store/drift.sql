-- Pages at which books moved while they were read: $1 day, $2 batch, $3 markets, $4 pages at most of a
-- book whose total stayed: it becomes complete if the odd pages are found. $5 of a book whose total
-- changed: it can't any more, so it is looked at once only, for the ads that slipped. $6 pages that a book is
-- believed to have at most.
--
-- Looked at are the last readings of the pages. An ad on two of them went from one to the other, perhaps
-- in place of one that went the other way. One of the two readings is the odd one: that with more such ads,
-- or else the older, is asked for again. Where the total changed from one reading to the next, an ad may have slipped over the border
-- onto the page that was read before. A page that showed no ads although the total reaches beyond it is
-- suspect by itself. If nothing tells where ads are missing, the first pages are read again, once: they
-- change most.
--
-- OFFSET 0: each row by its key. Of rows that were just written the planner knows nothing, and joins all jobs of
-- the batch to each page, or all versions of the day to some hundred ads.
WITH readings AS (
    SELECT p.market_id, p.page, p.ordinal, p.fetched_at, p.declared_total, p.offer_ids, p.promoted_position,
           j.ads_refused,
           row_number() OVER (PARTITION BY p.market_id, p.page ORDER BY p.ordinal DESC) = 1 AS is_last
      FROM unnest($3::int[]) AS m (market_id)
      JOIN LATERAL (SELECT * FROM warehouse.book_pages b
                     WHERE b.day = $1 AND b.batch_id = $2 AND b.market_id = m.market_id OFFSET 0) p ON true
      JOIN LATERAL (SELECT ads_refused FROM pipeline.jobs
                     WHERE day = $1 AND batch_id = $2 AND ordinal = p.ordinal OFFSET 0) j ON true
), listed AS (
    SELECT r.market_id, r.page, r.fetched_at, v.adv_no,
           (l.position = r.promoted_position) IS TRUE AS is_promoted
      FROM readings r
     CROSS JOIN LATERAL unnest(r.offer_ids) WITH ORDINALITY AS l (id, position)
      JOIN LATERAL (SELECT adv_no FROM warehouse.offer_versions WHERE day = $1 AND id = l.id OFFSET 0) v ON true
     WHERE r.is_last
), ads AS (
    SELECT market_id, count(*) FILTER (WHERE is_ordinary) AS ordinary_ads, count(*) AS distinct_ads
      FROM (SELECT market_id, adv_no, bool_or(NOT is_promoted) AS is_ordinary
              FROM listed GROUP BY market_id, adv_no) a
     GROUP BY market_id
), books AS (
    SELECT market_id, min(declared_total) AS least, max(declared_total) AS most,
           sum(ads_refused) FILTER (WHERE is_last) AS refused_ads,
           bool_or(NOT is_last) AS was_read_again,
           array_agg(page) AS pages
      FROM readings WHERE cardinality(offer_ids) > 0 GROUP BY market_id
), moved AS (
    SELECT b.*
      FROM books b JOIN ads a USING (market_id)
     -- A promoted ad that comes at no ordinary place may be the one that lacks; so may a refused one.
     WHERE a.ordinary_ads + CASE WHEN a.distinct_ads > a.ordinary_ads THEN 1 ELSE 0 END
           + coalesce(b.refused_ads, 0) < b.most
), twice AS (
    SELECT l.market_id, l.page, l.fetched_at, l.adv_no,
           count(*) OVER (PARTITION BY l.market_id, l.page) AS on_page
      FROM (SELECT *, count(*) OVER (PARTITION BY market_id, adv_no) AS sightings
              FROM listed WHERE NOT is_promoted) l
     WHERE sightings > 1
), repeated AS (
    SELECT DISTINCT ON (market_id, adv_no) market_id, page
      FROM twice ORDER BY market_id, adv_no, on_page DESC, fetched_at
), stepped AS (
    SELECT market_id, page_before AS page
      FROM (SELECT market_id, declared_total,
                   lag(page) OVER by_time AS page_before,
                   lag(declared_total) OVER by_time AS total_before
              FROM readings WHERE is_last AND cardinality(offer_ids) > 0
            WINDOW by_time AS (PARTITION BY market_id ORDER BY fetched_at)) r
     WHERE declared_total <> total_before
), hollow AS (
    SELECT m.market_id, n.page::smallint AS page
      FROM moved m
     CROSS JOIN LATERAL generate_series(1, least((m.most + 19) / 20, $6)) AS n (page)
     WHERE n.page <> ALL (m.pages)
), suspect AS (
    SELECT market_id, page FROM repeated
     UNION
    SELECT market_id, page FROM stepped
     UNION
    SELECT market_id, page FROM hollow
), chosen AS (
    SELECT market_id, page FROM suspect
     UNION
    SELECT m.market_id, f.page::smallint
      FROM moved m CROSS JOIN unnest(ARRAY[1, 2]) AS f (page)
     WHERE NOT m.was_read_again AND f.page = ANY (m.pages)
       AND NOT EXISTS (SELECT FROM suspect s WHERE s.market_id = m.market_id)
), counted AS (
    SELECT m.market_id, c.page::int AS page, m.least < m.most AS has_stepped, m.was_read_again,
           row_number() OVER (PARTITION BY m.market_id ORDER BY c.page) AS n
      FROM chosen c JOIN moved m USING (market_id)
)
SELECT market_id, page FROM counted
 WHERE CASE WHEN has_stepped THEN n <= $5 AND NOT was_read_again ELSE n <= $4 END
 ORDER BY has_stepped, market_id, page
