//! The limiters of the egresses, from Redis.

use anyhow::Context;
use serde::Serialize;
use shared::limiter::{Limiter, Status};

use super::{Reading, Servers};
use crate::EXCHANGE;

/// An egress and its limiter.
#[derive(Clone, Debug, Serialize)]
pub struct Egress {
    pub egress: String,
    /// `None`: nobody used it for a day. Times in microseconds.
    pub limiter: Option<Status>,
}

/// The limiters of `egresses`.
pub async fn read(servers: &Servers, egresses: &[String]) -> Reading<Vec<Egress>> {
    let Some(redis) = &servers.redis else {
        return Reading::away("REDIS_URL is not set");
    };
    let reading = async {
        let mut all = Vec::with_capacity(egresses.len());
        for egress in egresses {
            let limiter = Limiter::new(redis, EXCHANGE, egress).context("REDIS_URL")?;
            let limiter = limiter.show().await.context("Redis can't be reached")?;
            all.push(Egress { egress: egress.clone(), limiter });
        }
        Ok(all)
    };
    reading.await.into()
}
