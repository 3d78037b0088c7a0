//! Permits: the limit that all workers share, per exchange and egress.
//!
//! No request is sent without a [`Permit`], which the client takes by value. Permits come from one
//! script in Redis ([`shared::limiter`]), by its clock; here is the waiting for them. While Redis is
//! away a worker keeps to its share of the *minimum* rate, by the number of workers it last knew; if
//! it never knew, it waits. There is never no limit.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use shared::exchange::Exchange;
use shared::limiter::{Answer, Grant, Limiter as SharedLimiter, MOST_MORE};
pub use shared::limiter::{Breaker, Class, Outcome, Status};
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::LimiterMetrics;
use crate::settings::Settings;

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPermit {
    #[error("no permit before the job's deadline")]
    Deadline,
    #[error("the worker is shutting down")]
    Shutdown,
}

/// A permit that is not used so long after its instant is given back: the process was stopped or
/// starved, and what it sends now would meet the requests of others.
/// As long as the longest wait for an answer of Redis, for that is part of it.
const PERMIT_LIFE: Duration = Duration::from_secs(1);
/// Longest pause that is believed; a ban may be long, a slip of the exchange should not be for ever.
const MAX_PAUSE: Duration = Duration::from_hours(24);
/// The same of an exchange that is away and says for how long; the breaker goes on from there.
const MAX_AWAY: Duration = Duration::from_mins(10);
/// Pause after a refusal that does not say how long, while Redis is away.
const LOCAL_PAUSE: Duration = Duration::from_secs(10);
/// Permits whose slots come within this time are asked for together. At the rates that exchanges allow that is
/// never more than one.
const SOON: Duration = Duration::from_millis(10);
/// A permit that came with another is given back if it was not used so long after its slot: no later than one
/// that is given ahead would be used.
const SPARE_LIFE: Duration = Duration::from_millis(50);
/// Longest sleep without another look at Redis.
const LOOK: Duration = Duration::from_secs(1);
/// What was told no longer than this before Redis went away still holds: who waits asks every second.
const FRESH: Duration = Duration::from_secs(5);
/// Beyond the time of a request, before its place among those in flight is taken for lost.
const TELLING_TIME: Duration = Duration::from_secs(5);

/// Gives permits. A clone is the same limiter.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limiter").field(&self.0.worker_id).finish()
    }
}

struct Inner {
    redis: SharedLimiter,
    settings: shared::limiter::Settings,
    worker_id: String,
    /// One request of this worker and class at a time asks Redis: those behind it wait in order,
    /// without polling. Where permits come fast it asks for some of them too.
    turns: [Arc<tokio::sync::Mutex<Spares>>; 3],
    /// Requests that wait for their turn.
    waiting: [AtomicUsize; 3],
    /// Outcomes to be told, with who waits for that.
    untold: Mutex<Vec<Untold>>,
    /// One request at a time tells outcomes: its own, and those that came while another told.
    telling: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    round_trips: AtomicU64,
    metrics: LimiterMetrics,
}

/// Permits that came with another, the earliest first: for those that waited behind it.
type Spares = VecDeque<Spare>;

#[derive(Debug)]
struct Spare {
    number: u64,
    /// When it may be used.
    at: Instant,
}

struct Untold {
    number: u64,
    outcome: Outcome,
    done: oneshot::Sender<bool>,
}

/// What is known without Redis.
#[derive(Default)]
struct Known {
    /// Workers at the last answer of Redis; `None`: it never answered.
    workers: Option<NonZeroU32>,
    /// What Redis last told of the limit, and when.
    told: Option<(shared::limiter::Known, Instant)>,
    /// Since when Redis does not answer.
    away_since: Option<Instant>,
    /// The local share, for when Redis is away. Kept when it is back: flapping must not give permits.
    local: Option<Arc<DefaultDirectRateLimiter>>,
    /// A pause that could not be shared.
    paused_until: Option<Instant>,
}

/// The right to send one request. Made here only, consumed by the client. Dropped unused, it is given
/// back.
#[derive(Debug)]
pub struct Permit {
    expires: Instant,
    held: Held,
}

/// Being the next one of this worker and class to ask. Dropped, it leaves the place to the next.
#[derive(Debug)]
pub struct Turn {
    limiter: Limiter,
    class: Class,
    since: Instant,
    place: OwnedMutexGuard<Spares>,
}

/// A request on its way, whose outcome is to be told.
#[derive(Debug)]
pub struct Sending(Held);

/// A permit until its outcome is told. Of a local one (`number` is `None`) nobody needs to know.
#[derive(Debug)]
struct Held {
    limiter: Limiter,
    number: Option<u64>,
    /// What to tell should it be dropped.
    if_dropped: Outcome,
}

