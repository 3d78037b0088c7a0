//! `p2p export`: days as Parquet files, each with a manifest.
//!
//! ```text
//! DIR/day=2026-11-22/offers.parquet    fact_offers of that day, with codes and names
//!                    books.parquet     the certificates
//!                    manifest.json     written last: a day without it is not whole
//! DIR/dimensions/dim_….parquet         as they are now, and their manifest
//! ```
//!
//! A day is read batch by batch within one state of the database, and written group by group: neither
//! end holds more than one group. Files get their names when all of a day are whole and on disk; what
//! was cut is overwritten by the next run. Equal rows give equal bytes, so a day that is over and is
//! exported again has the same hashes.

mod file;
mod read;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use self::file::{PARTIAL, Table, Written};
use self::read::{Batch, Completeness, Source};
use crate::format::{count, counted};
use crate::{EXIT_TROUBLE, NotAllowed, NotFound};

/// Days of one export: a year and a leap day.
const MAX_DAYS: i64 = 366;
/// What the layout of files and manifests is called; grows when a reader must change.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
/// Held while an export writes into a directory.
const LOCK: &str = ".p2p-export.lock";
const DIMENSIONS: &str = "dimensions";
/// A disk may take long to take a day's files, and the server must not give us up meanwhile.
const READ_SETTINGS: [&str; 2] = [
    "SET LOCAL idle_in_transaction_session_timeout = '10min'",
    // A batch is one statement, and its rows flow as fast as they are written.
    "SET LOCAL statement_timeout = '10min'",
];

/// What a day's directory holds.
#[derive(Debug, Serialize)]
struct Manifest {
    format: u32,
    day: NaiveDate,
    /// Whether the day is past and none of its batches is open. Otherwise only the batches listed are
    /// here, and a later export has more.
    is_day_over: bool,
    batches_open: i64,
    schema_version: i64,
    program: String,
    first_slot_at: Option<DateTime<Utc>>,
    last_slot_at: Option<DateTime<Utc>>,
    completeness: Completeness,
    batches: Vec<Batch>,
    files: Vec<Written>,
}

/// What the directory of dimensions holds.
#[derive(Debug, Serialize)]
struct DimensionsManifest {
    format: u32,
    schema_version: i64,
    program: String,
    /// When they were read. They change, unlike the files of days.
    read_at: DateTime<Utc>,
    files: Vec<Written>,
}

/// What became of a day.
enum Exported {
    Written { batches: usize, ads: u64, bytes: u64, is_over: bool },
    Dropped,
    Nothing,
}

/// Exports the days from `from` to `to` into `out`.
pub async fn run(from: NaiveDate, to: NaiveDate, out: &Path) -> anyhow::Result<ExitCode> {
    let days = (to - from).num_days() + 1;
    if !(1..=MAX_DAYS).contains(&days) {
        let problem = format!(
            "--from {from} --to {to}: allowed are 1 to {MAX_DAYS} days, the first one first"
        );
        return Err(NotAllowed(problem).into());
    }
    let pool = crate::connect_checked().await?;
    check_span(&pool, from, to).await?;
    let _lock = prepare(out)?;
    let (mut written, mut dropped) = (0, 0);
    for day in from.iter_days().take(usize::try_from(days)?) {
        let line = match export_day(&pool, day, out).await? {
            Exported::Written { batches, ads, bytes, is_over } => {
                written += 1;
                let batches = counted(i64::try_from(batches)?, "batch", "batches");
                let (ads, bytes) = (count(i64::try_from(ads)?), count(i64::try_from(bytes)?));
                let more = if is_over { "" } else { ", the day is not over" };
                format!("{day}: {batches}, {ads} ads, {bytes} bytes{more}\n")
            }
            Exported::Dropped => {
                dropped += 1;
                format!("{day}: dropped by age\n")
            }
            Exported::Nothing => format!("{day}: no closed batch\n"),
        };
        crate::print(&line)?;
    }
    export_dimensions(&pool, out).await?;
    if written == 0 {
        bail!(NotFound(format!("nothing to export from {from} to {to}")));
    }
    Ok(if dropped > 0 { ExitCode::from(EXIT_TROUBLE) } else { ExitCode::SUCCESS })
}

/// Refuses a span without any closed batch before anything is written.
async fn check_span(pool: &PgPool, from: NaiveDate, to: NaiveDate) -> anyhow::Result<()> {
    let mut db = pool.acquire().await?;
    let mut day = from;
    while day <= to {
        if !read::day(&mut db, day).await?.is_dropped
            && !read::closed(&mut db, day).await?.is_empty()
        {
            return Ok(());
        }
        day = day + Days::new(1);
    }
    Err(NotFound(format!(
        "nothing to export from {from} to {to}: no closed batch that is kept; `p2p batches` shows what there is"
    ))
    .into())
}

