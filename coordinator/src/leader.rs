//! One coordinator acts at a time: a session lock in `PostgreSQL`, held on a connection of its own.
//!
//! The lock lives as long as its session. A leader that is gone loses it at once; one that is only
//! silent, paused or cut off, loses it because the server ends a session that says nothing for
//! [`SILENCE_LIMIT`]. Such a leader may wake up later and not know that it was replaced. So every
//! leadership is a [`Term`] with an epoch, counted in `pipeline.leaders`, and every write is bound to
//! it ([`crate::store::Store::begin`]): the writes of an older term take no effect.

use std::time::Duration;

use anyhow::Context;
use shared::exchange::Exchange;
use shared::settings::Database;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio_util::sync::CancellationToken;

/// Time between two signs of life of the leader, and between two tries of those who stand by.
pub const PULSE: Duration = Duration::from_millis(500);
/// A leader that is silent for so long is replaced. Six pulses, so that no hiccup costs the lead;
/// with a pulse of the standby it stays below the 5 s within which a successor must lead.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for an answer before the lock is believed lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for the new epoch: a transaction of the former leader that is still open holds it up
/// until the server ends it ([`shared::store::IDLE_IN_TRANSACTION_LIMIT`]).
const EPOCH_TIMEOUT: Duration = Duration::from_secs(15);

/// A leadership from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Term {
    pub exchange: Exchange,
    /// Grows by one with each leadership.
    pub epoch: i64,
    /// Cancelled when another may lead.
    pub lost: CancellationToken,
}

/// Being the leader, until [`Term::lost`] is cancelled or this is dropped.
pub struct Leadership {
    term: Term,
    release: CancellationToken,
}

impl Leadership {
    /// Leads if nobody else does; `None`: somebody does. `interval` is that of the schedule which
    /// this leader keeps, if it keeps one.
    pub async fn try_acquire(
        settings: &Database,
        exchange: Exchange,
        coordinator_id: &str,
        interval: Option<Duration>,
    ) -> anyhow::Result<Option<Self>> {
        let options: PgConnectOptions = settings.url.as_str().parse()?;
        let options = options
            .application_name("coordinator lock")
            .options([("idle_session_timeout", SILENCE_LIMIT.as_millis().to_string())]);
        let mut connection = tokio::time::timeout(ANSWER_TIMEOUT, options.connect()).await??;
        let lock =
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('p2p.coordinator'), $1)");
        let lock = lock.bind(i32::from(exchange.id())).fetch_one(&mut connection);
        let leads: bool =
            tokio::time::timeout(ANSWER_TIMEOUT, lock).await?.context("the leader's lock")?;
        if !leads {
            return Ok(None);
        }
        let epoch = begin_term(&mut connection, exchange, coordinator_id, interval);
        let epoch = tokio::time::timeout(EPOCH_TIMEOUT, epoch).await??;
        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(hold(connection, lost.clone(), release.clone()));
        Ok(Some(Self { term: Term { exchange, epoch, lost }, release }))
    }

    #[must_use]
    pub fn term(&self) -> &Term {
        &self.term
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.release.cancel();
    }
}

/// Counts the epoch. Waits for the writes of the former leader that are under way: they hold the row
/// shared, and whatever comes after them finds the new epoch.
async fn begin_term(
    connection: &mut PgConnection,
    exchange: Exchange,
    coordinator_id: &str,
    interval: Option<Duration>,
) -> anyhow::Result<i64> {
    let interval_seconds =
        interval.map(|interval| i32::try_from(interval.as_secs())).transpose()?;
    let epoch = sqlx::query_scalar(
        "INSERT INTO pipeline.leaders AS l
                (exchange_id, epoch, coordinator_id, leading_since, interval_seconds)
         VALUES ($1, 1, $2, now(), $3)
             ON CONFLICT (exchange_id) DO UPDATE
            SET epoch = l.epoch + 1, coordinator_id = EXCLUDED.coordinator_id,
                leading_since = EXCLUDED.leading_since,
                interval_seconds = coalesce(EXCLUDED.interval_seconds, l.interval_seconds)
      RETURNING epoch",
    );
    let epoch = epoch.bind(exchange.id()).bind(coordinator_id).bind(interval_seconds);
    epoch.fetch_one(connection).await.context("the leader's epoch")
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
