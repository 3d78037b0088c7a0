-- Gaps of markets within the batches of exchange $1 due since $2, of fiat $3 (NULL: all), the $4 that
-- are open and longest first. Readings before are looked for back to $5.
--
-- A good reading is one of which no page was lost or left out, as for warehouse.latest_books. A gap is
-- what stands between two of them: `readings` counts the good readings of a market so far, so the bad
-- books with one count are one gap, after the good reading of that number and before the next.
WITH closed AS MATERIALIZED (
    SELECT batch_id, day, slot_at, closed_at FROM pipeline.batches
     WHERE exchange_id = $1 AND state = 'closed' AND slot_at >= $5
       AND batch_id >= (($5 AT TIME ZONE 'UTC')::date - DATE '1970-01-01') << 9
), markets AS MATERIALIZED (
    SELECT m.market_id, m.first_seen_at, k.last_read_at, c.symbol || '/' || f.currency_code || ' ' || m.trade_type AS market,
           CASE WHEN NOT (k.is_listed AND l.is_listed) THEN coalesce(k.delisted_at, l.delisted_at) END AS delisted_at
      FROM warehouse.dim_markets m
      JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
      JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
      JOIN pipeline.catalog k USING (market_id)
      JOIN pipeline.fiat_catalog l ON l.exchange_id = m.exchange_id AND l.fiat_id = m.fiat_id
     WHERE m.exchange_id = $1 AND ($3::text IS NULL OR f.currency_code = $3)
), books AS NOT MATERIALIZED (
    SELECT b.day, b.batch_id, b.market_id, b.verdict, b.pages_planned, b.pages_lost, b.pages_shed,
           coalesce(b.last_fetched_at, c.closed_at) AS read_at,
           b.pages_read > 0 AND b.pages_lost = 0 AND b.pages_shed = 0 AS is_good,
           -- A market that was gone at the close had nothing to miss.
           b.is_listed AND NOT (b.pages_read > 0 AND b.pages_lost = 0 AND b.pages_shed = 0) AS is_bad
      FROM warehouse.books b JOIN closed c USING (batch_id)
     WHERE b.day >= ($2 AT TIME ZONE 'UTC')::date AND c.slot_at >= $2
), numbered AS MATERIALIZED (
    SELECT b.*, count(*) FILTER (WHERE is_good) OVER (PARTITION BY market_id ORDER BY batch_id) AS readings
      FROM books b
     WHERE market_id IN (SELECT market_id FROM books WHERE is_bad)
       AND market_id IN (SELECT market_id FROM markets)
), islands AS (
    -- Each begins with the good reading of its number, but the one of number 0.
    SELECT market_id, readings, count(*) FILTER (WHERE is_bad) AS batches,
           sum(pages_lost + pages_shed) FILTER (WHERE is_bad) AS pages,
           min(batch_id) FILTER (WHERE is_bad) AS first_batch_id,
           max(batch_id) FILTER (WHERE is_bad) AS last_batch_id,
           max(read_at) FILTER (WHERE is_good) AS read_at,
           lead(max(read_at) FILTER (WHERE is_good)) OVER (PARTITION BY market_id ORDER BY readings) AS next_read_at
      FROM numbered GROUP BY market_id, readings
), gaps AS MATERIALIZED (
    SELECT * FROM islands WHERE batches > 0
), earlier AS MATERIALIZED (
    SELECT b.market_id, max(coalesce(b.last_fetched_at, c.closed_at)) AS read_at
      FROM warehouse.books b JOIN closed c USING (batch_id)
     WHERE b.day BETWEEN ($5 AT TIME ZONE 'UTC')::date AND ($2 AT TIME ZONE 'UTC')::date AND c.slot_at < $2
       AND b.pages_read > 0 AND b.pages_lost = 0 AND b.pages_shed = 0
       AND b.market_id IN (SELECT market_id FROM gaps WHERE readings = 0)
     GROUP BY b.market_id
), dated AS (
    SELECT g.*, m.market, m.first_seen_at, l.market_id IS NULL AND m.last_read_at IS NULL AS has_no_latest,
           CASE WHEN g.readings > 0 THEN g.read_at
                ELSE coalesce(CASE WHEN l.batch_id < g.first_batch_id THEN l.read_at END, e.read_at,
                              -- The latest state went with its day, which was before all that is looked at.
                              CASE WHEN l.market_id IS NULL THEN m.last_read_at END) END AS since,
           coalesce(g.next_read_at, m.delisted_at) AS until,
           CASE WHEN g.next_read_at IS NOT NULL THEN 'read'
                WHEN m.delisted_at IS NOT NULL THEN 'delisted' ELSE 'open' END AS ended
      FROM gaps g
      JOIN markets m USING (market_id)
      LEFT JOIN warehouse.latest_books l ON l.market_id = g.market_id
      LEFT JOIN earlier e ON e.market_id = g.market_id
), shown AS MATERIALIZED (
    SELECT d.*, coalesce(until, now()) - since AS span,
           count(*) OVER () AS total_gaps,
           count(*) FILTER (WHERE ended = 'open') OVER () AS total_open,
           sum(pages) OVER () AS total_pages
      FROM dated d
     ORDER BY ended <> 'open', span DESC NULLS FIRST, market, readings LIMIT $4
), bad AS MATERIALIZED (
    SELECT n.* FROM numbered n JOIN shown USING (market_id, readings) WHERE n.is_bad
), pages AS MATERIALIZED (
    SELECT b.market_id, b.readings, b.batch_id, j.page::int AS page,
           -- A page is read if any of its readings succeeded.
           NOT bool_or(j.state = 'done' OR j.state = 'empty' AND j.attempts > 0)
             AND bool_or(j.state IN ('failed', 'expired', 'shed')) AS is_missed,
           bool_or(j.state = 'shed') AS is_shed,
           (array_agg(j.state || coalesce('(' || j.reason || ')', '') ORDER BY j.ordinal DESC)
              FILTER (WHERE j.state IN ('failed', 'expired', 'shed')))[1] AS reason
      FROM bad b
      JOIN pipeline.jobs j ON j.day = b.day AND j.batch_id = b.batch_id AND j.market_id = b.market_id
                              AND j.kind = 'search'
     WHERE j.day >= ($2 AT TIME ZONE 'UTC')::date
     GROUP BY b.market_id, b.readings, b.batch_id, j.page
), missed AS (
    SELECT market_id, readings, batch_id, page, reason FROM pages WHERE is_missed
     UNION ALL
    -- The last pages of a book have no job where the deadline came before they were planned.
    SELECT market_id, readings, batch_id, p.page, 'unplanned(deadline)'
      FROM bad b
      JOIN (SELECT market_id, readings, batch_id, count(*) FILTER (WHERE is_missed AND NOT is_shed)::int AS lost
              FROM pages GROUP BY market_id, readings, batch_id) k USING (market_id, readings, batch_id)
     CROSS JOIN LATERAL generate_series(b.pages_planned - (b.pages_lost - k.lost) + 1, b.pages_planned) AS p (page)
), reasons AS (
    -- A book of which no page is known (its jobs were dropped) tells its verdict.
    SELECT market_id, readings, coalesce(m.reason, b.verdict) AS reason,
           count(DISTINCT batch_id) AS batches, count(m.page) AS pages_missed,
           coalesce(array_agg(DISTINCT m.page ORDER BY m.page) FILTER (WHERE m.page IS NOT NULL), '{}') AS pages
      FROM bad b LEFT JOIN missed m USING (market_id, readings, batch_id)
     GROUP BY market_id, readings, coalesce(m.reason, b.verdict)
), told AS (
    SELECT market_id, readings,
           jsonb_agg(jsonb_build_object('reason', reason, 'batches', batches,
                                        'pages_missed', pages_missed, 'pages', pages)
                     ORDER BY batches DESC, reason) AS reasons
      FROM reasons GROUP BY market_id, readings
)
SELECT s.market, s.market_id, s.batches, s.pages::bigint AS pages_missed, s.first_batch_id, s.last_batch_id,
       s.since, s.until, s.ended, extract(epoch FROM s.span)::bigint AS seconds,
       -- Nothing was read before, or not as far back as was looked.
       s.since IS NULL AND (s.ended <> 'read' AND s.has_no_latest OR s.first_seen_at >= $5) AS is_never_read,
       t.reasons, s.total_gaps, s.total_open, s.total_pages::bigint AS total_pages
  FROM shown s JOIN told t USING (market_id, readings)
 ORDER BY s.ended <> 'open', s.span DESC NULLS FIRST, s.market, s.readings
