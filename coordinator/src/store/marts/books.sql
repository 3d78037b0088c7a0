-- Prices, stock and flow of each book. $1 day.
WITH bounds AS MATERIALIZED (
    -- Prices that are at most 1, 2 and 5 % worse than the best.
    SELECT batch_id, market_id, best_price,
           least(best_price, worse_1pct) AS least_1pct, greatest(best_price, worse_1pct) AS most_1pct,
           least(best_price, worse_2pct) AS least_2pct, greatest(best_price, worse_2pct) AS most_2pct,
           least(best_price, worse_5pct) AS least_5pct, greatest(best_price, worse_5pct) AS most_5pct
      FROM (SELECT batch_id, market_id, best_price,
                   best_price * CASE WHEN is_buy THEN 1.01 ELSE 0.99 END AS worse_1pct,
                   best_price * CASE WHEN is_buy THEN 1.02 ELSE 0.98 END AS worse_2pct,
                   best_price * CASE WHEN is_buy THEN 1.05 ELSE 0.95 END AS worse_5pct
              FROM book_bests) b
), priced AS (
    SELECT a.batch_id, a.market_id, a.is_merchant, a.price, a.available_amount, a.worth,
           CASE WHEN a.price = b.best_price THEN 0
                WHEN a.price BETWEEN b.least_1pct AND b.most_1pct THEN 1
                WHEN a.price BETWEEN b.least_2pct AND b.most_2pct THEN 2
                WHEN a.price BETWEEN b.least_5pct AND b.most_5pct THEN 5
                ELSE 100 END AS worse_pct
      FROM listed_ads a
      JOIN bounds b USING (batch_id, market_id)
     WHERE a.is_shown AND a.advertiser_id IS NOT NULL
     -- Sorted once: the aggregates take rows as they come.
     ORDER BY a.batch_id, a.market_id, a.price
), stats AS (
    SELECT batch_id, market_id,
           count(*) AS ads,
           count(*) FILTER (WHERE is_merchant) AS merchant_ads,
           min(price) FILTER (WHERE worse_pct = 0) AS best_price,
           min(price) FILTER (WHERE is_merchant) AS min_merchant_price,
           max(price) FILTER (WHERE is_merchant) AS max_merchant_price,
           avg(price) AS mean_price,
           array_agg(price) AS prices,
           sum(available_amount) AS available_amount,
           sum(worth) AS available_fiat,
           sum(available_amount) FILTER (WHERE worse_pct = 0) AS depth_best,
           sum(available_amount) FILTER (WHERE worse_pct <= 1) AS depth_1pct,
           sum(available_amount) FILTER (WHERE worse_pct <= 2) AS depth_2pct,
           sum(available_amount) FILTER (WHERE worse_pct <= 5) AS depth_5pct
      FROM priced
     GROUP BY batch_id, market_id
), people AS (
    SELECT batch_id, market_id, count(*) AS advertisers, count(*) FILTER (WHERE is_merchant) AS merchants
      FROM book_advertisers
     GROUP BY batch_id, market_id
), flows AS (
    SELECT b.batch_id, b.market_id, b.previous_batch_id,
           extract(epoch FROM b.read_at - b.previous_read_at)::int AS seconds,
           count(*) FILTER (WHERE v.is_new) AS ads_new,
           count(*) FILTER (WHERE v.is_gone) AS ads_gone,
           count(*) FILTER (WHERE NOT v.is_new AND NOT v.is_gone) AS ads_changed,
           coalesce(sum(amount_before - amount) FILTER (WHERE NOT v.is_gone AND amount < amount_before), 0) AS outflow_lower,
           coalesce(sum(amount_before - amount) FILTER (WHERE amount < amount_before), 0) AS outflow_upper,
           coalesce(sum(amount - amount_before) FILTER (WHERE NOT v.is_new AND amount > amount_before), 0) AS inflow_lower,
           coalesce(sum(amount - amount_before) FILTER (WHERE amount > amount_before), 0) AS inflow_upper
      FROM book_pairs b
      LEFT JOIN ad_moves v USING (batch_id, market_id)
     GROUP BY b.batch_id, b.market_id, b.previous_batch_id, b.read_at, b.previous_read_at
), spreads AS (
    -- Both sides complete in the same batch, or nothing.
    SELECT batch_id, k.exchange_id, k.fiat_id, k.crypto_id,
           min(s.best_price) FILTER (WHERE k.trade_type = 'BUY') AS buy,
           min(s.best_price) FILTER (WHERE k.trade_type = 'SELL') AS sell
      FROM stats s
      JOIN closing_books k USING (batch_id, market_id)
     WHERE k.verdict = 'complete'
     GROUP BY batch_id, k.exchange_id, k.fiat_id, k.crypto_id
    HAVING count(*) = 2
)
INSERT INTO warehouse.mart_books
       (day, batch_id, market_id, slot_at, read_at, verdict, completeness, ads, merchant_ads, advertisers,
        merchants, best_price, best_merchant_price, mean_price, weighted_mean_price, median_price, p10_price,
        p25_price, p75_price, p90_price, available_amount, available_fiat, depth_best, depth_1pct, depth_2pct,
        depth_5pct, spread, spread_ratio, previous_batch_id, flow_seconds, ads_new, ads_gone, ads_changed,
        outflow_lower, outflow_upper, inflow_lower, inflow_upper, is_whole)
SELECT $1::date, batch_id, market_id, k.slot_at, k.read_at, k.verdict, k.completeness,
       coalesce(s.ads, 0), coalesce(s.merchant_ads, 0), coalesce(p.advertisers, 0), coalesce(p.merchants, 0),
       trim_scale(s.best_price), trim_scale(CASE k.trade_type WHEN 'BUY' THEN s.min_merchant_price ELSE s.max_merchant_price END),
       trim_scale(round(s.mean_price, 8)), trim_scale(round(s.available_fiat / nullif(s.available_amount, 0), 8)),
       trim_scale(warehouse.percentile(s.prices, 0.5)),
       trim_scale(round(warehouse.percentile(s.prices, 0.1), 8)),
       trim_scale(round(warehouse.percentile(s.prices, 0.25), 8)),
       trim_scale(round(warehouse.percentile(s.prices, 0.75), 8)),
       trim_scale(round(warehouse.percentile(s.prices, 0.9), 8)),
       trim_scale(coalesce(s.available_amount, 0)), trim_scale(coalesce(s.available_fiat, 0)),
       trim_scale(s.depth_best), trim_scale(s.depth_1pct), trim_scale(s.depth_2pct), trim_scale(s.depth_5pct),
       CASE k.verdict WHEN 'complete' THEN trim_scale(x.buy - x.sell) END,
       CASE k.verdict WHEN 'complete' THEN trim_scale(round((x.buy - x.sell) / ((x.buy + x.sell) / 2), 8)) END,
       f.previous_batch_id, f.seconds, f.ads_new, f.ads_gone, f.ads_changed,
       trim_scale(f.outflow_lower), trim_scale(f.outflow_upper), trim_scale(f.inflow_lower), trim_scale(f.inflow_upper), k.is_whole
  FROM closing_books k
  LEFT JOIN stats s USING (batch_id, market_id)
  LEFT JOIN people p USING (batch_id, market_id)
  LEFT JOIN flows f USING (batch_id, market_id)
  LEFT JOIN spreads x USING (batch_id, exchange_id, fiat_id, crypto_id)
