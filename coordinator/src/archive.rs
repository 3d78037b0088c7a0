//! The raw archive: kept within its budget, and given dictionaries.
//!
//! While a coordinator leads it looks at the archive's size every [`PULSE`]. Older days are dropped by
//! retention, in idle time. Where that does not help, because what is left is of today, or comes too late,
//! archiving is suspended: that is recorded, and workers learn of it with their next sign of life. So the
//! archive is never larger than its budget, a tenth, and what workers store within a pulse and a sign.
//!
//! A dictionary is trained in idle time on pages that were archived, and measured on others. It is kept
//! only if it saves something; what it replaces stays as long as an answer needs it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use chrono::{TimeDelta, Utc};
use shared::archive::{ArchiveError, Dictionary, Packer, Samples};
use shared::exchange::Exchange;
use shared::store::{ANSWER_LIMIT, within};
use sqlx::PgPool;

use crate::metrics;
use crate::store::Store;
use crate::store::archive::{
    self as rows, Measured, Sample, Size, Suspension, insert_dictionary, list_samples,
};

/// Time between two looks at the archive.
const PULSE: Duration = Duration::from_secs(10);
/// What the archive may be beyond its budget, in per cent of it, while older days wait to be dropped.
const OVERSHOOT_PERCENT: u64 = 10;

/// Keeps the archive within its budget while its coordinator leads.
#[derive(Clone)]
pub struct Guard {
    store: Store,
    exchange: Exchange,
    budget: u64,
    /// Whether older days are to be dropped now.
    wants_room: Arc<AtomicBool>,
}

impl Guard {
    #[must_use]
    pub fn new(store: Store, exchange: Exchange, budget: u64) -> Self {
        Self { store, exchange, budget, wants_room: Arc::default() }
    }

    /// Whether older days are to be dropped now.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        self.wants_room.load(Ordering::Relaxed)
    }

    /// Looks again and again, until it is dropped.
    pub async fn run(&self) -> Infallible {
        loop {
            if let Err(error) = within(ANSWER_LIMIT, self.look()).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the size of the raw archive is not known"
                );
            }
            tokio::time::sleep(PULSE).await;
        }
    }

    /// Looks at the archive; suspends it or lets it go on, and records that.
    pub async fn look(&self) -> anyhow::Result<Option<Suspension>> {
        let mut tx = self.store.begin().await?;
        let (size, before) = rows::look(&mut *tx, self.exchange).await?;
        let now = suspension(size, self.budget, before);
        rows::note(&mut tx, self.exchange, size, self.budget, now).await?;
        tx.commit().await?;
        let (bytes, budget) = (size.bytes, self.budget);
        self.wants_room.store(bytes > budget && size.fixed_bytes < bytes, Ordering::Relaxed);
        metrics::raw_archive(bytes, budget, now.is_some());
        match now {
            _ if now == before => {}
            Some(Suspension::Budget) => {
                tracing::error!(
                    bytes,
                    budget,
                    "the raw archive is full, nothing is archived until there is room: see RAW_ARCHIVE_MB"
                );
            }
            Some(Suspension::Off) => tracing::warn!("the raw archive is off: RAW_ARCHIVE_MB is 0"),
            None => tracing::info!(bytes, budget, "answers are archived again"),
        }
        Ok(now)
    }
}

/// Whether answers are archived, and if not, why. Once suspended for want of room, the archive must fit
/// into its budget again.
fn suspension(size: Size, budget: u64, before: Option<Suspension>) -> Option<Suspension> {
    let is_suspended = before == Some(Suspension::Budget);
    let allowed = if is_suspended { budget } else { budget + budget / 100 * OVERSHOOT_PERCENT };
    if budget == 0 {
        Some(Suspension::Off)
    } else if size.fixed_bytes > budget || size.bytes > allowed {
        Some(Suspension::Budget)
    } else {
        None
    }
}

/// Age of a dictionary from which on a better one is looked for.
const DICTIONARY_AGE: TimeDelta = TimeDelta::days(1);
/// Saving from which on a new dictionary replaces another, in per cent: each costs memory of all
/// workers and is kept for days.
const LEAST_SAVING_PERCENT: u64 = 3;
/// Closed batches of which pages are taken: an hour, so that not one moment is learnt by heart.
const SAMPLE_BATCHES: i64 = 6;
/// Pages that are taken. A hundred times the dictionary's bytes is what zstd recommends.
const SAMPLE_PAGES: i64 = 400;
const SAMPLE_BYTES: i64 = 16 << 20;
/// Fewer pages teach nothing.
pub const LEAST_PAGES: usize = 60;
/// One page of so many is held back to measure.
const HELD_BACK: usize = 5;

