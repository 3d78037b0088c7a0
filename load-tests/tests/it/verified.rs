//! A collector without faults, in a few lines of SQL, and what `verify` says of it: equal. Then one
//! fault at a time.

use std::collections::HashMap;

use load_tests::truth::{MarketKey, unix_us};
use load_tests::verify::{Options, run};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool};

use crate::sim::{Sim, content};

const WORLD: &str = "--fiats 2 --assets 3 --ads 150 --churn-per-minute 100 --change-per-minute 300 --rename-per-hour 900 --tie-shuffle-per-mille 0";
/// Unix microseconds to a timestamp.
const AT: &str = "'epoch'::timestamptz + interval '1 microsecond' * ";

/// The texts of numbers: a double does not hold the digits that are sent.
#[derive(Deserialize)]
struct Page {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    advertiser: HashMap<String, Box<RawValue>>,
}

struct Collector<'a> {
    pool: &'a PgPool,
    sim: &'a Sim,
    markets: Vec<(i32, MarketKey)>,
    advertisers: HashMap<String, i32>,
    ordinal: i32,
}

impl<'a> Collector<'a> {
    async fn new(pool: &'a PgPool, sim: &'a Sim) -> Self {
        execute(pool, "SELECT pipeline.make_partitions(current_date, current_date)").await;
        let mut markets = Vec::new();
        for market in sim.markets() {
            let MarketKey { fiat, asset, side } = &market;
            execute(pool, &format!("INSERT INTO warehouse.dim_fiat_currencies (currency_code, first_seen_at) VALUES ('{fiat}', now()) ON CONFLICT DO NOTHING")).await;
            execute(pool, &format!("INSERT INTO warehouse.dim_cryptocurrencies (symbol, first_seen_at) VALUES ('{asset}', now()) ON CONFLICT DO NOTHING")).await;
            let id = number(pool, &format!("INSERT INTO warehouse.dim_markets (exchange_id, fiat_id, crypto_id, trade_type, first_seen_at) SELECT 1, fiat_id, crypto_id, '{side}', now() FROM warehouse.dim_fiat_currencies, warehouse.dim_cryptocurrencies WHERE currency_code = '{fiat}' AND symbol = '{asset}' RETURNING market_id")).await;
            markets.push((id, market));
        }
        Self { pool, sim, markets, advertisers: HashMap::new(), ordinal: 0 }
    }

    /// Reads every book, and lets the world move between two books.
    async fn read_batch(&mut self, slot: i32) {
        self.ordinal = 0;
        let opened = unix_us();
        let batch = format!("((current_date - DATE '1970-01-01') << 9 | {slot})");
        for (market_id, market) in self.markets.clone() {
            let (mut ads, mut page) = (0, 1);
            loop {
                let items = self.read_page(slot, &batch, market_id, &market, page).await;
                ads += items;
                if items < 20 {
                    break;
                }
                page += 1;
            }
            let verdict = if ads == 0 { "empty" } else { "complete" };
            execute(self.pool, &format!("INSERT INTO warehouse.books (day, batch_id, market_id, verdict, pages_planned, pages_read, pages_lost, pages_shed, pages_reread, listed_ads, distinct_ads, duplicate_ads, refused_ads, estimated_missed) VALUES (current_date, {batch}, {market_id}, '{verdict}', {page}, {page}, 0, 0, 0, {ads}, {ads}, 0, 0, 0)")).await;
            self.sim.advance(5_000);
        }
        execute(self.pool, &format!("INSERT INTO pipeline.batches (batch_id, day, exchange_id, slot_at, trigger, state, outcome, opened_by, opened_at, deadline_at, closed_at) VALUES ({batch}, current_date, 1, now(), 'once', 'closed', 'complete', 'test', {AT}{opened}, now(), clock_timestamp())")).await;
    }

