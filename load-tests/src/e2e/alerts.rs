//! Causes, and the messages that come of them: within a minute after something broke, Slack (and for critical
//! alerts `PagerDuty`) has it. Prometheus and Alertmanager are real, with the project's configuration; Slack and
//! `PagerDuty` are an inbox of this program.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use load_tests::chaos::disk::Disk;
use load_tests::fleet::{Fleet, Servers};
use load_tests::link::Link;
use serde_json::{Value, json};
use sqlx::Executor;

use crate::monitors::{Alertmanager, Inbox, Prometheus, Watched};
use crate::panels::{batch, begin_batch};
use crate::step;

/// More than a hundred pages, so that a fault on each is a hundred of them.
const MARKET: &str = "--fiats 6 --ads 3000 --delisted 0 --churn-per-minute 0 --change-per-minute 0 --tie-shuffle-per-mille 0";
/// Slots are far away; batches are asked for.
const SCHEDULE: &str = "1440";
/// A cause that keeps a batch open ends with it.
const DEADLINE_SECONDS: &str = "40";
/// Longer than what makes `APILatencyHigh`.
const TIMEOUT_SECONDS: &str = "7";
/// From a cause to its message. What a batch tells when it closes counts from its close.
const MESSAGE_LIMIT: Duration = Duration::from_mins(1);
/// Longest wait for what Prometheus must have seen, or no longer see: sums look back five minutes.
const QUIET_LIMIT: Duration = Duration::from_mins(8);
const PULSE: Duration = Duration::from_millis(500);
/// Scrapes between two starts of a process, so that each is seen.
const SCRAPED: Duration = Duration::from_secs(12);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    Critical,
    Warning,
}
use Severity::{Critical, Warning};

