//! The raw archive: the answer that ended each job, stored with its end.
//!
//! An answer is archived unless the archive is suspended, which the leader decides and records
//! (`pipeline.raw_suspensions`), or its day was dropped already. A write that the database refuses stops
//! the group, as any other: facts whose bytes are lost could never be read again.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use shared::archive::{ArchiveError, Dictionary, Lengths, Packer, Transcript, unpack};
use shared::domain::BatchId;
use shared::exchange::Exchange;
use shared::exchange::binance::PARSER_VERSION;
use shared::job::Work;
use sqlx::PgConnection;

use super::{JobKey, StoreError, ToStore};
use crate::client::{self, Answer};
use crate::handler::Facts;
use crate::metrics::{self, Archived};

/// An answer as it waits for the transaction of its job: packed, in a tenth of its room, if it is to be archived.
#[derive(Debug)]
pub struct RawAnswer {
    status: u16,
    /// When its last byte had arrived.
    fetched_at: DateTime<Utc>,
    lengths: Lengths,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Packed {
        frame: Vec<u8>,
        dictionary: Option<Arc<Dictionary>>,
    },
    /// The archive is suspended, or it can't be packed. It is kept for the quarantine, should the database refuse its page.
    Whole(Transcript),
}

impl RawAnswer {
    /// Bytes of request, headers and body.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.lengths.total()
    }

    /// The body of the answer.
    pub(super) fn body(&self) -> Result<Cow<'_, [u8]>, ArchiveError> {
        Ok(match &self.bytes {
            Bytes::Whole(transcript) => Cow::Borrowed(&transcript.body),
            Bytes::Packed { frame, dictionary } => {
                Cow::Owned(unpack(frame, self.lengths, dictionary.as_deref())?.body)
            }
        })
    }

    /// Its frame as this packer makes it. One that was made with another dictionary is packed again: when nothing in the
    /// archive needs a dictionary that was replaced, it is deleted.
    fn frame_of(&self, packer: &Packer, work: &Work) -> Result<Cow<'_, [u8]>, Archived> {
        let id = |dictionary: &Arc<Dictionary>| dictionary.id();
        let made = match &self.bytes {
            Bytes::Packed { frame, dictionary }
                if dictionary.as_ref().map(id) == packer.dictionary().map(id) =>
            {
                return Ok(Cow::Borrowed(frame));
            }
            Bytes::Packed { frame, dictionary } => {
                unpack(frame, self.lengths, dictionary.as_deref())
                    .and_then(|transcript| packer.pack(&transcript))
            }
            // The archive may have been resumed since.
            Bytes::Whole(transcript) => packer.pack(transcript),
        };
        made.map(Cow::Owned).map_err(|error| {
            tracing::error!(%error, ?work, "an answer can't be packed, it is not archived");
            Archived::Unpackable
        })
    }
}

/// What workers must know of the archive; one for all tasks of a worker.
#[derive(Clone, Debug)]
pub struct Archive(Arc<Mutex<State>>);

#[derive(Clone, Debug)]
struct State {
    is_suspended: bool,
    /// With the newest dictionary; without, until one was trained.
    packer: Arc<Packer>,
}

impl Archive {
    /// As long as it was not refreshed: not suspended, without a dictionary.
    pub fn new() -> Result<Self, ArchiveError> {
        let packer = Arc::new(Packer::new(None)?);
        Ok(Self(Arc::new(Mutex::new(State { is_suspended: false, packer }))))
    }

