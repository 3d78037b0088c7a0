//! What the fleet can be counted on.

use shared::domain::BatchId;
use shared::exchange::Exchange;
use sqlx::PgPool;

/// Openings of a breaker without a success between them after which its egress is given up for a
/// batch: it stays open for two minutes then, and longer each time.
const HOPELESS_OPENINGS: i32 = 3;

/// Requests per minute of each egress whose workers were seen within the last minute: six of their
/// signs of life.
pub async fn list_egress_rates(pool: &PgPool, exchange: Exchange) -> anyhow::Result<Vec<u32>> {
    let rates: Vec<i32> = sqlx::query_scalar(
        "SELECT DISTINCT ON (egress_id) requests_per_minute FROM pipeline.workers
          WHERE exchange_id = $1 AND seen_at > now() - interval '1 minute'
          ORDER BY egress_id, seen_at DESC",
    )
    .bind(exchange.id())
    .fetch_all(pool)
    .await?;
    Ok(rates.into_iter().map(i32::cast_unsigned).collect())
}

/// Whether every egress seen lately has a breaker that is open, and that either opened again in this
/// batch or lets nothing through before its end. So a batch in which a request may try sends one, and
/// the breaker can close.
pub async fn all_breakers_are_open(
    pool: &PgPool,
    exchange: Exchange,
    batch: BatchId,
) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT coalesce(bool_and(coalesce(w.breaker_open_until > now()
                                  AND (w.breaker_openings >= $2 AND w.breaker_opened_at > b.opened_at
                                       OR w.breaker_open_until > b.deadline_at), false)), false)
           FROM pipeline.batches b,
                (SELECT DISTINCT ON (egress_id) breaker_openings, breaker_opened_at, breaker_open_until
                   FROM pipeline.workers
                  WHERE exchange_id = $1 AND seen_at > now() - interval '1 minute'
                  ORDER BY egress_id, seen_at DESC) w
          WHERE b.batch_id = $3",
    )
    .bind(exchange.id())
    .bind(HOPELESS_OPENINGS)
    .bind(batch.raw())
    .fetch_one(pool)
    .await?)
}
