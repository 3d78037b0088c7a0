//! `exchange-sim`: a simulated exchange, and the comparison of a database with what it served.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use load_tests::{serve, verify};

/// A simulated P2P exchange that remembers everything it showed.
#[derive(Parser)]
#[command(name = "exchange-sim", version = shared::build::version())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a seeded, moving P2P market over HTTP.
    Serve(Box<serve::Options>),
    /// Compare the database at `DATABASE_URL` with a truth log; exit 0 equal, 1 differs, 2 could not compare.
    Verify(verify::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(options) => match serve::run(*options).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Command::Verify(options) => match verify::run(&options).await {
            Ok(equal) => ExitCode::from(u8::from(!equal)),
            Err(error) => fail(&error),
        },
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("exchange-sim: {error:#}");
    ExitCode::from(2)
}
