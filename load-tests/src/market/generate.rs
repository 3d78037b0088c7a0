//! Makes a world from a seed.

use std::collections::{HashMap, VecDeque};

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;
use rust_decimal::Decimal;

use super::catalog::Catalog;
use super::{
    Ad, Advertiser, Derived, Market, Side, Spec, Terms, Top, World, cut, names, rng_for, shift_ppm,
};

/// Share of the ads that are not for USDT, per mille: 108 of 538 in BOB (2025-05-07).
const OTHER_ASSETS_PER_MILLE: u64 = 200;
/// Share of the non-empty markets with a promoted ad: 149 of 242 captured first pages.
const PROMOTED_PER_MILLE: u32 = 615;
/// Share of the others whose first ad has `privilegeType` 1: 68 of 93.
const PRIVILEGED_PER_MILLE: u32 = 730;
/// Purposes of [`rng_for`].
const BUILD: u64 = 1;
const TOP: u64 = 2;

impl World {
    /// The world at tick 0.
    #[must_use]
    pub fn new(spec: &Spec) -> Self {
        let catalog = Catalog::new(spec.fiats, spec.assets, spec.delisted);
        let markets = make_markets(&catalog, spec.seed);
        let index = |(at, m): (usize, &Market)| ((m.fiat, m.asset, m.side), at);
        let mut world = Self {
            index: markets.iter().enumerate().map(index).collect::<HashMap<_, _>>(),
            catalog,
            markets,
            ads: Vec::with_capacity(spec.ads),
            advertisers: Vec::new(),
            tick: 0,
            gone: VecDeque::new(),
            rates: spec.rates,
            due: super::evolve::Due::default(),
            rng: rng_for(spec.seed, BUILD, 0),
            templates: spec.templates.clone(),
        };
        for (market, count) in world.sizes(spec.ads).into_iter().enumerate() {
            for _ in 0..count {
                let ad = world.new_ad(market);
                world.ads.push(ad);
                world.enter(world.ads.len() - 1);
            }
            world.promote(market);
        }
        world
    }

    /// How many ads each market starts with; the sum is `ads`.
    fn sizes(&self, ads: usize) -> Vec<usize> {
        let asset_weights: u64 = self.catalog.assets.iter().map(|asset| asset.weight).sum();
        let weight = |market: &Market| {
            let fiat = &self.catalog.fiats[market.fiat];
            let of_side = u128::from(fiat.weights[usize::from(market.side == Side::Sell)]);
            let asset = u128::from(self.catalog.assets[market.asset].weight);
            if market.asset == 0 {
                of_side * u128::from(1000 - OTHER_ASSETS_PER_MILLE) * 1_000
            } else {
                of_side * u128::from(OTHER_ASSETS_PER_MILLE) * 1_000 * asset
                    / u128::from(asset_weights.max(1))
            }
        };
        let weights: Vec<u128> = self.markets.iter().map(weight).collect();
        let total = weights.iter().sum::<u128>().max(1);
        let share = |weight: &u128| usize::try_from(weight * ads as u128 / total).unwrap_or(ads);
        // Shares are cut, so most small combinations stay empty; the rest goes to the largest.
        let mut sizes: Vec<usize> = weights.iter().map(share).collect();
        let rest = ads - sizes.iter().sum::<usize>();
        let largest = (0..sizes.len()).max_by_key(|&at| (sizes[at], std::cmp::Reverse(at)));
        sizes[largest.unwrap_or(0)] += rest;
        sizes
    }

    fn promote(&mut self, at: usize) {
        let market = &mut self.markets[at];
        if market.top == Top::Promoted(None) && market.book.len() > 1 {
            let place = self.rng.random_range(market.book.len() / 2..market.book.len());
            market.top = Top::Promoted(Some(market.book[place]));
        }
    }

    /// An ad that is not yet listed, by an old or a new advertiser.
    pub(super) fn new_ad(&mut self, market: usize) -> Ad {
        let advertiser = self.pick_advertiser(self.markets[market].fiat);
        let merchant = self.templates[self.advertisers[advertiser].template];
        let terms = self.new_terms(market, merchant);
        let rng = &mut self.rng;
        let mut ad = Ad {
            number: rng.random_range(11_100_000_000_000_000_000..13_909_999_999_999_999_999),
            market,
            advertiser,
            template: self.advertisers[advertiser].template,
            wording: 0,
            listed: false,
            revision: 0,
            terms,
            derived: Derived::default(),
        };
        self.derive(&mut ad);
        ad
    }

