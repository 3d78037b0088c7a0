-- What ads, advertisers and payment methods tell and had no home, and what only an advertiser's own
-- page tells: the terms of its ads, and its figures over its whole life.

ALTER TABLE warehouse.offer_versions
    ADD COLUMN voucher_template jsonb,
    ADD COLUMN system_labels jsonb,
    ADD COLUMN taker_conditions jsonb,
    ADD COLUMN adv_status smallint,
    ADD COLUMN ad_created_at timestamptz,
    ADD COLUMN ad_updated_at timestamptz;
COMMENT ON COLUMN warehouse.offer_versions.voucher_template IS 'Voucher that the ad takes, as sent, numbers digit for digit (adv.voucherTemplate). NULL: none or not told.';
COMMENT ON COLUMN warehouse.offer_versions.system_labels IS 'Labels that the exchange puts on the ad, as sent (adv.advSystemLabelRet). NULL: none or not told.';
COMMENT ON COLUMN warehouse.offer_versions.taker_conditions IS 'Further conditions for the taker, by the exchange''s names, only those that are set (adv.userAllTradeCountMin, adv.userTradeVolumeAsset and the other fields of adv that begin with user). NULL: none or not told; the ad search never tells.';
COMMENT ON COLUMN warehouse.offer_versions.adv_status IS '1 online, 3 offline, 4 closed (adv.advStatus). NULL: not told; the ad search never tells.';
COMMENT ON COLUMN warehouse.offer_versions.ad_created_at IS 'When the advertiser made the ad (adv.createTime). NULL: not told; the ad search never tells.';
COMMENT ON COLUMN warehouse.offer_versions.ad_updated_at IS 'When the advertiser last changed the ad (adv.advUpdateTime), as last told. NULL: not told; the ad search never tells.';
COMMENT ON COLUMN warehouse.offer_versions.auto_reply IS 'Automatic message of the advertiser (adv.autoReplyMsg). NULL: not told. What the ad search leaves NULL in this and the following columns is taken from the advertiser''s page, if that was read before (offer_terms).';
COMMENT ON COLUMN warehouse.offer_versions.terms IS 'Terms of the advertiser (adv.remarks), as offer_terms last had them. NULL: none, or the advertiser''s page was not read; the ad search never tells.';

ALTER TABLE warehouse.book_pages ADD COLUMN privilege_types smallint[];
COMMENT ON COLUMN warehouse.book_pages.privilege_types IS 'Privilege of each ad, in the order of offer_ids (Binance: data[].privilegeType): 8 promoted and 2 featured, both out of price order; 1 on some ordinary first ads. NULL element: none. NULL: none on the page.';

CREATE OR REPLACE VIEW warehouse.fact_offers AS
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
       b.verdict AS book_verdict,
       v.voucher_template,
       v.system_labels,
       v.taker_conditions,
       v.adv_status,
       v.ad_created_at,
       v.ad_updated_at,
       p.privilege_types[l.position] AS privilege_type
  FROM warehouse.book_pages p
  JOIN warehouse.books b ON b.day = p.day AND b.batch_id = p.batch_id AND b.market_id = p.market_id
  JOIN warehouse.dim_markets m ON m.market_id = p.market_id
 CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
  JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
 WHERE p.duplicate_positions IS NULL OR l.position <> ALL (p.duplicate_positions);
COMMENT ON COLUMN warehouse.fact_offers.terms IS 'Terms of the advertiser, as its page last told. NULL: none, or its page was not read.';
COMMENT ON COLUMN warehouse.fact_offers.voucher_template IS 'Voucher that the ad takes, as sent. NULL: none or not told.';
COMMENT ON COLUMN warehouse.fact_offers.system_labels IS 'Labels that the exchange puts on the ad, as sent. NULL: none or not told.';
COMMENT ON COLUMN warehouse.fact_offers.taker_conditions IS 'Further conditions for the taker, by the exchange''s names, as the advertiser''s page last told. NULL: none or not told.';
COMMENT ON COLUMN warehouse.fact_offers.adv_status IS '1 online, 3 offline, 4 closed, as the advertiser''s page last told. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.ad_created_at IS 'When the advertiser made the ad. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.ad_updated_at IS 'When the advertiser last changed the ad, as its page last told. NULL: not told.';
COMMENT ON COLUMN warehouse.fact_offers.privilege_type IS '8 promoted and 2 featured, both out of price order; 1 on some ordinary first ads. NULL: none.';

