-- What is known of markets, from their books since a day whose facts were corrected. $1 markets, $2 day.
-- Good is a book of which no page was lost.
CREATE TEMP TABLE remade_good ON COMMIT DROP AS
SELECT k.market_id, k.day, k.batch_id, k.verdict, k.last_fetched_at, k.last_total, k.distinct_ads, k.refused_ads,
       k.held_reason
  FROM warehouse.books k
 WHERE k.day >= $2 AND k.market_id = ANY ($1) AND k.pages_read > 0 AND k.pages_lost = 0 AND k.pages_shed = 0;
-- A market whose last good book is good no longer goes back to the one before, however old.
INSERT INTO remade_good
SELECT DISTINCT ON (k.market_id)
       k.market_id, k.day, k.batch_id, k.verdict, k.last_fetched_at, k.last_total, k.distinct_ads, k.refused_ads,
       k.held_reason
  FROM warehouse.books k
  JOIN warehouse.latest_books l USING (market_id)
 WHERE k.day < $2 AND l.day >= $2 AND k.market_id = ANY ($1) AND k.pages_read > 0 AND k.pages_lost = 0 AND k.pages_shed = 0
   AND k.held_reason IS NULL
   AND NOT EXISTS (SELECT FROM remade_good g WHERE g.market_id = k.market_id AND g.held_reason IS NULL)
 ORDER BY k.market_id, k.batch_id DESC;
DELETE FROM warehouse.latest_books l
 WHERE l.market_id = ANY ($1) AND l.day >= $2
   AND NOT EXISTS (SELECT FROM remade_good g WHERE g.market_id = l.market_id AND g.held_reason IS NULL);
INSERT INTO warehouse.latest_books AS l (market_id, day, batch_id, verdict, read_at)
SELECT DISTINCT ON (market_id) market_id, day, batch_id, verdict, last_fetched_at
  FROM remade_good
 WHERE market_id = ANY ($1) AND $2::date IS NOT NULL AND held_reason IS NULL
 ORDER BY market_id, batch_id DESC
    ON CONFLICT (market_id) DO UPDATE
   SET day = EXCLUDED.day, batch_id = EXCLUDED.batch_id, verdict = EXCLUDED.verdict, read_at = EXCLUDED.read_at
 WHERE (l.batch_id, l.verdict, l.read_at) IS DISTINCT FROM (EXCLUDED.batch_id, EXCLUDED.verdict, EXCLUDED.read_at);
-- Newer books that are not shown, as the close tells them.
UPDATE warehouse.latest_books l
   SET newer_batch_id = n.batch_id,
       newer_reason = coalesce(n.held_reason, CASE WHEN n.pages_lost > 0 THEN 'pages_lost' WHEN n.batch_id IS NOT NULL THEN 'pages_shed' END)
  FROM unnest($1::int[]) AS m (market_id)
  LEFT JOIN (SELECT DISTINCT ON (k.market_id) k.market_id, k.batch_id, k.held_reason, k.pages_lost
               FROM warehouse.books k JOIN warehouse.latest_books o USING (market_id)
              WHERE k.day >= $2 AND k.market_id = ANY ($1) AND k.batch_id > o.batch_id
              ORDER BY k.market_id, k.batch_id DESC) n USING (market_id)
 WHERE l.market_id = m.market_id AND (n.batch_id IS NOT NULL OR l.newer_batch_id <= l.batch_id)
   AND l.newer_batch_id IS DISTINCT FROM n.batch_id;
UPDATE pipeline.catalog c
   -- At most a page more than was seen: as at the close.
   SET last_total = least(coalesce(g.last_total, g.distinct_ads + g.refused_ads), g.distinct_ads + g.refused_ads + 20),
       last_read_at = t.slot_at,
       consecutive_empty = coalesce(e.books, c.consecutive_empty)
  FROM (SELECT DISTINCT ON (market_id) * FROM remade_good
         WHERE market_id = ANY ($1) AND day >= $2 ORDER BY market_id, batch_id DESC) g
  JOIN pipeline.batches t USING (batch_id)
  LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE o.batch_id > full_book.batch_id) AS books
                       FROM remade_good o,
                            (SELECT max(batch_id) AS batch_id FROM remade_good f
                              WHERE f.market_id = g.market_id AND f.verdict <> 'empty') AS full_book
                      WHERE o.market_id = g.market_id
                     HAVING max(full_book.batch_id) IS NOT NULL) e ON true
 WHERE c.market_id = g.market_id;
UPDATE pipeline.catalog c SET last_batch_id = k.batch_id
  FROM (SELECT market_id, max(batch_id) AS batch_id FROM warehouse.books
         WHERE day >= $2 AND market_id = ANY ($1) AND listed_ads > 0 GROUP BY market_id) k
 WHERE c.market_id = k.market_id AND c.last_batch_id IS DISTINCT FROM k.batch_id;
UPDATE pipeline.catalog c SET last_complete_batch_id = k.batch_id
  FROM unnest($1::int[]) AS m (market_id)
  LEFT JOIN LATERAL (SELECT b.batch_id FROM warehouse.mart_books b
                      WHERE b.market_id = m.market_id AND b.verdict IN ('complete', 'empty') AND $2::date IS NOT NULL
                      ORDER BY b.day DESC, b.batch_id DESC LIMIT 1) k ON true
 WHERE c.market_id = m.market_id AND c.last_complete_batch_id IS DISTINCT FROM k.batch_id
