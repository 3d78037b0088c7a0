//! Curves as SVG: small files that a browser shows, drawn without a library.

use std::fmt::Write;

/// Size of the whole and of the margins, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 80.0;
/// Told apart by the colour-blind too.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
/// Lines across.
const STEPS: u32 = 5;

pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A picture of curves over the same places on the x axis, which stand at even distances.
pub(crate) fn svg(title: &str, x_name: &str, y_name: &str, curves: &[Curve]) -> String {
    let mut places: Vec<f64> =
        curves.iter().flat_map(|curve| curve.points.iter().map(|(x, _)| *x)).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let most = curves.iter().flat_map(|curve| curve.points.iter().map(|(_, y)| *y));
    let most = round_up(most.fold(0.0, f64::max));
    let at_x = |x: f64| {
        #[expect(clippy::cast_precision_loss, reason = "a few places")]
        let (place, last) = (
            places.iter().position(|place| *place >= x).unwrap_or(0) as f64,
            (places.len().max(2) - 1) as f64,
        );
        LEFT + (WIDTH - LEFT - RIGHT) * place / last
    };
    let at_y = |y: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / most;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{title}</text>\n\
         <text x=\"{LEFT}\" y=\"{:.0}\" fill=\"#555\">{y_name}</text>\n",
        TOP - 6.0
    );
    for step in 0..=STEPS {
        let value = most * f64::from(step) / f64::from(STEPS);
        let y = at_y(value);
        let shown = if most >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") };
        writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{shown}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0
        )
        .ok();
    }
    for place in &places {
        let (x, y) = (at_x(*place), HEIGHT - BOTTOM + 18.0);
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{place}</text>").ok();
    }
    let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
    let y = HEIGHT - BOTTOM + 36.0;
    writeln!(out, "<text x=\"{middle:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{x_name}</text>")
        .ok();
    let mut legend = LEFT;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<String> =
            curve.points.iter().map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
        writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        )
        .ok();
        for point in &points {
            let (x, y) = point.split_once(',').unwrap_or_default();
            writeln!(out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{colour}\"/>").ok();
        }
        let y = HEIGHT - 16.0;
        writeln!(
            out,
            "<rect x=\"{legend:.0}\" y=\"{:.0}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\n\
             <text x=\"{:.0}\" y=\"{y:.0}\">{}</text>",
            y - 9.0,
            legend + 14.0,
            curve.name
        )
        .ok();
        #[expect(clippy::cast_precision_loss, reason = "a short name")]
        let width = curve.name.chars().count() as f64 * 7.0;
        legend += width + 34.0;
    }
    out.push_str("</svg>\n");
    out
}

/// The next of 1, 2, 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let mut unit = 1e-3;
    while unit < 1e12 {
        for times in [1.0, 2.0, 5.0] {
            if value <= unit * times {
                return unit * times;
            }
        }
        unit *= 10.0;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        assert!((round_up(37_000.0) - 50_000.0).abs() < 1e-6);
        assert!((round_up(0.9) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn every_point_is_drawn() {
        let curve = Curve { name: "a".to_owned(), points: vec![(1.0, 2.0), (8.0, 4.0)] };
        let svg = svg("t", "x", "y", &[curve]);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.ends_with("</svg>\n"));
    }
}
