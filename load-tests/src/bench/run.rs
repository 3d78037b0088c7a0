//! Batches through the real programs, with CPU by process and times from the ledger.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::builder::RangedU64ValueParser;
use clap::value_parser;
use load_tests::fleet::{Fleet, Process, Servers};
use serde_json::json;
use shared::domain::{Market, Side};
use shared::exchange::binance::{self, Payload};
use shared::job::Work;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::figures::Figures;
use crate::meter::{self, Meter};

/// Simulated time between two batches: the interval of the schedule.
const INTERVAL_MS: u64 = 600_000;
/// Longest wait for a batch.
pub(crate) const PATIENCE: Duration = Duration::from_mins(10);
/// Longest wait for a dictionary: a coordinator looks every ten seconds whether it can train its first one.
const TRAINING_PATIENCE: Duration = Duration::from_mins(1);
/// Time between two looks at what is waited for.
pub(crate) const PULSE: Duration = Duration::from_millis(50);
/// Name of the figure that a close is judged by, its commit included.
pub(crate) const CLOSE_MS: &str = "close_ms, last end to closed";
/// A limit that limits nothing: a request each 60 µs, and a thousand at once.
const NO_LIMIT: [(&str, &str); 4] = [
    ("INITIAL_RATE_LIMIT", "1000000"),
    ("MAX_RATE_LIMIT", "1000000"),
    ("RATE_LIMIT_BURST", "1000"),
    ("MAX_IN_FLIGHT", "1000"),
];

/// What the simulated exchange has at most.
pub(crate) const MAX_ADS: u64 = 1_000_000;
pub(crate) const MAX_FIATS: u64 = 110;

/// What is pushed through.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Load {
    /// Ads on the simulated exchange.
    #[arg(long, default_value_t = 30_000, value_parser = value_parser!(u64).range(1..=MAX_ADS))]
    pub(crate) ads: u64,
    /// Its fiats, with as many as 14 assets on both sides each: the fewer, the fuller are the pages.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u64).range(1..=MAX_FIATS))]
    pub(crate) fiats: u64,
    /// Worker processes.
    #[arg(long, default_value_t = 1, value_parser = counts(1..=64))]
    pub(crate) workers: usize,
    /// Jobs in flight in each of them (`MAX_WORKERS`).
    #[arg(long, default_value_t = 50, value_parser = counts(1..=500))]
    pub(crate) in_hand: usize,
    /// More options of the exchange, such as `--exchange "--change-per-minute 5"`.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) exchange: String,
    /// More settings of the programs, as `NAME=VALUE`.
    #[arg(long, value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
}

/// What an option that counts something may be.
pub(crate) fn counts(allowed: RangeInclusive<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(allowed)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("allowed is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A fleet that runs, and what it is measured by.
pub(crate) struct Running<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) coordinator: Process,
    pub(crate) workers: Vec<Process>,
    pub(crate) meter: Meter,
    /// Durations of the last close's steps, as the coordinator tells them.
    steps: mpsc::UnboundedReceiver<BTreeMap<String, f64>>,
    /// Day of the last batch.
    day: Option<i32>,
    /// Whether a dictionary of the archive was waited for.
    is_settled: bool,
}

/// A batch that was closed.
pub(crate) struct Batch {
    pub(crate) id: i32,
    pub(crate) figures: Figures,
}

