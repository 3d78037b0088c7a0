//! Advertisers as answers showed them, held against their recorded figures and identities.
//!
//! Both are told on change only, so they are walked in the order of time over all markets: what was in force
//! when an answer came must be what the answer says, and a row must say something new.
//!
//! What another parser stored is made exactly so. What this very parser stored is believed as far as it can
//! be explained: of answers that come within moments of each other workers keep the latest, in the order
//! in which they store them, so a value that was told before, or that was followed within moments, is no
//! difference.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::domain::Advertiser;
use shared::exchange::Exchange;
use shared::exchange::binance::{self, PARSER_VERSION};
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::answers::Reading;
use super::{Difference, Error, Found};
use crate::store::advertisers::{Figures, Seen, insert_versions};

/// Answers whose pages may be stored in another order than they came: those of one batch.
const MOMENTS: TimeDelta = TimeDelta::minutes(10);
/// How far back a value counts as told before.
const MEMORY: TimeDelta = TimeDelta::days(1);

/// Identity of an advertiser: what makes a version.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Identity {
    advertiser: String,
    user_type: Option<String>,
    is_merchant: bool,
    user_identity: Option<String>,
    user_grade: Option<i16>,
    vip_level: Option<i16>,
    badges: Option<Vec<String>>,
    is_pro_merchant: bool,
    is_blocked: Option<bool>,
    merchant_group_member: Option<bool>,
    pro_merchant_description: Option<String>,
}

impl Identity {
    pub(super) fn of(advertiser: &Advertiser) -> Self {
        Self {
            advertiser: advertiser.nickname.clone(),
            user_type: advertiser.user_type.clone(),
            is_merchant: advertiser.is_merchant,
            user_identity: advertiser.user_identity.clone(),
            user_grade: advertiser.user_grade,
            vip_level: advertiser.vip_level,
            badges: advertiser.badges.clone(),
            is_pro_merchant: advertiser.is_pro_merchant,
            is_blocked: advertiser.is_blocked,
            merchant_group_member: advertiser.merchant_group_member,
            pro_merchant_description: advertiser.pro_merchant_description.clone(),
        }
    }

