//! The operator's tool: everything an operator wants without psql.
//!
//! - [`limiter`]: the shared limiters, looked at and set.
//! - [`migrate`]: the schema.
//! - [`parse`]: captured answers as the worker would read them; [`capture`] knows their forms.
//! - [`summary`]: the last batches in figures.
//! - [`batches`]: what became of each slot, a line each; [`batch`]: everything about one batch.
//! - [`gaps`]: what should have been read and was not.
//! - [`witness`]: how far the exchange's other view of its books agrees with ours.
//! - [`quality`]: what the quality checks said of a batch, and what is ordinary in a market.
//! - [`dictionary`]: what every relation, column and function means.
//! - [`export`]: days as Parquet files.
//! - [`raw`]: answers byte for byte, and the figures of their archive.
//! - [`shapes`]: how answers differ from what is known of them.
//! - [`replay`]: archived answers parsed again, and the facts corrected; [`quarantine`]: what could not be taken.
//! - [`settings`]: what can be set, as documentation.
//! - [`storage`]: what the database holds, and what a reading costs.
//! - [`book`], [`quote`], [`history`], [`merchant`]: questions about the market, by the functions of the
//!   warehouse; [`ask`] is what they share.
//! - [`ops`]: the fleet, looked at and told what to do.
//!
//! [`timeline`] reads batches and slots. [`format`] makes figures readable and [`chart`] draws them,
//! [`span`] reads spans of time and moments.

pub mod ask;
pub mod batch;
pub mod batches;
pub mod book;
pub mod capture;
pub mod chart;
pub mod dictionary;
pub mod export;
pub mod format;
pub mod gaps;
pub mod history;
pub mod limiter;
pub mod merchant;
pub mod migrate;
pub mod ops;
pub mod parse;
pub mod quality;
pub mod quarantine;
pub mod quote;
pub mod raw;
pub mod replay;
pub mod settings;
pub mod shapes;
pub mod span;
pub mod storage;
pub mod summary;
pub mod timeline;
pub mod witness;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use shared::domain::MarketError;
use shared::exchange::Exchange;
use shared::settings::{BadSettings, Database, EXIT_BAD_SETTINGS, Vars};
use sqlx::{PgPool, PgTransaction};

/// Something is not as it should be: refused ads, gaps, a book too thin, a name of several advertisers.
pub const EXIT_TROUBLE: u8 = 3;
/// An argument that is not allowed (`EX_USAGE`), as for settings.
pub const EXIT_USAGE: u8 = EXIT_BAD_SETTINGS;
/// What was asked for is not there: a file, a batch, a fiat (`EX_NOINPUT`).
pub const EXIT_NOT_FOUND: u8 = 66;

/// The exchange that is looked at: the only one there is.
const EXCHANGE: Exchange = Exchange::Binance;

/// What was asked for is not there; says what is.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotFound(String);

/// What was asked for is not allowed as things are; says what is.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAllowed(String);

/// The exit code that tells what kind of error it is: 64 bad settings or arguments, 66 not found, 1
/// anything else.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<BadSettings>() || error.is::<MarketError>() || error.is::<NotAllowed>() {
        ExitCode::from(EXIT_USAGE)
    } else if error.is::<NotFound>() {
        ExitCode::from(EXIT_NOT_FOUND)
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

/// Connections of the owner: the lock of a replay holds one, its transaction another.
const OWNER_CONNECTIONS: u32 = 8;

/// The same as the owner of the tables, who alone may change and delete facts: by `OWNER_DATABASE_URL`, or else by
/// `DATABASE_URL`.
async fn connect_as_owner() -> anyhow::Result<PgPool> {
    let mut vars = Vars::from_environment();
    let owner = Database::read_owner(&mut vars);
    let owner = vars.finish(Database { max_connections: OWNER_CONNECTIONS, ..owner })?;
    let pool = shared::store::connect(&owner, "p2p").await?;
    shared::store::check_schema(&pool).await.context("the database can't be used")?;
    Ok(pool)
}

/// One state of the database for several statements, in which sorts of a day's books fit in memory,
/// and which does not go on for long after nobody waits for it any more.
async fn snapshot(pool: &PgPool) -> anyhow::Result<PgTransaction<'static>> {
    let mut snapshot = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    for setting in ["SET LOCAL work_mem = '128MB'", "SET LOCAL statement_timeout = '2min'"] {
        sqlx::query(setting).execute(&mut *snapshot).await?;
    }
    Ok(snapshot)
}

/// Prints an answer. A reader that has seen enough and closes the pipe is no error.
fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// The same of bytes that may be no text.
fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}
