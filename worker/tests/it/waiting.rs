//! A job that waits while the world goes on.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use shared::domain::{BatchId, Market, Side};
use shared::exchange::Exchange;
use shared::job::{EMPTY_BEYOND_LAST_PAGE, EMPTY_NO_ADS, EndState, Job, MESSAGE_VERSION, Work};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use worker::client::Client;
use worker::handler::{Handler, Outcome};
use worker::rate_limit::{Class, Limiter};
use worker::store::archive::Archive;
use worker::store::{Store, Stored, ToStore};

use crate::contents::publish;
use crate::identity::page_of;
use crate::{make_day, settings};

/// Done by another meanwhile, it takes no slot of the limit: after a fault many jobs are in hand twice.
#[sqlx::test(migrations = "../migrations")]
async fn a_job_done_meanwhile_takes_no_slot(pool: PgPool) {
    shared::service::install_tls_provider();
    let (today, now) = (Utc::now().date_naive(), Utc::now());
    let batch_id = BatchId::new(today, 0).unwrap();
    make_day(&pool, today).await;
    let job = Job {
        version: MESSAGE_VERSION,
        exchange: Exchange::Binance,
        batch_id,
        ordinal: 0,
        issue: 1,
        expires_at: now + TimeDelta::minutes(1),
        work: Work::FiatList,
    };
    publish(&pool, &job).await;
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

/// A page without ads where some were expected is asked for again, unless its book turned out to end before it: by a
/// page that was stored after the request.
#[sqlx::test(migrations = "../migrations")]
async fn an_empty_page_is_asked_for_again_unless_its_book_has_ended(pool: PgPool) {
    shared::service::install_tls_provider();
    let (today, now) = (Utc::now().date_naive(), Utc::now());
    make_day(&pool, today).await;
    for (number, is_shorter, reason, attempts) in
        [(0, true, EMPTY_BEYOND_LAST_PAGE, 1), (1, false, EMPTY_NO_ADS, 2)]
    {
        let batch_id = BatchId::new(today, number).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let settings = settings(&[("BINANCE_BASE_URL", &url)]);
        let (limiter, shutdown) = (Limiter::new(&settings).unwrap(), CancellationToken::new());
        let (client, archive) = (Client::new(&settings).unwrap(), Archive::new().unwrap());
        let handler =
            Handler::new(&settings, pool.clone(), limiter, client, archive, shutdown.clone());
        let work = Work::Search {
            market_id: 1,
            market: Market::new("VES", "USDT", Side::Buy).unwrap(),
            page: 2,
            ads_expected: true,
        };
        let job = Job {
            version: MESSAGE_VERSION,
            exchange: Exchange::Binance,
            batch_id,
            ordinal: 1,
            issue: 1,
            expires_at: now + TimeDelta::minutes(1),
            work,
        };
        publish(&pool, &job).await;
        let exchange = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let read = stream.read(&mut [0; 4096]).await.unwrap();
                assert!(read > 0);
                if is_shorter {
                    sqlx::query(
                        "INSERT INTO warehouse.book_pages (day, batch_id, market_id, page, ordinal, fetched_at,
                                                           declared_total, offer_ids, active_minutes, parser_version)
                         VALUES ($1, $2, 1, 1, 0, now(), 20, '{}', '{}', 1)",
                    )
                    .bind(today)
                    .bind(batch_id.raw())
                    .execute(&pool)
                    .await
                    .unwrap();
                }
                let body = r#"{"code":"000000","data":[],"total":0,"success":true}"#;
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json";
                let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let outcome = tokio::select! {
            outcome = handler.run(&job, false) => outcome,
            () = exchange => unreachable!("the exchange never ends"),
        };
        let Outcome::Ended(ending) = outcome else { panic!("{outcome:?}") };
        assert_eq!((ending.state, ending.reason), (EndState::Empty, Some(reason)));
        assert_eq!(ending.requests.attempts, attempts, "{reason}");
    }
}

/// A group that waits for one of its jobs holds none that comes after it, in whatever order they were read: a
/// coordinator that holds the one and waits for another would stand still with it.
#[sqlx::test(migrations = "../migrations")]
async fn a_group_takes_its_jobs_in_their_order(pool: PgPool) {
    let (today, now) = (Utc::now().date_naive(), Utc::now());
    make_day(&pool, today).await;
    let group: Vec<ToStore> = [3, 1, 2]
        .map(|ordinal| {
            let mut one = page_of(Vec::new(), now);
            one.job.ordinal = ordinal;
            (one.ending.state, one.ending.reason) = (EndState::Empty, Some(EMPTY_NO_ADS));
            one
        })
        .into();
    for one in &group {
        publish(&pool, &one.job).await;
    }
    let mut holder = pool.begin().await.unwrap();
    let first = "SELECT FROM pipeline.jobs WHERE ordinal = 1 FOR NO KEY UPDATE";
    sqlx::query(first).execute(&mut *holder).await.unwrap();
    let mut store = Store::new(pool.clone(), &settings(&[]), Archive::new().unwrap());
    let storing = tokio::spawn(async move { store.store(&group).await });
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
    while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&pool).await.unwrap() {
        assert!(!storing.is_finished(), "it waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let free = "SELECT ordinal FROM pipeline.jobs WHERE ordinal > 1 FOR NO KEY UPDATE SKIP LOCKED";
    let free: Vec<i32> = sqlx::query_scalar(free).fetch_all(&pool).await.unwrap();
    assert_eq!(free.len(), 2, "only {free:?} are free");
    holder.rollback().await.unwrap();
    let stored = storing.await.unwrap().unwrap();
    assert!(stored.iter().all(|one| matches!(one, Stored::Ended(_))), "{stored:?}");
}
