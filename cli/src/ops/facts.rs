//! What the database tells of the fleet: who leads, what runs, who works, how fresh the data is.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use crate::span::Span;
use crate::timeline::{self, Entry};
use crate::{EXCHANGE, gaps};

/// Entries of the timeline that a screen shows.
pub const SHOWN_BATCHES: u32 = 6;
/// How far back gaps are looked for.
const GAPS_SINCE: Span = Span(TimeDelta::hours(24));
/// Slots of a day's strip: a day of every ten minutes.
pub const STRIP_SLOTS: u32 = 144;

/// All of it, by the clock of the database.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    pub now: DateTime<Utc>,
    /// `None`: nobody ever led.
    pub leader: Option<Leader>,
    /// When the next batch is due. `None`: no schedule was ever kept.
    pub next_slot: Option<DateTime<Utc>>,
    /// The latest slot of which anything is recorded.
    pub last_slot: Option<DateTime<Utc>>,
    /// Batches that are not closed, oldest first.
    pub running: Vec<Running>,
    /// The last of the timeline, newest last.
    pub batches: Vec<Entry>,
    /// Workers seen within a day, those seen last first.
    pub workers: Vec<Worker>,
    pub newest: Newest,
    /// Gaps of the last 24 hours that are still open. `None`: not looked for.
    pub gaps_open: Option<OpenGaps>,
    /// Entries in quarantine that nobody has dealt with.
    pub quarantine_open: i64,
    /// Verdicts of the checks of the last closed batch, as their rows. `None`: this schema has none.
    pub quality: Option<Vec<Value>>,
    /// What was asked of the leader and is not answered yet.
    pub requests_waiting: i64,
}

#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Leader {
    pub coordinator_id: String,
    pub leading_since: DateTime<Utc>,
    pub epoch: i64,
    /// Seconds between slots. `None`: no schedule was ever kept.
    pub interval_seconds: Option<i32>,
    /// Whether it holds the leader's lock. Otherwise it is the last one that led.
    pub is_leading: bool,
}

/// A batch that is not closed.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Running {
    pub batch_id: i32,
    pub slot_at: DateTime<Utc>,
    pub opened_at: DateTime<Utc>,
    pub deadline_at: DateTime<Utc>,
    pub is_planned: bool,
    /// Jobs that the batch waits for, those left out aside.
    pub jobs: i64,
    pub ended: i64,
    /// Of the ended ones, those that failed or expired.
    pub lost: i64,
    pub shed: i64,
    pub ads: i64,
    pub requests: i64,
    pub is_cancel_asked: bool,
}

#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Worker {
    pub worker_id: String,
    pub egress_id: String,
    /// Rate of the limit of its egress when it was last seen.
    pub requests_per_minute: i32,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    /// Not seen for a minute: the planner does not count on it.
    pub is_stale: bool,
    /// Until when the open breaker of its egress lets nothing through. `None`: it is not open.
    pub breaker_open_until: Option<DateTime<Utc>>,
    pub breaker_openings: i32,
    /// In the batch that runs, or else the last one; pages of advertisers aside.
    pub jobs: i64,
    pub requests: i64,
    /// When it last ended a job of that batch. `None`: it ended none.
    pub last_ended_at: Option<DateTime<Utc>>,
}

/// How fresh the data is.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Newest {
    /// The last reading of a book that was read complete; an empty one is no data, as for the metric of the
    /// coordinator. `None`: there is none.
    pub complete_at: Option<DateTime<Utc>>,
    pub complete_age_seconds: Option<i64>,
    /// Slot of the last batch that read something.
    pub batch_slot_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct OpenGaps {
    pub slots: usize,
    pub markets: i64,
    pub lists: usize,
}

impl OpenGaps {
    /// All of them.
    #[must_use]
    pub fn total(self) -> i64 {
        let few = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.markets.saturating_add(few(self.slots)).saturating_add(few(self.lists))
    }
}

impl Facts {
    /// The egresses of the workers, each once.
    #[must_use]
    pub fn egresses(&self) -> Vec<String> {
        let mut egresses: Vec<String> =
            self.workers.iter().map(|worker| worker.egress_id.clone()).collect();
        egresses.sort_unstable();
        egresses.dedup();
        egresses
    }

