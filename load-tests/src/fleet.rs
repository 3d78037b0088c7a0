//! A whole fleet of real processes on the real servers, against the simulated exchange: a database
//! and queues of its own, thrown away at the end. For the tests of the system and the failure suite.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use url::Url;

/// Longest wait for anything that is waited for. Generous: it bounds a hang, not a speed.
const PATIENCE: Duration = Duration::from_mins(2);
/// Time between two looks at what is waited for.
pub const PULSE: Duration = Duration::from_millis(20);

/// The servers that a fleet uses.
#[derive(Debug, Clone, Parser)]
pub struct Servers {
    /// Server on which databases are made and dropped.
    #[arg(long, env, hide_env_values = true)]
    pub database_url: String,
    /// Shared by all fleets; each has keys of its own.
    #[arg(long, env, hide_env_values = true)]
    pub redis_url: String,
    /// Shared by all fleets; each has queues of its own.
    #[arg(long, env, hide_env_values = true)]
    pub amqp_url: String,
}

impl Servers {
    /// The servers that the environment names.
    pub fn from_environment() -> Result<Self> {
        Self::try_parse_from(["fleet"])
            .context("run this by `make test`, `make chaos` or dev/stack run")
    }
}

/// A child that does not outlive its owner.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn spawn(mut command: Command) -> Result<Self> {
        let child = command.kill_on_drop(true).spawn();
        Ok(Self(child.with_context(|| format!("start {command:?}"))?))
    }

    /// Its standard error, if it was piped and nobody took it before.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.0.stderr.take()
    }

    /// `None`: it has ended and was waited for.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(id.context("the process has ended already")?, signal)?;
        Ok(())
    }

    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.0.kill().await?)
    }

    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait().await
    }

    /// `None`: it runs.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(PATIENCE, self.0.wait());
        Ok(ended.await.with_context(|| format!("process does not end within {PATIENCE:?}"))??)
    }
}

/// A migrated database, queues under a prefix, and a running exchange.
pub struct Fleet {
    pub pool: PgPool,
    /// Name of the database, prefix of the queues, egress.
    pub name: String,
    pub servers: Servers,
    pub database_url: String,
    pub exchange_url: String,
    pub request_log: PathBuf,
    truth: PathBuf,
    directory: PathBuf,
    admin: PgPool,
    exchange: Process,
}

/// A program of the workspace: beside this one, or above it if this is a test.
pub fn program(name: &str) -> Result<Command> {
    let own = std::env::current_exe().context("the path of this program")?;
    let directory = own.parent().context("the directory of this program")?;
    let is_test = directory.file_name() == Some(OsStr::new("deps"));
    let directory = directory.parent().filter(|_| is_test).unwrap_or(directory);
    let path = directory.join(name);
    ensure!(path.exists(), "{} is missing: `cargo build --workspace`", path.display());
    Ok(Command::new(path))
}

impl Fleet {
    /// A fleet whose files are in the directory for temporary ones. `market` are options of
    /// `exchange-sim serve`.
    pub async fn start(market: &str) -> Result<Self> {
        let name = Self::new_name();
        let directory = std::env::temp_dir().join(&name);
        Self::start_as(name, Servers::from_environment()?, &directory, None, market).await
    }

