//! `p2p book`: the book of a market as of a moment, by the functions `book_certificate` and `book`.

use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use shared::domain::Side;

use crate::ask::{self, Certificate, MarketArgs};
use crate::chart;
use crate::format::{self, Table, UNKNOWN, count, counted, decimal};
use crate::span::Moment;
use crate::timeline;

/// Ads that a table shows unless told otherwise.
const SHOWN_ADS: u32 = 20;
/// Payment methods of one ad that a table shows, in characters; JSON has them all.
const SHOWN_METHODS_CHARS: usize = 32;
/// How much worse than the best price the depth is told for, in percent. Beyond are nonsense prices.
const DEPTHS_PERCENT: [i64; 7] = [0, 1, 2, 5, 10, 20, 50];
/// Longest bar of the depth.
const BAR_WIDTH: usize = 30;

/// A book as of a moment.
#[derive(Debug, Serialize)]
struct Book {
    market: String,
    /// The moment asked about.
    at: DateTime<Utc>,
    certificate: Certificate,
    /// Best price first, at most `--limit`.
    ads: Vec<Ad>,
    /// Of all ads.
    depth: Vec<Depth>,
}

/// An ad, as function `book` tells it.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Ad {
    place: i32,
    offer_external_id: String,
    price: Decimal,
    available_amount: Decimal,
    min_limit: Decimal,
    max_limit: Decimal,
    payment_methods: Option<Vec<String>>,
    pay_time_limit_minutes: Option<i16>,
    advertiser: String,
    user_no: String,
    is_merchant: bool,
    month_order_count: Option<i32>,
    completion_rate: Option<Decimal>,
    positive_rate: Option<Decimal>,
    advertiser_active_minutes: Option<i16>,
    is_promoted: bool,
    terms: Option<String>,
    extraction_timestamp: DateTime<Utc>,
}

/// What is on offer at prices no more than so much worse than the best.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Depth {
    worse_percent: i64,
    /// The worst price of them.
    price: Decimal,
    ads: usize,
    /// In units of the asset.
    amount: Decimal,
}

/// Prints the book of `market` as of `at`.
pub async fn run(
    market: &MarketArgs,
    at: Option<Moment>,
    limit: Option<u32>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let now = timeline::now(&mut snapshot).await?;
    let at = at.map_or(now, |at| at.instant(now));
    let certificate = ask::certificate(&mut snapshot, market, at).await?;
    let mut ads: Vec<Ad> = sqlx::query_as("SELECT * FROM warehouse.book($1, $2, $3, $4)")
        .bind(&market.fiat)
        .bind(&market.asset)
        .bind(market.side.as_str())
        .bind(at)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(ask::explain)?;
    let depth = depth(&ads, market.side);
    let all = ads.len();
    let limit = limit.unwrap_or(if json { u32::MAX } else { SHOWN_ADS });
    ads.truncate(usize::try_from(limit)?);
    let book = Book { market: market.name(), at, certificate, ads, depth };
    if json {
        crate::print_json(&book)?;
    } else {
        crate::print(&text(&book, all)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The depth of `ads`, which stand best first.
fn depth(ads: &[Ad], side: Side) -> Vec<Depth> {
    let Some(best) = ads.first().map(|ad| ad.price) else {
        return Vec::new();
    };
    let within = |percent: i64| {
        let part = Decimal::new(percent, 2);
        let worst = match side {
            Side::Buy => best.saturating_mul(Decimal::ONE + part),
            Side::Sell => best.saturating_mul(Decimal::ONE - part),
        };
        let is_within = |ad: &&Ad| match side {
            Side::Buy => ad.price <= worst,
            Side::Sell => ad.price >= worst,
        };
        let within: Vec<&Ad> = ads.iter().take_while(is_within).collect();
        Depth {
            worse_percent: percent,
            price: within.last().map_or(best, |ad| ad.price),
            ads: within.len(),
            amount: within.iter().map(|ad| ad.available_amount).sum(),
        }
    };
    DEPTHS_PERCENT.into_iter().map(within).collect()
}

fn text(book: &Book, all: usize) -> anyhow::Result<String> {
    let mut text = book.certificate.line(&book.market);
    if book.ads.is_empty() && all == 0 {
        writeln!(text, "no ads")?;
        return Ok(text);
    }
    write!(text, "{}", ads_table(&book.ads))?;
    let more = all - book.ads.len();
    if more > 0 {
        writeln!(text, "  and {} more, see --limit", count(i64::try_from(more)?))?;
    }
    let (asset, _) = book.market.split_once('/').unwrap_or_default();
    writeln!(text, "depth, in {asset}:")?;
    let deepest = book.depth.last().map_or(Decimal::ZERO, |depth| depth.amount);
    let mut table = Table::new(&[">worse than best", ">to price", ">ads", ">amount", ""]);
    for depth in &book.depth {
        table.row(vec![
            format!("{}%", depth.worse_percent),
            decimal(depth.price),
            count(i64::try_from(depth.ads)?),
            decimal(depth.amount),
            chart::bar(depth.amount, deepest, BAR_WIDTH),
        ]);
    }
    write!(text, "{table}")?;
    let beyond = i64::try_from(all - book.depth.last().map_or(0, |depth| depth.ads))?;
    if beyond > 0 {
        writeln!(text, "  and {} at prices worse still", counted(beyond, "ad", "ads"))?;
    }
    Ok(text)
}

fn ads_table(ads: &[Ad]) -> Table {
    let mut table = Table::new(&[
        ">#",
        ">price",
        ">amount",
        ">from",
        ">to",
        "methods",
        "advertiser",
        ">orders",
        ">completed",
    ]);
    for ad in ads {
        let methods =
            ad.payment_methods.as_ref().map_or_else(|| UNKNOWN.to_owned(), |m| m.join(","));
        let methods = format::name(&methods);
        let methods = match methods.char_indices().nth(SHOWN_METHODS_CHARS) {
            Some((end, _)) => format!("{}…", &methods[..end]),
            None => methods,
        };
        let mark = match (ad.is_merchant, ad.is_promoted) {
            (true, true) => " (merchant, promoted)",
            (true, false) => " (merchant)",
            (false, true) => " (promoted)",
            (false, false) => "",
        };
        table.row(vec![
            count(ad.place),
            decimal(ad.price),
            decimal(ad.available_amount),
            decimal(ad.min_limit),
            decimal(ad.max_limit),
            methods,
            format::name(&ad.advertiser) + mark,
            format::count_or_unknown(ad.month_order_count),
            format::share(ad.completion_rate),
        ]);
    }
    table
}
