//! Spans of time and moments as arguments say them.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};

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

/// An instant, or a span before now: `2h`, `2026-11-23`, `2026-11-23 10:00` (UTC),
/// `2026-11-23T10:00:00+01:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    At(DateTime<Utc>),
    Ago(TimeDelta),
}

impl Moment {
    /// The instant that is meant, asked at `now`. Nothing is known of what is to come.
    #[must_use]
    pub fn instant(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(at) => at.min(now),
            Self::Ago(span) => now - span,
        }
    }
}

/// Not a moment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "allowed are spans before now such as 90m, 24h or 7d, and instants such as 2026-11-23, \"2026-11-23 10:00\" (UTC) or 2026-11-23T10:00:00Z"
)]
pub struct BadMoment;

impl FromStr for Moment {
    type Err = BadMoment;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(Span(span)) = text.parse() {
            return Ok(Self::Ago(span));
        }
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(at.to_utc()));
        }
        let midnight =
            NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|d| d.and_time(NaiveTime::MIN));
        let at = midnight.or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M"));
        at.map(|at| Self::At(at.and_utc())).map_err(|_| BadMoment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_instants_or_spans_before_now() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let now = at("2026-11-23T12:00:00Z");
        let read = |text: &str| text.parse::<Moment>().map(|moment| moment.instant(now));
        assert_eq!(read("2h"), Ok(at("2026-11-23T10:00:00Z")));
        assert_eq!(read("2026-11-22"), Ok(at("2026-11-22T00:00:00Z")));
        assert_eq!(read("2026-11-22 10:30"), Ok(at("2026-11-22T10:30:00Z")));
        assert_eq!(read("2026-11-22T10:30:00+01:00"), Ok(at("2026-11-22T09:30:00Z")));
        assert_eq!(read("2099-01-01"), Ok(now));
        for text in ["", "yesterday", "2026-13-01", "10:00"] {
            assert_eq!(read(text), Err(BadMoment), "{text}");
        }
    }

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
