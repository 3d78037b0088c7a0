-- Quality of batches: what six checks said of each, what they compare with, and which books are held back.

CREATE TABLE pipeline.quality_results (
    day        date NOT NULL,
    batch_id   integer NOT NULL,
    check_name text NOT NULL CHECK (check_name IN ('completeness', 'price_anomalies', 'volume_consistency', 'duplicates',
                                                   'temporal_consistency', 'referential_integrity')),
    value      numeric,
    threshold  numeric NOT NULL,
    level      text NOT NULL CHECK (level IN ('fatal', 'warning')),
    verdict    text NOT NULL CHECK (verdict IN ('pass', 'warn', 'fail', 'unknown')),
    reason     text,
    details    jsonb NOT NULL,
    checked_at timestamptz NOT NULL,
    PRIMARY KEY (day, batch_id, check_name),
    CHECK (verdict <> 'unknown' OR reason IS NOT NULL)
) PARTITION BY RANGE (day);
COMMENT ON TABLE pipeline.quality_results IS 'What each quality check said of each batch: one row per batch and check, written when the batch closes, and again when its facts are made anew. Kept as long as the marts.';
COMMENT ON COLUMN pipeline.quality_results.day IS 'UTC day of the batch; partition key, by month.';
COMMENT ON COLUMN pipeline.quality_results.batch_id IS 'Batch (pipeline.batches).';
COMMENT ON COLUMN pipeline.quality_results.check_name IS 'completeness: pages and ads read of those declared. price_anomalies: median prices against the last cycles. volume_consistency: ads and stock against the last 24 hours and this hour of the week. duplicates: ads that a book shows twice. temporal_consistency: readings whose time can''t be. referential_integrity: references to what is not there.';
COMMENT ON COLUMN pipeline.quality_results.value IS 'What was measured. completeness: share of 1, the lower of pages and ads. price_anomalies, volume_consistency: the largest deviation and the largest drop of a market, share of 1. The others: how many were found. NULL: nothing could be measured.';
COMMENT ON COLUMN pipeline.quality_results.threshold IS 'completeness is good from here up, the others up to here.';
COMMENT ON COLUMN pipeline.quality_results.level IS 'fatal: the markets concerned keep their last good state (books.held_reason), or the batch lacks what it should hold. warning: somebody may want to know; what was read is shown. Of volume_consistency it is fatal only where a market is to be held.';
COMMENT ON COLUMN pipeline.quality_results.verdict IS 'pass; warn: beyond the threshold, of level warning; fail: beyond it, of level fatal; unknown: nothing can be said.';
COMMENT ON COLUMN pipeline.quality_results.reason IS 'Why nothing can be said. NULL: something is said.';
COMMENT ON COLUMN pipeline.quality_results.details IS 'What the verdict rests on: sums, and under "markets" those concerned, the worst first, at most 20; "left_out" says how many more.';
COMMENT ON COLUMN pipeline.quality_results.checked_at IS 'When this was found.';
INSERT INTO pipeline.partitioned_tables VALUES ('pipeline', 'quality_results', 'marts', 'month', 75, 100);

