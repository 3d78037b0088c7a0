-- What the next flows are counted from.
UPDATE pipeline.catalog c
   SET last_complete_batch_id = k.batch_id
  FROM (SELECT market_id, max(batch_id) AS batch_id
          FROM closing_books
         WHERE verdict IN ('complete', 'empty')
         GROUP BY market_id) k
 WHERE c.market_id = k.market_id
