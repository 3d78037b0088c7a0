//! A job that waits for a permit while the world goes on.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use shared::domain::BatchId;
use shared::exchange::Exchange;
use shared::job::{Job, MESSAGE_VERSION, Work};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use worker::client::Client;
use worker::handler::{Handler, Outcome};
use worker::rate_limit::{Class, Limiter};
use worker::store::archive::Archive;

use crate::{make_day, settings};

/// Done by another meanwhile, it takes no slot of the limit: after a fault many jobs are in hand twice.
#[sqlx::test(migrations = "../migrations")]
async fn a_job_done_meanwhile_takes_no_slot(pool: PgPool) {
    shared::service::install_tls_provider();
    let (today, now) = (Utc::now().date_naive(), Utc::now());
    let batch_id = BatchId::new(today, 0).unwrap();
    make_day(&pool, today).await;
    sqlx::query(
        "INSERT INTO pipeline.jobs (day, batch_id, ordinal, kind, urgent, ads_expected, state, planned_at, expires_at)
         VALUES ($1, $2, 0, 'fiat_list', false, false, 'published', $3, $3)",
    )
    .bind(today)
    .bind(batch_id.raw())
    .bind(now)
    .execute(&pool)
    .await
    .unwrap();
    let settings = settings(&[]);
    let (limiter, shutdown) = (Limiter::new(&settings).unwrap(), CancellationToken::new());
    let client = Client::new(&settings).unwrap();
    let handler = Handler::new(
        &settings,
        pool.clone(),
        limiter.clone(),
        client,
        Archive::new().unwrap(),
        shutdown.clone(),
    );
    let handler = Arc::new(handler);
    let job = Job {
        version: MESSAGE_VERSION,
        exchange: Exchange::Binance,
        batch_id,
        ordinal: 0,
        issue: 1,
        expires_at: now + TimeDelta::minutes(1),
        work: Work::FiatList,
    };
    let before = limiter.turn(Class::Normal, job.expires_at, &shutdown).await.unwrap();
    let waiting = tokio::spawn(async move { handler.run(&job, false).await });
    // Longer than a job waits without another look.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!waiting.is_finished(), "it waits for its turn");
    sqlx::query("UPDATE pipeline.jobs SET state = 'done', ended_at = now()")
        .execute(&pool)
        .await
        .unwrap();
    drop(before);
    let outcome = waiting.await.unwrap();
    assert!(matches!(outcome, Outcome::EndedBefore(..)), "{outcome:?}");
    assert_eq!(limiter.round_trips(), 0, "Redis was not asked");
}
