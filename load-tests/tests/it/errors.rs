//! Every error that a request, an answer or the database can meet: what the fleet does about it, how
//! often it tries, what the job's row says, and that the metric counts as many as the ledger.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use load_tests::fleet::{Fleet, PULSE, Process};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

/// Tries after the first, where another answer is asked for once more.
const MAX_RETRIES: i64 = 2;
/// Most issues of a job in one batch.
const MAX_ISSUES: i64 = 3;

/// What must become of jobs all of whose answers are of one kind.
struct Row {
    fault: &'static str,
    error: &'static str,
    /// State and reason of the jobs.
    end: (&'static str, &'static str),
    http_status: Option<i16>,
    /// Most requests of one issue; `None`: as many as the deadline allows.
    tries: Option<i64>,
    is_issued_again: bool,
    /// Whether the bytes of the answer are kept.
    is_kept: bool,
}

/// A job that failed for an error that may pass.
const fn passing(fault: &'static str, error: &'static str, http_status: Option<i16>) -> Row {
    let end = ("failed", error);
    let tries = Some(1 + MAX_RETRIES);
    Row { fault, error, end, http_status, tries, is_issued_again: true, is_kept: false }
}

/// A job that failed for an answer that nothing can be taken from; it is asked for once more.
const fn unreadable(fault: &'static str, error: &'static str, is_kept: bool) -> Row {
    Row { tries: Some(2), is_kept, ..passing(fault, error, Some(200)) }
}

/// A job that failed for good.
const fn lasting(fault: &'static str, error: &'static str, http_status: i16) -> Row {
    let row = passing(fault, error, Some(http_status));
    Row { tries: Some(1), is_issued_again: false, is_kept: true, ..row }
}

/// A job that was refused until its batch was over.
const fn refused(fault: &'static str, http_status: i16) -> Row {
    let row = passing(fault, "rate_limited", Some(http_status));
    Row { end: ("expired", "deadline"), tries: None, is_issued_again: false, ..row }
}

const TABLE: [Row; 23] = [
    passing("hang", "timeout", None),
    passing("drip", "timeout", None),
    passing("reset", "network", None),
    passing("http500", "server_error", Some(500)),
    passing("http503", "server_error", Some(503)),
    passing("redirect", "redirect", Some(302)),
    passing("endless", "too_large", Some(200)),
    passing("broken-gzip", "network", None),
    unreadable("cut-gzip", "corrupt_body", false),
    unreadable("empty200", "empty_body", false),
    unreadable("html200", "not_json", true),
    unreadable("png200", "not_json", true),
    unreadable("cut-json", "unparsable", true),
    lasting("http404", "http_status", 404),
    lasting("http451", "http_status", 451),
    lasting("code000002", "rejected", 200),
    lasting("code000002-http400", "rejected", 400),
    Row { tries: Some(2), ..lasting("code083932", "rejected", 200) },
    refused("http429", 429),
    refused("http429-date", 429),
    refused("http429-html", 429),
    refused("http418", 418),
    refused("http403", 403),
];

/// A program and where its metrics are.
pub(crate) struct Measured {
    process: Process,
    address: String,
}

impl Measured {
    /// A worker.
    pub(crate) fn start(fleet: &Fleet, settings: &[(&str, &str)]) -> Result<Self> {
        let mut worker = fleet.command("worker", &["run"])?;
        worker.env("WORKER_ID", "measured");
        Self::spawn(worker, settings)
    }

    pub(crate) fn spawn(mut program: Command, settings: &[(&str, &str)]) -> Result<Self> {
        // Free now; nobody else is told of it.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        program.env("ENABLE_METRICS", "true").env("PROMETHEUS_PORT", address.port().to_string());
        program.envs(settings.iter().copied());
        Ok(Self { process: Process::spawn(program)?, address: address.to_string() })
    }

    /// The sum of a metric over all series whose labels contain `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> Result<i64> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let request = "GET /metrics HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let values = text.lines().filter_map(|line| {
            let series = line.strip_prefix(name)?;
            let (given, value) = series.rsplit_once(' ')?;
            given.contains(labels).then(|| value.parse::<i64>())
        });
        values.map(|value| value.context("a whole number")).sum()
    }

    /// Ends it as an operator does.
    pub(crate) async fn terminate(&mut self) -> Result<()> {
        ensure!(self.process.terminate().await?.success(), "it does not end well");
        Ok(())
    }

    async fn errors(&self, error: &str) -> Result<i64> {
        self.metric("p2p_extraction_errors_total", &format!("error_type=\"{error}\"")).await
    }

    /// Waits until an error was counted.
    async fn wait_for_error(&self, error: &str) -> Result<()> {
        self.wait_for("p2p_extraction_errors_total", &format!("error_type=\"{error}\""), 1).await
    }

    /// Waits until a metric reaches `least`.
    pub(crate) async fn wait_for(&self, name: &str, labels: &str, least: i64) -> Result<()> {
        let end = Instant::now() + Duration::from_mins(1);
        // Until it listens, there is nothing.
        while self.metric(name, labels).await.unwrap_or_default() < least {
            ensure!(Instant::now() < end, "{name} {labels} never reaches {least}");
            tokio::time::sleep(PULSE).await;
        }
        Ok(())
    }
}

