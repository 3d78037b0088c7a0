-- Facts: what an ad said (offer_versions), which versions a page listed (book_pages), how complete a
-- book is (books). Partitioned by the day of the batch; every day is self-contained, so dropping one
-- breaks nothing. Keys begin with (day, batch) because inserts then go to the right edge.

-- Days since 1970 in the high bits, place of first sight in the low 31: unique over all days.
CREATE FUNCTION warehouse.offer_id(day date, id integer) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ((day - DATE '1970-01-01')::bigint << 31) | id;
COMMENT ON FUNCTION warehouse.offer_id(date, integer) IS 'The offer_id of a version: day and id in one number. offer_id >> 22 is the batch, (offer_id >> 5) & 131071 the job''s ordinal and offer_id & 31 the position on the page where this content was first seen.';

CREATE TABLE warehouse.offer_versions (
    day                       date NOT NULL,
    id                        integer NOT NULL,
    market_id                 integer NOT NULL,
    advertiser_sk             integer NOT NULL,
    content_hash              bigint NOT NULL,
    first_seen_at             timestamptz NOT NULL,
    adv_no                    text NOT NULL,
    price                     numeric(20, 8) NOT NULL,
    available_amount          numeric(20, 8) NOT NULL,
    tradable_quantity         numeric(20, 8),
    min_limit                 numeric(20, 8) NOT NULL,
    max_limit                 numeric(20, 8) NOT NULL,
    dynamic_max_limit         numeric(20, 8),
    min_quantity              numeric(20, 8),
    max_quantity              numeric(20, 8),
    dynamic_max_quantity      numeric(20, 8),
    initial_amount            numeric(20, 8),
    amount_after_editing      numeric(20, 8),
    commission_rate           numeric(20, 8),
    taker_commission_rate     numeric(20, 8),
    min_taker_fee             numeric(20, 8),
    pay_time_limit_minutes    smallint,
    payment_method_ids        integer[] NOT NULL,
    classify                  text,
    is_tradable               boolean,
    is_safe_payment           boolean,
    taker_kyc_required        boolean,
    asset_scale               smallint,
    fiat_scale                smallint,
    price_scale               smallint,
    auto_reply                text,
    terms                     text,
    price_type                smallint,
    price_floating_ratio      numeric(20, 8),
    rate_floating_ratio       numeric(20, 8),
    buyer_kyc_limit           integer,
    buyer_registration_days   integer,
    buyer_btc_position        numeric(20, 8),
    PRIMARY KEY (day, id)
) PARTITION BY RANGE (day);
COMMENT ON TABLE warehouse.offer_versions IS 'What ads said: one row per ad and content and day, written when the content is first seen. A worker that had not yet seen an ad may write the same content twice: count ads by adv_no, not by rows.';
COMMENT ON COLUMN warehouse.offer_versions.day IS 'UTC day of the batch that first saw this content; partition key.';
COMMENT ON COLUMN warehouse.offer_versions.id IS 'Where the content was first seen: batch of the day (9 bits), the job''s ordinal in the batch (17), position on the page from 0 (5). Unique within its day.';
COMMENT ON COLUMN warehouse.offer_versions.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN warehouse.offer_versions.advertiser_sk IS 'Version of the advertiser that was valid then (dim_advertisers).';
COMMENT ON COLUMN warehouse.offer_versions.content_hash IS 'xxh3 of everything below and of advertiser_sk, numbers without trailing zeros: equal hash, unchanged ad.';
COMMENT ON COLUMN warehouse.offer_versions.first_seen_at IS 'When the answer that first showed this content arrived.';
COMMENT ON COLUMN warehouse.offer_versions.adv_no IS 'Number of the ad (Binance: adv.advNo), text because it exceeds 64 bits signed.';
COMMENT ON COLUMN warehouse.offer_versions.price IS 'Price of one unit of the asset, in fiat (adv.price).';
COMMENT ON COLUMN warehouse.offer_versions.available_amount IS 'What is left of the ad, in units of the asset (adv.surplusAmount).';
COMMENT ON COLUMN warehouse.offer_versions.tradable_quantity IS 'What can be traded, in units of the asset; less than what is left by the commission when the advertiser sells (adv.tradableQuantity). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.min_limit IS 'Smallest order, in fiat (adv.minSingleTransAmount).';
COMMENT ON COLUMN warehouse.offer_versions.max_limit IS 'Largest order as the advertiser set it, in fiat (adv.maxSingleTransAmount).';
COMMENT ON COLUMN warehouse.offer_versions.dynamic_max_limit IS 'Largest order that holds now, in fiat (adv.dynamicMaxSingleTransAmount). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.min_quantity IS 'Smallest order, in units of the asset (adv.minSingleTransQuantity). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.max_quantity IS 'Largest order, in units of the asset (adv.maxSingleTransQuantity). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.dynamic_max_quantity IS 'Largest order that holds now, in units of the asset (adv.dynamicMaxSingleTransQuantity). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.initial_amount IS 'Amount the ad began with, in units of the asset (adv.initAmount). NULL: not told, as since 2022.';
COMMENT ON COLUMN warehouse.offer_versions.amount_after_editing IS 'Amount after the last edit, in units of the asset (adv.amountAfterEditing). NULL: not told, as since 2022.';
COMMENT ON COLUMN warehouse.offer_versions.commission_rate IS 'Commission of the advertiser, share of 1 (adv.commissionRate). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.taker_commission_rate IS 'Commission of the taker, share of 1 (adv.takerCommissionRate). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.min_taker_fee IS 'Least fee of the taker (adv.minTakerFee). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.pay_time_limit_minutes IS 'Time to pay, in minutes (adv.payTimeLimit). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.payment_method_ids IS 'Payment methods as an ascending set (dim_payment_methods). The exchange may name one twice.';
COMMENT ON COLUMN warehouse.offer_versions.classify IS 'mass, profession, block, cash, fiat_trade or what the exchange invents (adv.classify). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.is_tradable IS 'As sent (adv.isTradable). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.is_safe_payment IS 'As sent (adv.isSafePayment). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.taker_kyc_required IS 'Whether the taker needs extra verification (adv.takerAdditionalKycRequired). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.asset_scale IS 'Decimals of quantities (adv.assetScale). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.fiat_scale IS 'Decimals of fiat amounts (adv.fiatScale). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.price_scale IS 'Decimals of the price (adv.priceScale). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.auto_reply IS 'Automatic message of the advertiser (adv.autoReplyMsg). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_versions.terms IS 'Terms of the advertiser (adv.remarks). NULL: not told; the ad search never tells.';
COMMENT ON COLUMN warehouse.offer_versions.price_type IS '1 fixed, 2 floating (adv.priceType). NULL: not told; the ad search never tells.';
COMMENT ON COLUMN warehouse.offer_versions.price_floating_ratio IS 'Percent of the reference price (adv.priceFloatingRatio). NULL: not told; the ad search never tells.';
COMMENT ON COLUMN warehouse.offer_versions.rate_floating_ratio IS 'Percent (adv.rateFloatingRatio). NULL: not told; the ad search never tells.';
COMMENT ON COLUMN warehouse.offer_versions.buyer_kyc_limit IS 'Condition for the taker (adv.buyerKycLimit). NULL: none or not told.';
COMMENT ON COLUMN warehouse.offer_versions.buyer_registration_days IS 'Days the taker must be registered (adv.buyerRegDaysLimit). NULL: none or not told.';
COMMENT ON COLUMN warehouse.offer_versions.buyer_btc_position IS 'BTC the taker must hold (adv.buyerBtcPositionLimit). NULL: none or not told.';

