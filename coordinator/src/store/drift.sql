-- Pages at which books moved while they were read: $1 day, $2 batch, $3 markets, $4 pages per book at
-- most. Those that can still become complete come first.
--
-- Looked at are the last readings of the pages. An ad on two of them went from one to the other, perhaps
-- in place of one that went the other way. One of the two readings is the odd one: that with more such ads,
-- or else the older, is asked for again. Where the total changed from one reading to the next, an ad may have slipped over the border
-- onto the page that was read before. A page that showed no ads although the total reaches beyond it is
-- suspect by itself. If nothing tells where ads are missing, the first pages are read again, once: they
-- change most.
WITH readings AS (
    SELECT p.market_id, p.page, p.ordinal, p.fetched_at, p.declared_total, p.offer_ids, p.promoted_position,
           j.ads_refused,
           row_number() OVER (PARTITION BY p.market_id, p.page ORDER BY p.ordinal DESC) = 1 AS is_last
      FROM warehouse.book_pages p
      JOIN pipeline.jobs j USING (day, batch_id, ordinal)
     WHERE p.day = $1 AND p.batch_id = $2 AND p.market_id = ANY ($3)
), listed AS (
    SELECT r.market_id, r.page, r.fetched_at, v.adv_no,
           (l.position = r.promoted_position) IS TRUE AS is_promoted
      FROM readings r
     CROSS JOIN LATERAL unnest(r.offer_ids) WITH ORDINALITY AS l (id, position)
      JOIN warehouse.offer_versions v ON v.day = $1 AND v.id = l.id
     WHERE r.is_last
), ads AS (
    SELECT market_id,
           count(DISTINCT adv_no) FILTER (WHERE NOT is_promoted) AS ordinary_ads,
           count(DISTINCT adv_no) AS distinct_ads
      FROM listed GROUP BY market_id
), books AS (
    SELECT market_id, min(declared_total) AS least, max(declared_total) AS most,
           sum(ads_refused) FILTER (WHERE is_last) AS refused_ads,
           bool_or(NOT is_last) AS was_read_again
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
     CROSS JOIN LATERAL generate_series(1, least((m.most + 19) / 20, 500)) AS n (page)
     WHERE NOT EXISTS (SELECT FROM readings r
                        WHERE r.market_id = m.market_id AND r.page = n.page AND cardinality(r.offer_ids) > 0)
), suspect AS (
    SELECT market_id, page FROM repeated
     UNION
    SELECT market_id, page FROM stepped
     UNION
    SELECT market_id, page FROM hollow
), chosen AS (
    SELECT market_id, page FROM suspect
     UNION
    SELECT m.market_id, r.page
      FROM moved m JOIN readings r USING (market_id)
     WHERE NOT m.was_read_again AND r.page <= 2
       AND NOT EXISTS (SELECT FROM suspect s WHERE s.market_id = m.market_id)
), counted AS (
    SELECT m.market_id, c.page::int AS page, m.least < m.most AS has_stepped,
           row_number() OVER (PARTITION BY m.market_id ORDER BY c.page) AS n
      FROM chosen c JOIN moved m USING (market_id)
)
SELECT market_id, page FROM counted WHERE n <= $4 ORDER BY has_stepped, market_id, page
