//! The quality checks of a batch: what they found is recorded, and the books of which something is
//! fatal are held back from the latest state.
//!
//! Each check has a savepoint of its own: one that can't be made is `unknown`, and the batch closes all
//! the same, for a batch that does not close would cost every market its data. What no check could look
//! at is not held back.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context;
use chrono::NaiveDate;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::{Value, json};
use shared::domain::BatchId;
use shared::exchange::Exchange;
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};

use super::listed;
use crate::quality::{
    self, Baseline, Certificate, Class, Finding, Level as Ordinary, MIN_ADS, MIN_CYCLES,
    RECENT_CYCLES, Reading, Thresholds,
};

/// Markets that the details of a check name, the worst first. Kept for years, so few.
const MAX_LISTED: usize = 20;
/// Longest statement of a check: the batch is to close although a check hangs.
const STATEMENT_LIMIT: &str = "SET LOCAL statement_timeout = '10s'";
/// The clocks of workers and of the database differ by no more; in seconds.
const CLOCK_TOLERANCE_SECS: i32 = 60;
/// What was ordinary so many hours ago is not compared with.
const MAX_BASELINE_AGE_HOURS: i32 = 24;
/// A check, as the column `check_name` and the label of metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    Completeness,
    PriceAnomalies,
    VolumeConsistency,
    Duplicates,
    TemporalConsistency,
    ReferentialIntegrity,
}

impl Check {
    pub const ALL: [Self; 6] = [
        Self::Completeness,
        Self::PriceAnomalies,
        Self::VolumeConsistency,
        Self::Duplicates,
        Self::TemporalConsistency,
        Self::ReferentialIntegrity,
    ];
    /// Those that look at the facts alone, and may be made again when these changed.
    const OF_FACTS: [Self; 4] = [
        Self::Completeness,
        Self::Duplicates,
        Self::TemporalConsistency,
        Self::ReferentialIntegrity,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completeness => "completeness",
            Self::PriceAnomalies => "price_anomalies",
            Self::VolumeConsistency => "volume_consistency",
            Self::Duplicates => "duplicates",
            Self::TemporalConsistency => "temporal_consistency",
            Self::ReferentialIntegrity => "referential_integrity",
        }
    }

    fn threshold(self, thresholds: &Thresholds) -> Decimal {
        match self {
            Self::Completeness => thresholds.completeness,
            Self::PriceAnomalies => thresholds.price_anomaly,
            Self::VolumeConsistency => thresholds.volume_drop,
            Self::Duplicates | Self::TemporalConsistency | Self::ReferentialIntegrity => {
                Decimal::ZERO
            }
        }
    }
}

/// What a finding beyond the threshold costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Fatal,
    Warning,
}

impl Level {
    pub const ALL: [Self; 2] = [Self::Fatal, Self::Warning];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::Warning => "warning",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Warn,
    Fail,
    /// Nothing can be said.
    Unknown,
}

impl Verdict {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }
}

/// What one check says of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub check: Check,
    pub value: Option<Decimal>,
    pub level: Level,
    pub verdict: Verdict,
    /// Why nothing can be said.
    pub reason: Option<String>,
    details: Value,
    /// Markets that keep their last good state, and why.
    held: Vec<(i32, &'static str)>,
}

impl Outcome {
    fn unknown(check: Check, reason: impl Into<String>) -> Self {
        Self {
            check,
            value: None,
            level: Level::Fatal,
            verdict: Verdict::Unknown,
            reason: Some(reason.into()),
            details: json!({}),
            held: Vec::new(),
        }
    }
}

/// What the checks say of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quality {
    pub outcomes: Vec<Outcome>,
    /// Books held back although none of their pages was lost.
    pub books_held: i64,
}

/// Whether a batch is checked for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// As it closes, after its certificates and marts: baselines learn from it.
    Close,
    /// Its facts were made anew. What rests on baselines stays as it was judged then, for they have
    /// learned of what came later.
    Again,
}

/// Checks a batch in the transaction of the caller: records what is found and holds books back. The same
/// rows however often it is called.
///
/// # Errors
/// Only if the transaction itself is lost.
pub async fn check(
    connection: &mut PgConnection,
    batch: BatchId,
    thresholds: &Thresholds,
    pass: Pass,
) -> anyhow::Result<Quality> {
    let listed = guarded(connection, async |tx| Ok(listed::read_one(tx, batch).await?)).await?;
    check_facts(connection, batch, thresholds, pass, listed).await
}

