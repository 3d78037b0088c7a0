//! The worker on real servers, with an exchange of a few scripted bytes.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions; these are their helpers"
)]

mod archive;
mod binary;
mod client;
mod contents;
mod exchange;
mod fleet;
mod identity;
mod kept;
mod limiter;
mod limiter_script;
mod poison;
mod proxy;
mod versions;
mod waiting;

use chrono::NaiveDate;
use shared::settings::Vars;
use sqlx::PgPool;
use worker::settings::Settings;

/// A variable that the test run was told.
fn variable(name: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "the servers of a test run are told this way")]
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run the tests by `make test`"))
}

/// Makes the partitions of a day.
async fn make_day(pool: &PgPool, day: NaiveDate) {
    sqlx::query("SELECT pipeline.make_partitions($1, $1)").bind(day).execute(pool).await.unwrap();
}

/// A name that no other test and no other run has.
fn unique(name: &str) -> String {
    format!("{name}-{}", uuid::Uuid::new_v4().simple())
}

/// Settings for the servers of the test run, with more on top.
fn settings(more: &[(&str, &str)]) -> Settings {
    let servers = ["DATABASE_URL", "AMQP_URL", "REDIS_URL"].map(|name| (name, variable(name)));
    let egress = unique("test");
    let mut pairs: Vec<(&str, &str)> =
        servers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    pairs.extend([
        ("EGRESS_ID", egress.as_str()),
        ("INITIAL_RATE_LIMIT", "60000"),
        ("MAX_RATE_LIMIT", "60000"),
    ]);
    pairs.extend(more);
    Settings::read(Vars::from_pairs(pairs)).unwrap()
}
