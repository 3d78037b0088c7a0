//! The coordinator on real servers.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions; these are their helpers"
)]

mod archive;
mod batches;
mod binary;
mod jobs;
mod leader;
mod marts;
mod quality;
mod requests;
mod retention;
mod roles;
mod schedule;
mod status;
mod watch;

use chrono::NaiveDate;
use coordinator::quality::Thresholds;
use coordinator::settings::Settings;
use rust_decimal::dec;
use shared::settings::Vars;
use sqlx::{ConnectOptions, PgPool};

/// Where quality checks warn or fail.
const THRESHOLDS: Thresholds =
    Thresholds { completeness: dec!(0.995), price_anomaly: dec!(0.20), volume_drop: dec!(0.50) };

/// A variable that the test run was told.
fn variable(name: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "the servers of a test run are told this way")]
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run the tests by `make test`"))
}

/// The URL of the database that the test was given.
fn url_of(pool: &PgPool) -> String {
    pool.connect_options().to_url_lossy().to_string()
}

/// Settings for the test's own database.
fn settings(pool: &PgPool) -> Settings {
    let (database, broker) = (url_of(pool), variable("AMQP_URL"));
    let name = database.rsplit('/').next().unwrap();
    let database_name = name.split('?').next().unwrap().to_owned();
    let pairs = [
        ("DATABASE_URL", database.as_str()),
        ("AMQP_URL", broker.as_str()),
        ("AMQP_PREFIX", database_name.as_str()),
        ("BATCH_DEADLINE_SECONDS", "1"),
        // Many coordinators of one machine have no port each.
        ("STATUS_PORT", "0"),
    ];
    Settings::read(Vars::from_pairs(pairs)).unwrap()
}

/// Partitions of `day` and the two days after it, and market 1: USDT/VES BUY.
async fn make_market(pool: &PgPool, day: NaiveDate) {
    sqlx::query("SELECT pipeline.make_partitions($1, $1 + 2)")
        .bind(day)
        .execute(pool)
        .await
        .unwrap();
    sqlx::raw_sql(
        "INSERT INTO warehouse.dim_fiat_currencies (currency_code, first_seen_at) VALUES ('VES', now());
         INSERT INTO warehouse.dim_cryptocurrencies (symbol, first_seen_at) VALUES ('USDT', now());
         INSERT INTO warehouse.dim_markets (market_id, exchange_id, fiat_id, crypto_id, trade_type, first_seen_at)
         OVERRIDING SYSTEM VALUE SELECT 1, 1, fiat_id, crypto_id, 'BUY', now()
           FROM warehouse.dim_fiat_currencies, warehouse.dim_cryptocurrencies",
    )
    .execute(pool)
    .await
    .unwrap();
}
