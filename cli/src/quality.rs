//! `p2p quality`: what the quality checks said of a batch, and what is ordinary in a market.

use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::Value;
use shared::domain::{Market, MarketError};
use sqlx::PgConnection;

use crate::batch::{self, Wanted};
use crate::format::{self, Table, UNKNOWN, count, decimal, decimal_or_unknown};
use crate::{EXIT_TROUBLE, NotFound};

/// Verdicts of a market that are looked for among so many batches.
const MARKET_BATCHES: i64 = 144;

#[derive(Debug, Serialize)]
struct Shown {
    batch_id: i32,
    slot_at: DateTime<Utc>,
    outcome: String,
    /// By check, in a fixed order; empty: the batch was closed before there were checks.
    checks: Vec<Check>,
    /// Books of this batch that are held back from the latest state.
    held: Vec<Held>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Check {
    check_name: String,
    value: Option<Decimal>,
    threshold: Decimal,
    /// `fatal` or `warning`.
    level: String,
    /// `pass`, `warn`, `fail` or `unknown`.
    verdict: String,
    /// Why nothing can be said.
    reason: Option<String>,
    details: Value,
    checked_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Held {
    market: String,
    market_id: i32,
    reason: String,
    /// Certificate of the book that is held.
    verdict: String,
    ads: i32,
    /// The book that is shown instead; `None`: none.
    shown_batch_id: Option<i32>,
    shown_read_at: Option<DateTime<Utc>>,
}

/// A market as `USDT/VES/BUY`.
pub fn parse_market(text: &str) -> Result<Market, MarketError> {
    let (pair, side) = text.rsplit_once('/').unwrap_or((text, ""));
    let side = side.parse()?;
    let (asset, fiat) = pair.split_once('/').unwrap_or((pair, ""));
    Market::new(fiat, asset, side)
}

/// Prints what the checks said of a batch.
pub async fn run(wanted: Wanted, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let shown = read(&mut snapshot, wanted).await?;
    if json {
        crate::print_json(&shown)?;
    } else {
        crate::print(&text(&shown)?)?;
    }
    let is_good = shown.checks.iter().all(|check| !is_trouble(&check.verdict));
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TROUBLE) })
}

fn is_trouble(verdict: &str) -> bool {
    matches!(verdict, "warn" | "fail")
}

async fn read(db: &mut PgConnection, wanted: Wanted) -> anyhow::Result<Shown> {
    let id = batch::find(db, wanted).await?.raw();
    let batch: Option<(i32, DateTime<Utc>, String)> = sqlx::query_as(
        "SELECT batch_id, slot_at, outcome FROM pipeline.batches
          WHERE state = 'closed' AND batch_id = $1",
    )
    .bind(id)
    .fetch_optional(&mut *db)
    .await?;
    let Some((batch_id, slot_at, outcome)) = batch else {
        return Err(NotFound(format!("batch {id} is open: it is checked when it closes")).into());
    };
    Ok(Shown {
        batch_id,
        slot_at,
        outcome,
        checks: list_checks(db, batch_id).await?,
        held: list_held(db, batch_id).await?,
    })
}

async fn list_checks(db: &mut PgConnection, batch: i32) -> anyhow::Result<Vec<Check>> {
    let checks = sqlx::query_as(
        "SELECT check_name, value, threshold, level, verdict, reason, details, checked_at
           FROM pipeline.quality_results
          WHERE day = DATE '1970-01-01' + ($1 >> 9) AND batch_id = $1
          ORDER BY array_position(ARRAY['completeness', 'price_anomalies', 'volume_consistency', 'duplicates',
                                        'temporal_consistency', 'referential_integrity'], check_name)",
    );
    Ok(checks.bind(batch).fetch_all(db).await?)
}

async fn list_held(db: &mut PgConnection, batch: i32) -> anyhow::Result<Vec<Held>> {
    let held = sqlx::query_as(
        "SELECT c.symbol || '/' || f.currency_code || ' ' || m.trade_type AS market, k.market_id,
                k.held_reason AS reason, k.verdict, k.distinct_ads AS ads,
                l.batch_id AS shown_batch_id, l.read_at AS shown_read_at
           FROM warehouse.books k
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
           JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
           LEFT JOIN warehouse.latest_books l USING (market_id)
          WHERE k.day = DATE '1970-01-01' + ($1 >> 9) AND k.batch_id = $1 AND k.held_reason IS NOT NULL
          ORDER BY market",
    );
    Ok(held.bind(batch).fetch_all(db).await?)
}