    async fn read_page(
        &mut self,
        slot: i32,
        batch: &str,
        market_id: i32,
        market: &MarketKey,
        number: usize,
    ) -> usize {
        let (ordinal, requested) = (self.ordinal, unix_us());
        self.ordinal += 1;
        let reply = self.sim.raw_page(market, number);
        let fetched = unix_us();
        // A promoted ad that comes again at its place is stored there only.
        let texts: Page = serde_json::from_slice(&reply.body).unwrap();
        let page = reply.json();
        let items = page["data"].as_array().unwrap().iter().zip(texts.data);
        let items: Vec<(&Value, Item)> =
            items.filter(|(item, _)| item["privilegeType"] != 8).collect();
        let state = if items.is_empty() { "empty" } else { "done" };
        execute(self.pool, &format!("INSERT INTO pipeline.jobs (day, batch_id, ordinal, kind, market_id, page, urgent, ads_expected, state, planned_at, requested_at, fetched_at, ended_at, expires_at) VALUES (current_date, {batch}, {ordinal}, 'search', {market_id}, {number}, false, true, '{state}', now(), {AT}{requested}, {AT}{fetched}, now(), now())")).await;
        let mut ids = Vec::new();
        for (at, (item, texts)) in (0..).zip(&items) {
            ids.push((slot << 22) | (ordinal << 5) | at);
            self.store_ad(ids[ids.len() - 1], market_id, item, texts).await;
        }
        if !ids.is_empty() {
            execute(self.pool, &format!("INSERT INTO warehouse.book_pages (day, batch_id, market_id, page, ordinal, fetched_at, offer_ids, active_minutes) VALUES (current_date, {batch}, {market_id}, {number}, {ordinal}, {AT}{fetched}, ARRAY{ids:?}, '{{}}')")).await;
        }
        items.len()
    }

    async fn store_ad(&mut self, id: i32, market_id: i32, item: &Value, texts: &Item) {
        let ad = content(item);
        let advertiser_sk = self.store_advertiser(&item["advertiser"], texts).await;
        let mut methods = Vec::new();
        for method in &ad.payment_methods {
            methods.push(number(self.pool, &format!("INSERT INTO warehouse.dim_payment_methods (exchange_id, identifier, method_name, first_seen_at) VALUES (1, '{method}', '{method}', now()) ON CONFLICT (exchange_id, identifier) DO UPDATE SET method_name = '{method}' RETURNING payment_method_id")).await);
        }
        let adv_no = item["adv"]["advNo"].as_str().unwrap();
        let json = |value: &Option<Value>| {
            value.as_ref().map_or("NULL".to_owned(), |value| format!("'{value}'"))
        };
        let minutes = ad.pay_time_limit.map_or("NULL".to_owned(), |minutes| minutes.to_string());
        let amounts = [
            &ad.price,
            &ad.surplus_amount,
            &ad.tradable_quantity,
            &ad.min_amount,
            &ad.max_amount,
            &ad.dynamic_max_amount,
            &ad.min_quantity,
            &ad.max_quantity,
            &ad.dynamic_max_quantity,
        ]
        .map(String::as_str)
        .join(", ");
        execute(self.pool, &format!("INSERT INTO warehouse.offer_versions (day, id, market_id, advertiser_sk, content_hash, first_seen_at, adv_no, price, available_amount, tradable_quantity, min_limit, max_limit, dynamic_max_limit, min_quantity, max_quantity, dynamic_max_quantity, pay_time_limit_minutes, payment_method_ids, classify, voucher_template, system_labels) VALUES (current_date, {id}, {market_id}, {advertiser_sk}, 0, now(), '{adv_no}', {amounts}, {minutes}, ARRAY{methods:?}, '{}', {}, {})", ad.classify, json(&ad.voucher_template), json(&ad.adv_system_label_ret))).await;
    }

    async fn store_advertiser(&mut self, advertiser: &Value, texts: &Item) -> i32 {
        let text = |key: &str| advertiser[key].as_str().unwrap().to_owned();
        let rate = |key: &str| texts.advertiser[key].get().parse::<Decimal>().unwrap();
        let orders = i32::try_from(advertiser["monthOrderCount"].as_i64().unwrap()).unwrap();
        let user_no = text("userNo");
        let sk = match self.advertisers.get(&user_no) {
            Some(&sk) => sk,
            None => number(self.pool, &format!("INSERT INTO warehouse.dim_advertisers (exchange_id, user_no, advertiser, is_merchant, is_pro_merchant, identity_hash, valid_from, is_current, figures_at) VALUES (1, '{user_no}', '', false, false, 0, now(), true, now()) RETURNING advertiser_sk")).await,
        };
        self.advertisers.insert(user_no, sk);
        sqlx::query("UPDATE warehouse.dim_advertisers SET advertiser = $2, user_type = $3, user_identity = $4, user_grade = $5, month_order_count = $6, completion_rate = $7, positive_rate = $8, release_seconds = $9 WHERE advertiser_sk = $1")
            .bind(sk)
            .bind(text("nickName"))
            .bind(text("userType"))
            .bind(text("userIdentity"))
            .bind(i16::try_from(advertiser["userGrade"].as_i64().unwrap()).unwrap())
            .bind(orders)
            .bind(rate("monthFinishRate"))
            .bind(rate("positiveRate"))
            .bind(advertiser["advConfirmTime"].as_i64())
            .execute(self.pool)
            .await
            .unwrap();
        sk
    }
}

