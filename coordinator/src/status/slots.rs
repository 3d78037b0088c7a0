//! The slots of the last day as a strip.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::format::{count, counted};
use super::panel::{empty, panel};
use crate::EXCHANGE;

/// What became of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum SlotState {
    Complete,
    Partial,
    Failed,
    Skipped,
    /// It came due and nobody recorded what became of it.
    Unrecorded,
    Running,
}

impl SlotState {
    const ALL: [Self; 6] = [
        Self::Complete,
        Self::Partial,
        Self::Failed,
        Self::Skipped,
        Self::Unrecorded,
        Self::Running,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Unrecorded => "unrecorded",
            Self::Running => "running",
        }
    }

    /// What tells it without colour; a complete slot is plain, so that the others stand out.
    fn letter(self) -> &'static str {
        match self {
            Self::Complete => "",
            Self::Partial => "P",
            Self::Failed => "F",
            Self::Skipped => "S",
            Self::Unrecorded => "?",
            Self::Running => "▸",
        }
    }
}

/// An instant at which a batch was due, or was asked for by an operator.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Slot {
    pub slot_at: DateTime<Utc>,
    pub state: SlotState,
    /// `None`: no batch took it.
    pub batch_id: Option<i32>,
    /// Why it is not complete.
    pub reason: Option<String>,
    /// `None`: not closed, or closed before it was recorded.
    pub ads: Option<i32>,
}

/// Slots shown at most: a day of every three minutes, and batches that operators asked for.
const SLOTS: i64 = 600;

/// The slots of the last 24 hours, newest last; of a schedule that is younger, since its first slot.
pub(super) async fn list(db: &mut PgConnection) -> Result<Vec<Slot>, sqlx::Error> {
    sqlx::query_as(
        "WITH schedule AS (
            SELECT make_interval(secs => l.interval_seconds) AS step,
                   greatest(date_bin(make_interval(secs => l.interval_seconds), now() - interval '1 day', TIMESTAMPTZ 'epoch')
                            + make_interval(secs => l.interval_seconds),
                            (SELECT min(slot_at) FROM pipeline.slots WHERE exchange_id = $1)) AS first
              FROM pipeline.leaders l WHERE l.exchange_id = $1 AND l.interval_seconds IS NOT NULL
         ), due AS (
            SELECT at AS slot_at FROM schedule, generate_series(first, now(), step) AS at
            UNION SELECT slot_at FROM pipeline.slots WHERE exchange_id = $1 AND slot_at BETWEEN now() - interval '1 day' AND now()
         ), taken AS (
            SELECT d.slot_at, s.state, s.reason, s.batch_id
              FROM due d LEFT JOIN pipeline.slots s ON s.exchange_id = $1 AND s.slot_at = d.slot_at
            UNION ALL
            SELECT slot_at, 'batch', NULL, batch_id FROM pipeline.batches b
             WHERE exchange_id = $1 AND trigger <> 'schedule' AND slot_at > now() - interval '1 day'
               AND batch_id >= ((now() - interval '1 day') AT TIME ZONE 'UTC')::date - DATE '1970-01-01' << 9
               AND NOT EXISTS (SELECT FROM pipeline.slots s WHERE s.batch_id = b.batch_id)
         )
         SELECT * FROM (
            SELECT t.slot_at, t.batch_id, b.ads, coalesce(t.reason, b.reason) AS reason,
                   CASE WHEN t.state IS NULL THEN 'unrecorded'
                        WHEN t.state = 'skipped' THEN 'skipped'
                        WHEN b.state = 'open' THEN 'running'
                        ELSE b.outcome END AS state
              FROM taken t LEFT JOIN pipeline.batches b USING (batch_id)
             ORDER BY t.slot_at DESC LIMIT $2) newest ORDER BY slot_at",
    )
    .bind(EXCHANGE.id())
    .bind(SLOTS)
    .fetch_all(db)
    .await
}

impl Slot {
    /// All about it in words.
    fn words(&self) -> String {
        let mut text = format!("{} UTC: {}", self.slot_at.format("%a %H:%M"), self.state.word());
        // Writing to a string can't fail.
        if let Some(batch_id) = self.batch_id {
            write!(text, ", batch {batch_id}").ok();
        }
        if let Some(ads) = self.ads {
            write!(text, ", {}", counted(ads, "ad", "ads")).ok();
        }
        if let Some(reason) = &self.reason {
            write!(text, ", {reason}").ok();
        }
        text
    }
}

pub(super) fn render(slots: &[Slot]) -> Markup {
    panel(
        "slots",
        "Last 24 hours",
        html! {
            @if slots.is_empty() {
                (empty("No slot came due within a day: no schedule was kept."))
            } @else {
                p.legend {
                    @for state in SlotState::ALL {
                        @let number = slots.iter().filter(|slot| slot.state == state).count();
                        @if number > 0 {
                            span.key {
                                span class={ "slot " (state.word()) } aria-hidden="true" { (state.letter()) }
                                " " (count(i64::try_from(number).unwrap_or(i64::MAX))) " " (state.word())
                            }
                        }
                    }
                }
                ol.strip aria-label="Slots, oldest first" data-roving {
                    @for slot in slots {
                        li id={ "slot-" (slot.slot_at.timestamp()) } class={ "slot " (slot.state.word()) } tabindex="0" {
                            span aria-hidden="true" { (slot.state.letter()) }
                            span.tip { (slot.words()) }
                        }
                    }
                }
                @if let (Some(first), Some(last)) = (slots.first(), slots.last()) {
                    p.note { "Oldest first, from " (first.slot_at.format("%a %H:%M")) " to " (last.slot_at.format("%a %H:%M")) " UTC." }
                }
            }
        },
    )
}
