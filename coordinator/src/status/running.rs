//! The batch that runs, and the one before it.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::format::{clock, count, counted, span, time};
use super::panel::{Mark, empty, panel};
use crate::EXCHANGE;

/// A batch that is open.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Running {
    pub batch_id: i32,
    pub slot_at: DateTime<Utc>,
    pub opened_at: DateTime<Utc>,
    pub deadline_at: DateTime<Utc>,
    /// Seconds until the deadline; negative: past it.
    pub deadline_seconds: i64,
    /// Whether its pages are planned; before, it discovers.
    pub is_planned: bool,
    pub waiting: i64,
    pub published: i64,
    pub done: i64,
    pub empty: i64,
    pub failed: i64,
    pub expired: i64,
    pub shed: i64,
    pub ads: i64,
    /// Jobs that ended in the last [`RATE_SECONDS`].
    pub ended_lately: i64,
}

/// A batch that closed.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Closed {
    pub batch_id: i32,
    pub slot_at: DateTime<Utc>,
    pub closed_at: DateTime<Utc>,
    pub closed_seconds_ago: i64,
    pub outcome: String,
    /// `None`: it is complete.
    pub reason: Option<String>,
    pub seconds: i64,
    pub ads: Option<i32>,
    pub books: Option<i32>,
    pub books_complete: Option<i32>,
}

/// Time over which a rate is reckoned.
const RATE_SECONDS: i64 = 15;

impl Running {
    fn jobs(&self) -> i64 {
        self.waiting + self.published + self.ended()
    }

    fn ended(&self) -> i64 {
        self.done + self.empty + self.failed + self.expired
    }

    /// Seconds until all jobs have ended, at the pace of the last seconds; `None`: nothing ended lately.
    fn seconds_left(&self) -> Option<i64> {
        let left = self.jobs() - self.ended();
        let lately = self.ended_lately;
        // Rounded up.
        (lately > 0).then(|| (left * RATE_SECONDS + lately - 1) / lately)
    }
}

pub(super) async fn read(db: &mut PgConnection) -> Result<Option<Running>, sqlx::Error> {
    sqlx::query_as(
        "SELECT b.batch_id, b.slot_at, b.opened_at, b.deadline_at, b.planned_at IS NOT NULL AS is_planned,
                extract(epoch FROM b.deadline_at - now())::bigint AS deadline_seconds, j.*
           FROM pipeline.batches b
          CROSS JOIN LATERAL (
             SELECT count(*) FILTER (WHERE state = 'planned') AS waiting,
                    count(*) FILTER (WHERE state = 'published') AS published,
                    count(*) FILTER (WHERE state = 'done') AS done,
                    count(*) FILTER (WHERE state = 'empty') AS empty,
                    count(*) FILTER (WHERE state = 'failed') AS failed,
                    count(*) FILTER (WHERE state = 'expired') AS expired,
                    count(*) FILTER (WHERE state = 'shed') AS shed,
                    coalesce(sum(ads_taken), 0)::bigint AS ads,
                    count(*) FILTER (WHERE ended_at > now() - $2 * interval '1 second' AND state <> 'shed') AS ended_lately
               FROM pipeline.jobs j
              WHERE j.day = b.day AND j.batch_id = b.batch_id AND j.kind NOT IN ('advertiser', 'witness_ads', 'witness_quote')) j
          WHERE b.exchange_id = $1 AND b.state = 'open' ORDER BY b.batch_id LIMIT 1",
    )
    .bind(EXCHANGE.id())
    .bind(RATE_SECONDS)
    .fetch_optional(db)
    .await
}

pub(super) async fn read_closed(db: &mut PgConnection) -> Result<Option<Closed>, sqlx::Error> {
    sqlx::query_as(
        "SELECT batch_id, slot_at, closed_at, outcome, reason, ads, books, books_complete,
                extract(epoch FROM now() - closed_at)::bigint AS closed_seconds_ago,
                extract(epoch FROM closed_at - opened_at)::bigint AS seconds
           FROM pipeline.batches WHERE exchange_id = $1 AND state = 'closed'
          ORDER BY batch_id DESC LIMIT 1",
    )
    .bind(EXCHANGE.id())
    .fetch_optional(db)
    .await
}