async fn execute(pool: &PgPool, sql: &str) {
    sqlx::query(AssertSqlSafe(sql)).execute(pool).await.expect(sql);
}

async fn number(pool: &PgPool, sql: &str) -> i32 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.expect(sql)
}

async fn verify(pool: &PgPool, sim: &Sim) -> anyhow::Result<bool> {
    let database_url = pool.connect_options().to_url_lossy().to_string();
    run(&Options { truth: sim.truth.clone(), json: true, database_url }).await
}

#[sqlx::test(migrations = "../migrations")]
async fn a_faultless_collector_is_equal_and_each_fault_is_found(pool: PgPool) {
    let sim = Sim::start(WORLD);
    let nothing = verify(&pool, &sim).await.unwrap_err().to_string();
    assert!(nothing.contains("nothing to compare"), "{nothing}");

    let mut collector = Collector::new(&pool, &sim).await;
    collector.read_batch(0).await;
    collector.read_batch(1).await;
    assert!(verify(&pool, &sim).await.unwrap());

    let faults = [
        "UPDATE warehouse.offer_versions SET price = price + 0.00000001 WHERE id & 31 = 3",
        "UPDATE warehouse.offer_versions SET payment_method_ids = payment_method_ids[2:] WHERE id & 31 = 4",
        "UPDATE warehouse.book_pages SET offer_ids = offer_ids[2:] WHERE page = 1",
        "UPDATE warehouse.book_pages SET offer_ids = offer_ids || offer_ids[1:1] WHERE page = 1",
        "DELETE FROM warehouse.book_pages WHERE page = 2",
        "DELETE FROM warehouse.offer_versions WHERE id & 31 = 5",
        "DELETE FROM warehouse.books WHERE verdict = 'complete' AND batch_id & 511 = 1",
        "UPDATE pipeline.jobs SET requested_at = requested_at + interval '1 hour', fetched_at = fetched_at + interval '1 hour' WHERE ordinal = 0",
        "UPDATE warehouse.dim_advertisers SET advertiser = advertiser || ' '",
        "UPDATE warehouse.dim_advertisers SET month_order_count = month_order_count + 100000",
        "UPDATE warehouse.dim_advertisers SET release_seconds = coalesce(release_seconds, 0) + 1",
        "UPDATE warehouse.offer_versions SET voucher_template = NULL, system_labels = NULL",
        "UPDATE warehouse.offer_versions SET terms = 'Nobody said this', price_type = 1 WHERE id & 31 = 6",
    ];
    for fault in faults {
        // The fault is undone by putting back the tables it may touch.
        for table in TABLES {
            execute(&pool, &format!("CREATE TABLE kept_{} AS TABLE {table}", plain(table))).await;
        }
        execute(&pool, fault).await;
        assert!(!verify(&pool, &sim).await.unwrap(), "not found: {fault}");
        for table in TABLES {
            let rows = if table.ends_with("advertisers") {
                // Its keys are referred to and generated: put back the values only.
                format!(
                    "UPDATE {table} t SET advertiser = k.advertiser, month_order_count = k.month_order_count, release_seconds = k.release_seconds FROM kept_{} k WHERE k.advertiser_sk = t.advertiser_sk",
                    plain(table)
                )
            } else {
                execute(&pool, &format!("DELETE FROM {table}")).await;
                format!("INSERT INTO {table} TABLE kept_{}", plain(table))
            };
            execute(&pool, &rows).await;
            execute(&pool, &format!("DROP TABLE kept_{}", plain(table))).await;
        }
        assert!(verify(&pool, &sim).await.unwrap(), "not undone: {fault}");
    }
}

const TABLES: [&str; 5] = [
    "warehouse.offer_versions",
    "warehouse.book_pages",
    "warehouse.books",
    "pipeline.jobs",
    "warehouse.dim_advertisers",
];

fn plain(table: &str) -> &str {
    table.split('.').next_back().unwrap_or(table)
}
