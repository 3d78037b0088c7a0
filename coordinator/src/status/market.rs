//! One market: its book now, and its price over time.

use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use shared::domain::Side;
use sqlx::{FromRow, PgPool};

use super::chart;
use super::format::{UNKNOWN, count, counted, decimal, percent, span, time};
use super::panel::{Mark, empty, panel};
use super::snapshot::Names;

/// What was asked for, as it was typed.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Query {
    #[serde(default)]
    pub fiat: String,
    #[serde(default)]
    pub asset: String,
    #[serde(default)]
    pub side: String,
    #[serde(default)]
    pub span: String,
}

/// How far back prices are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    Day,
    Week,
    Month,
}

impl Span {
    const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];

    fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    fn length(self) -> TimeDelta {
        TimeDelta::days(match self {
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => 30,
        })
    }

    /// The step of `warehouse.price_history`, and its seconds unless batches set the pace.
    fn step(self) -> (&'static str, Option<i64>) {
        match self {
            Self::Day => ("batch", None),
            Self::Week => ("hour", Some(3600)),
            Self::Month => ("day", Some(86_400)),
        }
    }
}

/// Seconds between batches where no schedule was ever kept: the default.
const DEFAULT_INTERVAL_SECONDS: i64 = 600;
/// Ads shown at most.
const ADS: i64 = 50;
/// Points at most: a week of hours, a day of every three minutes.
const POINTS: i64 = 500;

/// A market with its book and its prices.
#[derive(Clone, Debug, Serialize)]
pub struct Market {
    pub fiat: String,
    pub asset: String,
    pub side: Side,
    pub read_at: DateTime<Utc>,
    /// `None`: no book of it was read yet.
    pub certificate: Option<Certificate>,
    /// Best price for the taker first; at most [`ADS`].
    pub ads: Vec<Ad>,
    pub span: &'static str,
    pub prices: Vec<Point>,
    /// Longer pauses between two prices are gaps.
    pub step_seconds: i64,
}

/// What is known of the book.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Certificate {
    pub batch_id: i32,
    pub book_read_at: DateTime<Utc>,
    pub age_seconds: i64,
    pub verdict: String,
    #[serde(with = "rust_decimal::serde::str_option")]
    pub completeness: Option<Decimal>,
    pub ads: i32,
    pub estimated_missed: Option<i32>,
    /// Whether its ads are still kept.
    pub has_ads: bool,
}

/// An ad of the book.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Ad {
    pub place: i32,
    #[serde(with = "rust_decimal::serde::str")]
    pub price: Decimal,
    #[serde(with = "rust_decimal::serde::str")]
    pub available_amount: Decimal,
    #[serde(with = "rust_decimal::serde::str_option")]
    pub min_limit: Option<Decimal>,
    #[serde(with = "rust_decimal::serde::str_option")]
    pub max_limit: Option<Decimal>,
    pub payment_methods: Vec<String>,
    pub advertiser: String,
    pub is_merchant: bool,
    pub is_promoted: bool,
}

/// The prices of a step.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Point {
    pub at: DateTime<Utc>,
    /// `None`: no good book of that step has ads.
    #[serde(with = "rust_decimal::serde::str_option")]
    pub best_price: Option<Decimal>,
    #[serde(with = "rust_decimal::serde::str_option")]
    pub median_price: Option<Decimal>,
}

/// Why a market can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum MarketError {
    /// The query names none, in words for who asked.
    #[error("{0}")]
    Unknown(String),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// `SQLSTATE` by which the schema says that a value is not allowed.
const INVALID_VALUE: &str = "22023";

/// The page of a market.
pub(super) fn href(fiat: &str, asset: &str, side: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("fiat", fiat).append_pair("asset", asset).append_pair("side", side);
    format!("/market?{}", query.finish())
}

impl Query {
    fn side(&self) -> Result<Side, MarketError> {
        if self.side.is_empty() {
            return Ok(Side::Buy);
        }
        self.side.parse().map_err(|error| MarketError::Unknown(format!("{error}")))
    }

