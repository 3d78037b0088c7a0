//! `p2p quote`: what an amount costs, now, at a moment or over time, by the functions `quote` and
//! `quote_history`.

use std::fmt::Write;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use rust_decimal::Decimal;
use serde::Serialize;
use shared::domain::Side;
use sqlx::PgConnection;

use crate::ask::{self, Certificate, MarketArgs};
use crate::format::{self, Table, UNKNOWN, counted, decimal};
use crate::span::{Moment, Span};
use crate::{EXIT_TROUBLE, NotAllowed, chart, timeline};

/// Most steps of a history: each walks a book. A month by the hour is 720.
const MAX_STEPS: i64 = 5000;
/// Shortest step of a history, in seconds: what `quote_history` allows.
const MIN_STEP_SECONDS: i64 = 60;
/// Largest amount: what `quote` allows.
const MAX_AMOUNT: Decimal = rust_decimal::dec!(100000000000000000000);

/// What the amount is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Fiat,
    Asset,
}

impl Unit {
    fn as_str(self) -> &'static str {
        match self {
            Self::Fiat => "fiat",
            Self::Asset => "asset",
        }
    }
}

/// What is asked.
#[derive(Args)]
pub struct Asked {
    #[command(flatten)]
    market: MarketArgs,
    /// Amount to trade, above 0.
    #[arg(value_parser = amount)]
    amount: Decimal,
    /// What the amount is in.
    #[arg(long = "in", value_enum, default_value_t = Unit::Fiat)]
    unit: Unit,
    /// Only ads that take this payment method, by its identifier; of several any.
    #[arg(long = "method", value_name = "ID")]
    methods: Vec<String>,
    /// Only ads of merchants.
    #[arg(long)]
    merchants: bool,
    /// As of this moment: 2h (ago), 2026-11-23, "2026-11-23 10:00" (UTC), 2026-11-23T10:00:00Z.
    #[arg(long, value_name = "INSTANT", conflicts_with = "from")]
    at: Option<Moment>,
    /// A price for each step from this moment on.
    #[arg(long, value_name = "INSTANT")]
    from: Option<Moment>,
    /// Until this moment; default: now.
    #[arg(long, value_name = "INSTANT", requires = "from")]
    to: Option<Moment>,
    /// Between two prices: 10m, 1h, 1d. A minute or more.
    #[arg(long, value_name = "SPAN", requires = "from", default_value = "1h")]
    step: Span,
}

fn amount(text: &str) -> Result<Decimal, String> {
    let amount: Option<Decimal> = text.parse().ok();
    let allowed = amount.filter(|amount| *amount > Decimal::ZERO && *amount < MAX_AMOUNT);
    allowed.ok_or_else(|| "allowed is a number above 0 such as 1500 or 0.25".to_owned())
}

/// What the amount costs at one moment.
#[derive(Debug, Serialize)]
struct Answer {
    market: String,
    amount: Decimal,
    unit: Unit,
    payment_methods: Option<Vec<String>>,
    merchants_only: bool,
    at: DateTime<Utc>,
    certificate: Certificate,
    is_too_thin: bool,
    #[serde(flatten)]
    quote: Quote,
    /// How much worse than the best price the price is, as a share of 1. `None`: too thin.
    slippage: Option<Decimal>,
    orders: Vec<Order>,
}

/// As function `quote` tells it.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Quote {
    /// `None`: too thin.
    price: Option<Decimal>,
    fiat_amount: Option<Decimal>,
    asset_amount: Option<Decimal>,
    /// Of the ads that come into question.
    best_price: Option<Decimal>,
    worst_price: Option<Decimal>,
    /// What the ads that come into question could take at most, in the unit of the amount.
    capacity: Decimal,
}

/// One order of a quote.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Order {
    offer_external_id: String,
    /// In the unit of the amount asked for.
    amount: Decimal,
    price: Decimal,
    min_limit: Decimal,
    max_limit: Decimal,
    payment_methods: Option<Vec<String>>,
    advertiser: String,
    user_no: String,
    is_merchant: bool,
}

/// What the amount costs over time.
#[derive(Debug, Serialize)]
struct History {
    market: String,
    amount: Decimal,
    unit: Unit,
    payment_methods: Option<Vec<String>>,
    merchants_only: bool,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    step_seconds: i64,
    steps: Vec<Step>,
}

/// As function `quote_history` tells it.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Step {
    at: DateTime<Utc>,
    /// `None`: too thin, or no book.
    price: Option<Decimal>,
    orders: Option<i32>,
    best_price: Option<Decimal>,
    worst_price: Option<Decimal>,
    capacity: Option<Decimal>,
    /// `None`: no book.
    verdict: Option<String>,
    read_at: Option<DateTime<Utc>>,
    age_seconds: Option<i64>,
}

