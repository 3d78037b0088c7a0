//! The shape of an answer, whatever its bytes: bounded, and in order.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::domain::{Market, Side};
use shared::exchange::binance::{WITH_VALUES, findings};
use shared::exchange::shape::Shape;
use shared::job::Work;

fuzz_target!(|bytes: &[u8]| {
    let market = Market::new("KZT", "BNB", Side::Buy).expect("a market");
    let work = Work::Search { market_id: 1, market, page: 1, ads_expected: true };
    let found = findings(&work, bytes);
    assert!(found.len() <= 100);
    assert!(found.iter().all(|finding| finding.sample.len() <= 300 && finding.path.len() <= 600));
    assert!(Shape::of(bytes, &WITH_VALUES).paths().len() <= 1_000);
});
