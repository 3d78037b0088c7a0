-- A day of a schedule before the batches that the fleet really reads, so that the strip has something to
-- show: with skipped, failed, partial and unrecorded slots. Ids grow with time, as those of real batches.
INSERT INTO pipeline.leaders VALUES (1, 1, 'host', now() - interval '1 day', 600);
SELECT pipeline.make_partitions((now() AT TIME ZONE 'UTC')::date - 2, (now() AT TIME ZONE 'UTC')::date);

CREATE TEMPORARY TABLE past AS
SELECT at, n, (at AT TIME ZONE 'UTC')::date AS day, (((at AT TIME ZONE 'UTC')::date - DATE '1970-01-01') << 9) + 150 - n AS batch_id,
       CASE WHEN n BETWEEN 31 AND 33 THEN 'skipped' WHEN n = 60 THEN 'failed' WHEN n % 23 = 7 THEN 'partial' ELSE 'complete' END AS became
  FROM (SELECT n, date_bin('10 minutes', now(), TIMESTAMPTZ 'epoch') - n * interval '10 minutes' AS at
          FROM generate_series(0, 143) AS n) slots
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
