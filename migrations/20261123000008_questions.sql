-- Questions people ask, as functions and views: what docs/queries.md explains and p2p book, quote, history
-- and merchant print. All read warehouse only, so that a reader may call them.

CREATE FUNCTION warehouse.market(fiat text, asset text, side text, exchange text DEFAULT 'binance')
RETURNS integer LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    found integer;
BEGIN
    SELECT m.market_id INTO found
      FROM warehouse.dim_markets m
      JOIN warehouse.dim_exchanges e USING (exchange_id)
      JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
      JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
     WHERE e.exchange_name = market.exchange AND f.currency_code = market.fiat AND c.symbol = market.asset
       AND m.trade_type = market.side;
    IF found IS NOT NULL THEN
        RETURN found;
    END IF;
    -- Which part is not known.
    IF side IS NULL OR side NOT IN ('BUY', 'SELL') THEN
        RAISE EXCEPTION 'side % is not allowed: BUY or SELL, the taker''s side', coalesce(quote_literal(side), 'NULL') USING ERRCODE = '22023';
    ELSIF NOT EXISTS (SELECT FROM warehouse.dim_exchanges e WHERE e.exchange_name = market.exchange) THEN
        RAISE EXCEPTION 'exchange % is not known', coalesce(quote_literal(exchange), 'NULL') USING ERRCODE = '22023', HINT = 'See dim_exchanges.';
    ELSIF NOT EXISTS (SELECT FROM warehouse.dim_fiat_currencies f WHERE f.currency_code = market.fiat) THEN
        RAISE EXCEPTION 'fiat % is not known', coalesce(quote_literal(fiat), 'NULL') USING ERRCODE = '22023', HINT = 'See dim_fiat_currencies; codes are in capitals.';
    ELSIF NOT EXISTS (SELECT FROM warehouse.dim_cryptocurrencies c WHERE c.symbol = market.asset) THEN
        RAISE EXCEPTION 'asset % is not known', coalesce(quote_literal(asset), 'NULL') USING ERRCODE = '22023', HINT = 'See dim_cryptocurrencies; symbols are in capitals.';
    END IF;
    RAISE EXCEPTION '% has no market %/% %', exchange, asset, fiat, side USING ERRCODE = '22023', HINT = 'See dim_markets.';
END
$$;
COMMENT ON FUNCTION warehouse.market(text, text, text, text) IS 'market_id of a fiat, an asset and the taker''s side. An unknown name is an error that says which.';

CREATE VIEW warehouse.market_overview AS
SELECT e.exchange_name, f.currency_code AS fiat_code, c.symbol AS crypto_symbol, m.trade_type, k.*,
       now() - k.read_at AS age
  FROM warehouse.latest_books l
  JOIN warehouse.dim_markets m USING (market_id)
 -- OFFSET 0 keeps it one look-up a market: the planner would rather read the month.
 CROSS JOIN LATERAL (SELECT * FROM warehouse.mart_books k
                      WHERE k.market_id = l.market_id AND k.day = l.day AND k.batch_id = l.batch_id OFFSET 0) k
  JOIN warehouse.dim_exchanges e USING (exchange_id)
  JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
  JOIN warehouse.dim_cryptocurrencies c USING (crypto_id);
COMMENT ON VIEW warehouse.market_overview IS 'The last good book of each market in figures: mart_books with names and age. The cheap answer to "what does it cost now, everywhere".';
COMMENT ON COLUMN warehouse.market_overview.exchange_name IS 'Exchange.';
COMMENT ON COLUMN warehouse.market_overview.fiat_code IS 'Fiat code.';
COMMENT ON COLUMN warehouse.market_overview.crypto_symbol IS 'Asset code.';
COMMENT ON COLUMN warehouse.market_overview.trade_type IS 'Side of the taker. Best price: BUY lowest, SELL highest.';
COMMENT ON COLUMN warehouse.market_overview.day IS 'UTC day of the batch; partition key, by month.';
COMMENT ON COLUMN warehouse.market_overview.batch_id IS 'Batch (dim_batches).';
COMMENT ON COLUMN warehouse.market_overview.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN warehouse.market_overview.slot_at IS 'The instant the batch was due: the time to put on an axis.';
COMMENT ON COLUMN warehouse.market_overview.read_at IS 'Arrival of the last answer of the book.';
COMMENT ON COLUMN warehouse.market_overview.verdict IS 'Certificate, as in books: complete, drifted, partial or empty.';
COMMENT ON COLUMN warehouse.market_overview.completeness IS 'Share of the declared ads that were read, 0 to 1: distinct_ads / (distinct_ads + estimated_missed + refused_ads) of books; 1 for an empty book. NULL: not known.';
COMMENT ON COLUMN warehouse.market_overview.ads IS 'Different ads. 0: the exchange declared none.';
COMMENT ON COLUMN warehouse.market_overview.merchant_ads IS 'Of these, ads of merchants.';
COMMENT ON COLUMN warehouse.market_overview.advertisers IS 'Different advertisers.';
COMMENT ON COLUMN warehouse.market_overview.merchants IS 'Of these, merchants.';
COMMENT ON COLUMN warehouse.market_overview.best_price IS 'Best price for the taker: lowest for BUY, highest for SELL; fiat per unit of the asset. Nonsense prices are ordinary: compare with median_price. NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.best_merchant_price IS 'Best price of a merchant. NULL: no merchant.';
COMMENT ON COLUMN warehouse.market_overview.mean_price IS 'Mean price over ads, to 8 decimals. NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.weighted_mean_price IS 'Mean price weighted by the amount on offer, to 8 decimals. NULL: no ads, or nothing left of any.';
COMMENT ON COLUMN warehouse.market_overview.median_price IS 'Median price over ads (function percentile). NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.p10_price IS 'Price that a tenth of the ads is below (function percentile), whatever the side; to 8 decimals. NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.p25_price IS 'As p10_price, a quarter. NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.p75_price IS 'As p10_price, three quarters. NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.p90_price IS 'As p10_price, nine tenths. NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.available_amount IS 'Stock: sum of what is left of all ads, in units of the asset. Never sum it over batches: the same ads stand in the next one.';
COMMENT ON COLUMN warehouse.market_overview.available_fiat IS 'Stock in fiat: sum of amount times price of each ad.';
COMMENT ON COLUMN warehouse.market_overview.depth_best IS 'Stock at the best price, in units of the asset. NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.depth_1pct IS 'Stock at prices no more than 1 % worse than the best. NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.depth_2pct IS 'Stock at prices no more than 2 % worse than the best. NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.depth_5pct IS 'Stock at prices no more than 5 % worse than the best. NULL: no ads.';
COMMENT ON COLUMN warehouse.market_overview.spread IS 'Best BUY price minus best SELL price of the same fiat and asset in the same batch, in fiat; the same in the rows of both sides. Below 0: a crossed book, which is ordinary, for ads differ by payment method. NULL: one of the two books is not complete, or has no ads.';
COMMENT ON COLUMN warehouse.market_overview.spread_ratio IS 'spread as a share of the mean of the two best prices, to 8 decimals. NULL: as spread.';
COMMENT ON COLUMN warehouse.market_overview.previous_batch_id IS 'The complete (or empty) book of this market that the flow is counted from. NULL: this book is not complete, none was before, or its facts were dropped.';
COMMENT ON COLUMN warehouse.market_overview.flow_seconds IS 'Seconds between the last answers of the two books: what the flow spans. Flows of consecutive rows add up without gap or overlap. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.market_overview.ads_new IS 'Ads that were not in the book before. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.market_overview.ads_gone IS 'Ads that were in the book before and are no more. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.market_overview.ads_changed IS 'Ads in both with another amount or price. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.market_overview.outflow_lower IS 'What certainly left the offer, in units of the asset: the decreases of ads that are in both books. Trades, and amounts that advertisers took back by editing; the exchange does not tell them apart. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.market_overview.outflow_upper IS 'outflow_lower and all that was left of ads that are gone: sold out, or withdrawn. More may have gone only if an ad was refilled between the two books. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.market_overview.inflow_lower IS 'What certainly came on offer: the increases of ads that are in both books. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.market_overview.inflow_upper IS 'inflow_lower and the amounts of new ads, which may have been offline before. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.market_overview.age IS 'Age of the reading.';