ALTER TABLE warehouse.dim_advertisers
    ADD COLUMN pro_merchant_description text,
    ADD COLUMN release_seconds integer,
    ADD COLUMN registered_on date,
    ADD COLUMN first_order_on date;
COMMENT ON TABLE warehouse.dim_advertisers IS 'Advertisers, one row per version of identity (SCD2). The four figures are the last seen while the version was valid; their history is in advertiser_figures. What the advertiser''s page tells beyond that is in advertiser_profiles.';
COMMENT ON COLUMN warehouse.dim_advertisers.pro_merchant_description IS 'How the merchant describes itself (proMerchant.merchantDescription). NULL: no description or not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.release_seconds IS 'Average time to release, in seconds (advConfirmTime), last seen in this version. NULL: not told, as since 2022-07.';
COMMENT ON COLUMN warehouse.dim_advertisers.registered_on IS 'UTC day of registration, give or take one (userDetailVo.userStatsRet.registerDays before the day of reading); the same in all versions. NULL: the advertiser''s page was not read.';
COMMENT ON COLUMN warehouse.dim_advertisers.first_order_on IS 'UTC day of the first order, give or take one (userDetailVo.userStatsRet.firstOrderDays before the day of reading); the same in all versions. NULL: none, or the advertiser''s page was not read.';

ALTER TABLE warehouse.advertiser_figures ADD COLUMN release_seconds integer;
COMMENT ON COLUMN warehouse.advertiser_figures.release_seconds IS 'Average time to release, in seconds (advConfirmTime). NULL: not told, as since 2022-07.';

CREATE TABLE warehouse.offer_terms (
    exchange_id             smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    adv_no                  text NOT NULL,
    observed_at             timestamptz NOT NULL,
    advertiser_id           integer NOT NULL,
    content_hash            bigint NOT NULL,
    terms                   text,
    auto_reply              text,
    price_type              smallint,
    price_floating_ratio    numeric(20, 8),
    rate_floating_ratio     numeric(20, 8),
    initial_amount          numeric(20, 8),
    buyer_kyc_limit         integer,
    buyer_registration_days integer,
    buyer_btc_position      numeric(20, 8),
    taker_conditions        jsonb,
    adv_status              smallint,
    ad_created_at           timestamptz,
    ad_updated_at           timestamptz,
    PRIMARY KEY (exchange_id, adv_no, observed_at)
);
COMMENT ON TABLE warehouse.offer_terms IS 'What only the advertiser''s page tells of an ad: a row only when something of it changed. Readings of the ad search from then on carry it in their versions. Empty unless ADVERTISER_REQUESTS_PER_BATCH is set.';
COMMENT ON COLUMN warehouse.offer_terms.exchange_id IS 'Exchange.';
COMMENT ON COLUMN warehouse.offer_terms.adv_no IS 'Number of the ad (adv.advNo); offer_external_id in fact_offers.';
COMMENT ON COLUMN warehouse.offer_terms.observed_at IS 'When an answer first told this; it holds until the next row of the ad, as far as anybody looked.';
COMMENT ON COLUMN warehouse.offer_terms.advertiser_id IS 'Advertiser (dim_advertisers.advertiser_id).';
COMMENT ON COLUMN warehouse.offer_terms.content_hash IS 'xxh3 of the columns that follow: tells a change without comparing them all.';
COMMENT ON COLUMN warehouse.offer_terms.terms IS 'Terms of the advertiser (adv.remarks). NULL: none.';
COMMENT ON COLUMN warehouse.offer_terms.auto_reply IS 'Automatic message of the advertiser (adv.autoReplyMsg). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_terms.price_type IS '1 fixed, 2 floating (adv.priceType). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_terms.price_floating_ratio IS 'Percent of the reference price (adv.priceFloatingRatio). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_terms.rate_floating_ratio IS 'Percent (adv.rateFloatingRatio). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_terms.initial_amount IS 'Amount the ad began with, in units of the asset (adv.initAmount). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_terms.buyer_kyc_limit IS 'Condition for the taker (adv.buyerKycLimit). NULL: none or not told.';
COMMENT ON COLUMN warehouse.offer_terms.buyer_registration_days IS 'Days the taker must be registered (adv.buyerRegDaysLimit). NULL: none or not told.';
COMMENT ON COLUMN warehouse.offer_terms.buyer_btc_position IS 'BTC the taker must hold (adv.buyerBtcPositionLimit). NULL: none or not told.';
COMMENT ON COLUMN warehouse.offer_terms.taker_conditions IS 'Further conditions for the taker, by the exchange''s names, only those that are set (fields of adv that begin with user). NULL: none or not told.';
COMMENT ON COLUMN warehouse.offer_terms.adv_status IS '1 online, 3 offline, 4 closed (adv.advStatus). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_terms.ad_created_at IS 'When the advertiser made the ad (adv.createTime). NULL: not told.';
COMMENT ON COLUMN warehouse.offer_terms.ad_updated_at IS 'When the advertiser last changed the ad (adv.advUpdateTime). NULL: not told.';

