-- A book of one page: versions, page, certificate, latest state. $1 batch, $2 day, $3 slot, $4 fiat, $5
-- asset, $6 side, $7 verdict (partial: an ad was refused; lost: partial, for a page was lost), $8 ordinal, $9 ads.
WITH market AS (
    SELECT m.market_id
      FROM warehouse.dim_markets m
      JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
      JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
     WHERE f.currency_code = $4 AND c.symbol = $5 AND m.trade_type = $6
), ads AS (
    SELECT a.*, (($1 & 511) << 22 | $8 << 5 | (row_number() OVER () - 1)::integer) AS id
      FROM jsonb_to_recordset($9) AS a (adv_no text, user_no text, price numeric, amount numeric, low numeric,
                                        high numeric, methods text[])
), versions AS (
    INSERT INTO warehouse.offer_versions
           (day, id, market_id, advertiser_sk, content_hash, first_seen_at, adv_no, price, available_amount,
            min_limit, max_limit, payment_method_ids)
    SELECT $2, a.id, market_id, s.advertiser_sk, 0, $3 + interval '30 s', a.adv_no, a.price, a.amount, a.low, a.high,
           (SELECT array_agg(p.payment_method_id ORDER BY p.payment_method_id)
              FROM warehouse.dim_payment_methods p WHERE p.identifier = ANY (a.methods))
      FROM market, ads a JOIN warehouse.dim_advertisers s ON s.user_no = a.user_no AND s.is_current
), pages AS (
    INSERT INTO warehouse.book_pages
           (day, batch_id, market_id, page, ordinal, fetched_at, declared_total, offer_ids, active_minutes)
    SELECT $2, $1, market_id, 1, $8, $3 + interval '30 s', count(*), array_agg(id ORDER BY id),
           array_agg(3::smallint)
      FROM market, ads GROUP BY market_id
), latest AS (
    INSERT INTO warehouse.latest_books
    SELECT market_id, $2, $1, replace($7, 'lost', 'partial'), $3 + interval '30 s' FROM market
        ON CONFLICT (market_id) DO UPDATE
       SET day = EXCLUDED.day, batch_id = EXCLUDED.batch_id, verdict = EXCLUDED.verdict, read_at = EXCLUDED.read_at
)
INSERT INTO warehouse.books
       (day, batch_id, market_id, verdict, first_total, last_total, pages_planned, pages_read, pages_lost, pages_shed,
        pages_reread, listed_ads, distinct_ads, duplicate_ads, refused_ads, estimated_missed, first_fetched_at,
        last_fetched_at, span_ms)
SELECT $2, $1, market_id, replace($7, 'lost', 'partial'), count(*), count(*), 1, 1, CASE $7 WHEN 'lost' THEN 1 ELSE 0 END, 0, 0, count(*), count(*), 0, CASE $7 WHEN 'partial' THEN 1 ELSE 0 END,
       CASE $7 WHEN 'drifted' THEN 1 ELSE 0 END, $3 + interval '30 s', $3 + interval '30 s', 0
  FROM market, ads GROUP BY market_id
