//! The connection to `PostgreSQL`, and the migrations.
//!
//! The statements themselves stand with the binary that runs them: the worker's `store` writes
//! facts, the coordinator's `store` the ledger.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::domain::BatchId;
use crate::settings::Database;

/// The schema, embedded in every binary.
pub static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// How long to wait for a connection before an operation fails and is tried again by its caller.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that was used within this time is not asked whether it still lives before it is used again:
/// that would double the way to the server of every short statement.
pub const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// A transaction in which nothing is said for so long is ended by the server: whoever holds it is
/// paused or cut off, and its locks must not stop others.
pub const IDLE_IN_TRANSACTION_LIMIT: Duration = Duration::from_secs(3);

/// Longest wait for a piece of work with the database that takes moments. A connection may be dropped on
/// its way without either end being told: then the answer never comes, and the work is to be done again
/// on another one.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Work with the database, given up after `limit` with an I/O error: whether it was done is unknown.
pub async fn within<T, E: From<sqlx::Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into()),
    }
}

/// `statement` with the day of the batch in the place of `DAY`. The plan then knows its one partition and is made once a
/// day; of a bound day it is made anew each time, among all partitions, which takes five times as long as what it does.
/// A list is in a `SELECT` of its own for the same reason: else a plan for its very length seems cheaper each time.
#[must_use]
pub fn of_day(statement: &str, batch: BatchId) -> AssertSqlSafe<String> {
    AssertSqlSafe(statement.replacen("DAY", &format!("DATE '{}'", batch.day()), 1))
}

/// Locks jobs of a batch in the ledger until the transaction ends, whether they have ended or not.
///
/// Whoever changes several jobs of a batch that is being read takes them first, and in this order: a worker that
/// ends a group and a coordinator that marks what it published, each with a job that the other waits for, would
/// stand until the server ends one of them. Of several batches the earlier come first.
pub async fn lock_jobs(
    connection: &mut PgConnection,
    batch: BatchId,
    ordinals: &[u32],
) -> sqlx::Result<()> {
    let mut ordinals: Vec<i32> = ordinals.iter().map(|ordinal| ordinal.cast_signed()).collect();
    if ordinals.is_empty() {
        return Ok(());
    }
    ordinals.sort_unstable();
    // One by one in the order of the list, and each by its whole key: of a batch that was just planned the planner
    // knows nothing, and reads all its jobs to find some.
    let statement = "SELECT FROM unnest((SELECT $2::int[])) AS w (ordinal)
          CROSS JOIN LATERAL (SELECT FROM pipeline.jobs
                               WHERE day = DAY AND batch_id = $1 AND ordinal = w.ordinal FOR NO KEY UPDATE) j";
    sqlx::query(of_day(statement, batch))
        .bind(batch.raw())
        .bind(ordinals)
        .execute(connection)
        .await?;
    Ok(())
}

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database can't be reached")]
    Unreachable(#[source] sqlx::Error),
    #[error("the schema has version {found}, this program needs {needed}: run `p2p migrate`")]
    OldSchema { found: i64, needed: i64 },
    #[error("the database has no schema, this program needs version {needed}: run `p2p migrate`")]
    NoSchema { needed: i64 },
}

/// For a process whose every statement looks some rows up by their keys. Of tables that are new or have just
/// begun to grow the planner knows nothing: it would read them whole, and keep to that plan.
pub const BY_KEY: &[(&str, &str)] =
    &[("enable_seqscan", "off"), ("enable_hashjoin", "off"), ("enable_mergejoin", "off")];

/// A pool. `name` is shown in `pg_stat_activity`.
pub async fn connect(settings: &Database, name: &str) -> Result<PgPool, StoreError> {
    connect_with(settings, name, &[]).await
}

