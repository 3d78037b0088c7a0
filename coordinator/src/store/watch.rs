//! What is measured of the database, and what readiness asks of it. Each statement reads the newest batch,
//! tables as large as the catalog, or what came since the last look: none grows with history, but for the
//! first look of a process, which counts a row for each slot there ever was.

use chrono::{DateTime, NaiveDate, Utc};
use shared::exchange::Exchange;
use sqlx::PgPool;

/// The newest batch.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct NewestBatch {
    pub day: NaiveDate,
    pub batch_id: i32,
    pub is_open: bool,
    pub age_seconds: f64,
}

pub async fn newest_batch(pool: &PgPool, exchange: Exchange) -> sqlx::Result<Option<NewestBatch>> {
    sqlx::query_as(
        "SELECT day, batch_id, state = 'open' AS is_open,
                extract(epoch FROM now() - opened_at)::float8 AS age_seconds
           FROM pipeline.batches WHERE exchange_id = $1 ORDER BY batch_id DESC LIMIT 1",
    )
    .bind(exchange.id())
    .fetch_optional(pool)
    .await
}

/// Jobs of a batch by state.
pub async fn jobs_by_state(pool: &PgPool, batch: &NewestBatch) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "SELECT state, count(*) FROM pipeline.jobs WHERE day = $1 AND batch_id = $2 GROUP BY state",
    )
    .bind(batch.day)
    .bind(batch.batch_id)
    .fetch_all(pool)
    .await
}

/// The batch that closed last.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LastClosed {
    pub batch_id: i32,
    pub outcome: String,
    pub reason: Option<String>,
    pub closed_at: DateTime<Utc>,
    /// By the clock of the database.
    pub age_seconds: i64,
}

pub async fn last_closed(pool: &PgPool, exchange: Exchange) -> sqlx::Result<Option<LastClosed>> {
    sqlx::query_as(
        "SELECT batch_id, outcome, reason, closed_at,
                extract(epoch FROM now() - closed_at)::bigint AS age_seconds
           FROM pipeline.batches
          WHERE exchange_id = $1 AND state = 'closed' ORDER BY batch_id DESC LIMIT 1",
    )
    .bind(exchange.id())
    .fetch_optional(pool)
    .await
}

/// Workers of each egress that were seen within the last minute.
pub async fn active_workers(pool: &PgPool, exchange: Exchange) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "SELECT egress_id, count(*) FILTER (WHERE seen_at > now() - interval '1 minute')
           FROM pipeline.workers WHERE exchange_id = $1 GROUP BY egress_id",
    )
    .bind(exchange.id())
    .fetch_all(pool)
    .await
}

/// Age in seconds of the newest complete book, and of the oldest last good book of a market that is
/// listed, as is its fiat, and had ads; `None`: there is none. Markets of other fiats than `only` (empty: all) are not read
/// any more, and may grow old.
pub async fn book_ages(pool: &PgPool, only: &[String]) -> sqlx::Result<(Option<f64>, Option<f64>)> {
    sqlx::query_as(
        "SELECT extract(epoch FROM now() - max(l.read_at) FILTER (WHERE l.verdict = 'complete'))::float8,
                extract(epoch FROM now() - min(l.read_at) FILTER (WHERE c.is_listed AND fc.is_listed AND c.last_total > 0))::float8
           FROM warehouse.latest_books l LEFT JOIN pipeline.catalog c USING (market_id)
           JOIN warehouse.dim_markets m USING (market_id)
           LEFT JOIN pipeline.fiat_catalog fc ON fc.exchange_id = m.exchange_id AND fc.fiat_id = m.fiat_id
           JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
          WHERE $1 = '{}' OR f.currency_code = ANY ($1)",
    )
    .bind(only)
    .fetch_one(pool)
    .await
}

/// When it was last recorded that a slot was skipped, by reason, within the last day.
pub async fn last_skipped(
    pool: &PgPool,
    exchange: Exchange,
) -> sqlx::Result<Vec<(String, DateTime<Utc>)>> {
    sqlx::query_as(
        "SELECT reason, max(recorded_at) FROM pipeline.slots
          WHERE exchange_id = $1 AND state = 'skipped' AND slot_at > now() - interval '1 day'
          GROUP BY reason",
    )
    .bind(exchange.id())
    .fetch_all(pool)
    .await
}

/// Whether the database answers.
pub async fn ping(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query("SELECT 1").execute(pool).await.map(drop)
}

/// Entries in quarantine that are open.
pub async fn quarantined(pool: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM pipeline.quarantine WHERE state = 'open'")
        .fetch_one(pool)
        .await
}

pub async fn database_bytes(pool: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(pool).await
}

/// Slots that came to an end, by what became of them.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct EndedSlots {
    /// Outcome of the batch; `skipped`.
    pub outcome: String,
    /// Why they were skipped; empty: they were not.
    pub reason: String,
    pub slots: i64,
    pub last: DateTime<Utc>,
}

/// Slots after `since`, up to the one whose batch is running.
pub async fn ended_slots(
    pool: &PgPool,
    exchange: Exchange,
    since: DateTime<Utc>,
) -> sqlx::Result<Vec<EndedSlots>> {
    sqlx::query_as(
        "SELECT coalesce(b.outcome, 'skipped') AS outcome, coalesce(s.reason, '') AS reason,
                count(*) AS slots, max(s.slot_at) AS last
           FROM pipeline.slots s LEFT JOIN pipeline.batches b USING (batch_id)
          WHERE s.exchange_id = $1 AND s.slot_at > $2
            AND s.slot_at < coalesce((SELECT min(slot_at) FROM pipeline.batches
                                       WHERE exchange_id = $1 AND state = 'open' AND trigger = 'schedule'),
                                     'infinity')
          GROUP BY 1, 2",
    )
    .bind(exchange.id())
    .bind(since)
    .fetch_all(pool)
    .await
}