CREATE TABLE pipeline.market_baselines (
    market_id      integer PRIMARY KEY REFERENCES warehouse.dim_markets,
    last_batch_id  integer NOT NULL,
    fed_at         timestamptz,
    cycles         integer NOT NULL DEFAULT 0,
    recent_prices  numeric[] NOT NULL DEFAULT '{}',
    recent_ads     integer[] NOT NULL DEFAULT '{}',
    day_ads        numeric,
    day_amount     numeric,
    suspicions     smallint NOT NULL DEFAULT 0,
    suspected_ads  integer
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.market_baselines IS 'What is ordinary in each market, learned from its complete, drifted and empty books when a batch closes. One row a market, so that a close never looks into history.';
COMMENT ON COLUMN pipeline.market_baselines.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN pipeline.market_baselines.last_batch_id IS 'Last batch that it learned from or suspected: a batch counts once.';
COMMENT ON COLUMN pipeline.market_baselines.fed_at IS 'Slot of the last book that it learned from. NULL: none yet.';
COMMENT ON COLUMN pipeline.market_baselines.cycles IS 'Books that it learned from.';
COMMENT ON COLUMN pipeline.market_baselines.recent_prices IS 'Median prices of the last books with ads, at most 9, newest last; fiat per unit of the asset.';
COMMENT ON COLUMN pipeline.market_baselines.recent_ads IS 'Ads of the last books, at most 9, newest last.';
COMMENT ON COLUMN pipeline.market_baselines.day_ads IS 'Moving mean of the ads over 24 hours. NULL: no book yet.';
COMMENT ON COLUMN pipeline.market_baselines.day_amount IS 'Moving mean of the stock over 24 hours, in units of the asset. NULL: no book yet.';
COMMENT ON COLUMN pipeline.market_baselines.suspicions IS 'Readings in a row that were suspect and are not believed yet.';
COMMENT ON COLUMN pipeline.market_baselines.suspected_ads IS 'Ads of the last suspect reading. NULL: nothing is suspected.';

CREATE TABLE pipeline.market_baseline_hours (
    market_id    integer NOT NULL REFERENCES warehouse.dim_markets,
    hour_of_week smallint NOT NULL CHECK (hour_of_week BETWEEN 0 AND 167),
    books        integer NOT NULL,
    first_at     timestamptz NOT NULL,
    ads          numeric NOT NULL,
    amount       numeric NOT NULL,
    spread_ratio numeric,
    PRIMARY KEY (market_id, hour_of_week)
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.market_baseline_hours IS 'What is ordinary in each market at each hour of the week: levels that follow about four weeks.';
COMMENT ON COLUMN pipeline.market_baseline_hours.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN pipeline.market_baseline_hours.hour_of_week IS 'Hour of the slot: 0 begins Monday 00:00 UTC, 167 Sunday 23:00.';
COMMENT ON COLUMN pipeline.market_baseline_hours.books IS 'Books that it learned from.';
COMMENT ON COLUMN pipeline.market_baseline_hours.first_at IS 'Slot of the first of them: until one is of an earlier week, nothing is concluded.';
COMMENT ON COLUMN pipeline.market_baseline_hours.ads IS 'Level of the ads.';
COMMENT ON COLUMN pipeline.market_baseline_hours.amount IS 'Level of the stock, in units of the asset.';
COMMENT ON COLUMN pipeline.market_baseline_hours.spread_ratio IS 'Level of the spread, as in mart_books. NULL: no book had one.';

ALTER TABLE warehouse.books ADD COLUMN held_reason text;
COMMENT ON COLUMN warehouse.books.held_reason IS 'Why the book is held back from the latest state although no page was lost: suspect (it fell too far, or together with its neighbours, and is not confirmed yet), we_failed (it fell, and ads could not be taken), duplicates, temporal_consistency, referential_integrity (quality checks). NULL: not held.';
ALTER TABLE warehouse.mart_books ADD COLUMN held_reason text;
COMMENT ON COLUMN warehouse.mart_books.held_reason IS 'Why a quality check held the book back from the latest state, as in books; stays when the next reading confirms it. NULL: not held.';
ALTER TABLE warehouse.latest_books ADD COLUMN newer_batch_id integer, ADD COLUMN newer_reason text;
COMMENT ON COLUMN warehouse.latest_books.newer_batch_id IS 'Newest batch after it that was to read the market and whose book is not shown. NULL: none.';
COMMENT ON COLUMN warehouse.latest_books.newer_reason IS 'Why it is not shown: pages_lost, pages_shed, or the held_reason of books. NULL: none.';
COMMENT ON TABLE warehouse.latest_books IS 'The last good book of each market: the last one of which no page was lost and which no quality check holds back. Moved forward when a batch closes.';
COMMENT ON VIEW warehouse.mv_latest_market_state IS 'Every ad of the last good book of each market, names spelled out. A view over latest_books, which moves when a batch closes, so it is never stale and needs no refresh. latest_books.newer_reason says why a newer book is not shown.';

-- The same book as in the latest state: one that is held back answers no question about prices now.
CREATE OR REPLACE FUNCTION warehouse.book_certificate(fiat text, asset text, side text, at timestamptz DEFAULT now(), exchange text DEFAULT 'binance')
RETURNS TABLE (market_id integer, day date, batch_id integer, slot_at timestamptz, read_at timestamptz, age interval,
               verdict text, completeness numeric, ads integer, declared_total integer, estimated_missed integer,
               span_ms integer, has_ads boolean)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
DECLARE
    asked integer := warehouse.market(fiat, asset, side, exchange);
BEGIN
    IF book_certificate.at IS NULL OR NOT isfinite(book_certificate.at) THEN
        RAISE EXCEPTION 'at % is not allowed: an instant', coalesce(book_certificate.at::text, 'NULL') USING ERRCODE = '22023';
    END IF;
    RETURN QUERY
    SELECT k.market_id, k.day, k.batch_id, k.slot_at, k.read_at, book_certificate.at - k.read_at, k.verdict,
           k.completeness, k.ads, b.last_total, b.estimated_missed, b.span_ms, b.batch_id IS NOT NULL
      FROM (SELECT *
              FROM warehouse.mart_books k
             WHERE k.market_id = asked AND k.day <= (book_certificate.at AT TIME ZONE 'UTC')::date
               AND k.read_at <= book_certificate.at AND k.verdict <> 'partial' AND k.held_reason IS NULL
             ORDER BY k.day DESC, k.batch_id DESC
             LIMIT 1) k
      LEFT JOIN warehouse.books b ON b.day = k.day AND b.batch_id = k.batch_id AND b.market_id = k.market_id;
END
$$;
COMMENT ON FUNCTION warehouse.book_certificate(text, text, text, timestamptz, text) IS 'Which book shows a market as of a moment: the last one read by then of which no page was lost and which no quality check holds back, with its certificate and its age at that moment. verdict complete: all ads; drifted: it moved while it was read; empty: no ads. has_ads false: its ads were dropped by age, only the marts are left. No row: none was read by then.';

CREATE OR REPLACE FUNCTION warehouse.complete_prices(batch integer)
RETURNS TABLE (fiat_code text, crypto_symbol text, buy_price numeric, sell_price numeric, buy_depth numeric, sell_depth numeric)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT f.currency_code, c.symbol,
           min(k.best_price) FILTER (WHERE m.trade_type = 'BUY'), min(k.best_price) FILTER (WHERE m.trade_type = 'SELL'),
           min(k.depth_1pct) FILTER (WHERE m.trade_type = 'BUY'), min(k.depth_1pct) FILTER (WHERE m.trade_type = 'SELL')
      FROM warehouse.mart_books k
      JOIN warehouse.dim_markets m USING (market_id)
      JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
      JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
     WHERE k.batch_id = batch AND k.day = DATE '1970-01-01' + (batch >> 9) AND k.verdict = 'complete' AND k.held_reason IS NULL
     GROUP BY f.currency_code, c.symbol;
END;
COMMENT ON FUNCTION warehouse.complete_prices(integer) IS 'Best prices and the stock within 1 % of them (in units of the asset) of the complete books of one batch that no quality check holds back: buy_price is what a taker pays, sell_price what a taker gets, fiat per unit of the asset. NULL: that side''s book is not complete, is held back or has no ads.';

-- A batch that is open now closes with the new program.
SELECT pipeline.make_partitions(day, day) FROM pipeline.batches WHERE state = 'open';
SELECT pipeline.grant_roles();
