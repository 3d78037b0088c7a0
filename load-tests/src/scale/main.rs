//! `scale`: a thousand workers on the limiter and on the queue, on one machine.
//!
//! Workers here are the worker's own limiter and the shared consumer, each with the connections that a real one
//! has, without exchange and database: what is measured is what Redis and `RabbitMQ` bear. The process that
//! plays them shares the processors with both servers, so rates are lower bounds, and what a permit or a
//! message costs a server is the figure to reckon with.

mod limiter;
mod queue;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use load_tests::fleet::Servers;

/// A thousand workers on the limiter and on the queue; exit 0 only if the limit held and nothing was lost.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    servers: Servers,
    /// Workers in all.
    #[arg(long, default_value_t = 1000)]
    workers: usize,
    /// Seconds for which the limiter is watched, each time.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Messages through the queue.
    #[arg(long, default_value_t = 20_000)]
    messages: usize,
}

/// Requests a minute that an egress grants: the highest rate that is set by default.
const PER_MINUTE: u32 = 200;
/// Jobs that a worker takes from the queue: the default of `MAX_WORKERS`, more than that rate feeds.
const PREFETCH: u16 = 20;

#[tokio::main]
async fn main() -> ExitCode {
    shared::service::install_tls_provider();
    match run(Cli::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("scale: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(cli: Cli) -> Result<bool> {
    let cores = std::thread::available_parallelism()?;
    println!("{cores} cores, {} workers, {PER_MINUTE} requests a minute and egress", cli.workers);
    println!(
        "limiter: egresses  workers each  permits/s  of the limit  most in a second  calls/permit  Redis us/permit  Redis CPU  fairness"
    );
    let mut holds = true;
    for egresses in [1, 10, 100, cli.workers] {
        if egresses > cli.workers {
            continue;
        }
        let watched = Duration::from_secs(cli.seconds);
        let figures = limiter::watch(&cli.servers, cli.workers, egresses, watched).await?;
        holds &= figures.tell();
    }
    println!(
        "queue: consumers  prefetch  messages/s  broker us/message  broker CPU  broker MB  delivered again"
    );
    for workers in [10, 100, cli.workers] {
        let drained = queue::drain(&cli.servers, workers, PREFETCH, cli.messages).await?;
        holds &= drained.tell();
    }
    Ok(holds)
}
