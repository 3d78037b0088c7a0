//! The shared limit in Redis.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{RedisError, Script};
use shared::exchange::Exchange;

use super::Answer;
use crate::settings::Settings;

/// How far ahead a request may be reserved. Short, so that a pause is heeded within this time; long
/// enough that every request can be sent at its instant in spite of the round trip.
const HORIZON: Duration = Duration::from_millis(500);
/// A worker that did not ask for so long counts as gone.
const WORKER_GONE: Duration = Duration::from_mins(1);
/// Redis on a local network answers in well under a millisecond.
const TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct RedisLimiter {
    connection: ConnectionManager,
    acquire: Script,
    arrival_key: String,
    pause_key: String,
    workers_key: String,
    interval_us: u64,
    burst: u32,
    worker_id: String,
}

impl RedisLimiter {
    pub(super) fn new(settings: &Settings) -> Result<Self, RedisError> {
        let client = redis::Client::open(settings.redis.url.as_str())?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT))
            .set_number_of_retries(1);
        // Lazy: a worker starts while Redis is away, and then waits for its first permit.
        let connection = ConnectionManager::new_lazy_with_config(client, config)?;
        let tag = format!("{{p2p:{}:{}}}", Exchange::Binance, settings.egress_id);
        Ok(Self {
            connection,
            acquire: Script::new(include_str!("acquire.lua")),
            arrival_key: format!("{tag}:arrival"),
            pause_key: format!("{tag}:pause"),
            workers_key: format!("{tag}:workers"),
            interval_us: 60_000_000 / u64::from(settings.rate_limit.per_minute),
            burst: settings.rate_limit.burst,
            worker_id: settings.worker_id.clone(),
        })
    }

    /// One round trip: a reservation, or when to ask again; and how many workers there are.
    pub(super) async fn ask(&self) -> Result<(Answer, u32), RedisError> {
        let mut connection = self.connection.clone();
        let (granted, wait_us, workers): (u8, u64, u32) = self
            .acquire
            .key(&self.arrival_key)
            .key(&self.pause_key)
            .key(&self.workers_key)
            .arg(self.interval_us)
            .arg(self.burst)
            .arg(micros(HORIZON))
            .arg(&self.worker_id)
            .arg(micros(WORKER_GONE))
            .invoke_async(&mut connection)
            .await?;
        let wait = Duration::from_micros(wait_us);
        let answer = if granted == 1 { Answer::Reserved(wait) } else { Answer::AskAgain(wait) };
        Ok((answer, workers))
    }

    /// Nobody sends for `pause`. A longer pause that is already set stays.
    pub(super) async fn pause(&self, pause: Duration) -> Result<(), RedisError> {
        // Two numbers compared where they are kept, so that no worker shortens another's pause.
        let script = Script::new(include_str!("pause.lua"));
        let mut connection = self.connection.clone();
        script.key(&self.pause_key).arg(micros(pause)).invoke_async(&mut connection).await
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