pub(super) fn render(running: Option<&Running>, closed: Option<&Closed>) -> Markup {
    panel(
        "running",
        "Batch",
        html! {
            @match running {
                Some(running) => (render_running(running)),
                None => (empty("No batch runs now.")),
            }
            @if let Some(closed) = closed { (render_closed(closed)) }
        },
    )
}

fn render_running(running: &Running) -> Markup {
    let (jobs, ended) = (running.jobs(), running.ended());
    let figures = [
        ("done", running.done),
        ("empty", running.empty),
        ("with workers or queued", running.published),
        ("planned", running.waiting),
        ("failed", running.failed),
        ("expired", running.expired),
        ("left out", running.shed),
    ];
    html! {
        p.lead {
            strong { "Batch " (running.batch_id) } " of " (clock(running.slot_at)) " UTC "
            @if running.is_planned { "reads the market." } @else { "discovers what there is." }
        }
        progress id="progress" max=(jobs.max(1)) value=(ended) aria-label="Jobs ended" {}
        p.progress-words {
            strong { (count(ended)) } " of " (counted(jobs, "job", "jobs")) ", "
            (counted(running.ads, "ad", "ads"))
            @if let Some(left) = running.seconds_left() {
                ", " (count(running.ended_lately * 60 / RATE_SECONDS)) " jobs a minute, about " (span(left)) " left"
            }
        }
        p.note {
            @if running.deadline_seconds >= 0 {
                "It is cut in " (span(running.deadline_seconds))
            } @else {
                (Mark::Bad) " It should have been cut " (span(-running.deadline_seconds)) " ago"
            }
            " (" (time(running.deadline_at)) ")."
        }
        dl.figures {
            @for (name, number) in figures { @if number > 0 || name == "done" {
                div { dt { (name) } dd { (count(number)) } }
            } }
        }
    }
}

fn render_closed(closed: &Closed) -> Markup {
    let mark = match closed.outcome.as_str() {
        "complete" => Mark::Good,
        "partial" => Mark::Warn,
        _ => Mark::Bad,
    };
    html! {
        h3 { "Last closed" }
        p {
            (mark) " " strong { "Batch " (closed.batch_id) } " of " (clock(closed.slot_at)) " UTC: "
            (closed.outcome) ", closed " (span(closed.closed_seconds_ago)) " ago after " (span(closed.seconds)) "."
            @if let Some(reason) = &closed.reason { " " (reason) }
        }
        dl.figures {
            @if let Some(ads) = closed.ads { div { dt { "ads" } dd { (count(ads)) } } }
            @if let (Some(complete), Some(books)) = (closed.books_complete, closed.books) {
                div { dt { "complete books" } dd { (count(complete)) " of " (count(books)) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(done: i64, waiting: i64, ended_lately: i64) -> Running {
        let at = DateTime::UNIX_EPOCH;
        Running {
            batch_id: 1,
            slot_at: at,
            opened_at: at,
            deadline_at: at,
            deadline_seconds: -5,
            is_planned: true,
            waiting,
            published: 0,
            done,
            empty: 0,
            failed: 0,
            expired: 0,
            shed: 7,
            ads: 0,
            ended_lately,
        }
    }

    #[test]
    fn the_time_left_follows_the_pace() {
        assert_eq!(running(10, 31, 15).seconds_left(), Some(31));
        assert_eq!(running(10, 31, 30).seconds_left(), Some(16));
        assert_eq!(running(10, 31, 0).seconds_left(), None);
    }

    #[test]
    fn what_was_left_out_is_no_job_to_wait_for() {
        assert_eq!((running(10, 5, 0).jobs(), running(10, 5, 0).ended()), (15, 10));
        let text = render(Some(&running(10, 5, 0)), None).into_string();
        assert!(
            text.contains("left out") && text.contains("should have been cut 5 s ago"),
            "{text}"
        );
    }
}
