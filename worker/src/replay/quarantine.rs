//! Entries of the quarantine: what becomes of them when their answer is parsed again, and retrying them from
//! their own bytes.
//!
//! An entry is closed by whatever takes what it holds, be it a retry or a replay. What is refused again stays
//! open and notes the try.

use std::borrow::Cow;
use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use shared::domain::{Ad, Market, Refusal, Side, offer_version_id};
use shared::exchange::Exchange;
use shared::exchange::binance::{self, PARSER_VERSION};
use shared::job::{EndState, Job, MESSAGE_VERSION, Work};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::advertisers::{Corrector, list_versions, version_of};
use super::answers::{JobEnd, Key, Reading};
use super::pages::Pages;
use super::{Error, Found, Options, note_remakes};
use crate::handler::{Ending, Facts, Requests};
use crate::store::pages::{AdRow, PageRows, WAREHOUSE, insert_versions};
use crate::store::payment_methods::PaymentMethods;
use crate::store::quarantine::Entry;
use crate::store::versions::content_hash;
use crate::store::{ToStore, discovery, profiles, terms};

/// What the current parser makes of an answer, as far as the quarantine is concerned.
pub(super) enum Answer<'a> {
    Page(&'a [Refusal]),
    Empty,
    /// Class, words, bytes.
    Failed(&'static str, &'a str, &'a [u8]),
}

#[derive(sqlx::FromRow)]
struct Noted {
    quarantine_id: i64,
    scope: String,
    position: Option<i16>,
    state: String,
    parser_version: i16,
}

/// Makes the entries of a job what they would be if the current parser had read its answer first: what it takes
/// is resolved, what it refuses is open.
pub(super) async fn settle(
    connection: &mut PgConnection,
    key: Key,
    answer: &Answer<'_>,
    by: &str,
) -> Result<(), Error> {
    let noted: Vec<Noted> = sqlx::query_as(
        "SELECT quarantine_id, scope, position, state, greatest(parser_version, tried_parser_version) AS parser_version
           FROM pipeline.quarantine WHERE batch_id = $1 AND ordinal = $2 ORDER BY quarantine_id",
    )
    .bind(key.batch_id.raw())
    .bind(key.ordinal.cast_signed())
    .fetch_all(&mut *connection)
    .await?;
    let refusals = match answer {
        Answer::Page(refusals) => *refusals,
        Answer::Empty | Answer::Failed(..) => &[],
    };
    let mut left: Vec<&Refusal> = refusals.iter().collect();
    let mut is_failure_noted = false;
    for noted in noted {
        let is_open = noted.state == "open";
        let refusal = noted.position.and_then(|position| usize::try_from(position).ok());
        let refusal = refusal.and_then(|position| left.iter().position(|r| r.position == position));
        let (reason, detail) = match (answer, refusal, noted.scope.as_str()) {
            (_, Some(index), "ad") => {
                let refusal = left.remove(index);
                (refusal.reason.as_str(), in_words(refusal))
            }
            (Answer::Failed(reason, detail, _), _, "answer") => {
                is_failure_noted = true;
                (*reason, (*detail).to_owned())
            }
            _ => {
                if is_open {
                    resolve(connection, noted.quarantine_id, "its answer was parsed again", by)
                        .await?;
                }
                continue;
            }
        };
        if noted.state == "resolved" {
            reopen(connection, noted.quarantine_id).await?;
        }
        // Once a version: a replay that is run again changes nothing.
        if noted.state != "discarded" && noted.parser_version != PARSER_VERSION {
            note_try(connection, noted.quarantine_id, reason, &detail).await?;
        }
    }
    for refusal in left {
        Entry::of_ad(refusal).insert(connection, key.batch_id, key.ordinal).await?;
    }
    if let (Answer::Failed(reason, detail, body), false) = (answer, is_failure_noted) {
        let entry = Entry::of_answer(reason, detail, Cow::Borrowed(body));
        entry.insert(connection, key.batch_id, key.ordinal).await?;
    }
    Ok(())
}

fn in_words(refusal: &Refusal) -> String {
    match &refusal.field {
        Some(field) => format!("{field}: {}", refusal.detail),
        None => refusal.detail.clone(),
    }
}

async fn resolve(
    connection: &mut PgConnection,
    id: i64,
    note: &str,
    by: &str,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE pipeline.quarantine
            SET state = 'resolved', closed_at = now(), closed_by = $2, closed_parser_version = $3, note = $4
          WHERE quarantine_id = $1 AND state = 'open'",
    )
    .bind(id)
    .bind(by)
    .bind(PARSER_VERSION)
    .bind(note)
    .execute(connection)
    .await?;
    Ok(())
}

