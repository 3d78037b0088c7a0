//! The loop from deliveries to finished jobs: concurrency, order of the queues, drain.

use std::sync::Arc;
use std::time::Duration;

use shared::health::Pulse;
use shared::job::{Job, MESSAGE_VERSION, Work};
use shared::queue::Delivery;
use shared::telemetry::note_trace;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use crate::handler::{Handler, Outcome};
use crate::metrics;

/// A job with its outcome, on the way to the storer. Holds its place among the jobs in flight until
/// its group begins to be stored: that is what slows fetching down when the database is slow.
pub struct Finished {
    pub job: Job,
    pub delivery: Delivery,
    pub outcome: Outcome,
    pub place: Place,
    /// What is done with it belongs to its span.
    pub span: Span,
}

/// A place among the jobs in flight, free again when this is dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _counted: metrics::InFlight,
}

impl Place {
    fn taken(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: permit, _counted: metrics::InFlight::begin() }
    }
}

/// Jobs of the low queue that are in hand at once, besides the others: they wait for permits that
/// others leave, and must not take a place from a page meanwhile.
pub const LOW_IN_HAND: usize = 2;

/// The loop gives a sign every second, whatever it waits for.
pub const SILENCE_LIMIT: Duration = Duration::from_mins(1);

/// Takes deliveries until `shutdown` or until all queues end, then waits for the jobs in hand. A place
/// for a job of the low queue is none of the `max_in_flight`.
///
/// # Panics
/// Never: nobody closes the semaphores of places.
pub async fn run(
    handler: Arc<Handler>,
    deliveries: [mpsc::Receiver<Delivery>; 3],
    finished: mpsc::Sender<Finished>,
    max_in_flight: usize,
    stop_taking: impl Fn(),
    pulse: Pulse,
    shutdown: CancellationToken,
) {
    metrics::limit(max_in_flight + LOW_IN_HAND);
    let [mut urgent, mut normal, mut low] = deliveries;
    let places = Arc::new(Semaphore::new(max_in_flight));
    let low_places = Arc::new(Semaphore::new(LOW_IN_HAND));
    let jobs = TaskTracker::new();
    {
        let (handler, finished, jobs) = (Arc::clone(&handler), finished.clone(), jobs.clone());
        let shutdown = shutdown.clone();
        // Counted among the jobs: it ends with the shutdown, or with the queue.
        jobs.clone().spawn(async move {
            loop {
                let place = Arc::clone(&low_places).acquire_owned();
                let place = tokio::select! {
                    place = place => place.expect("the semaphore is never closed"),
                    () = shutdown.cancelled() => return,
                };
                let delivery = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    delivery = low.recv() => delivery,
                };
                let Some(delivery) = delivery else { return };
                let place = Place::taken(place);
                jobs.spawn(work(Arc::clone(&handler), delivery, LOW, finished.clone(), place));
            }
        });
    }
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let next = async {
            let place = tokio::select! {
                place = place => place.expect("the semaphore is never closed"),
                () = shutdown.cancelled() => return None,
            };
            let (delivery, queue) = tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                Some(delivery) = urgent.recv() => (delivery, URGENT),
                Some(delivery) = normal.recv() => (delivery, NORMAL),
                else => return None,
            };
            Some((place, delivery, queue))
        };
        let Some((place, delivery, queue)) = pulse.while_waiting(next).await else { break };
        let place = Place::taken(place);
        jobs.spawn(work(Arc::clone(&handler), delivery, queue, finished.clone(), place));
    }
    stop_taking();
    jobs.close();
    pulse.while_waiting(jobs.wait()).await;
}

/// Queues, as traces name them.
const URGENT: &str = "jobs.urgent";
const NORMAL: &str = "jobs.normal";
const LOW: &str = "jobs.low";

/// From the delivery of a job to its acknowledgement.
fn job_span(job: &Job, queue: &'static str) -> Span {
    let span = tracing::info_span!(
        parent: None,
        "job",
        otel.name = %format_args!("process {queue}"),
        otel.kind = "consumer",
        messaging.system = "rabbitmq",
        messaging.operation.type = "process",
        messaging.operation.name = "process",
        messaging.destination.name = queue,
        batch = %job.batch_id,
        job = job.ordinal,
        issue = job.issue,
        kind = job.work.kind(),
        market = tracing::field::Empty,
        page = tracing::field::Empty,
        trace_id = tracing::field::Empty,
    );
    if let Work::Search { market, page, .. } = &job.work {
        span.record("market", tracing::field::display(market)).record("page", page);
    }
    span
}

async fn work(
    handler: Arc<Handler>,
    delivery: Delivery,
    queue: &'static str,
    finished: mpsc::Sender<Finished>,
    place: Place,
) {
    let job = match decode(&delivery.body) {
        Ok(job) => job,
        Err(error) => {
            tracing::error!(error, "a message can't be read and goes to the dead letters");
            metrics::failed_elsewhere(metrics::POISON);
            if let Err(error) = delivery.reject().await {
                tracing::warn!(%error, "the message could not be rejected and will come again");
            }
            return;
        }
    };
    if let Some(age) = delivery.age() {
        metrics::began(age);
    }
    let span = job_span(&job, queue);
    delivery.link(&span);
    note_trace(&span);
    let outcome = handler.run(&job, queue == URGENT).instrument(span.clone()).await;
    if finished.send(Finished { job, delivery, outcome, place, span }).await.is_err() {
        tracing::error!("the storer is gone; the job will be delivered again");
    }
}

fn decode(body: &[u8]) -> Result<Job, String> {
    let job: Job = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if job.version != MESSAGE_VERSION {
        return Err(format!("version {} is not allowed: {MESSAGE_VERSION}", job.version));
    }
    Ok(job)
}
