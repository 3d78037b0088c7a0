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
MERGE INTO warehouse.mart_advertiser_days AS d
USING (
    -- Who left the market altogether is in `moved` only.
    SELECT market_id, advertiser_id, coalesce(s.is_merchant, v.is_merchant) AS is_merchant, coalesce(s.books, 0) AS books,
           coalesce(s.complete_books, 0) AS complete_books, coalesce(s.best_books, 0) AS best_books,
           coalesce(s.ads_max, 0) AS ads_max, s.first_seen_at, s.last_seen_at, trim_scale(s.min_price) AS min_price,
           trim_scale(s.max_price) AS max_price, trim_scale(coalesce(s.amount_max, 0)) AS amount_max,
           trim_scale(coalesce(s.amount_sum, 0)) AS amount_sum, trim_scale(coalesce(v.outflow_lower, 0)) AS outflow_lower,
           trim_scale(coalesce(v.outflow_upper, 0)) AS outflow_upper
      FROM summed s
      FULL JOIN moved v USING (market_id, advertiser_id)) AS n
   ON d.day = $1::date AND d.market_id = n.market_id AND d.advertiser_id = n.advertiser_id
 WHEN MATCHED THEN UPDATE
   -- Of the last book that lists the advertiser, which those of whom there is only a move left are not in.
  SET is_merchant = CASE WHEN n.books > 0 THEN n.is_merchant ELSE d.is_merchant END,
      books = d.books + n.books,
      complete_books = d.complete_books + n.complete_books,
      best_books = d.best_books + n.best_books,
      ads_max = greatest(d.ads_max, n.ads_max),
      first_seen_at = least(d.first_seen_at, n.first_seen_at),
      last_seen_at = greatest(d.last_seen_at, n.last_seen_at),
      min_price = least(d.min_price, n.min_price),
      max_price = greatest(d.max_price, n.max_price),
      amount_max = greatest(d.amount_max, n.amount_max),
      amount_sum = d.amount_sum + n.amount_sum,
      outflow_lower = d.outflow_lower + n.outflow_lower,
      outflow_upper = d.outflow_upper + n.outflow_upper
 WHEN NOT MATCHED THEN INSERT
      (day, market_id, advertiser_id, is_merchant, books, complete_books, best_books, ads_max, first_seen_at,
       last_seen_at, min_price, max_price, amount_max, amount_sum, outflow_lower, outflow_upper)
      VALUES ($1::date, n.market_id, n.advertiser_id, n.is_merchant, n.books, n.complete_books, n.best_books, n.ads_max,
              n.first_seen_at, n.last_seen_at, n.min_price, n.max_price, n.amount_max, n.amount_sum, n.outflow_lower,
              n.outflow_upper)
