-- Readings whose time can't be. $1 day, $2 batch, $3 tolerance in seconds: the clocks of workers and of the
-- database differ by a little.
WITH batch AS (
    SELECT opened_at - $3 * interval '1 s' AS earliest,
           coalesce(closed_at, clock_timestamp()) + $3 * interval '1 s' AS latest
      FROM pipeline.batches WHERE batch_id = $2
), pages AS (
    SELECT p.market_id, p.fetched_at,
           lag(p.fetched_at) OVER (PARTITION BY p.market_id, p.page ORDER BY p.ordinal) AS read_before
      FROM warehouse.book_pages p
     WHERE p.day = $1 AND p.batch_id = $2
), found AS (
    SELECT market_id, 'from_the_future' AS kind FROM pages, batch WHERE fetched_at > latest
    UNION ALL
    SELECT market_id, 'older_than_its_batch' FROM pages, batch WHERE fetched_at < earliest
    UNION ALL
    SELECT market_id, 'read_again_before' FROM pages WHERE fetched_at < read_before - $3 * interval '1 s'
    UNION ALL
    SELECT market_id, 'listed_before_first_seen' FROM listed_ads WHERE first_seen_at > fetched_at + $3 * interval '1 s'
    UNION ALL
    SELECT k.market_id, 'before_the_book_before'
      FROM warehouse.books k
      JOIN warehouse.latest_books l ON l.market_id = k.market_id AND l.batch_id < k.batch_id
     WHERE k.day = $1 AND k.batch_id = $2 AND k.first_fetched_at < l.read_at - $3 * interval '1 s'
)
SELECT market_id, kind, count(*) AS found FROM found GROUP BY market_id, kind
