//! `month`: days of the whole market in a database of their own, and every documented question asked of
//! them.
//!
//! The facts are made up as the simulated exchange makes them up, and go straight into the real tables;
//! the marts are made by the coordinator's own statements. The ledger of jobs is not filled: no reader
//! asks for it.

mod fill;
mod questions;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::Utc;
use clap::Parser;
use shared::settings::Vars;

/// Times a question is asked, each time of another market.
const ROUNDS: u32 = 40;

/// Fill a database with days of readings and time the questions people ask of it. Exit 0: all are right
/// and as fast as they should be; 1: a question reads what it should not; 3: one is slow.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Days, of 144 batches each.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=400))]
    days: u32,
    /// Ads listed at any time.
    #[arg(long, default_value_t = 30_000)]
    ads: usize,
    /// Fiats, each with up to 14 assets on both sides.
    #[arg(long, default_value_t = 110, value_parser = clap::value_parser!(u8).range(1..=110))]
    fiats: u8,
    /// What the market is drawn from.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Database to make (it is deleted first), on the server of `DATABASE_URL`.
    #[arg(long, default_value = "p2p_month")]
    database: String,
    /// Ask only, of a database that was filled before.
    #[arg(long)]
    ask: bool,
    /// Look only at what the questions read, and not at how long they take.
    #[arg(long)]
    plans_only: bool,
    /// Where plans are kept.
    #[arg(long, default_value = "target/month")]
    plans: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("month: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(cli: &Cli) -> Result<ExitCode> {
    let url = Vars::from_environment().optional("DATABASE_URL").context("DATABASE_URL not set")?;
    let url: url::Url = url.parse().context("DATABASE_URL")?;
    let pool = if cli.ask {
        fill::open(&url, &cli.database).await?
    } else {
        let pool = fill::fresh_database(&url, &cli.database).await?;
        let plan = fill::Plan {
            days: cli.days,
            ads: cli.ads,
            fiats: usize::from(cli.fiats),
            seed: cli.seed,
            until: Utc::now(),
        };
        let filled = fill::fill(&pool, &plan).await?;
        println!(
            "{} batches, {} readings in {} s; the marts, beside the rest, {} s",
            filled.batches,
            filled.readings,
            filled.took.as_secs(),
            filled.marts_took.as_secs()
        );
        pool
    };
    fill::tell_sizes(&pool).await?;
    let rounds = if cli.plans_only { 4 } else { ROUNDS };
    let (right, fast) = questions::ask_all(&pool, cli.days, cli.seed, rounds, &cli.plans).await?;
    Ok(match (right, fast || cli.plans_only) {
        (false, _) => ExitCode::from(1),
        (true, false) => ExitCode::from(3),
        (true, true) => ExitCode::SUCCESS,
    })
}
