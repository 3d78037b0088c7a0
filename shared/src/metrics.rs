//! Metrics, served to Prometheus.
//!
//! Who measures names its instruments itself, with the macros of the crate `metrics`; this is where
//! they are collected and served. Without it they cost nothing and go nowhere.
//!
//! A gauge that is set to NaN is not known now, and is left out of what is served: a figure that could not
//! be read must not look like 0, nor like the last one that could.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics::{describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use crate::endpoint::{self, Access};
use crate::health::{Answer, Health};
use crate::settings::Vars;

/// Bounds in seconds of all that is timed: from a round trip to Redis to a batch.
const SECONDS: [f64; 17] = [
    0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0, 360.0,
    480.0, 600.0,
];
/// Time between two tidyings of what histograms collected.
const UPKEEP: Duration = Duration::from_secs(10);
const BUILD_INFO: &str = "p2p_build_info";
/// How the crate's figures of the process begin.
const PROCESS: &str = "p2p_";
/// The text format of Prometheus.
const TEXT: &str = "text/plain; version=0.0.4";

/// Where to serve: `ENABLE_METRICS`, `PROMETHEUS_HOST`, `PROMETHEUS_PORT`; `None`: nowhere.
pub(crate) fn read(vars: &mut Vars) -> Option<SocketAddr> {
    let is_enabled = vars.flag("ENABLE_METRICS", true);
    let host = ("PROMETHEUS_HOST", "127.0.0.1");
    let address = endpoint::read_address(vars, host, ("PROMETHEUS_PORT", 9090), 1..=u16::MAX);
    address.filter(|_| is_enabled)
}

/// Longest life of a connection: collectors keep one from scrape to scrape, and can make another.
const LIFETIME: Duration = Duration::from_mins(5);

/// Collects, and serves `/metrics`, `/healthz` and `/readyz` until the process ends. A port that is taken is
/// an error in the log and no more: market data is worth more than figures about it, and the scrape that fails raises an
/// alert of its own.
pub(crate) fn serve(
    service: &'static str,
    address: SocketAddr,
    access: &Access,
    health: &Health,
) -> anyhow::Result<()> {
    let metrics = PrometheusBuilder::new()
        .set_buckets(&SECONDS)?
        .install_recorder()
        .context("metrics can't be collected")?;
    describe_gauge!(BUILD_INFO, "1; the labels name the program and its version");
    gauge!(BUILD_INFO, "service" => service, "version" => env!("CARGO_PKG_VERSION")).set(1);
    let tidied = metrics.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            tidied.run_upkeep();
        }
    });
    let app = routes(metrics, access, health);
    tokio::spawn(async move {
        match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics are served");
                endpoint::serve(listener, app, LIFETIME).await;
            }
            Err(error) => {
                tracing::error!(%error, %address, "metrics are not served: PROMETHEUS_PORT needs a port of its own for each process");
            }
        }
    });
    Ok(())
}

fn routes(metrics: PrometheusHandle, access: &Access, health: &Health) -> Router {
    let process = Collector::new(PROCESS);
    process.describe();
    let scraped = move || {
        process.collect();
        std::future::ready(([(CONTENT_TYPE, TEXT)], known(&metrics.render())))
    };
    let guarded = middleware::from_fn_with_state(access.clone(), endpoint::guard);
    let (alive, ready) = (health.clone(), health.clone());
    let (of_alive, of_ready) = (access.clone(), access.clone());
    let alive = move |headers: HeaderMap| {
        std::future::ready(respond(alive.alive(), of_alive.admits(&headers)))
    };
    let ready = move |headers: HeaderMap| async move {
        respond(ready.ready().await, of_ready.admits(&headers))
    };
    Router::new()
        .route("/metrics", get(scraped).layer(guarded))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
}

/// Probes have no token: they are told yes or no. Who has it is told why.
fn respond(Answer { is_good, body }: Answer, is_admitted: bool) -> impl IntoResponse {
    let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(if is_admitted { body } else { is_good.into() }))
}

/// Without the lines of gauges that are not known.
fn known(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.trim_end().ends_with(" NaN")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_that_is_not_known_is_left_out() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            gauge!("ads", "queue" => "a").set(f64::NAN);
            gauge!("ads", "queue" => "b").set(2);
        });
        let text = known(&recorder.handle().render());
        assert!(text.contains("ads{queue=\"b\"} 2") && !text.contains("queue=\"a\""), "{text}");
    }
}
