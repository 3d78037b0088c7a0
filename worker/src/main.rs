use std::process::ExitCode;

use clap::Parser;

/// Takes jobs from the queue, keeps the shared rate limit, fetches, parses, stores and reports.
#[derive(Parser)]
#[command(version = shared::build::version())]
enum Command {
    /// Work until SIGTERM. Settings come from the environment; exit code 64 tells bad ones.
    Run,
}

/// Answers of 60 kB and the small things of ads between them tear the heap of the system's allocator apart: it
/// would keep a quarter more.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Run = Command::parse();
    worker::main().await
}
