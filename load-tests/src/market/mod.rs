//! The world: markets, ads, advertisers, and their books in price order.
//!
//! A world is a function of its [`Spec`] and of how many ticks have passed, and of nothing else, so
//! that a failing run can be repeated. Money is [`Decimal`]; chances are integers.

pub mod catalog;
mod evolve;
mod generate;
mod names;

use std::collections::{HashMap, VecDeque};

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rust_decimal::Decimal;

pub use self::evolve::{Event, Rates, TICK_MS};
use crate::truth::{AdContent, MarketKey, PageDetails};
use catalog::Catalog;

/// What a world is made from.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Fiats served, 1 to 110.
    pub fiats: usize,
    /// Assets per fiat at most.
    pub assets: usize,
    /// Ads over all markets at the start.
    pub ads: usize,
    /// Fiats that are gone from the list but still answer.
    pub delisted: usize,
    /// The captured items that advertisers are grown from: whether each is a merchant.
    pub templates: Vec<bool>,
    /// How fast it changes.
    pub rates: Rates,
}

/// The taker's side of a market.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The taker buys; lowest price first.
    Buy,
    /// The taker sells; highest price first.
    Sell,
}

impl Side {
    /// Both sides, in the order of portal/config.
    pub const ALL: [Self; 2] = [Self::Buy, Self::Sell];

    /// The name in requests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "BUY",
            Self::Sell => "SELL",
        }
    }

    /// The side of the advertiser, which `adv.tradeType` holds.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Buy => Self::Sell,
            Self::Sell => Self::Buy,
        }
    }

    /// Whether `left` stands before `right` in a book.
    #[must_use]
    pub fn is_better(self, left: Decimal, right: Decimal) -> bool {
        match self {
            Self::Buy => left < right,
            Self::Sell => left > right,
        }
    }
}

/// One fiat × asset × side.
#[derive(Debug)]
pub struct Market {
    /// Index into [`Catalog::fiats`].
    pub fiat: usize,
    /// Index into [`Catalog::assets`].
    pub asset: usize,
    /// The taker's side.
    pub side: Side,
    /// Decimals of prices.
    pub price_scale: u32,
    /// Where prices gather.
    pub level: Decimal,
    /// The listed ads in price order, as indexes into [`World::ads`].
    pub book: Vec<usize>,
    /// What page 1 carries at its top.
    pub top: Top,
}

/// What stands at index 0 of page 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Top {
    /// Nothing special.
    Plain,
    /// The ordinary first ad with `privilegeType` 1.
    Privileged,
    /// The market has a promoted ad; `None` while there is none to promote.
    Promoted(Option<usize>),
}

/// An advertiser. Its figures are the same in all its ads at any moment.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are named after those of the answer")]
pub struct Advertiser {
    pub user_no: String,
    pub nick_name: String,
    pub month_order_count: u32,
    /// The number's text, digits as sent.
    pub month_finish_rate: String,
    /// The number's text, digits as sent.
    pub positive_rate: String,
    /// Which captured item its other fields come from.
    pub template: usize,
    /// Share of the amount that the exchange keeps when it sells, per million.
    pub commission_ppm: u32,
    /// Seconds between two sightings, and where in that span it starts; `None`: never told.
    pub active: Option<(u64, u64)>,
    /// Index of the fiat that most of its ads are in.
    pub home: usize,
}

/// An ad, listed or gone.
#[derive(Debug, Clone)]
pub struct Ad {
    /// The ad's number, above the signed 64-bit maximum.
    pub number: u64,
    /// Index into [`World::markets`].
    pub market: usize,
    /// Index into [`World::advertisers`].
    pub advertiser: usize,
    /// Which captured item its other fields come from.
    pub template: usize,
    /// How often its terms were reworded.
    pub wording: u32,
    /// Whether it stands in its market's book.
    pub listed: bool,
    /// Grows with every change of content.
    pub revision: u64,
    /// What the advertiser decides.
    pub terms: Terms,
    /// What follows from the terms.
    pub derived: Derived,
}

