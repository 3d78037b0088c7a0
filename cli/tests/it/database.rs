//! A migrated database of a test's own, filled by hand, thrown away at the end.
//!
//! Times are slots of ten minutes, counted back from the latest one that is old enough to be missed.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

/// Seconds between slots.
pub(crate) const INTERVAL: i64 = 600;
/// Seconds after which a slot of which nothing is recorded is a gap.
const UNRECORDED_AFTER: i64 = 120;

pub(crate) struct Database {
    pub(crate) pool: PgPool,
    admin: PgPool,
    pub(crate) name: String,
    pub(crate) url: String,
    base: i64,
}

/// Pages of a book: planned, read, lost, shed.
pub(crate) type Pages = [i32; 4];

fn base() -> i64 {
    let overdue = Utc::now().timestamp() - UNRECORDED_AFTER;
    overdue - overdue.rem_euclid(INTERVAL)
}

impl Database {
    pub(crate) async fn create() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ledger_{}_{number}", std::process::id());
        #[expect(
            clippy::disallowed_methods,
            reason = "the servers of a test run are told this way"
        )]
        let url = std::env::var("DATABASE_URL")
            .expect("DATABASE_URL is not set: run the tests by `make test`");
        let options: PgConnectOptions = url.parse().unwrap();
        let one = || PgPoolOptions::new().max_connections(1);
        let admin = one().connect_with(options.clone()).await.unwrap();
        let create = format!("CREATE DATABASE {name}");
        sqlx::query(AssertSqlSafe(create)).execute(&admin).await.unwrap();
        let options = options.database(&name);
        let url = options.to_url_lossy().to_string();
        let pool = one().connect_with(options).await.unwrap();
        // The last moments of an interval are waited for: a test must see one base.
        let left = base() + INTERVAL + UNRECORDED_AFTER - Utc::now().timestamp();
        if left < 30 {
            tokio::time::sleep(std::time::Duration::from_secs(left.unsigned_abs() + 1)).await;
        }
        let database = Self { pool, admin, name, url, base: base() };
        let migrated = database.p2p(&["migrate"]);
        assert!(migrated.status.success(), "{migrated:?}");
        database.run("SELECT pipeline.make_partitions(current_date - 4, current_date)").await;
        database
    }

    pub(crate) async fn remove(self) {
        self.pool.close().await;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        sqlx::query(AssertSqlSafe(drop)).execute(&self.admin).await.unwrap();
    }

    /// The real binary on this database.
    pub(crate) fn p2p(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2p"));
        // The owner's would go before it; empty counts as absent, whatever a `.env` says.
        let settings = [("DATABASE_URL", self.url.as_str()), ("OWNER_DATABASE_URL", "")];
        command.args(args).envs(settings);
        command
    }

    /// Its exit code and what it prints.
    pub(crate) fn text(&self, args: &[&str]) -> (i32, String) {
        let output = self.p2p(args);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    /// The same, as JSON.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> (i32, Value) {
        let (code, text) = self.text(&[args, &["--json"]].concat());
        (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
    }

    pub(crate) async fn run(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.pool).await.unwrap();
    }

    /// The slot `n` intervals before the latest that may count as unrecorded.
    pub(crate) fn slot(&self, n: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(self.base - n * INTERVAL, 0).unwrap()
    }

    /// The same as JSON has it.
    pub(crate) fn slot_json(&self, n: i64) -> Value {
        serde_json::to_value(self.slot(n)).unwrap()
    }

    /// When a book of the batch of slot `n` was last read.
    pub(crate) fn read_json(&self, n: i64) -> Value {
        serde_json::to_value(self.slot(n) + TimeDelta::seconds(30)).unwrap()
    }

    /// The batch of slot `n`.
    pub(crate) fn id(&self, n: i64) -> i32 {
        let slot = self.slot(n).timestamp();
        i32::try_from(((slot / 86_400) << 9) + slot % 86_400 / INTERVAL).unwrap()
    }

    /// A leader that keeps the schedule.
    pub(crate) async fn leader(&self, since: DateTime<Utc>) {
        sqlx::query("INSERT INTO pipeline.leaders VALUES (1, 1, 'host-1', $1, 600)")
            .bind(since)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// A listed market `asset`/`fiat` BUY, known for long.
    pub(crate) async fn market(&self, asset: &str, fiat: &str) -> i32 {
        sqlx::query_scalar(
            "WITH f AS (
                INSERT INTO warehouse.dim_fiat_currencies (currency_code, first_seen_at)
                VALUES ($2, now() - interval '9 d')
                    ON CONFLICT (currency_code) DO UPDATE SET currency_code = $2 RETURNING fiat_id
             ), c AS (
                INSERT INTO warehouse.dim_cryptocurrencies (symbol, first_seen_at)
                VALUES ($1, now() - interval '9 d')
                    ON CONFLICT (symbol) DO UPDATE SET symbol = $1 RETURNING crypto_id
             ), l AS (
                INSERT INTO pipeline.fiat_catalog (exchange_id, fiat_id, is_listed, listed_at)
                SELECT 1, fiat_id, true, now() FROM f ON CONFLICT DO NOTHING
             ), m AS (
                INSERT INTO warehouse.dim_markets (exchange_id, fiat_id, crypto_id, trade_type, first_seen_at)
                SELECT 1, fiat_id, crypto_id, 'BUY', now() - interval '9 d' FROM f, c RETURNING market_id)
             INSERT INTO pipeline.catalog (market_id, is_listed, listed_at)
             SELECT market_id, true, now() FROM m RETURNING market_id",
        )
        .bind(asset)
        .bind(fiat)
        .fetch_one(&self.pool)
        .await
        .unwrap()
    }

    /// A closed batch that took slot `n`: opened after a second, closed after a minute.
    pub(crate) async fn closed(&self, n: i64, outcome: &str, reason: Option<&str>) -> i32 {
        let id = self.id(n);
        sqlx::query(
            "WITH b AS (
                INSERT INTO pipeline.batches
                       (batch_id, day, exchange_id, slot_at, trigger, state, outcome, reason, opened_by, opened_at,
                        planned_at, deadline_at, closed_at)
                VALUES ($1, ($2 AT TIME ZONE 'UTC')::date, 1, $2, 'schedule', 'closed', $3, $4, 'host-1',
                        $2 + interval '1 s', $2 + interval '2 s', $2 + interval '480 s', $2 + interval '60.5 s')
                RETURNING batch_id)
             INSERT INTO pipeline.slots SELECT 1, $2, batch_id, 'batch', NULL, $2 FROM b",
        )
        .bind(id)
        .bind(self.slot(n))
        .bind(outcome)
        .bind(reason)
        .execute(&self.pool)
        .await
        .unwrap();
        id
    }

    pub(crate) async fn skipped(&self, n: i64, reason: &str) {
        sqlx::query("INSERT INTO pipeline.slots VALUES (1, $1, NULL, 'skipped', $2, now())")
            .bind(self.slot(n))
            .bind(reason)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// The certificate of a book, and the latest state if it is good.
    pub(crate) async fn book(&self, n: i64, market: i32, verdict: &str, pages: Pages) {
        let [planned, read, lost, shed] = pages;
        sqlx::query(
            "WITH b AS (
                INSERT INTO warehouse.books
                       (day, batch_id, market_id, verdict, pages_planned, pages_read, pages_lost, pages_shed,
                        pages_reread, listed_ads, distinct_ads, duplicate_ads, refused_ads, last_fetched_at)
                VALUES (($2 AT TIME ZONE 'UTC')::date, $1, $3, $4, $5, $6, $7, $8, 0, 0, 0, 0, 0,
                        CASE WHEN $6 > 0 THEN $2 + interval '30 s' END) RETURNING *)
             INSERT INTO warehouse.latest_books
             SELECT market_id, day, batch_id, verdict, last_fetched_at FROM b
              WHERE pages_read > 0 AND pages_lost = 0 AND pages_shed = 0
                 ON CONFLICT (market_id) DO UPDATE
                SET day = EXCLUDED.day, batch_id = EXCLUDED.batch_id, read_at = EXCLUDED.read_at",
        )
        .bind(self.id(n))
        .bind(self.slot(n))
        .bind(market)
        .bind(verdict)
        .bind(planned)
        .bind(read)
        .bind(lost)
        .bind(shed)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// A page of a market, or the list of a fiat (`page` 0) that `market` belongs to, ended in the batch
    /// of slot `n` after twenty seconds.
    pub(crate) async fn job(
        &self,
        n: i64,
        (kind, market, page): (&str, i32, i16),
        (state, reason): (&str, Option<&str>),
    ) {
        sqlx::query(
            "INSERT INTO pipeline.jobs
                    (day, batch_id, ordinal, kind, market_id, fiat_id, page, urgent, ads_expected, state, reason,
                     attempts, http_status, worker_id, egress_id, detail, planned_at, ended_at, expires_at)
             SELECT ($2 AT TIME ZONE 'UTC')::date, $1,
                    (SELECT count(*) FROM pipeline.jobs WHERE batch_id = $1),
                    $3, CASE $3 WHEN 'search' THEN $4 END,
                    CASE WHEN $3 <> 'search' THEN (SELECT fiat_id FROM warehouse.dim_markets WHERE market_id = $4) END,
                    nullif($5, 0::smallint), false, false, $6, $7,
                    CASE WHEN $6 IN ('done', 'failed', 'empty') THEN 1 ELSE 0 END,
                    CASE $7 WHEN 'rate_limited' THEN 429 END,
                    CASE WHEN $6 IN ('done', 'failed', 'empty') THEN 'w1' END,
                    CASE WHEN $6 IN ('done', 'failed', 'empty') THEN 'e1' END,
                    CASE $6 WHEN 'failed' THEN 'in words' END, $2,
                    CASE WHEN $6 NOT IN ('planned', 'published') THEN $2 + interval '20 s' END, $2",
        )
        .bind(self.id(n))
        .bind(self.slot(n))
        .bind(kind)
        .bind(market)
        .bind(page)
        .bind(state)
        .bind(reason)
        .execute(&self.pool)
        .await
        .unwrap();
    }
}