async fn reopen(connection: &mut PgConnection, id: i64) -> Result<(), Error> {
    sqlx::query(
        "UPDATE pipeline.quarantine
            SET state = 'open', closed_at = NULL, closed_by = NULL, closed_parser_version = NULL, note = NULL
          WHERE quarantine_id = $1",
    )
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}

async fn note_try(
    connection: &mut PgConnection,
    id: i64,
    reason: &str,
    detail: &str,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE pipeline.quarantine
            SET tries = tries + 1, tried_at = now(), tried_parser_version = $2, tried_reason = $3, tried_detail = $4
          WHERE quarantine_id = $1",
    )
    .bind(id)
    .bind(PARSER_VERSION)
    .bind(reason)
    .bind(detail.replace('\0', "\u{fffd}"))
    .execute(connection)
    .await?;
    Ok(())
}

/// Closes entries that are not worth taking; those that were open.
///
/// # Errors
/// If the database can't be used.
pub async fn discard(pool: &PgPool, ids: &[i64], why: &str, by: &str) -> Result<Vec<i64>, Error> {
    let discarded = sqlx::query_scalar(
        "UPDATE pipeline.quarantine
            SET state = 'discarded', closed_at = now(), closed_by = $2, note = $3
          WHERE quarantine_id = ANY ($1) AND state = 'open' RETURNING quarantine_id",
    )
    .bind(ids)
    .bind(by)
    .bind(why)
    .fetch_all(pool)
    .await?;
    Ok(discarded)
}

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retried {
    pub quarantine_id: i64,
    pub outcome: Outcome,
    /// In words: where it went, or why not.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The current parser takes it: it is where it belongs, and the entry is closed. In a dry run: would be.
    Taken,
    /// Its page was read again meanwhile, or a newer list was: the entry is closed.
    Superseded,
    /// The current parser refuses it, too.
    Refused,
    /// The facts of its day were dropped by age, or the batch is still open: nothing was tried.
    Impossible,
    /// It was closed before.
    Closed,
}

#[derive(sqlx::FromRow)]
struct Row {
    quarantine_id: i64,
    batch_id: i32,
    ordinal: i32,
    scope: String,
    position: Option<i16>,
    state: String,
    body: Vec<u8>,
    batch_state: Option<String>,
    kind: Option<String>,
    market_id: Option<i32>,
    fiat_id: Option<i32>,
    page: Option<i32>,
    /// When the answer came; if the ledger has no answer of the job any more, when it was refused.
    fetched_at: DateTime<Utc>,
    job_state: Option<String>,
    job_reason: Option<String>,
    declared_total: Option<i32>,
    ads_taken: Option<i32>,
    ads_refused: Option<i32>,
    warnings: Option<Json<Value>>,
    advertiser_id: Option<i32>,
    user_no: Option<String>,
    fiat: Option<String>,
    asset: Option<String>,
    side: Option<String>,
    parser_version: Option<i16>,
    /// Index of the ad among the ads of its page, if those refused before it stay out.
    refused_before: i64,
    has_newer_list: bool,
}

