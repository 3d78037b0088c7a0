//! What the parser makes of a page.

use proptest::prelude::*;
use serde_json::{Value, json};
use shared::domain::{Market, Rule, Side};
use shared::exchange::binance::{Page, parse_search};
use shared::job::Failure;

fn market() -> Market {
    Market::new("KZT", "BNB", Side::Buy).unwrap()
}

/// Exact bytes of the exchange, 2022.
const KZT_2022: &[u8] =
    include_bytes!("../../../fixtures/binance/search/search-BNB-KZT-BUY-2022-06-20T17-34-p1.json");

/// The first item of a captured answer, changed.
fn parse_changed(change: impl FnOnce(&mut Value)) -> Page {
    let answer: Value = serde_json::from_slice(KZT_2022).unwrap();
    let mut item = answer["data"][0].clone();
    change(&mut item);
    let answer = json!({ "code": "000000", "data": [item], "total": 1, "success": true });
    parse_search(&market(), answer.to_string().as_bytes()).unwrap()
}

#[track_caller]
fn assert_refused(page: &Page, reason: Rule, field: &str) {
    assert_eq!(page.ads, []);
    let refusal = &page.refusals[0];
    assert_eq!(
        (refusal.reason, refusal.field.as_deref()),
        (reason, Some(field)),
        "{}",
        refusal.detail
    );
    assert!(refusal.raw.starts_with(b"{"), "the bytes are kept");
}

#[test]
fn a_page_of_2022() {
    let page = parse_search(&market(), KZT_2022).unwrap();
    assert_eq!((page.total, page.ads.len(), page.refusals.len()), (Some(17), 10, 0));
    insta::assert_json_snapshot!(page.ads[0]);
}

/// Twenty ads and a promoted one, from a collector's line of 2026.
#[test]
fn a_page_of_2026_with_a_promoted_ad() {
    let line = include_str!(
        "../../../fixtures/binance/collector/collector-USDT-BOB-SELL-2026-08-22T21-39-35.json"
    );
    let ads: &serde_json::value::RawValue = {
        #[derive(serde::Deserialize)]
        struct Line<'a> {
            #[serde(borrow)]
            anuncios: &'a serde_json::value::RawValue,
        }
        serde_json::from_str::<Line<'_>>(line).unwrap().anuncios
    };
    let answer = format!(r#"{{"code":"000000","data":{ads},"total":101,"success":true}}"#);
    let page =
        parse_search(&Market::new("BOB", "USDT", Side::Sell).unwrap(), answer.as_bytes()).unwrap();
    assert_eq!((page.ads.len(), page.refusals.len()), (21, 0));
    let promoted: Vec<usize> =
        page.ads.iter().filter(|ad| ad.is_promoted).map(|ad| ad.position).collect();
    assert_eq!(promoted, [0]);
    assert!(page.ads.iter().all(|ad| ad.advertiser_side == Side::Buy));
    insta::assert_json_snapshot!(page.ads[0]);
}

#[test]
fn an_ad_without_what_it_needs_is_refused_with_the_field() {
    for (object, field) in [
        ("adv", "advNo"),
        ("adv", "price"),
        ("adv", "surplusAmount"),
        ("adv", "minSingleTransAmount"),
        ("adv", "maxSingleTransAmount"),
        ("advertiser", "userNo"),
    ] {
        let page = parse_changed(|item| item[object][field] = Value::Null);
        assert_refused(&page, Rule::MissingField, &format!("{object}.{field}"));
    }
    assert_refused(&parse_changed(|item| item["adv"] = Value::Null), Rule::MissingField, "adv");
}

#[test]
fn money_that_is_none_is_refused_and_never_rounded() {
    let price = |value: Value| parse_changed(|item| item["adv"]["price"] = value);
    assert_refused(&price(json!("NaN")), Rule::NotADecimal, "adv.price");
    assert_refused(&price(json!("-1")), Rule::OutOfRange, "adv.price");
    assert_refused(&price(json!("0")), Rule::PriceNotPositive, "adv.price");
    assert_refused(&price(json!("1.123456789")), Rule::OutOfRange, "adv.price");
    assert_refused(&price(json!({ "amount": "cheap" })), Rule::WrongType, "adv.price");
    let optional = parse_changed(|item| item["adv"]["tradableQuantity"] = json!("1000000000000"));
    assert_refused(&optional, Rule::OutOfRange, "adv.tradableQuantity");
    assert_eq!(
        price(json!(102_830.5)).ads[0].price.to_string(),
        "102830.5",
        "a number is as good as a text"
    );
}

#[test]
fn an_ad_of_another_market_is_not_stored_under_this_one() {
    for (field, value) in [("fiatUnit", "RUB"), ("asset", "BTC"), ("tradeType", "BUY")] {
        let page = parse_changed(|item| item["adv"][field] = json!(value));
        assert_refused(&page, Rule::OtherMarket, &format!("adv.{field}"));
    }
}

