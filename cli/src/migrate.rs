//! `p2p migrate`.

use std::process::ExitCode;

use anyhow::Context;
use shared::settings::{Database, Vars};

/// Days for which partitions are made at once; the coordinator makes more as it goes.
const PARTITION_DAYS: i32 = 3;

/// Brings the schema to this version, makes the first partitions, and gives the roles what they need:
/// they may have been made since. Running it again changes nothing.
pub async fn run() -> anyhow::Result<ExitCode> {
    let mut vars = Vars::from_environment();
    let owner = Database::read_owner(&mut vars);
    let owner = vars.finish(owner)?;
    let pool = shared::store::connect(&owner, "p2p migrate").await?;
    shared::store::migrate(&pool).await.context("the schema can't be migrated")?;
    sqlx::query("SELECT pipeline.grant_roles()").execute(&pool).await.context("granting")?;
    sqlx::query("SELECT pipeline.make_partitions(current_date, current_date + $1)")
        .bind(PARTITION_DAYS)
        .execute(&pool)
        .await?;
    let version = shared::store::MIGRATOR.iter().map(|migration| migration.version).max();
    let roles: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_roles WHERE rolname IN ('p2p_reader', 'p2p_writer')",
    )
    .fetch_one(&pool)
    .await?;
    if roles < 2 {
        // Not an error: the owner can do everything itself.
        eprintln!(
            "p2p: the roles p2p_reader and p2p_writer are not there and the owner of the schema may not make them: as a role with CREATEROLE run SELECT pipeline.make_roles(), then p2p migrate again"
        );
    }
    let applied: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(&pool)
            .await?;
    let (version, applied) = (version.unwrap_or_default(), applied.unwrap_or_default());
    crate::print(&format!("schema is at version {applied}\n"))?;
    if applied > version {
        eprintln!(
            "p2p: the schema is newer than this program, which needs {version}; it was left as it is"
        );
    }
    Ok(ExitCode::SUCCESS)
}
