//! One batch, from its opening or from where a former leader left it, to its close.
//!
//! Whatever is done here is first in the database and can be done again: a coordinator that dies at
//! any point leaves rows from which the next one goes on. One that was replaced writes nothing more
//! ([`Store::begin`]).

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use shared::domain::{BatchId, Market};
use shared::exchange::Exchange;
use shared::health::Pulse;
use shared::job::{Job, JobEnd, MESSAGE_VERSION, Report, Work};
use shared::queue::{Delivery, Message, Publisher, Queue};
use shared::store::{ANSWER_LIMIT, lock_jobs, within};
use shared::telemetry::note_trace;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::ledger::{Ledger, LedgerJob};
use crate::metrics;
use crate::planner::{self, MarketState, PlannedBook};
use crate::progress::Progress;
use crate::schedule::Clock;
use crate::settings::Settings;
use crate::store::batches::{self, Found, OpenBatch};
use crate::store::catalog::{self, FiatList};
use crate::store::close::{self, BatchOutcome, Cut};
use crate::store::jobs::Loaded;
use crate::store::quality::{self, Quality};
use crate::store::witness::{self as witness_store, MarketCheck};
use crate::store::{Store, advertisers, drift, jobs, requests, workers};
use crate::witness::{self, Verdict};

/// Ads in quarantine, and answers that could not be read, in one batch: somebody should know of more.
const REFUSED_ADS_BEFORE_ALERT: i64 = 100;
const UNREADABLE_BEFORE_ALERT: i64 = 10;

/// Jobs published before they are noted as published: a coordinator that dies publishes at most so
/// many again.
const PUBLISH_CHUNK: usize = 500;
/// Reports folded before anything else is done.
const FOLD_CHUNK: usize = 200;
/// Time between two looks into the database for ends whose report did not come.
const SYNC_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two looks for books that moved, while jobs are out: each look costs as much as some books do.
const DRIFT_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two looks whether an operator cancelled the batch.
const CANCEL_PULSE: Duration = Duration::from_secs(1);
/// Time between two looks at the deadline.
const DEADLINE_PULSE: Duration = Duration::from_millis(200);
/// No job ended for so long: if the queues are empty the messages may be lost, and all that is out is
/// published again. Doubled each time, and at [`LONG_STALL`] the queues are not believed. Messages that
/// were not lost then come twice, which costs a look-up each.
const FIRST_STALL: Duration = Duration::from_secs(10);
const LONG_STALL: Duration = Duration::from_secs(40);
/// Pause after the database or the broker failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// One request of so many is kept for lists of payment methods while some are due.
const LISTS_SHARE: u32 = 100;
/// Longest wait for the transaction that closes a batch: a hundred times what it takes on a full market.
const CLOSE_LIMIT: Duration = Duration::from_mins(1);
/// Time for which a batch in which all else has ended waits for the witness: longer than an answer takes,
/// and short beside the age of what the batch read; less than [`FIRST_STALL`], after which it would be asked
/// again. Then it is left out.
const WITNESS_PATIENCE: Duration = Duration::from_secs(8);

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
    /// No egress can be used.
    BreakerOpen,
    /// An operator wants it to end.
    Cancelled,
    Stopped,
}

/// What a batch needs of its leader.
pub struct BatchRunner<'a> {
    pub settings: &'a Settings,
    pub store: &'a Store,
    pub publisher: &'a Publisher,
    pub clock: &'a dyn Clock,
    pub reports: &'a mut mpsc::Receiver<Delivery>,
    pub pulse: &'a Pulse,
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
    trimmed: Vec<u32>,
    stall: Stall,
    /// When the batch is cut, should the clock be set back meanwhile.
    cut_at: Instant,
    /// Since when the witness alone is waited for.
    settled_at: Option<Instant>,
}

