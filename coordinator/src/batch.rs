//! One batch, from its opening or from where a former leader left it, to its close.
//!
//! Whatever is done here is first in the database and can be done again: a coordinator that dies at
//! any point leaves rows from which the next one goes on.

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use shared::domain::{BatchId, MAX_JOBS_PER_BATCH};
use shared::exchange::Exchange;
use shared::job::{Job, JobEnd, MESSAGE_VERSION, Report, Work};
use shared::queue::{Delivery, Message, Publisher, Queue};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::ledger::{Ledger, LedgerJob};
use crate::planner::{self, PlannedBook};
use crate::progress::Progress;
use crate::schedule::Clock;
use crate::settings::Settings;
use crate::store::batches::OpenBatch;
use crate::store::catalog::{self, FiatList};
use crate::store::close::{self, BatchOutcome};
use crate::store::{drift, jobs};

/// Jobs published before they are noted as published: a coordinator that dies publishes at most so
/// many again.
const PUBLISH_CHUNK: usize = 500;
/// Reports folded before anything else is done.
const FOLD_CHUNK: usize = 200;
/// Time between two looks into the database for ends whose report did not come.
const SYNC_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two looks at the deadline.
const DEADLINE_PULSE: Duration = Duration::from_millis(200);
/// No job ended for so long: the messages may be lost, and all that is out is published again.
/// Doubled each time. Messages that were not lost then come twice, which costs a look-up each.
const FIRST_STALL: Duration = Duration::from_secs(30);
/// Pause after the database or the broker failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Share of the requests until the deadline that is planned for; the rest is for what goes wrong and
/// for books that grew. In percent.
const PLANNED_PERCENT: u64 = 95;

/// How the run of a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Closed(BatchOutcome),
    /// Told to stop; the batch stays open.
    Stopped,
}

/// Why waiting for jobs ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    AllEnded,
    Deadline,
    Stopped,
}

/// What a batch needs of its leader.
pub struct BatchRunner<'a> {
    pub settings: &'a Settings,
    pub pool: &'a PgPool,
    pub publisher: &'a Publisher,
    pub clock: &'a dyn Clock,
    pub reports: &'a mut mpsc::Receiver<Delivery>,
    pub shutdown: &'a CancellationToken,
}

/// The batch that is running.
struct Running {
    batch: OpenBatch,
    ledger: Ledger,
    progress: Progress,
    /// Follow-ups that are not yet in the database.
    new: Vec<LedgerJob>,
    again: Vec<LedgerJob>,
}

impl Running {
    fn fold(&mut self, end: &JobEnd) {
        let follow_up = self.ledger.fold(end);
        self.new.extend(follow_up.new);
        self.again.extend(follow_up.again);
    }

    /// Plans work under the next ordinals.
    fn plan(&mut self, urgent: bool, works: Vec<Work>) -> anyhow::Result<Vec<LedgerJob>> {
        let mut planned = Vec::with_capacity(works.len());
        for work in works {
            let ordinal = self.ledger.next_ordinal().context("the batch is full")?;
            let job = LedgerJob { ordinal, issue: 1, urgent, work };
            self.ledger.add(job.clone(), false);
            planned.push(job);
        }
        Ok(planned)
    }

    /// Notes pages that are left out.
    fn shed(&mut self, works: impl Iterator<Item = Work>) -> Vec<LedgerJob> {
        let mut shed = Vec::new();
        for work in works {
            let Some(ordinal) = self.ledger.next_ordinal() else {
                tracing::error!(?work, "the batch is full, its pages left out are not all listed");
                break;
            };
            let job = LedgerJob { ordinal, issue: 1, urgent: false, work };
            self.ledger.add_shed(job.clone());
            shed.push(job);
        }
        shed
    }
}

