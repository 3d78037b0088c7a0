//! Identifiers that say where something came from.
//!
//! A batch id is the day and the number of the batch within it; the id of an ad version adds the
//! job's ordinal and the position on the page where its content was first seen. So ids are unique
//! without coordination, grow with time, and lead straight back to the evidence.

use std::fmt;

use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

/// 512 batches a day: one every three minutes, or every ten with two thirds left for operators.
const BATCH_BITS: u32 = 9;
/// 131,072 jobs a batch: sixty times the whole market of 2026.
const ORDINAL_BITS: u32 = 17;
/// 32 ads a page: 20 and a promoted one are usual.
const POSITION_BITS: u32 = 5;

/// Jobs that a batch can hold.
pub const MAX_JOBS_PER_BATCH: u32 = 1 << ORDINAL_BITS;
/// Ads that a page can hold.
pub const MAX_ADS_PER_PAGE: usize = 1 << POSITION_BITS;

/// A batch: days since 1970 in the high bits, number within the day in the low nine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(i32);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchIdError {
    #[error("day {0} is not allowed: a day after 1970-01-01 and before the year 13000")]
    Day(NaiveDate),
    #[error("batch number {0} of a day is not allowed: 0 to 511")]
    Number(u32),
    #[error("batch {0} is not allowed: a number that a batch was given")]
    Raw(i32),
}

impl BatchId {
    /// Batch `number` (from 0) of `day`.
    pub fn new(day: NaiveDate, number: u32) -> Result<Self, BatchIdError> {
        if number >= 1 << BATCH_BITS {
            return Err(BatchIdError::Number(number));
        }
        let days = day.signed_duration_since(DateTime::<Utc>::UNIX_EPOCH.date_naive()).num_days();
        let days = i32::try_from(days).ok().filter(|days| (0..4_000_000).contains(days));
        let days = days.ok_or(BatchIdError::Day(day))?;
        Ok(Self((days << BATCH_BITS) | number.cast_signed()))
    }

    /// From a column or a message.
    pub fn from_raw(raw: i32) -> Result<Self, BatchIdError> {
        if raw < 0 { Err(BatchIdError::Raw(raw)) } else { Ok(Self(raw)) }
    }

    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }

    /// The UTC day that all facts of the batch belong to.
    #[must_use]
    pub fn day(self) -> NaiveDate {
        let days = u64::from(self.0.unsigned_abs() >> BATCH_BITS);
        DateTime::<Utc>::UNIX_EPOCH.date_naive() + Days::new(days)
    }

    /// Number of the batch within its day, from 0.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0.cast_unsigned() & ((1 << BATCH_BITS) - 1)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Id of an ad version within its day: batch number, job ordinal, position (from 0) on the page.
///
/// # Panics
/// If `ordinal` or `position` is out of range: the planner and the store check both before.
#[must_use]
pub fn offer_version_id(batch: BatchId, ordinal: u32, position: usize) -> i32 {
    assert!(ordinal < MAX_JOBS_PER_BATCH, "ordinal {ordinal} does not fit");
    let position = u32::try_from(position).expect("a position is below 32");
    assert!(position < 1 << POSITION_BITS, "position {position} does not fit");
    let id =
        (batch.number() << (ORDINAL_BITS + POSITION_BITS)) | (ordinal << POSITION_BITS) | position;
    id.cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn a_batch_id_gives_its_day_and_number_back() {
        let id = BatchId::new(day("2026-11-22"), 511).unwrap();
        assert_eq!((id.day(), id.number()), (day("2026-11-22"), 511));
        assert_eq!(BatchId::from_raw(id.raw()), Ok(id));
        assert_eq!(BatchId::new(day("2026-11-22"), 512), Err(BatchIdError::Number(512)));
        assert_eq!(BatchId::new(day("1969-12-31"), 0), Err(BatchIdError::Day(day("1969-12-31"))));
    }

    proptest! {
        /// The id of a version is never negative, and no two places share one.
        #[test]
        fn version_ids_tell_the_place(n in 0u32..512, ordinal in 0..MAX_JOBS_PER_BATCH, position in 0..MAX_ADS_PER_PAGE) {
            let batch = BatchId::new(day("2026-11-22"), n).unwrap();
            let id = offer_version_id(batch, ordinal, position);
            prop_assert!(id >= 0);
            prop_assert_eq!(id >> 22, i32::try_from(n).unwrap());
            prop_assert_eq!((id >> 5) & 0x1_ffff, i32::try_from(ordinal).unwrap());
            prop_assert_eq!(id & 31, i32::try_from(position).unwrap());
        }
    }
}
