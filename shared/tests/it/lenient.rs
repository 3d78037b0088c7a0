//! Answers whose shape drifted: what is still read, what is refused, and that nobody's value is guessed.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use shared::domain::{Ad, Market, Rule, Side};
use shared::exchange::binance::{Page, findings, parse_advertiser, parse_search};
use shared::job::{Failure, Work};

/// Exact bytes of the exchange, 2022.
const KZT_2022: &[u8] =
    include_bytes!("../../../fixtures/binance/search/search-BNB-KZT-BUY-2022-06-20T17-34-p1.json");

fn market() -> Market {
    Market::new("KZT", "BNB", Side::Buy).unwrap()
}

fn capture() -> Value {
    serde_json::from_slice(KZT_2022).unwrap()
}

fn parse(answer: &Value) -> Page {
    parse_search(&market(), answer.to_string().as_bytes()).unwrap()
}

/// The ads as they are read from the answer as sent.
fn as_sent() -> Vec<Ad> {
    ads(&parse_search(&market(), KZT_2022).unwrap())
}

/// The ads of a page without the figure that is a number, which tests send through a float.
fn ads(page: &Page) -> Vec<Ad> {
    let mut ads = page.ads.clone();
    for ad in &mut ads {
        ad.advertiser.completion_rate = None;
    }
    ads
}

/// The captured answer with every item changed.
fn drifted(change: impl Fn(&mut Map<String, Value>)) -> Page {
    let mut answer = capture();
    for item in answer["data"].as_array_mut().unwrap() {
        change(item.as_object_mut().unwrap());
    }
    parse(&answer)
}

fn adv(item: &mut Map<String, Value>) -> &mut Map<String, Value> {
    item["adv"].as_object_mut().unwrap()
}

/// Everything is taken as if nothing had changed, and the page says what had.
#[track_caller]
fn assert_same(page: &Page, leniencies: &[&str]) {
    assert_eq!(page.refusals, []);
    assert!(ads(page) == as_sent());
    assert_eq!(page.leniencies, leniencies);
    assert!(page.is_lenient());
}

#[test]
fn what_is_as_captured_needs_no_leniency() {
    let page = parse_search(&market(), KZT_2022).unwrap();
    assert!(!page.is_lenient() && page.ads.iter().all(|ad| ad.warnings.is_empty()));
}

#[test]
fn a_renamed_field_is_found_by_its_name() {
    for name in ["adv_no", "ADVNO", "AdvNo", "adv-no"] {
        let page = drifted(|item| {
            let value = adv(item).remove("advNo").unwrap();
            adv(item).insert(name.to_owned(), value);
        });
        assert_same(&page, &[&format!("adv.advNo at adv.{name}")]);
    }
}

#[test]
fn a_field_that_moved_is_found() {
    let page = drifted(|item| {
        let price = adv(item).remove("price").unwrap();
        adv(item).insert("detail".into(), json!({ "terms": { "price": price } }));
    });
    assert_same(&page, &["adv.price at adv.detail.terms.price"]);
    let page = drifted(|item| {
        let user = item.remove("advertiser").unwrap();
        adv(item).insert("user_info".into(), user);
    });
    let moved = [
        "advertiser.nickName at adv.user_info.nickName",
        "advertiser.userNo at adv.user_info.userNo",
    ];
    assert_same(&page, &moved);
    let flat = drifted(|item| {
        let (adv, user) = (item.remove("adv").unwrap(), item.remove("advertiser").unwrap());
        item.extend(adv.as_object().unwrap().clone());
        item.extend(user.as_object().unwrap().clone());
    });
    assert!(ads(&flat) == as_sent() && flat.is_lenient());
}

