//! What the fleet can be counted on.

use shared::exchange::Exchange;
use sqlx::PgPool;

/// Openings of a breaker without a success between them after which its egress is given up for a
/// batch: it stays closed for two minutes then, and longer each time.
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

/// Whether every egress seen lately has a breaker that is open, and not for the first time. Once its
/// time is over it counts as usable again, so that the next batch sends a request that may close it.
pub async fn all_breakers_are_open(pool: &PgPool, exchange: Exchange) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT coalesce(bool_and(breaker_openings >= $2 AND coalesce(breaker_open_until > now(), false)), false)
           FROM (SELECT DISTINCT ON (egress_id) breaker_openings, breaker_open_until
                   FROM pipeline.workers
                  WHERE exchange_id = $1 AND seen_at > now() - interval '1 minute'
                  ORDER BY egress_id, seen_at DESC) latest",
    )
    .bind(exchange.id())
    .bind(HOPELESS_OPENINGS)
    .fetch_one(pool)
    .await?)
}
