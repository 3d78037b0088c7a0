//! What the coordinator writes: slots, batches, the ledger, and the close of a batch. And what it
//! drops.

pub mod advertisers;
pub mod archive;
pub mod batches;
pub mod catalog;
pub mod close;
pub mod drift;
pub mod jobs;
mod listed;
pub mod marts;
pub mod quality;
pub mod remake;
pub mod requests;
pub mod retention;
pub mod watch;
pub mod witness;
pub mod workers;

use sqlx::{PgPool, Postgres, Transaction};

use crate::leader::Term;

/// The database as the leader of a term uses it.
#[derive(Clone)]
pub struct Store {
    /// For reading.
    pub pool: PgPool,
    term: Term,
}

/// Another coordinator leads: what was to be written is its affair now.
#[derive(Debug, thiserror::Error)]
#[error("another coordinator leads since epoch {0} ended")]
pub struct Replaced(i64);

impl Store {
    #[must_use]
    pub fn new(pool: PgPool, term: Term) -> Self {
        Self { pool, term }
    }

    /// Begins a transaction that commits only if this term has not ended: all writing goes through
    /// here. It holds the leader's row shared, so that a successor begins its term after it.
    ///
    /// # Errors
    /// [`Replaced`] if the term has ended, which also ends the leader ([`Term::lost`]).
    pub async fn begin(&self) -> anyhow::Result<Transaction<'static, Postgres>> {
        let mut tx = self.pool.begin().await?;
        let is_current: Option<bool> = sqlx::query_scalar(
            "SELECT epoch = $2 FROM pipeline.leaders WHERE exchange_id = $1 FOR SHARE",
        )
        .bind(self.term.exchange.id())
        .bind(self.term.epoch)
        .fetch_optional(&mut *tx)
        .await?;
        if is_current == Some(true) {
            return Ok(tx);
        }
        self.term.lost.cancel();
        Err(Replaced(self.term.epoch).into())
    }
}
