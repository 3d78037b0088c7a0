//! One coordinator acts at a time: a session lock in `PostgreSQL`, held on a connection of its own.
//!
//! The lock lives as long as the connection, so it is free as soon as its holder is gone, however it
//! went. A holder that can't reach the database any more must believe that another leads.

use std::time::Duration;

use anyhow::Context;
use shared::exchange::Exchange;
use shared::settings::Database;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

/// Time between two looks at the lock, by the leader and by those who stand by.
pub const PULSE: Duration = Duration::from_secs(1);
/// Longest wait for an answer before the lock is believed lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Being the leader, for as long as [`Leadership::lost`] is not cancelled.
pub struct Leadership {
    lost: CancellationToken,
    release: CancellationToken,
}

impl Leadership {
    /// Leads if nobody else does; `None`: somebody does.
    pub async fn try_acquire(
        settings: &Database,
        exchange: Exchange,
    ) -> anyhow::Result<Option<Self>> {
        let connection = PgConnection::connect(settings.url.as_str());
        let mut connection = tokio::time::timeout(ANSWER_TIMEOUT, connection).await??;
        let lock =
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('p2p.coordinator'), $1)");
        let lock = lock.bind(i32::from(exchange.id())).fetch_one(&mut connection);
        let leads: bool =
            tokio::time::timeout(ANSWER_TIMEOUT, lock).await?.context("the leader's lock")?;
        if !leads {
            return Ok(None);
        }
        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(hold(connection, lost.clone(), release.clone()));
        Ok(Some(Self { lost, release }))
    }

    /// Cancelled when the lock may belong to another.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.release.cancel();
    }
}

async fn hold(mut connection: PgConnection, lost: CancellationToken, release: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PULSE) => {}
            () = release.cancelled() => {
                if let Err(error) = connection.close().await {
                    tracing::debug!(%error, "the leader's connection was gone before it was closed");
                }
                return;
            }
        }
        if let Ok(Ok(())) = tokio::time::timeout(ANSWER_TIMEOUT, connection.ping()).await {
        } else {
            tracing::error!("the leader's lock is lost");
            lost.cancel();
            return;
        }
    }
}
