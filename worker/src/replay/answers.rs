//! Archived answers of the search, with what the ledger knows of their jobs.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use shared::archive::{self, ArchiveError, Dictionary, Lengths};
use shared::domain::{BatchId, Market, Side};
use shared::exchange::Exchange;
use shared::job::EndState;
use sqlx::PgPool;
use sqlx::types::Json;

use super::Error;

/// Status with which an answer is one of the exchange.
const OK: i16 = 200;

/// Names an archived answer: its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) batch_id: BatchId,
    pub(super) ordinal: u32,
}

/// How a job of the search stands in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct JobEnd {
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) declared_total: Option<i32>,
    pub(super) ads_taken: Option<i32>,
    pub(super) ads_refused: Option<i32>,
    pub(super) warnings: Option<Json<Value>>,
}

impl JobEnd {
    /// Whether it ended without facts.
    pub(super) fn is_lost(&self) -> bool {
        [EndState::Failed, EndState::Expired].iter().any(|state| self.state == state.as_str())
    }
}

/// A page of the search as it was answered.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) key: Key,
    pub(super) market: Market,
    pub(super) page: u32,
    pub(super) fetched_at: DateTime<Utc>,
    pub(super) job: JobEnd,
    /// Parser that made the stored page or, if there is none, read the answer; `None`: not recorded.
    pub(super) parser_version: Option<i16>,
    pub(super) body: Vec<u8>,
}

#[derive(sqlx::FromRow)]
struct Row {
    batch_id: i32,
    ordinal: i32,
    fiat: String,
    asset: String,
    side: String,
    page: i32,
    fetched_at: DateTime<Utc>,
    #[sqlx(flatten)]
    job: JobEnd,
    parser_version: Option<i16>,
    dictionary_id: Option<i32>,
    request_bytes: i32,
    headers_bytes: i32,
    body_bytes: i32,
    content: Vec<u8>,
}

/// Jobs whose answers can be read again: the search's that had an answer of the exchange, though they may
/// have ended without another one.
const REPLAYED: &str = "j.kind = 'search' AND r.http_status = 200
            AND (j.state IN ('done', 'failed', 'expired') OR j.state = 'empty' AND j.reason = 'no_ads')
            AND ($2::int[] IS NULL OR j.market_id = ANY ($2))";

pub(super) struct Reader {
    pool: PgPool,
    exchange: Exchange,
    markets: Option<Vec<i32>>,
    dictionaries: HashMap<i32, Dictionary>,
}

impl Reader {
    pub(super) fn new(pool: PgPool, exchange: Exchange, markets: Option<Vec<i32>>) -> Self {
        Self { pool, exchange, markets, dictionaries: HashMap::new() }
    }

    async fn list(
        &self,
        filter: &str,
        day: NaiveDate,
        numbers: (i32, i32, i32),
    ) -> Result<Vec<Key>, Error> {
        let statement = format!(
            "SELECT j.batch_id, j.ordinal
               FROM pipeline.jobs j
               JOIN pipeline.raw_pages r USING (day, batch_id, ordinal)
               JOIN pipeline.batches b ON b.batch_id = j.batch_id AND b.state = 'closed' AND b.exchange_id = $6
              WHERE j.day = $1 AND {REPLAYED} AND {filter}
              ORDER BY j.batch_id, r.fetched_at, j.ordinal"
        );
        let rows: Vec<(i32, i32)> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .bind(day)
            .bind(&self.markets)
            .bind(numbers.0)
            .bind(numbers.1)
            .bind(numbers.2)
            .bind(self.exchange.id())
            .fetch_all(&self.pool)
            .await?;
        Ok(rows.into_iter().filter_map(|(batch, ordinal)| key(batch, ordinal)).collect())
    }

    /// The answers of a batch, in the order in which they came.
    pub(super) async fn list_batch(&self, batch: BatchId) -> Result<Vec<Key>, Error> {
        let filter = "j.batch_id BETWEEN $3 AND $4 AND $5 = 0";
        self.list(filter, batch.day(), (batch.raw(), batch.raw(), 0)).await
    }

