use std::process::ExitCode;

use clap::Parser;
use coordinator::Mode;

/// Decides what is read and when: plans batches, publishes jobs, folds reports, closes.
///
/// Settings come from the environment. Exit codes: 0 done (`--once`: the batch is complete), 1 the
/// coordinator could not work, 3 the batch is partial, 4 it failed, 64 bad settings, 75 no
/// batch was closed (`--once`: another coordinator leads, or it was told to stop).
#[derive(Parser)]
#[command(version = shared::build::version())]
enum Command {
    /// Lead, or stand by until the leader is gone, and run a batch at every slot until SIGTERM.
    Run {
        /// Run one batch now and exit with its outcome.
        #[arg(long)]
        once: bool,
        /// Draw the running batch on stdout: jobs done, rate, ads, time left.
        #[arg(long)]
        progress: bool,
    },
}

/// What a batch is planned and folded with lies between what stays: the heap of the system's allocator would
/// grow with the batches, though nothing is kept.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Run { once, progress } = Command::parse();
    coordinator::main(if once { Mode::Once } else { Mode::Schedule }, progress).await
}