impl Running {
    fn fold(&mut self, end: &JobEnd) {
        let follow_up = self.ledger.fold(end);
        self.new.extend(follow_up.new);
        self.again.extend(follow_up.again);
        self.trimmed.extend(follow_up.trimmed);
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
        let span = tracing::info_span!(
            parent: None,
            "batch",
            batch = %batch.id,
            slot = %batch.slot_at,
            trace_id = tracing::field::Empty,
        );
        note_trace(&span);
        self.run_to_close(batch, progress).instrument(span).await
    }

    async fn run_to_close(&mut self, batch: OpenBatch, progress: bool) -> anyhow::Result<Ended> {
        let percent = self.settings.reread_percent;
        let loaded = jobs::load(&self.store.pool, batch.id, percent);
        let Loaded { ledger, ended, quiet_for } = within(ANSWER_LIMIT, loaded).await?;
        let left = self.time_left(&batch);
        let mut running = Running {
            progress: Progress::new(progress, batch.id),
            batch,
            ledger,
            new: Vec::new(),
            again: Vec::new(),
            trimmed: Vec::new(),
            stall: Stall::after(quiet_for),
            cut_at: Instant::now() + left,
            settled_at: None,
        };
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

    /// Time until the deadline; never more than a batch has, whatever a clock says that was set back.
    fn time_left(&self, batch: &OpenBatch) -> Duration {
        let left = (batch.deadline_at - self.clock.now()).to_std().unwrap_or_default();
        left.min(self.settings.batch_deadline)
    }

    /// Discovery, plan, reading; each is skipped as far as it was done before.
    async fn work(&mut self, running: &mut Running) -> anyhow::Result<Settled> {
        if !running.batch.is_planned {
            for discover in [Discover::FiatList, Discover::Assets] {
                let span = tracing::info_span!("discover", ?discover);
                let planned = self.plan_discovery(running, discover).instrument(span);
                within(ANSWER_LIMIT, planned).await?;
                match self.drive(running).await {
                    Settled::AllEnded => {}
                    other => return Ok(other),
                }
            }
            let planned = self.plan_pages(running).instrument(tracing::info_span!("plan"));
            within(ANSWER_LIMIT, planned).await?;
        }
        let settled = self.drive(running).await;
        let is_listed_anew = running.ledger.has(&Work::FiatList);
        if settled == Settled::AllEnded && running.ledger.a_fiat_seems_gone() && !is_listed_anew {
            // Its books are closed with what the list of fiats says now.
            tracing::warn!("all markets of a fiat turned empty, reading the list of fiats");
            running.new = running.plan(true, vec![Work::FiatList])?;
            return Ok(self.drive(running).await);
        }
        Ok(settled)
    }

    async fn plan_discovery(
        &self,
        running: &mut Running,
        discover: Discover,
    ) -> anyhow::Result<()> {
        let (exchange, max_age) = (Exchange::Binance, self.settings.catalog_refresh);
        let works = match discover {
            Discover::FiatList => {
                let due = catalog::is_fiat_list_due(&self.store.pool, exchange, max_age).await?;
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
        let mut tx = self.store.begin().await?;
        jobs::insert(&mut tx, &running.batch, &planned).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn due_fiats(&self, list: FiatList) -> anyhow::Result<Vec<catalog::Fiat>> {
        let (max_age, limit) =
            (self.settings.catalog_refresh, self.settings.catalog_refresh_per_batch);
        catalog::list_due_fiats(
            &self.store.pool,
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
        let exchange = Exchange::Binance;
        let asked = requests::asked_markets(&self.store.pool, running.batch.id).await?;
        let (markets, names) = self.due_markets(asked.as_deref()).await?;
        let mut rates = workers::list_egress_rates(&self.store.pool, exchange).await?;
        if rates.is_empty() {
            tracing::warn!(rate = self.settings.rate_per_minute, "no worker was seen lately");
            rates.push(self.settings.rate_per_minute);
        }
        let now = self.clock.now();
        let left = self.time_left(&running.batch);
        let budget = planner::budget(rates.iter().copied(), left);
        let (slot, interval) = (running.batch.slot_at, self.settings.interval);
        // The lists come after the pages, and would never get a request of a budget that does not
        // suffice. What is left over now is still due in the next batch.
        let methods = match &asked {
            None => self.due_fiats(FiatList::PaymentMethods).await?,
            Some(_) => Vec::new(),
        };
        let for_lists = u32::try_from(methods.len()).unwrap_or(u32::MAX).min(budget / LISTS_SHARE);
        let most = self.settings.witness_markets;
        let most = witness_store::allowed_markets(&self.store.pool, exchange, most).await?;
        let most = witness::affordable(most, budget);
        let kept = for_lists + most * witness::REQUESTS_PER_MARKET;
        let books = planner::plan(&markets, slot, interval, budget.saturating_sub(kept));
        let pages: u32 = books.iter().map(|book| book.pages).sum();
        let ads: HashMap<i32, u32> = markets
            .iter()
            .map(|market| (market.market_id, market.last_total.unwrap_or(0)))
            .collect();
        let witnessed = witness::sample(
            &books,
            |market_id| ads.get(&market_id).copied().unwrap_or(0),
            running.batch.id,
            witness::slots_before(slot, interval),
            most,
        );
        // Right before page 1, in which most of what the witness names stands: what lies between the two
        // readings is what can move.
        let statements = |book: &PlannedBook| {
            let market_id = book.market_id;
            let of = |market: Market| {
                let ads = Work::WitnessAds { market_id, market: market.clone() };
                [Work::WitnessQuote { market_id, market }, ads]
            };
            let market = witnessed.contains(&market_id).then(|| names[&market_id].clone());
            market.map(of).into_iter().flatten()
        };
        let work = |book: &PlannedBook, page| Work::Search {
            market_id: book.market_id,
            market: names[&book.market_id].clone(),
            page,
            ads_expected: book.ads_expected,
        };
        let mut works: Vec<Work> = books
            .iter()
            .flat_map(|book| {
                statements(book).chain((1..=book.pages).map(move |page| work(book, page)))
            })
            .collect();
        let spent = u32::try_from(works.len()).unwrap_or(u32::MAX);
        let left = usize::try_from(budget.saturating_sub(spent)).unwrap_or(usize::MAX);
        works.extend(
            methods
                .into_iter()
                .take(left)
                .map(|fiat| Work::PaymentMethods { fiat_id: fiat.fiat_id, fiat: fiat.code }),
        );
        let left = budget.saturating_sub(u32::try_from(works.len()).unwrap_or(u32::MAX));
        let left = if asked.is_none() { left } else { 0 };
        let advertisers = self.due_advertisers(left).await?;
        works.extend(advertisers.iter().map(|advertiser| Work::Advertiser {
            advertiser_id: advertiser.advertiser_id,
            user_no: advertiser.user_no.clone(),
        }));
        let planned = running.plan(false, works)?;
        let beyond = |book: &PlannedBook| book.pages + 1..=book.pages + book.shed;
        let left_out = books.iter().flat_map(|book| beyond(book).map(move |page| work(book, page)));
        let shed = running.shed(left_out);
        let mut tx = self.store.begin().await?;
        jobs::insert(&mut tx, &running.batch, &planned).await?;
        jobs::insert_shed(&mut tx, &running.batch, &shed).await?;
        advertisers::mark_asked(&mut tx, &advertisers).await?;
        jobs::mark_planned(&mut tx, running.batch.id, budget, rates.len(), now).await?;
        tx.commit().await?;
        running.batch.is_planned = true;
        tracing::info!(
            markets = books.len(),
            pages,
            shed = shed.len(),
            witnessed = witnessed.len(),
            advertisers = advertisers.len(),
            budget,
            ?rates,
            "pages planned"
        );
        Ok(())
    }

    /// The markets there are to read, with their names; only those `asked` for by an operator, if any are.
    async fn due_markets(
        &self,
        asked: Option<&[i32]>,
    ) -> anyhow::Result<(Vec<MarketState>, HashMap<i32, Market>)> {
        let (fiats, priorities) = (&self.settings.fiats, &self.settings.priority_markets);
        let (mut markets, names) =
            catalog::list_markets(&self.store.pool, Exchange::Binance, fiats, priorities).await?;
        if let Some(asked) = asked {
            markets.retain(|market| asked.contains(&market.market_id));
            // Asked for by name, a market is due however long it was empty.
            for market in &mut markets {
                market.consecutive_empty = 0;
            }
        }
        Ok((markets, names))
    }

    /// Whose pages are read with what pages and lists leave of the budget, within a bound of their own.
    async fn due_advertisers(&self, left: u32) -> anyhow::Result<Vec<advertisers::DueAdvertiser>> {
        let settings = self.settings;
        // Of a market whose turn did not come in two batches nobody knows who is still there.
        let seen_within = settings.interval * 2;
        advertisers::list_due(
            &self.store.pool,
            Exchange::Binance,
            seen_within,
            settings.advertiser_refresh,
            settings.batch_deadline,
            settings.advertiser_requests.min(left),
        )
        .await
    }

    /// Publishes what is planned and folds what ends, until all has ended or the time is over.
    /// Neither database nor broker is needed without interruption: what failed is done again.
    async fn drive(&mut self, running: &mut Running) -> Settled {
        let mut next_sync = Instant::now() + SYNC_INTERVAL;
        let mut next_look = Instant::now();
        let mut next_drift = Instant::now();
        loop {
            self.pulse.beat();
            if self.shutdown.is_cancelled() {
                return Settled::Stopped;
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + CANCEL_PULSE;
                if self.is_cancelled(running.batch.id).await {
                    return Settled::Cancelled;
                }
            }
            if self.clock.now() >= running.batch.deadline_at || Instant::now() >= running.cut_at {
                return Settled::Deadline;
            }
            if let Err(error) = self.push(running).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "jobs could not be published, trying again"
                );
                tokio::time::sleep(FAILURE_PAUSE).await;
            } else if running.ledger.is_settled() {
                let since = *running.settled_at.get_or_insert_with(Instant::now);
                if !running.ledger.waits_for_witness() || since.elapsed() >= WITNESS_PATIENCE {
                    return Settled::AllEnded;
                }
            } else {
                running.settled_at = None;
            }
            let mut deliveries = Vec::new();
            tokio::select! {
                // Reports are hints: without a consumer the ends are found in the database.
                1.. = self.reports.recv_many(&mut deliveries, FOLD_CHUNK) => {}
                () = tokio::time::sleep(DEADLINE_PULSE) => {}
                () = self.shutdown.cancelled() => {}
            }
            let before = running.ledger.counts().ended;
            if !deliveries.is_empty() {
                let span = fold_span(&deliveries);
                take_reports(running, deliveries).instrument(span).await;
            }
            if Instant::now() >= next_sync {
                next_sync = Instant::now() + SYNC_INTERVAL;
                self.sync(running).await;
                if !running.ledger.is_settled()
                    && self.all_breakers_are_open(running.batch.id).await
                {
                    return Settled::BreakerOpen;
                }
            }
            if running.stall.is_over(running.ledger.counts().ended > before)
                && (self.messages_seem_lost().await || running.stall.limit > LONG_STALL)
            {
                tracing::warn!(
                    open = running.ledger.open().len(),
                    "nothing ended for long, publishing again what is out"
                );
                running.ledger.mark_lost();
            }
            if Instant::now() >= next_drift || running.ledger.has_all_ends() {
                self.look_for_drift(running).await;
                next_drift = Instant::now() + DRIFT_INTERVAL;
            }
            running.progress.show(running.ledger.counts());
        }
    }

    /// Whether the messages of jobs seem lost: none waits for a worker, or a queue had to be made anew.
    ///
    /// A broker that crashes just after it made a queue may come back with one that answers nothing
    /// more, for good. All that is in a queue can be published again, so such a queue is deleted; but
    /// only if others answer, for else it is the broker that is slow.
    async fn messages_seem_lost(&self) -> bool {
        let (mut waiting, mut answers, mut broken) = (0, 0, Vec::new());
        for queue in Queue::ALL {
            match self.publisher.ready(queue).await {
                Ok(ready) => {
                    answers += 1;
                    let has_jobs = matches!(queue, Queue::UrgentJobs | Queue::NormalJobs);
                    waiting += if has_jobs { ready } else { 0 };
                }
                Err(error) => {
                    tracing::warn!(%error, ?queue, "a queue can't be asked for its length");
                    broken.push(queue);
                }
            }
        }
        if answers == 0 {
            return false;
        }
        for queue in &broken {
            tracing::error!(?queue, "a queue does not answer while others do, making it anew");
            if let Err(error) = self.publisher.delete(*queue).await {
                tracing::error!(%error, ?queue, "the queue can't be deleted");
            }
        }
        !broken.is_empty() || waiting == 0
    }

    /// Plans to read again the pages at which books moved that were just read to their end.
    async fn look_for_drift(&self, running: &mut Running) {
        let markets = running.ledger.unchecked();
        if markets.is_empty() {
            return;
        }
        let moved = drift::list_moved_pages(&self.store.pool, running.batch.id, &markets);
        match within(ANSWER_LIMIT, moved).await {
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
        let has_followed = [running.new.len(), running.again.len(), running.trimmed.len()];
        if has_followed != [0; 3] {
            within(ANSWER_LIMIT, self.write_follow_ups(running)).await?;
            running.new.clear();
            running.again.clear();
            running.trimmed.clear();
        }
        loop {
            let chunk = running.ledger.unpublished(PUBLISH_CHUNK);
            if chunk.is_empty() {
                return Ok(());
            }
            let messages: Vec<Message> = chunk
                .iter()
                .map(|job| message(&running.batch, job))
                .collect::<anyhow::Result<_>>()?;
            self.pulse.beat();
            self.publisher.publish(&messages).instrument(publish_span(messages.len())).await?;
            let ordinals: Vec<u32> = chunk.iter().map(|job| job.ordinal).collect();
            let marked = jobs::mark_published(self.store, running.batch.id, &ordinals);
            within(ANSWER_LIMIT, marked).await?;
            running.ledger.mark_published(&ordinals);
        }
    }

    async fn write_follow_ups(&self, running: &Running) -> anyhow::Result<()> {
        let mut tx = self.store.begin().await?;
        jobs::insert(&mut tx, &running.batch, &running.new).await?;
        let again = running.again.iter().map(|job| job.ordinal);
        let changed: Vec<u32> = again.chain(running.trimmed.iter().copied()).collect();
        lock_jobs(&mut tx, running.batch.id, &changed).await?;
        jobs::reissue(&mut tx, running.batch.id, &running.again).await?;
        jobs::trim(&mut tx, running.batch.id, &running.trimmed).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Whether an operator wants the batch to end.
    async fn is_cancelled(&self, batch: BatchId) -> bool {
        let cancelled = requests::is_cancelled(&self.store.pool, batch);
        let cancelled = within(ANSWER_LIMIT, cancelled).await;
        cancelled.unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "requests of operators can't be read");
            false
        })
    }

    /// Whether it is of no use to wait for the workers.
    async fn all_breakers_are_open(&self, batch: BatchId) -> bool {
        let open = workers::all_breakers_are_open(&self.store.pool, Exchange::Binance, batch);
        let open = within(ANSWER_LIMIT, open).await;
        open.unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "the breakers can't be looked at");
            false
        })
    }

    /// Finds ends whose report did not come.
    async fn sync(&self, running: &mut Running) {
        let open = running.ledger.open();
        let ended = jobs::list_ended(&self.store.pool, running.batch.id, &open);
        match within(ANSWER_LIMIT, ended).await {
            Ok(ended) => ended.iter().for_each(|end| running.fold(end)),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the ledger can't be read, trying again"
                );
            }
        }
    }

    /// Tells the figures of the batch that has just closed. No batch depends on it.
    async fn measure(&self) {
        let last = quality::last_batch(&self.store.pool, Exchange::Binance);
        match within(ANSWER_LIMIT, last).await {
            Ok(last) => metrics::closed(&last),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "the figures of the batch can't be read for the metrics"
            ),
        }
    }

    async fn close(&self, running: &Running, settled: Settled) -> anyhow::Result<Ended> {
        let open = running.ledger.open().len();
        let cut = match settled {
            Settled::BreakerOpen => {
                tracing::error!(open, "no egress can be used, the batch is cut short");
                Cut::BreakerOpen
            }
            Settled::Deadline => {
                tracing::warn!(open, "the batch is cut at its deadline");
                Cut::Deadline
            }
            Settled::Cancelled => {
                tracing::warn!(open, "the batch is cancelled by an operator");
                Cut::Cancelled
            }
            Settled::AllEnded | Settled::Stopped => Cut::Deadline,
        };
        let id = running.batch.id;
        let closed_by = &self.settings.coordinator_id;
        let thresholds = &self.settings.thresholds;
        let closed = close::close(self.store, id, closed_by, cut, thresholds);
        let closed = closed.instrument(tracing::info_span!("close"));
        self.pulse.beat();
        let closed = within(CLOSE_LIMIT, closed).await?;
        let Some(closed) = closed else {
            // The answer to our own commit was lost, or a former leader was faster.
            let found = within(ANSWER_LIMIT, batches::find(&self.store.pool, id)).await?;
            let Found::Closed(outcome) = found else { anyhow::bail!("batch {id} is not closed") };
            tracing::info!(outcome = outcome.as_str(), "the batch was closed before");
            return Ok(Ended::Closed(outcome));
        };
        self.measure().await;
        tell_quality(&closed.quality);
        self.tell_of_witness(&closed.witness);
        let steps_ms = closed.steps.to_string();
        let (outcome, reason, sums) = (closed.outcome, closed.reason, closed.sums);
        let why = reason.as_deref().unwrap_or_default();
        tracing::info!(outcome = outcome.as_str(), reason = why, ?sums, steps_ms, "batch closed");
        if sums.refused > REFUSED_ADS_BEFORE_ALERT {
            tracing::error!(ads = sums.refused, "many ads of the batch are in quarantine");
        }
        if sums.unreadable > UNREADABLE_BEFORE_ALERT {
            tracing::error!(
                answers = sums.unreadable,
                "many answers of the batch could not be read"
            );
        }
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
}

