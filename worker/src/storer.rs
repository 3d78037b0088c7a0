//! The loop from finished jobs to committed facts, reports and acknowledgements.
//!
//! Jobs that finished while the last group was being stored make the next one: one transaction for
//! many pages under load, no waiting without load. The order commit, report, ack is a law: whatever
//! dies in between, the message comes again and finds the job ended.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use shared::job::{Failure, Report};
use shared::queue::{Delivery, Message, Publisher, Queue};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use crate::consumer::Finished;
use crate::handler::Outcome;
use crate::metrics;
use crate::store::{Store, StoreError, Stored, ToStore};

/// Most jobs in one transaction: past this the commit no longer weighs, and a poisoned page holds up
/// fewer neighbours.
const MAX_GROUP: usize = 64;
/// Pauses between tries to store. It is tried until the database takes it, for what was fetched is worth
/// keeping and the jobs in flight are bounded; nothing is acknowledged meanwhile.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// Tries after the shutdown began: then the broker delivers the job to another worker.
const TRIES_WHILE_DRAINING: usize = 5;

pub struct Storer {
    store: Store,
    publisher: Publisher,
    shutdown: CancellationToken,
}

/// A delivery on its way to acknowledgement.
struct Recorded {
    delivery: Delivery,
    stored: Stored,
    _place: OwnedSemaphorePermit,
}

impl Storer {
    #[must_use]
    pub fn new(store: Store, publisher: Publisher, shutdown: CancellationToken) -> Self {
        Self { store, publisher, shutdown }
    }

    /// Stores until the channel is closed and empty.
    pub async fn run(mut self, mut finished: mpsc::Receiver<Finished>) {
        let mut group = Vec::with_capacity(MAX_GROUP);
        while finished.recv_many(&mut group, MAX_GROUP).await > 0 {
            let recorded = self.record(group.drain(..)).await;
            self.acknowledge(recorded).await;
        }
    }

    async fn record(&mut self, group: impl Iterator<Item = Finished>) -> Vec<Recorded> {
        let (mut recorded, mut to_store, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        let mut spent = Vec::new();
        for Finished { job, delivery, outcome, place } in group {
            let stored = match outcome {
                Outcome::Released(requests) => {
                    spent.push((job, requests));
                    Stored::Not
                }
                Outcome::EndedBefore(report, requests) => {
                    spent.push((job, requests));
                    Stored::Ended(report)
                }
                Outcome::Discarded(reason, requests) => {
                    tracing::info!(batch = %job.batch_id, ordinal = job.ordinal, reason, "discarded");
                    spent.push((job, requests));
                    Stored::EndedElsewhere
                }
                Outcome::Ended(ending) => {
                    waiting.push((delivery, place));
                    to_store.push(ToStore { job, ending: *ending });
                    continue;
                }
            };
            recorded.push(Recorded { delivery, stored, _place: place });
        }
        if let Err(error) = self.store.note_requests(&spent).await {
            tracing::warn!(%error, "requests that came to nothing are missing in the ledger");
        }
        let stored = self.store_all(to_store).await;
        let pairs = stored.into_iter().zip(waiting);
        recorded.extend(pairs.map(|(stored, (delivery, place))| Recorded {
            delivery,
            stored,
            _place: place,
        }));
        recorded
    }

    /// Stores all, in order. A job that the database refuses is stored alone, as failed, so that it
    /// does not hold its neighbours.
    async fn store_all(&mut self, mut group: Vec<ToStore>) -> Vec<Stored> {
        match self.store_group(&group).await {
            Ok(stored) => stored,
            Err(error) if error.is_passing() => group.iter().map(|_| Stored::Not).collect(),
            Err(error) if group.len() > 1 => {
                tracing::warn!(%error, jobs = group.len(), "a group was refused, storing its jobs one by one");
                let mut all = Vec::with_capacity(group.len());
                for one in group {
                    all.extend(Box::pin(self.store_all(vec![one])).await);
                }
                all
            }
            Err(error) => {
                let Some(one) = group.pop() else {
                    return Vec::new();
                };
                vec![self.store_refused(one, &error).await]
            }
        }
    }

    async fn store_refused(&mut self, one: ToStore, error: &StoreError) -> Stored {
        let (batch, ordinal) = (one.job.batch_id, one.job.ordinal);
        tracing::error!(%error, %batch, ordinal, "the database refused a page");
        metrics::failed(Failure::StoreRefused.as_str(), &one.job.work);
        let ending = one.ending.into_failed(Failure::StoreRefused, error.to_string());
        match self.store_group(&[ToStore { ending, ..one }]).await {
            Ok(stored) => stored.into_iter().next().unwrap_or(Stored::Not),
            Err(error) => {
                // Not even the bare ending fits: the coordinator will find the job expired.
                tracing::error!(%error, %batch, ordinal, "the ending of a job can't be stored");
                Stored::Not
            }
        }
    }

    /// Stores a group, trying again while the database is away. A passing error comes back only
    /// while draining; any other means that the database refused what it was given.
    async fn store_group(&mut self, group: &[ToStore]) -> Result<Vec<Stored>, StoreError> {
        let mut backoff = backoff();
        let mut tries = 0;
        loop {
            match self.store.store(group).await {
                Err(error) if error.is_passing() && !self.gives_up(tries) => {
                    tries += 1;
                    metrics::failed_elsewhere(error.kind());
                    tracing::error!(%error, tries, "the database can't be written, nothing is acknowledged");
                    tokio::time::sleep(backoff.next().unwrap_or(LAST_BACKOFF)).await;
                }
                other => return other,
            }
        }
    }

    fn gives_up(&self, tries: usize) -> bool {
        self.shutdown.is_cancelled() && tries >= TRIES_WHILE_DRAINING
    }

    /// Reports, then acknowledges. What is not reported is not acknowledged: it comes again, is found
    /// ended, and is reported then.
    async fn acknowledge(&self, recorded: Vec<Recorded>) {
        let reports: Vec<_> =
            recorded.iter().filter_map(|one| one.stored.report()).map(to_message).collect();
        let mut backoff = backoff();
        let mut tries = 0;
        while let Err(error) = self.publisher.publish(&reports).await {
            tries += 1;
            tracing::warn!(%error, tries, reports = reports.len(), "reports were not confirmed");
            if self.gives_up(tries) {
                return;
            }
            tokio::time::sleep(backoff.next().unwrap_or(LAST_BACKOFF)).await;
        }
        for one in recorded.iter().filter(|one| !matches!(one.stored, Stored::Not)) {
            if let Err(error) = one.delivery.ack().await {
                tracing::warn!(%error, "not acknowledged; the message will come again");
            }
        }
    }
}

fn backoff() -> backon::ExponentialBackoff {
    ExponentialBuilder::new()
        .with_jitter()
        .with_min_delay(FIRST_BACKOFF)
        .with_max_delay(LAST_BACKOFF)
        .without_max_times()
        .build()
}

fn to_message(report: &Report) -> Message {
    let body = serde_json::to_vec(report).expect("a report is plain data, which always serialises");
    Message::To(Queue::Reports, body)
}
