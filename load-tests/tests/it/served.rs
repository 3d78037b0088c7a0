use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::process::Command;
use std::str::FromStr;

use flate2::read::GzDecoder;
use load_tests::truth::{AdContent, MarketKey, Record};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::sim::{CONFIG, FIATS, SEARCH, Sim, content};

const SMALL: &str = "--fiats 6 --ads 1500 --tie-shuffle-per-mille 0";
const BUSY: &str = "--fiats 4 --ads 800 --churn-per-minute 100 --change-per-minute 300 --rename-per-hour 900 --tie-shuffle-per-mille 0";

/// Every ad that is served, read page by page; checks totals, order and the promoted ad on the way.
fn read_all(sim: &Sim, once: bool) -> HashMap<(MarketKey, String), AdContent> {
    let mut all = HashMap::new();
    for market in sim.markets() {
        let mut ordinary = Vec::new();
        let (mut total, mut promoted) = (0, None);
        for number in 1.. {
            let page = sim.page(&market, number);
            let items = page["data"].as_array().unwrap();
            if items.is_empty() {
                assert_eq!(page["total"], 0, "past the end");
                break;
            }
            total = page["total"].as_u64().unwrap();
            for (at, item) in items.iter().enumerate() {
                assert_ne!(item["adv"]["tradeType"], market.side.as_str());
                let number_of_ad = item["adv"]["advNo"].as_str().unwrap().to_owned();
                assert_eq!(number_of_ad.len(), 20);
                all.insert((market.clone(), number_of_ad.clone()), content(item));
                if item["privilegeType"] == 8 {
                    assert_eq!((at, number, &item["privilegeDesc"]), (0, 1, &json!("Promoted Ad")));
                    promoted = Some((number_of_ad, content(item).price));
                } else {
                    ordinary.push((Decimal::from_str(&content(item).price).unwrap(), number_of_ad));
                }
            }
        }
        let distinct: HashSet<_> = ordinary.iter().map(|(_, number)| number).collect();
        assert_eq!(
            (distinct.len(), ordinary.len()),
            (ordinary.len(), usize::try_from(total).unwrap())
        );
        let buy = market.side == "BUY";
        assert!(ordinary.is_sorted_by(|(left, _), (right, _)| if buy {
            left <= right
        } else {
            left >= right
        }));
        if let Some((number, price)) = promoted {
            let price = Decimal::from_str(&price).unwrap();
            assert!(if buy { price > ordinary[0].0 } else { price < ordinary[0].0 });
            assert_eq!(distinct.contains(&number), !once);
        }
    }
    all
}

/// Goal: what is served is what is logged, value for value, at the start and after it has moved.
#[test]
fn the_truth_log_says_exactly_what_is_served() {
    let sim = Sim::start(BUSY);
    for _ in 0..3 {
        let (served, listed) = (read_all(&sim, false), sim.listed());
        assert_eq!(served.len(), listed.len());
        assert!(served == listed);
        sim.advance(60_000);
    }
    let records = sim.records();
    assert!(matches!(&records[0], Record::Header(header) if header.markets == sim.markets()));
    assert!(records.iter().any(|record| matches!(record, Record::Delisted(_))));
}

#[test]
fn a_promoted_ad_may_stand_on_top_only() {
    let sim = Sim::start(&format!("{SMALL} --promoted once"));
    assert!(read_all(&sim, true) == sim.listed());
}

/// Goal: advertisers in answers are as logged, digits of numbers included.
#[test]
fn advertisers_are_the_same_in_all_their_ads() {
    let sim = Sim::start(BUSY);
    sim.advance(120_000);
    let mut known = HashMap::new();
    for record in sim.records() {
        if let Record::Advertiser(event) = record {
            known.insert(event.user_no.clone(), event);
        }
    }
    let market = MarketKey { fiat: "INR".into(), asset: "USDT".into(), side: "SELL".into() };
    for number in 1..4 {
        let MarketKey { fiat, asset, side } = &market;
        let body =
            json!({"fiat": fiat, "asset": asset, "tradeType": side, "page": number, "rows": 20});
        let reply = sim.post(SEARCH, &body);
        let text = String::from_utf8(reply.body.clone()).unwrap();
        for item in reply.json()["data"].as_array().unwrap() {
            let advertiser = &item["advertiser"];
            let truth = &known[advertiser["userNo"].as_str().unwrap()];
            assert_eq!(advertiser["nickName"], truth.nick_name);
            assert_eq!(advertiser["monthOrderCount"], truth.month_order_count);
            assert_eq!(advertiser["userType"], truth.user_type);
            let rate = format!("\"monthFinishRate\":{},", truth.month_finish_rate);
            assert!(text.contains(&rate), "{rate}");
        }
    }
}

