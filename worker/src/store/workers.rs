//! Signs of life, by which the planner knows which egresses it may count on.

use std::time::Duration;

use shared::exchange::Exchange;
use shared::store::{ANSWER_LIMIT, within};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::StoreError;
use crate::settings::Settings;

/// Time between two signs of life. The planner counts on a worker for a minute after the last.
const SIGN_INTERVAL: Duration = Duration::from_secs(10);

/// Gives signs of life until `shutdown`, then takes leave.
pub async fn keep_alive(pool: PgPool, settings: Settings, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Err(error) = within(ANSWER_LIMIT, sign(&pool, &settings)).await {
            tracing::warn!(%error, "no sign of life could be given");
        }
        tokio::select! {
            () = tokio::time::sleep(SIGN_INTERVAL) => {}
            () = shutdown.cancelled() => {}
        }
    }
    if let Err(error) = within(ANSWER_LIMIT, leave(&pool, &settings)).await {
        tracing::debug!(%error, "no leave could be taken");
    }
}

async fn sign(pool: &PgPool, settings: &Settings) -> Result<(), StoreError> {
    sqlx::query(
        "WITH forgotten AS (DELETE FROM pipeline.workers WHERE seen_at < now() - interval '1 day')
         INSERT INTO pipeline.workers
                (worker_id, exchange_id, egress_id, requests_per_minute, started_at, seen_at)
         VALUES ($1, $2, $3, $4, now(), now())
             ON CONFLICT (worker_id) DO UPDATE
            SET exchange_id = EXCLUDED.exchange_id, egress_id = EXCLUDED.egress_id,
                requests_per_minute = EXCLUDED.requests_per_minute, seen_at = EXCLUDED.seen_at",
    )
    .bind(&settings.worker_id)
    .bind(Exchange::Binance.id())
    .bind(&settings.egress_id)
    .bind(settings.rate_limit.per_minute.cast_signed())
    .execute(pool)
    .await?;
    Ok(())
}

async fn leave(pool: &PgPool, settings: &Settings) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM pipeline.workers WHERE worker_id = $1")
        .bind(&settings.worker_id)
        .execute(pool)
        .await?;
    Ok(())
}
