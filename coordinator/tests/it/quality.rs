//! What baselines learn and what is held back, reading by reading.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use coordinator::store::quality::{self, Pass};
use shared::domain::BatchId;
use sqlx::PgPool;

use crate::make_market;

/// One book of the only market, by its certificate.
#[derive(Clone, Copy)]
struct Book {
    verdict: &'static str,
    ads: i32,
    refused: i32,
    missed: i32,
    pages_lost: i32,
}

fn complete(ads: i32) -> Book {
    Book { verdict: "complete", ads, refused: 0, missed: 0, pages_lost: 0 }
}

fn drifted(ads: i32, missed: i32) -> Book {
    Book { verdict: "drifted", missed, ..complete(ads) }
}

fn refused(ads: i32, refused: i32) -> Book {
    Book { verdict: "partial", refused, ..complete(ads) }
}

fn lost(ads: i32) -> Book {
    Book { verdict: "partial", pages_lost: 1, ..complete(ads) }
}

struct Market {
    pool: PgPool,
    /// Slot of the next batch.
    at: DateTime<Utc>,
}

impl Market {
    async fn new(pool: PgPool) -> Self {
        let at: DateTime<Utc> = "2026-11-22T10:00:00Z".parse().unwrap();
        make_market(&pool, at.date_naive()).await;
        Self { pool, at }
    }

    /// Reads it in the next slot: why the book is held back.
    async fn read(&mut self, book: Book) -> Option<String> {
        let day: NaiveDate = self.at.date_naive();
        let number = (self.at - day.and_hms_opt(0, 0, 0).unwrap().and_utc()).num_minutes() / 10;
        let batch = BatchId::new(day, u32::try_from(number).unwrap()).unwrap();
        let mut connection = self.pool.acquire().await.unwrap();
        sqlx::query(
            "WITH batch AS (
                 INSERT INTO pipeline.batches (batch_id, day, exchange_id, slot_at, trigger, state, opened_by, opened_at, deadline_at)
                 VALUES ($1, $2, 1, $3, 'schedule', 'open', 'test', $3, $3)
             ), book AS (
                 INSERT INTO warehouse.books
                        (day, batch_id, market_id, verdict, pages_planned, pages_read, pages_lost, pages_shed, pages_reread,
                         listed_ads, distinct_ads, duplicate_ads, refused_ads, estimated_missed, last_fetched_at)
                 VALUES ($2, $1, 1, $4, 9, 8, $8, 0, 0, $5, $5, 0, $6, $7, $3)
             )
             INSERT INTO warehouse.mart_books
                    (day, batch_id, market_id, slot_at, read_at, verdict, ads, merchant_ads, advertisers, merchants,
                     best_price, median_price, available_amount, available_fiat)
             VALUES ($2, $1, 1, $3, $3, $4, $5, 0, 1, 0, 100, 100, $5 * 10, $5 * 1000)",
        )
        .bind(batch.raw())
        .bind(day)
        .bind(self.at)
        .bind(book.verdict)
        .bind(book.ads)
        .bind(book.refused)
        .bind(book.missed)
        .bind(book.pages_lost)
        .execute(&mut *connection)
        .await
        .unwrap();
        quality::check(&mut connection, batch, &crate::THRESHOLDS, Pass::Close).await.unwrap();
        self.at += TimeDelta::minutes(10);
        let held = "SELECT held_reason FROM warehouse.books WHERE batch_id = $1";
        sqlx::query_scalar(held).bind(batch.raw()).fetch_one(&self.pool).await.unwrap()
    }

    /// Reads it until it is known; none of the books is held back.
    async fn learn(&mut self, book: Book) {
        for _ in 0..coordinator::quality::MIN_CYCLES {
            assert_eq!(self.read(book).await, None);
        }
    }

    /// Books that its baseline learned from.
    async fn cycles(&self) -> i32 {
        let cycles = "SELECT cycles FROM pipeline.market_baselines";
        sqlx::query_scalar(cycles).fetch_one(&self.pool).await.unwrap()
    }
}

/// A market with an odd ad has a baseline as others have, which tells a fall from ads that we could not take.
#[sqlx::test(migrations = "../migrations")]
async fn a_refused_ad_keeps_no_market_from_being_known(pool: PgPool) {
    let mut market = Market::new(pool).await;
    market.learn(refused(99, 1)).await;
    assert_eq!(market.cycles().await, 5);
    assert_eq!(market.read(refused(40, 60)).await.as_deref(), Some("we_failed"));
    assert_eq!(market.cycles().await, 5);
    assert_eq!(market.read(refused(8, 1)).await.as_deref(), Some("suspect"));
    assert_eq!(market.read(refused(40, 1)).await, None, "it shrank");
}

/// A book that lacks most of what the exchange declares is no market that shrank; a total that is not true does no harm.
/// A day after the last book that was learned from, it is believed all the same.
#[sqlx::test(migrations = "../migrations")]
async fn what_is_declared_and_not_seen_we_failed_to_read(pool: PgPool) {
    let mut market = Market::new(pool).await;
    market.learn(complete(150)).await;
    assert_eq!(market.read(drifted(20, 130)).await.as_deref(), Some("we_failed"));
    assert_eq!(market.cycles().await, 5);
    assert_eq!(market.read(drifted(150, 100)).await, None);
    assert_eq!(market.cycles().await, 6);
    market.at += TimeDelta::hours(23);
    assert_eq!(market.read(drifted(20, 130)).await.as_deref(), Some("we_failed"));
    market.at += TimeDelta::hours(1);
    for _ in 0..3 {
        assert_eq!(market.read(drifted(20, 130)).await, None);
    }
    assert_eq!(market.cycles().await, 9);
}

/// A fall must be confirmed by readings in a row: one that shows the market as it was begins anew, though a page was lost.
/// One that can't tell is passed over.
#[sqlx::test(migrations = "../migrations")]
async fn suspicions_are_in_a_row(pool: PgPool) {
    let mut market = Market::new(pool).await;
    market.learn(complete(100)).await;
    assert_eq!(market.read(complete(8)).await.as_deref(), Some("suspect"));
    assert_eq!(market.read(lost(80)).await, None);
    assert_eq!(market.read(complete(8)).await.as_deref(), Some("suspect"));
    assert_eq!(market.read(lost(5)).await, None, "it is not shown anyway");
    assert_eq!(market.read(complete(8)).await, None, "confirmed");
}
