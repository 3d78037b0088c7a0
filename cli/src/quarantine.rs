//! `p2p quarantine`: what could not be taken, and what to do about it.
//!
//! As JSON: lists of [`Entry`], one [`Shown`], and what became of each entry that was retried.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use coordinator::store::remake;
use serde::Serialize;
use sqlx::PgPool;
use worker::replay::Lock;
use worker::replay::quarantine::{self, Outcome, Retried};

use crate::format::{self, Table, UNKNOWN};
use crate::replay::{explain, who};
use crate::span::Span;
use crate::{EXCHANGE, EXIT_TROUBLE, NotAllowed, NotFound};

/// Characters of a detail that a table shows; JSON has them all.
const SHOWN_DETAIL_CHARS: usize = 60;

/// Where entries stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    Open,
    Resolved,
    Discarded,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
        }
    }
}

/// Which entries are meant.
#[derive(Args)]
pub struct Filter {
    /// Only of this class, for example `missing_field` or unparsable.
    #[arg(long)]
    reason: Option<String>,
    /// Only of markets and lists of this fiat, for example VES.
    #[arg(long)]
    fiat: Option<String>,
    /// Only in this state; retry takes open ones.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only of this batch.
    #[arg(long)]
    batch: Option<i32>,
    /// Only what was refused since then: 90m, 24h, 7d.
    #[arg(long)]
    since: Option<Span>,
}

/// An entry, without its bytes.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub struct Entry {
    quarantine_id: i64,
    state: String,
    batch_id: i32,
    ordinal: i32,
    /// `ad`: one ad of a page. `answer`: a whole answer.
    scope: String,
    /// What the job read; `None`: its day was dropped by age.
    kind: Option<String>,
    /// `None`: not of a market.
    market: Option<String>,
    page: Option<i32>,
    /// Index in the answer, from 0; `None`: a whole answer.
    position: Option<i16>,
    adv_no: Option<String>,
    reason: String,
    /// Path of the offending field; `None`: the whole.
    field: Option<String>,
    detail: String,
    parser_version: i16,
    bytes: i32,
    quarantined_at: DateTime<Utc>,
    /// Times that it was parsed again and refused again, and the last of them.
    tries: i32,
    tried_at: Option<DateTime<Utc>>,
    tried_parser_version: Option<i16>,
    tried_reason: Option<String>,
    tried_detail: Option<String>,
    closed_at: Option<DateTime<Utc>>,
    closed_by: Option<String>,
    closed_parser_version: Option<i16>,
    note: Option<String>,
}

/// An entry with its bytes, as far as they are text.
#[derive(Debug, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    entry: Entry,
    body: String,
    /// Whether the bytes are text; what is none is replaced in `body`.
    is_text: bool,
}

async fn select(
    pool: &PgPool,
    ids: Option<&[i64]>,
    filter: Option<&Filter>,
    state: Option<State>,
    limit: i64,
) -> anyhow::Result<Vec<Entry>> {
    let since = filter.and_then(|filter| filter.since).map(|Span(span)| Utc::now() - span);
    let entries = sqlx::query_as(
        "SELECT q.quarantine_id, q.state, q.batch_id, q.ordinal, q.scope, j.kind,
                a.symbol || '/' || f.currency_code || ' ' || m.trade_type AS market, j.page::int AS page, q.position,
                q.adv_no, q.reason, q.field, q.detail, q.parser_version, octet_length(q.body) AS bytes,
                q.quarantined_at, q.tries, q.tried_at, q.tried_parser_version, q.tried_reason, q.tried_detail,
                q.closed_at, q.closed_by, q.closed_parser_version, q.note
           FROM pipeline.quarantine q
           LEFT JOIN pipeline.jobs j ON j.day = q.day AND j.batch_id = q.batch_id AND j.ordinal = q.ordinal
           LEFT JOIN warehouse.dim_markets m ON m.market_id = j.market_id
           LEFT JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = coalesce(m.fiat_id, j.fiat_id)
           LEFT JOIN warehouse.dim_cryptocurrencies a ON a.crypto_id = m.crypto_id
          WHERE ($1::bigint[] IS NULL OR q.quarantine_id = ANY ($1))
            AND ($2::text IS NULL OR q.reason = $2)
            AND ($3::text IS NULL OR f.currency_code = $3)
            AND ($4::text IS NULL OR q.state = $4)
            AND ($5::int IS NULL OR q.batch_id = $5)
            AND ($6::timestamptz IS NULL OR q.quarantined_at >= $6)
          ORDER BY q.quarantined_at DESC, q.quarantine_id DESC LIMIT $7",
    )
    .bind(ids)
    .bind(filter.and_then(|filter| filter.reason.as_deref()))
    .bind(filter.and_then(|filter| filter.fiat.as_deref()))
    .bind(state.map(State::as_str))
    .bind(filter.and_then(|filter| filter.batch))
    .bind(since)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(entries)
}

