//! Permits: the limit that all workers share, per exchange and egress.
//!
//! No request is sent without a [`Permit`], which the client takes by value. Permits come from one
//! Lua script in Redis, by its clock. While Redis is away a worker keeps to its share of the
//! *minimum* rate, by the number of workers it last knew; if it never knew, it waits. There is never
//! no limit.

mod redis;

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use governor::{DefaultDirectRateLimiter, Quota};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// The right to send one request. Made here only, consumed by the client.
#[derive(Debug)]
pub struct Permit(());

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPermit {
    #[error("no permit before the job's deadline")]
    Deadline,
    #[error("the worker is shutting down")]
    Shutdown,
}

/// What the script answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Send after this wait.
    Reserved(Duration),
    /// Ask again after this wait.
    AskAgain(Duration),
}

/// Longest pause that is believed: a batch is over by then.
const MAX_PAUSE: Duration = Duration::from_mins(10);
/// Pause between two tries while Redis is away and nothing is known about the fleet.
const BLIND_PAUSE: Duration = Duration::from_secs(1);

pub struct Limiter {
    redis: redis::RedisLimiter,
    min_per_minute: u32,
    /// One request of this worker at a time asks Redis: those behind wait in order, without polling.
    turn: Mutex<Turn>,
}

/// What is known while asking.
#[derive(Default)]
struct Turn {
    /// Workers at the last answer of Redis; `None`: it never answered.
    workers: Option<NonZeroU32>,
    /// The local share, while Redis is away.
    local: Option<DefaultDirectRateLimiter>,
}

impl Limiter {
    /// Redis may be away: permits then wait for it.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self {
            redis: redis::RedisLimiter::new(settings).context("REDIS_URL can't be used")?,
            min_per_minute: settings.rate_limit.min_per_minute,
            turn: Mutex::default(),
        })
    }

    /// Waits for the right to send one request, at most until `deadline`.
    pub async fn acquire(
        &self,
        deadline: DateTime<Utc>,
        shutdown: &CancellationToken,
    ) -> Result<Permit, NoPermit> {
        let left = (deadline - Utc::now()).to_std().map_err(|_| NoPermit::Deadline)?;
        tokio::select! {
            permit = tokio::time::timeout(left, self.wait()) => permit.map_err(|_| NoPermit::Deadline),
            () = shutdown.cancelled() => Err(NoPermit::Shutdown),
        }
    }

    async fn wait(&self) -> Permit {
        let reserved = {
            let mut turn = self.turn.lock().await;
            loop {
                match self.redis.ask().await {
                    Ok((answer, workers)) => {
                        if turn.local.take().is_some() {
                            tracing::info!("Redis is back, the shared limit holds again");
                        }
                        turn.workers = NonZeroU32::new(workers);
                        match answer {
                            Answer::Reserved(wait) => break wait,
                            Answer::AskAgain(wait) => tokio::time::sleep(wait).await,
                        }
                    }
                    Err(error) => {
                        if self.local_share(&mut turn, &error).await {
                            break Duration::ZERO;
                        }
                    }
                }
            }
        };
        tokio::time::sleep(reserved).await;
        Permit(())
    }

    /// Redis is away. Waits for a turn in the local share and gives `true`, or waits a moment and
    /// gives `false` where no share can be told.
    async fn local_share(&self, turn: &mut Turn, error: &::redis::RedisError) -> bool {
        let Some(workers) = turn.workers else {
            tracing::error!(%error, "Redis never answered: no request without a limit, waiting");
            tokio::time::sleep(BLIND_PAUSE).await;
            return false;
        };
        let local = turn.local.get_or_insert_with(|| {
            tracing::error!(%error, workers, "Redis is away: a local share of the minimum rate holds");
            DefaultDirectRateLimiter::direct(local_quota(self.min_per_minute, workers))
        });
        local.until_ready().await;
        true
    }

    /// The exchange refused: nobody sends anything for `pause`.
    pub async fn pause(&self, pause: Duration) {
        let pause = pause.min(MAX_PAUSE);
        if let Err(error) = self.redis.pause(pause).await {
            tracing::error!(%error, ?pause, "the pause could not be shared, pausing alone");
            let _turn = self.turn.lock().await;
            tokio::time::sleep(pause).await;
        }
    }
}

/// One of `workers` equal shares of the minimum rate, without burst.
fn local_quota(min_per_minute: u32, workers: NonZeroU32) -> Quota {
    let period = Duration::from_mins(1) * workers.get() / min_per_minute.max(1);
    let once = || Quota::per_minute(NonZeroU32::MIN);
    Quota::with_period(period).unwrap_or_else(once).allow_burst(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_shares_of_all_workers_make_the_minimum_rate() {
        let share = local_quota(10, NonZeroU32::new(3).unwrap());
        assert_eq!(share.replenish_interval(), Duration::from_secs(18));
        assert_eq!(share.burst_size().get(), 1);
    }
}
