-- One bad ad does not hide its book: a book of which every page was read is shown though ads of it were refused, by functions
-- and hours as by the latest state. Facts, which say so, are dropped by age; so it stands in the mart.
ALTER TABLE warehouse.mart_books ADD COLUMN is_whole boolean;
COMMENT ON COLUMN warehouse.mart_books.is_whole IS 'Whether every page of the book was read. A partial book that is whole lacks only ads that were refused, and is shown as others are; completeness says how many. NULL: made by an earlier version, which showed no partial book.';
COMMENT ON COLUMN warehouse.books.verdict IS 'complete: the total stayed the same and every declared ad was read, moved pages again. empty: the exchange declared no ads. drifted: all pages were read, but the total changed meanwhile or an ad stayed out of sight. partial: a page was lost or left out (pages_lost, pages_shed), or an ad was refused (refused_ads). failed: no page was read. shed: left out for want of budget.';
COMMENT ON TABLE warehouse.mart_hours IS 'mart_books by the hour of the slot. Prices and stock are of its books of which no page was lost (used_books); flows of all its complete ones.';
COMMENT ON COLUMN warehouse.mart_hours.used_books IS 'Of these, those with ads of which no page was lost (complete, drifted, or partial for refused ads only): what prices and stock rest on.';
COMMENT ON COLUMN warehouse.mart_days.used_books IS 'As in mart_hours: what prices and stock rest on.';

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
               AND k.read_at <= book_certificate.at AND (k.verdict <> 'partial' OR k.is_whole) AND k.held_reason IS NULL
             ORDER BY k.day DESC, k.batch_id DESC
             LIMIT 1) k
      LEFT JOIN warehouse.books b ON b.day = k.day AND b.batch_id = k.batch_id AND b.market_id = k.market_id;
END
$$;
COMMENT ON FUNCTION warehouse.book_certificate(text, text, text, timestamptz, text) IS 'Which book shows a market as of a moment: the last one read by then of which no page was lost and which no quality check holds back, with its certificate and its age at that moment. verdict complete: all ads; drifted: it moved while it was read; partial: ads of it were refused; empty: no ads. has_ads false: its ads were dropped by age, only the marts are left. No row: none was read by then.';

CREATE OR REPLACE FUNCTION warehouse.price_history(fiat text, asset text, side text, from_at timestamptz, to_at timestamptz,
                                        step text DEFAULT 'hour', exchange text DEFAULT 'binance')
RETURNS TABLE (at timestamptz, books integer, complete_books integer, first_best_price numeric, min_best_price numeric,
               max_best_price numeric, last_best_price numeric, mean_best_price numeric, median_price numeric,
               weighted_price numeric, ads numeric, available_amount numeric, spread_ratio numeric,
               outflow_lower numeric, outflow_upper numeric)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
DECLARE
    asked integer := warehouse.market(fiat, asset, side, exchange);
    first_day CONSTANT date := (from_at AT TIME ZONE 'UTC')::date;
    last_day CONSTANT date := (to_at AT TIME ZONE 'UTC')::date;
