//! What operators ask for, and the answers.

use chrono::TimeDelta;
use shared::domain::BatchId;
use shared::exchange::Exchange;
use sqlx::{PgConnection, PgPool};

use super::Store;

/// A batch that an operator asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rerun {
    pub id: i64,
    /// The batch whose lost markets are to be read; `None`: the whole plan.
    pub lost_of: Option<BatchId>,
    /// Since it was asked for, by the clock of the database, which also said when that was.
    pub waited: TimeDelta,
}

/// The request for a batch that waits, of which there is one at most.
pub async fn next_rerun(pool: &PgPool, exchange: Exchange) -> anyhow::Result<Option<Rerun>> {
    let row: Option<(i64, Option<i32>, i64)> = sqlx::query_as(
        "SELECT request_id, CASE WHEN lost_only THEN batch_id END,
                extract(epoch FROM now() - asked_at)::bigint
           FROM pipeline.requests WHERE exchange_id = $1 AND state = 'asked' AND kind = 'rerun'",
    )
    .bind(exchange.id())
    .fetch_optional(pool)
    .await?;
    let rerun = |(id, lost_of, waited): (i64, Option<i32>, i64)| {
        let lost_of = lost_of.map(BatchId::from_raw).transpose()?;
        anyhow::Ok(Rerun { id, lost_of, waited: TimeDelta::seconds(waited) })
    };
    row.map(rerun).transpose()
}

/// Answers no.
pub async fn refuse(store: &Store, id: i64, why: &str, by: &str) -> anyhow::Result<()> {
    let mut tx = store.begin().await?;
    sqlx::query(
        "UPDATE pipeline.requests
            SET state = 'refused', answer = $2, answered_by = $3, answered_at = now()
          WHERE request_id = $1 AND state = 'asked'",
    )
    .bind(id)
    .bind(why)
    .bind(by)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Notes the batch that is opened for a request; in the transaction that opens it.
pub(super) async fn take(
    connection: &mut PgConnection,
    id: i64,
    batch: BatchId,
    by: &str,
) -> anyhow::Result<()> {
    let taken = sqlx::query(
        "UPDATE pipeline.requests
            SET state = 'done', made_batch_id = $2, answered_by = $3, answered_at = now()
          WHERE request_id = $1 AND state = 'asked'",
    )
    .bind(id)
    .bind(batch.raw())
    .bind(by)
    .execute(connection)
    .await?;
    anyhow::ensure!(taken.rows_affected() == 1, "request {id} is answered already");
    Ok(())
}

/// The only markets that a batch is to read; `None`: all.
pub async fn asked_markets(pool: &PgPool, batch: BatchId) -> anyhow::Result<Option<Vec<i32>>> {
    let lost_of: Option<i32> = sqlx::query_scalar(
        "SELECT batch_id FROM pipeline.requests WHERE made_batch_id = $1 AND lost_only",
    )
    .bind(batch.raw())
    .fetch_optional(pool)
    .await?;
    let Some(lost_of) = lost_of else {
        return Ok(None);
    };
    Ok(Some(lost_markets(pool, BatchId::from_raw(lost_of)?).await?))
}

/// The listed markets of which a batch lost or left out a page.
pub async fn lost_markets(pool: &PgPool, batch: BatchId) -> anyhow::Result<Vec<i32>> {
    let markets = sqlx::query_scalar(
        "SELECT k.market_id FROM warehouse.books k JOIN pipeline.catalog c USING (market_id)
          WHERE k.day = $1 AND k.batch_id = $2 AND (k.pages_lost > 0 OR k.pages_shed > 0) AND c.is_listed
          ORDER BY 1",
    );
    Ok(markets.bind(batch.day()).bind(batch.raw()).fetch_all(pool).await?)
}

/// Whether an operator wants the batch to end.
pub async fn is_cancelled(pool: &PgPool, batch: BatchId) -> anyhow::Result<bool> {
    let cancelled = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pipeline.requests
          WHERE batch_id = $1 AND state = 'asked' AND kind = 'cancel')",
    );
    Ok(cancelled.bind(batch.raw()).fetch_one(pool).await?)
}

/// Answers the request to cancel a batch, in the transaction that closes it; gives who asked and why. A
/// batch that closes for another reason was faster.
pub(super) async fn answer_cancel(
    connection: &mut PgConnection,
    batch: BatchId,
    is_obeyed: bool,
    by: &str,
) -> anyhow::Result<Option<String>> {
    Ok(sqlx::query_scalar(
        "UPDATE pipeline.requests
            SET state = CASE WHEN $2 THEN 'done' ELSE 'refused' END,
                answer = CASE WHEN NOT $2 THEN 'the batch closed before it could be cancelled' END,
                answered_by = $3, answered_at = now()
          WHERE batch_id = $1 AND state = 'asked' AND kind = 'cancel'
      RETURNING asked_by || ': ' || why",
    )
    .bind(batch.raw())
    .bind(is_obeyed)
    .bind(by)
    .fetch_optional(connection)
    .await?)
}
