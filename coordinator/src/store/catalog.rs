//! What there is to read, and when it was last read.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use shared::domain::{Market, Side};
use shared::exchange::Exchange;
use sqlx::PgPool;

use crate::planner::{MarketPattern, MarketState};

/// A fiat whose lists are to be read.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Fiat {
    pub fiat_id: i32,
    pub code: String,
}

/// Whether the list of fiats is older than `max_age`, or was never read.
pub async fn is_fiat_list_due(
    pool: &PgPool,
    exchange: Exchange,
    max_age: Duration,
) -> anyhow::Result<bool> {
    let fresh: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pipeline.exchange_catalog
          WHERE exchange_id = $1 AND fiat_list_read_at > now() - make_interval(secs => $2))",
    )
    .bind(exchange.id())
    .bind(max_age.as_secs_f64())
    .fetch_one(pool)
    .await?;
    Ok(!fresh)
}

/// One of the two lists of a fiat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FiatList {
    Assets,
    PaymentMethods,
}

/// Listed fiats whose list was never read, and of the others the `stale_limit` oldest past
/// `max_age`. `only` restricts to these codes unless it is empty.
pub async fn list_due_fiats(
    pool: &PgPool,
    exchange: Exchange,
    list: FiatList,
    max_age: Duration,
    stale_limit: u32,
    only: &[String],
) -> anyhow::Result<Vec<Fiat>> {
    let due = sqlx::query_as(
        "WITH due AS (
           SELECT f.fiat_id, f.currency_code AS code, r.read_at,
                  row_number() OVER (PARTITION BY r.read_at IS NULL ORDER BY r.read_at, f.fiat_id) AS n
             FROM pipeline.fiat_catalog c JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
            CROSS JOIN LATERAL (SELECT CASE WHEN $5 THEN c.assets_read_at
                                            ELSE c.payment_methods_read_at END AS read_at) r
            WHERE c.exchange_id = $1 AND c.is_listed AND ($4 = '{}' OR f.currency_code = ANY ($4))
              AND (r.read_at IS NULL OR r.read_at < now() - make_interval(secs => $2)))
         SELECT fiat_id, code FROM due WHERE read_at IS NULL OR n <= $3 ORDER BY fiat_id",
    );
    let due = due
        .bind(exchange.id())
        .bind(max_age.as_secs_f64())
        .bind(i64::from(stale_limit))
        .bind(only)
        .bind(list == FiatList::Assets)
        .fetch_all(pool)
        .await?;
    Ok(due)
}

#[derive(sqlx::FromRow)]
struct MarketRow {
    market_id: i32,
    fiat: String,
    asset: String,
    side: String,
    last_total: Option<i32>,
    last_read_at: Option<DateTime<Utc>>,
    changes_per_hour: Option<i32>,
    consecutive_empty: i32,
    consecutive_shed: i32,
}

/// The listed markets, with names for the messages. `only` restricts to these fiats unless empty.
pub async fn list_markets(
    pool: &PgPool,
    exchange: Exchange,
    only: &[String],
    priorities: &[MarketPattern],
) -> anyhow::Result<(Vec<MarketState>, HashMap<i32, Market>)> {
    let rows: Vec<MarketRow> = sqlx::query_as(
        "SELECT m.market_id, f.currency_code AS fiat, a.symbol AS asset, m.trade_type AS side,
                c.last_total, c.last_read_at, c.changes_per_hour, c.consecutive_empty, c.consecutive_shed
           FROM pipeline.catalog c
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN pipeline.fiat_catalog l ON l.exchange_id = m.exchange_id AND l.fiat_id = m.fiat_id
           JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
           JOIN warehouse.dim_cryptocurrencies a ON a.crypto_id = m.crypto_id
          WHERE m.exchange_id = $1 AND c.is_listed AND l.is_listed
            AND ($2 = '{}' OR f.currency_code = ANY ($2))
          ORDER BY m.market_id",
    )
    .bind(exchange.id())
    .bind(only)
    .fetch_all(pool)
    .await?;
    let mut names = HashMap::with_capacity(rows.len());
    let mut states = Vec::with_capacity(rows.len());
    for row in rows {
        // A row that is no market costs itself, never the batch.
        let market = match market(&row.fiat, &row.asset, &row.side) {
            Ok(market) => market,
            Err(error) => {
                tracing::error!(market_id = row.market_id, %error, "a market can't be read");
                continue;
            }
        };
        states.push(MarketState {
            market_id: row.market_id,
            last_total: row.last_total.map(i32::cast_unsigned),
            last_read_at: row.last_read_at,
            changes_per_hour: row.changes_per_hour.map(i32::cast_unsigned),
            consecutive_empty: row.consecutive_empty.cast_unsigned(),
            consecutive_shed: row.consecutive_shed.cast_unsigned(),
            is_priority: priorities.iter().any(|pattern| pattern.matches(&market)),
        });
        names.insert(row.market_id, market);
    }
    Ok((states, names))
}

/// A market from its columns.
pub(super) fn market(fiat: &str, asset: &str, side: &str) -> anyhow::Result<Market> {
    Ok(Market::new(fiat, asset, side.parse::<Side>()?)?)
}
