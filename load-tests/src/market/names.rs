//! Names and figures of advertisers, awkward on purpose.

use std::fmt::Write;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::IndexedRandom;

const SYLLABLES: [&str; 24] = [
    "ka", "lo", "mi", "tron", "ve", "ra", "cam", "bio", "zen", "to", "pay", "ex", "nu", "ri",
    "sol", "da", "Max", "Bit", "qui", "sha", "Inver", "sa", "Fast", "ly",
];
const ODD: [&str; 10] = [
    "⚡",
    " ✅",
    "⏰",
    " ✔",
    "₿",
    "’s",
    "闪电商家",
    "Быстрый",
    " 7/24",
    "\u{1F680}\u{1F1E7}\u{1F1F4}",
];

/// A nickname: 2 to 25 characters, one in five with emoji, CJK, Cyrillic or `"`, some with trailing
/// spaces.
pub(super) fn nick_name(rng: &mut Xoshiro256PlusPlus) -> String {
    let mut name = String::new();
    for _ in 0..rng.random_range(2..5) {
        name.push_str(SYLLABLES.choose(rng).copied().unwrap_or("x"));
    }
    if rng.random_ratio(1, 5) {
        name.push_str(ODD.choose(rng).copied().unwrap_or("x"));
    }
    if rng.random_ratio(1, 200) {
        name.push_str(" \"OK\"\\");
    }
    if rng.random_ratio(1, 30) {
        name.push(' ');
    }
    name
}

/// `s` and 32 hex digits; one in a thousand is without the `s`.
pub(super) fn user_no(rng: &mut Xoshiro256PlusPlus) -> String {
    let mut number = String::from(if rng.random_ratio(1, 1000) { "" } else { "s" });
    // Writing to a String cannot fail.
    write!(number, "{:032x}", rng.random::<u128>()).expect("a String takes everything");
    number
}

/// The text of a share of 1 as the exchange writes it: few digits, many, or none.
pub(super) fn finish_rate(rng: &mut Xoshiro256PlusPlus, orders: u32) -> String {
    if orders == 0 {
        return "0.0".to_owned();
    }
    match rng.random_range(0..100) {
        0..15 => "1.000".to_owned(),
        15..20 => "1".to_owned(),
        20..60 => format!("0.{}", rng.random_range(700..=999)),
        // 16 to 19 decimals: more than a double holds.
        60..98 => {
            format!("0.9{}", rng.random_range(100_000_000_000_000_u64..999_999_999_999_999_999))
        }
        _ => {
            format!("0.00{}", rng.random_range(10_000_000_000_000_000_u64..99_999_999_999_999_999))
        }
    }
}

/// The text of the positive rate: 8 decimals, or once in a while `1`.
pub(super) fn positive_rate(rng: &mut Xoshiro256PlusPlus) -> String {
    match rng.random_range(0..10) {
        0 => "1".to_owned(),
        1..3 => "1.0".to_owned(),
        _ => format!("0.{:08}", rng.random_range(85_000_000..100_000_000)),
    }
}
