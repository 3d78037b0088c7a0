//! All that the page shows, read at one moment.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::store::within;
use sqlx::{PgConnection, PgPool};

use super::completeness::{self, Completeness};
use super::fleet::{self, Egress, Leader, Worker};
use super::gaps::{self, Gaps};
use super::quality::{self, Verdict};
use super::queues::Queues;
use super::running::{self, Closed, Running};
use super::slots::{self, Slot};

/// Longest reading of the database.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The fleet at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// By the database's clock.
    pub read_at: DateTime<Utc>,
    pub leader: Option<Leader>,
    pub running: Option<Running>,
    pub last_closed: Option<Closed>,
    pub slots: Vec<Slot>,
    pub completeness: Completeness,
    pub queues: Queues,
    pub workers: Vec<Worker>,
    pub egresses: Vec<Egress>,
    pub quality: Vec<Verdict>,
    pub gaps: Gaps,
    /// Names to choose a market by.
    #[serde(skip)]
    pub names: Names,
}

/// Fiats and assets that there are.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub fiats: Vec<String>,
    pub assets: Vec<String>,
}

/// What changes only when a batch closes, and costs more to read than the rest.
#[derive(Clone, Debug, Default)]
struct AtClose {
    completeness: Completeness,
    gaps: Gaps,
    names: Names,
}

/// Reads snapshots, and remembers what only a close changes.
#[derive(Default)]
pub(super) struct Reader {
    at_close: Option<(Option<i32>, AtClose)>,
}

impl Reader {
    /// Everything of the database in one transaction, so that the parts agree; at the same time the
    /// queues, whose broker may be away and be waited for.
    pub(super) async fn read(
        &mut self,
        pool: &PgPool,
        queues: impl Future<Output = Queues>,
    ) -> Result<Snapshot, sqlx::Error> {
        let (queues, facts) = tokio::join!(queues, within(READ_LIMIT, self.read_facts(pool)));
        Ok(facts?(queues))
    }

    /// Gives the snapshot but for the queues.
    async fn read_facts(
        &mut self,
        pool: &PgPool,
    ) -> Result<impl FnOnce(Queues) -> Snapshot + use<>, sqlx::Error> {
        let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let read_at = sqlx::query_scalar("SELECT now()").fetch_one(&mut *tx).await?;
        let last_closed = running::read_closed(&mut tx).await?;
        let AtClose { completeness, gaps, names } =
            self.read_at_close(&mut tx, last_closed.as_ref().map(|closed| closed.batch_id)).await?;
        let leader = fleet::read_leader(&mut tx).await?;
        let running = running::read(&mut tx).await?;
        let slots = slots::list(&mut tx).await?;
        let workers = fleet::list_workers(&mut tx).await?;
        let egresses = fleet::list_egresses(&mut tx).await?;
        let quality = quality::list(&mut tx).await?;
        tx.commit().await?;
        Ok(move |queues| Snapshot {
            read_at,
            leader,
            running,
            last_closed,
            slots,
            completeness,
            queues,
            workers,
            egresses,
            quality,
            gaps,
            names,
        })
    }

    async fn read_at_close(
        &mut self,
        db: &mut PgConnection,
        batch_id: Option<i32>,
    ) -> Result<AtClose, sqlx::Error> {
        if let Some((read, at_close)) = &self.at_close
            && *read == batch_id
        {
            return Ok(at_close.clone());
        }
        let at_close = AtClose {
            completeness: completeness::read(db, batch_id).await?,
            gaps: gaps::read(db, batch_id).await?,
            names: read_names(db).await?,
        };
        self.at_close = Some((batch_id, at_close.clone()));
        Ok(at_close)
    }
}

async fn read_names(db: &mut PgConnection) -> Result<Names, sqlx::Error> {
    let fiats = sqlx::query_scalar(
        "SELECT currency_code FROM warehouse.dim_fiat_currencies ORDER BY currency_code",
    );
    let fiats = fiats.fetch_all(&mut *db).await?;
    let assets =
        sqlx::query_scalar("SELECT symbol FROM warehouse.dim_cryptocurrencies ORDER BY symbol");
    Ok(Names { fiats, assets: assets.fetch_all(db).await? })
}
