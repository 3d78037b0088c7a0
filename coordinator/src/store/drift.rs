//! Drift: a book that moved between the readings of its pages.

use shared::domain::BatchId;
use sqlx::PgPool;

use crate::ledger::MAX_PAGES_PER_BOOK;

/// Pages of one book that are read again in a round. A book that moved at more places moves faster
/// than it can be read.
const MAX_PAGES_PER_ROUND: i32 = 12;
/// The same for a book whose total changed: the large ones always do, and would use up what all books
/// may be read again.
const MAX_PAGES_OF_STEPPED: i32 = 2;

/// The pages at which the books of `markets` moved while they were read, by market and page; those
/// of books that are whole are not among them.
pub async fn list_moved_pages(
    pool: &PgPool,
    batch: BatchId,
    markets: &[i32],
) -> anyhow::Result<Vec<(i32, u32)>> {
    let rows: Vec<(i32, i32)> = sqlx::query_as(include_str!("drift.sql"))
        .bind(batch.day())
        .bind(batch.raw())
        .bind(markets)
        .bind(MAX_PAGES_PER_ROUND)
        .bind(MAX_PAGES_OF_STEPPED)
        .bind(MAX_PAGES_PER_BOOK.cast_signed())
        .fetch_all(pool)
        .await?;
    Ok(rows.into_iter().map(|(market, page)| (market, page.cast_unsigned())).collect())
}
