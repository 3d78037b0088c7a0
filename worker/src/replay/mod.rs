//! Answers parsed again, and the facts that were made of them corrected: archived answers of a range of
//! batches ([`run`]), and single entries of the quarantine ([`quarantine`]).
//!
//! In place: a page keeps its own ids, so what refers to a version goes on to refer to it. Idempotent: the
//! stored facts are compared with what the current parser reads, and only what differs is written; who is
//! killed in the middle runs it again. Advertisers come first, over all markets in the order of time, for
//! their figures and identities are told on change ([`advertisers`]); then pages, market by market and day
//! by day in the order of reading, for a page refers to what earlier pages saw first ([`pages`]).
//!
//! What is made of facts when a batch closes (certificates, marts, latest state) is the coordinator's to
//! make again: books whose facts changed are noted in `pipeline.remakes` in the transaction that changes
//! them.

mod advertisers;
mod answers;
mod pages;
pub mod quarantine;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use serde_json::Value;
use shared::archive::ArchiveError;
use shared::domain::BatchId;
use shared::exchange::Exchange;
use shared::exchange::binance::PARSER_VERSION;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

use self::advertisers::Corrector;
use self::answers::{Key, Reader};
use self::pages::Pages;
use crate::store::StoreError;

/// Pages in one transaction: few enough that a worker never waits long for a row.
const CHUNK_PAGES: usize = 32;
/// Times that pages beyond the range are looked for: each time those found reach further into the day.
const MAX_BEYOND_ROUNDS: usize = 1_000;

/// Why a replay did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another replay or retry is running (advisory lock of `pipeline.replays`)")]
    AlreadyRunning,
    #[error(
        "replay changes, moves and deletes facts, which {role} may not: run it as the owner of the tables (OWNER_DATABASE_URL), as `p2p migrate`"
    )]
    Forbidden { role: String },
    #[error("batch {batch}, job {ordinal}: the archived answer can't be read")]
    Archive {
        batch: BatchId,
        ordinal: u32,
        #[source]
        error: ArchiveError,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What is to be replayed.
#[derive(Clone, Debug)]
pub struct Options {
    pub exchange: Exchange,
    /// Slots of the batches, both included.
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// `None`: all.
    pub markets: Option<Vec<i32>>,
    /// Whether facts are corrected; otherwise nothing is written at all.
    pub apply: bool,
    /// Who asks, for the record.
    pub by: String,
    /// Most differences that are told one by one.
    pub max_differences: usize,
}

/// What was found, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub batches: u64,
    /// Archived answers of the search that were parsed.
    pub pages: u64,
    /// Ads that the current parser takes from them.
    pub ads: u64,
    /// Ads that a page lists now and did not.
    pub added: u64,
    /// Ads that a page listed and no longer does.
    pub removed: u64,
    /// Ads with fields that differ. Content that many pages list counts once, where it was first seen.
    pub changed: u64,
    /// Ads that the current parser refuses.
    pub refused: u64,
    /// Pages whose own fields or order differ, or whose job ended otherwise.
    pub pages_changed: u64,
    /// Of these, pages that were lost or empty and are read now, and the reverse.
    pub pages_recovered: u64,
    pub pages_lost: u64,
    /// Figures and identities of advertisers that differ.
    pub advertisers_changed: u64,
    /// Pages beyond the range that list a version that was corrected, and were read again with it.
    pub pages_beyond: u64,
    /// Pages that could not be compared: their answers are not in the archive.
    pub not_archived: u64,
    /// Pages whose corrected facts the database refused.
    pub not_stored: u64,
    /// Archived answers that are no pages of the search, or no answers of the exchange: never replayed.
    pub skipped: u64,
}

impl Counts {
    /// Facts that differ.
    #[must_use]
    pub fn differences(&self) -> u64 {
        self.added + self.removed + self.changed + self.pages_changed + self.advertisers_changed
    }
}

/// The part of one stored parser version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VersionCounts {
    pub pages: u64,
    pub added: u64,
    pub removed: u64,
    pub changed: u64,
    pub pages_changed: u64,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `added`, `removed`, `changed`, `page`, `figures` or `identity`.
    pub kind: &'static str,
    pub batch_id: i32,
    /// The job; `None`: an advertiser, who is seen on many pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub market: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Number of the ad, or userNo of the advertiser; `None`: the page itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Field → what is stored, what is read.
    pub fields: BTreeMap<String, (Value, Value)>,
    /// Parser that stored it; `None`: not recorded.
    pub parser_version: Option<i16>,
    /// In words, for example why an ad is refused now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a replay found.
