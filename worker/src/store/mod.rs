//! What a worker writes: endings of jobs with their facts, in one transaction per group.
//!
//! The gate is the job's row: only if this transaction ends the job are its facts stored, so a job
//! done twice, at once or later, leaves the same rows. Advertisers and payment methods are written
//! before, on their own: they are true whatever becomes of the page.

pub(crate) mod advertisers;
pub mod archive;
pub(crate) mod discovery;
pub mod jobs;
mod kept;
pub(crate) mod pages;
pub(crate) mod payment_methods;
pub(crate) mod profiles;
pub(crate) mod quarantine;
mod shapes;
pub(crate) mod terms;
pub(crate) mod versions;
mod witness;
pub mod workers;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use shared::domain::BatchId;
use shared::job::{EndState, Job, Report};
use shared::store::{ANSWER_LIMIT, within};
use sqlx::{Connection, PgConnection, PgPool};

use self::advertisers::Advertisers;
use self::archive::Archive;
use self::kept::Kept;
use self::pages::PageRows;
use self::payment_methods::PaymentMethods;
use self::shapes::Shapes;
use self::versions::{MAX_CACHED_ADS, VersionCache};
use crate::handler::{Ending, Facts, Requests};
use crate::metrics;
use crate::settings::Settings;

/// Longest wait for the transaction of a group: far above what 64 pages take on a slow disk.
const STORE_LIMIT: Duration = Duration::from_secs(30);

/// A job and how it ended.
#[derive(Debug)]
pub struct ToStore {
    pub job: Job,
    pub ending: Ending,
}

impl ToStore {
    fn key(&self) -> JobKey {
        (self.job.batch_id, self.job.ordinal)
    }
}

/// What names a job.
type JobKey = (BatchId, u32);

/// What became of a job in the ledger.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    /// It ended with this report.
    Ended(Report),
    /// It had ended before, or does not concern this worker: nothing was stored.
    EndedElsewhere,
    /// It is not recorded; the message must come again.
    Not,
}

impl Stored {
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Ended(report) => Some(report),
            Self::EndedElsewhere | Self::Not => None,
        }
    }
}

/// The database did not take what it was given.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StoreError(#[from] sqlx::Error);

impl StoreError {
    /// Whether it is the database's state and not the data: no connection, shutting down, out of
    /// space, a deadlock, a password or a right that is just being changed. Classes of `SQLSTATE`: 08 connection,
    /// 28 log-in, 3D no such database, 40 rollback, 53 resources, 57 intervention, 58 system; 25006 read-only,
    /// 25P03 silent in a transaction for too long, 42501 no right, 55P03 a lock.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match &self.0 {
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                ["08", "25006", "25P03", "28", "3D", "40", "42501", "53", "55P03", "57", "58"]
                    .iter()
                    .any(|class| code.starts_with(class))
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => true,
            _ => false,
        }
    }

    /// Class of a passing error, as metrics have it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        let code = self.0.as_database_error().and_then(sqlx::error::DatabaseError::code);
        if code.as_deref() == Some(DISK_FULL_STATE) {
            metrics::DISK_FULL
        } else {
            metrics::DATABASE
        }
    }
}

/// `SQLSTATE` of a disk, or a quota, that is full.
const DISK_FULL_STATE: &str = "53100";

pub struct Store {
    connection: Kept,
    worker_id: String,
    egress_id: String,
    archive: Archive,
    /// The newest batch that this worker had jobs of.
    batch: Option<BatchId>,
    /// A job that this worker read, of the last group.
    last_read: Option<JobKey>,
    advertisers: Advertisers,
    payment_methods: PaymentMethods,
    versions: VersionCache,
    shapes: Shapes,
}

impl Store {
    #[must_use]
    pub fn new(pool: PgPool, settings: &Settings, archive: Archive) -> Self {
        Self {
            connection: Kept::new(pool),
            worker_id: settings.worker_id.clone(),
            egress_id: settings.egress_id.clone(),
            archive,
            batch: None,
            last_read: None,
            advertisers: Advertisers::new(),
            payment_methods: PaymentMethods::new(),
            versions: VersionCache::new(MAX_CACHED_ADS),
            shapes: Shapes::default(),
        }
    }

