-- Holds books back, and lets go of those that are mended. $1 day, $2 batch, $3 markets and $4 why, $5 reasons that
-- were looked for.
WITH held AS (
    SELECT * FROM unnest($3::integer[], $4::text[]) AS t (market_id, reason)
), changed AS (
    UPDATE warehouse.books k
       SET held_reason = h.reason
      FROM (SELECT b.market_id, h.reason
              FROM warehouse.books b
              LEFT JOIN held h USING (market_id)
             WHERE b.day = $1 AND b.batch_id = $2
               AND (h.reason IS NOT NULL OR b.held_reason = ANY ($5))) h
     WHERE k.day = $1 AND k.batch_id = $2 AND k.market_id = h.market_id AND k.held_reason IS DISTINCT FROM h.reason
 RETURNING k.market_id, k.held_reason
)
UPDATE warehouse.mart_books m
   SET held_reason = c.held_reason
  FROM changed c
 WHERE m.day = $1 AND m.batch_id = $2 AND m.market_id = c.market_id
