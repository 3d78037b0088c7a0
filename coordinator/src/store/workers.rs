//! What the fleet can be counted on.

use shared::exchange::Exchange;
use sqlx::PgPool;

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
