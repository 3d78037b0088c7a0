//! What a close makes of facts, made again for batches whose facts were corrected: certificates, marts, sums
//! and outcome, latest state, and what the planner knows.
//!
//! Who corrects facts notes the books in `pipeline.remakes`, in the same transaction; here the notes are
//! worked off, and ticked off last. Every step may be done twice, so whoever is killed is finished by
//! the next one.
//!
//! The marts of a day are made beside the warehouse, in temporary tables and by the very statements of the
//! close, and take their place in a moment, so that neither readers nor a closing batch wait for them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use chrono::NaiveDate;
use shared::domain::BatchId;
use sqlx::{PgConnection, PgPool};

use super::close;
use super::listed;
use super::marts;
use super::quality::{self, Pass};
use crate::quality::Thresholds;

/// Tries to put marts in their place while batches of the same day close.
const MAX_TRIES: u32 = 5;

/// What was made again.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Remade {
    pub batches: u64,
    pub books: u64,
    /// Days of which marts were made again: those of the batches, and those of the books after them, whose
    /// flows are counted from these.
    pub days: Vec<NaiveDate>,
}

/// Makes again what is noted. Nothing noted: nothing done.
///
/// # Errors
/// If the database can't be used, or batches close so often that the marts never fit.
pub async fn run(pool: &PgPool, thresholds: &Thresholds) -> anyhow::Result<Remade> {
    let notes: Vec<(i32, i32)> = sqlx::query_as(
        "SELECT batch_id, market_id FROM pipeline.remakes WHERE made_at IS NULL ORDER BY batch_id, market_id",
    )
    .fetch_all(pool)
    .await?;
    let mut batches: BTreeMap<BatchId, BTreeSet<i32>> = BTreeMap::new();
    for (batch, market) in &notes {
        batches.entry(BatchId::from_raw(*batch)?).or_default().insert(*market);
    }
    // What was dropped by age since cannot be made again, and keeps its marts as they are.
    let kept = list_kept(pool, &batches.keys().map(|batch| batch.day()).collect()).await?;
    batches.retain(|batch, _| kept.contains(&batch.day()));
    for batch in batches.keys() {
        certify(pool, *batch).await.with_context(|| format!("batch {batch}"))?;
    }
    let mut markets: BTreeSet<i32> = batches.values().flatten().copied().collect();
    markets.remove(&NO_BOOK);
    let markets: Vec<i32> = markets.into_iter().collect();
    let days: BTreeSet<NaiveDate> = batches.keys().map(|batch| batch.day()).collect();
    let books = batches.values().map(BTreeSet::len).sum::<usize>();
    let mut remade =
        Remade { batches: batches.len() as u64, books: books as u64, days: Vec::new() };
    if !markets.is_empty() {
        let markets = with_other_sides(pool, &markets).await?;
        for day in with_days_after(pool, &markets, &days).await? {
            remake_day(pool, day, &markets).await.with_context(|| format!("marts of {day}"))?;
            remade.days.push(day);
        }
        for batch in batches.keys() {
            check(pool, *batch, thresholds).await.with_context(|| format!("batch {batch}"))?;
        }
        if let Some(first) = days.first() {
            tell_latest(pool, &markets, *first).await?;
        }
    }
    for batch in batches.keys() {
        sum_up(pool, *batch).await.with_context(|| format!("batch {batch}"))?;
    }
    tick_off(pool, &notes).await?;
    Ok(remade)
}

