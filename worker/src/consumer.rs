//! The loop from deliveries to finished jobs: concurrency, order of the queues, drain.

use std::sync::Arc;

use shared::job::{Job, MESSAGE_VERSION};
use shared::queue::Delivery;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::handler::{Handler, Outcome};
use crate::metrics;

/// A job with its outcome, on the way to the storer. Holds its place among the jobs in flight until
/// it is stored: that is what slows fetching down when the database is slow.
pub struct Finished {
    pub job: Job,
    pub delivery: Delivery,
    pub outcome: Outcome,
    pub place: OwnedSemaphorePermit,
}

/// Jobs of the low queue that are in hand at once, besides the others: they wait for permits that
/// others leave, and must not take a place from a page meanwhile.
pub const LOW_IN_HAND: usize = 2;

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
    shutdown: CancellationToken,
) {
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
                jobs.spawn(work(Arc::clone(&handler), delivery, false, finished.clone(), place));
            }
        });
    }
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let place = tokio::select! {
            place = place => place.expect("the semaphore is never closed"),
            () = shutdown.cancelled() => break,
        };
        let (delivery, is_urgent) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(delivery) = urgent.recv() => (delivery, true),
            Some(delivery) = normal.recv() => (delivery, false),
            else => break,
        };
        jobs.spawn(work(Arc::clone(&handler), delivery, is_urgent, finished.clone(), place));
    }
    stop_taking();
    jobs.close();
    jobs.wait().await;
}

async fn work(
    handler: Arc<Handler>,
    delivery: Delivery,
    is_urgent: bool,
    finished: mpsc::Sender<Finished>,
    place: OwnedSemaphorePermit,
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
    let span = tracing::info_span!("job", batch = %job.batch_id, ordinal = job.ordinal, kind = job.work.kind());
    delivery.link(&span);
    let outcome = handler.run(&job, is_urgent).instrument(span).await;
    if finished.send(Finished { job, delivery, outcome, place }).await.is_err() {
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
