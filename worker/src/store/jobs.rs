//! The ledger, as a worker sees it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::domain::{BatchId, Level, page_count};
use shared::exchange::binance::SEARCH_ROWS;
use shared::job::{EndState, Job, JobEnd, Report, Work};
use shared::store::{lock_jobs, of_day};
use sqlx::{PgConnection, PgExecutor, PgPool};
use tokio::sync::oneshot;

use super::kept::Kept;
use super::{JobKey, StoreError, ToStore};
use crate::handler::{Facts, Requests};

/// What must be known of a job before it is begun.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct JobRow {
    state: String,
    reason: Option<String>,
    pub issue: i32,
    declared_total: Option<i32>,
    ads_taken: i32,
    /// Seconds until it expires, by the clock of the database.
    pub seconds_left: f64,
    /// Ads of the book as pages already read declare: the largest, or one that reaches to the job's page;
    /// `None`: no page read yet.
    #[sqlx(skip)]
    pub book_total: Option<u32>,
}

impl JobRow {
    /// How it ended, if it has.
    #[must_use]
    pub fn end_state(&self) -> Option<EndState> {
        EndState::from_column(&self.state)
    }

    /// The report of a job that ended before.
    #[must_use]
    pub fn report(&self, job: &Job, state: EndState) -> Report {
        let end = JobEnd {
            ordinal: job.ordinal,
            issue: u16::try_from(self.issue).unwrap_or(u16::MAX),
            state,
            reason: self.reason.clone(),
            declared_total: self.declared_total.and_then(|total| u32::try_from(total).ok()),
            ads: u32::try_from(self.ads_taken).unwrap_or_default(),
            listed: None,
        };
        Report::new(job.batch_id, end)
    }
}

/// What tells a job from another that has its ordinal, as after the database was made anew: kind, market,
/// fiat, page and advertiser.
type Identity<'a> = (&'a str, Option<i32>, Option<i32>, Option<i32>, Option<i32>);

fn identity(work: &Work) -> Identity<'_> {
    let (mut market, mut fiat, mut page, mut advertiser) = (None, None, None, None);
    match work {
        Work::Search { market_id, page: number, .. } => {
            (market, page) = (Some(*market_id), Some(number.cast_signed()));
        }
        Work::Assets { fiat_id, .. } | Work::PaymentMethods { fiat_id, .. } => {
            fiat = Some(*fiat_id);
        }
        Work::Advertiser { advertiser_id, .. } => advertiser = Some(*advertiser_id),
        Work::WitnessAds { market_id, .. } | Work::WitnessQuote { market_id, .. } => {
            market = Some(*market_id);
        }
        Work::FiatList => {}
    }
    (work.kind(), market, fiat, page, advertiser)
}

/// A row of the ledger with what it is about.
#[derive(sqlx::FromRow)]
struct Found {
    ordinal: i32,
    kind: String,
    market_id: Option<i32>,
    fiat_id: Option<i32>,
    page: Option<i32>,
    advertiser_id: Option<i32>,
    #[sqlx(flatten)]
    row: JobRow,
}

impl Found {
    fn is_of(&self, job: &Job) -> bool {
        let own = (self.kind.as_str(), self.market_id, self.fiat_id, self.page, self.advertiser_id);
        self.ordinal == job.ordinal.cast_signed() && own == identity(&job.work)
    }
}