/// What is broken.
#[derive(Clone, Copy)]
enum Cause {
    /// The exchange answers each of a thousand requests of a batch so.
    Fault(&'static str, u32),
    /// The same, with what the exchange's search or its other view say.
    Lie,
    Shrink,
    Poison,
    /// The worker's link to the broker is cut, and a batch begun.
    Unconsumed,
    SecondWorkerKilled,
    WorkerRestarts,
    /// As if the schedule had missed a slot.
    SlotMissed,
    /// Times in the database are set back.
    SetBack(&'static str),
    Redis,
    Broker,
    Database,
    NoWorker,
    NoLeader,
    ArchiveTooLarge,
    Disk,
}

/// Causes and what must be told of each. What fires for minutes after it was mended, and would hold others
/// back, comes last.
const CAUSES: [(Cause, &[(&str, Severity)]); 25] = [
    (Cause::Fault("http429-seconds", 1000), &[("Consecutive429s", Critical)]),
    (Cause::NoLeader, &[("NoLeader", Critical)]),
    (Cause::Poison, &[("DeadLetters", Warning)]),
    (Cause::Lie, &[("WitnessDisagrees", Warning)]),
    (Cause::Shrink, &[("QualityCheckFailed", Critical)]),
    (Cause::Fault("new-field", 1000), &[("SchemaDrift", Warning)]),
    (Cause::Fault("bad-price", 1000), &[("QuarantineGrowing", Warning)]),
    (Cause::Fault("cut-json", 300), &[("UnparsableAnswers", Warning)]),
    (Cause::SecondWorkerKilled, &[("TargetDown", Warning)]),
    (Cause::WorkerRestarts, &[("ProcessRestarts", Warning)]),
    (Cause::SlotMissed, &[("SlotSkipped", Warning)]),
    (
        Cause::SetBack(
            "UPDATE warehouse.latest_books SET read_at = read_at - interval '2 days' WHERE market_id = (SELECT min(market_id) FROM pipeline.catalog WHERE is_listed AND last_total > 0)",
        ),
        &[("MarketStale", Warning)],
    ),
    (
        Cause::SetBack("UPDATE warehouse.latest_books SET read_at = read_at - interval '3 days'"),
        &[("DataStale", Critical)],
    ),
    (
        Cause::SetBack(
            "UPDATE pipeline.batches SET opened_at = opened_at - interval '3 days', closed_at = closed_at - interval '3 days'",
        ),
        &[("NoBatchClosed", Critical)],
    ),
    (Cause::Redis, &[("RedisDown", Warning)]),
    (Cause::Broker, &[("RabbitMQDown", Critical)]),
    (Cause::Unconsumed, &[("QueueWithoutConsumer", Warning)]),
    (Cause::NoWorker, &[("NoWorker", Critical)]),
    (Cause::ArchiveTooLarge, &[("RawArchiveSuspended", Warning)]),
    (
        Cause::Fault("http404", 300),
        &[("DataCompletenessLow", Critical), ("HighErrorRate", Warning)],
    ),
    (
        Cause::Fault("hang", 1000),
        &[
            ("RequestTimeouts", Warning),
            ("APILatencyHigh", Warning),
            ("BreakerOpen", Warning),
            ("BatchExecutionFailed", Critical),
        ],
    ),
    // Too few for the breaker, which would end the batch early.
    (Cause::Fault("hang", 300), &[("BatchDurationHigh", Warning)]),
    (Cause::Database, &[("DatabaseDown", Critical)]),
    (Cause::Fault("renamed-price", 1000), &[("SchemaDrift", Critical)]),
    (Cause::Disk, &[("DiskFull", Critical)]),
];
/// What is tried unless all are wanted: the exchange, a program, a server.
const FEW: [&str; 3] = ["Consecutive429s", "NoLeader", "DatabaseDown"];

pub(crate) async fn run(is_every: bool, only: Option<&str>) -> Result<()> {
    let is_wanted = |alert: &str| match only {
        Some(only) => alert == only,
        None => is_every || FEW.contains(&alert),
    };
    let wanted: Vec<_> = CAUSES
        .into_iter()
        .filter(|(_, alerts)| alerts.iter().any(|(alert, _)| is_wanted(alert)))
        .collect();
    ensure!(!wanted.is_empty(), "no cause is known of {only:?}");
    if only.is_none() {
        must_know_all()?;
    }
    let name = Fleet::new_name();
    let home = std::env::temp_dir().join(format!("{name}_alerts"));
    let servers = Servers::from_environment()?;
    let disk = Disk::mount(&servers.database_url, &format!("disk_{name}")).await?;
    let tablespace = disk.as_ref().map(|disk| disk.tablespace.clone());
    let database_url = servers.database_url.clone();
    let directory = std::env::temp_dir().join(&name);
    let fleet = Fleet::start_as(name, servers, &directory, tablespace.as_deref(), MARKET).await?;
    let told = tell(&fleet, &home, disk.as_ref(), &wanted).await;
    if told.is_err() {
        eprintln!("e2e: logs are in {}", home.display());
    }
    fleet.remove().await?;
    if let Some(disk) = disk {
        disk.remove(&database_url).await?;
    }
    told?;
    Ok(std::fs::remove_dir_all(home)?)
}

/// Every rule has a cause here.
fn must_know_all() -> Result<()> {
    let rules = crate::monitors::directory().join("prometheus/rules/p2p.yml");
    let rules = std::fs::read_to_string(rules)?;
    let known: Vec<&str> =
        CAUSES.iter().flat_map(|(_, alerts)| alerts.iter().map(|(alert, _)| *alert)).collect();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        ensure!(known.contains(&alert), "no cause of {alert} is known");
    }
    Ok(())
}

async fn tell(
    fleet: &Fleet,
    home: &Path,
    disk: Option<&Disk>,
    causes: &[(Cause, &[(&str, Severity)])],
) -> Result<()> {
    let mut scene = Scene::set(fleet, home, disk).await?;
    batch(fleet).await?;
    for (cause, alerts) in causes {
        let names: Vec<&str> = alerts.iter().map(|(alert, _)| *alert).collect();
        if matches!(cause, Cause::Disk) && disk.is_none() {
            println!("   {}: not tried, no file system can be mounted here", names.join(", "));
            continue;
        }
        scene.wait_until_quiet(&names).await?;
        step(&format!("the cause of {}", names.join(", ")));
        let begun = Instant::now();
        let broken = scene.break_by(*cause).await.with_context(|| names.join(", "))?;
        for (alert, severity) in *alerts {
            scene.must_be_told(alert, *severity, begun, broken).await?;
        }
        scene.mend(*cause).await.with_context(|| format!("mend what made {}", names.join(", ")))?;
    }
    Ok(())
}

/// What runs, and the links between.
struct Scene<'a> {
    fleet: &'a Fleet,
    home: PathBuf,
    disk: Option<&'a Disk>,
    prometheus: Prometheus,
    _alertmanager: Alertmanager,
    inbox: Inbox,
    database: Link,
    broker: Link,
    broker_of_worker: Link,
    redis: Link,
    coordinator: Option<Watched>,
    worker: Option<Watched>,
}

