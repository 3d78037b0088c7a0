//! `p2p gaps`: what should have been read and was not, why, and for how long.
//!
//! - **Slots** that were skipped, or that nobody took and nobody recorded (see [`timeline`]), batches
//!   that read nothing or were never planned, and batches still open past their deadline.
//! - **Markets**: batches in a row without a good reading. Good is a book of which no page was lost or
//!   left out, the rule by which the latest state moves; what drifted or has ads in quarantine was read
//!   to its end. A gap runs from the last good reading to the next, or to the market's delisting, or
//!   is still open. Batches that had no book of the market neither begin nor end a gap: markets
//!   without ads are probed ever more rarely, and a batch that was never planned is a gap of its slot.
//! - **Lists** that were not read.
//!
//! As JSON: [`Gaps`].

use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::format::{self, Table, UNKNOWN, count, counted};
use crate::ops::facts::OpenGaps;
use crate::span::Span;
use crate::timeline::{self, Entry};
use crate::{EXIT_TROUBLE, NotFound};

/// Gaps of markets that a table shows unless told otherwise.
const SHOWN_MARKETS: u32 = 50;
/// How far before the time asked for the last good reading of a gap is looked for: a day costs about
/// as much as the usual time asked for.
const LOOK_BACK: TimeDelta = TimeDelta::days(1);
/// Time that a close may take after the deadline. The coordinator looks at the deadline five times a
/// second, and the close of the whole market takes seconds.
const CLOSE_GRACE: TimeDelta = TimeDelta::seconds(30);
/// Pages of one reason that a table shows, in characters; JSON has them all.
const SHOWN_PAGES_CHARS: usize = 24;

/// Everything that is missing.
#[derive(Debug, Serialize)]
struct Gaps {
    /// The time looked at: slots from here to `now`.
    from: DateTime<Utc>,
    now: DateTime<Utc>,
    /// How far back good readings before `from` were looked for.
    looked_back_to: DateTime<Utc>,
    /// The last day since `from` whose certificates were dropped by age: of the days until then nothing
    /// is known of markets and lists, neither gaps nor that there were none. `None`: all are there.
    dropped_through: Option<NaiveDate>,
    /// The only fiat looked at; `None`: all.
    fiat: Option<String>,
    has_gaps: bool,
    /// Batches and slots in this time, good ones included.
    slots_seen: usize,
    /// Oldest first.
    slots: Vec<SlotGap>,
    /// Open ones first, then the longest; at most `--limit`.
    markets: Vec<MarketGap>,
    /// Of all gaps of markets, those included that are not listed here.
    markets_total: MarketTotals,
    /// Lists not read, those first that were not read since.
    lists: Vec<ListGap>,
    /// What was read to its end and is incomplete all the same; no gap.
    incomplete: Incomplete,
}

/// Why slots are a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum SlotTrouble {
    /// No batch took it, and that is recorded.
    Skipped,
    /// No batch took it, and nobody was there to record that.
    Unrecorded,
    /// Its batch read no page.
    Failed,
    /// Its batch closed before pages were planned: no market was read.
    Unplanned,
    /// Its batch is open past its deadline.
    Overdue,
}

impl SlotTrouble {
    fn as_str(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Unrecorded => "unrecorded",
            Self::Failed => "failed",
            Self::Unplanned => "unplanned",
            Self::Overdue => "overdue",
        }
    }
}

/// Slots in a row that are a gap for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct SlotGap {
    kind: SlotTrouble,
    reason: String,
    slots: u32,
    first_slot: DateTime<Utc>,
    last_slot: DateTime<Utc>,
    /// The batches, where some took the slots.
    batch_ids: Vec<i32>,
    /// Slot of the next batch that read something or still may; `None`: none yet.
    until: Option<DateTime<Utc>>,
    /// From the first slot until then, or until now.
    seconds: i64,
}

/// Batches in a row without a good reading of a market.
#[derive(Debug, Serialize)]
struct MarketGap {
    /// As `USDT/VES BUY`.
    market: String,
    market_id: i32,
    /// Batches that tried and missed something; not those that had no book of the market.
    batches: i64,
    /// Pages missed, summed over these batches.
    pages_missed: i64,
    first_batch_id: i32,
    last_batch_id: i32,
    reasons: Vec<Reason>,
    /// The last good reading before. `None`: never read, or not since `looked_back_to`.
    since: Option<DateTime<Utc>>,
    is_never_read: bool,
    /// The next good reading, or the delisting. `None`: still open.
    until: Option<DateTime<Utc>>,
    /// What ended it: `read`, `delisted`, or `open`.
    ended: String,
    /// Between the two, or until now. `None`: `since` is not known.
    seconds: Option<i64>,
}

