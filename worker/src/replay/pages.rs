//! The pages of one market on one day, held against what they listed when they were stored.
//!
//! For every ad the row that the current parser would store is made by the worker's own code, put into a
//! temporary table like the warehouse's, and compared there column by column: a new column is compared and
//! corrected without a word here. Then, in the order of reading:
//!
//! - An ad whose stored version says the same keeps it.
//! - A version that was first seen at this very place is corrected in place, and with it every page that
//!   refers to it.
//! - An ad that was first seen elsewhere, where it says something else, gets the version that the market last
//!   showed of it, if that says the same, else one of its own place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use shared::domain::{Ad, AdDetails, BatchId, MAX_ADS_PER_PAGE, PaymentMethod, offer_version_id};
use shared::exchange::Exchange;
use shared::exchange::binance::{self, PARSER_VERSION, Page};
use shared::job::{EMPTY_NO_ADS, EndState, Failure};
use sqlx::types::Json;
use sqlx::{Connection, PgConnection, PgPool};

use super::advertisers::{Version, list_versions, version_of};
use super::answers::{JobEnd, Reading};
use super::quarantine::{Answer, settle};
use super::{Difference, Error, Found, Options, PageKey, note_remakes};
use crate::handler::Facts;
use crate::store::pages::{AdRow, PageRows, Tables, WAREHOUSE, insert_pages, insert_versions};
use crate::store::payment_methods::PaymentMethods;
use crate::store::versions::content_hash;
use crate::store::{jobs, terms};

/// Where rows are compared.
const COMPARED: Tables =
    Tables { pages: "replay_pages", versions: "replay_versions", has_traits: false };
/// Changes of the terms of an ad that are looked back on: a page may have been stored before what its
/// advertiser's page told a moment earlier was committed.
const LAST_TERMS: i32 = 3;
/// What says where a version was first seen and not what it says, or is judged apart from the rest.
const NOT_COMPARED: &str =
    "'{day,id,market_id,first_seen_at,content_hash,advertiser_sk,traits}'::text[]";
/// What is not told by the answer: what the close marks, and who read it.
const NOT_OF_THE_PAGE: &str = "'{duplicate_positions,parser_version}'::text[]";

/// What the current parser makes of an answer.
enum Judged {
    /// A page, and its warnings as the ledger counts them.
    Page(Page, Option<Value>),
    /// No ads, and how many there should be, if it declares some.
    Empty(Option<u32>),
    Failed(Failure, String),
}

fn judge(reading: &Reading) -> Judged {
    match binance::parse_search(&reading.market, &reading.body) {
        Ok(page) => {
            let ads = page.ads.len() + page.refusals.len();
            if ads == 0 {
                Judged::Empty(page.declared_without_ads(reading.page))
            } else if ads > MAX_ADS_PER_PAGE {
                let detail = format!("the page lists {ads} ads, a page holds {MAX_ADS_PER_PAGE}");
                Judged::Failed(Failure::OversizedPage, detail)
            } else {
                let facts = Facts::Page(page);
                let warnings = jobs::warnings(&facts);
                let warnings = warnings.and_then(|text| serde_json::from_str(&text).ok());
                let Facts::Page(page) = facts else { return Judged::Empty(None) };
                Judged::Page(page, warnings)
            }
        }
        Err(error) => Judged::Failed(error.failure(), error.to_string()),
    }
}

impl Judged {
    /// How the job would have ended.
    fn job(&self) -> JobEnd {
        let count = |n: usize| i32::try_from(n).ok();
        let ended = |state: EndState, reason: Option<&str>| JobEnd {
            state: state.as_str().to_owned(),
            reason: reason.map(str::to_owned),
            declared_total: None,
            ads_taken: None,
            ads_refused: None,
            warnings: None,
        };
        match self {
            Self::Page(page, warnings) => JobEnd {
                warnings: warnings.clone().map(Json),
                declared_total: page.total.map(u32::cast_signed),
                ads_taken: count(page.ads.len()),
                ads_refused: count(page.refusals.len()),
                ..ended(EndState::Done, None)
            },
            Self::Empty(declared) => JobEnd {
                declared_total: declared.map(u32::cast_signed),
                ..ended(EndState::Empty, Some(EMPTY_NO_ADS))
            },
            Self::Failed(failure, _) => ended(EndState::Failed, Some(failure.as_str())),
        }
    }
}

/// An ad as a stored page lists it.
#[derive(Clone)]
struct Listed {
    id: i32,
    /// `None`: the version is not there.
    adv_no: Option<String>,
    advertiser_sk: Option<i32>,
    user_no: Option<String>,
}

#[derive(sqlx::FromRow)]
struct ListedRow {
    batch_id: i32,
    ordinal: i32,
    id: Option<i32>,
    adv_no: Option<String>,
    advertiser_sk: Option<i32>,
    user_no: Option<String>,
}

/// Field → what is stored, what is read.
type Fields = BTreeMap<String, (Value, Value)>;

