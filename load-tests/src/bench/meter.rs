//! CPU time and memory of processes, as Linux counts them: wall clock says little on a machine that others
//! use too. The servers are asked which processes they are, for who listens on a port is told to its user and root only.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use load_tests::fleet::Servers;
use sqlx::{Connection, PgConnection};

use crate::machine;
use crate::run::PULSE;

/// Ticks a second in which `/proc` counts, on every architecture that servers run on.
const TICKS: f64 = 100.0;

/// Longest wait for what `RabbitMQ` tells of a node that has just started.
const FIRST_STATISTICS: Duration = Duration::from_secs(30);

/// Seconds of CPU, by name of the process.
pub(crate) type Cpu = BTreeMap<&'static str, f64>;

/// Processes by name; each stands for itself and all its children.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Vec<(&'static str, u32)>);

impl Meter {
    /// The servers, which must run on this machine.
    pub(crate) async fn of_servers(servers: &Servers) -> Result<Self> {
        let mut meter = Self::default();
        meter.add("postgres", postgres(servers).await.context("ask PostgreSQL for its process")?);
        let asking =
            "ask the management of RabbitMQ for its process, as a user with the tag `monitoring`";
        meter.add("rabbitmq", rabbitmq(servers).await.context(asking)?);
        meter.add("redis", redis(servers).await.context("ask Redis for its process")?);
        Ok(meter)
    }

    /// Counts a process too; several of one name are added up.
    pub(crate) fn add(&mut self, name: &'static str, id: u32) {
        self.0.push((name, id));
    }

    /// CPU seconds until now.
    pub(crate) fn read(&self) -> Result<Cpu> {
        let all = Process::all()?;
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for (id, process) in &all {
            children.entry(process.parent).or_default().push(*id);
        }
        let mut cpu = Cpu::new();
        for (name, root) in &self.0 {
            let mut todo = vec![*root];
            while let Some(id) = todo.pop() {
                if let Some(process) = all.get(&id) {
                    *cpu.entry(name).or_default() += process.seconds;
                }
                todo.extend(children.get(&id).into_iter().flatten());
            }
        }
        Ok(cpu)
    }
}

/// What was used between two readings.
pub(crate) fn used(from: &Cpu, until: &Cpu) -> Cpu {
    until.iter().map(|(name, at)| (*name, at - from.get(name).unwrap_or(&0.0))).collect()
}

/// CPU seconds of this process.
pub(crate) fn own() -> Result<f64> {
    Ok(Process::read(Path::new("/proc/self"))?.seconds)
}

struct Process {
    /// Of its program, cut to 15 bytes.
    name: String,
    parent: u32,
    /// Of itself, and of its children that have ended.
    seconds: f64,
}

impl Process {
    fn all() -> Result<HashMap<u32, Self>> {
        let mut all = HashMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // One may have ended meanwhile.
            if let Some(id) = id
                && let Ok(process) = Self::read(&entry.path())
            {
                all.insert(id, process);
            }
        }
        Ok(all)
    }

    /// The process that a server says to be, which is another one if it counts them in a container of its own.
    fn of_server(id: u32, programs: &[&str]) -> Result<Self> {
        let process = Self::read(&Path::new("/proc").join(id.to_string())).ok();
        let is_right = |process: &Self| programs.iter().any(|name| process.name.starts_with(name));
        let found = match &process {
            Some(process) => format!("is {:?}", process.name),
            None => "cannot be seen".to_owned(),
        };
        process.filter(is_right).with_context(|| {
            format!(
                "it says that it is process {id}, which here {found}: it must run on this machine, outside of containers, and \
                 /proc must show the processes of its user"
            )
        })
    }

    fn read(directory: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(directory.join("stat"))?;
        // The name, in parentheses, may hold anything.
        let (name, rest) = text.rsplit_once(") ").context("stat")?;
        let (_, name) = name.split_once('(').context("stat")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |at: usize| fields.get(at).context("stat has too few fields");
        let mut ticks = 0.0;
        for at in 11..=14 {
            ticks += field(at)?.parse::<f64>()?;
        }
        Ok(Self { name: name.to_owned(), parent: field(1)?.parse()?, seconds: ticks / TICKS })
    }
}

/// Memory of a process that is its own or in use by it, in MB.
pub(crate) fn resident_mb(id: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kb: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kb / 1024.0)
}

/// The process that all others of the server come from.
async fn postgres(servers: &Servers) -> Result<u32> {
    let mut connection = PgConnection::connect(&servers.database_url).await?;
    let backend: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
    Ok(Process::of_server(u32::try_from(backend)?, &["postgres"])?.parent)
}

async fn redis(servers: &Servers) -> Result<u32> {
    let info = machine::redis_info(servers).await?;
    let id = info.get("process_id").context("its INFO has no process_id")?;
    Process::of_server(id, &["redis", "valkey"])?;
    Ok(id)
}

async fn rabbitmq(servers: &Servers) -> Result<u32> {
    let management = machine::management(servers)?;
    let until = Instant::now() + FIRST_STATISTICS;
    let id = loop {
        match &management.processes().await?[..] {
            [Some(id)] => break id.parse()?,
            [None] if Instant::now() < until => tokio::time::sleep(PULSE).await,
            [None] => bail!("it does not tell `os_pid` within {FIRST_STATISTICS:?}"),
            nodes => bail!("it has {} nodes: allowed is one", nodes.len()),
        }
    };
    Process::of_server(id, &["beam"])?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_another_machine_is_told() {
        let own = std::process::id();
        assert!(Process::of_server(own, &["bench"]).is_ok());
        let told = |id| Process::of_server(id, &["postgres"]).err().map(|error| error.to_string());
        let another = told(own).unwrap();
        assert!(another.contains(&format!("process {own}, which here is \"bench")), "{another}");
        let nobody = told(u32::MAX).unwrap();
        assert!(nobody.contains("process 4294967295, which here cannot be seen"), "{nobody}");
    }
}