#[derive(Debug, Default, Serialize)]
pub struct Found {
    pub parser_version: i16,
    pub is_applied: bool,
    #[serde(flatten)]
    pub counts: Counts,
    /// By the parser that stored the page; 0: not recorded.
    pub by_parser_version: BTreeMap<i16, VersionCounts>,
    pub differences: Vec<Difference>,
    /// Differences that are counted and not told.
    pub left_out: u64,
    #[serde(skip)]
    max_differences: usize,
}

impl Found {
    fn new(max_differences: usize, is_applied: bool) -> Self {
        Self { parser_version: PARSER_VERSION, is_applied, max_differences, ..Self::default() }
    }

    fn version(&mut self, version: Option<i16>) -> &mut VersionCounts {
        self.by_parser_version.entry(version.unwrap_or_default()).or_default()
    }

    /// Adds what was found of a part.
    fn merge(&mut self, part: Self) {
        let (own, new) = (&mut self.counts, part.counts);
        own.pages += new.pages;
        own.ads += new.ads;
        own.refused += new.refused;
        own.pages_recovered += new.pages_recovered;
        own.pages_lost += new.pages_lost;
        for (version, pages) in part.by_parser_version {
            self.version(Some(version)).pages += pages.pages;
        }
        // What was left out is counted, and by version.
        for difference in part.differences {
            self.add(difference);
        }
    }

    /// Counts a difference, and keeps it while there is room.
    fn add(&mut self, difference: Difference) {
        let version = difference.parser_version;
        let counts = &mut self.counts;
        match difference.kind {
            "added" => {
                counts.added += 1;
                self.version(version).added += 1;
            }
            "removed" => {
                counts.removed += 1;
                self.version(version).removed += 1;
            }
            "changed" => {
                counts.changed += 1;
                self.version(version).changed += 1;
            }
            "page" => {
                counts.pages_changed += 1;
                self.version(version).pages_changed += 1;
            }
            _ => counts.advertisers_changed += 1,
        }
        if self.differences.len() < self.max_differences {
            self.differences.push(difference);
        } else {
            self.left_out += 1;
        }
    }
}

/// The one writer of corrections. A lock of its session, so that it ends with the process.
pub struct Lock(PoolConnection<Postgres>);

impl Lock {
    /// # Errors
    /// [`Error::AlreadyRunning`] if another process holds it, [`Error::Forbidden`] if the role may not
    /// correct facts.
    pub async fn take(pool: &PgPool) -> Result<Self, Error> {
        let mut connection = pool.acquire().await?;
        let (role, may): (String, bool) = sqlx::query_as(
            "SELECT current_user::text, has_table_privilege('warehouse.offer_versions', 'DELETE')
                    AND has_table_privilege('warehouse.mart_books', 'DELETE')",
        )
        .fetch_one(&mut *connection)
        .await?;
        if !may {
            return Err(Error::Forbidden { role });
        }
        let is_ours: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('pipeline.replays'))")
                .fetch_one(&mut *connection)
                .await?;
        if is_ours { Ok(Self(connection)) } else { Err(Error::AlreadyRunning) }
    }

    /// Gives it back.
    pub async fn release(mut self) -> Result<(), Error> {
        sqlx::query("SELECT pg_advisory_unlock(hashtext('pipeline.replays'))")
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }
}

/// Compares the archived answers of the range with the stored facts and, if told to, corrects these. Holds
/// [`Lock`] if it does; the caller then makes again what is noted in `pipeline.remakes`.
///
/// # Errors
/// If the database can't be used or an archived answer can't be unpacked. What was corrected before stays.
pub async fn run(pool: &PgPool, options: &Options) -> Result<Found, Error> {
    let mut found = Found::new(options.max_differences, options.apply);
    let batches = list_batches(pool, options).await?;
    found.counts.batches = batches.len() as u64;
    let is_recorded = options.apply && !batches.is_empty();
    let replay = if is_recorded { Some(begin(pool, options).await?) } else { None };
    let mut reader = Reader::new(pool.clone(), options.exchange, options.markets.clone());
    let mut corrector = Corrector::new(options.exchange, options.apply);
    for batch in &batches {
        let keys = reader.list_batch(*batch).await?;
        found.counts.skipped += reader.count_others(*batch).await?;
        found.counts.not_archived += reader.count_missing(*batch).await?;
        for chunk in keys.chunks(CHUNK_PAGES) {
            let readings = reader.load(chunk).await?;
            corrector.see(pool, &readings, &mut found).await?;
        }
        corrector.end_batch();
    }
    let days: BTreeSet<NaiveDate> = batches.iter().map(|batch| batch.day()).collect();
    for day in days {
        let of_day = || batches.iter().filter(|batch| batch.day() == day);
        let (Some(first), Some(last)) = (of_day().min(), of_day().max()) else {
            continue;
        };
        for market_id in reader.list_markets(*first, *last).await? {
            replay_market(pool, &mut reader, options, market_id, (*first, *last), &mut found)
                .await?;
        }
    }
    if let Some(replay) = replay {
        note_facts(pool, replay, &found.counts).await?;
    }
    Ok(found)
}

