//! The schedule over the ledger of slots, with a clock moved by hand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use coordinator::schedule::Clock;
use coordinator::{Mode, RunOutcome};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::settings;

pub(crate) struct MovedClock(pub(crate) Mutex<DateTime<Utc>>);

impl MovedClock {
    pub(crate) fn set(&self, now: DateTime<Utc>) {
        *self.0.lock().unwrap() = now;
    }
}

impl Clock for MovedClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

async fn slots(pool: &PgPool) -> Vec<(DateTime<Utc>, String, Option<String>)> {
    let rows = sqlx::query_as("SELECT slot_at, state, reason FROM pipeline.slots ORDER BY slot_at");
    rows.fetch_all(pool).await.unwrap()
}

const OPENED: &str = "SELECT count(*) FROM pipeline.batches";
pub(crate) const CLOSED: &str = "SELECT count(*) FROM pipeline.batches WHERE state = 'closed'";

/// Waits until `batches`, a count, reaches `least`.
pub(crate) async fn wait_for(pool: &PgPool, batches: &'static str, least: i64) {
    let wait = async {
        while sqlx::query_scalar::<_, i64>(batches).fetch_one(pool).await.unwrap() < least {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), wait).await.expect(batches);
}

/// A slot is run, missed ones are recorded, and across midnight the next day has its partitions.
#[sqlx::test(migrations = "../migrations")]
async fn every_slot_ends_in_a_recorded_state(pool: PgPool) {
    // With a fraction, as a real clock has it.
    let start: DateTime<Utc> = "2026-11-22T23:20:00.123456789Z".parse().unwrap();
    let clock = Arc::new(MovedClock(Mutex::new(start)));
    let shutdown = CancellationToken::new();
    let run =
        coordinator::run(settings(&pool), Mode::Schedule, false, clock.clone(), shutdown.clone());
    let run = tokio::spawn(run);
    wait_for(&pool, OPENED, 1).await;
    // No worker: the batch is cut at its deadline, a second after its slot.
    clock.set(start + TimeDelta::seconds(2));
    wait_for(&pool, CLOSED, 1).await;
    // Away over two slots and midnight.
    let back: DateTime<Utc> = "2026-11-23T00:00:00.500Z".parse().unwrap();
    clock.set(back);
    wait_for(&pool, CLOSED, 2).await;
    shutdown.cancel();
    assert_eq!(run.await.unwrap().unwrap(), RunOutcome::Stopped);
    let at = |text: &str| format!("2026-11-{text}:00Z").parse::<DateTime<Utc>>().unwrap();
    let missed = || Some("missed".to_owned());
    assert_eq!(
        slots(&pool).await,
        [
            (at("22T23:20"), "batch".to_owned(), None),
            (at("22T23:30"), "skipped".to_owned(), missed()),
            (at("22T23:40"), "skipped".to_owned(), missed()),
            (at("22T23:50"), "skipped".to_owned(), missed()),
            (at("23T00:00"), "batch".to_owned(), None),
        ]
    );
    let outcomes: Vec<(String, String)> =
        sqlx::query_as("SELECT outcome, reason FROM pipeline.batches ORDER BY batch_id")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(outcomes[0].0, "failed", "nothing was read");
    assert!(outcomes[0].1.contains("no page was read"), "{outcomes:?}");
}

/// Set back while a batch runs, the clock would not reach its deadline for an hour: the time that
/// really passed cuts it. Set forward, it cuts the batch, and what it skipped comes due when it is
/// set right again.
#[sqlx::test(migrations = "../migrations")]
async fn a_clock_that_jumps_is_survived(pool: PgPool) {
    let at = |text: &str| format!("2026-11-22T{text}Z").parse::<DateTime<Utc>>().unwrap();
    let clock = Arc::new(MovedClock(Mutex::new(at("10:00:00"))));
    let shutdown = CancellationToken::new();
    let run =
        coordinator::run(settings(&pool), Mode::Schedule, false, clock.clone(), shutdown.clone());
    let run = tokio::spawn(run);
    wait_for(&pool, OPENED, 1).await;
    clock.set(at("09:59:00"));
    wait_for(&pool, CLOSED, 1).await;
    // An hour ahead: the slots between are missed.
    clock.set(at("11:00:00"));
    wait_for(&pool, CLOSED, 2).await;
    // Set right.
    clock.set(at("10:20:00"));
    wait_for(&pool, CLOSED, 3).await;
    shutdown.cancel();
    assert_eq!(run.await.unwrap().unwrap(), RunOutcome::Stopped);
    let taken: Vec<DateTime<Utc>> = slots(&pool)
        .await
        .into_iter()
        .filter(|(_, state, _)| state == "batch")
        .map(|(slot, ..)| slot)
        .collect();
    assert_eq!(taken, ["10:00:00", "10:20:00", "11:00:00"].map(at));
}
