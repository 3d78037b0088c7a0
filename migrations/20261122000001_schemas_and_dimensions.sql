-- What people read (warehouse) and how it got there (pipeline), and the small tables that name things.

CREATE SCHEMA warehouse;
CREATE SCHEMA pipeline;
COMMENT ON SCHEMA warehouse IS 'What people read: facts, books with their certificates, dimensions.';
COMMENT ON SCHEMA pipeline IS 'How the facts got there: slots, batches, jobs, catalog, quarantine.';

CREATE TABLE warehouse.dim_exchanges (
    exchange_id   smallint PRIMARY KEY,
    exchange_name text NOT NULL UNIQUE
);
COMMENT ON TABLE warehouse.dim_exchanges IS 'Exchanges that are read.';
COMMENT ON COLUMN warehouse.dim_exchanges.exchange_id IS 'Key, fixed by migrations.';
COMMENT ON COLUMN warehouse.dim_exchanges.exchange_name IS 'Name in lower case, as in settings and messages, for example binance.';
INSERT INTO warehouse.dim_exchanges VALUES (1, 'binance');

CREATE TABLE warehouse.dim_fiat_currencies (
    fiat_id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    currency_code   text NOT NULL UNIQUE,
    currency_symbol text,
    currency_scale  smallint,
    country_code    text,
    first_seen_at   timestamptz NOT NULL
);
COMMENT ON TABLE warehouse.dim_fiat_currencies IS 'Fiat currencies that any exchange has ever listed.';
COMMENT ON COLUMN warehouse.dim_fiat_currencies.fiat_id IS 'Key.';
COMMENT ON COLUMN warehouse.dim_fiat_currencies.currency_code IS 'Code as the exchange writes it, mostly ISO 4217 (Binance: currencyCode).';
COMMENT ON COLUMN warehouse.dim_fiat_currencies.currency_symbol IS 'Symbol (Binance: currencySymbol). NULL: not told.';
COMMENT ON COLUMN warehouse.dim_fiat_currencies.currency_scale IS 'Decimals of the currency (Binance: currencyScale). NULL: not told.';
COMMENT ON COLUMN warehouse.dim_fiat_currencies.country_code IS 'Country as the exchange writes it (Binance: countryCode). NULL: not told.';
COMMENT ON COLUMN warehouse.dim_fiat_currencies.first_seen_at IS 'When a fiat list first named it.';

CREATE TABLE warehouse.dim_cryptocurrencies (
    crypto_id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol        text NOT NULL UNIQUE,
    crypto_name   text,
    first_seen_at timestamptz NOT NULL
);
COMMENT ON TABLE warehouse.dim_cryptocurrencies IS 'Assets that are traded for fiat. An asset may itself be a fiat (RUB for RUB in 2022).';
COMMENT ON COLUMN warehouse.dim_cryptocurrencies.crypto_id IS 'Key.';
COMMENT ON COLUMN warehouse.dim_cryptocurrencies.symbol IS 'Code as the exchange writes it, for example USDT (Binance: asset).';
COMMENT ON COLUMN warehouse.dim_cryptocurrencies.crypto_name IS 'Long name (Binance: description). NULL: not told.';
COMMENT ON COLUMN warehouse.dim_cryptocurrencies.first_seen_at IS 'When an asset list first named it.';

CREATE TABLE warehouse.dim_markets (
    market_id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange_id   smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    fiat_id       integer NOT NULL REFERENCES warehouse.dim_fiat_currencies,
    crypto_id     integer NOT NULL REFERENCES warehouse.dim_cryptocurrencies,
    trade_type    text NOT NULL CHECK (trade_type IN ('BUY', 'SELL')),
    first_seen_at timestamptz NOT NULL,
    UNIQUE (exchange_id, fiat_id, crypto_id, trade_type)
);
COMMENT ON TABLE warehouse.dim_markets IS 'Markets: exchange, fiat, asset and side.';
COMMENT ON COLUMN warehouse.dim_markets.market_id IS 'Key.';
COMMENT ON COLUMN warehouse.dim_markets.exchange_id IS 'Exchange.';
COMMENT ON COLUMN warehouse.dim_markets.fiat_id IS 'Fiat that is paid.';
COMMENT ON COLUMN warehouse.dim_markets.crypto_id IS 'Asset that is traded.';
COMMENT ON COLUMN warehouse.dim_markets.trade_type IS 'Side of the taker, as requested: BUY lists ads from which the taker buys. The ads themselves then say SELL.';
COMMENT ON COLUMN warehouse.dim_markets.first_seen_at IS 'When the exchange first offered it.';

