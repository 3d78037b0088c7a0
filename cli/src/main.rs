use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::domain::Side;
use shared::exchange::Exchange;

/// The operator's tool.
#[derive(Parser)]
#[command(name = "p2p", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the database's schema to this version (`DATABASE_URL`).
    Migrate,
    /// Read captured answers of the ad search as the worker would.
    ///
    /// Prints one JSON object per ad on stdout and one per refusal on stderr. Exit codes: 0 all
    /// taken, 3 something was refused, 66 a file can't be read.
    Parse {
        #[arg(long, default_value = "binance")]
        exchange: Exchange,
        /// Fiat of the market, for example BOB.
        #[arg(long)]
        fiat: String,
        /// Asset of the market, for example USDT.
        #[arg(long)]
        asset: String,
        /// Side of the taker, as the search was asked for it: BUY or SELL.
        #[arg(long)]
        side: Side,
        /// Answers as sent, or in one of the forms that collectors keep them; `-` is stdin.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// The limit that workers share: look, set, pause, resume; obeyed within a second.
    #[command(subcommand)]
    Limiter(cli::limiter::Command),
    /// The last batches in figures, and the best prices of the largest markets.
    Summary {
        /// Batches to show, the latest last.
        #[arg(long, default_value_t = 2)]
        batches: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    shared::service::install_tls_provider();
    let result = match Cli::parse().command {
        Command::Migrate => cli::migrate::run().await,
        Command::Parse { exchange, fiat, asset, side, files } => {
            cli::parse::run(exchange, &fiat, &asset, side, &files)
        }
        Command::Limiter(command) => cli::limiter::run(command).await,
        Command::Summary { batches, json } => cli::summary::run(batches, json).await,
    };
    result.unwrap_or_else(|error| {
        eprintln!("p2p: {error:#}");
        cli::exit_code(&error)
    })
}
