//! What reading a page costs: `cargo run --release -p shared --example parse_rate`.

use std::hint::black_box;
use std::time::Instant;

use shared::domain::{Market, Side};
use shared::exchange::binance::{findings, parse_search};
use shared::job::Work;

/// Twenty-one ads of 2026, as a collector kept them.
const LINE: &str = include_str!(
    "../../fixtures/binance/collector/collector-USDT-BOB-SELL-2026-08-22T21-39-35.json"
);
const PAGES: u32 = 2_000;

fn main() {
    let (_, ads) = LINE.split_once(r#""anuncios": "#).expect("the capture has ads");
    let data = ads.trim_end().strip_suffix('}').expect("they are its last member");
    let page = format!(r#"{{"code":"000000","data":{data},"total":395,"success":true}}"#);
    let market = Market::new("BOB", "USDT", Side::Sell).expect("a market");
    let lenient = page.replace(r#""price":"#, r#""Price":"#);
    let search = |page: &str| {
        let page = parse_search(&market, black_box(page).as_bytes()).expect("an answer");
        assert_eq!(page.ads.len(), 21);
    };
    let work = Work::Search { market_id: 1, market: market.clone(), page: 1, ads_expected: true };
    measure("strict", || search(&page));
    measure("lenient", || search(&lenient));
    measure("shape", || {
        black_box(findings(&work, black_box(page.as_bytes())));
    });
}

fn measure(name: &str, read: impl Fn()) {
    read();
    let started = Instant::now();
    (0..PAGES).for_each(|_| read());
    println!("{name}: {:?} a page", started.elapsed() / PAGES);
}
