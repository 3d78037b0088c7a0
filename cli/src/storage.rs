//! `p2p storage`: what the database holds, how large it is, and what a reading costs.
//!
//! A reading is one ad read once. Bytes per reading are the bytes of the fact tables (ads, pages,
//! certificates, with indexes) over the readings of the closed batches of the days that are kept: the
//! batches recorded their sums, so that costs as much as there are batches and not as there are ads.
//!
//! As JSON: [`Storage`].

use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::format::{Table, UNKNOWN, bytes, count, counted};

/// Tables up to this size are counted; of larger ones the planner's estimate is told. Sixteen MiB are
/// counted in a few hundredths of a second.
const COUNTED_BYTES: i64 = 16 << 20;

/// Everything in the schemas `warehouse` and `pipeline`.
#[derive(Debug, Serialize)]
struct Storage {
    now: DateTime<Utc>,
    /// Bytes of all relations listed.
    total_bytes: i64,
    /// The largest first.
    relations: Vec<Relation>,
    facts: Facts,
    dropped: Dropped,
}

/// A table, with all its partitions.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Relation {
    relation: String,
    is_partitioned: bool,
    partitions: i64,
    /// Days for which there are partitions, those made ahead included.
    oldest_day: Option<NaiveDate>,
    newest_day: Option<NaiveDate>,
    /// `None`: no partition was ever analyzed.
    rows: Option<i64>,
    /// Whether they were counted; otherwise they are the planner's estimate.
    #[sqlx(default)]
    is_exact: bool,
    /// Partitions that were never analyzed: their rows are missing in the estimate.
    not_analyzed: i64,
    heap_bytes: i64,
    index_bytes: i64,
    toast_bytes: i64,
    /// All of it, with the maps of free space.
    total_bytes: i64,
    /// Of the heap, indexes and long values together. `None`: no rows, or not known.
    #[sqlx(default)]
    #[serde(with = "rust_decimal::serde::str_option")]
    bytes_per_row: Option<Decimal>,
    /// Whether readings are made of it.
    #[serde(skip)]
    is_fact: bool,
}

/// What a reading costs.
#[derive(Debug, Serialize)]
struct Facts {
    /// Bytes of the fact tables.
    bytes: i64,
    /// Ads read, summed over the closed batches of the days kept; an ad that one book lists twice
    /// counts once.
    readings: i64,
    batches: i64,
    /// Batches of these days without a sum: still open, or of an old program.
    batches_without_sum: i64,
    /// `None`: nothing was read.
    #[serde(with = "rust_decimal::serde::str_option")]
    bytes_per_reading: Option<Decimal>,
}

/// What was dropped, by age or for want of room.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Dropped {
    partitions: i64,
    bytes: i64,
    /// Days before this one are gone, of some table at least. `None`: nothing was dropped.
    last_day: Option<NaiveDate>,
    /// Partitions that are to go and are still read.
    waiting: i64,
}

