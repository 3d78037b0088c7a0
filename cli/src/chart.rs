//! Small charts of block characters. They scale by decimals, like everything that is money.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

/// Eighths of a character, from none to a whole one.
const BLOCKS: [&str; 9] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"];
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Where nothing is known.
const GAP: char = '·';
/// Longest line of levels: fits a terminal of 80 characters with what stands before it.
const MAX_LEVELS: usize = 60;

/// A bar as long as `value` is of `max`, at most `width` characters. What is above 0 can be seen.
#[must_use]
pub fn bar(value: Decimal, max: Decimal, width: usize) -> String {
    let eighths = scale(value, max, width * 8);
    let eighths = if value > Decimal::ZERO { eighths.max(1) } else { eighths };
    "█".repeat(eighths / 8) + BLOCKS[eighths % 8]
}

/// One character per value, lowest to highest; a gap is a dot, never a low value. Of more values than fit
/// neighbours share a character, the last that is known.
#[must_use]
pub fn sparkline(values: &[Option<Decimal>]) -> String {
    let known = || values.iter().flatten().copied();
    let (Some(low), Some(high)) = (known().min(), known().max()) else {
        return GAP.to_string().repeat(values.len().min(MAX_LEVELS));
    };
    let level = |value: Decimal| {
        if high == low {
            LEVELS[LEVELS.len() / 2]
        } else {
            LEVELS[scale(value - low, high - low, LEVELS.len() - 1)]
        }
    };
    let group = values.len().div_ceil(MAX_LEVELS).max(1);
    let last = |group: &[Option<Decimal>]| group.iter().rev().flatten().next().copied();
    values.chunks(group).map(|group| last(group).map_or(GAP, level)).collect()
}

/// `value` of `max` as steps of `steps`, rounded.
fn scale(value: Decimal, max: Decimal, steps: usize) -> usize {
    let share = value.checked_div(max).unwrap_or_default().clamp(Decimal::ZERO, Decimal::ONE);
    (share * Decimal::from(steps)).round().to_usize().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: &[i64]) -> Vec<Option<Decimal>> {
        values.iter().map(|value| (*value >= 0).then(|| Decimal::from(*value))).collect()
    }

    #[test]
    fn bars_are_in_proportion_and_never_vanish() {
        let bar = |value: i64, max: i64| bar(Decimal::from(value), Decimal::from(max), 4);
        assert_eq!(bar(8, 8), "████");
        assert_eq!(bar(4, 8), "██");
        assert_eq!(bar(1, 32), "▏");
        assert_eq!(bar(1, 1000), "▏");
        assert_eq!(bar(3, 8), "█▌");
        assert_eq!((bar(0, 8), bar(0, 0)), (String::new(), String::new()));
    }

    #[test]
    fn gaps_are_no_low_values() {
        assert_eq!(sparkline(&numbers(&[0, 1, -1, 7])), "▁▂·█");
        assert_eq!(sparkline(&numbers(&[5, 5, -1])), "▅▅·");
        assert_eq!(sparkline(&numbers(&[-1, -1])), "··");
        assert_eq!(sparkline(&[]), "");
    }

    #[test]
    fn long_lines_are_shortened() {
        let line = sparkline(&numbers(&(0..150).collect::<Vec<_>>()));
        assert_eq!(line.chars().count(), 50);
        assert!(line.starts_with('▁') && line.ends_with('█'), "{line}");
    }
}
