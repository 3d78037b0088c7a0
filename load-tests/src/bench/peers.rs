//! What people would build instead, on the same exchange, servers and pages.

use std::num::NonZero;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use load_tests::fleet::{Fleet, Process};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;

use crate::figures::Figures;
use crate::meter::{self, Meter};
use crate::run::{PATIENCE, PULSE, after, counts};

/// Most processes of a peer: each has a connection to the database, of which `dev/stack` allows 300.
const MOST_PROCESSES: u64 = 200;
/// Time for Celery's processes to start; they are idle afterwards.
const WARM_UP: Duration = Duration::from_secs(5);
/// Seconds of CPU by which clocks may differ: Linux counts in hundredths, for each process.
const TOLD_LATE: f64 = 0.1;
/// Queue of Celery's tasks, below the prefix of the fleet.
const QUEUE: &str = "celery";

/// Where the peers are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Place {
    /// Directory of the peers.
    #[arg(long, default_value = "load-tests/peers")]
    pub(crate) directory: PathBuf,
    /// Virtual environment with what they need.
    #[arg(long, default_value = "target/peers")]
    pub(crate) venv: PathBuf,
    /// Processes of Celery's pool; by default twice the cores, for they wait for answers.
    #[arg(long, default_value_t = bounded(cores() * 2), value_parser = counts(1..=MOST_PROCESSES))]
    pub(crate) celery_processes: usize,
    /// Processes of asyncio; by default half of the cores, for each fills one, and the servers need some.
    #[arg(long, default_value_t = bounded(cores() / 2), value_parser = counts(1..=MOST_PROCESSES))]
    pub(crate) asyncio_processes: usize,
    /// Another program beside them, as `NAME=COMMAND`; what it is given and must say stands in the README of the
    /// peers. May come several times.
    #[arg(long = "peer", value_parser = peer)]
    pub(crate) others: Vec<(String, String)>,
}

fn peer(text: &str) -> Result<(String, String), String> {
    let (name, program) = text.split_once('=').unwrap_or_default();
    if name.trim().is_empty() || program.trim().is_empty() {
        return Err("allowed is NAME=COMMAND, of which none is empty".to_owned());
    }
    Ok((name.to_owned(), program.to_owned()))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Seconds of CPU that so many cores have in so many seconds of the clock.
fn cpu_of(cores: usize, seconds: f64) -> f64 {
    f64::from(u32::try_from(cores).unwrap_or(u32::MAX)) * seconds
}

fn bounded(processes: usize) -> usize {
    processes.clamp(1, usize::try_from(MOST_PROCESSES).unwrap_or(usize::MAX))
}

impl Place {
    /// The interpreter that has what they need.
    pub(crate) fn python(&self) -> Result<PathBuf> {
        let python = self.venv.join("bin/python");
        ensure!(python.exists(), "{} is missing: `make peers` installs it", python.display());
        Ok(python)
    }

    /// All of them, in the order in which they are measured; each has a name of its own.
    pub(crate) fn peers(&self) -> Result<Vec<Peer<'_>>> {
        let mut peers = vec![Peer::Celery(self), Peer::Asyncio(self)];
        for (name, program) in &self.others {
            let is_taken = peers.iter().any(|peer| peer.name() == name);
            ensure!(!is_taken, "--peer {name}: two peers have this name");
            peers.push(Peer::Other { name, program });
        }
        Ok(peers)
    }
}

/// Who is measured beside ours.
pub(crate) enum Peer<'a> {
    Celery(&'a Place),
    Asyncio(&'a Place),
    Other { name: &'a str, program: &'a str },
}

impl Peer<'_> {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Celery(_) => "Celery",
            Self::Asyncio(_) => "asyncio",
            Self::Other { name, .. } => name,
        }
    }

    /// Of which it is known.
    pub(crate) fn processes(&self) -> Option<usize> {
        match self {
            Self::Celery(place) => Some(place.celery_processes),
            Self::Asyncio(place) => Some(place.asyncio_processes),
            Self::Other { .. } => None,
        }
    }

    /// Batches that a measurement takes.
    pub(crate) fn batches(&self) -> i32 {
        match self {
            // The first finds its processes cold.
            Self::Celery(_) => 2,
            Self::Asyncio(_) | Self::Other { .. } => 1,
        }
    }

    /// Has it store the pages as `batches`, of which the last counts.
    pub(crate) async fn measure(
        &self,
        fleet: &Fleet,
        meter: &Meter,
        pages: &Pages,
        batches: Range<i32>,
    ) -> Result<Figures> {
        match self {
            Self::Celery(place) => celery(fleet, meter, place, pages, batches).await,
            Self::Asyncio(place) => {
                let task = Task::of(pages, batches.start)?;
                let mut command = python(fleet, place)?;
                command.arg(place.directory.join("asyncio_peer.py")).arg(&task.path);
                command.arg(place.asyncio_processes.to_string());
                measure(command, fleet, meter, &task).await
            }
            Self::Other { name, program } => {
                let task = Task::of(pages, batches.start)?;
                let mut command = Command::new("sh");
                command.arg("-c").arg(format!("exec {program} \"$1\"")).arg(name).arg(&task.path);
                measure(equipped(command, fleet), fleet, meter, &task).await
            }
        }
    }
}

