-- What every page of the batches lists, as pages have it. $1 day, $2 and $3 first and last batch, $4 markets; NULL:
-- all. A table of its own, whose size is known then: what is joined to it is read whole or looked up by key,
-- whichever is less.
CREATE TEMP TABLE listed_ids ON COMMIT DROP AS
SELECT p.fetched_at, p.batch_id, p.market_id, p.ordinal, l.id, p.page, l.position::smallint AS position, p.is_last,
       (l.position = p.promoted_position) IS TRUE AS is_promoted,
       p.duplicate_positions IS NULL OR l.position <> ALL (p.duplicate_positions) AS is_shown
  FROM (SELECT *, row_number() OVER (PARTITION BY batch_id, market_id, page ORDER BY ordinal DESC) = 1 AS is_last
          FROM warehouse.book_pages
         WHERE day = $1 AND batch_id BETWEEN $2 AND $3 AND ($4::int[] IS NULL OR market_id = ANY ($4))) p
 CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
