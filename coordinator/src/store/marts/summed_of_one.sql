-- What each advertiser has in the book of one batch: the same as of several, with nothing to sum.
SELECT market_id, advertiser_id, is_merchant, 1 AS books, is_complete::int AS complete_books,
       (is_complete AND is_best)::int AS best_books, ads AS ads_max, read_at AS first_seen_at, read_at AS last_seen_at,
       min_price, max_price, amount AS amount_max, CASE WHEN is_complete THEN amount ELSE 0 END AS amount_sum
  FROM book_advertisers
