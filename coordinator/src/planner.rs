//! Which pages a batch reads. Pure: the same markets and budget give the same plan.
//!
//! Books are taken whole, those first that were shed before, then by the value of fresh data
//! (age × ads), until the budget of requests is spent; what does not fit is shed, recorded, and goes
//! first next time. Pages are predicted from the last reading; the fold extends or trims them.

use std::cmp::Reverse;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use shared::domain::page_count;
use shared::exchange::binance::SEARCH_ROWS;

/// What is known of a market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarketState {
    pub market_id: i32,
    /// Ads at the last reading; `None`: never read.
    pub last_total: Option<u32>,
    pub last_read_at: Option<DateTime<Utc>>,
    /// Readings in a row that found no ads.
    pub consecutive_empty: u32,
    /// Batches in a row that left it out.
    pub consecutive_shed: u32,
}

/// Pages of one book, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedBook {
    pub market_id: i32,
    /// Pages to read.
    pub pages: u32,
    /// Pages left out, after those to read.
    pub shed: u32,
    /// Whether the last reading had ads: an empty answer is then suspect.
    pub ads_expected: bool,
}

/// Readings without ads after which a market is probed ever more rarely.
const EMPTY_BEFORE_DECAY: u32 = 3;
/// Longest pause between two probes of an empty market, in intervals: a day of every ten minutes.
const LONGEST_PROBE_PAUSE: u32 = 144;

/// The books of a batch in the order to read them, those left out last.
///
/// Never plans more than `budget` pages; splits a book only if it alone exceeds the whole budget.
#[must_use]
pub fn plan(
    markets: &[MarketState],
    slot: DateTime<Utc>,
    interval: Duration,
    budget: u32,
) -> Vec<PlannedBook> {
    let mut due: Vec<&MarketState> =
        markets.iter().filter(|market| is_due(market, slot, interval)).collect();
    due.sort_by_key(|market| {
        (Reverse(market.consecutive_shed), Reverse(value(market, slot)), market.market_id)
    });
    let mut left = budget;
    let mut planned = Vec::with_capacity(due.len());
    let mut shed = Vec::new();
    for market in due {
        let wanted = page_count(market.last_total.unwrap_or(0), SEARCH_ROWS);
        // A book that no batch could ever read whole is read as far as the budget goes.
        let pages = if wanted <= left {
            wanted
        } else if wanted > budget && left == budget {
            budget
        } else {
            0
        };
        left -= pages;
        let ads_expected = market.last_total.is_some_and(|total| total > 0);
        let book =
            PlannedBook { market_id: market.market_id, pages, shed: wanted - pages, ads_expected };
        if pages > 0 {
            planned.push(book);
        } else {
            shed.push(book);
        }
    }
    planned.extend(shed);
    planned
}

/// Empty for long, a market is probed after 2, 4, 8 … intervals, at least once a day.
fn is_due(market: &MarketState, slot: DateTime<Utc>, interval: Duration) -> bool {
    let Some(last_read_at) = market.last_read_at else {
        return true;
    };
    let beyond = market.consecutive_empty.saturating_sub(EMPTY_BEFORE_DECAY - 1);
    if beyond == 0 || market.consecutive_shed > 0 {
        return true;
    }
    let pause = 2_u32.saturating_pow(beyond).min(LONGEST_PROBE_PAUSE);
    let pause = TimeDelta::from_std(interval * pause).unwrap_or(TimeDelta::MAX);
    slot - last_read_at >= pause
}