impl<'a> Scene<'a> {
    async fn set(fleet: &'a Fleet, home: &Path, disk: Option<&'a Disk>) -> Result<Self> {
        let inbox = Inbox::open().await?;
        let alertmanager = Alertmanager::start(home, &inbox).await?;
        let prometheus = Prometheus::start(home, Some(&alertmanager.address)).await?;
        let mut scene = Self {
            fleet,
            home: home.to_owned(),
            disk,
            prometheus,
            _alertmanager: alertmanager,
            inbox,
            database: Link::to(&fleet.database_url).await?,
            broker: Link::to(&fleet.servers.amqp_url).await?,
            broker_of_worker: Link::to(&fleet.servers.amqp_url).await?,
            redis: Link::to(&fleet.servers.redis_url).await?,
            coordinator: None,
            worker: None,
        };
        scene.start_coordinator(&[])?;
        scene.start_worker(&[])?;
        scene.watch(&[])?;
        Ok(scene)
    }

    fn start_coordinator(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        let mut all = vec![
            ("DATABASE_URL", self.database.url.as_str()),
            ("AMQP_URL", self.broker.url.as_str()),
            ("EXTRACTION_INTERVAL_MINUTES", SCHEDULE),
            ("BATCH_DEADLINE_SECONDS", DEADLINE_SECONDS),
            ("WITNESS_MARKETS_PER_BATCH", "3"),
        ];
        all.extend(settings);
        let before = self.coordinator.take();
        let port = before.as_ref().map(|before| before.port().to_owned());
        drop(before);
        all.extend(port.as_deref().map(|port| ("PROMETHEUS_PORT", port)));
        self.coordinator = Some(Watched::start(self.fleet, &self.home, "coordinator", &all)?);
        Ok(())
    }

    fn start_worker(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        let mut all = vec![
            ("DATABASE_URL", self.database.url.as_str()),
            ("AMQP_URL", self.broker_of_worker.url.as_str()),
            ("REDIS_URL", self.redis.url.as_str()),
            ("REQUEST_TIMEOUT_SECONDS", TIMEOUT_SECONDS),
            ("MAX_RETRIES", "0"),
        ];
        all.extend(settings);
        let before = self.worker.take();
        let port = before.as_ref().map(|before| before.port().to_owned());
        drop(before);
        all.extend(port.as_deref().map(|port| ("PROMETHEUS_PORT", port)));
        self.worker = Some(Watched::start(self.fleet, &self.home, "worker", &all)?);
        Ok(())
    }

    /// Tells Prometheus whom to scrape.
    fn watch(&self, more_workers: &[&Watched]) -> Result<()> {
        let coordinators: Vec<&Watched> = self.coordinator.iter().collect();
        self.prometheus.watch("coordinators", &coordinators)?;
        let workers: Vec<&Watched> =
            self.worker.iter().chain(more_workers.iter().copied()).collect();
        self.prometheus.watch("workers", &workers)
    }

