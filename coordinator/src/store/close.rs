//! The close of a batch: certificates, latest state, catalog and outcome, in one transaction, once.
//!
//! Everything is made from this batch only, so its cost grows with the batch and never with history.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;
use shared::domain::{BatchId, MAX_ADS_PER_PAGE, MAX_JOBS_PER_BATCH, offer_version_id};
use shared::job::{EXPIRED_BREAKER_OPEN, EXPIRED_CANCELLED, EXPIRED_DEADLINE, Failure};
use sqlx::{Connection, PgConnection};

use super::marts::{self, Batches};
use super::quality::{self, Pass, Quality};
use super::witness::{self, MarketCheck};
use super::{Store, jobs, listed, requests};
use crate::quality::Thresholds;

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchOutcome {
    Complete,
    Partial,
    Failed,
}

impl BatchOutcome {
    pub const ALL: [Self; 3] = [Self::Complete, Self::Partial, Self::Failed];

    /// From the column; `None` while the batch is open.
    #[must_use]
    pub fn from_column(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Failed => "failed",
        }
    }
}

/// Why a batch is closed although jobs are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It has run out of time. Also of a batch without open jobs.
    Deadline,
    /// The exchange takes no requests from any egress.
    BreakerOpen,
    /// An operator cancelled it.
    Cancelled,
}

impl Cut {
    fn job_reason(self) -> &'static str {
        match self {
            Self::Deadline => EXPIRED_DEADLINE,
            Self::BreakerOpen => EXPIRED_BREAKER_OPEN,
            Self::Cancelled => EXPIRED_CANCELLED,
        }
    }

    /// For the batch, before what it lost; at the deadline that says enough.
    fn batch_reason(self) -> Option<&'static str> {
        match self {
            Self::Deadline => None,
            Self::Cancelled => Some("cancelled"),
            Self::BreakerOpen => Some("cut short: the circuit breakers of all egresses are open"),
        }
    }
}

/// A closed batch in sums.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    pub outcome: BatchOutcome,
    /// Why it is not complete.
    pub reason: Option<String>,
    pub sums: Sums,
    pub quality: Quality,
    /// Its markets held against the witness.
    pub witness: Vec<MarketCheck>,
    /// What took how long.
    pub steps: Steps,
}

/// How long each step of a close took, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    since: Instant,
    taken: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn begin() -> Self {
        Self { since: Instant::now(), taken: Vec::new() }
    }

    /// The step that began with the end of the one before is over.
    fn end(&mut self, step: &'static str) {
        let now = Instant::now();
        self.taken.push((step, now - self.since));
        self.since = now;
    }
}

/// As the log has them: milliseconds by name.
impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (step, took)) in self.taken.iter().enumerate() {
            let space = if index > 0 { " " } else { "" };
            write!(f, "{space}{step}={}", took.as_millis())?;
        }
        Ok(())
    }
}

/// A batch in sums.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Sums {
    /// Pages read, with or without ads.
    pub pages_read: i64,
    /// Pages failed, expired, or not reached before the deadline.
    pub pages_lost: i64,
    /// Pages left out for want of budget.
    pub pages_shed: i64,
    /// Readings beyond the first of a page.
    pub pages_reread: i64,
    /// Lists of fiats or assets that were not read. Lists of payment methods do not count: they name
    /// what the ads name too, and no page waits for them.
    pub lists_lost: i64,
    /// Different ads, summed over the books.
    pub ads: i64,
    /// Ads in quarantine.
    pub refused: i64,
    /// Ads that the books lack by their own estimate.
    pub missed: i64,
    /// Requests sent.
    pub requests: i64,
    /// Requests that met an error.
    pub requests_failed: i64,
    /// Of these, answers that could not be read, those of the witness not counted.
    pub unreadable: i64,
    /// Jobs of advertisers that are still out.
    pub advertisers_open: i64,
    /// Books, with those left out.
    pub books: i64,
    /// Books certified complete or empty.
    pub books_complete: i64,
}

