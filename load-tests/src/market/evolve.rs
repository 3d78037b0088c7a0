//! Moves the world: ads come, go, come back and change; advertisers trade and rename themselves.
//!
//! Time is counted in ticks. What happens in a tick follows from the seed and the ticks before it,
//! so the sequence of events does not depend on how fast the machine is.

use std::collections::VecDeque;

use rand::RngExt;
use rust_decimal::Decimal;

use super::generate::pay_time_limit;
use super::{Ad, World, cut, names, shift_ppm};

/// Length of a tick in milliseconds.
pub const TICK_MS: u64 = 100;
/// Of the ads that come, how many come back with their old number, per cent.
const RETURNING_PERCENT: u32 = 40;
/// Draws for an ad that fits before an event is left out.
const MAX_DRAWS: u32 = 32;
/// An ad below this worth in USD is filled up again instead of sold out.
const SMALLEST_WORTH: u32 = 4;

/// How fast the world changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// Ads that go, and as many that come, per 1,000 listed and minute.
    pub churn: u64,
    /// Ads whose content changes, per 1,000 listed and minute.
    pub change: u64,
    /// Advertisers whose month figures change, per 1,000 and minute.
    pub month: u64,
    /// Advertisers that take another nickname, per 1,000 and hour.
    pub rename: u64,
    /// Ads whose terms are reworded, per 1,000 listed and hour.
    pub reword: u64,
}

/// Something that a request can see from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// This ad came.
    Listed(usize),
    /// This ad's content changed.
    Changed(usize),
    /// This ad went.
    Delisted(usize),
    /// This advertiser is new or changed.
    Advertiser(usize),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Go,
    Come,
    Change,
    Month,
    Rename,
    Reword,
    Tell(Event),
}

/// What is left to happen, and fractions of events carried to the next tick.
#[derive(Debug, Default)]
pub(super) struct Due {
    pending: VecDeque<Kind>,
    carried: [u64; 5],
}

impl World {
    /// Lets the next thing happen that is due before `until` ticks have passed. After `None` the
    /// world stands at that tick.
    pub fn next_event(&mut self, until: u64) -> Option<Event> {
        loop {
            if let Some(kind) = self.due.pending.pop_front() {
                if let Some(event) = self.happen(kind) {
                    return Some(event);
                }
            } else if self.tick < until {
                self.tick += 1;
                self.plan_tick();
            } else {
                return None;
            }
        }
    }

    fn plan_tick(&mut self) {
        let listed = (self.ads.len() - self.gone.len()) as u64;
        let advertisers = self.advertisers.len() as u64;
        let rates = self.rates;
        let per_minute = [
            (listed * rates.churn, 60_000),
            (listed * rates.change, 60_000),
            (advertisers * rates.month, 60_000),
            (advertisers * rates.rename, 3_600_000),
            (listed * rates.reword, 3_600_000),
        ];
        for (at, (per_mille, period_ms)) in per_minute.into_iter().enumerate() {
            let due = self.due.carried[at] + per_mille * TICK_MS;
            self.due.carried[at] = due % (period_ms * 1_000);
            for _ in 0..due / (period_ms * 1_000) {
                match at {
                    0 => self.due.pending.extend([Kind::Go, Kind::Come]),
                    1 => self.due.pending.push_back(Kind::Change),
                    2 => self.due.pending.push_back(Kind::Month),
                    3 => self.due.pending.push_back(Kind::Rename),
                    _ => self.due.pending.push_back(Kind::Reword),
                }
            }
        }
    }

    fn happen(&mut self, kind: Kind) -> Option<Event> {
        match kind {
            Kind::Go => self.go(),
            Kind::Come => self.come(),
            Kind::Change => self.change(),
            Kind::Month => self.month(),
            Kind::Rename => {
                let at = self.any_advertiser()?;
                self.advertisers[at].nick_name = names::nick_name(&mut self.rng);
                Some(Event::Advertiser(at))
            }
            Kind::Reword => {
                let at = self.any_listed()?;
                self.ads[at].wording += 1;
                Some(Event::Changed(at))
            }
            Kind::Tell(event) => Some(event),
        }
    }

