//! Which pages a batch reads. Pure: the same markets and budget give the same plan.
//!
//! Books are taken whole until the budget of requests is spent, in three passes: markets that were
//! left out too often, a bounded part of the budget; the priority markets; all others. Within each,
//! those first that were left out before, then by the value of fresh data (age × what changes). What
//! does not fit is shed and recorded. Pages are predicted from the last reading; the fold extends or
//! trims them.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use shared::domain::{MAX_JOBS_PER_BATCH, Market, Side, page_count};
use shared::exchange::binance::SEARCH_ROWS;

/// What is known of a market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarketState {
    pub market_id: i32,
    /// Ads at the last reading; `None`: never read.
    pub last_total: Option<u32>,
    pub last_read_at: Option<DateTime<Utc>>,
    /// Ads that came or changed per hour, smoothed; `None`: read fewer than two times.
    pub changes_per_hour: Option<u32>,
    /// Readings in a row that found no ads.
    pub consecutive_empty: u32,
    /// Batches in a row that left it out.
    pub consecutive_shed: u32,
    /// Whether it goes before others.
    pub is_priority: bool,
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

/// Markets that go first: all of a fiat (`VES`), of an asset in it (`USDT/VES`), or one side of that
/// (`USDT/VES/BUY`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarketPattern {
    asset: Option<String>,
    fiat: String,
    side: Option<Side>,
}

impl MarketPattern {
    #[must_use]
    pub fn matches(&self, market: &Market) -> bool {
        self.fiat == market.fiat
            && self.asset.as_ref().is_none_or(|asset| *asset == market.asset)
            && self.side.is_none_or(|side| side == market.side)
    }
}

/// What names no markets.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} names no markets: allowed are VES, USDT/VES and USDT/VES/BUY")]
pub struct BadPattern(String);

impl FromStr for MarketPattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadPattern(text.to_owned());
        let parts: Vec<&str> = text.split('/').map(str::trim).collect();
        if parts.contains(&"") {
            return Err(bad());
        }
        let (asset, fiat, side) = match *parts.as_slice() {
            [fiat] => (None, fiat, None),
            [asset, fiat] => (Some(asset), fiat, None),
            [asset, fiat, side] => (Some(asset), fiat, Some(side.parse().map_err(|_| bad())?)),
            _ => return Err(bad()),
        };
        Ok(Self { asset: asset.map(str::to_owned), fiat: fiat.to_owned(), side })
    }
}

impl fmt::Display for MarketPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asset, fiat, side } = self;
        asset.iter().try_for_each(|asset| write!(f, "{asset}/"))?;
        write!(f, "{fiat}")?;
        side.iter().try_for_each(|side| write!(f, "/{side}"))
    }
}

/// Readings without ads after which a market is probed ever more rarely.
const EMPTY_BEFORE_DECAY: u32 = 3;
/// Longest pause between two probes of an empty market, in intervals: a day of every ten minutes.
const LONGEST_PROBE_PAUSE: u32 = 144;
/// Batches in a row after which a market that is left out goes before the priority markets: an hour
/// of every ten minutes.
const SHED_BEFORE_STARVING: u32 = 6;
/// What such markets may take before the priority markets, in percent of the budget; the first of them
/// may take all, or a large book would wait for ever.
const STARVING_PERCENT: u32 = 25;
/// Share of the requests until the deadline that is planned for; the rest is for what goes wrong and
/// for books that grew. In percent.
const PLANNED_PERCENT: u64 = 95;

/// Requests that limits of `rates_per_minute`, one for each egress, grant within `left`, less a
/// reserve.
#[must_use]
pub fn budget(rates_per_minute: impl Iterator<Item = u32>, left: Duration) -> u32 {
    let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let granted = |rate: u32| u64::from(rate).saturating_mul(left_ms) / 60_000;
    let granted = rates_per_minute.map(granted).fold(0, u64::saturating_add);
    let planned = granted.saturating_mul(PLANNED_PERCENT) / 100;
    // Half of a batch's ordinals are kept for what the fold adds and for what is shed.
    u32::try_from(planned).unwrap_or(u32::MAX).min(MAX_JOBS_PER_BATCH / 2)
}

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
    let mut allocation =
        Allocation { budget, left: budget, planned: Vec::with_capacity(due.len()) };
    let starving_share = u64::from(budget) * u64::from(STARVING_PERCENT) / 100;
    let kept = budget - u32::try_from(starving_share).unwrap_or(budget);
    due.retain(|market| {
        let is_first = allocation.planned.is_empty();
        let is_starving = market.consecutive_shed >= SHED_BEFORE_STARVING;
        !(is_starving && allocation.take(market, if is_first { 0 } else { kept }))
    });
    due.retain(|market| !(market.is_priority && allocation.take(market, 0)));
    due.retain(|market| !allocation.take(market, 0));
    let shed = due.iter().map(|market| PlannedBook {
        market_id: market.market_id,
        pages: 0,
        shed: wanted_pages(market),
        ads_expected: ads_expected(market),
    });
    allocation.planned.into_iter().chain(shed).collect()
}