/// What a peer says at its end.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Done {
    ads: i64,
    pages: i64,
    seconds: f64,
    /// CPU of its process from the moment at which its clock began.
    cpu_seconds: f64,
}

/// Makes the tables of the peers.
pub(crate) async fn prepare(fleet: &Fleet, place: &Place) -> Result<()> {
    let schema = place.directory.join("schema.sql");
    let schema =
        std::fs::read_to_string(&schema).with_context(|| format!("{}", schema.display()))?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(schema)).execute(&fleet.pool).await?;
    Ok(())
}

/// The pages that a batch of ours read, for the peers, and the ads that they list: the exchange stands still meanwhile.
pub(crate) struct Pages {
    file: PathBuf,
    ads: i64,
}

pub(crate) async fn pages_of(fleet: &Fleet, batch: i32) -> Result<Pages> {
    let pages: Vec<(String, String, String, i16)> = sqlx::query_as(
        "SELECT f.currency_code, c.symbol, m.trade_type, j.page
           FROM pipeline.jobs j
           JOIN warehouse.dim_markets m USING (market_id)
           JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
           JOIN warehouse.dim_cryptocurrencies c ON c.crypto_id = m.crypto_id
          WHERE j.batch_id = $1 AND j.kind = 'search' AND j.state IN ('done', 'empty')
          GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
    )
    .bind(batch)
    .fetch_all(&fleet.pool)
    .await?;
    let ads = sqlx::query_scalar(
        "SELECT coalesce(sum(listed_ads), 0)::bigint FROM warehouse.books WHERE batch_id = $1",
    )
    .bind(batch)
    .fetch_one(&fleet.pool)
    .await?;
    let file = std::env::temp_dir().join(&fleet.name).join("pages.json");
    std::fs::write(&file, json!({ "batch": batch, "pages": pages }).to_string())?;
    Ok(Pages { file, ads })
}

/// What a peer is to read.
struct Task {
    path: PathBuf,
    batch: i32,
    pages: serde_json::Value,
    /// That these list.
    ads: i64,
}

impl Task {
    /// These pages, as another batch.
    fn of(pages: &Pages, batch: i32) -> Result<Self> {
        let mut task: serde_json::Value = serde_json::from_slice(&std::fs::read(&pages.file)?)?;
        task["batch"] = json!(batch);
        let path = pages.file.with_file_name(format!("pages-{batch}.json"));
        std::fs::write(&path, task.to_string())?;
        Ok(Self { path, batch, pages: task["pages"].take(), ads: pages.ads })
    }

    /// What is there of it.
    async fn stored(&self, fleet: &Fleet) -> Result<Stored> {
        let (pages, ads, places, read_seconds) = sqlx::query_as(
            "WITH asked AS MATERIALIZED (
                 SELECT page ->> 0 AS fiat, page ->> 1 AS asset, page ->> 2 AS trade_type, (page ->> 3)::int AS page
                   FROM jsonb_array_elements($2) page)
             SELECT (SELECT count(DISTINCT (fiat, asset, trade_type, page))
                       FROM plain_pages JOIN asked USING (fiat, asset, trade_type, page) WHERE batch_id = $1),
                    count(*),
                    (SELECT count(DISTINCT (fiat, asset, trade_type, page, rank))
                       FROM plain_offers JOIN asked USING (fiat, asset, trade_type, page) WHERE batch_id = $1),
                    coalesce(extract(epoch FROM max(extraction_timestamp) - min(extraction_timestamp)), 0)::float8
               FROM plain_offers WHERE batch_id = $1",
        )
        .bind(self.batch)
        .bind(&self.pages)
        .fetch_one(&fleet.pool)
        .await?;
        Ok(Stored { pages, ads, places, read_seconds })
    }
}

/// What the tables have of a batch.
#[derive(Clone, Copy)]
struct Stored {
    /// Of those asked for.
    pages: i64,
    ads: i64,
    /// On pages asked for, each place of a page once.
    places: i64,
    /// From the first answer to the last, as its rows say.
    read_seconds: f64,
}

