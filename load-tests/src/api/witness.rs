//! The calls for agents: the first ads of a market and a price, from the same world as the search. No
//! answer of them was captured; the shapes are those that public readers of them expect.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use clap::ValueEnum;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::search::promoted;
use super::{Answer, Behaviour, Fault, Request, Seen};
use crate::market::{Market, Side, World};

/// More ads are not listed, and so many are if nothing is said.
const MAX_LIMIT: usize = 20;
const DEFAULT_LIMIT: usize = 10;
/// By what a lie multiplies prices: a per cent more, which no eye would catch.
const SHIFT_PPM: i64 = 1_010_000;

/// First ads and prices of each market, by its place in the world.
type Snapshot = HashMap<usize, Vec<(u64, Decimal)>>;

/// What the exchange says in place of the truth, on all that it says.
#[derive(Debug, Clone, Default)]
pub struct Lies {
    pub(super) search: Option<SearchLie>,
    witness: Option<WitnessLie>,
}

/// How the search lies; both ways its answers are consistent among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SearchLie {
    /// Every third ad of a book is left out, and not counted.
    Cut,
    /// Prices are a per cent higher.
    Shifted,
}

#[derive(Debug, Clone)]
enum WitnessLie {
    /// Prices are a per cent higher.
    Shifted,
    /// The lists are those of the moment at which it was told to lie.
    Stale(Arc<Snapshot>),
    /// HTTP 200 with ads that have no numbers.
    Unreadable,
    /// A fault, on every request.
    Fault(Fault),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    search: Option<SearchLie>,
    witness: Option<String>,
}

impl Lies {
    /// From `{"search": "cut", "witness": "stale"}`.
    pub fn told(body: &[u8], world: &World, behaviour: &Behaviour) -> Result<Self, String> {
        let told: Told = serde_json::from_slice(body).map_err(|error| {
            format!("allowed is an object such as {{\"search\": \"cut\", \"witness\": \"stale\"}}: {error}")
        })?;
        let witness = match told.witness.as_deref() {
            None => None,
            Some("shifted") => Some(WitnessLie::Shifted),
            Some("stale") => Some(WitnessLie::Stale(Arc::new(snapshot(world, behaviour)))),
            Some("unreadable") => Some(WitnessLie::Unreadable),
            Some(other) => Some(WitnessLie::Fault(Fault::from_str(other, false).map_err(|_| {
                format!("witness is {other:?}, allowed are shifted, stale, unreadable and the kinds of faults")
            })?)),
        };
        Ok(Self { search: told.search, witness })
    }
}

fn snapshot(world: &World, behaviour: &Behaviour) -> Snapshot {
    let first = |market: &Market| top(world, behaviour, market);
    world.markets.iter().enumerate().map(|(at, market)| (at, first(market))).collect()
}

/// The first ads of a market by price: as the search lists them, the promoted place left out.
fn top(world: &World, behaviour: &Behaviour, market: &Market) -> Vec<(u64, Decimal)> {
    let on_top_only = promoted(world, market, &market.book).filter(|_| behaviour.promoted_once);
    let ordinary = market.book.iter().filter(|&&at| Some(at) != on_top_only);
    let ad = |&at: &usize| (world.ads[at].number, world.ads[at].terms.price);
    ordinary.take(MAX_LIMIT).map(ad).collect()
}

/// What is asked of either call.
struct Query {
    fiat: String,
    asset: String,
    side: Side,
    limit: usize,
}

