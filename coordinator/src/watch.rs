//! What is looked at from time to time, by leader and standby alike: queues, fleet, the newest batch, the
//! age of what was read.
//!
//! A figure that can't be read is not told: neither as 0 nor as what it last was ([`Board`]).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use shared::exchange::Exchange;
use shared::health::{Check, Health, Pulse};
use shared::job::EndState;
use shared::queue::{Management, Publisher, Queue, Topology};
use shared::store::within;
use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::standing::Standing;
use crate::store::watch;

/// Time between two looks: what alerts tell within a minute is seen a few times meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// The size of the database is looked at in every file of it.
const SIZE_INTERVAL: Duration = Duration::from_mins(1);
/// Longest wait for the figures of one server.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Longest silence of the loop: a look with all its waits takes a third of it.
pub const SILENCE_LIMIT: Duration = Duration::from_mins(1);
/// Longest wait for a server of whoever probes.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Intervals without a closed batch after which a leader is late.
const LATE_INTERVALS: u32 = 2;

const ACTIVE_WORKERS: &str = "p2p_active_workers";
const QUEUE_MESSAGES: &str = "p2p_queue_messages";
const QUEUE_CONSUMERS: &str = "p2p_queue_consumers";
const DEAD_LETTERS: &str = "p2p_dead_letters";
const SLOTS: &str = "p2p_slots_total";
const LAST_SKIPPED: &str = "p2p_last_slot_skipped_timestamp_seconds";
const LEADING_SINCE: &str = "p2p_leading_since_timestamp_seconds";
const OPEN_JOBS: &str = "p2p_batch_open_jobs";
const JOBS: &str = "p2p_batch_jobs";
const BATCH_AGE: &str = "p2p_batch_age_seconds";
const LAST_CLOSED: &str = "p2p_last_batch_closed_timestamp_seconds";
const NEWEST_BOOK: &str = "p2p_newest_complete_book_age_seconds";
const OLDEST_MARKET: &str = "p2p_oldest_market_age_seconds";
const QUARANTINE: &str = "p2p_quarantine_open";
const DATABASE_UP: &str = "p2p_database_up";
const BROKER_UP: &str = "p2p_broker_up";
const DATABASE_SIZE: &str = "p2p_database_size_bytes";

/// States of jobs that have not ended.
const OPEN_STATES: [&str; 2] = ["planned", "published"];
/// What becomes of slots: outcome, and why it was skipped.
const SLOT_ENDS: [(&str, &str); 5] =
    [("complete", ""), ("partial", ""), ("failed", ""), ("skipped", "missed"), ("skipped", "late")];

/// Tells Prometheus what the figures mean.
fn describe() {
    describe_gauge!(
        ACTIVE_WORKERS,
        Unit::Count,
        "Workers seen within the last minute, by egress; one series for each egress"
    );
    describe_gauge!(
        QUEUE_MESSAGES,
        Unit::Count,
        "Messages of a queue; state ready: they wait, exact; unacked: a consumer has them, some seconds old and only with RABBITMQ_MANAGEMENT_URL"
    );
    describe_gauge!(QUEUE_CONSUMERS, Unit::Count, "Consumers of a queue");
    describe_gauge!(DEAD_LETTERS, Unit::Count, "Messages that no worker could read");
    describe_counter!(
        SLOTS,
        Unit::Count,
        "Slots of the schedule since the first one, by outcome; of skipped ones the reason"
    );
    describe_gauge!(
        LAST_SKIPPED,
        Unit::Seconds,
        "When it was last recorded that a slot was skipped, since 1970, by reason; of the last day"
    );
    describe_gauge!(
        LEADING_SINCE,
        Unit::Seconds,
        "Since when this coordinator leads, since 1970; absent: it does not"
    );
    describe_gauge!(
        OPEN_JOBS,
        Unit::Count,
        "Jobs of the running batch that have not ended; 0 when none runs"
    );
    describe_gauge!(JOBS, Unit::Count, "Jobs of the batch that runs, or ran last, by state");
    describe_gauge!(BATCH_AGE, Unit::Seconds, "Time since the running batch was opened");
    describe_gauge!(LAST_CLOSED, Unit::Seconds, "When a batch last closed, since 1970");
    describe_gauge!(
        NEWEST_BOOK,
        Unit::Seconds,
        "Age of the newest book that is complete and the last good one of its market"
    );
    describe_gauge!(
        OLDEST_MARKET,
        Unit::Seconds,
        "Age of the oldest of the last good books of markets that are listed and had ads"
    );
    describe_gauge!(QUARANTINE, Unit::Count, "Open entries in quarantine");
    describe_gauge!(DATABASE_UP, "1: the database answers. 0: it does not");
    describe_gauge!(BROKER_UP, "1: the broker answers. 0: it does not");
    describe_gauge!(DATABASE_SIZE, Unit::Bytes, "Size of the database on disk");
}

