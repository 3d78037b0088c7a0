//! Single values out of JSON: text where a number should be and the reverse are both taken, for the
//! exchange has changed its mind before. Decimals come from the text that was sent.

use std::borrow::Cow;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::domain::{Json, Rule};

/// A value as it is written: valid JSON, for whoever hands one out has read over it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a>(&'a str);

impl<'a> Written<'a> {
    pub(super) fn new(json: &'a str) -> Self {
        Self(json)
    }

    pub(super) fn get(self) -> &'a str {
        self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Written<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(from).map(|raw| Self(raw.get()))
    }
}

/// A field as it stands in the answer; `None`: absent or null.
pub(super) type Raw<'a> = Option<Written<'a>>;

/// Why a value could not be read.
pub(super) type Fault = (Rule, String);

/// Decimals after the point that the columns hold.
const MAX_SCALE: u32 = 8;
/// 12 digits before the point: `NUMERIC(20, 8)`.
const MAX_WHOLE: Decimal = Decimal::from_parts(3_567_587_328, 232, 0, false, 0);
/// Largest count that is believed: eighty times the largest book seen.
const MAX_COUNT: u32 = 100_000;
/// Longest text that is believed; terms of an advertiser run to a few thousand characters.
const MAX_TEXT_CHARS: usize = 20_000;

/// Longest JSON that is believed; a label or a voucher has a few hundred bytes.
const MAX_JSON_BYTES: usize = 10_000;
/// The end of the year 9999.
const MAX_MS: i64 = 253_402_300_799_999;

/// A text, or a number as its text.
pub(super) fn text(raw: Written<'_>) -> Result<Cow<'_, str>, Fault> {
    let json = raw.get();
    let value = match json.as_bytes().first() {
        Some(b'"') if !json.contains('\\') => Cow::Borrowed(&json[1..json.len() - 1]),
        Some(b'"') => serde_json::from_str::<Text<'_>>(json)
            .map(|text| text.0)
            .map_err(|error| (Rule::BadText, error.to_string()))?,
        Some(b'-' | b'0'..=b'9') => Cow::Borrowed(json),
        _ => return Err(wrong_type("text or a number", json)),
    };
    if value.contains('\0') {
        return Err((Rule::BadText, "contains NUL, which a database can't hold".into()));
    }
    if value.len() > MAX_TEXT_CHARS && value.chars().count() > MAX_TEXT_CHARS {
        return Err((Rule::BadText, format!("is longer than {MAX_TEXT_CHARS} characters")));
    }
    Ok(value)
}

/// Borrows where the text has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A decimal with all its digits.
pub(super) fn decimal(raw: Written<'_>) -> Result<Decimal, Fault> {
    let text = text(raw)?;
    parse_decimal(&text).ok_or_else(|| {
        let reason = if is_decimal(&text) { Rule::OutOfRange } else { Rule::NotADecimal };
        (reason, format!("{:?} is not a decimal of at most 28 digits", shorten(&text)))
    })
}

/// A price, amount or limit: a decimal that the columns hold as it is, not below zero.
pub(super) fn amount(raw: Written<'_>) -> Result<Decimal, Fault> {
    let value = decimal(raw)?;
    if !fits(value) || value.is_sign_negative() && !value.is_zero() {
        let allowed = "0 to below 1000000000000 with at most 8 decimals";
        return Err((Rule::OutOfRange, format!("{value} is not allowed: {allowed}")));
    }
    Ok(value)
}

/// The same, also below zero.
pub(super) fn signed(raw: Written<'_>) -> Result<Decimal, Fault> {
    let value = decimal(raw)?;
    if !fits(value) {
        let allowed = "allowed is less than 1000000000000 either way with at most 8 decimals";
        return Err((Rule::OutOfRange, format!("{value} does not fit: {allowed}")));
    }
    Ok(value)
}

fn fits(value: Decimal) -> bool {
    scale_within(value, MAX_SCALE) && value.abs() < MAX_WHOLE
}

/// Whether a value has at most so many decimals after the point, zeros at the end not counted.
pub(super) fn scale_within(value: Decimal, most: u32) -> bool {
    value.scale() <= most || value.normalize().scale() <= most
}

/// A whole number, also written `15.0` or `"15"`.
pub(super) fn integer<T: TryFrom<i64>>(raw: Written<'_>) -> Result<T, Fault> {
    let value = decimal(raw)?;
    let whole = if value.is_integer() { value.to_i64() } else { None };
    whole
        .and_then(|whole| T::try_from(whole).ok())
        .ok_or_else(|| (Rule::OutOfRange, format!("{value} is not a whole number that fits")))
}

/// A flag; the exchange writes some as 0 and 1.
pub(super) fn flag(raw: Written<'_>) -> Result<bool, Fault> {
    match raw.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => match &*text(raw)? {
            "0" | "false" | "False" => Ok(false),
            "1" | "true" | "True" => Ok(true),
            other => Err(wrong_type("true, false, 0 or 1", other)),
        },
    }
}

