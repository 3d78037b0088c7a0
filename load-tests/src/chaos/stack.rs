//! The servers themselves, by `dev/stack`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::wire::Server;

/// A server has a log to recover after it was killed.
const PATIENCE: Duration = Duration::from_secs(150);

#[derive(Clone, Debug)]
pub(super) struct Stack(pub(super) PathBuf);

impl Stack {
    /// Whether the server is one of this clone, which may be stopped.
    pub(super) async fn controls(&self, server: Server) -> bool {
        let status = Command::new(&self.0).arg("status").output().await;
        let Ok(status) = status else { return false };
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        text.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(server.name()) && words.next() == Some("running")
        })
    }

    /// `restart`, `kill` or `start`.
    pub(super) async fn order(&self, verb: &str, server: Server) -> Result<()> {
        let mut command = Command::new(&self.0);
        command.args([verb, server.name()]).stdin(Stdio::null()).kill_on_drop(true);
        let what = || format!("{} {verb} {}", self.0.display(), server.name());
        let output = tokio::time::timeout(PATIENCE, command.output());
        let output = output.await.with_context(what)?.with_context(what)?;
        ensure!(output.status.success(), "{}: {}", what(), String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
