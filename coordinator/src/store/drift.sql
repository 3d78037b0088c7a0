-- Pages at which books moved while they were read: $1 day, $2 batch, $3 markets, $4 pages per book at
-- most.
--
-- Looked at are the last readings of the pages. An ad on two of them went from one to the other,
-- perhaps in place of one that went the other way: both pages are suspect. Where the total changed
-- from one reading to the next, an ad came or went before the later one, and one may have slipped
-- over the border between them: both are suspect. If neither tells where ads are missing, the first
-- pages are read again, which change most.
WITH readings AS (
    SELECT p.market_id, p.page, p.ordinal, p.fetched_at, p.declared_total, p.offer_ids, p.promoted_position,
           row_number() OVER (PARTITION BY p.market_id, p.page ORDER BY p.ordinal DESC) = 1 AS is_last
      FROM warehouse.book_pages p
     WHERE p.day = $1 AND p.batch_id = $2 AND p.market_id = ANY ($3)
), listed AS (
    SELECT r.market_id, r.page, r.is_last, v.adv_no,
           (l.position = r.promoted_position) IS TRUE AS is_promoted
      FROM readings r
     CROSS JOIN LATERAL unnest(r.offer_ids) WITH ORDINALITY AS l (id, position)
      JOIN warehouse.offer_versions v ON v.day = $1 AND v.id = l.id
), ads AS (
    SELECT market_id,
           count(DISTINCT adv_no) FILTER (WHERE NOT is_promoted) AS ordinary_ads,
           count(DISTINCT adv_no) AS distinct_ads
      FROM listed WHERE is_last GROUP BY market_id
), totals AS (
    SELECT market_id, min(declared_total) AS least, max(declared_total) AS most
      FROM readings WHERE cardinality(offer_ids) > 0 GROUP BY market_id
), moved AS (
    SELECT t.market_id
      FROM totals t JOIN ads a USING (market_id)
     -- A promoted ad that comes at no ordinary place may be the one that lacks.
     WHERE a.ordinary_ads + CASE WHEN a.distinct_ads > a.ordinary_ads THEN 1 ELSE 0 END < t.most
), repeated AS (
    SELECT l.market_id, l.page
      FROM listed l
      JOIN (SELECT market_id, adv_no FROM listed WHERE is_last AND NOT is_promoted
             GROUP BY market_id, adv_no HAVING count(*) > 1) twice USING (market_id, adv_no)
     WHERE l.is_last AND NOT l.is_promoted
), stepped AS (
    SELECT market_id, unnest(ARRAY[page, page_before]) AS page
      FROM (SELECT market_id, page, declared_total,
                   lag(page) OVER by_time AS page_before,
                   lag(declared_total) OVER by_time AS total_before
              FROM readings WHERE is_last AND cardinality(offer_ids) > 0
            WINDOW by_time AS (PARTITION BY market_id ORDER BY fetched_at)) r
     WHERE declared_total <> total_before
), suspect AS (
    SELECT market_id, page FROM repeated
     UNION
    SELECT market_id, page FROM stepped
), chosen AS (
    SELECT market_id, page FROM suspect
     UNION
    SELECT r.market_id, r.page FROM readings r
     WHERE NOT EXISTS (SELECT FROM suspect s WHERE s.market_id = r.market_id)
), counted AS (
    SELECT market_id, page::int AS page, row_number() OVER (PARTITION BY market_id ORDER BY page) AS n
      FROM chosen JOIN moved USING (market_id)
)
SELECT market_id, page FROM counted WHERE n <= $4 ORDER BY market_id, page
