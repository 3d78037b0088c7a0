-- The last $5 batches of exchange $1 with ids from $2 to $3, due since $4 (NULL: ever), in state $6 (NULL: any), newest first.
-- An open batch shows how far it is.
SELECT b.batch_id, b.slot_at, b.trigger, b.state, b.outcome, b.reason,
       b.opened_at, b.planned_at, b.deadline_at, b.closed_at, b.opened_by, b.closed_by,
       (extract(epoch FROM b.closed_at - b.opened_at) * 1000)::bigint AS duration_ms,
       CASE WHEN b.state = 'open' THEN j.planned END AS jobs_planned,
       CASE WHEN b.state = 'open' THEN j.ended END AS jobs_ended,
       b.pages_read, b.pages_lost, b.pages_shed, b.pages_reread, b.lists_lost, b.books, b.books_complete,
       b.ads, b.ads_refused, b.ads_missed, b.requests, b.requests_failed, b.request_budget, b.egresses
  FROM pipeline.batches b
 CROSS JOIN LATERAL (
    SELECT count(*) AS planned, count(j.ended_at) AS ended
      FROM pipeline.jobs j
     WHERE b.state = 'open' AND j.day = b.day AND j.batch_id = b.batch_id AND j.state <> 'shed') j
 WHERE b.exchange_id = $1 AND b.batch_id BETWEEN $2 AND $3 AND ($4::timestamptz IS NULL OR b.slot_at >= $4)
   AND ($6::text IS NULL OR b.state = $6)
 ORDER BY b.batch_id DESC LIMIT $5