    fn told(&self) -> [(&'static str, Value); 11] {
        [
            ("advertiser", json!(self.advertiser)),
            ("user_type", json!(self.user_type)),
            ("is_merchant", json!(self.is_merchant)),
            ("user_identity", json!(self.user_identity)),
            ("user_grade", json!(self.user_grade)),
            ("vip_level", json!(self.vip_level)),
            ("badges", json!(self.badges)),
            ("is_pro_merchant", json!(self.is_pro_merchant)),
            ("is_blocked", json!(self.is_blocked)),
            ("merchant_group_member", json!(self.merchant_group_member)),
            ("pro_merchant_description", json!(self.pro_merchant_description)),
        ]
    }

    fn difference(&self, read: &Self) -> BTreeMap<String, (Value, Value)> {
        let pairs = self.told().into_iter().zip(read.told());
        let differing = pairs.filter(|((_, stored), (_, read))| stored != read);
        differing.map(|((name, stored), (_, read))| (name.to_owned(), (stored, read))).collect()
    }
}

fn figures_told(figures: &Figures) -> [(&'static str, Value); 4] {
    [
        ("month_order_count", json!(figures.month_order_count)),
        ("completion_rate", json!(figures.completion_rate)),
        ("positive_rate", json!(figures.positive_rate)),
        ("release_seconds", json!(figures.release_seconds)),
    ]
}

fn figures_difference(
    stored: Option<&Figures>,
    read: &Figures,
) -> BTreeMap<String, (Value, Value)> {
    let pairs = figures_told(read).into_iter().enumerate();
    let stored = stored.map(figures_told);
    let pairs = pairs.map(|(index, (name, read))| {
        let stored = stored.as_ref().map_or(Value::Null, |stored| stored[index].1.clone());
        (name.to_owned(), (stored, read))
    });
    pairs.filter(|(_, (stored, read))| stored != read).collect()
}

/// A version of an advertiser.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Version {
    user_no: String,
    advertiser_id: i32,
    pub(super) advertiser_sk: i32,
    valid_from: DateTime<Utc>,
    valid_to: Option<DateTime<Utc>>,
    #[sqlx(flatten)]
    identity: Identity,
}

impl Version {
    fn is_in_force(&self, at: DateTime<Utc>) -> bool {
        self.valid_from <= at && self.valid_to.is_none_or(|to| at < to)
    }
}

/// All versions of these advertisers, in the order of time.
pub(super) async fn list_versions(
    executor: impl PgExecutor<'_>,
    exchange: Exchange,
    users: &[&str],
) -> Result<HashMap<String, Vec<Version>>, Error> {
    let rows: Vec<Version> = sqlx::query_as(
        "SELECT user_no, advertiser_id, advertiser_sk, valid_from, valid_to, advertiser, user_type, is_merchant,
                user_identity, user_grade, vip_level, badges, is_pro_merchant, is_blocked,
                merchant_group_member, pro_merchant_description
           FROM warehouse.dim_advertisers
          WHERE exchange_id = $1 AND user_no = ANY ($2) ORDER BY advertiser_id, valid_from",
    )
    .bind(exchange.id())
    .bind(users)
    .fetch_all(executor)
    .await?;
    let mut versions: HashMap<String, Vec<Version>> = HashMap::new();
    for row in rows {
        versions.entry(row.user_no.clone()).or_default().push(row);
    }
    Ok(versions)
}

/// The version that an ad belongs to, read at `at`. `stored` is the one it is stored with; it stays if it says
/// the same, or if this very parser stored it (`is_current`). `None`: nobody knows the advertiser.
pub(super) fn version_of(
    versions: &[Version],
    read: &Advertiser,
    at: DateTime<Utc>,
    stored: Option<i32>,
    is_current: bool,
) -> Option<i32> {
    let identity = Identity::of(read);
    let stored = stored.and_then(|sk| versions.iter().find(|version| version.advertiser_sk == sk));
    if let Some(stored) = stored
        && (is_current || stored.identity == identity)
    {
        return Some(stored.advertiser_sk);
    }
    let in_force = versions.iter().rev().find(|version| version.is_in_force(at));
    let same = versions.iter().rev().find(|version| version.identity == identity);
    in_force
        .filter(|version| version.identity == identity)
        .or(same)
        .or(in_force)
        .or(versions.first())
        .map(|version| version.advertiser_sk)
}

/// What is recorded of an advertiser.
#[derive(Default)]
struct Record {
    id: Option<i32>,
    versions: Vec<Version>,
    figures: BTreeMap<DateTime<Utc>, Figures>,
    is_changed: bool,
}

#[derive(sqlx::FromRow)]
struct FiguresRow {
    advertiser_id: i32,
    observed_at: DateTime<Utc>,
    #[sqlx(flatten)]
    figures: Figures,
}

/// An advertiser on an answer.
struct Sighting {
    advertiser: Advertiser,
    at: DateTime<Utc>,
    batch_id: i32,
    /// Parser that stored its page.
    parser_version: Option<i16>,
}

/// A correction to be written.
enum Write {
    /// Nobody knows the advertiser: as a worker would record it.
    First(Box<Advertiser>, DateTime<Utc>),
    /// Figures from then on.
    Figures(i32, DateTime<Utc>, Figures),
    /// No new figures then.
    NoFigures(i32, DateTime<Utc>),
    /// The version that begins then says this.
    Identity(i32, DateTime<Utc>, Box<Advertiser>),
    /// Another version from then on, in the time of the one that is in force, or before the first.
    Version(i32, DateTime<Utc>, Box<Advertiser>),
    /// The version that begins at the first instant began at the second already.
    Begin(i32, DateTime<Utc>, DateTime<Utc>),
}

/// Walks over sightings in the order of time.
pub(super) struct Corrector {
    exchange: Exchange,
    apply: bool,
    records: HashMap<String, Record>,
}

impl Corrector {
    pub(super) fn new(exchange: Exchange, apply: bool) -> Self {
        Self { exchange, apply, records: HashMap::new() }
    }

    /// Forgets what can be read again: all that is written is in the database.
    pub(super) fn end_batch(&mut self) {
        let apply = self.apply;
        self.records.retain(|_, record| !apply && record.is_changed);
    }