#[derive(Debug, sqlx::FromRow)]
struct Job {
    state: String,
    reason: Option<String>,
    http_status: Option<i16>,
    attempts: i64,
    issue: i64,
    errors: Vec<String>,
}

impl Job {
    fn must_be(&self, row: &Row) -> Result<()> {
        let (state, reason) = row.end;
        ensure!(self.state == state && self.reason.as_deref() == Some(reason), "its end");
        ensure!(self.errors.iter().all(|class| class == row.error), "its errors");
        ensure!(i64::try_from(self.errors.len())? == self.attempts, "each request met one");
        match row.tries {
            Some(tries) => ensure!(self.attempts == tries * self.issue, "its tries"),
            // A refusal pauses everybody: some jobs get no turn before the deadline.
            None if self.attempts == 0 => return Ok(()),
            None => {}
        }
        ensure!(self.http_status == row.http_status, "its status");
        ensure!(self.issue <= if row.is_issued_again { MAX_ISSUES } else { 1 }, "its issues");
        Ok(())
    }
}

/// One kind of answer to all requests of a batch.
async fn try_row(row: &Row) -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 60 --churn-per-minute 0").await?;
    let settings = [
        ("REQUEST_TIMEOUT_SECONDS", if row.error == "timeout" { "1" } else { "20" }),
        ("MAX_RETRIES", &*MAX_RETRIES.to_string()),
        ("MAX_IN_FLIGHT", "100"),
        // Some jobs wait in the queue: with none there, and none ended for ten seconds, all would be published again.
        ("MAX_WORKERS", "10"),
        // The breaker has tests of its own; so has the rate.
        ("BREAKER_FAILURES", "1000"),
        ("MIN_RATE_LIMIT", "6000"),
    ];
    let measured = Measured::start(&fleet, &settings)?;
    ensure!(fleet.batch(&[]).await? == 0, "the batch without faults");
    fleet.admin("faults", &json!({ row.fault: 1000 })).await?;
    let deadline = if row.tries.is_none() { "6" } else { "60" };
    let code = fleet.batch(&[("BATCH_DEADLINE_SECONDS", deadline)]).await?;
    ensure!(code == 4, "exit code {code} of a batch that read nothing");

    // What a worker spent on a job that expired is added when it sees that.
    let requests = i64::try_from(fleet.requests()?.len())?;
    fleet.wait_for("SELECT sum(attempts) FROM pipeline.jobs", requests).await?;
    let jobs: Vec<Job> = sqlx::query_as(
        "SELECT state, reason, http_status, attempts::int8, issue::int8, coalesce(errors, '{}') AS errors
           FROM pipeline.jobs WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches)",
    )
    .fetch_all(&fleet.pool)
    .await?;
    ensure!(jobs.len() > 5, "{} jobs", jobs.len());
    for job in &jobs {
        job.must_be(row).with_context(|| format!("{job:?}"))?;
    }
    ensure!(jobs.iter().any(|job| job.issue > 1) == row.is_issued_again, "issued again");
    let errors: i64 = jobs.iter().map(|job| job.attempts).sum();
    let counted = measured.errors(row.error).await?;
    ensure!(errors > 0 && counted == errors, "{counted} by the metric, {errors} by the ledger");
    let kept = fleet
        .number(
            "SELECT count(*) FROM pipeline.quarantine WHERE scope = 'answer' AND length(body) > 0
                AND batch_id = (SELECT max(batch_id) FROM pipeline.batches)",
        )
        .await?;
    ensure!((kept > 0) == row.is_kept, "{kept} answers are kept");
    let failed = "SELECT requests_failed FROM pipeline.batches ORDER BY batch_id DESC LIMIT 1";
    let failed: i32 = sqlx::query_scalar(failed).fetch_one(&fleet.pool).await?;
    let is_told_in_time = i64::from(failed) == errors || row.tries.is_none();
    ensure!(is_told_in_time, "{failed} failed requests of the batch, {errors} by the ledger");
    drop(measured);
    fleet.remove().await
}