CREATE TABLE warehouse.book_pages (
    day                 date NOT NULL,
    batch_id            integer NOT NULL,
    market_id           integer NOT NULL,
    page                smallint NOT NULL,
    ordinal             integer NOT NULL,
    fetched_at          timestamptz NOT NULL,
    declared_total      integer,
    offer_ids           integer[] NOT NULL,
    active_minutes      smallint[] NOT NULL,
    promoted_position   smallint,
    duplicate_positions smallint[],
    PRIMARY KEY (day, batch_id, market_id, page, ordinal)
) PARTITION BY RANGE (day);
COMMENT ON TABLE warehouse.book_pages IS 'The evidence: which ad versions a page listed, in the order of the exchange. A page that was read again because its book moved has a row per reading. Pages of markets without ads have no row; the job says so.';
COMMENT ON COLUMN warehouse.book_pages.day IS 'UTC day of the batch; partition key, and the day of the versions.';
COMMENT ON COLUMN warehouse.book_pages.batch_id IS 'Batch (pipeline.batches).';
COMMENT ON COLUMN warehouse.book_pages.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN warehouse.book_pages.page IS 'Page of the book, from 1.';
COMMENT ON COLUMN warehouse.book_pages.ordinal IS 'Ordinal of the job that stored the page (pipeline.jobs); of two readings of a page the later has the higher one.';
COMMENT ON COLUMN warehouse.book_pages.fetched_at IS 'When the answer arrived.';
COMMENT ON COLUMN warehouse.book_pages.declared_total IS 'Ads of the whole book as this answer declared (total). NULL: not told.';
COMMENT ON COLUMN warehouse.book_pages.offer_ids IS 'offer_versions.id of the same day, in the order listed.';
COMMENT ON COLUMN warehouse.book_pages.active_minutes IS 'Minutes since each advertiser was last seen online (activeTimeInSecond / 60, at most 32767), in the order of offer_ids. NULL element: not told.';
COMMENT ON COLUMN warehouse.book_pages.promoted_position IS 'Index in offer_ids, from 1, of the promoted ad, which is out of price order. NULL: none.';
COMMENT ON COLUMN warehouse.book_pages.duplicate_positions IS 'Indexes in offer_ids, from 1, of ads that the book also lists elsewhere; fact_offers leaves them out. Filled when the batch closes. NULL: none.';