impl Query {
    fn read(query: &str) -> Option<Self> {
        let named = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value)
        };
        let side = match named("tradeType")? {
            "BUY" => Side::Buy,
            "SELL" => Side::Sell,
            _ => return None,
        };
        let limit = named("limit").map_or(Some(DEFAULT_LIMIT), |text| text.parse().ok())?;
        Some(Self {
            fiat: named("fiat")?.to_owned(),
            asset: named("asset")?.to_owned(),
            side,
            limit: Some(limit).filter(|limit| (1..=MAX_LIMIT).contains(limit))?,
        })
    }

    fn seen(&self) -> Seen {
        Seen {
            fiat: Some(self.fiat.clone()),
            asset: Some(self.asset.clone()),
            side: Some(self.side.as_str().to_owned()),
            ..Seen::default()
        }
    }

    /// Numbers and prices, as the lie in force has them.
    fn ads(
        &self,
        world: &World,
        behaviour: &Behaviour,
        lie: Option<&WitnessLie>,
    ) -> Vec<(u64, Decimal)> {
        let Some(market) = world.market(&self.fiat, &self.asset, self.side) else {
            return Vec::new();
        };
        let at = world.markets.iter().position(|other| std::ptr::eq(other, market));
        match (lie, at) {
            (Some(WitnessLie::Stale(snapshot)), Some(at)) => {
                snapshot.get(&at).cloned().unwrap_or_default()
            }
            (Some(WitnessLie::Shifted), _) => {
                let ads = top(world, behaviour, market).into_iter();
                ads.map(|(number, price)| (number, shifted(price))).collect()
            }
            _ => top(world, behaviour, market),
        }
    }
}

/// A price as a lie has it, with the decimals that it had.
fn shifted(price: Decimal) -> Decimal {
    let mut shifted = (price * Decimal::new(SHIFT_PPM, 6)).trunc_with_scale(price.scale());
    shifted.rescale(price.scale());
    shifted
}

#[derive(Serialize)]
struct Listing {
    items: Vec<Item>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    #[serde(skip_serializing_if = "Option::is_none")]
    ad_no: Option<String>,
    price: String,
}

#[derive(Serialize)]
struct Quote {
    asset: String,
    fiat: String,
    price: Box<RawValue>,
}

/// `agent/ad-list`.
pub(super) fn ad_list(
    world: &World,
    behaviour: &Behaviour,
    lies: &Lies,
    request: &Request<'_>,
) -> Answer {
    let Some(query) = Query::read(request.query) else {
        return Answer::illegal_parameter();
    };
    let lie = lies.witness.as_ref();
    let is_unreadable = matches!(lie, Some(WitnessLie::Unreadable));
    let item = |(number, price): (u64, Decimal)| Item {
        ad_no: (!is_unreadable).then(|| number.to_string()),
        price: price.to_string(),
    };
    let ads = query.ads(world, behaviour, lie).into_iter().take(query.limit);
    let answer = Answer::data(&Listing { items: ads.map(item).collect() });
    spoil(Answer { seen: query.seen(), ..answer }, lie, request)
}

/// `agent/quote-price`: here the best price.
pub(super) fn quote_price(
    world: &World,
    behaviour: &Behaviour,
    lies: &Lies,
    request: &Request<'_>,
) -> Answer {
    let Some(query) = Query::read(request.query) else {
        return Answer::illegal_parameter();
    };
    let lie = lies.witness.as_ref();
    let best = query.ads(world, behaviour, lie).first().map(|(_, price)| price.to_string());
    let best = best.filter(|_| !matches!(lie, Some(WitnessLie::Unreadable)));
    // A number, digits as they are.
    let price = RawValue::from_string(best.unwrap_or_else(|| "null".to_owned()));
    let quote = Quote {
        asset: query.asset.clone(),
        fiat: query.fiat.clone(),
        price: price.unwrap_or_default(),
    };
    spoil(Answer { seen: query.seen(), ..Answer::data(&quote) }, lie, request)
}

fn spoil(right: Answer, lie: Option<&WitnessLie>, request: &Request<'_>) -> Answer {
    match lie {
        Some(WitnessLie::Fault(fault)) => fault.spoil(right, request.path),
        _ => right,
    }
}

/// The page of a search with every price a per cent higher.
pub(super) fn shift_prices(page: Answer) -> Answer {
    const KEY: &str = "\"price\":\"";
    let text = String::from_utf8_lossy(&page.body);
    let mut parts = text.split(KEY);
    let mut body = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (price, rest) = part.split_once('"').unwrap_or((part, ""));
        let price =
            Decimal::from_str(price).map_or_else(|_| price.to_owned(), |p| shifted(p).to_string());
        body.extend([KEY, &price, "\"", rest]);
    }
    Answer { body: body.into_bytes(), ..page }
}