    fn span(&self) -> Result<Span, MarketError> {
        if self.span.is_empty() {
            return Ok(Span::Day);
        }
        let span = Span::ALL.into_iter().find(|span| span.name() == self.span);
        let unknown = || format!("span {:?} is not allowed: day, week or month", self.span);
        span.ok_or_else(|| MarketError::Unknown(unknown()))
    }
}

/// Reads a market in one transaction.
pub(super) async fn read(pool: &PgPool, query: &Query) -> Result<Market, MarketError> {
    let (side, span) = (query.side()?, query.span()?);
    let (fiat, asset) = (query.fiat.trim().to_uppercase(), query.asset.trim().to_uppercase());
    let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let known = sqlx::query_scalar::<_, i32>("SELECT warehouse.market($1, $2, $3)");
    let known = known.bind(&fiat).bind(&asset).bind(side.as_str()).fetch_one(&mut *tx).await;
    if let Err(error) = known {
        return Err(match &error {
            sqlx::Error::Database(refused) if refused.code().as_deref() == Some(INVALID_VALUE) => {
                MarketError::Unknown(refused.message().to_owned())
            }
            _ => MarketError::Database(error),
        });
    }
    let read_at = sqlx::query_scalar("SELECT now()").fetch_one(&mut *tx).await?;
    let certificate = sqlx::query_as(
        "SELECT batch_id, read_at AS book_read_at, extract(epoch FROM age)::bigint AS age_seconds, verdict,
                completeness, ads, estimated_missed, has_ads
           FROM warehouse.book_certificate($1, $2, $3)",
    );
    let certificate =
        certificate.bind(&fiat).bind(&asset).bind(side.as_str()).fetch_optional(&mut *tx).await?;
    let ads = sqlx::query_as(
        "SELECT place, price, available_amount, min_limit, max_limit,
                coalesce(payment_methods, '{}') AS payment_methods, advertiser, is_merchant, is_promoted
           FROM warehouse.book($1, $2, $3) ORDER BY place LIMIT $4",
    );
    let ads = ads.bind(&fiat).bind(&asset).bind(side.as_str()).bind(ADS);
    let ads = ads.fetch_all(&mut *tx).await?;
    let (step, step_seconds) = span.step();
    let prices = sqlx::query_as(
        "SELECT at, mean_best_price AS best_price, median_price
           FROM (SELECT * FROM warehouse.price_history($1, $2, $3, now() - $4 * interval '1 second', now(), $5)
                  ORDER BY at DESC LIMIT $6) newest ORDER BY at",
    );
    let prices = prices.bind(&fiat).bind(&asset).bind(side.as_str());
    let prices = prices.bind(span.length().num_seconds()).bind(step).bind(POINTS);
    let prices = prices.fetch_all(&mut *tx).await?;
    let interval: Option<i32> =
        sqlx::query_scalar("SELECT max(interval_seconds) FROM pipeline.leaders")
            .fetch_one(&mut *tx)
            .await?;
    let step_seconds =
        step_seconds.unwrap_or_else(|| interval.map_or(DEFAULT_INTERVAL_SECONDS, i64::from));
    tx.commit().await?;
    let span = span.name();
    Ok(Market { fiat, asset, side, read_at, certificate, ads, span, prices, step_seconds })
}

/// The form that chooses a market.
pub(super) fn form(names: &Names, query: &Query) -> Markup {
    let side = query.side().unwrap_or(Side::Buy);
    html! {
        form.choose action="/market" method="get" {
            div { label for="fiat" { "Fiat" }
                input id="fiat" name="fiat" list="fiats" required maxlength="32" size="6" autocapitalize="characters"
                    autocomplete="off" spellcheck="false" value=(query.fiat); }
            div { label for="asset" { "Asset" }
                input id="asset" name="asset" list="assets" required maxlength="32" size="6" autocapitalize="characters"
                    autocomplete="off" spellcheck="false" value=(query.asset); }
            div { label for="side" { "You" }
                select id="side" name="side" {
                    option value="BUY" selected[side == Side::Buy] { "buy" }
                    option value="SELL" selected[side == Side::Sell] { "sell" }
                } }
            button type="submit" { "Show" }
            datalist id="fiats" { @for name in &names.fiats { option value=(name) {} } }
            datalist id="assets" { @for name in &names.assets { option value=(name) {} } }
        }
    }
}

