//! `p2p history`: the prices of a market over time, by the function `price_history`. What it has no row
//! for is shown as well: hours and days without a book, slots that no batch took.

use std::collections::HashMap;
use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, TimeDelta, Utc};
use clap::ValueEnum;
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::PgConnection;

use crate::ask::{self, MarketArgs};
use crate::format::{self, Table, UNKNOWN, counted};
use crate::span::Moment;
use crate::{NotAllowed, chart, timeline};

/// What is looked at unless told otherwise.
const DEFAULT_SPAN: TimeDelta = TimeDelta::days(1);
/// The same by the day.
const DEFAULT_SPAN_DAYS: TimeDelta = TimeDelta::days(30);

/// A row for each of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Batch,
    Hour,
    Day,
}

impl By {
    fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// So many of it, in words.
    fn counted(self, number: i64) -> String {
        let (one, many) = match self {
            Self::Batch => ("slot", "slots"),
            Self::Hour => ("hour", "hours"),
            Self::Day => ("day", "days"),
        };
        counted(number, one, many)
    }
}

/// Prices of a market over time.
#[derive(Debug, Serialize)]
struct History {
    market: String,
    by: By,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    /// Steps without a complete book that has ads: an empty market can't be told from a gap by prices.
    gaps: usize,
    /// All steps of the time, gaps included, oldest first.
    steps: Vec<Step>,
}

/// As function `price_history` tells it. Prices `None`: no book with ads of which no page was lost.
#[derive(Clone, Debug, Default, Serialize, sqlx::FromRow)]
struct Step {
    at: DateTime<Utc>,
    books: i32,
    complete_books: i32,
    first_best_price: Option<Decimal>,
    min_best_price: Option<Decimal>,
    max_best_price: Option<Decimal>,
    last_best_price: Option<Decimal>,
    mean_best_price: Option<Decimal>,
    median_price: Option<Decimal>,
    weighted_price: Option<Decimal>,
    ads: Option<Decimal>,
    available_amount: Option<Decimal>,
    spread_ratio: Option<Decimal>,
    outflow_lower: Option<Decimal>,
    outflow_upper: Option<Decimal>,
    /// Why there is no complete book, where that is known.
    gap: Option<String>,
}