/// Makes the directory, looks that nothing else is in it, and keeps other exports out.
fn prepare(out: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(out).with_context(|| format!("make the directory {}", out.display()))?;
    let is_ours = |name: &str| {
        name == LOCK
            || name == DIMENSIONS
            || name.strip_prefix("day=").is_some_and(|day| day.parse::<NaiveDate>().is_ok())
    };
    refuse_foreign(out, is_ours)?;
    let path = out.join(LOCK);
    let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => {
            Err(NotAllowed(format!("another export writes into {}", out.display())).into())
        }
        Err(fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}

/// An export never overwrites, and never stands beside, what it did not write.
fn refuse_foreign(directory: &Path, is_ours: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let read = || format!("read the directory {}", directory.display());
    for entry in fs::read_dir(directory).with_context(read)? {
        let name = entry.with_context(read)?.file_name();
        if !name.to_str().is_some_and(&is_ours) {
            let problem = format!(
                "{} holds {}, which is not of an export: allowed are a new or empty directory, or one of earlier exports",
                directory.display(),
                name.display()
            );
            return Err(NotAllowed(problem).into());
        }
    }
    Ok(())
}

/// One state of the database for as long as a day takes.
async fn snapshot(pool: &PgPool) -> anyhow::Result<sqlx::PgTransaction<'static>> {
    let mut snapshot = crate::snapshot(pool).await?;
    for setting in READ_SETTINGS {
        sqlx::query(setting).execute(&mut *snapshot).await?;
    }
    Ok(snapshot)
}

async fn export_day(pool: &PgPool, day: NaiveDate, out: &Path) -> anyhow::Result<Exported> {
    let mut db = snapshot(pool).await?;
    let state = read::day(&mut db, day).await?;
    if state.is_dropped {
        return Ok(Exported::Dropped);
    }
    let batches = read::closed(&mut db, day).await?;
    if batches.is_empty() {
        return Ok(Exported::Nothing);
    }
    let target = Target::prepare(out.join(format!("day={day}")))?;
    let (offers, books) = (Source::offers(&mut db).await?, Source::books(&mut db).await?);
    let mut files = Vec::new();
    for (name, source) in [("offers.parquet", offers), ("books.parquet", books)] {
        let mut table = Table::create(&target.directory, name, source.columns.clone())?;
        for batch in &batches {
            source.copy(&mut db, Some((day, batch.batch_id)), &mut table).await?;
        }
        files.push(table.finish()?);
    }
    let manifest = Manifest {
        format: FORMAT,
        day,
        is_day_over: state.is_past && state.batches_open == 0,
        batches_open: state.batches_open,
        schema_version: read::schema_version(&mut db).await?,
        program: program(),
        first_slot_at: batches.iter().map(|batch| batch.slot_at).min(),
        last_slot_at: batches.iter().map(|batch| batch.slot_at).max(),
        completeness: read::completeness(&mut db, day).await?,
        batches,
        files,
    };
    db.rollback().await?;
    target.publish(&manifest.files, &manifest)?;
    Ok(Exported::Written {
        batches: manifest.batches.len(),
        ads: manifest.files[0].rows,
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        is_over: manifest.is_day_over,
    })
}

async fn export_dimensions(pool: &PgPool, out: &Path) -> anyhow::Result<()> {
    let mut db = snapshot(pool).await?;
    let target = Target::prepare(out.join(DIMENSIONS))?;
    let mut files = Vec::new();
    for name in read::dimensions(&mut db).await? {
        files.push(export_table(&mut db, &target.directory, &name).await?);
    }
    let manifest = DimensionsManifest {
        format: FORMAT,
        schema_version: read::schema_version(&mut db).await?,
        program: program(),
        read_at: crate::timeline::now(&mut db).await?,
        files,
    };
    db.rollback().await?;
    target.publish(&manifest.files, &manifest)
}

async fn export_table(
    db: &mut PgConnection,
    directory: &Path,
    name: &str,
) -> anyhow::Result<Written> {
    let source = Source::table(db, &format!("warehouse.{name}")).await?;
    let mut table = Table::create(directory, &format!("{name}.parquet"), source.columns.clone())?;
    source.copy(db, None, &mut table).await?;
    table.finish()
}

fn program() -> String {
    format!("p2p {}", env!("CARGO_PKG_VERSION"))
}

/// A directory whose files and manifest belong together.
struct Target {
    directory: PathBuf,
}

impl Target {
    fn prepare(directory: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("make the directory {}", directory.display()))?;
        refuse_foreign(&directory, |name| {
            let name = name.strip_suffix(PARTIAL).unwrap_or(name);
            name == MANIFEST || Path::new(name).extension().is_some_and(|kind| kind == "parquet")
        })?;
        Ok(Self { directory })
    }

    /// Gives whole files their names, the manifest last. Without a manifest a directory is not whole,
    /// so that of an earlier export goes first.
    fn publish(&self, files: &[Written], manifest: &impl Serialize) -> anyhow::Result<()> {
        let path = |name: &str| self.directory.join(name);
        let partial = path(&format!("{MANIFEST}{PARTIAL}"));
        let text = serde_json::to_string_pretty(manifest)? + "\n";
        let write = || -> std::io::Result<()> {
            fs::write(&partial, text)?;
            File::open(&partial)?.sync_all()
        };
        write().with_context(|| format!("write {}", partial.display()))?;
        let publish = || -> std::io::Result<()> {
            match fs::remove_file(path(MANIFEST)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => self.sync()?,
            }
            for file in files {
                fs::rename(path(&format!("{}{PARTIAL}", file.name)), path(&file.name))?;
            }
            self.sync()?;
            fs::rename(&partial, path(MANIFEST))?;
            self.sync()
        };
        publish().with_context(|| format!("name the files in {}", self.directory.display()))
    }

    /// Waits until the disk has the names.
    fn sync(&self) -> std::io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}
