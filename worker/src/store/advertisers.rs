//! Advertisers: versions of identity (SCD2), and their figures, each written only on change.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use hashlink::LruCache;
use rust_decimal::Decimal;
use shared::domain::Advertiser;
use shared::exchange::Exchange;
use sqlx::{Connection, PgConnection};
use xxhash_rust::xxh3::xxh3_128;

use super::StoreError;
use super::versions::Hasher;

/// Advertisers remembered: a third more than the whole market of 2026 has, about 90 bytes each.
const CACHED_ADVERTISERS: usize = 20_000;
/// Tries when another worker changes the same advertisers at the same instant.
const MAX_RACES: usize = 5;

/// The fast-moving figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Figures {
    pub(crate) month_order_count: Option<i32>,
    pub(crate) completion_rate: Option<Decimal>,
    pub(crate) positive_rate: Option<Decimal>,
    pub(crate) release_seconds: Option<i32>,
}

impl Figures {
    pub(crate) fn of(advertiser: &Advertiser) -> Self {
        Self {
            month_order_count: advertiser.month_order_count,
            completion_rate: advertiser.completion_rate,
            positive_rate: advertiser.positive_rate,
            release_seconds: advertiser.release_seconds,
        }
    }

    fn hash(&self) -> i64 {
        let mut hasher = Hasher::default();
        hasher.number(self.month_order_count);
        hasher.decimal(self.completion_rate);
        hasher.decimal(self.positive_rate);
        hasher.number(self.release_seconds);
        hasher.finish()
    }
}

/// The `userNo` of an advertiser as a key, of so many bits that no two share one.
fn advertiser_key(user_no: &str) -> u128 {
    xxh3_128(user_no.as_bytes())
}

/// What is remembered of an advertiser: no more than tells whether anything changed.
#[derive(Clone, Copy)]
struct Known {
    advertiser_sk: i32,
    identity_hash: i64,
    figures_hash: i64,
    /// An earlier sighting than this is worth telling: pages are not stored in the order of their answers.
    since: DateTime<Utc>,
}

/// An advertiser as answers of a group showed it.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    advertiser: &'a Advertiser,
    pub(crate) identity_hash: i64,
    figures: Figures,
    /// The latest sighting, and the first one that was the same.
    at: DateTime<Utc>,
    first_at: DateTime<Utc>,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(advertiser: &'a Advertiser, at: DateTime<Utc>) -> Self {
        let figures = Figures::of(advertiser);
        Self { advertiser, identity_hash: identity_hash(advertiser), figures, at, first_at: at }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.identity_hash == other.identity_hash && self.figures == other.figures
    }

    /// When this began, if something else was there until `other`.
    fn begun_after(&self, other: DateTime<Utc>) -> DateTime<Utc> {
        if self.first_at > other { self.first_at } else { self.at }
    }
}

fn identity_hash(advertiser: &Advertiser) -> i64 {
    let mut hasher = Hasher::default();
    hasher.text(Some(&advertiser.nickname));
    hasher.text(advertiser.user_type.as_deref());
    hasher.text(advertiser.user_identity.as_deref());
    hasher.number(advertiser.user_grade);
    hasher.number(advertiser.vip_level);
    hasher.number(advertiser.badges.as_ref().map(Vec::len));
    for badge in advertiser.badges.iter().flatten() {
        hasher.text(Some(badge));
    }
    hasher.flag(Some(advertiser.is_pro_merchant));
    hasher.flag(advertiser.is_blocked);
    hasher.flag(advertiser.merchant_group_member);
    // Only if there is one: what was stored before it was read must not look like another identity.
    if let Some(description) = &advertiser.pro_merchant_description {
        hasher.text(Some(description));
    }
    hasher.finish()
}

/// The current version of an advertiser in the database.
#[derive(sqlx::FromRow)]
struct Current {
    user_no: String,
    advertiser_id: i32,
    advertiser_sk: i32,
    identity_hash: i64,
    valid_from: DateTime<Utc>,
    month_order_count: Option<i32>,
    completion_rate: Option<Decimal>,
    positive_rate: Option<Decimal>,
    release_seconds: Option<i32>,
    figures_at: DateTime<Utc>,
}

pub(crate) struct Advertisers {
    /// By [`advertiser_key`]. What is forgotten leaves its place to what comes: the places of a cache that frees them lie
    /// scattered among what groups need for a moment once all of it has been replaced, which takes some 40 batches.
    known: LruCache<u128, Known>,
    /// The version of each advertiser of the group that is being stored, by [`advertiser_key`].
    resolved: HashMap<u128, i32>,
}

