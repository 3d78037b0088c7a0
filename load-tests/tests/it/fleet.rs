//! A whole fleet of real processes on the real servers, against the simulated exchange: a database
//! and queues of its own, thrown away at the end.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions};

use crate::sim::{Reply, send};

/// Longest wait for anything that a test waits for. Generous: it bounds a hang, not a speed.
const PATIENCE: Duration = Duration::from_mins(2);

/// A child that does not outlive its test.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the process does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(crate) struct Fleet {
    pub(crate) pool: PgPool,
    admin: PgPool,
    name: String,
    database_url: String,
    sim_url: String,
    truth: PathBuf,
    request_log: PathBuf,
    _sim: Process,
}

fn variable(name: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "the servers of a test run are told this way")]
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run the tests by `make test`"))
}

/// A program of the workspace, beside the simulated exchange.
fn program(name: &str) -> Command {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_exchange-sim")).with_file_name(name);
    assert!(path.exists(), "{} is missing: `cargo build --workspace`", path.display());
    Command::new(path)
}

impl Fleet {
    /// A migrated database and a running exchange.
    pub(crate) async fn start(sim_args: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("fleet_{}_{number}", std::process::id());
        let url = variable("DATABASE_URL");
        let options: PgConnectOptions = url.parse().unwrap();
        let admin =
            PgPoolOptions::new().max_connections(1).connect_with(options.clone()).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&admin)
            .await
            .unwrap();
        let options = options.database(&name);
        let database_url = options.to_url_lossy().to_string();
        let pool = PgPoolOptions::new().max_connections(2).connect_with(options).await.unwrap();
        let truth = std::env::temp_dir().join(format!("{name}.jsonl"));
        let request_log = std::env::temp_dir().join(format!("{name}.requests.jsonl"));
        let mut sim = Command::new(env!("CARGO_BIN_EXE_exchange-sim"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "--truth"])
            .arg(&truth)
            .arg("--request-log")
            .arg(&request_log)
            .args(sim_args.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(sim.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let sim_url = line.trim().strip_prefix("listening on ").expect("the first line").to_owned();
        let fleet = Self {
            pool,
            admin,
            name,
            database_url,
            sim_url,
            truth,
            request_log,
            _sim: Process(sim),
        };
        let migrated = fleet.command("p2p", &["migrate"]).output().unwrap();
        assert!(migrated.status.success(), "{migrated:?}");
        fleet
    }

    /// A program with the settings of this fleet. Logs go to a file that is shown on request only.
    fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = program(name);
        command
            .args(args)
            .env("DATABASE_URL", &self.database_url)
            .env("AMQP_PREFIX", &self.name)
            .env("EGRESS_ID", &self.name)
            .env("BINANCE_BASE_URL", &self.sim_url)
            .env("INITIAL_RATE_LIMIT", "6000")
            .env("MAX_RATE_LIMIT", "6000")
            .env("LOG_LEVEL", "warn")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn worker(&self, id: &str, settings: &[(&str, &str)]) -> Process {
        let mut command = self.command("worker", &["run"]);
        Process(command.env("WORKER_ID", id).envs(settings.iter().copied()).spawn().unwrap())
    }

    pub(crate) fn coordinator(&self, settings: &[(&str, &str)]) -> Process {
        let mut command = self.command("coordinator", &["run", "--once"]);
        Process(command.envs(settings.iter().copied()).spawn().unwrap())
    }

    /// Runs one batch; the exit code.
    pub(crate) fn batch(&self, settings: &[(&str, &str)]) -> i32 {
        self.coordinator(settings).wait().code().unwrap()
    }

    /// An admin call to the exchange.
    pub(crate) fn admin(&self, call: &str, body: &Value) {
        let address = self.sim_url.strip_prefix("http://").unwrap();
        let path = format!("/sim/{call}");
        let mut answer = Vec::new();
        let mut connection = send(address, "POST", &path, "", &body.to_string());
        connection.read_to_end(&mut answer).unwrap();
        let reply = Reply::parse(&answer);
        assert_eq!(reply.status, 204, "{}", String::from_utf8_lossy(&reply.body));
    }

    /// The requests that the exchange got, as it logged them.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.request_log).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Compares the database with what the exchange showed.
    pub(crate) fn verify(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_exchange-sim"));
        command
            .args(["verify", "--truth"])
            .arg(&self.truth)
            .env("DATABASE_URL", &self.database_url);
        command.output().unwrap()
    }

    #[track_caller]
    pub(crate) fn assert_equals_truth(&self) {
        let output = self.verify();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    /// One number out of the database.
    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Waits until a number out of the database reaches `least`.
    pub(crate) async fn wait_for(&self, sql: &'static str, least: i64) {
        let end = Instant::now() + PATIENCE;
        while self.number(sql).await < least {
            assert!(Instant::now() < end, "{sql} never reached {least}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Throws database and queues away.
    pub(crate) async fn remove(self) {
        self.pool.close().await;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        sqlx::query(AssertSqlSafe(drop)).execute(&self.admin).await.unwrap();
        remove_queues(&self.name).await;
        std::fs::remove_file(&self.truth).ok();
        std::fs::remove_file(&self.request_log).ok();
    }
}

async fn remove_queues(prefix: &str) {
    let properties = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(&variable("AMQP_URL"), properties).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    for queue in ["jobs.urgent", "jobs.normal", "reports", "dead"] {
        let name = format!("{prefix}.{queue}").into();
        channel.queue_delete(name, lapin::options::QueueDeleteOptions::default()).await.unwrap();
    }
    let events = format!("{prefix}.events").into();
    channel
        .exchange_delete(events, lapin::options::ExchangeDeleteOptions::default())
        .await
        .unwrap();
    connection.close(200, "done".into()).await.unwrap();
}
