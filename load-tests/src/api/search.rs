//! The ad search: one page of one market.

use std::borrow::Cow;
use std::str::FromStr;

use rand::RngExt;
use rand::seq::SliceRandom;
use rust_decimal::Decimal;
use serde::Deserialize;

use super::witness::{Lies, SearchLie, shift_prices};
use super::{Answer, Behaviour, Renderer, Request, Seen, put};
use crate::market::{Ad, Market, Side, Top, World, rng_for};

/// The exchange refuses more rows than this.
const MAX_ROWS: i64 = 20;
/// `privilegeDesc`, `privilegeType` and `privilegeTypeAdTotalCount` of an item.
const PLAIN: [&str; 3] = ["null", "null", "null"];
const PRIVILEGED: [&str; 3] = ["null", "1", "null"];
const PROMOTED: [&str; 3] = ["\"Promoted Ad\"", "8", "1"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    fiat: Option<String>,
    asset: Option<String>,
    trade_type: Option<String>,
    page: Option<i64>,
    rows: Option<i64>,
    pay_types: Option<Vec<String>>,
    publisher_type: Option<String>,
    classifies: Option<Vec<String>>,
    /// A number, or decimal text; empty text means no filter.
    trans_amount: Option<serde_json::Value>,
}

/// A request that can be answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    fiat: String,
    asset: String,
    side: Side,
    page: usize,
    rows: usize,
    filter: Filter,
}

/// What narrows the list; everything empty narrows nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Filter {
    pay_types: Vec<String>,
    publisher: Option<String>,
    classifies: Vec<String>,
    amount: Option<Decimal>,
}

pub(super) fn search(
    world: &World,
    renderer: &Renderer,
    behaviour: &Behaviour,
    lies: &Lies,
    request: &Request<'_>,
) -> Answer {
    let Ok(body) = serde_json::from_slice::<Body>(request.body) else {
        return Answer::illegal_parameter();
    };
    let mut seen = Seen {
        fiat: body.fiat.clone(),
        asset: body.asset.clone(),
        side: body.trade_type.clone(),
        page: body.page,
        ..Seen::default()
    };
    let Some(query) = Query::check(body) else {
        return Answer { seen, ..Answer::illegal_parameter() };
    };
    let known = |id: &String| world.catalog.methods.iter().any(|method| method.identifier == *id);
    if !query.filter.pay_types.iter().all(known) {
        return Answer { seen, ..Answer::unsupported_payment_method() };
    }
    let page = match world.market(&query.fiat, &query.asset, query.side) {
        Some(market) => {
            let is_cut = lies.search == Some(SearchLie::Cut);
            Page::cut(world, renderer, behaviour, market, &query, request.number, is_cut)
        }
        None => Page::default(),
    };
    seen.ads = Some(page.items.len());
    seen.total = Some(page.total);
    let page = Answer { seen, ..Answer::json(page.render(world, renderer)) };
    if lies.search == Some(SearchLie::Shifted) { shift_prices(page) } else { page }
}

/// All pages of all markets as `body` asks for one of them: with its rows and filters; `None`: it asks for
/// nothing that can be answered.
#[must_use]
pub fn render_all(
    world: &World,
    renderer: &Renderer,
    behaviour: &Behaviour,
    body: &[u8],
) -> Option<Vec<(Query, Vec<u8>)>> {
    let asked = Query::parse(body)?;
    let mut all = Vec::new();
    for market in &world.markets {
        let key = world.key(market);
        for number in 1.. {
            let query = Query {
                fiat: key.fiat.clone(),
                asset: key.asset.clone(),
                side: market.side,
                page: number,
                ..asked.clone()
            };
            let page = Page::cut(world, renderer, behaviour, market, &query, 0, false);
            let is_last = page.items.is_empty();
            all.push((query, page.render(world, renderer)));
            if is_last {
                break;
            }
        }
    }
    Some(all)
}

impl Query {
    /// What a body asks for; `None`: nothing that can be answered.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        Self::check(serde_json::from_slice(body).ok()?)
    }

    fn check(body: Body) -> Option<Self> {
        let side = match body.trade_type?.as_str() {
            "BUY" => Side::Buy,
            "SELL" => Side::Sell,
            _ => return None,
        };
        let amount = match body.trans_amount {
            None | Some(serde_json::Value::Null) => None,
            Some(serde_json::Value::String(text)) if text.is_empty() => None,
            Some(serde_json::Value::String(text)) => Some(Decimal::from_str(&text).ok()?),
            Some(other) => Some(Decimal::from_str(&other.to_string()).ok()?),
        };
        let publisher = body.publisher_type.filter(|kind| !kind.is_empty());
        if publisher.as_deref().is_some_and(|kind| kind != "merchant" && kind != "user") {
            return None;
        }
        Some(Self {
            fiat: body.fiat.filter(|code| !code.is_empty())?,
            asset: body.asset.filter(|code| !code.is_empty())?,
            side,
            page: usize::try_from(body.page.filter(|&page| page >= 1)?).ok()?,
            rows: usize::try_from(body.rows.filter(|rows| (1..=MAX_ROWS).contains(rows))?).ok()?,
            filter: Filter {
                pay_types: body.pay_types.unwrap_or_default(),
                publisher,
                classifies: body.classifies.unwrap_or_default(),
                amount,
            },
        })
    }
}

