//! The ledger's rows.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use shared::domain::{BatchId, Market};
use shared::job::{EMPTY_BEYOND_LAST_PAGE, EndState, JobEnd, SHED_BUDGET, Work};
use shared::store::lock_jobs;
use sqlx::{PgConnection, PgPool};

use super::batches::OpenBatch;
use super::{Store, catalog};
use crate::ledger::{Ledger, LedgerJob};

/// Plans jobs. Those that are there already stay as they are: a commit whose answer was lost is done
/// again.
pub async fn insert(
    connection: &mut PgConnection,
    batch: &OpenBatch,
    jobs: &[LedgerJob],
) -> anyhow::Result<()> {
    insert_as(connection, batch, jobs, None).await
}

/// Records pages that are left out for want of budget.
pub async fn insert_shed(
    connection: &mut PgConnection,
    batch: &OpenBatch,
    jobs: &[LedgerJob],
) -> anyhow::Result<()> {
    insert_as(connection, batch, jobs, Some(SHED_BUDGET)).await
}

async fn insert_as(
    connection: &mut PgConnection,
    batch: &OpenBatch,
    jobs: &[LedgerJob],
    shed: Option<&str>,
) -> anyhow::Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let (mut markets, mut fiats, mut pages, mut expected, mut advertisers) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for job in jobs {
        let (mut market, mut fiat, mut number, mut ads, mut advertiser) =
            (None, None, None, false, None);
        match &job.work {
            Work::FiatList => {}
            Work::Assets { fiat_id, .. } | Work::PaymentMethods { fiat_id, .. } => {
                fiat = Some(*fiat_id);
            }
            Work::Search { market_id, page, ads_expected, .. } => {
                (market, number, ads) = (Some(*market_id), Some(page.cast_signed()), *ads_expected);
            }
            Work::Advertiser { advertiser_id, .. } => advertiser = Some(*advertiser_id),
            Work::WitnessAds { market_id, .. } | Work::WitnessQuote { market_id, .. } => {
                market = Some(*market_id);
            }
        }
        markets.push(market);
        fiats.push(fiat);
        pages.push(number);
        expected.push(ads);
        advertisers.push(advertiser);
    }
    sqlx::query(
        "INSERT INTO pipeline.jobs
                (day, batch_id, ordinal, kind, market_id, fiat_id, page, urgent, ads_expected, state, reason,
                 planned_at, ended_at, expires_at, advertiser_id)
         SELECT $1, $2, j.ordinal, j.kind, j.market_id, j.fiat_id, j.page, j.urgent, j.ads_expected,
                CASE WHEN $10::text IS NULL THEN 'planned' ELSE 'shed' END, $10,
                now(), CASE WHEN $10 IS NOT NULL THEN now() END, $11, j.advertiser_id
           FROM unnest($3::int[], $4::text[], $5::int[], $6::int[], $7::int[], $8::bool[], $9::bool[],
                       $12::int[])
             AS j (ordinal, kind, market_id, fiat_id, page, urgent, ads_expected, advertiser_id)
             ON CONFLICT DO NOTHING",
    )
    .bind(batch.id.day())
    .bind(batch.id.raw())
    .bind(jobs.iter().map(|job| job.ordinal.cast_signed()).collect::<Vec<_>>())
    .bind(jobs.iter().map(|job| job.work.kind()).collect::<Vec<_>>())
    .bind(markets)
    .bind(fiats)
    .bind(pages)
    .bind(jobs.iter().map(|job| job.urgent).collect::<Vec<_>>())
    .bind(expected)
    .bind(shed)
    .bind(batch.deadline_at)
    .bind(advertisers)
    .execute(connection)
    .await?;
    Ok(())
}