/// Goal: a run can be repeated. The same seed and steps give the same log but for the wall clock.
#[test]
fn the_seed_makes_the_log() {
    let log = |seed: u32| -> Vec<Value> {
        let sim = Sim::start(&format!("{BUSY} --seed {seed}"));
        (0..5).for_each(|_| sim.advance(7_000));
        let timeless = |record: &Record| {
            let mut value = serde_json::to_value(record).unwrap();
            value.as_object_mut().unwrap().remove("at_us");
            value
        };
        sim.records()[1..].iter().map(timeless).collect()
    };
    let first = log(11);
    assert!(first == log(11));
    assert!(first != log(12));
}

/// Goal: the items have the keys of the captures, in their order.
#[test]
fn items_look_like_the_captured() {
    let capture = include_str!(
        "../../../fixtures/binance/collector/collector-USDT-BOB-BUY-2026-08-22T21-39-35.json"
    );
    let capture: Value = serde_json::from_str(capture).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let sim = Sim::start(SMALL);
    let market = MarketKey { fiat: "VES".into(), asset: "USDT".into(), side: "BUY".into() };
    let page = sim.page(&market, 1);
    assert_eq!(keys(&page), ["code", "data", "message", "messageDetail", "success", "total"]);
    for (served, captured) in
        page["data"].as_array().unwrap().iter().zip(capture["anuncios"].as_array().unwrap())
    {
        assert_eq!(keys(served), keys(captured));
        assert_eq!(keys(&served["adv"]), keys(&captured["adv"]));
        assert_eq!(keys(&served["advertiser"]), keys(&captured["advertiser"]));
        let method = &served["adv"]["tradeMethods"][0];
        assert_eq!(keys(method), keys(&captured["adv"]["tradeMethods"][0]));
    }
}

