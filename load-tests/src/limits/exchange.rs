//! A simulated exchange as a process of its own, and its request log.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Scenario;

pub(crate) struct Exchange {
    pub(crate) url: String,
    process: Child,
    log: PathBuf,
}

/// A request as the exchange noted it.
#[derive(Deserialize)]
struct Line {
    at_us: u64,
    status: u16,
}

/// Microseconds since 1970: the clock of the log.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Exchange {
    pub(crate) async fn start(scenario: &Scenario) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("limits-{}-{number}.jsonl", std::process::id());
        let log = std::env::temp_dir().join(name);
        let program = std::env::current_exe()?.with_file_name("exchange-sim");
        let mut process = Command::new(&program)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "--fiats", "1", "--ads", "20"])
            .args(["--latency-ms", "10", "--latency-jitter-ms", "10", "--ban-seconds", "10"])
            .args(["--rate-limit", &scenario.limit.to_string()])
            .args(["--rate-window-seconds", &scenario.window.to_string()])
            .args(["--rate-limit-per-second", &scenario.per_second.to_string()])
            .arg("--request-log")
            .arg(&log)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} can't be started", program.display()))?;
        let stdout = process.stdout.take().context("stdout")?;
        let mut exchange = Self { url: String::new(), process, log };
        exchange.url = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line)?;
            let url = line.trim().strip_prefix("listening on ").context("the first line")?;
            anyhow::Ok(url.to_owned())
        })
        .await??;
        Ok(exchange)
    }

    /// From now on another limit.
    pub(crate) async fn set_limit(&self, per_window: u32) -> Result<()> {
        let address = self.url.strip_prefix("http://").context("the URL")?;
        let body = format!(r#"{{"per_window":{per_window}}}"#);
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "POST /sim/limits HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 204"), "the limit was not set: {answer}");
        Ok(())
    }

    fn lines(&self) -> Result<Vec<Line>> {
        let text = std::fs::read_to_string(&self.log)?;
        // The last line may be on its way.
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    pub(crate) fn refused_since(&self, from: u64) -> Result<usize> {
        let lines = self.lines()?;
        Ok(lines.iter().filter(|line| line.at_us >= from && line.status != 200).count())
    }

    pub(crate) fn granted_between(&self, from: u64, until: u64) -> Result<usize> {
        let lines = self.lines()?;
        let span = from..until;
        Ok(lines.iter().filter(|line| span.contains(&line.at_us) && line.status == 200).count())
    }

    pub(crate) fn sent_between(&self, from: u64, until: u64) -> Result<usize> {
        let span = from..until;
        Ok(self.lines()?.iter().filter(|line| span.contains(&line.at_us)).count())
    }

    /// Most requests, granted or not, in any window that ends after `from`.
    pub(crate) fn most_in_a_window(&self, from: u64, window_secs: u64) -> Result<usize> {
        let mut times: Vec<u64> = self.lines()?.iter().map(|line| line.at_us).collect();
        times.sort_unstable();
        let window = window_secs * 1_000_000;
        let mut oldest = 0;
        let mut most = 0;
        for (index, &time) in times.iter().enumerate() {
            while times[oldest] + window <= time {
                oldest += 1;
            }
            if time >= from {
                most = most.max(index - oldest + 1);
            }
        }
        Ok(most)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        std::fs::remove_file(&self.log).ok();
    }
}
