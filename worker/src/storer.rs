//! The loop from finished jobs to committed facts, reports and acknowledgements.
//!
//! Jobs that finished while the last group was being stored make the next one, with those that are about to finish: one
//! transaction for many pages under load, no waiting without load. The order commit, report, ack is a law: whatever
//! dies in between, the message comes again and finds the job ended.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::future::join_all;
use shared::domain::BatchId;
use shared::health::Pulse;
use shared::job::{Failure, Report};
use shared::queue::{Delivery, Message, Publisher, Queue};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::consumer::Finished;
use crate::handler::Outcome;
use crate::metrics;
use crate::store::{Store, StoreError, Stored, ToStore};

/// Most jobs in one transaction: past this the commit no longer weighs, and a poisoned page holds up
/// fewer neighbours.
pub const MAX_GROUP: usize = 64;
/// Most bytes of answers in one transaction, unless a single one has more: fifty pages, or a few that are
/// unusually large. Counted before they were packed: what was read of them is as large, and is held until the commit.
const MAX_GROUP_BYTES: usize = 4 << 20;
/// Of the jobs in flight, how many make a group that waits for no others: the last ones would keep all waiting.
const ENOUGH_PERCENT: usize = 80;
/// Longest wait for them.
const LINGER: Duration = Duration::from_millis(20);
/// Pauses between tries to store. It is tried until the database takes it, for what was fetched is worth
/// keeping and the jobs in flight are bounded; nothing is acknowledged meanwhile.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// Tries after the shutdown began: then the broker delivers the job to another worker.
const TRIES_WHILE_DRAINING: usize = 5;

/// Longest silence of the loop: it gives a sign before each try to store or to report, which are bounded
/// by half a minute each.
pub const SILENCE_LIMIT: Duration = Duration::from_mins(2);

pub struct Storer {
    store: Store,
    publisher: Publisher,
    /// Jobs for which a group waits no longer.
    enough: usize,
    pulse: Pulse,
    shutdown: CancellationToken,
}

/// A delivery on its way to acknowledgement.
struct Recorded {
    delivery: Delivery,
    stored: Stored,
    span: Span,
}

impl Storer {
    /// For jobs of which `max_in_flight` are in flight at most.
    #[must_use]
    pub fn new(
        store: Store,
        publisher: Publisher,
        max_in_flight: usize,
        pulse: Pulse,
        shutdown: CancellationToken,
    ) -> Self {
        let enough = (max_in_flight * ENOUGH_PERCENT / 100).min(MAX_GROUP);
        Self { store, publisher, enough, pulse, shutdown }
    }

    /// Stores until the channel is closed and empty.
    pub async fn run(mut self, mut finished: mpsc::Receiver<Finished>) {
        let mut group = Vec::with_capacity(MAX_GROUP);
        while self.pulse.while_waiting(gather(&mut finished, &mut group, self.enough)).await {
            while !group.is_empty() {
                let sizes = group.iter().map(|finished| finished.outcome.answer_bytes());
                let recorded = self.record(group.drain(..fitting(sizes))).await;
                self.acknowledge(recorded).await;
            }
        }
    }