    /// Workers that the planner counts on.
    pub fn seen(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().filter(|worker| !worker.is_stale)
    }
}

/// Reads all. Gaps cost as much as the rest together, and are left out unless wanted.
pub async fn read(db: &mut PgConnection, with_gaps: bool) -> anyhow::Result<Facts> {
    let now = timeline::now(db).await?;
    let leader = leader(db).await?;
    let interval = leader.as_ref().and_then(|leader| leader.interval_seconds);
    let last_slot =
        sqlx::query_scalar("SELECT max(slot_at) FROM pipeline.slots WHERE exchange_id = $1")
            .bind(EXCHANGE.id())
            .fetch_one(&mut *db)
            .await?;
    let mut facts = Facts {
        now,
        next_slot: interval.and_then(|interval| next_slot(now, i64::from(interval))),
        leader,
        last_slot,
        running: list_running(db).await?,
        batches: timeline::read(db, now, None, SHOWN_BATCHES).await?,
        workers: list_workers(db).await?,
        newest: newest(db).await?,
        gaps_open: None,
        quarantine_open: count_quarantine(db).await?,
        quality: list_quality(db).await?,
        requests_waiting: sqlx::query_scalar(
            "SELECT count(*) FROM pipeline.requests WHERE state = 'asked'",
        )
        .fetch_one(&mut *db)
        .await?,
    };
    if with_gaps {
        // Last: it tells the planner how to join, until the end of the transaction.
        facts.gaps_open = Some(gaps::count_open(db, GAPS_SINCE).await?);
    }
    Ok(facts)
}

/// The slots of the last day, newest last.
pub async fn strip(db: &mut PgConnection) -> anyhow::Result<Vec<Entry>> {
    let now = timeline::now(db).await?;
    timeline::read(db, now, Some(now - GAPS_SINCE.0), STRIP_SLOTS).await
}

/// Slots lie on multiples of the interval since 1970, as the coordinator's schedule has them.
fn next_slot(now: DateTime<Utc>, interval: i64) -> Option<DateTime<Utc>> {
    if interval <= 0 {
        return None;
    }
    let now = now.timestamp();
    DateTime::from_timestamp(now - now.rem_euclid(interval) + interval, 0)
}

async fn leader(db: &mut PgConnection) -> anyhow::Result<Option<Leader>> {
    // A lock of two numbers is listed by them, each as it is without its sign.
    Ok(sqlx::query_as(
        "SELECT coordinator_id, leading_since, epoch, interval_seconds,
                EXISTS (SELECT FROM pg_locks k JOIN pg_database d ON d.oid = k.database
                         WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 2
                           AND d.datname = current_database() AND k.objid = l.exchange_id::oid
                           AND k.classid::bigint = hashtext('p2p.coordinator')::bigint & 4294967295) AS is_leading
           FROM pipeline.leaders l WHERE exchange_id = $1",
    )
    .bind(EXCHANGE.id())
    .fetch_optional(db)
    .await?)
}

async fn list_running(db: &mut PgConnection) -> anyhow::Result<Vec<Running>> {
    Ok(sqlx::query_as(
        "SELECT b.batch_id, b.slot_at, b.opened_at, b.deadline_at, b.planned_at IS NOT NULL AS is_planned, j.*,
                EXISTS (SELECT FROM pipeline.requests r
                         WHERE r.batch_id = b.batch_id AND r.kind = 'cancel' AND r.state = 'asked') AS is_cancel_asked
           FROM pipeline.batches b
          CROSS JOIN LATERAL (
             SELECT count(*) FILTER (WHERE state <> 'shed' AND kind <> 'advertiser') AS jobs,
                    count(ended_at) FILTER (WHERE state <> 'shed' AND kind <> 'advertiser') AS ended,
                    count(*) FILTER (WHERE state IN ('failed', 'expired')) AS lost,
                    count(*) FILTER (WHERE state = 'shed') AS shed,
                    coalesce(sum(ads_taken), 0)::bigint AS ads,
                    coalesce(sum(attempts), 0)::bigint AS requests
               FROM pipeline.jobs j WHERE j.day = b.day AND j.batch_id = b.batch_id) j
          WHERE b.exchange_id = $1 AND b.state = 'open' ORDER BY b.batch_id",
    )
    .bind(EXCHANGE.id())
    .fetch_all(db)
    .await?)
}

