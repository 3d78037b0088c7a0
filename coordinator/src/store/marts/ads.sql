-- Every ad of every book of the batches, once. $1 day, $2 and $3 first and last batch. OFFSET 0: advertisers
-- are looked up, for reading all there ever were grows with history.
CREATE TEMP TABLE batch_ads ON COMMIT DROP AS
SELECT p.batch_id, p.market_id, v.id, v.adv_no, a.advertiser_id, a.is_merchant, v.price, v.available_amount,
       v.payment_method_ids
  FROM warehouse.book_pages p
 CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
  JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
 CROSS JOIN LATERAL (SELECT * FROM warehouse.dim_advertisers a WHERE a.advertiser_sk = v.advertiser_sk OFFSET 0) a
 WHERE p.day = $1 AND p.batch_id BETWEEN $2 AND $3
   AND (p.duplicate_positions IS NULL OR l.position <> ALL (p.duplicate_positions))
