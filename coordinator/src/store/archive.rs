//! The raw archive as the leader sees it: its size, when it is suspended, and dictionaries.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use shared::archive::{ArchiveError, Dictionary, Lengths, Transcript, unpack};
use shared::exchange::Exchange;
use sqlx::{PgConnection, PgExecutor, PgPool};

/// Why nothing is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspension {
    /// There is no room.
    Budget,
    /// No archive is wanted.
    Off,
}

impl Suspension {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Off => "off",
        }
    }

    fn from_column(text: &str) -> Option<Self> {
        [Self::Budget, Self::Off].into_iter().find(|reason| reason.as_str() == text)
    }
}

/// How large the archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Bytes of all days.
    pub bytes: u64,
    /// Bytes of the days that can't be dropped yet.
    pub fixed_bytes: u64,
}

/// The size of the archive, and why it is suspended, if it is.
pub async fn look(
    executor: impl PgExecutor<'_>,
    exchange: Exchange,
) -> Result<(Size, Option<Suspension>), sqlx::Error> {
    let (bytes, fixed_bytes, reason): (i64, i64, Option<String>) = sqlx::query_as(
        "SELECT coalesce(sum(bytes), 0)::bigint, coalesce(sum(bytes) FILTER (WHERE NOT may_go), 0)::bigint,
                (SELECT reason FROM pipeline.raw_suspensions WHERE exchange_id = $1 AND to_at IS NULL)
           FROM pipeline.raw_days()",
    )
    .bind(exchange.id())
    .fetch_one(executor)
    .await?;
    let size = Size { bytes: bytes.unsigned_abs(), fixed_bytes: fixed_bytes.unsigned_abs() };
    Ok((size, reason.as_deref().and_then(Suspension::from_column)))
}

/// Notes what the leader saw, and ends or begins a suspension.
pub async fn note(
    connection: &mut PgConnection,
    exchange: Exchange,
    size: Size,
    budget: u64,
    suspension: Option<Suspension>,
) -> Result<(), sqlx::Error> {
    let [bytes, budget] =
        [size.bytes, budget].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    sqlx::query(
        "INSERT INTO pipeline.raw_state VALUES ($1, $2, $3, now())
             ON CONFLICT (exchange_id) DO UPDATE
            SET bytes = EXCLUDED.bytes, budget_bytes = EXCLUDED.budget_bytes, looked_at = EXCLUDED.looked_at",
    )
    .bind(exchange.id())
    .bind(bytes)
    .bind(budget)
    .execute(&mut *connection)
    .await?;
    let reason = suspension.map(Suspension::as_str);
    sqlx::query(
        "UPDATE pipeline.raw_suspensions SET to_at = now()
          WHERE exchange_id = $1 AND to_at IS NULL AND reason IS DISTINCT FROM $2",
    )
    .bind(exchange.id())
    .bind(reason)
    .execute(&mut *connection)
    .await?;
    let Some(reason) = reason else {
        return Ok(());
    };
    sqlx::query(
        "INSERT INTO pipeline.raw_suspensions (exchange_id, reason, from_at, bytes, budget_bytes)
         VALUES ($1, $2, now(), $3, $4) ON CONFLICT (exchange_id) WHERE to_at IS NULL DO NOTHING",
    )
    .bind(exchange.id())
    .bind(reason)
    .bind(bytes)
    .bind(budget)
    .execute(connection)
    .await?;
    Ok(())
}

/// When the newest dictionary was trained; `None`: there is none.
pub async fn newest_dictionary(
    pool: &PgPool,
    exchange: Exchange,
) -> Result<Option<(i32, DateTime<Utc>)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT dictionary_id, trained_at FROM pipeline.raw_dictionaries WHERE exchange_id = $1
          ORDER BY trained_at DESC, dictionary_id LIMIT 1",
    )
    .bind(exchange.id())
    .fetch_optional(pool)
    .await
}

/// An archived page, packed as it is stored: whole ones take ten times the room.
#[derive(Debug)]
pub struct Sample {
    content: Vec<u8>,
    lengths: Lengths,
    dictionary: Option<Arc<Dictionary>>,
    pub ads: u32,
}

