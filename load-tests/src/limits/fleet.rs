//! Workers that always have requests to send: limiter and client of the worker, without queue and
//! database.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::{TimeDelta, Utc};
use shared::exchange::binance;
use shared::job::Work;
use shared::settings::Vars;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker::client::Client;
use worker::rate_limit::{Class, Limiter};
use worker::settings::Settings;

use crate::Scenario;

/// Lowest rate, per minute: that of the whole fleet while Redis is away.
pub(crate) const FLOOR: u64 = 60;
const FLOOR_TEXT: &str = "60";
/// Requests that a worker has in hand: one that waits while another is sent.
const IN_HAND: usize = 3;
/// Time between two looks at the rate.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) struct Fleet {
    workers: Vec<Arc<Worker>>,
    tasks: JoinSet<()>,
    window: u64,
    shutdown: CancellationToken,
}

struct Worker {
    limiter: Limiter,
    client: Client,
    sent: AtomicU64,
    /// How long permits were waited for, the latest last.
    waits: Mutex<Vec<Duration>>,
}

impl Fleet {
    /// Begins at 1.2 times the limit that is to be found: it is refused for sure.
    pub(crate) fn start(
        scenario: &Scenario,
        url: &str,
        redis: &str,
        memory: Duration,
    ) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let per_minute = u64::from(scenario.limit) * 60 / scenario.window;
        let egress = format!("limits-{}-{number}", std::process::id());
        let [initial, most] = [per_minute * 12 / 10, per_minute * 2].map(|rate| rate.to_string());
        let (window, memory) = (scenario.window.to_string(), memory.as_secs().to_string());
        let mut fleet = Self {
            workers: Vec::new(),
            tasks: JoinSet::new(),
            window: scenario.window,
            shutdown: CancellationToken::new(),
        };
        for worker in 0..scenario.workers {
            let name = format!("w{worker}");
            let settings = Settings::read(Vars::from_pairs([
                // Nobody connects there.
                ("DATABASE_URL", "postgres://unused/unused"),
                ("AMQP_URL", "amqp://unused"),
                ("REDIS_URL", redis),
                ("BINANCE_BASE_URL", url),
                ("EGRESS_ID", egress.as_str()),
                ("WORKER_ID", name.as_str()),
                ("INITIAL_RATE_LIMIT", initial.as_str()),
                ("MIN_RATE_LIMIT", FLOOR_TEXT),
                ("MAX_RATE_LIMIT", most.as_str()),
                ("RATE_LIMIT_BACKOFF_FACTOR", scenario.backoff),
                ("RATE_LIMIT_WINDOW_SECONDS", window.as_str()),
                ("RATE_LIMIT_MEMORY_SECONDS", memory.as_str()),
            ]))?;
            let worker = Arc::new(Worker {
                limiter: Limiter::new(&settings)?,
                client: Client::new(&settings)?,
                sent: AtomicU64::new(0),
                waits: Mutex::default(),
            });
            for _ in 0..IN_HAND {
                fleet.tasks.spawn(Arc::clone(&worker).work(fleet.shutdown.clone()));
            }
            fleet.workers.push(worker);
        }
        Ok(fleet)
    }

    /// Waits until the fleet has kept just below the exchange's limit for a window, and gives when that
    /// began; with `is_settled` false only until it uses nine tenths of the limit. `None`: it never did.
    pub(crate) async fn wait_for_rate(
        &self,
        limit: u32,
        is_settled: bool,
        patience: Duration,
    ) -> Result<Option<Duration>> {
        let from = Instant::now();
        let window = Duration::from_secs(self.window);
        let hold = if is_settled { window } else { Duration::ZERO };
        let mut since_when = None;
        let per_minute = u64::from(limit) * 60 / self.window;
        let least = if is_settled { 980 } else { 900 };
        while from.elapsed() < patience {
            let limiter = &self.workers[0].limiter;
            let Ok(status) = limiter.status().await else {
                // Redis is just back.
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let rate = format!("{:.0}", status.rate).parse::<u64>()?;
            let found = !is_settled || status.limit.is_some() && rate <= per_minute;
            if status.pause == 0 && found && rate * 1000 >= least * per_minute {
                let since = *since_when.get_or_insert_with(Instant::now);
                if since.elapsed() >= hold {
                    self.forget_waits();
                    return Ok(Some(since.duration_since(from)));
                }
            } else {
                since_when = None;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(None)
    }

    fn forget_waits(&self) {
        for worker in &self.workers {
            worker.waits.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Requests sent by each worker.
    pub(crate) fn counts(&self) -> Vec<u64> {
        self.workers.iter().map(|worker| worker.sent.load(Ordering::Relaxed)).collect()
    }

    pub(crate) fn round_trips(&self) -> u64 {
        self.workers.iter().map(|worker| worker.limiter.round_trips()).sum()
    }

    /// Ends; gives how long permits were waited for, the shortest first.
    pub(crate) async fn stop(mut self) -> Vec<Duration> {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
        let mut waits = Vec::new();
        for worker in &self.workers {
            waits.append(&mut worker.waits.lock().unwrap_or_else(PoisonError::into_inner));
        }
        waits.sort_unstable();
        waits
    }
}

impl Worker {
    async fn work(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let (since, deadline) = (Instant::now(), Utc::now() + TimeDelta::hours(1));
            let permit = self.limiter.acquire(Class::Normal, deadline, &shutdown).await;
            let Ok(permit) = permit else { return };
            self.waits.lock().unwrap_or_else(PoisonError::into_inner).push(since.elapsed());
            self.sent.fetch_add(1, Ordering::Relaxed);
            // What came of it is in the exchange's log.
            self.client.fetch(permit, binance::request(&Work::FiatList)).await.ok();
        }
    }
}
