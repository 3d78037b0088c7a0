//! Signs of life, by which the planner knows which egresses it may count on.

use std::time::Duration;

use shared::exchange::Exchange;
use shared::limiter::REFUSALS_BEFORE_ALERT;
use shared::store::{ANSWER_LIMIT, within};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::StoreError;
use super::archive::Archive;
use crate::rate_limit::Limiter;
use crate::settings::Settings;

/// Time between two signs of life. The planner counts on a worker for a minute after the last.
const SIGN_INTERVAL: Duration = Duration::from_secs(10);

/// A pause of this length is worth an alert: until the tenth refusal it may take hours.
const PAUSE_BEFORE_ALERT: Duration = Duration::from_mins(2);

/// Gives signs of life until `shutdown`, then takes leave. With each it learns of the archive.
pub async fn keep_alive(
    pool: PgPool,
    settings: Settings,
    limiter: Limiter,
    archive: Archive,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let signed = sign(&pool, &settings, &limiter);
        if let Err(error) = within(ANSWER_LIMIT, signed).await {
            tracing::warn!(%error, "no sign of life could be given");
        }
        let refreshed =
            async { archive.refresh(&mut *pool.acquire().await?, Exchange::Binance).await };
        if let Err(error) = within(ANSWER_LIMIT, refreshed).await {
            tracing::warn!(%error, "it is not known whether the raw archive is suspended");
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

async fn sign(pool: &PgPool, settings: &Settings, limiter: &Limiter) -> Result<(), StoreError> {
    // While Redis is away the fleet shares the minimum rate.
    let (rate, open_us, openings, since_opened_us, refusals) = match limiter.status().await {
        Ok(now) => {
            let pause = Duration::from_micros(now.pause);
            let is_long = !now.is_held && pause > PAUSE_BEFORE_ALERT;
            if now.refusals >= REFUSALS_BEFORE_ALERT || is_long {
                let refusals = now.refusals;
                tracing::error!(refusals, ?pause, "the exchange refuses again and again");
            }
            (now.rate, now.open, now.openings, now.since_opened, Some(now.refusals))
        }
        Err(error) => {
            tracing::debug!(%error, "the limiter can't be asked");
            (f64::from(settings.rate_limit.min_per_minute), 0, 0, None, None)
        }
    };
    sqlx::query(
        "WITH forgotten AS (DELETE FROM pipeline.workers WHERE seen_at < now() - interval '1 day')
         INSERT INTO pipeline.workers
                (worker_id, exchange_id, egress_id, requests_per_minute, breaker_open_until,
                 breaker_openings, breaker_opened_at, started_at, seen_at, is_redis_away, refusals)
         VALUES ($1, $2, $3, greatest(round($4::float8), 1)::int,
                 CASE WHEN $5 > 0 THEN now() + $5 * interval '1 microsecond' END, $6,
                 now() - $7 * interval '1 microsecond', now(), now(), $8::integer IS NULL, $8)
             ON CONFLICT (worker_id) DO UPDATE
            SET exchange_id = EXCLUDED.exchange_id, egress_id = EXCLUDED.egress_id,
                requests_per_minute = EXCLUDED.requests_per_minute,
                breaker_open_until = EXCLUDED.breaker_open_until,
                breaker_openings = EXCLUDED.breaker_openings,
                breaker_opened_at = EXCLUDED.breaker_opened_at, seen_at = EXCLUDED.seen_at,
                is_redis_away = EXCLUDED.is_redis_away, refusals = EXCLUDED.refusals",
    )
    .bind(&settings.worker_id)
    .bind(Exchange::Binance.id())
    .bind(&settings.egress_id)
    .bind(rate)
    .bind(open_us.cast_signed())
    .bind(openings.cast_signed())
    .bind(since_opened_us.map(u64::cast_signed))
    .bind(refusals.map(u32::cast_signed))
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