    /// Most ads belong to an advertiser of their fiat, some to one that is busy in many.
    fn pick_advertiser(&mut self, fiat: usize) -> usize {
        let known = self.advertisers.len();
        let draw = self.rng.random_range(0..100);
        // One advertiser in 50 is busy everywhere; these carry 5 % of the ads.
        if draw < 5 && known >= 50 {
            return self.rng.random_range(0..known / 50) * 50;
        }
        if draw < 60 && known > 0 {
            // The newest advertisers are mostly of the fiat that is being filled.
            let recent = known.saturating_sub(40);
            let at = self.rng.random_range(recent..known);
            if self.advertisers[at].home == fiat {
                return at;
            }
        }
        let advertiser = self.new_advertiser(fiat);
        self.advertisers.push(advertiser);
        known
    }

    fn new_advertiser(&mut self, home: usize) -> Advertiser {
        let templates = self.templates.len();
        let rng = &mut self.rng;
        let magnitude = 10_u32.pow(rng.random_range(0..5));
        let month_order_count = rng.random_range(0..=2 * magnitude);
        let longest = 10_u64.pow(rng.random_range(3..7));
        let span = rng.random_range(30..longest);
        Advertiser {
            user_no: names::user_no(rng),
            nick_name: names::nick_name(rng),
            month_order_count,
            month_finish_rate: names::finish_rate(rng, month_order_count),
            positive_rate: names::positive_rate(rng),
            template: rng.random_range(0..templates),
            commission_ppm: rng.random_range(800..=3_500),
            active: (!rng.random_ratio(1, 100)).then(|| (span, rng.random_range(0..span))),
            home,
        }
    }

    fn new_terms(&mut self, at: usize, merchant: bool) -> Terms {
        let price = self.new_price(at);
        let (market, rng) = (&self.markets[at], &mut self.rng);
        let asset = &self.catalog.assets[market.asset];
        let fiat = &self.catalog.fiats[market.fiat];
        // 10 to 100,000 USD, each order of magnitude alike.
        let usd = Decimal::new(rng.random_range(100..1_000), 2)
            * Decimal::from(10_u32.pow(rng.random_range(1..5)));
        let surplus =
            cut(shift_ppm(usd / asset.price, rng.random_range(-9_999..9_999)), asset.scale);
        let limit_scale = if rng.random_ratio(1, 20) { fiat.scale } else { 0 };
        let worth = surplus * price;
        let max = round_limit(worth * Decimal::new(rng.random_range(200..3_000), 3), limit_scale);
        let min = round_limit(max * Decimal::new(rng.random_range(1..300), 3), limit_scale);
        let classify = match rng.random_range(0..1000) {
            0..4 => "fiat_trade",
            4..970 if merchant => "profession",
            _ => "mass",
        };
        Terms {
            price,
            surplus,
            min,
            max,
            limit_scale,
            pay_time_limit: pay_time_limit(rng),
            methods: pick_methods(rng, &fiat.methods),
            classify,
        }
    }

    /// A price near the market's level: worse rather than better, often equal to another ad's,
    /// now and then nonsense.
    pub(super) fn new_price(&mut self, at: usize) -> Decimal {
        let (market, rng) = (&self.markets[at], &mut self.rng);
        let draw = rng.random_range(0..1000);
        if draw < 150
            && let Some(&other) = market.book.choose(rng)
        {
            return self.ads[other].terms.price;
        }
        let worse = match draw {
            // Far worse than the rest, as real ones are: nobody offers far more than he must.
            990.. => rng.random_range(-15_000..350_000),
            _ => rng.random_range(0..60_000).min(rng.random_range(0..60_000)) - 3_000,
        };
        let ppm = if market.side == Side::Buy { worse } else { -worse };
        cut(shift_ppm(market.level, ppm), market.price_scale)
            .max(Decimal::new(1, market.price_scale))
    }

    /// Works out what follows from the terms. The lower limit yields where nothing else could be
    /// traded.
    pub(super) fn derive(&self, ad: &mut Ad) {
        let market = &self.markets[ad.market];
        let scale = self.catalog.assets[market.asset].scale;
        let commission = i64::from(self.advertisers[ad.advertiser].commission_ppm);
        let terms = &mut ad.terms;
        let tradable = match market.side {
            Side::Buy => cut(shift_ppm(terms.surplus, -commission), scale),
            Side::Sell => terms.surplus,
        };
        let dynamic_max = cut(terms.max.min(tradable * terms.price), terms.limit_scale);
        terms.min = terms.min.min(dynamic_max);
        let max_quantity = cut(terms.max / terms.price, scale);
        ad.derived = Derived {
            tradable,
            dynamic_max,
            min_quantity: cut(terms.min / terms.price, scale),
            max_quantity,
            dynamic_max_quantity: max_quantity.min(tradable),
        };
        ad.revision += 1;
    }
}