impl Done {
    fn read(said: &[u8]) -> Result<Self> {
        const SHOWN: usize = 200;
        serde_json::from_slice(said).with_context(|| {
            let said: String = String::from_utf8_lossy(said).chars().take(SHOWN).collect();
            format!(
                "it says {said:?}: allowed is an object of ads, pages, seconds and cpu_seconds alone"
            )
        })
    }

    /// Its clocks can't have gone on longer than it ran itself, on all cores.
    fn must_fit(&self, ran: f64, cores: usize) -> Result<()> {
        ensure!(
            self.seconds > 0.0 && self.seconds <= ran,
            "it says that it took {} s: allowed is more than 0 and at most the {ran:.3} s that it ran",
            self.seconds
        );
        ensure!(
            (0.0..=cpu_of(cores, ran)).contains(&self.cpu_seconds),
            "it says that it took {} s of CPU: allowed are 0 to {:.3}, for it ran {ran:.3} s on {cores} cores",
            self.cpu_seconds,
            cpu_of(cores, ran)
        );
        Ok(())
    }

    /// Of the CPU that it used, `seen` from outside, it may leave out what the cores had before and after its clock.
    fn must_have_used(&self, seen: f64, ran: f64, cores: usize) -> Result<()> {
        let left_out = seen - self.cpu_seconds;
        let most = cpu_of(cores, ran - self.seconds) + TOLD_LATE;
        ensure!(
            left_out <= most,
            "it says that it took {} s of CPU, of the {seen:.3} s that were seen: it may leave out {most:.3}, for its clock \
             went {:.3} of {ran:.3} s on {cores} cores",
            self.cpu_seconds,
            self.seconds
        );
        Ok(())
    }

    /// What it says is what is there: each of the pages `asked` for, and all ads that these list, read while its clock went.
    fn must_equal(&self, asked: i64, listed: i64, stored: Stored) -> Result<()> {
        ensure!(stored.ads > 0, "it says that it stored {} ads, and none are there", self.ads);
        ensure!(
            stored.pages == asked && self.pages == asked,
            "of {asked} pages it says that it stored {}, and {} are there",
            self.pages,
            stored.pages
        );
        ensure!(
            stored.ads == self.ads,
            "it says that it stored {} ads, and {} are there",
            self.ads,
            stored.ads
        );
        ensure!(
            stored.ads == listed,
            "it stored {} ads, and the pages that it was asked for list {listed}",
            stored.ads
        );
        ensure!(
            stored.places == stored.ads,
            "{} of its {} ads stand at a place of another or on pages that were not asked for",
            stored.ads - stored.places,
            stored.ads
        );
        ensure!(
            stored.read_seconds <= self.seconds,
            "it says that it took {} s, and between its first and its last extraction_timestamp are {:.3} s",
            self.seconds,
            stored.read_seconds
        );
        Ok(())
    }
}

/// A command that knows the servers and the exchange.
fn equipped(mut command: Command, fleet: &Fleet) -> Command {
    command
        .env("DATABASE_URL", &fleet.database_url)
        .env("REDIS_URL", &fleet.servers.redis_url)
        .env("AMQP_URL", &fleet.servers.amqp_url)
        .env("BINANCE_BASE_URL", &fleet.exchange_url)
        .env("PEER_QUEUE", format!("{}.{QUEUE}", fleet.name))
        .stdin(Stdio::null());
    command
}

fn python(fleet: &Fleet, place: &Place) -> Result<Command> {
    let mut command = Command::new(place.python()?);
    command.env("PYTHONPATH", &place.directory).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(equipped(command, fleet))
}

/// Celery's pool, which runs before and after.
async fn celery(
    fleet: &Fleet,
    meter: &Meter,
    place: &Place,
    pages: &Pages,
    batches: Range<i32>,
) -> Result<Figures> {
    let log = pages.file.with_file_name("celery.log");
    let mut worker = start_celery(fleet, place, &log)?;
    let outcome = drive(fleet, meter, place, pages, batches, &mut worker).await;
    let outcome = after(outcome, end_celery(fleet, &mut worker).await);
    if outcome.is_err() {
        // The files of the fleet go with it; this one is to be read.
        let kept = std::env::temp_dir().join(format!("{}_celery.log", fleet.name));
        std::fs::rename(&log, &kept)?;
        return outcome.with_context(|| format!("its messages are in {}", kept.display()));
    }
    outcome
}

async fn end_celery(fleet: &Fleet, worker: &mut Process) -> Result<()> {
    if worker.try_wait()?.is_none() {
        worker.terminate().await?;
    }
    // It goes with its consumers, of which there may have been none.
    fleet.lose_queue(QUEUE).await
}

