//! The worker: takes a job, takes a permit, fetches, parses, stores, reports.
//!
//! It never decides what is fetched. Any number may run; any may be killed at any instant, because a
//! job is acknowledged only after its end is committed and reported, and a job done twice leaves the
//! same rows.
//!
//! - [`consumer`]: the loop from deliveries to finished jobs; concurrency and drain.
//! - [`handler`]: the step: one job to its result; retries. Knows no broker.
//! - `alerts`: what was alerted already.
//! - [`client`]: HTTP to the exchange. Every request consumes a permit.
//! - [`rate_limit`]: permits, from a limit that all workers share.
//! - [`metrics`]: what is measured.
//! - [`health`]: what a worker needs in order to be ready.
//! - [`storer`]: the loop from results to committed facts, several pages per transaction.
//! - [`store`]: the statements.
//! - [`replay`]: archived and refused answers parsed again, and the facts corrected; run by an operator.

mod alerts;
pub mod client;
pub mod consumer;
pub mod handler;
pub mod health;
pub mod metrics;
pub mod rate_limit;
pub mod replay;
pub mod settings;
pub mod store;
pub mod storer;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use shared::queue::{Consumer, Publisher, Queue};
use shared::service;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::settings::Settings;

/// Starts the worker; exit code 0 drained, 1 failed, 64 bad settings.
pub async fn main() -> ExitCode {
    let work = |settings, shutdown| async {
        run(settings, shutdown).await?;
        Ok(ExitCode::SUCCESS)
    };
    service::main("worker", Settings::read, |settings| &settings.telemetry, work).await
}

/// Works until `shutdown`, then drains: takes nothing more, finishes what is being fetched, stores
/// and reports it.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<()> {
    metrics::describe();
    let pool =
        shared::store::connect_with(&settings.database, "worker", shared::store::BY_KEY).await?;
    shared::store::check_schema(&pool).await?;
    let limiter = rate_limit::Limiter::new(&settings)?;
    let client = client::Client::new(&settings)?;
    let publisher = Publisher::new(&settings.broker, settings.topology.clone(), "worker");
    let in_flight = settings.jobs_in_flight();
    let in_hand = in_flight + settings.jobs_taken_ahead();
    let prefetch = u16::try_from(in_hand).context("MAX_WORKERS")?;
    let queues = [Queue::UrgentJobs, Queue::NormalJobs, Queue::LowJobs];
    let (broker, deliveries) =
        Consumer::start(&settings.broker, &settings.topology, "worker", queues, prefetch);

    let archive = store::archive::Archive::new()?;
    let store = store::Store::new(pool.clone(), &settings, archive.clone());
    let signs = store::workers::keep_alive(
        pool.clone(),
        settings.clone(),
        limiter.clone(),
        archive.clone(),
        shutdown.clone(),
    );
    let signs = tokio::spawn(signs);
    let (finished, to_store) = mpsc::channel(in_flight + consumer::LOW_IN_HAND);
    let health = &settings.telemetry.health;
    let storer = storer::Storer::new(
        store,
        publisher.clone(),
        in_flight,
        health.watch("storer", storer::SILENCE_LIMIT),
        shutdown.clone(),
    );
    health::answer(health, &pool, &publisher, &limiter);
    let mut storer = tokio::spawn(storer.run(to_store));
    let handler = Arc::new(handler::Handler::new(
        &settings,
        pool,
        limiter,
        client,
        archive,
        shutdown.clone(),
    ));
    let working = consumer::run(
        handler,
        deliveries,
        finished,
        in_flight,
        || broker.stop_taking(),
        settings.telemetry.health.watch("consumer", consumer::SILENCE_LIMIT),
        shutdown.clone(),
    );
    tokio::select! {
        () = working => {}
        // It ends by itself only after the consumer; sooner, nothing would be stored any more.
        ended = &mut storer => {
            ended.context("the storer ended abnormally")?;
            anyhow::bail!("the storer ended by itself");
        }
    }
    // All results are with the storer, whose channel is closed now: it ends when they are stored.
    storer.await.context("the storer ended abnormally")?;
    broker.close().await;
    signs.await.context("the signs of life ended abnormally")?;
    // Half a worker is worse than none: whoever watches the process starts it again.
    anyhow::ensure!(shutdown.is_cancelled(), "the consumer ended by itself");
    tracing::info!("drained");
    Ok(())
}