/// Prints the history of `market`.
pub async fn run(
    market: &MarketArgs,
    from: Option<Moment>,
    to: Option<Moment>,
    by: By,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let now = timeline::now(&mut snapshot).await?;
    let to = to.map_or(now, |to| to.instant(now));
    let span = if by == By::Day { DEFAULT_SPAN_DAYS } else { DEFAULT_SPAN };
    let from = from.map_or_else(|| to - span, |from| from.instant(now));
    if to < from {
        return Err(NotAllowed("allowed is --from before --to".to_owned()).into());
    }
    let known = list_known(&mut snapshot, market, from, to, by).await?;
    if known.is_empty() {
        let (name, from) = (market.name(), from.format("%F %T UTC"));
        let text = format!("no book of {name} was read from {from} to {}", to.format("%F %T UTC"));
        return Err(crate::NotFound(text).into());
    }
    let steps = match by {
        By::Batch => fill_slots(&mut snapshot, known, now, from, to).await?,
        By::Hour | By::Day => fill_clock(known, from, to, by),
    };
    let gaps = steps.iter().filter(|step| step.complete_books == 0).count();
    let history = History { market: market.name(), by, from, to, gaps, steps };
    if json {
        crate::print_json(&history)?;
    } else {
        crate::print(&text(&history)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_known(
    db: &mut PgConnection,
    market: &MarketArgs,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    by: By,
) -> anyhow::Result<Vec<Step>> {
    // The verdict of a single book that is not complete says why it is a gap.
    sqlx::query_as(
        "SELECT h.*,
                CASE WHEN $6 = 'batch' AND h.complete_books = 0
                     THEN (SELECT k.verdict FROM warehouse.mart_books k
                            WHERE k.market_id = warehouse.market($1, $2, $3) AND k.day = (h.at AT TIME ZONE 'UTC')::date
                              AND k.slot_at = h.at AND k.best_price IS NOT DISTINCT FROM h.last_best_price LIMIT 1) END AS gap
           FROM warehouse.price_history($1, $2, $3, $4, $5, $6) h ORDER BY h.at",
    )
        .bind(&market.fiat)
        .bind(&market.asset)
        .bind(market.side.as_str())
        .bind(from)
        .bind(to)
        .bind(by.as_str())
        .fetch_all(db)
        .await
        .map_err(ask::explain)
}

/// With the slots of which no good book of the market came.
async fn fill_slots(
    db: &mut PgConnection,
    known: Vec<Step>,
    now: DateTime<Utc>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> anyhow::Result<Vec<Step>> {
    let mut known: HashMap<DateTime<Utc>, Step> =
        known.into_iter().map(|step| (step.at, step)).collect();
    let entries = timeline::read(db, now, Some(from), u32::MAX).await?;
    let slots = entries.into_iter().filter(|entry| entry.slot_at <= to && entry.state != "open");
    let mut steps: Vec<Step> = slots
        .map(|entry| match known.remove(&entry.slot_at) {
            Some(step) => step,
            None if entry.state == "closed" => gap(entry.slot_at, "no whole book with ads"),
            None => gap(entry.slot_at, &entry.state),
        })
        .collect();
    // A batch that asks for a slot of its own is in the timeline too; but nothing known may get lost.
    steps.extend(known.into_values());
    steps.sort_by_key(|step| step.at);
    Ok(steps)
}

/// With the hours or days without a book.
fn fill_clock(known: Vec<Step>, from: DateTime<Utc>, to: DateTime<Utc>, by: By) -> Vec<Step> {
    let seconds = if by == By::Day { 86_400 } else { 3600 };
    let mut known = known.into_iter().peekable();
    let mut steps = Vec::new();
    let mut at = from.timestamp() - from.timestamp().rem_euclid(seconds);
    while let Some(step_at) = DateTime::from_timestamp(at, 0).filter(|step_at| *step_at <= to) {
        let step = known.next_if(|step| step.at <= step_at);
        steps.push(match step {
            Some(step) if step.complete_books > 0 => step,
            Some(step) => Step { gap: Some("no complete book with ads".to_owned()), ..step },
            None => gap(step_at, "no book"),
        });
        at += seconds;
    }
    steps
}

fn gap(at: DateTime<Utc>, why: &str) -> Step {
    Step { at, gap: Some(why.to_owned()), ..Step::default() }
}

fn text(history: &History) -> anyhow::Result<String> {
    let steps = &history.steps;
    let mut text = format!(
        "{} by {}: {}, {} without a complete book with ads\n",
        history.market,
        history.by.as_str(),
        history.by.counted(i64::try_from(steps.len())?),
        history.gaps
    );
    let best = line(steps, |step| step.last_best_price);
    let median = line(steps, |step| step.median_price);
    writeln!(text, "best   {best}\nmedian {median}")?;
    let mut table = Table::new(&[
        "from",
        ">books",
        ">best",
        ">low",
        ">high",
        ">median",
        ">ads",
        ">amount",
        ">spread",
        ">left at least",
        ">at most",
        "",
    ]);
    let number = |number: Option<Decimal>| {
        format::decimal_or_unknown(number.map(|number| number.round_dp(8)))
    };
    // A run of steps of which nothing is known is one line.
    for run in steps.chunk_by(|a, b| a.books == 0 && b.books == 0 && a.gap == b.gap) {
        let [first, .., last] = run else {
            table.row(row(&run[0], &number));
            continue;
        };
        let why = first.gap.as_deref().unwrap_or_default();
        let many = history.by.counted(i64::try_from(run.len())?);
        let mut cells = vec![format::instant(first.at), "0".to_owned()];
        cells.resize(11, UNKNOWN.to_owned());
        cells.push(format!("{why}: {many}, the last {}", format::instant(last.at)));
        table.row(cells);
    }
    write!(text, "{table}")?;
    Ok(text)
}

fn line(steps: &[Step], price: impl Fn(&Step) -> Option<Decimal>) -> String {
    let prices: Vec<Option<Decimal>> = steps.iter().map(price).collect();
    let (low, high) = (prices.iter().flatten().min(), prices.iter().flatten().max());
    let number =
        |price: Option<&Decimal>| format::decimal_or_unknown(price.map(|price| price.round_dp(8)));
    format!("{}  {} to {}", chart::sparkline(&prices), number(low), number(high))
}

fn row(step: &Step, number: &impl Fn(Option<Decimal>) -> String) -> Vec<String> {
    vec![
        format::instant(step.at),
        format!("{}/{}", step.complete_books, step.books),
        number(step.last_best_price),
        number(step.min_best_price),
        number(step.max_best_price),
        number(step.median_price),
        format::decimal_or_unknown(step.ads.map(|ads| ads.round_dp(1))),
        number(step.available_amount),
        format::share(step.spread_ratio),
        number(step.outflow_lower),
        number(step.outflow_upper),
        step.gap.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn hours_without_a_book_are_there() {
        let read = |hour: &str, complete_books| Step {
            at: at(hour),
            books: 6,
            complete_books,
            ..Step::default()
        };
        let known = vec![read("2026-11-23T10:00:00Z", 6), read("2026-11-23T12:00:00Z", 0)];
        let steps =
            fill_clock(known, at("2026-11-23T09:30:00Z"), at("2026-11-23T13:00:00Z"), By::Hour);
        let seen: Vec<(i64, Option<&str>)> = steps
            .iter()
            .map(|step| ((step.at - at("2026-11-23T00:00:00Z")).num_hours(), step.gap.as_deref()))
            .collect();
        let (no, none) = (Some("no book"), Some("no complete book with ads"));
        assert_eq!(seen, [(9, no), (10, None), (11, no), (12, none), (13, no)]);
    }
}