/// What was missed for one reason.
#[derive(Debug, Serialize)]
struct Reason {
    /// State and reason of the pages' jobs, as `failed(timeout)`; the book's verdict where the jobs
    /// are gone.
    reason: String,
    batches: i64,
    /// Summed over these batches.
    pages_missed: i64,
    /// Numbers of the pages, as `1-3,7`.
    pages: String,
}

#[derive(Debug, Default, Serialize)]
struct MarketTotals {
    gaps: i64,
    open: i64,
    pages_missed: i64,
}

/// A list that was not read for one reason.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct ListGap {
    /// `fiat_list`, `assets` or `payment_methods`.
    kind: String,
    /// `None`: the list of fiats itself.
    fiat: Option<String>,
    reason: String,
    batches: i64,
    /// First and last time it was not read.
    since: DateTime<Utc>,
    last_at: DateTime<Utc>,
    /// When it was read after that; `None`: not yet.
    until: Option<DateTime<Utc>>,
    /// From the first time until then, or until now.
    seconds: i64,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Incomplete {
    books_drifted: i64,
    /// Ads that these lack by their own estimate.
    ads_missed: i64,
    /// Books of which every page was read and an ad is in quarantine.
    books_with_refused_ads: i64,
    ads_refused: i64,
}

/// Prints what is missing since `since`.
pub async fn run(
    since: Span,
    fiat: Option<&str>,
    limit: Option<u32>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    if let Some(fiat) = fiat {
        check_fiat(&mut snapshot, fiat).await?;
    }
    let limit = limit.unwrap_or(if json { u32::MAX } else { SHOWN_MARKETS });
    let gaps = read(&mut snapshot, since, fiat, limit).await?;
    if json {
        crate::print_json(&gaps)?;
    } else {
        crate::print(&text(&gaps)?)?;
    }
    Ok(if gaps.has_gaps { ExitCode::from(EXIT_TROUBLE) } else { ExitCode::SUCCESS })
}

async fn check_fiat(db: &mut PgConnection, fiat: &str) -> anyhow::Result<()> {
    let known: Vec<String> = sqlx::query_scalar(
        "SELECT currency_code FROM warehouse.dim_fiat_currencies ORDER BY currency_code",
    )
    .fetch_all(db)
    .await?;
    if known.iter().any(|known| known == fiat) {
        return Ok(());
    }
    let allowed = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    Err(NotFound(format!("fiat {fiat:?} is not known: allowed are {allowed}")).into())
}

async fn read(
    db: &mut PgConnection,
    Span(span): Span,
    fiat: Option<&str>,
    limit: u32,
) -> anyhow::Result<Gaps> {
    let now = timeline::now(db).await?;
    let (from, looked_back_to) = (now - span, now - span - LOOK_BACK);
    let entries = timeline::read(db, now, Some(from), u32::MAX).await?;
    let slots = slot_gaps(&entries, now);
    let (markets, markets_total) = list_markets(db, from, looked_back_to, fiat, limit).await?;
    let lists = list_lists(db, from, fiat).await?;
    Ok(Gaps {
        from,
        now,
        looked_back_to,
        dropped_through: dropped_through(db, from).await?,
        fiat: fiat.map(str::to_owned),
        has_gaps: !(slots.is_empty() && markets.is_empty() && lists.is_empty()),
        slots_seen: entries.len(),
        slots,
        markets,
        markets_total,
        lists,
        incomplete: sum_incomplete(db, from, fiat).await?,
    })
}

/// Gaps since `since` that are still open.
pub(crate) async fn count_open(db: &mut PgConnection, since: Span) -> anyhow::Result<OpenGaps> {
    // One, for the totals come with it.
    let gaps = read(db, since, None, 1).await?;
    Ok(OpenGaps {
        slots: gaps.slots.iter().filter(|gap| gap.until.is_none()).count(),
        markets: gaps.markets_total.open,
        lists: gaps.lists.iter().filter(|gap| gap.until.is_none()).count(),
    })
}

async fn dropped_through(
    db: &mut PgConnection,
    from: DateTime<Utc>,
) -> anyhow::Result<Option<NaiveDate>> {
    let dropped = sqlx::query_scalar(
        "SELECT max(last_day) FROM pipeline.dropped_partitions
          WHERE schema_name = 'warehouse' AND table_name = 'books' AND last_day >= $1",
    );
    Ok(dropped.bind(from.date_naive()).fetch_one(db).await?)
}