    /// Waits until nothing critical fires, which could hold others back, and none of `alerts`.
    async fn wait_until_quiet(&self, alerts: &[&str]) -> Result<()> {
        let end = Instant::now() + QUIET_LIMIT;
        loop {
            let firing = self.prometheus.firing().await?;
            let is_in_the_way = |alert: &String| {
                alerts.contains(&alert.as_str())
                    || CAUSES.iter().any(|(_, told)| told.contains(&(alert.as_str(), Critical)))
            };
            let in_the_way: Vec<&String> =
                firing.iter().filter(|alert| is_in_the_way(alert)).collect();
            if in_the_way.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{in_the_way:?} do not end");
            tokio::time::sleep(PULSE).await;
        }
    }

    /// Breaks something; since when it is broken for all to see.
    async fn break_by(&mut self, cause: Cause) -> Result<Instant> {
        let fleet = self.fleet;
        let now = Instant::now();
        match cause {
            Cause::Fault(fault, per_mille) => {
                fleet.admin("faults", &json!({ fault: per_mille })).await?;
                batch(fleet).await?;
                return Ok(Instant::now());
            }
            Cause::Lie => {
                fleet.admin("lies", &json!({ "search": "shifted" })).await?;
                batch(fleet).await?;
                return Ok(Instant::now());
            }
            Cause::Shrink => {
                // What is ordinary is learnt first.
                for _ in 0..coordinator::quality::MIN_CYCLES {
                    batch(fleet).await?;
                }
                fleet.admin("resize", &json!({ "per_mille": 200 })).await?;
                batch(fleet).await?;
                return Ok(Instant::now());
            }
            Cause::Poison => fleet.publish_poison().await?,
            Cause::Unconsumed => {
                self.broker_of_worker.cut();
                begin_batch(fleet).await?;
                return Ok(Instant::now());
            }
            Cause::SecondWorkerKilled => {
                let second = Watched::start(fleet, &self.home, "worker", &[])?;
                self.watch(&[&second])?;
                self.wait_for("sum(up{job=\"worker\"}) == 2").await?;
                drop(second);
                return Ok(Instant::now());
            }
            Cause::WorkerRestarts => {
                self.wait_for("p2p_process_start_time_seconds{job=\"worker\"}").await?;
                for _ in 0..3 {
                    self.start_worker(&[])?;
                    tokio::time::sleep(SCRAPED).await;
                }
                return Ok(Instant::now());
            }
            Cause::SlotMissed => {
                // A coordinator that is new to Prometheus counts old slots.
                self.wait_for("p2p_slots_total{outcome=\"skipped\"} offset 1m").await?;
                let missed = "INSERT INTO pipeline.slots (exchange_id, slot_at, state, reason, recorded_at)
                    SELECT exchange_id, date_trunc('second', now()), 'skipped', 'missed', now() FROM warehouse.dim_exchanges";
                fleet.pool.execute(missed).await?;
                return Ok(Instant::now());
            }
            Cause::SetBack(sql) => {
                fleet.pool.execute(sql).await?;
            }
            Cause::Redis => self.redis.cut(),
            Cause::Broker => self.broker.cut(),
            Cause::Database => self.database.cut(),
            Cause::NoWorker => {
                let worker = self.worker.as_mut().context("a worker")?;
                worker.process.terminate().await?;
            }
            Cause::NoLeader => {
                let coordinator = self.coordinator.as_mut().context("a coordinator")?;
                coordinator.process.terminate().await?;
            }
            Cause::ArchiveTooLarge => self.start_coordinator(&[("RAW_ARCHIVE_MB", "1")])?,
            Cause::Disk => {
                let slow = ["limiter", "set", "--rate", "120", "--max", "120"];
                self.p2p(&slow).await?;
                begin_batch(fleet).await?;
                self.disk.context("a disk")?.fill()?;
                return Ok(Instant::now());
            }
        }
        Ok(now)
    }