#[test]
fn a_retyped_decoration_costs_neither_ad_nor_silence() {
    let page = parse_changed(|item| {
        item["adv"]["payTimeLimit"] = json!(["15"]);
        item["advertiser"]["badges"] = json!(7);
    });
    let ad = &page.ads[0];
    assert_eq!((ad.pay_time_limit_minutes, &ad.advertiser.badges), (None, &None));
    assert_eq!(ad.warnings.len(), 2, "{:?}", ad.warnings);
}

#[test]
fn one_odd_element_does_not_cost_its_page() {
    let answer: Value = serde_json::from_slice(KZT_2022).unwrap();
    let mut items = answer["data"].as_array().unwrap().clone();
    items.insert(3, json!("not an ad"));
    items.insert(5, Value::Null);
    let answer = json!({ "code": "000000", "data": items, "success": true });
    let page = parse_search(&market(), answer.to_string().as_bytes()).unwrap();
    assert_eq!(page.ads.len(), 10);
    assert_eq!(page.refusals.iter().map(|refusal| refusal.position).collect::<Vec<_>>(), [3, 5]);
}

#[test]
fn a_key_twice_in_an_ad_is_refused() {
    let twice =
        String::from_utf8_lossy(KZT_2022).replacen(r#""price":"#, r#""price":"1","price":"#, 1);
    let page = parse_search(&market(), twice.as_bytes()).unwrap();
    assert_eq!((page.ads.len(), page.refusals[0].reason), (9, Rule::AmbiguousField));
    assert_eq!(page.refusals[0].field.as_deref(), Some("adv.price"));
    let same = String::from_utf8_lossy(KZT_2022).replacen(
        r#""price":"#,
        r#""price":"102830.00","price":"#,
        1,
    );
    let page = parse_search(&market(), same.as_bytes()).unwrap();
    assert_eq!((page.ads.len(), page.refusals.len()), (10, 0));
    assert_eq!(page.leniencies, ["adv.price twice"]);
}

#[test]
fn a_second_nameless_method_does_not_hide_the_name() {
    let page = parse_changed(|item| {
        item["adv"]["tradeMethods"] = json!([
            { "identifier": "QIWI", "tradeMethodName": null },
            { "identifier": "BANK", "tradeMethodName": "Bank Transfer" },
            { "identifier": "QIWI", "tradeMethodName": "QIWI wallet" },
        ]);
    });
    let methods: Vec<_> =
        page.ads[0].payment_methods.iter().map(|m| (&*m.identifier, m.name.as_deref())).collect();
    assert_eq!(methods, [("BANK", Some("Bank Transfer")), ("QIWI", Some("QIWI wallet"))]);
}

#[test]
fn an_absurd_number_of_methods_is_refused() {
    let page = parse_changed(|item| {
        let methods = (0..101).map(|n| json!({ "identifier": format!("M{n}") }));
        item["adv"]["tradeMethods"] = methods.collect();
    });
    assert_refused(&page, Rule::OutOfRange, "adv.tradeMethods");
}

#[test]
fn http_200_is_no_success() {
    let failure = |body: &str| parse_search(&market(), body.as_bytes()).unwrap_err();
    let illegal =
        failure(r#"{"code":"000002","message":"illegal parameter","data":null,"success":false}"#);
    assert!(illegal.is_permanent());
    assert_eq!(illegal.failure(), Failure::Rejected);
    for body in [
        "",
        "<html></html>",
        "[]",
        r#"{"code":"000000"}"#,
        r#"{"code":"000000","data":{}}"#,
        r#"{"code":"000000","data":[{"#,
    ] {
        assert_eq!(failure(body).failure(), Failure::Unparsable, "{body}");
    }
    assert_eq!(parse_search(&market(), &[0xff, 0xfe]).unwrap_err().failure(), Failure::Unparsable);
}

#[test]
fn nothing_found_is_a_page_without_ads() {
    let empty = include_bytes!("../../../fixtures/binance/errors/empty-success-2022.json");
    let page = parse_search(&market(), empty).unwrap();
    assert_eq!((page.total, page.is_lenient()), (Some(0), false));
    assert_eq!(page.ads.len() + page.refusals.len() + page.warnings.len(), 0);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "-?[0-9]{1,40}(\\.[0-9]{1,40})?".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-zA-Z]{1,8}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    /// Whatever the bytes: no panic.
    #[test]
    fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse_search(&market(), &bytes).is_err() || bytes.len() > 10);
    }

    /// Whatever stands in one field: the ad is taken or refused, never dropped.
    #[test]
    fn any_value_in_any_field_is_taken_or_refused(index in 0usize..200, value in any_json()) {
        let page = parse_changed(|item| {
            let object = if index.is_multiple_of(4) { "advertiser" } else { "adv" };
            let fields = item[object].as_object_mut().unwrap();
            let at = index % fields.len();
            *fields.values_mut().nth(at).unwrap() = value;
        });
        prop_assert_eq!(page.ads.len() + page.refusals.len(), 1);
    }

    /// A cut answer is never believed.
    #[test]
    fn a_cut_answer_is_an_error(cut in 1usize..KZT_2022.len() - 2) {
        prop_assert!(parse_search(&market(), &KZT_2022[..cut]).is_err());
    }
}
