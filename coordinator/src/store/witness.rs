//! The witness of a batch: what it said, our books beside it, and what came of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use shared::domain::{BatchId, Market};
use shared::exchange::Exchange;
use shared::job::Failure;
use sqlx::{PgConnection, PgPool};

use super::catalog;
use crate::witness::{Book, Check, Sighting, Statement, Verdict, compare};

/// How long the witness is left alone after it refused a request as too fast: each refusal slows the pages
/// of the market down too. And how long it is asked about one market only when it gave nothing that can
/// be read.
const MEMORY_SECS: f64 = 3600.0;

/// A market held against its witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarketCheck {
    pub market_id: i32,
    pub market: Market,
    pub check: Check,
    /// When the list of the witness arrived, and how many ads it names; `None`: not read.
    pub witnessed_at: Option<DateTime<Utc>>,
    pub ads: Option<usize>,
    pub quoted: Option<Decimal>,
}

/// Share of the compared ads that agree or whose difference is explained; `None`: none was compared.
#[must_use]
pub fn agreement(checks: &[MarketCheck]) -> Option<Decimal> {
    let sum =
        |count: fn(&Check) -> i32| checks.iter().map(|one| i64::from(count(&one.check))).sum();
    let (compared, differing): (i64, i64) =
        (sum(|check| check.counts.compared()), sum(|check| check.counts.differing()));
    let share = Decimal::from(compared - differing).checked_div(Decimal::from(compared))?;
    Some(share.normalize())
}

/// How many markets the witness is asked about, of `most`, after what it answered lately.
pub async fn allowed_markets(pool: &PgPool, exchange: Exchange, most: u32) -> anyhow::Result<u32> {
    if most == 0 {
        return Ok(0);
    }
    let (is_refused, is_useless): (bool, bool) = sqlx::query_as(
        "SELECT coalesce(bool_or(j.reason = $3), false),
                coalesce(NOT bool_or(j.state = 'done') AND bool_or(j.state = 'failed'), false)
           FROM pipeline.batches b
           JOIN pipeline.jobs j ON j.day = b.day AND j.batch_id = b.batch_id
          WHERE b.exchange_id = $1 AND b.opened_at > now() - make_interval(secs => $2)
            AND b.day >= (now() AT TIME ZONE 'UTC')::date - 1
            AND j.kind IN ('witness_ads', 'witness_quote')",
    )
    .bind(exchange.id())
    .bind(MEMORY_SECS)
    .bind(Failure::RateLimited.as_str())
    .fetch_one(pool)
    .await?;
    Ok(match (is_refused, is_useless) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => most,
    })
}

/// Holds what the witness said in this batch against the books, whose certificates are written, and the
/// good ones before, from which `latest_books` has not moved on yet. Records what came of it.
pub(super) async fn check(
    connection: &mut PgConnection,
    batch: BatchId,
) -> anyhow::Result<Vec<MarketCheck>> {
    let asked = list_asked(connection, batch).await?;
    if asked.is_empty() {
        return Ok(Vec::new());
    }
    let markets: Vec<i32> = asked.keys().copied().collect();
    let mut sightings = list_sightings(connection, batch, &markets).await?;
    let mut before = list_before(connection, batch, &markets).await?;
    let mut quarantined = list_quarantined(connection, batch, &markets).await?;
    let mut checks = Vec::with_capacity(asked.len());
    for (market_id, asked) in asked {
        let book = Book {
            side: asked.market.side,
            is_read: asked.is_read,
            is_whole: asked.is_whole,
            sightings: sightings.remove(&market_id).unwrap_or_default(),
            before: before.remove(&market_id).unwrap_or_default(),
            quarantined: quarantined.remove(&market_id).unwrap_or_default(),
        };
        let check = compare(&asked.statement, &book);
        let list = asked.statement.list.as_ref();
        checks.push(MarketCheck {
            market_id,
            market: asked.market,
            check,
            witnessed_at: list.map(|(at, _)| *at),
            ads: list.map(|(_, ads)| ads.len()),
            quoted: asked.statement.quote,
        });
    }
    for one in &checks {
        insert(connection, batch, one).await?;
    }
    Ok(checks)
}