/// How the row of a candidate compares with a stored version.
#[derive(Clone)]
struct Compared {
    advertiser_sk: i32,
    content_hash: i64,
    /// Without what is judged apart.
    fields: Fields,
}

/// By page, ad and details; what is not there has no entry.
type Comparison = HashMap<(usize, usize, usize), Compared>;

#[derive(sqlx::FromRow)]
struct ComparedRow {
    n: i32,
    advertiser_sk: i32,
    content_hash: i64,
    fields: Option<Json<Fields>>,
}

/// How a page compares with its stored row.
struct PageCompared {
    is_stored: bool,
    fields: Fields,
}

/// An ad that is read, before it has its version.
struct Candidate<'a> {
    ad: &'a Ad,
    stored: Option<Listed>,
    /// Id of this very place.
    own: i32,
    advertiser_sk: i32,
    payment_method_ids: Vec<i32>,
    /// What the ad's page may have been stored with: the likeliest first.
    details: Vec<AdDetails>,
}

/// What a page becomes.
struct Planned<'a> {
    /// Its ads with their versions; those that are new are to be written.
    rows: PageRows<'a>,
    /// Whether it is a page with ads, or refused ones.
    is_page: bool,
    /// Stored entries that the page no longer lists.
    removed: Vec<Listed>,
    /// Whether a version was corrected, or other ones are listed.
    is_changed: bool,
    /// Versions that the page listed and no longer does.
    unlisted: Vec<i32>,
}

/// The pages of a market and day that are being replayed.
pub(super) struct Pages {
    pool: PgPool,
    exchange: Exchange,
    apply: bool,
    market_id: i32,
    day: NaiveDate,
    by: String,
    payment_methods: PaymentMethods,
    state: State,
}

/// What the pages so far have led to.
#[derive(Clone, Default)]
struct State {
    /// Versions that were corrected, with the hash of what they say now.
    corrected: HashMap<i32, i64>,
    /// What the market last showed of each ad.
    latest: HashMap<String, (i32, i64)>,
}

impl Pages {
    /// Begins with what the market showed before `first` on its day.
    pub(super) async fn begin(
        pool: &PgPool,
        options: &Options,
        market_id: i32,
        first: BatchId,
    ) -> Result<Self, Error> {
        let day = first.day();
        let latest: Vec<(String, i32, i64)> = sqlx::query_as(
            "SELECT v.adv_no, v.id, v.content_hash
               FROM warehouse.book_pages p
              CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
               JOIN warehouse.offer_versions v ON v.day = $1 AND v.id = l.id
              WHERE p.day = $1 AND p.market_id = $2
                AND p.batch_id = (SELECT max(batch_id) FROM warehouse.book_pages
                                   WHERE day = $1 AND market_id = $2 AND batch_id < $3)
              ORDER BY p.fetched_at, p.ordinal, l.position",
        )
        .bind(day)
        .bind(market_id)
        .bind(first.raw())
        .fetch_all(pool)
        .await?;
        let latest = latest.into_iter().map(|(adv_no, id, hash)| (adv_no, (id, hash))).collect();
        Ok(Self {
            pool: pool.clone(),
            exchange: options.exchange,
            apply: options.apply,
            market_id,
            day,
            by: options.by.clone(),
            payment_methods: PaymentMethods::new(),
            state: State { corrected: HashMap::new(), latest },
        })
    }

    /// Versions that say something else now than they did.
    pub(super) fn corrected(&self) -> Vec<i32> {
        self.state.corrected.keys().copied().collect()
    }

