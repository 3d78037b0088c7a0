//! A connection that stays with whoever does one piece of work after the other.

use std::time::Duration;

use shared::store::TRUSTED_FOR;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgConnection, PgPool, Postgres};
use tokio::time::Instant;

use super::StoreError;

/// Connections that a worker keeps: of the storer, and of looks into the ledger. Of a pool that would have none left for
/// others, none is kept.
const KEPT_BY_A_WORKER: u32 = 2;
/// Longest wait for a sign of life. Between batches nothing is said for minutes, and what stands between may have dropped
/// the connection without a word.
const SIGN_LIMIT: Duration = Duration::from_secs(1);

/// A connection of the pool, kept from one piece of work to the next. One that is given back is asked for a sign of
/// life each time, and the next one is another: in the end each has buffers as large as the largest statement, and a
/// server process that had to learn all statements.
pub(super) struct Kept {
    pool: PgPool,
    connection: Option<PoolConnection<Postgres>>,
    /// When it came from the pool, which may have had it before, and when it was last used.
    since: Instant,
    used: Instant,
}

impl Kept {
    pub(super) fn new(pool: PgPool) -> Self {
        let now = Instant::now();
        Self { pool, connection: None, since: now, used: now }
    }

    /// A connection to work with. To be given to [`Kept::keep`] if all went well; dropped, the pool decides whether it
    /// can be used again.
    pub(super) async fn take(&mut self) -> Result<PoolConnection<Postgres>, StoreError> {
        if let Some(mut connection) = self.connection.take() {
            if self.is_fresh()
                && (self.used.elapsed() <= TRUSTED_FOR || lives(&mut connection).await)
            {
                return Ok(connection);
            }
            connection.close_on_drop();
        }
        let connection = self.pool.acquire().await?;
        self.since = Instant::now();
        Ok(connection)
    }

    pub(super) fn keep(&mut self, connection: PoolConnection<Postgres>) {
        self.used = Instant::now();
        if self.pool.options().get_max_connections() > KEPT_BY_A_WORKER {
            self.connection = Some(connection);
        }
    }

    /// Whether the pool would still have it.
    fn is_fresh(&self) -> bool {
        let options = self.pool.options();
        options.get_max_lifetime().is_none_or(|most| self.since.elapsed() < most)
            && options.get_idle_timeout().is_none_or(|most| self.used.elapsed() < most)
    }
}

async fn lives(connection: &mut PgConnection) -> bool {
    matches!(tokio::time::timeout(SIGN_LIMIT, connection.ping()).await, Ok(Ok(())))
}
