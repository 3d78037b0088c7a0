//! The broker and Redis, as a doctor looks at them.

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use redis::aio::MultiplexedConnection;
use shared::queue::{Declared, Inspector, Management, Permissions, Queue};
use shared::settings::Redis;
use tokio::time::Instant;

use super::{Checks, Level, SKEW_TRIES, Skew, check_skew};
use crate::ops::{QueueServer, Servers};

/// Oldest versions that this was run with.
const MIN_RABBITMQ: (u32, u32) = (3, 10);
const MIN_REDIS: (u32, u32) = (7, 0);
/// Longest wait for Redis, the connection included.
const REDIS_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer that takes longer slows every permit and every report.
const SLOW: Duration = Duration::from_millis(100);

/// Everything but the database.
pub(super) async fn check(checks: &mut Checks, servers: &Servers) {
    match &servers.queues {
        None => {
            checks.warn("RabbitMQ", "AMQP_URL is not set", "set it to have the queues looked at");
        }
        Some(server) => {
            check_broker(checks, server).await;
            check_management(checks, server).await;
        }
    }
    match &servers.redis {
        None => {
            checks.warn("Redis", "REDIS_URL is not set", "set it to have the limiters looked at");
        }
        Some(redis) => check_redis(checks, redis).await,
    }
}

async fn check_broker(checks: &mut Checks, server: &QueueServer) {
    const TODO: &str =
        "start RabbitMQ, and see that AMQP_URL has its address, user, password and virtual host";
    let began = Instant::now();
    let inspector = match server.connect("p2p doctor").await {
        Ok(inspector) => inspector,
        Err(error) => {
            return checks.away("RabbitMQ", format!("{:#}", anyhow::Error::from(error)), TODO);
        }
    };
    checks.ok("RabbitMQ", format!("connected in {}", millis(began.elapsed())));
    check_way(checks, "RabbitMQ TLS", &server.broker.url, "amqps://");
    for queue in Queue::ALL {
        check_queue(checks, server, &inspector, queue).await;
    }
    // What was seen stays true if the good-bye fails.
    inspector.close().await.ok();
}

/// Whether somebody between here and the server could read or answer.
fn check_way(checks: &mut Checks, what: &str, url: &url::Url, scheme: &str) {
    let is_here = url.host_str().is_none_or(shared::tls::is_loopback);
    let is_exposed = !is_here && !scheme.starts_with(url.scheme());
    let value = match (is_here, is_exposed) {
        (true, _) => "on this machine",
        (false, false) => "verified by certificate and name",
        (false, true) => "over the network, and not encrypted",
    };
    let todo = format!("use {scheme}, unless you trust the network");
    checks.expect(!is_exposed, Level::Warn, what, value.to_owned(), &todo);
}

async fn check_queue(
    checks: &mut Checks,
    server: &QueueServer,
    inspector: &Inspector,
    queue: Queue,
) {
    let what = format!("queue {}", server.topology.queue(queue));
    let declared = async {
        let declared = inspector.declared(queue).await?;
        Ok::<_, anyhow::Error>((declared, inspector.depth(queue).await?))
    };
    match declared.await {
        Err(error) => checks.away(
            &what,
            format!("does not answer: {error:#}"),
            "if it stays so, the leader makes it anew; see the log of RabbitMQ",
        ),
        Ok((Declared::Missing, _)) => checks.fail(
            &what,
            "not there",
            "start a coordinator or a worker, which declare it; see AMQP_PREFIX",
        ),
        Ok((Declared::Differs(how), _)) => checks.fail(
            &what,
            format!("declared with other arguments: {how}"),
            "stop all programs, delete the queue in RabbitMQ, start them: the leader publishes again what was in it",
        ),
        Ok((Declared::AsDeclared, depth)) => {
            let depth = depth.unwrap_or(shared::queue::Depth { ready: 0, consumers: 0 });
            let value =
                format!("as declared, {} ready, {} consumers", depth.ready, depth.consumers);
            // The low class is consumed by workers too; dead letters by nobody.
            let is_consumed = queue == Queue::Dead || depth.consumers > 0;
            let who = if queue == Queue::Reports { "start a coordinator" } else { "start workers" };
            checks.expect(is_consumed, Level::Warn, &what, value, who);
        }
    }
}

