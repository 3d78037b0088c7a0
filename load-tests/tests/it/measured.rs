//! What the programs tell of themselves: each metric moves, by as much as the ledger says, and each server
//! that is away is told.

use anyhow::{Context, Result, ensure};
use load_tests::fleet::{Fleet, Process};
use load_tests::link::Link;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use url::Url;

use crate::scrape::Served;

/// A coordinator that keeps a schedule whose slots are far away, and finds late the one of this midnight.
const SCHEDULE: [(&str, &str); 2] =
    [("EXTRACTION_INTERVAL_MINUTES", "1440"), ("MISFIRE_GRACE_SECONDS", "1")];

/// Series of the ledger: labels, and the value that the metric must have.
async fn by_ledger(
    fleet: &Fleet,
    labels: &str,
    value: &str,
    from: &str,
) -> Result<Vec<(Value, i64)>> {
    let pairs: Vec<String> =
        labels.split(", ").map(|label| format!("'{label}', {label}")).collect();
    let sql = format!(
        "SELECT json_build_object({}), ({value})::bigint FROM {from} GROUP BY {labels}",
        pairs.join(", ")
    );
    Ok(sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&fleet.pool).await?)
}

async fn must_equal_ledger(served: &Served, metric: &str, series: &[(Value, i64)]) -> Result<()> {
    ensure!(!series.is_empty(), "{metric}: the ledger has nothing");
    for (labels, value) in series {
        let labels = labels.as_object().context("labels")?;
        let labels: Vec<(&str, &str)> = labels
            .iter()
            .map(|(label, value)| (label.as_str(), value.as_str().unwrap_or_default()))
            .collect();
        served.must_become(metric, &labels, *value).await.context(metric.to_owned())?;
    }
    let sum = series.iter().map(|(_, value)| value).sum();
    served.must_become(metric, &[], sum).await.context("the sum of all series")
}

