-- A fleet with something in every panel: a leader with a schedule, a closed partial batch with a book of
-- two ads and a lost one, a batch that runs, a skipped slot, workers, an open breaker.
SELECT pipeline.make_partitions((now() AT TIME ZONE 'UTC')::date - 2, (now() AT TIME ZONE 'UTC')::date);

INSERT INTO pipeline.leaders VALUES (1, 1, 'host-1', now() - interval '1 hour', 600);
INSERT INTO pipeline.workers (worker_id, exchange_id, egress_id, requests_per_minute, started_at, seen_at, breaker_open_until, breaker_openings)
VALUES ('worker-live', 1, 'egress-a', 90, now() - interval '1 hour', now(), NULL, 0),
       ('worker-broken', 1, 'egress-b', 40, now() - interval '1 hour', now(), now() + interval '1 minute', 2),
       ('worker-gone', 1, 'egress-a', 90, now() - interval '2 hours', now() - interval '1 hour', NULL, 0);

INSERT INTO warehouse.dim_fiat_currencies (currency_code, first_seen_at) VALUES ('VES', now()), ('EUR', now());
INSERT INTO warehouse.dim_cryptocurrencies (symbol, first_seen_at) VALUES ('USDT', now()), ('BTC', now());
INSERT INTO warehouse.dim_markets (exchange_id, fiat_id, crypto_id, trade_type, first_seen_at)
SELECT 1, f.fiat_id, c.crypto_id, side, now()
  FROM warehouse.dim_fiat_currencies f, warehouse.dim_cryptocurrencies c, unnest(ARRAY['BUY', 'SELL']) AS side;
INSERT INTO warehouse.dim_advertisers
       (exchange_id, user_no, advertiser, is_merchant, is_pro_merchant, identity_hash, valid_from, is_current, figures_at)
VALUES (1, 'u1', '<script>alert(1)</script>"''&amp;', true, false, 1, now(), true, now());

-- Slots lie on the wall clock; the batch before the last is of a slot half an hour ago.
CREATE TEMPORARY TABLE seed AS
SELECT at, (((at AT TIME ZONE 'UTC')::date - DATE '1970-01-01') << 9) + 100 + n AS batch_id, (at AT TIME ZONE 'UTC')::date AS day, n
  FROM (SELECT n, date_bin('10 minutes', now(), TIMESTAMPTZ 'epoch') - (4 - n) * interval '10 minutes' AS at
          FROM generate_series(1, 4) AS n) slots;
INSERT INTO pipeline.batches (batch_id, day, exchange_id, slot_at, trigger, state, outcome, reason, opened_by, opened_at,
                              planned_at, deadline_at, closed_at, ads, books, books_complete)
SELECT batch_id, day, 1, at, 'schedule', CASE n WHEN 4 THEN 'open' ELSE 'closed' END,
       CASE n WHEN 1 THEN 'complete' WHEN 3 THEN 'partial' END, CASE n WHEN 3 THEN '1 page lost <b>' END, 'host-1', at, at,
       at + interval '8 minutes', CASE n WHEN 4 THEN NULL ELSE at + interval '2 minutes' END, 12, 4, 3
  FROM seed WHERE n <> 2;
INSERT INTO pipeline.slots
SELECT 1, at, CASE WHEN n <> 2 THEN batch_id END, CASE n WHEN 2 THEN 'skipped' ELSE 'batch' END, CASE n WHEN 2 THEN 'late' END, at
  FROM seed;
INSERT INTO pipeline.jobs (day, batch_id, ordinal, kind, market_id, page, urgent, ads_expected, state, ads_taken, planned_at, ended_at, expires_at)
SELECT day, batch_id, o, 'search', (SELECT min(market_id) FROM warehouse.dim_markets), 1, false, true,
       CASE WHEN o < 3 THEN 'done' ELSE 'published' END, CASE WHEN o < 3 THEN 20 END, at, CASE WHEN o < 3 THEN now() END,
       at + interval '8 minutes'
  FROM seed, generate_series(0, 9) AS o WHERE n = 4;

-- The book of VES USDT BUY.
CREATE TEMPORARY TABLE seed_market AS
SELECT m.market_id, f.currency_code AS fiat, c.symbol AS asset, m.trade_type AS side
  FROM warehouse.dim_markets m JOIN warehouse.dim_fiat_currencies f USING (fiat_id) JOIN warehouse.dim_cryptocurrencies c USING (crypto_id);
INSERT INTO warehouse.offer_versions (day, id, market_id, advertiser_sk, content_hash, first_seen_at, adv_no, price, available_amount,
                                      min_limit, max_limit, payment_method_ids)
SELECT s.day, o, m.market_id, (SELECT min(advertiser_sk) FROM warehouse.dim_advertisers), 0, s.at, o::text, 100 + o, 5, 10, 500, '{}'
  FROM seed s, generate_series(1, 2) AS o, seed_market m WHERE s.n = 3 AND (m.fiat, m.asset, m.side) = ('VES', 'USDT', 'BUY');
INSERT INTO warehouse.book_pages (day, batch_id, market_id, page, ordinal, fetched_at, declared_total, offer_ids, active_minutes)
SELECT s.day, s.batch_id, m.market_id, 1, 1, s.at + interval '30 s', 2, '{1,2}', '{3,3}'
  FROM seed s, seed_market m WHERE s.n = 3 AND (m.fiat, m.asset, m.side) = ('VES', 'USDT', 'BUY');
INSERT INTO warehouse.books (day, batch_id, market_id, verdict, first_total, last_total, pages_planned, pages_read, pages_lost, pages_shed,
                             pages_reread, listed_ads, distinct_ads, duplicate_ads, refused_ads, estimated_missed)
SELECT s.day, s.batch_id, m.market_id, CASE WHEN m.fiat = 'EUR' AND m.side = 'SELL' THEN 'partial' ELSE 'complete' END, 2, 2, 2,
       1, CASE WHEN m.fiat = 'EUR' AND m.side = 'SELL' THEN 1 ELSE 0 END, 0, 0, 2, CASE m.fiat WHEN 'VES' THEN 20 ELSE 2 END, 0, 0,
       CASE WHEN m.fiat = 'EUR' AND m.side = 'SELL' THEN 1 ELSE 0 END
  FROM seed s, seed_market m WHERE s.n = 3;
INSERT INTO warehouse.mart_books (day, batch_id, market_id, slot_at, read_at, verdict, completeness, ads, merchant_ads, advertisers,
                                  merchants, best_price, median_price, available_amount, available_fiat)
SELECT s.day, s.batch_id, m.market_id, s.at, s.at + interval '30 s', 'complete', 1, 2, 2, 1, 1, 101 + s.n, 102 + s.n, 10, 1000
  FROM seed s, seed_market m WHERE s.n IN (1, 3) AND (m.fiat, m.asset, m.side) = ('VES', 'USDT', 'BUY');