impl Sums {
    /// Complete: every planned page was read and every ad taken. Failed: no page was read.
    fn outcome(&self) -> (BatchOutcome, Option<String>) {
        let lost = [
            (self.lists_lost, "lists of fiats or assets not read"),
            (self.pages_lost, "pages lost"),
            (self.pages_shed, "pages left out for want of budget"),
            (self.refused, "ads refused"),
        ];
        let counted = lost.iter().filter(|(count, _)| *count > 0);
        let mut reasons: Vec<String> =
            counted.map(|(count, what)| format!("{count} {what}")).collect();
        if self.pages_read == 0 {
            reasons.insert(0, "no page was read".to_owned());
            return (BatchOutcome::Failed, Some(reasons.join(", ")));
        }
        if reasons.is_empty() {
            return (BatchOutcome::Complete, None);
        }
        (BatchOutcome::Partial, Some(reasons.join(", ")))
    }

    /// The same for a batch that was closed before, for `reason`: that it was cut short stays true.
    pub(super) fn outcome_after(&self, reason: Option<&str>) -> (BatchOutcome, Option<String>) {
        let (outcome, lost) = self.outcome();
        let cut = Cut::BreakerOpen.batch_reason();
        let cut = cut.filter(|cut| reason.is_some_and(|reason| reason.starts_with(cut)));
        let reasons: Vec<&str> = cut.into_iter().chain(lost.as_deref()).collect();
        (outcome, (!reasons.is_empty()).then(|| reasons.join(", ")))
    }
}

/// Channel on which a closed batch is notified, with its id.
const NOTIFY_CHANNEL: &str = "p2p_batch_closed";

/// Closes a batch. What is still open has expired, for `cut`. `None`: somebody else had closed it.
pub async fn close(
    store: &Store,
    batch: BatchId,
    closed_by: &str,
    cut: Cut,
    thresholds: &Thresholds,
) -> anyhow::Result<Option<Closed>> {
    let mut steps = Steps::begin();
    let mut tx = store.begin().await?;
    let state: String =
        sqlx::query_scalar("SELECT state FROM pipeline.batches WHERE batch_id = $1 FOR UPDATE")
            .bind(batch.raw())
            .fetch_one(&mut *tx)
            .await
            .with_context(|| format!("batch {batch}"))?;
    if state != "open" {
        return Ok(None);
    }
    expire_open_jobs(&mut tx, batch, cut).await?;
    steps.end("expire");
    listed::read_one(&mut tx, batch).await?;
    steps.end("listed");
    certify(&mut tx, batch).await?;
    steps.end("certify");
    let witness = hear_witness(&mut tx, batch).await?;
    steps.end("witness");
    marts::make_of_listed(&mut tx, Batches::one(batch)).await?;
    steps.end("marts");
    let quality = quality::check_listed(&mut tx, batch, thresholds, Pass::Close).await?;
    steps.end("quality");
    move_latest(&mut tx, batch).await?;
    steps.end("latest");
    update_catalog(&mut tx, batch).await?;
    steps.end("catalog");
    let sums = sum_up(&mut tx, batch).await?;
    steps.end("sums");
    let (outcome, lost) = sums.outcome();
    let is_cancelled = cut == Cut::Cancelled;
    let asked = requests::answer_cancel(&mut tx, batch, is_cancelled, closed_by).await?;
    let cut_reason = match (cut.batch_reason(), asked.filter(|_| is_cancelled)) {
        (Some(cut), Some(asked)) => Some(format!("{cut} by {asked}")),
        (cut, _) => cut.map(str::to_owned),
    };
    let reasons: Vec<&str> = cut_reason.as_deref().into_iter().chain(lost.as_deref()).collect();
    let reason = (!reasons.is_empty()).then(|| reasons.join(", "));
    sqlx::query(
        "UPDATE pipeline.batches
            SET state = 'closed', outcome = $2, reason = $3, closed_at = clock_timestamp(), closed_by = $4,
                pages_read = $5, pages_lost = $6, pages_shed = $7, pages_reread = $8, lists_lost = $9,
                ads = $10, ads_refused = $11, ads_missed = $12, requests = $13, books = $14,
                books_complete = $15, requests_failed = $16, advertisers_open = $17
          WHERE batch_id = $1",
    )
    .bind(batch.raw())
    .bind(outcome.as_str())
    .bind(&reason)
    .bind(closed_by)
    .bind(sums.pages_read)
    .bind(sums.pages_lost)
    .bind(sums.pages_shed)
    .bind(sums.pages_reread)
    .bind(sums.lists_lost)
    .bind(sums.ads)
    .bind(sums.refused)
    .bind(sums.missed)
    .bind(sums.requests)
    .bind(sums.books)
    .bind(sums.books_complete)
    .bind(sums.requests_failed)
    .bind(sums.advertisers_open)
    .execute(&mut *tx)
    .await?;
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(NOTIFY_CHANNEL)
        .bind(batch.raw().to_string())
        .execute(&mut *tx)
        .await?;
    steps.end("outcome");
    tx.commit().await?;
    steps.end("commit");
    Ok(Some(Closed { outcome, reason, sums, quality, witness, steps }))
}

