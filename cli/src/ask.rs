//! What the questions about the market share: which market, which book, and the database's word that
//! there is no such thing.

use chrono::{DateTime, Utc};
use clap::Args;
use rust_decimal::Decimal;
use serde::Serialize;
use shared::domain::Side;
use sqlx::PgConnection;

use crate::NotFound;
use crate::format::{self, counted};

/// `invalid_parameter_value`: how the functions of the warehouse say that a name is not known. What else
/// they refuse, arguments refuse before.
const NOT_KNOWN: &str = "22023";

/// The market that is asked about.
#[derive(Args)]
pub struct MarketArgs {
    /// Fiat, for example VES.
    pub(crate) fiat: String,
    /// Asset, for example USDT.
    pub(crate) asset: String,
    /// Side of the taker: BUY or SELL. Best price: lowest to buy, highest to sell.
    pub(crate) side: Side,
}

impl MarketArgs {
    /// As `USDT/VES BUY`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{} {}", self.asset, self.fiat, self.side.as_str())
    }
}

/// Which book shows a market as of a moment, and how far to trust it (function `book_certificate`).
#[derive(Debug, Serialize, sqlx::FromRow)]
pub(crate) struct Certificate {
    pub(crate) batch_id: i32,
    pub(crate) slot_at: DateTime<Utc>,
    pub(crate) read_at: DateTime<Utc>,
    /// At the moment asked about.
    pub(crate) age_seconds: i64,
    pub(crate) verdict: String,
    /// Share of 1. `None`: not known.
    pub(crate) completeness: Option<Decimal>,
    pub(crate) ads: i32,
    pub(crate) declared_total: Option<i32>,
    pub(crate) estimated_missed: Option<i32>,
    pub(crate) span_ms: Option<i32>,
    /// Whether its ads are still there.
    pub(crate) has_ads: bool,
}

impl Certificate {
    /// In one line.
    pub(crate) fn line(&self, market: &str) -> String {
        format!(
            "{market}: {}, {} of its ads, {}, read {} ({} old), batch {}\n",
            self.verdict,
            format::share(self.completeness),
            counted(self.ads.into(), "ad", "ads"),
            format::instant(self.read_at),
            format::span(self.age_seconds),
            self.batch_id,
        )
    }
}

/// The book of a market as of `at`, with its ads still there.
pub(crate) async fn certificate(
    db: &mut PgConnection,
    market: &MarketArgs,
    at: DateTime<Utc>,
) -> anyhow::Result<Certificate> {
    let certificate: Option<Certificate> = sqlx::query_as(
        "SELECT batch_id, slot_at, read_at, floor(extract(epoch FROM age))::bigint AS age_seconds, verdict,
                completeness, ads, declared_total, estimated_missed, span_ms, has_ads
           FROM warehouse.book_certificate($1, $2, $3, $4)",
    )
    .bind(&market.fiat)
    .bind(&market.asset)
    .bind(market.side.as_str())
    .bind(at)
    .fetch_optional(db)
    .await
    .map_err(explain)?;
    let name = market.name();
    match certificate {
        Some(certificate) if certificate.has_ads => Ok(certificate),
        Some(old) => Err(NotFound(format!(
            "the ads of the book of {name} read at {} were dropped by age: only its figures are left, see p2p history",
            old.read_at.format("%F %T UTC"),
        ))
        .into()),
        None => Err(nothing_read(&name, at)),
    }
}

/// No book of a market was read by then.
pub(crate) fn nothing_read(market: &str, at: DateTime<Utc>) -> anyhow::Error {
    let at = at.format("%F %T UTC");
    NotFound(format!("no book of {market} was read by {at}, or none without a lost page")).into()
}

/// The database's own words where it says what is not known.
pub(crate) fn explain(error: sqlx::Error) -> anyhow::Error {
    let sqlx::Error::Database(refusal) = &error else {
        return error.into();
    };
    if refusal.code().as_deref() != Some(NOT_KNOWN) {
        return error.into();
    }
    let hint = refusal.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().and_then(|e| e.hint());
    let hint = hint.map_or_else(String::new, |hint| format!(" ({})", hint.trim_end_matches('.')));
    NotFound(format!("{}{hint}", refusal.message())).into()
}