-- As it was, but for the advertisers: looked up one by one, for reading all there ever were grows with history.
CREATE OR REPLACE VIEW warehouse.mv_latest_market_state AS
SELECT e.exchange_name,
       f.currency_code AS fiat_code,
       c.symbol AS crypto_symbol,
       o.trade_type,
       o.advertiser_side,
       o.rank,
       o.is_promoted,
       o.offer_id,
       o.offer_external_id,
       o.price,
       o.available_amount,
       o.tradable_quantity,
       o.min_limit,
       o.max_limit,
       o.dynamic_max_limit,
       o.pay_time_limit_minutes,
       (SELECT array_agg(pm.method_name ORDER BY pm.method_name)
          FROM warehouse.dim_payment_methods pm
         WHERE pm.payment_method_id = ANY (o.payment_method_ids)) AS payment_methods,
       o.classify,
       a.advertiser,
       a.user_no,
       a.is_merchant,
       a.month_order_count,
       a.completion_rate,
       a.positive_rate,
       o.advertiser_active_minutes,
       o.advertiser_sk,
       o.market_id,
       o.batch_id,
       o.extraction_timestamp,
       now() - o.extraction_timestamp AS age,
       lb.verdict AS book_verdict
  FROM warehouse.latest_books lb
  JOIN warehouse.fact_offers o ON o.day = lb.day AND o.batch_id = lb.batch_id AND o.market_id = lb.market_id
  JOIN warehouse.dim_exchanges e ON e.exchange_id = o.exchange_id
  JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = o.fiat_id
  JOIN warehouse.dim_cryptocurrencies c ON c.crypto_id = o.crypto_id
 CROSS JOIN LATERAL (SELECT * FROM warehouse.dim_advertisers a WHERE a.advertiser_sk = o.advertiser_sk OFFSET 0) a;

-- The last book of which no page was lost, read at or before an instant.
CREATE FUNCTION warehouse.book_certificate(fiat text, asset text, side text, at timestamptz DEFAULT now(), exchange text DEFAULT 'binance')
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
               AND k.read_at <= book_certificate.at AND k.verdict <> 'partial'
             ORDER BY k.day DESC, k.batch_id DESC
             LIMIT 1) k
      LEFT JOIN warehouse.books b ON b.day = k.day AND b.batch_id = k.batch_id AND b.market_id = k.market_id;
END
$$;
COMMENT ON FUNCTION warehouse.book_certificate(text, text, text, timestamptz, text) IS 'Which book shows a market as of a moment: the last one read by then of which no page was lost, with its certificate and its age at that moment. verdict complete: all ads; drifted: it moved while it was read; empty: no ads. has_ads false: its ads were dropped by age, only the marts are left. No row: none was read by then.';

CREATE FUNCTION warehouse.book(fiat text, asset text, side text, at timestamptz DEFAULT now(), exchange text DEFAULT 'binance')
RETURNS TABLE (place integer, offer_external_id text, price numeric, available_amount numeric, min_limit numeric,
               max_limit numeric, payment_methods text[], pay_time_limit_minutes smallint, advertiser text, user_no text,
               is_merchant boolean, month_order_count integer, completion_rate numeric, positive_rate numeric,
               advertiser_active_minutes smallint, is_promoted boolean, terms text, extraction_timestamp timestamptz,
               verdict text, age interval)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
DECLARE
    read record;
