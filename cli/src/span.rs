//! Spans of time as arguments say them.

use std::str::FromStr;

use chrono::TimeDelta;

/// `90s`, `90m`, `24h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub TimeDelta);

/// Longest span. Facts are kept for a month; slots and batches longer.
const MAX_DAYS: i64 = 366;

/// Not a span.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "allowed are seconds, minutes, hours or days such as 90s, 90m, 24h or 7d, up to {MAX_DAYS}d"
)]
pub struct BadSpan;

impl FromStr for Span {
    type Err = BadSpan;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unit = text.chars().last().ok_or(BadSpan)?;
        let digits = text.strip_suffix(unit).ok_or(BadSpan)?;
        // `parse` would take a sign.
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadSpan);
        }
        let number: i64 = digits.parse().map_err(|_| BadSpan)?;
        let span = match unit {
            's' => TimeDelta::try_seconds(number),
            'm' => TimeDelta::try_minutes(number),
            'h' => TimeDelta::try_hours(number),
            'd' => TimeDelta::try_days(number),
            _ => None,
        };
        let allowed = TimeDelta::seconds(1)..=TimeDelta::days(MAX_DAYS);
        span.filter(|span| allowed.contains(span)).map(Self).ok_or(BadSpan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_minutes_hours_and_days_are_read() {
        assert_eq!("45s".parse(), Ok(Span(TimeDelta::seconds(45))));
        assert_eq!("90m".parse(), Ok(Span(TimeDelta::minutes(90))));
        assert_eq!("24h".parse(), Ok(Span(TimeDelta::hours(24))));
        assert_eq!("7d".parse(), Ok(Span(TimeDelta::days(7))));
        assert_eq!("366d".parse(), Ok(Span(TimeDelta::days(366))));
    }

    #[test]
    fn nothing_else_is() {
        for text in ["", "h", "24", "0h", "-1h", "+1h", "1w", "1.5h", "367d", "99999999999999999d"]
        {
            assert_eq!(text.parse::<Span>(), Err(BadSpan), "{text}");
        }
    }
}