fn make_markets(catalog: &Catalog, seed: u64) -> Vec<Market> {
    let mut markets = Vec::new();
    for (fiat, currency) in catalog.fiats.iter().enumerate() {
        for (side_at, side) in Side::ALL.into_iter().enumerate() {
            for asset in 0..catalog.offered_assets(fiat, side_at) {
                let level = currency.levels[side_at] * catalog.assets[asset].price;
                let mut rng = rng_for(seed, TOP, markets.len() as u64);
                let top = if rng.random_ratio(PROMOTED_PER_MILLE, 1000) {
                    Top::Promoted(None)
                } else if rng.random_ratio(PRIVILEGED_PER_MILLE, 1000) {
                    Top::Privileged
                } else {
                    Top::Plain
                };
                let price_scale = price_scale(level);
                markets.push(Market { fiat, asset, side, price_scale, level, book: vec![], top });
            }
        }
    }
    markets
}

/// 2 decimals, 3 for low prices, 6 for tiny ones.
fn price_scale(level: Decimal) -> u32 {
    if level < Decimal::new(1, 1) {
        6
    } else if level < Decimal::from(2) {
        3
    } else {
        2
    }
}

/// Two leading digits, as people type limits; at least 1.
fn round_limit(value: Decimal, scale: u32) -> Decimal {
    let mut step = Decimal::ONE;
    while value >= step * Decimal::ONE_HUNDRED {
        step *= Decimal::TEN;
    }
    cut((value / step).trunc().max(Decimal::ONE) * step, scale)
}

pub(super) fn pay_time_limit(rng: &mut Xoshiro256PlusPlus) -> Option<u16> {
    match rng.random_range(0..100) {
        0..3 => None,
        3..70 => Some(15),
        70..90 => Some(30),
        90..95 => Some(45),
        95..97 => Some(60),
        97 => Some(120),
        98 => Some(180),
        _ => Some(360),
    }
}

/// One to five methods; one ad in twenty names one of them again, without its name.
fn pick_methods(rng: &mut Xoshiro256PlusPlus, of_fiat: &[usize]) -> Vec<(usize, bool)> {
    let count = rng.random_range(1..=5_usize).min(of_fiat.len());
    let mut methods: Vec<_> = of_fiat.sample(rng, count).map(|&method| (method, false)).collect();
    if rng.random_ratio(1, 20)
        && let Some(&(again, _)) = methods.first()
    {
        methods.push((again, true));
    }
    methods
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::Rates;

    fn world(seed: u64) -> World {
        World::new(&Spec {
            seed,
            fiats: 30,
            assets: 14,
            ads: 5_000,
            delisted: 1,
            templates: vec![true, false],
            rates: Rates::default(),
        })
    }

    fn contents(world: &World) -> Vec<(u64, crate::truth::AdContent)> {
        world.ads.iter().map(|ad| (ad.number, world.content(ad))).collect()
    }

    #[test]
    fn the_seed_makes_the_world() {
        assert_eq!(contents(&world(1)), contents(&world(1)));
        assert_ne!(contents(&world(1)), contents(&world(2)));
    }

    #[test]
    fn ads_obey_the_rules_of_the_exchange() {
        let world = world(3);
        assert_eq!(world.ads.len(), 5_000);
        for ad in &world.ads {
            let (terms, derived) = (&ad.terms, &ad.derived);
            let side = world.markets[ad.market].side;
            assert!(ad.number > u64::try_from(i64::MAX).unwrap());
            assert!(terms.price > Decimal::ZERO && terms.min <= derived.dynamic_max, "{ad:?}");
            assert!(derived.dynamic_max <= terms.max && derived.tradable > Decimal::ZERO, "{ad:?}");
            assert_eq!(side == Side::Sell, derived.tradable == terms.surplus, "{ad:?}");
            assert!(terms.price < Decimal::from(10_u64.pow(12)), "{ad:?}");
        }
    }

    #[test]
    fn sizes_are_like_the_real_ones() {
        let world = world(4);
        let ads = |wanted: &dyn Fn(&Market) -> bool| -> usize {
            world.markets.iter().filter(|m| wanted(m)).map(|m| m.book.len()).sum()
        };
        let (buy, sell) = (ads(&|m| m.side == Side::Buy), ads(&|m| m.side == Side::Sell));
        assert!(sell > buy * 3 / 2 && sell < buy * 3, "BUY {buy}, SELL {sell}");
        let usdt = ads(&|m| m.asset == 0);
        assert!((3_900..4_500).contains(&usdt), "USDT {usdt}");
        let empty = world.markets.iter().filter(|m| m.book.is_empty()).count();
        assert!(empty * 3 > world.markets.len(), "{empty} of {} are empty", world.markets.len());
    }
}