/// An instant in milliseconds since 1970.
pub(super) fn instant(raw: Written<'_>) -> Result<DateTime<Utc>, Fault> {
    let ms: i64 = integer(raw)?;
    // Far from the ends of what a database holds.
    let in_range = DateTime::from_timestamp_millis(ms).filter(|_| (0..=MAX_MS).contains(&ms));
    in_range.ok_or_else(|| {
        (Rule::OutOfRange, format!("{ms} is not allowed: milliseconds of 1970 to 9999"))
    })
}

/// Largest exponent of a number in kept JSON, either way. `jsonb` holds 16,383 decimals, of which the longest
/// text allowed has [`MAX_JSON_BYTES`].
const MAX_EXPONENT: i32 = 5_000;

/// Any JSON, numbers as they are written, that a database holds as `jsonb`: text without NUL, numbers
/// that are no monsters.
pub(super) fn json(raw: Written<'_>) -> Result<Json, Fault> {
    let text = raw.get();
    if text.len() > MAX_JSON_BYTES {
        return Err((Rule::BadText, format!("is longer than {MAX_JSON_BYTES} bytes")));
    }
    // Reading it refuses lone surrogates and what is nested too deep or beyond the range of numbers.
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| (Rule::BadText, error.to_string()))?;
    if has_nul(&value) {
        return Err((Rule::BadText, "contains NUL, which a database can't hold".into()));
    }
    if has_large_exponent(text) {
        return Err((Rule::BadText, format!("has an exponent beyond {MAX_EXPONENT}")));
    }
    Json::new(text.to_owned()).ok_or_else(|| wrong_type("JSON", text))
}

/// Whether a number of this JSON has an exponent that a database does not hold. Reading it does not tell: what is
/// far too small is read as zero.
fn has_large_exponent(json: &str) -> bool {
    let bytes = json.as_bytes();
    let (mut is_text, mut at) = (false, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => is_text = !is_text,
            // Else it is of a `true` or `false`.
            b'e' | b'E' if !is_text && bytes[at - 1].is_ascii_digit() => {
                let rest = &json[at + 1..];
                let end = rest.find(|c: char| !c.is_ascii_digit() && c != '-' && c != '+');
                let exponent = rest[..end.unwrap_or(rest.len())].parse::<i32>();
                if exponent.map_or(true, |exponent| exponent.abs() > MAX_EXPONENT) {
                    return true;
                }
            }
            _ => {}
        }
        at += 1;
    }
    false
}

fn has_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(items) => items.iter().any(has_nul),
        serde_json::Value::Object(members) => {
            members.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        _ => false,
    }
}

/// The type of a JSON value is not what the field should have.
pub(super) fn wrong_type(wanted: &str, json: &str) -> Fault {
    (Rule::WrongType, format!("{} is not {wanted}", shorten(json)))
}

/// `-12.50`, `1E-7`; nothing else that libraries take for a number (`+1`, `1_000`, `.5`, `NaN`).
fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let exponent_fits = exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
    let mantissa_fits = match mantissa.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(mantissa),
    };
    exponent_fits && mantissa_fits
}

/// A decimal of few digits without sign or exponent, as nearly all are: the same as the long way gives.
fn parse_short(text: &str) -> Option<Decimal> {
    /// Always below 2^63.
    const MAX_BYTES: usize = 18;
    if text.len() > MAX_BYTES {
        return None;
    }
    let (mut digits, mut point) = (0_i64, None);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'0'..=b'9' => digits = digits * 10 + i64::from(byte - b'0'),
            b'.' if point.is_none() && at > 0 => point = Some(at),
            _ => return None,
        }
    }
    let decimals = point.map_or(0, |at| text.len() - at - 1);
    let is_number = !text.is_empty() && (point.is_none() || decimals > 0);
    is_number.then(|| Decimal::new(digits, u32::try_from(decimals).unwrap_or_default()))
}

fn parse_decimal(text: &str) -> Option<Decimal> {
    if let Some(decimal) = parse_short(text) {
        return Some(decimal);
    }
    if !is_decimal(text) {
        return None;
    }
    if let Some((mantissa, _)) = text.split_once(['e', 'E']) {
        // Exact or not at all: the library would round a mantissa of more digits than it holds.
        Decimal::from_str_exact(mantissa).ok()?;
        return Decimal::from_scientific(text).ok();
    }
    // Exact: an error instead of a rounded value. Zeros at the end are no digits to lose.
    Decimal::from_str_exact(text).ok().or_else(|| {
        let trimmed =
            text.contains('.').then(|| text.trim_end_matches('0').trim_end_matches('.'))?;
        Decimal::from_str_exact(trimmed).ok()
    })
}