fn slot_trouble(entry: &Entry, now: DateTime<Utc>) -> Option<SlotTrouble> {
    match entry.state.as_str() {
        "skipped" => Some(SlotTrouble::Skipped),
        "unrecorded" => Some(SlotTrouble::Unrecorded),
        "closed" if entry.planned_at.is_none() => Some(SlotTrouble::Unplanned),
        "closed" if entry.outcome.as_deref() == Some("failed") => Some(SlotTrouble::Failed),
        "open" if entry.deadline_at.is_some_and(|deadline| now - deadline > CLOSE_GRACE) => {
            Some(SlotTrouble::Overdue)
        }
        _ => None,
    }
}

/// The gaps among `entries`, which are in order: runs of one kind and reason.
fn slot_gaps(entries: &[Entry], now: DateTime<Utc>) -> Vec<SlotGap> {
    let mut gaps: Vec<SlotGap> = Vec::new();
    // Gaps from here on have not met a batch that reads.
    let mut first_open = 0;
    let mut is_run = false;
    for entry in entries {
        let Some(kind) = slot_trouble(entry, now) else {
            for gap in &mut gaps[first_open..] {
                gap.until = Some(entry.slot_at);
                gap.seconds = (entry.slot_at - gap.first_slot).num_seconds();
            }
            (first_open, is_run) = (gaps.len(), false);
            continue;
        };
        let progress = crate::batches::progress(entry);
        let reason = progress.or_else(|| entry.reason.clone()).unwrap_or_default();
        match gaps.last_mut().filter(|gap| is_run && gap.kind == kind && gap.reason == reason) {
            Some(gap) => {
                gap.slots += 1;
                gap.last_slot = entry.slot_at;
                gap.batch_ids.extend(entry.batch_id);
            }
            None => gaps.push(SlotGap {
                kind,
                reason,
                slots: 1,
                first_slot: entry.slot_at,
                last_slot: entry.slot_at,
                batch_ids: entry.batch_id.into_iter().collect(),
                until: None,
                seconds: (now - entry.slot_at).num_seconds(),
            }),
        }
        is_run = true;
    }
    gaps
}

#[derive(sqlx::FromRow)]
struct MarketRow {
    market: String,
    market_id: i32,
    batches: i64,
    pages_missed: i64,
    first_batch_id: i32,
    last_batch_id: i32,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    ended: String,
    seconds: Option<i64>,
    is_never_read: bool,
    reasons: Json<Vec<ReasonRow>>,
    total_gaps: i64,
    total_open: i64,
    total_pages: i64,
}

#[derive(Deserialize)]
struct ReasonRow {
    reason: String,
    batches: i64,
    pages_missed: i64,
    pages: Vec<i32>,
}

impl From<MarketRow> for MarketGap {
    fn from(row: MarketRow) -> Self {
        let reason = |reason: ReasonRow| Reason {
            reason: reason.reason,
            batches: reason.batches,
            pages_missed: reason.pages_missed,
            pages: format::pages(&reason.pages),
        };
        Self {
            market: row.market,
            market_id: row.market_id,
            batches: row.batches,
            pages_missed: row.pages_missed,
            first_batch_id: row.first_batch_id,
            last_batch_id: row.last_batch_id,
            reasons: row.reasons.0.into_iter().map(reason).collect(),
            since: row.since,
            is_never_read: row.is_never_read,
            until: row.until,
            ended: row.ended,
            seconds: row.seconds,
        }
    }
}

async fn list_markets(
    db: &mut PgConnection,
    from: DateTime<Utc>,
    looked_back_to: DateTime<Utc>,
    fiat: Option<&str>,
    limit: u32,
) -> anyhow::Result<(Vec<MarketGap>, MarketTotals)> {
    // The planner takes what the statement makes on its way for a handful of rows, and would look for
    // each in all the others.
    sqlx::query("SET LOCAL enable_nestloop = off").execute(&mut *db).await?;
    let rows: Vec<MarketRow> = sqlx::query_as(include_str!("gaps_markets.sql"))
        .bind(crate::EXCHANGE.id())
        .bind(from)
        .bind(fiat)
        .bind(i64::from(limit))
        .bind(looked_back_to)
        .fetch_all(db)
        .await?;
    let totals = rows.first().map_or_else(MarketTotals::default, |row| MarketTotals {
        gaps: row.total_gaps,
        open: row.total_open,
        pages_missed: row.total_pages,
    });
    Ok((rows.into_iter().map(MarketGap::from).collect(), totals))
}

