//! `p2p witness`: how far the exchange's other view of its books agrees with ours, and every ad that
//! differs.
//!
//! As JSON: [`Shown`].

use std::fmt::Write;
use std::process::ExitCode;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::Value;
use shared::domain::{BatchId, Side};
use sqlx::PgConnection;

use crate::batch::{self, Wanted};
use crate::format::{self, Table, UNKNOWN, count_or_unknown, counted};
use crate::{EXCHANGE, EXIT_TROUBLE, NotFound};

/// Markets to show: all of an asset in a fiat (`USDT/VES`), or one side of it (`USDT/VES/BUY`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Markets {
    asset: String,
    fiat: String,
    side: Option<Side>,
}

/// What names no markets.
#[derive(Debug, thiserror::Error)]
#[error("allowed are USDT/VES and USDT/VES/BUY")]
pub struct BadMarkets;

impl FromStr for Markets {
    type Err = BadMarkets;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let (asset, fiat, side) = match *parts.as_slice() {
            [asset, fiat] => (asset, fiat, None),
            [asset, fiat, side] => (asset, fiat, Some(side.parse().map_err(|_| BadMarkets)?)),
            _ => return Err(BadMarkets),
        };
        if asset.is_empty() || fiat.is_empty() {
            return Err(BadMarkets);
        }
        Ok(Self { asset: asset.to_owned(), fiat: fiat.to_owned(), side })
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    /// Share of the compared ads that agree or moved; `None`: none was compared.
    agreement: Option<Decimal>,
    /// Of the markets compared.
    agree: usize,
    disagree: usize,
    unknown: usize,
    /// Newest batch first.
    checks: Vec<Check>,
}

/// As the columns of `pipeline.witness_checks`.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Check {
    batch_id: i32,
    slot_at: DateTime<Utc>,
    /// As `USDT/VES BUY`.
    market: String,
    verdict: String,
    reason: Option<String>,
    witnessed_at: Option<DateTime<Utc>>,
    skew_ms: Option<i32>,
    witness_ads: Option<i16>,
    compared: Option<i16>,
    agreed: Option<i16>,
    price_differs: Option<i16>,
    missing: Option<i16>,
    lacking: Option<i16>,
    explained: Option<i16>,
    quote: Option<Decimal>,
    quote_verdict: Option<String>,
    quote_rank: Option<i32>,
    details: Value,
}

/// Prints the checks of a batch, or of the last `last` batches that have any.
pub async fn run(
    batch: Option<Wanted>,
    last: u32,
    markets: Option<&Markets>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let wanted = match batch {
        Some(wanted) => Some(batch::find(&mut snapshot, wanted).await?),
        None => None,
    };
    let checks = list(&mut snapshot, wanted, last, markets).await?;
    if checks.is_empty() {
        let of = wanted.map_or_else(String::new, |id| format!(" in batch {id}"));
        return Err(NotFound(format!(
            "no market was held against the witness{of}: see WITNESS_MARKETS_PER_BATCH"
        ))
        .into());
    }
    let of = |verdict: &str| checks.iter().filter(|check| check.verdict == verdict).count();
    let (agree, disagree, unknown) = (of("agree"), of("disagree"), of("unknown"));
    let shown = Shown { agreement: agreement(&checks), agree, disagree, unknown, checks };
    if json {
        crate::print_json(&shown)?;
    } else {
        crate::print(&text(&shown)?)?;
    }
    Ok(ExitCode::from(if disagree > 0 { EXIT_TROUBLE } else { 0 }))
}

