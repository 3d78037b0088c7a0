-- Marts: what a batch means in figures, written when it closes and kept for years. Stock (what is on
-- offer) and flow (what came and went between two complete books) are different columns. Partitioned by
-- month; keys begin with the market, because people ask for one market over time.

-- What the n-th part of a sorted list of numbers is, as percentile_cont would say, without a float.
CREATE FUNCTION warehouse.percentile(sorted numeric[], fraction numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN sorted[1 + floor(fraction * (cardinality(sorted) - 1))::integer]
       + (sorted[1 + ceil(fraction * (cardinality(sorted) - 1))::integer]
          - sorted[1 + floor(fraction * (cardinality(sorted) - 1))::integer])
         * (fraction * (cardinality(sorted) - 1) - floor(fraction * (cardinality(sorted) - 1)));
COMMENT ON FUNCTION warehouse.percentile(numeric[], numeric) IS 'Percentile of an ascending list, with linear interpolation between neighbours (what percentile_cont does), in exact decimals. fraction 0 to 1; 0.5 is the median. NULL: the list is empty, or fraction is not from 0 to 1.';

CREATE VIEW warehouse.dim_batches AS
SELECT batch_id, exchange_id, day, slot_at, opened_at, closed_at, outcome, books, books_complete, ads, ads_missed
  FROM pipeline.batches
 WHERE state = 'closed';
COMMENT ON VIEW warehouse.dim_batches IS 'Closed batches: one cycle over the market each.';
COMMENT ON COLUMN warehouse.dim_batches.batch_id IS 'Key. Days since 1970 (high bits) and number of the batch within its day (low 9 bits): it grows with time.';
COMMENT ON COLUMN warehouse.dim_batches.exchange_id IS 'Exchange.';
COMMENT ON COLUMN warehouse.dim_batches.day IS 'UTC day of slot_at: the day of all its facts, even of pages read after midnight.';
COMMENT ON COLUMN warehouse.dim_batches.slot_at IS 'The instant the batch was due.';
COMMENT ON COLUMN warehouse.dim_batches.opened_at IS 'When it was opened.';
COMMENT ON COLUMN warehouse.dim_batches.closed_at IS 'When it was closed: from then on its facts can be seen.';
COMMENT ON COLUMN warehouse.dim_batches.outcome IS 'complete: every planned page was read. partial: something was lost or left out; the books say what. failed: nothing was read.';
COMMENT ON COLUMN warehouse.dim_batches.books IS 'Books, with those left out. NULL: closed before it was recorded.';
COMMENT ON COLUMN warehouse.dim_batches.books_complete IS 'Books certified complete or empty. NULL: as books.';
COMMENT ON COLUMN warehouse.dim_batches.ads IS 'Different ads, summed over the books. NULL: as books.';
COMMENT ON COLUMN warehouse.dim_batches.ads_missed IS 'Ads that the books lack by their own estimate. NULL: as books.';

CREATE TABLE warehouse.mart_books (
    day                 date NOT NULL,
    batch_id            integer NOT NULL,
    market_id           integer NOT NULL,
    slot_at             timestamptz NOT NULL,
    read_at             timestamptz NOT NULL,
    verdict             text NOT NULL,
    completeness        numeric(6, 5),
    ads                 integer NOT NULL,
    merchant_ads        integer NOT NULL,
    advertisers         integer NOT NULL,
    merchants           integer NOT NULL,
    best_price          numeric,
    best_merchant_price numeric,
    mean_price          numeric,
    weighted_mean_price numeric,
    median_price        numeric,
    p10_price           numeric,
    p25_price           numeric,
    p75_price           numeric,
    p90_price           numeric,
    available_amount    numeric NOT NULL,
    available_fiat      numeric NOT NULL,
    depth_best          numeric,
    depth_1pct          numeric,
    depth_2pct          numeric,
    depth_5pct          numeric,
    spread              numeric,
    spread_ratio        numeric,
    previous_batch_id   integer,
    flow_seconds        integer,
    ads_new             integer,
    ads_gone            integer,
    ads_changed         integer,
    outflow_lower       numeric,
    outflow_upper       numeric,
    inflow_lower        numeric,
    inflow_upper        numeric,
    PRIMARY KEY (market_id, day, batch_id)
) PARTITION BY RANGE (day);
CREATE INDEX mart_books_batch ON warehouse.mart_books (batch_id);
COMMENT ON TABLE warehouse.mart_books IS 'One row per book of which at least one page was read: prices, stock and flow. Ask verdict or completeness before you conclude anything from a low number.';
COMMENT ON COLUMN warehouse.mart_books.day IS 'UTC day of the batch; partition key, by month.';
COMMENT ON COLUMN warehouse.mart_books.batch_id IS 'Batch (dim_batches).';
COMMENT ON COLUMN warehouse.mart_books.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN warehouse.mart_books.slot_at IS 'The instant the batch was due: the time to put on an axis.';
COMMENT ON COLUMN warehouse.mart_books.read_at IS 'Arrival of the last answer of the book.';
COMMENT ON COLUMN warehouse.mart_books.verdict IS 'Certificate, as in books: complete, drifted, partial or empty.';
COMMENT ON COLUMN warehouse.mart_books.completeness IS 'Share of the declared ads that were read, 0 to 1: distinct_ads / (distinct_ads + estimated_missed + refused_ads) of books; 1 for an empty book. NULL: not known.';
COMMENT ON COLUMN warehouse.mart_books.ads IS 'Different ads. 0: the exchange declared none.';
COMMENT ON COLUMN warehouse.mart_books.merchant_ads IS 'Of these, ads of merchants.';
COMMENT ON COLUMN warehouse.mart_books.advertisers IS 'Different advertisers.';
COMMENT ON COLUMN warehouse.mart_books.merchants IS 'Of these, merchants.';
COMMENT ON COLUMN warehouse.mart_books.best_price IS 'Best price for the taker: lowest for BUY, highest for SELL; fiat per unit of the asset. Nonsense prices are ordinary: compare with median_price. NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.best_merchant_price IS 'Best price of a merchant. NULL: no merchant.';
COMMENT ON COLUMN warehouse.mart_books.mean_price IS 'Mean price over ads, to 8 decimals. NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.weighted_mean_price IS 'Mean price weighted by the amount on offer, to 8 decimals. NULL: no ads, or nothing left of any.';
COMMENT ON COLUMN warehouse.mart_books.median_price IS 'Median price over ads (function percentile). NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.p10_price IS 'Price that a tenth of the ads is below (function percentile), whatever the side; to 8 decimals. NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.p25_price IS 'As p10_price, a quarter. NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.p75_price IS 'As p10_price, three quarters. NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.p90_price IS 'As p10_price, nine tenths. NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.available_amount IS 'Stock: sum of what is left of all ads, in units of the asset. Never sum it over batches: the same ads stand in the next one.';
COMMENT ON COLUMN warehouse.mart_books.available_fiat IS 'Stock in fiat: sum of amount times price of each ad.';
COMMENT ON COLUMN warehouse.mart_books.depth_best IS 'Stock at the best price, in units of the asset. NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.depth_1pct IS 'Stock at prices no more than 1 % worse than the best. NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.depth_2pct IS 'Stock at prices no more than 2 % worse than the best. NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.depth_5pct IS 'Stock at prices no more than 5 % worse than the best. NULL: no ads.';
COMMENT ON COLUMN warehouse.mart_books.spread IS 'Best BUY price minus best SELL price of the same fiat and asset in the same batch, in fiat; the same in the rows of both sides. Below 0: a crossed book, which is ordinary, for ads differ by payment method. NULL: one of the two books is not complete, or has no ads.';
COMMENT ON COLUMN warehouse.mart_books.spread_ratio IS 'spread as a share of the mean of the two best prices, to 8 decimals. NULL: as spread.';
COMMENT ON COLUMN warehouse.mart_books.previous_batch_id IS 'The complete (or empty) book of this market that the flow is counted from. NULL: this book is not complete, none was before, or its facts were dropped.';
COMMENT ON COLUMN warehouse.mart_books.flow_seconds IS 'Seconds between the last answers of the two books: what the flow spans. Flows of consecutive rows add up without gap or overlap. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.mart_books.ads_new IS 'Ads that were not in the book before. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.mart_books.ads_gone IS 'Ads that were in the book before and are no more. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.mart_books.ads_changed IS 'Ads in both with another amount or price. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.mart_books.outflow_lower IS 'What certainly left the offer, in units of the asset: the decreases of ads that are in both books. Trades, and amounts that advertisers took back by editing; the exchange does not tell them apart. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.mart_books.outflow_upper IS 'outflow_lower and all that was left of ads that are gone: sold out, or withdrawn. More may have gone only if an ad was refilled between the two books. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.mart_books.inflow_lower IS 'What certainly came on offer: the increases of ads that are in both books. NULL: as previous_batch_id.';
COMMENT ON COLUMN warehouse.mart_books.inflow_upper IS 'inflow_lower and the amounts of new ads, which may have been offline before. NULL: as previous_batch_id.';

CREATE TABLE warehouse.mart_book_methods (
    day                 date NOT NULL,
    batch_id            integer NOT NULL,
    market_id           integer NOT NULL,
    payment_method_id   integer NOT NULL,
    verdict             text NOT NULL,
    ads                 integer NOT NULL,
    best_price          numeric NOT NULL,
    mean_price          numeric NOT NULL,
    weighted_mean_price numeric,
    median_price        numeric NOT NULL,
    available_amount    numeric NOT NULL,
    PRIMARY KEY (market_id, day, batch_id, payment_method_id)
) PARTITION BY RANGE (day);
COMMENT ON TABLE warehouse.mart_book_methods IS 'One row per book and payment method that an ad of it takes. An ad with three methods counts in three rows: never sum over methods.';
COMMENT ON COLUMN warehouse.mart_book_methods.day IS 'UTC day of the batch; partition key, by month.';
COMMENT ON COLUMN warehouse.mart_book_methods.batch_id IS 'Batch (dim_batches, which has the time).';
COMMENT ON COLUMN warehouse.mart_book_methods.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN warehouse.mart_book_methods.payment_method_id IS 'Payment method (dim_payment_methods).';
COMMENT ON COLUMN warehouse.mart_book_methods.verdict IS 'Certificate of the book, as in books.';
COMMENT ON COLUMN warehouse.mart_book_methods.ads IS 'Different ads that take it.';
COMMENT ON COLUMN warehouse.mart_book_methods.best_price IS 'Best price for the taker among these: lowest for BUY, highest for SELL.';
COMMENT ON COLUMN warehouse.mart_book_methods.mean_price IS 'Mean price over these ads, to 8 decimals.';
COMMENT ON COLUMN warehouse.mart_book_methods.weighted_mean_price IS 'Mean price weighted by the amount on offer, to 8 decimals. NULL: nothing left of any.';
COMMENT ON COLUMN warehouse.mart_book_methods.median_price IS 'Median price over these ads.';
COMMENT ON COLUMN warehouse.mart_book_methods.available_amount IS 'Stock of these ads, in units of the asset.';

CREATE TABLE warehouse.mart_advertiser_days (
    day              date NOT NULL,
    market_id        integer NOT NULL,
    advertiser_id    integer NOT NULL,
    is_merchant      boolean NOT NULL,
    books            smallint NOT NULL,
    complete_books   smallint NOT NULL,
    best_books       smallint NOT NULL,
    ads_max          smallint NOT NULL,
    first_seen_at    timestamptz,
    last_seen_at     timestamptz,
    min_price        numeric,
    max_price        numeric,
    amount_max       numeric NOT NULL,
    amount_sum       numeric NOT NULL,
    outflow_lower    numeric NOT NULL,
    outflow_upper    numeric NOT NULL,
    PRIMARY KEY (advertiser_id, day, market_id)
) PARTITION BY RANGE (day);
CREATE INDEX mart_advertiser_days_market ON warehouse.mart_advertiser_days (market_id, day);
COMMENT ON TABLE warehouse.mart_advertiser_days IS 'One row per advertiser, market and day on which it had an ad there; grows with each batch of the day. What to divide by stands in mart_days.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.day IS 'UTC day of the batches; partition key, by month.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN warehouse.mart_advertiser_days.advertiser_id IS 'Advertiser (dim_advertisers.advertiser_id; the current name: is_current).';
COMMENT ON COLUMN warehouse.mart_advertiser_days.is_merchant IS 'Whether it was a merchant in the last of these books.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.books IS 'Books of the day that list an ad of it. 0: its ads were seen the day before and were gone in the first book of this one; only the outflow tells.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.complete_books IS 'Of these, complete ones. Divided by mart_days.complete_books: its uptime.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.best_books IS 'Complete books in which an ad of it has the best price.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.ads_max IS 'Most ads that it had in one book.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.first_seen_at IS 'Last answer of the first book with it. NULL: books is 0.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.last_seen_at IS 'Last answer of the latest book with it. NULL: books is 0.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.min_price IS 'Its lowest price of the day: the best one for the taker of BUY. NULL: books is 0.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.max_price IS 'Its highest price of the day: the best one for the taker of SELL. NULL: books is 0.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.amount_max IS 'Most that it had on offer in one book, in units of the asset.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.amount_sum IS 'Its stock summed over complete books: divided by complete_books its mean stock, divided by mart_days.amount_sum its share of the market. No amount of anything by itself.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.outflow_lower IS 'What certainly left its ads, as in mart_books.';
COMMENT ON COLUMN warehouse.mart_advertiser_days.outflow_upper IS 'What may have left its ads, as in mart_books.';

CREATE TABLE warehouse.mart_hours (
    day                 date NOT NULL,
    hour                timestamptz NOT NULL,
    market_id           integer NOT NULL,
    books               smallint NOT NULL,
    complete_books      smallint NOT NULL,
    used_books          smallint NOT NULL,
    first_best_price    numeric,
    last_best_price     numeric,
    min_best_price      numeric,
    max_best_price      numeric,
    mean_best_price     numeric,
    mean_median_price   numeric,
    mean_weighted_price numeric,
    mean_ads            numeric,
    mean_advertisers    numeric,
    mean_amount         numeric,
    mean_fiat           numeric,
    mean_depth_1pct     numeric,
    mean_spread_ratio   numeric,
    spread_books        smallint NOT NULL,
    amount_sum          numeric NOT NULL,
    flow_seconds        integer,
    ads_new             integer,
    ads_gone            integer,
    outflow_lower       numeric,
    outflow_upper       numeric,
    inflow_lower        numeric,
    inflow_upper        numeric,
    PRIMARY KEY (market_id, day, hour)
) PARTITION BY RANGE (day);
CREATE TABLE warehouse.mart_days (LIKE warehouse.mart_hours);
ALTER TABLE warehouse.mart_days DROP COLUMN hour;
ALTER TABLE warehouse.mart_days ADD PRIMARY KEY (market_id, day), SET (fillfactor = 70);
COMMENT ON TABLE warehouse.mart_hours IS 'mart_books by the hour of the slot. Prices and stock are of its complete and drifted books (used_books); flows of all its complete ones.';
COMMENT ON TABLE warehouse.mart_days IS 'mart_hours by UTC day; means are weighted by the books used. Never dropped: a row per market and day.';
DO $$
DECLARE
    roll text;
    said text[];
BEGIN
    FOREACH roll IN ARRAY ARRAY['mart_hours', 'mart_days'] LOOP
        FOREACH said SLICE 1 IN ARRAY ARRAY[
            ['day', 'UTC day of the batches.'],
            ['market_id', 'Market (dim_markets).'],
            ['books', 'Books of which a page was read.'],
            ['complete_books', 'Of these, certified complete.'],
            ['used_books', 'Of these, complete or drifted and with ads: what prices and stock rest on.'],
            ['first_best_price', 'best_price of the first book used; fiat per unit of the asset. NULL: no book used.'],
            ['last_best_price', 'best_price of the last book used. NULL: no book used.'],
            ['min_best_price', 'Lowest best_price. NULL: no book used.'],
            ['max_best_price', 'Highest best_price. NULL: no book used.'],
            ['mean_best_price', 'Mean of best_price over books, to 12 decimals. NULL: no book used.'],
            ['mean_median_price', 'Mean of median_price over books, to 12 decimals. NULL: no book used.'],
            ['mean_weighted_price', 'Mean of weighted_mean_price over books, to 12 decimals. NULL: no book used.'],
            ['mean_ads', 'Mean number of ads, to 12 decimals. NULL: no book used.'],
            ['mean_advertisers', 'Mean number of advertisers, to 12 decimals. NULL: no book used.'],
            ['mean_amount', 'Mean stock, in units of the asset, to 12 decimals. NULL: no book used.'],
            ['mean_fiat', 'Mean stock in fiat, to 12 decimals. NULL: no book used.'],
            ['mean_depth_1pct', 'Mean stock no more than 1 % worse than the best price, to 12 decimals. NULL: no book used.'],
            ['mean_spread_ratio', 'Mean of spread_ratio over spread_books, to 12 decimals. NULL: no book has one.'],
            ['spread_books', 'Books with a spread: both sides complete in the same batch.'],
            ['amount_sum', 'Stock summed over complete books: what shares of advertisers are of. No amount of anything by itself.'],
            ['flow_seconds', 'Seconds that the flows span. NULL: no flow is known.'],
            ['ads_new', 'Ads that came, summed. NULL: no flow is known.'],
            ['ads_gone', 'Ads that went, summed. NULL: no flow is known.'],
            ['outflow_lower', 'What certainly left the offer, summed, in units of the asset (mart_books). NULL: no flow is known.'],
            ['outflow_upper', 'What may have left the offer, summed. NULL: no flow is known.'],
            ['inflow_lower', 'What certainly came on offer, summed. NULL: no flow is known.'],
            ['inflow_upper', 'What may have come on offer, summed. NULL: no flow is known.']]
        LOOP
            EXECUTE format('COMMENT ON COLUMN warehouse.%I.%I IS %L', roll, said[1], said[2]);
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON COLUMN warehouse.mart_hours.hour IS 'The hour''s begin, UTC: the slots of its batches lie from then on, before the next.';

-- What the flow of the next complete book is counted from.
ALTER TABLE pipeline.catalog ADD COLUMN last_complete_batch_id integer;
COMMENT ON COLUMN pipeline.catalog.last_complete_batch_id IS 'Last batch whose book of the market was complete or empty. NULL: none since flows are counted.';
