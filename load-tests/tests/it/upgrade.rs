//! A rolling upgrade: programs of two versions at work on one database and one broker, on the schema of the
//! newer one (ADR 23).
//!
//! `OLD_PROGRAMS` names a directory with `worker`, `coordinator` and `p2p` of the version before, which
//! `make upgrade` builds from the history. Without it these programs play the older ones, on a schema that
//! a later version might have.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::{Fleet, Process};
use tokio::process::Command;

const MARKET: &str = "--fiats 3 --ads 600 --seed 5 --change-per-minute 100";

/// What a later version may do to the schema: add, and nothing else.
const EXPANDED: &str = "
    ALTER TABLE pipeline.jobs ADD COLUMN later_reason text, ADD COLUMN later_count integer NOT NULL DEFAULT 0;
    ALTER TABLE pipeline.batches ADD COLUMN later_reason text;
    ALTER TABLE pipeline.workers ADD COLUMN later_version text;
    ALTER TABLE warehouse.offer_versions ADD COLUMN later_field jsonb;
    ALTER TABLE warehouse.book_pages ADD COLUMN later_field integer[];
    ALTER TABLE warehouse.books ADD COLUMN later_verdict text DEFAULT 'unknown';
    CREATE TABLE pipeline.later (day date NOT NULL, note text);
    CREATE INDEX ON warehouse.books (later_verdict);
    SELECT pipeline.grant_roles();
    INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99991231000000, 'of a later version', true, 'later'::bytea, 1)";

/// A program of the version before.
fn old(fleet: &Fleet, name: &str, args: &[&str]) -> Result<Command> {
    let mut command = fleet.command(name, args)?;
    #[expect(clippy::disallowed_methods, reason = "make upgrade tells it this way")]
    if let Ok(directory) = std::env::var("OLD_PROGRAMS") {
        let path = PathBuf::from(directory).join(name);
        ensure!(path.exists(), "{} is missing", path.display());
        let mut old = Command::new(path);
        old.args(args).stdin(std::process::Stdio::null());
        for (name, value) in command.as_std().get_envs() {
            if let Some(value) = value {
                old.env(name, value);
            }
        }
        command = old;
    }
    Ok(command)
}

async fn batch(coordinator: Command) -> Result<()> {
    let status = Process::spawn(coordinator)?.wait().await?;
    ensure!(status.success(), "the coordinator ended with {status}");
    Ok(())
}

/// Each side decides once and works once, on the schema of after; then the old programs have it alone, as
/// when an upgrade is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_work_side_by_side() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    sqlx::raw_sql(EXPANDED).execute(&fleet.pool).await?;
    let worker = |id: &str, mut command: Command| -> Result<Process> {
        command.env("WORKER_ID", id);
        Process::spawn(command)
    };
    let mut old_worker = worker("old", old(&fleet, "worker", &["run"])?)?;
    let mut new_worker = worker("new", fleet.command("worker", &["run"])?)?;
    let batches = "SELECT count(*) FROM pipeline.batches WHERE outcome = 'complete'";

    batch(old(&fleet, "coordinator", &["run", "--once"])?).await?;
    batch(fleet.command("coordinator", &["run", "--once"])?).await?;
    ensure!(fleet.number(batches).await? == 2, "a batch is not complete");
    let both = fleet
        .number("SELECT count(DISTINCT worker_id) FROM pipeline.jobs WHERE state = 'done'")
        .await?;
    ensure!(both == 2, "{both} workers did jobs");
    ensure!(new_worker.terminate().await?.success(), "the new worker failed");

    batch(fleet.command("coordinator", &["run", "--once"])?).await?;
    batch(old(&fleet, "coordinator", &["run", "--once"])?).await?;
    ensure!(fleet.number(batches).await? == 4, "a batch is not complete");
    ensure!(old_worker.terminate().await?.success(), "the old worker failed");
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// `p2p migrate` of a version that was taken back leaves the newer schema as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_left_alone() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 20").await?;
    sqlx::raw_sql(EXPANDED).execute(&fleet.pool).await?;
    let migrated = fleet.command("p2p", &["migrate"])?.output().await?;
    let told = String::from_utf8(migrated.stderr)?;
    ensure!(migrated.status.success(), "{told}");
    ensure!(told.contains("newer than this program"), "{told}");
    fleet.remove().await
}

/// No program works on a schema that lacks something.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_is_refused() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 20").await?;
    sqlx::query(
        "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
    )
    .execute(&fleet.pool)
    .await?;
    for (name, args) in
        [("worker", &["run"][..]), ("coordinator", &["run", "--once"]), ("p2p", &["gaps"])]
    {
        let output = fleet.command(name, args)?.output().await?;
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8(told).context(name)?;
        ensure!(output.status.code() == Some(1), "{name} ended with {}: {told}", output.status);
        ensure!(
            told.contains("this program needs") && told.contains("p2p migrate"),
            "{name}: {told}"
        );
    }
    fleet.remove().await
}