async fn list_lists(
    db: &mut PgConnection,
    from: DateTime<Utc>,
    fiat: Option<&str>,
) -> anyhow::Result<Vec<ListGap>> {
    let lists = sqlx::query_as(include_str!("gaps_lists.sql"));
    Ok(lists.bind(crate::EXCHANGE.id()).bind(from).bind(fiat).fetch_all(db).await?)
}

async fn sum_incomplete(
    db: &mut PgConnection,
    from: DateTime<Utc>,
    fiat: Option<&str>,
) -> anyhow::Result<Incomplete> {
    let incomplete = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE b.verdict = 'drifted') AS books_drifted,
                coalesce(sum(b.estimated_missed) FILTER (WHERE b.verdict = 'drifted'), 0)::bigint AS ads_missed,
                count(*) FILTER (WHERE b.refused_ads > 0) AS books_with_refused_ads,
                coalesce(sum(b.refused_ads), 0)::bigint AS ads_refused
           FROM warehouse.books b
           JOIN pipeline.batches t USING (batch_id)
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
          WHERE b.day >= ($2 AT TIME ZONE 'UTC')::date AND t.slot_at >= $2 AND t.exchange_id = $1
            AND b.pages_lost = 0 AND b.pages_shed = 0 AND (b.verdict = 'drifted' OR b.refused_ads > 0)
            AND ($3::text IS NULL OR f.currency_code = $3)",
    );
    Ok(incomplete.bind(crate::EXCHANGE.id()).bind(from).bind(fiat).fetch_one(db).await?)
}

fn text(gaps: &Gaps) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    if gaps.slots_seen == 0 {
        writeln!(text, "no batch was opened and no slot came due in this time")?;
    } else if !gaps.has_gaps {
        writeln!(text, "no gaps since {}", format::instant(gaps.from))?;
    }
    if !gaps.slots.is_empty() {
        write!(text, "slots:\n{}", slots_table(&gaps.slots))?;
    }
    if !gaps.markets.is_empty() {
        let totals = &gaps.markets_total;
        writeln!(
            text,
            "markets: {}, {} still open, {} missed",
            counted(totals.gaps, "gap", "gaps"),
            count(totals.open),
            counted(totals.pages_missed, "page", "pages"),
        )?;
        write!(text, "{}", markets_table(gaps))?;
        let more = totals.gaps - i64::try_from(gaps.markets.len()).unwrap_or(totals.gaps);
        if more > 0 {
            writeln!(text, "  and {} more, see --limit", count(more))?;
        }
    }
    if !gaps.lists.is_empty() {
        write!(text, "lists:\n{}", lists_table(&gaps.lists))?;
    }
    if let Some(last_day) = gaps.dropped_through {
        writeln!(
            text,
            "days until {last_day} were dropped by age: gaps of markets and lists are not known there"
        )?;
    }
    let incomplete = &gaps.incomplete;
    if incomplete.books_drifted > 0 {
        writeln!(
            text,
            "no gaps, but incomplete: {} drifted while read, {} missed by estimate",
            counted(incomplete.books_drifted, "book", "books"),
            counted(incomplete.ads_missed, "ad", "ads"),
        )?;
    }
    if incomplete.books_with_refused_ads > 0 {
        writeln!(
            text,
            "no gaps, but incomplete: {} with {} in quarantine",
            counted(incomplete.books_with_refused_ads, "book", "books"),
            counted(incomplete.ads_refused, "ad", "ads"),
        )?;
    }
    Ok(text)
}

fn slots_table(slots: &[SlotGap]) -> Table {
    let mut table =
        Table::new(&["first slot", "last slot", ">slots", "what", "until", ">for", "reason"]);
    for gap in slots {
        table.row(vec![
            format::instant(gap.first_slot),
            format::instant(gap.last_slot),
            count(gap.slots),
            gap.kind.as_str().to_owned(),
            gap.until.map_or_else(|| "still open".to_owned(), format::instant),
            format::span(gap.seconds),
            gap.reason.clone(),
        ]);
    }
    table
}