CREATE TABLE warehouse.advertiser_profiles (
    advertiser_id           integer NOT NULL,
    observed_at             timestamptz NOT NULL,
    content_hash            bigint NOT NULL,
    orders                  integer,
    buy_orders              integer,
    sell_orders             integer,
    btc_volume              numeric,
    btc_bought              numeric,
    btc_sold                numeric,
    counterparties          integer,
    orders_30d              integer,
    buy_orders_30d          integer,
    sell_orders_30d         integer,
    btc_volume_30d          numeric,
    completion_rate_30d     numeric,
    average_pay_seconds_30d numeric,
    average_release_seconds_30d numeric,
    release_seconds         integer,
    order_count             integer,
    margin                  numeric,
    margin_unit             text,
    equivalent_margin       numeric,
    equivalent_margin_unit  text,
    margins                 jsonb,
    is_email_verified       boolean,
    is_mobile_bound         boolean,
    is_kyc_verified         boolean,
    kyc_type                integer,
    kyc_status              text,
    kyc_address_status      text,
    is_company              boolean,
    PRIMARY KEY (advertiser_id, observed_at)
);
COMMENT ON TABLE warehouse.advertiser_profiles IS 'Figures of advertisers that only their own page tells, a row only when one of them changed. Empty unless ADVERTISER_REQUESTS_PER_BATCH is set.';
COMMENT ON COLUMN warehouse.advertiser_profiles.advertiser_id IS 'Advertiser (dim_advertisers.advertiser_id).';
COMMENT ON COLUMN warehouse.advertiser_profiles.observed_at IS 'When an answer first told this; it holds until the next row, as far as anybody looked.';
COMMENT ON COLUMN warehouse.advertiser_profiles.content_hash IS 'xxh3 of the columns that follow: tells a change without comparing them all.';
COMMENT ON COLUMN warehouse.advertiser_profiles.orders IS 'Orders completed since registration (userStatsRet.completedOrderNum). NULL, here and below: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.buy_orders IS 'Of these, orders in which the advertiser bought (userStatsRet.completedBuyOrderNum). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.sell_orders IS 'Of these, orders in which the advertiser sold (userStatsRet.completedSellOrderNum). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.btc_volume IS 'Worth of these orders, in BTC, all digits sent (userStatsRet.completedOrderTotalBtcAmount). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.btc_bought IS 'Worth of what the advertiser bought, in BTC (userStatsRet.completedBuyOrderTotalBtcAmount). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.btc_sold IS 'Worth of what the advertiser sold, in BTC (userStatsRet.completedSellOrderTotalBtcAmount). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.counterparties IS 'Different users traded with (userStatsRet.counterpartyCount). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.orders_30d IS 'Orders completed in 30 days (userStatsRet.completedOrderNumOfLatest30day). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.buy_orders_30d IS 'Of these, orders in which the advertiser bought (userStatsRet.completedBuyOrderNumOfLatest30day). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.sell_orders_30d IS 'Of these, orders in which the advertiser sold (userStatsRet.completedSellOrderNumOfLatest30day). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.btc_volume_30d IS 'Worth of the orders of 30 days, in BTC (userStatsRet.completedOrderTotalBtcAmountOfLatest30day). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.completion_rate_30d IS 'Share of orders completed in 30 days, 0 to 1, all digits sent (userStatsRet.finishRateLatest30day). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.average_pay_seconds_30d IS 'Average time in which the advertiser paid, 30 days, in seconds; 0 also without such orders (userStatsRet.avgPayTimeOfLatest30day). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.average_release_seconds_30d IS 'Average time in which the advertiser released, 30 days, in seconds; 0 also without such orders (userStatsRet.avgReleaseTimeOfLatest30day). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.release_seconds IS 'Average time to release, in seconds, as an older figure of the exchange has it; mostly 0 (userDetailVo.advConfirmTime). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.order_count IS 'As sent, meaning unknown: neither orders nor orders_30d; mostly 0 (userDetailVo.orderCount). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.margin IS 'Deposit of the advertiser, in margin_unit (userDetailVo.margin). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.margin_unit IS 'Asset of the deposit (userDetailVo.marginUnit). NULL: none or not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.equivalent_margin IS 'Worth of all deposits, in equivalent_margin_unit (userDetailVo.eqMargin). NULL: none or not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.equivalent_margin_unit IS 'Its unit (userDetailVo.eqMarginUnit). NULL: none or not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.margins IS 'Deposits one by one, as sent, numbers digit for digit (userDetailVo.marginStats). NULL: none or not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.is_email_verified IS 'As sent (userDetailVo.emailVerified). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.is_mobile_bound IS 'As sent (userDetailVo.bindMobile). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.is_kyc_verified IS 'As sent (userDetailVo.kycVerified). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.kyc_type IS 'As sent; 1 in all captures (userDetailVo.kycType). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.kyc_status IS 'As sent, for example PASS (userDetailVo.kycStatus). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.kyc_address_status IS 'As sent, for example PASS or REFUSED (userDetailVo.userKycRet.addressStatus). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_profiles.is_company IS 'Whether it is the account of a company (userDetailVo.isCompanyAccount). NULL: not told.';

