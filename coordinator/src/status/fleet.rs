//! Who works: the leader, the workers, and the limit and the breaker of each egress.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::format::{count, span};
use super::panel::{Mark, empty, panel};
use crate::EXCHANGE;

/// Who leads, or led last.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Leader {
    pub coordinator_id: String,
    pub leading_since: DateTime<Utc>,
    /// Seconds between slots of the schedule that was last kept; `None`: none ever was.
    pub interval_seconds: Option<i32>,
    /// Whether its lock is held now.
    pub is_leading: bool,
}

/// A worker that was seen within a day.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Worker {
    pub worker_id: String,
    pub egress_id: String,
    pub seen_seconds_ago: i64,
    pub up_seconds: i64,
    /// Not seen for a minute: it is not counted on.
    pub is_stale: bool,
    /// Jobs that it ended in the newest batch.
    pub jobs: i64,
}

/// An egress as the worker that was seen last tells of it.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Egress {
    pub egress_id: String,
    pub requests_per_minute: i32,
    /// Workers that were seen within a minute.
    pub workers: i64,
    /// When the open breaker lets a request try; `None`: it is not open.
    pub breaker_open_until: Option<DateTime<Utc>>,
    pub breaker_openings: i32,
    /// Redis does not answer it: the lowest rate is shared.
    pub is_redis_away: bool,
    /// In a row.
    pub refusals: i32,
    /// Requests that it sent in the last minute.
    pub requests_last_minute: i64,
}

/// Workers shown at most; the others are counted.
const WORKERS: usize = 50;

pub(super) async fn read_leader(db: &mut PgConnection) -> Result<Option<Leader>, sqlx::Error> {
    // A lock of two numbers is listed by them, each as it is without its sign.
    sqlx::query_as(
        "SELECT coordinator_id, leading_since, interval_seconds,
                EXISTS (SELECT FROM pg_locks k JOIN pg_database d ON d.oid = k.database
                         WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 2
                           AND d.datname = current_database() AND k.objid = l.exchange_id::oid
                           AND k.classid::bigint = hashtext('p2p.coordinator')::bigint & 4294967295) AS is_leading
           FROM pipeline.leaders l WHERE exchange_id = $1",
    )
    .bind(EXCHANGE.id())
    .fetch_optional(db)
    .await
}

pub(super) async fn list_workers(db: &mut PgConnection) -> Result<Vec<Worker>, sqlx::Error> {
    sqlx::query_as(
        "WITH last AS (
            SELECT day, batch_id FROM pipeline.batches WHERE exchange_id = $1 ORDER BY batch_id DESC LIMIT 1
         ), ended AS (
            SELECT j.worker_id, count(*) AS jobs FROM pipeline.jobs j JOIN last USING (day, batch_id)
             WHERE j.worker_id IS NOT NULL GROUP BY j.worker_id)
         SELECT w.worker_id, w.egress_id, w.seen_at < clock_timestamp() - interval '1 minute' AS is_stale,
                extract(epoch FROM clock_timestamp() - w.seen_at)::bigint AS seen_seconds_ago,
                extract(epoch FROM clock_timestamp() - w.started_at)::bigint AS up_seconds,
                coalesce(e.jobs, 0) AS jobs
           FROM pipeline.workers w LEFT JOIN ended e USING (worker_id)
          WHERE w.exchange_id = $1 AND w.seen_at > now() - interval '1 day'
          ORDER BY is_stale, w.egress_id, w.worker_id",
    )
    .bind(EXCHANGE.id())
    .fetch_all(db)
    .await
}

