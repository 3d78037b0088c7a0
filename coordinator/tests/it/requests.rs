//! What operators ask of the leader of a schedule, with a clock moved by hand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use coordinator::settings::Settings;
use coordinator::{Mode, RunOutcome};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::schedule::{CLOSED, MovedClock, wait_for};
use crate::settings;

const ANSWERED: &str = "SELECT count(*) FROM pipeline.requests WHERE state <> 'asked'";

async fn ask(pool: &PgPool, asked_ago: &'static str) {
    sqlx::query(
        "INSERT INTO pipeline.requests (exchange_id, kind, why, asked_by, asked_at)
         VALUES (1, 'rerun', 'why', 'test', now() - $1::interval)",
    )
    .bind(asked_ago)
    .execute(pool)
    .await
    .unwrap();
}

/// Between two slots what is asked for runs, is cut before the next one, and takes no slot. Too near to the
/// next slot, or asked for too long ago, it is refused with the reason.
#[sqlx::test(migrations = "../migrations")]
async fn what_is_asked_for_runs_between_slots(pool: PgPool) {
    let at = |text: &str| format!("2026-11-22T{text}Z").parse::<DateTime<Utc>>().unwrap();
    let clock = Arc::new(MovedClock(Mutex::new(at("10:00:00"))));
    let shutdown = CancellationToken::new();
    let settings = Settings { batch_deadline: Duration::from_secs(2), ..settings(&pool) };
    let run = coordinator::run(settings, Mode::Schedule, false, clock.clone(), shutdown.clone());
    let run = tokio::spawn(run);
    wait_for(&pool, CLOSED, 1).await;
    clock.set(at("10:05:00"));
    ask(&pool, "0 s").await;
    wait_for(&pool, CLOSED, 2).await;
    clock.set(at("10:09:40"));
    ask(&pool, "0 s").await;
    wait_for(&pool, ANSWERED, 2).await;
    ask(&pool, "2 h").await;
    wait_for(&pool, ANSWERED, 3).await;
    // The slot comes as if nothing had been.
    clock.set(at("10:10:00"));
    wait_for(&pool, CLOSED, 3).await;
    shutdown.cancel();
    assert_eq!(run.await.unwrap().unwrap(), RunOutcome::Stopped);
    let batches: Vec<(String, DateTime<Utc>, TimeDelta)> =
        sqlx::query_as::<_, (String, DateTime<Utc>, DateTime<Utc>)>(
            "SELECT trigger, slot_at, deadline_at FROM pipeline.batches ORDER BY batch_id",
        )
        .fetch_all(&pool)
        .await
        .unwrap()
        .into_iter()
        .map(|(trigger, slot, deadline)| (trigger, slot, deadline - slot))
        .collect();
    let batch = |trigger: &str, slot| (trigger.to_owned(), at(slot), TimeDelta::seconds(2));
    assert_eq!(
        batches,
        [batch("schedule", "10:00:00"), batch("once", "10:05:00"), batch("schedule", "10:10:00")]
    );
    let slots: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pipeline.slots").fetch_one(&pool).await.unwrap();
    assert_eq!(slots, 2);
    let answers: Vec<(String, Option<String>, bool)> = sqlx::query_as(
        "SELECT state, answer, made_batch_id IS NOT NULL FROM pipeline.requests ORDER BY request_id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(answers[0], ("done".to_owned(), None, true));
    for ((state, answer, has_batch), part) in answers[1..]
        .iter()
        .zip(["the next slot is in 20 seconds", "nobody could obey for 120 minutes"])
    {
        assert_eq!((state.as_str(), *has_batch), ("refused", false));
        assert!(answer.as_ref().unwrap().contains(part), "{answer:?}");
    }
}

/// A batch that closes by itself answers who wanted it cancelled.
#[sqlx::test(migrations = "../migrations")]
async fn a_batch_that_closes_first_is_not_cancelled(pool: PgPool) {
    use coordinator::leader::Candidate;
    use coordinator::store::Store;
    use coordinator::store::batches::{self, Trigger};
    use coordinator::store::close::{self, Cut};
    use shared::exchange::Exchange;

    let database = settings(&pool).database;
    let mut candidate = Candidate::new(database, Exchange::Binance, "test".to_owned(), None);
    let leadership = candidate.try_lead().await.unwrap().unwrap();
    let store = Store::new(pool.clone(), leadership.term().clone());
    let slot = "2026-11-22T10:00:00Z".parse().unwrap();
    for cut in [Cut::Deadline, Cut::Cancelled] {
        let batch = batches::open(&store, Exchange::Binance, Trigger::Once, slot, slot, "test");
        let batch = batch.await.unwrap();
        sqlx::query(
            "INSERT INTO pipeline.requests (exchange_id, kind, batch_id, why, asked_by)
             VALUES (1, 'cancel', $1, 'a leak', 'test')",
        )
        .bind(batch.id.raw())
        .execute(&pool)
        .await
        .unwrap();
        let closed =
            close::close(&store, batch.id, "test", cut, &crate::THRESHOLDS).await.unwrap().unwrap();
        let is_told = closed.reason.unwrap().starts_with("cancelled by test: a leak");
        assert_eq!(is_told, cut == Cut::Cancelled);
    }
    let states: Vec<String> =
        sqlx::query_scalar("SELECT state FROM pipeline.requests ORDER BY request_id")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(states, ["refused", "done"]);
}