fn markets_table(gaps: &Gaps) -> Table {
    let mut table = Table::new(&[
        "market",
        ">batches",
        ">pages",
        "last read",
        "until",
        ">for",
        "reasons and pages",
    ]);
    for gap in &gaps.markets {
        let last_read = match gap.since {
            Some(since) => format::instant(since),
            None if gap.is_never_read => "never".to_owned(),
            None => format!("before {}", format::instant(gaps.looked_back_to)),
        };
        let until = match (gap.until, gap.ended.as_str()) {
            (None, _) => "still open".to_owned(),
            (Some(_), "delisted") => "delisted".to_owned(),
            (Some(until), _) => format::instant(until),
        };
        table.row(vec![
            gap.market.clone(),
            count(gap.batches),
            count(gap.pages_missed),
            last_read,
            until,
            gap.seconds.map_or_else(|| UNKNOWN.to_owned(), format::span),
            gap.reasons.iter().map(reason_cell).collect::<Vec<_>>().join("; "),
        ]);
    }
    table
}

/// `shed(budget) ×3 1-4`: the reason, in how many batches, of which pages.
fn reason_cell(reason: &Reason) -> String {
    let batches =
        if reason.batches > 1 { format!(" ×{}", count(reason.batches)) } else { String::new() };
    let pages: String = reason.pages.chars().take(SHOWN_PAGES_CHARS).collect();
    let more = if pages.len() < reason.pages.len() { "…" } else { "" };
    format!("{}{batches} {pages}{more}", reason.reason).trim_end().to_owned()
}

fn lists_table(lists: &[ListGap]) -> Table {
    let mut table =
        Table::new(&["list", "fiat", ">batches", "first lost", "read again", ">for", "reason"]);
    for list in lists {
        table.row(vec![
            list.kind.clone(),
            list.fiat.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
            count(list.batches),
            format::instant(list.since),
            list.until.map_or_else(|| "not yet".to_owned(), format::instant),
            format::span(list.seconds),
            list.reason.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-22T{text}:00Z").parse().unwrap()
    }

    fn entry(slot: &str, state: &str, reason: Option<&str>) -> Entry {
        Entry {
            slot_at: at(slot),
            state: state.into(),
            reason: reason.map(Into::into),
            ..Entry::default()
        }
    }

    fn batch(slot: &str, outcome: &str) -> Entry {
        Entry {
            batch_id: Some(1),
            outcome: Some(outcome.into()),
            planned_at: Some(at(slot)),
            ..entry(slot, "closed", None)
        }
    }

    /// Kind, slots, until and seconds of each gap.
    fn gaps(entries: &[Entry]) -> Vec<(SlotTrouble, u32, Option<DateTime<Utc>>, i64)> {
        let gaps = slot_gaps(entries, at("12:00"));
        gaps.iter().map(|gap| (gap.kind, gap.slots, gap.until, gap.seconds)).collect()
    }

    #[test]
    fn slots_in_a_row_are_one_gap_until_a_batch_reads() {
        let entries = [
            batch("10:00", "complete"),
            entry("10:10", "skipped", Some("missed")),
            entry("10:20", "skipped", Some("missed")),
            entry("10:30", "skipped", Some("late")),
            batch("10:40", "partial"),
            entry("10:50", "skipped", Some("late")),
        ];
        let read = Some(at("10:40"));
        assert_eq!(
            gaps(&entries),
            [
                (SlotTrouble::Skipped, 2, read, 1800),
                (SlotTrouble::Skipped, 1, read, 600),
                (SlotTrouble::Skipped, 1, None, 4200),
            ]
        );
    }

    #[test]
    fn a_batch_that_reads_parts_gaps_of_one_reason() {
        let skipped = |slot| entry(slot, "skipped", Some("missed"));
        let entries = [skipped("10:00"), batch("10:10", "complete"), skipped("10:20")];
        assert_eq!(gaps(&entries).len(), 2);
    }

    #[test]
    fn batches_that_read_nothing_are_gaps() {
        let unplanned = Entry { planned_at: None, ..batch("10:00", "failed") };
        let open =
            |deadline| Entry { deadline_at: Some(at(deadline)), ..entry("10:20", "open", None) };
        let kinds = |entries: &[Entry]| gaps(entries).iter().map(|gap| gap.0).collect::<Vec<_>>();
        assert_eq!(
            kinds(&[unplanned, batch("10:10", "failed"), open("11:59")]),
            [SlotTrouble::Unplanned, SlotTrouble::Failed, SlotTrouble::Overdue]
        );
        assert_eq!(kinds(&[open("12:00")]), [], "a close takes its time");
    }
}