/// Looks until told to stop.
pub struct Watch {
    pub exchange: Exchange,
    pub pool: PgPool,
    pub publisher: Publisher,
    pub topology: Topology,
    pub management: Option<Management>,
    pub standing: Standing,
    /// The only fiats that are read; empty: all.
    pub fiats: Vec<String>,
    pub pulse: Pulse,
}

/// What is kept from one look to the next.
struct Memory {
    board: Board,
    slots_until: DateTime<Utc>,
    size: Option<(Instant, i64)>,
}

impl Watch {
    pub async fn run(self, shutdown: CancellationToken) {
        describe();
        for (outcome, reason) in SLOT_ENDS {
            // From the beginning, so that the first one is an increase.
            counter!(SLOTS, "outcome" => outcome, "reason" => reason).increment(0);
        }
        let mut memory =
            Memory { board: Board::default(), slots_until: DateTime::UNIX_EPOCH, size: None };
        loop {
            self.look(&mut memory).await;
            let pause = self.pulse.while_waiting(tokio::time::sleep(LOOK_INTERVAL));
            tokio::select! {
                () = pause => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn look(&self, memory: &mut Memory) {
        let mut size = memory.size.filter(|(at, _)| at.elapsed() < SIZE_INTERVAL);
        // Apart from the figures: that one of them is slow, or a table locked, is no database that is away.
        let (is_up, database, slots, broker) = tokio::join!(
            within(LOOK_LIMIT, watch::ping(&self.pool)),
            within(LOOK_LIMIT, self.look_at_database(&mut size)),
            within(LOOK_LIMIT, watch::ended_slots(&self.pool, self.exchange, memory.slots_until)),
            tokio::time::timeout(LOOK_LIMIT, self.look_at_broker()),
        );
        memory.size = size;
        let mut figures = Figures::default();
        figures.set(DATABASE_UP, [], u8::from(is_up.is_ok()));
        if let Some(since) = self.standing.leads_since() {
            let since = Utc::now() - since.elapsed();
            figures.set(LEADING_SINCE, [], since.timestamp());
        }
        match database {
            Ok(database) => figures.extend(database),
            Err(error) => tracing::warn!(%error, "the database can't be looked at"),
        }
        match slots {
            Ok(slots) => memory.slots_until = count_slots(&slots, memory.slots_until),
            Err(error) => tracing::debug!(%error, "the slots can't be looked at"),
        }
        let broker = broker.unwrap_or(None);
        figures.set(BROKER_UP, [], u8::from(broker.is_some()));
        figures.extend(broker.unwrap_or_default());
        memory.board.show(figures);
    }

    async fn look_at_database(&self, size: &mut Option<(Instant, i64)>) -> sqlx::Result<Figures> {
        let (pool, exchange) = (&self.pool, self.exchange);
        let mut figures = Figures::default();
        for (egress, workers) in watch::active_workers(pool, exchange).await? {
            figures.set(ACTIVE_WORKERS, [("egress", egress)], workers);
        }
        let newest = watch::newest_batch(pool, exchange).await?;
        let mut open = 0;
        if let Some(batch) = &newest {
            let states = OPEN_STATES.into_iter().chain(EndState::ALL.map(EndState::as_str));
            for state in states {
                figures.set(JOBS, [("state", state.to_owned())], 0);
            }
            for (state, jobs) in watch::jobs_by_state(pool, batch).await? {
                open += if OPEN_STATES.contains(&state.as_str()) { jobs } else { 0 };
                figures.set(JOBS, [("state", state)], jobs);
            }
        }
        let running = newest.filter(|batch| batch.is_open);
        figures.set(OPEN_JOBS, [], if running.is_some() { open } else { 0 });
        if let Some(batch) = running {
            figures.set_exact(BATCH_AGE, batch.age_seconds);
        }
        if let Some(last) = watch::last_closed(pool, exchange).await? {
            figures.set(LAST_CLOSED, [], last.closed_at.timestamp());
        }
        let (newest_book, oldest_market) = watch::book_ages(pool, &self.fiats).await?;
        for (name, age) in [(NEWEST_BOOK, newest_book), (OLDEST_MARKET, oldest_market)] {
            if let Some(age) = age {
                figures.set_exact(name, age);
            }
        }
        for (reason, at) in watch::last_skipped(pool, exchange).await? {
            figures.set(LAST_SKIPPED, [("reason", reason)], at.timestamp());
        }
        figures.set(QUARANTINE, [], watch::quarantined(pool).await?);
        let bytes = match *size {
            Some((_, bytes)) => bytes,
            None => watch::database_bytes(pool).await?,
        };
        size.get_or_insert((Instant::now(), bytes));
        figures.set(DATABASE_SIZE, [], bytes);
        Ok(figures)
    }

    /// `None`: the broker does not answer.
    async fn look_at_broker(&self) -> Option<Figures> {
        let mut figures = Figures::default();
        for queue in Queue::ALL {
            let name = queue.as_str();
            let depth = match self.publisher.depth(queue).await {
                Ok(depth) => depth,
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    tracing::warn!(error = format!("{error:#}"), "the broker can't be looked at");
                    return None;
                }
            };
            let labels = |state: &str| [("queue", name.to_owned()), ("state", state.to_owned())];
            figures.set(QUEUE_MESSAGES, labels("ready"), depth.ready);
            figures.set(QUEUE_CONSUMERS, [("queue", name.to_owned())], depth.consumers);
            if queue == Queue::Dead {
                figures.set(DEAD_LETTERS, [], depth.ready);
            }
            if let Some(management) = &self.management {
                match management.unacked(&self.topology, queue).await {
                    Ok(Some(unacked)) => figures.set(QUEUE_MESSAGES, labels("unacked"), unacked),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(
                        error = format!("{:#}", anyhow::Error::from(error)),
                        queue = name,
                        "messages in the hands of consumers are not known"
                    ),
                }
            }
        }
        Some(figures)
    }
}

/// Counts slots that ended since the last look; until when they are counted now.
fn count_slots(slots: &[watch::EndedSlots], until: DateTime<Utc>) -> DateTime<Utc> {
    for ended in slots {
        let labels = [("outcome", ended.outcome.clone()), ("reason", ended.reason.clone())];
        counter!(SLOTS, &labels).increment(ended.slots.unsigned_abs());
    }
    slots.iter().map(|ended| ended.last).fold(until, DateTime::max)
}

/// Name and labels.
type Series = (&'static str, Vec<(&'static str, String)>);

/// What one look found.
#[derive(Debug, Default)]
struct Figures(HashMap<Series, f64>);

impl Figures {
    fn set<const N: usize>(
        &mut self,
        name: &'static str,
        labels: [(&'static str, String); N],
        value: impl TryInto<i64>,
    ) {
        // Counts and bytes below 2^53, which a float holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "figures for charts, not for sums")]
        let value = value.try_into().unwrap_or(i64::MAX) as f64;
        self.0.insert((name, labels.into()), value);
    }

    fn set_exact(&mut self, name: &'static str, value: f64) {
        self.0.insert((name, Vec::new()), value);
    }

    fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }
}

/// The gauges that are shown. One that a look did not find is set to NaN, by which it goes away
/// (`shared::metrics`) until it is found again.
#[derive(Debug, Default)]
struct Board(HashSet<Series>);

impl Board {
    fn show(&mut self, figures: Figures) {
        for (name, labels) in self.0.iter().filter(|series| !figures.0.contains_key(*series)) {
            gauge!(*name, labels.as_slice()).set(f64::NAN);
        }
        for ((name, labels), value) in &figures.0 {
            gauge!(*name, labels.as_slice()).set(*value);
        }
        self.0.extend(figures.0.into_keys());
    }
}

/// Answers from now on whether the coordinator is ready: servers, lock, and the last batch, which must
/// not be overdue by its own fault. `interval` is that of the schedule; `None`: there is none.
pub fn answer(
    health: &Health,
    exchange: Exchange,
    pool: &PgPool,
    publisher: &Publisher,
    standing: &Standing,
    interval: Option<Duration>,
) {
    let (pool, publisher, standing) = (pool.clone(), publisher.clone(), standing.clone());
    health.ready_when(move || {
        let (pool, publisher, standing) = (pool.clone(), publisher.clone(), standing.clone());
        async move {
            let (last, broker) = tokio::join!(
                within(PROBE_LIMIT, watch::last_closed(&pool, exchange)),
                Check::answers("broker", PROBE_LIMIT, publisher.depth(Queue::Reports)),
            );
            let lock = standing.check();
            let leading = standing.leads_since().map(|since| since.elapsed());
            match last {
                Ok(last) => {
                    let database = Check::new("database", Ok(()));
                    vec![database, broker, lock, last_batch(last, leading, interval)]
                }
                Err(error) => {
                    vec![Check::new("database", Err(error.to_string())), broker, lock]
                }
            }
        }
    });
}

/// Late is who has led for long enough to have closed one, and did not.
fn last_batch(
    last: Option<watch::LastClosed>,
    leading: Option<Duration>,
    interval: Option<Duration>,
) -> Check {
    let limit = interval.map(|interval| interval * LATE_INTERVALS);
    let age =
        last.as_ref().map(|last| Duration::from_secs(last.age_seconds.max(0).cast_unsigned()));
    let is_late = limit.is_some_and(|limit| age.is_none_or(|age| age > limit));
    let is_own_fault = is_late && leading > limit;
    let result = match (limit, is_own_fault) {
        (Some(limit), true) => Err(format!("no batch closed within {} s", limit.as_secs())),
        _ => Ok(()),
    };
    let check = Check::new("last_batch", result).with("late", is_late);
    let Some(last) = last else { return check };
    check
        .with("batch", last.batch_id)
        .with("outcome", last.outcome)
        .with("outcome_reason", last.reason)
        .with("closed_at", last.closed_at.to_rfc3339())
        .with("age_seconds", last.age_seconds)
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn what_was_not_found_is_not_shown() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let shown = |line: &str| recorder.handle().render().lines().any(|one| one == line);
        metrics::with_local_recorder(&recorder, || {
            let mut board = Board::default();
            let mut figures = Figures::default();
            figures.set(QUARANTINE, [], 3);
            figures.set(ACTIVE_WORKERS, [("egress", "a".to_owned())], 2);
            board.show(figures);
            assert!(shown("p2p_quarantine_open 3"));
            assert!(shown("p2p_active_workers{egress=\"a\"} 2"));
            let mut figures = Figures::default();
            figures.set(QUARANTINE, [], 0);
            board.show(figures);
            assert!(shown("p2p_quarantine_open 0"));
            assert!(shown("p2p_active_workers{egress=\"a\"} NaN"));
        });
    }

    fn closed(age_seconds: i64) -> watch::LastClosed {
        let outcome = "complete".to_owned();
        watch::LastClosed {
            batch_id: 1,
            outcome,
            reason: None,
            closed_at: DateTime::UNIX_EPOCH,
            age_seconds,
        }
    }

    #[tokio::test]
    async fn late_is_told_of_all_and_blamed_on_who_led_long_enough() {
        let interval = Some(Duration::from_mins(10));
        let short = Some(Duration::from_mins(1));
        let long = Some(Duration::from_mins(21));
        for (last, leading, interval, is_late, is_ready) in [
            (Some(closed(60)), long, interval, false, true),
            (Some(closed(1300)), long, interval, true, false),
            (Some(closed(1300)), short, interval, true, true),
            (Some(closed(1300)), None, interval, true, true),
            (None, long, interval, true, false),
            (Some(closed(99_999)), long, None, false, true),
        ] {
            let health = Health::default();
            let check = last_batch(last, leading, interval);
            health.ready_when(move || std::future::ready(vec![check.clone()]));
            let answer = health.ready().await;
            assert_eq!(answer.is_good, is_ready, "{:?}", answer.body);
            assert_eq!(answer.body["checks"]["last_batch"]["late"], is_late);
        }
    }
}
