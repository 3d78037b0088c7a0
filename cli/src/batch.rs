//! `p2p batch show`: everything about one batch.
//!
//! As JSON: [`Shown`]. What was kept by day is empty once the day was dropped.

use std::fmt::Write;
use std::process::ExitCode;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::domain::BatchId;
use sqlx::PgConnection;

use crate::NotFound;
use crate::batches;
use crate::format::{self, Table, UNKNOWN, count, count_or_unknown, counted};
use crate::timeline::{self, Entry};

/// Characters of an error in words that a line of a table shows; JSON has them all.
const SHOWN_DETAIL_CHARS: usize = 60;

/// The batch that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The one that runs.
    Open,
    /// The last one that closed.
    Latest,
    Id(i32),
}

/// Neither a number nor one of the words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "allowed are a number as `p2p batches` shows it, `latest`, which is the last one that closed, and `open`"
)]
pub struct BadId;

impl FromStr for Wanted {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "open" => return Ok(Self::Open),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        let id: i32 = text.parse().map_err(|_| BadId)?;
        BatchId::from_raw(id).map(|id| Self::Id(id.raw())).map_err(|_| BadId)
    }
}

/// Everything about one batch.
#[derive(Debug, Serialize)]
struct Shown {
    batch: Entry,
    /// Whether what was kept by day is gone: the lists below are then empty, the quarantine's aside.
    is_day_dropped: bool,
    /// Jobs by kind, state and reason.
    jobs: Vec<Jobs>,
    /// Jobs by the worker that ended them.
    workers: Vec<Worker>,
    /// Errors that requests met, also those after which a further try went well, most first.
    errors: Vec<Met>,
    /// Books by verdict.
    verdicts: Vec<Verdict>,
    /// Books that are neither complete nor empty, those first that lack most pages, then most ads.
    books: Vec<Book>,
    /// How many of them there are, with those that are not listed here.
    books_total: i64,
    /// Jobs that failed or expired, failed ones first.
    lost_jobs: Vec<LostJob>,
    /// How many of them there are, with those that are not listed here.
    lost_jobs_total: i64,
    /// What could not be taken, by scope and reason.
    quarantine: Vec<Quarantined>,
    /// Rules that ads break without being refused, most first.
    warnings: Vec<Warned>,
    /// Quality checks by verdict, the worst first, with their names.
    quality: Vec<Checked>,
    /// Books that the checks hold back.
    books_held: i64,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Jobs {
    /// `fiat_list`, `assets`, `payment_methods` or `search`.
    kind: String,
    state: String,
    reason: Option<String>,
    jobs: i64,
    /// Requests sent by workers that lived to tell.
    requests: i64,
    first_ended_at: Option<DateTime<Utc>>,
    last_ended_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Worker {
    worker_id: String,
    /// `None`: it ended jobs without a request.
    egress_id: Option<String>,
    jobs: i64,
    requests: i64,
    first_ended_at: Option<DateTime<Utc>>,
    last_ended_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Met {
    /// Class of the error, as in metrics.
    error_type: String,
    requests: i64,
    jobs: i64,
    /// Jobs that did not get over it: they failed or expired.
    jobs_lost: i64,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Verdict {
    verdict: String,
    books: i64,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Book {
    /// As `USDT/VES BUY`.
    market: String,
    market_id: i32,
    verdict: String,
    first_total: Option<i32>,
    last_total: Option<i32>,
    pages_planned: i32,
    pages_read: i32,
    pages_lost: i32,
    pages_shed: i32,
    pages_reread: i32,
    distinct_ads: i32,
    refused_ads: i32,
    /// `None`: nothing was read, so nothing is known.
    estimated_missed: Option<i32>,
    span_ms: Option<i32>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct LostJob {
    ordinal: i32,
    kind: String,
    /// Market of a search, fiat of a list; `None`: the list of fiats.
    subject: Option<String>,
    page: Option<i16>,
    state: String,
    /// Class of the failure.
    reason: Option<String>,
    http_status: Option<i16>,
    /// Requests made.
    attempts: i16,
    /// How often it was issued.
    issue: i16,
    worker_id: Option<String>,
    detail: Option<String>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Quarantined {
    /// `ad` or `answer`.
    scope: String,
    reason: String,
    entries: i64,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Warned {
    rule: String,
    ads: i64,
    /// Pages with such ads.
    pages: i64,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Checked {
    /// `fail`, `warn`, `unknown` or `pass`.
    verdict: String,
    checks: Vec<String>,
}

/// Prints one batch, at most `limit` books and jobs of it.
pub async fn show(wanted: Wanted, limit: u32, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let shown = read(&mut snapshot, wanted, i64::from(limit)).await?;
    if json {
        crate::print_json(&shown)?;
    } else {
        crate::print(&text(&shown)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn read(db: &mut PgConnection, wanted: Wanted, limit: i64) -> anyhow::Result<Shown> {
    let Some(batch) = timeline::read_batch(db, wanted).await? else {
        return Err(not_found(db, wanted).await?.into());
    };
    let id = BatchId::from_raw(batch.batch_id.unwrap_or_default())?;
    // By age, which is recorded before anything is gone, or by hand.
    let is_day_dropped = sqlx::query_scalar(
        "SELECT to_regclass('pipeline.jobs_' || to_char($1::date, 'YYYYMMDD')) IS NULL
             OR EXISTS (SELECT FROM pipeline.dropped_partitions
                         WHERE schema_name = 'pipeline' AND table_name = 'jobs'
                           AND $1 BETWEEN first_day AND last_day)",
    );
    Ok(Shown {
        batch,
        is_day_dropped: is_day_dropped.bind(id.day()).fetch_one(&mut *db).await?,
        jobs: list_jobs(db, id).await?,
        workers: list_workers(db, id).await?,
        errors: list_errors(db, id).await?,
        verdicts: list_verdicts(db, id).await?,
        books: list_books(db, id, limit).await?,
        books_total: count_books(db, id).await?,
        lost_jobs: list_lost_jobs(db, id, limit).await?,
        lost_jobs_total: count_lost_jobs(db, id).await?,
        quarantine: list_quarantine(db, id).await?,
        warnings: list_warnings(db, id).await?,
        quality: list_quality(db, id).await?,
        books_held: count_held(db, id).await?,
    })
}

/// The batch that is asked for, by its number.
pub(crate) async fn find(db: &mut PgConnection, wanted: Wanted) -> anyhow::Result<BatchId> {
    match timeline::read_batch(db, wanted).await? {
        Some(batch) => Ok(BatchId::from_raw(batch.batch_id.unwrap_or_default())?),
        None => Err(not_found(db, wanted).await?.into()),
    }
}

async fn not_found(db: &mut PgConnection, wanted: Wanted) -> anyhow::Result<NotFound> {
    let id = match wanted {
        Wanted::Open => return Ok(NotFound("no batch is open".into())),
        Wanted::Latest => return Ok(NotFound("no batch was closed yet".into())),
        Wanted::Id(id) => id,
    };
    let latest = timeline::read_batch(db, Wanted::Latest).await?.and_then(|batch| batch.batch_id);
    let latest = latest
        .map_or_else(String::new, |latest| format!(", the last of which that closed is {latest}"));
    Ok(NotFound(format!(
        "batch {id} is not known: allowed are the numbers that `p2p batches` shows{latest}, `latest`, and `open`"
    )))
}

async fn list_jobs(db: &mut PgConnection, id: BatchId) -> anyhow::Result<Vec<Jobs>> {
    let jobs = sqlx::query_as(
        "SELECT kind, state, reason, count(*) AS jobs, coalesce(sum(attempts), 0)::bigint AS requests,
                min(ended_at) AS first_ended_at, max(ended_at) AS last_ended_at
           FROM pipeline.jobs WHERE day = $1 AND batch_id = $2
          GROUP BY kind, state, reason ORDER BY min(ordinal)",
    );
    Ok(jobs.bind(id.day()).bind(id.raw()).fetch_all(db).await?)
}

async fn list_workers(db: &mut PgConnection, id: BatchId) -> anyhow::Result<Vec<Worker>> {
    let workers = sqlx::query_as(
        "SELECT worker_id, egress_id, count(*) AS jobs, coalesce(sum(attempts), 0)::bigint AS requests,
                min(ended_at) AS first_ended_at, max(ended_at) AS last_ended_at
           FROM pipeline.jobs WHERE day = $1 AND batch_id = $2 AND worker_id IS NOT NULL
          GROUP BY worker_id, egress_id ORDER BY worker_id, egress_id NULLS LAST",
    );
    Ok(workers.bind(id.day()).bind(id.raw()).fetch_all(db).await?)
}

async fn list_errors(db: &mut PgConnection, id: BatchId) -> anyhow::Result<Vec<Met>> {
    let errors = sqlx::query_as(
        "SELECT error_type, count(*) AS requests, count(DISTINCT ordinal) AS jobs,
                count(DISTINCT ordinal) FILTER (WHERE state IN ('failed', 'expired')) AS jobs_lost
           FROM pipeline.jobs, unnest(errors) AS error_type
          WHERE day = $1 AND batch_id = $2 AND errors IS NOT NULL
          GROUP BY error_type ORDER BY requests DESC, error_type",
    );
    Ok(errors.bind(id.day()).bind(id.raw()).fetch_all(db).await?)
}

async fn list_verdicts(db: &mut PgConnection, id: BatchId) -> anyhow::Result<Vec<Verdict>> {
    let verdicts = sqlx::query_as(
        "SELECT verdict, count(*) AS books FROM warehouse.books
          WHERE day = $1 AND batch_id = $2 GROUP BY verdict ORDER BY books DESC, verdict",
    );
    Ok(verdicts.bind(id.day()).bind(id.raw()).fetch_all(db).await?)
}

async fn list_books(db: &mut PgConnection, id: BatchId, limit: i64) -> anyhow::Result<Vec<Book>> {
    let books = sqlx::query_as(
        "SELECT c.symbol || '/' || f.currency_code || ' ' || m.trade_type AS market, b.market_id, b.verdict,
                b.first_total, b.last_total, b.pages_planned, b.pages_read, b.pages_lost, b.pages_shed,
                b.pages_reread, b.distinct_ads, b.refused_ads, b.estimated_missed, b.span_ms
           FROM warehouse.books b
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
           JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
          WHERE b.day = $1 AND b.batch_id = $2 AND b.verdict NOT IN ('complete', 'empty')
          ORDER BY b.pages_lost + b.pages_shed DESC, b.estimated_missed DESC NULLS FIRST, market
          LIMIT $3",
    );
    Ok(books.bind(id.day()).bind(id.raw()).bind(limit).fetch_all(db).await?)
}

async fn count_books(db: &mut PgConnection, id: BatchId) -> anyhow::Result<i64> {
    let books = sqlx::query_scalar(
        "SELECT count(*) FROM warehouse.books
          WHERE day = $1 AND batch_id = $2 AND verdict NOT IN ('complete', 'empty')",
    );
    Ok(books.bind(id.day()).bind(id.raw()).fetch_one(db).await?)
}

async fn list_lost_jobs(
    db: &mut PgConnection,
    id: BatchId,
    limit: i64,
) -> anyhow::Result<Vec<LostJob>> {
    let jobs = sqlx::query_as(
        "SELECT j.ordinal, j.kind,
                CASE WHEN j.market_id IS NOT NULL THEN c.symbol || '/' || f.currency_code || ' ' || m.trade_type
                            WHEN j.kind = 'advertiser' THEN
                                 (SELECT user_no FROM warehouse.dim_advertisers d
                                   WHERE d.advertiser_id = j.advertiser_id AND d.is_current)
                            ELSE f.currency_code END AS subject,
                j.page, j.state, j.reason, j.http_status, j.attempts, j.issue, j.worker_id, j.detail
           FROM pipeline.jobs j
           LEFT JOIN warehouse.dim_markets m ON m.market_id = j.market_id
           LEFT JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = coalesce(j.fiat_id, m.fiat_id)
           LEFT JOIN warehouse.dim_cryptocurrencies c ON c.crypto_id = m.crypto_id
          WHERE j.day = $1 AND j.batch_id = $2 AND j.state IN ('failed', 'expired')
          ORDER BY j.state DESC, j.ordinal LIMIT $3",
    );
    Ok(jobs.bind(id.day()).bind(id.raw()).bind(limit).fetch_all(db).await?)
}

async fn count_lost_jobs(db: &mut PgConnection, id: BatchId) -> anyhow::Result<i64> {
    let jobs = sqlx::query_scalar(
        "SELECT count(*) FROM pipeline.jobs
          WHERE day = $1 AND batch_id = $2 AND state IN ('failed', 'expired')",
    );
    Ok(jobs.bind(id.day()).bind(id.raw()).fetch_one(db).await?)
}

async fn list_quarantine(db: &mut PgConnection, id: BatchId) -> anyhow::Result<Vec<Quarantined>> {
    let quarantine = sqlx::query_as(
        "SELECT scope, reason, count(*) AS entries FROM pipeline.quarantine
          WHERE batch_id = $1 AND state = 'open' GROUP BY scope, reason ORDER BY entries DESC, scope, reason",
    );
    Ok(quarantine.bind(id.raw()).fetch_all(db).await?)
}

async fn list_warnings(db: &mut PgConnection, id: BatchId) -> anyhow::Result<Vec<Warned>> {
    let warnings = sqlx::query_as(
        "SELECT w.key AS rule, sum(w.value::bigint)::bigint AS ads, count(*) AS pages
           FROM pipeline.jobs j, jsonb_each_text(j.warnings) AS w
          WHERE j.day = $1 AND j.batch_id = $2 AND j.warnings IS NOT NULL
          GROUP BY w.key ORDER BY ads DESC, rule",
    );
    Ok(warnings.bind(id.day()).bind(id.raw()).fetch_all(db).await?)
}

async fn list_quality(db: &mut PgConnection, id: BatchId) -> anyhow::Result<Vec<Checked>> {
    let quality = sqlx::query_as(
        "SELECT verdict, array_agg(check_name ORDER BY check_name) AS checks
           FROM pipeline.quality_results WHERE day = $1 AND batch_id = $2
          GROUP BY verdict ORDER BY array_position(ARRAY['fail', 'warn', 'unknown', 'pass'], verdict)",
    );
    Ok(quality.bind(id.day()).bind(id.raw()).fetch_all(db).await?)
}

async fn count_held(db: &mut PgConnection, id: BatchId) -> anyhow::Result<i64> {
    let held = sqlx::query_scalar(
        "SELECT count(*) FROM warehouse.books
          WHERE day = $1 AND batch_id = $2 AND held_reason IS NOT NULL",
    );
    Ok(held.bind(id.day()).bind(id.raw()).fetch_one(db).await?)
}

fn text(shown: &Shown) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    write_batch(&mut text, &shown.batch)?;
    write_quality(&mut text, shown)?;
    if shown.is_day_dropped {
        writeln!(text, "\n  The day of this batch was dropped: its jobs and books are gone.")?;
    }
    section(&mut text, "jobs", &jobs_table(&shown.jobs), 0)?;
    section(&mut text, "workers", &workers_table(&shown.workers), 0)?;
    section(&mut text, "errors met", &errors_table(&shown.errors), 0)?;
    let verdicts: Vec<String> = shown
        .verdicts
        .iter()
        .map(|verdict| format!("{} {}", count(verdict.books), verdict.verdict))
        .collect();
    if !verdicts.is_empty() {
        writeln!(text, "\nbooks: {}", verdicts.join(", "))?;
    }
    let more = |total: i64, listed: usize| total - i64::try_from(listed).unwrap_or(total);
    let books_left = more(shown.books_total, shown.books.len());
    section(&mut text, "books not whole", &books_table(&shown.books), books_left)?;
    let jobs_left = more(shown.lost_jobs_total, shown.lost_jobs.len());
    section(&mut text, "jobs lost", &lost_jobs_table(&shown.lost_jobs), jobs_left)?;
    let mut quarantine = Table::new(&["scope", "reason", ">entries"]);
    for entry in &shown.quarantine {
        quarantine.row(vec![entry.scope.clone(), entry.reason.clone(), count(entry.entries)]);
    }
    section(&mut text, "quarantine", &quarantine, 0)?;
    let mut warnings = Table::new(&["rule", ">ads", ">pages"]);
    for warned in &shown.warnings {
        warnings.row(vec![warned.rule.clone(), count(warned.ads), count(warned.pages)]);
    }
    section(&mut text, "odd, but taken", &warnings, 0)?;
    Ok(text)
}

/// A table under its name, if anything is in it, and how much it leaves out.
fn section(text: &mut String, name: &str, table: &Table, more: i64) -> std::fmt::Result {
    if table.is_empty() {
        return Ok(());
    }
    write!(text, "\n{name}:\n{table}")?;
    if more > 0 {
        writeln!(text, "  and {} more, see --limit", count(more))?;
    }
    Ok(())
}

fn write_batch(text: &mut String, batch: &Entry) -> std::fmt::Result {
    let mut line = |name: &str, value: String| writeln!(text, "  {name:<12}{value}");
    let by = |at: Option<DateTime<Utc>>, who: Option<&String>| {
        let at = full(at);
        who.map_or_else(|| at.clone(), |who| format!("{at} by {who}"))
    };
    line("batch", batch.batch_id.unwrap_or_default().to_string())?;
    line("slot", format!("{} ({})", full(Some(batch.slot_at)), batch.trigger))?;
    line("opened", by(batch.opened_at, batch.opened_by.as_ref()))?;
    line("planned", full(batch.planned_at))?;
    line("deadline", full(batch.deadline_at))?;
    line("closed", by(batch.closed_at, batch.closed_by.as_ref()))?;
    if let Some(ms) = batch.duration_ms {
        line("took", format!("{} s", format::seconds(ms)))?;
    }
    line("outcome", batch.outcome.clone().unwrap_or_else(|| batch.state.clone()))?;
    let progress = batches::progress(batch);
    if let Some(reason) = progress.or_else(|| batch.reason.clone()) {
        line("reason", reason)?;
    }
    let egresses = batch
        .egresses
        .map(|egresses| format!(" over {}", counted(i64::from(egresses), "egress", "egresses")));
    line(
        "budget",
        format!(
            "{} requests{}, {} sent, {} failed",
            count_or_unknown(batch.request_budget),
            egresses.unwrap_or_default(),
            count_or_unknown(batch.requests),
            count_or_unknown(batch.requests_failed)
        ),
    )?;
    if batch.pages_read.is_none() {
        return Ok(());
    }
    line(
        "pages",
        format!(
            "{} read, {} lost, {} shed, {} read again",
            count_or_unknown(batch.pages_read),
            count_or_unknown(batch.pages_lost),
            count_or_unknown(batch.pages_shed),
            count_or_unknown(batch.pages_reread)
        ),
    )?;
    line(
        "ads",
        format!(
            "{} read, {} missed by estimate, {} in quarantine",
            count_or_unknown(batch.ads),
            count_or_unknown(batch.ads_missed),
            count_or_unknown(batch.ads_refused)
        ),
    )?;
    line("lists lost", count_or_unknown(batch.lists_lost))
}

/// Checks that passed are counted, the others named. Nothing where none were made.
fn write_quality(text: &mut String, shown: &Shown) -> std::fmt::Result {
    if shown.quality.is_empty() {
        return Ok(());
    }
    let mut parts: Vec<String> = shown
        .quality
        .iter()
        .map(|checked| match checked.verdict.as_str() {
            "pass" => format!("{} pass", checked.checks.len()),
            verdict => format!("{verdict}: {}", checked.checks.join(" ")),
        })
        .collect();
    if shown.books_held > 0 {
        parts.push(format!("{} held back", counted(shown.books_held, "book", "books")));
    }
    writeln!(text, "  {:<12}{}", "quality", parts.join(", "))
}

fn full(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| UNKNOWN.to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn clock(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| UNKNOWN.to_owned(), |at| at.format("%H:%M:%S").to_string())
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

fn jobs_table(jobs: &[Jobs]) -> Table {
    let mut table =
        Table::new(&["kind", "state", "reason", ">jobs", ">requests", ">first end", ">last end"]);
    for group in jobs {
        table.row(vec![
            group.kind.clone(),
            group.state.clone(),
            or_unknown(group.reason.as_ref()),
            count(group.jobs),
            count(group.requests),
            clock(group.first_ended_at),
            clock(group.last_ended_at),
        ]);
    }
    table
}

fn workers_table(workers: &[Worker]) -> Table {
    let mut table =
        Table::new(&["worker", "egress", ">jobs", ">requests", ">first end", ">last end"]);
    for worker in workers {
        table.row(vec![
            worker.worker_id.clone(),
            or_unknown(worker.egress_id.as_ref()),
            count(worker.jobs),
            count(worker.requests),
            clock(worker.first_ended_at),
            clock(worker.last_ended_at),
        ]);
    }
    table
}

fn errors_table(errors: &[Met]) -> Table {
    let mut table = Table::new(&["error", ">requests", ">jobs", ">jobs lost"]);
    for met in errors {
        table.row(vec![
            met.error_type.clone(),
            count(met.requests),
            count(met.jobs),
            count(met.jobs_lost),
        ]);
    }
    table
}

fn books_table(books: &[Book]) -> Table {
    let mut table = Table::new(&[
        "market", "verdict", ">total", ">last", ">pages", ">read", ">lost", ">shed", ">again",
        ">ads", ">refused", ">missed", ">secs",
    ]);
    for book in books {
        table.row(vec![
            book.market.clone(),
            book.verdict.clone(),
            count_or_unknown(book.first_total),
            count_or_unknown(book.last_total),
            count(book.pages_planned),
            count(book.pages_read),
            count(book.pages_lost),
            count(book.pages_shed),
            count(book.pages_reread),
            count(book.distinct_ads),
            count(book.refused_ads),
            count_or_unknown(book.estimated_missed),
            book.span_ms.map_or_else(|| UNKNOWN.to_owned(), |ms| format::seconds(ms.into())),
        ]);
    }
    table
}

fn lost_jobs_table(jobs: &[LostJob]) -> Table {
    let mut table = Table::new(&[
        ">job", "kind", "of", ">page", "state", "reason", ">http", ">tries", ">issue", "worker",
        "detail",
    ]);
    for job in jobs {
        let detail: String =
            job.detail.as_deref().unwrap_or_default().chars().take(SHOWN_DETAIL_CHARS).collect();
        table.row(vec![
            job.ordinal.to_string(),
            job.kind.clone(),
            or_unknown(job.subject.as_ref()),
            or_unknown(job.page),
            job.state.clone(),
            or_unknown(job.reason.as_ref()),
            or_unknown(job.http_status),
            job.attempts.to_string(),
            job.issue.to_string(),
            or_unknown(job.worker_id.as_ref()),
            // An error may come with the line breaks of an answer.
            detail.replace(char::is_control, " "),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_wanted_by_number_or_word() {
        assert_eq!("latest".parse(), Ok(Wanted::Latest));
        assert_eq!("open".parse(), Ok(Wanted::Open));
        assert_eq!("10639872".parse(), Ok(Wanted::Id(10_639_872)));
        for text in ["", "-1", "last", "99999999999"] {
            assert_eq!(text.parse::<Wanted>(), Err(BadId), "{text}");
        }
    }
}