/// The same for a batch whose ads are listed ([`listed::read_one`]).
pub(super) async fn check_listed(
    connection: &mut PgConnection,
    batch: BatchId,
    thresholds: &Thresholds,
    pass: Pass,
) -> anyhow::Result<Quality> {
    check_facts(connection, batch, thresholds, pass, Ok(())).await
}

/// `listed`: whether the ads could be listed.
async fn check_facts(
    connection: &mut PgConnection,
    batch: BatchId,
    thresholds: &Thresholds,
    pass: Pass,
    listed: anyhow::Result<()>,
) -> anyhow::Result<Quality> {
    let mut outcomes = look_at_facts(connection, batch, thresholds, &listed).await?;
    if pass == Pass::Close {
        outcomes.extend(look_at_baselines(connection, batch, thresholds).await?);
    }
    outcomes.sort_by_key(|outcome| outcome.check);
    let mut quality = Quality { outcomes, books_held: 0 };
    let held = guarded(connection, async |tx| hold(tx, batch, &quality, pass).await).await?;
    quality.books_held = held.unwrap_or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "no book could be held back");
        0
    });
    let recorded =
        guarded(connection, async |tx| record(tx, batch, thresholds, &quality).await).await?;
    if let Err(error) = recorded {
        tracing::error!(error = format!("{error:#}"), "the quality checks could not be recorded");
    }
    Ok(quality)
}