/// What came of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Training {
    /// So few pages are archived.
    TooFew(usize),
    /// It would save too little over what there is.
    NoBetter(Measured),
    /// Workers use it from now on.
    Kept(i32, Measured),
}

/// Whether it is time to look for a better dictionary.
pub async fn is_due(pool: &PgPool, exchange: Exchange) -> Result<bool, sqlx::Error> {
    let newest = rows::newest_dictionary(pool, exchange).await?;
    Ok(newest.is_none_or(|(_, trained_at)| Utc::now() - trained_at > DICTIONARY_AGE))
}

/// Trains a dictionary on what is archived, and keeps it if it is better than the newest.
pub async fn train(pool: &PgPool, exchange: Exchange) -> anyhow::Result<Training> {
    let samples = list_samples(pool, exchange, SAMPLE_BATCHES, SAMPLE_PAGES, SAMPLE_BYTES);
    let samples = samples.await.context("pages of the raw archive can't be read")?;
    if samples.len() < LEAST_PAGES {
        return Ok(Training::TooFew(samples.len()));
    }
    let current = match rows::newest_dictionary(pool, exchange).await? {
        Some((id, _)) => Some(Arc::new(Dictionary::load(pool, id).await?)),
        None => None,
    };
    let trained = tokio::task::spawn_blocking(move || train_on(&samples, current)).await;
    let Trained { content, id, measured, is_better } = trained.context("training panicked")??;
    if !is_better {
        return Ok(Training::NoBetter(measured));
    }
    insert_dictionary(pool, exchange, id, &content, &measured).await?;
    Ok(Training::Kept(id, measured))
}

struct Trained {
    content: Vec<u8>,
    id: i32,
    measured: Measured,
    is_better: bool,
}

/// Trains on most of the samples and measures on the others. Only those that are learnt are whole at once.
fn train_on(samples: &[Sample], current: Option<Arc<Dictionary>>) -> Result<Trained, ArchiveError> {
    let (held_back, learnt): (Vec<_>, Vec<_>) =
        samples.iter().enumerate().partition(|(index, _)| index % HELD_BACK == 0);
    let content = {
        let mut whole = Samples::with_room(learnt.iter().map(|(_, sample)| sample.bytes()).sum());
        for (_, sample) in &learnt {
            whole.add(&sample.unpack()?);
        }
        whole.train()?
    };
    let dictionary = Arc::new(Dictionary::new(&content)?);
    let packed_bytes = |dictionary: Option<&Arc<Dictionary>>| {
        let packer = Packer::new(dictionary.cloned())?;
        held_back.iter().try_fold(0, |bytes, (_, sample)| {
            let frame = packer.pack(&sample.unpack()?)?;
            Ok::<_, ArchiveError>(bytes + frame.len() as u64)
        })
    };
    let measured = Measured {
        samples: learnt.len(),
        test_ads: held_back.iter().map(|(_, sample)| u64::from(sample.ads)).sum(),
        test_bytes: held_back.iter().map(|(_, sample)| sample.bytes() as u64).sum(),
        test_bytes_plain: packed_bytes(None)?,
        test_bytes_trained: packed_bytes(Some(&dictionary))?,
    };
    let now = match current {
        Some(current) => packed_bytes(Some(&current))?,
        None => measured.test_bytes_plain,
    };
    let is_better = measured.test_bytes_trained * 100 <= now * (100 - LEAST_SAVING_PERCENT);
    Ok(Trained { content, id: dictionary.id(), measured, is_better })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_suspended_only_where_dropping_does_not_help() {
        let size = |bytes, fixed_bytes| Size { bytes, fixed_bytes };
        let full = Some(Suspension::Budget);
        // Room is made by dropping a day, in time or too late.
        assert_eq!(suspension(size(1_100, 900), 1_000, None), None);
        assert_eq!(suspension(size(1_101, 900), 1_000, None), full);
        // No day may go.
        assert_eq!(suspension(size(1_001, 1_001), 1_000, None), full);
        // It goes on when it fits again, not at the first byte that is free.
        assert_eq!(suspension(size(1_050, 900), 1_000, full), full);
        assert_eq!(suspension(size(1_000, 900), 1_000, full), None);
        assert_eq!(suspension(size(0, 0), 0, full), Some(Suspension::Off));
        assert_eq!(suspension(size(0, 0), 1_000, Some(Suspension::Off)), None);
    }
}
