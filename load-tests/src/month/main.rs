//! `month`: thirty days of the whole market in a database, and every documented question timed on it.

mod fill;
mod world;

use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::Utc;
use clap::Parser;
use shared::settings::Vars;

/// Fill a database with days of readings and time the questions people ask.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Days, of 144 batches each.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=400))]
    days: u32,
    /// Ads listed at any time.
    #[arg(long, default_value_t = 30_000)]
    ads: usize,
    /// What the market is drawn from.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Database to make (it is deleted first), on the server of `DATABASE_URL`.
    #[arg(long, default_value = "p2p_month")]
    database: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("month: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(cli: &Cli) -> Result<()> {
    let url = Vars::from_environment().optional("DATABASE_URL").context("DATABASE_URL not set")?;
    let url: url::Url = url.parse().context("DATABASE_URL")?;
    let pool = fill::fresh_database(&url, &cli.database).await?;
    let plan = fill::Plan { days: cli.days, ads: cli.ads, seed: cli.seed, until: Utc::now() };
    let filled = fill::fill(&pool, &plan).await?;
    println!(
        "{} batches, {} readings in {:.0} s, of which marts {:.0} s",
        filled.batches, filled.readings, filled.seconds, filled.marts_seconds
    );
    Ok(())
}