/// Prints what is asked.
pub async fn run(asked: &Asked, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let now = timeline::now(&mut snapshot).await?;
    let Some(from) = asked.from else {
        let at = asked.at.map_or(now, |at| at.instant(now));
        let answer = answer(&mut snapshot, asked, at).await?;
        if json {
            crate::print_json(&answer)?;
        } else {
            crate::print(&answer_text(asked, &answer)?)?;
        }
        return Ok(ExitCode::from(if answer.is_too_thin { EXIT_TROUBLE } else { 0 }));
    };
    let (from, to) = (from.instant(now), asked.to.map_or(now, |to| to.instant(now)));
    let history = history(&mut snapshot, asked, from, to).await?;
    if json {
        crate::print_json(&history)?;
    } else {
        crate::print(&history_text(asked, &history)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Asked {
    /// As the functions take them: none named is any.
    fn methods(&self) -> Option<Vec<String>> {
        (!self.methods.is_empty()).then(|| self.methods.clone())
    }

    fn unit_name(&self) -> &str {
        match self.unit {
            Unit::Fiat => &self.market.fiat,
            Unit::Asset => &self.market.asset,
        }
    }

    /// Of which ads, for a sentence.
    fn which(&self) -> String {
        let who = if self.merchants { " of merchants" } else { "" };
        let methods = if self.methods.is_empty() {
            String::new()
        } else {
            format!(" by {}", self.methods.join(" or "))
        };
        who.to_owned() + &methods
    }
}

async fn answer(db: &mut PgConnection, asked: &Asked, at: DateTime<Utc>) -> anyhow::Result<Answer> {
    let market = &asked.market;
    let certificate = ask::certificate(&mut *db, market, at).await?;
    let quote: Quote =
        sqlx::query_as("SELECT * FROM warehouse.quote($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(&market.fiat)
            .bind(&market.asset)
            .bind(market.side.as_str())
            .bind(asked.amount)
            .bind(asked.unit.as_str())
            .bind(asked.methods())
            .bind(asked.merchants)
            .bind(at)
            .fetch_one(&mut *db)
            .await
            .map_err(ask::explain)?;
    let orders: Vec<Order> = sqlx::query_as(
        "SELECT b.*, o.amount
           FROM warehouse.quote($1, $2, $3, $4, $5, $6, $7, $8) q
          CROSS JOIN LATERAL unnest(q.offers, q.amounts) WITH ORDINALITY AS o (offer, amount, n)
           JOIN warehouse.book($1, $2, $3, $8) b ON b.offer_external_id = o.offer
          ORDER BY o.n",
    )
    .bind(&market.fiat)
    .bind(&market.asset)
    .bind(market.side.as_str())
    .bind(asked.amount)
    .bind(asked.unit.as_str())
    .bind(asked.methods())
    .bind(asked.merchants)
    .bind(at)
    .fetch_all(db)
    .await?;
    Ok(Answer {
        market: market.name(),
        amount: asked.amount,
        unit: asked.unit,
        payment_methods: asked.methods(),
        merchants_only: asked.merchants,
        at,
        certificate,
        is_too_thin: quote.price.is_none(),
        slippage: slippage(market.side, quote.price, quote.best_price),
        quote,
        orders,
    })
}

/// Share of 1 by which `price` is worse than `best` for the taker, to 8 decimals.
fn slippage(side: Side, price: Option<Decimal>, best: Option<Decimal>) -> Option<Decimal> {
    let share = price?.checked_div(best?)? - Decimal::ONE;
    let worse = match side {
        Side::Buy => share,
        Side::Sell => -share,
    };
    Some(worse.round_dp(8).normalize())
}

async fn history(
    db: &mut PgConnection,
    asked: &Asked,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> anyhow::Result<History> {
    let Span(step) = asked.step;
    let seconds = step.num_seconds();
    let steps = (to - from).num_seconds() / seconds + 1;
    if seconds < MIN_STEP_SECONDS || to < from || steps > MAX_STEPS {
        let text = format!(
            "allowed are a step of a minute or more, --from before --to, and up to {MAX_STEPS} steps"
        );
        return Err(NotAllowed(text).into());
    }
    let market = &asked.market;
    let steps: Vec<Step> = sqlx::query_as(
        "SELECT at, price, orders, best_price, worst_price, capacity, verdict, read_at,
                floor(extract(epoch FROM age))::bigint AS age_seconds
           FROM warehouse.quote_history($1, $2, $3, $4, $5, $6, $7::integer * interval '1 second', $8, $9, $10)
          ORDER BY at",
    )
    .bind(&market.fiat)
    .bind(&market.asset)
    .bind(market.side.as_str())
    .bind(asked.amount)
    .bind(from)
    .bind(to)
    .bind(i32::try_from(seconds)?)
    .bind(asked.unit.as_str())
    .bind(asked.methods())
    .bind(asked.merchants)
    .fetch_all(db)
    .await
    .map_err(ask::explain)?;
    if steps.iter().all(|step| step.verdict.is_none()) {
        return Err(ask::nothing_read(&market.name(), to));
    }
    Ok(History {
        market: market.name(),
        amount: asked.amount,
        unit: asked.unit,
        payment_methods: asked.methods(),
        merchants_only: asked.merchants,
        from,
        to,
        step_seconds: seconds,
        steps,
    })
}

fn answer_text(asked: &Asked, answer: &Answer) -> anyhow::Result<String> {
    let mut text = answer.certificate.line(&answer.market);
    let (fiat, asset) = (&asked.market.fiat, &asked.market.asset);
    let quote = &answer.quote;
    let (Some(price), Some(fiat_amount), Some(asset_amount)) =
        (quote.price, quote.fiat_amount, quote.asset_amount)
    else {
        let unit = asked.unit_name();
        writeln!(
            text,
            "too thin: no orders make up {} {unit}; all ads{} together could take {} {unit} at most",
            decimal(answer.amount),
            asked.which(),
            decimal(quote.capacity),
        )?;
        return Ok(text);
    };
    writeln!(
        text,
        "{} {fiat} for {} {asset}: {} {fiat} each, in {}, {} worse than the best price {}",
        decimal(fiat_amount),
        decimal(asset_amount),
        decimal(price),
        counted(i64::try_from(answer.orders.len())?, "order", "orders"),
        format::share(answer.slippage),
        format::decimal_or_unknown(quote.best_price),
    )?;
    let amount = format!(">{}", asked.unit_name());
    let mut table =
        Table::new(&[">#", &amount, ">price", ">from", ">to", "methods", "advertiser", "ad"]);
    for (order, number) in answer.orders.iter().zip(1_i64..) {
        let methods = order.payment_methods.as_ref().map(|methods| methods.join(","));
        table.row(vec![
            number.to_string(),
            decimal(order.amount),
            decimal(order.price),
            decimal(order.min_limit),
            decimal(order.max_limit),
            format::name(methods.as_deref().unwrap_or(UNKNOWN)),
            format::name(&order.advertiser) + if order.is_merchant { " (merchant)" } else { "" },
            order.offer_external_id.clone(),
        ]);
    }
    write!(text, "{table}")?;
    Ok(text)
}

fn history_text(asked: &Asked, history: &History) -> anyhow::Result<String> {
    let mut text = format!(
        "{}: {} {}{}\n",
        history.market,
        decimal(history.amount),
        asked.unit_name(),
        asked.which()
    );
    let prices: Vec<Option<Decimal>> = history.steps.iter().map(|step| step.price).collect();
    let (low, high) = (prices.iter().flatten().min(), prices.iter().flatten().max());
    writeln!(
        text,
        "price {}  {} to {}",
        chart::sparkline(&prices),
        format::decimal_or_unknown(low.copied()),
        format::decimal_or_unknown(high.copied()),
    )?;
    let mut table = Table::new(&["at", ">price", ">orders", ">best", ">worse by", "book", ">age"]);
    for step in &history.steps {
        let what = match (&step.verdict, step.price) {
            (None, _) => "no book".to_owned(),
            (Some(verdict), None) => {
                format!("{verdict}, too thin: {}", format::decimal_or_unknown(step.capacity))
            }
            (Some(verdict), Some(_)) => verdict.clone(),
        };
        table.row(vec![
            format::instant(step.at),
            format::decimal_or_unknown(step.price),
            format::count_or_unknown(step.orders),
            format::decimal_or_unknown(step.best_price),
            format::share(slippage(asked.market.side, step.price, step.best_price)),
            what,
            step.age_seconds.map_or_else(|| UNKNOWN.to_owned(), format::span),
        ]);
    }
    write!(text, "{table}")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_decimals_above_0() {
        assert_eq!(amount("0.25"), Ok(Decimal::new(25, 2)));
        for text in ["0", "-1", "x", "", "100000000000000000000"] {
            assert!(amount(text).is_err(), "{text}");
        }
    }

    #[test]
    fn worse_is_dearer_to_buy_and_cheaper_to_sell() {
        let (price, best) = (Some(Decimal::from(99)), Some(Decimal::from(100)));
        assert_eq!(slippage(Side::Sell, price, best), Some(Decimal::new(1, 2)));
        assert_eq!(slippage(Side::Buy, best, best), Some(Decimal::ZERO));
        assert_eq!(slippage(Side::Buy, Some(Decimal::from(102)), best), Some(Decimal::new(2, 2)));
        assert_eq!(slippage(Side::Buy, None, best), None);
    }
}