/// After a batch with faults each metric of worker and coordinator has moved, by what the ledger says.
#[tokio::test(flavor = "multi_thread")]
async fn each_metric_moves_with_the_ledger() -> Result<()> {
    let market = "--fiats 2 --ads 400 --churn-per-minute 0 --fault http500:60 --fault bad-price:60";
    let fleet = Fleet::start(market).await?;
    // The schedule was kept until two days ago.
    sqlx::query(
        "INSERT INTO pipeline.slots
         SELECT exchange_id, (date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC') - interval '2 days',
                NULL, 'skipped', 'missed', now() FROM warehouse.dim_exchanges LIMIT 1",
    )
    .execute(&fleet.pool)
    .await?;
    // Nobody takes its first job yet.
    let mut leader = Served::start(&fleet, "coordinator", &["run", "--once"], &[])?;
    leader.must_become("p2p_leader", &[], 1).await?;
    fleet.wait_for("SELECT count(*) FROM pipeline.jobs WHERE state = 'published'", 1).await?;
    let mut settings = SCHEDULE.to_vec();
    let management = management_url()?;
    settings.push(("RABBITMQ_MANAGEMENT_URL", &management));
    let standby = Served::start(&fleet, "coordinator", &["run"], &settings)?;
    standby.must_become("p2p_leader", &[], 0).await?;
    let ready = standby.wait_until_ready(200, "").await?;
    assert_eq!(ready["checks"]["lock"]["state"], "stands by");
    standby.must_become("p2p_batch_open_jobs", &[], 1).await?;
    standby.must_become("p2p_batch_jobs", &[("state", "published")], 1).await?;
    standby.wait_for("p2p_batch_age_seconds", &[], |age| age.is_some_and(|age| age > 0.0)).await?;
    let urgent = [("queue", "jobs.urgent"), ("state", "ready")];
    standby.must_become("p2p_queue_messages", &urgent, 1).await?;
    standby.must_become("p2p_queue_consumers", &[("queue", "jobs.urgent")], 0).await?;
    for absent in ["p2p_active_workers", "p2p_last_batch_closed_timestamp_seconds"] {
        ensure!(standby.metric(absent, &[]).await?.is_none(), "{absent} is known already");
    }

    let worker = Served::worker(&fleet, &[("MAX_IN_FLIGHT", "100")])?;
    worker.wait_until_ready(200, "").await?;
    assert_eq!(leader.process.wait().await?.code(), Some(3), "partial, for ads are in quarantine");
    the_worker_is_measured(&fleet, &worker).await?;

    standby.must_become("p2p_leader", &[], 1).await?;
    let closed = "SELECT floor(extract(epoch FROM closed_at))::bigint FROM pipeline.batches";
    let closed = fleet.number(closed).await?;
    standby.must_become("p2p_last_batch_closed_timestamp_seconds", &[], closed).await?;
    let jobs = by_ledger(&fleet, "state", "count(*)", "pipeline.jobs").await?;
    must_equal_ledger(&standby, "p2p_batch_jobs", &jobs).await?;
    standby.must_become("p2p_batch_open_jobs", &[], 0).await?;
    standby.wait_for("p2p_batch_age_seconds", &[], |age| age.is_none()).await?;
    standby.must_become("p2p_active_workers", &[("egress", &fleet.name)], 1).await?;
    standby.must_become("p2p_queue_messages", &urgent, 0).await?;
    standby.must_become("p2p_queue_consumers", &[("queue", "jobs.urgent")], 1).await?;
    let unacked = [("queue", "jobs.urgent"), ("state", "unacked")];
    standby.must_become("p2p_queue_messages", &unacked, 0).await?;
    let quarantined =
        fleet.number("SELECT count(*) FROM pipeline.quarantine WHERE state = 'open'").await?;
    ensure!(quarantined > 0, "nothing is in quarantine");
    standby.must_become("p2p_quarantine_open", &[], quarantined).await?;
    for age in ["p2p_newest_complete_book_age_seconds", "p2p_oldest_market_age_seconds"] {
        standby.wait_for(age, &[], |age| age.is_some_and(|age| age > 0.0)).await?;
    }
    // Besides that slot, the one of yesterday was missed; that of this midnight is found late.
    for (reason, slots) in [("missed", 2), ("late", 1)] {
        let skipped = [("outcome", "skipped"), ("reason", reason)];
        standby.must_become("p2p_slots_total", &skipped, slots).await?;
    }
    standby.must_become("p2p_slots_total", &[("outcome", "complete")], 0).await?;
    let is_known = |at: Option<f64>| at.is_some_and(|at| at > 1e9);
    let late = [("reason", "late")];
    standby.wait_for("p2p_last_slot_skipped_timestamp_seconds", &late, is_known).await?;
    standby.wait_for("p2p_leading_since_timestamp_seconds", &[], is_known).await?;
    for up in ["p2p_database_up", "p2p_broker_up"] {
        standby.must_become(up, &[], 1).await?;
    }
    standby
        .wait_for("p2p_database_size_bytes", &[], |size| size.is_some_and(|size| size > 1e6))
        .await?;
    standby.must_become("p2p_dead_letters", &[], 0).await?;
    fleet.publish_poison().await?;
    standby.must_become("p2p_dead_letters", &[], 1).await?;
    let ready = standby.wait_until_ready(200, "").await?;
    assert_eq!(ready["checks"]["last_batch"]["outcome"], "partial");
    drop((worker, standby));
    fleet.remove().await
}

async fn the_worker_is_measured(fleet: &Fleet, worker: &Served) -> Result<()> {
    let ended = "pipeline.jobs WHERE worker_id IS NOT NULL";
    let jobs = by_ledger(fleet, "kind, state", "count(*)", ended).await?;
    must_equal_ledger(worker, "p2p_jobs_total", &jobs).await?;
    let ads = "(SELECT currency_code AS fiat, symbol AS crypto, trade_type, ads_taken
                  FROM pipeline.jobs j JOIN warehouse.dim_markets m USING (market_id)
                  JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
                  JOIN warehouse.dim_cryptocurrencies USING (crypto_id) WHERE kind = 'search' AND ads_taken > 0) j";
    let ads = by_ledger(fleet, "fiat, crypto, trade_type", "sum(ads_taken)", ads).await?;
    must_equal_ledger(worker, "p2p_offers_extracted_total", &ads).await?;

    let requests = "SELECT sum(attempts) FROM pipeline.jobs";
    let (requests, failed) = (
        fleet.number(requests).await?,
        fleet.number("SELECT sum(cardinality(errors)) FROM pipeline.jobs").await?,
    );
    assert_eq!(requests, i64::try_from(fleet.requests()?.len())?);
    ensure!(failed > 0, "no request failed");
    let count = "p2p_api_request_duration_seconds_count";
    worker.must_become(count, &[], requests).await?;
    worker.must_become(count, &[("outcome", "failed")], failed).await?;
    worker.must_become(count, &[("outcome", "ok")], requests - failed).await?;
    let errors = "p2p_extraction_errors_total";
    worker.must_become(errors, &[("error_type", "server_error")], failed).await?;

    let writes = worker.metric("p2p_database_write_duration_seconds_count", &[]).await?;
    ensure!(writes.is_some_and(|writes| writes > 0.0), "{writes:?} transactions");
    assert_eq!(worker.metric("p2p_db_write_duration_seconds_count", &[]).await?, writes);
    let jobs: i64 = jobs.iter().map(|(_, jobs)| jobs).sum();
    worker.must_become("p2p_job_age_seconds_count", &[], jobs).await?;
    worker.must_become("p2p_jobs_in_flight", &[], 0).await?;
    // MAX_WORKERS, and two for pages of advertisers.
    worker.must_become("p2p_jobs_limit", &[], 22).await?;
    let build = [("service", "worker"), ("version", env!("CARGO_PKG_VERSION"))];
    worker.must_become("p2p_build_info", &build, 1).await?;
    for process in ["resident_memory_bytes", "start_time_seconds", "open_fds"] {
        let name = format!("p2p_process_{process}");
        let value = worker.metric(&name, &[]).await?;
        ensure!(value.is_some_and(|value| value > 0.0), "{name}: {value:?}");
    }
    // In whole seconds, of which this test may not take one.
    ensure!(worker.metric("p2p_process_cpu_seconds_total", &[]).await?.is_some(), "processor time");
    let (status, body) = worker.get("/healthz").await?;
    let alive: Value = serde_json::from_str(&body)?;
    assert_eq!((status, &alive["alive"]), (200, &json!(true)));
    for watched in ["consumer", "storer"] {
        assert!(alive["loops"][watched]["limit_ms"].is_u64(), "{alive}");
    }
    Ok(())
}

