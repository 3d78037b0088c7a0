//! `p2p catalog`: the markets that the planner knows, and when their lists were read.
//!
//! As JSON: [`Catalog`].

use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use crate::format::{self, Table, UNKNOWN, count, count_or_unknown, counted};
use crate::{EXCHANGE, NotFound, timeline};

/// Markets that text shows unless told otherwise, the largest.
const SHOWN_MARKETS: usize = 40;

/// All of it.
#[derive(Debug, Serialize)]
struct Catalog {
    now: DateTime<Utc>,
    /// When the list of fiats was last read. `None`: never.
    fiat_list_read_at: Option<DateTime<Utc>>,
    fiats: Vec<Fiat>,
    /// The largest first.
    markets: Vec<Market>,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Fiat {
    fiat: String,
    is_listed: bool,
    delisted_at: Option<DateTime<Utc>>,
    assets_read_at: Option<DateTime<Utc>>,
    payment_methods_read_at: Option<DateTime<Utc>>,
    /// Listed markets.
    markets: i64,
    /// Ads of these at their last readings.
    ads: i64,
}

#[derive(Debug, Serialize, sqlx::FromRow)]
struct Market {
    /// As `USDT/VES BUY`.
    market: String,
    market_id: i32,
    /// Whether market and fiat are listed.
    is_listed: bool,
    delisted_at: Option<DateTime<Utc>>,
    last_total: Option<i32>,
    last_read_at: Option<DateTime<Utc>>,
    changes_per_hour: Option<i32>,
    consecutive_empty: i32,
    consecutive_shed: i32,
}

/// Prints it; `all`: with markets that are no longer listed, and without a limit.
pub async fn run(fiat: Option<&str>, all: bool, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let catalog = read(&mut snapshot, fiat, all).await?;
    if let Some(fiat) = fiat.filter(|_| catalog.fiats.is_empty()) {
        let text = format!("fiat {fiat:?} is not known: p2p catalog lists those that are");
        return Err(NotFound(text).into());
    }
    if json {
        crate::print_json(&catalog)?;
    } else {
        crate::print(&text(&catalog, all)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn read(db: &mut PgConnection, fiat: Option<&str>, all: bool) -> anyhow::Result<Catalog> {
    let fiat_list_read_at = sqlx::query_scalar(
        "SELECT fiat_list_read_at FROM pipeline.exchange_catalog WHERE exchange_id = $1",
    );
    let fiats = sqlx::query_as(
        "SELECT f.currency_code AS fiat, l.is_listed, l.delisted_at, l.assets_read_at, l.payment_methods_read_at,
                count(c.market_id) FILTER (WHERE c.is_listed AND l.is_listed) AS markets,
                coalesce(sum(c.last_total) FILTER (WHERE c.is_listed AND l.is_listed), 0)::bigint AS ads
           FROM pipeline.fiat_catalog l
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
           LEFT JOIN warehouse.dim_markets m ON m.exchange_id = l.exchange_id AND m.fiat_id = l.fiat_id
           LEFT JOIN pipeline.catalog c ON c.market_id = m.market_id
          WHERE l.exchange_id = $1 AND ($2::text IS NULL OR f.currency_code = $2)
          GROUP BY f.currency_code, l.is_listed, l.delisted_at, l.assets_read_at, l.payment_methods_read_at
          ORDER BY ads DESC, f.currency_code",
    );
    let markets = sqlx::query_as(
        "SELECT a.symbol || '/' || f.currency_code || ' ' || m.trade_type AS market, m.market_id,
                c.is_listed AND l.is_listed AS is_listed,
                CASE WHEN NOT c.is_listed THEN c.delisted_at WHEN NOT l.is_listed THEN l.delisted_at END AS delisted_at,
                c.last_total, c.last_read_at, c.changes_per_hour, c.consecutive_empty, c.consecutive_shed
           FROM pipeline.catalog c
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN pipeline.fiat_catalog l ON l.exchange_id = m.exchange_id AND l.fiat_id = m.fiat_id
           JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
           JOIN warehouse.dim_cryptocurrencies a ON a.crypto_id = m.crypto_id
          WHERE m.exchange_id = $1 AND ($2::text IS NULL OR f.currency_code = $2)
            AND ($3 OR c.is_listed AND l.is_listed)
          ORDER BY c.last_total DESC NULLS LAST, market",
    );
    Ok(Catalog {
        now: timeline::now(db).await?,
        fiat_list_read_at: fiat_list_read_at.bind(EXCHANGE.id()).fetch_optional(&mut *db).await?,
        fiats: fiats.bind(EXCHANGE.id()).bind(fiat).fetch_all(&mut *db).await?,
        markets: markets.bind(EXCHANGE.id()).bind(fiat).bind(all).fetch_all(db).await?,
    })
}

fn text(catalog: &Catalog, all: bool) -> Result<String, std::fmt::Error> {
    let ago = |at: Option<DateTime<Utc>>| {
        let span = |at: DateTime<Utc>| format::span((catalog.now - at).num_seconds().max(0));
        at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", span(at)))
    };
    let listed = |is_listed: bool, delisted_at| {
        if is_listed { "listed".to_owned() } else { format!("delisted {}", ago(delisted_at)) }
    };
    let mut text = String::new();
    writeln!(text, "list of fiats read {}", ago(catalog.fiat_list_read_at))?;
    let mut fiats =
        Table::new(&["fiat", "state", ">markets", ">ads", ">assets read", ">payment methods read"]);
    for fiat in catalog.fiats.iter().filter(|fiat| all || fiat.is_listed) {
        fiats.row(vec![
            fiat.fiat.clone(),
            listed(fiat.is_listed, fiat.delisted_at),
            count(fiat.markets),
            count(fiat.ads),
            ago(fiat.assets_read_at),
            ago(fiat.payment_methods_read_at),
        ]);
    }
    if !fiats.is_empty() {
        write!(text, "{fiats}")?;
    }
    let mut markets =
        Table::new(&["market", "state", ">ads", ">read", ">changes/h", ">empty", ">left out"]);
    let shown = if all { usize::MAX } else { SHOWN_MARKETS };
    for market in catalog.markets.iter().take(shown) {
        markets.row(vec![
            market.market.clone(),
            listed(market.is_listed, market.delisted_at),
            count_or_unknown(market.last_total),
            ago(market.last_read_at),
            count_or_unknown(market.changes_per_hour),
            dash(market.consecutive_empty),
            dash(market.consecutive_shed),
        ]);
    }
    let total = i64::try_from(catalog.markets.len()).unwrap_or(i64::MAX);
    writeln!(text, "{}", counted(total, "market", "markets"))?;
    if !markets.is_empty() {
        write!(text, "{markets}")?;
    }
    let more = catalog.markets.len().saturating_sub(shown);
    if more > 0 {
        writeln!(text, "  and {more} more, see --fiat and --all")?;
    }
    Ok(text)
}

/// What is mostly none, so that the rest is seen.
fn dash(number: i32) -> String {
    if number == 0 { UNKNOWN.to_owned() } else { count(number) }
}