    /// Compares these pages, in the order of reading, and corrects if it is to: all in one transaction, or
    /// one by one if the database refuses what one of them holds.
    pub(super) async fn replay(
        &mut self,
        readings: Vec<Reading>,
        found: &mut Found,
    ) -> Result<(), Error> {
        let mut told = Found::new(usize::MAX, self.apply);
        match self.replay_together(&readings, &mut told).await {
            Ok(state) => self.state = state,
            Err(Error::Store(error)) if !error.is_passing() && readings.len() > 1 => {
                tracing::warn!(%error, pages = readings.len(), "facts were refused, correcting page by page");
                for reading in readings {
                    Box::pin(self.replay(vec![reading], found)).await?;
                }
                return Ok(());
            }
            Err(Error::Store(error)) if !error.is_passing() && self.apply => {
                if let Some(reading) = readings.first() {
                    tracing::error!(%error, batch = %reading.key.batch_id, ordinal = reading.key.ordinal, "the database refuses the facts of a page");
                }
                found.counts.not_stored += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        found.merge(told);
        Ok(())
    }

    async fn replay_together(
        &mut self,
        readings: &[Reading],
        found: &mut Found,
    ) -> Result<State, Error> {
        let judged: Vec<Judged> = readings.iter().map(judge).collect();
        let candidates = self.candidates(readings, &judged).await?;
        let mut connection = self.pool.acquire().await?;
        prepare(&mut connection).await?;
        let mut tx = connection.begin().await?;
        let compared =
            compare_versions(&mut tx, self.day, self.market_id, readings, &candidates).await?;
        let mut state = self.state.clone();
        let mut planned = Vec::with_capacity(readings.len());
        for (index, (reading, candidates)) in readings.iter().zip(candidates).enumerate() {
            let page = match &judged[index] {
                Judged::Page(page, _) => Some(page),
                _ => None,
            };
            let one = Planner { index, reading, compared: &compared, apply: self.apply };
            planned.push(one.plan(self.market_id, page, candidates, &mut state, found));
        }
        let pages = compare_pages(&mut tx, self.day, self.market_id, readings, &planned).await?;
        let mut changed = BTreeSet::new();
        for (index, reading) in readings.iter().enumerate() {
            let (plan, compared) = (&planned[index], &pages[index]);
            let job = judged[index].job();
            let is_ended = job.is_lost() && reading.job.is_lost() || reading.job == job;
            let is_row = plan.is_page == compared.is_stored && compared.fields.is_empty();
            if !is_ended || !is_row || plan.is_changed {
                changed.insert(index);
            }
            tell_page(reading, plan, &judged[index], (!is_ended).then_some(&job), compared, found);
        }
        if self.apply {
            let work = Work {
                day: self.day,
                market_id: self.market_id,
                by: &self.by,
                readings,
                judged: &judged,
                planned: &planned,
                changed: &changed,
            };
            work.apply(&mut tx).await?;
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        Ok(state)
    }

    /// The ads of the pages, each with the stored entry it is compared with and the keys of its names.
    async fn candidates<'a>(
        &mut self,
        readings: &[Reading],
        judged: &'a [Judged],
    ) -> Result<Vec<(Vec<Candidate<'a>>, Vec<Listed>)>, Error> {
        let mut stored = list_stored(&self.pool, self.day, self.market_id, readings).await?;
        let ads = || {
            readings.iter().zip(judged).flat_map(|(reading, judged)| {
                let ads = match judged {
                    Judged::Page(page, _) => page.ads.as_slice(),
                    _ => &[],
                };
                ads.iter().map(move |ad| (reading, ad))
            })
        };
        let users: BTreeSet<&str> = ads().map(|(_, ad)| ad.advertiser.user_no.as_str()).collect();
        let users: Vec<&str> = users.into_iter().collect();
        let versions = list_versions(&self.pool, self.exchange, &users).await?;
        let methods = self.methods(ads().flat_map(|(_, ad)| &ad.payment_methods).collect()).await?;
        let at: Vec<(&str, DateTime<Utc>)> =
            ads().map(|(reading, ad)| (ad.adv_no.as_str(), reading.fetched_at)).collect();
        let mut terms =
            terms::list_last(&self.pool, self.exchange, &at, LAST_TERMS).await?.into_iter();
        let mut all = Vec::with_capacity(readings.len());
        for (reading, judged) in readings.iter().zip(judged) {
            let stored = stored.remove(&reading.key).unwrap_or_default();
            let ads = match judged {
                Judged::Page(page, _) => page.ads.as_slice(),
                _ => &[],
            };
            let (matched, removed) = match_stored(reading, ads, stored);
            let candidates = ads.iter().zip(matched).map(|(ad, stored)| {
                let known = terms.next().unwrap_or_default();
                self.candidate(reading, ad, stored, &versions, &methods, &known)
            });
            all.push((candidates.collect(), removed));
        }
        Ok(all)
    }

    fn candidate<'a>(
        &self,
        reading: &Reading,
        ad: &'a Ad,
        stored: Option<Listed>,
        versions: &HashMap<String, Vec<Version>>,
        methods: &HashMap<String, i32>,
        known: &[AdDetails],
    ) -> Candidate<'a> {
        let is_same_user =
            |listed: &&Listed| listed.user_no.as_deref() == Some(ad.advertiser.user_no.as_str());
        let stored_sk =
            stored.as_ref().filter(is_same_user).and_then(|listed| listed.advertiser_sk);
        let of_user = versions.get(&ad.advertiser.user_no).map_or(&[][..], Vec::as_slice);
        // A dry run corrects no identities, so what is stored stands for what it would become.
        let is_believed = !self.apply || reading.parser_version == Some(PARSER_VERSION);
        let advertiser_sk =
            version_of(of_user, &ad.advertiser, reading.fetched_at, stored_sk, is_believed);
        let id =
            |method: &PaymentMethod| methods.get(&method.identifier).copied().unwrap_or(UNKNOWN);
        let mut payment_method_ids: Vec<i32> = ad.payment_methods.iter().map(id).collect();
        payment_method_ids.sort_unstable();
        let mut details: Vec<AdDetails> = Vec::new();
        for known in known {
            details.push(ad.details.clone().or(known));
        }
        if !details.contains(&ad.details) {
            details.push(ad.details.clone());
        }
        Candidate {
            ad,
            stored,
            own: offer_version_id(reading.key.batch_id, reading.key.ordinal, ad.position),
            advertiser_sk: advertiser_sk.unwrap_or(UNKNOWN),
            payment_method_ids,
            details,
        }
    }

