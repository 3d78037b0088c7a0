-- What differs between each complete book and the one before it: a row per ad that came, went or changed.
CREATE TEMP TABLE ad_moves ON COMMIT DROP AS
SELECT batch_id, market_id, coalesce(n.advertiser_id, b.advertiser_id) AS advertiser_id,
       coalesce(n.is_merchant, b.is_merchant) AS is_merchant,
       b.adv_no IS NULL AS is_new, n.adv_no IS NULL AS is_gone,
       coalesce(n.available_amount, 0) AS amount, coalesce(b.available_amount, 0) AS amount_before
  FROM (SELECT * FROM unmatched WHERE id IS NULL) n
  FULL JOIN ads_before b USING (batch_id, market_id, adv_no)
 WHERE n.adv_no IS NULL OR b.adv_no IS NULL
    OR (n.available_amount, n.price) IS DISTINCT FROM (b.available_amount, b.price)
