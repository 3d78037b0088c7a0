-- The books of the batch beside what is ordinary in their markets. $1 day, $2 batch, $3 longest age of what is
-- ordinary in hours.
SELECT k.market_id, m.fiat_id, m.crypto_id, k.verdict, k.pages_lost, k.pages_shed, k.refused_ads, k.estimated_missed, k.is_listed,
       k.distinct_ads AS ads, coalesce(round(b.available_amount, 8), 0) AS amount, round(b.median_price, 8) AS median_price,
       -- A list that is hashed, whatever is guessed of a ledger that was just written; joined it may be read
       -- once for each book.
       k.market_id IN (SELECT market_id FROM pipeline.jobs
                        WHERE day = $1 AND batch_id = $2 AND kind = 'search' AND cardinality(errors) > 0) AS met_errors,
       coalesce(o.fed_at >= t.slot_at - $3 * interval '1 hour', false) AS is_fresh,
       coalesce(o.last_batch_id >= k.batch_id, false) AS is_counted,
       coalesce(o.recent_prices, '{}') AS recent_prices, coalesce(o.recent_ads, '{}') AS recent_ads,
       round(o.day_ads, 8) AS day_ads, round(o.day_amount, 8) AS day_amount, coalesce(o.suspicions, 0::smallint) AS suspicions,
       round(h.ads, 8) AS hour_ads, round(h.amount, 8) AS hour_amount
  FROM warehouse.books k
  JOIN pipeline.batches t ON t.batch_id = k.batch_id
  JOIN warehouse.dim_markets m USING (market_id)
  LEFT JOIN warehouse.mart_books b ON b.market_id = k.market_id AND b.day = k.day AND b.batch_id = k.batch_id
  LEFT JOIN pipeline.market_baselines o ON o.market_id = k.market_id
  -- Of an earlier week: this one may be what is judged.
  LEFT JOIN pipeline.market_baseline_hours h
    ON h.market_id = k.market_id AND h.first_at < t.slot_at - interval '6 days'
   AND h.hour_of_week = extract(isodow FROM t.slot_at AT TIME ZONE 'UTC') * 24 - 24 + extract(hour FROM t.slot_at AT TIME ZONE 'UTC')
 WHERE k.day = $1 AND k.batch_id = $2 AND k.verdict <> 'shed'
 ORDER BY k.market_id
