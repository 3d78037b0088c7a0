//! The page of an advertiser, whatever its bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::exchange::binance::{is_advertiser_page, parse_advertiser};

fuzz_target!(|bytes: &[u8]| {
    let is_page = is_advertiser_page(bytes);
    if let Ok(page) = parse_advertiser(None, bytes) {
        assert!(is_page || page.is_lenient());
        let kept: usize = page.refusals.iter().map(|refusal| refusal.raw.len()).sum();
        assert!(kept <= bytes.len());
    }
});