/// Age in seconds × ads. A market never read comes first.
fn value(market: &MarketState, slot: DateTime<Utc>) -> u64 {
    let Some(last_read_at) = market.last_read_at else {
        return u64::MAX;
    };
    let age_secs = (slot - last_read_at).num_seconds().max(0).cast_unsigned();
    age_secs.saturating_mul(u64::from(market.last_total.unwrap_or(0)) + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_mins(10);

    fn slot() -> DateTime<Utc> {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    fn market(market_id: i32, total: u32) -> MarketState {
        MarketState {
            market_id,
            last_total: Some(total),
            last_read_at: Some(slot() - TimeDelta::minutes(10)),
            consecutive_empty: u32::from(total == 0),
            consecutive_shed: 0,
        }
    }

    #[test]
    fn everything_is_read_when_the_budget_allows() {
        let planned = plan(&[market(1, 45), market(2, 0)], slot(), INTERVAL, 100);
        assert_eq!(
            planned,
            [
                PlannedBook { market_id: 1, pages: 3, shed: 0, ads_expected: true },
                PlannedBook { market_id: 2, pages: 1, shed: 0, ads_expected: false },
            ]
        );
    }

    #[test]
    fn what_was_shed_goes_first() {
        let shed_before = MarketState { consecutive_shed: 1, ..market(1, 10) };
        let planned = plan(&[market(2, 400), shed_before], slot(), INTERVAL, 20);
        assert_eq!((planned[0].market_id, planned[0].pages), (1, 1));
        assert_eq!((planned[1].market_id, planned[1].pages, planned[1].shed), (2, 0, 20));
    }

    #[test]
    fn a_book_larger_than_any_budget_is_read_as_far_as_it_goes() {
        let planned = plan(&[market(1, 1000)], slot(), INTERVAL, 30);
        assert_eq!(
            planned,
            [PlannedBook { market_id: 1, pages: 30, shed: 20, ads_expected: true }]
        );
    }

    #[test]
    fn markets_empty_for_long_are_probed_ever_more_rarely_but_never_forgotten() {
        let empty = |times, minutes| MarketState {
            consecutive_empty: times,
            last_read_at: Some(slot() - TimeDelta::minutes(minutes)),
            ..market(1, 0)
        };
        let reads = |state: MarketState| !plan(&[state], slot(), INTERVAL, 10).is_empty();
        assert!(reads(empty(2, 10)));
        assert!(!reads(empty(3, 10)));
        assert!(reads(empty(3, 20)));
        assert!(!reads(empty(60, 1430)));
        assert!(reads(empty(60, 1440)));
    }

    proptest! {
        /// Never over budget, never a book twice, every due book planned or shed in full.
        #[test]
        fn the_budget_holds(
            totals in prop::collection::vec((0u32..2000, 0u32..3), 0..200),
            budget in 0u32..500,
        ) {
            let markets: Vec<_> = (1..).zip(&totals)
                .map(|(id, (total, shed))| MarketState { consecutive_shed: *shed, ..market(id, *total) })
                .collect();
            let planned = plan(&markets, slot(), INTERVAL, budget);
            prop_assert!(planned.iter().map(|book| book.pages).sum::<u32>() <= budget);
            prop_assert_eq!(planned.len(), markets.len());
            for book in &planned {
                let state = &markets[usize::try_from(book.market_id).unwrap() - 1];
                prop_assert_eq!(book.pages + book.shed, page_count(state.last_total.unwrap(), SEARCH_ROWS));
                prop_assert!(book.shed == 0 || book.pages == 0 || book.pages == budget);
            }
            prop_assert_eq!(&planned, &plan(&markets, slot(), INTERVAL, budget));
        }

        /// However small the budget, no market waits for ever.
        #[test]
        fn nothing_starves(totals in prop::collection::vec(0u32..200, 1..40), budget in 10u32..20) {
            let mut markets: Vec<_> = (1..).zip(&totals).map(|(id, total)| market(id, *total)).collect();
            let mut now = slot();
            let mut waiting: std::collections::BTreeSet<i32> = markets.iter().map(|m| m.market_id).collect();
            for _ in 0..=markets.len() {
                for book in plan(&markets, now, INTERVAL, budget) {
                    let market = &mut markets[usize::try_from(book.market_id).unwrap() - 1];
                    if book.pages > 0 {
                        waiting.remove(&book.market_id);
                        (market.consecutive_shed, market.last_read_at) = (0, Some(now));
                    } else {
                        market.consecutive_shed += 1;
                    }
                }
                now += TimeDelta::minutes(10);
            }
            prop_assert!(waiting.is_empty(), "never read: {:?}", waiting);
        }
    }
}
