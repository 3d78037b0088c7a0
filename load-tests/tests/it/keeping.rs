//! The least rights suffice for a whole batch, and what was read leaves the database as it is in it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Fleet;

const MARKET: &str =
    "--fiats 4 --ads 1500 --churn-per-minute 20 --change-per-minute 200 --latency-ms 5";

/// Coordinator and worker as `p2p_writer`; then an export, read back by another reader.
#[tokio::test(flavor = "multi_thread")]
async fn the_writer_suffices_and_an_export_reads_back() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let owner = fleet.database_url.clone();
    // The servers of tests ask for no password.
    let mut url = url::Url::parse(&owner)?;
    ensure!(url.set_username("p2p_writer").is_ok(), "a URL with a user");
    let writer = url.to_string();
    let settings = [("DATABASE_URL", writer.as_str()), ("OWNER_DATABASE_URL", owner.as_str())];
    let _worker = fleet.worker("a", &settings)?;
    for _ in 0..2 {
        assert_eq!(fleet.batch(&settings).await?, 0);
    }
    fleet.must_equal_truth().await?;
    // Who wrote is who was meant to.
    let others = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND usename = 'p2p_writer' AND application_name = 'worker'";
    assert!(fleet.number(others).await? > 0, "the worker is somebody else");

    let out = std::env::temp_dir().join(format!("{}_export", fleet.name));
    let from = "SELECT (min(day) - DATE '1970-01-01')::bigint FROM pipeline.batches";
    let day =
        chrono::NaiveDate::default() + chrono::Days::new(fleet.number(from).await?.unsigned_abs());
    let (day, to) = (day.to_string(), (day + chrono::Days::new(1)).to_string());
    let path = out.to_str().context("a path in UTF-8")?;
    let mut export =
        fleet.command("p2p", &["export", "--from", &day, "--to", &to, "--out", path])?;
    let exported = export.env("DATABASE_URL", &writer).output().await?;
    ensure!(exported.status.success(), "{exported:?}");
    // What the driver says of itself in a URL, psql does not know.
    let mut psql = url::Url::parse(&owner)?;
    psql.set_query(None);
    let check = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../dev/check-export");
        Command::new(script).arg(&out).env("DATABASE_URL", psql.as_str()).output()
    };
    let equal = check()?;
    let said = [equal.stdout, equal.stderr].concat();
    ensure!(equal.status.success(), "{}", String::from_utf8_lossy(&said));
    // The comparison can fail: one digit of one ad.
    let digit = "UPDATE warehouse.offer_versions SET price = price + 0.00000001
                  WHERE warehouse.offer_id(day, id) = (SELECT max(offer_id) FROM warehouse.fact_offers)";
    sqlx::query(digit).execute(&fleet.pool).await?;
    let different = check()?;
    let said = String::from_utf8_lossy(&different.stderr);
    ensure!(!different.status.success() && said.contains("['price'] differ"), "{different:?}");
    std::fs::remove_dir_all(&out)?;
    fleet.remove().await
}