    /// The answers of a market in a range of batches of one day, in the order in which they came.
    pub(super) async fn list_market(
        &self,
        market_id: i32,
        first: BatchId,
        last: BatchId,
    ) -> Result<Vec<Key>, Error> {
        let filter = "j.batch_id BETWEEN $3 AND $4 AND j.market_id = $5";
        self.list(filter, first.day(), (first.raw(), last.raw(), market_id)).await
    }

    /// Markets with archived answers in a range of batches of one day.
    pub(super) async fn list_markets(
        &self,
        first: BatchId,
        last: BatchId,
    ) -> Result<Vec<i32>, Error> {
        let markets = sqlx::query_scalar(
            "SELECT DISTINCT j.market_id
               FROM pipeline.jobs j JOIN pipeline.raw_pages r USING (day, batch_id, ordinal)
              WHERE j.day = $1 AND j.batch_id BETWEEN $3 AND $4 AND j.kind = 'search'
                AND ($2::int[] IS NULL OR j.market_id = ANY ($2))
              ORDER BY 1",
        )
        .bind(first.day())
        .bind(&self.markets)
        .bind(first.raw())
        .bind(last.raw())
        .fetch_all(&self.pool)
        .await?;
        Ok(markets)
    }

    /// The next batch of the day whose pages of the market list one of these versions, the answers to
    /// them that are archived, and how many are not.
    pub(super) async fn list_beyond(
        &self,
        market_id: i32,
        after: BatchId,
        versions: Vec<i32>,
    ) -> Result<(Option<BatchId>, Vec<Key>, u64), Error> {
        if versions.is_empty() {
            return Ok((None, Vec::new(), 0));
        }
        let rows: Vec<(i32, i32, bool)> = sqlx::query_as(
            "WITH listing AS (
               SELECT p.batch_id, p.ordinal, p.fetched_at,
                      EXISTS (SELECT FROM pipeline.raw_pages r
                               WHERE r.day = p.day AND r.batch_id = p.batch_id AND r.ordinal = p.ordinal) AS is_archived
                 FROM warehouse.book_pages p JOIN pipeline.batches b USING (batch_id)
                WHERE p.day = $1 AND p.batch_id > $2 AND p.market_id = $3 AND p.offer_ids && $4
                  AND b.state = 'closed')
             SELECT batch_id, ordinal, is_archived FROM listing
              WHERE batch_id = (SELECT min(batch_id) FROM listing) ORDER BY fetched_at, ordinal",
        )
        .bind(after.day())
        .bind(after.raw())
        .bind(market_id)
        .bind(versions)
        .fetch_all(&self.pool)
        .await?;
        let batch = rows.first().and_then(|row| BatchId::from_raw(row.0).ok());
        let keys = rows.iter().filter(|row| row.2).filter_map(|row| key(row.0, row.1)).collect();
        let missing = rows.iter().filter(|row| !row.2).count() as u64;
        Ok((batch, keys, missing))
    }

    /// Archived answers of the batch that are never replayed: lists, advertisers, errors.
    pub(super) async fn count_others(&self, batch: BatchId) -> Result<u64, Error> {
        let others: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pipeline.raw_pages r JOIN pipeline.jobs j USING (day, batch_id, ordinal)
              WHERE r.day = $1 AND r.batch_id = $2 AND (j.kind <> 'search' OR r.http_status <> $4)
                AND ($3::int[] IS NULL OR j.market_id = ANY ($3))",
        )
        .bind(batch.day())
        .bind(batch.raw())
        .bind(&self.markets)
        .bind(OK)
        .fetch_one(&self.pool)
        .await?;
        Ok(others.unsigned_abs())
    }

    /// Stored pages of the batch whose answers are not archived.
    pub(super) async fn count_missing(&self, batch: BatchId) -> Result<u64, Error> {
        let missing: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM warehouse.book_pages p
              WHERE p.day = $1 AND p.batch_id = $2 AND ($3::int[] IS NULL OR p.market_id = ANY ($3))
                AND NOT EXISTS (SELECT FROM pipeline.raw_pages r
                                 WHERE r.day = p.day AND r.batch_id = p.batch_id AND r.ordinal = p.ordinal)",
        )
        .bind(batch.day())
        .bind(batch.raw())
        .bind(&self.markets)
        .fetch_one(&self.pool)
        .await?;
        Ok(missing.unsigned_abs())
    }

    /// The answers of these jobs, in this order.
    pub(super) async fn load(&mut self, keys: &[Key]) -> Result<Vec<Reading>, Error> {
        let Some(day) = keys.first().map(|key| key.batch_id.day()) else {
            return Ok(Vec::new());
        };
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT j.batch_id, j.ordinal, f.currency_code AS fiat, a.symbol AS asset,
                    m.trade_type AS side, j.page::int AS page, r.fetched_at, j.state, j.reason, j.declared_total,
                    j.ads_taken::int AS ads_taken, j.ads_refused::int AS ads_refused, j.warnings,
                    CASE WHEN p.day IS NULL THEN r.parser_version ELSE p.parser_version END AS parser_version,
                    r.dictionary_id, r.request_bytes, r.headers_bytes, r.body_bytes, r.content
               FROM unnest($2::int[], $3::int[]) WITH ORDINALITY AS k (batch_id, ordinal, n)
               JOIN pipeline.jobs j ON j.day = $1 AND j.batch_id = k.batch_id AND j.ordinal = k.ordinal
               JOIN pipeline.raw_pages r ON r.day = $1 AND r.batch_id = k.batch_id AND r.ordinal = k.ordinal
               JOIN warehouse.dim_markets m USING (market_id)
               JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
               JOIN warehouse.dim_cryptocurrencies a USING (crypto_id)
               LEFT JOIN warehouse.book_pages p ON p.day = $1 AND p.batch_id = j.batch_id
                    AND p.market_id = j.market_id AND p.page = j.page AND p.ordinal = j.ordinal
              ORDER BY k.n",
        )
        .bind(day)
        .bind(keys.iter().map(|key| key.batch_id.raw()).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.ordinal.cast_signed()).collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        let mut readings = Vec::with_capacity(rows.len());
        for row in rows {
            readings.extend(self.reading(row).await?);
        }
        Ok(readings)
    }

    async fn reading(&mut self, row: Row) -> Result<Option<Reading>, Error> {
        let Some(key) = key(row.batch_id, row.ordinal) else {
            return Ok(None);
        };
        // The planner made a market of these, so they are one.
        let side = row.side.parse::<Side>();
        let Ok(market) = side.and_then(|side| Market::new(&row.fiat, &row.asset, side)) else {
            return Ok(None);
        };
        let body = self.unpack(&row).await.map_err(|error| match error {
            ArchiveError::Database(error) => error.into(),
            error => Error::Archive { batch: key.batch_id, ordinal: key.ordinal, error },
        })?;
        Ok(Some(Reading {
            key,
            market,
            page: row.page.cast_unsigned(),
            fetched_at: row.fetched_at,
            job: row.job,
            parser_version: row.parser_version,
            body,
        }))
    }

    /// The body of an archived answer.
    async fn unpack(&mut self, row: &Row) -> Result<Vec<u8>, ArchiveError> {
        if let Some(id) = row.dictionary_id
            && !self.dictionaries.contains_key(&id)
        {
            self.dictionaries.insert(id, Dictionary::load(&self.pool, id).await?);
        }
        let dictionary = row.dictionary_id.and_then(|id| self.dictionaries.get(&id));
        let lengths = Lengths::from_columns(row.request_bytes, row.headers_bytes, row.body_bytes);
        let lengths = lengths.ok_or(ArchiveError::TooLarge(usize::MAX))?;
        Ok(archive::unpack(&row.content, lengths, dictionary)?.body)
    }
}

pub(super) fn key(batch_id: i32, ordinal: i32) -> Option<Key> {
    let batch_id = BatchId::from_raw(batch_id).ok()?;
    Some(Key { batch_id, ordinal: ordinal.cast_unsigned() })
}
