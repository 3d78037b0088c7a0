//! One coordinator acts at a time.

use std::sync::Arc;
use std::time::Duration;

use coordinator::leader::Leadership;
use coordinator::schedule::SystemClock;
use coordinator::{Mode, RunOutcome};
use shared::exchange::Exchange;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::settings;

#[sqlx::test(migrations = "../migrations")]
async fn there_is_one_leader(pool: PgPool) {
    let settings = settings(&pool);
    let acquire = || Leadership::try_acquire(&settings.database, Exchange::Binance);
    let leader = acquire().await.unwrap().expect("nobody led");
    assert!(acquire().await.unwrap().is_none());
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
    drop(leader);
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                  WHERE l.locktype = 'advisory' AND d.datname = current_database() AND l.granted AND l.pid <> $1";
    let released: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await.unwrap();
    let led = async {
        while sqlx::query_scalar::<_, i64>(locks).bind(released).fetch_one(&pool).await.unwrap()
            == 0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), led).await.expect("the standby leads");
    shutdown.cancel();
    assert_eq!(standby.await.unwrap().unwrap(), RunOutcome::Stopped);
}

/// A leader whose connection is cut stops acting.
#[sqlx::test(migrations = "../migrations")]
async fn a_lost_lock_is_noticed(pool: PgPool) {
    let settings = settings(&pool);
    let leader =
        Leadership::try_acquire(&settings.database, Exchange::Binance).await.unwrap().unwrap();
    let cut = "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                WHERE l.locktype = 'advisory' AND d.datname = current_database()";
    sqlx::query(cut).execute(&pool).await.unwrap();
    let noticed = tokio::time::timeout(Duration::from_secs(20), leader.lost().cancelled()).await;
    assert!(noticed.is_ok());
}