/// Those of the days whose facts are there.
async fn list_kept(
    pool: &PgPool,
    days: &BTreeSet<NaiveDate>,
) -> anyhow::Result<BTreeSet<NaiveDate>> {
    let kept: Vec<NaiveDate> = sqlx::query_scalar(
        "SELECT day FROM unnest($1::date[]) AS d (day)
          WHERE EXISTS (SELECT FROM warehouse.books k WHERE k.day = d.day)",
    )
    .bind(days.iter().copied().collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    Ok(kept.into_iter().collect())
}

/// The quality of a batch as its facts are now; what was judged by what was ordinary then stays.
async fn check(pool: &PgPool, batch: BatchId, thresholds: &Thresholds) -> anyhow::Result<()> {
    let mut tx = pool.begin().await?;
    quality::check(&mut tx, batch, thresholds, Pass::Again).await?;
    tx.commit().await?;
    Ok(())
}

/// In the notes: no book, only the sums of the batch.
const NO_BOOK: i32 = 0;

/// The certificates of a batch as they would be had it closed with these facts.
async fn certify(pool: &PgPool, batch: BatchId) -> anyhow::Result<()> {
    let mut tx = pool.begin().await?;
    let state: Option<String> =
        sqlx::query_scalar("SELECT state FROM pipeline.batches WHERE batch_id = $1 FOR UPDATE")
            .bind(batch.raw())
            .fetch_optional(&mut *tx)
            .await?;
    if state.as_deref() != Some("closed") {
        bail!(
            "it is {}, only closed batches are made again",
            state.as_deref().unwrap_or("not known")
        );
    }
    // Whether a market was listed was true at the close, and not of today's catalog. What held a book back was
    // judged by what was ordinary then.
    sqlx::query(
        "CREATE TEMP TABLE books_before ON COMMIT DROP AS
         SELECT market_id, is_listed, held_reason FROM warehouse.books WHERE day = $1 AND batch_id = $2",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .execute(&mut *tx)
    .await?;
    for statement in [
        "DELETE FROM warehouse.books WHERE day = $1 AND batch_id = $2",
        "UPDATE warehouse.book_pages SET duplicate_positions = NULL
          WHERE day = $1 AND batch_id = $2 AND duplicate_positions IS NOT NULL",
    ] {
        sqlx::query(statement).bind(batch.day()).bind(batch.raw()).execute(&mut *tx).await?;
    }
    listed::read_one(&mut tx, batch).await?;
    close::certify(&mut tx, batch).await?;
    sqlx::query(
        "UPDATE warehouse.books k SET is_listed = b.is_listed, held_reason = b.held_reason FROM books_before b
          WHERE k.day = $1 AND k.batch_id = $2 AND k.market_id = b.market_id
            AND (k.is_listed, k.held_reason) IS DISTINCT FROM (b.is_listed, b.held_reason)",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// The spread of a book is of both sides.
async fn with_other_sides(pool: &PgPool, markets: &[i32]) -> anyhow::Result<Vec<i32>> {
    let both = sqlx::query_scalar(
        "SELECT DISTINCT o.market_id FROM warehouse.dim_markets m
           JOIN warehouse.dim_markets o USING (exchange_id, fiat_id, crypto_id)
          WHERE m.market_id = ANY ($1) ORDER BY 1",
    );
    Ok(both.bind(markets).fetch_all(pool).await?)
}

/// These days, and those of each market's next complete book after each.
async fn with_days_after(
    pool: &PgPool,
    markets: &[i32],
    days: &BTreeSet<NaiveDate>,
) -> anyhow::Result<BTreeSet<NaiveDate>> {
    let after: Vec<NaiveDate> = sqlx::query_scalar(
        "SELECT DISTINCT k.day
           FROM unnest($1::int[]) AS m (market_id)
          CROSS JOIN unnest($2::date[]) AS d (day)
          CROSS JOIN LATERAL (SELECT b.day FROM warehouse.mart_books b
                               WHERE b.market_id = m.market_id AND b.day > d.day
                                 AND b.verdict IN ('complete', 'empty')
                               ORDER BY b.day, b.batch_id LIMIT 1) k",
    )
    .bind(markets)
    .bind(days.iter().copied().collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    list_kept(pool, &days.iter().copied().chain(after).collect()).await
}

/// The marts of these markets on a day.
async fn remake_day(pool: &PgPool, day: NaiveDate, markets: &[i32]) -> anyhow::Result<()> {
    for _ in 0..MAX_TRIES {
        let mut tx = pool.begin().await?;
        let Some(closed) = closed_batches(&mut tx, day).await? else {
            return Ok(());
        };
        let batches = marts::Batches::range(closed.first, closed.last);
        let batches = batches.with_context(|| format!("batches of {day} are not of one day"))?;
        marts::make_beside(&mut tx, batches, markets).await?;
        // From here to the commit no batch closes.
        hold_open_batches(&mut tx).await?;
        if closed_batches(&mut tx, day).await? == Some(closed) {
            marts::put_in_place(&mut tx, day, markets).await?;
            tx.commit().await?;
            return Ok(());
        }
        tx.rollback().await?;
    }
    bail!("batches closed while each of {MAX_TRIES} tries was being made")
}

/// The closed batches of a day.
#[derive(Clone, Copy, PartialEq, Eq)]
struct ClosedBatches {
    first: BatchId,
    last: BatchId,
    number: i64,
}

async fn closed_batches(
    connection: &mut PgConnection,
    day: NaiveDate,
) -> anyhow::Result<Option<ClosedBatches>> {
    let (first, last, number): (Option<i32>, Option<i32>, i64) = sqlx::query_as(
        "SELECT min(batch_id), max(batch_id), count(*) FROM pipeline.batches WHERE day = $1 AND state = 'closed'",
    )
    .bind(day)
    .fetch_one(connection)
    .await?;
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(None);
    };
    let (first, last) = (BatchId::from_raw(first)?, BatchId::from_raw(last)?);
    Ok(Some(ClosedBatches { first, last, number }))
}

/// A close begins by locking the row of its batch.
async fn hold_open_batches(connection: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::query("SELECT FROM pipeline.batches WHERE state = 'open' ORDER BY batch_id FOR UPDATE")
        .execute(connection)
        .await?;
    Ok(())
}

/// The last good book of these markets and what the planner knows of them, from the books since `first`. How
/// fast a market changes, which is smoothed over all readings, stays as it is.
async fn tell_latest(pool: &PgPool, markets: &[i32], first: NaiveDate) -> anyhow::Result<()> {
    let mut tx = pool.begin().await?;
    hold_open_batches(&mut tx).await?;
    for statement in include_str!("remake_latest.sql").split(";\n") {
        sqlx::query(statement).bind(markets).bind(first).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Sums and outcome of a batch. When it closed and what it asked for stays.
async fn sum_up(pool: &PgPool, batch: BatchId) -> anyhow::Result<()> {
    let mut tx = pool.begin().await?;
    let sums = close::sum_up(&mut tx, batch).await?;
    let before: Option<String> =
        sqlx::query_scalar("SELECT reason FROM pipeline.batches WHERE batch_id = $1 FOR UPDATE")
            .bind(batch.raw())
            .fetch_one(&mut *tx)
            .await?;
    let (outcome, reason) = sums.outcome_after(before.as_deref());
    sqlx::query(
        "UPDATE pipeline.batches
            SET outcome = $2, reason = $3, pages_read = $4, pages_lost = $5, pages_shed = $6, pages_reread = $7,
                lists_lost = $8, ads = $9, ads_refused = $10, ads_missed = $11, books = $12, books_complete = $13
          WHERE batch_id = $1",
    )
    .bind(batch.raw())
    .bind(outcome.as_str())
    .bind(reason)
    .bind(sums.pages_read)
    .bind(sums.pages_lost)
    .bind(sums.pages_shed)
    .bind(sums.pages_reread)
    .bind(sums.lists_lost)
    .bind(sums.ads)
    .bind(sums.refused)
    .bind(sums.missed)
    .bind(sums.books)
    .bind(sums.books_complete)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Last of all: until then the next one does it again. Replays whose facts are corrected are finished with it.
async fn tick_off(pool: &PgPool, notes: &[(i32, i32)]) -> anyhow::Result<()> {
    let mut tx = pool.begin().await?;
    sqlx::query(
        "UPDATE pipeline.remakes r SET made_at = now()
           FROM unnest($1::int[], $2::int[]) AS n (batch_id, market_id)
          WHERE r.batch_id = n.batch_id AND r.market_id = n.market_id AND r.made_at IS NULL",
    )
    .bind(notes.iter().map(|(batch, _)| *batch).collect::<Vec<_>>())
    .bind(notes.iter().map(|(_, market)| *market).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "UPDATE pipeline.replays SET finished_at = now() WHERE finished_at IS NULL AND facts_at IS NOT NULL",
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}
