//! `exchange-sim verify`: is the database what the exchange showed?

pub mod compare;
pub mod history;
mod load;

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sqlx::postgres::PgPoolOptions;

use compare::{Report, compare_advertisers, compare_batch};
use history::History;

/// Options of `exchange-sim verify`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Truth log that `serve --truth` wrote. Batches opened before it began are left out.
    #[arg(long)]
    pub truth: PathBuf,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Database of the collector.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
}

/// Compares and prints; `true` if nothing is wrong.
pub async fn run(options: &Options) -> Result<bool> {
    let file = File::open(&options.truth)
        .with_context(|| format!("open --truth {}", options.truth.display()))?;
    let history = History::read(BufReader::new(file))?;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&options.database_url)
        .await
        .context("connect to DATABASE_URL")?;
    let mut loader = load::Loader::new(pool).await?;
    let batches = loader.closed_batches(history.header.started_at_us).await?;
    ensure!(
        !batches.is_empty(),
        "no closed batch was opened since the truth log began: nothing to compare"
    );
    let mut report = Report::default();
    let mut last = None;
    for head in &batches {
        let batch = loader.batch(head).await?;
        compare_batch(&history, &batch, &mut report);
        last = Some(batch);
    }
    if let Some(last) = last {
        let stored = loader.advertisers().await?;
        let end_us = loader.last_fetched_us().await?;
        compare_advertisers(&history, &last, &stored, end_us, &mut report);
    }
    let mut out = io::stdout();
    if options.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        print(&mut out, &report)?;
    }
    Ok(report.is_equal())
}

fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "batches compared          {}", report.batches)?;
    for (verdict, count) in &report.books {
        writeln!(out, "books {verdict:<20}{count}")?;
    }
    writeln!(out, "pages compared            {}", report.pages)?;
    writeln!(out, "ads compared              {}", report.ads_compared)?;
    writeln!(out, "  exactly as shown        {}", report.ads_exact)?;
    writeln!(out, "  with terms              {}", report.ads_with_terms)?;
    writeln!(out, "ads that had to be there  {}", report.ads_required)?;
    writeln!(
        out,
        "ads missed as declared    {} (the books estimate {})",
        report.declared_missed, report.estimated_missed
    )?;
    writeln!(out, "markets shed with ads     {}", report.shed_with_ads)?;
    writeln!(out, "advertisers compared      {}", report.advertisers)?;
    if report.is_equal() {
        return writeln!(out, "equal: no violations");
    }
    for (kind, violations) in &report.violations {
        writeln!(out, "VIOLATION {kind}: {}", violations.count)?;
        for sample in &violations.samples {
            writeln!(out, "  {sample}")?;
        }
    }
    Ok(())
}