async fn list(
    db: &mut PgConnection,
    batch: Option<BatchId>,
    last: u32,
    markets: Option<&Markets>,
) -> anyhow::Result<Vec<Check>> {
    let checks = sqlx::query_as(
        "WITH shown AS (
           SELECT DISTINCT w.day, w.batch_id
             FROM pipeline.witness_checks w JOIN pipeline.batches b USING (batch_id)
            WHERE b.exchange_id = $1 AND ($2::int IS NULL OR w.batch_id = $2 AND w.day = $7)
            ORDER BY w.day DESC, w.batch_id DESC LIMIT $3)
         SELECT w.batch_id, b.slot_at, a.symbol || '/' || f.currency_code || ' ' || m.trade_type AS market,
                w.verdict, w.reason, w.witnessed_at, w.skew_ms, w.witness_ads, w.compared, w.agreed,
                w.price_differs, w.missing, w.lacking, w.explained, w.quote, w.quote_verdict, w.quote_rank,
                w.details
           FROM shown
           JOIN pipeline.witness_checks w USING (day, batch_id)
           JOIN pipeline.batches b USING (batch_id)
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
           JOIN warehouse.dim_cryptocurrencies a USING (crypto_id)
          WHERE ($4::text IS NULL OR a.symbol = $4) AND ($5::text IS NULL OR f.currency_code = $5)
            AND ($6::text IS NULL OR m.trade_type = $6)
          ORDER BY w.batch_id DESC, market",
    )
    .bind(EXCHANGE.id())
    .bind(batch.map(BatchId::raw))
    .bind(i64::from(last))
    .bind(markets.map(|markets| &markets.asset))
    .bind(markets.map(|markets| &markets.fiat))
    .bind(markets.and_then(|markets| markets.side).map(Side::as_str))
    .bind(batch.map(BatchId::day))
    .fetch_all(db)
    .await?;
    Ok(checks)
}

fn agreement(checks: &[Check]) -> Option<Decimal> {
    let sum = |of: fn(&Check) -> [Option<i16>; 2]| -> Decimal {
        checks.iter().flat_map(of).flatten().map(Decimal::from).sum()
    };
    let agreed = sum(|check| [check.agreed, check.explained]);
    agreed
        .checked_div(sum(|check| [check.compared, None]))
        .map(|share| share.round_dp(4).normalize())
}

fn text(shown: &Shown) -> Result<String, std::fmt::Error> {
    let mut table = Table::new(&[
        "batch",
        "slot (UTC)",
        "market",
        "verdict",
        ">skew ms",
        ">compared",
        ">agreed",
        ">moved",
        ">price",
        ">missing",
        ">lacking",
        "quote",
    ]);
    for check in &shown.checks {
        let verdict = match &check.reason {
            Some(reason) => format!("{} ({reason})", check.verdict),
            None => check.verdict.clone(),
        };
        table.row(vec![
            check.batch_id.to_string(),
            format::instant(check.slot_at),
            check.market.clone(),
            verdict,
            check.skew_ms.map_or_else(|| UNKNOWN.to_owned(), |ms| ms.to_string()),
            count_or_unknown(check.compared),
            count_or_unknown(check.agreed),
            count_or_unknown(check.explained),
            count_or_unknown(check.price_differs),
            count_or_unknown(check.missing),
            count_or_unknown(check.lacking),
            quote(check),
        ]);
    }
    let mut text = String::new();
    writeln!(
        text,
        "agreement {}: {} agree, {} disagree, {} unknown\n",
        format::share(shown.agreement),
        counted(i64::try_from(shown.agree).unwrap_or(i64::MAX), "market", "markets"),
        shown.disagree,
        shown.unknown,
    )?;
    write!(text, "{table}")?;
    for check in shown.checks.iter().filter(|check| check.verdict == "disagree") {
        write!(text, "\n{} in batch {}:\n{}", check.market, check.batch_id, differences(check))?;
    }
    Ok(text)
}

/// Price, place and what it is in our book.
fn quote(check: &Check) -> String {
    match (check.quote, &check.quote_verdict, check.quote_rank) {
        (Some(price), Some(verdict), Some(rank)) => {
            format!("{} ({verdict}, place {rank})", format::decimal(price))
        }
        (Some(price), ..) => format::decimal(price),
        (None, ..) => UNKNOWN.to_owned(),
    }
}

fn differences(check: &Check) -> Table {
    let mut table = Table::new(&[
        "ad",
        "differs",
        "explained",
        ">place there",
        ">price there",
        ">place here",
        ">price here",
        ">price before",
    ]);
    for one in check.details.as_array().into_iter().flatten() {
        let field = |name: &str| match &one[name] {
            Value::Null => UNKNOWN.to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let price = |name: &str| {
            let price = one[name].as_str().and_then(|text| text.parse::<Decimal>().ok());
            format::decimal_or_unknown(price)
        };
        table.row(vec![
            field("adv_no"),
            field("result"),
            field("explained"),
            field("rank_witness"),
            price("price_witness"),
            field("rank_ours"),
            price("price_ours"),
            price("price_before"),
        ]);
    }
    table
}
