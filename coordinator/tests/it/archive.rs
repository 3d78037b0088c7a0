//! The raw archive is kept within its budget, and its dictionaries as long as they are needed. Days are
//! told; all lie before the real one.

use std::sync::Arc;

use coordinator::archive::{self, Guard, Training};
use coordinator::settings::Retention;
use coordinator::store::Store;
use coordinator::store::archive::Suspension;
use shared::archive::{Dictionary, Packer, Transcript};
use shared::exchange::Exchange;
use sqlx::PgPool;

use crate::leader::lead;
use crate::retention::{KEPT, batch, day, make, number, round_with, run};
use crate::settings;

const BUDGET: u64 = 1 << 20;
/// Only the budget drops anything.
const LONG: Retention =
    Retention { facts_days: 300, marts_days: 300, raw_days: 300, raw_bytes: BUDGET, ..KEPT };

/// So many answers of 1,500 bytes.
async fn fill(db: &PgPool, on: &str, answers: i32) {
    sqlx::query(
        "INSERT INTO pipeline.raw_pages
         SELECT $1, 0, (SELECT count(*) FROM pipeline.raw_pages WHERE day = $1) + n, now(), 200, 1, NULL, 0, 0, 1500,
                20, 'e', convert_to(repeat('x', 1500), 'UTF8')
           FROM generate_series(1, $2) n",
    )
    .bind(day(on))
    .bind(answers)
    .execute(db)
    .await
    .unwrap();
}

/// The oldest day goes first; where today alone is too large, archiving is suspended until it is no
/// longer today.
#[sqlx::test(migrations = "../migrations")]
async fn the_budget_is_enforced(db: PgPool) {
    make(&db, "2024-01-01", "2024-01-04").await;
    batch(&db, "2024-01-01").await;
    batch(&db, "2024-01-02").await;
    let leader = lead(&settings(&db)).await.unwrap();
    let guard = |budget| {
        Guard::new(Store::new(db.clone(), leader.term().clone()), Exchange::Binance, budget)
    };
    let in_budget = guard(BUDGET);
    fill(&db, "2024-01-01", 300).await;
    assert_eq!(in_budget.look().await.unwrap(), None);
    assert!(!in_budget.wants_room());
    fill(&db, "2024-01-02", 350).await;
    // Too large, and more so than may wait for the next idle time.
    assert_eq!(in_budget.look().await.unwrap(), Some(Suspension::Budget));
    assert!(in_budget.wants_room());
    let round = round_with(&db, &LONG, "2024-01-02").await;
    assert_eq!(round.dropped, ["pipeline.raw_pages_20240101"]);
    let reason = "SELECT reason FROM pipeline.dropped_partitions WHERE dropped_at IS NOT NULL";
    let reason: String = sqlx::query_scalar(reason).fetch_one(&db).await.unwrap();
    assert_eq!(reason, "budget");
    assert_eq!(in_budget.look().await.unwrap(), None);
    assert!(!in_budget.wants_room());

    // Today alone is too large: nothing may go, and nothing comes.
    fill(&db, "2024-01-02", 400).await;
    assert_eq!(in_budget.look().await.unwrap(), Some(Suspension::Budget));
    assert!(!in_budget.wants_room());
    assert!(round_with(&db, &LONG, "2024-01-02").await.dropped.is_empty());
    assert_eq!(in_budget.look().await.unwrap(), Some(Suspension::Budget));
    // The next day it may.
    batch(&db, "2024-01-03").await;
    assert_eq!(round_with(&db, &LONG, "2024-01-03").await.dropped, ["pipeline.raw_pages_20240102"]);
    assert_eq!(in_budget.look().await.unwrap(), None);
    let times = "SELECT count(*) FROM pipeline.raw_suspensions WHERE to_at IS NOT NULL AND reason = 'budget'";
    assert_eq!(number(&db, times).await, 2);
    assert_eq!(number(&db, "SELECT count(*) FROM pipeline.raw_suspensions").await, 2);

    // Off is another reason, and another time.
    assert_eq!(guard(0).look().await.unwrap(), Some(Suspension::Off));
    let open =
        "SELECT count(*) FROM pipeline.raw_suspensions WHERE to_at IS NULL AND reason = 'off'";
    assert_eq!(number(&db, open).await, 1);
    assert_eq!(in_budget.look().await.unwrap(), None);
    assert_eq!(number(&db, open).await, 0);
}

/// A day whose batch is still open is not dropped for want of room: pages of it may come.
#[sqlx::test(migrations = "../migrations")]
async fn a_day_that_is_not_over_stays(db: PgPool) {
    make(&db, "2024-01-01", "2024-01-02").await;
    let open = batch(&db, "2024-01-01").await;
    batch(&db, "2024-01-02").await;
    fill(&db, "2024-01-01", 800).await;
    run(&db, format!("UPDATE pipeline.batches SET state = 'open', closed_at = NULL, outcome = NULL WHERE batch_id = {open}")).await;
    assert!(round_with(&db, &LONG, "2024-01-02").await.dropped.is_empty());
    run(&db, format!("UPDATE pipeline.batches SET state = 'closed', closed_at = now(), outcome = 'complete' WHERE batch_id = {open}")).await;
    assert_eq!(round_with(&db, &LONG, "2024-01-02").await.dropped.len(), 1);
}

