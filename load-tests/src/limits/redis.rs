//! A Redis of its own, to be killed. It keeps nothing on disk.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Longest wait for it to listen. It takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Redis {
    pub(crate) url: String,
    port: u16,
    process: Child,
}

impl Redis {
    pub(crate) async fn start() -> Result<Self> {
        // Free now; nobody else is told of it.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Self::spawn(port)?;
        let mut redis = Self { url: format!("redis://127.0.0.1:{port}/0"), port, process };
        redis.wait().await?;
        Ok(redis)
    }

    fn spawn(port: u16) -> Result<Child> {
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &port.to_string()])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command.spawn().context("redis-server can't be started")
    }

    async fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            ensure!(Instant::now() < end, "redis-server does not listen");
            ensure!(self.process.try_wait()?.is_none(), "redis-server ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Runs again, with nothing in it.
    pub(crate) async fn run(&mut self) -> Result<()> {
        self.process = Self::spawn(self.port)?;
        self.wait().await
    }
}
