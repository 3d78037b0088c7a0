//! How figures, times and shares are written. Everything is UTC.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use rust_decimal::Decimal;

/// What stands where nothing is known.
pub(super) const UNKNOWN: &str = "–";

/// `12,345`.
pub(super) fn count(number: impl Into<i64>) -> String {
    let number: i64 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('−');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A decimal as it is, its digits before the point in groups: `25,949.77`.
pub(super) fn decimal(number: Decimal) -> String {
    let text = number.normalize().to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let Ok(whole) = whole.parse::<i64>() else { return text };
    let sign = if whole == 0 && number.is_sign_negative() { "−" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{point}{fraction}", count(whole))
}

/// `1 worker`, `2 workers`.
pub(super) fn counted(number: impl Into<i64>, one: &str, many: &str) -> String {
    let number: i64 = number.into();
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A length of time in its two largest units: `45 s`, `4 min 10 s`, `3 h 5 min`, `2 d 4 h`.
pub(super) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large} {unit}")
        } else {
            format!("{large} {unit} {small} {small_unit}")
        }
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(minutes, "min", rest, "s"),
        3600..86_400 => two(hours, "h", minutes, "min"),
        _ => two(days, "d", hours, "h"),
    }
}

/// `19:40`.
pub(super) fn clock(at: DateTime<Utc>) -> String {
    at.format("%H:%M").to_string()
}

/// `2026-11-27 19:40:02`.
pub(super) fn instant(at: DateTime<Utc>) -> String {
    at.format("%F %T").to_string()
}

/// A moment for people and for machines.
pub(super) fn time(at: DateTime<Utc>) -> Markup {
    html! { time datetime=(at.to_rfc3339()) { (instant(at)) " UTC" } }
}

/// A share of 1 in percent: `99.8 %`. Only all of it is 100 %: what lacks one ad of ten thousand is not.
pub(super) fn percent(share: Decimal) -> String {
    let percent = share * Decimal::ONE_HUNDRED;
    let rounded = percent.trunc_with_scale(1).normalize();
    format!("{rounded} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1,000");
        assert_eq!(count(-1_234_567), "−1,234,567");
        assert_eq!(counted(1, "ad", "ads"), "1 ad");
        assert_eq!(counted(0, "ad", "ads"), "0 ads");
        let decimals =
            [("25949.770", "25,949.77"), ("0.05", "0.05"), ("-0.5", "−0.5"), ("1000", "1,000")];
        for (number, text) in decimals {
            assert_eq!(decimal(number.parse().unwrap()), text);
        }
    }

    #[test]
    fn times_have_two_units() {
        let spans = [(-3, "0 s"), (59, "59 s"), (60, "1 min"), (250, "4 min 10 s")];
        for (seconds, text) in spans {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(span(3600 * 3 + 300), "3 h 5 min");
        assert_eq!(span(86_400 * 2 + 3600 * 4 + 59), "2 d 4 h");
    }

    #[test]
    fn only_all_is_a_hundred_per_cent() {
        assert_eq!(percent(Decimal::ONE), "100 %");
        assert_eq!(percent(Decimal::new(99_999, 5)), "99.9 %");
        assert_eq!(percent(Decimal::ZERO), "0 %");
    }
}