/// Each server that is away is told with its name, figures that need it go away, and the process is alive
/// all the while.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 20").await?;
    let (database, broker, redis) = (
        Link::to(&fleet.database_url).await?,
        Link::to(&fleet.servers.amqp_url).await?,
        Link::to(&fleet.servers.redis_url).await?,
    );
    let urls = [
        ("DATABASE_URL", database.url.as_str()),
        ("AMQP_URL", broker.url.as_str()),
        ("REDIS_URL", redis.url.as_str()),
    ];
    let worker = Served::worker(&fleet, &urls)?;
    let mut settings = SCHEDULE.to_vec();
    settings.extend(urls);
    let coordinator = Served::start(&fleet, "coordinator", &["run"], &settings)?;
    for served in [&worker, &coordinator] {
        served.wait_until_ready(200, "").await?;
    }
    coordinator.must_become("p2p_database_up", &[], 1).await?;
    coordinator.must_become("p2p_quarantine_open", &[], 0).await?;
    let dead = [("queue", "dead")];
    coordinator.must_become("p2p_queue_consumers", &dead, 0).await?;

    for (link, reason, up, gone, both) in [
        (&database, "database: ", Some("p2p_database_up"), "p2p_quarantine_open", true),
        (&broker, "broker: ", Some("p2p_broker_up"), "p2p_queue_consumers", true),
        (&redis, "redis: ", None, "", false),
    ] {
        link.cut();
        worker.wait_until_ready(503, reason).await?;
        if both {
            coordinator.wait_until_ready(503, reason).await?;
        }
        if let Some(up) = up {
            coordinator.must_become(up, &[], 0).await?;
            coordinator.wait_for(gone, &[], |value| value.is_none()).await?;
        }
        for served in [&worker, &coordinator] {
            assert_eq!(served.get("/healthz").await?.0, 200);
        }
        link.heal();
        worker.wait_until_ready(200, "").await?;
        coordinator.wait_until_ready(200, "").await?;
        if let Some(up) = up {
            coordinator.must_become(up, &[], 1).await?;
            coordinator.wait_for(gone, &[], |value| value.is_some()).await?;
        }
    }
    drop((worker, coordinator));
    fleet.remove().await
}