/// Runs a fleet for `work` and throws it away with its database, queues and files, whatever came of it.
pub(crate) async fn with<T>(
    load: &Load,
    work: impl AsyncFnOnce(&mut Running<'_>) -> Result<T>,
) -> Result<T> {
    let servers = Servers::from_environment()?;
    let meter = Meter::of_servers(&servers).await?;
    let name = Fleet::new_name();
    let directory = std::env::temp_dir().join(&name);
    // The clock stands still while a batch runs, so that every run reads the same.
    let market =
        format!("--ads {} --fiats {} --manual-clock {}", load.ads, load.fiats, load.exchange);
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let database_url = servers.database_url.clone();
    let fleet = match Fleet::start_as(name.clone(), servers, &directory, None, &market).await {
        Ok(fleet) => fleet,
        Err(error) => {
            return after(Err(error), remove_unstarted(&database_url, &name, &directory).await);
        }
    };
    let outcome = tokio::select! {
        outcome = run(&fleet, meter, load, work) => outcome,
        _ = terminate.recv() => Err(anyhow!("stopped by SIGTERM")),
        _ = interrupt.recv() => Err(anyhow!("stopped by SIGINT")),
    };
    after(outcome, fleet.remove().await.with_context(|| format!("remove what {name} left")))
}

/// What came of work once it was tidied up after: of two errors the first is given and the second told.
pub(crate) fn after<T>(outcome: Result<T>, tidied: Result<()>) -> Result<T> {
    match (outcome, tidied) {
        (Ok(done), tidied) => tidied.map(|()| done),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(second)) => {
            eprintln!("bench: {second:#}");
            Err(error)
        }
    }
}