/// Opens failed jobs once more, under the next issue.
pub async fn reissue(
    connection: &mut PgConnection,
    batch: BatchId,
    jobs: &[LedgerJob],
) -> anyhow::Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE pipeline.jobs j
            SET state = 'planned', issue = a.issue, reason = NULL, detail = NULL, ended_at = NULL
           FROM unnest($3::int[], $4::int[]) AS a (ordinal, issue)
          WHERE j.day = $1 AND j.batch_id = $2 AND j.ordinal = a.ordinal
            AND j.state = 'failed' AND j.issue = a.issue - 1",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .bind(jobs.iter().map(|job| job.ordinal.cast_signed()).collect::<Vec<_>>())
    .bind(jobs.iter().map(|job| i32::from(job.issue)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends jobs whose pages are beyond the end of their books; one that a worker ended stays as it is.
pub async fn trim(
    connection: &mut PgConnection,
    batch: BatchId,
    ordinals: &[u32],
) -> anyhow::Result<()> {
    if ordinals.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE pipeline.jobs SET state = 'empty', reason = $4, ended_at = now()
          WHERE day = $1 AND batch_id = $2 AND ordinal = ANY ($3) AND ended_at IS NULL",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .bind(ordinals.iter().map(|ordinal| ordinal.cast_signed()).collect::<Vec<_>>())
    .bind(EMPTY_BEYOND_LAST_PAGE)
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends open jobs whose rows the transaction has locked.
pub(super) async fn expire(
    connection: &mut PgConnection,
    batch: BatchId,
    ordinals: &[i32],
    reason: &str,
) -> sqlx::Result<()> {
    if ordinals.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE pipeline.jobs SET state = 'expired', reason = $3, ended_at = now()
          WHERE day = $1 AND batch_id = $2 AND ordinal = ANY ($4)",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .bind(reason)
    .bind(ordinals)
    .execute(connection)
    .await?;
    Ok(())
}

/// The broker confirmed these. A job may have ended before this is written.
pub async fn mark_published(store: &Store, batch: BatchId, ordinals: &[u32]) -> anyhow::Result<()> {
    let mut tx = store.begin().await?;
    lock_jobs(&mut tx, batch, ordinals).await?;
    sqlx::query(
        "UPDATE pipeline.jobs
            SET published_at = now(), state = CASE state WHEN 'planned' THEN 'published' ELSE state END
          WHERE day = $1 AND batch_id = $2 AND ordinal = ANY ($3)",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .bind(ordinals.iter().map(|ordinal| ordinal.cast_signed()).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Those of `open` that have ended: what reports told, or would have told if they had not been lost.
pub async fn list_ended(
    pool: &PgPool,
    batch: BatchId,
    open: &[u32],
) -> anyhow::Result<Vec<JobEnd>> {
    let rows: Vec<EndRow> = sqlx::query_as(
        "SELECT ordinal, issue::int AS issue, state, reason, declared_total, coalesce(ads_taken, 0)::int AS ads
           FROM pipeline.jobs
          WHERE day = $1 AND batch_id = $2 AND ordinal = ANY ($3) AND ended_at IS NOT NULL",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .bind(open.iter().map(|ordinal| ordinal.cast_signed()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    rows.iter().map(EndRow::end).collect()
}

#[derive(sqlx::FromRow)]
struct EndRow {
    ordinal: i32,
    issue: i32,
    state: String,
    reason: Option<String>,
    declared_total: Option<i32>,
    ads: i32,
}

impl EndRow {
    fn end(&self) -> anyhow::Result<JobEnd> {
        let state = EndState::from_column(&self.state).with_context(|| {
            format!("pipeline.jobs.state of ordinal {}: {:?}", self.ordinal, self.state)
        })?;
        Ok(JobEnd {
            ordinal: self.ordinal.cast_unsigned(),
            issue: u16::try_from(self.issue)?,
            state,
            reason: self.reason.clone(),
            declared_total: self.declared_total.map(i32::cast_unsigned),
            ads: self.ads.cast_unsigned(),
            listed: None,
        })
    }
}

#[derive(sqlx::FromRow)]
struct JobRow {
    ordinal: i32,
    issue: i32,
    urgent: bool,
    kind: String,
    state: String,
    market_id: Option<i32>,
    fiat_id: Option<i32>,
    page: Option<i32>,
    ads_expected: bool,
    fiat: Option<String>,
    asset: Option<String>,
    side: Option<String>,
    advertiser_id: Option<i32>,
    user_no: Option<String>,
}

impl JobRow {
    fn work(&self) -> anyhow::Result<Work> {
        let fiat = || -> anyhow::Result<(i32, String)> {
            Ok((self.fiat_id.context("fiat_id")?, self.fiat.clone().context("fiat")?))
        };
        let market = || -> anyhow::Result<(i32, Market)> {
            let names = (self.fiat.as_deref(), self.asset.as_deref(), self.side.as_deref());
            let (Some(fiat), Some(asset), Some(side)) = names else {
                bail!("the market is unknown")
            };
            Ok((self.market_id.context("market_id")?, catalog::market(fiat, asset, side)?))
        };
        Ok(match self.kind.as_str() {
            "fiat_list" => Work::FiatList,
            "assets" => {
                let (fiat_id, fiat) = fiat()?;
                Work::Assets { fiat_id, fiat }
            }
            "payment_methods" => {
                let (fiat_id, fiat) = fiat()?;
                Work::PaymentMethods { fiat_id, fiat }
            }
            "search" => {
                let (market_id, market) = market()?;
                let page = self.page.context("page")?.cast_unsigned();
                Work::Search { market_id, market, page, ads_expected: self.ads_expected }
            }
            "witness_ads" => {
                let (market_id, market) = market()?;
                Work::WitnessAds { market_id, market }
            }
            "witness_quote" => {
                let (market_id, market) = market()?;
                Work::WitnessQuote { market_id, market }
            }
            "advertiser" => Work::Advertiser {
                advertiser_id: self.advertiser_id.context("advertiser_id")?,
                user_no: self.user_no.clone().context("user_no")?,
            },
            other => bail!("kind {other:?} is not known"),
        })
    }
}

/// A batch that was begun before.
pub struct Loaded {
    pub ledger: Ledger,
    /// What of it has ended.
    pub ended: Vec<JobEnd>,
    /// Time since a job was last published or ended.
    pub quiet_for: Duration,
}

/// The ledger of a batch that was begun before.
pub async fn load(pool: &PgPool, batch: BatchId, reread_percent: u32) -> anyhow::Result<Loaded> {
    let rows: Vec<JobRow> = sqlx::query_as(
        "SELECT j.ordinal, j.issue::int AS issue, j.urgent, j.kind, j.state, j.market_id, j.fiat_id,
                j.page::int AS page, j.ads_expected, f.currency_code AS fiat, a.symbol AS asset,
                m.trade_type AS side, j.advertiser_id, d.user_no
           FROM pipeline.jobs j
           LEFT JOIN warehouse.dim_markets m ON m.market_id = j.market_id
           LEFT JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = coalesce(j.fiat_id, m.fiat_id)
           LEFT JOIN warehouse.dim_cryptocurrencies a ON a.crypto_id = m.crypto_id
           LEFT JOIN warehouse.dim_advertisers d ON d.advertiser_id = j.advertiser_id AND d.is_current
          WHERE j.day = $1 AND j.batch_id = $2 ORDER BY j.ordinal",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .fetch_all(pool)
    .await?;
    let mut ledger = Ledger::new(reread_percent);
    for row in &rows {
        let row_error = || format!("pipeline.jobs, batch {batch}, ordinal {}", row.ordinal);
        let job = LedgerJob {
            ordinal: row.ordinal.cast_unsigned(),
            issue: u16::try_from(row.issue).with_context(row_error)?,
            urgent: row.urgent,
            work: row.work().with_context(row_error)?,
        };
        match row.state.as_str() {
            "shed" => ledger.add_shed(job),
            state => ledger.add(job, state != "planned"),
        }
    }
    let ended = list_ended(pool, batch, &ledger.open()).await?;
    let quiet_ms: Option<i64> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM now() - max(greatest(published_at, ended_at))) * 1000)::bigint
           FROM pipeline.jobs WHERE day = $1 AND batch_id = $2",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .fetch_one(pool)
    .await?;
    let quiet_for = Duration::from_millis(quiet_ms.unwrap_or(0).max(0).cast_unsigned());
    Ok(Loaded { ledger, ended, quiet_for })
}

/// Notes that the pages of the batch are planned, with the budget they were planned for and the
/// egresses that it counts on.
pub async fn mark_planned(
    connection: &mut PgConnection,
    batch: BatchId,
    budget: u32,
    egresses: usize,
    at: DateTime<Utc>,
) -> anyhow::Result<()> {
    let marked = sqlx::query(
        "UPDATE pipeline.batches SET planned_at = $2, request_budget = $3, egresses = $4
          WHERE batch_id = $1 AND planned_at IS NULL",
    )
    .bind(batch.raw())
    .bind(at)
    .bind(budget.cast_signed())
    .bind(i32::try_from(egresses).unwrap_or(i32::MAX))
    .execute(connection)
    .await?;
    // Planned twice, a batch would read everything twice.
    ensure!(marked.rows_affected() == 1, "batch {batch} is planned already");
    Ok(())
}
