//! The lists that tell which markets there are, whatever their bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::exchange::binance::{parse_assets, parse_fiat_list, parse_payment_methods, rejection};

fuzz_target!(|bytes: &[u8]| {
    parse_assets(bytes).ok();
    parse_payment_methods(bytes).ok();
    rejection(bytes);
    if let Ok(fiats) = parse_fiat_list(bytes) {
        assert!(!fiats.is_empty(), "an empty list is not believed");
    }
});
