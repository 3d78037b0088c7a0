-- What each advertiser has in each book, and each book's best price for the taker.
CREATE TEMP TABLE book_bests ON COMMIT DROP AS
SELECT batch_id, market_id, k.trade_type = 'BUY' AS is_buy, k.read_at, k.verdict = 'complete' AS is_complete,
       CASE k.trade_type WHEN 'BUY' THEN a.min_price ELSE a.max_price END AS best_price
  FROM (SELECT batch_id, market_id, min(price) AS min_price, max(price) AS max_price
          FROM listed_ads
         WHERE is_shown AND advertiser_id IS NOT NULL
         GROUP BY batch_id, market_id) a
  JOIN closing_books k USING (batch_id, market_id);
CREATE TEMP TABLE book_advertisers ON COMMIT DROP AS
SELECT batch_id, market_id, a.advertiser_id, b.read_at, b.is_complete, a.is_merchant, a.ads, a.min_price, a.max_price,
       CASE WHEN b.is_buy THEN a.min_price ELSE a.max_price END = b.best_price AS is_best, a.amount
  FROM (SELECT batch_id, market_id, advertiser_id,
               bool_or(is_merchant) AS is_merchant,
               count(*) AS ads,
               min(price) AS min_price,
               max(price) AS max_price,
               sum(available_amount) AS amount
          FROM listed_ads
         WHERE is_shown AND advertiser_id IS NOT NULL
         GROUP BY batch_id, market_id, advertiser_id) a
  JOIN book_bests b USING (batch_id, market_id)