/// A market that the witness was asked about.
struct Asked {
    market: Market,
    is_read: bool,
    is_whole: bool,
    statement: Statement,
}

#[derive(sqlx::FromRow)]
struct AskedRow {
    market_id: i32,
    fiat: String,
    asset: String,
    side: String,
    is_read: bool,
    is_whole: bool,
    fetched_at: Option<DateTime<Utc>>,
    adv_nos: Option<Vec<String>>,
    prices: Option<Vec<Decimal>>,
    quote: Option<Decimal>,
}

async fn list_asked(
    connection: &mut PgConnection,
    batch: BatchId,
) -> anyhow::Result<BTreeMap<i32, Asked>> {
    let rows: Vec<AskedRow> = sqlx::query_as(
        "SELECT j.market_id, f.currency_code AS fiat, a.symbol AS asset, m.trade_type AS side,
                coalesce(b.verdict NOT IN ('failed', 'shed'), false) AS is_read,
                coalesce(b.pages_lost + b.pages_shed = 0, false) AS is_whole,
                r.fetched_at, r.adv_nos, r.prices, r.quote
           FROM pipeline.jobs j
           JOIN warehouse.dim_markets m ON m.market_id = j.market_id
           JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
           JOIN warehouse.dim_cryptocurrencies a ON a.crypto_id = m.crypto_id
           LEFT JOIN warehouse.books b ON b.day = j.day AND b.batch_id = j.batch_id AND b.market_id = j.market_id
           LEFT JOIN pipeline.witness_readings r ON r.day = j.day AND r.batch_id = j.batch_id AND r.ordinal = j.ordinal
          WHERE j.day = $1 AND j.batch_id = $2 AND j.kind IN ('witness_ads', 'witness_quote')",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .fetch_all(connection)
    .await?;
    let mut asked = BTreeMap::new();
    for row in rows {
        let market = catalog::market(&row.fiat, &row.asset, &row.side)?;
        let (is_read, is_whole) = (row.is_read, row.is_whole);
        let new = || Asked { market, is_read, is_whole, statement: Statement::default() };
        let statement = &mut asked.entry(row.market_id).or_insert_with(new).statement;
        if let (Some(at), Some(numbers), Some(prices)) = (row.fetched_at, row.adv_nos, row.prices) {
            statement.list = Some((at, numbers.into_iter().zip(prices).collect()));
        }
        statement.quote = statement.quote.or(row.quote);
    }
    Ok(asked)
}

#[derive(sqlx::FromRow)]
struct SightingRow {
    market_id: i32,
    adv_no: String,
    price: Decimal,
    page: i32,
    rank: Option<i32>,
    at: DateTime<Utc>,
}

async fn list_sightings(
    connection: &mut PgConnection,
    batch: BatchId,
    markets: &[i32],
) -> anyhow::Result<HashMap<i32, Vec<Sighting>>> {
    let rows: Vec<SightingRow> = sqlx::query_as(
        "SELECT p.market_id, v.adv_no, v.price, p.page::int AS page, p.fetched_at AS at,
                CASE WHEN l.position = p.promoted_position THEN NULL
                     ELSE (p.page - 1) * 20 + l.position
                          - CASE WHEN l.position > p.promoted_position THEN 1 ELSE 0 END
                END::int AS rank
           FROM warehouse.book_pages p
          CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
           JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
          WHERE p.day = $1 AND p.batch_id = $2 AND p.market_id = ANY ($3)",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .bind(markets)
    .fetch_all(connection)
    .await?;
    let mut sightings: HashMap<i32, Vec<Sighting>> = HashMap::new();
    for SightingRow { market_id, adv_no, price, page, rank, at } in rows {
        let of_market = sightings.entry(market_id).or_default();
        of_market.push(Sighting { adv_no, price, page, rank, at });
    }
    Ok(sightings)
}

/// Ads and prices of each market's last good book before.
async fn list_before(
    connection: &mut PgConnection,
    batch: BatchId,
    markets: &[i32],
) -> anyhow::Result<HashMap<i32, HashMap<String, Decimal>>> {
    let books: Vec<(i32, chrono::NaiveDate, i32)> = sqlx::query_as(
        "SELECT market_id, day, batch_id FROM warehouse.latest_books
          WHERE market_id = ANY ($1) AND batch_id < $2",
    )
    .bind(markets)
    .bind(batch.raw())
    .fetch_all(&mut *connection)
    .await?;
    let mut before: HashMap<i32, HashMap<String, Decimal>> = HashMap::new();
    // Day by day named, so that one partition is read for each.
    for (market_id, day, batch_id) in books {
        let ads: Vec<(String, Decimal)> = sqlx::query_as(
            "SELECT v.adv_no, v.price
               FROM warehouse.book_pages p
              CROSS JOIN LATERAL unnest(p.offer_ids) AS l (id)
               JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
              WHERE p.day = $1 AND p.batch_id = $2 AND p.market_id = $3
              ORDER BY p.fetched_at",
        )
        .bind(day)
        .bind(batch_id)
        .bind(market_id)
        .fetch_all(&mut *connection)
        .await?;
        before.insert(market_id, ads.into_iter().collect());
    }
    Ok(before)
}

async fn list_quarantined(
    connection: &mut PgConnection,
    batch: BatchId,
    markets: &[i32],
) -> anyhow::Result<HashMap<i32, HashSet<String>>> {
    let rows: Vec<(i32, String)> = sqlx::query_as(
        "SELECT j.market_id, q.adv_no
           FROM pipeline.quarantine q
           JOIN pipeline.jobs j ON j.day = q.day AND j.batch_id = q.batch_id AND j.ordinal = q.ordinal
          WHERE q.batch_id = $2 AND j.day = $1 AND j.kind = 'search' AND j.market_id = ANY ($3)
            AND q.adv_no IS NOT NULL",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .bind(markets)
    .fetch_all(connection)
    .await?;
    let mut quarantined: HashMap<i32, HashSet<String>> = HashMap::new();
    for (market_id, adv_no) in rows {
        quarantined.entry(market_id).or_default().insert(adv_no);
    }
    Ok(quarantined)
}

async fn insert(
    connection: &mut PgConnection,
    batch: BatchId,
    one: &MarketCheck,
) -> anyhow::Result<()> {
    let Check { verdict, skew_ms, counts, quote, differences } = &one.check;
    let reason = match verdict {
        Verdict::Unknown(reason) => Some(reason.as_str()),
        Verdict::Agree | Verdict::Disagree => None,
    };
    let figure = |count: i32| reason.is_none().then_some(count);
    sqlx::query(
        "INSERT INTO pipeline.witness_checks
                (day, batch_id, market_id, verdict, reason, witnessed_at, skew_ms, witness_ads, compared, agreed,
                 price_differs, missing, lacking, explained, quote, quote_verdict, quote_rank, details)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(batch.day())
    .bind(batch.raw())
    .bind(one.market_id)
    .bind(verdict.as_str())
    .bind(reason)
    .bind(one.witnessed_at)
    .bind(skew_ms.map(|ms| i32::try_from(ms).unwrap_or(i32::MAX)))
    .bind(one.ads.map(|ads| i32::try_from(ads).unwrap_or(i32::MAX)))
    .bind(figure(counts.compared()))
    .bind(figure(counts.agreed))
    .bind(figure(counts.price_differs))
    .bind(figure(counts.missing))
    .bind(figure(counts.lacking))
    .bind(figure(counts.explained))
    .bind(one.quoted)
    .bind(quote.verdict.as_str())
    .bind(quote.rank)
    .bind(serde_json::to_value(differences)?)
    .execute(connection)
    .await?;
    Ok(())
}
