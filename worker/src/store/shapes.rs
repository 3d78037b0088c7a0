//! How answers differ from the shapes that are known, written with the jobs that they ended.
//!
//! An ordinary answer differs in nothing and costs no statement, nor does what an operator accepted, once
//! this worker knows it.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use shared::domain::BatchId;
use shared::exchange::Exchange;
use shared::exchange::shape::{Change, Finding, Type};
use sqlx::PgConnection;

use super::{StoreError, ToStore};
use crate::alerts::Alerts;
use crate::metrics;

/// Most findings of one exchange that are kept: an answer whose names change every time must not fill
/// the disk.
const MAX_KEPT: i32 = 2_000;
/// Accepted findings that are remembered: as many as there can be.
const MAX_REMEMBERED: usize = 2_000;

/// What tells a finding from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    call: &'static str,
    path: String,
    change: Change,
    found: Option<Type>,
    value: Option<String>,
}

/// A finding as a group of answers shows it.
struct Seen {
    sample: Vec<u8>,
    batch_id: BatchId,
    first_at: DateTime<Utc>,
    last_at: DateTime<Utc>,
    answers: i64,
}

/// What a group of answers shows, and what came of writing it.
pub(super) struct Recorded {
    /// Those that are not accepted.
    open: Vec<(Key, i64)>,
    accepted: Vec<Key>,
}

#[derive(Default)]
pub(super) struct Shapes {
    accepted: HashSet<Key>,
    alerts: Alerts,
}

impl Shapes {
    /// Writes what the answers of jobs that this transaction ends differ in. Last in the transaction,
    /// for all workers meet in these few rows; in one order, so that they wait for each other in no circle.
    pub(super) async fn insert(
        &self,
        connection: &mut PgConnection,
        group: &[&ToStore],
    ) -> Result<Option<Recorded>, StoreError> {
        let seen = self.collect(group);
        let Some(exchange) = group.first().map(|one| one.job.exchange).filter(|_| !seen.is_empty())
        else {
            return Ok(None);
        };
        let states = upsert(connection, exchange, &seen).await?;
        let (mut open, mut accepted) = (Vec::new(), Vec::new());
        for ((key, seen), is_accepted) in seen.into_iter().zip(states) {
            if is_accepted {
                accepted.push(key);
            } else {
                open.push((key, seen.answers));
            }
        }
        Ok(Some(Recorded { open, accepted }))
    }

    fn collect(&self, group: &[&ToStore]) -> BTreeMap<Key, Seen> {
        let mut all: BTreeMap<Key, Seen> = BTreeMap::new();
        for one in group {
            for finding in &one.ending.findings {
                let key = Key::new(one.job.work.kind(), finding);
                if self.accepted.contains(&key) {
                    continue;
                }
                let at = one.ending.requests.fetched_at.unwrap_or_default();
                let seen = all.entry(key).or_insert_with(|| Seen {
                    sample: finding.sample.clone(),
                    batch_id: one.job.batch_id,
                    first_at: at,
                    last_at: at,
                    answers: 0,
                });
                seen.answers += 1;
                seen.batch_id = seen.batch_id.max(one.job.batch_id);
                seen.first_at = seen.first_at.min(at);
                seen.last_at = seen.last_at.max(at);
            }
        }
        all
    }

    /// Counts and alerts. To be called only after the commit.
    pub(super) fn learn(&mut self, recorded: Recorded) {
        for (key, answers) in recorded.open {
            let Key { call, path, change, found, value } = &key;
            for _ in 0..answers {
                metrics::shape_changed(call, *change);
            }
            if self.alerts.is_first(&format!("{key:?}")) {
                let (change, found) = (change.as_str(), found.map(Type::as_str));
                tracing::error!(
                    call,
                    path,
                    change,
                    found,
                    value,
                    "answers differ from the known shape: see p2p shapes"
                );
            }
        }
        if self.accepted.len() < MAX_REMEMBERED {
            self.accepted.extend(recorded.accepted);
        }
    }
}

impl Key {
    fn new(call: &'static str, finding: &Finding) -> Self {
        let Finding { path, change, found, value, .. } = finding;
        Self { call, path: path.clone(), change: *change, found: *found, value: value.clone() }
    }