CREATE TABLE warehouse.books (
    day              date NOT NULL,
    batch_id         integer NOT NULL,
    market_id        integer NOT NULL,
    verdict          text NOT NULL CHECK (verdict IN ('complete', 'drifted', 'partial', 'failed', 'shed', 'empty')),
    first_total      integer,
    last_total       integer,
    min_total        integer,
    max_total        integer,
    pages_planned    integer NOT NULL,
    pages_read       integer NOT NULL,
    pages_lost       integer NOT NULL,
    pages_shed       integer NOT NULL,
    pages_reread     integer NOT NULL,
    listed_ads       integer NOT NULL,
    distinct_ads     integer NOT NULL,
    duplicate_ads    integer NOT NULL,
    refused_ads      integer NOT NULL,
    estimated_missed integer,
    first_fetched_at timestamptz,
    last_fetched_at  timestamptz,
    span_ms          integer,
    PRIMARY KEY (day, batch_id, market_id)
) PARTITION BY RANGE (day);
COMMENT ON TABLE warehouse.books IS 'The certificate of each book: one row per market and batch, written when the batch closes.';
COMMENT ON COLUMN warehouse.books.day IS 'UTC day of the batch; partition key.';
COMMENT ON COLUMN warehouse.books.batch_id IS 'Batch (pipeline.batches).';
COMMENT ON COLUMN warehouse.books.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN warehouse.books.verdict IS 'complete: the total stayed the same and every declared ad was read, moved pages again. empty: the exchange declared no ads. drifted: all pages were read, but the total changed meanwhile or an ad stayed out of sight. partial: a page or an ad was lost. failed: no page was read. shed: left out for want of budget.';
COMMENT ON COLUMN warehouse.books.first_total IS 'Total declared by the earliest answer with ads. NULL: no such answer.';
COMMENT ON COLUMN warehouse.books.last_total IS 'Total declared by the latest answer with ads. NULL: no such answer.';
COMMENT ON COLUMN warehouse.books.min_total IS 'Smallest total declared by an answer with ads. NULL: no such answer.';
COMMENT ON COLUMN warehouse.books.max_total IS 'Largest total declared by an answer with ads. NULL: no such answer.';
COMMENT ON COLUMN warehouse.books.pages_planned IS 'Pages planned, those found to be beyond the end left out.';
COMMENT ON COLUMN warehouse.books.pages_read IS 'Pages read, with or without ads.';
COMMENT ON COLUMN warehouse.books.pages_lost IS 'Pages failed or expired.';
COMMENT ON COLUMN warehouse.books.pages_shed IS 'Pages left out for want of budget.';
COMMENT ON COLUMN warehouse.books.pages_reread IS 'Readings beyond the first of a page, made because the book had moved.';
COMMENT ON COLUMN warehouse.books.listed_ads IS 'Ads listed on the last readings of the pages, repetitions included, refused ads left out.';
COMMENT ON COLUMN warehouse.books.distinct_ads IS 'Different ads on all readings of the pages: what fact_offers shows.';
COMMENT ON COLUMN warehouse.books.duplicate_ads IS 'Repetitions on the last readings, because the book moved; the promoted ad at its ordinary place is not counted.';
COMMENT ON COLUMN warehouse.books.refused_ads IS 'Ads that could not be taken and are in quarantine.';
COMMENT ON COLUMN warehouse.books.estimated_missed IS 'Ads that were probably listed and not read. NULL: nothing was read, so nothing is known.';
COMMENT ON COLUMN warehouse.books.first_fetched_at IS 'Arrival of the first answer. NULL: none.';
COMMENT ON COLUMN warehouse.books.last_fetched_at IS 'Arrival of the last answer. NULL: none.';
COMMENT ON COLUMN warehouse.books.span_ms IS 'Milliseconds between the two: how long the book was read. NULL: nothing was read.';

