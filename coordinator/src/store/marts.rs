//! The marts of closed batches: prices, stock and flow per book, per payment method, per advertiser and
//! day, and their hours and days.
//!
//! Made when a batch closes, in its transaction, from its ads and from the complete books before it: the
//! cost grows with the batch. A range of batches of one day may be made at once, with the same rows in
//! the end; whoever fills a database with days uses that.

use chrono::NaiveDate;
use shared::domain::BatchId;
use sqlx::PgConnection;

/// Batches of one day, certified and without marts.
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    first: BatchId,
    last: BatchId,
}

impl Batches {
    /// One batch.
    #[must_use]
    pub fn one(batch: BatchId) -> Self {
        Self { first: batch, last: batch }
    }

    /// From `first` to `last`; `None` unless they are in this order and of one day.
    #[must_use]
    pub fn range(first: BatchId, last: BatchId) -> Option<Self> {
        (first <= last && first.day() == last.day()).then_some(Self { first, last })
    }
}

/// Sorting and hashing a batch of 30,000 ads in memory; the default of 4 MB spills to disk.
const WORK_MEM: &str = "SET LOCAL work_mem = '64MB'";
/// Parts of the transaction are about a few thousand rows of many: looking each up by its key beats
/// reading the day. Elsewhere the temporary tables meet each other, and nested loops would be a disaster
/// where the planner expects one row.
const BY_KEY: &str = "SET LOCAL enable_nestloop = on; SET LOCAL random_page_cost = 1.1";
const BY_HASH: &str = "SET LOCAL enable_nestloop = off; SET LOCAL random_page_cost = 4";

/// Makes the marts of `batches`. In a transaction with whose end its temporary tables go.
pub async fn make(connection: &mut PgConnection, batches: Batches) -> sqlx::Result<()> {
    let day = batches.first.day();
    execute(connection, WORK_MEM).await?;
    run(connection, batches, include_str!("marts/closing.sql")).await?;
    execute(connection, "ANALYZE closing_books").await?;
    execute(connection, BY_KEY).await?;
    execute(connection, include_str!("marts/pairs.sql")).await?;
    run(connection, batches, include_str!("marts/ads.sql")).await?;
    execute(connection, "CREATE INDEX ON batch_ads (batch_id, market_id)").await?;
    execute(
        connection,
        "ANALYZE book_pairs, batch_ads (batch_id, market_id, id, adv_no, advertiser_id)",
    )
    .await?;
    execute(connection, include_str!("marts/before_tables.sql")).await?;
    let before: Vec<NaiveDate> = sqlx::query_scalar("SELECT DISTINCT previous_day FROM book_pairs")
        .fetch_all(&mut *connection)
        .await?;
    // Day by day, so that each statement names the one partition it reads.
    for before in &before {
        bound(connection, include_str!("marts/before.sql"), &[*before]).await?;
    }
    execute(connection, "ANALYZE ids_before").await?;
    for before in &before {
        bound(connection, include_str!("marts/gone.sql"), &[*before, day]).await?;
    }
    execute(connection, BY_HASH).await?;
    execute(connection, "ANALYZE ads_before").await?;
    bound(connection, include_str!("marts/moves.sql"), &[day]).await?;
    execute(connection, "ANALYZE ad_moves").await?;
    execute(connection, include_str!("marts/seen.sql")).await?;
    bound(connection, include_str!("marts/books.sql"), &[day]).await?;
    bound(connection, include_str!("marts/methods.sql"), &[day]).await?;
    bound(connection, include_str!("marts/advertisers.sql"), &[day]).await?;
    run(connection, batches, include_str!("marts/hours.sql")).await?;
    bound(connection, include_str!("marts/days.sql"), &[day]).await?;
    execute(connection, include_str!("marts/catalog.sql")).await?;
    execute(connection, "RESET enable_nestloop; RESET random_page_cost; RESET work_mem").await
}

async fn execute(connection: &mut PgConnection, statements: &'static str) -> sqlx::Result<()> {
    sqlx::raw_sql(statements).execute(connection).await.map(drop)
}

/// Runs a statement of days.
async fn bound(
    connection: &mut PgConnection,
    statement: &'static str,
    days: &[NaiveDate],
) -> sqlx::Result<()> {
    days.iter()
        .fold(sqlx::query(statement), |query, day| query.bind(*day))
        .execute(connection)
        .await
        .map(drop)
}

/// Runs a statement of `$1` day, `$2` first and `$3` last batch.
async fn run(
    connection: &mut PgConnection,
    batches: Batches,
    statement: &'static str,
) -> sqlx::Result<()> {
    sqlx::query(statement)
        .bind(batches.first.day())
        .bind(batches.first.raw())
        .bind(batches.last.raw())
        .execute(connection)
        .await
        .map(drop)
}
