//! The operator's tool: everything an operator wants without psql.
//!
//! - [`limiter`]: the shared limiters, looked at and set.
//! - [`migrate`]: the schema.
//! - [`parse`]: captured answers as the worker would read them; [`capture`] knows their forms.
//! - [`summary`]: the last batches in figures.

pub mod capture;
pub mod limiter;
pub mod migrate;
pub mod parse;
pub mod summary;

use std::process::ExitCode;

use anyhow::Context;
use shared::settings::{BadSettings, Database, EXIT_BAD_SETTINGS, Vars};
use sqlx::PgPool;

/// The exit code that tells what kind of error it is: 64 bad settings, 1 anything else.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<BadSettings>() { ExitCode::from(EXIT_BAD_SETTINGS) } else { ExitCode::FAILURE }
}

/// A connection by `DATABASE_URL`.
async fn connect() -> anyhow::Result<PgPool> {
    let mut vars = Vars::from_environment();
    let database = Database::read(&mut vars);
    let database = vars.finish(database)?;
    Ok(shared::store::connect(&database, "p2p").await?)
}

/// The same, refusing a schema older than this program.
async fn connect_checked() -> anyhow::Result<PgPool> {
    let pool = connect().await?;
    shared::store::check_schema(&pool).await.context("the database can't be used")?;
    Ok(pool)
}