CREATE TABLE pipeline.advertiser_catalog (
    advertiser_id        integer PRIMARY KEY,
    asked_at             timestamptz NOT NULL,
    read_at              timestamptz,
    failed_at            timestamptz,
    failure              text,
    consecutive_failures integer NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
COMMENT ON TABLE pipeline.advertiser_catalog IS 'When the pages of advertisers were read; who is not there was never asked for.';
COMMENT ON COLUMN pipeline.advertiser_catalog.advertiser_id IS 'Advertiser (dim_advertisers.advertiser_id).';
COMMENT ON COLUMN pipeline.advertiser_catalog.asked_at IS 'When a job for it was last planned.';
COMMENT ON COLUMN pipeline.advertiser_catalog.read_at IS 'When its page was last read. NULL: never.';
COMMENT ON COLUMN pipeline.advertiser_catalog.failed_at IS 'When a job for it last failed. NULL: never.';
COMMENT ON COLUMN pipeline.advertiser_catalog.failure IS 'Class of the error of that job. NULL: none failed.';
COMMENT ON COLUMN pipeline.advertiser_catalog.consecutive_failures IS 'Failures since it was last read; each doubles the time before it is asked for again.';

ALTER TABLE pipeline.jobs ADD COLUMN advertiser_id integer;
ALTER TABLE pipeline.jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE pipeline.jobs ADD CONSTRAINT jobs_kind_check
    CHECK (kind IN ('fiat_list', 'assets', 'payment_methods', 'search', 'advertiser'));
ALTER TABLE pipeline.jobs ADD CONSTRAINT jobs_advertiser_check
    CHECK ((kind = 'advertiser') = (advertiser_id IS NOT NULL));
COMMENT ON COLUMN pipeline.jobs.kind IS 'fiat_list, assets and payment_methods discover; search reads a page of ads; advertiser reads the page of an advertiser.';
COMMENT ON COLUMN pipeline.jobs.advertiser_id IS 'Advertiser (dim_advertisers.advertiser_id) of advertiser. NULL: the others.';
COMMENT ON COLUMN pipeline.jobs.market_id IS 'Market of a search. NULL: the others.';
COMMENT ON COLUMN pipeline.jobs.page IS 'Page of a search, from 1. NULL: the others.';
COMMENT ON COLUMN pipeline.jobs.ads_taken IS 'Ads stored; of an advertiser''s page, ads whose terms were taken. NULL: a list, or no answer.';
COMMENT ON COLUMN pipeline.jobs.ads_refused IS 'Ads put into quarantine. NULL: a list, or no answer.';
COMMENT ON COLUMN pipeline.jobs.expires_at IS 'Instant after which a worker does not begin it. A batch does not wait for jobs of advertisers: these may end after its close, until this instant.';

ALTER TABLE pipeline.batches ADD COLUMN advertisers_open integer;
COMMENT ON COLUMN pipeline.batches.advertisers_open IS 'Jobs of advertisers that were out when the batch closed. They end until its deadline, or are expired when a later batch is opened, which sets this to 0. NULL: open, or closed before this was recorded.';
COMMENT ON COLUMN pipeline.batches.requests IS 'Requests sent by workers that lived to tell, until the close.';