/// What can't be compared costs the comparison, never the close.
async fn hear_witness(
    connection: &mut PgConnection,
    batch: BatchId,
) -> anyhow::Result<Vec<MarketCheck>> {
    let mut savepoint = connection.begin().await?;
    match witness::check(&mut savepoint, batch).await {
        Ok(checks) => {
            savepoint.commit().await?;
            Ok(checks)
        }
        Err(error) => {
            savepoint.rollback().await?;
            tracing::error!(error = format!("{error:#}"), "the witness can't be heard");
            Ok(Vec::new())
        }
    }
}

/// Jobs of advertisers that are out go on, unless the batch was cancelled: workers do them when no page
/// waits, which is mostly after the close, until they expire. What they leave, [`super::advertisers::expire_left_over`] ends.
///
/// Takes the rows' locks: a worker that is just committing a page comes first, one that comes later
/// finds its job ended and stores nothing.
async fn expire_open_jobs(
    connection: &mut PgConnection,
    batch: BatchId,
    cut: Cut,
) -> anyhow::Result<()> {
    // In the order of `shared::store::lock_jobs`.
    let open: Vec<i32> = sqlx::query_scalar(
        "SELECT ordinal FROM pipeline.jobs
          WHERE day = $1 AND batch_id = $2 AND state IN ('planned', 'published')
            AND (kind <> 'advertiser' OR $3 OR state = 'planned' OR expires_at <= clock_timestamp())
          ORDER BY ordinal FOR NO KEY UPDATE",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .bind(cut == Cut::Cancelled)
    .fetch_all(&mut *connection)
    .await?;
    jobs::expire(connection, batch, &open, cut.job_reason()).await?;
    Ok(())
}

/// Marks repeated ads on their pages and writes a certificate for every book, of what is listed
/// ([`listed::read_one`]).
pub(super) async fn certify(connection: &mut PgConnection, batch: BatchId) -> anyhow::Result<()> {
    for settings in [listed::IN_MEMORY, listed::BY_HASH] {
        sqlx::raw_sql(settings).execute(&mut *connection).await?;
    }
    sqlx::query(include_str!("certify.sql"))
        .bind(batch.day())
        .bind(batch.raw())
        .execute(&mut *connection)
        .await?;
    for settings in [listed::AS_BEFORE, listed::BY_ANY_JOIN] {
        sqlx::raw_sql(settings).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The last good book of a market is one of which no page was lost and which no quality check holds back.
/// Where a newer one is not shown, it is said why.
async fn move_latest(connection: &mut PgConnection, batch: BatchId) -> anyhow::Result<()> {
    sqlx::query(
        "INSERT INTO warehouse.latest_books AS l (market_id, day, batch_id, verdict, read_at)
         SELECT market_id, day, batch_id, verdict, last_fetched_at
           FROM warehouse.books
          WHERE day = $1 AND batch_id = $2 AND pages_read > 0 AND pages_lost = 0 AND pages_shed = 0
            AND held_reason IS NULL
             ON CONFLICT (market_id) DO UPDATE
            SET day = EXCLUDED.day, batch_id = EXCLUDED.batch_id, verdict = EXCLUDED.verdict,
                read_at = EXCLUDED.read_at, newer_batch_id = NULL, newer_reason = NULL
          WHERE l.batch_id < EXCLUDED.batch_id",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE warehouse.latest_books l
            SET newer_batch_id = k.batch_id,
                newer_reason = coalesce(k.held_reason, CASE WHEN k.pages_lost > 0 THEN 'pages_lost' ELSE 'pages_shed' END)
           FROM warehouse.books k
          WHERE k.day = $1 AND k.batch_id = $2 AND k.market_id = l.market_id
            AND k.batch_id > greatest(l.batch_id, l.newer_batch_id)",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .execute(connection)
    .await?;
    Ok(())
}

async fn update_catalog(connection: &mut PgConnection, batch: BatchId) -> anyhow::Result<()> {
    let (first_id, last_id) = offer_version_ids(batch);
    // The statement joins thousands of rows of which the planner expects one: nested loops took a
    // minute where hashes take moments.
    sqlx::raw_sql("SET LOCAL enable_nestloop = off; SET LOCAL work_mem = '64MB'")
        .execute(&mut *connection)
        .await?;
    sqlx::query(include_str!("catalog.sql"))
        .bind(batch.day())
        .bind(batch.raw())
        .bind(first_id)
        .bind(last_id)
        .execute(&mut *connection)
        .await?;
    sqlx::raw_sql("RESET enable_nestloop; RESET work_mem").execute(connection).await?;
    Ok(())
}

/// First and last id that a version seen first in this batch can have.
fn offer_version_ids(batch: BatchId) -> (i32, i32) {
    let first = offer_version_id(batch, 0, 0);
    (first, offer_version_id(batch, MAX_JOBS_PER_BATCH - 1, MAX_ADS_PER_PAGE - 1))
}

pub(super) async fn sum_up(connection: &mut PgConnection, batch: BatchId) -> anyhow::Result<Sums> {
    let sums = sqlx::query_as(
        "SELECT b.*, j.*, e.*
           FROM (SELECT coalesce(sum(pages_read), 0)::bigint AS pages_read,
                        coalesce(sum(pages_lost), 0)::bigint AS pages_lost,
                        coalesce(sum(pages_shed), 0)::bigint AS pages_shed,
                        coalesce(sum(pages_reread), 0)::bigint AS pages_reread,
                        coalesce(sum(distinct_ads), 0)::bigint AS ads,
                        coalesce(sum(refused_ads), 0)::bigint AS refused,
                        coalesce(sum(estimated_missed), 0)::bigint AS missed,
                        count(*) AS books,
                        count(*) FILTER (WHERE verdict IN ('complete', 'empty')) AS books_complete
                   FROM warehouse.books WHERE day = $1 AND batch_id = $2) b,
                (SELECT count(*) FILTER (WHERE kind IN ('fiat_list', 'assets')
                                           AND state IN ('failed', 'expired')) AS lists_lost,
                        count(*) FILTER (WHERE kind = 'advertiser' AND state = 'published') AS advertisers_open,
                        coalesce(sum(attempts), 0)::bigint AS requests
                   FROM pipeline.jobs WHERE day = $1 AND batch_id = $2) j,
                (SELECT count(*) AS requests_failed, count(*) FILTER (WHERE error = ANY($3) AND kind NOT IN ('witness_ads', 'witness_quote')) AS unreadable
                   FROM pipeline.jobs, unnest(errors) AS error
                  WHERE day = $1 AND batch_id = $2 AND errors IS NOT NULL) e",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .bind(Failure::UNREADABLE.map(Failure::as_str))
    .fetch_one(connection)
    .await?;
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_with_nothing_read_is_failed() {
        let (outcome, reason) = Sums { pages_lost: 3, ..Sums::default() }.outcome();
        assert_eq!(outcome, BatchOutcome::Failed);
        assert_eq!(reason.as_deref(), Some("no page was read, 3 pages lost"));
    }

    #[test]
    fn anything_lost_makes_it_partial_and_is_named() {
        let sums = Sums { pages_read: 10, pages_lost: 1, refused: 2, ..Sums::default() };
        let reason = Some("1 pages lost, 2 ads refused".to_owned());
        assert_eq!(sums.outcome(), (BatchOutcome::Partial, reason));
        let whole = Sums { pages_read: 10, ..Sums::default() };
        assert_eq!(whole.outcome(), (BatchOutcome::Complete, None));
    }
}