pub(super) async fn list_egresses(db: &mut PgConnection) -> Result<Vec<Egress>, sqlx::Error> {
    sqlx::query_as(
        "WITH last AS (
            SELECT day, batch_id FROM pipeline.batches WHERE exchange_id = $1 ORDER BY batch_id DESC LIMIT 1
         ), sent AS (
            SELECT j.egress_id, sum(j.attempts) AS requests FROM pipeline.jobs j JOIN last USING (day, batch_id)
             WHERE j.ended_at > now() - interval '1 minute' GROUP BY j.egress_id)
         SELECT DISTINCT ON (w.egress_id) w.egress_id, w.requests_per_minute,
                count(*) OVER (PARTITION BY w.egress_id) AS workers,
                CASE WHEN w.breaker_open_until > now() THEN w.breaker_open_until END AS breaker_open_until,
                w.breaker_openings, coalesce(w.is_redis_away, false) AS is_redis_away,
                coalesce(w.refusals, 0) AS refusals, coalesce(s.requests, 0)::bigint AS requests_last_minute
           FROM pipeline.workers w LEFT JOIN sent s USING (egress_id)
          WHERE w.exchange_id = $1 AND w.seen_at > now() - interval '1 minute'
          ORDER BY w.egress_id, w.seen_at DESC",
    )
    .bind(EXCHANGE.id())
    .fetch_all(db)
    .await
}

pub(super) fn render_workers(workers: &[Worker], leader: Option<&Leader>) -> Markup {
    panel(
        "workers",
        "Workers",
        html! {
            p.note {
                @match leader {
                    Some(leader) if leader.is_leading => { "Led by " (leader.coordinator_id) "." },
                    Some(leader) => { (Mark::Bad) " Nobody leads. The last leader was " (leader.coordinator_id) "." },
                    None => "Nobody has led yet.",
                }
            }
            @if workers.is_empty() {
                (empty("No worker was seen within a day."))
            } @else {
                div.scroll role="group" aria-label="Workers" tabindex="0" {
                    table {
                        thead { tr {
                            th scope="col" { "Worker" } th scope="col" { "Egress" }
                            th.number scope="col" { "Seen" } th.number scope="col" { "Up" }
                            th.number scope="col" { "Jobs of this batch" }
                        } }
                        tbody { @for worker in workers.iter().take(WORKERS) { tr {
                            th scope="row" {
                                @if worker.is_stale { (Mark::Warn) " " }
                                (worker.worker_id)
                            }
                            td { (worker.egress_id) }
                            td.number { (span(worker.seen_seconds_ago)) " ago" }
                            td.number { @if worker.is_stale { "gone" } @else { (span(worker.up_seconds)) } }
                            td.number { (count(worker.jobs)) }
                        } } }
                    }
                }
                @if workers.len() > WORKERS { p.note { "and " (workers.len() - WORKERS) " more" } }
            }
        },
    )
}

pub(super) fn render_egresses(egresses: &[Egress]) -> Markup {
    panel(
        "limits",
        "Limiter and breaker",
        html! {
            @if egresses.is_empty() {
                (empty("No egress: no worker was seen within a minute."))
            } @else {
                div.scroll role="group" aria-label="Limiter and breaker of each egress" tabindex="0" {
                    table {
                        thead { tr {
                            th scope="col" { "Egress" } th scope="col" { "Breaker" }
                            th.number scope="col" { "Sent a minute" } th.number scope="col" { "Limit" }
                            th.number scope="col" { "Workers" }
                        } }
                        tbody { @for egress in egresses { tr {
                            th scope="row" { (egress.egress_id) }
                            td {
                                @if let Some(until) = egress.breaker_open_until {
                                    (Mark::Bad) " open until " (until.format("%T"))
                                } @else if egress.breaker_openings > 0 {
                                    (Mark::Warn) " trying again"
                                } @else {
                                    (Mark::Good) " closed"
                                }
                                @if egress.is_redis_away { br; (Mark::Warn) " Redis is away" }
                                @if egress.refusals > 0 { br; "refused " (count(egress.refusals)) " times" }
                            }
                            td.number { (count(egress.requests_last_minute)) }
                            td.number { (count(egress.requests_per_minute)) }
                            td.number { (count(egress.workers)) }
                        } } }
                    }
                }
            }
        },
    )
}
