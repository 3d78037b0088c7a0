//! How far a command looks back.

use std::str::FromStr;

use chrono::TimeDelta;

/// A span back from now, as arguments say it: `90m`, `24h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub TimeDelta);

/// Longest span that is looked through. Facts are kept for a month; slots and batches longer.
const MAX_DAYS: i64 = 366;

/// Not a span.
#[derive(Debug, PartialEq, Eq)]
pub struct BadSince;

impl std::error::Error for BadSince {}

impl std::fmt::Display for BadSince {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "allowed are minutes, hours or days such as 90m, 24h or 7d, up to {MAX_DAYS}d")
    }
}

impl FromStr for Since {
    type Err = BadSince;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unit = text.chars().last().ok_or(BadSince)?;
        let digits = text.strip_suffix(unit).ok_or(BadSince)?;
        // `parse` would take a sign.
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadSince);
        }
        let number: i64 = digits.parse().map_err(|_| BadSince)?;
        let span = match unit {
            'm' => TimeDelta::try_minutes(number),
            'h' => TimeDelta::try_hours(number),
            'd' => TimeDelta::try_days(number),
            _ => None,
        };
        let allowed = TimeDelta::minutes(1)..=TimeDelta::days(MAX_DAYS);
        span.filter(|span| allowed.contains(span)).map(Self).ok_or(BadSince)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_hours_and_days_are_read() {
        assert_eq!("90m".parse(), Ok(Since(TimeDelta::minutes(90))));
        assert_eq!("24h".parse(), Ok(Since(TimeDelta::hours(24))));
        assert_eq!("7d".parse(), Ok(Since(TimeDelta::days(7))));
        assert_eq!("366d".parse(), Ok(Since(TimeDelta::days(366))));
    }

    #[test]
    fn nothing_else_is() {
        for text in ["", "h", "24", "0h", "-1h", "+1h", "1w", "1.5h", "367d", "99999999999999999d"]
        {
            assert_eq!(text.parse::<Since>(), Err(BadSince), "{text}");
        }
    }
}