/// Entries that the filter leaves.
pub async fn list(filter: &Filter, limit: u32, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let entries = select(&pool, None, Some(filter), filter.state, i64::from(limit)).await?;
    if json {
        crate::print_json(&entries)?;
    } else if entries.is_empty() {
        crate::print("no entries\n")?;
    } else {
        crate::print(&format!("\n{}\n", table(&entries)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new(&[
        ">id", "state", "refused", ">batch", "market", ">page", ">place", "scope", "reason",
        "field", ">parser", ">bytes", "detail",
    ]);
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
    for entry in entries {
        let detail: String = entry.detail.chars().take(SHOWN_DETAIL_CHARS).collect();
        table.row(vec![
            entry.quarantine_id.to_string(),
            entry.state.clone(),
            format::instant(entry.quarantined_at),
            entry.batch_id.to_string(),
            or_unknown(entry.market.clone().or_else(|| entry.kind.clone())),
            or_unknown(entry.page.map(|page| page.to_string())),
            or_unknown(entry.position.map(|position| position.to_string())),
            entry.scope.clone(),
            entry.reason.clone(),
            or_unknown(entry.field.clone()),
            entry.parser_version.to_string(),
            entry.bytes.to_string(),
            // What an exchange sent may hold anything.
            format::name(&detail),
        ]);
    }
    table
}

/// One entry.
pub async fn show(id: i64, only_body: bool, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let entry = select(&pool, Some(&[id]), None, None, 1).await?.pop();
    let entry = entry.ok_or_else(|| NotFound(format!("entry {id} is not in quarantine")))?;
    let body: Vec<u8> =
        sqlx::query_scalar("SELECT body FROM pipeline.quarantine WHERE quarantine_id = $1")
            .bind(id)
            .fetch_optional(&pool)
            .await?
            .with_context(|| format!("entry {id} was deleted by age meanwhile"))?;
    if only_body {
        crate::print_bytes(&body)?;
        return Ok(ExitCode::SUCCESS);
    }
    let is_text = std::str::from_utf8(&body).is_ok();
    let shown = Shown { entry, body: String::from_utf8_lossy(&body).into_owned(), is_text };
    if json {
        crate::print_json(&shown)?;
    } else {
        crate::print(&text(&shown)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(shown: &Shown) -> Result<String, std::fmt::Error> {
    let entry = &shown.entry;
    let mut text = String::new();
    let place = entry.position.map_or_else(String::new, |position| format!(", place {position}"));
    let page = entry.page.map_or_else(String::new, |page| format!(" page {page}{place}"));
    let of = entry.market.as_deref().or(entry.kind.as_deref()).unwrap_or(UNKNOWN);
    writeln!(text, "entry {}: {} ({})", entry.quarantine_id, entry.state, entry.scope)?;
    writeln!(text, "  from     batch {}, job {}, {of}{page}", entry.batch_id, entry.ordinal)?;
    if let Some(adv_no) = &entry.adv_no {
        writeln!(text, "  ad       {}", format::name(adv_no))?;
    }
    let field = entry.field.as_ref().map_or_else(String::new, |field| format!("{field}: "));
    writeln!(
        text,
        "  refused  {} by parser {}",
        entry.quarantined_at.format("%F %T UTC"),
        entry.parser_version
    )?;
    writeln!(text, "  reason   {}: {field}{}", entry.reason, format::name(&entry.detail))?;
    if let (Some(at), Some(version), Some(reason)) =
        (entry.tried_at, entry.tried_parser_version, &entry.tried_reason)
    {
        let detail = entry.tried_detail.as_deref().unwrap_or_default();
        writeln!(
            text,
            "  tried    {} times, last {} by parser {version}: {reason}: {}",
            entry.tries,
            at.format("%F %T UTC"),
            format::name(detail)
        )?;
    }
    if let Some(at) = entry.closed_at {
        let by = entry.closed_by.as_deref().unwrap_or(UNKNOWN);
        let note = entry.note.as_deref().unwrap_or_default();
        writeln!(text, "  closed   {} by {by}: {note}", at.format("%F %T UTC"))?;
    }
    writeln!(text, "  bytes    {}\n\n{}", entry.bytes, shown.body)?;
    Ok(text)
}

/// What became of a retry.
#[derive(Debug, Serialize)]
struct RetryShown {
    is_applied: bool,
    taken: usize,
    refused: usize,
    /// Neither taken nor refused: superseded, closed before, or impossible.
    other: usize,
    entries: Vec<Retried>,
}

/// Retries these entries, or all open ones that the filter leaves.
pub async fn retry(
    ids: &[i64],
    filter: &Filter,
    dry_run: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let pool =
        if dry_run { crate::connect_checked().await? } else { crate::connect_as_owner().await? };
    if filter.state.is_some_and(|state| state != State::Open) {
        return Err(NotAllowed("only open entries can be retried".to_owned()).into());
    }
    let lock = if dry_run { None } else { Some(Lock::take(&pool).await.map_err(explain)?) };
    let ids = if ids.is_empty() {
        let entries = select(&pool, None, Some(filter), Some(State::Open), i64::MAX).await?;
        // In the order in which they were read, so that pages refer to what earlier pages showed.
        let mut entries: Vec<_> = entries
            .iter()
            .map(|entry| (entry.batch_id, entry.ordinal, entry.position, entry.quarantine_id))
            .collect();
        entries.sort_unstable();
        entries.into_iter().map(|entry| entry.3).collect()
    } else {
        ids.to_vec()
    };
    let by = who(&pool).await?;
    let mut entries = Vec::new();
    let mut missing = Vec::new();
    for id in ids {
        match quarantine::retry(&pool, EXCHANGE, id, !dry_run, &by).await.map_err(explain)? {
            Some(retried) => entries.push(retried),
            None => missing.push(id.to_string()),
        }
    }
    if let Some(lock) = lock {
        remake::run(&pool, &crate::replay::thresholds()?).await?;
        lock.release().await?;
    }
    let number = |outcome| entries.iter().filter(|entry| entry.outcome == outcome).count();
    let (taken, refused) = (number(Outcome::Taken), number(Outcome::Refused));
    let is_fine = refused + number(Outcome::Impossible) == 0;
    let other = entries.len() - taken - refused;
    let shown = RetryShown { is_applied: !dry_run, taken, refused, other, entries };
    if json {
        crate::print_json(&shown)?;
    } else {
        crate::print(&retry_text(&shown)?)?;
    }
    if !missing.is_empty() {
        return Err(NotFound(format!("not in quarantine: {}", missing.join(", "))).into());
    }
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TROUBLE) })
}

fn retry_text(shown: &RetryShown) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for entry in &shown.entries {
        let outcome = match entry.outcome {
            Outcome::Taken if shown.is_applied => "taken",
            Outcome::Taken => "would be taken",
            Outcome::Superseded => "superseded",
            Outcome::Refused => "refused again",
            Outcome::Impossible => "not tried",
            Outcome::Closed => "closed before",
        };
        writeln!(text, "{}: {outcome}: {}", entry.quarantine_id, format::name(&entry.detail))?;
    }
    let RetryShown { taken, refused, other, .. } = shown;
    writeln!(text, "{taken} taken, {refused} refused again, {other} others")?;
    Ok(text)
}

/// Discards entries.
pub async fn discard(ids: &[i64], why: &str) -> anyhow::Result<ExitCode> {
    if why.trim().is_empty() {
        return Err(
            NotAllowed("--why is empty: say why they are not worth taking".to_owned()).into()
        );
    }
    let pool = crate::connect_checked().await?;
    let known = select(&pool, Some(ids), None, None, i64::MAX).await?;
    let is_known = |id: &&i64| known.iter().any(|entry| entry.quarantine_id == **id);
    let missing: Vec<String> =
        ids.iter().filter(|id| !is_known(id)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(NotFound(format!("not in quarantine: {missing}; nothing was discarded")).into());
    }
    let by = who(&pool).await?;
    let discarded = quarantine::discard(&pool, ids, why.trim(), &by).await.map_err(explain)?;
    let mut text = String::new();
    for entry in &known {
        let id = entry.quarantine_id;
        if discarded.contains(&id) {
            writeln!(text, "{id}: discarded")?;
        } else {
            writeln!(text, "{id}: is {} already", entry.state)?;
        }
    }
    crate::print(&text)?;
    let all = discarded.len() == known.len();
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TROUBLE) })
}