BEGIN
    SELECT * INTO read FROM warehouse.book_certificate(fiat, asset, side, book.at, exchange);
    RETURN QUERY
    SELECT row_number() OVER (ORDER BY CASE book.side WHEN 'BUY' THEN v.price ELSE -v.price END, p.page, l.position)::integer,
           v.adv_no, trim_scale(v.price), trim_scale(v.available_amount), trim_scale(v.min_limit),
           trim_scale(least(v.max_limit, v.dynamic_max_limit)),
           (SELECT array_agg(m.identifier ORDER BY m.identifier)
              FROM warehouse.dim_payment_methods m WHERE m.payment_method_id = ANY (v.payment_method_ids)),
           v.pay_time_limit_minutes, a.advertiser, a.user_no, a.is_merchant,
           CASE WHEN a.figures_at <= p.fetched_at THEN a.month_order_count ELSE g.month_order_count END,
           CASE WHEN a.figures_at <= p.fetched_at THEN a.completion_rate ELSE g.completion_rate END,
           CASE WHEN a.figures_at <= p.fetched_at THEN a.positive_rate ELSE g.positive_rate END,
           p.active_minutes[l.position], (l.position = p.promoted_position) IS TRUE, v.terms,
           p.fetched_at, read.verdict, read.age
      FROM warehouse.book_pages p
     CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
      JOIN warehouse.offer_versions v ON v.day = read.day AND v.id = l.id
     -- OFFSET 0 keeps it one look-up an ad: the planner would rather read all advertisers there ever were.
     CROSS JOIN LATERAL (SELECT * FROM warehouse.dim_advertisers a WHERE a.advertiser_sk = v.advertiser_sk OFFSET 0) a
      -- Only where the latest figures are younger than the page.
      LEFT JOIN LATERAL (SELECT * FROM warehouse.advertiser_figures g
                          WHERE a.figures_at > p.fetched_at
                            AND g.advertiser_id = a.advertiser_id AND g.observed_at <= p.fetched_at
                          ORDER BY g.observed_at DESC LIMIT 1) g ON true
     WHERE p.day = read.day AND p.batch_id = read.batch_id AND p.market_id = read.market_id
       AND (p.duplicate_positions IS NULL OR l.position <> ALL (p.duplicate_positions))
     ORDER BY 1;
END
$$;
COMMENT ON FUNCTION warehouse.book(text, text, text, timestamptz, text) IS 'The book of a market as of a moment, best price for the taker first: ads as they were, figures of advertisers as they were known then. Limits are those that held (the smaller of the set and the dynamic one). verdict and age are of the whole book (book_certificate). No row: no ads, none read by then, or dropped by age; book_certificate tells which.';

-- Walks one book. Kept apart because quote asks it once and quote_history often.
CREATE FUNCTION warehouse.walk_book(day date, batch_id integer, market_id integer, side text, amount numeric, unit text,
                                    method_ids integer[], merchants_only boolean)
RETURNS TABLE (price numeric, orders integer, fiat_amount numeric, asset_amount numeric, best_price numeric,
               worst_price numeric, offers text[], amounts numeric[], capacity numeric)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
DECLARE
    ad record;
    is_buy CONSTANT boolean := side = 'BUY';
    rest numeric := amount;
    taken text[] := '{}';
    takes numeric[] := '{}';
    lows numeric[] := '{}';
    prices numeric[] := '{}';
    -- The best ending by giving back: orders, and their average price.
    other_taken text[];
    other_takes numeric[];
    other_prices numeric[];
    other_price numeric;
    trial numeric[];
    short numeric;
    give numeric;
    fiat_sum numeric;
    asset_sum numeric;
    -- Every ad, best first: for the search, should the walk get stuck.
    all_offers text[] := '{}';
    all_prices numeric[] := '{}';
    all_lows numeric[] := '{}';
    all_highs numeric[] := '{}';
    is_stuck boolean := false;
    -- The amounts, up to the one asked for, that the first ads can make together: before any ad, with one...
    sums nummultirange[] := ARRAY[nummultirange(numrange(0, 0, '[]'))];
    reach nummultirange;
    left_over numeric;
    next_left numeric;
    -- Separate ranges of such amounts at most. They melt into few wherever limits are ranges; only books of
    -- many ads that each take one amount alone could make more, and for them the search ends unfinished.
    MAX_RANGES CONSTANT integer := 2000;