impl Advertisers {
    pub(super) fn new() -> Self {
        Self { known: LruCache::new(CACHED_ADVERTISERS), resolved: HashMap::new() }
    }

    /// Makes sure that all advertisers seen have a version with their identity, and that their
    /// figures are recorded.
    pub(super) async fn resolve(
        &mut self,
        connection: &mut PgConnection,
        exchange: Exchange,
        seen: Vec<(&Advertiser, DateTime<Utc>)>,
    ) -> Result<(), StoreError> {
        self.resolved.clear();
        self.forget_closed(connection, &seen).await?;
        let mut changed: BTreeMap<&str, Seen<'_>> = BTreeMap::new();
        for (advertiser, at) in seen {
            let seen = Seen::new(advertiser, at);
            let user_no = advertiser.user_no.as_str();
            let key = advertiser_key(user_no);
            match self.known.get(&key) {
                Some(known)
                    if known.identity_hash == seen.identity_hash
                        && known.figures_hash == seen.figures.hash()
                        && known.since <= at =>
                {
                    self.resolved.insert(key, known.advertiser_sk);
                }
                _ => {
                    // Of several sightings in one group the latest tells.
                    let latest = changed.entry(user_no).or_insert(seen);
                    if latest.is_same(&seen) {
                        latest.first_at = latest.first_at.min(at);
                        latest.at = latest.at.max(at);
                    } else if latest.at < at {
                        *latest = seen;
                    }
                }
            }
        }
        let mut left: Vec<Seen<'_>> = changed.into_values().collect();
        for _ in 0..MAX_RACES {
            if left.is_empty() {
                return Ok(());
            }
            let done = write(connection, exchange, &left).await?;
            left.retain(|seen| match done.get(&seen.advertiser.user_no) {
                None => true,
                Some(&advertiser_sk) => {
                    let known = Known {
                        advertiser_sk,
                        identity_hash: seen.identity_hash,
                        figures_hash: seen.figures.hash(),
                        since: seen.first_at,
                    };
                    let key = advertiser_key(&seen.advertiser.user_no);
                    self.known.insert(key, known);
                    self.resolved.insert(key, advertiser_sk);
                    false
                }
            });
        }
        // Passing, so that the group is tried again.
        if left.is_empty() { Ok(()) } else { Err(sqlx::Error::PoolTimedOut.into()) }
    }