/// The rows of jobs of one batch; none for those which the ledger does not know, or no longer, or under
/// another job's ordinal.
async fn find_all(
    connection: &mut PgConnection,
    batch: BatchId,
    jobs: &[&Job],
) -> Result<Vec<Found>, StoreError> {
    // Each row by its whole key: of a batch that was just planned the planner knows nothing, and reads all its
    // jobs to find some.
    let found = sqlx::query_as(of_day(
        "SELECT j.ordinal, j.kind, j.market_id, j.fiat_id, j.page::int AS page, j.advertiser_id,
                j.state, j.reason, j.issue::int AS issue, j.declared_total,
                coalesce(j.ads_taken, 0)::int AS ads_taken,
                extract(epoch FROM j.expires_at - clock_timestamp())::float8 AS seconds_left
           FROM unnest((SELECT $2::int[])) AS w (ordinal)
          CROSS JOIN LATERAL (SELECT * FROM pipeline.jobs
                               WHERE day = DAY AND batch_id = $1 AND ordinal = w.ordinal OFFSET 0) j",
        batch,
    ))
    .bind(batch.raw())
    .bind(jobs.iter().map(|job| job.ordinal.cast_signed()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(found)
}

/// The largest total that the pages of each market declare that were read in the batch.
async fn find_totals(
    connection: &mut PgConnection,
    batch: BatchId,
    markets: &BTreeSet<i32>,
) -> Result<Vec<(i32, u32)>, StoreError> {
    let totals: Vec<(i32, i32)> = sqlx::query_as(of_day(
        "SELECT m.market_id, p.total
           FROM unnest((SELECT $2::int[])) AS m (market_id)
          CROSS JOIN LATERAL (SELECT max(declared_total) AS total FROM warehouse.book_pages
                               WHERE day = DAY AND batch_id = $1 AND market_id = m.market_id OFFSET 0) p
          WHERE p.total IS NOT NULL",
        batch,
    ))
    .bind(batch.raw())
    .bind(markets.iter().copied().collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(totals.into_iter().map(|(market, total)| (market, total.cast_unsigned())).collect())
}

/// The totals that books of the newest batch are known to declare at least, by market. While a batch is read the
/// largest one only grows, so a page within what is known needs no look.
#[derive(Default)]
struct Totals {
    batch: Option<BatchId>,
    markets: HashMap<i32, u32>,
}

impl Totals {
    /// Makes sure that the largest total is known of every market of which a job asks for a page beyond the total
    /// that is known. A first page never is.
    async fn look_up(
        &mut self,
        connection: &mut PgConnection,
        batch: BatchId,
        jobs: &[&Job],
    ) -> Result<(), StoreError> {
        if self.batch != Some(batch) {
            *self = Self { batch: Some(batch), markets: HashMap::new() };
        }
        let asked = jobs.iter().filter_map(|job| match job.work {
            Work::Search { market_id, page, .. } if page > 1 => Some((market_id, page)),
            _ => None,
        });
        let unknown = asked.filter(|(market_id, page)| {
            self.markets.get(market_id).is_none_or(|total| *page > page_count(*total, SEARCH_ROWS))
        });
        let markets: BTreeSet<i32> = unknown.map(|(market_id, _)| market_id).collect();
        if !markets.is_empty() {
            self.markets.extend(find_totals(connection, batch, &markets).await?);
        }
        Ok(())
    }

    fn of(&self, job: &Job) -> Option<u32> {
        let Work::Search { market_id, .. } = &job.work else { return None };
        self.markets.get(market_id).copied()
    }
}

/// A job that waits for its row.
type Waiting = (Job, oneshot::Sender<Option<JobRow>>);

/// What goes with the turn.
struct Turn {
    connection: Kept,
    totals: Totals,
}

/// Looks jobs up in the ledger. Those that come while a look is under way are looked up together by the
/// next one: no job waits longer for it, and under load a statement serves many.
pub struct LookUps {
    waiting: Mutex<Vec<Waiting>>,
    turn: tokio::sync::Mutex<Turn>,
}

impl LookUps {
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        let turn = Turn { connection: Kept::new(pool), totals: Totals::default() };
        Self { waiting: Mutex::default(), turn: tokio::sync::Mutex::new(turn) }
    }

    /// The row of a job; `None`: the ledger has none, no longer, or another job under this ordinal, as for
    /// a message of a database that was made anew.
    pub async fn find(&self, job: &Job) -> Result<Option<JobRow>, StoreError> {
        let (told, answer) = oneshot::channel();
        self.waiting().push((job.clone(), told));
        // Jobs come in bursts, as places are freed by groups: those that are about to ask are looked up together.
        tokio::task::yield_now().await;
        let mut turn = self.turn.lock().await;
        // Whoever had the turn before may have looked this one up too.
        let waiting = std::mem::take(&mut *self.waiting());
        let looked = turn.look_up(waiting).await;
        drop(turn);
        looked?;
        // Else the look that took it failed, or was given up.
        answer.await.map_err(|_| sqlx::Error::PoolTimedOut.into())
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    async fn look_up(&mut self, waiting: Vec<Waiting>) -> Result<(), StoreError> {
        if waiting.is_empty() {
            return Ok(());
        }
        let mut connection = self.connection.take().await?;
        let mut batches: BTreeMap<BatchId, Vec<Waiting>> = BTreeMap::new();
        for one in waiting {
            batches.entry(one.0.batch_id).or_default().push(one);
        }
        for (batch, waiting) in batches {
            let jobs: Vec<&Job> = waiting.iter().map(|(job, _)| job).collect();
            let found = find_all(&mut connection, batch, &jobs).await?;
            self.totals.look_up(&mut connection, batch, &jobs).await?;
            for (job, told) in waiting {
                let row = found.iter().find(|found| found.is_of(&job));
                let row = row
                    .map(|found| JobRow { book_total: self.totals.of(&job), ..found.row.clone() });
                // Nobody may wait for it any more.
                told.send(row).ok();
            }
        }
        self.connection.keep(connection);
        Ok(())
    }
}

/// Whether the ledger has it that this worker ended the job.
pub(super) async fn is_ended_by(
    executor: impl PgExecutor<'_>,
    (batch, ordinal): JobKey,
    worker_id: &str,
) -> Result<bool, StoreError> {
    let is_ended = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pipeline.jobs
                         WHERE day = $1 AND batch_id = $2 AND ordinal = $3 AND worker_id = $4 AND ended_at IS NOT NULL)",
    );
    let is_ended = is_ended.bind(batch.day()).bind(batch.raw()).bind(ordinal.cast_signed());
    Ok(is_ended.bind(worker_id).fetch_one(executor).await?)
}

/// Locks jobs as [`lock_jobs`] says; a single one is locked by whatever changes it.
async fn lock(
    connection: &mut PgConnection,
    keys: impl ExactSizeIterator<Item = JobKey>,
) -> Result<(), StoreError> {
    if keys.len() < 2 {
        return Ok(());
    }
    let mut batches: BTreeMap<BatchId, Vec<u32>> = BTreeMap::new();
    for (batch, ordinal) in keys {
        batches.entry(batch).or_default().push(ordinal);
    }
    for (batch, ordinals) in batches {
        lock_jobs(connection, batch, &ordinals).await?;
    }
    Ok(())
}

/// Ends those jobs that are still open and of the current issue; gives which.
pub(super) async fn end(
    connection: &mut PgConnection,
    group: &[&ToStore],
    worker_id: &str,
    egress_id: &str,
) -> Result<HashSet<JobKey>, StoreError> {
    lock(connection, group.iter().map(|one| one.key())).await?;
    let column =
        |value: fn(&ToStore) -> i32| group.iter().map(|one| value(one)).collect::<Vec<_>>();
    let requests = || group.iter().map(|one| &one.ending.requests);
    let rows: Vec<(i32, i32)> = sqlx::query_as(
        "UPDATE pipeline.jobs j
            SET state = e.state, reason = e.reason, detail = e.detail, attempts = j.attempts + e.attempts,
                http_status = e.http_status, declared_total = e.declared_total,
                ads_taken = e.ads_taken, ads_refused = e.ads_refused, warnings = e.warnings::jsonb,
                requested_at = e.requested_at, fetched_at = e.fetched_at,
                errors = CASE WHEN e.errors = '' THEN j.errors ELSE j.errors || string_to_array(e.errors, ' ') END,
                ended_at = now(), worker_id = $14, egress_id = CASE WHEN e.attempts > 0 THEN $15 END
           FROM unnest($1::date[], $2::int[], $3::int[], $4::int[], $5::text[], $6::text[], $7::text[],
                       $8::int[], $9::int[], $10::int[], $11::int[], $12::timestamptz[], $13::timestamptz[],
                       $16::int[], $17::text[], $18::text[])
             AS e (day, batch_id, ordinal, issue, state, reason, detail, attempts, http_status,
                   declared_total, ads_taken, requested_at, fetched_at, ads_refused, errors, warnings)
          WHERE j.day = e.day AND j.batch_id = e.batch_id AND j.ordinal = e.ordinal
            AND j.issue = e.issue AND j.state IN ('planned', 'published')
      RETURNING j.batch_id, j.ordinal",
    )
    .bind(group.iter().map(|one| one.job.batch_id.day()).collect::<Vec<_>>())
    .bind(column(|one| one.job.batch_id.raw()))
    .bind(column(|one| one.job.ordinal.cast_signed()))
    .bind(column(|one| i32::from(one.job.issue)))
    .bind(group.iter().map(|one| one.ending.state.as_str()).collect::<Vec<_>>())
    .bind(group.iter().map(|one| one.ending.reason).collect::<Vec<_>>())
    .bind(group.iter().map(|one| one.ending.detail.as_deref()).collect::<Vec<_>>())
    .bind(column(|one| i32::from(one.ending.requests.attempts)))
    .bind(requests().map(|requests| requests.http_status.map(i32::from)).collect::<Vec<_>>())
    .bind(group.iter().map(|one| one.ending.declared_total().map(u32::cast_signed)).collect::<Vec<_>>())
    .bind(group.iter().map(|one| ads(one).map(|(taken, _)| taken)).collect::<Vec<_>>())
    .bind(requests().map(|requests| requests.requested_at).collect::<Vec<_>>())
    .bind(requests().map(|requests| requests.fetched_at).collect::<Vec<_>>())
    .bind(worker_id)
    .bind(egress_id)
    .bind(group.iter().map(|one| ads(one).map(|(_, refused)| refused)).collect::<Vec<_>>())
    .bind(requests().map(|requests| requests.errors.join(" ")).collect::<Vec<_>>())
    .bind(group.iter().map(|one| warnings(&one.ending.facts)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let key =
        |(batch, ordinal): (i32, i32)| (BatchId::from_raw(batch).ok(), ordinal.cast_unsigned());
    Ok(rows.into_iter().map(key).filter_map(|(batch, ordinal)| Some((batch?, ordinal))).collect())
}

/// Adds requests to jobs that ended otherwise, or that are left to others, so that the ledger's sum is
/// what the exchange saw. Those of an ending whose commit was answered too late are there already.
pub(super) async fn add_requests(
    connection: &mut PgConnection,
    spent: &[(&Job, &Requests)],
    worker_id: &str,
) -> Result<(), StoreError> {
    let spent: Vec<_> = spent.iter().filter(|(_, requests)| requests.attempts > 0).collect();
    if spent.is_empty() {
        return Ok(());
    }
    lock(connection, spent.iter().map(|(job, _)| (job.batch_id, job.ordinal))).await?;
    sqlx::query(
        "UPDATE pipeline.jobs j
            SET attempts = j.attempts + e.attempts,
                errors = CASE WHEN e.errors = '' THEN j.errors ELSE j.errors || string_to_array(e.errors, ' ') END,
                http_status = coalesce(j.http_status, e.http_status)
           FROM (SELECT day, batch_id, ordinal, sum(attempts)::int AS attempts, max(requested_at) AS requested_at,
                        max(http_status) AS http_status,
                        coalesce(string_agg(errors, ' ') FILTER (WHERE errors <> ''), '') AS errors
                   FROM unnest($1::date[], $2::int[], $3::int[], $4::int[], $5::timestamptz[], $7::text[], $8::int[])
                     AS u (day, batch_id, ordinal, attempts, requested_at, errors, http_status)
                  GROUP BY day, batch_id, ordinal) e
          WHERE j.day = e.day AND j.batch_id = e.batch_id AND j.ordinal = e.ordinal
            AND (j.worker_id, j.requested_at) IS DISTINCT FROM ($6, e.requested_at)",
    )
    .bind(spent.iter().map(|(job, _)| job.batch_id.day()).collect::<Vec<_>>())
    .bind(spent.iter().map(|(job, _)| job.batch_id.raw()).collect::<Vec<_>>())
    .bind(spent.iter().map(|(job, _)| job.ordinal.cast_signed()).collect::<Vec<_>>())
    .bind(spent.iter().map(|(_, requests)| i32::from(requests.attempts)).collect::<Vec<_>>())
    .bind(spent.iter().map(|(_, requests)| requests.requested_at).collect::<Vec<_>>())
    .bind(worker_id)
    .bind(spent.iter().map(|(_, requests)| requests.errors.join(" ")).collect::<Vec<_>>())
    .bind(spent.iter().map(|(_, requests)| requests.http_status.map(i32::from)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Rules that are broken without a refusal, with how often, as JSON; `None`: none are.
pub(crate) fn warnings(facts: &Facts) -> Option<String> {
    let counts: BTreeMap<&str, usize> = facts
        .broken_rules()
        .filter(|(rule, _)| rule.level() == Level::Warning)
        .map(|(rule, count)| (rule.as_str(), count))
        .collect();
    if counts.is_empty() {
        return None;
    }
    serde_json::to_string(&counts).ok()
}

/// Ads taken and refused on a page, also that of an advertiser.
fn ads(one: &ToStore) -> Option<(i32, i32)> {
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    match &one.ending.facts {
        Facts::Page(page) => Some((count(page.ads.len()), count(page.refusals.len()))),
        Facts::Advertiser(page) => Some((count(page.ads.len()), count(page.refusals.len()))),
        Facts::WitnessAds(list) => Some((count(list.ads.len()), 0)),
        _ => None,
    }
}