struct Allocation {
    budget: u32,
    left: u32,
    planned: Vec<PlannedBook>,
}

impl Allocation {
    /// Plans the book whole, if at least `kept` requests are left then. A book that no batch could
    /// ever read whole is read as far as a whole budget goes.
    fn take(&mut self, market: &MarketState, kept: u32) -> bool {
        let wanted = wanted_pages(market);
        let pages = if wanted.saturating_add(kept) <= self.left {
            wanted
        } else if wanted > self.budget && self.left == self.budget && self.budget > 0 {
            self.budget
        } else {
            return false;
        };
        self.left -= pages;
        let (market_id, shed) = (market.market_id, wanted - pages);
        let ads_expected = ads_expected(market);
        self.planned.push(PlannedBook { market_id, pages, shed, ads_expected });
        true
    }
}

/// Pages that the last reading lets expect.
fn wanted_pages(market: &MarketState) -> u32 {
    page_count(market.last_total.unwrap_or(0), SEARCH_ROWS)
}

fn ads_expected(market: &MarketState) -> bool {
    market.last_total.is_some_and(|total| total > 0)
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

/// What a fresh reading is worth: age in seconds × changes per hour. A market never read comes first.
fn value(market: &MarketState, slot: DateTime<Utc>) -> u64 {
    let Some(last_read_at) = market.last_read_at else {
        return u64::MAX;
    };
    let age_secs = (slot - last_read_at).num_seconds().max(0).cast_unsigned();
    // Measured on books read twice within nine minutes: 2 to 7 % change, 1 to 3 % come or go. So an
    // hour changes about as many ads as a third of the book, until it is known better.
    let guess = market.last_total.unwrap_or(0) / 3;
    age_secs.saturating_mul(u64::from(market.changes_per_hour.unwrap_or(guess)) + 1)
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
            changes_per_hour: None,
            consecutive_empty: u32::from(total == 0),
            consecutive_shed: 0,
            is_priority: false,
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

    #[test]
    fn the_budget_is_what_all_egresses_grant() {
        let left = Duration::from_mins(8);
        assert_eq!(budget([100].into_iter(), left), 760);
        assert_eq!(budget([100, 50].into_iter(), left), 1140);
        assert_eq!(budget(std::iter::empty(), left), 0);
        assert_eq!(budget([u32::MAX; 3].into_iter(), Duration::MAX), MAX_JOBS_PER_BATCH / 2);
    }

    #[test]
    fn priority_markets_go_first_and_lively_ones_before_quiet_ones() {
        let lively = MarketState { changes_per_hour: Some(50), ..market(1, 40) };
        let quiet = MarketState { changes_per_hour: Some(2), ..market(2, 40) };
        let first = MarketState { is_priority: true, ..market(3, 1) };
        let order = |markets: &[MarketState], budget| -> Vec<(i32, u32)> {
            let planned = plan(markets, slot(), INTERVAL, budget);
            planned.iter().map(|book| (book.market_id, book.pages)).collect()
        };
        let markets = [quiet, lively, first];
        assert_eq!(order(&markets, 5), [(3, 1), (1, 2), (2, 2)]);
        assert_eq!(order(&markets, 4), [(3, 1), (1, 2), (2, 0)]);
    }

    /// Priority markets that take the whole budget do not keep the others waiting for ever.
    #[test]
    fn who_waited_too_long_goes_before_priority() {
        let first = MarketState { is_priority: true, ..market(1, 200) };
        let starving = MarketState { consecutive_shed: SHED_BEFORE_STARVING, ..market(2, 100) };
        let waiting = MarketState { consecutive_shed: SHED_BEFORE_STARVING - 1, ..market(3, 20) };
        let planned = plan(&[first, starving, waiting], slot(), INTERVAL, 15);
        let pages: Vec<(i32, u32)> =
            planned.iter().map(|book| (book.market_id, book.pages)).collect();
        assert_eq!(pages, [(2, 5), (1, 10), (3, 0)]);
    }

    #[test]
    fn patterns_name_markets() {
        let market = Market::new("VES", "USDT", Side::Buy).unwrap();
        for (text, matches) in [
            ("VES", true),
            ("USDT/VES", true),
            ("USDT/VES/buy", true),
            ("USDT/VES/SELL", false),
            ("BTC/VES", false),
            ("ves", false),
        ] {
            assert_eq!(text.parse::<MarketPattern>().unwrap().matches(&market), matches, "{text}");
        }
        for text in ["", "/VES", "USDT/VES/UP", "A/B/BUY/C"] {
            assert!(text.parse::<MarketPattern>().is_err(), "{text}");
        }
    }

    /// Markets of any kind: total, batches left out, priority, changes.
    fn any_markets(most: usize) -> impl Strategy<Value = Vec<MarketState>> {
        let one = (0u32..2000, 0u32..10, any::<bool>(), prop::option::of(0u32..500));
        prop::collection::vec(one, 0..most).prop_map(|all| {
            let state = |(id, (total, consecutive_shed, is_priority, changes_per_hour))| {
                MarketState { changes_per_hour, consecutive_shed, is_priority, ..market(id, total) }
            };
            (1..).zip(all).map(state).collect()
        })
    }

    proptest! {
        /// Never over budget, never a book twice, every due book planned whole or shed whole unless
        /// it exceeds any budget, the same plan for the same markets in whatever order they come.
        #[test]
        fn the_budget_holds(markets in any_markets(200), budget in 0u32..500) {
            let planned = plan(&markets, slot(), INTERVAL, budget);
            prop_assert!(planned.iter().map(|book| book.pages).sum::<u32>() <= budget);
            prop_assert_eq!(planned.len(), markets.len());
            for book in &planned {
                let state = &markets[usize::try_from(book.market_id).unwrap() - 1];
                prop_assert_eq!(book.pages + book.shed, page_count(state.last_total.unwrap(), SEARCH_ROWS));
                prop_assert!(book.shed == 0 || book.pages == 0 || book.pages == budget);
            }
            let mut ids: Vec<i32> = planned.iter().map(|book| book.market_id).collect();
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), markets.len());
            let reversed: Vec<_> = markets.iter().rev().cloned().collect();
            prop_assert_eq!(&planned, &plan(&reversed, slot(), INTERVAL, budget));
        }

        /// Nothing is left out that would still have fitted.
        #[test]
        fn the_budget_is_used(markets in any_markets(60), budget in 0u32..500) {
            let planned = plan(&markets, slot(), INTERVAL, budget);
            let left = budget - planned.iter().map(|book| book.pages).sum::<u32>();
            for book in planned.iter().filter(|book| book.pages == 0) {
                prop_assert!(book.shed > left, "{book:?} would fit into {left}");
            }
        }

        /// However small the budget, and whatever goes first, no market waits for ever: each is read
        /// within as many batches as there are markets, and those that make it starve.
        #[test]
        fn nothing_starves(
            kinds in prop::collection::vec((0u32..400, any::<bool>()), 1..40),
            budget in 10u32..20,
        ) {
            let state = |(id, (total, is_priority)): (i32, &(u32, bool))| {
                MarketState { is_priority: *is_priority, ..market(id, *total) }
            };
            let mut markets: Vec<_> = (1..).zip(&kinds).map(state).collect();
            let longest = SHED_BEFORE_STARVING + u32::try_from(markets.len()).unwrap();
            let mut now = slot();
            for _ in 0..4 * longest {
                for book in plan(&markets, now, INTERVAL, budget) {
                    let market = &mut markets[usize::try_from(book.market_id).unwrap() - 1];
                    if book.pages > 0 {
                        (market.consecutive_shed, market.last_read_at) = (0, Some(now));
                    } else {
                        market.consecutive_shed += 1;
                        prop_assert!(market.consecutive_shed <= longest, "{:?} starves", market);
                    }
                }
                now += TimeDelta::minutes(10);
            }
        }
    }
}