/// Retries one entry from its own bytes. Holds [`super::Lock`] unless it is a dry run.
///
/// # Errors
/// If the database can't be used.
pub async fn retry(
    pool: &PgPool,
    exchange: Exchange,
    id: i64,
    apply: bool,
    by: &str,
) -> Result<Option<Retried>, Error> {
    let Some(row) = find(pool, id).await? else {
        return Ok(None);
    };
    let told = |outcome, detail: String| Some(Retried { quarantine_id: id, outcome, detail });
    if row.state != "open" {
        return Ok(told(Outcome::Closed, format!("it is {}", row.state)));
    }
    let Some(kind) = row.kind.clone() else {
        let detail = "the facts of its day were dropped by age".to_owned();
        return Ok(told(Outcome::Impossible, detail));
    };
    if row.batch_state.as_deref() != Some("closed") {
        let detail = format!("batch {} is still open", row.batch_id);
        return Ok(told(Outcome::Impossible, detail));
    }
    let Some(key) = super::answers::key(row.batch_id, row.ordinal) else {
        return Ok(told(Outcome::Impossible, format!("{} is no batch", row.batch_id)));
    };
    let retry = Retry { pool, exchange, apply, by, row: &row, key };
    let (outcome, detail) = match (row.scope.as_str(), kind.as_str()) {
        ("answer", "search") => retry.page().await?,
        ("answer", _) => retry.list(&kind).await?,
        (_, "search") => retry.ad().await?,
        _ => retry.ad_of_advertiser().await?,
    };
    Ok(told(outcome, detail))
}

async fn find(pool: &PgPool, id: i64) -> Result<Option<Row>, Error> {
    let row = sqlx::query_as(
        "SELECT q.quarantine_id, q.batch_id, q.ordinal, q.scope, q.position, q.state, q.body, b.state AS batch_state,
                j.kind, j.market_id, j.fiat_id, j.page::int AS page, coalesce(j.fetched_at, q.quarantined_at) AS fetched_at,
                j.state AS job_state,
                j.reason AS job_reason, j.declared_total, j.ads_taken::int AS ads_taken,
                j.ads_refused::int AS ads_refused, j.warnings, j.advertiser_id,
                (SELECT user_no FROM warehouse.dim_advertisers d
                  WHERE d.advertiser_id = j.advertiser_id LIMIT 1) AS user_no,
                f.currency_code AS fiat, a.symbol AS asset, m.trade_type AS side, p.parser_version,
                (SELECT count(*) FROM pipeline.quarantine o
                  WHERE o.batch_id = q.batch_id AND o.ordinal = q.ordinal AND o.scope = 'ad'
                    AND o.state <> 'resolved' AND o.position < q.position) AS refused_before,
                coalesce(CASE j.kind WHEN 'fiat_list' THEN (SELECT fiat_list_read_at > j.fetched_at FROM pipeline.exchange_catalog e
                                                             WHERE e.exchange_id = b.exchange_id)
                                     WHEN 'assets' THEN c.assets_read_at > j.fetched_at
                                     WHEN 'payment_methods' THEN c.payment_methods_read_at > j.fetched_at
                                     WHEN 'advertiser' THEN (SELECT read_at > j.fetched_at FROM pipeline.advertiser_catalog v
                                                              WHERE v.advertiser_id = j.advertiser_id) END, false) AS has_newer_list
           FROM pipeline.quarantine q
           LEFT JOIN pipeline.batches b USING (batch_id)
           LEFT JOIN pipeline.jobs j ON j.day = q.day AND j.batch_id = q.batch_id AND j.ordinal = q.ordinal
           LEFT JOIN warehouse.dim_markets m ON m.market_id = j.market_id
           LEFT JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = coalesce(m.fiat_id, j.fiat_id)
           LEFT JOIN warehouse.dim_cryptocurrencies a ON a.crypto_id = m.crypto_id
           LEFT JOIN pipeline.fiat_catalog c ON c.exchange_id = b.exchange_id AND c.fiat_id = j.fiat_id
           LEFT JOIN warehouse.book_pages p ON p.day = q.day AND p.batch_id = q.batch_id AND p.market_id = j.market_id
                AND p.page = j.page AND p.ordinal = q.ordinal
          WHERE q.quarantine_id = $1",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?;
    Ok(row)
}

/// One entry on its way.
struct Retry<'r> {
    pool: &'r PgPool,
    exchange: Exchange,
    apply: bool,
    by: &'r str,
    row: &'r Row,
    key: Key,
}

