//! A price, whatever stands in its place: taken digit for digit, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::domain::{Market, Side};
use shared::exchange::binance::parse_search;

const HEAD: &[u8] = br#"{"code":"000000","data":[{"adv":{"advNo":"1","tradeType":"SELL","asset":"BNB","fiatUnit":"KZT","surplusAmount":"1","minSingleTransAmount":"1","maxSingleTransAmount":"1","tradeMethods":[],"price":"#;
const TAIL: &[u8] = br#"},"advertiser":{"userNo":"u","nickName":"n"}}],"total":1,"success":true}"#;

fuzz_target!(|bytes: &[u8]| {
    let market = Market::new("KZT", "BNB", Side::Buy).expect("a market");
    let Ok(page) = parse_search(&market, &[HEAD, bytes, TAIL].concat()) else {
        return;
    };
    let Some(ad) = page.ads.first() else {
        return;
    };
    assert!(!ad.price.is_zero() && !ad.price.is_sign_negative());
    // No digit that was not sent, and none lost but zeros.
    let text = String::from_utf8_lossy(bytes);
    let plain = text.trim().trim_matches('"');
    if !plain.is_empty() && plain.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        let digits = |text: &str| match text.split_once('.') {
            Some((whole, fraction)) => {
                (whole.trim_start_matches('0').to_owned(), fraction.trim_end_matches('0').to_owned())
            }
            None => (text.trim_start_matches('0').to_owned(), String::new()),
        };
        assert_eq!(digits(plain), digits(&ad.price.to_string()), "{plain}");
    }
});
