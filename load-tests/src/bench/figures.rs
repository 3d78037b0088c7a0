//! Figures by name, their medians, and how they are printed.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Figures by name; the unit is part of the name.
pub(crate) type Figures = BTreeMap<String, f64>;

/// What was measured, by column of the table.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What it ran on.
    pub(crate) machine: Vec<String>,
    pub(crate) columns: Vec<Column>,
    /// Why a column of ratios lacks a figure, by column and figure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) not_compared: BTreeMap<String, BTreeMap<String, String>>,
    /// Who has no column, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) refused: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Measurements of which the figures are medians.
    pub(crate) of: usize,
    pub(crate) figures: Figures,
}

impl Column {
    /// The median of each figure.
    pub(crate) fn new(name: impl Into<String>, all: &[Figures]) -> Self {
        let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, value) in all.iter().flatten() {
            values.entry(name).or_default().push(*value);
        }
        let figures =
            values.into_iter().map(|(name, values)| (name.to_owned(), median(values))).collect();
        Self { name: name.into(), of: all.len(), figures }
    }
}

/// The middle one; of two the mean.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

impl Report {
    pub(crate) fn push(&mut self, name: impl Into<String>, all: &[Figures]) {
        self.columns.push(Column::new(name, all));
    }

    /// How the medians of `ours` compare to those of `theirs`.
    pub(crate) fn push_ratio(&mut self, name: &str, theirs: &[Figures], ours: &[Figures]) {
        let (theirs, ours) = (Column::new("", theirs), Column::new("", ours));
        let (mut figures, mut not_compared) = (Figures::new(), BTreeMap::new());
        for figure in theirs.figures.keys().chain(ours.figures.keys()) {
            let why = match (theirs.figures.get(figure), ours.figures.get(figure)) {
                (Some(theirs), Some(ours)) if *theirs > 0.0 => {
                    figures.insert(figure.clone(), ours / theirs);
                    continue;
                }
                (Some(_), Some(_)) => "theirs is 0",
                (Some(_), None) => "only theirs",
                (None, _) => "only ours",
            };
            not_compared.insert(figure.clone(), why.to_owned());
        }
        if !not_compared.is_empty() {
            self.not_compared.insert(name.to_owned(), not_compared);
        }
        self.columns.push(Column { name: name.to_owned(), of: ours.of, figures });
    }

    /// The figures of a column of other programs, which may be of an age that had none of this name.
    pub(crate) fn figures_of(&self, name: &str) -> Result<&Figures> {
        let column = self.columns.iter().find(|column| column.name == name);
        let column = column.with_context(|| {
            let others: Vec<_> = self.columns.iter().map(|column| &column.name).collect();
            format!("its report has no column {name:?}, only {others:?}")
        })?;
        Ok(&column.figures)
    }

    pub(crate) fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("write the report")
    }

    /// A table with a column for each that was measured.
    pub(crate) fn text(&self) -> String {
        let mut names: Vec<&str> = self
            .columns
            .iter()
            .flat_map(|column| column.figures.keys())
            .chain(self.not_compared.values().flat_map(BTreeMap::keys))
            .map(String::as_str)
            .collect();
        names.sort_unstable();
        names.dedup();
        let longest = names.iter().map(|name| name.len()).max().unwrap_or(0);
        let mut out = self.machine.join("\n");
        out.push('\n');
        let mut row = |name: &str, values: &dyn Fn(&Column) -> String| {
            write!(out, "{name:longest$}").ok();
            for column in &self.columns {
                let width = (column.name.len() + 2).max(14);
                write!(out, "{:>width$}", values(column)).ok();
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        };
        row("median", &|column| column.name.clone());
        row("of measurements", &|column| column.of.to_string());
        for name in names {
            let why = |column: &Column| self.not_compared.get(&column.name)?.get(name).cloned();
            row(name, &|column| match column.figures.get(name) {
                Some(value) => shown(*value),
                None => why(column).unwrap_or_default(),
            });
        }
        for (name, why) in &self.refused {
            writeln!(out, "refused: {name}: {why}").ok();
        }
        out
    }
}

/// Four digits that say something.
fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 50.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
    }

    fn figures(of: &[(&str, f64)]) -> Figures {
        of.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn what_has_no_ratio_is_told() {
        let theirs = figures(&[("ads", 2.0), ("old", 1.0), ("redis", 0.0)]);
        let ours = figures(&[("ads", 3.0), ("new", 1.0), ("redis", 1.0)]);
        let mut report = Report::default();
        report.push_ratio("ratio", &[theirs], &[ours]);
        let text = report.text();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .skip(1)
            .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect())
            .collect();
        let cells: Vec<(&str, &str)> =
            lines.iter().map(|cells| (cells[0].trim(), cells[1].trim())).collect();
        assert_eq!(
            cells,
            [
                ("median", "ratio"),
                ("of measurements", "1"),
                ("ads", "1.50"),
                ("new", "only ours"),
                ("old", "only theirs"),
                ("redis", "theirs is 0"),
            ]
        );
        let read: Report = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(read.not_compared, report.not_compared);
    }

    #[test]
    fn who_is_refused_is_told() {
        let refused = BTreeMap::from([("liar".to_owned(), "it stored nothing".to_owned())]);
        let text = Report { refused, ..Report::default() }.text();
        assert!(text.ends_with("\nrefused: liar: it stored nothing\n"), "{text}");
    }

    #[test]
    fn a_column_that_other_programs_lack_is_an_error() {
        let mut report = Report::default();
        report.push("first batch", &[]);
        let error = report.figures_of("first").unwrap_err().to_string();
        assert_eq!(error, r#"its report has no column "first", only ["first batch"]"#);
    }
}