impl BatchRunner<'_> {
    /// Runs the batch to its close.
    pub async fn run(mut self, batch: OpenBatch, progress: bool) -> anyhow::Result<Ended> {
        let span = tracing::info_span!("batch", id = %batch.id);
        self.run_to_close(batch, progress).instrument(span).await
    }

    async fn run_to_close(&mut self, batch: OpenBatch, progress: bool) -> anyhow::Result<Ended> {
        let (ledger, ended) = jobs::load(self.pool, batch.id).await?;
        let progress = Progress::new(progress, batch.id);
        let mut running = Running { batch, ledger, progress, new: Vec::new(), again: Vec::new() };
        for end in &ended {
            running.fold(end);
        }
        let settled = self.work(&mut running).await?;
        running.progress.finish();
        if settled == Settled::Stopped {
            return Ok(Ended::Stopped);
        }
        self.close(&running, settled).await
    }

    /// Discovery, plan, reading; each is skipped as far as it was done before.
    async fn work(&mut self, running: &mut Running) -> anyhow::Result<Settled> {
        if !running.batch.is_planned {
            for discover in [Discover::FiatList, Discover::Assets] {
                self.plan_discovery(running, discover).await?;
                match self.drive(running).await {
                    Settled::AllEnded => {}
                    other => return Ok(other),
                }
            }
            self.plan_pages(running).await?;
        }
        Ok(self.drive(running).await)
    }

    async fn plan_discovery(
        &self,
        running: &mut Running,
        discover: Discover,
    ) -> anyhow::Result<()> {
        let (exchange, max_age) = (Exchange::Binance, self.settings.catalog_refresh);
        let works = match discover {
            Discover::FiatList => {
                let due = catalog::is_fiat_list_due(self.pool, exchange, max_age).await?;
                if due { vec![Work::FiatList] } else { Vec::new() }
            }
            Discover::Assets => {
                let fiats = self.due_fiats(FiatList::Assets).await?;
                fiats
                    .into_iter()
                    .map(|fiat| Work::Assets { fiat_id: fiat.fiat_id, fiat: fiat.code })
                    .collect()
            }
        };
        // After a restart some are there already.
        let works = works.into_iter().filter(|work| !running.ledger.has(work)).collect();
        let planned = running.plan(true, works)?;
        tracing::info!(jobs = planned.len(), ?discover, "discovery planned");
        let mut connection = self.pool.acquire().await?;
        jobs::insert(&mut connection, &running.batch, &planned).await
    }

    async fn due_fiats(&self, list: FiatList) -> anyhow::Result<Vec<catalog::Fiat>> {
        let (max_age, limit) =
            (self.settings.catalog_refresh, self.settings.catalog_refresh_per_batch);
        catalog::list_due_fiats(
            self.pool,
            Exchange::Binance,
            list,
            max_age,
            limit,
            &self.settings.fiats,
        )
        .await
    }

    /// Plans the pages of the batch, and after them the lists of payment methods that are due, which
    /// nothing waits for. One transaction: a batch is planned or it is not.
    async fn plan_pages(&self, running: &mut Running) -> anyhow::Result<()> {
        let fiats = &self.settings.fiats;
        let (markets, names) = catalog::list_markets(self.pool, Exchange::Binance, fiats).await?;
        let now = self.clock.now();
        let budget = self.budget(running, now);
        let (slot, interval) = (running.batch.slot_at, self.settings.interval);
        let books = planner::plan(&markets, slot, interval, budget);
        let pages: u32 = books.iter().map(|book| book.pages).sum();
        let work = |book: &PlannedBook, page| Work::Search {
            market_id: book.market_id,
            market: names[&book.market_id].clone(),
            page,
            ads_expected: book.ads_expected,
        };
        let mut works: Vec<Work> = books
            .iter()
            .flat_map(|book| (1..=book.pages).map(move |page| work(book, page)))
            .collect();
        let left = usize::try_from(budget - pages).unwrap_or(usize::MAX);
        let methods = self.due_fiats(FiatList::PaymentMethods).await?.into_iter().take(left);
        works.extend(
            methods.map(|fiat| Work::PaymentMethods { fiat_id: fiat.fiat_id, fiat: fiat.code }),
        );
        let planned = running.plan(false, works)?;
        let beyond = |book: &PlannedBook| book.pages + 1..=book.pages + book.shed;
        let left_out = books.iter().flat_map(|book| beyond(book).map(move |page| work(book, page)));
        let shed = running.shed(left_out);
        let mut tx = self.pool.begin().await?;
        jobs::insert(&mut tx, &running.batch, &planned).await?;
        jobs::insert_shed(&mut tx, &running.batch, &shed).await?;
        jobs::mark_planned(&mut tx, running.batch.id, budget, now).await?;
        tx.commit().await?;
        running.batch.is_planned = true;
        tracing::info!(markets = books.len(), pages, shed = shed.len(), budget, "pages planned");
        Ok(())
    }

    /// Requests that the limiter can grant until the deadline, less a reserve.
    fn budget(&self, running: &Running, now: DateTime<Utc>) -> u32 {
        let left_ms = (running.batch.deadline_at - now).num_milliseconds().max(0).cast_unsigned();
        let grants =
            u64::from(self.settings.rate_per_minute) * left_ms / 60_000 * PLANNED_PERCENT / 100;
        // Half of a batch's ordinals are kept for what the fold adds and for what is shed.
        u32::try_from(grants).unwrap_or(u32::MAX).min(MAX_JOBS_PER_BATCH / 2)
    }

    /// Publishes what is planned and folds what ends, until all has ended or the time is over.
    /// Neither database nor broker is needed without interruption: what failed is done again.
    async fn drive(&mut self, running: &mut Running) -> Settled {
        let mut stall = Stall::new();
        let mut next_sync = Instant::now() + SYNC_INTERVAL;
        loop {
            if self.shutdown.is_cancelled() {
                return Settled::Stopped;
            }
            if self.clock.now() >= running.batch.deadline_at {
                return Settled::Deadline;
            }
            if let Err(error) = self.push(running).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "jobs could not be published, trying again"
                );
                tokio::time::sleep(FAILURE_PAUSE).await;
            } else if running.ledger.is_settled() {
                return Settled::AllEnded;
            }
            let mut deliveries = Vec::new();
            tokio::select! {
                // Reports are hints: without a consumer the ends are found in the database.
                1.. = self.reports.recv_many(&mut deliveries, FOLD_CHUNK) => {}
                () = tokio::time::sleep(DEADLINE_PULSE) => {}
                () = self.shutdown.cancelled() => {}
            }
            let before = running.ledger.counts().ended;
            take_reports(running, deliveries).await;
            if Instant::now() >= next_sync {
                next_sync = Instant::now() + SYNC_INTERVAL;
                self.sync(running).await;
            }
            if stall.is_over(running.ledger.counts().ended > before) {
                tracing::warn!(
                    open = running.ledger.open().len(),
                    "nothing ended for long, publishing again what is out"
                );
                running.ledger.mark_lost();
            }
            self.look_for_drift(running).await;
            running.progress.show(running.ledger.counts());
        }
    }

    /// Plans to read again the pages at which books moved that were just read to their end.
    async fn look_for_drift(&self, running: &mut Running) {
        let markets = running.ledger.unchecked();
        if markets.is_empty() {
            return;
        }
        match drift::list_moved_pages(self.pool, running.batch.id, &markets).await {
            Ok(moved) => {
                let again = running.ledger.reread(&markets, &moved);
                if !again.is_empty() {
                    tracing::info!(pages = again.len(), "books moved, reading pages again");
                }
                running.new.extend(again);
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "drift can't be looked for, trying again"
                );
            }
        }
    }

    /// Writes follow-ups and publishes everything that is planned.
    async fn push(&self, running: &mut Running) -> anyhow::Result<()> {
        if !running.new.is_empty() || !running.again.is_empty() {
            let mut tx = self.pool.begin().await?;
            jobs::insert(&mut tx, &running.batch, &running.new).await?;
            jobs::reissue(&mut tx, running.batch.id, &running.again).await?;
            tx.commit().await?;
            running.new.clear();
            running.again.clear();
        }
        for chunk in running.ledger.unpublished().chunks(PUBLISH_CHUNK) {
            let messages: Vec<Message> = chunk
                .iter()
                .map(|job| message(&running.batch, job))
                .collect::<anyhow::Result<_>>()?;
            self.publisher.publish(&messages).await?;
            let ordinals: Vec<u32> = chunk.iter().map(|job| job.ordinal).collect();
            jobs::mark_published(self.pool, running.batch.id, &ordinals).await?;
            running.ledger.mark_published(&ordinals);
        }
        Ok(())
    }

    /// Finds ends whose report did not come.
    async fn sync(&self, running: &mut Running) {
        match jobs::list_ended(self.pool, running.batch.id, &running.ledger.open()).await {
            Ok(ended) => ended.iter().for_each(|end| running.fold(end)),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the ledger can't be read, trying again"
                );
            }
        }
    }

    async fn close(&self, running: &Running, settled: Settled) -> anyhow::Result<Ended> {
        if settled == Settled::Deadline {
            tracing::warn!(open = running.ledger.open().len(), "the batch is cut at its deadline");
        }
        let id = running.batch.id;
        let Some(closed) = close::close(self.pool, id).await? else {
            anyhow::bail!("batch {id} was closed by another coordinator");
        };
        let (outcome, reason, sums) = (closed.outcome, closed.reason, closed.sums);
        let why = reason.as_deref().unwrap_or_default();
        tracing::info!(outcome = outcome.as_str(), reason = why, ?sums, "batch closed");
        self.announce(id, outcome).await;
        if !matches!(running.progress, Progress::Hidden) {
            let colon = if why.is_empty() { "" } else { ": " };
            println!(
                "batch {id} {}{colon}{why}: {} pages, {} ads, {} requests",
                outcome.as_str(),
                sums.pages_read,
                sums.ads,
                sums.requests
            );
        }
        Ok(Ended::Closed(outcome))
    }

    /// Tells whoever listens. The database told it already: a lost event is no loss.
    async fn announce(&self, batch: BatchId, outcome: BatchOutcome) {
        let event =
            serde_json::json!({ "version": 1, "batch_id": batch, "outcome": outcome.as_str() });
        let event =
            Message::Event { routing_key: "batch.closed", body: event.to_string().into_bytes() };
        if let Err(error) = self.publisher.publish(&[event]).await {
            tracing::warn!(%error, "the event could not be published");
        }
    }
}