fn text(shown: &Shown) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "batch {} of {}, {}",
        shown.batch_id,
        format::instant(shown.slot_at),
        shown.outcome
    )?;
    if shown.checks.is_empty() {
        writeln!(
            text,
            "\n  It has no quality checks: closed before there were any, or dropped by age."
        )?;
        return Ok(text);
    }
    let mut table = Table::new(&["check", ">value", ">threshold", "level", "verdict", "why"]);
    for check in &shown.checks {
        table.row(vec![
            check.check_name.clone(),
            decimal_or_unknown(check.value),
            decimal(check.threshold),
            check.level.clone(),
            check.verdict.clone(),
            check.reason.clone().unwrap_or_default().replace(char::is_control, " "),
        ]);
    }
    write!(text, "\n{table}")?;
    if !shown.held.is_empty() {
        let mut table =
            Table::new(&["market", "reason", "certificate", ">ads", ">shown instead", "read at"]);
        for held in &shown.held {
            table.row(vec![
                held.market.clone(),
                held.reason.clone(),
                held.verdict.clone(),
                count(held.ads),
                held.shown_batch_id.map_or_else(|| UNKNOWN.to_owned(), |id| id.to_string()),
                held.shown_read_at.map_or_else(|| UNKNOWN.to_owned(), format::instant),
            ]);
        }
        write!(text, "\nheld back, the last good state is shown:\n{table}")?;
    }
    for check in shown.checks.iter().filter(|check| is_trouble(&check.verdict)) {
        write_details(&mut text, check)?;
    }
    Ok(text)
}

