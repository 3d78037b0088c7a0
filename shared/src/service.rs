//! Start and stop of a process, the same for every binary.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Makes ring the TLS provider of the process. The first line of every `main`: the clients of
/// `PostgreSQL`, Redis, `RabbitMQ` and HTTP all take the process-wide one.
pub fn install_tls_provider() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
}

/// Exit code after a second signal: 128 + SIGINT, as shells have it.
const EXIT_INTERRUPTED: i32 = 130;

/// A token that the first SIGTERM or SIGINT cancels: stop taking work, finish what is in hand. A
/// second one ends the process at once; the broker then delivers again what was in hand.
pub fn shutdown_on_signals() -> std::io::Result<CancellationToken> {
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
