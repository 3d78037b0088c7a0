//! The prices of a market as lines. Where nothing was read there is no line.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use rust_decimal::Decimal;

use super::format::{counted, decimal, instant};
use super::market::{Market, Point};

/// Size in units of the drawing, which is stretched to its place.
const WIDTH: i64 = 720;
const HEIGHT: i64 = 200;
/// Room for the width of lines.
const LEFT: i64 = 4;
const TOP: i64 = 4;
const BOTTOM: i64 = 196;

/// Where a moment and a price lie.
struct Scale {
    from: DateTime<Utc>,
    seconds: i64,
    low: Decimal,
    high: Decimal,
}

impl Scale {
    /// `None`: there is no price. Best prices may be nonsense and would press the rest flat: the medians
    /// and their surroundings set the scale.
    fn of(points: &[Point]) -> Option<Self> {
        let medians = points.iter().filter_map(|point| point.median_price);
        let (low, high) = (medians.clone().min()?, medians.max()?);
        let near = |price: &Decimal| *price >= low * NEAR_LOW && *price <= high * NEAR_HIGH;
        let best: Vec<Decimal> =
            points.iter().filter_map(|point| point.best_price).filter(near).collect();
        let low = best.iter().copied().fold(low, Decimal::min);
        let high = best.iter().copied().fold(high, Decimal::max);
        let (from, to) = (points.first()?.at, points.last()?.at);
        // A flat line lies in the middle.
        let room = if low == high { low.abs() / Decimal::ONE_HUNDRED } else { Decimal::ZERO };
        Some(Self {
            from,
            seconds: (to - from).num_seconds().max(1),
            low: low - room,
            high: high + room,
        })
    }

    fn x(&self, at: DateTime<Utc>) -> i64 {
        LEFT + (at - self.from).num_seconds() * (WIDTH - 2 * LEFT) / self.seconds
    }

    /// `None`: beyond the scale.
    fn y(&self, price: Decimal) -> Option<Decimal> {
        if price < self.low || price > self.high {
            return None;
        }
        let span = (self.high - self.low).max(Decimal::new(1, 8));
        let share = (self.high - price) / span;
        Some((Decimal::from(TOP) + share * Decimal::from(BOTTOM - TOP)).round_dp(1))
    }
}

/// A best price below nine tenths of the lowest median, or above eleven tenths of the highest, is not
/// drawn.
const NEAR_LOW: Decimal = Decimal::from_parts(9, 0, 0, false, 1);
const NEAR_HIGH: Decimal = Decimal::from_parts(11, 0, 0, false, 1);

/// Runs of points without a gap: a pause longer than one and a half steps, or a price that is not known.
fn runs(
    points: &[Point],
    step_seconds: i64,
    scale: &Scale,
    price: impl Fn(&Point) -> Option<Decimal>,
) -> Vec<Vec<(i64, Decimal)>> {
    let mut runs: Vec<Vec<(i64, Decimal)>> = Vec::new();
    let mut last: Option<DateTime<Utc>> = None;
    for point in points {
        let Some(y) = price(point).and_then(|price| scale.y(price)) else {
            last = None;
            continue;
        };
        let goes_on =
            last.is_some_and(|last| (point.at - last).num_seconds() * 2 <= step_seconds * 3);
        match runs.last_mut().filter(|_| goes_on) {
            Some(run) => run.push((scale.x(point.at), y)),
            None => runs.push(vec![(scale.x(point.at), y)]),
        }
        last = Some(point.at);
    }
    runs
}

