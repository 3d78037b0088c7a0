//! What two binaries must agree on, and nothing else.
//!
//! - [`archive`]: answers byte for byte, packed; dictionaries for it.
//! - [`build`]: which build of the programs this is.
//! - [`endpoint`]: what a process serves to people: who may read, and bounds.
//! - [`domain`]: markets, ads and identifiers; no I/O, no async.
//! - [`exchange`]: what an exchange's API looks like, sans I/O: a job to a request, bytes to ads.
//! - [`health`]: whether a process is alive and ready, served beside the metrics.
//! - [`job`]: the messages between coordinator and workers.
//! - [`limiter`]: the limit that workers share, in Redis; its script and its typed calls.
//! - [`queue`]: the broker: topology, publishing, consuming. Nothing else names `lapin`.
//! - [`store`]: the connection to `PostgreSQL`, and the migrations.
//! - [`settings`]: reading settings from the environment. Nothing else reads it.
//! - [`service`]: start and stop of a process: telemetry, signals.
//! - [`tls`]: whom to trust of the servers, and who we are.
//! - [`telemetry`]: logs, traces, and metrics served to Prometheus.
//!
//! A module enters this crate when a second binary needs it.

pub mod archive;
pub mod build;
pub mod domain;
pub mod endpoint;
pub mod exchange;
pub mod health;
pub mod job;
pub mod limiter;
mod metrics;
pub mod queue;
pub mod service;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod tls;