    /// Compares, and corrects if it is to.
    pub(super) async fn see(
        &mut self,
        pool: &PgPool,
        readings: &[Reading],
        found: &mut Found,
    ) -> Result<(), Error> {
        let sightings = sightings(readings);
        let (Some(first), Some(last)) = (sightings.first(), sightings.last()) else {
            return Ok(());
        };
        self.load(pool, &sightings, (first.at, last.at)).await?;
        let mut writes = Vec::new();
        for sighting in &sightings {
            self.compare(sighting, &mut writes, found);
        }
        if self.apply && !writes.is_empty() {
            write(pool, self.exchange, writes).await?;
        }
        Ok(())
    }

    async fn load(
        &mut self,
        pool: &PgPool,
        sightings: &[Sighting],
        (first, last): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<(), Error> {
        let users: BTreeSet<&str> =
            sightings.iter().map(|sighting| sighting.advertiser.user_no.as_str()).collect();
        let is_new = |user: &&str| self.records.get(*user).is_none_or(|record| record.is_changed);
        let users: Vec<&str> = users.into_iter().filter(is_new).collect();
        let mut versions = list_versions(pool, self.exchange, &users).await?;
        let ids: Vec<i32> = versions.values().flatten().map(|v| v.advertiser_id).collect();
        let rows: Vec<FiguresRow> = sqlx::query_as(
            "SELECT advertiser_id, observed_at, month_order_count, completion_rate, positive_rate, release_seconds
               FROM warehouse.advertiser_figures
              WHERE advertiser_id = ANY ($1) AND observed_at BETWEEN $2 AND $3
             UNION
             SELECT f.* FROM unnest($1) AS a (id)
              CROSS JOIN LATERAL (SELECT advertiser_id, observed_at, month_order_count, completion_rate,
                                         positive_rate, release_seconds
                                    FROM warehouse.advertiser_figures f
                                   WHERE f.advertiser_id = a.id AND f.observed_at < $2
                                   ORDER BY observed_at DESC LIMIT 1) f
             UNION
             SELECT f.* FROM unnest($1) AS a (id)
              CROSS JOIN LATERAL (SELECT advertiser_id, observed_at, month_order_count, completion_rate,
                                         positive_rate, release_seconds
                                    FROM warehouse.advertiser_figures f
                                   WHERE f.advertiser_id = a.id AND f.observed_at > $3
                                   ORDER BY observed_at LIMIT 1) f",
        )
        .bind(&ids)
        .bind(first - MEMORY)
        .bind(last + MOMENTS)
        .fetch_all(pool)
        .await?;
        let mut figures: HashMap<i32, BTreeMap<DateTime<Utc>, Figures>> = HashMap::new();
        for row in rows {
            figures.entry(row.advertiser_id).or_default().insert(row.observed_at, row.figures);
        }
        let apply = self.apply;
        for user in users {
            let versions = versions.remove(user).unwrap_or_default();
            let id = versions.first().map(|version| version.advertiser_id);
            let mut figures = id.and_then(|id| figures.remove(&id)).unwrap_or_default();
            let record = self.records.entry(user.to_owned()).or_default();
            if record.is_changed && !apply {
                // Not written: what was found so far holds, what comes later is added.
                let known = record.figures.last_key_value().map(|(at, _)| *at);
                let later = figures.split_off(&known.unwrap_or(first));
                for (at, later) in later {
                    record.figures.entry(at).or_insert(later);
                }
            } else {
                *record = Record { id, versions, figures, is_changed: false };
            }
        }
        Ok(())
    }

    fn compare(&mut self, sighting: &Sighting, writes: &mut Vec<Write>, found: &mut Found) {
        let advertiser = &sighting.advertiser;
        let record = self.records.entry(advertiser.user_no.clone()).or_default();
        let told = |kind, fields| Difference {
            kind,
            batch_id: sighting.batch_id,
            ordinal: None,
            market: None,
            page: None,
            of: Some(advertiser.user_no.clone()),
            fields,
            parser_version: sighting.parser_version,
            why: None,
        };
        let is_current = sighting.parser_version == Some(PARSER_VERSION);
        let read = Identity::of(advertiser);
        let Some(id) = record.id else {
            // An ad that is taken now, of somebody who was never seen otherwise.
            if record.versions.is_empty() {
                found.add(told(
                    "identity",
                    [("user_no".to_owned(), (Value::Null, json!(advertiser.user_no)))].into(),
                ));
                writes.push(Write::First(Box::new(advertiser.clone()), sighting.at));
                record.is_changed = true;
                record.versions.push(Version {
                    user_no: advertiser.user_no.clone(),
                    advertiser_id: 0,
                    advertiser_sk: 0,
                    valid_from: sighting.at,
                    valid_to: None,
                    identity: read,
                });
            }
            return;
        };
        if let Some((stored, write)) = record.correct_identity(id, sighting, &read, is_current) {
            let fields = stored.map_or_else(BTreeMap::new, |stored| stored.difference(&read));
            found.add(told("identity", fields));
            writes.push(write);
            record.is_changed = true;
        }
        let figures = Figures::of(advertiser);
        let stored = record.figures_in_force(sighting.at);
        let changes = record.correct_figures(id, sighting.at, &figures, is_current);
        if !changes.is_empty() {
            found.add(told("figures", figures_difference(stored.as_ref(), &figures)));
            writes.extend(changes);
            record.is_changed = true;
        }
    }
}

impl Record {
    fn figures_in_force(&self, at: DateTime<Utc>) -> Option<Figures> {
        self.figures.range(..=at).next_back().map(|(_, figures)| *figures)
    }