#[test]
fn money_as_a_number_is_read_from_its_text() {
    let text =
        String::from_utf8_lossy(KZT_2022).replace(r#""price":"102830.00""#, r#""price":102830.00"#);
    let page = parse_search(&market(), text.as_bytes()).unwrap();
    assert_same(&page, &["adv.price no text"]);
    assert_eq!(page.ads[0].price.to_string(), "102830.00", "digit for digit");
    let text = String::from_utf8_lossy(KZT_2022)
        .replace(r#""price":"102830.00""#, r#""price":0.1000000000000000055511151231257827"#);
    let page = parse_search(&market(), text.as_bytes()).unwrap();
    assert_eq!(page.refusals[0].reason, Rule::OutOfRange, "never rounded");
}

#[test]
fn an_ads_number_as_a_number_is_read_in_plain_digits_only() {
    let number = as_sent()[0].adv_no.clone();
    let replaced = |with: &str| {
        let text = String::from_utf8_lossy(KZT_2022)
            .replace(&format!(r#""advNo":"{number}""#), &format!(r#""advNo":{with}"#));
        parse_search(&market(), text.as_bytes()).unwrap()
    };
    assert_same(&replaced(&number), &["adv.advNo no text"]);
    let refused = replaced("1.1355E19");
    assert_eq!((refused.ads.len(), refused.refusals[0].reason), (9, Rule::WrongType));
}

#[test]
fn what_is_wrapped_around_one_value_is_undone() {
    for wrap in [
        (|value| json!([value])) as fn(Value) -> Value,
        |value| json!({ "value": value }),
        |value| json!({ "amount": value, "currency": "KZT" }),
        |value| json!([{ "amount": [value] }]),
    ] {
        let page = drifted(|item| {
            let price = adv(item)["price"].take();
            adv(item)["price"] = wrap(price);
        });
        assert_same(&page, &["adv.price wrapped"]);
    }
    let page = drifted(|item| {
        let adv = item["adv"].take();
        item["adv"] = json!([adv]);
    });
    assert_same(&page, &["adv not as it should be"]);
}

#[test]
fn two_values_are_none() {
    let page = drifted(|item| {
        let price = adv(item).remove("price").unwrap();
        adv(item).insert("a".into(), json!({ "price": price }));
        adv(item).insert("b".into(), json!({ "price": "1" }));
    });
    assert_eq!((page.ads.len(), page.refusals.len()), (0, 10));
    let refusal = &page.refusals[0];
    assert_eq!(
        (refusal.reason, refusal.field.as_deref()),
        (Rule::AmbiguousField, Some("adv.price"))
    );
    // One and the same value is no question.
    let page = drifted(|item| {
        let price = adv(item).remove("price").unwrap();
        adv(item).insert("a".into(), json!({ "price": price }));
        adv(item).insert("b".into(), json!({ "price": price }));
    });
    assert!(ads(&page) == as_sent());
}

#[test]
fn a_name_within_a_field_of_its_own_meaning_is_not_taken() {
    let page = drifted(|item| {
        adv(item).remove("price");
        adv(item).insert("voucherTemplate".into(), json!({ "price": "7" }));
        adv(item).insert("fiatVo".into(), json!({ "price": "8" }));
    });
    assert_eq!((page.ads.len(), page.refusals.len()), (0, 10));
    let refusal = &page.refusals[0];
    assert_eq!((refusal.reason, refusal.field.as_deref()), (Rule::MissingField, Some("adv.price")));
}

#[test]
fn the_list_is_found_one_deeper() {
    for name in ["items", "list", "records"] {
        let mut answer = capture();
        let (ads, total) = (answer["data"].take(), answer["total"].take());
        answer["data"] = json!({ name: ads, "total": total, "page": 1 });
        let page = parse(&answer);
        assert_same(&page, &[&format!("data[] at data.{name}")]);
        assert_eq!(page.total, Some(17));
    }
    let mut answer = capture();
    let ads = answer["data"].take();
    answer["data"] = json!([ads]);
    assert_same(&parse(&answer), &["data[] at data[0]"]);
    answer["data"] = json!({ "a": [], "b": [] });
    let error = parse_search(&market(), answer.to_string().as_bytes()).unwrap_err();
    assert_eq!(error.failure(), Failure::Unparsable);
}

#[test]
fn a_retyped_envelope_is_read() {
    let mut answer = capture();
    answer["code"] = json!(0);
    answer["total"] = json!("17");
    let page = parse(&answer);
    assert_same(&page, &["code no text", "total no number"]);
    assert_eq!(page.total, Some(17));
    let restricted = br#"{"code":0,"msg":"Service unavailable from a restricted location"}"#;
    assert_eq!(parse_search(&market(), restricted).unwrap_err().failure(), Failure::Rejected);
}

#[test]
fn payment_methods_are_found_in_other_forms() {
    let methods = |change: fn(Value) -> Value| {
        drifted(|item| {
            let methods = adv(item)["tradeMethods"].take();
            adv(item)["tradeMethods"] = change(methods);
        })
    };
    let wrapped = methods(|methods| json!({ "list": methods }));
    assert_same(&wrapped, &["adv.tradeMethods wrapped"]);
    let named = methods(|methods| {
        let text = methods.to_string().replace("identifier", "Identifier");
        serde_json::from_str(&text.replace("tradeMethodName", "trade_method_name")).unwrap()
    });
    assert_eq!(named.ads.len(), 10);
    assert_eq!(named.ads[0].payment_methods[0].name, as_sent()[0].payment_methods[0].name);
    let texts = methods(|methods| {
        methods.as_array().unwrap().iter().map(|method| method["identifier"].clone()).collect()
    });
    let identifiers = |ads: &[Ad]| -> Vec<String> {
        let methods = ads.iter().flat_map(|ad| &ad.payment_methods);
        methods.map(|method| method.identifier.clone()).collect()
    };
    assert_eq!(identifiers(&texts.ads), identifiers(&as_sent()));
    let none = drifted(|item| drop(adv(item).remove("tradeMethods")));
    assert_eq!(none.ads.len(), 10);
    assert!(none.ads.iter().all(|ad| ad.warnings[0].rule == Rule::NoPaymentMethods));
    assert!(none.is_lenient());
}

#[test]
fn an_unknown_side_is_data_and_the_other_side_is_not_ours() {
    let side = |word: &str| drifted(|item| adv(item)["tradeType"] = json!(word));
    let page = side("LEND");
    assert_eq!((page.ads.len(), page.is_lenient()), (10, false));
    assert!(page.ads.iter().all(|ad| ad.warnings[0].rule == Rule::UnknownSide));
    assert_eq!(page.ads[0].advertiser_side, Side::Sell);
    assert_eq!(side("BUY").refusals[0].reason, Rule::OtherMarket);
    assert!(ads(&side("sell")) == as_sent());
}

#[test]
fn bytes_that_are_no_text_cost_their_ad_only() {
    let text = String::from_utf8_lossy(KZT_2022);
    let at = text.match_indices(r#""nickName":""#).nth(3).unwrap();
    let mut bytes = KZT_2022.to_vec();
    bytes.splice(at.0 + at.1.len()..at.0 + at.1.len(), [0xff, 0xfe]);
    let page = parse_search(&market(), &bytes).unwrap();
    assert_eq!((page.ads.len(), page.refusals.len(), page.total), (9, 1, Some(17)));
    let refusal = &page.refusals[0];
    assert_eq!((refusal.position, refusal.reason), (3, Rule::BadText));
    assert!(refusal.raw.windows(2).any(|two| two == [0xff, 0xfe]), "the bytes are kept");
    let start = bytes.windows(refusal.raw.len()).position(|part| part == refusal.raw);
    assert!(start.is_some(), "exactly");
    assert!(!page.is_lenient());
}

#[test]
fn what_is_no_json_costs_its_ad_only() {
    for junk in ["NaN", "Infinity", "01", "tru", "1 2", "\"\u{1}\"", "\"\\x\"", ""] {
        let text = String::from_utf8_lossy(KZT_2022).replacen(
            r#""price":"102830.00""#,
            &format!(r#""price":{junk}"#),
            1,
        );
        let page = parse_search(&market(), text.as_bytes()).unwrap();
        assert_eq!((page.ads.len(), page.refusals[0].reason), (9, Rule::Malformed), "{junk}");
    }
}

#[test]
fn monsters_are_borne() {
    let mut answer = capture();
    answer["data"][0]["adv"]["price"] = json!(format!("0.{}", "3".repeat(60)));
    answer["data"][1]["adv"]["remarks"] = json!("x".repeat(50_000_000));
    let page = parse(&answer);
    assert_eq!((page.ads.len(), page.refusals.len()), (9, 1));
    assert_eq!(page.refusals[0].reason, Rule::OutOfRange);
    assert_eq!(page.ads[0].warnings[0].rule, Rule::UnreadableField);

    let deep =
        format!(r#"{{"code":"000000","data":[{}1{}]}}"#, "[".repeat(500_000), "]".repeat(500_000));
    assert_eq!(
        parse_search(&market(), deep.as_bytes()).unwrap_err().failure(),
        Failure::Unparsable
    );
    let many = format!(r#"{{"code":"000000","data":[{}1]}}"#, "1,".repeat(1_000_000));
    let error = parse_search(&market(), many.as_bytes()).unwrap_err();
    assert_eq!(error.failure(), Failure::OversizedPage);
    let wide: Map<String, Value> =
        (0..100_000).map(|n| (format!("price{n}"), json!("1"))).collect();
    let wide = json!({ "code": "000000", "data": [{ "adv": wide, "advertiser": {} }] });
    assert_eq!(parse(&wide).refusals[0].reason, Rule::MissingField);
}

#[test]
fn an_ad_of_an_advertisers_page_is_read_leniently_too() {
    let ad = capture()["data"][0]["adv"].clone();
    let page = |ad: Value| {
        let data = json!({ "userDetailVo": { "userNo": "s1", "nickName": "n" }, "buyList": [], "sellList": [ad] });
        let answer = json!({ "code": "000000", "data": data, "success": true });
        parse_advertiser(None, answer.to_string().as_bytes()).unwrap()
    };
    let strict = page(ad.clone());
    assert_eq!((strict.ads.len(), strict.is_lenient()), (1, false));
    let mut moved = ad;
    let price = moved["price"].take();
    moved["detail"] = json!({ "PRICE": price });
    let lenient = page(moved);
    assert_eq!(lenient.ads, strict.ads);
    assert_eq!(lenient.leniencies, ["adv.price at adv.detail.PRICE"]);
}

#[test]
fn an_ad_twice_at_ordinary_places_is_told() {
    let mut answer = capture();
    let again = answer["data"][2].clone();
    answer["data"][5] = again;
    let page = parse(&answer);
    assert_eq!(page.ads.len(), 10);
    assert_eq!(page.warnings.len(), 1);
    assert_eq!(page.warnings[0].rule, Rule::DuplicateInPage);
    answer["data"][2]["privilegeType"] = json!(8);
    assert_eq!(parse(&answer).warnings, [], "the promoted ad may come again");
}

#[test]
fn a_member_of_the_envelope_twice_does_not_cost_the_page() {
    let text = String::from_utf8_lossy(KZT_2022);
    let twice = |member: &str| {
        let text = text.replacen('{', &format!("{{{member},"), 1);
        parse_search(&market(), text.as_bytes())
    };
    let page = twice(r#""total":3"#).unwrap();
    assert_eq!((page.ads.len(), page.total), (10, None), "which of two totals, nobody knows");
    assert_eq!(twice(r#""message":"x""#).unwrap().ads.len(), 10);
    assert_eq!(twice(r#""code":"000000""#).unwrap().total, Some(17));
    assert_eq!(twice(r#""data":[]"#).unwrap_err().failure(), Failure::Unparsable);
}

#[test]
fn what_is_odd_is_kept_with_the_ad() {
    let rule = |object: &str, field: &str, value: Value| {
        let page = drifted(|item| item[object][field] = value.clone());
        assert_eq!((page.ads.len(), page.is_lenient()), (10, false), "{field}");
        let rules: Vec<_> = page.ads[0].warnings.iter().map(|warning| warning.rule).collect();
        assert_eq!(page.ads[0].warnings[0].field, format!("{object}.{field}"));
        rules
    };
    assert_eq!(rule("adv", "minSingleTransAmount", json!("99999999999")), [Rule::LimitsCrossed]);
    assert_eq!(
        rule("adv", "dynamicMaxSingleTransAmount", json!("99999999999")),
        [Rule::DynamicMaxAboveMax]
    );
    assert_eq!(
        rule("adv", "tradableQuantity", json!("99999999999")),
        [Rule::TradableAboveAvailable]
    );
    assert_eq!(rule("adv", "price", json!("1.12345")), [Rule::PriceScale]);
    assert_eq!(rule("advertiser", "monthFinishRate", json!(1.01)), [Rule::RateOutOfRange]);
    assert_eq!(rule("advertiser", "positiveRate", json!(-0.5)), [Rule::RateOutOfRange]);
    assert_eq!(rule("adv", "tradeMethods", json!([])), [Rule::NoPaymentMethods]);
    assert_eq!(rule("adv", "payTimeLimit", json!({})), [Rule::UnreadableField]);
}

/// What may be done to an answer.
#[derive(Clone, Debug)]
enum Damage {
    Rename(String),
    Retype(Value),
    Remove,
    Nest(String),
    Wrap,
    Swap,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        "[a-zA-Z_]{1,12}".prop_map(Damage::Rename),
        prop_oneof![
            Just(json!(null)),
            Just(json!(true)),
            Just(json!(1.5)),
            Just(json!("NaN")),
            Just(json!([])),
            Just(json!({})),
            Just(json!("")),
            Just(json!(-1)),
            Just(json!("1e400")),
            Just(json!("\u{0}")),
            Just(json!("9".repeat(60))),
        ]
        .prop_map(Damage::Retype),
        Just(Damage::Remove),
        "[a-z]{1,6}".prop_map(Damage::Nest),
        Just(Damage::Wrap),
        Just(Damage::Swap),
    ]
}

/// Does it to a member of some object of the answer.
fn apply(value: &mut Value, at: &mut usize, damage: &Damage) -> bool {
    match value {
        Value::Array(items) => items.iter_mut().any(|item| apply(item, at, damage)),
        Value::Object(members) => {
            let names: Vec<String> = members.keys().cloned().collect();
            for (index, name) in names.iter().enumerate() {
                if *at > 0 {
                    *at -= 1;
                    if members.get_mut(name).is_some_and(|value| apply(value, at, damage)) {
                        return true;
                    }
                    continue;
                }
                let old = members.remove(name).unwrap_or_default();
                let (name, value) = match damage {
                    Damage::Rename(new) => (new.clone(), old),
                    Damage::Retype(new) => (name.clone(), new.clone()),
                    Damage::Remove => return true,
                    Damage::Nest(new) => (new.clone(), json!({ name.clone(): old })),
                    Damage::Wrap => (name.clone(), json!([old])),
                    Damage::Swap => (names[(index + 1) % names.len()].clone(), old),
                };
                members.insert(name, value);
                return true;
            }
            false
        }
        _ => false,
    }
}

/// What is taken for the elements: a list that is wrapped alone in another is looked into.
fn elements(data: &Value) -> Option<usize> {
    match data.as_array()?.as_slice() {
        [Value::Array(inner)] => Some(inner.len()),
        items => Some(items.len()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is done to a captured answer: it is an error, or every element is taken or refused.
    #[test]
    fn any_damage_is_borne(damages in prop::collection::vec((0usize..1_200, damage()), 1..6)) {
        let mut answer = capture();
        for (mut at, damage) in damages {
            apply(&mut answer, &mut at, &damage);
        }
        let elements = elements(&answer["data"]);
        if let Ok(page) = parse_search(&market(), answer.to_string().as_bytes()) {
            let read = page.ads.len() + page.refusals.len();
            prop_assert!(elements.is_none_or(|elements| elements == read), "{elements:?} {read}");
            for ad in &page.ads {
                prop_assert!(!ad.price.is_zero() && !ad.adv_no.is_empty());
            }
        }
    }

    /// Whatever happens to single bytes, and to pieces that are sent twice: no panic, and what is kept is
    /// no more than what was sent.
    #[test]
    fn any_flips_are_borne(
        flips in prop::collection::vec((0usize..KZT_2022.len(), any::<u8>()), 0..20),
        copies in prop::collection::vec((0usize..KZT_2022.len(), 0usize..3_000, 0usize..KZT_2022.len()), 0..3),
        cut in 0usize..KZT_2022.len() * 2,
    ) {
        let mut bytes = KZT_2022.to_vec();
        for (at, byte) in flips {
            bytes[at] = byte;
        }
        for (from, length, to) in copies {
            let piece = bytes[from..(from + length).min(bytes.len())].to_vec();
            bytes.splice(to..to, piece);
        }
        bytes.truncate(cut.max(1));
        let work = Work::Search { market_id: 1, market: market(), page: 1, ads_expected: true };
        prop_assert!(findings(&work, &bytes).len() <= 100);
        if let Ok(page) = parse_search(&market(), &bytes) {
            let kept: usize = page.refusals.iter().map(|refusal| refusal.raw.len()).sum();
            prop_assert!(kept <= bytes.len());
        }
    }
}