    async fn record(&mut self, group: impl Iterator<Item = Finished>) -> Vec<Recorded> {
        let (mut recorded, mut to_store, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        let mut spent = Vec::new();
        // Their places are free: while they are stored as many others are fetched.
        for Finished { job, delivery, outcome, place: _, span } in group {
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
                    waiting.push((delivery, span));
                    to_store.push(ToStore { job, ending: *ending });
                    continue;
                }
            };
            recorded.push(Recorded { delivery, stored, span });
        }
        if let Err(error) = self.store.note_requests(&spent).await {
            tracing::warn!(%error, "requests that came to nothing are missing in the ledger");
        }
        // One transaction, and a span of it in the trace of each of its jobs.
        let spans: Vec<_> = waiting.iter().map(|(_, job)| store_span(job, waiting.len())).collect();
        let stored = self.store_all(to_store).await;
        drop(spans);
        let pairs = stored.into_iter().zip(waiting);
        recorded.extend(pairs.map(|(stored, (delivery, span))| Recorded {
            delivery,
            stored,
            span,
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
                // Not even the bare ending fits: to the dead letters, and the coordinator will find the job expired.
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
            self.pulse.beat();
            let since = Instant::now();
            let stored = self.store.store(group).await;
            if !group.is_empty() {
                metrics::wrote(since.elapsed());
            }
            match stored {
                Ok(stored) => {
                    count_ends(group, &stored);
                    return Ok(stored);
                }
                Err(error) if error.is_passing() && !self.gives_up(tries) => {
                    tries += 1;
                    metrics::failed_elsewhere(error.kind());
                    tracing::error!(%error, tries, "the database can't be written, nothing is acknowledged");
                    tokio::time::sleep(backoff.next().unwrap_or(LAST_BACKOFF)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn gives_up(&self, tries: usize) -> bool {
        self.shutdown.is_cancelled() && tries >= TRIES_WHILE_DRAINING
    }

    /// Reports, then acknowledges. What is not reported is not acknowledged: it comes again, is found
    /// ended, and is reported then.
    async fn acknowledge(&self, recorded: Vec<Recorded>) {
        let reports = reports(&recorded);
        let mut backoff = backoff();
        let mut tries = 0;
        loop {
            self.pulse.beat();
            let each = reports.iter().map(|(message, spans)| (message, &spans[0]));
            let Err(error) = self.publisher.publish_each(each).await else { break };
            tries += 1;
            tracing::warn!(%error, tries, reports = reports.len(), "reports were not confirmed");
            if self.gives_up(tries) {
                return;
            }
            tokio::time::sleep(backoff.next().unwrap_or(LAST_BACKOFF)).await;
        }
        drop(reports);
        // Together: each waits until the broker's own thread has written it.
        let settled = recorded.iter().map(async |one| match one.stored {
            // While draining: it goes to others with the end of the connection.
            Stored::Not if self.shutdown.is_cancelled() => Ok(()),
            // Kept, it would hold a place of the consumer's for ever.
            Stored::Not => one.delivery.reject().await,
            _ => one.delivery.ack().await,
        });
        for settled in join_all(settled).await {
            if let Err(error) = settled {
                tracing::warn!(%error, "not acknowledged; the message will come again");
            }
        }
    }
}

/// Waits for what finishes and puts it into the empty `group`; `false`: nothing will come any more. Where several finished
/// it waits a moment for those that are about to finish, until there are `enough`, as each group costs the same whatever
/// its size. What finishes alone is not kept waiting.
async fn gather<T>(finished: &mut mpsc::Receiver<T>, group: &mut Vec<T>, enough: usize) -> bool {
    if finished.recv_many(group, MAX_GROUP).await < 2 {
        return !group.is_empty();
    }
    let until = Instant::now() + LINGER;
    while group.len() < enough {
        let more = finished.recv_many(group, MAX_GROUP - group.len());
        match tokio::time::timeout_at(until, more).await {
            Ok(count) if count > 0 => {}
            _ => break,
        }
    }
    true
}

/// How many of the first have room in one transaction: at least one.
fn fitting(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0_usize;
    let fits = sizes.take_while(|size| {
        bytes = bytes.saturating_add(*size);
        bytes <= MAX_GROUP_BYTES
    });
    fits.count().max(1)
}

fn backoff() -> backon::ExponentialBackoff {
    ExponentialBuilder::new()
        .with_jitter()
        .with_min_delay(FIRST_BACKOFF)
        .with_max_delay(LAST_BACKOFF)
        .without_max_times()
        .build()
}

/// Counts what this worker ended. A commit whose answer was lost is not counted: who tries again finds the
/// jobs ended, and can't tell by whom.
fn count_ends(group: &[ToStore], stored: &[Stored]) {
    for (one, stored) in group.iter().zip(stored) {
        if let Stored::Ended(report) = stored {
            metrics::ended(&one.job.work, report.end.state, report.end.ads);
        }
    }
}

fn store_span(job: &Span, jobs: usize) -> Span {
    tracing::info_span!(
        parent: job,
        "store",
        otel.kind = "client",
        db.system.name = "postgresql",
        db.operation.name = "store",
        db.operation.batch.size = jobs,
    )
}

fn report_span(job: &Span) -> Span {
    tracing::info_span!(
        parent: job,
        "report",
        otel.name = "send reports",
        otel.kind = "producer",
        messaging.system = "rabbitmq",
        messaging.operation.type = "send",
        messaging.operation.name = "send",
        messaging.destination.name = "reports",
    )
}

/// One message for all jobs of a batch, with the spans in which they report.
fn reports(recorded: &[Recorded]) -> Vec<(Message, Vec<Span>)> {
    let each = recorded
        .iter()
        .filter_map(|one| one.stored.report().map(|report| (report, report_span(&one.span))));
    together(each).into_iter().map(|(report, spans)| (to_message(&report), spans)).collect()
}

/// Reports of one batch as one, with what belongs to each.
fn together<'a, T>(each: impl Iterator<Item = (&'a Report, T)>) -> Vec<(Report, Vec<T>)> {
    let mut batches: BTreeMap<BatchId, (Report, Vec<T>)> = BTreeMap::new();
    for (report, belonging) in each {
        match batches.entry(report.batch_id) {
            Entry::Vacant(place) => {
                place.insert((report.clone(), vec![belonging]));
            }
            Entry::Occupied(place) => {
                let (all, belongings) = place.into_mut();
                all.more.extend(report.ends().cloned());
                belongings.push(belonging);
            }
        }
    }
    batches.into_values().collect()
}

fn to_message(report: &Report) -> Message {
    let body = serde_json::to_vec(report).expect("a report is plain data, which always serialises");
    Message::To(Queue::Reports, body)
}

#[cfg(test)]
mod tests {
    use shared::job::{EndState, JobEnd};

    use super::*;

    #[test]
    fn jobs_of_a_batch_are_reported_together() {
        let report = |batch, ordinal| {
            let (issue, state, reason) = (1, EndState::Done, None);
            let (declared_total, ads, listed) = (Some(31), 11, None);
            let end = JobEnd { ordinal, issue, state, reason, declared_total, ads, listed };
            Report::new(BatchId::from_raw(batch).unwrap(), end)
        };
        let each = [report(10_639_001, 7), report(10_639_000, 3), report(10_639_001, 9)];
        let all = together(each.iter().zip(["a", "b", "c"]));
        let told: Vec<(i32, Vec<u32>, &[&str])> = all
            .iter()
            .map(|(report, belonging)| {
                let ordinals = report.ends().map(|end| end.ordinal).collect();
                (report.batch_id.raw(), ordinals, &belonging[..])
            })
            .collect();
        assert_eq!(
            told,
            [(10_639_000, vec![3], &["b"][..]), (10_639_001, vec![7, 9], &["a", "c"][..])]
        );
    }

    const ENOUGH: usize = 5;

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    /// The group of jobs that finish at these times, in order, and when it goes: ms from now. More may finish.
    async fn gathered(finish_at: &[u64]) -> (Vec<u64>, Duration) {
        let (sender, mut finished) = mpsc::channel(2 * MAX_GROUP);
        let (start, mut group) = (Instant::now(), Vec::new());
        let (here, later) = finish_at.split_at(finish_at.partition_point(|at| *at == 0));
        for at in here {
            sender.try_send(*at).unwrap();
        }
        let finishing = async {
            for at in later {
                tokio::time::sleep_until(start + ms(*at)).await;
                sender.try_send(*at).unwrap();
            }
            std::future::pending::<()>().await;
        };
        let is_group = tokio::select! {
            is_group = gather(&mut finished, &mut group, ENOUGH) => is_group,
            () = finishing => unreachable!("it never ends"),
        };
        assert!(is_group);
        (group, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn several_wait_a_moment_for_those_about_to_finish() {
        assert_eq!(gathered(&[0, 0, 1, 19, 21]).await, (vec![0, 0, 1, 19], LINGER));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_longer_than_that() {
        assert_eq!(gathered(&[0, 0]).await, (vec![0, 0], LINGER));
        // Neither do those that come meanwhile make it longer.
        assert_eq!(gathered(&[0, 0, 9, 18, 27]).await, (vec![0, 0, 9, 18], LINGER));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_finishes_alone_waits_for_no_other() {
        assert_eq!(gathered(&[0, 1, 2]).await, (vec![0], ms(0)));
        assert_eq!(gathered(&[50, 51, 52]).await, (vec![50], ms(50)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_large_enough_goes_at_once() {
        assert_eq!(gathered(&[0; ENOUGH]).await, (vec![0; ENOUGH], ms(0)));
        assert_eq!(gathered(&[0, 0, 3, 5, 7, 8]).await, (vec![0, 0, 3, 5, 7], ms(7)));
        assert_eq!(gathered(&[0; MAX_GROUP + 1]).await, (vec![0; MAX_GROUP], ms(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn when_nothing_will_come_nobody_waits() {
        let (sender, mut finished) = mpsc::channel(ENOUGH);
        let (start, mut group) = (Instant::now(), Vec::new());
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        let closing = async {
            tokio::time::sleep(ms(5)).await;
            drop(sender);
        };
        let (is_group, ()) = tokio::join!(gather(&mut finished, &mut group, ENOUGH), closing);
        assert!(is_group);
        assert_eq!((group, start.elapsed()), (vec![1, 2], ms(5)));
        let mut none = Vec::new();
        assert!(!gather(&mut finished, &mut none, ENOUGH).await);
        assert_eq!((none, start.elapsed()), (vec![], ms(5)));
    }

    #[test]
    fn a_group_is_bounded_by_bytes() {
        let half = MAX_GROUP_BYTES / 2;
        assert_eq!(fitting([half, half, 1].into_iter()), 2);
        assert_eq!(fitting([half, half + 1].into_iter()), 1);
        assert_eq!(fitting([MAX_GROUP_BYTES + 1, 1].into_iter()), 1);
        assert_eq!(fitting([0; 3].into_iter()), 3);
    }
}