    /// Makes `read` the figures in force at `at`; what is to be written for it.
    fn correct_figures(
        &mut self,
        id: i32,
        at: DateTime<Utc>,
        read: &Figures,
        is_current: bool,
    ) -> Vec<Write> {
        let here = self.figures.get(&at).copied();
        let before = self.figures.range(..at).next_back().map(|(_, figures)| *figures);
        let after = self.figures.range(at..).find(|(next, _)| **next > at);
        let after = after.map(|(next, figures)| (*next, *figures));
        if is_current && here.is_none() {
            let is_explained = before == Some(*read)
                || self.figures.range(at - MEMORY..).any(|(_, told)| told == read)
                || after.is_some_and(|(next, _)| next <= at + MOMENTS);
            if is_explained {
                return Vec::new();
            }
        }
        if here == Some(*read) && (is_current || before != here) {
            return Vec::new();
        }
        if before == Some(*read) {
            // Nothing new: whatever began here never was.
            return match here {
                Some(_) if !is_current || here != Some(*read) => {
                    self.figures.remove(&at);
                    vec![Write::NoFigures(id, at)]
                }
                _ => Vec::new(),
            };
        }
        self.figures.insert(at, *read);
        let mut writes = vec![Write::Figures(id, at, *read)];
        if let Some((next, figures)) = after
            && figures == *read
            && here.is_none()
        {
            self.figures.remove(&next);
            writes.push(Write::NoFigures(id, next));
        }
        writes
    }

