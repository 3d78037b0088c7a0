-- The ads of the books before, of one day ($1), whose content the book itself does not list: gone, changed,
-- or of yesterday, whose ids say nothing of today's. $2 day of the batches.
INSERT INTO ads_before (batch_id, market_id, adv_no, advertiser_id, is_merchant, price, available_amount)
SELECT l.batch_id, l.market_id, v.adv_no, a.advertiser_id, a.is_merchant, v.price, v.available_amount
  FROM ids_before l
  JOIN warehouse.offer_versions v ON v.day = $1 AND v.id = l.id
 CROSS JOIN LATERAL (SELECT * FROM warehouse.dim_advertisers a WHERE a.advertiser_sk = v.advertiser_sk OFFSET 0) a
 WHERE l.day = $1
   AND NOT ($1 = $2 AND EXISTS (SELECT FROM batch_ads n
                                 WHERE n.batch_id = l.batch_id AND n.market_id = l.market_id AND n.id = l.id))
