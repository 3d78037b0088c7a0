//! CPU time and memory of processes, as Linux counts them: wall clock says little on a machine that others
//! use too.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result};
use load_tests::fleet::Servers;

/// Ticks a second in which `/proc` counts, on every architecture that servers run on.
const TICKS: f64 = 100.0;
/// State of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// Seconds of CPU, by name of the process.
pub(crate) type Cpu = BTreeMap<&'static str, f64>;

/// Processes by name; each stands for itself and all its children.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Vec<(&'static str, u32)>);

impl Meter {
    /// The servers, which must run on this machine.
    pub(crate) fn of_servers(servers: &Servers) -> Result<Self> {
        let mut meter = Self::default();
        for (name, url) in [
            ("postgres", &servers.database_url),
            ("rabbitmq", &servers.amqp_url),
            ("redis", &servers.redis_url),
        ] {
            let url: url::Url = url.parse().with_context(|| format!("the URL of {name}"))?;
            let port = url.port().with_context(|| format!("the URL of {name} has no port"))?;
            meter.add(name, listener(port)?);
        }
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

    fn read(directory: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(directory.join("stat"))?;
        // The name, in parentheses, may hold anything.
        let (_, rest) = text.rsplit_once(") ").context("stat")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |at: usize| fields.get(at).context("stat has too few fields");
        let mut ticks = 0.0;
        for at in 11..=14 {
            ticks += field(at)?.parse::<f64>()?;
        }
        Ok(Self { parent: field(1)?.parse()?, seconds: ticks / TICKS })
    }
}

/// Memory of a process that is its own or in use by it, in MB.
pub(crate) fn resident_mb(id: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kb: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kb / 1024.0)
}

/// The process that listens on a port.
fn listener(port: u16) -> Result<u32> {
    let wanted = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            if let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..]
                && local.ends_with(&wanted)
                && state == LISTENING
            {
                inodes.push(format!("socket:[{inode}]"));
            }
        }
    }
    let holds = |id: u32| {
        let files = std::fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        let mut links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        links.any(|link| link.to_str().is_some_and(|link| inodes.iter().any(|one| one == link)))
    };
    let ids = std::fs::read_dir("/proc")?.flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A child may have inherited the socket.
    ids.filter(|id| holds(*id)).min().with_context(|| {
        format!("nobody on this machine who can be looked at listens on port {port}")
    })
}
