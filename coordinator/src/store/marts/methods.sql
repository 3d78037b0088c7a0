-- Prices and stock of each book by payment method. $1 day.
INSERT INTO warehouse.mart_book_methods
       (day, batch_id, market_id, payment_method_id, verdict, ads, best_price, mean_price,
        weighted_mean_price, median_price, available_amount)
SELECT $1::date, batch_id, market_id, payment_method_id, k.verdict, cardinality(prices),
       trim_scale(CASE k.trade_type WHEN 'BUY' THEN prices[1] ELSE prices[cardinality(prices)] END),
       trim_scale(round(mean_price, 8)), trim_scale(round(worth / nullif(amount, 0), 8)),
       trim_scale(warehouse.percentile(prices, 0.5)), trim_scale(amount)
  FROM (SELECT batch_id, market_id, payment_method_id,
               array_agg(price) AS prices,
               avg(price) AS mean_price,
               sum(worth) AS worth,
               sum(available_amount) AS amount
          -- In the order in which the rows are, so sorting them is looking through them once. Each group takes its
          -- own as they come, which is why groups are hashed here (see the caller): sorting the rows by groups
          -- would undo the order within them.
          FROM (SELECT batch_id, market_id, unnest(payment_method_ids) AS payment_method_id, price, available_amount, worth
                  FROM (SELECT *
                          FROM listed_ads
                         WHERE is_shown AND advertiser_id IS NOT NULL
                         ORDER BY batch_id, market_id, price) o) a
         GROUP BY batch_id, market_id, payment_method_id) s
  JOIN closing_books k USING (batch_id, market_id)
