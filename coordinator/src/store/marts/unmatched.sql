-- Where complete books and the ones before them differ in their lists: what only the book lists (`id` NULL), and what
-- only the book before listed, or listed on another day, whose ids say nothing of this one's. $1 day of the batches.
CREATE TEMP TABLE unmatched ON COMMIT DROP AS
SELECT batch_id, market_id, b.day, b.id, n.adv_no, n.advertiser_id, n.is_merchant, n.price, n.available_amount
  FROM (SELECT $1::date AS day, a.id, a.batch_id, a.market_id, a.adv_no, a.advertiser_id, a.is_merchant, a.price,
               a.available_amount
          FROM book_pairs p
          JOIN listed_ads a USING (batch_id, market_id)
         WHERE a.is_shown AND a.advertiser_id IS NOT NULL) n
  FULL JOIN ids_before b USING (batch_id, market_id, day, id)
 WHERE n.id IS NULL OR b.id IS NULL