BEGIN
    IF step = 'batch' THEN
        RETURN QUERY
        SELECT k.slot_at, 1, (k.verdict = 'complete')::integer, k.best_price, k.best_price, k.best_price, k.best_price,
               k.best_price, k.median_price, k.weighted_mean_price, k.ads::numeric, k.available_amount, k.spread_ratio,
               k.outflow_lower, k.outflow_upper
          FROM warehouse.mart_books k
         WHERE k.market_id = asked AND k.day BETWEEN first_day AND last_day AND k.slot_at BETWEEN from_at AND to_at
           AND k.ads > 0 AND (k.verdict IN ('complete', 'drifted') OR k.verdict = 'partial' AND k.is_whole)
         ORDER BY k.day, k.batch_id;
    ELSIF step = 'hour' THEN
        RETURN QUERY
        SELECT h.hour, h.books::integer, h.complete_books::integer, h.first_best_price, h.min_best_price, h.max_best_price,
               h.last_best_price, h.mean_best_price, h.mean_median_price, h.mean_weighted_price, h.mean_ads, h.mean_amount,
               h.mean_spread_ratio, h.outflow_lower, h.outflow_upper
          FROM warehouse.mart_hours h
         WHERE h.market_id = asked AND h.day BETWEEN first_day AND last_day
           AND h.hour BETWEEN date_bin('1 hour', from_at, TIMESTAMPTZ 'epoch') AND to_at
         ORDER BY h.day, h.hour;
    ELSIF step = 'day' THEN
        RETURN QUERY
        SELECT d.day::timestamp AT TIME ZONE 'UTC', d.books::integer, d.complete_books::integer, d.first_best_price, d.min_best_price,
               d.max_best_price, d.last_best_price, d.mean_best_price, d.mean_median_price, d.mean_weighted_price, d.mean_ads,
               d.mean_amount, d.mean_spread_ratio, d.outflow_lower, d.outflow_upper
          FROM warehouse.mart_days d
         WHERE d.market_id = asked AND d.day BETWEEN first_day AND last_day
         ORDER BY d.day;
    ELSE
        RAISE EXCEPTION 'step % is not allowed: batch, hour or day', coalesce(quote_literal(step), 'NULL') USING ERRCODE = '22023';
    END IF;
END
$$;
COMMENT ON FUNCTION warehouse.price_history(text, text, text, timestamptz, timestamptz, text, text) IS 'Prices, stock and flow of a market over time, by batch, hour or UTC day. From books of which no page was lost, flows from complete ones; prices NULL: none in that hour or day. median_price, weighted_price, ads, available_amount and spread_ratio are means over books; outflows are sums.';

CREATE OR REPLACE FUNCTION warehouse.payment_method_history(fiat text, asset text, side text, from_at timestamptz, to_at timestamptz,
                                                 identifiers text[] DEFAULT NULL, exchange text DEFAULT 'binance')
RETURNS TABLE (slot_at timestamptz, identifier text, ads integer, available_amount numeric, best_price numeric, median_price numeric,
               best_premium numeric, median_premium numeric, verdict text)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
DECLARE
    asked integer := warehouse.market(fiat, asset, side, exchange);
    methods integer[] := warehouse.payment_method_ids(identifiers, exchange);
BEGIN
    RETURN QUERY
    SELECT k.slot_at, p.identifier, m.ads, m.available_amount, m.best_price, m.median_price,
           trim_scale(round(m.best_price / k.best_price - 1, 8)), trim_scale(round(m.median_price / k.median_price - 1, 8)), k.verdict
      FROM warehouse.mart_books k
      JOIN warehouse.mart_book_methods m ON m.market_id = asked AND m.day = k.day AND m.batch_id = k.batch_id
      JOIN warehouse.dim_payment_methods p ON p.payment_method_id = m.payment_method_id
     WHERE k.market_id = asked AND k.slot_at BETWEEN from_at AND to_at
       AND k.day BETWEEN (from_at AT TIME ZONE 'UTC')::date AND (to_at AT TIME ZONE 'UTC')::date
       AND m.day BETWEEN (from_at AT TIME ZONE 'UTC')::date AND (to_at AT TIME ZONE 'UTC')::date
       AND k.ads > 0 AND (k.verdict IN ('complete', 'drifted') OR k.verdict = 'partial' AND k.is_whole)
       AND (methods IS NULL OR m.payment_method_id = ANY (methods))
     ORDER BY k.day, k.batch_id, p.identifier;
END
$$;
COMMENT ON FUNCTION warehouse.payment_method_history(text, text, text, timestamptz, timestamptz, text[], text) IS 'payment_method_prices over time, a row per batch and method; identifiers NULL: all methods. From books of which no page was lost.';
