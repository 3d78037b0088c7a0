//! One coordinator acts at a time.

use std::sync::Arc;
use std::time::Duration;

use coordinator::leader::{Candidate, Leadership};
use coordinator::schedule::SystemClock;
use coordinator::settings::Settings;
use coordinator::store::batches::{self, Trigger};
use coordinator::store::close::{self, Cut};
use coordinator::store::{Replaced, Store};
use coordinator::{Mode, RunOutcome};
use shared::exchange::Exchange;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::settings;

#[sqlx::test(migrations = "../migrations")]
async fn there_is_one_leader(pool: PgPool) {
    let settings = settings(&pool);
    let leader = lead(&settings).await.expect("nobody led");
    assert!(lead(&settings).await.is_none());
    let once = coordinator::run(
        settings.clone(),
        Mode::Once,
        false,
        Arc::new(SystemClock),
        CancellationToken::new(),
    );
    assert_eq!(once.await.unwrap(), RunOutcome::OtherLeads);
    // A standby leads soon after the leader is gone, and stops when told.
    let shutdown = CancellationToken::new();
    let standby = coordinator::run(
        settings.clone(),
        Mode::Schedule,
        false,
        Arc::new(SystemClock),
        shutdown.clone(),
    );
    let standby = tokio::spawn(standby);
    // Not by its lock, which the former one may hold for a moment still.
    let former = leader.term().epoch;
    drop(leader);
    let epoch = "SELECT max(epoch) FROM pipeline.leaders";
    let led = async {
        while sqlx::query_scalar::<_, i64>(epoch).fetch_one(&pool).await.unwrap() == former {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), led).await.expect("the standby leads");
    shutdown.cancel();
    assert_eq!(standby.await.unwrap().unwrap(), RunOutcome::Stopped);
}

/// The sessions that hold the leader's lock.
const CUT: &str =
    "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                    WHERE l.locktype = 'advisory' AND d.datname = current_database()";

pub(crate) async fn lead(settings: &Settings) -> Option<Leadership> {
    let database = settings.database.clone();
    let mut candidate = Candidate::new(database, Exchange::Binance, "test".to_owned(), None);
    candidate.try_lead().await.unwrap()
}

/// A leader whose connection is cut stops acting.
#[sqlx::test(migrations = "../migrations")]
async fn a_lost_lock_is_noticed(pool: PgPool) {
    let leader = lead(&settings(&pool)).await.unwrap();
    sqlx::query(CUT).execute(&pool).await.unwrap();
    let lost = leader.term().lost.cancelled();
    let noticed = tokio::time::timeout(Duration::from_secs(20), lost).await;
    assert!(noticed.is_ok());
}

/// Writes of a leader that was replaced take no effect, even before it knows: neither those that it
/// begins, nor those it was in the middle of when it fell silent.
#[sqlx::test(migrations = "../migrations")]
async fn late_writes_take_no_effect(pool: PgPool) {
    let settings = settings(&pool);
    let former = lead(&settings).await.unwrap();
    let store = Store::new(pool.clone(), former.term().clone());
    let slot = "2026-11-22T10:00:00Z".parse().unwrap();
    let batch = batches::open(&store, Exchange::Binance, Trigger::Once, slot, slot, "former");
    let batch = batch.await.unwrap();
    // The server ends a transaction that falls silent, so that it holds up nobody.
    let connected = shared::store::connect(&settings.database, "former").await.unwrap();
    let silent = Store::new(connected, former.term().clone());
    let mut silent = silent.begin().await.unwrap();
    sqlx::query("DELETE FROM pipeline.batches").execute(&mut *silent).await.unwrap();
    sqlx::query(CUT).execute(&pool).await.unwrap();
    let successor = lead(&settings).await.expect("the lock is free");
    assert_eq!(successor.term().epoch, former.term().epoch + 1);
    assert!(silent.commit().await.is_err());
    let late = close::close(&store, batch.id, "former", Cut::Deadline, &crate::THRESHOLDS)
        .await
        .unwrap_err();
    assert!(late.is::<Replaced>(), "{late:#}");
    assert!(former.term().lost.is_cancelled());
    let open = batches::list_open(&pool, Exchange::Binance).await.unwrap();
    assert_eq!(open.len(), 1);
    let store = Store::new(pool.clone(), successor.term().clone());
    assert!(
        close::close(&store, batch.id, "successor", Cut::Deadline, &crate::THRESHOLDS)
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        close::close(&store, batch.id, "successor", Cut::Deadline, &crate::THRESHOLDS)
            .await
            .unwrap()
            .is_none(),
        "closed once"
    );
}

/// With the breakers of all egresses open until after its deadline a batch ends at once and says why; so
/// it does when they open for the third time in it, but not before a request could try.
#[sqlx::test(migrations = "../migrations")]
async fn a_batch_is_cut_when_no_egress_can_be_used(pool: PgPool) {
    sqlx::query(
        "INSERT INTO pipeline.workers (worker_id, exchange_id, egress_id, requests_per_minute,
                breaker_open_until, breaker_openings, started_at, seen_at)
         VALUES ('a', 1, 'one', 50, now() + interval '10 minutes', 1, now(), now()),
                ('b', 1, 'two', 50, now() + interval '10 minutes', 5, now(), now())",
    )
    .execute(&pool)
    .await
    .unwrap();
    let settings = Settings { batch_deadline: Duration::from_mins(5), ..settings(&pool) };
    let once = async || {
        let (clock, shutdown) = (Arc::new(SystemClock), CancellationToken::new());
        let once = coordinator::run(settings.clone(), Mode::Once, false, clock, shutdown);
        let once = tokio::time::timeout(Duration::from_mins(1), once).await.expect("not hung");
        assert_eq!(once.unwrap(), RunOutcome::Closed(close::BatchOutcome::Failed));
    };
    once().await;
    let open = "UPDATE pipeline.workers SET breaker_opened_at = now(), breaker_openings = 5,
                       breaker_open_until = now() + interval '4 minutes', seen_at = now()";
    sqlx::query(open).execute(&pool).await.unwrap();
    let tried = async {
        // Two looks at the breakers, which were opened before the batch.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let closed = "SELECT count(*) FROM pipeline.batches WHERE state = 'closed'";
        assert_eq!(sqlx::query_scalar::<_, i64>(closed).fetch_one(&pool).await.unwrap(), 1);
        sqlx::query(open).execute(&pool).await.unwrap();
    };
    tokio::join!(once(), tried);
    let reasons: Vec<String> =
        sqlx::query_scalar("SELECT reason FROM pipeline.batches").fetch_all(&pool).await.unwrap();
    for reason in reasons {
        assert!(reason.starts_with("cut short: the circuit breakers"), "{reason}");
    }
    let jobs: Vec<(String, Option<String>)> =
        sqlx::query_as("SELECT state, reason FROM pipeline.jobs").fetch_all(&pool).await.unwrap();
    assert!(!jobs.is_empty());
    for (state, reason) in jobs {
        assert_eq!((state.as_str(), reason.as_deref()), ("expired", Some("breaker_open")));
    }
}
