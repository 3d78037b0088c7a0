//! Slots and batches.

use chrono::{DateTime, NaiveDate, Utc};
use shared::domain::BatchId;
use shared::exchange::Exchange;
use sqlx::PgPool;

use crate::schedule::SkipReason;

/// Days for which partitions are made ahead, so that a night without coordinator breaks nothing.
const PARTITION_DAYS_AHEAD: i32 = 3;

/// Why a batch is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Slot,
    Once,
}

/// A batch that is not closed.
#[derive(Clone, Debug)]
pub struct OpenBatch {
    pub id: BatchId,
    pub slot_at: DateTime<Utc>,
    pub deadline_at: DateTime<Utc>,
    pub is_planned: bool,
}

/// Opens a batch: row, slot and partitions in one transaction.
pub async fn open(
    pool: &PgPool,
    exchange: Exchange,
    trigger: Trigger,
    slot_at: DateTime<Utc>,
    deadline_at: DateTime<Utc>,
    opened_by: &str,
) -> anyhow::Result<OpenBatch> {
    let day = slot_at.date_naive();
    let mut tx = pool.begin().await?;
    sqlx::query("SELECT pipeline.make_partitions($1, $1 + $2)")
        .bind(day)
        .bind(PARTITION_DAYS_AHEAD)
        .execute(&mut *tx)
        .await?;
    let id = BatchId::new(day, next_number(&mut tx, day).await?)?;
    sqlx::query(
        "INSERT INTO pipeline.batches
                (batch_id, day, exchange_id, slot_at, trigger, state, opened_by, opened_at, deadline_at)
         VALUES ($1, $2, $3, $4, $5, 'open', $6, now(), $7)",
    )
    .bind(id.raw())
    .bind(day)
    .bind(exchange.id())
    .bind(slot_at)
    .bind(match trigger {
        Trigger::Slot => "schedule",
        Trigger::Once => "once",
    })
    .bind(opened_by)
    .bind(deadline_at)
    .execute(&mut *tx)
    .await?;
    if trigger == Trigger::Slot {
        sqlx::query(
            "INSERT INTO pipeline.slots (exchange_id, slot_at, batch_id, state, recorded_at)
             VALUES ($1, $2, $3, 'batch', now())",
        )
        .bind(exchange.id())
        .bind(slot_at)
        .bind(id.raw())
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(OpenBatch { id, slot_at, deadline_at, is_planned: false })
}

async fn next_number(connection: &mut sqlx::PgConnection, day: NaiveDate) -> anyhow::Result<u32> {
    let first = BatchId::new(day, 0)?.raw();
    let last: Option<i32> = sqlx::query_scalar(
        "SELECT max(batch_id) FROM pipeline.batches WHERE batch_id BETWEEN $1 AND $1 + 511",
    )
    .bind(first)
    .fetch_one(connection)
    .await?;
    Ok(last.map_or(0, |last| (last - first + 1).cast_unsigned()))
}

/// The batches that are not closed, oldest first.
pub async fn list_open(pool: &PgPool, exchange: Exchange) -> anyhow::Result<Vec<OpenBatch>> {
    let rows: Vec<(i32, DateTime<Utc>, DateTime<Utc>, bool)> = sqlx::query_as(
        "SELECT batch_id, slot_at, deadline_at, planned_at IS NOT NULL FROM pipeline.batches
          WHERE exchange_id = $1 AND state = 'open' ORDER BY batch_id",
    )
    .bind(exchange.id())
    .fetch_all(pool)
    .await?;
    let open = |(id, slot_at, deadline_at, is_planned)| {
        Ok(OpenBatch { id: BatchId::from_raw(id)?, slot_at, deadline_at, is_planned })
    };
    rows.into_iter().map(open).collect()
}

/// The latest slot of which something is recorded.
pub async fn last_slot(pool: &PgPool, exchange: Exchange) -> anyhow::Result<Option<DateTime<Utc>>> {
    let last = sqlx::query_scalar("SELECT max(slot_at) FROM pipeline.slots WHERE exchange_id = $1");
    Ok(last.bind(exchange.id()).fetch_one(pool).await?)
}

/// Records slots that nobody took.
pub async fn record_skipped(
    pool: &PgPool,
    exchange: Exchange,
    skipped: &[(DateTime<Utc>, SkipReason)],
) -> anyhow::Result<()> {
    sqlx::query(
        "INSERT INTO pipeline.slots (exchange_id, slot_at, state, reason, recorded_at)
         SELECT $1, s.slot_at, 'skipped', s.reason, now()
           FROM unnest($2::timestamptz[], $3::text[]) AS s (slot_at, reason)
             ON CONFLICT DO NOTHING",
    )
    .bind(exchange.id())
    .bind(skipped.iter().map(|(slot, _)| *slot).collect::<Vec<_>>())
    .bind(skipped.iter().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(())
}