    /// Learns whether the archive is suspended, and of a new dictionary.
    pub async fn refresh(
        &self,
        connection: &mut PgConnection,
        exchange: Exchange,
    ) -> Result<(), StoreError> {
        let (is_suspended, newest): (bool, Option<i32>) = sqlx::query_as(
            "SELECT EXISTS (SELECT FROM pipeline.raw_suspensions WHERE exchange_id = $1 AND to_at IS NULL),
                    (SELECT dictionary_id FROM pipeline.raw_dictionaries WHERE exchange_id = $1
                      ORDER BY trained_at DESC, dictionary_id LIMIT 1)",
        )
        .bind(exchange.id())
        .fetch_one(&mut *connection)
        .await?;
        let known = self.state().packer;
        let packer = match newest {
            Some(id) if known.dictionary().is_none_or(|known| known.id() != id) => {
                let dictionary = Dictionary::load(connection, id).await.map(Arc::new);
                match dictionary.and_then(|dictionary| Packer::new(Some(dictionary))) {
                    Ok(packer) => Arc::new(packer),
                    Err(error) => {
                        tracing::error!(%error, id, "a dictionary can't be used, packing without it");
                        known
                    }
                }
            }
            _ => known,
        };
        let was_suspended = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *state, State { is_suspended, packer }).is_suspended
        };
        if was_suspended != is_suspended {
            tracing::warn!(is_suspended, "the raw archive was suspended or resumed");
        }
        Ok(())
    }

    fn state(&self) -> State {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Packs an answer for the time that it waits; the buffer of its body is free for the next one. Not for nothing: while
    /// the archive is suspended it waits as it came.
    #[must_use]
    pub fn pack(&self, work: &Work, answer: Answer) -> RawAnswer {
        let Answer { status, transcript, fetched_at } = answer;
        let lengths = transcript.lengths();
        let State { is_suspended, packer } = self.state();
        if is_suspended {
            return RawAnswer { status, fetched_at, lengths, bytes: Bytes::Whole(transcript) };
        }
        let bytes = match packer.pack(&transcript) {
            Ok(frame) => {
                client::give_back(transcript.body);
                Bytes::Packed { frame, dictionary: packer.dictionary().cloned() }
            }
            Err(error) => {
                tracing::debug!(%error, ?work, "an answer can't be packed");
                Bytes::Whole(transcript)
            }
        };
        RawAnswer { status, fetched_at, lengths, bytes }
    }

    /// The answers of a group as rows; those that nothing keeps are counted by [`Rows::measure`] only.
    pub(super) fn rows<'a>(&self, group: &[&'a ToStore]) -> Rows<'a> {
        let State { is_suspended, packer } = self.state();
        let answers = group.iter().filter_map(|one| Some((*one, one.ending.answer.as_ref()?)));
        let row = |(one, answer): (&'a ToStore, &'a RawAnswer)| {
            let content = if is_suspended {
                Err(Archived::Suspended)
            } else {
                answer.frame_of(&packer, &one.job.work)
            };
            Row { one, answer, content }
        };
        let dictionary_id = packer.dictionary().map(|dictionary| dictionary.id());
        Rows { rows: answers.map(row).collect(), dictionary_id }
    }
}

/// Answers ready to be stored.
pub(super) struct Rows<'a> {
    rows: Vec<Row<'a>>,
    /// What all frames were packed with.
    dictionary_id: Option<i32>,
}

struct Row<'a> {
    one: &'a ToStore,
    answer: &'a RawAnswer,
    /// Its frame, or why it is not archived.
    content: Result<Cow<'a, [u8]>, Archived>,
}