async fn list_workers(db: &mut PgConnection) -> anyhow::Result<Vec<Worker>> {
    Ok(sqlx::query_as(
        "WITH last AS (
            SELECT day, batch_id FROM pipeline.batches WHERE exchange_id = $1 ORDER BY batch_id DESC LIMIT 1
         ), ended AS (
            SELECT j.worker_id, count(*) AS jobs, coalesce(sum(j.attempts), 0)::bigint AS requests,
                   max(j.ended_at) AS last_ended_at
              FROM pipeline.jobs j JOIN last USING (day, batch_id)
             WHERE j.worker_id IS NOT NULL AND j.kind <> 'advertiser' GROUP BY j.worker_id)
         SELECT w.worker_id, w.egress_id, w.requests_per_minute, w.started_at, w.seen_at,
                w.seen_at < now() - interval '1 minute' AS is_stale,
                CASE WHEN w.breaker_open_until > now() THEN w.breaker_open_until END AS breaker_open_until,
                w.breaker_openings, coalesce(e.jobs, 0) AS jobs, coalesce(e.requests, 0) AS requests, e.last_ended_at
           FROM pipeline.workers w LEFT JOIN ended e USING (worker_id)
          WHERE w.exchange_id = $1 AND w.seen_at > now() - interval '1 day'
          ORDER BY is_stale, w.egress_id, w.worker_id",
    )
    .bind(EXCHANGE.id())
    .fetch_all(db)
    .await?)
}

async fn newest(db: &mut PgConnection) -> anyhow::Result<Newest> {
    Ok(sqlx::query_as(
        "SELECT l.complete_at, extract(epoch FROM now() - l.complete_at)::bigint AS complete_age_seconds,
                (SELECT max(slot_at) FROM pipeline.batches
                  WHERE exchange_id = $1 AND state = 'closed' AND outcome <> 'failed') AS batch_slot_at
           FROM (SELECT max(read_at) AS complete_at FROM warehouse.latest_books
                  WHERE verdict = 'complete') l",
    )
    .bind(EXCHANGE.id())
    .fetch_one(db)
    .await?)
}

/// Schemas from before the replay have no states: there everything is open.
async fn count_quarantine(db: &mut PgConnection) -> anyhow::Result<i64> {
    let has_states: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_attribute
          WHERE attrelid = 'pipeline.quarantine'::regclass AND attname = 'state' AND NOT attisdropped)",
    )
    .fetch_one(&mut *db)
    .await?;
    let count = if has_states {
        "SELECT count(*) FROM pipeline.quarantine WHERE state = 'open'"
    } else {
        "SELECT count(*) FROM pipeline.quarantine"
    };
    Ok(sqlx::query_scalar(count).fetch_one(db).await?)
}

async fn list_quality(db: &mut PgConnection) -> anyhow::Result<Option<Vec<Value>>> {
    let is_there: bool =
        sqlx::query_scalar("SELECT to_regclass('pipeline.quality_results') IS NOT NULL")
            .fetch_one(&mut *db)
            .await?;
    if !is_there {
        return Ok(None);
    }
    let results = sqlx::query_scalar(
        "SELECT to_jsonb(q) - 'details' FROM pipeline.quality_results q
          WHERE q.batch_id = (SELECT max(batch_id) FROM pipeline.batches WHERE exchange_id = $1 AND state = 'closed')",
    );
    Ok(Some(results.bind(EXCHANGE.id()).fetch_all(db).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_slot_is_after_now() {
        let at = |text: &str| format!("2026-11-22T{text}Z").parse::<DateTime<Utc>>().unwrap();
        assert_eq!(next_slot(at("10:00:00"), 600), Some(at("10:10:00")));
        assert_eq!(next_slot(at("10:09:59"), 600), Some(at("10:10:00")));
        assert_eq!(next_slot(at("10:09:59"), 0), None);
    }
}