/// What is discovered before pages are planned, one after the other.
#[derive(Clone, Copy, Debug)]
enum Discover {
    FiatList,
    Assets,
}

/// How long nothing has ended.
struct Stall {
    since: Instant,
    limit: Duration,
}

impl Stall {
    fn new() -> Self {
        Self { since: Instant::now(), limit: FIRST_STALL }
    }

    fn is_over(&mut self, has_moved: bool) -> bool {
        if has_moved {
            *self = Self::new();
        } else if self.since.elapsed() >= self.limit {
            *self = Self { since: Instant::now(), limit: self.limit * 2 };
            return true;
        }
        false
    }
}

fn message(batch: &OpenBatch, job: &LedgerJob) -> anyhow::Result<Message> {
    let queue = if job.urgent { Queue::UrgentJobs } else { Queue::NormalJobs };
    let body = Job {
        version: MESSAGE_VERSION,
        exchange: Exchange::Binance,
        batch_id: batch.id,
        ordinal: job.ordinal,
        issue: job.issue,
        expires_at: batch.deadline_at,
        work: job.work.clone(),
    };
    Ok(Message::To(queue, serde_json::to_vec(&body)?))
}

/// Folds reports of this batch; others are of batches long closed.
async fn take_reports(running: &mut Running, deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        match serde_json::from_slice::<Report>(&delivery.body) {
            Ok(report)
                if report.version == MESSAGE_VERSION && report.batch_id == running.batch.id =>
            {
                running.fold(&report.end);
            }
            Ok(_) => {}
            // The database tells what the report would have told.
            Err(error) => tracing::error!(%error, "a report can't be read"),
        }
        if let Err(error) = delivery.ack().await {
            tracing::debug!(%error, "a report was not acknowledged and will come again");
        }
    }
}