impl Retry<'_> {
    fn market(&self) -> Option<(i32, Market)> {
        let side: Side = self.row.side.as_deref()?.parse().ok()?;
        let market =
            Market::new(self.row.fiat.as_deref()?, self.row.asset.as_deref()?, side).ok()?;
        Some((self.row.market_id?, market))
    }

    /// Whether the job has facts, or needs none.
    fn is_read(&self) -> bool {
        [EndState::Done, EndState::Empty]
            .iter()
            .any(|state| self.row.job_state.as_deref() == Some(state.as_str()))
    }

    fn options(&self) -> Options {
        Options {
            exchange: self.exchange,
            from: self.row.fetched_at,
            to: self.row.fetched_at,
            markets: None,
            apply: self.apply,
            by: self.by.to_owned(),
            max_differences: 0,
        }
    }

    fn reading(&self, market: Market) -> Reading {
        Reading {
            key: self.key,
            market,
            page: self.row.page.unwrap_or_default().cast_unsigned(),
            fetched_at: self.row.fetched_at,
            job: JobEnd {
                state: self.row.job_state.clone().unwrap_or_default(),
                reason: self.row.job_reason.clone(),
                declared_total: self.row.declared_total,
                ads_taken: self.row.ads_taken,
                ads_refused: self.row.ads_refused,
                warnings: self.row.warnings.clone(),
            },
            parser_version: self.row.parser_version,
            body: self.row.body.clone(),
        }
    }

    /// Closes the entry because what it holds has come otherwise.
    async fn supersede(&self, note: &str) -> Result<(Outcome, String), Error> {
        if self.apply {
            resolve(&mut *self.pool.acquire().await?, self.row.quarantine_id, note, self.by)
                .await?;
        }
        Ok((Outcome::Superseded, note.to_owned()))
    }

    async fn refuse(&self, reason: &str, detail: String) -> Result<(Outcome, String), Error> {
        if self.apply {
            let connection = &mut *self.pool.acquire().await?;
            note_try(connection, self.row.quarantine_id, reason, &detail).await?;
        }
        Ok((Outcome::Refused, format!("{reason}: {detail}")))
    }

    /// A whole answer of the search becomes the page that it should have been.
    async fn page(&self) -> Result<(Outcome, String), Error> {
        let Some((market_id, market)) = self.market() else {
            return Ok((Outcome::Impossible, "its market is not known".to_owned()));
        };
        if self.is_read() {
            return self.supersede("a later request for its page went well").await;
        }
        if let Err(error) = binance::parse_search(&market, &self.row.body) {
            return self.refuse(error.failure().as_str(), error.to_string()).await;
        }
        let name = market.to_string();
        let readings = vec![self.reading(market)];
        let mut found = Found::new(0, self.apply);
        Corrector::new(self.exchange, self.apply).see(self.pool, &readings, &mut found).await?;
        let mut pages =
            Pages::begin(self.pool, &self.options(), market_id, self.key.batch_id).await?;
        pages.replay(readings, &mut found).await?;
        let counts = found.counts;
        if counts.not_stored > 0 {
            return self.refuse("store_refused", "the database refuses its facts".to_owned()).await;
        }
        let page = self.row.page.unwrap_or_default();
        let taken =
            format!("{name} page {page}: {} ads taken, {} refused", counts.ads, counts.refused);
        Ok((Outcome::Taken, taken))
    }

    /// An ad goes to its place on its page.
    async fn ad(&self) -> Result<(Outcome, String), Error> {
        let Some((market_id, market)) = self.market() else {
            return Ok((Outcome::Impossible, "its market is not known".to_owned()));
        };
        let position = self.row.position.and_then(|position| usize::try_from(position).ok());
        let Some(position) = position else {
            return Ok((Outcome::Impossible, "its place on the page is not known".to_owned()));
        };
        if self.row.job_state.as_deref() != Some(EndState::Done.as_str()) {
            return Ok((Outcome::Impossible, "its page is not stored".to_owned()));
        }
        let body = alone(&self.row.body);
        let page = match binance::parse_search(&market, &body) {
            Ok(page) => page,
            Err(error) => return self.refuse(error.failure().as_str(), error.to_string()).await,
        };
        if let Some(refusal) = page.refusals.first() {
            return self.refuse(refusal.reason.as_str(), in_words(refusal)).await;
        }
        let Some(ad) = page.ads.into_iter().next() else {
            return self.refuse("malformed", "it is no ad".to_owned()).await;
        };
        let ad = Ad { position, ..ad };
        let taken =
            format!("{market} page {}: ad {}", self.row.page.unwrap_or_default(), ad.adv_no);
        if self.apply {
            let reading = Reading { body, ..self.reading(market) };
            let mut found = Found::new(0, true);
            let readings = [reading];
            Corrector::new(self.exchange, true).see(self.pool, &readings, &mut found).await?;
            self.insert_ad(market_id, &readings[0], &ad).await?;
        }
        Ok((Outcome::Taken, taken))
    }

    async fn insert_ad(&self, market_id: i32, reading: &Reading, ad: &Ad) -> Result<(), Error> {
        let (exchange, at) = (self.exchange, reading.fetched_at);
        let user_no = ad.advertiser.user_no.as_str();
        let versions = list_versions(self.pool, exchange, &[user_no]).await?;
        let versions = versions.get(user_no).map_or(&[][..], Vec::as_slice);
        // The corrector has seen to it that there is one.
        let advertiser_sk =
            version_of(versions, &ad.advertiser, at, None, false).unwrap_or_default();
        let mut methods = PaymentMethods::new();
        methods
            .resolve(
                &mut *self.pool.acquire().await?,
                exchange,
                ad.payment_methods.iter().collect(),
            )
            .await?;
        let ids = ad.payment_methods.iter().filter_map(|method| methods.id(method));
        let mut payment_method_ids: Vec<i32> = ids.collect();
        payment_method_ids.sort_unstable();
        let told = terms::list_last(self.pool, exchange, &[(&ad.adv_no, at)], 1).await?;
        let known = told.into_iter().flatten().next().unwrap_or_default();
        let details = ad.details.clone().or(&known);
        let content_hash = content_hash(ad, &details, advertiser_sk, &payment_method_ids);
        let own = offer_version_id(self.key.batch_id, self.key.ordinal, ad.position);
        let mut tx = self.pool.begin().await?;
        // Whoever closed the entry meanwhile has put the ad where it belongs.
        let is_open: Option<bool> = sqlx::query_scalar(
            "SELECT state = 'open' FROM pipeline.quarantine WHERE quarantine_id = $1 FOR UPDATE",
        )
        .bind(self.row.quarantine_id)
        .fetch_optional(&mut *tx)
        .await?;
        if is_open != Some(true) {
            return Ok(());
        }
        let same: Option<i32> = sqlx::query_scalar(
            "SELECT v.id FROM warehouse.offer_versions v
              WHERE v.day = $1 AND v.adv_no = $2 AND v.content_hash = $3 AND v.market_id = $4 AND v.first_seen_at <= $5
                AND (v.id = $7 OR v.id = ANY (SELECT unnest(offer_ids) FROM warehouse.book_pages
                                               WHERE day = $1 AND market_id = $4 AND batch_id BETWEEN $6 - 1 AND $6))
              ORDER BY v.id = $7 DESC, v.first_seen_at DESC LIMIT 1",
        )
        .bind(self.key.batch_id.day())
        .bind(&ad.adv_no)
        .bind(content_hash)
        .bind(market_id)
        .bind(at)
        .bind(self.key.batch_id.raw())
        .bind(own)
        .fetch_optional(&mut *tx)
        .await?;
        if same.is_none() {
            // What no page lists may stand at its place.
            sqlx::query("DELETE FROM warehouse.offer_versions WHERE day = $1 AND id = $2")
                .bind(self.key.batch_id.day())
                .bind(own)
                .execute(&mut *tx)
                .await?;
        }
        let version_id = same.unwrap_or(own);
        let row = AdRow {
            ad,
            details,
            advertiser_sk,
            payment_method_ids,
            content_hash,
            version_id,
            is_new: same.is_none(),
        };
        let rows = PageRows {
            batch_id: self.key.batch_id,
            market_id,
            ordinal: self.key.ordinal,
            page: reading.page,
            fetched_at: at,
            declared_total: None,
            is_lenient: false,
            ads: vec![row],
        };
        insert_versions(&mut tx, WAREHOUSE, &[&rows]).await?;
        let index = i64::try_from(ad.position).unwrap_or_default() - self.row.refused_before;
        self.list_ad(&mut tx, &rows, index).await?;
        resolve(&mut tx, self.row.quarantine_id, "it was tried again and taken", self.by).await?;
        note_remakes(&mut tx, &BTreeSet::from([(self.key.batch_id, market_id)])).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Puts the ad into its page, behind `index` others, and into the counts of its job.
    async fn list_ad(
        &self,
        connection: &mut PgConnection,
        rows: &PageRows<'_>,
        index: i64,
    ) -> Result<(), Error> {
        let Some(row) = rows.ads.first() else {
            return Ok(());
        };
        let index = i32::try_from(index.max(0)).unwrap_or_default();
        sqlx::query(
            "UPDATE warehouse.book_pages
                SET offer_ids = offer_ids[:$5] || $6 || offer_ids[$5 + 1:],
                    active_minutes = active_minutes[:$5] || $7::smallint || active_minutes[$5 + 1:],
                    privilege_types = CASE WHEN privilege_types IS NOT NULL OR $8::smallint IS NOT NULL
                        THEN (coalesce(privilege_types, array_fill(NULL::smallint, ARRAY[cardinality(offer_ids)])))[:$5] || $8::smallint
                             || (coalesce(privilege_types, array_fill(NULL::smallint, ARRAY[cardinality(offer_ids)])))[$5 + 1:] END,
                    promoted_position = least(CASE WHEN promoted_position > $5 THEN promoted_position + 1 ELSE promoted_position END,
                                              CASE WHEN $9 THEN ($5 + 1)::smallint END),
                    duplicate_positions = NULL
              WHERE day = $1 AND batch_id = $2 AND market_id = $3 AND ordinal = $4",
        )
        .bind(self.key.batch_id.day())
        .bind(self.key.batch_id.raw())
        .bind(rows.market_id)
        .bind(self.key.ordinal.cast_signed())
        .bind(index)
        .bind(row.version_id)
        .bind(rows.active_minutes().next().flatten())
        .bind(row.ad.privilege_type)
        .bind(row.ad.is_promoted)
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            "UPDATE pipeline.jobs SET ads_taken = ads_taken + 1, ads_refused = ads_refused - 1
              WHERE day = $1 AND batch_id = $2 AND ordinal = $3",
        )
        .bind(self.key.batch_id.day())
        .bind(self.key.batch_id.raw())
        .bind(self.key.ordinal.cast_signed())
        .execute(connection)
        .await?;
        Ok(())
    }

    /// A list, or the page of an advertiser: stored by the worker's own code, unless a newer one was read.
    async fn list(&self, kind: &str) -> Result<(Outcome, String), Error> {
        let row = self.row;
        if self.is_read() {
            return self.supersede("a later request for it went well").await;
        }
        if row.has_newer_list {
            return self.supersede("it was read again since").await;
        }
        let fiat = row.fiat.clone().unwrap_or_default();
        let fiat_id = row.fiat_id.unwrap_or_default();
        let (work, facts) = match kind {
            "fiat_list" => {
                (Work::FiatList, binance::parse_fiat_list(&row.body).map(Facts::FiatList))
            }
            "assets" => (
                Work::Assets { fiat_id, fiat },
                binance::parse_assets(&row.body).map(Facts::Assets),
            ),
            "payment_methods" => (
                Work::PaymentMethods { fiat_id, fiat },
                binance::parse_payment_methods(&row.body).map(Facts::PaymentMethods),
            ),
            _ => {
                let user_no = row.user_no.clone().unwrap_or_default();
                let page = binance::parse_advertiser(Some(&user_no), &row.body);
                let advertiser_id = row.advertiser_id.unwrap_or_default();
                (
                    Work::Advertiser { advertiser_id, user_no },
                    page.map(|page| Facts::Advertiser(Box::new(page))),
                )
            }
        };
        let facts = match facts {
            Ok(facts) => facts,
            Err(error) => return self.refuse(error.failure().as_str(), error.to_string()).await,
        };
        if self.apply {
            self.store_list(work, facts).await?;
        }
        Ok((Outcome::Taken, format!("{kind} of batch {}", row.batch_id)))
    }

    async fn store_list(&self, work: Work, facts: Facts) -> Result<(), Error> {
        let at = self.row.fetched_at;
        let one = ToStore {
            job: Job {
                version: MESSAGE_VERSION,
                exchange: self.exchange,
                batch_id: self.key.batch_id,
                ordinal: self.key.ordinal,
                issue: 1,
                expires_at: at,
                work,
            },
            ending: Ending {
                state: EndState::Done,
                reason: None,
                detail: None,
                requests: Requests { fetched_at: Some(at), ..Requests::default() },
                facts,
                answer: None,
                findings: Vec::new(),
            },
        };
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "UPDATE pipeline.jobs SET state = 'done', reason = NULL, detail = NULL
              WHERE day = $1 AND batch_id = $2 AND ordinal = $3 AND state IN ('failed', 'expired')",
        )
        .bind(self.key.batch_id.day())
        .bind(self.key.batch_id.raw())
        .bind(self.key.ordinal.cast_signed())
        .execute(&mut *tx)
        .await?;
        discovery::store(&mut tx, &[&one]).await?;
        profiles::store(&mut tx, &[&one]).await?;
        resolve(&mut tx, self.row.quarantine_id, "it was tried again and taken", self.by).await?;
        note_remakes(&mut tx, &BTreeSet::from([(self.key.batch_id, NO_BOOK)])).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The terms of an ad that the page of its advertiser told.
    async fn ad_of_advertiser(&self) -> Result<(Outcome, String), Error> {
        let row = self.row;
        let (Some(advertiser_id), Some(user_no)) = (row.advertiser_id, row.user_no.as_deref())
        else {
            return Ok((Outcome::Impossible, "its advertiser is not known".to_owned()));
        };
        let mut body = format!(
            r#"{{"code":"000000","data":{{"userDetailVo":{{"userNo":"{user_no}"}},"buyList":["#
        )
        .into_bytes();
        body.extend_from_slice(&row.body);
        body.extend_from_slice(br#"],"sellList":[]},"success":true}"#);
        let page = match binance::parse_advertiser(Some(user_no), &body) {
            Ok(page) => page,
            Err(error) => return self.refuse(error.failure().as_str(), error.to_string()).await,
        };
        if let Some(refusal) = page.refusals.first() {
            return self.refuse(refusal.reason.as_str(), in_words(refusal)).await;
        }
        let Some((market, ad)) = page.ads.first() else {
            return self.refuse("malformed", "it is no ad".to_owned()).await;
        };
        if self.apply {
            let mut tx = self.pool.begin().await?;
            terms::insert(&mut tx, self.exchange, advertiser_id, self.row.fetched_at, &[ad])
                .await?;
            sqlx::query(
                "UPDATE pipeline.jobs SET ads_taken = ads_taken + 1, ads_refused = ads_refused - 1
                  WHERE day = $1 AND batch_id = $2 AND ordinal = $3
                    AND EXISTS (SELECT FROM pipeline.quarantine WHERE quarantine_id = $4 AND state = 'open')",
            )
            .bind(self.key.batch_id.day())
            .bind(self.key.batch_id.raw())
            .bind(self.key.ordinal.cast_signed())
            .bind(row.quarantine_id)
            .execute(&mut *tx)
            .await?;
            resolve(&mut tx, row.quarantine_id, "it was tried again and taken", self.by).await?;
            tx.commit().await?;
        }
        Ok((Outcome::Taken, format!("terms of ad {} ({market})", ad.adv_no)))
    }
}

/// In the notes of what is to be made again: the sums of the batch, and no book.
pub const NO_BOOK: i32 = 0;

/// An answer that holds this ad alone.
fn alone(item: &[u8]) -> Vec<u8> {
    let mut body = br#"{"code":"000000","message":null,"messageDetail":null,"data":["#.to_vec();
    body.extend_from_slice(item);
    body.extend_from_slice(br#"],"total":1,"success":true}"#);
    body
}