/// Enough of a value for a message.
pub(super) fn shorten(text: &str) -> String {
    const MESSAGE_CHARS: usize = 60;
    let mut short: String = text.chars().take(MESSAGE_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A count such as `total`; one that no book could have is not believed.
pub(super) fn count(raw: Written<'_>) -> Option<u32> {
    integer::<u32>(raw).ok().filter(|count| *count <= MAX_COUNT)
}

/// A code such as `000000`, text or number.
pub(super) fn code(raw: Raw<'_>) -> Option<String> {
    raw.and_then(|raw| text(raw).ok())
        .map(Cow::into_owned)
        .filter(|code| i64::from_str(code).is_ok() || !code.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rust_decimal::dec;

    use super::*;

    fn raw(json: &str) -> Written<'_> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_bound_is_ten_to_the_twelve() {
        assert_eq!(MAX_WHOLE, dec!(1_000_000_000_000));
    }

    #[test]
    fn decimals_keep_every_digit() {
        assert_eq!(
            decimal(raw("0.0014503263234227903")).unwrap().to_string(),
            "0.0014503263234227903"
        );
        assert_eq!(decimal(raw(r#""870000.00""#)).unwrap().to_string(), "870000.00");
        assert_eq!(decimal(raw("1E-7")).unwrap(), dec!(0.0000001));
    }

    #[test]
    fn what_is_not_a_decimal_is_refused() {
        for json in [
            r#""""#,
            r#""NaN""#,
            r#""1_000""#,
            r#""+1""#,
            r#""1,5""#,
            r#"".5""#,
            r#""5.""#,
            r#"" 5""#,
            r#""1e""#,
        ] {
            assert_eq!(decimal(raw(json)).unwrap_err().0, Rule::NotADecimal, "{json}");
        }
        assert_eq!(decimal(raw("[1]")).unwrap_err().0, Rule::WrongType);
        let sixty = format!("\"0.{}\"", "3".repeat(60));
        assert_eq!(decimal(raw(&sixty)).unwrap_err().0, Rule::OutOfRange);
        assert_eq!(decimal(raw(&format!("\"1.{}\"", "0".repeat(60)))).unwrap(), dec!(1));
    }

    #[test]
    fn amounts_must_fit_the_columns() {
        assert_eq!(amount(raw(r#""999999999999.99999999""#)).unwrap(), dec!(999999999999.99999999));
        for json in [r#""1000000000000""#, r#""0.000000001""#, r#""-1""#] {
            assert_eq!(amount(raw(json)).unwrap_err().0, Rule::OutOfRange, "{json}");
        }
        assert_eq!(amount(raw(r#""0.0000000010""#)).unwrap_err().0, Rule::OutOfRange);
        assert_eq!(amount(raw(r#""1.500000000000""#)).unwrap(), dec!(1.5));
    }

    #[test]
    fn a_ratio_may_be_below_zero() {
        assert_eq!(signed(raw(r#""-2.5""#)).unwrap(), dec!(-2.5));
        for json in [r#""-1000000000000""#, r#""-0.000000001""#] {
            assert_eq!(signed(raw(json)).unwrap_err().0, Rule::OutOfRange, "{json}");
        }
    }

    #[test]
    fn an_exponent_never_rounds() {
        let long = format!("1.{}1E0", "0".repeat(36));
        assert_eq!(decimal(raw(&long)).unwrap_err().0, Rule::OutOfRange);
    }

    #[test]
    fn a_count_beyond_belief_is_not_believed() {
        assert_eq!(count(raw("100000")), Some(100_000));
        for json in ["100001", "3000000000", "-1", "1.5", "true"] {
            assert_eq!(count(raw(json)), None, "{json}");
        }
    }

    #[test]
    fn kept_json_has_no_numbers_that_a_database_refuses() {
        for json in ["1e-5001", "[0e99999999999]", r#"{"a":-0.5E-20000}"#, "0e-2147483649"] {
            assert_eq!(super::json(raw(json)).unwrap_err().0, Rule::BadText, "{json}");
        }
        for json in [r#"["1e-9999\"1e-9999",1E+5,true,false,0e0]"#, "1e-5000", r#"{"e":"9e"}"#] {
            assert!(super::json(raw(json)).is_ok(), "{json}");
        }
    }

    #[test]
    fn nul_is_refused() {
        assert_eq!(text(raw(r#""a\u0000b""#)).unwrap_err().0, Rule::BadText);
        assert_eq!(text(raw(r#""\u26a1 caf\u00e9 ""#)).unwrap(), "⚡ café ");
    }

    proptest! {
        #[test]
        fn short_decimals_are_read_as_long_ones(text in "[0-9]{0,20}[.]?[0-9]{0,12}[.+e]?") {
            if let Some(short) = parse_short(&text) {
                prop_assert!(is_decimal(&text), "{text}");
                let long = Decimal::from_str_exact(&text).unwrap();
                prop_assert_eq!((short, short.scale()), (long, long.scale()));
            }
        }

        /// What is written as a decimal of up to 28 digits is read back digit for digit.
        #[test]
        fn decimals_survive(whole in 0u64..1_000_000_000_000, fraction in "[0-9]{1,15}") {
            let written = format!("{whole}.{fraction}");
            prop_assert_eq!(decimal(raw(&format!("\"{written}\""))).unwrap().to_string(), written.clone());
            prop_assert_eq!(decimal(raw(&written)).unwrap().to_string(), written);
        }
    }
}
