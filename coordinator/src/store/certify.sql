-- The certificates of a batch's books, whose ads `listed_ads` has. $1 day, $2 batch.
--
-- An ad that a book lists more than once is kept once: at its ordinary place rather than the promoted
-- one, then as the latest page showed it. The other places are marked on their pages.
WITH sightings AS MATERIALIZED (
    -- Of ads that their book lists more than once. Not as a join, for which all that is listed would be hashed instead
    -- of the few.
    SELECT l.ctid AS row, l.market_id, l.adv_no, l.page, l.ordinal, l.position, l.is_last, l.is_promoted, l.fetched_at
      FROM listed_ads l
     WHERE ((market_id, adv_no) IN (SELECT market_id, adv_no FROM repeated_ads)) IS TRUE
), ranked AS (
    SELECT row, market_id, page, ordinal, position,
           row_number() OVER (PARTITION BY market_id, adv_no
                              ORDER BY is_promoted, fetched_at DESC, ordinal DESC, position) AS sighting
      FROM sightings
), repeated AS (
    SELECT market_id, page, ordinal, array_agg(position ORDER BY position) AS positions
      FROM ranked WHERE sighting > 1 GROUP BY market_id, page, ordinal
), marked AS (
    UPDATE warehouse.book_pages p
       SET duplicate_positions = r.positions
      FROM repeated r
     WHERE p.day = $1 AND p.batch_id = $2 AND p.market_id = r.market_id AND p.page = r.page
       AND p.ordinal = r.ordinal
), unshown AS (
    UPDATE listed_ads SET is_shown = false WHERE ctid = ANY (ARRAY(SELECT row FROM ranked WHERE sighting > 1))
), more AS (
    -- How often these are listed again.
    SELECT market_id, sum(places - 1) AS places, sum(greatest(ordinary_places - 1, 0)) AS ordinary_places,
           sum(greatest(last_places - 1, 0)) AS last_places,
           sum(greatest(last_ordinary_places - 1, 0)) AS last_ordinary_places
      FROM (SELECT market_id, count(*) AS places,
                   count(*) FILTER (WHERE NOT is_promoted) AS ordinary_places,
                   count(*) FILTER (WHERE is_last) AS last_places,
                   count(*) FILTER (WHERE is_last AND NOT is_promoted) AS last_ordinary_places
              FROM sightings GROUP BY market_id, adv_no) r
     GROUP BY market_id
), ads AS (
    SELECT market_id, l.last_places AS listed_ads,
           l.places - coalesce(m.places, 0) AS distinct_ads,
           -- Ads at their ordinary place. The promoted ad may come again there, or not.
           l.ordinary_places - coalesce(m.ordinary_places, 0) AS ordinary_ads,
           -- What the last readings show together. An ad of an earlier one may have left since, and must
           -- not stand for one that was never seen.
           l.last_places - coalesce(m.last_places, 0) AS last_ads,
           l.last_ordinary_places - coalesce(m.last_ordinary_places, 0) AS last_ordinary_ads,
           coalesce(m.last_ordinary_places, 0) AS duplicate_ads
      FROM (SELECT market_id, count(*) AS places,
                   count(*) FILTER (WHERE NOT is_promoted) AS ordinary_places,
                   count(*) FILTER (WHERE is_last) AS last_places,
                   count(*) FILTER (WHERE is_last AND NOT is_promoted) AS last_ordinary_places
              FROM listed_ads WHERE adv_no IS NOT NULL GROUP BY market_id) l
      LEFT JOIN more m USING (market_id)
), pages AS (
    SELECT market_id, page,
           -- A page is read if any of its readings succeeded.
           bool_or(state = 'done' OR state = 'empty' AND reason = 'no_ads') AS is_read,
           bool_or(state IN ('failed', 'expired')) AS has_failed,
           bool_or(state = 'shed') AS is_shed,
           bool_and(reason IS NOT DISTINCT FROM 'beyond_last_page') AS is_beyond,
           bool_or(state = 'done') AS has_ads,
           max(CASE WHEN bool_or(state = 'done') THEN page END) OVER (PARTITION BY market_id) AS last_with_ads,
           count(*) FILTER (WHERE reason IS DISTINCT FROM 'beyond_last_page') AS readings,
           coalesce((array_agg(ads_refused ORDER BY ordinal DESC) FILTER (WHERE state = 'done'))[1], 0) AS refused_ads
      FROM pipeline.jobs
     WHERE day = $1 AND batch_id = $2 AND kind = 'search'
     GROUP BY market_id, page
), books AS (
    SELECT market_id,
           count(*) FILTER (WHERE NOT is_beyond) AS planned,
           -- Two pages without ads above all others are the end, whatever the total says.
           count(*) FILTER (WHERE is_read AND NOT has_ads AND page > coalesce(last_with_ads, 0)) >= 2 AS has_ended,
           count(*) FILTER (WHERE is_read) AS read,
           count(*) FILTER (WHERE has_failed AND NOT is_read) AS lost,
           count(*) FILTER (WHERE is_shed AND NOT is_read) AS shed,
           sum(greatest(readings - 1, 0)) AS reread,
           sum(refused_ads) AS refused_ads
      FROM pages GROUP BY market_id
), answers AS (
    SELECT market_id,
           (array_agg(total ORDER BY fetched_at) FILTER (WHERE total IS NOT NULL))[1] AS first_total,
           (array_agg(total ORDER BY fetched_at DESC) FILTER (WHERE total IS NOT NULL))[1] AS last_total,
           min(total) AS min_total,
           max(total) AS max_total,
           min(fetched_at) AS first_fetched_at,
           max(fetched_at) AS last_fetched_at
           -- Totals of pages with ads: past the end the exchange says 0. And of a first page without any that
           -- declares some, which is then not an empty book.
      FROM (SELECT market_id, fetched_at, CASE WHEN ads_taken > 0 OR state = 'empty' THEN declared_total END AS total
              FROM pipeline.jobs
             WHERE day = $1 AND batch_id = $2 AND kind = 'search') j
     GROUP BY market_id
), counted AS (
    SELECT b.*, t.first_total, t.last_total, t.min_total, t.max_total, t.first_fetched_at, t.last_fetched_at,
           -- Pages that the book declares and that the deadline kept from being planned.
           CASE WHEN b.has_ended THEN 0
                ELSE greatest(coalesce(ceil(t.max_total / 20.0), 0)::int - b.planned, 0) END AS unplanned,
           coalesce(a.listed_ads, 0) AS listed_ads,
           coalesce(a.distinct_ads, 0) AS distinct_ads,
           coalesce(a.duplicate_ads, 0) AS duplicate_ads,
           -- Whether the exchange's total counts a promoted ad that comes at no ordinary place is not
           -- known; it covers one ad that is missing otherwise, never more.
           CASE WHEN a.distinct_ads > a.ordinary_ads AND a.ordinary_ads < t.max_total
                THEN a.ordinary_ads + 1 ELSE coalesce(a.ordinary_ads, 0) END AS covered_ads,
           CASE WHEN a.last_ads > a.last_ordinary_ads AND a.last_ordinary_ads < t.max_total
                THEN a.last_ordinary_ads + 1 ELSE coalesce(a.last_ordinary_ads, 0) END AS last_covered_ads
      FROM books b JOIN answers t USING (market_id) LEFT JOIN ads a USING (market_id)
)
INSERT INTO warehouse.books
       (day, batch_id, market_id, verdict, first_total, last_total, min_total, max_total, pages_planned,
        pages_read, pages_lost, pages_shed, pages_reread, listed_ads, distinct_ads, duplicate_ads,
        refused_ads, estimated_missed, first_fetched_at, last_fetched_at, span_ms, is_listed)
