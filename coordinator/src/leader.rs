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

/// One who would lead. Keeps its connection while it stands by, so that asking twice a second costs a
/// statement and no session each time.
pub struct Candidate {
    settings: Database,
    exchange: Exchange,
    coordinator_id: String,
    interval: Option<Duration>,
    connection: Option<PgConnection>,
}

impl Candidate {
    /// `interval` is that of the schedule which this coordinator keeps, if it keeps one.
    #[must_use]
    pub fn new(
        settings: Database,
        exchange: Exchange,
        coordinator_id: String,
        interval: Option<Duration>,
    ) -> Self {
        Self { settings, exchange, coordinator_id, interval, connection: None }
    }

    /// Leads if nobody else does; `None`: somebody does.
    pub async fn try_lead(&mut self) -> anyhow::Result<Option<Leadership>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => tokio::time::timeout(ANSWER_TIMEOUT, self.connect()).await??,
        };
        let lock =
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('p2p.coordinator'), $1)");
        let lock = lock.bind(i32::from(self.exchange.id())).fetch_one(&mut connection);
        let leads: bool =
            tokio::time::timeout(ANSWER_TIMEOUT, lock).await?.context("the leader's lock")?;
        if !leads {
            self.connection = Some(connection);
            return Ok(None);
        }
        let epoch = self.begin_term(&mut connection);
        let epoch = tokio::time::timeout(EPOCH_TIMEOUT, epoch).await??;
        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(hold(connection, lost.clone(), release.clone()));
        let term = Term { exchange: self.exchange, epoch, lost };
        Ok(Some(Leadership { term, release }))
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let options = self.settings.options()?;
        let silence = ("idle_session_timeout", SILENCE_LIMIT.as_millis().to_string());
        options.application_name("coordinator lock").options([silence]).connect().await
    }

    /// Counts the epoch. Waits for the writes of the former leader that are under way: they hold the
    /// row shared, and whatever comes after them finds the new epoch.
    async fn begin_term(&self, connection: &mut PgConnection) -> anyhow::Result<i64> {
        let interval_seconds =
            self.interval.map(|interval| i32::try_from(interval.as_secs())).transpose()?;
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
        let epoch = epoch.bind(self.exchange.id()).bind(&self.coordinator_id);
        let epoch = epoch.bind(interval_seconds).fetch_one(connection);
        epoch.await.context("the leader's epoch")
    }
}

impl Leadership {
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