/// Each kind has its reaction, its bound, its class in the row, and its label in the metric.
#[tokio::test(flavor = "multi_thread")]
async fn the_error_table() -> Result<()> {
    let rows = TABLE.iter().map(async |row| Some((row.fault, try_row(row).await.err()?)));
    let wrong: Vec<_> = futures::stream::iter(rows)
        .buffer_unordered(6)
        .filter_map(std::future::ready)
        .collect()
        .await;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// JSON under another label is an answer: the bytes decide.
#[tokio::test(flavor = "multi_thread")]
async fn json_under_another_label_is_taken() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 60 --fault text200:1000").await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// One bad ad costs itself: it is in quarantine, the others of its page are stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_ad_costs_itself() -> Result<()> {
    let fleet =
        Fleet::start("--fiats 1 --ads 60 --churn-per-minute 0 --fault bad-price:1000").await?;
    let measured = Measured::start(&fleet, &[])?;
    assert_eq!(fleet.batch(&[]).await?, 3, "partial");
    let refused = fleet.number("SELECT sum(ads_refused) FROM pipeline.jobs").await?;
    let pages = fleet.number("SELECT count(*) FROM warehouse.book_pages").await?;
    assert!(refused > 5, "{refused} ads refused");
    assert_eq!(refused, pages, "one of each page");
    assert!(fleet.number("SELECT count(*) FROM warehouse.fact_offers").await? > 0);
    assert_eq!(measured.errors("ad_refused").await?, refused);
    drop(measured);
    fleet.remove().await
}

/// A database without space, or going down, costs time: nothing is acknowledged, nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_write_costs_time() -> Result<()> {
    for (state, error) in [("53100", "disk_full"), ("57P03", "database")] {
        let fleet = Fleet::start("--fiats 1 --ads 60").await?;
        let measured = Measured::start(&fleet, &[])?;
        let raise = format!("RAISE EXCEPTION 'on purpose' USING ERRCODE = '{state}'");
        execute(&fleet, format!("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {raise}; END $$")).await?;
        execute(
            &fleet,
            "CREATE TRIGGER refuse BEFORE INSERT ON warehouse.book_pages EXECUTE FUNCTION refuse()"
                .into(),
        )
        .await?;
        let mut coordinator = fleet.coordinator(&[])?;
        measured.wait_for_error(error).await?;
        assert_eq!(fleet.number("SELECT count(*) FROM warehouse.book_pages").await?, 0);
        execute(&fleet, "DROP TRIGGER refuse ON warehouse.book_pages".into()).await?;
        assert_eq!(coordinator.wait().await?.code(), Some(0), "{error}");
        fleet.must_equal_truth().await?;
        drop(measured);
        fleet.remove().await?;
    }
    Ok(())
}

async fn execute(fleet: &Fleet, sql: String) -> Result<()> {
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&fleet.pool).await?;
    Ok(())
}

/// A message that is no job goes to the dead letters, and is counted.
#[tokio::test(flavor = "multi_thread")]
async fn poison_is_counted() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 20").await?;
    let mut measured = Measured::start(&fleet, &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    fleet.publish_poison().await?;
    measured.wait_for_error("poison").await?;
    measured.terminate().await?;
    drop(measured);
    fleet.remove().await
}

/// Each figure of the limiter moves.
#[tokio::test(flavor = "multi_thread")]
async fn the_limiter_is_measured() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 60").await?;
    let measured = Measured::start(&fleet, &[("BREAKER_FAILURES", "2"), ("MIN_RATE_LIMIT", "60")])?;
    let labels = format!("egress=\"{}\"", fleet.name);
    assert_eq!(fleet.batch(&[]).await?, 0);
    let requests = i64::try_from(fleet.requests()?.len())?;
    measured.wait_for("p2p_limiter_permits_total", "source=\"redis\"", requests).await?;
    measured.wait_for("p2p_limiter_wait_seconds_count", &labels, requests).await?;
    // These are told with the signs of life, every ten seconds.
    measured.wait_for("p2p_limiter_rate_per_minute", &labels, 60).await?;
    assert_eq!(measured.metric("p2p_limiter_breaker_state", &labels).await?, 0);
    fleet.admin("faults", &json!({ "http429-seconds": 1000 })).await?;
    let _cut = fleet.coordinator(&[("BATCH_DEADLINE_SECONDS", "30")])?;
    measured.wait_for("p2p_limiter_refusals_in_a_row", &labels, 1).await?;
    measured.wait_for("p2p_limiter_breaker_state", &labels, 2).await?;
    assert_eq!(fleet.command("p2p", &["limiter", "pause"])?.status().await?.code(), Some(0));
    measured.wait_for("p2p_limiter_pause_seconds", &labels, 60).await?;

    assert_eq!(measured.metric("p2p_limiter_redis_away", &labels).await?, 0);
    let without = Fleet::start("--fiats 1 --ads 20").await?;
    let alone = Measured::start(&without, &[("REDIS_URL", "redis://127.0.0.1:9/0")])?;
    // Nobody asks for a permit: it is told all the same.
    alone.wait_for("p2p_limiter_redis_away", "", 1).await?;
    drop((measured, alone));
    without.remove().await?;
    fleet.remove().await
}