/// The markets that a verdict rests on, as the check wrote them.
fn write_details(text: &mut String, check: &Check) -> std::fmt::Result {
    let markets = check.details["markets"].as_array().map(Vec::as_slice).unwrap_or_default();
    writeln!(text, "\n{}:", check.check_name)?;
    for market in markets {
        let name = market["market"].as_str().unwrap_or(UNKNOWN);
        let facts: Vec<String> = market
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| !key.starts_with("market") && !value.is_null())
            .map(|(key, value)| format!("{key} {}", plain(value)))
            .collect();
        writeln!(text, "  {name:<16} {}", facts.join(", "))?;
    }
    let left_out = check.details["left_out"].as_i64().unwrap_or_default();
    if left_out > 0 {
        writeln!(text, "  and {} more", count(left_out))?;
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[derive(Debug, Serialize)]
struct OfMarket {
    market: String,
    market_id: i32,
    /// `None`: no book taught what is ordinary yet.
    baseline: Option<Baseline>,
    /// The hours of the week, from Monday 00:00 UTC, that were read.
    hours: Vec<Hour>,
    /// What checks said of it, newest first.
    verdicts: Vec<Said>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Baseline {
    fed_at: Option<DateTime<Utc>>,
    cycles: i32,
    recent_prices: Vec<Decimal>,
    recent_ads: Vec<i32>,
    day_ads: Option<Decimal>,
    day_amount: Option<Decimal>,
    suspicions: i16,
    suspected_ads: Option<i32>,
    /// The book that is shown, and why none of a newer batch.
    shown_batch_id: Option<i32>,
    newer_batch_id: Option<i32>,
    newer_reason: Option<String>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Hour {
    hour_of_week: i16,
    books: i32,
    ads: Decimal,
    amount: Decimal,
    spread_ratio: Option<Decimal>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Said {
    batch_id: i32,
    check_name: String,
    verdict: String,
    details: Value,
}

/// Prints what is ordinary in a market and what was last said of it. `limit`: most verdicts.
pub async fn market(market: &Market, limit: u32, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let shown = read_market(&mut snapshot, market, i64::from(limit)).await?;
    if json {
        crate::print_json(&shown)?;
    } else {
        crate::print(&market_text(&shown)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn read_market(
    db: &mut PgConnection,
    market: &Market,
    limit: i64,
) -> anyhow::Result<OfMarket> {
    let id: Option<i32> = sqlx::query_scalar(
        "SELECT market_id FROM warehouse.dim_markets m
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
           JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
          WHERE f.currency_code = $1 AND c.symbol = $2 AND m.trade_type = $3",
    )
    .bind(&market.fiat)
    .bind(&market.asset)
    .bind(market.side.as_str())
    .fetch_optional(&mut *db)
    .await?;
    let market = market.to_string();
    let Some(market_id) = id else {
        return Err(NotFound(format!("market {market} is not known")).into());
    };
    let baseline = sqlx::query_as(
        "SELECT b.*, l.batch_id AS shown_batch_id, l.newer_batch_id, l.newer_reason
           FROM pipeline.market_baselines b LEFT JOIN warehouse.latest_books l USING (market_id)
          WHERE b.market_id = $1",
    );
    let hours = sqlx::query_as(
        "SELECT hour_of_week, books, ads, amount, spread_ratio FROM pipeline.market_baseline_hours
          WHERE market_id = $1 ORDER BY hour_of_week",
    );
    let verdicts = sqlx::query_as(
        "SELECT q.batch_id, q.check_name, q.verdict, e AS details
           FROM pipeline.quality_results q
          CROSS JOIN LATERAL jsonb_array_elements(q.details -> 'markets') AS e
          WHERE q.batch_id IN (SELECT batch_id FROM pipeline.batches WHERE state = 'closed'
                                ORDER BY batch_id DESC LIMIT $3)
            AND (e ->> 'market_id')::integer = $1
          ORDER BY q.batch_id DESC, q.check_name LIMIT $2",
    );
    Ok(OfMarket {
        market,
        market_id,
        baseline: baseline.bind(market_id).fetch_optional(&mut *db).await?,
        hours: hours.bind(market_id).fetch_all(&mut *db).await?,
        verdicts: verdicts.bind(market_id).bind(limit).bind(MARKET_BATCHES).fetch_all(db).await?,
    })
}

fn market_text(shown: &OfMarket) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "{}", shown.market)?;
    match &shown.baseline {
        None => writeln!(text, "\n  No whole book was read yet: nothing is ordinary.")?,
        Some(baseline) => write_baseline(&mut text, baseline)?,
    }
    if !shown.hours.is_empty() {
        let mut table = Table::new(&["hour (UTC)", ">books", ">ads", ">amount", ">spread"]);
        for hour in &shown.hours {
            table.row(vec![
                hour_of_week(hour.hour_of_week),
                count(hour.books),
                decimal(hour.ads.round_dp(1)),
                decimal(hour.amount.round_dp(2)),
                format::share(hour.spread_ratio),
            ]);
        }
        write!(text, "\nby hour of the week:\n{table}")?;
    }
    if !shown.verdicts.is_empty() {
        writeln!(text, "\nlast said of it, newest first:")?;
    }
    for said in &shown.verdicts {
        writeln!(
            text,
            "  {} {} {}: {}",
            said.batch_id, said.check_name, said.verdict, said.details
        )?;
    }
    Ok(text)
}

fn write_baseline(text: &mut String, baseline: &Baseline) -> std::fmt::Result {
    let mut line = |name: &str, value: String| writeln!(text, "  {name:<14}{value}");
    let list = |numbers: Vec<String>| {
        if numbers.is_empty() { UNKNOWN.to_owned() } else { numbers.join(" ") }
    };
    line("learned of", format!("{} books", count(baseline.cycles)))?;
    line("last", baseline.fed_at.map_or_else(|| UNKNOWN.to_owned(), format::instant))?;
    line("prices", list(baseline.recent_prices.iter().copied().map(decimal).collect()))?;
    line("ads", list(baseline.recent_ads.iter().map(|ads| count(*ads)).collect()))?;
    let rounded = |number: Option<Decimal>| decimal_or_unknown(number.map(|n| n.round_dp(2)));
    let (ads, amount) = (rounded(baseline.day_ads), rounded(baseline.day_amount));
    line("24 hours", format!("{ads} ads, {amount} on offer"))?;
    let shown = baseline.shown_batch_id.map_or_else(|| UNKNOWN.to_owned(), |id| id.to_string());
    let newer = baseline.newer_batch_id.zip(baseline.newer_reason.as_ref());
    let newer = newer.map(|(batch, reason)| format!(", batch {batch} is not: {reason}"));
    line("shown", format!("batch {shown}{}", newer.unwrap_or_default()))?;
    if baseline.suspicions > 0 {
        let ads = baseline.suspected_ads.map_or_else(|| UNKNOWN.to_owned(), count);
        line("suspect", format!("{} readings, the last of {ads} ads", baseline.suspicions))?;
    }
    Ok(())
}

/// `Mon 00:00` for 0.
fn hour_of_week(hour: i16) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let day = usize::try_from(hour / 24).ok().and_then(|day| DAYS.get(day));
    format!("{} {:02}:00", day.unwrap_or(&UNKNOWN), hour % 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markets_are_asset_fiat_and_side() {
        assert_eq!(parse_market("USDT/VES/buy").unwrap().to_string(), "USDT/VES BUY");
        for text in ["", "USDT", "USDT/VES", "USDT/VES/UP", "USDT//BUY", "VES/BUY"] {
            assert!(parse_market(text).is_err(), "{text}");
        }
    }

    #[test]
    fn weeks_begin_on_monday() {
        assert_eq!([0, 25, 167].map(hour_of_week), ["Mon 00:00", "Tue 01:00", "Sun 23:00"]);
    }
}
