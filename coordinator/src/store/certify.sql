-- The certificates of a batch's books. $1 day, $2 batch.
--
-- An ad that a book lists twice is kept once: at its ordinary place rather than the promoted one,
-- then as the latest page showed it. The other places are marked on their pages.
WITH listed AS (
    SELECT p.market_id, p.page, l.position, v.adv_no,
           (l.position = p.promoted_position) IS TRUE AS is_promoted,
           row_number() OVER (PARTITION BY p.market_id, v.adv_no
                              ORDER BY (l.position = p.promoted_position) IS TRUE,
                                       p.fetched_at DESC, p.page, l.position) AS sighting
      FROM warehouse.book_pages p
     CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
      JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
     WHERE p.day = $1 AND p.batch_id = $2
), repeated AS (
    SELECT market_id, page, array_agg(position::smallint ORDER BY position) AS positions
      FROM listed WHERE sighting > 1 GROUP BY market_id, page
), marked AS (
    UPDATE warehouse.book_pages p
       SET duplicate_positions = r.positions
      FROM repeated r
     WHERE p.day = $1 AND p.batch_id = $2 AND p.market_id = r.market_id AND p.page = r.page
), ads AS (
    SELECT market_id,
           count(*) AS listed_ads,
           count(DISTINCT adv_no) AS distinct_ads,
           -- Ads at their ordinary place. The promoted ad may come again there, or not.
           count(DISTINCT adv_no) FILTER (WHERE NOT is_promoted) AS ordinary_ads,
           count(*) FILTER (WHERE NOT is_promoted)
             - count(DISTINCT adv_no) FILTER (WHERE NOT is_promoted) AS duplicate_ads
      FROM listed GROUP BY market_id
), pages AS (
    SELECT market_id,
           count(*) FILTER (WHERE reason IS DISTINCT FROM 'beyond_last_page') AS planned,
           count(*) FILTER (WHERE state = 'done' OR state = 'empty' AND attempts > 0) AS read,
           count(*) FILTER (WHERE state IN ('failed', 'expired')) AS lost,
           count(*) FILTER (WHERE state = 'shed') AS shed,
           coalesce(sum(ads_refused), 0) AS refused_ads,
           -- Totals of pages with ads only: past the end the exchange says 0.
           (array_agg(declared_total ORDER BY fetched_at) FILTER (WHERE declared_total IS NOT NULL AND ads_taken > 0))[1] AS first_total,
           (array_agg(declared_total ORDER BY fetched_at DESC) FILTER (WHERE declared_total IS NOT NULL AND ads_taken > 0))[1] AS last_total,
           min(declared_total) FILTER (WHERE ads_taken > 0) AS min_total,
           max(declared_total) FILTER (WHERE ads_taken > 0) AS max_total,
           min(fetched_at) AS first_fetched_at,
           max(fetched_at) AS last_fetched_at
      FROM pipeline.jobs
     WHERE day = $1 AND batch_id = $2 AND kind = 'search'
     GROUP BY market_id
), counted AS (
    SELECT g.*,
           -- Pages that the book declares and that the deadline kept from being planned.
           greatest(coalesce(ceil(g.max_total / 20.0), 0)::int - g.planned, 0) AS unplanned,
           coalesce(a.listed_ads, 0) AS listed_ads,
           coalesce(a.distinct_ads, 0) AS distinct_ads,
           coalesce(a.duplicate_ads, 0) AS duplicate_ads,
           -- Whether the exchange's total counts a promoted ad that comes at no ordinary place is not
           -- known; it covers one ad that is missing otherwise, never more.
           least(coalesce(a.ordinary_ads, 0) + CASE WHEN a.distinct_ads > a.ordinary_ads THEN 1 ELSE 0 END,
                 greatest(coalesce(a.ordinary_ads, 0), g.max_total)) AS covered_ads
      FROM pages g LEFT JOIN ads a USING (market_id)
)
INSERT INTO warehouse.books
       (day, batch_id, market_id, verdict, first_total, last_total, min_total, max_total, pages_planned,
        pages_read, pages_lost, pages_shed, listed_ads, distinct_ads, duplicate_ads, refused_ads,
        estimated_missed, first_fetched_at, last_fetched_at, span_ms)
SELECT $1, $2, market_id,
       CASE WHEN shed > 0 AND shed = planned THEN 'shed'
            WHEN read = 0 THEN 'failed'
            WHEN lost + unplanned + shed + refused_ads > 0 THEN 'partial'
            WHEN listed_ads = 0 THEN 'empty'
            WHEN min_total = max_total AND duplicate_ads = 0 AND covered_ads = max_total THEN 'complete'
            ELSE 'drifted'
       END,
       first_total, last_total, min_total, max_total,
       planned + unplanned, read, lost + unplanned, shed,
       listed_ads, distinct_ads, duplicate_ads, refused_ads,
       -- At least as many as the total lacks, as were seen twice (each pushed one out of sight or
       -- came instead of one), and as the total shrank by while pages moved up.
       CASE WHEN read > 0
            THEN greatest(max_total - covered_ads - refused_ads, duplicate_ads, first_total - last_total, 0)
       END,
       first_fetched_at, last_fetched_at,
       (extract(epoch FROM last_fetched_at - first_fetched_at) * 1000)::int
  FROM counted;