/// Prints sizes and rows of everything.
pub async fn run(json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let storage = read(&mut snapshot).await?;
    if json {
        crate::print_json(&storage)?;
    } else {
        crate::print(&text(&storage)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn read(db: &mut PgConnection) -> anyhow::Result<Storage> {
    let mut relations: Vec<Relation> =
        sqlx::query_as(include_str!("storage.sql")).fetch_all(&mut *db).await?;
    for relation in &mut relations {
        if relation.heap_bytes <= COUNTED_BYTES {
            // The name comes quoted from the database.
            let statement = AssertSqlSafe(format!("SELECT count(*) FROM {}", relation.relation));
            relation.rows = Some(sqlx::query_scalar(statement).fetch_one(&mut *db).await?);
            relation.is_exact = true;
            relation.not_analyzed = 0;
        }
        let is_known = relation.not_analyzed == 0;
        relation.bytes_per_row =
            relation.rows.filter(|_| is_known).and_then(|rows| per(relation.total_bytes, rows));
    }
    let facts = read_facts(db, &relations).await?;
    let dropped = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE dropped_at IS NOT NULL) AS partitions,
                coalesce(sum(bytes) FILTER (WHERE dropped_at IS NOT NULL), 0)::bigint AS bytes,
                max(last_day) FILTER (WHERE dropped_at IS NOT NULL) AS last_day,
                count(*) FILTER (WHERE dropped_at IS NULL) AS waiting
           FROM pipeline.dropped_partitions",
    );
    Ok(Storage {
        now: crate::timeline::now(db).await?,
        total_bytes: relations.iter().map(|relation| relation.total_bytes).sum(),
        facts,
        dropped: dropped.fetch_one(db).await?,
        relations,
    })
}

async fn read_facts(db: &mut PgConnection, relations: &[Relation]) -> anyhow::Result<Facts> {
    let facts = || relations.iter().filter(|relation| relation.is_fact);
    let bytes = facts().map(|relation| relation.total_bytes).sum();
    // A day that is half dropped is no day that is kept.
    let oldest = facts().filter_map(|relation| relation.oldest_day).max();
    let (readings, batches, batches_without_sum): (i64, i64, i64) = sqlx::query_as(
        "SELECT coalesce(sum(ads), 0)::bigint, count(*), count(*) FILTER (WHERE ads IS NULL)
           FROM pipeline.batches WHERE day >= $1",
    )
    .bind(oldest)
    .fetch_one(db)
    .await?;
    let bytes_per_reading = per(bytes, readings);
    Ok(Facts { bytes, readings, batches, batches_without_sum, bytes_per_reading })
}

/// With one decimal; `None` for a share of nothing.
fn per(bytes: i64, number: i64) -> Option<Decimal> {
    Decimal::from(bytes).checked_div(Decimal::from(number)).map(|share| share.round_dp(1))
}

fn text(storage: &Storage) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let mut table = Table::new(&[
        "relation",
        ">parts",
        ">oldest",
        ">newest",
        ">rows",
        ">heap",
        ">indexes",
        ">long",
        ">total",
        ">bytes/row",
    ]);
    let day = |day: Option<NaiveDate>| day.map_or_else(|| UNKNOWN.into(), |day| day.to_string());
    for relation in &storage.relations {
        let rows = match relation.rows {
            Some(rows) if relation.is_exact => count(rows),
            Some(rows) if relation.not_analyzed == 0 => format!("~{}", count(rows)),
            Some(rows) => format!(">~{}", count(rows)),
            None => UNKNOWN.to_owned(),
        };
        let per_row = relation.bytes_per_row.map_or_else(|| UNKNOWN.into(), |per| per.to_string());
        table.row(vec![
            relation.relation.clone(),
            if relation.is_partitioned { count(relation.partitions) } else { String::new() },
            if relation.is_partitioned { day(relation.oldest_day) } else { String::new() },
            if relation.is_partitioned { day(relation.newest_day) } else { String::new() },
            rows,
            bytes(relation.heap_bytes),
            bytes(relation.index_bytes),
            bytes(relation.toast_bytes),
            bytes(relation.total_bytes),
            per_row,
        ]);
    }
    writeln!(text, "\n{table}")?;
    writeln!(text, "  total {}", bytes(storage.total_bytes))?;
    let facts = &storage.facts;
    let per_reading =
        facts.bytes_per_reading.map_or_else(|| UNKNOWN.to_owned(), |per| per.to_string());
    writeln!(
        text,
        "  {per_reading} bytes per reading: {} of facts, {} readings in {}",
        bytes(facts.bytes),
        count(facts.readings),
        counted(facts.batches, "batch", "batches")
    )?;
    if facts.batches_without_sum > 0 {
        writeln!(text, "  {} of these without a sum", count(facts.batches_without_sum))?;
    }
    let dropped = &storage.dropped;
    if let Some(last_day) = dropped.last_day {
        writeln!(
            text,
            "  dropped: {}, {}, up to {last_day}",
            counted(dropped.partitions, "partition", "partitions"),
            bytes(dropped.bytes)
        )?;
    }
    if dropped.waiting > 0 {
        let waiting = counted(dropped.waiting, "partition is", "partitions are");
        writeln!(text, "  {waiting} to be dropped and may still be read")?;
    }
    writeln!(text, "  ~ an estimate of the planner; >~ without partitions never analyzed")?;
    Ok(text)
}