/// A market's pages of one day, in the order of reading.
async fn replay_market(
    pool: &PgPool,
    reader: &mut Reader,
    options: &Options,
    market_id: i32,
    (first, last): (BatchId, BatchId),
    found: &mut Found,
) -> Result<(), Error> {
    let keys = reader.list_market(market_id, first, last).await?;
    let Some(start) = keys.first() else {
        return Ok(());
    };
    let mut pages = Pages::begin(pool, options, market_id, start.batch_id).await?;
    for chunk in keys.chunks(CHUNK_PAGES) {
        let readings = reader.load(chunk).await?;
        pages.replay(readings, found).await?;
    }
    // Pages after the range list versions that were corrected. They have their own answers to tell whether
    // the correction holds for them, too.
    let mut after = last;
    for _ in 0..MAX_BEYOND_ROUNDS {
        let (batch, keys, missing) =
            reader.list_beyond(market_id, after, pages.corrected()).await?;
        let Some(batch) = batch else { break };
        after = batch;
        found.counts.not_archived += missing;
        let readings = reader.load(&keys).await?;
        found.counts.pages_beyond += readings.len() as u64;
        let mut corrector = Corrector::new(options.exchange, options.apply);
        corrector.see(pool, &readings, found).await?;
        pages.replay(readings, found).await?;
    }
    Ok(())
}

/// Closed batches of the range of which answers are archived.
async fn list_batches(pool: &PgPool, options: &Options) -> Result<Vec<BatchId>, Error> {
    let batches: Vec<i32> = sqlx::query_scalar(
        "SELECT b.batch_id FROM pipeline.batches b
          WHERE b.exchange_id = $1 AND b.state = 'closed' AND b.slot_at BETWEEN $2 AND $3
            AND EXISTS (SELECT FROM pipeline.raw_pages r WHERE r.day = b.day AND r.batch_id = b.batch_id)
          ORDER BY b.batch_id",
    )
    .bind(options.exchange.id())
    .bind(options.from)
    .bind(options.to)
    .fetch_all(pool)
    .await?;
    Ok(batches.into_iter().filter_map(|id| BatchId::from_raw(id).ok()).collect())
}

async fn begin(pool: &PgPool, options: &Options) -> Result<i32, Error> {
    let market = match options.markets.as_deref() {
        Some([market]) => Some(*market),
        _ => None,
    };
    let replay = sqlx::query_scalar(
        "INSERT INTO pipeline.replays
                (kind, exchange_id, from_at, to_at, market_id, parser_version, started_by, started_at)
         VALUES ('replay', $1, $2, $3, $4, $5, $6, now()) RETURNING replay_id",
    )
    .bind(options.exchange.id())
    .bind(options.from)
    .bind(options.to)
    .bind(market)
    .bind(PARSER_VERSION)
    .bind(&options.by)
    .fetch_one(pool)
    .await?;
    Ok(replay)
}

async fn note_facts(pool: &PgPool, replay: i32, counts: &Counts) -> Result<(), Error> {
    sqlx::query("UPDATE pipeline.replays SET facts_at = now(), counts = $2 WHERE replay_id = $1")
        .bind(replay)
        .bind(serde_json::json!(counts))
        .execute(pool)
        .await?;
    Ok(())
}

/// Notes that books are to be made again, in the transaction that corrects their facts.
async fn note_remakes(
    connection: &mut PgConnection,
    books: &BTreeSet<(BatchId, i32)>,
) -> Result<(), Error> {
    if books.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO pipeline.remakes (batch_id, market_id, noted_at)
         SELECT batch_id, market_id, now() FROM unnest($1::int[], $2::int[]) AS b (batch_id, market_id)
             ON CONFLICT (batch_id, market_id) DO UPDATE SET noted_at = EXCLUDED.noted_at, made_at = NULL",
    )
    .bind(books.iter().map(|(batch, _)| batch.raw()).collect::<Vec<_>>())
    .bind(books.iter().map(|(_, market)| *market).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// A page: the job that read it.
type PageKey = Key;
