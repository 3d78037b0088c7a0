-- The last $1 closed batches in figures, the latest last.
WITH chosen AS (
    SELECT b.*, lag(b.batch_id) OVER (ORDER BY b.batch_id) AS before_id,
           lag(b.day) OVER (ORDER BY b.batch_id) AS before_day
      FROM pipeline.batches b WHERE b.state = 'closed'
     ORDER BY b.batch_id DESC LIMIT $1 + 1
), shown AS (
    SELECT * FROM chosen ORDER BY batch_id DESC LIMIT $1
), listed AS (
    SELECT p.batch_id, v.market_id, v.adv_no, min(v.content_hash) AS content_hash
      FROM chosen c
      JOIN warehouse.book_pages p ON p.day = c.day AND p.batch_id = c.batch_id
     CROSS JOIN LATERAL unnest(p.offer_ids) AS l (id)
      JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
     GROUP BY p.batch_id, v.market_id, v.adv_no
), compared AS (
    SELECT s.batch_id, count(*) AS in_both, count(*) FILTER (WHERE n.content_hash = o.content_hash) AS unchanged
      FROM shown s
      JOIN listed n ON n.batch_id = s.batch_id
      JOIN listed o ON o.batch_id = s.before_id AND o.market_id = n.market_id AND o.adv_no = n.adv_no
     GROUP BY s.batch_id
)
SELECT s.batch_id, s.slot_at, s.outcome, s.reason,
       round(extract(epoch FROM s.closed_at - s.opened_at), 1) AS seconds,
       k.complete, k.empty, k.drifted, k.partial, k.failed, k.shed,
       k.listed_ads, k.distinct_ads, k.refused_ads, k.estimated_missed,
       j.pages, j.requests, compared.unchanged, compared.in_both
  FROM shown s
 CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE verdict = 'complete') AS complete,
           count(*) FILTER (WHERE verdict = 'empty') AS empty,
           count(*) FILTER (WHERE verdict = 'drifted') AS drifted,
           count(*) FILTER (WHERE verdict = 'partial') AS partial,
           count(*) FILTER (WHERE verdict = 'failed') AS failed,
           count(*) FILTER (WHERE verdict = 'shed') AS shed,
           coalesce(sum(listed_ads), 0)::bigint AS listed_ads,
           coalesce(sum(distinct_ads), 0)::bigint AS distinct_ads,
           coalesce(sum(refused_ads), 0)::bigint AS refused_ads,
           coalesce(sum(estimated_missed), 0)::bigint AS estimated_missed
      FROM warehouse.books b WHERE b.day = s.day AND b.batch_id = s.batch_id) k
 CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE kind = 'search' AND attempts > 0 AND state IN ('done', 'empty')) AS pages,
           coalesce(sum(attempts), 0)::bigint AS requests
      FROM pipeline.jobs j WHERE j.day = s.day AND j.batch_id = s.batch_id) j
  LEFT JOIN compared ON compared.batch_id = s.batch_id
 ORDER BY s.batch_id;
