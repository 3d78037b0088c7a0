//! The ledger, as a worker sees it.

use std::collections::{BTreeMap, HashSet};

use shared::domain::{BatchId, Level};
use shared::job::{EndState, Job, JobEnd, Report, Work};
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::{JobKey, StoreError, ToStore};
use crate::handler::{Facts, Requests};

/// What must be known of a job before it is begun.
#[derive(Debug, sqlx::FromRow)]
pub struct JobRow {
    state: String,
    reason: Option<String>,
    pub issue: i32,
    declared_total: Option<i32>,
    ads_taken: i32,
    /// Ads of the book as the pages already read declare, the largest; `None`: no page read yet.
    #[sqlx(try_from = "OptionalCount")]
    pub book_total: Option<u32>,
}

/// A count that the database holds as a signed number.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
struct OptionalCount(Option<i32>);

impl TryFrom<OptionalCount> for Option<u32> {
    type Error = std::num::TryFromIntError;

    fn try_from(count: OptionalCount) -> Result<Self, Self::Error> {
        count.0.map(u32::try_from).transpose()
    }
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
        };
        Report::new(job.batch_id, end)
    }
}

/// The row of a job; `None`: the ledger has none, no longer, or another job under this ordinal, as for
/// a message of a database that was made anew.
pub async fn find(pool: &PgPool, job: &Job) -> Result<Option<JobRow>, StoreError> {
    let (mut market_id, mut fiat_id, mut page, mut advertiser) = (None, None, None, None);
    match job.work {
        Work::Search { market_id: market, page: number, .. } => {
            (market_id, page) = (Some(market), Some(number.cast_signed()));
        }
        Work::Assets { fiat_id: fiat, .. } | Work::PaymentMethods { fiat_id: fiat, .. } => {
            fiat_id = Some(fiat);
        }
        Work::Advertiser { advertiser_id, .. } => advertiser = Some(advertiser_id),
        Work::WitnessAds { market_id: market, .. }
        | Work::WitnessQuote { market_id: market, .. } => market_id = Some(market),
        Work::FiatList => {}
    }
    let row = sqlx::query_as(
        "SELECT j.state, j.reason, j.issue::int AS issue, j.declared_total,
                coalesce(j.ads_taken, 0)::int AS ads_taken,
                (SELECT max(p.declared_total) FROM warehouse.book_pages p
                  WHERE p.day = j.day AND p.batch_id = j.batch_id AND p.market_id = $4) AS book_total
           FROM pipeline.jobs j
          WHERE j.day = $1 AND j.batch_id = $2 AND j.ordinal = $3
            AND j.kind = $5 AND j.market_id IS NOT DISTINCT FROM $4
            AND j.fiat_id IS NOT DISTINCT FROM $6 AND j.page IS NOT DISTINCT FROM $7
            AND j.advertiser_id IS NOT DISTINCT FROM $8",
    )
    .bind(job.batch_id.day())
    .bind(job.batch_id.raw())
    .bind(job.ordinal.cast_signed())
    .bind(market_id)
    .bind(job.work.kind())
    .bind(fiat_id)
    .bind(page)
    .bind(advertiser)
    .fetch_optional(pool)
    .await?;
    Ok(row)
}

/// Ends those jobs that are still open and of the current issue; gives which.
pub(super) async fn end(
    connection: &mut PgConnection,
    group: &[&ToStore],
    worker_id: &str,
    egress_id: &str,
) -> Result<HashSet<JobKey>, StoreError> {
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
    executor: impl PgExecutor<'_>,
    spent: &[(&Job, &Requests)],
    worker_id: &str,
) -> Result<(), StoreError> {
    let spent: Vec<_> = spent.iter().filter(|(_, requests)| requests.attempts > 0).collect();
    if spent.is_empty() {
        return Ok(());
    }
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
    .execute(executor)
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