async fn check_management(checks: &mut Checks, server: &QueueServer) {
    let what = "RabbitMQ version";
    let Some(management) = &server.management else {
        return checks.warn(
            what,
            "RABBITMQ_MANAGEMENT_URL is not set",
            "set it to see the version and what is in the hands of consumers",
        );
    };
    match management.version().await {
        Ok(version) => {
            check_version(checks, what, &version, MIN_RABBITMQ);
            check_user(checks, server, management).await;
        }
        Err(error) => checks.warn(
            what,
            format!("{:#}", anyhow::Error::from(error)),
            "enable rabbitmq_management and see RABBITMQ_MANAGEMENT_URL; the queues work without it",
        ),
    }
}

/// What the user of `AMQP_URL` may do, if the management tells: it tells administrators only.
async fn check_user(checks: &mut Checks, server: &QueueServer, management: &Management) {
    const WHAT: &str = "RabbitMQ user";
    let user = match server.broker.url.username() {
        "" => "guest",
        user => user,
    };
    let Ok(may) = management.permissions(user).await else {
        return checks.ok(WHAT, format!("{user}; what it may do is told to administrators only"));
    };
    let value = match &may {
        Permissions { configure, write, read }
            if [configure, write, read].iter().all(|may| *may == ".*") =>
        {
            format!(
                "{user} may do everything in its virtual host; p2p queues permissions tells what suffices"
            )
        }
        Permissions { configure, write, read } => {
            format!("{user} may configure {configure}, write {write}, read {read}")
        }
    };
    checks.ok(WHAT, value);
}

async fn check_redis(checks: &mut Checks, redis: &Redis) {
    let looked = tokio::time::timeout(REDIS_TIMEOUT, look_at_redis(checks, redis)).await;
    let error = match looked {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("no answer within {}", millis(REDIS_TIMEOUT)),
    };
    checks.away(
        "Redis",
        error,
        "start Redis, and see REDIS_URL; until then workers keep to a share of MIN_RATE_LIMIT",
    );
}

async fn look_at_redis(checks: &mut Checks, redis: &Redis) -> anyhow::Result<()> {
    let client = redis.client().context("REDIS_URL")?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut best = None;
    for _ in 0..SKEW_TRIES {
        best = Some(Skew::better(best, redis_skew(&mut connection).await?));
    }
    let Some(skew) = best else { return Ok(()) };
    let latency = skew.round_trip.to_std().unwrap_or_default();
    check_way(checks, "Redis TLS", &redis.url, "rediss://");
    let value = format!("answers in {}", millis(latency));
    checks.expect(
        latency <= SLOW,
        Level::Warn,
        "Redis",
        value,
        "it should stand beside the workers",
    );
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    check_version(checks, "Redis version", version.unwrap_or("not told").trim(), MIN_REDIS);
    check_skew(checks, "Redis", skew);
    Ok(())
}

async fn redis_skew(connection: &mut MultiplexedConnection) -> anyhow::Result<Skew> {
    let (sent, began) = (Utc::now(), Instant::now());
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(connection).await?;
    let round_trip = TimeDelta::from_std(began.elapsed())?;
    let server = DateTime::from_timestamp_micros(seconds.saturating_mul(1_000_000) + micros);
    let server = server.context("the time of Redis")?;
    Ok(Skew { ahead: server - (sent + round_trip / 2), round_trip })
}

/// Ok from `least` on.
fn check_version(checks: &mut Checks, what: &str, version: &str, least: (u32, u32)) {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let found = match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => return checks.warn(what, format!("{version:?} can't be read"), "see its package"),
    };
    let value = format!("{version}, known to suffice is {}.{}", least.0, least.1);
    checks.expect(found >= least, Level::Warn, what, value, "this was never run with one so old");
}

/// A short time, which is never nothing.
pub(super) fn millis(duration: Duration) -> String {
    let micros = duration.as_micros();
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let level = |version: &str| {
            let mut checks = Checks::default();
            check_version(&mut checks, "x", version, (3, 10));
            checks.0[0].level
        };
        assert_eq!(["3.9.27", "3.10.8", "4.0.1"].map(level), [Level::Warn, Level::Ok, Level::Ok]);
        assert_eq!(level("not told"), Level::Warn);
    }
}