    /// Makes `read` the identity in force at the sighting; what is stored there, and what is to be written.
    fn correct_identity(
        &mut self,
        id: i32,
        sighting: &Sighting,
        read: &Identity,
        is_current: bool,
    ) -> Option<(Option<Identity>, Write)> {
        let at = sighting.at;
        let write = Box::new(sighting.advertiser.clone());
        let Some(index) = self.versions.iter().position(|version| version.is_in_force(at)) else {
            // Before the first.
            let first = self.versions.first_mut()?;
            if is_current && first.valid_from <= at + MOMENTS {
                return None;
            }
            let old = first.valid_from;
            if first.identity == *read {
                first.valid_from = at;
                return Some((None, Write::Begin(id, old, at)));
            }
            let version = Version {
                valid_from: at,
                valid_to: Some(old),
                identity: read.clone(),
                advertiser_sk: 0,
                ..first.clone()
            };
            self.versions.insert(0, version);
            return Some((None, Write::Version(id, at, write)));
        };
        let in_force = &self.versions[index];
        if in_force.identity == *read {
            return None;
        }
        let stored = Some(in_force.identity.clone());
        if in_force.valid_from == at {
            self.versions[index].identity = read.clone();
            return Some((stored, Write::Identity(id, at, write)));
        }
        if is_current {
            let is_told = self.versions.iter().any(|version| version.identity == *read);
            let next = self.versions.get(index + 1);
            if is_told || next.is_some_and(|next| next.valid_from <= at + MOMENTS) {
                return None;
            }
        }
        if let Some(next) = self.versions.get(index + 1)
            && next.identity == *read
        {
            let old = next.valid_from;
            self.versions[index].valid_to = Some(at);
            self.versions[index + 1].valid_from = at;
            return Some((stored, Write::Begin(id, old, at)));
        }
        let version = Version {
            valid_from: at,
            identity: read.clone(),
            advertiser_sk: 0,
            ..in_force.clone()
        };
        self.versions[index].valid_to = Some(at);
        self.versions.insert(index + 1, version);
        Some((stored, Write::Version(id, at, write)))
    }
}

/// The advertisers of the answers in the order of time, each once an answer.
fn sightings(readings: &[Reading]) -> Vec<Sighting> {
    let mut sightings = Vec::new();
    for reading in readings {
        let Ok(page) = binance::parse_search(&reading.market, &reading.body) else {
            continue;
        };
        let mut seen = BTreeSet::new();
        for ad in page.ads {
            if seen.insert(ad.advertiser.user_no.clone()) {
                sightings.push(Sighting {
                    advertiser: ad.advertiser,
                    at: reading.fetched_at,
                    batch_id: reading.key.batch_id.raw(),
                    parser_version: reading.parser_version,
                });
            }
        }
    }
    sightings.sort_by_key(|sighting| sighting.at);
    sightings
}

/// Writes corrections, in their order.
async fn write(pool: &PgPool, exchange: Exchange, writes: Vec<Write>) -> Result<(), Error> {
    let mut tx = pool.begin().await?;
    let (mut touched, mut merchants) = (BTreeSet::new(), Vec::new());
    for write in writes {
        match write {
            Write::First(advertiser, at) => {
                insert_versions(&mut tx, exchange, &[Seen::new(&advertiser, at)], None).await?;
            }
            Write::Figures(id, at, figures) => {
                write_figures(&mut tx, id, at, &figures).await?;
                touched.insert(id);
            }
            Write::NoFigures(id, at) => {
                sqlx::query(
                    "DELETE FROM warehouse.advertiser_figures WHERE advertiser_id = $1 AND observed_at = $2",
                )
                .bind(id)
                .bind(at)
                .execute(&mut *tx)
                .await?;
                touched.insert(id);
            }
            Write::Identity(id, at, advertiser) => {
                let was_merchant: Option<bool> = sqlx::query_scalar(
                    "SELECT is_merchant FROM warehouse.dim_advertisers WHERE advertiser_id = $1 AND valid_from = $2",
                )
                .bind(id)
                .bind(at)
                .fetch_optional(&mut *tx)
                .await?;
                write_identity(&mut tx, id, at, &advertiser).await?;
                if was_merchant.is_some_and(|was| was != advertiser.is_merchant) {
                    merchants.push(id);
                }
            }
            Write::Version(id, at, advertiser) => {
                insert_version(&mut tx, id, at, &advertiser).await?;
                touched.insert(id);
            }
            Write::Begin(id, old, at) => begin_earlier(&mut tx, id, old, at).await?,
        }
    }
    retell_figures(&mut tx, touched.into_iter().collect()).await?;
    note_merchants(&mut tx, merchants).await?;
    tx.commit().await?;
    Ok(())
}

/// Marts tell merchants from others, so books that list an ad of somebody who became one, or is none, are to
/// be made again.
async fn note_merchants(connection: &mut PgConnection, ids: Vec<i32>) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO pipeline.remakes (batch_id, market_id, noted_at)
         SELECT DISTINCT p.batch_id, p.market_id, now()
           FROM warehouse.book_pages p
          CROSS JOIN LATERAL unnest(p.offer_ids) AS l (id)
           JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
           JOIN warehouse.dim_advertisers d USING (advertiser_sk)
           JOIN pipeline.batches b ON b.batch_id = p.batch_id AND b.state = 'closed'
          WHERE d.advertiser_id = ANY ($1)
             ON CONFLICT (batch_id, market_id) DO UPDATE SET noted_at = EXCLUDED.noted_at, made_at = NULL",
    )
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_figures(
    connection: &mut PgConnection,
    id: i32,
    at: DateTime<Utc>,
    figures: &Figures,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO warehouse.advertiser_figures
                (advertiser_id, observed_at, month_order_count, completion_rate, positive_rate, release_seconds)
         VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (advertiser_id, observed_at) DO UPDATE
            SET month_order_count = EXCLUDED.month_order_count, completion_rate = EXCLUDED.completion_rate,
                positive_rate = EXCLUDED.positive_rate, release_seconds = EXCLUDED.release_seconds",
    )
    .bind(id)
    .bind(at)
    .bind(figures.month_order_count)
    .bind(figures.completion_rate)
    .bind(figures.positive_rate)
    .bind(figures.release_seconds)
    .execute(connection)
    .await?;
    Ok(())
}

