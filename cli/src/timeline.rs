//! What became of each slot: the batches, those an operator asked for included, the slots that were
//! skipped, and the slots that came due and of which nothing is recorded because nobody led.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use shared::domain::BatchId;
use sqlx::PgConnection;

use crate::EXCHANGE;
use crate::batch::Wanted;

/// Age at which a slot of which nothing is recorded is a gap. Until then a leader may still take it:
/// two minutes are the default of `MISFIRE_GRACE_SECONDS`, after which a leader that finds the slot
/// records it as skipped. With a longer grace a slot may be called unrecorded and be taken after all.
const UNRECORDED_AFTER: TimeDelta = TimeDelta::minutes(2);

/// One batch, or one slot that no batch took. Of the latter only `slot_at`, `trigger`, `state` and
/// `reason` are filled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Entry {
    pub batch_id: Option<i32>,
    /// When it was due.
    pub slot_at: DateTime<Utc>,
    /// `schedule`, or `once` where an operator asked for it.
    pub trigger: String,
    /// `open`, `closed`, `skipped` or `unrecorded`.
    pub state: String,
    /// `complete`, `partial` or `failed`, of closed batches.
    pub outcome: Option<String>,
    /// Why it is not complete, or why no batch took it.
    pub reason: Option<String>,
    pub opened_at: Option<DateTime<Utc>>,
    pub planned_at: Option<DateTime<Utc>>,
    pub deadline_at: Option<DateTime<Utc>>,
    pub closed_at: Option<DateTime<Utc>>,
    pub opened_by: Option<String>,
    pub closed_by: Option<String>,
    /// Milliseconds from opening to close.
    pub duration_ms: Option<i64>,
    /// Of open batches: jobs so far, those left out for want of budget not counted.
    pub jobs_planned: Option<i64>,
    pub jobs_ended: Option<i64>,
    // The sums of the close, as the columns of `pipeline.batches`; `None`: none were recorded.
    pub pages_read: Option<i32>,
    pub pages_lost: Option<i32>,
    pub pages_shed: Option<i32>,
    pub pages_reread: Option<i32>,
    pub lists_lost: Option<i32>,
    pub books: Option<i32>,
    pub books_complete: Option<i32>,
    pub ads: Option<i32>,
    pub ads_refused: Option<i32>,
    pub ads_missed: Option<i32>,
    pub requests: Option<i32>,
    pub requests_failed: Option<i32>,
    pub request_budget: Option<i32>,
    pub egresses: Option<i16>,
}

impl Entry {
    /// A slot that no batch took.
    fn untaken(slot_at: DateTime<Utc>, state: &str, reason: String) -> Self {
        Self {
            slot_at,
            trigger: "schedule".into(),
            state: state.into(),
            reason: Some(reason),
            ..Self::default()
        }
    }
}

/// The time of the database, by which everything in it was recorded.
pub async fn now(connection: &mut PgConnection) -> anyhow::Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar("SELECT now()").fetch_one(connection).await?)
}

/// What became of the slots since `from` (`None`: ever), the last `limit` of them, newest last.
pub async fn read(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    from: Option<DateTime<Utc>>,
    limit: u32,
) -> anyhow::Result<Vec<Entry>> {
    // Numbers of batches grow with their day.
    let first = from.map(|from| BatchId::new(from.date_naive(), 0)).transpose()?;
    let first = first.map_or(0, BatchId::raw);
    let mut entries = list_batches(&mut *connection, (first, i32::MAX), from, None, limit).await?;
    entries.extend(list_skipped(&mut *connection, from, limit).await?);
    entries.extend(list_unrecorded(connection, now, from, limit).await?);
    entries.sort_by_key(|entry| (entry.slot_at, entry.batch_id));
    let shown = usize::try_from(limit).unwrap_or(usize::MAX);
    entries.drain(..entries.len().saturating_sub(shown));
    Ok(entries)
}

/// One batch.
pub async fn read_batch(
    connection: &mut PgConnection,
    wanted: Wanted,
) -> anyhow::Result<Option<Entry>> {
    let (ids, state) = match wanted {
        Wanted::Id(id) => ((id, id), None),
        Wanted::Latest => ((0, i32::MAX), Some("closed")),
        Wanted::Open => ((0, i32::MAX), Some("open")),
    };
    Ok(list_batches(connection, ids, None, state, 1).await?.pop())
}