/// Pages of two ads that share their names of fields and little else.
fn page(n: i32) -> Transcript {
    let ad = |n: i32| {
        let price = n.wrapping_mul(7919).rem_euclid(10_000);
        format!(
            "{{\"advNo\":\"1286{n:016}\",\"price\":\"{price}\",\"surplusAmount\":\"{}\",\"tradeMethods\":[{{\"identifier\":\"BANK\"}}]}}",
            n * 31
        )
    };
    let request = format!("POST /search\n{{\"page\":{n},\"rows\":20}}").into_bytes();
    let headers = b"content-type: application/json\n".to_vec();
    let body = format!("{{\"code\":\"000000\",\"data\":[{},{}]}}", ad(2 * n), ad(2 * n + 1));
    Transcript { request, headers, body: body.into_bytes() }
}

async fn archive_pages(
    db: &PgPool,
    batch: i32,
    on: &str,
    pages: i32,
    dictionary: Option<&Arc<Dictionary>>,
) {
    for n in 0..pages {
        let transcript = page(n);
        let content = Packer::new(dictionary.cloned()).unwrap().pack(&transcript).unwrap();
        let length = |part: &[u8]| i32::try_from(part.len()).unwrap();
        sqlx::query(
            "WITH job AS (
                 INSERT INTO pipeline.jobs
                        (day, batch_id, ordinal, kind, market_id, page, urgent, ads_expected, state, planned_at,
                         ended_at, expires_at)
                 VALUES ($1, $2, $3, 'search', 1, $3 + 1, false, true, 'done', now(), now(), now()))
             INSERT INTO pipeline.raw_pages VALUES ($1, $2, $3, now(), 200, 1, $4, $5, $6, $7, 2, 'e', $8)",
        )
        .bind(day(on))
        .bind(batch)
        .bind(n)
        .bind(dictionary.map(|dictionary| dictionary.id()))
        .bind(length(&transcript.request))
        .bind(length(&transcript.headers))
        .bind(length(&transcript.body))
        .bind(content)
        .execute(db)
        .await
        .unwrap();
    }
}

/// A dictionary is trained when there is enough to learn, kept if it is better, and deleted when nothing
/// needs it any more.
#[sqlx::test(migrations = "../migrations")]
async fn dictionaries_come_and_go(db: PgPool) {
    make(&db, "2024-01-01", "2024-01-02").await;
    let first = batch(&db, "2024-01-01").await;
    archive_pages(&db, first, "2024-01-01", 10, None).await;
    assert!(archive::is_due(&db, Exchange::Binance).await.unwrap());
    assert_eq!(archive::train(&db, Exchange::Binance).await.unwrap(), Training::TooFew(10));
    run(&db, "TRUNCATE pipeline.raw_pages, pipeline.jobs").await;
    archive_pages(&db, first, "2024-01-01", 400, None).await;
    let Training::Kept(id, measured) = archive::train(&db, Exchange::Binance).await.unwrap() else {
        panic!("no dictionary")
    };
    assert!(measured.test_bytes_trained * 2 < measured.test_bytes_plain, "{measured:?}");
    assert_eq!((measured.samples, measured.test_ads), (320, 160));
    assert!(!archive::is_due(&db, Exchange::Binance).await.unwrap());
    // The same again teaches nothing new.
    let again = archive::train(&db, Exchange::Binance).await.unwrap();
    assert!(matches!(again, Training::NoBetter(_)), "{again:?}");

    // Replaced long ago, but an answer needs it; then none does.
    let dictionary = Arc::new(Dictionary::load(&db, id).await.unwrap());
    let second = batch(&db, "2024-01-02").await;
    archive_pages(&db, second, "2024-01-02", 100, Some(&dictionary)).await;
    // What was packed with it is learnt, too: as it is every day.
    let packed = archive::train(&db, Exchange::Binance).await.unwrap();
    assert!(matches!(packed, Training::NoBetter(_)), "{packed:?}");
    run(
        &db,
        "UPDATE pipeline.raw_dictionaries SET trained_at = '2024-01-01';
         INSERT INTO pipeline.raw_dictionaries SELECT 1, exchange_id, content, '2024-01-02', 0, 0, 0, 0, 0 FROM pipeline.raw_dictionaries",
    )
    .await;
    assert_eq!(round_with(&db, &LONG, "2024-01-02").await.dictionaries_deleted, 0);
    run(&db, "DELETE FROM pipeline.raw_pages WHERE dictionary_id IS NOT NULL").await;
    assert_eq!(round_with(&db, &LONG, "2024-01-02").await.dictionaries_deleted, 1);
    assert_eq!(number(&db, "SELECT dictionary_id::bigint FROM pipeline.raw_dictionaries").await, 1);
}