fn start_celery(fleet: &Fleet, place: &Place, log: &Path) -> Result<Process> {
    let file = std::fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut command = python(fleet, place)?;
    let processes = place.celery_processes.to_string();
    command
        .args(["-m", "celery", "-A", "celery_peer.tasks", "worker", "-P", "prefork"])
        .args(["-c", &processes, "--without-gossip", "--without-mingle", "--without-heartbeat"])
        .args(["-l", "ERROR"])
        .stdout(file.try_clone()?)
        .stderr(file);
    // A process of its own group would outlive its owner less surely; Celery ends its children itself.
    Process::spawn(command)
}

async fn drive(
    fleet: &Fleet,
    meter: &Meter,
    place: &Place,
    pages: &Pages,
    batches: Range<i32>,
    worker: &mut Process,
) -> Result<Figures> {
    tokio::time::sleep(WARM_UP).await;
    let mut meter = meter.clone();
    meter.add("peer", worker.id().context("its worker has ended")?);
    let mut last = Figures::new();
    for batch in batches {
        let task = Task::of(pages, batch)?;
        let mut command = python(fleet, place)?;
        command.args(["-m", "celery_peer.drive"]).arg(&task.path);
        last = tokio::select! {
            figures = measure(command, fleet, &meter, &task) => figures?,
            ended = end_of(worker) => bail!("its worker ended with {}", ended?),
        };
    }
    Ok(last)
}

async fn end_of(process: &mut Process) -> Result<ExitStatus> {
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        tokio::time::sleep(PULSE).await;
    }
}

/// Runs a program that says at its end what it did, and counts its CPU and that of all servers.
async fn measure(command: Command, fleet: &Fleet, meter: &Meter, task: &Task) -> Result<Figures> {
    let (from, own) = (meter.read()?, meter::own()?);
    let (done, ran) = run(command, PATIENCE).await?;
    let (cpu, seen) = (meter::used(&from, &meter.read()?), meter::own()? - own);
    let asked = task.pages.as_array().map_or(0, Vec::len);
    done.must_equal(i64::try_from(asked)?, task.ads, task.stored(fleet).await?)?;
    done.must_have_used(seen, ran, cores())?;
    #[expect(clippy::cast_precision_loss, reason = "counts of ads and pages are small")]
    let (ads, pages) = (done.ads as f64, done.pages as f64);
    let mut figures = Figures::new();
    let mut put = |name: &str, value: f64| {
        figures.insert(name.to_owned(), value);
    };
    put("ads", ads);
    put("pages", pages);
    put("ads per page", ads / pages);
    put("ads_per_s, opened to last end", ads / done.seconds);
    put("pages_per_s, opened to last end", pages / done.seconds);
    // What it does not count itself: to start and to end, if it is honest.
    put("s before and after its clock", ran - done.seconds);
    put("cpu_s before and after its clock", seen - done.cpu_seconds);
    let mut servers = 0.0;
    // By its own account, for ours and Celery's pool are not counted from their start either.
    let mut peer = done.cpu_seconds;
    for (process, seconds) in cpu {
        match process {
            "worker" | "coordinator" => {}
            "peer" => peer += seconds,
            _ => {
                put(&format!("cpu_s_per_1000_ads {process}"), seconds / ads * 1000.0);
                if process != "exchange" {
                    servers += seconds;
                }
            }
        }
    }
    put("cpu_s_per_1000_ads worker", peer / ads * 1000.0);
    put("cpu_s_per_1000_ads, all but exchange", (servers + peer) / ads * 1000.0);
    Ok(figures)
}

/// What a program started, so that it goes with it.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Most often nobody is left.
            kill_process_group(leader, Signal::KILL).ok();
        }
    }
}

