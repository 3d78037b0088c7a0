//! What people would build instead, on the same exchange, servers and pages.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use load_tests::fleet::{Fleet, Process};
use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;

use crate::figures::Figures;
use crate::meter::{self, Meter};
use crate::run::{PATIENCE, PULSE, after, counts, pair};

/// Most processes of a peer: each has a connection to the database, of which `dev/stack` allows 300.
const MOST_PROCESSES: u64 = 200;
/// Time for Celery's processes to start; they are idle afterwards.
const WARM_UP: Duration = Duration::from_secs(5);
/// Queue of Celery's tasks, below the prefix of the fleet.
const QUEUE: &str = "celery";

/// Where the peers are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Place {
    /// Directory of the peers.
    #[arg(long, default_value = "load-tests/peers")]
    pub(crate) directory: PathBuf,
    /// Virtual environment with what they need.
    #[arg(long, default_value = "target/peers")]
    pub(crate) venv: PathBuf,
    /// Processes of Celery's pool; by default twice the cores, for they wait for answers.
    #[arg(long, default_value_t = bounded(cores() * 2), value_parser = counts(1..=MOST_PROCESSES))]
    pub(crate) celery_processes: usize,
    /// Processes of asyncio; by default half of the cores, for each fills one, and the servers need some.
    #[arg(long, default_value_t = bounded(cores() / 2), value_parser = counts(1..=MOST_PROCESSES))]
    pub(crate) asyncio_processes: usize,
    /// Another program beside them, as `NAME=COMMAND`; what it is given and must say stands in the README of the
    /// peers. May come several times.
    #[arg(long = "peer", value_parser = pair)]
    pub(crate) others: Vec<(String, String)>,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

fn bounded(processes: usize) -> usize {
    processes.clamp(1, usize::try_from(MOST_PROCESSES).unwrap_or(usize::MAX))
}

impl Place {
    /// The interpreter that has what they need.
    pub(crate) fn python(&self) -> Result<PathBuf> {
        let python = self.venv.join("bin/python");
        ensure!(python.exists(), "{} is missing: `make peers` installs it", python.display());
        Ok(python)
    }
}

/// What a peer says at its end.
#[derive(Deserialize)]
struct Done {
    ads: i64,
    pages: usize,
    seconds: f64,
    /// CPU of its process from the moment at which its clock began.
    cpu_seconds: f64,
}

/// The pages that a batch read, as a file for the peers; and their tables.
pub(crate) async fn prepare(fleet: &Fleet, place: &Place, batch: i32) -> Result<PathBuf> {
    let schema = place.directory.join("schema.sql");
    let schema =
        std::fs::read_to_string(&schema).with_context(|| format!("{}", schema.display()))?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(schema)).execute(&fleet.pool).await?;
    let pages: Vec<(String, String, String, i16)> = sqlx::query_as(
        "SELECT f.currency_code, c.symbol, m.trade_type, j.page
           FROM pipeline.jobs j
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
           JOIN warehouse.dim_cryptocurrencies c ON c.crypto_id = m.crypto_id
          WHERE j.batch_id = $1 AND j.kind = 'search' AND j.state IN ('done', 'empty')
          GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
    )
    .bind(batch)
    .fetch_all(&fleet.pool)
    .await?;
    let path = std::env::temp_dir().join(&fleet.name).join("pages.json");
    std::fs::write(&path, json!({ "batch": batch, "pages": pages }).to_string())?;
    Ok(path)
}

/// What a peer is to read.
struct Task {
    path: PathBuf,
    batch: i32,
    pages: usize,
}

impl Task {
    /// The pages of this file, as another batch.
    fn of(pages: &Path, batch: i32) -> Result<Self> {
        let mut task: serde_json::Value = serde_json::from_slice(&std::fs::read(pages)?)?;
        task["batch"] = json!(batch);
        let path = pages.with_file_name(format!("pages-{batch}.json"));
        std::fs::write(&path, task.to_string())?;
        let pages = task["pages"].as_array().map_or(0, Vec::len);
        Ok(Self { path, batch, pages })
    }

    /// What a peer says is what it stored: each page once, and so many ads.
    async fn must_be_done(&self, fleet: &Fleet, done: &Done) -> Result<()> {
        let (pages, ads): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(DISTINCT (fiat, asset, trade_type, page)) FROM plain_pages WHERE batch_id = $1),
                    (SELECT count(*) FROM plain_offers WHERE batch_id = $1)",
        )
        .bind(self.batch)
        .fetch_one(&fleet.pool)
        .await?;
        ensure!(
            usize::try_from(pages)? == self.pages && done.pages == self.pages,
            "of {} pages it says to have stored {}, and {pages} are there",
            self.pages,
            done.pages
        );
        ensure!(
            ads > 0 && ads == done.ads,
            "it says to have stored {} ads, and {ads} are there",
            done.ads
        );
        Ok(())
    }
}

/// A command that knows the servers and the exchange.
fn equipped(mut command: Command, fleet: &Fleet) -> Command {
    command
        .env("DATABASE_URL", &fleet.database_url)
        .env("REDIS_URL", &fleet.servers.redis_url)
        .env("AMQP_URL", &fleet.servers.amqp_url)
        .env("BINANCE_BASE_URL", &fleet.exchange_url)
        .env("PEER_QUEUE", format!("{}.{QUEUE}", fleet.name))
        .stdin(Stdio::null());
    command
}

fn python(fleet: &Fleet, place: &Place) -> Result<Command> {
    let mut command = Command::new(place.python()?);
    command.env("PYTHONPATH", &place.directory).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(equipped(command, fleet))
}