impl Turn {
    /// Waits for the right to send one request, at most until `deadline`.
    pub async fn permit(
        self,
        deadline: DateTime<Utc>,
        shutdown: &CancellationToken,
    ) -> Result<Permit, NoPermit> {
        let waited = until(deadline, shutdown, self.limiter.wait(self.class, self.place)).await;
        let permit = waited.inspect_err(|_| self.limiter.give_back(self.class))?;
        let is_local = permit.held.number.is_none();
        self.limiter.0.metrics.permit(is_local, self.since.elapsed());
        Ok(permit)
    }
}

/// What is waited for, unless the deadline or the shutdown comes first.
async fn until<T>(
    deadline: DateTime<Utc>,
    shutdown: &CancellationToken,
    waited_for: impl Future<Output = T>,
) -> Result<T, NoPermit> {
    let left = (deadline - Utc::now()).to_std().map_err(|_| NoPermit::Deadline)?;
    tokio::select! {
        waited = tokio::time::timeout(left, waited_for) => waited.map_err(|_| NoPermit::Deadline),
        () = shutdown.cancelled() => Err(NoPermit::Shutdown),
    }
}

impl Permit {
    /// Uses it up; `None`: it is too late, and another one is to be asked for.
    #[must_use]
    pub fn begin(self) -> Option<Sending> {
        let mut held = self.held;
        if Instant::now() > self.expires {
            return None;
        }
        held.if_dropped = Outcome::Neutral;
        Some(Sending(held))
    }
}

impl Sending {
    /// Tells the outcome. A refusal holds for everybody when this returns.
    pub async fn finish(mut self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Refused(retry_after) => {
                Outcome::Refused(retry_after.map(|pause| pause.min(MAX_PAUSE)))
            }
            Outcome::Failed(retry_after) => {
                Outcome::Failed(retry_after.map(|pause| pause.min(MAX_AWAY)))
            }
            other => other,
        };
        let limiter = self.0.limiter.clone();
        limiter.tell(self.0.number.take(), outcome).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(number) = self.number.take() else { return };
        // Without a runtime the process is ending, and the permit expires by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (limiter, outcome) = (self.limiter.clone(), self.if_dropped);
            runtime.spawn(async move { limiter.tell(Some(number), outcome).await });
        }
    }
}

/// Counts a request among those that wait, as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What asking came to.
enum Asked {
    Given(Permit, Duration, Spares),
    AskAgain(Duration),
}

