-- The ads of the books before, of one day ($1), whose content the book itself does not list: gone, changed, or of
-- another day.
INSERT INTO ads_before (batch_id, market_id, adv_no, advertiser_id, is_merchant, price, available_amount)
SELECT l.batch_id, l.market_id, v.adv_no, a.advertiser_id, a.is_merchant, v.price, v.available_amount
  FROM unmatched l
  JOIN warehouse.offer_versions v ON v.day = $1 AND v.id = l.id
  JOIN warehouse.dim_advertisers a ON a.advertiser_sk = v.advertiser_sk
 WHERE l.day = $1