    /// Keys of payment methods. New ones are recorded if anything is.
    async fn methods(
        &mut self,
        methods: Vec<&PaymentMethod>,
    ) -> Result<HashMap<String, i32>, Error> {
        let names: BTreeSet<&str> =
            methods.iter().map(|method| method.identifier.as_str()).collect();
        if self.apply {
            let all = methods.clone();
            let mut connection = self.pool.acquire().await?;
            self.payment_methods.resolve(&mut connection, self.exchange, all).await?;
            let id = |method: &PaymentMethod| {
                Some((method.identifier.clone(), self.payment_methods.id(method)?))
            };
            return Ok(methods.into_iter().filter_map(id).collect());
        }
        let known: Vec<(String, i32)> = sqlx::query_as(
            "SELECT identifier, payment_method_id FROM warehouse.dim_payment_methods
              WHERE exchange_id = $1 AND identifier = ANY ($2)",
        )
        .bind(self.exchange.id())
        .bind(names.into_iter().collect::<Vec<_>>())
        .fetch_all(&self.pool)
        .await?;
        Ok(known.into_iter().collect())
    }
}

/// Key of what a dry run does not record.
const UNKNOWN: i32 = 0;

async fn list_stored(
    pool: &PgPool,
    day: NaiveDate,
    market_id: i32,
    readings: &[Reading],
) -> Result<HashMap<PageKey, Vec<Listed>>, Error> {
    let rows: Vec<ListedRow> = sqlx::query_as(
        "SELECT p.batch_id, p.ordinal, l.id, v.adv_no, v.advertiser_sk, a.user_no
           FROM unnest($3::int[], $4::int[]) AS k (batch_id, ordinal)
           JOIN warehouse.book_pages p
             ON p.day = $1 AND p.batch_id = k.batch_id AND p.market_id = $2 AND p.ordinal = k.ordinal
          CROSS JOIN LATERAL unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
           LEFT JOIN warehouse.offer_versions v ON v.day = $1 AND v.id = l.id
           LEFT JOIN warehouse.dim_advertisers a USING (advertiser_sk)
          ORDER BY p.batch_id, p.ordinal, l.position",
    )
    .bind(day)
    .bind(market_id)
    .bind(readings.iter().map(|reading| reading.key.batch_id.raw()).collect::<Vec<_>>())
    .bind(readings.iter().map(|reading| reading.key.ordinal.cast_signed()).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let mut stored: HashMap<PageKey, Vec<Listed>> = HashMap::new();
    for row in rows {
        let key = super::answers::key(row.batch_id, row.ordinal);
        if let (Some(key), Some(id)) = (key, row.id) {
            stored.entry(key).or_default().push(Listed {
                id,
                adv_no: row.adv_no,
                advertiser_sk: row.advertiser_sk,
                user_no: row.user_no,
            });
        }
    }
    Ok(stored)
}

/// For every ad the entry of the stored page that is this ad, and the entries that are none: by the place where
/// it was first seen, else by its number and how often the page has listed it so far.
fn match_stored(
    reading: &Reading,
    ads: &[Ad],
    stored: Vec<Listed>,
) -> (Vec<Option<Listed>>, Vec<Listed>) {
    let mut left: Vec<Option<Listed>> = stored.into_iter().map(Some).collect();
    let mut take = |is_it: &dyn Fn(&Listed) -> bool| {
        left.iter_mut().find(|listed| listed.as_ref().is_some_and(is_it)).and_then(Option::take)
    };
    let own = |ad: &Ad| offer_version_id(reading.key.batch_id, reading.key.ordinal, ad.position);
    let mut matched: Vec<Option<Listed>> =
        ads.iter().map(|ad| take(&|listed: &Listed| listed.id == own(ad))).collect();
    for (ad, matched) in ads.iter().zip(&mut matched) {
        if matched.is_none() {
            *matched =
                take(&|listed: &Listed| listed.adv_no.as_deref() == Some(ad.adv_no.as_str()));
        }
    }
    (matched, left.into_iter().flatten().collect())
}

/// The temporary tables, in this session.
async fn prepare(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::raw_sql(
        "SET client_min_messages = warning;
         CREATE TEMP TABLE IF NOT EXISTS replay_versions (LIKE warehouse.offer_versions) ON COMMIT DELETE ROWS;
         CREATE TEMP TABLE IF NOT EXISTS replay_pages (LIKE warehouse.book_pages) ON COMMIT DELETE ROWS",
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn page_rows<'a>(
    reading: &Reading,
    market_id: i32,
    page: Option<&Page>,
    ads: Vec<AdRow<'a>>,
) -> PageRows<'a> {
    PageRows {
        batch_id: reading.key.batch_id,
        market_id,
        ordinal: reading.key.ordinal,
        page: reading.page,
        fetched_at: reading.fetched_at,
        declared_total: page.and_then(|page| page.total),
        is_lenient: page.is_some_and(Page::is_lenient),
        ads,
    }
}

/// Compares all candidates with the versions they are, or might be, stored as: by page, ad and details.
async fn compare_versions(
    connection: &mut PgConnection,
    day: NaiveDate,
    market_id: i32,
    readings: &[Reading],
    candidates: &[(Vec<Candidate<'_>>, Vec<Listed>)],
) -> Result<Comparison, Error> {
    let (mut pages, mut places, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    for (page, (reading, (candidates, _))) in readings.iter().zip(candidates).enumerate() {
        let mut rows = Vec::new();
        for (index, candidate) in candidates.iter().enumerate() {
            for (details, told) in candidate.details.iter().enumerate() {
                // In the temporary table the id is a running number.
                let n = i32::try_from(places.len()).unwrap_or(i32::MAX);
                places.push((page, index, details));
                stored.push(candidate.stored.as_ref().map_or(candidate.own, |listed| listed.id));
                rows.push(candidate.row(told.clone(), n, true));
            }
        }
        pages.push(page_rows(reading, market_id, None, rows));
    }
    let pages: Vec<&PageRows<'_>> = pages.iter().collect();
    insert_versions(connection, COMPARED, &pages).await?;
    let statement = format!(
        "SELECT d.id AS n, v.advertiser_sk, v.content_hash,
                CASE WHEN to_jsonb(d) - {NOT_COMPARED} = to_jsonb(v) - {NOT_COMPARED} THEN NULL
                     ELSE (SELECT jsonb_object_agg(k.key, jsonb_build_array(o.value, k.value))
                             FROM jsonb_each(to_jsonb(d) - {NOT_COMPARED}) k
                             JOIN jsonb_each(to_jsonb(v) - {NOT_COMPARED}) o USING (key)
                            WHERE k.value IS DISTINCT FROM o.value) END AS fields
           FROM unnest($2::int[]) WITH ORDINALITY AS e (stored, n)
           JOIN replay_versions d ON d.id = e.n - 1
           JOIN warehouse.offer_contents v ON v.day = $1 AND v.id = e.stored"
    );
    let rows: Vec<ComparedRow> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(day)
        .bind(stored)
        .fetch_all(connection)
        .await?;
    let mut compared = HashMap::with_capacity(rows.len());
    for row in rows {
        let place = usize::try_from(row.n).ok().and_then(|n| places.get(n));
        if let Some(place) = place {
            let fields = row.fields.map(|fields| fields.0).unwrap_or_default();
            let (advertiser_sk, content_hash) = (row.advertiser_sk, row.content_hash);
            compared.insert(*place, Compared { advertiser_sk, content_hash, fields });
        }
    }
    Ok(compared)
}

impl<'a> Candidate<'a> {
    fn hash(&self, details: &AdDetails) -> i64 {
        content_hash(self.ad, details, self.advertiser_sk, &self.payment_method_ids)
    }

    fn row(&self, details: AdDetails, version_id: i32, is_new: bool) -> AdRow<'a> {
        AdRow {
            ad: self.ad,
            content_hash: self.hash(&details),
            details,
            advertiser_sk: self.advertiser_sk,
            payment_method_ids: self.payment_method_ids.clone(),
            version_id,
            is_new,
        }
    }

    /// The details that the ad is stored with, if it is with any of the possible ones, else the likeliest;
    /// and how it compares then.
    fn choose(
        &self,
        (page, index): (usize, usize),
        corrected: Option<i64>,
        compared: &Comparison,
    ) -> (AdDetails, Option<Compared>) {
        let of = |details: usize| compared.get(&(page, index, details));
        let details = 0..self.details.len();
        let chosen = match corrected {
            Some(hash) => details.clone().find(|n| self.hash(&self.details[*n]) == hash),
            // The fewest differences: an ad that differs otherwise keeps its details all the same.
            None => details.min_by_key(|n| of(*n).map_or(usize::MAX, |row| row.fields.len())),
        };
        let chosen = chosen.unwrap_or_default();
        (self.details[chosen].clone(), of(chosen).cloned())
    }
}

/// Plans one page, given what the pages before it led to.
struct Planner<'p> {
    index: usize,
    reading: &'p Reading,
    compared: &'p Comparison,
    apply: bool,
}

/// Which version a page lists for an ad.
struct Choice {
    id: i32,
    is_written: bool,
    /// Whether the version, or which one it is, differs from what is stored.
    is_changed: bool,
}

impl Planner<'_> {
    fn plan<'a>(
        &self,
        market_id: i32,
        page: Option<&Page>,
        (candidates, removed): (Vec<Candidate<'a>>, Vec<Listed>),
        state: &mut State,
        found: &mut Found,
    ) -> Planned<'a> {
        found.counts.pages += 1;
        found.version(self.reading.parser_version).pages += 1;
        if let Some(page) = page {
            found.counts.ads += page.ads.len() as u64;
            found.counts.refused += page.refusals.len() as u64;
        }
        let (mut rows, mut is_changed) = (Vec::new(), false);
        let mut unlisted: Vec<i32> = removed.iter().map(|listed| listed.id).collect();
        for (index, candidate) in candidates.iter().enumerate() {
            let (details, choice) = self.choose(index, candidate, state, found);
            let row = candidate.row(details, choice.id, choice.is_written);
            is_changed |= choice.is_changed;
            unlisted.extend(
                candidate.stored.as_ref().map(|listed| listed.id).filter(|id| *id != choice.id),
            );
            rows.push(row);
        }
        for row in &rows {
            state.latest.insert(row.ad.adv_no.clone(), (row.version_id, row.content_hash));
        }
        let listed: HashSet<i32> = rows.iter().map(|row| row.version_id).collect();
        unlisted.retain(|id| !listed.contains(id));
        let is_changed = is_changed || !removed.is_empty();
        let is_page = page.is_some();
        let rows = page_rows(self.reading, market_id, page, rows);
        Planned { rows, is_page, removed, is_changed, unlisted }
    }

    fn choose(
        &self,
        index: usize,
        candidate: &Candidate<'_>,
        state: &mut State,
        found: &mut Found,
    ) -> (AdDetails, Choice) {
        let id = candidate.stored.as_ref().map_or(candidate.own, |listed| listed.id);
        let corrected = state.corrected.get(&id).copied();
        let (details, row) = candidate.choose((self.index, index), corrected, self.compared);
        let hash = candidate.hash(&details);
        let says_the_same = match (corrected, &row) {
            (Some(corrected), _) => corrected == hash,
            (None, Some(row)) => {
                row.fields.is_empty() && row.advertiser_sk == candidate.advertiser_sk
            }
            (None, None) => false,
        };
        self.tell(candidate, row.as_ref(), says_the_same || corrected.is_some(), found);
        if says_the_same {
            // The way of hashing is no fact, but workers compare by it.
            let is_rehashed = corrected.is_none()
                && id == candidate.own
                && row.is_some_and(|row| row.content_hash != hash);
            let choice = Choice {
                id,
                is_written: is_rehashed && self.apply,
                is_changed: candidate.stored.is_none(),
            };
            return (details, choice);
        }
        // A place of its own that says something else is corrected where it stands.
        let is_own = id == candidate.own && (row.is_some() || corrected.is_some());
        if let (false, Some((id, latest))) = (is_own, state.latest.get(&candidate.ad.adv_no))
            && *latest == hash
        {
            return (details, Choice { id: *id, is_written: false, is_changed: true });
        }
        state.corrected.insert(candidate.own, hash);
        (details, Choice { id: candidate.own, is_written: true, is_changed: true })
    }

    fn tell(
        &self,
        candidate: &Candidate<'_>,
        row: Option<&Compared>,
        is_told: bool,
        found: &mut Found,
    ) {
        let ad = candidate.ad;
        let Some(stored) = &candidate.stored else {
            found.add(self.difference("added", &ad.adv_no, Fields::new()));
            return;
        };
        if is_told {
            return;
        }
        let mut fields = row.map(|row| row.fields.clone()).unwrap_or_default();
        if stored.user_no.as_deref() != Some(ad.advertiser.user_no.as_str()) {
            let users =
                (Value::from(stored.user_no.clone()), Value::from(ad.advertiser.user_no.clone()));
            fields.insert("user_no".to_owned(), users);
        }
        if row.is_none() {
            let ids = (Value::from(stored.id), Value::from(candidate.own));
            fields.insert("id".to_owned(), ids);
        }
        // Another version of the same advertiser is told as its identity.
        if !fields.is_empty() {
            found.add(self.difference("changed", &ad.adv_no, fields));
        }
    }

    fn difference(&self, kind: &'static str, of: &str, fields: Fields) -> Difference {
        Difference { of: Some(of.to_owned()), fields, ..of_page(kind, self.reading) }
    }
}

