-- Learns from the books of a batch, once. $1 day, $2 batch, $3 markets to learn from, $4 of these the ones that are
-- to be ordinary at once, $5 cycles of the medians, $6 cycles after which something is concluded, $7 suspect markets, $8
-- ordinary ones.
WITH read AS (
    SELECT k.market_id, k.batch_id, k.ads, k.available_amount AS amount, k.median_price, k.slot_at
      FROM warehouse.mart_books k
     WHERE k.day = $1 AND k.batch_id = $2 AND k.market_id = ANY ($3)
), suspected AS (
    INSERT INTO pipeline.market_baselines AS b (market_id, last_batch_id, suspicions, suspected_ads)
    SELECT k.market_id, k.batch_id, 1, k.distinct_ads
      FROM warehouse.books k
     WHERE k.day = $1 AND k.batch_id = $2 AND k.market_id = ANY ($7)
        ON CONFLICT (market_id) DO UPDATE
       SET last_batch_id = EXCLUDED.last_batch_id, suspicions = b.suspicions + 1, suspected_ads = EXCLUDED.suspected_ads
     WHERE b.last_batch_id < EXCLUDED.last_batch_id
), cleared AS (
    -- Not whole and still no less than ordinary: the fall that was suspected was none.
    UPDATE pipeline.market_baselines b
       SET suspicions = 0, suspected_ads = NULL
     WHERE b.market_id = ANY ($8) AND b.market_id <> ALL ($3) AND b.suspicions > 0 AND b.last_batch_id < $2
), learned AS (
    INSERT INTO pipeline.market_baselines AS b
           (market_id, last_batch_id, fed_at, cycles, recent_prices, recent_ads, day_ads, day_amount)
    SELECT market_id, batch_id, slot_at, 1, CASE WHEN median_price IS NULL THEN '{}' ELSE ARRAY[median_price] END,
           ARRAY[ads], ads, amount
      FROM read
        ON CONFLICT (market_id) DO UPDATE
       SET last_batch_id = EXCLUDED.last_batch_id, fed_at = EXCLUDED.fed_at, suspicions = 0, suspected_ads = NULL,
           cycles = b.cycles + 1,
           recent_prices = CASE WHEN cardinality(EXCLUDED.recent_prices) = 0 THEN b.recent_prices
                                ELSE (b.recent_prices || EXCLUDED.recent_prices)[greatest(cardinality(b.recent_prices) + 2 - $5, 1):] END,
           recent_ads = CASE WHEN b.market_id = ANY ($4) THEN array_fill(EXCLUDED.recent_ads[1], ARRAY[$6])
                             ELSE (b.recent_ads || EXCLUDED.recent_ads)[greatest(cardinality(b.recent_ads) + 2 - $5, 1):] END,
           (day_ads, day_amount) = (
               -- A mean of all books until a day is full, then one that forgets within a day.
               SELECT round(coalesce(b.day_ads, 0) + (EXCLUDED.day_ads - coalesce(b.day_ads, 0)) * weight, 8),
                      round(coalesce(b.day_amount, 0) + (EXCLUDED.day_amount - coalesce(b.day_amount, 0)) * weight, 8)
                 FROM (SELECT CASE WHEN b.market_id = ANY ($4) OR b.day_ads IS NULL THEN 1
                                   ELSE least(greatest(extract(epoch FROM EXCLUDED.fed_at - b.fed_at) / 86400, 1.0 / (b.cycles + 1)), 1)
                              END AS weight) w)
     WHERE b.last_batch_id < EXCLUDED.last_batch_id
 RETURNING market_id
)
INSERT INTO pipeline.market_baseline_hours AS h (market_id, hour_of_week, books, first_at, ads, amount, spread_ratio)
SELECT r.market_id,
       extract(isodow FROM r.slot_at AT TIME ZONE 'UTC') * 24 - 24 + extract(hour FROM r.slot_at AT TIME ZONE 'UTC'),
       1, r.slot_at, r.ads, r.amount, k.spread_ratio
  FROM read r
  JOIN learned USING (market_id)
  JOIN warehouse.mart_books k ON k.market_id = r.market_id AND k.day = $1 AND k.batch_id = $2
    ON CONFLICT (market_id, hour_of_week) DO UPDATE
   SET (books, ads, amount, spread_ratio) = (
       -- A twenty-fourth: four weeks of six books an hour.
       SELECT h.books + 1, round(h.ads + (EXCLUDED.ads - h.ads) * weight, 8),
              round(h.amount + (EXCLUDED.amount - h.amount) * weight, 8),
              coalesce(round(h.spread_ratio + (EXCLUDED.spread_ratio - h.spread_ratio) * weight, 8), EXCLUDED.spread_ratio, h.spread_ratio)
         FROM (SELECT greatest(1.0 / (h.books + 1), 1.0 / 24) AS weight) w)
