//! `bench`: how many ads a second the real programs carry from a simulated exchange without limit into the
//! database, at what cost, and what limits them.
//!
//! CPU time of all processes is counted, of the servers too; the exchange stands apart, for it is not ours.
//! Floors are measured in the same run: figures of two runs on a shared machine say little.

#![expect(clippy::float_arithmetic, reason = "durations and shares; no money is counted here")]

mod archived;
mod curves;
mod figures;
mod floors;
mod machine;
mod meter;
mod packing;
mod peers;
mod plot;
mod run;
mod soak;
mod storage;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use tokio::process::Command;

use self::figures::{Column, Figures, Report};
use self::peers::Peer;
use self::run::{Load, Running, counts};

/// Measure the real programs on real servers.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// Print the report as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Throughput and storage, in one report.
    Suite {
        #[command(flatten)]
        throughput: Throughput,
        /// Batches for storage.
        #[arg(long, default_value_t = 13, value_parser = counts(2..=144))]
        storage_batches: usize,
    },
    /// Batches from end to end: the first, in which all ads are new, and those after it.
    Throughput(Throughput),
    /// The same, beside what people would build instead. Exit 1: one of these can't be believed, and has no figures.
    Peers(Peers),
    /// Many batches by the same processes, their memory looked at. Exit 1: too much, or it grows; with more than 30,000
    /// ads it is told and not judged.
    Soak {
        #[command(flatten)]
        load: Load,
        /// Batches that are judged, after 24 more that fill caches.
        #[arg(long, default_value_t = 50, value_parser = counts(1..=10_000))]
        batches: usize,
    },
    /// Bytes and WAL per reading of an ad, beside other forms of the same, and the archive. Without
    /// `--exchange`, at the rates measured on the real one: in ten minutes 5 % change and 2 % come.
    Storage {
        #[command(flatten)]
        load: Load,
        #[arg(long, default_value_t = 13, value_parser = counts(2..=144))]
        batches: usize,
        /// Times that a database is begun anew.
        #[arg(long, default_value_t = 1, value_parser = counts(1..=1_000))]
        runs: usize,
    },
    /// Throughput by workers and by jobs in flight; close, plan and questions by ads; drawn as SVG.
    Curves {
        #[command(flatten)]
        load: Load,
        /// Batches after the first, of each point.
        #[arg(long, default_value_t = 3, value_parser = counts(1..=1_000))]
        batches: usize,
        /// Where the pictures go.
        #[arg(long, default_value = "docs")]
        out: PathBuf,
    },
}

#[derive(clap::Args)]
struct Peers {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    place: peers::Place,
    /// Measurements of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    runs: i32,
}