impl Filter {
    fn accepts(&self, world: &World, renderer: &Renderer, ad: &Ad) -> bool {
        let pays = |&(at, _): &(usize, bool)| {
            self.pay_types.contains(&world.catalog.methods[at].identifier)
        };
        let advertiser = &world.advertisers[ad.advertiser];
        (self.pay_types.is_empty() || ad.terms.methods.iter().any(pays))
            && (self.classifies.is_empty()
                || self.classifies.iter().any(|class| class == ad.terms.classify))
            && self
                .publisher
                .as_ref()
                .is_none_or(|kind| renderer.template(advertiser).user_type() == kind)
            && self
                .amount
                .is_none_or(|amount| ad.terms.min <= amount && amount <= ad.derived.dynamic_max)
    }
}

/// The ads of a page with their privilege, and the total that it declares.
#[derive(Default)]
struct Page {
    items: Vec<(usize, [&'static str; 3])>,
    total: usize,
}

impl Page {
    fn cut(
        world: &World,
        renderer: &Renderer,
        behaviour: &Behaviour,
        market: &Market,
        query: &Query,
        number: u64,
        is_cut: bool,
    ) -> Self {
        let accepted = |at: &usize| query.filter.accepts(world, renderer, &world.ads[*at]);
        let all = market.book.iter().all(accepted);
        let mut ads: Cow<'_, [usize]> = if all {
            Cow::Borrowed(&market.book)
        } else {
            market.book.iter().copied().filter(accepted).collect()
        };
        if is_cut {
            let mut place = 0;
            ads.to_mut().retain(|_| {
                place += 1;
                place % 3 != 0
            });
        }
        let promoted = promoted(world, market, &ads);
        if let Some(at) = promoted.filter(|_| behaviour.promoted_once) {
            ads.to_mut().retain(|&other| other != at);
        }
        let start = (query.page - 1).saturating_mul(query.rows);
        if start >= ads.len() {
            // Past the end the exchange declares 0, not the size of the list.
            return Self::default();
        }
        let end = ads.len().min(start + query.rows);
        let mut items: Vec<_> = in_order(world, behaviour, &ads, start..end, number)
            .into_iter()
            .map(|at| (at, PLAIN))
            .collect();
        if query.page == 1 {
            match promoted {
                Some(at) => items.insert(0, (at, PROMOTED)),
                None if market.top == Top::Privileged => items[0].1 = PRIVILEGED,
                None => {}
            }
        }
        Self { items, total: ads.len() }
    }

    fn render(&self, world: &World, renderer: &Renderer) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.items.len() * 4_096);
        out.extend_from_slice(br#"{"code":"000000","message":null,"messageDetail":null,"data":["#);
        for (place, &(at, privilege)) in self.items.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            renderer.item(&mut out, world, at, privilege);
        }
        put(&mut out, format_args!(r#"],"total":{},"success":true}}"#, self.total));
        out
    }
}

/// The promoted ad, if it is among `ads` and worse than the best of them.
pub(super) fn promoted(world: &World, market: &Market, ads: &[usize]) -> Option<usize> {
    let Top::Promoted(Some(at)) = market.top else {
        return None;
    };
    let price = |at: usize| world.ads[at].terms.price;
    let first = *ads.first()?;
    (market.side.is_better(price(first), price(at)) && ads.contains(&at)).then_some(at)
}

/// The ads of a range of the list, as this request sees it: ads of one price may stand in another
/// order than in the request before.
fn in_order(
    world: &World,
    behaviour: &Behaviour,
    ads: &[usize],
    range: std::ops::Range<usize>,
    number: u64,
) -> Vec<usize> {
    const TIES: u64 = 4;
    let mut rng = rng_for(behaviour.seed, TIES, number);
    if !rng.random_ratio(behaviour.tie_shuffle_per_mille, 1000) {
        return ads[range].to_vec();
    }
    let price = |at: usize| world.ads[ads[at]].terms.price;
    let (mut low, mut high) = (range.start, range.end);
    while low > 0 && price(low - 1) == price(range.start) {
        low -= 1;
    }
    while high < ads.len() && price(high) == price(range.end - 1) {
        high += 1;
    }
    let mut seen = ads[low..high].to_vec();
    for ties in seen
        .chunk_by_mut(|&left, &right| world.ads[left].terms.price == world.ads[right].terms.price)
    {
        ties.shuffle(&mut rng);
    }
    seen[range.start - low..range.end - low].to_vec()
}