impl<'a> Rows<'a> {
    /// Inserts the answers of the jobs that this transaction ended. An earlier issue of a job may have
    /// left its answer, which gives way.
    pub(super) async fn insert(
        &mut self,
        connection: &mut PgConnection,
        egress_id: &str,
        ended: impl Fn(JobKey) -> bool,
    ) -> Result<(), StoreError> {
        self.rows.retain(|row| ended(row.one.key()));
        let kept: Vec<(&Row<'a>, &[u8])> =
            self.rows.iter().filter_map(|row| Some((row, row.content.as_deref().ok()?))).collect();
        if kept.is_empty() {
            return Ok(());
        }
        let column = |value: fn(&Row<'a>) -> i32| kept.iter().map(|(row, _)| value(row)).collect();
        let (batches, ordinals): (Vec<i32>, Vec<i32>) = (
            column(|row| row.one.job.batch_id.raw()),
            column(|row| row.one.job.ordinal.cast_signed()),
        );
        let [statuses, requests, headers, bodies, ads]: [Vec<i32>; 5] = [
            column(|row| i32::from(row.answer.status)),
            column(|row| length(row.answer.lengths.request)),
            column(|row| length(row.answer.lengths.headers)),
            column(|row| length(row.answer.lengths.body)),
            column(|row| ads(&row.one.ending.facts)),
        ];
        // The day of a late page may have been dropped, or be going.
        let stored: Vec<(i32, i32)> = sqlx::query_as(
            "INSERT INTO pipeline.raw_pages AS r
                    (day, batch_id, ordinal, fetched_at, http_status, parser_version, dictionary_id,
                     request_bytes, headers_bytes, body_bytes, ads, egress_id, content)
             SELECT a.day, a.batch_id, a.ordinal, a.fetched_at, a.http_status, $11, $12,
                    a.request_bytes, a.headers_bytes, a.body_bytes, a.ads, $13, a.content
               FROM unnest($1::date[], $2::int[], $3::int[], $4::timestamptz[], $5::int[], $6::int[], $7::int[],
                           $8::int[], $9::int[], $10::bytea[])
                 AS a (day, batch_id, ordinal, fetched_at, http_status, request_bytes, headers_bytes,
                       body_bytes, ads, content)
              WHERE EXISTS (SELECT FROM pg_inherits i
                             WHERE i.inhparent = 'pipeline.raw_pages'::regclass AND NOT i.inhdetachpending
                               AND i.inhrelid = to_regclass('pipeline.raw_pages_' || to_char(a.day, 'YYYYMMDD')))
                 ON CONFLICT (day, batch_id, ordinal) DO UPDATE
                SET fetched_at = EXCLUDED.fetched_at, http_status = EXCLUDED.http_status,
                    parser_version = EXCLUDED.parser_version, dictionary_id = EXCLUDED.dictionary_id,
                    request_bytes = EXCLUDED.request_bytes, headers_bytes = EXCLUDED.headers_bytes,
                    body_bytes = EXCLUDED.body_bytes, ads = EXCLUDED.ads, egress_id = EXCLUDED.egress_id,
                    content = EXCLUDED.content
             RETURNING r.batch_id, r.ordinal",
        )
        .bind(kept.iter().map(|(row, _)| row.one.job.batch_id.day()).collect::<Vec<_>>())
        .bind(batches)
        .bind(ordinals)
        .bind(kept.iter().map(|(row, _)| row.answer.fetched_at).collect::<Vec<_>>())
        .bind(statuses)
        .bind(requests)
        .bind(headers)
        .bind(bodies)
        .bind(ads)
        .bind(kept.iter().map(|(_, content)| *content).collect::<Vec<_>>())
        .bind(PARSER_VERSION)
        .bind(self.dictionary_id)
        .bind(egress_id)
        .fetch_all(connection)
        .await?;
        let key = |(batch, ordinal): (i32, i32)| {
            Some((BatchId::from_raw(batch).ok()?, ordinal.cast_unsigned()))
        };
        let stored: std::collections::HashSet<JobKey> =
            stored.into_iter().filter_map(key).collect();
        for row in &mut self.rows {
            if row.content.is_ok() && !stored.contains(&row.one.key()) {
                row.content = Err(Archived::NoDay);
            }
        }
        Ok(())
    }

    /// Counts what became of the answers, once it is committed.
    pub(super) fn measure(&self) {
        for row in &self.rows {
            let (result, bytes) = match &row.content {
                Ok(content) => (Archived::Yes, content.len()),
                Err(why) => (*why, 0),
            };
            metrics::archived(row.one.ending.state, result, bytes);
        }
    }
}

fn length(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// Ads in the body, taken or refused.
fn ads(facts: &Facts) -> i32 {
    let ads = match facts {
        Facts::Page(page) => page.ads.len() + page.refusals.len(),
        Facts::Advertiser(page) => page.ads.len() + page.refusals.len(),
        _ => 0,
    };
    i32::from(i16::try_from(ads).unwrap_or(i16::MAX))
}
