//! The operator's tool: everything an operator wants without psql.
//!
//! - [`migrate`]: the schema.
//! - [`parse`]: captured answers as the worker would read them; [`capture`] knows their forms.
//! - [`summary`]: the last batches in figures.
//!
//! [`format`] makes figures readable.

pub mod capture;
pub mod format;
pub mod migrate;
pub mod parse;
pub mod summary;

use std::process::ExitCode;

use anyhow::Context;
use shared::domain::MarketError;
use shared::settings::{BadSettings, Database, EXIT_BAD_SETTINGS, Vars};
use sqlx::PgPool;

/// Something is not as it should be: refused ads, gaps.
pub const EXIT_TROUBLE: u8 = 3;
/// An argument that is not allowed (`EX_USAGE`), as for settings.
pub const EXIT_USAGE: u8 = EXIT_BAD_SETTINGS;
/// What was asked for is not there: a file, a batch, a fiat (`EX_NOINPUT`).
pub const EXIT_NOT_FOUND: u8 = 66;

/// The exit code that tells what kind of error it is: 64 bad settings or arguments, 1 anything else.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<BadSettings>() || error.is::<MarketError>() {
        ExitCode::from(EXIT_USAGE)
    } else {
        ExitCode::FAILURE
    }
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
