-- The books of the batches of which a page was read. $1 day, $2 and $3 first and last batch.
CREATE TEMP TABLE closing_books ON COMMIT DROP AS
SELECT k.batch_id, k.market_id, m.exchange_id, m.fiat_id, m.crypto_id, m.trade_type, t.slot_at,
       k.last_fetched_at AS read_at, k.verdict, k.pages_lost = 0 AND k.pages_shed = 0 AS is_whole,
       CASE WHEN k.verdict = 'empty' THEN 1
            ELSE round(k.distinct_ads::numeric
                       / nullif(k.distinct_ads + k.estimated_missed + k.refused_ads, 0), 5) END AS completeness
  FROM warehouse.books k
  JOIN warehouse.dim_markets m USING (market_id)
  JOIN pipeline.batches t ON t.batch_id = k.batch_id
 WHERE k.day = $1 AND k.batch_id BETWEEN $2 AND $3 AND k.pages_read > 0
