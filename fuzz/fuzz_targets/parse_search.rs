//! A page of the search, whatever its bytes: an error, or ads and refusals that are no more than was sent.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::domain::{Market, Side};
use shared::exchange::binance::parse_search;

fuzz_target!(|bytes: &[u8]| {
    let market = Market::new("KZT", "BNB", Side::Buy).expect("a market");
    let Ok(page) = parse_search(&market, bytes) else {
        return;
    };
    let kept: usize = page.refusals.iter().map(|refusal| refusal.raw.len()).sum();
    assert!(kept <= bytes.len());
    for ad in &page.ads {
        assert!(!ad.price.is_zero() && !ad.price.is_sign_negative());
        assert!(!ad.adv_no.is_empty() && !ad.adv_no.contains('\0'));
    }
    // The same bytes are the same facts.
    assert!(parse_search(&market, bytes).is_ok_and(|again| again == page));
});