/// The rest of an ad follows from its number, so that nothing more is drawn.
impl Ad {
    /// A voucher, on few ads.
    #[must_use]
    pub fn voucher(&self) -> Option<serde_json::Value> {
        let voucher = || {
            serde_json::json!({ "voucherTemplateNo": self.number.to_string(),
                "voucherDiscountType": "RATIO", "fixDiscount": 0.0, "discountRatio": 0.25 })
        };
        (self.number % 50 == 7).then(voucher)
    }

    /// Labels that the exchange puts on few ads.
    #[must_use]
    pub fn labels(&self) -> Option<serde_json::Value> {
        const TITLE: &str = "c2c_tag_beginner_friendly_title";
        (self.number % 60 == 11)
            .then(|| serde_json::json!({ "appTitle": TITLE, "webTitle": TITLE }))
    }

    /// What only the page of the advertiser shows.
    #[must_use]
    pub fn details(&self) -> PageDetails {
        let is_floating = self.number.is_multiple_of(5);
        let (number, wording) = (self.number, self.wording);
        PageDetails {
            remarks: format!("Own account only.\nNo third party. ⚡ {number} / {wording}"),
            price_type: if is_floating { 2 } else { 1 },
            price_floating_ratio: (if is_floating { "101.50000000" } else { "100.00000000" })
                .to_owned(),
            buyer_kyc_limit: if number.is_multiple_of(2) { 90 } else { 10 },
            user_trade_volume_min: number.is_multiple_of(7).then(|| "0.10".to_owned()),
        }
    }
}

impl Advertiser {
    /// Average seconds to release, told of few.
    #[must_use]
    pub fn confirm_seconds(&self) -> Option<i32> {
        let seconds = i32::try_from(self.commission_ppm / 10).ok();
        seconds.filter(|seconds| seconds % 7 == 0)
    }
}

/// What the advertiser decides.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Fiat per unit of the asset.
    pub price: Decimal,
    /// What is left, in asset units.
    pub surplus: Decimal,
    /// Limits in fiat.
    pub min: Decimal,
    /// Limits in fiat.
    pub max: Decimal,
    /// Decimals of the limits: 0, or the fiat's for ads in the style of 2022.
    pub limit_scale: u32,
    /// Minutes.
    pub pay_time_limit: Option<u16>,
    /// Indexes into [`Catalog::methods`]; `true` marks a second, nameless entry of the same method.
    pub methods: Vec<(usize, bool)>,
    /// `mass`, `profession` or `fiat_trade`.
    pub classify: &'static str,
}

/// What follows from the terms.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are named after those of the answer")]
pub struct Derived {
    pub tradable: Decimal,
    pub dynamic_max: Decimal,
    pub min_quantity: Decimal,
    pub max_quantity: Decimal,
    pub dynamic_max_quantity: Decimal,
}

/// Everything that is served.
#[derive(Debug)]
pub struct World {
    /// What is offered.
    pub catalog: Catalog,
    /// Every market of portal/config, also the empty ones.
    pub markets: Vec<Market>,
    /// Every ad that is listed or may come back.
    pub ads: Vec<Ad>,
    /// Every advertiser.
    pub advertisers: Vec<Advertiser>,
    /// Ticks that have passed.
    pub tick: u64,
    index: HashMap<(usize, usize, Side), usize>,
    gone: VecDeque<usize>,
    rates: Rates,
    due: evolve::Due,
    rng: Xoshiro256PlusPlus,
    templates: Vec<bool>,
}

impl World {
    /// The market of that fiat, asset and side, if it is offered.
    #[must_use]
    pub fn market(&self, fiat: &str, asset: &str, side: Side) -> Option<&Market> {
        let fiat = self.catalog.fiat(fiat)?.0;
        let asset = self.catalog.assets.iter().position(|known| known.symbol == asset)?;
        self.index.get(&(fiat, asset, side)).map(|&at| &self.markets[at])
    }

