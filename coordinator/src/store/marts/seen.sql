-- What each advertiser has in each book, and each book's best price for the taker.
CREATE TEMP TABLE book_bests ON COMMIT DROP AS
SELECT batch_id, market_id, k.trade_type, k.read_at, k.verdict = 'complete' AS is_complete,
       CASE k.trade_type WHEN 'BUY' THEN min(a.price) ELSE max(a.price) END AS best_price
  FROM closing_books k
  JOIN batch_ads a USING (batch_id, market_id)
 GROUP BY batch_id, market_id, k.trade_type, k.read_at, k.verdict;
CREATE TEMP TABLE book_advertisers ON COMMIT DROP AS
SELECT batch_id, market_id, a.advertiser_id, b.read_at, b.is_complete,
       bool_or(a.is_merchant) AS is_merchant,
       count(*) AS ads,
       min(a.price) AS min_price,
       max(a.price) AS max_price,
       bool_or(a.price = b.best_price) AS is_best,
       sum(a.available_amount) AS amount
  FROM batch_ads a
  JOIN book_bests b USING (batch_id, market_id)
 GROUP BY batch_id, market_id, a.advertiser_id, b.read_at, b.is_complete