/// A pool whose connections have these parameters of the server.
pub async fn connect_with(
    settings: &Database,
    name: &str,
    parameters: &[(&str, &str)],
) -> Result<PgPool, StoreError> {
    let options = settings.options().map_err(StoreError::Unreachable)?;
    PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, used| {
            Box::pin(async move {
                if used.idle_for > TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_with(
            options
                .application_name(name)
                .options([
                    // Compiling costs a second where our largest statement runs for a third of one.
                    ("jit", "off".to_owned()),
                    (
                        "idle_in_transaction_session_timeout",
                        IDLE_IN_TRANSACTION_LIMIT.as_millis().to_string(),
                    ),
                ])
                .options(parameters.iter().copied()),
        )
        .await
        .map_err(StoreError::Unreachable)
}

/// Longest wait of a migration for a lock. Who comes after it waits for as long, and the server looks for deadlocks
/// after a second: it is the migration that gives way, and not who reads or writes.
const LOCK_LIMIT: Duration = Duration::from_millis(800);
/// Tries of a migration that meets locks, and the pause between them: five minutes together. An analysis that reads
/// for longer is the operator's to end.
const LOCK_TRIES: u32 = 120;
const LOCK_PAUSE: Duration = Duration::from_millis(1_700);

/// Brings the schema to this version. One that is newer stays: an upgrade that is taken back runs the programs of
/// before on the schema of after, which only expanded. Where others hold what a migration needs it is tried again;
/// each migration is done whole or not at all.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    let mut migrator = Migrator { migrations: MIGRATOR.migrations.clone(), ..Migrator::DEFAULT };
    migrator.set_ignore_missing(true);
    let mut tries = 0;
    loop {
        // A connection of its own, which is closed after: what is set must not stay with it. With the warehouse on
        // the path, which is the owner's right, what was migrated would be looked for there.
        let mut connection = pool.acquire().await?.detach();
        sqlx::query("SELECT set_config('lock_timeout', $1, false), set_config('search_path', 'public', false)")
            .bind(LOCK_LIMIT.as_millis().to_string())
            .execute(&mut connection)
            .await?;
        let migrated = migrator.run(&mut connection).await;
        connection.close().await?;
        tries += 1;
        match migrated {
            Err(error) if is_held(&error) && tries < LOCK_TRIES => {
                tracing::warn!(%error, tries, "others hold what the migration needs, trying again");
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            migrated => return migrated,
        }
    }
}

/// Whether a migration gave way to a lock.
fn is_held(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| [LOCK_NOT_AVAILABLE, DEADLOCK].contains(&&*code))
}

/// Refuses a schema older than this program. A newer one is fine: migrations expand before they
/// contract, so that old processes can run beside new ones.
pub async fn check_schema(pool: &PgPool) -> Result<(), StoreError> {
    let needed = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default();
    let applied = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success");
    let found: Option<i64> = match applied.fetch_one(pool).await {
        Ok(found) => found,
        Err(sqlx::Error::Database(error))
            if [UNDEFINED_TABLE, FORBIDDEN]
                .contains(&error.code().unwrap_or_default().as_ref()) =>
        {
            None
        }
        Err(error) => return Err(StoreError::Unreachable(error)),
    };
    match found {
        // Who may only read the warehouse does not see what version it has.
        None if sees_warehouse(pool).await? => Ok(()),
        None => Err(StoreError::NoSchema { needed }),
        Some(found) if found < needed => Err(StoreError::OldSchema { found, needed }),
        Some(_) => Ok(()),
    }
}

async fn sees_warehouse(pool: &PgPool) -> Result<bool, StoreError> {
    sqlx::query_scalar("SELECT to_regclass('warehouse.fact_offers') IS NOT NULL")
        .fetch_one(pool)
        .await
        .map_err(StoreError::Unreachable)
}

/// `SQLSTATE`s of a lock that was not had in time, and of one that would never be.
const LOCK_NOT_AVAILABLE: &str = "55P03";
const DEADLOCK: &str = "40P01";
/// `SQLSTATE` of a table that does not exist, or is not on the search path.
const UNDEFINED_TABLE: &str = "42P01";
/// `SQLSTATE` of something that the role may not do.
const FORBIDDEN: &str = "42501";
