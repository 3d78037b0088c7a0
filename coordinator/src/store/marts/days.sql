-- The day of each market that the batches read, made anew from its hours. $1 day.
INSERT INTO warehouse.mart_days
       (day, market_id, books, complete_books, used_books, first_best_price, last_best_price, min_best_price,
        max_best_price, mean_best_price, mean_median_price, mean_weighted_price, mean_ads, mean_advertisers,
        mean_amount, mean_fiat, mean_depth_1pct, mean_spread_ratio, spread_books, amount_sum, flow_seconds,
        ads_new, ads_gone, outflow_lower, outflow_upper, inflow_lower, inflow_upper)
SELECT $1::date, market_id, sum(books), sum(complete_books), sum(used_books),
       (array_agg(first_best_price ORDER BY hour) FILTER (WHERE used_books > 0))[1],
       (array_agg(last_best_price ORDER BY hour DESC) FILTER (WHERE used_books > 0))[1],
       min(min_best_price), max(max_best_price),
       trim_scale(round(sum(mean_best_price * used_books) / nullif(sum(used_books), 0), 12)),
       trim_scale(round(sum(mean_median_price * used_books) / nullif(sum(used_books), 0), 12)),
       trim_scale(round(sum(mean_weighted_price * used_books)
                        / nullif(sum(used_books) FILTER (WHERE mean_weighted_price IS NOT NULL), 0), 12)),
       trim_scale(round(sum(mean_ads * used_books) / nullif(sum(used_books), 0), 12)),
       trim_scale(round(sum(mean_advertisers * used_books) / nullif(sum(used_books), 0), 12)),
       trim_scale(round(sum(mean_amount * used_books) / nullif(sum(used_books), 0), 12)),
       trim_scale(round(sum(mean_fiat * used_books) / nullif(sum(used_books), 0), 12)),
       trim_scale(round(sum(mean_depth_1pct * used_books) / nullif(sum(used_books), 0), 12)),
       trim_scale(round(sum(mean_spread_ratio * spread_books) / nullif(sum(spread_books), 0), 12)),
       sum(spread_books), sum(amount_sum), sum(flow_seconds), sum(ads_new), sum(ads_gone), sum(outflow_lower),
       sum(outflow_upper), sum(inflow_lower), sum(inflow_upper)
  FROM warehouse.mart_hours h
 WHERE day = $1
   AND market_id IN (SELECT market_id FROM closing_books)
 GROUP BY market_id
    ON CONFLICT (market_id, day) DO UPDATE
   SET (books, complete_books, used_books, first_best_price, last_best_price, min_best_price, max_best_price,
        mean_best_price, mean_median_price, mean_weighted_price, mean_ads, mean_advertisers, mean_amount, mean_fiat,
        mean_depth_1pct, mean_spread_ratio, spread_books, amount_sum, flow_seconds, ads_new, ads_gone,
        outflow_lower, outflow_upper, inflow_lower, inflow_upper)
     = (EXCLUDED.books, EXCLUDED.complete_books, EXCLUDED.used_books, EXCLUDED.first_best_price,
        EXCLUDED.last_best_price, EXCLUDED.min_best_price, EXCLUDED.max_best_price, EXCLUDED.mean_best_price,
        EXCLUDED.mean_median_price, EXCLUDED.mean_weighted_price, EXCLUDED.mean_ads, EXCLUDED.mean_advertisers,
        EXCLUDED.mean_amount, EXCLUDED.mean_fiat, EXCLUDED.mean_depth_1pct, EXCLUDED.mean_spread_ratio,
        EXCLUDED.spread_books, EXCLUDED.amount_sum, EXCLUDED.flow_seconds, EXCLUDED.ads_new, EXCLUDED.ads_gone,
        EXCLUDED.outflow_lower, EXCLUDED.outflow_upper, EXCLUDED.inflow_lower, EXCLUDED.inflow_upper)
