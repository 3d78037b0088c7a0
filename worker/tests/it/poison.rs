//! Messages that nobody can work on.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::domain::{Market, Side};
use shared::job::{EndState, Job, Report, Work};
use shared::queue::{Consumer, Delivery, Message, Publisher, Queue};
use sqlx::{ConnectOptions, PgPool};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use worker::settings::Settings;

use crate::contents::publish;
use crate::exchange::{Exchange, answer};
use crate::identity::page_of;
use crate::{make_day, settings, unique};

/// Settings of a worker for this database and exchange, with queues of its own.
fn settings_for(pool: &PgPool, exchange: &Exchange) -> Settings {
    let database_url = pool.connect_options().to_url_lossy().to_string();
    settings(&[
        ("DATABASE_URL", &database_url),
        ("AMQP_PREFIX", &unique("poison")),
        ("BINANCE_BASE_URL", &exchange.url),
    ])
}

/// What can't be read goes to the dead letters, and the worker goes on; what the ledger does not
/// know is dropped without a request.
#[sqlx::test(migrations = "../migrations")]
async fn poison_goes_to_the_dead_letters(pool: PgPool) {
    shared::service::install_tls_provider();
    let exchange = Exchange::start(answer("200 OK", "", b"{}")).await;
    let settings = settings_for(&pool, &exchange);
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(worker::run(settings.clone(), shutdown.clone()));
    let publisher = Publisher::new(&settings.broker, settings.topology.clone(), "test");
    let unknown = br#"{"version":1,"exchange":"binance","batch_id":1,"ordinal":0,"issue":1,
        "expires_at":"2100-01-01T00:00:00Z","work":{"kind":"fiat_list"}}"#;
    let newer = br#"{"version":2,"exchange":"binance","batch_id":1,"ordinal":0,"issue":1,
        "expires_at":"2100-01-01T00:00:00Z","work":{"kind":"fiat_list"}}"#;
    let messages = [&unknown[..], b"no job at all", &newer[..]]
        .map(|body| Message::To(Queue::UrgentJobs, body.to_vec()));
    publisher.publish(&messages).await.unwrap();
    let (consumer, [mut dead]) =
        Consumer::start(&settings.broker, &settings.topology, "test", [Queue::Dead], 10);
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let letter =
            tokio::time::timeout(Duration::from_secs(30), dead.recv()).await.unwrap().unwrap();
        letter.ack().await.unwrap();
        bodies.push(letter.body);
    }
    bodies.sort();
    assert_eq!(bodies, [b"no job at all".to_vec(), newer.to_vec()]);
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    consumer.close().await;
    assert_eq!(exchange.connections(), 0, "nothing was asked for");
}

/// The answer to a search, of a captured page.
fn captured_page() -> String {
    #[derive(Deserialize)]
    struct Captured<'a> {
        #[serde(borrow)]
        anuncios: &'a RawValue,
    }
    let captured = include_str!(
        "../../../fixtures/binance/collector/collector-USDT-BOB-SELL-2026-08-22T21-39-35.json"
    );
    let ads = serde_json::from_str::<Captured<'_>>(captured).unwrap().anuncios.get();
    format!(r#"{{"code":"000000","data":{ads},"total":101,"success":true}}"#)
}

async fn exchange_of(page: &str) -> Exchange {
    let json = "content-type: application/json\r\n";
    Exchange::start(answer("200 OK", json, page.as_bytes())).await
}

/// The job of a page of the captured market, which has five minutes.
fn job_of_page(page: u32) -> Job {
    let one = page_of(Vec::new(), Utc::now());
    let market = Market::new("BOB", "USDT", Side::Sell).unwrap();
    let work = Work::Search { market_id: 1, market, page, ads_expected: true };
    let expires_at = Utc::now() + TimeDelta::minutes(5);
    Job { ordinal: page, expires_at, work, ..one.job }
}

/// How so many jobs ended, by ordinal, as they were reported.
async fn ends_of(
    reports: &mut Receiver<Delivery>,
    jobs: usize,
) -> Vec<(u32, EndState, Option<String>)> {
    let mut ends = Vec::new();
    while ends.len() < jobs {
        let report = tokio::time::timeout(Duration::from_secs(30), reports.recv());
        let report = report.await.unwrap().unwrap();
        report.ack().await.unwrap();
        let read: Report = serde_json::from_slice(&report.body).unwrap();
        ends.extend(read.ends().map(|end| (end.ordinal, end.state, end.reason.clone())));
    }
    ends.sort_unstable_by_key(|end| end.0);
    ends
}

