-- What each advertiser has in the books of several batches.
SELECT market_id, advertiser_id,
       -- Of the last book: the number of its batch, doubled, is odd if so.
       max(batch_id::bigint * 2 + is_merchant::int) % 2 = 1 AS is_merchant,
       count(*) AS books,
       count(*) FILTER (WHERE is_complete) AS complete_books,
       count(*) FILTER (WHERE is_complete AND is_best) AS best_books,
       max(ads) AS ads_max,
       min(read_at) AS first_seen_at,
       max(read_at) AS last_seen_at,
       min(min_price) AS min_price,
       max(max_price) AS max_price,
       max(amount) AS amount_max,
       coalesce(sum(amount) FILTER (WHERE is_complete), 0) AS amount_sum
  FROM book_advertisers
 GROUP BY market_id, advertiser_id
