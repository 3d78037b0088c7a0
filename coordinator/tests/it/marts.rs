//! Marts of batches whose slots are not in the order of their ids.

use chrono::{DateTime, NaiveDate, Utc};
use coordinator::store::marts::{self, Batches};
use shared::domain::BatchId;
use sqlx::PgPool;

use crate::make_market;

/// A clock that was ahead for one batch: the hour before keeps all of its books when the next one is made.
#[sqlx::test(migrations = "../migrations")]
async fn an_hour_keeps_its_books_when_a_clock_was_ahead(pool: PgPool) {
    let day = NaiveDate::from_ymd_opt(2026, 11, 22).unwrap();
    make_market(&pool, day).await;
    for (number, slot) in (0..).zip(["10:00", "11:00", "10:20", "11:10"]) {
        let at: DateTime<Utc> = format!("{day}T{slot}:00Z").parse().unwrap();
        let batch = BatchId::new(day, number).unwrap();
        let mut tx = pool.begin().await.unwrap();
        sqlx::query(
            "WITH batch AS (
                 INSERT INTO pipeline.batches (batch_id, day, exchange_id, slot_at, trigger, state, opened_by, opened_at, deadline_at)
                 VALUES ($1, $2, 1, $3, 'schedule', 'open', 'test', $3, $3)
             )
             INSERT INTO warehouse.books
                    (day, batch_id, market_id, verdict, pages_planned, pages_read, pages_lost, pages_shed, pages_reread,
                     listed_ads, distinct_ads, duplicate_ads, refused_ads, estimated_missed, first_fetched_at, last_fetched_at)
             VALUES ($2, $1, 1, 'empty', 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, $3, $3)",
        )
        .bind(batch.raw())
        .bind(day)
        .bind(at)
        .execute(&mut *tx)
        .await
        .unwrap();
        marts::make(&mut tx, Batches::one(batch)).await.unwrap();
        tx.commit().await.unwrap();
    }
    let books: Vec<(f64, i32)> = sqlx::query_as(
        "SELECT extract(hour FROM hour AT TIME ZONE 'UTC')::float8, books::int FROM warehouse.mart_hours ORDER BY hour",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert_eq!(books, [(10.0, 2), (11.0, 2)]);
}
