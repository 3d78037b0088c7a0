//! A real Prometheus and a real Alertmanager with the configuration of `monitoring/`, programs that they
//! watch, and an inbox for what Alertmanager sends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use load_tests::fleet::{Fleet, Process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinHandle;
use url::form_urlencoded::byte_serialize;

use crate::free_port;

/// Longest wait for a server to begin.
const START_LIMIT: Duration = Duration::from_mins(1);
const PULSE: Duration = Duration::from_millis(200);
/// What makes Alertmanager's configuration of the two settings.
const CONFIGURE: &str = "alertmanager/configure";

/// `monitoring/` of this clone.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("monitoring")
}

/// A program of the fleet that serves its metrics.
pub(crate) struct Watched {
    pub(crate) process: Process,
    pub(crate) address: String,
}

impl Watched {
    /// Its log goes to `home`. `settings` may name a `PROMETHEUS_PORT`, to come back where another was.
    pub(crate) fn start(
        fleet: &Fleet,
        home: &Path,
        name: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let told = settings.iter().find(|(name, _)| *name == "PROMETHEUS_PORT");
        let port = match told {
            Some((_, port)) => (*port).to_owned(),
            None => free_port()?.to_string(),
        };
        let mut command = fleet.command(name, &["run"])?;
        command
            .env("ENABLE_METRICS", "true")
            .env("PROMETHEUS_PORT", &port)
            .envs(settings.iter().copied());
        std::fs::create_dir_all(home)?;
        let log = home.join(format!("{name}_{port}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        command.stderr(Stdio::from(log));
        Ok(Self { process: Process::spawn(command)?, address: format!("127.0.0.1:{port}") })
    }

    pub(crate) fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap_or_default()
    }
}

/// Writes the targets of a job, as an operator does.
fn write_targets(directory: &Path, job: &str, addresses: &[&str]) -> Result<()> {
    let directory = directory.join("targets").join(job);
    std::fs::create_dir_all(&directory)?;
    let targets = serde_json::to_string(addresses)?;
    // A rename, so that Prometheus never reads half of it.
    let new = directory.join("new");
    std::fs::write(&new, format!("- targets: {targets}\n"))?;
    Ok(std::fs::rename(new, directory.join("e2e.yml"))?)
}

pub(crate) struct Prometheus {
    _process: Process,
    address: String,
    directory: PathBuf,
}

impl Prometheus {
    pub(crate) async fn start(home: &Path, alertmanager: Option<&str>) -> Result<Self> {
        let home = home.join("prometheus");
        let source = directory().join("prometheus");
        std::fs::create_dir_all(home.join("rules"))?;
        for file in ["prometheus.yml", "rules/p2p.yml"] {
            std::fs::copy(source.join(file), home.join(file)).context(file)?;
        }
        if let Some(alertmanager) = alertmanager {
            write_targets(&home, "alertmanagers", &[alertmanager])?;
        }
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", home.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", home.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::from(std::fs::File::create(home.join("log"))?));
        let process =
            Process::spawn(command).context("`make e2e` installs the Debian package prometheus")?;
        wait_until_ready(&address).await.context("Prometheus")?;
        Ok(Self { _process: process, address, directory: home })
    }

    pub(crate) fn watch(&self, job: &str, programs: &[&Watched]) -> Result<()> {
        let addresses: Vec<&str> =
            programs.iter().map(|program| program.address.as_str()).collect();
        write_targets(&self.directory, job, &addresses)
    }

    /// The result of an expression over the last minutes, every ten seconds.
    pub(crate) async fn ask(&self, expression: &str, minutes: i64) -> Result<Vec<Value>> {
        let now = chrono::Utc::now().timestamp();
        let query: String = byte_serialize(expression.as_bytes()).collect();
        let path = format!(
            "/api/v1/query_range?query={query}&start={}&end={now}&step=10",
            now - minutes * 60
        );
        let answer: Value = serde_json::from_str(&get(&self.address, &path).await?)?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        let result = answer["data"]["result"].as_array();
        Ok(result.context("a result")?.clone())
    }

    /// Names of the alerts that fire now.
    pub(crate) async fn firing(&self) -> Result<Vec<String>> {
        let answer: Value = serde_json::from_str(&get(&self.address, "/api/v1/alerts").await?)?;
        let alerts = answer["data"]["alerts"].as_array().context("alerts")?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Ok(firing
            .filter_map(|alert| alert["labels"]["alertname"].as_str())
            .map(str::to_owned)
            .collect())
    }
}

pub(crate) struct Alertmanager {
    _process: Process,
    pub(crate) address: String,
}

impl Alertmanager {
    /// With the configuration that operators get, but that `PagerDuty` is the inbox too.
    pub(crate) async fn start(home: &Path, inbox: &Inbox) -> Result<Self> {
        let home = home.join("alertmanager");
        let configured = Command::new(directory().join(CONFIGURE))
            .arg(&home)
            .env("SLACK_WEBHOOK_URL", inbox.url("slack"))
            .env("PAGERDUTY_API_KEY", "e2e-key")
            .output()
            .await?;
        ensure!(configured.status.success(), "{configured:?}");
        let config = home.join("alertmanager.yml");
        let told = std::fs::read_to_string(&config)?;
        let global = format!("global:\n  pagerduty_url: {}\n", inbox.url("pagerduty"));
        std::fs::write(&config, global + &told)?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new("prometheus-alertmanager");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", home.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stderr(Stdio::from(std::fs::File::create(home.join("log"))?));
        let process = Process::spawn(command)
            .context("`make e2e` installs the Debian package prometheus-alertmanager")?;
        wait_until_ready(&address).await.context("Alertmanager")?;
        Ok(Self { _process: process, address })
    }
}

async fn wait_until_ready(address: &str) -> Result<()> {
    let end = Instant::now() + START_LIMIT;
    while get(address, "/-/ready").await.is_err() {
        if Instant::now() > end {
            bail!("it is not ready within {START_LIMIT:?}");
        }
        tokio::time::sleep(PULSE).await;
    }
    Ok(())
}

/// The body of an answer with status 200. HTTP/1.0, so that it comes in one piece.
async fn get(address: &str, path: &str) -> Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a head and a body")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{path}: {status}: {body}");
    Ok(body.to_owned())
}

/// A message that Alertmanager sent.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) at: Instant,
    /// `slack` or `pagerduty`.
    pub(crate) to: String,
    pub(crate) body: Value,
}

type Messages = Arc<Mutex<Vec<Message>>>;

/// Plays Slack and `PagerDuty`.
pub(crate) struct Inbox {
    address: String,
    messages: Messages,
    serving: JoinHandle<()>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Inbox {
    pub(crate) async fn open() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let messages = Messages::default();
        let app = Router::new().fallback(take).with_state(messages.clone());
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("e2e: the inbox: {error}");
            }
        });
        Ok(Self { address, messages, serving })
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// What came since then.
    pub(crate) fn since(&self, since: Instant) -> Vec<Message> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.iter().filter(|message| message.at >= since).cloned().collect()
    }
}

async fn take(State(messages): State<Messages>, uri: Uri, body: String) -> &'static str {
    let to = uri.path().trim_matches('/').to_owned();
    let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
    let message = Message { at: Instant::now(), to, body };
    messages.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    "ok"
}
