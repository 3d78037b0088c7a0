//! A fleet whose processes reach every server over links of their own, and a supervisor that starts
//! again what ends by itself, as systemd or Kubernetes would.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use sqlx::postgres::PgListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use url::Url;

use super::broker::Broker;
use super::lines::{IN_FLIGHT, Role, Step};
use super::link::{Hit, Link, Trigger};
use super::wire::Server;
use crate::fleet::{Fleet, PULSE, Process, Servers};

/// Starts of processes that ended by themselves, in one line: more is a process that can't live.
const MAX_RESTARTS: usize = 20;
/// Longest wait for a process to end that was told to.
const DRAIN_PATIENCE: Duration = Duration::from_secs(40);
/// Channel of the notifications of closed batches.
const NOTIFY_CHANNEL: &str = "p2p_batch_closed";

/// Something that must come about in time.
pub(super) struct Deadline {
    what: String,
    patience: Duration,
    end: Instant,
}

impl Deadline {
    pub(super) fn new(what: impl Into<String>, patience: Duration) -> Self {
        Self { what: what.into(), patience, end: Instant::now() + patience }
    }

    /// A moment of waiting, or an error once the time is over.
    pub(super) async fn pulse(&self) -> Result<()> {
        ensure!(Instant::now() < self.end, "{}: not within {:?}", self.what, self.patience);
        tokio::time::sleep(PULSE).await;
        Ok(())
    }
}

/// A process with its links.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) role: Role,
    process: Process,
    links: Vec<Link>,
    log: PathBuf,
    /// Most memory it had, in KiB.
    peak_kib: u64,
    /// It ended, was killed, or is stopped: the supervisor leaves it alone.
    is_out: bool,
}

impl Member {
    /// Its link to a server.
    pub(super) fn link(&self, server: Server) -> Result<&Link> {
        let link = self.links.iter().find(|link| link.server == server);
        link.with_context(|| format!("{} has no link to {}", self.name, server.name()))
    }

    /// Reads how much memory it had at most. Its number is its own until it was waited for.
    fn sample(&mut self) {
        let status = self.process.id().map(|id| format!("/proc/{id}/status"));
        let text = status.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        self.peak_kib = self.peak_kib.max(peak.unwrap_or(0));
    }

    pub(super) fn links(&self) -> &[Link] {
        &self.links
    }

    pub(super) fn logged(&self, text: &str) -> bool {
        std::fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text))
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self) -> Result<()> {
        self.sample();
        self.is_out = true;
        self.process.kill().await
    }

    /// Leaves it to itself: it is stopped and may end when it goes on.
    pub(super) fn leave(&mut self) {
        self.sample();
        self.is_out = true;
    }

    /// Waits for its end; the exit code.
    pub(super) async fn end(&mut self) -> Result<i32> {
        let deadline = Deadline::new(format!("{} ends", self.name), DRAIN_PATIENCE);
        loop {
            self.sample();
            if let Some(status) = self.process.try_wait()? {
                self.is_out = true;
                // Told before it listened to signals, as one that was started a moment before: it had nothing to leave.
                let is_unbegun = std::fs::metadata(&self.log).is_ok_and(|log| log.len() == 0);
                if is_unbegun && status.signal() == Some(Signal::TERM.as_raw()) {
                    return Ok(0);
                }
                return status.code().with_context(|| format!("{} ended by {status}", self.name));
            }
            deadline.pulse().await?;
        }
    }
}

pub(super) struct Arena {
    pub(super) fleet: Fleet,
    pub(super) broker: Broker,
    pub(super) members: Vec<Member>,
    /// Where logs are.
    pub(super) directory: PathBuf,
    restarts: usize,
    notified: Arc<Mutex<Vec<String>>>,
    _listener: JoinSet<()>,
}

