-- A day of a schedule and of prices before the batches that the fleet really read, so that the strip and
-- the chart have something to show: with skipped, failed and partial slots, and a gap in the prices.
UPDATE pipeline.leaders SET interval_seconds = 600;
SELECT pipeline.make_partitions((now() AT TIME ZONE 'UTC')::date - 2, (now() AT TIME ZONE 'UTC')::date);

CREATE TEMPORARY TABLE past AS
SELECT at, n, (at AT TIME ZONE 'UTC')::date AS day, (((at AT TIME ZONE 'UTC')::date - DATE '1970-01-01') << 9) + 300 + n AS batch_id,
       CASE WHEN n BETWEEN 31 AND 33 THEN 'skipped' WHEN n = 60 THEN 'failed' WHEN n % 23 = 7 THEN 'partial' ELSE 'complete' END AS became
  FROM (SELECT n, date_bin('10 minutes', now(), TIMESTAMPTZ 'epoch') - n * interval '10 minutes' AS at
          FROM generate_series(1, 143) AS n) slots
 WHERE n <> 45;
INSERT INTO pipeline.batches (batch_id, day, exchange_id, slot_at, trigger, state, outcome, reason, opened_by, opened_at,
                              planned_at, deadline_at, closed_at, ads)
SELECT batch_id, day, 1, at, 'schedule', 'closed', became, CASE became WHEN 'complete' THEN NULL ELSE 'made for the page' END,
       'host', at, at, at + interval '8 minutes', at + interval '5 minutes', 27000 + n
  FROM past WHERE became <> 'skipped';
INSERT INTO pipeline.slots
SELECT 1, at, CASE WHEN became <> 'skipped' THEN batch_id END, CASE became WHEN 'skipped' THEN 'skipped' ELSE 'batch' END,
       CASE became WHEN 'skipped' THEN 'late' END, at
  FROM past;
INSERT INTO warehouse.mart_books (day, batch_id, market_id, slot_at, read_at, verdict, completeness, ads, merchant_ads, advertisers,
                                  merchants, best_price, median_price, available_amount, available_fiat)
SELECT p.day, p.batch_id, k.market_id, p.at, p.at + interval '1 minute', 'complete', 1, k.ads, 0, 1, 0,
       round(k.median_price * (0.985 + 0.006 * sin(p.n / 9.0)::numeric), 4),
       round(k.median_price * (1 + 0.008 * cos(p.n / 17.0)::numeric), 4), k.available_amount, k.available_fiat
  FROM past p, (SELECT * FROM warehouse.mart_books WHERE median_price IS NOT NULL ORDER BY ads DESC LIMIT 1) k
 WHERE p.became IN ('complete', 'partial');