/// Shown when the query names no market.
pub(super) fn render_error(error: &MarketError) -> Markup {
    let words = match error {
        MarketError::Unknown(words) => words.clone(),
        MarketError::Database(_) => "the database can't be read".to_owned(),
    };
    html! { p.problem role="alert" { (Mark::Bad) " " (words) } }
}

pub(super) fn render(market: &Market) -> Markup {
    html! { (render_prices(market)) (render_book(market)) }
}

fn render_book(market: &Market) -> Markup {
    panel(
        "book",
        "The book now",
        html! {
            @match &market.certificate {
                None => (empty("No book of this market was read yet.")),
                Some(certificate) => {
                    p {
                        @match certificate.verdict.as_str() {
                            "complete" | "empty" => (Mark::Good),
                            _ => (Mark::Warn),
                        }
                        " Read " strong { (span(certificate.age_seconds)) " ago" } " (" (time(certificate.book_read_at)) ", batch "
                        (certificate.batch_id) "). Certificate: " strong { (certificate.verdict) } ", "
                        (counted(certificate.ads, "ad", "ads"))
                        @if let Some(share) = certificate.completeness { ", " (percent(share)) " of those that were there" }
                        @if let Some(missed) = certificate.estimated_missed && missed > 0 { ", about " (count(missed)) " missed" }
                        "."
                    }
                    @if market.ads.is_empty() {
                        (empty(if certificate.has_ads { "It has no ads." } else { "Its ads were dropped by age." }))
                    } @else {
                        (render_ads(market))
                        @if i64::from(certificate.ads) > ADS { p.note { "The best " (ADS) " are shown." } }
                    }
                },
            }
        },
    )
}

fn render_ads(market: &Market) -> Markup {
    html! {
        div.scroll role="group" aria-label="Ads, best price first" tabindex="0" {
            table.ads {
                thead { tr {
                    th.number scope="col" { "Price " (market.fiat) } th.number scope="col" { "Available " (market.asset) }
                    th.number scope="col" { "Limits " (market.fiat) } th scope="col" { "Advertiser" }
                    th scope="col" { "Payment methods" }
                } }
                tbody { @for ad in &market.ads { tr {
                    td.number.price { (decimal(ad.price)) }
                    td.number { (decimal(ad.available_amount)) }
                    td.number { (limit(ad.min_limit)) " to " (limit(ad.max_limit)) }
                    td.name {
                        bdi { (ad.advertiser) }
                        @if ad.is_merchant { " " span.tag { "merchant" } }
                        @if ad.is_promoted { " " span.tag { "promoted" } }
                    }
                    td.methods { (ad.payment_methods.join(", ")) }
                } } }
            }
        }
    }
}

fn limit(limit: Option<Decimal>) -> String {
    limit.map_or_else(|| UNKNOWN.to_owned(), decimal)
}

fn render_prices(market: &Market) -> Markup {
    panel(
        "prices",
        "Price over time",
        html! {
            p.spans {
                @for span in Span::ALL {
                    @let here = market.span == span.name();
                    a href={ (href(&market.fiat, &market.asset, market.side.as_str())) "&span=" (span.name()) }
                        aria-current=[here.then_some("page")] { "Last " (span.name()) }
                }
            }
            @if market.prices.iter().all(|point| point.median_price.is_none()) {
                (empty("No prices of this time: no good book with ads."))
            } @else {
                (chart::render(market))
                details id="price-table" {
                    summary { "The same as a table" }
                    div.scroll role="group" aria-label="Prices" tabindex="0" {
                        table {
                            thead { tr {
                                th scope="col" { "UTC" } th.number scope="col" { "Best price" }
                                th.number scope="col" { "Median price" }
                            } }
                            tbody { @for point in market.prices.iter().rev() { tr {
                                th scope="row" { (time(point.at)) }
                                td.number { (limit(point.best_price)) } td.number { (limit(point.median_price)) }
                            } } }
                        }
                    }
                }
            }
        },
    )
}
