//! Figures for a reader: numbers, spans, pages and tables. What a script reads is JSON and does not
//! come by here.

use std::fmt;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

/// What stands where nothing is known.
pub const UNKNOWN: &str = "-";

/// With thousands apart.
#[must_use]
pub fn count(number: impl Into<i64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The same of what may not be known.
#[must_use]
pub fn count_or_unknown(number: Option<impl Into<i64>>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), count)
}

/// A count with what is counted, so that one is no "1 pages".
#[must_use]
pub fn counted(number: i64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

#[must_use]
pub fn percent(part: i64, whole: i64) -> String {
    let share = Decimal::from(part * 100).checked_div(Decimal::from(whole));
    share.map_or_else(|| UNKNOWN.to_owned(), |share| format!("{}%", share.round_dp(2)))
}

/// A decimal as it is, without zeros at its end.
#[must_use]
pub fn decimal(number: Decimal) -> String {
    number.normalize().to_string()
}

/// The same of what may not be known.
#[must_use]
pub fn decimal_or_unknown(number: Option<Decimal>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), decimal)
}

/// A share of 1 in percent, to two decimals.
#[must_use]
pub fn share(share: Option<Decimal>) -> String {
    let percent = share.and_then(|share| share.checked_mul(Decimal::ONE_HUNDRED));
    percent.map_or_else(
        || UNKNOWN.to_owned(),
        |percent| format!("{}%", percent.round_dp(2).normalize()),
    )
}

/// A name that others chose, without what would move the cursor.
#[must_use]
pub fn name(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Milliseconds as seconds with one decimal, rounded down.
#[must_use]
pub fn seconds(ms: i64) -> String {
    format!("{}.{}", ms / 1000, ms % 1000 / 100)
}

/// Bytes in the largest unit that leaves a number of one digit or more, with one decimal.
#[must_use]
pub fn bytes(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = Decimal::from(bytes);
    let mut shown = format!("{bytes} B");
    for unit in UNITS {
        if size < Decimal::from(1024) {
            break;
        }
        size /= Decimal::from(1024);
        shown = format!("{:.1} {unit}", size.round_dp(1));
    }
    shown
}

/// Seconds in the two largest units that count: `45s`, `12m`, `3h 10m`, `2d 4h`.
#[must_use]
pub fn span(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, ..) => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

/// An instant in a table, in UTC. Seconds only where it has some: slots have none.
#[must_use]
pub fn instant(at: DateTime<Utc>) -> String {
    let format = if at.timestamp() % 60 == 0 { "%m-%d %H:%M" } else { "%m-%d %H:%M:%S" };
    at.format(format).to_string()
}

/// Ascending page numbers as ranges: `1-3,7`.
#[must_use]
pub fn pages(numbers: &[i32]) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if number - *last <= 1 => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let range = |(first, last): (i32, i32)| match last {
        last if last == first => first.to_string(),
        last => format!("{first}-{last}"),
    };
    ranges.into_iter().map(range).collect::<Vec<_>>().join(",")
}

/// A table whose columns are as wide as what stands in them. Begin a heading with `>` to put its
/// column to the right, as numbers want it.
pub struct Table {
    rows: Vec<Vec<String>>,
    is_right: Vec<bool>,
}

impl Table {
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let is_right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let heading = |heading: &&str| heading.trim_start_matches('>').to_owned();
        Self { rows: vec![headings.iter().map(heading).collect()], is_right }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.is_right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), is_right) in row.iter().zip(&widths).zip(&self.is_right) {
                let padding = " ".repeat(width - cell.chars().count());
                let (before, after) =
                    if *is_right { (padding, String::new()) } else { (String::new(), padding) };
                line.extend(["  ", &before, cell, &after]);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_their_thousands_apart() {
        assert_eq!([7, 999, 1000, 1_234_567].map(count), ["7", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn nothing_of_nothing_has_no_share() {
        assert_eq!(percent(0, 0), "-");
        assert_eq!(percent(995, 1000), "99.50%");
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let spans = [0, 59, 60, 3599, 3600, 86_399, 86_400, 187_200].map(span);
        assert_eq!(spans, ["0s", "59s", "1m", "59m", "1h 00m", "23h 59m", "1d 00h", "2d 04h"]);
        assert_eq!([0, 99, 100, 61_950].map(seconds), ["0.0", "0.0", "0.1", "61.9"]);
    }

    #[test]
    fn pages_are_compressed_to_ranges() {
        assert_eq!(pages(&[]), "");
        assert_eq!(pages(&[4]), "4");
        assert_eq!(pages(&[1, 2, 3, 7]), "1-3,7");
        assert_eq!(pages(&[1, 3, 4, 4, 9, 10]), "1,3-4,9-10");
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table = Table::new(&["name", ">n"]);
        assert!(table.is_empty());
        table.row(vec!["é".into(), "1,000".into()]);
        assert_eq!(table.to_string(), "  name      n\n  é     1,000\n");
    }

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        for (number, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (5 << 30, "5.0 GiB"),
            (3 << 50, "3072.0 TiB"),
        ] {
            assert_eq!(bytes(number), shown);
        }
    }
}