/// A difference of a page.
fn of_page(kind: &'static str, reading: &Reading) -> Difference {
    Difference {
        kind,
        batch_id: reading.key.batch_id.raw(),
        ordinal: Some(reading.key.ordinal),
        market: Some(reading.market.to_string()),
        page: Some(reading.page),
        of: None,
        fields: Fields::new(),
        parser_version: reading.parser_version,
        why: None,
    }
}

/// Fields of a page that change with the ads it lists.
const WITH_ADS: [&str; 4] = ["offer_ids", "active_minutes", "promoted_position", "privilege_types"];

/// Tells what differs of a page: ads that it loses, its own fields, and how its job ended.
fn tell_page(
    reading: &Reading,
    plan: &Planned<'_>,
    judged: &Judged,
    job: Option<&JobEnd>,
    compared: &PageCompared,
    found: &mut Found,
) {
    let refusals = match judged {
        Judged::Page(page, _) => page.refusals.as_slice(),
        _ => &[],
    };
    for listed in &plan.removed {
        let of = listed.adv_no.clone();
        let refusal = refusals.iter().find(|refusal| refusal.adv_no == of);
        let why = match judged {
            Judged::Failed(failure, detail) => Some(format!("{}: {detail}", failure.as_str())),
            _ => refusal.map(|refusal| {
                let field =
                    refusal.field.as_deref().map_or_else(String::new, |field| format!("{field}: "));
                format!("{}: {field}{}", refusal.reason.as_str(), refusal.detail)
            }),
        };
        found.add(Difference { of, why, ..of_page("removed", reading) });
    }
    let mut fields = compared.fields.clone();
    if plan.is_changed {
        fields.retain(|field, _| !WITH_ADS.contains(&field.as_str()));
    }
    if let Some(job) = job {
        if job.state != reading.job.state {
            let (done, is_done) = (EndState::Done.as_str(), job.state == EndState::Done.as_str());
            found.counts.pages_recovered += u64::from(is_done);
            found.counts.pages_lost += u64::from(reading.job.state == done);
            let states = (Value::from(reading.job.state.clone()), Value::from(job.state.clone()));
            fields.insert("state".to_owned(), states);
            let reasons =
                (Value::from(reading.job.reason.clone()), Value::from(job.reason.clone()));
            fields.insert("reason".to_owned(), reasons);
        }
        if !plan.is_changed && job.ads_refused != reading.job.ads_refused {
            let refused = (Value::from(reading.job.ads_refused), Value::from(job.ads_refused));
            fields.insert("ads_refused".to_owned(), refused);
        }
        if !plan.is_changed && job.warnings != reading.job.warnings {
            let told = |warnings: &Option<Json<Value>>| {
                warnings.as_ref().map_or(Value::Null, |warnings| warnings.0.clone())
            };
            fields
                .insert("warnings".to_owned(), (told(&reading.job.warnings), told(&job.warnings)));
        }
        if job.declared_total != reading.job.declared_total {
            let totals = (Value::from(reading.job.declared_total), Value::from(job.declared_total));
            fields.insert("declared_total".to_owned(), totals);
        }
    }
    if !fields.is_empty() {
        found.add(Difference { fields, ..of_page("page", reading) });
    }
}

