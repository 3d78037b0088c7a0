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
               sum(price * available_amount) AS worth,
               sum(available_amount) AS amount
          -- Sorted once, by numbers, instead of within each group: aggregates take rows as they come.
          FROM (SELECT a.batch_id, a.market_id, l.payment_method_id, a.price, a.available_amount
                  FROM batch_ads a
                 CROSS JOIN LATERAL unnest(a.payment_method_ids) AS l (payment_method_id)
                 ORDER BY a.batch_id, a.market_id, l.payment_method_id, a.price) a
         GROUP BY batch_id, market_id, payment_method_id) s
  JOIN closing_books k USING (batch_id, market_id)
