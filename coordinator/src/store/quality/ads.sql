-- What every page of the batch lists, references that lead nowhere included. $1 day, $2 batch.
CREATE TEMP TABLE quality_ads ON COMMIT DROP AS
SELECT p.market_id, p.page, p.ordinal, p.fetched_at, v.id IS NULL AS is_dangling, v.adv_no,
       v.market_id AS version_market_id, v.advertiser_sk, v.payment_method_ids, v.first_seen_at,
       p.duplicate_positions IS NULL OR l.position <> ALL (p.duplicate_positions) AS is_shown
  FROM warehouse.book_pages p
 CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
  LEFT JOIN warehouse.offer_versions v ON v.day = $1 AND v.id = l.id
 WHERE p.day = $1 AND p.batch_id = $2
