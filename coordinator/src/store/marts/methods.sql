-- Prices and stock of each book by payment method. $1 day.
INSERT INTO warehouse.mart_book_methods
       (day, batch_id, market_id, payment_method_id, verdict, ads, best_price, mean_price,
        weighted_mean_price, median_price, available_amount)
SELECT $1::date, batch_id, market_id, payment_method_id, verdict, ads, trim_scale(best_price),
       trim_scale(round(mean_price, 8)), trim_scale(round(weighted_mean_price, 8)),
       trim_scale(warehouse.percentile(prices, 0.5)), trim_scale(available_amount)
  FROM (SELECT batch_id, market_id, l.payment_method_id, k.verdict,
               count(*) AS ads,
               CASE k.trade_type WHEN 'BUY' THEN min(a.price) ELSE max(a.price) END AS best_price,
               avg(a.price) AS mean_price,
               sum(a.price * a.available_amount) / nullif(sum(a.available_amount), 0) AS weighted_mean_price,
               array_agg(a.price ORDER BY a.price) AS prices,
               sum(a.available_amount) AS available_amount
          FROM batch_ads a
          JOIN closing_books k USING (batch_id, market_id)
         CROSS JOIN LATERAL unnest(a.payment_method_ids) AS l (payment_method_id)
         GROUP BY batch_id, market_id, l.payment_method_id, k.verdict, k.trade_type) s
