//! Workers that always want permits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{TimeDelta, Utc};
use load_tests::fleet::Servers;
use load_tests::limit::jain_per_mille;
use shared::settings::Vars;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker::rate_limit::{Class, Limiter, Outcome};
use worker::settings::Settings;

use crate::PER_MINUTE;

/// Time that workers have to connect and to take their places.
const WARM_UP: Duration = Duration::from_secs(5);

/// What was seen of the limiter.
pub(crate) struct Figures {
    egresses: usize,
    workers: usize,
    watched: Duration,
    permits: u64,
    /// Of all egresses together.
    most_in_a_second: u64,
    round_trips: u64,
    /// CPU of Redis in microseconds.
    redis_us: u64,
    /// Jain index of the workers of an egress, the worst egress, in thousandths.
    fairness: u64,
}

struct Worker {
    limiter: Limiter,
    permits: AtomicU64,
}

/// Watches `workers` workers that are spread over `egresses`.
pub(crate) async fn watch(
    servers: &Servers,
    workers: usize,
    egresses: usize,
    watched: Duration,
) -> Result<Figures> {
    let rate = PER_MINUTE.to_string();
    let mut fleet = Vec::new();
    for number in 0..workers {
        let egress = format!("scale-{}-{egresses}-{}", std::process::id(), number % egresses);
        let name = format!("w{number}");
        let settings = Settings::read(Vars::from_pairs([
            // Nobody connects there.
            ("DATABASE_URL", "postgres://localhost/unused"),
            ("AMQP_URL", "amqp://unused"),
            ("REDIS_URL", servers.redis_url.as_str()),
            ("EGRESS_ID", egress.as_str()),
            ("WORKER_ID", name.as_str()),
            ("INITIAL_RATE_LIMIT", rate.as_str()),
            ("MAX_RATE_LIMIT", rate.as_str()),
        ]))?;
        let limiter = Limiter::new(&settings)?;
        fleet.push(Arc::new(Worker { limiter, permits: AtomicU64::new(0) }));
    }
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for worker in &fleet {
        tasks.spawn(Arc::clone(worker).work(shutdown.clone()));
    }
    tokio::time::sleep(WARM_UP).await;
    let counts = |fleet: &[Arc<Worker>]| -> Vec<u64> {
        fleet.iter().map(|worker| worker.permits.load(Ordering::Relaxed)).collect()
    };
    let trips = |fleet: &[Arc<Worker>]| -> u64 {
        fleet.iter().map(|worker| worker.limiter.round_trips()).sum()
    };
    let redis = redis::Client::open(servers.redis_url.as_str())?;
    let (before, trips_before, cpu_before) =
        (counts(&fleet), trips(&fleet), redis_cpu_us(&redis).await?);
    let (from, mut second, mut most) = (Instant::now(), before.iter().sum::<u64>(), 0);
    while from.elapsed() < watched {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = counts(&fleet).iter().sum::<u64>();
        most = most.max(now - second);
        second = now;
    }
    let watched = from.elapsed();
    let (after, trips_after) = (counts(&fleet), trips(&fleet));
    let redis_us = redis_cpu_us(&redis).await? - cpu_before;
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    let got: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let fairness = (0..egresses).map(|egress| {
        jain_per_mille(&got.iter().skip(egress).step_by(egresses).copied().collect::<Vec<_>>())
    });
    Ok(Figures {
        egresses,
        workers,
        watched,
        permits: got.iter().sum(),
        most_in_a_second: most,
        round_trips: trips_after - trips_before,
        redis_us,
        fairness: fairness.min().unwrap_or_default(),
    })
}

impl Worker {
    async fn work(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let deadline = Utc::now() + TimeDelta::hours(1);
            let permit = self.limiter.acquire(Class::Normal, deadline, &shutdown).await;
            let Ok(permit) = permit else { return };
            let Some(sending) = permit.begin() else { continue };
            self.permits.fetch_add(1, Ordering::Relaxed);
            sending.finish(Outcome::Ok).await;
        }
    }
}

/// CPU time that Redis used since it started, in microseconds.
async fn redis_cpu_us(client: &redis::Client) -> Result<u64> {
    let mut connection = client.get_multiplexed_async_connection().await?;
    let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut connection).await?;
    let used = |name: &str| -> Result<Duration> {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let line = line.with_context(|| format!("Redis tells no {name}"))?;
        Ok(Duration::try_from_secs_f64(line.trim().parse()?)?)
    };
    let used = used("used_cpu_user")? + used("used_cpu_sys")?;
    Ok(u64::try_from(used.as_micros())?)
}

impl Figures {
    /// Prints a line; whether the limit held.
    pub(crate) fn tell(&self) -> bool {
        let watched_us = u64::try_from(self.watched.as_micros()).unwrap_or(u64::MAX);
        let egresses = u64::try_from(self.egresses).unwrap_or(u64::MAX);
        let per_minute = egresses * u64::from(PER_MINUTE);
        // As the rate grants in this time, in thousandths.
        let granted = per_minute * watched_us / 60_000;
        let share = (self.permits * 1_000_000).checked_div(granted).unwrap_or(0);
        let permits = self.permits.max(1);
        println!(
            "{:>17}  {:>12}  {:>9}  {:>10} ‰  {:>16}  {:>12}  {:>15}  {:>7} ‰  {:>6} ‰",
            self.egresses,
            self.workers / self.egresses,
            format!(
                "{}.{}",
                self.permits * 1_000_000 / watched_us,
                self.permits * 10_000_000 / watched_us % 10
            ),
            share,
            self.most_in_a_second,
            format!("{}.{}", self.round_trips / permits, self.round_trips * 10 / permits % 10),
            self.redis_us / permits,
            self.redis_us * 1000 / watched_us,
            self.fairness,
        );
        // A permit at either end of the time that was watched is counted or not, for each egress.
        let holds = self.permits * 1000 <= granted + 2000 * egresses;
        if !holds {
            println!("        NOT HELD: more permits than the limit grants");
        }
        holds
    }
}
