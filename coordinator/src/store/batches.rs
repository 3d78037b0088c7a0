//! Slots and batches.

use anyhow::Context;
use chrono::{DateTime, NaiveDate, Utc};
use shared::domain::BatchId;
use shared::exchange::Exchange;
use shared::job::EXPIRED_DEADLINE;
use sqlx::PgPool;

use super::{Store, advertisers, requests};
use crate::schedule::{Recorded, SkipReason, SlotState};
use crate::store::close::BatchOutcome;

/// Days for which partitions are made ahead, so that a night without coordinator breaks nothing.
const PARTITION_DAYS_AHEAD: i32 = 3;

/// Why a batch is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Slot,
    Once,
    /// An operator asked the leader of a schedule for it, by this row of `pipeline.requests`.
    Request(i64),
}

/// A batch that is not closed.
#[derive(Clone, Debug)]
pub struct OpenBatch {
    pub id: BatchId,
    pub slot_at: DateTime<Utc>,
    pub deadline_at: DateTime<Utc>,
    pub is_planned: bool,
}

/// Opens a batch: row, slot and partitions in one transaction. A slot that was recorded as skipped
/// while the clock was ahead is taken all the same.
pub async fn open(
    store: &Store,
    exchange: Exchange,
    trigger: Trigger,
    slot_at: DateTime<Utc>,
    deadline_at: DateTime<Utc>,
    opened_by: &str,
) -> anyhow::Result<OpenBatch> {
    let day = slot_at.date_naive();
    let mut tx = store.begin().await?;
    sqlx::query("SELECT pipeline.make_partitions($1, $1 + $2)")
        .bind(day)
        .bind(PARTITION_DAYS_AHEAD)
        .execute(&mut *tx)
        .await?;
    advertisers::expire_left_over(&mut tx, exchange, EXPIRED_DEADLINE).await?;
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
        Trigger::Once | Trigger::Request(_) => "once",
    })
    .bind(opened_by)
    .bind(deadline_at)
    .execute(&mut *tx)
    .await?;
    if let Trigger::Request(request) = trigger {
        requests::take(&mut tx, request, id, opened_by).await?;
    }
    if trigger == Trigger::Slot {
        let taken = sqlx::query(
            "INSERT INTO pipeline.slots AS s (exchange_id, slot_at, batch_id, state, recorded_at)
             VALUES ($1, $2, $3, 'batch', now())
                 ON CONFLICT (exchange_id, slot_at) DO UPDATE
                SET batch_id = EXCLUDED.batch_id, state = EXCLUDED.state, reason = NULL,
                    recorded_at = EXCLUDED.recorded_at
              WHERE s.state = 'skipped'",
        )
        .bind(exchange.id())
        .bind(slot_at)
        .bind(id.raw())
        .execute(&mut *tx)
        .await?;
        anyhow::ensure!(taken.rows_affected() == 1, "slot {slot_at} has a batch already");
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

/// What is recorded of the slot `current` and of those before it.
pub async fn recorded(
    pool: &PgPool,
    exchange: Exchange,
    current: DateTime<Utc>,
) -> anyhow::Result<Recorded> {
    let (before, current): (Option<DateTime<Utc>>, Option<String>) = sqlx::query_as(
        "SELECT max(slot_at) FILTER (WHERE slot_at < $2), max(state) FILTER (WHERE slot_at = $2)
           FROM (SELECT slot_at, state FROM pipeline.slots
                  WHERE exchange_id = $1 AND slot_at <= $2 ORDER BY slot_at DESC LIMIT 2) s",
    )
    .bind(exchange.id())
    .bind(current)
    .fetch_one(pool)
    .await?;
    let state = |text| if text == "batch" { SlotState::Batch } else { SlotState::Skipped };
    Ok(Recorded { before, current: current.as_deref().map(state) })
}

/// A batch as it stands.
pub enum Found {
    Open(OpenBatch),
    Closed(BatchOutcome),
}

/// What became of a batch, perhaps under another leader.
pub async fn find(pool: &PgPool, batch: BatchId) -> anyhow::Result<Found> {
    let (outcome, slot_at, deadline_at, is_planned): (Option<String>, _, _, bool) = sqlx::query_as(
        "SELECT outcome, slot_at, deadline_at, planned_at IS NOT NULL FROM pipeline.batches
          WHERE batch_id = $1",
    )
    .bind(batch.raw())
    .fetch_one(pool)
    .await?;
    Ok(match outcome.as_deref().and_then(BatchOutcome::from_column) {
        Some(outcome) => Found::Closed(outcome),
        None => Found::Open(OpenBatch { id: batch, slot_at, deadline_at, is_planned }),
    })
}

/// Closed batches of which nobody was told yet, the oldest hundred: those of a leader that died
/// meanwhile, or while the broker was away.
pub async fn list_unannounced(
    pool: &PgPool,
    exchange: Exchange,
) -> anyhow::Result<Vec<(BatchId, BatchOutcome)>> {
    let rows: Vec<(i32, String)> = sqlx::query_as(
        "SELECT batch_id, outcome FROM pipeline.batches
          WHERE exchange_id = $1 AND state = 'closed' AND announced_at IS NULL ORDER BY batch_id LIMIT 100",
    )
    .bind(exchange.id())
    .fetch_all(pool)
    .await?;
    let batch = |(id, outcome): (i32, String)| {
        let known = BatchOutcome::from_column(&outcome);
        Ok((BatchId::from_raw(id)?, known.with_context(|| format!("outcome {outcome:?}"))?))
    };
    rows.into_iter().map(batch).collect()
}

/// Notes that the broker took the event of a batch.
pub async fn mark_announced(store: &Store, batch: BatchId) -> anyhow::Result<()> {
    let mut tx = store.begin().await?;
    sqlx::query("UPDATE pipeline.batches SET announced_at = now() WHERE batch_id = $1")
        .bind(batch.raw())
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

/// Records slots that nobody took.
pub async fn record_skipped(
    store: &Store,
    exchange: Exchange,
    skipped: &[(DateTime<Utc>, SkipReason)],
) -> anyhow::Result<()> {
    let mut tx = store.begin().await?;
    sqlx::query(
        "INSERT INTO pipeline.slots (exchange_id, slot_at, state, reason, recorded_at)
         SELECT $1, s.slot_at, 'skipped', s.reason, now()
           FROM unnest($2::timestamptz[], $3::text[]) AS s (slot_at, reason)
             ON CONFLICT DO NOTHING",
    )
    .bind(exchange.id())
    .bind(skipped.iter().map(|(slot, _)| *slot).collect::<Vec<_>>())
    .bind(skipped.iter().map(|(_, reason)| reason.as_str()).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}