/// Compares what pages become with their stored rows.
async fn compare_pages(
    connection: &mut PgConnection,
    day: NaiveDate,
    market_id: i32,
    readings: &[Reading],
    planned: &[Planned<'_>],
) -> Result<Vec<PageCompared>, Error> {
    let rows: Vec<&PageRows<'_>> =
        planned.iter().filter(|plan| plan.is_page).map(|plan| &plan.rows).collect();
    if !rows.is_empty() {
        insert_pages(connection, COMPARED, &rows).await?;
    }
    let statement = format!(
        "SELECT k.n, s.day IS NOT NULL AS is_stored,
                (SELECT jsonb_object_agg(d.key, jsonb_build_array(o.value, d.value))
                   FROM jsonb_each(to_jsonb(r) - {NOT_OF_THE_PAGE}) d
                   JOIN jsonb_each(to_jsonb(s) - {NOT_OF_THE_PAGE}) o USING (key)
                  WHERE d.value IS DISTINCT FROM o.value
                    AND NOT (key = 'is_lenient' AND s.is_lenient IS NULL)) AS fields
           FROM unnest($3::int[], $4::int[]) WITH ORDINALITY AS k (batch_id, ordinal, n)
           LEFT JOIN warehouse.book_pages s
             ON s.day = $1 AND s.batch_id = k.batch_id AND s.market_id = $2 AND s.ordinal = k.ordinal
           LEFT JOIN replay_pages r ON r.batch_id = k.batch_id AND r.ordinal = k.ordinal
          ORDER BY k.n"
    );
    let rows: Vec<(i64, bool, Option<Json<Fields>>)> =
        sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .bind(day)
            .bind(market_id)
            .bind(readings.iter().map(|reading| reading.key.batch_id.raw()).collect::<Vec<_>>())
            .bind(
                readings
                    .iter()
                    .map(|reading| reading.key.ordinal.cast_signed())
                    .collect::<Vec<_>>(),
            )
            .fetch_all(connection)
            .await?;
    let compared = |(_, is_stored, fields): (i64, bool, Option<Json<Fields>>)| PageCompared {
        is_stored,
        fields: fields.map(|fields| fields.0).unwrap_or_default(),
    };
    Ok(rows.into_iter().map(compared).collect())
}

/// What is to be written of a chunk, in its transaction.
struct Work<'w> {
    day: NaiveDate,
    market_id: i32,
    by: &'w str,
    readings: &'w [Reading],
    judged: &'w [Judged],
    planned: &'w [Planned<'w>],
    /// Indexes of pages whose facts differ.
    changed: &'w BTreeSet<usize>,
}