impl Arena {
    pub(super) async fn start(
        servers: &Servers,
        directory: &Path,
        tablespace: Option<&str>,
        market: &str,
    ) -> Result<Self> {
        let name = Fleet::new_name();
        let fleet = Fleet::start_as(name, servers.clone(), directory, tablespace, market).await?;
        let broker = Broker::new(&servers.amqp_url, &fleet.name);
        broker.watch_events().await.context("watch the events")?;
        let notified = Arc::new(Mutex::new(Vec::new()));
        let mut listener = PgListener::connect(&fleet.database_url).await?;
        listener.listen(NOTIFY_CHANNEL).await?;
        let heard = Arc::clone(&notified);
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            // Connects again by itself; what was told meanwhile is not told again.
            loop {
                match listener.recv().await {
                    Ok(notification) => {
                        let batch = notification.payload().to_owned();
                        heard.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
                    }
                    Err(_) => tokio::time::sleep(PULSE).await,
                }
            }
        });
        let (members, directory) = (Vec::new(), directory.to_owned());
        Ok(Self { fleet, broker, members, directory, restarts: 0, notified, _listener: listening })
    }

    /// Starts a process; gives the message that `arm` is about to wait for.
    pub(super) async fn add(
        &mut self,
        role: Role,
        is_once: bool,
        arm: Option<(Step, Trigger)>,
    ) -> Result<Option<oneshot::Receiver<Hit>>> {
        let (program, servers, args): (_, &[Server], &[&str]) = match role {
            Role::Worker => (
                "worker",
                &[Server::Postgres, Server::Rabbitmq, Server::Redis, Server::Exchange],
                &["run"],
            ),
            Role::Coordinator if is_once => {
                ("coordinator", &[Server::Postgres, Server::Rabbitmq], &["run", "--once"])
            }
            Role::Coordinator => ("coordinator", &[Server::Postgres, Server::Rabbitmq], &["run"]),
        };
        let name = format!("{program}-{}", self.members.len());
        let mut command = self.fleet.command(program, args)?;
        let mut links = Vec::new();
        for server in servers {
            let (variable, url) = match server {
                Server::Postgres => ("DATABASE_URL", &self.fleet.database_url),
                Server::Redis => ("REDIS_URL", &self.fleet.servers.redis_url),
                Server::Rabbitmq => ("AMQP_URL", &self.fleet.servers.amqp_url),
                Server::Exchange => ("BINANCE_BASE_URL", &self.fleet.exchange_url),
            };
            let (link, url) = link(*server, url).await.context(variable)?;
            command.env(variable, url);
            links.push(link);
        }
        let armed = arm.map(|(step, trigger)| {
            links.iter().find(|link| link.server == step.server()).map(|link| link.arm(trigger))
        });
        let log = self.directory.join(format!("{name}.log"));
        let file = std::fs::File::create(&log)?;
        command
            .env("WORKER_ID", &name)
            .env("COORDINATOR_ID", &name)
            .env("INITIAL_RATE_LIMIT", "2400")
            // Without Redis a batch goes on at a quarter of the rate, so that it ends in time.
            .env("MIN_RATE_LIMIT", "600")
            .env("MAX_WORKERS", IN_FLIGHT.to_string())
            .env("REQUEST_TIMEOUT_SECONDS", "10")
            .env("BATCH_DEADLINE_SECONDS", "180")
            // A standby opens no batch of its own: slots come at midnight only.
            .env("EXTRACTION_INTERVAL_MINUTES", "1440")
            .env("MISFIRE_GRACE_SECONDS", "1")
            .env("LOG_LEVEL", "info")
            .stdout(file.try_clone()?)
            .stderr(file);
        let process = Process::spawn(command)?;
        self.members.push(Member { name, role, process, links, log, peak_kib: 0, is_out: false });
        Ok(armed.flatten())
    }

    /// Looks after the processes: those that ended with an error are started again.
    pub(super) async fn supervise(&mut self) -> Result<()> {
        let mut missing = Vec::new();
        for member in self.members.iter_mut().filter(|member| !member.is_out) {
            member.sample();
            if let Some(status) = member.process.try_wait()? {
                member.is_out = true;
                if !status.success() {
                    missing.push(member.role);
                }
            }
        }
        self.restarts += missing.len();
        ensure!(self.restarts <= MAX_RESTARTS, "processes end by themselves again and again");
        for role in missing {
            self.add(role, false, None).await?;
        }
        Ok(())
    }

    /// Closed batches; `None`: the database does not answer.
    async fn closed(&self) -> Option<i64> {
        let closed = "SELECT count(*) FROM pipeline.batches WHERE state = 'closed'";
        self.fleet.number(closed).await.ok()
    }

    /// Waits until a number out of the database is `least`, with everybody looked after.
    pub(super) async fn wait_for(
        &mut self,
        sql: &'static str,
        least: i64,
        patience: Duration,
    ) -> Result<()> {
        let deadline = Deadline::new(format!("{sql} = {least}"), patience);
        while self.fleet.number(sql).await.map_or(true, |number| number < least) {
            self.supervise().await?;
            deadline.pulse().await?;
        }
        Ok(())
    }

    /// Waits until so many batches are closed.
    pub(super) async fn wait_closed(&mut self, least: i64, patience: Duration) -> Result<()> {
        let deadline = Deadline::new(format!("batch {least} is closed"), patience);
        while self.closed().await.is_none_or(|closed| closed < least) {
            self.supervise().await?;
            deadline.pulse().await?;
        }
        Ok(())
    }

    /// Waits for the message that a fault waits for.
    pub(super) async fn wait_hit(
        &mut self,
        mut hit: oneshot::Receiver<Hit>,
        leader: usize,
        patience: Duration,
    ) -> Result<Hit> {
        let deadline = Deadline::new("not hit, the step comes", patience);
        loop {
            match hit.try_recv() {
                Ok(hit) => return Ok(hit),
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(error) => return Err(error).context("not hit: the process is gone"),
            }
            // What the leader tells after the close is a step as well.
            let is_over = self.members[leader].is_out && self.closed().await > Some(0);
            ensure!(!is_over, "not hit: the batch was over before");
            self.supervise().await?;
            deadline.pulse().await?;
        }
    }

    /// Tells the processes of a role to end, and wants to hear from each that all is done. A coordinator
    /// may have ended by itself: `codes` are those that are right.
    pub(super) async fn end(&mut self, role: Role, codes: &[i32]) -> Result<()> {
        let running = |member: &&mut Member| member.role == role && !member.is_out;
        for member in self.members.iter_mut().filter(running) {
            if member.process.try_wait()?.is_none() {
                member.signal(Signal::TERM)?;
            }
        }
        for member in self.members.iter_mut().filter(running) {
            let code = member.end().await?;
            if !codes.contains(&code) {
                bail!("{} was told to end and ended with {code}", member.name);
            }
        }
        Ok(())
    }

    /// Ends everything and takes it off the servers; the files stay.
    pub(super) async fn remove(mut self) -> Result<()> {
        self.members.clear();
        self.fleet.remove_from_servers().await
    }

    pub(super) fn running(&self, role: Role) -> usize {
        self.members.iter().filter(|member| member.role == role && !member.is_out).count()
    }

    /// Most memory that a process of the role had, in KiB.
    pub(super) fn peak_kib(&self, role: Role) -> u64 {
        let of_role = self.members.iter().filter(|member| member.role == role);
        of_role.map(|member| member.peak_kib).max().unwrap_or(0)
    }

    /// How often the database told that a batch is closed.
    pub(super) fn notifications(&self, batch: &str) -> usize {
        let notified = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
        notified.iter().filter(|told| *told == batch).count()
    }
}

/// A link to the server at `url`, and the URL that leads over it.
async fn link(server: Server, url: &str) -> Result<(Link, String)> {
    let mut url: Url = url.parse()?;
    let default = match server {
        Server::Postgres => 5432,
        Server::Redis => 6379,
        Server::Rabbitmq => 5672,
        Server::Exchange => 80,
    };
    let host = url.host_str().context("the URL has no host")?;
    let link = Link::start(server, format!("{host}:{}", url.port().unwrap_or(default))).await?;
    let SocketAddr::V4(address) = link.address else { bail!("a link has an IPv6 address") };
    url.set_ip_host((*address.ip()).into())
        .ok()
        .or_else(|| url.set_host(Some("127.0.0.1")).ok())
        .context("the URL can't have another host")?;
    url.set_port(Some(address.port())).ok().context("the URL can't have another port")?;
    Ok((link, url.into()))
}
