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
    pub(crate) fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("write the report")
    }

    /// A table with a column for each that was measured.
    pub(crate) fn text(&self) -> String {
        let mut names: Vec<&str> = self
            .columns
            .iter()
            .flat_map(|column| column.figures.keys().map(String::as_str))
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
            row(name, &|column| {
                column.figures.get(name).map_or(String::new(), |value| shown(*value))
            });
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
}