#[derive(clap::Args)]
struct Throughput {
    #[command(flatten)]
    load: Load,
    /// Times that a database is begun anew.
    #[arg(long, default_value_t = 3, value_parser = counts(1..=1_000))]
    runs: usize,
    /// Batches after the first of each.
    #[arg(long, default_value_t = 5, value_parser = counts(1..=1_000))]
    batches: usize,
    /// Leave the floors out.
    #[arg(long)]
    no_floors: bool,
    /// A directory with other programs of the workspace, such as those before a change, measured in turn
    /// with these: first and steady batches. What only one of the two tells is in no ratio, which says so.
    #[arg(long)]
    beside: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    shared::service::install_tls_provider();
    let cli = Cli::parse();
    match run(&cli).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Measures and prints; whether what is judged holds.
async fn run(cli: &Cli) -> Result<bool> {
    let mut report = Report { machine: machine::describe().await?, ..Report::default() };
    let mut is_good = true;
    match &cli.what {
        What::Suite { throughput: options, storage_batches } => {
            throughput(options, &mut report).await?;
            let storage = storage::measure(&options.load, *storage_batches, options.runs).await?;
            report.columns.extend(storage);
        }
        What::Throughput(options) => throughput(options, &mut report).await?,
        What::Peers(options) => {
            report.machine.push(machine::describe_peers(&options.place).await?);
            is_good = run::with(&options.load, async |running| {
                beside_peers(options, running, &mut report).await
            })
            .await?;
        }
        What::Soak { load, batches } => {
            let tell = |line: &str| if cli.json { eprintln!("{line}") } else { println!("{line}") };
            (report.columns, is_good) = soak::soak(load, *batches, tell).await?;
        }
        What::Storage { load, batches, runs } => {
            report.columns = storage::measure(load, *batches, *runs).await?;
        }
        What::Curves { load, batches, out } => {
            report.columns = curves::draw(load, *batches, out).await?;
        }
    }
    println!("{}", if cli.json { report.json()? } else { report.text() });
    Ok(is_good)
}

/// What was measured of one set of programs.
#[derive(Default)]
struct Measured {
    first: Vec<Figures>,
    steady: Vec<Figures>,
    floors: Vec<Figures>,
}

async fn throughput(options: &Throughput, report: &mut Report) -> Result<()> {
    let (mut own, mut beside) = (Measured::default(), Measured::default());
    for run in 1..=options.runs {
        eprintln!("run {run} of {}", options.runs);
        if let Some(directory) = &options.beside {
            run_beside(options, directory, &mut beside).await?;
        }
        run::with(&options.load, async |running| run_once(options, running, &mut own).await)
            .await?;
    }
    if options.beside.is_some() {
        report.push("first, before", &beside.first);
        report.push("first", &own.first);
        report.push_ratio("first, ratio", &beside.first, &own.first);
        report.push("steady, before", &beside.steady);
        report.push("steady", &own.steady);
        report.push_ratio("steady, ratio", &beside.steady, &own.steady);
    } else {
        report.push("first", &own.first);
        report.push("steady", &own.steady);
    }
    if !own.floors.is_empty() {
        report.push("floors", &own.floors);
        report.columns.push(to_floors(&own.steady, &own.floors));
        report.push("without archive", &without_archive(options).await?);
        let mut light_load = Vec::new();
        for _ in 0..options.runs {
            light_load.push(light(&options.load).await?);
        }
        report.push("light load", &light_load);
    }
    Ok(())
}

/// Batches in steady state whose answers are not archived.
async fn without_archive(options: &Throughput) -> Result<Vec<Figures>> {
    eprintln!("without the archive");
    let off = ("RAW_ARCHIVE_MB".to_owned(), "0".to_owned());
    let set = options.load.set.iter().cloned().chain([off]).collect();
    let load = Load { set, ..options.load.clone() };
    let mut measured = Measured::default();
    let options = &Throughput { load, no_floors: true, beside: None, ..*options };
    run::with(&options.load, async |running| {
        run_once(options, running, &mut measured).await?;
        let archived: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pipeline.raw_pages WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches)",
        )
        .fetch_one(&running.fleet.pool)
        .await?;
        ensure!(archived == 0, "{archived} answers of the last batch were archived nevertheless");
        Ok(())
    })
    .await?;
    Ok(measured.steady)
}

/// A small market at ten requests a second: how long a page waits for company before it is stored.
async fn light(load: &Load) -> Result<Figures> {
    const ADS: u64 = 1_000;
    let limit =
        ["INITIAL_RATE_LIMIT", "MAX_RATE_LIMIT"].map(|name| (name.to_owned(), "600".to_owned()));
    let burst = ("RATE_LIMIT_BURST".to_owned(), "1".to_owned());
    let set = load.set.iter().cloned().chain(limit).chain([burst]).collect();
    let load = Load { ads: ADS, fiats: 1, set, ..load.clone() };
    let figures = run::with(&load, async |running| Ok(running.batch().await?.figures)).await?;
    Ok(figures.into_iter().filter(|(name, _)| name.starts_with("answer_to")).collect())
}

/// How the medians in steady state compare to what nothing could be faster than.
fn to_floors(steady: &[Figures], floors: &[Figures]) -> Column {
    /// What the work of an ad is at least made of.
    const PARTS: [&str; 4] =
        ["COPY of facts and archive", "messages alone", "parsing alone", "packing alone"];
    let (steady, floors) = (Column::new("", steady), Column::new("", floors));
    let ours = |name: &str| steady.figures.get(name).copied().unwrap_or(f64::NAN);
    let mut figures = Figures::new();
    let speed = ours("ads_per_s, opened to last end");
    for (name, floor) in &floors.figures {
        if name.starts_with("ads_per_s") {
            figures.insert(format!("{name}: ours to this"), speed / floor);
        }
    }
    let sum: f64 =
        PARTS.iter().map(|part| floors.figures[&format!("cpu_s_per_1000_ads {part}")]).sum();
    figures.insert(
        "cpu_s_per_1000_ads COPY + messages + parsing + packing: ours to this".to_owned(),
        ours("cpu_s_per_1000_ads, all but exchange") / sum,
    );
    Column { name: "steady : floors".to_owned(), of: steady.of, figures }
}

async fn run_once(
    options: &Throughput,
    running: &mut Running<'_>,
    measured: &mut Measured,
) -> Result<()> {
    let first = running.batch().await?;
    eprintln!("  first batch: {:.0} ads/s", first.figures["ads_per_s, opened to last end"]);
    measured.first.push(first.figures);
    let mut last = first.id;
    for _ in 0..options.batches {
        let batch = running.steady().await?;
        eprintln!("  batch: {:.0} ads/s", batch.figures["ads_per_s, opened to last end"]);
        measured.steady.push(batch.figures);
        last = batch.id;
    }
    if !options.no_floors {
        measured.floors.push(floors::measure(running.fleet, &running.meter, last).await?);
    }
    // What was fast and wrong is not worth a figure.
    running.fleet.must_equal_truth().await
}