SELECT $1, $2, market_id,
       CASE WHEN shed > 0 AND shed = planned THEN 'shed'
            WHEN read = 0 THEN 'failed'
            WHEN lost + unplanned + shed + refused_ads > 0 THEN 'partial'
            WHEN listed_ads = 0 AND max_total IS NULL THEN 'empty'
            -- A total that is the same after long tells little: as many may have come as went.
            WHEN min_total = max_total AND last_covered_ads = max_total AND covered_ads = max_total
                 AND last_fetched_at - first_fetched_at <= interval '60 s' THEN 'complete'
            ELSE 'drifted'
       END,
       first_total, last_total, min_total, max_total,
       planned + unplanned, read, lost + unplanned, shed, reread,
       listed_ads, distinct_ads, duplicate_ads, refused_ads,
       -- Nothing is known where ads are listed and no answer told a total.
       CASE WHEN read > 0 AND (max_total IS NOT NULL OR listed_ads = 0)
            THEN greatest(max_total - covered_ads - refused_ads, 0) END,
       first_fetched_at, last_fetched_at,
       -- A worker's clock may be off by any time, which must not keep the batch from being closed.
       least(extract(epoch FROM last_fetched_at - first_fetched_at) * 1000, 2147483647)::int,
       coalesce(l.is_listed, true)
  FROM counted
  LEFT JOIN (SELECT c.market_id, c.is_listed AND f.is_listed AS is_listed
               FROM pipeline.catalog c
               JOIN warehouse.dim_markets m USING (market_id)
               JOIN pipeline.fiat_catalog f ON f.exchange_id = m.exchange_id AND f.fiat_id = m.fiat_id) l USING (market_id)