impl Work<'_> {
    async fn apply(&self, connection: &mut PgConnection) -> Result<(), Error> {
        self.write_versions(connection).await?;
        self.write_pages(connection).await?;
        self.end_jobs(connection).await?;
        self.delete_unlisted(connection).await?;
        for (reading, judged) in self.readings.iter().zip(self.judged) {
            let answer = match judged {
                Judged::Page(page, _) => Answer::Page(&page.refusals),
                Judged::Empty(_) => Answer::Empty,
                Judged::Failed(failure, detail) => {
                    Answer::Failed(failure.as_str(), detail, &reading.body)
                }
            };
            settle(connection, reading.key, &answer, self.by).await?;
        }
        let books =
            self.changed.iter().map(|index| (self.readings[*index].key.batch_id, self.market_id));
        note_remakes(connection, &books.collect()).await
    }

    /// In place: the row goes and comes again under its id.
    async fn write_versions(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let new = self.planned.iter().flat_map(|plan| &plan.rows.ads).filter(|ad| ad.is_new);
        let ids: Vec<i32> = new.map(|ad| ad.version_id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        sqlx::query("DELETE FROM warehouse.offer_versions WHERE day = $1 AND id = ANY ($2)")
            .bind(self.day)
            .bind(ids)
            .execute(&mut *connection)
            .await?;
        let pages: Vec<&PageRows<'_>> = self.planned.iter().map(|plan| &plan.rows).collect();
        Ok(insert_versions(connection, WAREHOUSE, &pages).await?)
    }

    async fn write_pages(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let (changed, unchanged): (Vec<usize>, Vec<usize>) =
            (0..self.readings.len()).partition(|index| self.changed.contains(index));
        let keys = |indexes: &[usize]| {
            let key = |index: &usize| self.readings[*index].key;
            let keys = indexes.iter().map(key);
            keys.map(|key| (key.batch_id.raw(), key.ordinal.cast_signed()))
                .unzip::<_, _, Vec<_>, Vec<_>>()
        };
        let (batches, ordinals) = keys(&changed);
        sqlx::query(
            "DELETE FROM warehouse.book_pages p USING unnest($3::int[], $4::int[]) AS k (batch_id, ordinal)
              WHERE p.day = $1 AND p.batch_id = k.batch_id AND p.market_id = $2 AND p.ordinal = k.ordinal",
        )
        .bind(self.day)
        .bind(self.market_id)
        .bind(batches)
        .bind(ordinals)
        .execute(&mut *connection)
        .await?;
        let rows = changed.iter().map(|index| &self.planned[*index]);
        let rows: Vec<&PageRows<'_>> =
            rows.filter(|plan| plan.is_page).map(|plan| &plan.rows).collect();
        if !rows.is_empty() {
            insert_pages(connection, WAREHOUSE, &rows).await?;
        }
        // Also where nothing differs: that is how one knows that it was looked at. What the row says beyond
        // that is in the temporary table.
        let (mut batches, mut ordinals) = keys(&unchanged);
        let (of_changed, more) = keys(&changed);
        batches.extend(of_changed);
        ordinals.extend(more);
        sqlx::query(
            "UPDATE warehouse.book_pages p SET parser_version = $5, is_lenient = r.is_lenient
               FROM unnest($3::int[], $4::int[]) AS k (batch_id, ordinal)
               JOIN replay_pages r ON r.batch_id = k.batch_id AND r.ordinal = k.ordinal
              WHERE p.day = $1 AND p.batch_id = k.batch_id AND p.market_id = $2 AND p.ordinal = k.ordinal
                AND (p.parser_version, p.is_lenient) IS DISTINCT FROM ($5, r.is_lenient)",
        )
        .bind(self.day)
        .bind(self.market_id)
        .bind(batches)
        .bind(ordinals)
        .bind(PARSER_VERSION)
        .execute(connection)
        .await?;
        Ok(())
    }

    /// The ledger, where a job would have ended otherwise.
    async fn end_jobs(&self, connection: &mut PgConnection) -> Result<(), Error> {
        for (reading, judged) in self.readings.iter().zip(self.judged) {
            let job = judged.job();
            if reading.job == job || reading.job.is_lost() && job.is_lost() {
                continue;
            }
            let detail = match judged {
                Judged::Failed(_, detail) => Some(detail.as_str()),
                _ => None,
            };
            sqlx::query(
                "UPDATE pipeline.jobs
                    SET state = $4, reason = $5, detail = $6, declared_total = $7, ads_taken = $8, ads_refused = $9,
                        warnings = $10
                  WHERE day = $1 AND batch_id = $2 AND ordinal = $3",
            )
            .bind(self.day)
            .bind(reading.key.batch_id.raw())
            .bind(reading.key.ordinal.cast_signed())
            .bind(job.state)
            .bind(job.reason)
            .bind(detail)
            .bind(job.declared_total)
            .bind(job.ads_taken)
            .bind(job.ads_refused)
            .bind(job.warnings)
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }

    /// Versions that no page lists any more never were.
    async fn delete_unlisted(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let ids: BTreeSet<i32> =
            self.planned.iter().flat_map(|plan| &plan.unlisted).copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "DELETE FROM warehouse.offer_versions v
              WHERE v.day = $1 AND v.id = ANY ($2) AND v.market_id = $3
                AND NOT EXISTS (SELECT FROM warehouse.book_pages p
                                 WHERE p.day = $1 AND p.market_id = $3 AND p.offer_ids @> ARRAY[v.id])",
        )
        .bind(self.day)
        .bind(ids.into_iter().collect::<Vec<_>>())
        .bind(self.market_id)
        .execute(connection)
        .await?;
        Ok(())
    }
}