CREATE TABLE warehouse.latest_books (
    market_id    integer PRIMARY KEY REFERENCES warehouse.dim_markets,
    day          date NOT NULL,
    batch_id     integer NOT NULL,
    verdict      text NOT NULL,
    read_at      timestamptz NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE warehouse.latest_books IS 'The last good book of each market: the last one of which no page was lost. Moved forward when a batch closes.';
COMMENT ON COLUMN warehouse.latest_books.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN warehouse.latest_books.day IS 'UTC day of its batch.';
COMMENT ON COLUMN warehouse.latest_books.batch_id IS 'Its batch (pipeline.batches).';
COMMENT ON COLUMN warehouse.latest_books.verdict IS 'Its verdict, as in books.';
COMMENT ON COLUMN warehouse.latest_books.read_at IS 'Arrival of its last answer.';

CREATE VIEW warehouse.fact_offers AS
SELECT warehouse.offer_id(p.day, v.id) AS offer_id,
       v.adv_no AS offer_external_id,
       p.day,
       p.batch_id,
       p.fetched_at AS extraction_timestamp,
       m.exchange_id,
       p.market_id,
       m.fiat_id,
       m.crypto_id,
       m.trade_type,
       CASE m.trade_type WHEN 'BUY' THEN 'SELL' ELSE 'BUY' END AS advertiser_side,
       p.page,
       (l.position = p.promoted_position) IS TRUE AS is_promoted,
       CASE WHEN l.position = p.promoted_position THEN NULL
            ELSE (p.page - 1) * 20 + l.position
                 - CASE WHEN l.position > p.promoted_position THEN 1 ELSE 0 END
       END::integer AS rank,
       v.price,
       v.available_amount,
       v.tradable_quantity,
       v.min_limit,
       v.max_limit,
       v.dynamic_max_limit,
       v.min_quantity,
       v.max_quantity,
       v.dynamic_max_quantity,
       v.initial_amount,
       v.amount_after_editing,
       v.commission_rate,
       v.taker_commission_rate,
       v.min_taker_fee,
       v.pay_time_limit_minutes,
       v.payment_method_ids,
       v.classify,
       v.is_tradable,
       v.is_safe_payment,
       v.taker_kyc_required,
       v.asset_scale,
       v.fiat_scale,
       v.price_scale,
       v.auto_reply,
       v.terms,
       v.price_type,
       v.price_floating_ratio,
       v.rate_floating_ratio,
       v.buyer_kyc_limit,
       v.buyer_registration_days,
       v.buyer_btc_position,
       v.advertiser_sk,
       p.active_minutes[l.position] AS advertiser_active_minutes,
       v.first_seen_at,
       b.verdict AS book_verdict
  FROM warehouse.book_pages p
  JOIN warehouse.books b ON b.day = p.day AND b.batch_id = p.batch_id AND b.market_id = p.market_id
  JOIN warehouse.dim_markets m ON m.market_id = p.market_id
 CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
  JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
 WHERE p.duplicate_positions IS NULL OR l.position <> ALL (p.duplicate_positions);
COMMENT ON VIEW warehouse.fact_offers IS 'One row per ad per reading, of closed batches. An ad that one book lists twice is there once.';
COMMENT ON COLUMN warehouse.fact_offers.offer_id IS 'The content read: constant while the ad does not change within a day (function offer_id).';
COMMENT ON COLUMN warehouse.fact_offers.offer_external_id IS 'Number of the ad at the exchange; count ads by it.';
COMMENT ON COLUMN warehouse.fact_offers.day IS 'UTC day of the batch; name it in a condition and only its partitions are read.';
COMMENT ON COLUMN warehouse.fact_offers.batch_id IS 'Batch of the reading.';
COMMENT ON COLUMN warehouse.fact_offers.extraction_timestamp IS 'When the answer with this page arrived.';
COMMENT ON COLUMN warehouse.fact_offers.exchange_id IS 'Exchange.';
COMMENT ON COLUMN warehouse.fact_offers.market_id IS 'Market.';
COMMENT ON COLUMN warehouse.fact_offers.fiat_id IS 'Fiat.';
COMMENT ON COLUMN warehouse.fact_offers.crypto_id IS 'Asset.';
COMMENT ON COLUMN warehouse.fact_offers.trade_type IS 'Side of the taker, as requested. Best price: BUY lowest, SELL highest.';
COMMENT ON COLUMN warehouse.fact_offers.advertiser_side IS 'Side of the advertiser, as the ad says: always the opposite.';
COMMENT ON COLUMN warehouse.fact_offers.page IS 'Page of the book, from 1.';
COMMENT ON COLUMN warehouse.fact_offers.is_promoted IS 'Whether it was read at the promoted place, out of price order, and nowhere else in the book.';
COMMENT ON COLUMN warehouse.fact_offers.rank IS 'Place in the book by the order of the exchange, from 1, when its page was read; in a book that moved two ads may share one. NULL: promoted.';
COMMENT ON COLUMN warehouse.fact_offers.price IS 'Price of one unit of the asset, in fiat.';
COMMENT ON COLUMN warehouse.fact_offers.available_amount IS 'What is left of the ad, in units of the asset.';
COMMENT ON COLUMN warehouse.fact_offers.tradable_quantity IS 'What can be traded, in units of the asset. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.min_limit IS 'Smallest order, in fiat.';
COMMENT ON COLUMN warehouse.fact_offers.max_limit IS 'Largest order as set, in fiat.';
COMMENT ON COLUMN warehouse.fact_offers.dynamic_max_limit IS 'Largest order that holds now, in fiat. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.min_quantity IS 'Smallest order, in units of the asset. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.max_quantity IS 'Largest order, in units of the asset. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.dynamic_max_quantity IS 'Largest order that holds now, in units of the asset. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.initial_amount IS 'Amount the ad began with. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.amount_after_editing IS 'Amount after the last edit. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.commission_rate IS 'Commission of the advertiser, share of 1. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.taker_commission_rate IS 'Commission of the taker, share of 1. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.min_taker_fee IS 'Least fee of the taker. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.pay_time_limit_minutes IS 'Time to pay, in minutes. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.payment_method_ids IS 'Payment methods as an ascending set; one row each in fact_offer_payment_methods.';
COMMENT ON COLUMN warehouse.fact_offers.classify IS 'Class of the ad, as sent. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.is_tradable IS 'As sent. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.is_safe_payment IS 'As sent. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.taker_kyc_required IS 'Whether the taker needs extra verification. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.asset_scale IS 'Decimals of quantities. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.fiat_scale IS 'Decimals of fiat amounts. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.price_scale IS 'Decimals of the price. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.auto_reply IS 'Automatic message. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.terms IS 'Terms of the advertiser. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.price_type IS '1 fixed, 2 floating. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.price_floating_ratio IS 'Percent of the reference price. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.rate_floating_ratio IS 'Percent. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.buyer_kyc_limit IS 'Condition for the taker. NULL: none or not told.';
COMMENT ON COLUMN warehouse.fact_offers.buyer_registration_days IS 'Days the taker must be registered. NULL: none or not told.';
COMMENT ON COLUMN warehouse.fact_offers.buyer_btc_position IS 'BTC the taker must hold. NULL: none or not told.';
COMMENT ON COLUMN warehouse.fact_offers.advertiser_sk IS 'Version of the advertiser (dim_advertisers).';
COMMENT ON COLUMN warehouse.fact_offers.advertiser_active_minutes IS 'Minutes since the advertiser was last seen online, at the reading. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.first_seen_at IS 'When this content was first seen on this day.';
COMMENT ON COLUMN warehouse.fact_offers.book_verdict IS 'Certificate of the book, as in books.';

CREATE VIEW warehouse.fact_offer_payment_methods AS
SELECT warehouse.offer_id(v.day, v.id) AS offer_id,
       unnest(v.payment_method_ids) AS payment_method_id,
       v.day
  FROM warehouse.offer_versions v;
COMMENT ON VIEW warehouse.fact_offer_payment_methods IS 'One row per offer and payment method.';
COMMENT ON COLUMN warehouse.fact_offer_payment_methods.offer_id IS 'Offer, as in fact_offers.';
COMMENT ON COLUMN warehouse.fact_offer_payment_methods.payment_method_id IS 'Payment method (dim_payment_methods).';
COMMENT ON COLUMN warehouse.fact_offer_payment_methods.day IS 'UTC day of the offer; join on it too and only its partition is read.';

CREATE VIEW warehouse.mv_latest_market_state AS
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
  JOIN warehouse.dim_advertisers a ON a.advertiser_sk = o.advertiser_sk;
COMMENT ON VIEW warehouse.mv_latest_market_state IS 'Every ad of the last good book of each market, names spelled out. A view over latest_books, which moves when a batch closes, so it is never stale and needs no refresh.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.exchange_name IS 'Exchange.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.fiat_code IS 'Fiat code.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.crypto_symbol IS 'Asset code.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.trade_type IS 'Side of the taker. Best price: BUY lowest, SELL highest.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.advertiser_side IS 'Side of the advertiser: the opposite.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.rank IS 'Place in the book, from 1. NULL: promoted.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.is_promoted IS 'Whether it was read at the promoted place only.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.offer_id IS 'Offer, as in fact_offers.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.offer_external_id IS 'Number of the ad at the exchange.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.price IS 'Price of one unit of the asset, in fiat.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.available_amount IS 'What is left of the ad, in units of the asset.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.tradable_quantity IS 'What can be traded, in units of the asset. NULL: not told.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.min_limit IS 'Smallest order, in fiat.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.max_limit IS 'Largest order as set, in fiat.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.dynamic_max_limit IS 'Largest order that holds now, in fiat. NULL: not told.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.pay_time_limit_minutes IS 'Time to pay, in minutes. NULL: not told.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.payment_methods IS 'Names of the payment methods, sorted. NULL: none.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.classify IS 'Class of the ad. NULL: not told.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.advertiser IS 'Nickname at the reading.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.user_no IS 'Key of the advertiser at the exchange.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.is_merchant IS 'Whether the advertiser is a merchant.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.month_order_count IS 'Orders in 30 days, last seen. NULL: not told.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.completion_rate IS 'Share of orders completed, 0 to 1, last seen. NULL: not told.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.positive_rate IS 'Share of positive reviews, 0 to 1, last seen. NULL: not told.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.advertiser_active_minutes IS 'Minutes since last seen online, at the reading. NULL: not told.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.advertiser_sk IS 'Version of the advertiser (dim_advertisers).';
COMMENT ON COLUMN warehouse.mv_latest_market_state.market_id IS 'Market (dim_markets).';
COMMENT ON COLUMN warehouse.mv_latest_market_state.batch_id IS 'Batch of the reading.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.extraction_timestamp IS 'When the answer with this ad arrived.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.age IS 'Age of the reading.';
COMMENT ON COLUMN warehouse.mv_latest_market_state.book_verdict IS 'Certificate of the book, as in books.';
