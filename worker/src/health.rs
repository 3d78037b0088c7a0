//! What a worker needs in order to be ready: the database, the broker and the limit that all share.

use std::time::Duration;

use shared::health::{Check, Health};
use shared::queue::{Publisher, Queue};
use sqlx::PgPool;

use crate::rate_limit::Limiter;

/// Longest wait for each server: whoever probes waits no longer than a few seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Answers from now on whether the worker is ready.
///
/// Redis counts although a worker goes on without it: at its share of the lowest rate it does not do
/// what it is there for.
pub fn answer(health: &Health, pool: &PgPool, publisher: &Publisher, limiter: &Limiter) {
    let (pool, publisher, limiter) = (pool.clone(), publisher.clone(), limiter.clone());
    health.ready_when(move || {
        let (pool, publisher, limiter) = (pool.clone(), publisher.clone(), limiter.clone());
        async move {
            let database = sqlx::query("SELECT 1").execute(&pool);
            let (database, broker, redis) = tokio::join!(
                Check::answers("database", ANSWER_LIMIT, database),
                Check::answers("broker", ANSWER_LIMIT, publisher.depth(Queue::NormalJobs)),
                Check::answers("redis", ANSWER_LIMIT, limiter.status()),
            );
            vec![database, broker, redis]
        }
    });
}