    /// Forgets what is known of advertisers of whom another worker has opened a new version: an identity
    /// that comes back would otherwise be taken for the version that was closed.
    async fn forget_closed(
        &mut self,
        connection: &mut PgConnection,
        seen: &[(&Advertiser, DateTime<Utc>)],
    ) -> Result<(), StoreError> {
        let known = |(advertiser, _): &(&Advertiser, DateTime<Utc>)| {
            let key = advertiser_key(&advertiser.user_no);
            self.known.peek(&key).map(|known| known.advertiser_sk)
        };
        let versions: BTreeSet<i32> = seen.iter().filter_map(known).collect();
        if versions.is_empty() {
            return Ok(());
        }
        let closed: Vec<String> = sqlx::query_scalar(
            "SELECT user_no FROM warehouse.dim_advertisers WHERE advertiser_sk = ANY ($1) AND NOT is_current",
        )
        .bind(versions.into_iter().collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
        for user_no in closed {
            self.known.remove(&advertiser_key(&user_no));
        }
        Ok(())
    }

    /// The version of an advertiser that was resolved for this group.
    pub(super) fn sk(&self, advertiser: &Advertiser) -> Option<i32> {
        self.resolved.get(&advertiser_key(&advertiser.user_no)).copied()
    }
}

/// Writes what changed; gives the version of each advertiser, without those that another worker
/// changed at the same instant. `seen` ascending by `user_no` and each once.
async fn write(
    connection: &mut PgConnection,
    exchange: Exchange,
    seen: &[Seen<'_>],
) -> Result<HashMap<String, i32>, StoreError> {
    let mut tx = connection.begin().await?;
    let mut versions = HashMap::new();
    let currents = lock_current(&mut tx, exchange, seen).await?;
    // Only who is not there: an insert that meets a row uses up a number all the same, and numbers are
    // bounded. Whom another worker inserts meanwhile is left out, and looked at again.
    let is_new = |seen: &&Seen<'_>| !currents.contains_key(&seen.advertiser.user_no);
    let new: Vec<Seen<'_>> = seen.iter().filter(is_new).copied().collect();
    for (user_no, advertiser_sk) in insert_versions(&mut tx, exchange, &new, None).await? {
        versions.insert(user_no, advertiser_sk);
    }
    let (mut renamed, mut renamed_ids, mut moved) = (Vec::new(), Vec::new(), Vec::new());
    let (mut earlier_versions, mut earlier_figures) = (Vec::new(), Vec::new());
    for seen in seen {
        let Some(current) = currents.get(&seen.advertiser.user_no) else {
            continue;
        };
        if current.identity_hash == seen.identity_hash {
            versions.insert(seen.advertiser.user_no.clone(), current.advertiser_sk);
            if seen.first_at < current.valid_from {
                earlier_versions.push((current.advertiser_sk, seen.first_at));
            }
        } else if seen.at > current.valid_from {
            renamed.push(Seen { first_at: seen.begun_after(current.valid_from), ..*seen });
            renamed_ids.push(current.advertiser_id);
        } else {
            // An older sighting than the current version: it belongs to the one before.
            let older = version_at(&mut tx, current.advertiser_id, seen.at).await?;
            versions
                .insert(seen.advertiser.user_no.clone(), older.unwrap_or(current.advertiser_sk));
        }
        let told = Figures {
            month_order_count: current.month_order_count,
            completion_rate: current.completion_rate,
            positive_rate: current.positive_rate,
            release_seconds: current.release_seconds,
        };
        if told == seen.figures && seen.first_at < current.figures_at {
            earlier_figures.push((current.advertiser_id, current.figures_at, seen.first_at));
        } else if told != seen.figures && seen.at > current.figures_at {
            let seen = Seen { first_at: seen.begun_after(current.figures_at), ..*seen };
            moved.push((current.advertiser_id, seen));
        }
    }
    begin_versions_earlier(&mut tx, &earlier_versions).await?;
    begin_figures_earlier(&mut tx, &earlier_figures).await?;
    close_versions(&mut tx, &renamed_ids, &renamed).await?;
    versions.extend(insert_versions(&mut tx, exchange, &renamed, Some(&renamed_ids)).await?);
    write_figures(&mut tx, &moved).await?;
    tx.commit().await?;
    Ok(versions)
}

/// Inserts versions as current: the first of new advertisers, or the next of `ids`.
pub(crate) async fn insert_versions(
    connection: &mut PgConnection,
    exchange: Exchange,
    seen: &[Seen<'_>],
    ids: Option<&[i32]>,
) -> Result<Vec<(String, i32)>, StoreError> {
    if seen.is_empty() {
        return Ok(Vec::new());
    }
    let who = || seen.iter().map(|seen| seen.advertiser);
    // A list in a list has no plain array type, so badges travel as JSON.
    let badges = |a: &Advertiser| a.badges.as_ref().map(|badges| serde_json::json!(badges));
    let rows: Vec<(String, i32, i32)> = sqlx::query_as(
        "INSERT INTO warehouse.dim_advertisers
                (advertiser_id, exchange_id, user_no, advertiser, user_type, is_merchant, user_identity,
                 user_grade, vip_level, badges, is_pro_merchant, is_blocked, merchant_group_member,
                 identity_hash, valid_from, is_current, month_order_count, completion_rate,
                 positive_rate, figures_at, pro_merchant_description, release_seconds, registered_on,
                 first_order_on)
         SELECT coalesce(a.id, nextval('warehouse.advertiser_ids')::int), $1, a.user_no, a.nickname,
                a.user_type, a.is_merchant, a.user_identity, a.user_grade, a.vip_level,
                CASE WHEN a.badges IS NOT NULL
                     THEN ARRAY(SELECT jsonb_array_elements_text(a.badges)) END,
                a.is_pro_merchant, a.is_blocked, a.merchant_group_member, a.identity_hash, a.at, true,
                a.month_order_count, a.completion_rate, a.positive_rate, a.at,
                a.pro_merchant_description, a.release_seconds, o.registered_on, o.first_order_on
           FROM unnest($2::int[], $3::text[], $4::text[], $5::text[], $6::bool[], $7::text[],
                       $8::smallint[], $9::smallint[], $10::jsonb[], $11::bool[], $12::bool[], $13::bool[],
                       $14::bigint[], $15::timestamptz[], $16::int[], $17::numeric[], $18::numeric[],
                       $19::text[], $20::int[])
             AS a (id, user_no, nickname, user_type, is_merchant, user_identity, user_grade, vip_level,
                   badges, is_pro_merchant, is_blocked, merchant_group_member, identity_hash, at,
                   month_order_count, completion_rate, positive_rate, pro_merchant_description,
                   release_seconds)
           LEFT JOIN LATERAL (SELECT d.registered_on, d.first_order_on FROM warehouse.dim_advertisers d
                               WHERE d.advertiser_id = a.id ORDER BY d.valid_from DESC LIMIT 1) o ON true
             ON CONFLICT (exchange_id, user_no) WHERE is_current DO NOTHING
      RETURNING user_no, advertiser_sk, advertiser_id",
    )
    .bind(exchange.id())
    .bind(match ids {
        Some(ids) => ids.iter().copied().map(Some).collect(),
        None => vec![None; seen.len()],
    })
    .bind(who().map(|a| a.user_no.as_str()).collect::<Vec<_>>())
    .bind(who().map(|a| a.nickname.as_str()).collect::<Vec<_>>())
    .bind(who().map(|a| a.user_type.as_deref()).collect::<Vec<_>>())
    .bind(who().map(|a| a.is_merchant).collect::<Vec<_>>())
    .bind(who().map(|a| a.user_identity.as_deref()).collect::<Vec<_>>())
    .bind(who().map(|a| a.user_grade).collect::<Vec<_>>())
    .bind(who().map(|a| a.vip_level).collect::<Vec<_>>())
    .bind(who().map(badges).collect::<Vec<_>>())
    .bind(who().map(|a| a.is_pro_merchant).collect::<Vec<_>>())
    .bind(who().map(|a| a.is_blocked).collect::<Vec<_>>())
    .bind(who().map(|a| a.merchant_group_member).collect::<Vec<_>>())
    .bind(seen.iter().map(|seen| seen.identity_hash).collect::<Vec<_>>())
    .bind(seen.iter().map(|seen| seen.first_at).collect::<Vec<_>>())
    .bind(who().map(|a| a.month_order_count).collect::<Vec<_>>())
    .bind(who().map(|a| a.completion_rate).collect::<Vec<_>>())
    .bind(who().map(|a| a.positive_rate).collect::<Vec<_>>())
    .bind(who().map(|a| a.pro_merchant_description.as_deref()).collect::<Vec<_>>())
    .bind(who().map(|a| a.release_seconds).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    if ids.is_none() {
        // The figures of a new advertiser begin with its first sighting.
        let new: HashMap<&str, i32> =
            rows.iter().map(|(user_no, _, id)| (user_no.as_str(), *id)).collect();
        let first =
            seen.iter().filter_map(|s| Some((*new.get(s.advertiser.user_no.as_str())?, *s)));
        insert_figures(connection, &first.collect::<Vec<_>>()).await?;
    }
    Ok(rows.into_iter().map(|(user_no, advertiser_sk, _)| (user_no, advertiser_sk)).collect())
}

/// Locks the current versions in one order, so that writers never wait for each other in a circle. Each by
/// its key: of a list the planner may read all advertisers, as long as it knows of few.
async fn lock_current(
    connection: &mut PgConnection,
    exchange: Exchange,
    seen: &[Seen<'_>],
) -> Result<HashMap<String, Current>, StoreError> {
    let rows: Vec<Current> = sqlx::query_as(
        "SELECT d.*
           FROM unnest($2::text[]) AS s (user_no)
          CROSS JOIN LATERAL (
                SELECT user_no, advertiser_id, advertiser_sk, identity_hash, valid_from, month_order_count,
                       completion_rate, positive_rate, release_seconds, figures_at
                  FROM warehouse.dim_advertisers
                 WHERE exchange_id = $1 AND user_no = s.user_no AND is_current
                   FOR UPDATE) d",
    )
    .bind(exchange.id())
    .bind(seen.iter().map(|seen| seen.advertiser.user_no.as_str()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.user_no.clone(), row)).collect())
}

async fn version_at(
    connection: &mut PgConnection,
    advertiser_id: i32,
    at: DateTime<Utc>,
) -> Result<Option<i32>, StoreError> {
    let version = sqlx::query_scalar(
        "SELECT advertiser_sk FROM warehouse.dim_advertisers
          WHERE advertiser_id = $1 AND valid_from <= $2 ORDER BY valid_from DESC LIMIT 1",
    );
    Ok(version.bind(advertiser_id).bind(at).fetch_optional(connection).await?)
}

async fn close_versions(
    connection: &mut PgConnection,
    ids: &[i32],
    seen: &[Seen<'_>],
) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE warehouse.dim_advertisers d SET is_current = false, valid_to = c.at
           FROM unnest($1::int[], $2::timestamptz[]) AS c (id, at)
          WHERE d.advertiser_id = c.id AND d.is_current",
    )
    .bind(ids)
    .bind(seen.iter().map(|seen| seen.first_at).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Versions that an answer showed before the one that they were recorded by, unless another was valid then.
async fn begin_versions_earlier(
    connection: &mut PgConnection,
    earlier: &[(i32, DateTime<Utc>)],
) -> Result<(), StoreError> {
    if earlier.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH begun AS (
             UPDATE warehouse.dim_advertisers d SET valid_from = e.at
               FROM unnest($1::int[], $2::timestamptz[]) AS e (sk, at),
                    warehouse.dim_advertisers was
              WHERE d.advertiser_sk = e.sk AND was.advertiser_sk = e.sk AND d.valid_from > e.at
                AND NOT EXISTS (SELECT FROM warehouse.dim_advertisers o
                                 WHERE o.advertiser_id = d.advertiser_id AND o.advertiser_sk <> d.advertiser_sk
                                   AND o.valid_from >= e.at)
          RETURNING d.advertiser_id, was.valid_from AS old, e.at)
         UPDATE warehouse.dim_advertisers d SET valid_to = b.at
           FROM begun b WHERE d.advertiser_id = b.advertiser_id AND d.valid_to = b.old",
    )
    .bind(earlier.iter().map(|(sk, _)| *sk).collect::<Vec<_>>())
    .bind(earlier.iter().map(|(_, at)| *at).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Figures, by advertiser and the time they were recorded for, that an answer showed before, unless others
/// were seen in between.
async fn begin_figures_earlier(
    connection: &mut PgConnection,
    earlier: &[(i32, DateTime<Utc>, DateTime<Utc>)],
) -> Result<(), StoreError> {
    if earlier.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH begun AS (
             UPDATE warehouse.advertiser_figures f SET observed_at = e.at
               FROM unnest($1::int[], $2::timestamptz[], $3::timestamptz[]) AS e (id, old, at)
              WHERE f.advertiser_id = e.id AND f.observed_at = e.old
                AND NOT EXISTS (SELECT FROM warehouse.advertiser_figures o
                                 WHERE o.advertiser_id = e.id AND o.observed_at >= e.at AND o.observed_at < e.old)
          RETURNING f.advertiser_id, e.old, e.at)
         UPDATE warehouse.dim_advertisers d SET figures_at = b.at
           FROM begun b WHERE d.advertiser_id = b.advertiser_id AND d.is_current AND d.figures_at = b.old",
    )
    .bind(earlier.iter().map(|(id, _, _)| *id).collect::<Vec<_>>())
    .bind(earlier.iter().map(|(_, old, _)| *old).collect::<Vec<_>>())
    .bind(earlier.iter().map(|(_, _, at)| *at).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// New figures: into the history and onto the current version.
async fn write_figures(
    connection: &mut PgConnection,
    moved: &[(i32, Seen<'_>)],
) -> Result<(), StoreError> {
    if moved.is_empty() {
        return Ok(());
    }
    insert_figures(connection, moved).await?;
    sqlx::query(
        "UPDATE warehouse.dim_advertisers d
            SET month_order_count = f.month_order_count, completion_rate = f.completion_rate,
                positive_rate = f.positive_rate, release_seconds = f.release_seconds, figures_at = f.at
           FROM unnest($1::int[], $2::timestamptz[], $3::int[], $4::numeric[], $5::numeric[], $6::int[])
             AS f (id, at, month_order_count, completion_rate, positive_rate, release_seconds)
          WHERE d.advertiser_id = f.id AND d.is_current",
    )
    .bind(moved.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, seen)| seen.first_at).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, seen)| seen.figures.month_order_count).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, seen)| seen.figures.completion_rate).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, seen)| seen.figures.positive_rate).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, seen)| seen.figures.release_seconds).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_figures(
    connection: &mut PgConnection,
    moved: &[(i32, Seen<'_>)],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO warehouse.advertiser_figures
                (advertiser_id, observed_at, month_order_count, completion_rate, positive_rate,
                 release_seconds)
         SELECT * FROM unnest($1::int[], $2::timestamptz[], $3::int[], $4::numeric[], $5::numeric[], $6::int[])
             ON CONFLICT DO NOTHING",
    )
    .bind(moved.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, seen)| seen.first_at).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, seen)| seen.figures.month_order_count).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, seen)| seen.figures.completion_rate).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, seen)| seen.figures.positive_rate).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, seen)| seen.figures.release_seconds).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