    fn any_advertiser(&mut self) -> Option<usize> {
        let known = self.advertisers.len();
        (known > 0).then(|| self.rng.random_range(0..known))
    }

    /// Takes a fiat from the list for good: its ads go, and none come. The ads that went.
    pub fn delist(&mut self, fiat: usize) -> Vec<usize> {
        self.catalog.fiats[fiat].listed = false;
        let of_fiat = self.markets.iter().filter(|market| market.fiat == fiat);
        let ads: Vec<usize> = of_fiat.flat_map(|market| market.book.iter().copied()).collect();
        for &at in &ads {
            self.leave(at);
            self.gone.push_back(at);
        }
        ads
    }

    /// Lists as many of the ads that these markets have, listed or gone, as `per_mille` says, spread over
    /// their books; 1000 brings all back. What came and went.
    pub fn resize(&mut self, markets: &[usize], per_mille: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for &market in markets {
            let mut ads: Vec<usize> =
                (0..self.ads.len()).filter(|&at| self.ads[at].market == market).collect();
            ads.sort_by_key(|&at| (self.ads[at].terms.price, at));
            for (place, at) in ads.into_iter().enumerate() {
                let is_kept = (place + 1) * per_mille / 1_000 > place * per_mille / 1_000;
                match (self.ads[at].listed, is_kept) {
                    (true, false) => {
                        self.leave(at);
                        self.gone.push_back(at);
                        events.push(Event::Delisted(at));
                    }
                    (false, true) => {
                        self.gone.retain(|&gone| gone != at);
                        self.enter(at);
                        events.push(Event::Listed(at));
                    }
                    _ => {}
                }
            }
        }
        events
    }

    /// Multiplies all prices of these markets.
    pub fn reprice(&mut self, markets: &[usize], per_mille: i64) -> Vec<Event> {
        let books = markets.iter().flat_map(|&market| self.markets[market].book.clone());
        let ads: Vec<usize> = books.collect();
        for &at in &ads {
            self.rework(at, |world, ad| {
                let scale = world.markets[ad.market].price_scale;
                let price = shift_ppm(ad.terms.price, per_mille * 1_000 - 1_000_000);
                ad.terms.price = cut(price, scale).max(Decimal::new(1, scale));
            });
        }
        ads.into_iter().map(Event::Changed).collect()
    }

    fn is_served(&self, market: usize) -> bool {
        self.catalog.fiats[self.markets[market].fiat].listed
    }

    /// A listed ad. Few are gone, so that a handful of draws finds one.
    fn any_listed(&mut self) -> Option<usize> {
        let known = self.ads.len();
        let mut draw = || (known > 0).then(|| self.rng.random_range(0..known));
        (0..MAX_DRAWS).find_map(|_| draw().filter(|&at| self.ads[at].listed))
    }

    fn go(&mut self) -> Option<Event> {
        let at = self.any_listed()?;
        self.leave(at);
        self.gone.push_back(at);
        Some(Event::Delisted(at))
    }

    fn come(&mut self) -> Option<Event> {
        if !self.gone.is_empty() && self.rng.random_ratio(RETURNING_PERCENT, 100) {
            let place = self.rng.random_range(0..self.gone.len());
            if self.is_served(self.ads[self.gone[place]].market) {
                let at = self.gone.remove(place)?;
                self.enter(at);
                return Some(Event::Listed(at));
            }
        }
        // New ads come where ads are; also where the last one has just gone.
        let known = self.ads.len().max(1);
        let market = (0..MAX_DRAWS).find_map(|_| {
            let model = self.rng.random_range(0..known);
            self.ads.get(model).map(|model| model.market).filter(|&at| self.is_served(at))
        })?;
        let advertisers = self.advertisers.len();
        let ad = self.new_ad(market);
        let at = self.place(ad);
        self.enter(at);
        if self.advertisers.len() > advertisers {
            self.due.pending.push_front(Kind::Tell(Event::Listed(at)));
            return Some(Event::Advertiser(advertisers));
        }
        Some(Event::Listed(at))
    }