/// What is not good of a batch, a line each.
fn tell_quality(quality: &Quality) {
    for outcome in &quality.outcomes {
        let (check, verdict) = (outcome.check.as_str(), outcome.verdict.as_str());
        let value = outcome.value.map(|value| value.to_string());
        match outcome.verdict {
            quality::Verdict::Fail => {
                tracing::error!(check, value, "a quality check of the batch failed");
            }
            quality::Verdict::Warn => {
                tracing::warn!(check, value, "a quality check of the batch warns");
            }
            quality::Verdict::Pass | quality::Verdict::Unknown => {
                tracing::debug!(check, value, verdict, "checked");
            }
        }
    }
    if quality.books_held > 0 {
        tracing::error!(
            books = quality.books_held,
            "books are held back: their markets keep the last good state"
        );
    }
}

impl BatchRunner<'_> {
    /// Measures what came of the witness, and raises its voice where too much differs.
    fn tell_of_witness(&self, checks: &[MarketCheck]) {
        metrics::witnessed(checks);
        for one in checks {
            let MarketCheck { market, check, .. } = one;
            let (verdict, counts, skew_ms) = (check.verdict, check.counts, check.skew_ms);
            let share = witness_store::agreement(std::slice::from_ref(one)).unwrap_or_default();
            let agreement = share.round_dp(4).to_string();
            match verdict {
                Verdict::Agree => {
                    tracing::info!(%market, ?counts, skew_ms, "the witness agrees");
                }
                Verdict::Unknown(reason) => {
                    let reason = reason.as_str();
                    tracing::warn!(%market, reason, skew_ms, "the witness can't be compared");
                }
                Verdict::Disagree if share >= self.settings.witness_threshold => {
                    tracing::warn!(%market, agreement, ?counts, skew_ms, "the witness disagrees a little");
                }
                Verdict::Disagree => {
                    tracing::error!(%market, agreement, ?counts, skew_ms, "the witness disagrees");
                }
            }
        }
    }
}

