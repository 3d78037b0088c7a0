-- Adds the batches to what each advertiser did in each market on this day. $1 day.
WITH summed AS (
    SUMMED
), moved AS (
    SELECT market_id, advertiser_id, bool_or(is_merchant) AS is_merchant,
           coalesce(sum(amount_before - amount) FILTER (WHERE NOT is_gone AND amount < amount_before), 0) AS outflow_lower,
           coalesce(sum(amount_before - amount) FILTER (WHERE amount < amount_before), 0) AS outflow_upper
      FROM ad_moves
     GROUP BY market_id, advertiser_id
)
INSERT INTO warehouse.mart_advertiser_days AS d
       (day, market_id, advertiser_id, is_merchant, books, complete_books, best_books, ads_max, first_seen_at,
        last_seen_at, min_price, max_price, amount_max, amount_sum, outflow_lower, outflow_upper)
-- Who left the market altogether is in `moved` only.
SELECT $1::date, market_id, advertiser_id, coalesce(s.is_merchant, v.is_merchant), coalesce(s.books, 0),
       coalesce(s.complete_books, 0), coalesce(s.best_books, 0), coalesce(s.ads_max, 0), s.first_seen_at,
       s.last_seen_at, trim_scale(s.min_price), trim_scale(s.max_price), trim_scale(coalesce(s.amount_max, 0)),
       trim_scale(coalesce(s.amount_sum, 0)), trim_scale(coalesce(v.outflow_lower, 0)),
       trim_scale(coalesce(v.outflow_upper, 0))
  FROM summed s
  FULL JOIN moved v USING (market_id, advertiser_id)
    ON CONFLICT (advertiser_id, day, market_id) DO UPDATE
   -- Of the last book that lists the advertiser, which those of whom there is only a move left are not in.
   SET is_merchant = CASE WHEN EXCLUDED.books > 0 THEN EXCLUDED.is_merchant ELSE d.is_merchant END,
       books = d.books + EXCLUDED.books,
       complete_books = d.complete_books + EXCLUDED.complete_books,
       best_books = d.best_books + EXCLUDED.best_books,
       ads_max = greatest(d.ads_max, EXCLUDED.ads_max),
       first_seen_at = least(d.first_seen_at, EXCLUDED.first_seen_at),
       last_seen_at = greatest(d.last_seen_at, EXCLUDED.last_seen_at),
       min_price = least(d.min_price, EXCLUDED.min_price),
       max_price = greatest(d.max_price, EXCLUDED.max_price),
       amount_max = greatest(d.amount_max, EXCLUDED.amount_max),
       amount_sum = d.amount_sum + EXCLUDED.amount_sum,
       outflow_lower = d.outflow_lower + EXCLUDED.outflow_lower,
       outflow_upper = d.outflow_upper + EXCLUDED.outflow_upper