    /// The key of a market as the truth log writes it.
    #[must_use]
    pub fn key(&self, market: &Market) -> MarketKey {
        MarketKey {
            fiat: self.catalog.fiats[market.fiat].code.clone(),
            asset: self.catalog.assets[market.asset].symbol.clone(),
            side: market.side.as_str().to_owned(),
        }
    }

    /// What a parser can see of an ad.
    #[must_use]
    pub fn content(&self, ad: &Ad) -> AdContent {
        let method = |(at, _): &(usize, bool)| self.catalog.methods[*at].identifier.clone();
        let mut payment_methods: Vec<String> = ad.terms.methods.iter().map(method).collect();
        payment_methods.sort();
        payment_methods.dedup();
        AdContent {
            price: ad.terms.price.to_string(),
            surplus_amount: ad.terms.surplus.to_string(),
            tradable_quantity: ad.derived.tradable.to_string(),
            min_amount: ad.terms.min.to_string(),
            max_amount: ad.terms.max.to_string(),
            dynamic_max_amount: ad.derived.dynamic_max.to_string(),
            min_quantity: ad.derived.min_quantity.to_string(),
            max_quantity: ad.derived.max_quantity.to_string(),
            dynamic_max_quantity: ad.derived.dynamic_max_quantity.to_string(),
            pay_time_limit: ad.terms.pay_time_limit,
            payment_methods,
            classify: ad.terms.classify.to_owned(),
            user_no: self.advertisers[ad.advertiser].user_no.clone(),
            voucher_template: ad.voucher(),
            adv_system_label_ret: ad.labels(),
        }
    }

    /// Seconds since the advertiser was last seen.
    #[must_use]
    pub fn active_seconds(&self, advertiser: &Advertiser) -> Option<u64> {
        let elapsed_secs = self.tick * TICK_MS / 1_000;
        advertiser.active.map(|(span, start)| (start + elapsed_secs) % span)
    }

    /// Puts an ad at its place in its book: by price, then by index.
    fn enter(&mut self, at: usize) {
        let ads = &self.ads;
        let price = ads[at].terms.price;
        let market = &mut self.markets[ads[at].market];
        let side = market.side;
        let place = market.book.partition_point(|&other| {
            let theirs = ads[other].terms.price;
            side.is_better(theirs, price) || (theirs == price && other < at)
        });
        market.book.insert(place, at);
        if market.top == Top::Promoted(None) && market.book.len() > 1 {
            market.top = Top::Promoted(market.book.last().copied());
        }
        self.ads[at].listed = true;
    }

    /// Takes an ad out of its book. Must be called before its price changes.
    fn leave(&mut self, at: usize) {
        let market = &mut self.markets[self.ads[at].market];
        market.book.retain(|&other| other != at);
        if market.top == Top::Promoted(Some(at)) {
            // The successor is worse than the best as long as two prices are left.
            market.top = Top::Promoted(market.book.get(market.book.len() / 2).copied());
        }
        self.ads[at].listed = false;
    }
}

/// A generator for one decision that must not depend on what was drawn before it.
#[must_use]
pub fn rng_for(seed: u64, purpose: u64, number: u64) -> Xoshiro256PlusPlus {
    let mixed = seed ^ purpose.rotate_left(48) ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Xoshiro256PlusPlus::seed_from_u64(mixed)
}

/// `value` × (1,000,000 + `ppm`) / 1,000,000.
fn shift_ppm(value: Decimal, ppm: i64) -> Decimal {
    value * Decimal::new(1_000_000 + ppm, 6)
}

/// `value` cut, never rounded, to exactly `scale` decimals.
fn cut(value: Decimal, scale: u32) -> Decimal {
    let mut value = value.trunc_with_scale(scale);
    value.rescale(scale);
    value
}
