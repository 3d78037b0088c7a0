//! Whose pages are to be read.

use std::time::Duration;

use shared::domain::BatchId;
use shared::exchange::Exchange;
use shared::job::Failure;
use sqlx::{PgConnection, PgPool};

use super::jobs;

/// An advertiser whose page is to be read.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct DueAdvertiser {
    pub advertiser_id: i32,
    pub user_no: String,
}

/// Time after a failure before the same advertiser is asked for again; doubled with every further one,
/// up to the age at which pages are read again anyway.
const FIRST_BACKOFF: Duration = Duration::from_hours(1);
/// A refusal of any of these requests slows the pages of the market down too, so that after one only a
/// single page is asked for, until so much time went by without another.
const REFUSAL_MEMORY: Duration = Duration::from_hours(1);
/// Doublings that matter: beyond them every backoff is longer than the longest age.
const MAX_DOUBLINGS: i32 = 14;

/// Advertisers with ads in a book read within `seen_within`, whose page was never read or is older than
/// `max_age`: those never read first, then the oldest, `limit` at most. Nobody for whom a job may still
/// be out (`asked_within`), nor who failed a short while ago.
pub async fn list_due(
    pool: &PgPool,
    exchange: Exchange,
    seen_within: Duration,
    max_age: Duration,
    asked_within: Duration,
    limit: u32,
) -> anyhow::Result<Vec<DueAdvertiser>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let due = sqlx::query_as(
        "WITH seen AS (
           SELECT DISTINCT v.advertiser_sk
             FROM warehouse.latest_books b
             JOIN warehouse.dim_markets m ON m.market_id = b.market_id AND m.exchange_id = $1
             JOIN warehouse.book_pages p ON p.day = b.day AND p.batch_id = b.batch_id AND p.market_id = b.market_id
            CROSS JOIN LATERAL unnest(p.offer_ids) AS l (id)
             JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
            WHERE b.read_at > now() - make_interval(secs => $2))
         SELECT d.advertiser_id, d.user_no
           FROM (SELECT DISTINCT a.advertiser_id, a.user_no
                   FROM seen JOIN warehouse.dim_advertisers a USING (advertiser_sk)) d
           LEFT JOIN pipeline.advertiser_catalog c USING (advertiser_id)
          WHERE (c.read_at IS NULL OR c.read_at < now() - make_interval(secs => $3))
            AND (c.asked_at IS NULL OR c.asked_at < now() - make_interval(secs => $4)
                 OR c.read_at >= c.asked_at OR c.failed_at >= c.asked_at)
            AND (c.consecutive_failures IS NULL OR c.consecutive_failures = 0
                 OR c.failed_at < now() - make_interval(secs =>
                      least($3, $5 * 2 ^ least(c.consecutive_failures - 1, $6))))
          ORDER BY c.read_at NULLS FIRST, c.asked_at NULLS FIRST, d.advertiser_id
          LIMIT CASE WHEN EXISTS (SELECT FROM pipeline.advertiser_catalog
                                   WHERE failure = $8 AND failed_at > now() - make_interval(secs => $9))
                     THEN 1 ELSE $7 END",
    );
    let due = due
        .bind(exchange.id())
        .bind(seen_within.as_secs_f64())
        .bind(max_age.as_secs_f64())
        .bind(asked_within.as_secs_f64())
        .bind(FIRST_BACKOFF.as_secs_f64())
        .bind(MAX_DOUBLINGS)
        .bind(i64::from(limit))
        .bind(Failure::RateLimited.as_str())
        .bind(REFUSAL_MEMORY.as_secs_f64())
        .fetch_all(pool)
        .await?;
    Ok(due)
}

/// Notes that jobs for these are planned.
pub async fn mark_asked(
    connection: &mut PgConnection,
    advertisers: &[DueAdvertiser],
) -> anyhow::Result<()> {
    if advertisers.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO pipeline.advertiser_catalog (advertiser_id, asked_at)
         SELECT id, now() FROM unnest($1::int[]) AS id ORDER BY id
             ON CONFLICT (advertiser_id) DO UPDATE SET asked_at = EXCLUDED.asked_at",
    )
    .bind(advertisers.iter().map(|advertiser| advertiser.advertiser_id).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends jobs of advertisers that were left out by batches whose time is over: their messages were lost.
pub async fn expire_left_over(
    connection: &mut PgConnection,
    exchange: Exchange,
    reason: &str,
) -> anyhow::Result<()> {
    let over: Vec<i32> = sqlx::query_scalar(
        "SELECT batch_id FROM pipeline.batches
          WHERE exchange_id = $1 AND advertisers_open > 0 AND deadline_at <= now() ORDER BY batch_id",
    )
    .bind(exchange.id())
    .fetch_all(&mut *connection)
    .await?;
    for batch in over {
        let batch = BatchId::from_raw(batch)?;
        // In the order of `shared::store::lock_jobs`.
        let open: Vec<i32> = sqlx::query_scalar(
            "SELECT ordinal FROM pipeline.jobs
              WHERE day = $1 AND batch_id = $2 AND kind = 'advertiser' AND state IN ('planned', 'published')
              ORDER BY ordinal FOR NO KEY UPDATE",
        )
        .bind(batch.day())
        .bind(batch.raw())
        .fetch_all(&mut *connection)
        .await?;
        jobs::expire(connection, batch, &open, reason).await?;
        sqlx::query("UPDATE pipeline.batches SET advertisers_open = 0 WHERE batch_id = $1")
            .bind(batch.raw())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