/// A page that the database refuses fails alone, with its bytes; those of its group are stored.
#[sqlx::test(migrations = "../migrations")]
async fn a_page_that_the_database_refuses_holds_no_other(pool: PgPool) {
    shared::service::install_tls_provider();
    let body = captured_page();
    let exchange = exchange_of(&body).await;
    let settings = settings_for(&pool, &exchange);
    make_day(&pool, Utc::now().date_naive()).await;
    sqlx::raw_sql("ALTER TABLE warehouse.book_pages ADD CONSTRAINT poison CHECK (page <> 3)")
        .execute(&pool)
        .await
        .unwrap();
    let jobs: Vec<Job> = (1..=4).map(job_of_page).collect();
    for job in &jobs {
        publish(&pool, job).await;
    }
    // The first one to be stored waits for this, and the others gather behind it.
    let mut holder = pool.begin().await.unwrap();
    let lock = "SELECT FROM pipeline.jobs FOR NO KEY UPDATE";
    sqlx::query(lock).execute(&mut *holder).await.unwrap();
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(worker::run(settings.clone(), shutdown.clone()));
    let publisher = Publisher::new(&settings.broker, settings.topology.clone(), "test");
    let messages: Vec<Message> = jobs
        .iter()
        .map(|job| Message::To(Queue::NormalJobs, serde_json::to_vec(job).unwrap()))
        .collect();
    publisher.publish(&messages).await.unwrap();
    let all_asked = async {
        while exchange.connections() < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all_asked).await.unwrap();
    holder.rollback().await.unwrap();
    let (consumer, [mut reports]) =
        Consumer::start(&settings.broker, &settings.topology, "test", [Queue::Reports], 10);
    let ends = ends_of(&mut reports, jobs.len()).await;
    let done = |ordinal| (ordinal, EndState::Done, None);
    let refused = (3, EndState::Failed, Some("store_refused".to_owned()));
    assert_eq!(ends, [done(1), done(2), refused, done(4)]);
    let stored: Vec<i16> =
        sqlx::query_scalar("SELECT page FROM warehouse.book_pages ORDER BY page")
            .fetch_all(&pool)
            .await
            .unwrap();
    assert_eq!(stored, [1, 2, 4]);
    let kept: Vec<(i32, i32)> = sqlx::query_as(
        "SELECT ordinal, octet_length(body) FROM pipeline.quarantine ORDER BY ordinal",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(kept, [(3, i32::try_from(body.len()).unwrap())]);
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    consumer.close().await;
}

/// A job of which not even the ending can be stored goes to the dead letters: kept, it would hold a place of its
/// worker's for ever.
#[sqlx::test(migrations = "../migrations")]
async fn what_cannot_be_ended_goes_to_the_dead_letters(pool: PgPool) {
    shared::service::install_tls_provider();
    let exchange = exchange_of(&captured_page()).await;
    let settings = settings_for(&pool, &exchange);
    make_day(&pool, Utc::now().date_naive()).await;
    sqlx::raw_sql(
        "ALTER TABLE pipeline.jobs ADD CONSTRAINT poison CHECK (page <> 1 OR state = 'published')",
    )
    .execute(&pool)
    .await
    .unwrap();
    let jobs: Vec<Job> = (1..=2).map(job_of_page).collect();
    for job in &jobs {
        publish(&pool, job).await;
    }
    let bodies: Vec<Vec<u8>> = jobs.iter().map(|job| serde_json::to_vec(job).unwrap()).collect();
    let messages = bodies.iter().map(|body| Message::To(Queue::NormalJobs, body.clone()));
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(worker::run(settings.clone(), shutdown.clone()));
    let publisher = Publisher::new(&settings.broker, settings.topology.clone(), "test");
    publisher.publish(&messages.collect::<Vec<_>>()).await.unwrap();
    let queues = [Queue::Dead, Queue::Reports];
    let (consumer, [mut dead, mut reports]) =
        Consumer::start(&settings.broker, &settings.topology, "test", queues, 10);
    let letter = tokio::time::timeout(Duration::from_secs(30), dead.recv()).await.unwrap().unwrap();
    letter.ack().await.unwrap();
    assert_eq!(letter.body, bodies[0]);
    assert_eq!(ends_of(&mut reports, 1).await, [(2, EndState::Done, None)]);
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    consumer.close().await;
}

/// Jobs are over when the ledger says so, by the clock of the database. To a worker whose clock is ahead they seem
/// over at once, and it would end them faster than others can read them.
#[sqlx::test(migrations = "../migrations")]
async fn a_clock_that_is_ahead_ends_no_job(pool: PgPool) {
    shared::service::install_tls_provider();
    let exchange = exchange_of(&captured_page()).await;
    let settings = settings_for(&pool, &exchange);
    make_day(&pool, Utc::now().date_naive()).await;
    let passed = Utc::now() - TimeDelta::minutes(10);
    let (open, over) = (job_of_page(1), Job { expires_at: passed, ..job_of_page(2) });
    let jobs = [&open, &over];
    for job in jobs {
        publish(&pool, job).await;
    }
    // Ten minutes ago, as its clock tells it.
    let messages = jobs.map(|job| {
        let seen = Job { expires_at: passed, ..job.clone() };
        Message::To(Queue::NormalJobs, serde_json::to_vec(&seen).unwrap())
    });
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(worker::run(settings.clone(), shutdown.clone()));
    let publisher = Publisher::new(&settings.broker, settings.topology.clone(), "test");
    publisher.publish(&messages).await.unwrap();
    let (consumer, [mut reports]) =
        Consumer::start(&settings.broker, &settings.topology, "test", [Queue::Reports], 10);
    let expired = (2, EndState::Expired, Some("deadline".to_owned()));
    assert_eq!(ends_of(&mut reports, 2).await, [(1, EndState::Done, None), expired]);
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    consumer.close().await;
}
