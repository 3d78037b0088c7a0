//! The independent witness: another view that the exchange has of its own books, read for a few markets
//! of each batch and held against ours. Pure; [`crate::store::witness`] has the statements.

mod compare;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use shared::domain::BatchId;

pub use self::compare::{
    Book, Check, Counts, Difference, Explanation, Finding, Named, Quote, QuoteVerdict, Sighting,
    Statement, Unknown, Verdict, compare,
};
use crate::planner::PlannedBook;

/// Requests that a market costs: the list and the quote.
pub const REQUESTS_PER_MARKET: u32 = 2;
/// One request of so many goes to the witness at most: it must not cost coverage.
const WITNESS_SHARE: u32 = 100;
/// One place of so many goes round by turns, and at least one; the others go by size.
const TURNS_SHARE: u32 = 3;

/// Markets that a batch with `budget` requests asks the witness about, of the `most` that are set.
#[must_use]
pub fn affordable(most: u32, budget: u32) -> u32 {
    most.min(budget / WITNESS_SHARE / REQUESTS_PER_MARKET)
}

/// Which of the planned books are held against the witness, `most` at most: books that are read whole and
/// had ads when they were last read.
///
/// Some take their turn: slot by slot the next by number, so that with the same n books each comes within
/// n slots. The others are drawn, a lot for each ad, so that large books come more often. The draw is of
/// the batch alone: who plans it again plans the same.
#[must_use]
pub fn sample(
    books: &[PlannedBook],
    ads: impl Fn(i32) -> u32,
    batch: BatchId,
    slots_before: u64,
    most: u32,
) -> HashSet<i32> {
    let is_whole = |book: &&PlannedBook| book.ads_expected && book.shed == 0 && book.pages > 0;
    let mut markets: Vec<i32> = books.iter().filter(is_whole).map(|book| book.market_id).collect();
    markets.sort_unstable();
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(markets.len());
    let mut sampled = HashSet::with_capacity(most);
    if most == 0 {
        return sampled;
    }
    let turns = (most / usize::try_from(TURNS_SHARE).unwrap_or(usize::MAX)).max(1);
    let count = u64::try_from(markets.len()).unwrap_or(u64::MAX);
    let first = slots_before.wrapping_mul(u64::try_from(turns).unwrap_or(1)) % count;
    let first = usize::try_from(first).unwrap_or_default();
    sampled.extend(markets.iter().cycle().skip(first).take(turns));
    // The market with the lowest lot of all wins.
    let lot = |market_id: i32| {
        let lots = 0..u64::from(ads(market_id).clamp(1, MAX_LOTS));
        lots.map(|number| {
            mixed(&[u64::from(batch.raw().unsigned_abs()), widened(market_id), number])
        })
        .min()
    };
    markets.retain(|market_id| !sampled.contains(market_id));
    markets.sort_by_cached_key(|market_id| (lot(*market_id), *market_id));
    sampled.extend(markets.into_iter().take(most - turns));
    sampled
}

/// Lots of one market: more than any book has ads.
const MAX_LOTS: u32 = 2000;

/// Slots of the schedule before this one.
#[must_use]
pub fn slots_before(slot: DateTime<Utc>, interval: std::time::Duration) -> u64 {
    slot.timestamp().max(0).cast_unsigned() / interval.as_secs().max(1)
}

fn widened(id: i32) -> u64 {
    u64::from(id.cast_unsigned())
}

/// A number in which every bit of all parts has its share (the finish of `splitmix64`).
fn mixed(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9E37_79B9_7F4A_7C15, |state: u64, part| {
        let mut z = (state ^ part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn book(market_id: i32, pages: u32) -> PlannedBook {
        PlannedBook { market_id, pages, shed: 0, ads_expected: true }
    }

    fn batch(raw: i32) -> BatchId {
        BatchId::from_raw(raw).unwrap()
    }

    #[test]
    fn the_witness_takes_one_request_of_a_hundred_at_most() {
        assert_eq!(
            [0, 199, 200, 599, 600, 760, 5000].map(|budget| affordable(3, budget)),
            [0, 0, 1, 2, 3, 3, 3]
        );
        assert_eq!(affordable(0, 5000), 0);
    }

    #[test]
    fn only_whole_books_with_ads_are_sampled() {
        let books = [
            PlannedBook { ads_expected: false, ..book(1, 1) },
            PlannedBook { pages: 0, shed: 2, ..book(2, 0) },
            PlannedBook { pages: 5, shed: 2, ..book(3, 0) },
            book(4, 1),
        ];
        assert_eq!(sample(&books, |_| 20, batch(7), 0, 3), HashSet::from([4]));
        assert_eq!(sample(&books, |_| 20, batch(7), 0, 0), HashSet::new());
        assert_eq!(sample(&[], |_| 20, batch(7), 0, 3), HashSet::new());
    }

    #[test]
    fn large_books_come_more_often() {
        let books: Vec<PlannedBook> = (1..=50).map(|id| book(id, 1)).collect();
        // One book has as many ads as the other 49 together, and it is not its turn.
        let ads = |id: i32| if id == 1 { 490 } else { 10 };
        let times = (0..400).filter(|&n| sample(&books, ads, batch(n), 1, 3).contains(&1)).count();
        assert!((250..400).contains(&times), "{times} of 400");
    }

    proptest! {
        /// In as many slots as there are books each takes its turn, however large the others are; never
        /// more than told, and whoever plans the batch again plans the same, in whatever order the books come.
        #[test]
        fn everyone_takes_a_turn(count in 1i32..60, most in 1u32..10, from in 0u64..1_000_000) {
            let books: Vec<PlannedBook> = (1..=count).map(|id| book(id, 1)).collect();
            let reversed: Vec<PlannedBook> = books.iter().rev().copied().collect();
            let ads = |id: i32| if id == 1 { 1000 } else { 1 };
            let mut seen = HashSet::new();
            for slot in 0..u64::try_from(count).unwrap() {
                let batch = batch(i32::try_from(slot).unwrap());
                let sampled = sample(&books, ads, batch, from + slot, most);
                prop_assert_eq!(&sampled, &sample(&reversed, ads, batch, from + slot, most));
                prop_assert_eq!(sampled.len(), usize::try_from(most).unwrap().min(books.len()));
                seen.extend(sampled);
            }
            prop_assert_eq!(seen.len(), books.len());
        }
    }
}
