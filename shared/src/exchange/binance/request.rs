//! A job as a call of the API.

use serde_json::json;

use crate::domain::{Market, Side};
use crate::job::Work;

/// Ads asked for per page; the exchange refuses more with `000002`.
pub const SEARCH_ROWS: u32 = 20;
/// Ads that the witness is asked for: the most it gives.
pub const WITNESS_ROWS: u32 = 20;

/// The calls there are. Their paths are settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    FiatList,
    Assets,
    PaymentMethods,
    Search,
    Advertiser,
    WitnessAds,
    WitnessQuote,
}

impl Call {
    /// Whether it is another view of the exchange than the one that is read.
    #[must_use]
    pub fn is_witness(self) -> bool {
        matches!(self, Self::WitnessAds | Self::WitnessQuote)
    }
}

/// A call with what it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub call: Call,
    pub payload: Payload,
}

/// How a call is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// POST with a JSON body.
    Json(String),
    /// GET with these names and values as query, not yet encoded.
    Query(Vec<(&'static str, String)>),
}

/// Classes of ads to ask for: those of the web site. What an answer without them leaves out is not
/// known, so they are always sent, always the same.
const CLASSIFIES: [&str; 3] = ["mass", "profession", "fiat_trade"];

/// The call that does `work`.
#[must_use]
pub fn request(work: &Work) -> Request {
    let (call, body) = match work {
        Work::FiatList => (Call::FiatList, json!({})),
        Work::Assets { fiat, .. } => (Call::Assets, json!({ "fiat": fiat })),
        Work::PaymentMethods { fiat, .. } => {
            (Call::PaymentMethods, json!({ "fiat": fiat, "classifies": CLASSIFIES }))
        }
        Work::Search { market, page, .. } => (Call::Search, search_body(market, *page)),
        Work::Advertiser { user_no, .. } => {
            let payload = Payload::Query(vec![("userNo", user_no.clone())]);
            return Request { call: Call::Advertiser, payload };
        }
        Work::WitnessAds { market, .. } => {
            let mut query = market_query(market);
            query.extend([("limit", WITNESS_ROWS.to_string()), ("order", "price".to_owned())]);
            return Request { call: Call::WitnessAds, payload: Payload::Query(query) };
        }
        Work::WitnessQuote { market, .. } => {
            let payload = Payload::Query(market_query(market));
            return Request { call: Call::WitnessQuote, payload };
        }
    };
    Request { call, payload: Payload::Json(body.to_string()) }
}

fn market_query(market: &Market) -> Vec<(&'static str, String)> {
    vec![
        ("fiat", market.fiat.clone()),
        ("asset", market.asset.clone()),
        ("tradeType", side_code(market.side).to_owned()),
    ]
}

/// Every filter narrows the book; the whole book is asked for, so none is set.
fn search_body(market: &Market, page: u32) -> serde_json::Value {
    json!({
        "fiat": market.fiat,
        "asset": market.asset,
        "tradeType": side_code(market.side),
        "page": page,
        "rows": SEARCH_ROWS,
        "payTypes": [],
        "countries": [],
        "periods": [],
        "publisherType": null,
        "classifies": CLASSIFIES,
        "filterType": "all",
        "additionalKycVerifyFilter": 0,
        "proMerchantAds": false,
        "shieldMerchantAds": false,
        "tradedWith": false,
        "followed": false,
    })
}

fn side_code(side: Side) -> &'static str {
    side.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_names_the_takers_side_and_sets_no_filter() {
        let market = Market::new("VES", "USDT", Side::Buy).unwrap();
        let work = Work::Search { market_id: 7, market, page: 3, ads_expected: true };
        let request = request(&work);
        assert_eq!(request.call, Call::Search);
        let Payload::Json(body) = request.payload else { panic!("a search is a POST") };
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["tradeType"], "BUY");
        assert_eq!((body["page"].as_u64(), body["rows"].as_u64()), (Some(3), Some(20)));
        assert_eq!(body["payTypes"], json!([]));
        assert_eq!(body["publisherType"], json!(null));
    }

    #[test]
    fn the_witness_is_asked_for_the_same_side() {
        let market = Market::new("VES", "USDT", Side::Sell).unwrap();
        let ads = request(&Work::WitnessAds { market_id: 7, market: market.clone() });
        let quote = request(&Work::WitnessQuote { market_id: 7, market });
        assert_eq!((ads.call, quote.call), (Call::WitnessAds, Call::WitnessQuote));
        let named = |request: Request| match request.payload {
            Payload::Query(query) => {
                query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
            }
            Payload::Json(_) => panic!("the witness is a GET"),
        };
        let market = ["fiat=VES", "asset=USDT", "tradeType=SELL"];
        assert_eq!(named(ads), [&market[..], &["limit=20", "order=price"]].concat());
        assert_eq!(named(quote), market);
    }
}