CREATE TABLE warehouse.dim_payment_methods (
    payment_method_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange_id       smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    identifier        text NOT NULL,
    method_name       text NOT NULL,
    method_short_name text,
    first_seen_at     timestamptz NOT NULL,
    UNIQUE (exchange_id, identifier)
);
COMMENT ON TABLE warehouse.dim_payment_methods IS 'Payment methods, by the identifier of the exchange.';
COMMENT ON COLUMN warehouse.dim_payment_methods.payment_method_id IS 'Key.';
COMMENT ON COLUMN warehouse.dim_payment_methods.exchange_id IS 'Exchange whose identifier it is.';
COMMENT ON COLUMN warehouse.dim_payment_methods.identifier IS 'Key of the exchange (Binance: tradeMethods[].identifier, what payTypes takes).';
COMMENT ON COLUMN warehouse.dim_payment_methods.method_name IS 'Name to show (Binance: tradeMethodName); the identifier until a name was seen, for the exchange sends null for some.';
COMMENT ON COLUMN warehouse.dim_payment_methods.method_short_name IS 'Short name (Binance: tradeMethodShortName). NULL: none seen.';
COMMENT ON COLUMN warehouse.dim_payment_methods.first_seen_at IS 'When it was first seen, in an ad or in a list of methods.';

CREATE TABLE warehouse.fiat_payment_methods (
    exchange_id       smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    fiat_id           integer NOT NULL REFERENCES warehouse.dim_fiat_currencies,
    payment_method_id integer NOT NULL REFERENCES warehouse.dim_payment_methods,
    method_name       text,
    last_seen_at      timestamptz NOT NULL,
    PRIMARY KEY (exchange_id, fiat_id, payment_method_id)
);
COMMENT ON TABLE warehouse.fiat_payment_methods IS 'Which payment methods the exchange offers for a fiat (Binance: filter-conditions).';
COMMENT ON COLUMN warehouse.fiat_payment_methods.exchange_id IS 'Exchange.';
COMMENT ON COLUMN warehouse.fiat_payment_methods.fiat_id IS 'Fiat.';
COMMENT ON COLUMN warehouse.fiat_payment_methods.payment_method_id IS 'Payment method.';
COMMENT ON COLUMN warehouse.fiat_payment_methods.method_name IS 'Its name for this fiat. NULL: not told.';
COMMENT ON COLUMN warehouse.fiat_payment_methods.last_seen_at IS 'When the list of this fiat last named it; older than the others of the fiat means it was withdrawn.';