/// A program of somebody else, from its start to its end.
pub(crate) async fn other(
    fleet: &Fleet,
    meter: &Meter,
    (name, program): &(String, String),
    pages: &Path,
    batch: i32,
) -> Result<Figures> {
    let task = Task::of(pages, batch)?;
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec {program} \"$1\"")).arg(name).arg(&task.path);
    measure(equipped(command, fleet), fleet, meter, &task).await.with_context(|| name.clone())
}

/// The program of asyncio, from its start to its end.
pub(crate) async fn asyncio(
    fleet: &Fleet,
    meter: &Meter,
    place: &Place,
    pages: &Path,
    batch: i32,
) -> Result<Figures> {
    let task = Task::of(pages, batch)?;
    let mut command = python(fleet, place)?;
    command.arg(place.directory.join("asyncio_peer.py")).arg(&task.path);
    command.arg(place.asyncio_processes.to_string());
    measure(command, fleet, meter, &task).await.context("asyncio")
}

/// Celery's pool, which runs before and after; gives a measurement for each of `batches`.
pub(crate) async fn celery(
    fleet: &Fleet,
    meter: &Meter,
    place: &Place,
    pages: &Path,
    batches: std::ops::Range<i32>,
) -> Result<Vec<Figures>> {
    let log = pages.with_file_name("celery.log");
    let mut worker = start_celery(fleet, place, &log)?;
    let outcome = drive(fleet, meter, place, pages, batches, &mut worker).await;
    let outcome = after(outcome, end_celery(fleet, &mut worker).await);
    if outcome.is_err() {
        // The files of the fleet go with it; this one is to be read.
        let kept = std::env::temp_dir().join(format!("{}_celery.log", fleet.name));
        std::fs::rename(&log, &kept)?;
        return outcome
            .with_context(|| format!("Celery, whose messages are in {}", kept.display()));
    }
    outcome
}

async fn end_celery(fleet: &Fleet, worker: &mut Process) -> Result<()> {
    if worker.try_wait()?.is_none() {
        worker.terminate().await?;
    }
    // It goes with its consumers, of which there may have been none.
    fleet.lose_queue(QUEUE).await
}

fn start_celery(fleet: &Fleet, place: &Place, log: &Path) -> Result<Process> {
    let file = std::fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut command = python(fleet, place)?;
    let processes = place.celery_processes.to_string();
    command
        .args(["-m", "celery", "-A", "celery_peer.tasks", "worker", "-P", "prefork"])
        .args(["-c", &processes, "--without-gossip", "--without-mingle", "--without-heartbeat"])
        .args(["-l", "ERROR"])
        .stdout(file.try_clone()?)
        .stderr(file);
    // A process of its own group would outlive its owner less surely; Celery ends its children itself.
    Process::spawn(command)
}

async fn drive(
    fleet: &Fleet,
    meter: &Meter,
    place: &Place,
    pages: &Path,
    batches: std::ops::Range<i32>,
    worker: &mut Process,
) -> Result<Vec<Figures>> {
    tokio::time::sleep(WARM_UP).await;
    let mut meter = meter.clone();
    meter.add("peer", worker.id().context("its worker has ended")?);
    let mut all = Vec::new();
    for batch in batches {
        let task = Task::of(pages, batch)?;
        let mut command = python(fleet, place)?;
        command.args(["-m", "celery_peer.drive"]).arg(&task.path);
        all.push(tokio::select! {
            figures = measure(command, fleet, &meter, &task) => figures?,
            ended = end_of(worker) => bail!("its worker ended with {}", ended?),
        });
    }
    Ok(all)
}

async fn end_of(process: &mut Process) -> Result<ExitStatus> {
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        tokio::time::sleep(PULSE).await;
    }
}

/// Runs a program that says at its end what it did, and counts its CPU and that of all servers.
async fn measure(
    mut command: Command,
    fleet: &Fleet,
    meter: &Meter,
    task: &Task,
) -> Result<Figures> {
    let (from, since) = (meter.read()?, Instant::now());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await;
    let output =
        ended.with_context(|| format!("the program does not end within {PATIENCE:?}"))??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the program ended with {}: {}", output.status, said.trim());
    let cpu = meter::used(&from, &meter.read()?);
    let done: Done = serde_json::from_slice(&output.stdout).context("what it says")?;
    let ran = since.elapsed().as_secs_f64();
    ensure!(
        done.seconds > 0.0 && done.seconds <= ran && done.cpu_seconds >= 0.0,
        "it says {} s, and {} s of CPU; it ran for {ran:.3} s",
        done.seconds,
        done.cpu_seconds
    );
    task.must_be_done(fleet, &done).await?;
    #[expect(clippy::cast_precision_loss, reason = "counts of ads and pages are small")]
    let (ads, pages) = (done.ads as f64, done.pages as f64);
    let mut figures = Figures::new();
    let mut put = |name: &str, value: f64| {
        figures.insert(name.to_owned(), value);
    };
    put("ads", ads);
    put("pages", pages);
    put("ads per page", ads / pages);
    put("ads_per_s, opened to last end", ads / done.seconds);
    put("pages_per_s, opened to last end", pages / done.seconds);
    let mut servers = 0.0;
    // By its own account, for ours and Celery's pool are not counted from their start either.
    let mut peer = done.cpu_seconds;
    for (process, seconds) in cpu {
        match process {
            "worker" | "coordinator" => {}
            "peer" => peer += seconds,
            _ => {
                put(&format!("cpu_s_per_1000_ads {process}"), seconds / ads * 1000.0);
                if process != "exchange" {
                    servers += seconds;
                }
            }
        }
    }
    put("cpu_s_per_1000_ads worker", peer / ads * 1000.0);
    put("cpu_s_per_1000_ads, all but exchange", (servers + peer) / ads * 1000.0);
    Ok(figures)
}