    /// Remembers the versions of no more ads than this, instead of those of several times the whole market.
    #[must_use]
    pub fn remembering(self, max_ads: usize) -> Self {
        Self { versions: VersionCache::new(max_ads), ..self }
    }

    /// Stores all of the group or nothing; what became of each job, in order.
    pub async fn store(&mut self, group: &[ToStore]) -> Result<Vec<Stored>, StoreError> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        // A message delivered twice may be twice in one group: one of them, of the latest issue, is
        // stored, and which one is decided before anything is written.
        let mut chosen: HashMap<JobKey, usize> = HashMap::new();
        for (index, one) in group.iter().enumerate() {
            let best = chosen.entry(one.key()).or_insert(index);
            if group[*best].job.issue < one.job.issue {
                *best = index;
            }
        }
        let is_chosen = |index: usize| chosen.get(&group[index].key()) == Some(&index);
        let indexed = group.iter().enumerate();
        let (unique, twice): (Vec<_>, Vec<_>) = indexed.partition(|(index, _)| is_chosen(*index));
        let unique: Vec<&ToStore> = unique.into_iter().map(|(_, one)| one).collect();
        let twice: Vec<&ToStore> = twice.into_iter().map(|(_, one)| one).collect();
        let stored = within(STORE_LIMIT, self.store_kept(&unique, &twice)).await;
        if stored.is_err() {
            // Who knows which commits survived: a cold cache costs rows, a wrong id would dangle.
            self.forget();
        }
        let stored = stored?;
        let outcome = |(index, one): (usize, &ToStore)| {
            if is_chosen(index) && stored.contains(&one.key()) {
                Stored::Ended(one.ending.report(&one.job))
            } else {
                Stored::EndedElsewhere
            }
        };
        Ok(group.iter().enumerate().map(outcome).collect())
    }

    fn forget(&mut self) {
        self.advertisers = Advertisers::new();
        self.payment_methods = PaymentMethods::new();
        self.versions.forget();
        self.last_read = None;
    }

    /// Adds requests that came to nothing to the ledger.
    pub async fn note_requests(&mut self, spent: &[(Job, Requests)]) -> Result<(), StoreError> {
        let spent: Vec<(&Job, &Requests)> =
            spent.iter().map(|(job, requests)| (job, requests)).collect();
        if spent.iter().all(|(_, requests)| requests.attempts == 0) {
            return Ok(());
        }
        let noted = async {
            let mut connection = self.connection.take().await?;
            let mut tx = connection.begin().await?;
            jobs::add_requests(&mut tx, &spent, &self.worker_id).await?;
            tx.commit().await?;
            self.connection.keep(connection);
            Ok(())
        };
        within(ANSWER_LIMIT, noted).await
    }

    /// Stores jobs, each there once, on the connection that is kept.
    async fn store_kept(
        &mut self,
        group: &[&ToStore],
        twice: &[&ToStore],
    ) -> Result<HashSet<JobKey>, StoreError> {
        let mut connection = self.connection.take().await?;
        let ended = self.store_unique(&mut connection, group, twice).await?;
        self.connection.keep(connection);
        Ok(ended)
    }

    /// Stores jobs, each there once, in one transaction; those that it ended. Of jobs that are there
    /// `twice` only the requests are added.
    async fn store_unique(
        &mut self,
        connection: &mut PgConnection,
        group: &[&ToStore],
        twice: &[&ToStore],
    ) -> Result<HashSet<JobKey>, StoreError> {
        self.begin_batch(connection, group).await?;
        let pages = self.page_rows(connection, group).await?;
        let mut answers = self.archive.rows(group);
        let mut tx = connection.begin().await?;
        let ended = jobs::end(&mut tx, group, &self.worker_id, &self.egress_id).await?;
        let spent = group.iter().filter(|one| !ended.contains(&one.key())).chain(twice);
        let spent: Vec<(&Job, &Requests)> =
            spent.map(|one| (&one.job, &one.ending.requests)).collect();
        jobs::add_requests(&mut tx, &spent, &self.worker_id).await?;
        let kept: Vec<&ToStore> =
            group.iter().copied().filter(|one| ended.contains(&one.key())).collect();
        let pages: Vec<&PageRows<'_>> =
            pages.iter().filter(|page| ended.contains(&page.key())).collect();
        pages::insert(&mut tx, &pages).await?;
        quarantine::insert(&mut tx, &kept).await?;
        discovery::store(&mut tx, &kept).await?;
        profiles::store(&mut tx, &kept).await?;
        witness::insert(&mut tx, &kept).await?;
        answers.insert(&mut tx, &self.egress_id, |key| ended.contains(&key)).await?;
        let findings = self.shapes.insert(&mut tx, &kept).await?;
        tx.commit().await?;
        answers.measure();
        // One that is read for good: what failed may be issued again.
        let done = kept.iter().find(|one| one.ending.state == EndState::Done);
        self.last_read = done.map(|one| one.key()).or(self.last_read);
        // Only now: an id that was not committed must never be referred to.
        for page in pages {
            self.versions.learn(page);
        }
        if let Some(findings) = findings {
            self.shapes.learn(findings);
        }
        Ok(ended)
    }

    /// With each new batch: is the database still the one of which this worker remembers keys, or was it made anew,
    /// or taken back to an earlier moment? And is there a new dictionary, to be used from the batch's first page?
    async fn begin_batch(
        &mut self,
        connection: &mut PgConnection,
        group: &[&ToStore],
    ) -> Result<(), StoreError> {
        let newest = group.iter().max_by_key(|one| one.job.batch_id).map(|one| &one.job);
        let Some(job) = newest.filter(|job| self.batch.is_none_or(|seen| seen < job.batch_id))
        else {
            return Ok(());
        };
        if let Some(key) = self.last_read
            && !jobs::is_ended_by(&mut *connection, key, &self.worker_id).await?
        {
            tracing::warn!(batch = %key.0, ordinal = key.1, "the ledger lacks what this worker stored: all that it remembers of the database is forgotten");
            self.forget();
        }
        self.archive.refresh(connection, job.exchange).await?;
        self.batch = Some(job.batch_id);
        Ok(())
    }

    /// The pages of the group as rows: names resolved to keys, unchanged ads to their versions.
    async fn page_rows<'a>(
        &mut self,
        connection: &mut PgConnection,
        group: &[&'a ToStore],
    ) -> Result<Vec<PageRows<'a>>, StoreError> {
        let pages = || {
            group.iter().copied().filter_map(|one| match &one.ending.facts {
                Facts::Page(page) => Some((one, page)),
                _ => None,
            })
        };
        if pages().next().is_none() {
            return Ok(Vec::new());
        }
        let exchange = group[0].job.exchange;
        let methods = pages().flat_map(|(_, page)| &page.ads).flat_map(|ad| &ad.payment_methods);
        self.payment_methods.resolve(connection, exchange, methods.collect()).await?;
        let seen = pages().flat_map(|(one, page)| {
            let at = one.ending.requests.fetched_at.unwrap_or_default();
            page.ads.iter().map(move |ad| (&ad.advertiser, at))
        });
        self.advertisers.resolve(connection, exchange, seen.collect()).await?;
        let ads = pages().flat_map(|(one, page)| {
            let at = one.ending.requests.fetched_at.unwrap_or_default();
            page.ads.iter().map(move |ad| (ad.adv_no.as_str(), at))
        });
        let terms = terms::list_known(connection, exchange, &ads.collect::<Vec<_>>()).await?;
        let mut terms = terms.into_iter();
        let mut rows = Vec::new();
        for (one, page) in pages() {
            let (advertisers, methods) = (&self.advertisers, &self.payment_methods);
            rows.push(PageRows::new(one, page, advertisers, methods, &mut terms));
        }
        self.versions.match_unchanged(connection, &mut rows).await?;
        Ok(rows)
    }
}
