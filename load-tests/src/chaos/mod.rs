//! The failure suite: real processes and servers, one fault at an exact step of a batch, and what
//! must hold afterwards.
//!
//! - `lines`: the catalogue, which fault at which step, and what it may cost.
//! - `wire`: the bytes between processes and servers as steps of the batch.
//! - `link`: the proxies that hold a message at its step, and break the network.
//! - `arena`: the processes, with a supervisor.
//! - `run`: a line from its begin to its end.
//! - `judge`: what must hold.
//! - `broker`, `stack`, `disk`: the suite's own hands on the servers.
//!
//! The programs are the ordinary ones: nothing in them knows of the suite.

mod arena;
mod broker;
pub mod disk;
mod judge;
mod lines;
mod link;
mod run;
mod stack;
mod wire;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rand::RngExt;
use serde_json::{Value, json};

use self::lines::Line;
use self::run::{Outcome, Setting, Size, Verdict};
use self::stack::Stack;
use crate::fleet::Servers;
use crate::market::rng_for;
use crate::truth::unix_us;

/// Faults at every step of a batch, judged against what the exchange showed; exit 0 if every line
/// holds, 1 if not, 2 if the suite could not work. The servers are told by `DATABASE_URL`,
/// `REDIS_URL` and `AMQP_URL`: run it by `make chaos`.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Options {
    /// Draws which occurrence of a step is hit, times, and how many processes there are; by chance
    /// unless given.
    #[arg(long, env = "SEED")]
    seed: Option<u64>,
    /// Times that every line is run, each with draws of its own.
    #[arg(long, env = "ROUNDS", default_value_t = 1)]
    rounds: u64,
    /// Only lines whose name contains this.
    #[arg(long, env = "ONLY", default_value = "")]
    only: String,
    /// A few lines of every family.
    #[arg(long)]
    short: bool,
    /// List the lines and do nothing.
    #[arg(long)]
    list: bool,
    /// File for the results as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Directory for the logs of lines that fail.
    #[arg(long, default_value = "target/chaos")]
    logs: PathBuf,
    /// The program that starts and stops the servers.
    #[arg(long, default_value = "dev/stack")]
    stack: PathBuf,
}

/// Most workers of a line.
const MAX_WORKERS: usize = 8;
/// Workers of the first round, which is the quickest way to see what is broken.
const FIRST_SIZE: Size = Size { workers: 2, standbys: 1 };

/// Runs the suite; `true` if every line that was run holds.
pub async fn run(options: Options) -> Result<bool> {
    let lines: Vec<Line> = lines::all()
        .into_iter()
        .filter(|line| line.is_short || !options.short)
        .filter(|line| line.to_string().contains(&options.only))
        .collect();
    if options.list {
        for line in &lines {
            println!("{line}");
        }
        return Ok(true);
    }
    ensure!(!lines.is_empty(), "no line contains {:?}: see --list", options.only);
    let setting = Setting { servers: Servers::from_environment()?, stack: Stack(options.stack) };
    let seed = options.seed.unwrap_or_else(unix_us);
    println!("SEED={seed}, {} lines, {} rounds", lines.len(), options.rounds);
    print_head();
    let (mut rows, mut failed, mut not_run) = (Vec::new(), 0, 0);
    for round in 0..options.rounds {
        for line in &lines {
            let name = line.to_string();
            let mut random = rng_for(seed, round, name_number(&name));
            let size = if round == 0 {
                FIRST_SIZE
            } else {
                Size {
                    workers: random.random_range(1..=MAX_WORKERS),
                    standbys: random.random_range(1..=2),
                }
            };
            let directory = options.logs.join(format!("{seed}-{round}-{}", file_name(&name)));
            let began = Instant::now();
            let outcome = run::run(&setting, line, size, random, &directory).await;
            let took = began.elapsed();
            print_row(&name, size, &outcome, took);
            match &outcome.verdict {
                Verdict::Held => remove(&directory)?,
                Verdict::NotRun(_) => not_run += 1,
                Verdict::Failed(reasons) => {
                    failed += 1;
                    for reason in reasons {
                        println!("      {reason}");
                    }
                    println!("      logs: {}", directory.display());
                }
            }
            rows.push(row(&name, round, size, &outcome, took));
        }
    }
    if let Some(path) = &options.json {
        let mut file = File::create(path).with_context(|| path.display().to_string())?;
        serde_json::to_writer_pretty(&mut file, &json!({ "seed": seed, "lines": rows }))?;
        writeln!(file)?;
    }
    let held = rows.len() - failed - not_run;
    println!("SEED={seed}: {held} held, {failed} failed, {not_run} not run");
    Ok(failed == 0)
}

fn remove(directory: &Path) -> Result<()> {
    std::fs::remove_dir_all(directory).with_context(|| directory.display().to_string())
}

/// A number of a line's own, so that its draws do not depend on which lines run with it.
fn name_number(name: &str) -> u64 {
    // FNV-1a.
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

fn file_name(name: &str) -> String {
    let words = name.split(|char: char| !char.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

fn print_head() {
    println!(
        "{:<8} {:<44} {:>5} {:>8} {:>6} {:>9} {:>10} {:>10} {:>6}",
        "verdict",
        "fault × step",
        "procs",
        "repeated",
        "beyond",
        "recover s",
        "worker MB",
        "coord MB",
        "took s"
    );
}

fn print_row(name: &str, size: Size, outcome: &Outcome, took: Duration) {
    let verdict = match &outcome.verdict {
        Verdict::Held => "held",
        Verdict::Failed(_) => "FAILED",
        Verdict::NotRun(why) => {
            println!("{:<8} {name:<44} {why}", "not run");
            return;
        }
    };
    let Outcome { judgement, recovery, worker_kib, coordinator_kib, .. } = outcome;
    let recovery = recovery.map_or_else(|| "-".to_owned(), seconds);
    println!(
        "{verdict:<8} {name:<44} {:>5} {:>8} {:>6} {recovery:>9} {:>10} {:>10} {:>6}",
        format!("{}+{}", size.workers, size.standbys + 1),
        judgement.repeated,
        judgement.beyond,
        worker_kib / 1024,
        coordinator_kib / 1024,
        seconds(took),
    );
}

fn seconds(duration: Duration) -> String {
    format!("{}.{}", duration.as_secs(), duration.subsec_millis() / 100)
}

fn row(name: &str, round: u64, size: Size, outcome: &Outcome, took: Duration) -> Value {
    let (verdict, reasons) = match &outcome.verdict {
        Verdict::Held => ("held", Vec::new()),
        Verdict::Failed(reasons) => ("failed", reasons.clone()),
        Verdict::NotRun(why) => ("not run", vec![(*why).to_owned()]),
    };
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    json!({
        "line": name,
        "round": round,
        "workers": size.workers,
        "coordinators": size.standbys + 1,
        "verdict": verdict,
        "reasons": reasons,
        "jobs_repeated": outcome.judgement.repeated,
        "requests_beyond_ledger": outcome.judgement.beyond,
        "recovery_ms": outcome.recovery.map(millis),
        "worker_peak_kib": outcome.worker_kib,
        "coordinator_peak_kib": outcome.coordinator_kib,
        "took_ms": millis(took),
    })
}
