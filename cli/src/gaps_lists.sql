-- Lists that were not read in the batches of exchange $1 due since $2, of fiat $3 (NULL: all, with the
-- list of fiats), by reason.
WITH closed AS MATERIALIZED (
    SELECT batch_id FROM pipeline.batches
     WHERE exchange_id = $1 AND state = 'closed' AND slot_at >= $2
       AND batch_id >= (($2 AT TIME ZONE 'UTC')::date - DATE '1970-01-01') << 9
), ended AS MATERIALIZED (
    SELECT j.kind, f.currency_code AS fiat, j.state, j.batch_id, j.ended_at,
           j.state || coalesce('(' || j.reason || ')', '') AS reason
      FROM pipeline.jobs j JOIN closed USING (batch_id)
      LEFT JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
     WHERE j.day >= ($2 AT TIME ZONE 'UTC')::date AND j.kind IN ('fiat_list', 'assets', 'payment_methods')
       AND ($3::text IS NULL OR f.currency_code = $3)
), lost AS (
    SELECT kind, fiat, reason, count(DISTINCT batch_id) AS batches,
           min(ended_at) AS since, max(ended_at) AS last_at
      FROM ended WHERE state IN ('failed', 'expired') GROUP BY kind, fiat, reason
), dated AS (
    SELECT l.*, (SELECT min(e.ended_at) FROM ended e
                  WHERE e.kind = l.kind AND e.fiat IS NOT DISTINCT FROM l.fiat
                    AND e.state = 'done' AND e.ended_at > l.last_at) AS until
      FROM lost l
)
SELECT kind, fiat, reason, batches, since, last_at, until,
       extract(epoch FROM coalesce(until, now()) - since)::bigint AS seconds
  FROM dated ORDER BY until IS NOT NULL, since, kind, fiat, reason