/// The version that begins at `at` becomes what a worker would have made of the advertiser.
async fn write_identity(
    connection: &mut PgConnection,
    id: i32,
    at: DateTime<Utc>,
    advertiser: &Advertiser,
) -> Result<(), Error> {
    let identity = Identity::of(advertiser);
    sqlx::query(
        "UPDATE warehouse.dim_advertisers
            SET advertiser = $3, user_type = $4, is_merchant = $5, user_identity = $6, user_grade = $7,
                vip_level = $8, badges = $9, is_pro_merchant = $10, is_blocked = $11,
                merchant_group_member = $12, pro_merchant_description = $13, identity_hash = $14
          WHERE advertiser_id = $1 AND valid_from = $2",
    )
    .bind(id)
    .bind(at)
    .bind(identity.advertiser)
    .bind(identity.user_type)
    .bind(identity.is_merchant)
    .bind(identity.user_identity)
    .bind(identity.user_grade)
    .bind(identity.vip_level)
    .bind(identity.badges)
    .bind(identity.is_pro_merchant)
    .bind(identity.is_blocked)
    .bind(identity.merchant_group_member)
    .bind(identity.pro_merchant_description)
    .bind(Seen::new(advertiser, at).identity_hash)
    .execute(connection)
    .await?;
    Ok(())
}

/// A version from `at` to the end of the one in force, or to the beginning of the first. It is made as a copy
/// of its neighbour, so that what belongs to the advertiser goes with it, and told what it says after.
async fn insert_version(
    connection: &mut PgConnection,
    id: i32,
    at: DateTime<Utc>,
    advertiser: &Advertiser,
) -> Result<(), Error> {
    let in_force: Option<(i32, Option<DateTime<Utc>>, bool)> = sqlx::query_as(
        "SELECT advertiser_sk, valid_to, is_current FROM warehouse.dim_advertisers
          WHERE advertiser_id = $1 AND valid_from < $2 ORDER BY valid_from DESC LIMIT 1 FOR UPDATE",
    )
    .bind(id)
    .bind(at)
    .fetch_optional(&mut *connection)
    .await?;
    let (neighbour, valid_to, is_current) = if let Some((sk, valid_to, is_current)) = in_force {
        sqlx::query(
                "UPDATE warehouse.dim_advertisers SET valid_to = $2, is_current = false WHERE advertiser_sk = $1",
            )
            .bind(sk)
            .bind(at)
            .execute(&mut *connection)
            .await?;
        (sk, valid_to, is_current)
    } else {
        let (sk, begins): (i32, DateTime<Utc>) = sqlx::query_as(
            "SELECT advertiser_sk, valid_from FROM warehouse.dim_advertisers
                  WHERE advertiser_id = $1 ORDER BY valid_from LIMIT 1",
        )
        .bind(id)
        .fetch_one(&mut *connection)
        .await?;
        (sk, Some(begins), false)
    };
    sqlx::query(
        "INSERT INTO warehouse.dim_advertisers
                (advertiser_id, exchange_id, user_no, advertiser, is_merchant, is_pro_merchant, identity_hash,
                 valid_from, valid_to, is_current, month_order_count, completion_rate, positive_rate,
                 figures_at, release_seconds, registered_on, first_order_on)
         SELECT advertiser_id, exchange_id, user_no, advertiser, is_merchant, is_pro_merchant, identity_hash,
                $2, $3, $4, month_order_count, completion_rate, positive_rate, figures_at, release_seconds,
                registered_on, first_order_on
           FROM warehouse.dim_advertisers WHERE advertiser_sk = $1",
    )
    .bind(neighbour)
    .bind(at)
    .bind(valid_to)
    .bind(is_current)
    .execute(&mut *connection)
    .await?;
    write_identity(connection, id, at, advertiser).await
}