    fn found(&self) -> &'static str {
        self.found.map_or("", Type::as_str)
    }

    fn value(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }
}

/// Whether each is accepted. One beyond the most that are kept is not written, and so not accepted.
async fn upsert(
    connection: &mut PgConnection,
    exchange: Exchange,
    seen: &BTreeMap<Key, Seen>,
) -> Result<Vec<bool>, StoreError> {
    let keys = || seen.keys();
    let accepted: Vec<(String, String, String, String, String)> = sqlx::query_as(
        // Those that are there are updated and not inserted, as each try to insert uses up a number of the key. In order,
        // so that two workers don't wait for each other.
        "WITH found AS (
         SELECT *
           FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::int[],
                       $9::timestamptz[], $10::timestamptz[], $11::bigint[])
                WITH ORDINALITY AS f (call, path, change, type, value, sample, batch_id, first_at, last_at,
                                      answers, n)
         ), known AS (
         SELECT k.finding_id, f.batch_id, f.last_at, f.answers, f.n
           FROM found f
           JOIN pipeline.api_shapes k ON k.exchange_id = $1 AND k.call = f.call AND k.path = f.path
                AND k.change = f.change AND k.type = f.type AND k.value = f.value
          ORDER BY f.n FOR NO KEY UPDATE OF k
         ), updated AS (
         UPDATE pipeline.api_shapes s
            SET last_batch_id = greatest(s.last_batch_id, k.batch_id),
                last_seen_at = greatest(s.last_seen_at, k.last_at),
                answers = s.answers + k.answers
           FROM known k
          WHERE s.finding_id = k.finding_id
      RETURNING s.call, s.path, s.change, s.type, s.value, s.state
         ), inserted AS (
         INSERT INTO pipeline.api_shapes AS s
                (exchange_id, call, path, change, type, value, sample, first_batch_id, first_seen_at,
                 last_batch_id, last_seen_at, answers)
         SELECT $1, f.call, f.path, f.change, f.type, f.value, f.sample, f.batch_id, f.first_at, f.batch_id,
                f.last_at, f.answers
           FROM (SELECT *, row_number() OVER (ORDER BY n) AS new FROM found
                  WHERE n NOT IN (SELECT n FROM known)) f
          WHERE (SELECT count(*) FROM pipeline.api_shapes k WHERE k.exchange_id = $1) + f.new <= $12
          ORDER BY f.n
             ON CONFLICT (exchange_id, call, path, change, type, value) DO UPDATE
            SET last_batch_id = greatest(s.last_batch_id, excluded.last_batch_id),
                last_seen_at = greatest(s.last_seen_at, excluded.last_seen_at),
                answers = s.answers + excluded.answers
      RETURNING call, path, change, type, value, state)
         SELECT call, path, change, type, value FROM (TABLE updated UNION ALL TABLE inserted) written
          WHERE state = 'accepted'",
    )
    .bind(exchange.id())
    .bind(keys().map(|key| key.call).collect::<Vec<_>>())
    .bind(keys().map(|key| key.path.as_str()).collect::<Vec<_>>())
    .bind(keys().map(|key| key.change.as_str()).collect::<Vec<_>>())
    .bind(keys().map(Key::found).collect::<Vec<_>>())
    .bind(keys().map(Key::value).collect::<Vec<_>>())
    .bind(seen.values().map(|seen| seen.sample.as_slice()).collect::<Vec<_>>())
    .bind(seen.values().map(|seen| seen.batch_id.raw()).collect::<Vec<_>>())
    .bind(seen.values().map(|seen| seen.first_at).collect::<Vec<_>>())
    .bind(seen.values().map(|seen| seen.last_at).collect::<Vec<_>>())
    .bind(seen.values().map(|seen| seen.answers).collect::<Vec<_>>())
    .bind(MAX_KEPT)
    .fetch_all(connection)
    .await?;
    let accepted: HashSet<_> = accepted.into_iter().collect();
    let is_accepted = |key: &Key| {
        let (call, path, change) = (key.call.to_owned(), key.path.clone(), key.change.as_str());
        let (found, value) = (key.found().to_owned(), key.value().to_owned());
        accepted.contains(&(call, path, change.to_owned(), found, value))
    };
    Ok(keys().map(is_accepted).collect())
}