    /// Keeps at most a tenth of the ads as gone; the longest gone never come back and give their
    /// place to a new ad, so that the world does not grow for ever.
    fn place(&mut self, ad: Ad) -> usize {
        if self.gone.len() > self.ads.len() / 10
            && let Some(at) = self.gone.pop_front()
        {
            let revision = self.ads[at].revision + 1;
            self.ads[at] = Ad { revision, ..ad };
            at
        } else {
            self.ads.push(ad);
            self.ads.len() - 1
        }
    }

    fn change(&mut self) -> Option<Event> {
        let at = self.any_listed()?;
        self.rework(at, |world, ad| match world.rng.random_range(0..100) {
            0..35 => world.move_price(ad),
            35..97 => world.take_amount(ad),
            _ => ad.terms.pay_time_limit = pay_time_limit(&mut world.rng),
        });
        Some(Event::Changed(at))
    }

    /// Changes an ad and puts it where its price belongs.
    fn rework(&mut self, at: usize, change: impl FnOnce(&mut Self, &mut Ad)) {
        let mut ad = self.ads[at].clone();
        change(self, &mut ad);
        self.derive(&mut ad);
        if ad.terms.price == self.ads[at].terms.price {
            self.ads[at] = ad;
            return;
        }
        // A promoted ad stays promoted when its price moves.
        let market = ad.market;
        let top = self.markets[market].top;
        self.leave(at);
        self.ads[at] = ad;
        self.enter(at);
        self.markets[market].top = top;
    }

    fn move_price(&mut self, ad: &mut Ad) {
        let scale = self.markets[ad.market].price_scale;
        let unit = Decimal::new(1, scale);
        let old = ad.terms.price;
        ad.terms.price = if self.rng.random_ratio(1, 5) {
            self.new_price(ad.market)
        } else {
            cut(shift_ppm(old, self.rng.random_range(-5_000..5_000)), scale).max(unit)
        };
        if ad.terms.price == old {
            ad.terms.price += unit;
        }
    }

    /// Somebody trades with the ad; an ad that is nearly sold out is filled up again.
    fn take_amount(&mut self, ad: &mut Ad) {
        let asset = &self.catalog.assets[self.markets[ad.market].asset];
        let left =
            cut(shift_ppm(ad.terms.surplus, self.rng.random_range(-500_000..0)), asset.scale);
        ad.terms.surplus = if left * asset.price < Decimal::from(SMALLEST_WORTH) {
            cut(Decimal::from(self.rng.random_range(50..5_000)) / asset.price, asset.scale)
        } else {
            left
        };
    }

