-- What differs between each complete book and the one before it: a row per ad that came, went or changed.
-- Ids that both list are the same content and left out of either side. $1 day.
CREATE TEMP TABLE ad_moves ON COMMIT DROP AS
WITH now AS (
    SELECT b.batch_id, b.market_id, a.adv_no, a.advertiser_id, a.is_merchant, a.price, a.available_amount
      FROM book_pairs b
      JOIN batch_ads a USING (batch_id, market_id)
     WHERE NOT EXISTS (SELECT FROM ids_before l
                        WHERE l.day = $1 AND l.batch_id = a.batch_id AND l.market_id = a.market_id AND l.id = a.id)
)
SELECT batch_id, market_id, coalesce(n.advertiser_id, b.advertiser_id) AS advertiser_id,
       coalesce(n.is_merchant, b.is_merchant) AS is_merchant,
       b.adv_no IS NULL AS is_new, n.adv_no IS NULL AS is_gone,
       coalesce(n.available_amount, 0) AS amount, coalesce(b.available_amount, 0) AS amount_before
  FROM now n FULL JOIN ads_before b USING (batch_id, market_id, adv_no)
 WHERE n.adv_no IS NULL OR b.adv_no IS NULL
    OR (n.available_amount, n.price) IS DISTINCT FROM (b.available_amount, b.price)
