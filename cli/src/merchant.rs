//! `p2p merchant`: who an advertiser is and was, and what it had on offer day by day, by the functions
//! `find_advertisers` and `merchant_history`.

use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde::Serialize;

use crate::ask;
use crate::format::{self, Table, UNKNOWN, count_or_unknown, decimal, decimal_or_unknown};
use crate::span::Moment;
use crate::{EXIT_TROUBLE, NotAllowed, NotFound, timeline};

/// What is looked at unless told otherwise: a week.
const DEFAULT_SPAN: TimeDelta = TimeDelta::days(7);

/// What a name led to.
#[derive(Debug, Serialize)]
struct Answer {
    name: String,
    from: NaiveDate,
    to: NaiveDate,
    /// More than one: several had this nickname, and none is told more about.
    advertisers: Vec<Advertiser>,
    /// By day and market; of a single advertiser only.
    days: Vec<Day>,
}

/// An advertiser with all versions of its identity.
#[derive(Debug, Serialize)]
struct Advertiser {
    advertiser_id: i32,
    user_no: String,
    /// Oldest first.
    versions: Vec<Version>,
}

/// As function `find_advertisers` tells it.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Version {
    #[serde(skip)]
    advertiser_id: i32,
    #[serde(skip)]
    user_no: String,
    advertiser: String,
    is_merchant: bool,
    user_grade: Option<i16>,
    month_order_count: Option<i32>,
    completion_rate: Option<Decimal>,
    positive_rate: Option<Decimal>,
    valid_from: DateTime<Utc>,
    /// `None`: still valid.
    valid_to: Option<DateTime<Utc>>,
    is_current: bool,
}

/// As function `merchant_history` tells it.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Day {
    day: NaiveDate,
    fiat_code: String,
    crypto_symbol: String,
    trade_type: String,
    is_merchant: bool,
    books: i32,
    uptime: Option<Decimal>,
    best_ratio: Option<Decimal>,
    ads_max: i32,
    min_price: Option<Decimal>,
    max_price: Option<Decimal>,
    mean_amount: Option<Decimal>,
    amount_share: Option<Decimal>,
    outflow_lower: Decimal,
    outflow_upper: Decimal,
    first_seen_at: Option<DateTime<Utc>>,
    last_seen_at: Option<DateTime<Utc>>,
}

/// Prints what is known of `name`, a `userNo` or a nickname.
pub async fn run(
    name: &str,
    from: Option<Moment>,
    to: Option<Moment>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let now = timeline::now(&mut snapshot).await?;
    let to = to.map_or(now, |to| to.instant(now));
    let from = from.map_or_else(|| to - DEFAULT_SPAN, |from| from.instant(now));
    if to < from {
        return Err(NotAllowed("allowed is --from before --to".to_owned()).into());
    }
    let versions = sqlx::query_as("SELECT * FROM warehouse.find_advertisers($1)")
        .bind(name)
        .fetch_all(&mut *snapshot)
        .await?;
    let advertisers = gather(versions);
    let days = match advertisers.as_slice() {
        [] => {
            let text = format!("no advertiser ever had the userNo or nickname {name:?}");
            return Err(NotFound(text).into());
        }
        [one] => sqlx::query_as("SELECT * FROM warehouse.merchant_history($1, $2, $3)")
            .bind(&one.user_no)
            .bind(from.date_naive())
            .bind(to.date_naive())
            .fetch_all(&mut *snapshot)
            .await
            .map_err(ask::explain)?,
        _ => Vec::new(),
    };
    let (from, to) = (from.date_naive(), to.date_naive());
    let answer = Answer { name: name.to_owned(), from, to, advertisers, days };
    if json {
        crate::print_json(&answer)?;
    } else {
        crate::print(&text(&answer)?)?;
    }
    Ok(ExitCode::from(if answer.advertisers.len() > 1 { EXIT_TROUBLE } else { 0 }))
}

/// Versions by advertiser; they come in this order.
fn gather(versions: Vec<Version>) -> Vec<Advertiser> {
    let mut advertisers: Vec<Advertiser> = Vec::new();
    for version in versions {
        match advertisers.last_mut().filter(|last| last.advertiser_id == version.advertiser_id) {
            Some(last) => last.versions.push(version),
            None => advertisers.push(Advertiser {
                advertiser_id: version.advertiser_id,
                user_no: version.user_no.clone(),
                versions: vec![version],
            }),
        }
    }
    advertisers
}

fn text(answer: &Answer) -> anyhow::Result<String> {
    let mut text = String::new();
    let many = i64::try_from(answer.advertisers.len())?;
    if many > 1 {
        let name = format::name(&answer.name);
        writeln!(text, "{many} advertisers have or had the nickname {name}: ask by the userNo")?;
    }
    for advertiser in &answer.advertisers {
        writeln!(text, "userNo {}", format::name(&advertiser.user_no))?;
        write!(text, "{}", versions_table(&advertiser.versions))?;
    }
    if many > 1 {
        return Ok(text);
    }
    if answer.days.is_empty() {
        writeln!(text, "no ads from {} to {}", answer.from, answer.to)?;
        return Ok(text);
    }
    writeln!(text, "by day and market, from {} to {}:", answer.from, answer.to)?;
    write!(text, "{}", days_table(&answer.days))?;
    Ok(text)
}

fn versions_table(versions: &[Version]) -> Table {
    let mut table = Table::new(&[
        "nickname",
        "merchant",
        ">grade",
        "from",
        "to",
        ">orders",
        ">completed",
        ">positive",
    ]);
    for version in versions {
        let instant = |at: DateTime<Utc>| at.format("%F %H:%M").to_string();
        table.row(vec![
            format::name(&version.advertiser),
            if version.is_merchant { "yes" } else { "no" }.to_owned(),
            count_or_unknown(version.user_grade),
            instant(version.valid_from),
            version.valid_to.map_or_else(|| "now".to_owned(), instant),
            count_or_unknown(version.month_order_count),
            format::share(version.completion_rate),
            format::share(version.positive_rate),
        ]);
    }
    table
}

fn days_table(days: &[Day]) -> Table {
    let mut table = Table::new(&[
        "day",
        "market",
        ">uptime",
        ">best",
        ">ads",
        ">low",
        ">high",
        ">mean amount",
        ">share",
        ">left at least",
        ">at most",
        "seen",
    ]);
    for day in days {
        let time = |at: DateTime<Utc>| at.format("%H:%M").to_string();
        let seen = match (day.first_seen_at, day.last_seen_at) {
            (Some(first), Some(last)) => format!("{}-{}", time(first), time(last)),
            _ => UNKNOWN.to_owned(),
        };
        table.row(vec![
            day.day.to_string(),
            format!("{}/{} {}", day.crypto_symbol, day.fiat_code, day.trade_type),
            format::share(day.uptime),
            format::share(day.best_ratio),
            format::count(day.ads_max),
            decimal_or_unknown(day.min_price),
            decimal_or_unknown(day.max_price),
            decimal_or_unknown(day.mean_amount),
            format::share(day.amount_share),
            decimal(day.outflow_lower),
            decimal(day.outflow_upper),
            seen,
        ]);
    }
    table
}