#[test]
fn requests_that_the_exchange_refuses() {
    let sim = Sim::start(SMALL);
    let good = json!({"fiat": "INR", "asset": "USDT", "tradeType": "BUY", "page": 1, "rows": 20});
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        sim.post(SEARCH, &body)
    };
    for (key, value) in [
        ("rows", json!(50)),
        ("rows", json!(0)),
        ("page", json!(0)),
        ("asset", Value::Null),
        ("tradeType", json!("HOLD")),
        ("transAmount", json!("many")),
    ] {
        let reply = with(key, value.clone());
        let body = reply.json();
        assert_eq!((reply.status, &body["code"]), (200, &json!("000002")), "{key} {value}");
        assert!(body["data"].is_null() && body.get("total").is_none());
    }
    assert_eq!(with("payTypes", json!(["NoSuchBank"])).json()["code"], "083932");
    for (key, value) in [("fiat", "NGN"), ("fiat", "XXX"), ("asset", "NOPE")]
        .map(|(key, value)| (key, json!(value)))
    {
        let body = with(key, value).json();
        assert_eq!(
            (&body["code"], &body["data"], &body["total"]),
            (&json!("000000"), &json!([]), &json!(0))
        );
    }
    let gone = sim.call("GET", FIATS, "", "");
    assert_eq!((gone.status, &gone.json()["message"]), (404, &json!("No message available")));
    assert!(gone.json().get("code").is_none());
    let listed = sim.post(FIATS, &json!({})).json();
    assert!(listed["data"].as_array().unwrap().iter().all(|fiat| fiat["currencyCode"] != "NGN"));
    assert!(
        !sim.post(CONFIG, &json!({"fiat": "NGN"})).json()["data"]["areas"]
            .as_array()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn filters_narrow_the_list_and_the_total() {
    let sim = Sim::start(SMALL);
    let ask = |key: &str, value: Value| {
        let mut body =
            json!({"fiat": "INR", "asset": "USDT", "tradeType": "SELL", "page": 1, "rows": 20});
        body[key] = value;
        let page = sim.post(SEARCH, &body).json();
        (page["total"].as_u64().unwrap(), page["data"].as_array().unwrap().clone())
    };
    let (all, _) = ask("payTypes", json!([]));
    let (by_upi, items) = ask("payTypes", json!(["UPI"]));
    assert!(by_upi > 0 && by_upi < all);
    assert!(items.iter().all(|item| content(item).payment_methods.contains(&"UPI".to_owned())));
    let (by_amount, items) = ask("transAmount", json!("50000"));
    assert!(by_amount > 0 && by_amount < all);
    assert!(
        items
            .iter()
            .all(|item| Decimal::from_str(&content(item).min_amount).unwrap()
                <= Decimal::from(50_000))
    );
    let (merchants, items) = ask("publisherType", json!("merchant"));
    assert!(merchants > 0 && merchants < all);
    assert!(items.iter().all(|item| item["advertiser"]["userType"] == "merchant"));
    assert_eq!(ask("payTypes", json!(["MpesaKenya"])).0, 0);
}

#[test]
fn the_rate_limit_refuses_and_says_when() {
    let sim = Sim::start(&format!("{SMALL} --rate-limit 2"));
    let ask = || sim.post(FIATS, &json!({}));
    assert_eq!((ask().status, ask().status), (200, 200));
    let refused = ask();
    assert_eq!((refused.status, refused.headers["retry-after"].as_str()), (429, "60"));
    sim.advance(59_000);
    assert_eq!(ask().headers["retry-after"], "1");
    sim.advance(1_000);
    assert_eq!(ask().status, 200);
}

#[test]
fn limits_change_while_it_runs() {
    let sim = Sim::start(&format!("{SMALL} --rate-limit 9 --rate-window-seconds 10"));
    let ask = || sim.post(FIATS, &json!({})).status;
    sim.admin("limits", &json!({"per_window": 2, "per_second": 1}));
    assert_eq!((ask(), ask()), (200, 429));
    sim.advance(1_000);
    assert_eq!((ask(), ask()), (200, 429));
    sim.advance(2_000);
    assert_eq!(ask(), 429, "two in ten seconds");
    sim.admin("limits", &json!({"per_window": 0}));
    assert_eq!(ask(), 200);
    assert_eq!(sim.post("/sim/limits", &json!({"per_minute": 1})).status, 400);
}

/// Goal: a fiat that is no longer served is empty, not an error, and the truth log says that its ads
/// went.
#[test]
fn a_delisted_fiat_answers_empty() {
    let sim = Sim::start(BUSY);
    let before = sim.markets();
    let market = before.iter().find(|market| market.fiat == "VES").unwrap();
    assert!(sim.page(market, 1)["total"].as_u64().unwrap() > 0);
    sim.admin("delist?fiat=VES", &Value::Null);
    let after = sim.markets();
    assert!(after.len() < before.len() && after.iter().all(|market| market.fiat != "VES"));
    for _ in 0..3 {
        let page = sim.page(market, 1);
        assert_eq!(
            (&page["code"], &page["data"], &page["total"]),
            (&json!("000000"), &json!([]), &json!(0))
        );
        assert!(read_all(&sim, false) == sim.listed());
        sim.advance(60_000);
    }
    for wrong in ["fiat=VES", "fiat=XXX", ""] {
        let reply = sim.post(&format!("/sim/delist?{wrong}"), &Value::Null);
        assert_eq!(reply.status, 400, "{wrong}");
    }
}

#[test]
fn gzip_holds_the_same_bytes() {
    let sim = Sim::start(SMALL);
    let body = json!({"fiat": "INR", "asset": "USDT", "tradeType": "BUY", "page": 2, "rows": 20})
        .to_string();
    let plain = sim.call("POST", SEARCH, "", &body);
    let packed = sim.call("POST", SEARCH, "accept-encoding: gzip, br\r\n", &body);
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert_eq!(packed.headers["content-type"], "application/json;charset=UTF-8");
    let mut unpacked = Vec::new();
    GzDecoder::new(packed.body.as_slice()).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == plain.body && packed.body.len() * 3 < plain.body.len());
}

#[test]
fn ties_move_between_requests_when_told_to() {
    let sim = Sim::start("--fiats 1 --assets 1 --ads 1000 --tie-shuffle-per-mille 1000");
    let market = MarketKey { fiat: "INR".into(), asset: "USDT".into(), side: "SELL".into() };
    let order = || -> Vec<(String, String)> {
        let page = sim.page(&market, 3);
        let items = page["data"].as_array().unwrap().iter();
        items.map(|item| (content(item).price, item["adv"]["advNo"].to_string())).collect()
    };
    let orders: Vec<_> = (0..5).map(|_| order()).collect();
    assert!(orders.iter().any(|other| *other != orders[0]));
    let prices = |order: &[(String, String)]| {
        order.iter().map(|(price, _)| price.clone()).collect::<Vec<_>>()
    };
    assert!(orders.iter().all(|other| prices(other) == prices(&orders[0])));
}

#[test]
fn sigterm_ends_it() {
    let mut sim = Sim::start(SMALL);
    let id = sim.child().id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(sim.child().wait().unwrap().success());
}