async fn list_batches(
    connection: &mut PgConnection,
    (first, last): (i32, i32),
    from: Option<DateTime<Utc>>,
    state: Option<&str>,
    limit: u32,
) -> anyhow::Result<Vec<Entry>> {
    Ok(sqlx::query_as(include_str!("timeline.sql"))
        .bind(EXCHANGE.id())
        .bind(first)
        .bind(last)
        .bind(from)
        .bind(i64::from(limit))
        .bind(state)
        .fetch_all(connection)
        .await?)
}

async fn list_skipped(
    connection: &mut PgConnection,
    from: Option<DateTime<Utc>>,
    limit: u32,
) -> anyhow::Result<Vec<Entry>> {
    let skipped: Vec<(DateTime<Utc>, String)> = sqlx::query_as(
        "SELECT slot_at, reason FROM pipeline.slots
          WHERE exchange_id = $1 AND state = 'skipped' AND ($2::timestamptz IS NULL OR slot_at >= $2)
          ORDER BY slot_at DESC LIMIT $3",
    )
    .bind(EXCHANGE.id())
    .bind(from)
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await?;
    let entry = |(slot_at, reason)| Entry::untaken(slot_at, "skipped", reason);
    Ok(skipped.into_iter().map(entry).collect())
}

/// Before the first slot that was ever recorded there is none that anyone could miss, but the ones
/// since a leader began to keep the schedule.
async fn list_unrecorded(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    from: Option<DateTime<Utc>>,
    limit: u32,
) -> anyhow::Result<Vec<Entry>> {
    let kept: Option<(i32, DateTime<Utc>)> = sqlx::query_as(
        "SELECT l.interval_seconds,
                coalesce((SELECT max(slot_at) FROM pipeline.slots s WHERE s.exchange_id = l.exchange_id),
                         l.leading_since)
           FROM pipeline.leaders l WHERE l.exchange_id = $1 AND l.interval_seconds > 0",
    )
    .bind(EXCHANGE.id())
    .fetch_optional(connection)
    .await?;
    let Some((interval, last)) = kept else {
        return Ok(Vec::new());
    };
    let slots = unrecorded(now, last, i64::from(interval), from, limit);
    let entry = |slot_at| Entry::untaken(slot_at, "unrecorded", "nobody led".to_owned());
    Ok(slots.into_iter().map(entry).collect())
}

/// The slots after `last` and since `from` that came due long enough ago, newest first. Slots lie on
/// multiples of the interval (seconds) since 1970, as the coordinator's schedule has them.
fn unrecorded(
    now: DateTime<Utc>,
    last: DateTime<Utc>,
    interval: i64,
    from: Option<DateTime<Utc>>,
    limit: u32,
) -> Vec<DateTime<Utc>> {
    let overdue = (now - UNRECORDED_AFTER).timestamp();
    let latest = overdue - overdue.rem_euclid(interval);
    (0..i64::from(limit))
        .filter_map(|n| DateTime::from_timestamp(latest - n * interval, 0))
        .take_while(|slot| *slot > last && from.is_none_or(|from| *slot >= from))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-22T{text}Z").parse().unwrap()
    }

    fn slots(now: &str, last: &str, from: Option<&str>, limit: u32) -> Vec<DateTime<Utc>> {
        unrecorded(at(now), at(last), 600, from.map(at), limit)
    }

    #[test]
    fn a_slot_is_unrecorded_two_minutes_after_it_was_due() {
        assert!(slots("10:11:59", "10:00:00", None, 9).is_empty());
        assert_eq!(slots("10:12:00", "10:00:00", None, 9), [at("10:10:00")]);
        assert_eq!(slots("10:25:00", "10:00:00", None, 9), [at("10:20:00"), at("10:10:00")]);
    }

    #[test]
    fn unrecorded_slots_are_bounded_by_time_and_number() {
        assert_eq!(slots("23:00:00", "10:00:00", Some("22:40:00"), 9).len(), 2);
        assert_eq!(slots("23:00:00", "10:00:00", None, 3).len(), 3);
        assert!(slots("09:00:00", "10:00:00", None, 9).is_empty(), "a clock that was set back");
    }
}
