-- What the complete books before listed, of one day: $1. batch_id is that of the book that is closing.
SELECT b.batch_id, b.market_id, p.day, l.id
  FROM book_pairs b
  JOIN warehouse.book_pages p
    ON p.day = $1 AND p.batch_id = b.previous_batch_id AND p.market_id = b.market_id
 CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
 WHERE b.previous_day = $1
   AND (p.duplicate_positions IS NULL OR l.position <> ALL (p.duplicate_positions))
