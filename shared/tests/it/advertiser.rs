//! What the parser makes of the page of an advertiser.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use shared::domain::{Rule, Side};
use shared::exchange::binance::{
    AdvertiserPage, AnswerError, is_advertiser_page, parse_advertiser, parse_search,
};

fn captures() -> Vec<PathBuf> {
    let folder = std::fs::read_dir("../fixtures/binance/profile").unwrap();
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The answer as the exchange sends it: the collector took the lists out of it and keyed their ads by
/// number, and wrote the figures beside the rest too.
fn as_sent(capture: &str) -> String {
    let mut user: BTreeMap<&str, &RawValue> = serde_json::from_str(capture).unwrap();
    let mut list = |name| {
        let ads: BTreeMap<&str, &RawValue> =
            serde_json::from_str(user.remove(name).unwrap().get()).unwrap();
        ads.into_values().map(RawValue::get).collect::<Vec<_>>().join(",")
    };
    let (buy, sell) = (list("buy_list"), list("sell_list"));
    let user = serde_json::to_string(&user).unwrap();
    format!(
        r#"{{"code":"000000","message":null,"messageDetail":null,"data":{{"userDetailVo":{user},"buyList":[{buy}],"sellList":[{sell}]}},"success":true}}"#
    )
}

fn one() -> Value {
    let capture = std::fs::read_to_string(&captures()[1]).unwrap();
    serde_json::from_str(&as_sent(&capture)).unwrap()
}

fn parse(answer: &Value) -> Result<AdvertiserPage, AnswerError> {
    parse_advertiser(None, answer.to_string().as_bytes())
}

#[test]
fn every_captured_page_is_read() {
    let mut table = String::new();
    for file in captures() {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let user_no = name.strip_prefix("profile-and-ads-").unwrap();
        let answer = as_sent(&std::fs::read_to_string(&file).unwrap());
        assert!(is_advertiser_page(answer.as_bytes()));
        let page = parse_advertiser(Some(user_no), answer.as_bytes()).unwrap();
        assert_eq!(
            (page.refusals.len(), page.warnings.len()),
            (0, 0),
            "{name}: {:?}",
            page.warnings
        );
        writeln!(table, "{user_no}: {}", serde_json::to_string(&page.profile).unwrap()).unwrap();
        for (market, ad) in &page.ads {
            assert!(ad.warnings.is_empty() && ad.details.terms.is_some(), "{:?}", ad.warnings);
            assert_eq!(ad.advertiser_side, market.side.opposite());
            let details = serde_json::to_string(&ad.details).unwrap();
            writeln!(table, "  {market} {} {details}", ad.adv_no).unwrap();
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn a_page_of_another_advertiser_is_not_taken() {
    let answer = one().to_string();
    let error = parse_advertiser(Some("s1"), answer.as_bytes()).unwrap_err();
    assert!(matches!(error, AnswerError::Unparsable(_)), "{error}");
}

#[test]
fn one_odd_ad_or_figure_costs_itself_only() {
    let mut answer = one();
    let ads = answer["data"]["buyList"].as_array_mut().unwrap();
    let count = ads.len();
    ads[0]["tradeType"] = json!("?");
    ads[1]["price"] = json!("NaN");
    ads[2] = json!(null);
    ads[3]["buyerKycLimit"] = json!({ "odd": true });
    ads[4]["remarks"] = json!("a\u{0}b");
    answer["data"]["userDetailVo"]["userStatsRet"]["registerDays"] = json!("long");
    let page = parse(&answer).unwrap();
    let reasons: Vec<_> = page.refusals.iter().map(|refusal| refusal.reason).collect();
    let wanted = [Rule::OtherMarket, Rule::NotADecimal, Rule::Malformed];
    assert_eq!(reasons, wanted);
    assert_eq!(page.ads.len() + 3, count + answer["data"]["sellList"].as_array().unwrap().len());
    assert_eq!(page.profile.registered_days, None);
    assert_eq!(page.profile.orders, Some(3919));
    assert_eq!(page.warnings.len(), 1, "{:?}", page.warnings);
    assert_eq!(page.ads[0].1.details.buyer_kyc_limit, None);
    assert_eq!(page.ads[1].1.details.terms, None);
}

#[test]
fn conditions_for_the_taker_are_kept_as_sent() {
    let mut text = one().to_string();
    text = text.replacen(
        r#""userTradeVolumeMin":null"#,
        r#""userTradeVolumeMin":0.10,"userTradeType":null"#,
        1,
    );
    // The key stands twice now: the other one goes.
    text = text.replacen(r#""userTradeType":null,"#, "", 1);
    let page = parse_advertiser(None, text.as_bytes()).unwrap();
    let conditions: Vec<_> =
        page.ads.iter().filter_map(|(_, ad)| ad.details.taker_conditions.as_ref()).collect();
    assert_eq!(conditions.len(), 1, "{:?}", page.refusals);
    assert_eq!(conditions[0].as_str(), r#"{"userTradeVolumeMin":0.10}"#);
}

#[test]
fn what_the_search_adds_is_kept_as_sent() {
    let answer: Value = serde_json::from_slice(include_bytes!(
        "../../../fixtures/binance/search/search-BNB-KZT-BUY-2022-06-20T17-34-p1.json"
    ))
    .unwrap();
    let mut item = answer["data"][0].clone();
    item["adv"]["voucherTemplate"] = json!("@");
    item["adv"]["advSystemLabelRet"] = json!({ "title": "\u{0}" });
    item["adv"]["createTime"] = json!(1_697_132_794_294_i64);
    item["adv"]["advUpdateTime"] = json!("soon");
    item["advertiser"]["advConfirmTime"] = json!(71);
    item["advertiser"]["proMerchant"] =
        json!({ "merchantDescription": "We pay", "merchantLogo": "x" });
    let answer = json!({ "code": "000000", "data": [item], "total": 1, "success": true });
    let text = answer.to_string().replace(r#""@""#, r#"{"discountRatio":0.10}"#);
    let market = shared::domain::Market::new("KZT", "BNB", Side::Buy).unwrap();
    let page = parse_search(&market, text.as_bytes()).unwrap();
    let ad = &page.ads[0];
    assert_eq!(ad.voucher_template.as_ref().unwrap().as_str(), r#"{"discountRatio":0.10}"#);
    assert_eq!((&ad.system_labels, ad.details.updated_at), (&None, None));
    assert_eq!(ad.warnings.len(), 2, "{:?}", ad.warnings);
    assert_eq!(ad.details.created_at.unwrap().to_rfc3339(), "2023-10-12T17:46:34.294+00:00");
    assert_eq!(ad.advertiser.release_seconds, Some(71));
    assert_eq!(ad.advertiser.pro_merchant_description.as_deref(), Some("We pay"));
}
