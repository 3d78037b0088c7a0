-- What the planner learns of a batch, whose ads `listed_ads` has: $1 day, $2 batch, $3 and $4 first and last id that a version seen
-- first in it can have.
WITH changes AS (
    -- Ads that came or changed. One whose content a worker did not remember counts too: its cache was
    -- cold, which the smoothing bears. The first reading of a day stores every ad anew, so it tells nothing.
    SELECT market_id, count(*) AS ads
      FROM (SELECT DISTINCT market_id, adv_no FROM listed_ads
             WHERE id BETWEEN $3 AND $4 AND adv_no IS NOT NULL
               AND market_id IN (SELECT market_id FROM pipeline.catalog
                                  WHERE (last_read_at AT TIME ZONE 'UTC')::date = $1)) v
     GROUP BY market_id
), books AS (
    SELECT k.*, t.slot_at, k.pages_read > 0 AND k.pages_lost = 0 AND k.pages_shed = 0 AS is_good,
           coalesce(c.ads, 0) AS changes
      FROM warehouse.books k
      JOIN pipeline.batches t USING (batch_id)
      LEFT JOIN changes c USING (market_id)
     WHERE k.day = $1 AND k.batch_id = $2
), expired AS (
    SELECT DISTINCT market_id FROM pipeline.jobs
     WHERE day = $1 AND batch_id = $2 AND kind = 'search' AND state = 'expired'
), rates AS (
    SELECT b.market_id,
           -- A bound far above any market: two batches may be moments apart.
           least(b.changes * 3600 / extract(epoch FROM b.slot_at - c.last_read_at), 1000000)::int AS per_hour
      FROM books b JOIN pipeline.catalog c USING (market_id)
     WHERE b.is_good AND c.last_read_at < b.slot_at
       AND (c.last_read_at AT TIME ZONE 'UTC')::date = $1
)
UPDATE pipeline.catalog c
   -- At most a page more than was seen: a total that is not true must not be planned for. Where none is told, what
   -- was seen.
   SET last_total = CASE WHEN b.is_good THEN least(coalesce(b.last_total, b.distinct_ads + b.refused_ads), b.distinct_ads + b.refused_ads + 20)
                         ELSE c.last_total END,
       last_read_at = CASE WHEN b.is_good THEN b.slot_at ELSE c.last_read_at END,
       last_batch_id = CASE WHEN b.listed_ads > 0 THEN b.batch_id ELSE c.last_batch_id END,
       -- A quarter of the new rate: an hour of every ten minutes forgets most of what was.
       changes_per_hour = coalesce((3 * c.changes_per_hour + r.per_hour) / 4, r.per_hour, c.changes_per_hour),
       consecutive_empty = CASE WHEN b.verdict = 'empty' THEN c.consecutive_empty + 1
                                WHEN b.is_good THEN 0 ELSE c.consecutive_empty END,
       -- What the deadline kept from being read waits like what was left out, and goes first likewise.
       consecutive_shed = CASE WHEN b.verdict = 'shed' OR b.pages_read = 0 AND e.market_id IS NOT NULL
                               THEN c.consecutive_shed + 1 ELSE 0 END
  FROM books b LEFT JOIN rates r USING (market_id) LEFT JOIN expired e USING (market_id)
 WHERE c.market_id = b.market_id