/// Ours, then the peers, in turn, on one exchange and one database. One that can't be believed is told, and is asked
/// no more; whether all could be.
async fn beside_peers(
    options: &Peers,
    running: &mut Running<'_>,
    report: &mut Report,
) -> Result<bool> {
    let mut ours = Vec::new();
    let mut measured: Vec<(Peer, Vec<Figures>)> =
        options.place.peers()?.into_iter().map(|peer| (peer, Vec::new())).collect();
    let first = running.batch().await?;
    peers::prepare(running.fleet, &options.place).await?;
    // What peers store is told apart by a number.
    let mut batch = 0;
    for round in 1..=options.runs {
        eprintln!("round {round} of {}", options.runs);
        let steady = running.steady().await?;
        let pages = peers::pages_of(running.fleet, steady.id).await?;
        ours.push(steady.figures);
        for (peer, figures) in &mut measured {
            if report.refused.contains_key(peer.name()) {
                continue;
            }
            let batches = batch..batch + peer.batches();
            batch = batches.end;
            match peer.measure(running.fleet, &running.meter, &pages, batches).await {
                Ok(measurement) => figures.push(measurement),
                Err(error) => {
                    let why = format!("{error:#}");
                    eprintln!("{} is refused: {why}", peer.name());
                    report.refused.insert(peer.name().to_owned(), why);
                }
            }
        }
    }
    // What it said before it could not be believed is not believed either.
    measured.retain(|(peer, _)| !report.refused.contains_key(peer.name()));
    let workers = processes(options.load.workers);
    report.push(format!("ours, first, {workers}"), &[first.figures]);
    report.push(format!("ours, steady, {workers}"), &ours);
    for (peer, figures) in &measured {
        let processes = peer.processes().map(|count| format!(", {}", processes(count)));
        report.push(format!("{}{}", peer.name(), processes.unwrap_or_default()), figures);
        report.push_ratio(&format!("ours : {}", peer.name()), figures, &ours);
    }
    Ok(report.refused.is_empty())
}

fn processes(count: usize) -> String {
    if count == 1 { "1 process".to_owned() } else { format!("{count} processes") }
}

/// One run of other programs, by their own `bench`.
async fn run_beside(
    options: &Throughput,
    directory: &std::path::Path,
    measured: &mut Measured,
) -> Result<()> {
    let load = &options.load;
    let bench = directory.join("bench");
    let mut command = Command::new(&bench);
    command.args(["throughput", "--json", "--no-floors", "--runs", "1"]);
    command.args(["--batches", &options.batches.to_string()]);
    command.args(["--ads", &load.ads.to_string(), "--fiats", &load.fiats.to_string()]);
    command.args(["--workers", &load.workers.to_string(), "--in-hand", &load.in_hand.to_string()]);
    if !load.exchange.is_empty() {
        command.args(["--exchange", &load.exchange]);
    }
    for (name, value) in &load.set {
        command.args(["--set", &format!("{name}={value}")]);
    }
    let output = command.stderr(std::process::Stdio::inherit()).output();
    let output = output.await.with_context(|| format!("{}", bench.display()))?;
    ensure!(output.status.success(), "{} ended with {}", bench.display(), output.status);
    let read = || -> Result<_> {
        let report: Report = serde_json::from_slice(&output.stdout).context("its report")?;
        Ok((report.figures_of("first")?.clone(), report.figures_of("steady")?.clone()))
    };
    let (first, steady) = read().with_context(|| format!("{}", bench.display()))?;
    measured.first.push(first);
    measured.steady.push(steady);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_measures_nothing_is_refused() {
        for (line, allowed) in [
            ("suite --runs 0", "1..=1000"),
            ("suite --storage-batches 1", "2..=144"),
            ("throughput --batches 0", "1..=1000"),
            ("throughput --workers 0", "1..=64"),
            ("throughput --in-hand 501", "1..=500"),
            ("throughput --fiats 111", "1..=110"),
            ("throughput --ads 0", "1..=1000000"),
            ("peers --runs 0", "1..=1000"),
            ("peers --celery-processes 0", "1..=200"),
            ("peers --asyncio-processes 201", "1..=200"),
            ("peers --peer mine", "NAME=COMMAND"),
            ("peers --peer mine=", "NAME=COMMAND"),
            ("soak --batches 0", "1..=10000"),
            ("storage --batches 1", "2..=144"),
            ("curves --batches 0", "1..=1000"),
        ] {
            let words = std::iter::once("bench").chain(line.split(' '));
            let refused = Cli::try_parse_from(words).err().map(|error| error.to_string());
            assert!(refused.is_some_and(|error| error.contains(allowed)), "{line}");
        }
    }
}