impl Limiter {
    /// Redis may be away: permits then wait for it.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        let redis = SharedLimiter::new(&settings.redis, Exchange::Binance, &settings.egress_id)
            .context("REDIS_URL can't be used")?;
        let limit = &settings.rate_limit;
        let started = u64::try_from(Utc::now().timestamp_millis()).unwrap_or_default();
        Ok(Self(Arc::new(Inner {
            redis,
            settings: shared::limiter::Settings {
                started,
                initial: limit.per_minute,
                floor: limit.min_per_minute,
                ceiling: limit.max_per_minute,
                burst: limit.burst,
                max_in_flight: limit.max_in_flight,
                backoff: limit.backoff,
                breaker_failures: limit.breaker_failures,
                window: limit.window,
                memory: limit.memory,
                permit_life: settings.request_timeout + TELLING_TIME,
            },
            worker_id: settings.worker_id.clone(),
            turns: Default::default(),
            waiting: Default::default(),
            untold: Mutex::default(),
            telling: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            round_trips: AtomicU64::new(0),
            metrics: LimiterMetrics::new(&settings.egress_id),
        })))
    }

    /// Waits for the right to send one request, at most until `deadline`.
    pub async fn acquire(
        &self,
        class: Class,
        deadline: DateTime<Utc>,
        shutdown: &CancellationToken,
    ) -> Result<Permit, NoPermit> {
        self.turn(class, deadline, shutdown).await?.permit(deadline, shutdown).await
    }

    /// Waits until those before it in this worker have their permits, at most until `deadline`. Who
    /// waited long may look whether a request is still wanted, before the limit gives a slot for it.
    pub async fn turn(
        &self,
        class: Class,
        deadline: DateTime<Utc>,
        shutdown: &CancellationToken,
    ) -> Result<Turn, NoPermit> {
        let since = Instant::now();
        let turn = Arc::clone(&self.0.turns[class as usize]).lock_owned();
        let place = {
            let _waiting = Waiting::begin(&self.0.waiting[class as usize]);
            until(deadline, shutdown, turn).await
        };
        let place = place.inspect_err(|_| self.give_back(class))?;
        Ok(Turn { limiter: self.clone(), class, since, place })
    }

    async fn wait(&self, class: Class, mut place: OwnedMutexGuard<Spares>) -> Permit {
        let (permit, wait) = loop {
            if let Some(given) = self.take_spare(&mut place) {
                break given;
            }
            match self.ask(class).await {
                Asked::Given(permit, wait, spares) => {
                    place.extend(spares);
                    break (permit, wait);
                }
                Asked::AskAgain(wait) => tokio::time::sleep(wait.min(LOOK)).await,
            }
        };
        // Who waited behind may be gone.
        if self.0.waiting[class as usize].load(Ordering::Relaxed) == 0 {
            self.give_back_all(&mut place);
        }
        drop(place);
        tokio::time::sleep(wait).await;
        permit
    }

    /// A permit that came with another, unless its moment is over: a pause may have begun since.
    fn take_spare(&self, spares: &mut Spares) -> Option<(Permit, Duration)> {
        let now = Instant::now();
        loop {
            let spare = spares.pop_front()?;
            let permit = self.permit(Some(spare.number), spare.at);
            if spare.at + SPARE_LIFE > now {
                return Some((permit, spare.at.saturating_duration_since(now)));
            }
        }
    }

    /// Who waited is gone: what came for them is not needed. Whoever has the turn now looks after it.
    fn give_back(&self, class: Class) {
        if let Ok(mut spares) = self.0.turns[class as usize].try_lock() {
            self.give_back_all(&mut spares);
        }
    }

    fn give_back_all(&self, spares: &mut Spares) {
        for spare in spares.drain(..) {
            drop(self.permit(Some(spare.number), spare.at));
        }
    }

    /// One round trip. Runs to its end even if nobody waits for it any more: what it then brings is
    /// given back.
    async fn ask(&self, class: Class) -> Asked {
        let limiter = self.clone();
        let asking = tokio::spawn(async move { limiter.ask_to_the_end(class).await });
        asking.await.unwrap_or_else(|error| {
            tracing::error!(%error, "asking for a permit ended abnormally");
            Asked::AskAgain(LOOK)
        })
    }

    /// Permits to ask for beside one: for those that wait, and no more than have their slots soon.
    fn more(&self, class: Class, told: &shared::limiter::Known) -> usize {
        let per_minute = told.rate_milli / 1000;
        let soon = u128::from(per_minute) * SOON.as_millis() / Duration::from_mins(1).as_millis();
        let waiting = self.0.waiting[class as usize].load(Ordering::Relaxed);
        waiting.min(usize::try_from(soon).unwrap_or(usize::MAX)).min(MOST_MORE)
    }

    async fn ask_to_the_end(&self, class: Class) -> Asked {
        let inner = &self.0;
        let told = inner.known().told();
        let since = Instant::now();
        inner.round_trips.fetch_add(1, Ordering::Relaxed);
        let more = self.more(class, &told);
        let asked =
            inner.redis.acquire_several(&inner.settings, told, &inner.worker_id, class, more);
        match asked.await {
            Ok((answer, others)) => {
                let spare = |(number, wait)| Spare { number, at: since + wait };
                let others: Spares = others.into_iter().map(spare).collect();
                inner.known().heard(&answer);
                inner.metrics.redis_is_away(false);
                let (number, wait) = match answer.grant {
                    Grant::Permit { number, wait } => (number, wait),
                    Grant::AskAgain(wait) => return Asked::AskAgain(wait),
                };
                // Told by the exchange while Redis was away: now everybody hears of it.
                let pause = inner.known().take_local_pause();
                if let Some(pause) = pause {
                    for spare in others {
                        drop(self.permit(Some(spare.number), spare.at));
                    }
                    self.tell(Some(number), Outcome::Refused(Some(pause))).await;
                    return Asked::AskAgain(LOOK);
                }
                Asked::Given(self.permit(Some(number), since + wait), wait, others)
            }
            Err(error) => {
                inner.metrics.redis_is_away(true);
                let share = inner.known().local_share(inner.settings.floor, &error);
                let Some(share) = share else { return Asked::AskAgain(LOOK) };
                match share.check() {
                    Ok(()) => {
                        let permit = self.permit(None, Instant::now());
                        Asked::Given(permit, Duration::ZERO, Spares::new())
                    }
                    Err(not_until) => {
                        Asked::AskAgain(not_until.wait_time_from(DefaultClock::default().now()))
                    }
                }
            }
        }
    }

    fn permit(&self, number: Option<u64>, at: Instant) -> Permit {
        let held = Held { limiter: self.clone(), number, if_dropped: Outcome::Unused };
        Permit { expires: at + PERMIT_LIFE, held }
    }

    async fn tell(&self, number: Option<u64>, outcome: Outcome) {
        let inner = &self.0;
        let is_told = match number {
            Some(number) => self.tell_redis(number, outcome).await,
            None => true,
        };
        if let Outcome::Refused(retry_after) = outcome
            && (number.is_none() || !is_told)
        {
            let pause = retry_after.unwrap_or(LOCAL_PAUSE);
            tracing::error!(?pause, "refused without Redis, pausing alone");
            let mut known = inner.known();
            known.paused_until = known.paused_until.max(Some(Instant::now() + pause));
        }
    }

    /// Tells an outcome, and all that came while another was told; whether Redis has it when this returns.
    async fn tell_redis(&self, number: u64, outcome: Outcome) -> bool {
        let inner = &self.0;
        let (done, is_done) = oneshot::channel();
        inner.untold().push(Untold { number, outcome, done });
        let turn = inner.telling.lock().await;
        // Whoever had the turn before may have told this one too.
        let untold = std::mem::take(&mut *inner.untold());
        if !untold.is_empty() {
            let outcomes: Vec<(u64, Outcome)> =
                untold.iter().map(|one| (one.number, one.outcome)).collect();
            let told = inner.known().told();
            inner.round_trips.fetch_add(1, Ordering::Relaxed);
            let told = inner.redis.finish_all(&inner.settings, told, &outcomes).await;
            if let Err(error) = &told {
                tracing::warn!(%error, ?outcomes, "outcomes of requests could not be shared");
            }
            for one in untold {
                // Nobody may wait for it any more.
                one.done.send(told.is_ok()).ok();
            }
        }
        drop(turn);
        is_done.await.unwrap_or(false)
    }

    /// The state of the shared limiter.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let inner = &self.0;
        let told = inner.known().told();
        let status = inner.redis.show_to(&inner.settings, told).await;
        // Also between batches, when nobody asks for permits.
        inner.metrics.redis_is_away(status.is_err());
        let status = status?;
        inner.metrics.status(&status);
        Ok(status)
    }

    /// Calls of Redis for permits so far.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.0.round_trips.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn untold(&self) -> MutexGuard<'_, Vec<Untold>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Redis answered.
    fn heard(&mut self, answer: &Answer) {
        if self.away_since.take().is_some() {
            tracing::info!("Redis is back, the shared limit holds again");
        }
        let workers = NonZeroU32::new(answer.workers);
        if self.workers != workers {
            self.workers = workers;
            self.local = None;
        }
        self.told = Some((answer.known, Instant::now()));
    }

    /// What Redis last told of the limit, as of now.
    fn told(&self) -> shared::limiter::Known {
        let Some((known, at)) = self.told else { return shared::limiter::Known::default() };
        let limit_left = known.limit_left.saturating_sub(at.elapsed());
        let limit_milli = if limit_left.is_zero() { 0 } else { known.limit_milli };
        // Old news of a pause may have been withdrawn meanwhile.
        let is_fresh = self.away_since.unwrap_or_else(Instant::now) <= at + FRESH;
        let blocked = if is_fresh { known.blocked } else { Duration::ZERO };
        let blocked = blocked.saturating_sub(at.elapsed());
        shared::limiter::Known { blocked, limit_milli, limit_left, ..known }
    }

    /// What is left of a pause that could not be shared, which is forgotten here.
    fn take_local_pause(&mut self) -> Option<Duration> {
        let left = self.paused_until.take()?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Redis is away: this worker's share of the minimum rate, unless nothing is known of the fleet, or
    /// nothing may be sent.
    fn local_share(
        &mut self,
        min_per_minute: u32,
        error: &redis::RedisError,
    ) -> Option<Arc<DefaultDirectRateLimiter>> {
        let now = Instant::now();
        let is_news = self.away_since.is_none();
        self.away_since.get_or_insert(now);
        let Some(workers) = self.workers else {
            if is_news {
                tracing::error!(%error, "Redis never answered: no request without a limit, waiting");
            }
            return None;
        };
        if is_news {
            tracing::error!(%error, workers, "Redis is away: a local share of the minimum rate holds");
        }
        if !self.told().blocked.is_zero() || self.paused_until.is_some_and(|until| until > now) {
            return None;
        }
        let share = self.local.get_or_insert_with(|| {
            let share = DefaultDirectRateLimiter::direct(local_quota(min_per_minute, workers));
            // It begins with a wait: the shared limit may just have given a permit.
            share.check().ok();
            Arc::new(share)
        });
        Some(Arc::clone(share))
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
