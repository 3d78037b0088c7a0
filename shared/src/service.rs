//! Start and stop of a process, the same for every binary that runs until it is told to stop.

use std::fmt::Debug;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::settings::{BadSettings, EXIT_BAD_SETTINGS, Vars};
use crate::telemetry::{self, Telemetry};

/// Makes ring the TLS provider of the process. The first line of every `main`: the clients of
/// `PostgreSQL`, Redis, `RabbitMQ` and HTTP all take the process-wide one.
pub fn install_tls_provider() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
}

/// Starts a service and runs it to its end: TLS, settings, telemetry, signals, in this order, and
/// the outcome as exit code: 64 bad settings, 1 an error, else what `run` says.
pub async fn main<S, F>(
    name: &'static str,
    read: impl FnOnce(Vars) -> Result<S, BadSettings>,
    telemetry: impl FnOnce(&S) -> &Telemetry,
    run: impl FnOnce(S, CancellationToken) -> F,
) -> ExitCode
where
    S: Debug,
    F: Future<Output = anyhow::Result<ExitCode>>,
{
    install_tls_provider();
    let settings = match read(Vars::from_environment()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{name}: {error}");
            return ExitCode::from(EXIT_BAD_SETTINGS);
        }
    };
    // Dropped last, when what was still buffered is sent.
    let _telemetry = match telemetry::init(name, telemetry(&settings)) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    tracing::info!(version = crate::build::version(), ?settings, "{name} starts");
    let running = async {
        let shutdown = shutdown_on_signals().context("signals can't be watched")?;
        run(settings, shutdown).await
    };
    running.await.unwrap_or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "{name} failed");
        ExitCode::FAILURE
    })
}

/// Exit code after a second signal: 128 + SIGINT, as shells have it.
const EXIT_INTERRUPTED: i32 = 130;

/// A token that the first SIGTERM or SIGINT cancels: stop taking work, finish what is in hand. A
/// second one ends the process at once; the broker then delivers again what was in hand.
fn shutdown_on_signals() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancelled = token.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if cancelled.is_cancelled() {
                tracing::warn!(signal = name, "second signal, ending at once");
                std::process::exit(EXIT_INTERRUPTED);
            }
            tracing::info!(signal = name, "draining");
            cancelled.cancel();
        }
    });
    Ok(token)
}
