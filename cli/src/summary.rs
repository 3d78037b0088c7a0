//! `p2p summary`: the last batches in figures.

use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::PgPool;

use crate::format::{count, percent};

/// Largest markets whose best prices are shown.
const PRICED_MARKETS: i64 = 8;

/// One batch.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Batch {
    batch_id: i32,
    slot_at: DateTime<Utc>,
    outcome: Option<String>,
    reason: Option<String>,
    seconds: Option<Decimal>,
    complete: i64,
    empty: i64,
    drifted: i64,
    partial: i64,
    failed: i64,
    shed: i64,
    /// Ads listed on all pages, repetitions included.
    listed_ads: i64,
    distinct_ads: i64,
    refused_ads: i64,
    estimated_missed: i64,
    pages: i64,
    requests: i64,
    /// Ads with the same content as in the batch before, of those in both; `None`: nothing to compare.
    unchanged: Option<i64>,
    in_both: Option<i64>,
}

/// The best prices of one market's two sides, from the latest state.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Prices {
    asset: String,
    fiat: String,
    ads: i64,
    best_buy: Option<Decimal>,
    best_sell: Option<Decimal>,
    age_seconds: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Summary {
    batches: Vec<Batch>,
    /// Bytes of facts per reading of an ad, indexes included, over the days of these batches.
    bytes_per_reading: Option<Decimal>,
    largest_markets: Vec<Prices>,
}

/// Prints the last `limit` batches.
pub async fn run(limit: u32, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let summary = Summary {
        batches: list_batches(&pool, limit).await?,
        bytes_per_reading: bytes_per_reading(&pool).await?,
        largest_markets: largest_markets(&pool).await?,
    };
    if json {
        crate::print_json(&summary)?;
    } else {
        crate::print(&text(&summary)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list_batches(pool: &PgPool, limit: u32) -> anyhow::Result<Vec<Batch>> {
    Ok(sqlx::query_as(include_str!("summary_batches.sql"))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?)
}

/// Over the latest day only: its partitions are all that is measured.
async fn bytes_per_reading(pool: &PgPool) -> anyhow::Result<Option<Decimal>> {
    Ok(sqlx::query_scalar(
        "WITH latest AS (SELECT max(day) AS day FROM warehouse.books),
         bytes AS (
             SELECT sum(pg_total_relation_size(to_regclass(t.parent || '_' || to_char(latest.day, 'YYYYMMDD')))) AS n
               FROM latest, unnest(ARRAY['warehouse.offer_versions', 'warehouse.book_pages']) AS t (parent)),
         readings AS (SELECT sum(b.listed_ads) AS n FROM warehouse.books b JOIN latest USING (day))
         SELECT round(bytes.n / nullif(readings.n, 0), 1) FROM bytes, readings",
    )
    .fetch_one(pool)
    .await?)
}

async fn largest_markets(pool: &PgPool) -> anyhow::Result<Vec<Prices>> {
    Ok(sqlx::query_as(
        "SELECT crypto_symbol AS asset, fiat_code AS fiat, count(*) AS ads,
                min(price) FILTER (WHERE trade_type = 'BUY') AS best_buy,
                max(price) FILTER (WHERE trade_type = 'SELL') AS best_sell,
                extract(epoch FROM min(age))::bigint AS age_seconds
           FROM warehouse.mv_latest_market_state
          GROUP BY crypto_symbol, fiat_code ORDER BY ads DESC, asset, fiat LIMIT $1",
    )
    .bind(PRICED_MARKETS)
    .fetch_all(pool)
    .await?)
}

fn text(summary: &Summary) -> Result<String, std::fmt::Error> {
    if summary.batches.is_empty() {
        return Ok("no batch was closed yet\n".to_owned());
    }
    let mut text = "\n".to_owned();
    let row = |text: &mut String, name: &str, value: &dyn Fn(&Batch) -> String| {
        write!(text, "  {name:<34}")?;
        for batch in &summary.batches {
            write!(text, "{:>16}", value(batch))?;
        }
        writeln!(text)
    };
    row(&mut text, "batch", &|b| b.batch_id.to_string())?;
    row(&mut text, "slot (UTC)", &|b| b.slot_at.format("%m-%d %H:%M:%S").to_string())?;
    row(&mut text, "outcome", &|b| b.outcome.clone().unwrap_or_else(|| "open".to_owned()))?;
    row(&mut text, "seconds", &|b| b.seconds.map_or_else(|| "-".to_owned(), |s| s.to_string()))?;
    row(&mut text, "requests", &|b| count(b.requests))?;
    row(&mut text, "pages read", &|b| count(b.pages))?;
    row(&mut text, "ads listed", &|b| count(b.listed_ads))?;
    row(&mut text, "distinct ads", &|b| count(b.distinct_ads))?;
    row(&mut text, "ads in quarantine", &|b| count(b.refused_ads))?;
    row(&mut text, "ads missed, estimated", &|b| count(b.estimated_missed))?;
    row(&mut text, "completeness of ads", &|b| {
        percent(b.distinct_ads, b.distinct_ads + b.estimated_missed + b.refused_ads)
    })?;
    row(&mut text, "unchanged since the batch before", &|b| match (b.unchanged, b.in_both) {
        (Some(unchanged), Some(both)) if both > 0 => percent(unchanged, both),
        _ => "-".to_owned(),
    })?;
    text.push('\n');
    row(&mut text, "books complete", &|b| count(b.complete))?;
    row(&mut text, "      empty", &|b| count(b.empty))?;
    row(&mut text, "      drifted while read", &|b| count(b.drifted))?;
    row(&mut text, "      partial", &|b| count(b.partial))?;
    row(&mut text, "      failed", &|b| count(b.failed))?;
    row(&mut text, "      shed for want of budget", &|b| count(b.shed))?;
    if let Some(bytes) = summary.bytes_per_reading {
        writeln!(text, "\n  {:<34}{bytes:>16}", "bytes per ad and reading, indexes")?;
    }
    for batch in &summary.batches {
        if let Some(reason) = &batch.reason {
            writeln!(text, "\n  batch {}: {reason}", batch.batch_id)?;
        }
    }
    add_prices(&mut text, &summary.largest_markets)?;
    Ok(text)
}

fn add_prices(text: &mut String, markets: &[Prices]) -> std::fmt::Result {
    writeln!(
        text,
        "\n  {:<14}{:>7}{:>18}{:>18}{:>10}",
        "market", "ads", "best to buy at", "best to sell at", "spread"
    )?;
    for market in markets {
        let price = |price: Option<Decimal>| {
            price.map_or_else(|| "-".to_owned(), |p| p.normalize().to_string())
        };
        writeln!(
            text,
            "  {:<14}{:>7}{:>18}{:>18}{:>10}",
            format!("{}/{}", market.asset, market.fiat),
            count(market.ads),
            price(market.best_buy),
            price(market.best_sell),
            spread(market).unwrap_or_else(|| "-".to_owned()),
        )?;
    }
    writeln!(text)
}

/// What a taker loses by buying and selling again, in percent of the price to buy at. Negative
/// spreads are ordinary: ads differ by payment method.
fn spread(market: &Prices) -> Option<String> {
    let (buy, sell) = (market.best_buy?, market.best_sell?);
    let share = (buy - sell).checked_div(buy)? * Decimal::ONE_HUNDRED;
    Some(format!("{}%", share.round_dp(2)))
}
