-- The latest state looks its ads up by their keys. Of a day that has just begun the planner knows nothing: it took the ads of a
-- page for one, and read all versions of the day again for each page, a time that grows with the square of the market.
CREATE OR REPLACE VIEW warehouse.mv_latest_market_state AS
SELECT e.exchange_name,
       f.currency_code AS fiat_code,
       c.symbol AS crypto_symbol,
       m.trade_type,
       CASE m.trade_type WHEN 'BUY' THEN 'SELL' ELSE 'BUY' END AS advertiser_side,
       CASE WHEN l.position = p.promoted_position THEN NULL
            ELSE (p.page - 1) * 20 + l.position
                 - CASE WHEN l.position > p.promoted_position THEN 1 ELSE 0 END
       END::integer AS rank,
       (l.position = p.promoted_position) IS TRUE AS is_promoted,
       warehouse.offer_id(p.day, v.id) AS offer_id,
       v.adv_no AS offer_external_id,
       v.price,
       v.available_amount,
       v.tradable_quantity,
       v.min_limit,
       v.max_limit,
       v.dynamic_max_limit,
       v.pay_time_limit_minutes,
       (SELECT array_agg(pm.method_name ORDER BY pm.method_name)
          FROM warehouse.dim_payment_methods pm
         WHERE pm.payment_method_id = ANY (v.payment_method_ids)) AS payment_methods,
       v.classify,
       a.advertiser,
       a.user_no,
       a.is_merchant,
       a.month_order_count,
       a.completion_rate,
       a.positive_rate,
       p.active_minutes[l.position] AS advertiser_active_minutes,
       v.advertiser_sk,
       lb.market_id,
       lb.batch_id,
       p.fetched_at AS extraction_timestamp,
       now() - p.fetched_at AS age,
       lb.verdict AS book_verdict
  FROM warehouse.latest_books lb
  JOIN warehouse.books b ON b.day = lb.day AND b.batch_id = lb.batch_id AND b.market_id = lb.market_id
  JOIN warehouse.dim_markets m ON m.market_id = lb.market_id
  JOIN warehouse.dim_exchanges e ON e.exchange_id = m.exchange_id
  JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
  JOIN warehouse.dim_cryptocurrencies c ON c.crypto_id = m.crypto_id
 CROSS JOIN LATERAL (SELECT p.day, p.page, p.fetched_at, p.promoted_position, p.duplicate_positions, p.offer_ids, p.active_minutes
                       FROM warehouse.book_pages p
                      WHERE p.day = lb.day AND p.batch_id = lb.batch_id AND p.market_id = lb.market_id OFFSET 0) p
 CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
 CROSS JOIN LATERAL (SELECT v.id, v.adv_no, v.price, v.available_amount, v.tradable_quantity, v.min_limit, v.max_limit, v.dynamic_max_limit,
                            v.pay_time_limit_minutes, v.payment_method_ids, v.classify, v.advertiser_sk
                       FROM warehouse.offer_contents v WHERE v.day = p.day AND v.id = l.id OFFSET 0) v
 CROSS JOIN LATERAL (SELECT a.advertiser, a.user_no, a.is_merchant, a.month_order_count, a.completion_rate, a.positive_rate
                       FROM warehouse.dim_advertisers a WHERE a.advertiser_sk = v.advertiser_sk OFFSET 0) a
 WHERE p.duplicate_positions IS NULL OR l.position <> ALL (p.duplicate_positions);