pub(super) fn render(market: &Market) -> Markup {
    let points = &market.prices;
    let Some(scale) = Scale::of(points) else { return html! {} };
    let median = runs(points, market.step_seconds, &scale, |point| point.median_price);
    let best = runs(points, market.step_seconds, &scale, |point| point.best_price);
    let gaps = median.len().saturating_sub(1);
    let newest = points.iter().rev().find_map(|point| point.median_price);
    let words = format!(
        "Median and best price of {}/{} {} from {} to {} UTC: between {} and {}, the last median {}; {}.",
        market.asset,
        market.fiat,
        market.side,
        instant(scale.from),
        points.last().map(|point| instant(point.at)).unwrap_or_default(),
        decimal(scale.low.round_dp(4)),
        decimal(scale.high.round_dp(4)),
        decimal(newest.unwrap_or_default().round_dp(4)),
        words_of(gaps),
    );
    html! {
        figure.chart {
            p.scale aria-hidden="true" { (decimal(scale.high.round_dp(4))) }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(words) {
                @for y in [TOP, TOP.midpoint(BOTTOM), BOTTOM] {
                    line.grid x1="0" x2=(WIDTH) y1=(y) y2=(y) {}
                }
                @for run in &best { (line("best", run)) }
                @for run in &median { (line("median", run)) }
            }
            p.scale aria-hidden="true" { (decimal(scale.low.round_dp(4))) }
            p.axis aria-hidden="true" {
                span { (scale.from.format("%d %b %H:%M")) }
                @if let Some(last) = points.last() { span { (last.at.format("%d %b %H:%M")) " UTC" } }
            }
            figcaption {
                span.key { span.swatch.median {} " median price" } " "
                span.key { span.swatch.best {} " best price" }
                @if gaps > 0 { " " span.note { (words_of(gaps)) ": nothing good was read there" } }
            }
        }
    }
}

fn words_of(gaps: usize) -> String {
    counted(i64::try_from(gaps).unwrap_or(i64::MAX), "gap", "gaps")
}

fn line(class: &str, run: &[(i64, Decimal)]) -> Markup {
    // A single point has no length: it is drawn as a dot.
    if let [(x, y)] = run {
        return html! { circle class={ "dot " (class) } cx=(x) cy=(y) r="2.5" {} };
    }
    let points: Vec<String> = run.iter().map(|(x, y)| format!("{x},{y}")).collect();
    html! { polyline class={ "line " (class) } points=(points.join(" ")) {} }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn point(minute: i64, price: Option<i64>) -> Point {
        let price = price.map(Decimal::from);
        let at = DateTime::UNIX_EPOCH + TimeDelta::minutes(minute);
        Point { at, best_price: price, median_price: price }
    }

    fn lengths(points: &[Point]) -> Vec<usize> {
        let scale = Scale::of(points).unwrap();
        runs(points, 600, &scale, |point| point.median_price).iter().map(Vec::len).collect()
    }

    #[test]
    fn gaps_are_gaps() {
        assert_eq!(lengths(&[point(0, Some(1)), point(10, Some(2)), point(20, Some(1))]), [3]);
        assert_eq!(lengths(&[point(0, Some(1)), point(10, None), point(20, Some(1))]), [1, 1]);
        assert_eq!(lengths(&[point(0, Some(1)), point(10, Some(1)), point(30, Some(1))]), [2, 1]);
    }

    #[test]
    fn the_highest_price_is_at_the_top() {
        let scale = Scale::of(&[point(0, Some(10)), point(10, Some(20))]).unwrap();
        assert_eq!(scale.y(Decimal::from(20)), Some(Decimal::from(TOP)));
        assert_eq!(scale.y(Decimal::from(10)), Some(Decimal::from(BOTTOM)));
        assert_eq!(scale.y(Decimal::from(21)), None);
        assert_eq!(
            (scale.x(DateTime::UNIX_EPOCH), scale.x(point(10, None).at)),
            (LEFT, WIDTH - LEFT)
        );
    }

    #[test]
    fn a_flat_line_and_no_line_can_be_drawn() {
        let scale = Scale::of(&[point(0, Some(10)), point(10, Some(10))]).unwrap();
        assert_eq!(scale.y(Decimal::from(10)), Some(Decimal::from(TOP.midpoint(BOTTOM))));
        assert!(Scale::of(&[point(0, None)]).is_none() && Scale::of(&[]).is_none());
    }
}
