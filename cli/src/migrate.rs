//! `p2p migrate`.

use std::process::ExitCode;

use anyhow::Context;

/// Days for which partitions are made at once; the coordinator makes more as it goes.
const PARTITION_DAYS: i32 = 3;

/// Brings the schema to this version and makes the first partitions. Running it again changes
/// nothing.
pub async fn run() -> anyhow::Result<ExitCode> {
    let pool = crate::connect().await?;
    shared::store::MIGRATOR.run(&pool).await.context("the schema can't be migrated")?;
    sqlx::query("SELECT pipeline.make_partitions(current_date, current_date + $1)")
        .bind(PARTITION_DAYS)
        .execute(&pool)
        .await?;
    let version = shared::store::MIGRATOR.iter().map(|migration| migration.version).max();
    println!("schema is at version {}", version.unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}