    /// A name that no other fleet has.
    #[must_use]
    pub fn new_name() -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        format!("fleet_{}_{number}", std::process::id())
    }

    pub async fn start_as(
        name: String,
        servers: Servers,
        directory: &Path,
        tablespace: Option<&str>,
        market: &str,
    ) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let options: PgConnectOptions = servers.database_url.parse().context("DATABASE_URL")?;
        let pools = PgPoolOptions::new().max_connections(2);
        let admin = pools.clone().connect_with(options.clone()).await?;
        let within = tablespace.map_or_else(String::new, |space| format!(" TABLESPACE {space}"));
        let create = format!("CREATE DATABASE {name}{within}");
        sqlx::query(AssertSqlSafe(create)).execute(&admin).await.context("create a database")?;
        let options = options.database(&name);
        let mut database_url = Url::parse(&servers.database_url).context("DATABASE_URL")?;
        database_url.set_path(&name);
        let database_url = database_url.to_string();
        let pool = pools.connect_with(options).await?;
        let (truth, request_log) =
            (directory.join("truth.jsonl"), directory.join("requests.jsonl"));
        let mut command = program("exchange-sim")?;
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "--truth"])
            .arg(&truth)
            .arg("--request-log")
            .arg(&request_log)
            .args(market.split_whitespace())
            .stdout(Stdio::piped());
        let mut exchange = Process::spawn(command)?;
        let stdout = exchange.0.stdout.take().context("stdout of exchange-sim")?;
        let line = BufReader::new(stdout).lines().next_line().await?.unwrap_or_default();
        let exchange_url = line.strip_prefix("listening on ");
        let exchange_url =
            exchange_url.with_context(|| format!("exchange-sim says {line:?}"))?.to_owned();
        let fleet = Self {
            pool,
            name,
            servers,
            database_url,
            exchange_url,
            request_log,
            truth,
            directory: directory.to_owned(),
            admin,
            exchange,
        };
        let migrated = fleet.command("p2p", &["migrate"])?.output().await?;
        ensure!(migrated.status.success(), "{migrated:?}");
        Ok(fleet)
    }

    /// The simulated exchange.
    #[must_use]
    pub fn exchange(&self) -> &Process {
        &self.exchange
    }

    /// A program with the settings of this fleet.
    pub fn command(&self, name: &str, args: &[&str]) -> Result<Command> {
        let mut command = program(name)?;
        command
            .args(args)
            .env("DATABASE_URL", &self.database_url)
            // Of a real installation, from the environment or a `.env`: empty counts as absent.
            .env("OWNER_DATABASE_URL", "")
            .env("EGRESS_PROXY_URL", "")
            .env("REDIS_URL", &self.servers.redis_url)
            .env("AMQP_URL", &self.servers.amqp_url)
            .env("AMQP_PREFIX", &self.name)
            .env("EGRESS_ID", &self.name)
            .env("BINANCE_BASE_URL", &self.exchange_url)
            .env("INITIAL_RATE_LIMIT", "6000")
            .env("MAX_RATE_LIMIT", "6000")
            .env("LOG_LEVEL", "warn")
            // So that requests and jobs are those of the books; tests of the witness set it.
            .env("WITNESS_MARKETS_PER_BATCH", "0")
            // Many processes on one machine have no port each.
            .env("ENABLE_METRICS", "false")
            .env("STATUS_PORT", "0")
            .stdin(Stdio::null());
        Ok(command)
    }

    pub fn worker(&self, id: &str, settings: &[(&str, &str)]) -> Result<Process> {
        let mut command = self.command("worker", &["run"])?;
        command.env("WORKER_ID", id).envs(settings.iter().copied());
        Process::spawn(command)
    }

    /// A coordinator that runs one batch.
    pub fn coordinator(&self, settings: &[(&str, &str)]) -> Result<Process> {
        let mut command = self.command("coordinator", &["run", "--once"])?;
        command.envs(settings.iter().copied());
        Process::spawn(command)
    }

    /// Runs one batch; the exit code.
    pub async fn batch(&self, settings: &[(&str, &str)]) -> Result<i32> {
        let status = self.coordinator(settings)?.wait().await?;
        status.code().with_context(|| format!("the coordinator ended with {status}"))
    }

    /// An admin call to the exchange.
    pub async fn admin(&self, call: &str, body: &Value) -> Result<()> {
        let address = self.exchange_url.strip_prefix("http://").context("an http URL")?;
        let body = body.to_string();
        let request = format!(
            "POST /sim/{call} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut connection = TcpStream::connect(address).await?;
        connection.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 204"), "{call}: {answer}");
        Ok(())
    }

    /// The requests that the exchange got, as it logged them.
    pub fn requests(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.request_log)?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Where the exchange notes what it shows.
    #[must_use]
    pub fn truth(&self) -> &Path {
        &self.truth
    }

    /// Compares the database with what the exchange showed.
    pub async fn verify(&self) -> Result<Output> {
        let mut command = program("exchange-sim")?;
        command.args(["verify", "--truth"]).arg(&self.truth);
        Ok(command.env("DATABASE_URL", &self.database_url).output().await?)
    }

    /// An error with the report if the database differs from what the exchange showed.
    pub async fn must_equal_truth(&self) -> Result<()> {
        let output = self.verify().await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the database differs:\n{text}{error}");
        Ok(())
    }

    /// One number out of the database.
    pub async fn number(&self, sql: &'static str) -> Result<i64> {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.context(sql)
    }

    /// Waits until a number out of the database reaches `least`.
    pub async fn wait_for(&self, sql: &'static str, least: i64) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.number(sql).await? < least {
            if Instant::now() >= end {
                bail!("{sql} does not reach {least} within {PATIENCE:?}");
            }
            tokio::time::sleep(PULSE).await;
        }
        Ok(())
    }

    /// Throws database, queues and files away.
    pub async fn remove(self) -> Result<()> {
        let directory = self.directory.clone();
        self.remove_from_servers().await?;
        Ok(std::fs::remove_dir_all(directory)?)
    }

    /// Throws database and queues away; the files stay.
    pub async fn remove_from_servers(self) -> Result<()> {
        self.pool.close().await;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        sqlx::query(AssertSqlSafe(drop)).execute(&self.admin).await?;
        self.remove_queues().await
    }

    /// Prefix of queues of the same kind beside those of the fleet, to measure them alone; they go with it.
    #[must_use]
    pub fn floor(&self) -> String {
        format!("{}_floor", self.name)
    }

    /// Loses a queue of the fleet, with all that is in it; whoever uses it next makes it anew.
    pub async fn lose_queue(&self, queue: &str) -> Result<()> {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&self.servers.amqp_url, properties).await?;
        let channel = connection.create_channel().await?;
        let name = format!("{}.{queue}", self.name).into();
        channel.queue_delete(name, lapin::options::QueueDeleteOptions::default()).await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    /// Publishes a message that is no job, as a job.
    pub async fn publish_poison(&self) -> Result<()> {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&self.servers.amqp_url, properties).await?;
        let channel = connection.create_channel().await?;
        let queue = format!("{}.jobs.normal", self.name).into();
        let (options, properties) =
            (lapin::options::BasicPublishOptions::default(), lapin::BasicProperties::default());
        channel.basic_publish("".into(), queue, options, b"no job", properties).await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    async fn remove_queues(&self) -> Result<()> {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&self.servers.amqp_url, properties).await?;
        let channel = connection.create_channel().await?;
        // What is not there is deleted without an error.
        for prefix in [self.name.clone(), self.floor()] {
            for queue in ["jobs.urgent", "jobs.normal", "jobs.low", "reports", "dead"] {
                let name = format!("{prefix}.{queue}").into();
                channel.queue_delete(name, lapin::options::QueueDeleteOptions::default()).await?;
            }
            let events = format!("{prefix}.events").into();
            let options = lapin::options::ExchangeDeleteOptions::default();
            channel.exchange_delete(events, options).await?;
        }
        Ok(connection.close(200, "done".into()).await?)
    }
}