BEGIN
    capacity := 0;
    FOR ad IN
        SELECT o.adv_no, o.price, o.low, o.high
          FROM (SELECT v.adv_no, v.price, p.page, l.position,
                       CASE unit WHEN 'fiat' THEN v.min_limit
                                 ELSE coalesce(v.min_quantity, ceil(v.min_limit / v.price * 1e8) / 1e8) END AS low,
                       CASE unit WHEN 'fiat'
                            THEN least(v.max_limit, v.dynamic_max_limit,
                                       trunc(coalesce(v.tradable_quantity, v.available_amount) * v.price, 8))
                            ELSE least(coalesce(v.max_quantity, trunc(v.max_limit / v.price, 8)),
                                       coalesce(v.dynamic_max_quantity, trunc(v.dynamic_max_limit / v.price, 8)),
                                       coalesce(v.tradable_quantity, v.available_amount)) END AS high
                  FROM warehouse.book_pages p
                 CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
                  JOIN warehouse.offer_versions v ON v.day = walk_book.day AND v.id = l.id
                 WHERE p.day = walk_book.day AND p.batch_id = walk_book.batch_id AND p.market_id = walk_book.market_id
                   AND (p.duplicate_positions IS NULL OR l.position <> ALL (p.duplicate_positions))
                   AND v.is_tradable IS NOT FALSE AND v.price > 0
                   AND (method_ids IS NULL OR v.payment_method_ids && method_ids)
                   AND (NOT merchants_only
                        OR (SELECT a.is_merchant FROM warehouse.dim_advertisers a WHERE a.advertiser_sk = v.advertiser_sk))
               ) o
         WHERE o.high > 0 AND o.low <= o.high
         ORDER BY CASE WHEN is_buy THEN o.price ELSE -o.price END, o.page, o.position
    LOOP
        capacity := trim_scale(capacity + ad.high);
        best_price := coalesce(best_price, trim_scale(ad.price));
        CONTINUE WHEN rest = 0;
        all_offers := all_offers || ad.adv_no;
        all_prices := all_prices || ad.price;
        all_lows := all_lows || ad.low;
        all_highs := all_highs || ad.high;
        IF rest >= ad.low THEN
            taken := taken || ad.adv_no;
            takes := takes || least(rest, ad.high);
            lows := lows || ad.low;
            prices := prices || ad.price;
            rest := rest - least(rest, ad.high);
        ELSE
            -- The rest is less than this ad takes. Orders made before may give some back, the worst priced
            -- first, none less than its own minimum. A further ad may take the rest as it is: the better counts.
            short := ad.low - rest;
            trial := takes;
            FOR n IN REVERSE cardinality(trial) .. 1 LOOP
                EXIT WHEN short = 0;
                give := least(short, trial[n] - lows[n]);
                trial[n] := trial[n] - give;
                short := short - give;
            END LOOP;
            IF short = 0 THEN
                trial := trial || ad.low;
                SELECT CASE unit WHEN 'fiat' THEN sum(t) / sum(t / q) ELSE sum(t * q) / sum(t) END INTO give
                  FROM unnest(trial, prices || ad.price) AS u (t, q);
                IF other_price IS NULL OR is_buy AND give < other_price OR NOT is_buy AND give > other_price THEN
                    other_price := give;
                    other_taken := taken || ad.adv_no;
                    other_takes := trial;
                    other_prices := prices || ad.price;
                END IF;
            ELSIF other_price IS NULL THEN
                is_stuck := true;
            END IF;
        END IF;
    END LOOP;
    IF rest = 0 THEN
        SELECT CASE unit WHEN 'fiat' THEN sum(t) / sum(t / q) ELSE sum(t * q) / sum(t) END INTO give
          FROM unnest(takes, prices) AS u (t, q);
        IF other_price IS NULL OR is_buy AND give <= other_price OR NOT is_buy AND give >= other_price THEN
            other_price := give;
            other_taken := taken;
            other_takes := takes;
            other_prices := prices;
        END IF;
    END IF;
    -- Giving back did not help at once: an ad that the walk took may have to be left out. What the first n ads
    -- can make together is what the first n - 1 can, and that with an order of the n-th. The first n that can
    -- make the amount are followed back, with as little as can be from the worst priced.
    IF is_stuck AND capacity >= amount THEN
        FOR n IN 1 .. cardinality(all_offers) LOOP
            SELECT range_agg(r) INTO reach
              FROM (SELECT r FROM unnest(sums[n]) AS r
                     UNION ALL
                    SELECT numrange(lower(r) + all_lows[n], least(upper(r) + all_highs[n], amount), '[]')
                      FROM unnest(sums[n]) AS r
                     WHERE lower(r) + all_lows[n] <= amount) AS made (r);
            EXIT WHEN (SELECT count(*) FROM unnest(reach)) > MAX_RANGES;
            sums := sums || reach;
            CONTINUE WHEN NOT reach @> amount;
            taken := '{}';
            takes := '{}';
            prices := '{}';
            left_over := amount;
            FOR i IN REVERSE n .. 1 LOOP
                CONTINUE WHEN sums[i] @> left_over;
                SELECT max(least(upper(r), left_over - all_lows[i])) INTO next_left
                  FROM unnest(sums[i]) AS r
                 WHERE lower(r) <= left_over - all_lows[i] AND upper(r) >= left_over - all_highs[i];
                taken := all_offers[i] || taken;
                takes := (left_over - next_left) || takes;
                prices := all_prices[i] || prices;
                left_over := next_left;
            END LOOP;
            SELECT CASE unit WHEN 'fiat' THEN sum(t) / sum(t / q) ELSE sum(t * q) / sum(t) END INTO give
              FROM unnest(takes, prices) AS u (t, q);
            IF other_price IS NULL OR is_buy AND give < other_price OR NOT is_buy AND give > other_price THEN
                other_price := give;
                other_taken := taken;
                other_takes := takes;
                other_prices := prices;
            END IF;
            EXIT;
        END LOOP;
    END IF;
    IF other_price IS NULL THEN
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT sum(CASE unit WHEN 'fiat' THEN t ELSE t * q END), sum(CASE unit WHEN 'fiat' THEN t / q ELSE t END)
      INTO fiat_sum, asset_sum
      FROM unnest(other_takes, other_prices) AS u (t, q);
    price := trim_scale(round(fiat_sum / asset_sum, 8));
    orders := cardinality(other_takes);
    fiat_amount := trim_scale(round(fiat_sum, 8));
    asset_amount := trim_scale(round(asset_sum, 8));
    worst_price := trim_scale(other_prices[orders]);
    offers := other_taken;
    amounts := (SELECT array_agg(trim_scale(t) ORDER BY n) FROM unnest(other_takes) WITH ORDINALITY AS u (t, n));
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION warehouse.walk_book(date, integer, integer, text, numeric, text, integer[], boolean) IS 'What an amount costs in one book: the work of quote and quote_history, which see. Guaranteed: each order lies within the limits of its ad, no ad has two, and the orders make up the amount. price is NULL only if no such set of orders makes it up (save in a book whose ads, each of one fixed amount, make more than 2000 separate sums). The price is the best there is where no minimum stands in the way; where one does, the best of those found by giving back and leaving out, which need not be the best of all.';

CREATE FUNCTION warehouse.payment_method_ids(identifiers text[], exchange text DEFAULT 'binance')
RETURNS integer[] LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    ids integer[];
    unknown text;
BEGIN
    IF identifiers IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(m.payment_method_id), min(i.identifier) FILTER (WHERE m.payment_method_id IS NULL)
      INTO ids, unknown
      FROM unnest(identifiers) AS i (identifier)
      LEFT JOIN (warehouse.dim_payment_methods m
                 JOIN warehouse.dim_exchanges e ON e.exchange_id = m.exchange_id AND e.exchange_name = payment_method_ids.exchange)
             ON m.identifier = i.identifier;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'payment method % is not known', quote_literal(unknown) USING ERRCODE = '22023', HINT = 'See dim_payment_methods.identifier.';
    END IF;
    RETURN coalesce(ids, '{}');