/// No password is shown in logs, metrics or readiness, whatever fails.
#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_shown_nowhere() -> Result<()> {
    const SECRET: &str = "Geheim7";
    let fleet = Fleet::start("--fiats 1 --ads 20").await?;
    // The test's server trusts everybody; nothing listens at port 9.
    let mut database = Url::parse(&fleet.database_url)?;
    database.set_password(Some(SECRET)).ok().context("a password")?;
    let dead = |scheme: &str| format!("{scheme}://someone:{SECRET}@127.0.0.1:9");
    let (amqp, redis, http) = (dead("amqp"), dead("redis"), dead("http"));
    let mut settings = SCHEDULE.to_vec();
    settings.extend([
        ("DATABASE_URL", database.as_str()),
        ("AMQP_URL", amqp.as_str()),
        ("REDIS_URL", redis.as_str()),
        ("RABBITMQ_MANAGEMENT_URL", http.as_str()),
        ("EGRESS_PROXY_URL", http.as_str()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", http.as_str()),
        ("LOG_LEVEL", "debug"),
        ("LOG_FORMAT", "json"),
    ]);
    let worker = Served::worker(&fleet, &settings)?;
    let coordinator = Served::start(&fleet, "coordinator", &["run"], &settings)?;
    for served in [&worker, &coordinator] {
        served.wait_until_ready(503, "broker: ").await?;
    }
    worker.wait_until_ready(503, "redis: ").await?;
    coordinator.must_become("p2p_broker_up", &[], 0).await?;
    for mut served in [worker, coordinator] {
        let mut texts = Vec::new();
        for path in ["/metrics", "/readyz", "/healthz"] {
            texts.push(served.get(path).await?.1);
        }
        served.process.terminate().await?;
        let log = std::fs::read_to_string(&served.log)?;
        ensure!(log.lines().count() > 3, "the log is empty");
        texts.push(log);
        for text in texts {
            let line = text.lines().find(|line| line.contains(SECRET));
            ensure!(line.is_none(), "the password is shown: {line:?}");
        }
    }
    fleet.remove().await
}

/// The management of the broker that the tests use.
fn management_url() -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "the servers of a test run are told this way")]
    std::env::var("RABBITMQ_MANAGEMENT_URL").context("run this by `make test` or dev/stack run")
}

/// A process that is stopped answers no probe: whoever probes takes that for dead.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_process_is_not_alive() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 20").await?;
    let worker = Served::worker(&fleet, &[])?;
    worker.wait_until_ready(200, "").await?;
    freeze(&worker.process).await?;
    let probe = tokio::time::timeout(std::time::Duration::from_secs(2), worker.get("/healthz"));
    assert!(probe.await.is_err(), "a frozen process answered");
    drop(worker);
    fleet.remove().await
}

async fn freeze(process: &Process) -> Result<()> {
    process.signal(rustix::process::Signal::STOP)?;
    let id = process.id().context("the process has ended")?;
    // The signal is on its way: on a busy machine it goes on for a moment.
    let is_stopped = || -> Result<bool> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    };
    while !is_stopped()? {
        tokio::task::yield_now().await;
    }
    Ok(())
}