async fn run<T>(
    fleet: &Fleet,
    meter: Meter,
    load: &Load,
    work: impl AsyncFnOnce(&mut Running<'_>) -> Result<T>,
) -> Result<T> {
    let mut running = Running::start(fleet, meter, load).await?;
    let outcome = work(&mut running).await?;
    running.stop().await?;
    Ok(outcome)
}

/// What a fleet that did not start may have made.
async fn remove_unstarted(database_url: &str, name: &str, directory: &Path) -> Result<()> {
    let mut connection = PgConnection::connect(database_url).await?;
    let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await?;
    Ok(std::fs::remove_dir_all(directory)?)
}

impl Batch {
    /// The UTC day at which it was opened, in days since 1970.
    pub(crate) fn day(&self) -> i32 {
        self.id >> 9
    }
}

impl<'a> Running<'a> {
    async fn start(fleet: &'a Fleet, mut meter: Meter, load: &Load) -> Result<Self> {
        meter.add("exchange", fleet.exchange().id().context("the exchange has ended")?);
        let in_hand = load.in_hand.to_string();
        let mut workers = Vec::new();
        for number in 0..load.workers {
            let mut command = fleet.command("worker", &["run"])?;
            command
                .env("WORKER_ID", format!("w{number}"))
                .env("MAX_WORKERS", &in_hand)
                .envs(NO_LIMIT)
                .envs(load.set.iter().map(|(name, value)| (name, value)));
            let worker = Process::spawn(command)?;
            meter.add("worker", worker.id().context("the worker has ended")?);
            workers.push(worker);
        }
        let mut command = fleet.command("coordinator", &["run"])?;
        command
            .envs(NO_LIMIT)
            .env("EXTRACTION_INTERVAL_MINUTES", "1440")
            .env("BATCH_DEADLINE_SECONDS", "480")
            .env("LOG_LEVEL", "info")
            .env("LOG_FORMAT", "json")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "")
            .envs(load.set.iter().map(|(name, value)| (name, value)))
            .stderr(std::process::Stdio::piped());
        let mut coordinator = Process::spawn(command)?;
        meter.add("coordinator", coordinator.id().context("the coordinator has ended")?);
        let log = coordinator.take_stderr().context("the log of the coordinator")?;
        let (told, steps) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(log).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("ERROR") {
                    eprintln!("coordinator: {line}");
                }
                if let Some(steps) = steps_of(&line) {
                    told.send(steps).ok();
                }
            }
        });
        let running =
            Self { fleet, coordinator, workers, meter, steps, day: None, is_settled: false };
        running.prepare().await?;
        Ok(running)
    }

    /// Has the exchange render its pages ahead: what it costs to invent a market is not ours.
    async fn prepare(&self) -> Result<()> {
        let market = Market::new("USD", "USDT", Side::Buy)?;
        let work = Work::Search { market_id: 0, market, page: 1, ads_expected: false };
        let Payload::Json(body) = binance::request(&work).payload else {
            bail!("a search is asked by a body")
        };
        self.fleet.admin("prepare", &serde_json::from_str(&body)?).await
    }

    /// Asks for a batch, waits until it is closed, and tells what it took.
    pub(crate) async fn batch(&mut self) -> Result<Batch> {
        let pool = &self.fleet.pool;
        let asked: i64 = sqlx::query_scalar(
            "INSERT INTO pipeline.requests (exchange_id, kind, why, asked_by)
             VALUES (1, 'rerun', 'to be measured', 'bench') RETURNING request_id",
        )
        .fetch_one(pool)
        .await?;
        let before = self.meter.read()?;
        let wal_before = wal_bytes(self.fleet).await?;
        let until = Instant::now() + PATIENCE;
        let id = loop {
            let made: Option<(Option<i32>, bool, Option<String>)> = sqlx::query_as(
                "SELECT r.made_batch_id, coalesce(b.state = 'closed', false), r.answer
                   FROM pipeline.requests r LEFT JOIN pipeline.batches b ON b.batch_id = r.made_batch_id
                  WHERE r.request_id = $1",
            )
            .bind(asked)
            .fetch_optional(pool)
            .await?;
            match made {
                Some((Some(batch), true, _)) => break batch,
                Some((_, _, Some(why))) => bail!("the batch was refused: {why}"),
                _ if Instant::now() > until => bail!("no batch was closed within {PATIENCE:?}"),
                _ => tokio::time::sleep(PULSE).await,
            }
            if let Some(status) = self.coordinator.try_wait()? {
                bail!("the coordinator ended with {status}");
            }
        };
        // What is acknowledged after the last report belongs to the batch.
        tokio::time::sleep(PULSE * 4).await;
        let cpu = meter::used(&before, &self.meter.read()?);
        let wal = wal_bytes(self.fleet).await? - wal_before;
        let outcome: String =
            sqlx::query_scalar("SELECT outcome FROM pipeline.batches WHERE batch_id = $1")
                .bind(id)
                .fetch_one(&self.fleet.pool)
                .await?;
        ensure!(
            outcome == "complete",
            "batch {id} is {outcome}: what is measured is a complete one"
        );
        let mut figures = self.ledger(id).await?;
        let ads = figures["ads"];
        ensure!(ads > 0.0, "batch {id} has no ads");
        let mut ours = 0.0;
        for (process, seconds) in cpu {
            let per_1000 = seconds / ads * 1000.0;
            figures.insert(format!("cpu_s_per_1000_ads {process}"), per_1000);
            if process != "exchange" {
                ours += per_1000;
            }
        }
        figures.insert("cpu_s_per_1000_ads, all but exchange".to_owned(), ours);
        figures.insert("wal_bytes_per_ad".to_owned(), wal / ads);
        figures.insert("rss_mb coordinator".to_owned(), self.coordinator_mb()?);
        figures.insert("rss_mb worker".to_owned(), self.worker_mb()?);
        let told = tokio::time::timeout(PATIENCE, self.steps.recv()).await;
        let mut steps = told.context("the steps of a close are not told")?;
        while let Ok(newer) = self.steps.try_recv() {
            steps = Some(newer);
        }
        let steps = steps.context("the coordinator has ended")?;
        // The ledger's time of closing is that before the commit, with which it becomes true.
        let commit = steps.get("commit").context("the commit of a close is not told")?;
        *figures.entry(CLOSE_MS.to_owned()).or_default() += commit;
        figures.extend(steps.into_iter().map(|(step, ms)| (format!("close_ms {step}"), ms)));
        let batch = Batch { id, figures };
        self.day = Some(batch.day());
        Ok(batch)
    }

    /// A batch in steady state: ten simulated minutes after the one before it, and of its day, its answers packed with a
    /// dictionary. The first of a day stores all ads anew, so if midnight falls between the two, another is read in
    /// its place.
    pub(crate) async fn steady(&mut self) -> Result<Batch> {
        if !std::mem::replace(&mut self.is_settled, true) {
            self.settle().await?;
        }
        loop {
            let before = self.day;
            self.let_time_pass().await?;
            let batch = self.batch().await?;
            if before == Some(batch.day()) {
                return Ok(batch);
            }
            eprintln!(
                "  left out: midnight fell before batch {}, which stores all ads anew",
                batch.id
            );
        }
    }

    /// Waits until the coordinator has trained a dictionary of the archive, which workers use from the next batch's first page
    /// on. Not without the archive, or where there is too little to learn.
    async fn settle(&self) -> Result<()> {
        let archived: i64 = sqlx::query_scalar(
            "SELECT count(DISTINCT (j.market_id, j.page)) FROM pipeline.raw_pages r JOIN pipeline.jobs j USING (day, batch_id, ordinal)
              WHERE r.ads > 0 AND j.kind = 'search'",
        )
        .fetch_one(&self.fleet.pool)
        .await?;
        if usize::try_from(archived)? < coordinator::archive::LEAST_PAGES {
            return Ok(());
        }
        let until = Instant::now() + TRAINING_PATIENCE;
        while !self.has_dictionary().await? {
            if Instant::now() > until {
                eprintln!(
                    "  no dictionary of the archive within {TRAINING_PATIENCE:?}: going on without"
                );
                return Ok(());
            }
            tokio::time::sleep(PULSE).await;
        }
        Ok(())
    }

    /// Whether the archive has a dictionary.
    pub(crate) async fn has_dictionary(&self) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT FROM pipeline.raw_dictionaries)";
        Ok(sqlx::query_scalar(sql).fetch_one(&self.fleet.pool).await?)
    }

    /// Lets ten simulated minutes pass: ads change, come and go.
    pub(crate) async fn let_time_pass(&self) -> Result<()> {
        self.fleet.admin(&format!("advance?ms={INTERVAL_MS}"), &json!({})).await?;
        self.prepare().await
    }

    pub(crate) fn coordinator_mb(&self) -> Result<f64> {
        meter::resident_mb(self.coordinator.id().context("the coordinator has ended")?)
    }

    /// Of the largest worker.
    pub(crate) fn worker_mb(&self) -> Result<f64> {
        let mut most: f64 = 0.0;
        for worker in &self.workers {
            most = most.max(meter::resident_mb(worker.id().context("a worker has ended")?)?);
        }
        Ok(most)
    }

    /// Times and counts of a closed batch, from the ledger. It has the time at which the transaction of a job's end began; the last
    /// end is that of its commit, if the server notes it: from then on all of the batch can be read.
    async fn ledger(&self, id: i32) -> Result<Figures> {
        let row: (f64, f64, f64, f64, i64, i64, i64, f64, f64, i64, f64) = sqlx::query_as(
            "SELECT extract(epoch FROM j.last_end - b.opened_at)::float8,
                    extract(epoch FROM b.planned_at - b.opened_at)::float8,
                    extract(epoch FROM b.closed_at - b.opened_at)::float8,
                    extract(epoch FROM b.closed_at - j.last_end)::float8,
                    b.ads::bigint, j.pages, j.versions, j.stored_p50, j.stored_p95,
                    (SELECT count(*) FROM warehouse.books k WHERE k.day = b.day AND k.batch_id = b.batch_id),
                    (SELECT coalesce(avg((dictionary_id IS NOT NULL)::int), 0)::float8
                       FROM pipeline.raw_pages r WHERE r.day = b.day AND r.batch_id = b.batch_id)
               FROM pipeline.batches b,
                    LATERAL (SELECT max(CASE WHEN current_setting('track_commit_timestamp')::bool
                                             THEN pg_xact_commit_timestamp(xmin) ELSE ended_at END) AS last_end,
                                    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM ended_at - fetched_at))
                                        AS stored_p50,
                                    percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM ended_at - fetched_at))
                                        AS stored_p95,
                                    count(*) FILTER (WHERE kind = 'search' AND state IN ('done', 'empty')) AS pages,
                                    (SELECT count(*) FROM warehouse.offer_versions v
                                      WHERE v.day = b.day AND v.first_seen_at BETWEEN b.opened_at AND b.closed_at) AS versions
                               FROM pipeline.jobs WHERE day = b.day AND batch_id = b.batch_id) j
              WHERE b.batch_id = $1",
        )
        .bind(id)
        .fetch_one(&self.fleet.pool)
        .await?;
        let (read, plan, closed, close, ads, pages, versions, stored_p50, stored_p95, ..) = row;
        let (.., markets, with_dictionary) = row;
        #[expect(clippy::cast_precision_loss, reason = "counts of ads and pages are small")]
        let [ads, pages, versions, markets] =
            [ads, pages, versions, markets].map(|count| count as f64);
        let figures = [
            ("ads", ads),
            ("markets", markets),
            ("pages", pages),
            ("answer_to_transaction_ms, p50", stored_p50 * 1000.0),
            ("answer_to_transaction_ms, p95", stored_p95 * 1000.0),
            ("ads per page", ads / pages),
            ("share of ads stored anew", versions / ads),
            ("share of answers packed with a dictionary", with_dictionary),
            ("ads_per_s, opened to last end", ads / read),
            ("pages_per_s, opened to last end", pages / read),
            ("ads_per_s, opened to closed", ads / closed),
            ("ads_per_s, planned to last end", ads / (read - plan)),
            ("plan_ms", plan * 1000.0),
            (CLOSE_MS, close * 1000.0),
        ];
        let mut figures: Figures = figures.map(|(name, value)| (name.to_owned(), value)).into();
        figures.extend(self.until_committed(id).await?);
        Ok(figures)
    }

    /// How long it took from the answers of a batch until the commit of what they tell, its flush left out: from their rows in
    /// the archive, which are written once, as the ledger has the time at which a transaction began. Nothing if none is
    /// archived, or if the server does not note it.
    async fn until_committed(&self, id: i32) -> Result<Figures> {
        let pool = &self.fleet.pool;
        let is_noted: bool =
            sqlx::query_scalar("SELECT current_setting('track_commit_timestamp')::bool")
                .fetch_one(pool)
                .await?;
        if !is_noted {
            return Ok(Figures::new());
        }
        let (p50, p95): (Option<f64>, Option<f64>) = sqlx::query_as(
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds),
                    percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds)
               FROM (SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin) - fetched_at)::float8 AS seconds
                       FROM pipeline.raw_pages
                      WHERE day = DATE '1970-01-01' + ($1 >> 9) AND batch_id = $1) r",
        )
        .bind(id)
        .fetch_one(pool)
        .await?;
        let names = ["answer_to_commit_ms, p50", "answer_to_commit_ms, p95"];
        let figures = names.into_iter().zip([p50, p95]);
        Ok(figures.filter_map(|(name, s)| Some((name.to_owned(), s? * 1000.0))).collect())
    }

    /// Has the programs end as they do in service; those of a run that failed are killed instead.
    async fn stop(mut self) -> Result<()> {
        self.coordinator.terminate().await?;
        for mut worker in self.workers {
            worker.terminate().await?;
        }
        Ok(())
    }
}

/// Bytes of WAL since the server was made.
pub(crate) async fn wal_bytes(fleet: &Fleet) -> Result<f64> {
    let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&fleet.pool).await?)
}

/// The steps in the line that says that a batch closed.
fn steps_of(line: &str) -> Option<BTreeMap<String, f64>> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    let steps = fields.get("steps_ms")?.as_str()?;
    let one = |step: &str| {
        let (name, ms) = step.split_once('=')?;
        Some((name.to_owned(), ms.parse().ok()?))
    };
    steps.split(' ').map(one).collect()
}
