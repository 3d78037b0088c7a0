-- The plain wide table: a row per ad and reading, with the two indexes that its questions need (a market
-- in time, an advertiser in time). Pages are noted so that a task done twice stores nothing twice.
CREATE TABLE IF NOT EXISTS plain_offers (
    batch_id int NOT NULL, extraction_timestamp timestamptz NOT NULL,
    fiat text NOT NULL, asset text NOT NULL, trade_type text NOT NULL, page int NOT NULL, rank int NOT NULL,
    adv_no text NOT NULL, price numeric(20,8) NOT NULL, available_amount numeric(20,8) NOT NULL,
    tradable_quantity numeric(20,8), min_limit numeric(20,8) NOT NULL, max_limit numeric(20,8) NOT NULL,
    dynamic_max_limit numeric(20,8), min_quantity numeric(20,8), max_quantity numeric(20,8),
    dynamic_max_quantity numeric(20,8), commission_rate numeric(20,8), pay_time_limit_minutes int,
    payment_methods text[] NOT NULL, classify text, is_tradable boolean,
    asset_scale int, fiat_scale int, price_scale int,
    user_no text NOT NULL, nickname text NOT NULL, user_type text, user_identity text, user_grade int,
    month_order_count int, completion_rate numeric(20,8), positive_rate numeric(20,8), active_seconds int
);
CREATE INDEX IF NOT EXISTS plain_offers_market ON plain_offers (fiat, asset, trade_type, extraction_timestamp);
CREATE INDEX IF NOT EXISTS plain_offers_advertiser ON plain_offers (user_no, extraction_timestamp);
CREATE TABLE IF NOT EXISTS plain_pages (
    batch_id int NOT NULL, fiat text NOT NULL, asset text NOT NULL, trade_type text NOT NULL, page int NOT NULL,
    total int, PRIMARY KEY (batch_id, fiat, asset, trade_type, page)
);