impl Sample {
    /// Bytes of what is packed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lengths.total()
    }

    pub fn unpack(&self) -> Result<Transcript, ArchiveError> {
        unpack(&self.content, self.lengths, self.dictionary.as_deref())
    }
}

#[derive(sqlx::FromRow)]
struct SampleRow {
    dictionary_id: Option<i32>,
    request_bytes: i32,
    headers_bytes: i32,
    body_bytes: i32,
    ads: i32,
    content: Vec<u8>,
}

/// Random pages of the last closed batches, each page of a market once, so that no ad is in two of them
/// but for the few that moved.
pub async fn list_samples(
    pool: &PgPool,
    exchange: Exchange,
    batches: i64,
    pages: i64,
    bytes: i64,
) -> Result<Vec<Sample>, ArchiveError> {
    let rows: Vec<SampleRow> = sqlx::query_as(
        "WITH batches AS (
             SELECT day, batch_id FROM pipeline.batches WHERE exchange_id = $1 AND state = 'closed'
              ORDER BY batch_id DESC LIMIT $2
         ), pages AS (
             SELECT DISTINCT ON (j.market_id, j.page) r.day, r.batch_id, r.ordinal, r.body_bytes
               FROM batches b
               JOIN pipeline.raw_pages r USING (day, batch_id)
               JOIN pipeline.jobs j USING (day, batch_id, ordinal)
              WHERE r.ads > 0 AND j.kind = 'search'
              ORDER BY j.market_id, j.page, random()
         ), chosen AS (
             SELECT day, batch_id, ordinal, sum(body_bytes) OVER (ORDER BY place) AS bytes
               FROM (SELECT *, row_number() OVER (ORDER BY random()) AS place FROM pages) p
              WHERE place <= $3
         )
         SELECT r.dictionary_id, r.request_bytes, r.headers_bytes, r.body_bytes, r.ads::int, r.content
           FROM chosen c JOIN pipeline.raw_pages r USING (day, batch_id, ordinal)
          WHERE c.bytes <= $4 ORDER BY c.bytes",
    )
    .bind(exchange.id())
    .bind(batches)
    .bind(pages)
    .bind(bytes)
    .fetch_all(pool)
    .await?;
    let mut dictionaries: HashMap<i32, Arc<Dictionary>> = HashMap::new();
    let mut samples = Vec::with_capacity(rows.len());
    for row in rows {
        if let Some(id) = row.dictionary_id
            && let Entry::Vacant(vacant) = dictionaries.entry(id)
        {
            vacant.insert(Arc::new(Dictionary::load(pool, id).await?));
        }
        let lengths = Lengths::from_columns(row.request_bytes, row.headers_bytes, row.body_bytes);
        samples.push(Sample {
            content: row.content,
            lengths: lengths.unwrap_or_default(),
            dictionary: row.dictionary_id.and_then(|id| dictionaries.get(&id)).cloned(),
            ads: row.ads.unsigned_abs(),
        });
    }
    Ok(samples)
}

/// A dictionary with what it was measured to save.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Measured {
    /// Pages it was trained on.
    pub samples: usize,
    /// Of the pages held back: their ads, their bytes, packed without a dictionary and with it.
    pub test_ads: u64,
    pub test_bytes: u64,
    pub test_bytes_plain: u64,
    pub test_bytes_trained: u64,
}

/// Keeps a dictionary, which workers use from now on.
pub async fn insert_dictionary(
    executor: impl PgExecutor<'_>,
    exchange: Exchange,
    id: i32,
    content: &[u8],
    measured: &Measured,
) -> Result<(), sqlx::Error> {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT INTO pipeline.raw_dictionaries
                (dictionary_id, exchange_id, content, trained_at, samples, test_ads, test_bytes,
                 test_bytes_plain, test_bytes_trained)
         VALUES ($1, $2, $3, now(), $4, $5, $6, $7, $8)",
    )
    .bind(id)
    .bind(exchange.id())
    .bind(content)
    .bind(i32::try_from(measured.samples).unwrap_or(i32::MAX))
    .bind(i32::try_from(measured.test_ads).unwrap_or(i32::MAX))
    .bind(number(measured.test_bytes))
    .bind(number(measured.test_bytes_plain))
    .bind(number(measured.test_bytes_trained))
    .execute(executor)
    .await?;
    Ok(())
}