/// Tells whoever listens that a batch is closed: at least once, for the leader goes on until the broker
/// took it and that is noted.
pub async fn announce(
    store: &Store,
    publisher: &Publisher,
    batch: BatchId,
    outcome: BatchOutcome,
) -> anyhow::Result<()> {
    let event = serde_json::json!({ "version": 1, "batch_id": batch, "outcome": outcome.as_str() });
    let event =
        Message::Event { routing_key: "batch.closed", body: event.to_string().into_bytes() };
    publisher.publish(&[event]).await?;
    within(ANSWER_LIMIT, batches::mark_announced(store, batch)).await
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
    /// Nothing had ended for so long before: under a former leader, perhaps.
    fn after(quiet_for: Duration) -> Self {
        let now = Instant::now();
        Self { since: now.checked_sub(quiet_for).unwrap_or(now), limit: FIRST_STALL }
    }

    /// Whether the time is over once more; twice as much is given then.
    fn is_over(&mut self, has_moved: bool) -> bool {
        if has_moved {
            *self = Self::after(Duration::ZERO);
        } else if self.since.elapsed() >= self.limit {
            *self = Self { since: Instant::now(), limit: self.limit * 2 };
            return true;
        }
        false
    }
}

fn message(batch: &OpenBatch, job: &LedgerJob) -> anyhow::Result<Message> {
    let queue = match &job.work {
        work if work.is_aside() => Queue::LowJobs,
        _ if job.urgent => Queue::UrgentJobs,
        _ => Queue::NormalJobs,
    };
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

/// Jobs on their way to the broker.
fn publish_span(messages: usize) -> Span {
    tracing::info_span!(
        "publish",
        otel.name = "send jobs",
        otel.kind = "producer",
        messaging.system = "rabbitmq",
        messaging.operation.type = "send",
        messaging.operation.name = "send",
        messaging.destination.name = "jobs",
        messaging.batch.message_count = messages,
    )
}

/// Reports that are folded, linked to where they were sent.
fn fold_span(deliveries: &[Delivery]) -> Span {
    let span = tracing::info_span!(
        "fold",
        otel.name = "process reports",
        otel.kind = "consumer",
        messaging.system = "rabbitmq",
        messaging.operation.type = "process",
        messaging.operation.name = "process",
        messaging.destination.name = "reports",
        messaging.batch.message_count = deliveries.len(),
    );
    for delivery in deliveries {
        delivery.link(&span);
    }
    span
}

/// Folds reports of this batch; others are of batches long closed.
async fn take_reports(running: &mut Running, deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        match serde_json::from_slice::<Report>(&delivery.body) {
            Ok(report)
                if report.version == MESSAGE_VERSION && report.batch_id == running.batch.id =>
            {
                for end in report.ends() {
                    running.fold(end);
                }
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