-- An advertiser keeps one advertiser_id for life; every change of identity opens a new advertiser_sk.
CREATE SEQUENCE warehouse.advertiser_ids AS integer;
CREATE TABLE warehouse.dim_advertisers (
    advertiser_sk         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    advertiser_id         integer NOT NULL DEFAULT nextval('warehouse.advertiser_ids'),
    exchange_id           smallint NOT NULL REFERENCES warehouse.dim_exchanges,
    user_no               text NOT NULL,
    advertiser            text NOT NULL,
    user_type             text,
    is_merchant           boolean NOT NULL,
    user_identity         text,
    user_grade            smallint,
    vip_level             smallint,
    badges                text[],
    is_pro_merchant       boolean NOT NULL,
    is_blocked            boolean,
    merchant_group_member boolean,
    identity_hash         bigint NOT NULL,
    valid_from            timestamptz NOT NULL,
    valid_to              timestamptz,
    is_current            boolean NOT NULL,
    month_order_count     integer,
    completion_rate       numeric,
    positive_rate         numeric,
    figures_at            timestamptz NOT NULL,
    CHECK (is_current = (valid_to IS NULL)),
    CHECK (valid_to >= valid_from)
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX dim_advertisers_current ON warehouse.dim_advertisers (exchange_id, user_no) WHERE is_current;
CREATE INDEX dim_advertisers_history ON warehouse.dim_advertisers (advertiser_id, valid_from);
COMMENT ON TABLE warehouse.dim_advertisers IS 'Advertisers, one row per version of identity (SCD2). The three figures are the last seen while the version was valid; their history is in advertiser_figures.';
COMMENT ON COLUMN warehouse.dim_advertisers.advertiser_sk IS 'Key of the version; facts point to the version that was valid when the ad was read.';
COMMENT ON COLUMN warehouse.dim_advertisers.advertiser_id IS 'The advertiser, the same for all versions.';
COMMENT ON COLUMN warehouse.dim_advertisers.exchange_id IS 'Exchange.';
COMMENT ON COLUMN warehouse.dim_advertisers.user_no IS 'Key of the exchange (Binance: advertiser.userNo).';
COMMENT ON COLUMN warehouse.dim_advertisers.advertiser IS 'Nickname, exactly as sent, trailing spaces and emoji included (nickName). Neither unique nor constant.';
COMMENT ON COLUMN warehouse.dim_advertisers.user_type IS 'user or merchant as sent (userType). NULL: not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.is_merchant IS 'Whether user_type is merchant.';
COMMENT ON COLUMN warehouse.dim_advertisers.user_identity IS 'For example MASS_MERCHANT, empty for ordinary users (userIdentity). NULL: not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.user_grade IS 'Grade 1 to 3 (userGrade). NULL: not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.vip_level IS 'VIP level (vipLevel). NULL: none or not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.badges IS 'Badges in the order sent (badges). NULL: none or not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.is_pro_merchant IS 'Whether proMerchant was filled.';
COMMENT ON COLUMN warehouse.dim_advertisers.is_blocked IS 'As sent (isBlocked). NULL: not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.merchant_group_member IS 'As sent (merchantGroupMember). NULL: not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.identity_hash IS 'xxh3 of the identity columns: tells a change without comparing them all.';
COMMENT ON COLUMN warehouse.dim_advertisers.valid_from IS 'When an answer first showed this identity.';
COMMENT ON COLUMN warehouse.dim_advertisers.valid_to IS 'When an answer first showed another one. NULL: still valid.';
COMMENT ON COLUMN warehouse.dim_advertisers.is_current IS 'Whether this is the valid version.';
COMMENT ON COLUMN warehouse.dim_advertisers.month_order_count IS 'Orders in 30 days (monthOrderCount), last seen in this version. NULL: not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.completion_rate IS 'Share of orders completed in 30 days, 0 to 1 (monthFinishRate), last seen in this version. NULL: not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.positive_rate IS 'Share of positive reviews, 0 to 1 (positiveRate), last seen in this version. NULL: not told.';
COMMENT ON COLUMN warehouse.dim_advertisers.figures_at IS 'When these figures were first seen with these values.';

CREATE TABLE warehouse.advertiser_figures (
    advertiser_id     integer NOT NULL,
    observed_at       timestamptz NOT NULL,
    month_order_count integer,
    completion_rate   numeric,
    positive_rate     numeric,
    PRIMARY KEY (advertiser_id, observed_at)
);
COMMENT ON TABLE warehouse.advertiser_figures IS 'Fast-moving figures of advertisers, a row only when one of them changed.';
COMMENT ON COLUMN warehouse.advertiser_figures.advertiser_id IS 'Advertiser (dim_advertisers.advertiser_id).';
COMMENT ON COLUMN warehouse.advertiser_figures.observed_at IS 'When an answer first showed these figures; they hold until the next row.';
COMMENT ON COLUMN warehouse.advertiser_figures.month_order_count IS 'Orders in 30 days (monthOrderCount). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_figures.completion_rate IS 'Share of orders completed in 30 days, 0 to 1, all digits sent (monthFinishRate). NULL: not told.';
COMMENT ON COLUMN warehouse.advertiser_figures.positive_rate IS 'Share of positive reviews, 0 to 1, all digits sent (positiveRate). NULL: not told.';
