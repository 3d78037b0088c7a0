-- The hours that the batches belong to, made anew from the books of these. $1 day, $2 and $3 first and
-- last batch.
INSERT INTO warehouse.mart_hours AS h
       (day, hour, market_id, books, complete_books, used_books, first_best_price, last_best_price, min_best_price,
        max_best_price, mean_best_price, mean_median_price, mean_weighted_price, mean_ads, mean_advertisers,
        mean_amount, mean_fiat, mean_depth_1pct, mean_spread_ratio, spread_books, amount_sum, flow_seconds,
        ads_new, ads_gone, outflow_lower, outflow_upper, inflow_lower, inflow_upper)
SELECT $1::date, hour, market_id,
       count(*),
       count(*) FILTER (WHERE verdict = 'complete'),
       count(*) FILTER (WHERE is_used),
       (array_agg(best_price ORDER BY batch_id) FILTER (WHERE is_used))[1],
       (array_agg(best_price ORDER BY batch_id DESC) FILTER (WHERE is_used))[1],
       min(best_price) FILTER (WHERE is_used),
       max(best_price) FILTER (WHERE is_used),
       trim_scale(round(avg(best_price) FILTER (WHERE is_used), 12)),
       trim_scale(round(avg(median_price) FILTER (WHERE is_used), 12)),
       trim_scale(round(avg(weighted_mean_price) FILTER (WHERE is_used), 12)),
       trim_scale(round(avg(ads) FILTER (WHERE is_used), 12)),
       trim_scale(round(avg(advertisers) FILTER (WHERE is_used), 12)),
       trim_scale(round(avg(available_amount) FILTER (WHERE is_used), 12)),
       trim_scale(round(avg(available_fiat) FILTER (WHERE is_used), 12)),
       trim_scale(round(avg(depth_1pct) FILTER (WHERE is_used), 12)),
       trim_scale(round(avg(spread_ratio), 12)),
       count(spread_ratio),
       coalesce(sum(available_amount) FILTER (WHERE verdict = 'complete'), 0),
       sum(flow_seconds), sum(ads_new), sum(ads_gone), sum(outflow_lower), sum(outflow_upper), sum(inflow_lower),
       sum(inflow_upper)
  FROM (SELECT k.*, date_bin('1 hour', k.slot_at, TIMESTAMPTZ 'epoch') AS hour,
               k.ads > 0 AND (k.verdict IN ('complete', 'drifted') OR k.verdict = 'partial' AND k.is_whole) AS is_used
          FROM warehouse.mart_books k
         WHERE k.day = $1
           -- Batches of the first hour to those of the last. Ids grow with the slots of a day, unless the clock was ahead: of
           -- an hour before there would then be some books only.
           AND k.batch_id >= (SELECT min(batch_id) FROM pipeline.batches
                               WHERE batch_id BETWEEN $2 - 512 AND $2 AND day = $1
                                 AND slot_at >= (SELECT date_bin('1 hour', min(slot_at), TIMESTAMPTZ 'epoch') FROM closing_books))
           AND k.slot_at >= (SELECT date_bin('1 hour', min(slot_at), TIMESTAMPTZ 'epoch') FROM closing_books)
           AND k.batch_id <= $3
           AND k.market_id IN (SELECT market_id FROM closing_books)) k
 GROUP BY hour, market_id
    ON CONFLICT (market_id, day, hour) DO UPDATE
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