    async fn mend(&mut self, cause: Cause) -> Result<()> {
        let fleet = self.fleet;
        match cause {
            Cause::Fault(..) | Cause::Lie | Cause::Shrink => {
                fleet.admin("faults", &json!({})).await?;
                fleet.admin("lies", &json!({})).await?;
                fleet.admin("resize", &json!({ "per_mille": 1000 })).await?;
                self.p2p(&["limiter", "resume"]).await?;
                self.p2p(&["limiter", "set", "--rate", "6000"]).await?;
                batch(fleet).await?;
            }
            Cause::Poison => {
                // Requeued it would die again.
                fleet.lose_queue("dead").await?;
                self.start_coordinator(&[])?;
            }
            Cause::Unconsumed => self.broker_of_worker.heal(),
            Cause::SecondWorkerKilled => self.watch(&[])?,
            Cause::WorkerRestarts | Cause::SlotMissed => {}
            Cause::SetBack(_) => batch(fleet).await?,
            Cause::Redis => self.redis.heal(),
            Cause::Broker => self.broker.heal(),
            Cause::Database => self.database.heal(),
            Cause::NoWorker => self.start_worker(&[])?,
            Cause::NoLeader | Cause::ArchiveTooLarge => self.start_coordinator(&[])?,
            Cause::Disk => {
                self.disk.context("a disk")?.free()?;
                self.p2p(&["limiter", "set", "--rate", "6000", "--max", "6000"]).await?;
            }
        }
        Ok(())
    }

    async fn p2p(&self, args: &[&str]) -> Result<()> {
        let done = self.fleet.command("p2p", args)?.output().await?;
        ensure!(done.status.success(), "p2p {}: {done:?}", args.join(" "));
        Ok(())
    }

    async fn wait_for(&self, expression: &str) -> Result<()> {
        let end = Instant::now() + QUIET_LIMIT;
        while self.prometheus.ask(expression, 0).await?.is_empty() {
            ensure!(Instant::now() < end, "{expression} does not come true");
            tokio::time::sleep(PULSE).await;
        }
        Ok(())
    }

    /// Slack has it, and `PagerDuty` if it is critical and only then.
    async fn must_be_told(
        &self,
        alert: &str,
        severity: Severity,
        begun: Instant,
        broken: Instant,
    ) -> Result<()> {
        let word = if severity == Critical { "critical" } else { "warning" };
        let title = json!(format!("{alert} ({word})"));
        let is_in_slack = |body: &Value| body["attachments"][0]["title"] == title;
        let is_in_pagerduty = |body: &Value| {
            body["event_action"] == "trigger"
                && body["payload"]["class"] == alert
                && body["payload"]["severity"] == word
        };
        let mut wanted = vec!["slack"];
        wanted.extend((severity == Critical).then_some("pagerduty"));
        loop {
            let messages = self.inbox.since(begun);
            let found = |to: &str| {
                messages.iter().find(|message| {
                    message.to == to
                        && match to {
                            "slack" => is_in_slack(&message.body),
                            _ => is_in_pagerduty(&message.body),
                        }
                })
            };
            ensure!(severity == Critical || found("pagerduty").is_none(), "{alert} woke somebody");
            if let Some(all) = wanted.iter().map(|to| found(to)).collect::<Option<Vec<_>>>() {
                let last = all.iter().map(|message| message.at).max().context("a message")?;
                let took = last.saturating_duration_since(broken);
                ensure!(took <= MESSAGE_LIMIT, "{alert} was told after {took:?} only");
                let text =
                    all.first().and_then(|message| message.body["attachments"][0]["text"].as_str());
                let text = text.context("a text")?;
                ensure!(
                    text.contains("docs/OPERATIONS.md#"),
                    "{alert} names no section of the runbook: {text}"
                );
                let first = text.lines().next().unwrap_or_default();
                println!("   {alert} ({word}) after {} s: {first}", took.as_secs());
                return Ok(());
            }
            if broken.elapsed() > MESSAGE_LIMIT {
                let titles: Vec<&Value> = messages
                    .iter()
                    .map(|message| &message.body["attachments"][0]["title"])
                    .collect();
                let firing = self.prometheus.firing().await?;
                bail!(
                    "{alert} ({word}) is not told within {MESSAGE_LIMIT:?}; firing: {firing:?}; told: {titles:?}; {}",
                    self.home.display()
                );
            }
            tokio::time::sleep(PULSE).await;
        }
    }
}