/// Runs `step` in a savepoint. The outer error is that of a lost transaction.
async fn guarded<T>(
    connection: &mut PgConnection,
    step: impl AsyncFnOnce(&mut Transaction<'_, Postgres>) -> anyhow::Result<T>,
) -> anyhow::Result<anyhow::Result<T>> {
    let mut savepoint = connection.begin().await?;
    sqlx::query(STATEMENT_LIMIT).execute(&mut *savepoint).await?;
    match step(&mut savepoint).await {
        Ok(done) => {
            sqlx::query("SET LOCAL statement_timeout = DEFAULT").execute(&mut *savepoint).await?;
            savepoint.commit().await?;
            Ok(Ok(done))
        }
        Err(error) => {
            savepoint.rollback().await?;
            Ok(Err(error))
        }
    }
}

/// What a check found, or that it could not be made.
fn outcome_of(check: Check, found: anyhow::Result<Outcome>) -> Outcome {
    found.unwrap_or_else(|error| {
        let error = format!("{error:#}");
        tracing::error!(error, check = check.as_str(), "a quality check could not be made");
        Outcome::unknown(check, format!("the check could not be made: {error}"))
    })
}

async fn look_at_facts(
    connection: &mut PgConnection,
    batch: BatchId,
    thresholds: &Thresholds,
    listed: &anyhow::Result<()>,
) -> anyhow::Result<Vec<Outcome>> {
    let complete = guarded(connection, async |tx| completeness(tx, batch, thresholds).await);
    let mut outcomes = vec![outcome_of(Check::Completeness, complete.await?)];
    let checks = [
        (Check::Duplicates, include_str!("quality/duplicates.sql")),
        (Check::TemporalConsistency, include_str!("quality/temporal.sql")),
        (Check::ReferentialIntegrity, include_str!("quality/referential.sql")),
    ];
    for (check, sql) in checks {
        let found = match listed {
            Ok(()) => guarded(connection, async |tx| count(tx, batch, check, sql).await).await?,
            Err(error) => Err(anyhow::anyhow!("the ads can't be listed: {error:#}")),
        };
        outcomes.push(outcome_of(check, found));
    }
    Ok(outcomes)
}

#[derive(sqlx::FromRow)]
struct Found {
    market_id: i32,
    kind: String,
    found: i64,
}

/// What must not be there at all, counted by market and kind.
async fn count(
    connection: &mut PgConnection,
    batch: BatchId,
    check: Check,
    sql: &'static str,
) -> anyhow::Result<Outcome> {
    for settings in [listed::IN_MEMORY, listed::BY_HASH] {
        sqlx::raw_sql(settings).execute(&mut *connection).await?;
    }
    let query = sqlx::query_as(sql);
    let query = query.bind(batch.day()).bind(batch.raw());
    let query = match check {
        Check::TemporalConsistency => query.bind(CLOCK_TOLERANCE_SECS),
        _ => query,
    };
    let mut found: Vec<Found> = query.fetch_all(&mut *connection).await?;
    for settings in [listed::AS_BEFORE, listed::BY_ANY_JOIN] {
        sqlx::raw_sql(settings).execute(&mut *connection).await?;
    }
    found.sort_by_key(|found| (-found.found, found.market_id));
    let sum: i64 = found.iter().map(|found| found.found).sum();
    let mut kinds: BTreeMap<&str, i64> = BTreeMap::new();
    for found in &found {
        *kinds.entry(&found.kind).or_default() += found.found;
    }
    let kinds = json!(kinds);
    let listed = found
        .iter()
        .map(|found| (found.market_id, json!({"kind": found.kind, "found": found.found})));
    let details = details(connection, json!({"kinds": kinds}), listed).await?;
    Ok(Outcome {
        check,
        value: Some(sum.into()),
        level: Level::Fatal,
        verdict: if sum == 0 { Verdict::Pass } else { Verdict::Fail },
        reason: None,
        details,
        held: found.iter().map(|found| (found.market_id, check.as_str())).collect(),
    })
}

#[derive(sqlx::FromRow)]
struct Cover {
    market_id: i32,
    pages_read: i32,
    pages_lost: i32,
    ads: i32,
    ads_expected: i32,
}

/// Pages and ads read of those declared. Books that lost pages do not show anyway.
async fn completeness(
    connection: &mut PgConnection,
    batch: BatchId,
    thresholds: &Thresholds,
) -> anyhow::Result<Outcome> {
    let check = Check::Completeness;
    let mut books: Vec<Cover> = sqlx::query_as(include_str!("quality/completeness.sql"))
        .bind(batch.day())
        .bind(batch.raw())
        .fetch_all(&mut *connection)
        .await?;
    let sum = |of: &dyn Fn(&Cover) -> i32| -> Decimal {
        Decimal::from(books.iter().map(|book| i64::from(of(book))).sum::<i64>())
    };
    let pages_read = sum(&|book| book.pages_read);
    let pages = pages_read + sum(&|book| book.pages_lost);
    let (ads, ads_expected) = (sum(&|book| book.ads), sum(&|book| book.ads_expected));
    let Some(share_of_pages) = pages_read.checked_div(pages) else {
        return Ok(Outcome::unknown(check, "no page was to be read"));
    };
    // Nothing expected, nothing missing.
    let share_of_ads = ads.checked_div(ads_expected).unwrap_or(Decimal::ONE);
    let value = share_of_pages.min(share_of_ads).round_dp(8);
    let lacking = |book: &Cover| book.ads_expected - book.ads;
    books.retain(|book| lacking(book) > 0 || book.pages_lost > 0);
    books.sort_by_key(|book| (-lacking(book), -book.pages_lost, book.market_id));
    let listed = books.iter().map(|book| {
        let cover = json!({
            "pages_read": book.pages_read, "pages_lost": book.pages_lost,
            "ads": book.ads, "ads_expected": book.ads_expected,
        });
        (book.market_id, cover)
    });
    let sums = json!({
        "pages_read": pages_read, "pages": pages, "ads": ads, "ads_expected": ads_expected,
    });
    let details = details(connection, sums, listed).await?;
    let is_good = value >= thresholds.completeness;
    Ok(Outcome {
        check,
        value: Some(value),
        level: Level::Fatal,
        verdict: if is_good { Verdict::Pass } else { Verdict::Fail },
        reason: None,
        details,
        held: Vec::new(),
    })
}

/// A book beside what is ordinary in its market.
#[derive(sqlx::FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "a row as the statement gives it")]
struct Book {
    market_id: i32,
    fiat_id: i32,
    crypto_id: i32,
    verdict: String,
    pages_lost: i32,
    pages_shed: i32,
    refused_ads: i32,
    estimated_missed: Option<i32>,
    is_listed: bool,
    ads: i32,
    amount: Decimal,
    median_price: Option<Decimal>,
    met_errors: bool,
    is_fresh: bool,
    /// Whether the baseline has learned of this batch already.
    is_counted: bool,
    recent_prices: Vec<Decimal>,
    recent_ads: Vec<i32>,
    day_ads: Option<Decimal>,
    day_amount: Option<Decimal>,
    suspicions: i16,
    hour_ads: Option<Decimal>,
    hour_amount: Option<Decimal>,
}

impl Book {
    /// Whether every page was read: the latest state would show it.
    fn is_whole(&self) -> bool {
        self.verdict != "failed" && self.pages_lost == 0 && self.pages_shed == 0
    }

    fn certificate(&self) -> Certificate {
        if self.verdict == "failed" || self.ads == 0 && self.refused_ads > 0 {
            Certificate::Nothing
        } else if self.is_whole() {
            Certificate::Whole
        } else {
            Certificate::Lacking
        }
    }

    fn reading(&self) -> Reading {
        Reading {
            fiat_id: self.fiat_id,
            crypto_id: self.crypto_id,
            certificate: self.certificate(),
            met_errors: self.met_errors,
            is_listed: self.is_listed,
            seen: Ordinary { ads: self.ads.into(), amount: self.amount },
            lacking_ads: Decimal::from(self.refused_ads)
                + Decimal::from(self.estimated_missed.unwrap_or_default()),
            baseline: self.baseline(),
            suspicions: self.suspicions,
        }
    }

    fn baseline(&self) -> Option<Baseline> {
        let recent: Vec<Decimal> = self.recent_ads.iter().copied().map(Decimal::from).collect();
        if !self.is_fresh || recent.len() < MIN_CYCLES {
            return None;
        }
        let of = |ads: Option<Decimal>, amount: Option<Decimal>| {
            Some(Ordinary { ads: ads?, amount: amount? })
        };
        Some(Baseline {
            recent_ads: quality::median(&recent)?,
            day: of(self.day_ads, self.day_amount)?,
            hour: of(self.hour_ads, self.hour_amount),
        })
    }
}

/// The two checks that compare with what is ordinary; then this batch is learned of.
async fn look_at_baselines(
    connection: &mut PgConnection,
    batch: BatchId,
    thresholds: &Thresholds,
) -> anyhow::Result<Vec<Outcome>> {
    let (price, volume) = (Check::PriceAnomalies, Check::VolumeConsistency);
    let books = guarded(connection, async |tx| list_books(tx, batch).await).await?;
    let books = match books {
        Ok(books) => books,
        Err(error) => {
            let again = anyhow::anyhow!("{error:#}");
            return Ok(vec![outcome_of(price, Err(error)), outcome_of(volume, Err(again))]);
        }
    };
    let readings: Vec<Reading> = books.iter().map(Book::reading).collect();
    let found = quality::judge(&readings, thresholds.volume_drop);
    let prices = guarded(connection, async |tx| prices(tx, &books, &found, thresholds).await);
    let prices = outcome_of(price, prices.await?);
    let volumes = guarded(connection, async |tx| volumes(tx, &books, &found, &readings).await);
    let volumes = outcome_of(volume, volumes.await?);
    let learned = guarded(connection, async |tx| learn(tx, batch, &books, &found).await).await?;
    if let Err(error) = learned {
        tracing::error!(error = format!("{error:#}"), "the baselines could not learn");
    }
    Ok(vec![prices, volumes])
}

async fn list_books(connection: &mut PgConnection, batch: BatchId) -> anyhow::Result<Vec<Book>> {
    sqlx::raw_sql(listed::BY_HASH).execute(&mut *connection).await?;
    let books = sqlx::query_as(include_str!("quality/readings.sql"))
        .bind(batch.day())
        .bind(batch.raw())
        .bind(MAX_BASELINE_AGE_HOURS)
        .fetch_all(&mut *connection)
        .await?;
    sqlx::raw_sql(listed::BY_ANY_JOIN).execute(connection).await?;
    Ok(books)
}

/// Median prices against those of the last cycles. A warning: prices move, and holding back a true one
/// is worse than showing it with a warning.
async fn prices(
    connection: &mut PgConnection,
    books: &[Book],
    found: &[Finding],
    thresholds: &Thresholds,
) -> anyhow::Result<Outcome> {
    let check = Check::PriceAnomalies;
    let mut judged: Vec<(&Book, Decimal, Decimal)> = Vec::new();
    for (book, found) in books.iter().zip(found) {
        let is_thin = Decimal::from(book.ads) < MIN_ADS;
        let price = book.median_price.filter(|_| book.is_whole() && book.is_fresh && !is_thin);
        if let Some(price) = price.filter(|_| found.class != Class::Suspect)
            && let Some(deviation) = quality::deviation(price, &book.recent_prices)
        {
            judged.push((book, price, deviation.round_dp(8)));
        }
    }
    let Some(largest) = judged.iter().map(|(.., deviation)| *deviation).max() else {
        let why = format!(
            "no market with {MIN_ADS} ads was read in {MIN_CYCLES} cycles of the last {MAX_BASELINE_AGE_HOURS} hours"
        );
        return Ok(Outcome { level: Level::Warning, ..Outcome::unknown(check, why) });
    };
    let judged_markets = judged.len();
    judged.retain(|(.., deviation)| *deviation > thresholds.price_anomaly);
    judged.sort_by_key(|(book, _, deviation)| (-*deviation, book.market_id));
    let listed = judged.iter().map(|(book, price, deviation)| {
        let anomaly = json!({
            "median_price": price, "ordinary": quality::median(&book.recent_prices),
            "deviation": deviation,
        });
        (book.market_id, anomaly)
    });
    let sums = json!({"judged": judged_markets, "anomalies": judged.len()});
    let details = details(connection, sums, listed).await?;
    Ok(Outcome {
        check,
        value: Some(largest),
        level: Level::Warning,
        verdict: if judged.is_empty() { Verdict::Pass } else { Verdict::Warn },
        reason: None,
        details,
        held: Vec::new(),
    })
}

/// What a market without news is: not listed.
fn is_news(class: Class) -> bool {
    matches!(class, Class::MarketShrank | Class::WeFailed | Class::Suspect)
}

/// Ads and stock of each market against what is ordinary, and what a fall means.
async fn volumes(
    connection: &mut PgConnection,
    books: &[Book],
    found: &[Finding],
    readings: &[Reading],
) -> anyhow::Result<Outcome> {
    let check = Check::VolumeConsistency;
    let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
    for found in found {
        *classes.entry(found.class.as_str()).or_default() += 1;
    }
    let is_fatal =
        found.iter().any(|found| matches!(found.class, Class::WeFailed | Class::Suspect));
    let value = found.iter().filter_map(|found| found.drop).max();
    if value.is_none() && !is_fatal {
        let why = format!(
            "no market with {MIN_ADS} ads was read in {MIN_CYCLES} cycles of the last {MAX_BASELINE_AGE_HOURS} hours"
        );
        return Ok(Outcome {
            level: Level::Warning,
            details: json!({"classes": classes}),
            ..Outcome::unknown(check, why)
        });
    }
    let mut news: Vec<_> = books
        .iter()
        .zip(found)
        .zip(readings)
        .map(|((book, found), reading)| (book, found, reading))
        .filter(|(_, found, _)| is_news(found.class))
        .collect();
    let gravity = |class| match class {
        Class::WeFailed => 0,
        Class::Suspect => 1,
        _ => 2,
    };
    news.sort_by_key(|(book, found, _)| {
        let drop = found.drop.unwrap_or(Decimal::ONE);
        (gravity(found.class), -drop, book.market_id)
    });
    let listed = news.iter().map(|(book, found, reading)| {
        let ordinary = reading.baseline.as_ref();
        let evidence = json!({
            "class": found.class.as_str(),
            "drop": found.drop.map(|drop| drop.round_dp(8)),
            "certificate": book.verdict,
            "lacking_ads": reading.lacking_ads,
            "met_errors": book.met_errors,
            "fell_together": found.fell_together,
            "is_confirmed": found.is_confirmed,
            "ads": book.ads,
            "recent_ads": ordinary.map(|ordinary| ordinary.recent_ads),
            "day_ads": ordinary.map(|ordinary| ordinary.day.ads.round_dp(1)),
            "hour_ads": ordinary.and_then(|ordinary| ordinary.hour).map(|hour| hour.ads.round_dp(1)),
            "amount": book.amount,
            "day_amount": ordinary.map(|ordinary| ordinary.day.amount),
        });
        (book.market_id, evidence)
    });
    let details = details(connection, json!({"classes": classes}), listed).await?;
    let held = news.iter().filter_map(|(book, found, _)| {
        let is_held = matches!(found.class, Class::WeFailed | Class::Suspect) && book.is_whole();
        is_held.then_some((book.market_id, found.class.as_str()))
    });
    let (level, verdict) = match (is_fatal, news.is_empty()) {
        (true, _) => (Level::Fatal, Verdict::Fail),
        (false, false) => (Level::Warning, Verdict::Warn),
        (false, true) => (Level::Warning, Verdict::Pass),
    };
    let value = value.map(|value| value.round_dp(8));
    Ok(Outcome { check, value, level, verdict, reason: None, held: held.collect(), details })
}

/// Baselines learn from books that are whole and not suspect, once. Any reading that is no less than ordinary clears its
/// market of suspicion; one that is less because pages were lost says nothing of it. What was ordinary so long ago that
/// nothing is compared with it gives way at once, or what we could not read for a day would be held for days more.
async fn learn(
    connection: &mut PgConnection,
    batch: BatchId,
    books: &[Book],
    found: &[Finding],
) -> anyhow::Result<()> {
    let of = |wanted: &dyn Fn(&Book, &Finding) -> bool| -> Vec<i32> {
        books
            .iter()
            .zip(found)
            .filter(|(book, found)| !book.is_counted && wanted(book, found))
            .map(|(book, _)| book.market_id)
            .collect()
    };
    let learned = of(&|book, found| {
        book.is_whole() && !matches!(found.class, Class::Suspect | Class::WeFailed)
    });
    sqlx::raw_sql(listed::BY_HASH).execute(&mut *connection).await?;
    sqlx::query(include_str!("quality/learn.sql"))
        .bind(batch.day())
        .bind(batch.raw())
        .bind(learned)
        .bind(of(&|book, found| {
            found.is_confirmed || !book.is_fresh && book.recent_ads.len() >= MIN_CYCLES
        }))
        .bind(i32::try_from(RECENT_CYCLES)?)
        .bind(i32::try_from(MIN_CYCLES)?)
        .bind(of(&|_, found| found.class == Class::Suspect))
        .bind(of(&|_, found| found.class == Class::Steady))
        .execute(&mut *connection)
        .await?;
    sqlx::raw_sql(listed::BY_ANY_JOIN).execute(connection).await?;
    Ok(())
}

/// `sums` with the markets concerned by name, the first of them.
async fn details(
    connection: &mut PgConnection,
    sums: Value,
    markets: impl Iterator<Item = (i32, Value)>,
) -> anyhow::Result<Value> {
    #[derive(Serialize)]
    struct Details {
        #[serde(flatten)]
        sums: Value,
        markets: Vec<Value>,
        left_out: usize,
    }
    let mut all: Vec<(i32, Value)> = markets.collect();
    let left_out = all.len().saturating_sub(MAX_LISTED);
    all.truncate(MAX_LISTED);
    let ids: Vec<i32> = all.iter().map(|(id, _)| *id).collect();
    let names: HashMap<i32, String> = sqlx::query_as(
        "SELECT m.market_id, c.symbol || '/' || f.currency_code || ' ' || m.trade_type
           FROM warehouse.dim_markets m
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id)
           JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
          WHERE m.market_id = ANY ($1)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?
    .into_iter()
    .collect();
    let markets = all.into_iter().map(|(id, mut value)| {
        value["market_id"] = id.into();
        value["market"] = names.get(&id).cloned().into();
        value
    });
    let details = Details { sums, markets: markets.collect(), left_out };
    serde_json::to_value(details).context("details as JSON")
}

/// The first reason to hold a market counts. Books that would not show anyway need none.
async fn hold(
    connection: &mut PgConnection,
    batch: BatchId,
    quality: &Quality,
    pass: Pass,
) -> anyhow::Result<i64> {
    let mut held: BTreeMap<i32, &'static str> = BTreeMap::new();
    for (market_id, reason) in quality.outcomes.iter().flat_map(|outcome| &outcome.held) {
        held.entry(*market_id).or_insert(reason);
    }
    let looked_for: Vec<&str> = match pass {
        Pass::Close => {
            let classes = [Class::Suspect, Class::WeFailed].map(Class::as_str);
            Check::ALL.map(Check::as_str).into_iter().chain(classes).collect()
        }
        Pass::Again => Check::OF_FACTS.map(Check::as_str).to_vec(),
    };
    let (markets, reasons): (Vec<i32>, Vec<&str>) = held.into_iter().unzip();
    sqlx::raw_sql(listed::BY_HASH).execute(&mut *connection).await?;
    sqlx::query(include_str!("quality/hold.sql"))
        .bind(batch.day())
        .bind(batch.raw())
        .bind(markets)
        .bind(reasons)
        .bind(looked_for)
        .execute(&mut *connection)
        .await?;
    sqlx::raw_sql(listed::BY_ANY_JOIN).execute(&mut *connection).await?;
    let held = sqlx::query_scalar(
        "SELECT count(*) FROM warehouse.books
          WHERE day = $1 AND batch_id = $2 AND held_reason IS NOT NULL",
    );
    Ok(held.bind(batch.day()).bind(batch.raw()).fetch_one(connection).await?)
}

async fn record(
    connection: &mut PgConnection,
    batch: BatchId,
    thresholds: &Thresholds,
    quality: &Quality,
) -> anyhow::Result<()> {
    for outcome in &quality.outcomes {
        sqlx::query(
            "INSERT INTO pipeline.quality_results
                    (day, batch_id, check_name, value, threshold, level, verdict, reason, details, checked_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp())
                 ON CONFLICT (day, batch_id, check_name) DO UPDATE
                SET (value, threshold, level, verdict, reason, details, checked_at)
                  = (EXCLUDED.value, EXCLUDED.threshold, EXCLUDED.level, EXCLUDED.verdict, EXCLUDED.reason,
                     EXCLUDED.details, EXCLUDED.checked_at)",
        )
        .bind(batch.day())
        .bind(batch.raw())
        .bind(outcome.check.as_str())
        .bind(outcome.value)
        .bind(outcome.check.threshold(thresholds).normalize())
        .bind(outcome.level.as_str())
        .bind(outcome.verdict.as_str())
        .bind(&outcome.reason)
        .bind(&outcome.details)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Why a newer book of a market is not shown: `newer_reason` of `warehouse.latest_books`.
pub const HELD_REASONS: [&str; 7] = [
    "suspect",
    "we_failed",
    "duplicates",
    "temporal_consistency",
    "referential_integrity",
    "pages_lost",
    "pages_shed",
];

/// The last closed batch, as metrics tell it.
#[derive(Clone, Debug, Default)]
pub struct LastBatch {
    /// `None`: no batch was closed yet.
    pub outcome: Option<String>,
    /// From its opening to its close.
    pub seconds: Option<Decimal>,
    pub checks: Vec<CheckResult>,
    pub held: Vec<Held>,
}

/// A row of `pipeline.quality_results`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct CheckResult {
    pub check_name: String,
    pub value: Option<Decimal>,
    pub level: String,
    pub verdict: String,
}

impl CheckResult {
    /// Whether nothing beyond the threshold was found; also if nothing could be said.
    #[must_use]
    pub fn is_good(&self) -> bool {
        ![Verdict::Warn, Verdict::Fail].map(Verdict::as_str).contains(&self.verdict.as_str())
    }
}

/// Markets of which a newer book is not shown.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Held {
    pub reason: String,
    pub markets: i64,
}

/// Reads what metrics tell of the last closed batch.
pub async fn last_batch(pool: &PgPool, exchange: Exchange) -> anyhow::Result<LastBatch> {
    let closed: Option<(i32, NaiveDate, String, Decimal)> = sqlx::query_as(
        "SELECT batch_id, day, outcome, round(extract(epoch FROM closed_at - opened_at), 3)
           FROM pipeline.batches
          WHERE state = 'closed' AND exchange_id = $1
          ORDER BY batch_id DESC LIMIT 1",
    )
    .bind(exchange.id())
    .fetch_optional(pool)
    .await?;
    let Some((batch, day, outcome, seconds)) = closed else {
        return Ok(LastBatch::default());
    };
    let checks = sqlx::query_as(
        "SELECT check_name, value, level, verdict FROM pipeline.quality_results
          WHERE day = $1 AND batch_id = $2",
    );
    let held = sqlx::query_as(
        "SELECT newer_reason AS reason, count(*) AS markets
           FROM warehouse.latest_books JOIN warehouse.dim_markets USING (market_id)
          WHERE exchange_id = $1 AND newer_reason IS NOT NULL GROUP BY newer_reason",
    );
    Ok(LastBatch {
        outcome: Some(outcome),
        seconds: Some(seconds),
        checks: checks.bind(day).bind(batch).fetch_all(pool).await?,
        held: held.bind(exchange.id()).fetch_all(pool).await?,
    })
}
