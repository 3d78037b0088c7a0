//! `e2e`: what operators look at, over a real fleet.
//!
//! - [`page`]: the status page in a real browser.
//! - [`panels`]: every query of every dashboard, asked of a real Prometheus and the real database.
//! - [`alerts`]: causes, and the messages that come of them through a real Prometheus and Alertmanager.

mod alerts;
mod browser;
mod monitors;
mod page;
mod panels;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

/// Look at what operators look at; exit 0 only if all holds. Run it by `make e2e`.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// What to do; all, if nothing is named.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Directory for the pictures.
    #[arg(long, default_value = ".e2e")]
    pictures: PathBuf,
    /// axe.min.js of the npm package axe-core; without it only the names of controls are checked.
    #[arg(long)]
    axe: Option<PathBuf>,
    /// Causes of all alerts, which takes about half an hour; else of a few.
    #[arg(long)]
    every_alert: bool,
    /// Causes of this alert only.
    #[arg(long)]
    alert: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Page,
    Panels,
    Alerts,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let is_wanted = |part| cli.parts.is_empty() || cli.parts.contains(&part);
    if is_wanted(Part::Page) {
        page::run(&cli).await.context("the status page")?;
    }
    if is_wanted(Part::Panels) {
        panels::run().await.context("the dashboards")?;
    }
    if is_wanted(Part::Alerts) {
        alerts::run(cli.every_alert, cli.alert.as_deref()).await.context("the alerts")?;
    }
    Ok(())
}

fn step(words: &str) {
    println!("== {words}");
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
