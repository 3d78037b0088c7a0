-- Complete books of the batches, each with the complete book of its market before it. A book before whose
-- facts were dropped is none.
CREATE TEMP TABLE book_pairs ON COMMIT DROP AS
SELECT p.batch_id, p.market_id, p.read_at, b.batch_id AS previous_batch_id, b.day AS previous_day,
       b.last_fetched_at AS previous_read_at
  FROM (SELECT k.batch_id, k.market_id, k.read_at,
               coalesce(lag(k.batch_id) OVER (PARTITION BY k.market_id ORDER BY k.batch_id),
                        c.last_complete_batch_id) AS previous_batch_id
          FROM closing_books k
          JOIN pipeline.catalog c USING (market_id)
         WHERE k.verdict IN ('complete', 'empty')) p
  JOIN warehouse.books b
    ON b.day = DATE '1970-01-01' + (p.previous_batch_id >> 9) AND b.batch_id = p.previous_batch_id
   AND b.market_id = p.market_id
