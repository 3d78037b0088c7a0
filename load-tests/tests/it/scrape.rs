//! A program of the fleet that serves its metrics, and what it serves.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use load_tests::fleet::{Fleet, PULSE, Process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for a figure: some looks of the coordinator, ten seconds apart.
const PATIENCE: Duration = Duration::from_mins(1);

/// A process, where it serves, and where its log goes.
pub(crate) struct Served {
    pub(crate) process: Process,
    pub(crate) log: PathBuf,
    address: String,
}

impl Served {
    pub(crate) fn start(
        fleet: &Fleet,
        name: &str,
        args: &[&str],
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        // Free now; nobody else is told of it.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = std::env::temp_dir().join(format!("{}_{}.log", fleet.name, address.port()));
        let mut command = fleet.command(name, args)?;
        command
            .env("ENABLE_METRICS", "true")
            .env("PROMETHEUS_PORT", address.port().to_string())
            .envs(settings.iter().copied())
            .stderr(Stdio::from(std::fs::File::create(&log)?));
        Ok(Self { process: Process::spawn(command)?, log, address: address.to_string() })
    }

    pub(crate) fn worker(fleet: &Fleet, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start(fleet, "worker", &["run"], settings)
    }

    /// Status and body.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: p2p\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let (head, body) = text.split_once("\r\n\r\n").context("a head and a body")?;
        let status = head.split(' ').nth(1).context("a status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// The sum of a metric over all series that have all of `labels`; `None`: there is no such series.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
        let (_, text) = self.get("/metrics").await?;
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let given = series.strip_prefix(name)?;
            let is_same = given.is_empty() || given.starts_with('{');
            let has_labels = wanted.iter().all(|label| given.contains(label.as_str()));
            (is_same && has_labels).then(|| value.parse::<f64>())
        });
        let values = values.collect::<Result<Vec<_>, _>>()?;
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }

    /// Waits until a metric is as wanted.
    pub(crate) async fn wait_for(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        is_wanted: impl Fn(Option<f64>) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            // Until it listens, there is nothing.
            let found = self.metric(name, labels).await;
            if found.as_ref().is_ok_and(|found| is_wanted(*found)) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{name} {labels:?} stays {found:?}");
            tokio::time::sleep(PULSE).await;
        }
    }

    pub(crate) async fn must_become(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        value: i64,
    ) -> Result<()> {
        let is_equal = |found: f64| found.to_string() == value.to_string();
        self.wait_for(name, labels, |found| found.is_some_and(is_equal))
            .await
            .with_context(|| format!("{value} is wanted"))
    }

    /// Waits until readiness has this status, and a reason that begins so, if one is given.
    pub(crate) async fn wait_until_ready(&self, status: u16, reason: &str) -> Result<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.get("/readyz").await;
            if let Ok((found, body)) = &found
                && *found == status
            {
                let body: Value = serde_json::from_str(body)?;
                let reasons = body["reasons"].as_array().context("reasons")?;
                let has_reason =
                    |one: &Value| one.as_str().is_some_and(|one| one.starts_with(reason));
                if reason.is_empty() || reasons.iter().any(has_reason) {
                    return Ok(body);
                }
            }
            ensure!(Instant::now() < end, "{status} {reason} is wanted, found is {found:?}");
            tokio::time::sleep(PULSE).await;
        }
    }
}