async fn begin_earlier(
    connection: &mut PgConnection,
    id: i32,
    old: DateTime<Utc>,
    at: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE warehouse.dim_advertisers
            SET valid_from = CASE WHEN valid_from = $2 THEN $3 ELSE valid_from END,
                valid_to = CASE WHEN valid_to = $2 THEN $3 ELSE valid_to END
          WHERE advertiser_id = $1 AND (valid_from = $2 OR valid_to = $2)",
    )
    .bind(id)
    .bind(old)
    .bind(at)
    .execute(connection)
    .await?;
    Ok(())
}

/// The versions of these advertisers tell the last figures that were in force while they were valid.
async fn retell_figures(connection: &mut PgConnection, ids: Vec<i32>) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE warehouse.dim_advertisers d
            SET month_order_count = f.month_order_count, completion_rate = f.completion_rate,
                positive_rate = f.positive_rate, release_seconds = f.release_seconds,
                figures_at = greatest(f.observed_at, d.valid_from)
           FROM warehouse.dim_advertisers v
          CROSS JOIN LATERAL (SELECT * FROM warehouse.advertiser_figures f
                               WHERE f.advertiser_id = v.advertiser_id
                                 AND (v.valid_to IS NULL OR f.observed_at < v.valid_to)
                               ORDER BY f.observed_at DESC LIMIT 1) f
          WHERE v.advertiser_id = ANY ($1) AND d.advertiser_sk = v.advertiser_sk
            AND (d.month_order_count, d.completion_rate, d.positive_rate, d.release_seconds)
                IS DISTINCT FROM (f.month_order_count, f.completion_rate, f.positive_rate, f.release_seconds)",
    )
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    fn figures(orders: i32) -> Figures {
        Figures {
            month_order_count: Some(orders),
            completion_rate: None,
            positive_rate: None,
            release_seconds: None,
        }
    }

    fn record(rows: &[(i64, i32)]) -> Record {
        let figures = rows.iter().map(|(minute, orders)| (at(*minute), figures(*orders))).collect();
        Record { id: Some(1), figures, ..Record::default() }
    }

    fn walk(record: &mut Record, read: &BTreeMap<i64, i32>, is_current: bool) -> usize {
        let writes = read.iter().map(|(minute, orders)| {
            record.correct_figures(1, at(*minute), &figures(*orders), is_current).len()
        });
        writes.sum()
    }

    proptest! {
        /// Whatever a wrong parser left at the instants of its answers: in the end there is a row where the
        /// answers begin to say something else, and nowhere else. Then nothing is left to write.
        #[test]
        fn figures_become_what_the_answers_say(
            read in proptest::collection::btree_map(0i64..30, 0i32..3, 1..20),
            stored in proptest::collection::btree_map(0i64..30, 0i32..3, 0..20),
        ) {
            let stored: Vec<(i64, i32)> =
                stored.into_iter().filter(|(minute, _)| read.contains_key(minute)).collect();
            let mut record = record(&stored);
            walk(&mut record, &read, false);
            let mut changes = BTreeMap::new();
            let mut last = None;
            for (minute, orders) in &read {
                if last != Some(orders) {
                    changes.insert(at(*minute), figures(*orders));
                }
                last = Some(orders);
            }
            prop_assert_eq!(&record.figures, &changes);
            prop_assert_eq!(walk(&mut record, &read, false), 0);
            prop_assert_eq!(walk(&mut record, &read, true), 0);
        }
    }

    /// Two answers within moments, stored in the other order: the earlier one left no row.
    #[test]
    fn what_a_race_decided_is_no_difference() {
        let mut raced = record(&[(0, 1), (6, 3)]);
        assert_eq!(walk(&mut raced, &BTreeMap::from([(0, 1), (5, 2), (6, 3)]), true), 0);
        assert_eq!(walk(&mut raced, &BTreeMap::from([(5, 2)]), false), 1);
        // A value that nobody ever told is one.
        let mut wrong = record(&[(0, 1)]);
        assert_eq!(walk(&mut wrong, &BTreeMap::from([(60, 2)]), true), 1);
    }
}