END
$$;
COMMENT ON FUNCTION warehouse.payment_method_ids(text[], text) IS 'Keys of payment methods by their identifiers. NULL: NULL, which means any. An unknown one is an error.';

CREATE FUNCTION warehouse.quote(fiat text, asset text, side text, amount numeric, unit text DEFAULT 'fiat',
                                payment_methods text[] DEFAULT NULL, merchants_only boolean DEFAULT false,
                                at timestamptz DEFAULT now(), exchange text DEFAULT 'binance')
RETURNS TABLE (price numeric, orders integer, fiat_amount numeric, asset_amount numeric, best_price numeric,
               worst_price numeric, offers text[], amounts numeric[], capacity numeric, verdict text,
               completeness numeric, read_at timestamptz, age interval)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
BEGIN
    IF unit IS NULL OR unit NOT IN ('fiat', 'asset') THEN
        RAISE EXCEPTION 'unit % is not allowed: fiat or asset, what the amount is in', coalesce(quote_literal(unit), 'NULL') USING ERRCODE = '22023';
    ELSIF amount IS NULL OR amount <= 0 OR amount >= 1e20 THEN
        RAISE EXCEPTION 'amount % is not allowed: above 0 and below 1e20', coalesce(amount::text, 'NULL') USING ERRCODE = '22023';
    END IF;
    RETURN QUERY
    SELECT w.*, c.verdict, c.completeness, c.read_at, c.age
      FROM warehouse.book_certificate(fiat, asset, side, quote.at, exchange) c
     CROSS JOIN LATERAL warehouse.walk_book(c.day, c.batch_id, c.market_id, side, amount, unit,
                                            warehouse.payment_method_ids(quote.payment_methods, exchange), merchants_only) w
     WHERE c.has_ads;
END
$$;
COMMENT ON FUNCTION warehouse.quote(text, text, text, numeric, text, text[], boolean, timestamptz, text) IS 'What an amount would have cost at a moment: walks the book from the best price, one order per ad, each within the limits of its ad (and what is left of it), and splits so that no order is too small. amount is in fiat or in the asset (unit); offers and amounts list the orders. price NULL: the book is too thin for it with these payment methods (any of them) and advertisers; capacity is what it could take at most, were the amount split to fit. Fees and the exchange''s rounding of quantities are left out. No row: no book was read by then, or its ads were dropped by age.';

CREATE FUNCTION warehouse.quote_history(fiat text, asset text, side text, amount numeric, from_at timestamptz, to_at timestamptz,
                                        step interval DEFAULT '1 hour', unit text DEFAULT 'fiat',
                                        payment_methods text[] DEFAULT NULL, merchants_only boolean DEFAULT false,
                                        exchange text DEFAULT 'binance')
RETURNS TABLE (at timestamptz, price numeric, orders integer, best_price numeric, worst_price numeric, capacity numeric,
               verdict text, read_at timestamptz, age interval)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
BEGIN
    IF step IS NULL OR step < interval '1 minute' THEN
        RAISE EXCEPTION 'step % is not allowed: a minute or more', coalesce(step::text, 'NULL') USING ERRCODE = '22023';
    END IF;
    RETURN QUERY
    SELECT s.at, q.price, q.orders, q.best_price, q.worst_price, q.capacity, q.verdict, q.read_at, q.age
      FROM generate_series(from_at, to_at, step) AS s (at)
      LEFT JOIN LATERAL warehouse.quote(fiat, asset, side, amount, unit, quote_history.payment_methods, merchants_only, s.at, exchange) q
             ON true;
END
$$;
COMMENT ON FUNCTION warehouse.quote_history(text, text, text, numeric, timestamptz, timestamptz, interval, text, text[], boolean, text) IS 'quote at each step from from_at to to_at. price NULL: too thin, or (verdict NULL) no book. A book that is old for its step shows in age.';

