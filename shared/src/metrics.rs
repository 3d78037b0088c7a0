//! Metrics, served to Prometheus.
//!
//! Who measures names its instruments itself, with the macros of the crate `metrics`; this is where
//! they are collected and served. Without it they cost nothing and go nowhere.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::settings::Vars;

/// Bounds in seconds of all that is timed: from a round trip to Redis to a batch.
const SECONDS: [f64; 14] =
    [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 240.0, 600.0];
/// Time between two tidyings of what histograms collected.
const UPKEEP: Duration = Duration::from_secs(10);
/// The text format of Prometheus.
const TEXT: &str = "text/plain; version=0.0.4";

/// Where to serve: `ENABLE_METRICS`, `PROMETHEUS_HOST`, `PROMETHEUS_PORT`; `None`: nowhere.
pub(crate) fn read(vars: &mut Vars) -> Option<SocketAddr> {
    let is_enabled = vars.flag("ENABLE_METRICS", true);
    let port = vars.number("PROMETHEUS_PORT", 9090, 1..=u16::MAX);
    let host = vars.text("PROMETHEUS_HOST", "127.0.0.1");
    let Ok(host) = host.parse::<IpAddr>() else {
        vars.problem(format!(
            "PROMETHEUS_HOST={host:?}: allowed is an address such as 127.0.0.1 or 0.0.0.0"
        ));
        return None;
    };
    is_enabled.then_some(SocketAddr::new(host, port))
}

/// Collects, and serves `/metrics` until the process ends. A port that is taken is an error in the log
/// and no more: market data is worth more than figures about it, and the scrape that fails raises an
/// alert of its own.
pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let metrics = PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .install_recorder()
        .context("metrics can't be collected")?;
    let tidied = metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            tidied.run_upkeep();
        }
    });
    let app = Router::new().route(
        "/metrics",
        get(move || std::future::ready(([(CONTENT_TYPE, TEXT)], metrics.render()))),
    );
    tokio::spawn(async move {
        let served = async {
            let listener = tokio::net::TcpListener::bind(address).await?;
            tracing::info!(%address, "metrics are served");
            axum::serve(listener, app).await
        };
        if let Err(error) = served.await {
            tracing::error!(%error, %address, "metrics are not served: PROMETHEUS_PORT needs a port of its own for each process");
        }
    });
    Ok(())
}