/// Runs a program to its end, within `patience`; what it says, as far as that can be, and the seconds that it ran.
async fn run(mut command: Command, patience: Duration) -> Result<(Done, f64)> {
    let since = Instant::now();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
    let child = command.spawn().context("start the program")?;
    let _group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let output = tokio::time::timeout(patience, child.wait_with_output()).await;
    let output =
        output.with_context(|| format!("the program does not end within {patience:?}"))??;
    let ran = since.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the program ended with {}: {}", output.status, said.trim());
    let done = Done::read(&output.stdout)?;
    done.must_fit(ran, cores())?;
    Ok((done, ran))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Done = Done { ads: 30, pages: 2, seconds: 1.0, cpu_seconds: 0.5 };
    const STORED: Stored = Stored { pages: 2, ads: 30, places: 30, read_seconds: 0.9 };

    fn told<T>(outcome: Result<T>) -> String {
        outcome.err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn what_the_tables_do_not_show_is_refused() {
        assert_eq!(told(DONE.must_equal(2, 30, STORED)), "");
        let told_less = told(DONE.must_equal(2, 31, STORED));
        assert!(told_less.contains("it stored 30 ads, and the pages"), "{told_less}");
        for (done, stored, error) in [
            (DONE, Stored { ads: 0, pages: 0, ..STORED }, "stored 30 ads, and none are there"),
            (
                DONE,
                Stored { pages: 1, ..STORED },
                "of 2 pages it says that it stored 2, and 1 are there",
            ),
            (
                Done { pages: 1, ..DONE },
                STORED,
                "of 2 pages it says that it stored 1, and 2 are there",
            ),
            (Done { ads: 300, ..DONE }, STORED, "stored 300 ads, and 30 are there"),
            (DONE, Stored { places: 15, ..STORED }, "15 of its 30 ads stand at a place of another"),
            (Done { seconds: 0.1, ..DONE }, STORED, "it took 0.1 s, and between its first and"),
        ] {
            let told = told(done.must_equal(2, stored.ads, stored));
            assert!(told.contains(error), "{told}");
        }
    }

    #[test]
    fn cpu_that_is_left_out_is_seen() {
        assert_eq!(told(DONE.must_have_used(1.4, 1.5, 2)), "");
        let told = told(DONE.must_have_used(1.7, 1.5, 2));
        assert!(told.contains("0.5 s of CPU, of the 1.700 s that were seen: it may"), "{told}");
    }

    #[test]
    fn a_peer_has_a_process_and_not_too_many() {
        assert_eq!((bounded(0), bounded(4), bounded(512)), (1, 4, 200));
    }

    #[test]
    fn peers_have_names_of_their_own() {
        let named = |names: &[&str]| {
            let others = names.iter().map(|name| ((*name).to_owned(), "true".to_owned())).collect();
            let (directory, venv) = (PathBuf::new(), PathBuf::new());
            let place =
                Place { directory, venv, celery_processes: 4, asyncio_processes: 1, others };
            place.peers().map(|peers| peers.iter().map(|peer| peer.name().to_owned()).collect())
        };
        let all: Vec<String> = named(&["go", "java"]).unwrap();
        assert_eq!(all, ["Celery", "asyncio", "go", "java"]);
        for names in [["go", "go"], ["go", "Celery"]] {
            assert!(told(named(&names)).contains("two peers have this name"));
        }
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_believed_is_refused() {
        let says = |ads: &str, seconds: &str, cpu: &str| {
            format!(r#"echo '{{"ads":{ads},"pages":2,"seconds":{seconds},"cpu_seconds":{cpu}}}'"#)
        };
        for (program, error) in [
            (says("30", "0.000001", "0"), ""),
            (says("30", "60", "0"), "it took 60 s: allowed is more than 0 and at most"),
            (says("30", "0", "0"), "it took 0 s: allowed is more than 0"),
            (says("30", "0.000001", "9000"), "it took 9000 s of CPU: allowed are 0 to"),
            (says("30", "0.000001", "-1"), "it took -1 s of CPU"),
            (says("-", "1", "1"), "allowed is an object of ads"),
            ("echo so far so good".to_owned(), r#"it says "so far so good\n": allowed is"#),
            ("true".to_owned(), r#"it says "": allowed is"#),
            ("echo no database >&2; exit 3".to_owned(), "ended with exit status: 3: no database"),
            ("kill -9 $$".to_owned(), "ended with signal: 9"),
        ] {
            let told = told(run(shell(&program), PATIENCE).await);
            assert!(
                told.contains(error) && told.is_empty() == error.is_empty(),
                "{program}: {told}"
            );
        }
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended_with_what_it_started() {
        let mark = std::env::temp_dir().join(format!("bench-{}.pid", std::process::id()));
        // Far longer than anybody waits here.
        let program = format!("sleep 100000 & echo $! > {}; wait", mark.display());
        let ended = tokio::spawn(run(shell(&program), Duration::from_secs(5)));
        assert!(told(ended.await.unwrap()).contains("does not end within 5s"));
        let started = std::fs::read_to_string(&mark).unwrap();
        std::fs::remove_file(&mark).unwrap();
        let stat = format!("/proc/{}/stat", started.trim());
        let is_gone = async {
            // A dead one may wait for its new parent to look.
            while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::time::sleep(PULSE).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), is_gone).await.unwrap();
    }

    fn shell(program: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(program);
        command
    }
}