CREATE FUNCTION warehouse.price_history(fiat text, asset text, side text, from_at timestamptz, to_at timestamptz,
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
           AND k.verdict IN ('complete', 'drifted')
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
COMMENT ON FUNCTION warehouse.price_history(text, text, text, timestamptz, timestamptz, text, text) IS 'Prices, stock and flow of a market over time, by batch, hour or UTC day. From complete and drifted books; prices NULL: none in that hour or day. median_price, weighted_price, ads, available_amount and spread_ratio are means over books; outflows are sums.';

CREATE FUNCTION warehouse.payment_method_prices(fiat text, asset text, side text, at timestamptz DEFAULT now(), exchange text DEFAULT 'binance')
RETURNS TABLE (identifier text, method_name text, ads integer, available_amount numeric, best_price numeric, median_price numeric,
               weighted_mean_price numeric, best_premium numeric, median_premium numeric, verdict text, read_at timestamptz, age interval)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
DECLARE
    read record;
BEGIN
    SELECT * INTO read FROM warehouse.book_certificate(fiat, asset, side, payment_method_prices.at, exchange);
    RETURN QUERY
    SELECT p.identifier, p.method_name, m.ads, m.available_amount, m.best_price, m.median_price, m.weighted_mean_price,
           trim_scale(round(m.best_price / k.best_price - 1, 8)), trim_scale(round(m.median_price / k.median_price - 1, 8)),
           read.verdict, read.read_at, read.age
      FROM warehouse.mart_book_methods m
      JOIN warehouse.mart_books k ON k.market_id = m.market_id AND k.day = m.day AND k.batch_id = m.batch_id
      JOIN warehouse.dim_payment_methods p ON p.payment_method_id = m.payment_method_id
     WHERE m.market_id = read.market_id AND m.day = read.day AND m.batch_id = read.batch_id
     ORDER BY m.ads DESC, p.identifier;
END
$$;
COMMENT ON FUNCTION warehouse.payment_method_prices(text, text, text, timestamptz, text) IS 'Prices by payment method as of a moment. A premium is the price of the method over that of the whole book, minus 1: above 0 is dearer, which is worse for BUY and better for SELL. One ad counts for each method that it takes.';

CREATE FUNCTION warehouse.payment_method_history(fiat text, asset text, side text, from_at timestamptz, to_at timestamptz,
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
       AND k.verdict IN ('complete', 'drifted')
       AND (methods IS NULL OR m.payment_method_id = ANY (methods))
     ORDER BY k.day, k.batch_id, p.identifier;
END
$$;
COMMENT ON FUNCTION warehouse.payment_method_history(text, text, text, timestamptz, timestamptz, text[], text) IS 'payment_method_prices over time, a row per batch and method; identifiers NULL: all methods. From complete and drifted books.';

CREATE FUNCTION warehouse.payment_method_volatility(fiat text, asset text, side text, from_at timestamptz, to_at timestamptz, exchange text DEFAULT 'binance')
RETURNS TABLE (identifier text, method_name text, books integer, mean_median_price numeric, volatility numeric, mean_ads numeric, mean_median_premium numeric)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT p.identifier, p.method_name, count(*)::integer, trim_scale(round(avg(h.median_price), 8)),
           trim_scale(round(stddev_samp(h.median_price), 8)), trim_scale(round(avg(h.ads), 8)),
           trim_scale(round(avg(h.median_premium), 8))
      FROM warehouse.payment_method_history(fiat, asset, side, from_at, to_at, NULL, exchange) h
      JOIN warehouse.dim_exchanges e ON e.exchange_name = exchange
      JOIN warehouse.dim_payment_methods p ON p.exchange_id = e.exchange_id AND p.identifier = h.identifier
     GROUP BY p.identifier, p.method_name
     ORDER BY 5 DESC NULLS LAST, 1;
END
$$;
COMMENT ON FUNCTION warehouse.payment_method_volatility(text, text, text, timestamptz, timestamptz, text) IS 'How much the price of each payment method of a market moved: the sample standard deviation of its median price over the books, in fiat. NULL: one book only. What the third sample query means to ask, one side at a time.';

CREATE FUNCTION warehouse.find_advertisers(name text, exchange text DEFAULT 'binance')
RETURNS TABLE (advertiser_id integer, user_no text, advertiser text, is_merchant boolean, user_grade smallint, month_order_count integer,
               completion_rate numeric, positive_rate numeric, valid_from timestamptz, valid_to timestamptz, is_current boolean)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT a.advertiser_id, a.user_no, a.advertiser, a.is_merchant, a.user_grade, a.month_order_count, a.completion_rate,
           a.positive_rate, a.valid_from, a.valid_to, a.is_current
      FROM warehouse.dim_advertisers a
      JOIN warehouse.dim_exchanges e USING (exchange_id)
     WHERE e.exchange_name = find_advertisers.exchange
       AND a.advertiser_id IN (SELECT b.advertiser_id FROM warehouse.dim_advertisers b
                                WHERE b.user_no = find_advertisers.name
                                UNION ALL
                               SELECT b.advertiser_id FROM warehouse.dim_advertisers b
                                WHERE btrim(b.advertiser) = btrim(find_advertisers.name))
     ORDER BY a.advertiser_id, a.valid_from;
END;
COMMENT ON FUNCTION warehouse.find_advertisers(text, text) IS 'Advertisers by their userNo or by a nickname they ever had (not unique: several may answer), with all versions of their identity.';
CREATE INDEX dim_advertisers_name ON warehouse.dim_advertisers (btrim(advertiser));
CREATE INDEX dim_advertisers_user_no ON warehouse.dim_advertisers (user_no);

CREATE FUNCTION warehouse.merchant_history(user_no text, from_day date, to_day date, exchange text DEFAULT 'binance')
RETURNS TABLE (day date, fiat_code text, crypto_symbol text, trade_type text, market_id integer, is_merchant boolean, books integer,
               uptime numeric, best_ratio numeric, ads_max integer, min_price numeric, max_price numeric, mean_amount numeric,
               amount_share numeric, outflow_lower numeric, outflow_upper numeric, first_seen_at timestamptz, last_seen_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT d.day, f.currency_code, c.symbol, m.trade_type, d.market_id, d.is_merchant, d.books::integer,
           round(d.complete_books::numeric / nullif(t.complete_books, 0), 5),
           round(d.best_books::numeric / nullif(d.complete_books, 0), 5),
           d.ads_max::integer, d.min_price, d.max_price, trim_scale(round(d.amount_sum / nullif(d.complete_books, 0), 8)),
           trim_scale(round(d.amount_sum / nullif(t.amount_sum, 0), 8)), d.outflow_lower, d.outflow_upper,
           d.first_seen_at, d.last_seen_at
      FROM warehouse.mart_advertiser_days d
      JOIN warehouse.mart_days t USING (market_id, day)
      JOIN warehouse.dim_markets m USING (market_id)
      JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
      JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
      JOIN warehouse.dim_exchanges e USING (exchange_id)
     WHERE d.advertiser_id = (SELECT a.advertiser_id FROM warehouse.dim_advertisers a JOIN warehouse.dim_exchanges x USING (exchange_id)
                               WHERE a.user_no = merchant_history.user_no AND x.exchange_name = merchant_history.exchange AND a.is_current)
       AND e.exchange_name = merchant_history.exchange
       AND d.day BETWEEN from_day AND to_day
     ORDER BY d.day, f.currency_code, c.symbol, m.trade_type;
END;
COMMENT ON FUNCTION warehouse.merchant_history(text, date, date, text) IS 'An advertiser day by day in each market. uptime: share of the market''s complete books that list an ad of it. best_ratio: share of these in which it has the best price. mean_amount: its mean stock while present. amount_share: its share of the market''s stock over the day. Outflows: bounds of what left its ads, in units of the asset. Ratios NULL: no complete book.';

CREATE FUNCTION warehouse.market_shares(fiat text, asset text, side text, from_day date, to_day date, merchants_only boolean DEFAULT false, exchange text DEFAULT 'binance')
RETURNS TABLE (advertiser_id integer, advertiser text, user_no text, is_merchant boolean, days integer, uptime numeric, amount_share numeric,
               best_ratio numeric, mean_amount numeric, outflow_lower numeric, outflow_upper numeric, outflow_share_upper numeric)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
DECLARE
    asked integer := warehouse.market(fiat, asset, side, exchange);
BEGIN
    RETURN QUERY
    WITH whole AS (
        SELECT sum(t.complete_books) AS complete_books, sum(t.amount_sum) AS amount_sum, sum(t.outflow_upper) AS outflow_upper
          FROM warehouse.mart_days t
         WHERE t.market_id = asked AND t.day BETWEEN from_day AND to_day
    ), each AS (
        SELECT d.advertiser_id, count(*) FILTER (WHERE d.books > 0)::integer AS days,
               (array_agg(d.is_merchant ORDER BY d.day DESC))[1] AS is_merchant,
               sum(d.complete_books) AS complete_books, sum(d.best_books) AS best_books, sum(d.amount_sum) AS amount_sum,
               sum(d.outflow_lower) AS outflow_lower, sum(d.outflow_upper) AS outflow_upper
          FROM warehouse.mart_advertiser_days d
         WHERE d.market_id = asked AND d.day BETWEEN from_day AND to_day
         GROUP BY d.advertiser_id
    )
    SELECT s.advertiser_id, a.advertiser, a.user_no, s.is_merchant, s.days,
           round(s.complete_books::numeric / nullif(w.complete_books, 0), 5),
           trim_scale(round(s.amount_sum / nullif(w.amount_sum, 0), 8)),
           round(s.best_books::numeric / nullif(s.complete_books, 0), 5),
           trim_scale(round(s.amount_sum / nullif(s.complete_books, 0), 8)),
           s.outflow_lower, s.outflow_upper, trim_scale(round(s.outflow_upper / nullif(w.outflow_upper, 0), 8))
      FROM each s
     CROSS JOIN whole w
     CROSS JOIN LATERAL (SELECT * FROM warehouse.dim_advertisers a WHERE a.advertiser_id = s.advertiser_id AND a.is_current OFFSET 0) a
     WHERE s.is_merchant OR NOT merchants_only
     ORDER BY 7 DESC NULLS LAST, 1;
END
$$;
COMMENT ON FUNCTION warehouse.market_shares(text, text, text, date, date, boolean, text) IS 'Who holds a market: each advertiser''s share of the stock of all complete books of the days, its uptime, how often it was best, and bounds of what left its ads. Amounts are in units of the asset. What the second sample query means to ask, within one market, for amounts of different assets can''t be added.';

CREATE FUNCTION warehouse.market_makers(fiat text, asset text, from_day date, to_day date, min_uptime numeric DEFAULT 0.9, exchange text DEFAULT 'binance')
RETURNS TABLE (advertiser_id integer, advertiser text, user_no text, is_merchant boolean, buy_uptime numeric, sell_uptime numeric,
               buy_amount_share numeric, sell_amount_share numeric, buy_best_ratio numeric, sell_best_ratio numeric)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT b.advertiser_id, b.advertiser, b.user_no, b.is_merchant, b.uptime, s.uptime, b.amount_share, s.amount_share,
           b.best_ratio, s.best_ratio
      FROM warehouse.market_shares(fiat, asset, 'BUY', from_day, to_day, false, exchange) b
      JOIN warehouse.market_shares(fiat, asset, 'SELL', from_day, to_day, false, exchange) s ON s.advertiser_id = b.advertiser_id
     WHERE b.uptime >= min_uptime AND s.uptime >= min_uptime
     ORDER BY b.amount_share + s.amount_share DESC NULLS LAST, b.advertiser_id;
END
$$;
COMMENT ON FUNCTION warehouse.market_makers(text, text, date, date, numeric, text) IS 'Advertisers with ads on both sides of a fiat and an asset in at least min_uptime (share of 1) of the complete books of either side.';

-- The latest batch that closed by an instant and has a complete book.
CREATE FUNCTION warehouse.batch_at(at timestamptz DEFAULT now(), exchange text DEFAULT 'binance')
RETURNS integer LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT b.batch_id
      FROM warehouse.dim_batches b
      JOIN warehouse.dim_exchanges e USING (exchange_id)
     WHERE e.exchange_name = batch_at.exchange AND b.closed_at <= batch_at.at AND b.books_complete > 0
       -- Empty books count as complete there.
       -- Asked batch by batch: a join would read all books.
       AND (SELECT true FROM warehouse.mart_books k
             WHERE k.batch_id = b.batch_id AND k.day = b.day AND k.verdict = 'complete' LIMIT 1)
       AND b.day BETWEEN (batch_at.at AT TIME ZONE 'UTC')::date - 7 AND (batch_at.at AT TIME ZONE 'UTC')::date
     ORDER BY b.closed_at DESC
     LIMIT 1;
END;
COMMENT ON FUNCTION warehouse.batch_at(timestamptz, text) IS 'The last batch that had closed at a moment and has a complete book. NULL: none in the week before.';

CREATE FUNCTION warehouse.complete_prices(batch integer)
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
     WHERE k.batch_id = batch AND k.day = DATE '1970-01-01' + (batch >> 9) AND k.verdict = 'complete'
     GROUP BY f.currency_code, c.symbol;
END;
COMMENT ON FUNCTION warehouse.complete_prices(integer) IS 'Best prices and the stock within 1 % of them (in units of the asset) of the complete books of one batch: buy_price is what a taker pays, sell_price what a taker gets, fiat per unit of the asset. NULL: that side''s book is not complete or has no ads.';

CREATE FUNCTION warehouse.arbitrage_sides(at timestamptz DEFAULT now(), exchange text DEFAULT 'binance')
RETURNS TABLE (fiat_code text, crypto_symbol text, buy_price numeric, sell_price numeric, gain numeric, depth numeric, batch_id integer)
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
#variable_conflict use_column
DECLARE
    batch integer := warehouse.batch_at(arbitrage_sides.at, exchange);
BEGIN
    RETURN QUERY
    SELECT p.fiat_code, p.crypto_symbol, p.buy_price, p.sell_price, trim_scale(round(p.sell_price / p.buy_price - 1, 8)),
           least(p.buy_depth, p.sell_depth), batch
      FROM warehouse.complete_prices(batch) p
     WHERE p.buy_price > 0 AND p.sell_price > 0
     ORDER BY 5 DESC, 1, 2;
END
$$;
COMMENT ON FUNCTION warehouse.arbitrage_sides(timestamptz, text) IS 'Between the sides of one market: buy the asset at the best BUY price, sell it at the best SELL price, both of complete books of the same batch. gain: share of 1, mostly below 0. depth: stock within 1 % of both, in units of the asset. Crossed books differ by payment method, and a single nonsense ad makes a best price: look at the book before you believe a gain.';

CREATE FUNCTION warehouse.arbitrage_fiats(at timestamptz DEFAULT now(), exchange text DEFAULT 'binance')
RETURNS TABLE (from_fiat text, to_fiat text, asset_out text, asset_back text, rate numeric, back_rate numeric, gain numeric, batch_id integer)
LANGUAGE plpgsql STABLE PARALLEL SAFE
-- The planner expects few rows of a function and would try every pair of 12,000.
SET enable_nestloop = off AS $$
#variable_conflict use_column
DECLARE
    batch integer := warehouse.batch_at(arbitrage_fiats.at, exchange);
BEGIN
    RETURN QUERY
    -- One division a price; the sort is of integers. 30 digits tell any two rates apart.
    WITH prices AS MATERIALIZED (
        SELECT dense_rank() OVER (ORDER BY p.fiat_code)::integer AS fiat, p.fiat_code, p.crypto_symbol, p.sell_price, p.buy_price,
               CASE WHEN p.buy_price > 0 THEN round(1 / p.buy_price, 30) END AS per_fiat
          FROM warehouse.complete_prices(batch) p
    ), rates AS MATERIALIZED (
        -- The best asset to carry: bought for one fiat, sold for the other.
        SELECT DISTINCT ON (b.fiat, s.fiat) b.fiat_code AS from_fiat, s.fiat_code AS to_fiat, b.crypto_symbol AS asset,
               b.buy_price, s.sell_price, b.fiat AS out, s.fiat AS back
          FROM prices b
          JOIN prices s ON s.crypto_symbol = b.crypto_symbol AND s.fiat <> b.fiat
         WHERE b.per_fiat IS NOT NULL AND s.sell_price > 0
         ORDER BY b.fiat, s.fiat, s.sell_price * b.per_fiat DESC, b.crypto_symbol
    )
    SELECT o.from_fiat, o.to_fiat, o.asset, r.asset, trim_scale(round(o.sell_price / o.buy_price, 12)),
           trim_scale(round(r.sell_price / r.buy_price, 12)),
           trim_scale(round((o.sell_price * r.sell_price) / (o.buy_price * r.buy_price) - 1, 8)), batch
      FROM rates o
      JOIN rates r ON r.out = o.back AND r.back = o.out
     WHERE o.out < o.back
     ORDER BY 7 DESC, 1, 2;
END
$$;
COMMENT ON FUNCTION warehouse.arbitrage_fiats(timestamptz, text) IS 'Between fiats: pay one fiat for an asset, sell that for the other fiat (rate, units of to_fiat per unit of from_fiat), and back by another asset or the same (back_rate). gain of the round: share of 1. Best prices of complete books of the same batch; each pair of fiats once. rate is also the exchange''s implied rate between the two fiats.';

CREATE FUNCTION warehouse.arbitrage_assets(at timestamptz DEFAULT now(), exchange text DEFAULT 'binance')
RETURNS TABLE (from_asset text, to_asset text, fiat_out text, fiat_back text, rate numeric, back_rate numeric, gain numeric, batch_id integer)
LANGUAGE plpgsql STABLE PARALLEL SAFE
-- The planner expects few rows of a function and would try every pair of 12,000.
SET enable_nestloop = off AS $$
#variable_conflict use_column
DECLARE
    batch integer := warehouse.batch_at(arbitrage_assets.at, exchange);
BEGIN
    RETURN QUERY
    WITH rates AS MATERIALIZED (
        -- The best fiat to go through: the asset sold for it, the other bought with it.
        SELECT DISTINCT ON (s.crypto_symbol, b.crypto_symbol) s.crypto_symbol AS from_asset, b.crypto_symbol AS to_asset,
               s.fiat_code AS fiat, s.sell_price / b.buy_price AS rate
          FROM warehouse.complete_prices(batch) s
          JOIN warehouse.complete_prices(batch) b ON b.fiat_code = s.fiat_code AND b.crypto_symbol <> s.crypto_symbol
         WHERE b.buy_price > 0 AND s.sell_price > 0
         ORDER BY s.crypto_symbol, b.crypto_symbol, s.sell_price / b.buy_price DESC, s.fiat_code
    )
    SELECT o.from_asset, o.to_asset, o.fiat, r.fiat, trim_scale(round(o.rate, 12)), trim_scale(round(r.rate, 12)),
           trim_scale(round(o.rate * r.rate - 1, 8)), batch
      FROM rates o
      JOIN rates r ON r.from_asset = o.to_asset AND r.to_asset = o.from_asset
     WHERE o.from_asset < o.to_asset
     ORDER BY 7 DESC, 1, 2;
END
$$;
COMMENT ON FUNCTION warehouse.arbitrage_assets(timestamptz, text) IS 'Between assets: sell one for a fiat, buy the other with it (rate, units of to_asset per unit of from_asset), and back through another fiat or the same. gain of the round: share of 1. Best prices of complete books of the same batch; each pair of assets once.';