    fn month(&mut self) -> Option<Event> {
        let at = self.any_advertiser()?;
        let rng = &mut self.rng;
        let advertiser = &mut self.advertisers[at];
        let change = rng.random_range(1..4);
        advertiser.month_order_count = if rng.random_ratio(1, 4) {
            advertiser.month_order_count.saturating_sub(change)
        } else {
            advertiser.month_order_count + change
        };
        advertiser.month_finish_rate = names::finish_rate(rng, advertiser.month_order_count);
        advertiser.positive_rate = names::positive_rate(rng);
        Some(Event::Advertiser(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::{Side, Spec, Top};

    fn world() -> World {
        World::new(&Spec {
            seed: 7,
            fiats: 5,
            assets: 4,
            ads: 1_000,
            delisted: 0,
            templates: vec![true, false],
            rates: Rates { churn: 100, change: 100, month: 100, rename: 600, reword: 0 },
        })
    }

    fn run(world: &mut World, until: u64) -> Vec<String> {
        let mut events = Vec::new();
        while let Some(event) = world.next_event(until) {
            let what = match event {
                Event::Advertiser(at) => format!("{:?}", world.advertisers[at]),
                Event::Listed(at) | Event::Changed(at) | Event::Delisted(at) => {
                    format!("{} {:?}", world.ads[at].number, world.content(&world.ads[at]))
                }
            };
            events.push(format!("{} {event:?} {what}", world.tick));
        }
        events
    }

    #[test]
    fn events_do_not_depend_on_the_size_of_the_steps() {
        let (mut whole, mut steps) = (world(), world());
        let events = run(&mut whole, 3_000);
        let in_steps: Vec<_> = (1..=3_000).flat_map(|tick| run(&mut steps, tick)).collect();
        assert_eq!(events, in_steps);
        // 5 minutes of 100 per mille: 500 go, 500 come, 500 change.
        let of = |kind: &str| events.iter().filter(|event| event.contains(kind)).count();
        assert!((480..520).contains(&of("Delisted")), "{}", of("Delisted"));
        assert!((480..520).contains(&of("Changed")), "{}", of("Changed"));
    }

    #[test]
    fn books_stay_sorted_and_hold_exactly_the_listed() {
        let mut world = world();
        run(&mut world, 6_000);
        let mut in_books = 0;
        for market in &world.markets {
            in_books += market.book.len();
            let price = |at: &usize| world.ads[*at].terms.price;
            assert!(market.book.iter().all(|&at| world.ads[at].listed));
            assert!(market.book.is_sorted_by(|left, right| match market.side {
                Side::Buy => price(left) <= price(right),
                Side::Sell => price(left) >= price(right),
            }));
            if let Top::Promoted(Some(at)) = market.top {
                assert!(market.book.contains(&at));
            }
        }
        assert_eq!(in_books, world.ads.iter().filter(|ad| ad.listed).count());
        assert_eq!(in_books, 1_000);
    }

    #[test]
    fn some_ads_come_back_under_their_number() {
        let mut world = world();
        let first: Vec<u64> = world.ads.iter().map(|ad| ad.number).collect();
        let mut gone = std::collections::HashSet::new();
        let mut returned = 0;
        while let Some(event) = world.next_event(1_200) {
            match event {
                Event::Delisted(at) => drop(gone.insert(world.ads[at].number)),
                Event::Listed(at) if gone.contains(&world.ads[at].number) => returned += 1,
                _ => {}
            }
        }
        assert!(returned > 20 && first.len() == 1_000, "{returned}");
    }

    #[test]
    fn a_delisted_fiat_stays_empty() {
        let mut world = world();
        let gone = world.delist(0);
        assert!(gone.len() > 100 && gone.iter().all(|&at| !world.ads[at].listed));
        let events = run(&mut world, 6_000);
        assert!(world.markets.iter().all(|market| market.fiat != 0 || market.book.is_empty()));
        let came = events.iter().filter(|event| event.contains(" Listed")).count();
        assert!(came > 500, "{came}: the others live on");
    }

    #[test]
    fn markets_shrink_and_come_back_and_their_prices_move() {
        let mut world = world();
        let books = |world: &World| -> Vec<Vec<usize>> {
            world.markets.iter().map(|market| market.book.clone()).collect()
        };
        let before = books(&world);
        let largest = (0..before.len()).max_by_key(|&at| before[at].len()).unwrap();
        let gone = world.resize(&[largest], 250);
        let left = world.markets[largest].book.len();
        assert_eq!((left, left + gone.len()), (before[largest].len() / 4, before[largest].len()));
        world.resize(&[largest], 1_000);
        assert_eq!(books(&world), before);
        let best = |world: &World| world.ads[world.markets[largest].book[0]].terms.price;
        let price = best(&world);
        assert_eq!(world.reprice(&[largest], 1_300).len(), before[largest].len());
        assert!((best(&world) / price - Decimal::new(13, 1)).abs() < Decimal::new(1, 2));
    }

    #[test]
    fn a_world_that_stands_still_has_no_events() {
        let mut world = World::new(&Spec {
            seed: 7,
            fiats: 1,
            assets: 1,
            ads: 0,
            delisted: 0,
            templates: vec![true],
            rates: Rates::default(),
        });
        assert_eq!(world.next_event(10_000), None);
        assert_eq!(world.tick, 10_000);
    }
}
