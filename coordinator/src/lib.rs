//! The coordinator: decides what is read and when. It never calls an exchange.
//!
//! - [`schedule`]: which slots are due. Pure.
//! - [`requests`]: whether what operators ask for can be done now. Pure.
//! - [`planner`]: which pages a batch reads, within its budget. Pure.
//! - [`ledger`]: the open batch in memory, and what follows from the end of a job. Pure.
//! - [`batch`]: one batch from its opening, or from where it was left, to its close.
//! - [`witness`]: which markets are held against the exchange's other view, and how. Pure.
//! - [`archive`]: the raw archive: its budget and its dictionaries.
//! - [`leader`]: one coordinator acts at a time.
//! - [`quality`]: what is ordinary in a market and what a fall means. Pure.
//! - [`standing`]: whether it leads, for whoever asks.
//! - [`progress`]: the running batch on a terminal.
//! - [`metrics`]: what is measured.
//! - [`status`]: the status page.
//! - [`watch`]: what is looked at for metrics and readiness.
//! - [`store`]: the statements.

pub mod archive;
pub mod batch;
pub mod leader;
pub mod ledger;
pub mod metrics;
pub mod planner;
pub mod progress;
pub mod quality;
pub mod requests;
pub mod schedule;
pub mod settings;
pub mod standing;
pub mod status;
pub mod store;
pub mod watch;
pub mod witness;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use shared::domain::BatchId;
use shared::exchange::Exchange;
use shared::health::Pulse;
use shared::queue::{Consumer, Delivery, Publisher, Queue};
use shared::service;
use shared::store::{ANSWER_LIMIT, within};
use sqlx::{Connection, PgPool};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::archive::{Guard, Training};
use crate::batch::{BatchRunner, Ended};
use crate::leader::{Candidate, Leadership, Term};
use crate::requests::Decision;
use crate::schedule::{Clock, Schedule, SystemClock};
use crate::settings::Settings;
use crate::standing::Standing;
use crate::store::Store;
use crate::store::batches::{self, Found, OpenBatch, Trigger};
use crate::store::close::BatchOutcome;
use crate::store::retention;
use crate::watch::Watch;

/// The exchange that this coordinator reads.
const EXCHANGE: Exchange = Exchange::Binance;

/// What a process is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A batch at every slot, until told to stop.
    Schedule,
    /// One batch now.
    Once,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// Told to stop. An open batch stays open for the next leader.
    Stopped,
    /// [`Mode::Once`]: the batch closed.
    Closed(BatchOutcome),
    /// [`Mode::Once`]: another coordinator leads, and closes what this one opened.
    OtherLeads,
}

impl RunOutcome {
    fn exit_code(self, mode: Mode) -> ExitCode {
        ExitCode::from(match self {
            Self::Closed(BatchOutcome::Complete) => 0,
            Self::Closed(BatchOutcome::Partial) => 3,
            Self::Closed(BatchOutcome::Failed) => 4,
            // Told to stop, a schedule has done what it should; a single batch has not.
            Self::Stopped if mode == Mode::Schedule => 0,
            // EX_TEMPFAIL: try again later.
            Self::Stopped | Self::OtherLeads => 75,
        })
    }
}

/// Starts the coordinator; the exit codes are those of its command line's help.
pub async fn main(mode: Mode, progress: bool) -> ExitCode {
    let lead = |settings, shutdown| async move {
        let outcome = run(settings, mode, progress, Arc::new(SystemClock), shutdown).await?;
        Ok(outcome.exit_code(mode))
    };
    service::main("coordinator", Settings::read, |settings| &settings.telemetry, lead).await
}

/// Reports in hand at once; they are small and folded quickly.
const REPORT_PREFETCH: u16 = 500;

/// Leads, or stands by, and runs batches. Who lost the lead stands by again.
pub async fn run(
    settings: Settings,
    mode: Mode,
    progress: bool,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) -> anyhow::Result<RunOutcome> {
    let pool = shared::store::connect(&settings.database, "coordinator").await?;
    shared::store::check_schema(&pool).await?;
    metrics::describe();
    let _status_page = serve_status(&settings);
    let publisher = Publisher::new(&settings.broker, settings.topology.clone(), "coordinator");
    let health = settings.telemetry.health.clone();
    let standing = Standing::default();
    let interval = (mode == Mode::Schedule).then_some(settings.interval);
    metrics::settings(interval, settings.batch_deadline);
    watch::answer(&health, EXCHANGE, &pool, &publisher, &standing, interval);
    let watch = Watch {
        exchange: EXCHANGE,
        pool: pool.clone(),
        publisher: publisher.clone(),
        topology: settings.topology.clone(),
        management: settings.management.clone(),
        standing: standing.clone(),
        fiats: settings.fiats.clone(),
        pulse: health.watch("watch", watch::SILENCE_LIMIT),
    };
    let watching = shutdown.child_token();
    let _ends_with_this = watching.clone().drop_guard();
    tokio::spawn(watch.run(watching));
    let pulse = health.watch("leader", SILENCE_LIMIT);
    let mut coordinator = Coordinator {
        settings,
        mode,
        pool,
        publisher,
        clock,
        progress,
        shutdown,
        standing,
        pulse,
        own: None,
    };
    let mut has_led = false;
    loop {
        let Some(leadership) = coordinator.stand_by(has_led).await? else {
            let stopped = coordinator.shutdown.is_cancelled();
            return Ok(if stopped { RunOutcome::Stopped } else { RunOutcome::OtherLeads });
        };
        has_led = true;
        if let Some(outcome) = coordinator.lead(leadership.term()).await? {
            return Ok(outcome);
        }
        tracing::error!("another coordinator may lead now, standing by");
    }
}

/// Serves the status page until the guard is dropped, whether this coordinator leads or stands by.
fn serve_status(settings: &Settings) -> DropGuard {
    let shutdown = CancellationToken::new();
    if let Some(address) = settings.status_address {
        let Settings { database, broker, topology, status_access, .. } = settings.clone();
        let page =
            status::run(address, status_access, database, broker, topology, shutdown.clone());
        tokio::spawn(page);
    }
    shutdown.drop_guard()
}

/// Longest silence of the main loop: the close of a batch may take a minute, retention a third of one.
const SILENCE_LIMIT: Duration = Duration::from_mins(3);

/// Time between two looks at the clock. A clock that jumps is noticed within it.
const CLOCK_PULSE: Duration = Duration::from_millis(500);

/// Whether all open batches were run to their close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resumed {
    All,
    Stopped,
}

/// Pause before something is tried again that failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// How long [`Mode::Once`] goes on trying to close its batch after the deadline, and to lead again
/// after it lost the lead, while the database is away.
const ONCE_PATIENCE: Duration = Duration::from_mins(2);

/// Pause between two looks for what is old: days pass slowly.
const RETENTION_PAUSE: Duration = Duration::from_mins(10);
/// The same while there is more to do, or an old partition is still read.
const RETENTION_PAUSE_BUSY: Duration = Duration::from_secs(10);
/// Time in which a round begins something new.
const RETENTION_ROUND: Duration = Duration::from_secs(5);
/// Longest round: what was begun in time may take a few statements more, each bounded by the server.
const RETENTION_LIMIT: Duration = Duration::from_secs(20);

/// Time until the next slot without which no training begins: it takes a few seconds of one core.
const TRAINING_LIMIT: Duration = Duration::from_mins(1);
/// Pause after looking at pages that were too few: there are enough of them once a batch of the whole market is closed.
const TOO_FEW_PAUSE: Duration = Duration::from_secs(10);
/// Pause after a training that failed, or was not due, and after one that had its result.
const TRAINING_PAUSE: Duration = Duration::from_mins(10);
const TRAINED_PAUSE: Duration = Duration::from_hours(24);

struct Coordinator {
    settings: Settings,
    mode: Mode,
    pool: PgPool,
    publisher: Publisher,
    clock: Arc<dyn Clock>,
    progress: bool,
    shutdown: CancellationToken,
    standing: Standing,
    pulse: Pulse,
    /// [`Mode::Once`]: its batch, once it is open.
    own: Option<BatchId>,
}

impl Coordinator {
    /// Waits to lead; `None`: told to stop, or somebody else leads and there is no waiting.
    async fn stand_by(&self, has_led: bool) -> anyhow::Result<Option<Leadership>> {
        let Self { settings, mode, .. } = self;
        let interval = (*mode == Mode::Schedule).then_some(settings.interval);
        let (database, id) = (settings.database.clone(), settings.coordinator_id.clone());
        let mut candidate = Candidate::new(database, EXCHANGE, id, interval);
        let since = Instant::now();
        // Who stands by bears a database that is away for a while; who just starts tells it.
        let mut stands_by = has_led;
        loop {
            self.pulse.beat();
            let tried = candidate.try_lead().await;
            match &tried {
                Ok(Some(_)) => self.standing.leads(),
                Ok(None) => self.standing.stands_by(),
                Err(error) => self.standing.is_unknown(error),
            }
            match tried {
                Ok(Some(leadership)) => return Ok(Some(leadership)),
                Ok(None) if *mode == Mode::Once => {
                    tracing::error!("another coordinator leads");
                    return Ok(None);
                }
                Ok(None) if !stands_by => {
                    tracing::info!("another coordinator leads, standing by");
                    stands_by = true;
                }
                Ok(None) => {}
                Err(error) if !stands_by => return Err(error),
                Err(error) if *mode == Mode::Once && since.elapsed() > ONCE_PATIENCE => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the leader's lock can't be asked for"
                    );
                }
            }
            tokio::select! {
                () = tokio::time::sleep(leader::PULSE) => {}
                () = self.shutdown.cancelled() => return Ok(None),
            }
        }
    }

    /// Leads until there is an outcome; `None`: the lead was lost.
    async fn lead(&mut self, term: &Term) -> anyhow::Result<Option<RunOutcome>> {
        tracing::info!(epoch = term.epoch, "leading");
        let (consumer, [mut reports]) = Consumer::start(
            &self.settings.broker,
            &self.settings.topology,
            "coordinator",
            [Queue::Reports],
            REPORT_PREFETCH,
        );
        let lost = term.lost.clone();
        let store = Store::new(self.pool.clone(), term.clone());
        let guard = Guard::new(store.clone(), EXCHANGE, self.settings.retention.raw_bytes);
        let archive = guard.clone();
        let mut leader = Leader { coordinator: self, store, archive, reports: &mut reports };
        let outcome = tokio::select! {
            outcome = Box::pin(leader.run()) => Some(outcome),
            () = lost.cancelled() => None,
            never = Box::pin(guard.run()) => match never {},
        };
        consumer.close().await;
        // An error of one who was replaced is most likely because of that.
        outcome.filter(|_| !lost.is_cancelled()).transpose()
    }
}

/// Training beside the schedule, which never waits for it.
struct IdleTraining {
    running: Option<tokio::task::JoinHandle<Duration>>,
    next: Instant,
}

impl Default for IdleTraining {
    fn default() -> Self {
        Self { running: None, next: Instant::now() }
    }
}

impl IdleTraining {
    /// Begins a training if one is due and none runs.
    async fn look(&mut self, pool: &PgPool) {
        if let Some(ended) = self.running.take_if(|running| running.is_finished()) {
            self.next = Instant::now() + ended.await.unwrap_or(TRAINED_PAUSE);
        }
        if self.running.is_none() && Instant::now() >= self.next {
            self.running = Some(tokio::spawn(train_if_due(pool.clone())));
        }
    }
}

/// Trains a dictionary if it is time; says after which pause to look again.
async fn train_if_due(pool: PgPool) -> Duration {
    let trained = async {
        if within(ANSWER_LIMIT, archive::is_due(&pool, EXCHANGE)).await? {
            archive::train(&pool, EXCHANGE).await.map(Some)
        } else {
            Ok(None)
        }
    };
    match trained.await {
        Ok(Some(Training::TooFew(_))) => TOO_FEW_PAUSE,
        Ok(None) => TRAINING_PAUSE,
        Ok(Some(Training::NoBetter(_))) => TRAINED_PAUSE,
        Ok(Some(Training::Kept(dictionary, measured))) => {
            tracing::info!(dictionary, ?measured, "a dictionary of the raw archive was trained");
            TRAINED_PAUSE
        }
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "no dictionary could be trained");
            TRAINING_PAUSE
        }
    }
}

/// A coordinator while it leads.
struct Leader<'a> {
    coordinator: &'a mut Coordinator,
    store: Store,
    archive: Guard,
    reports: &'a mut mpsc::Receiver<Delivery>,
}

impl Leader<'_> {
    async fn run(&mut self) -> anyhow::Result<RunOutcome> {
        let last =
            within(ANSWER_LIMIT, store::quality::last_batch(&self.store.pool, EXCHANGE)).await;
        match last {
            Ok(last) => metrics::show(&last),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "the figures of the last batch can't be read: they are told again when a batch closes"
            ),
        }
        match self.coordinator.mode {
            Mode::Once => self.run_once().await,
            Mode::Schedule => self.run_schedule().await,
        }
    }

    /// Opens a batch, if that was not done before, and runs it to its close. What fails, for want of
    /// the database mostly, is done again from what is recorded.
    async fn run_once(&mut self) -> anyhow::Result<RunOutcome> {
        let began = self.coordinator.clock.now();
        loop {
            self.coordinator.pulse.beat();
            let error = match self.try_once().await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let deadline = began + TimeDelta::from_std(self.coordinator.settings.batch_deadline)?;
            if self.coordinator.clock.now() > deadline + ONCE_PATIENCE {
                return Err(error);
            }
            tracing::error!(
                error = format!("{error:#}"),
                "the batch stumbled, going on from what is recorded"
            );
            tokio::select! {
                () = tokio::time::sleep(FAILURE_PAUSE) => {}
                () = self.coordinator.shutdown.cancelled() => return Ok(RunOutcome::Stopped),
            }
        }
    }

    async fn try_once(&mut self) -> anyhow::Result<RunOutcome> {
        let id = if let Some(id) = self.coordinator.own {
            id
        } else {
            if self.resume(None).await? == Resumed::Stopped {
                return Ok(RunOutcome::Stopped);
            }
            let now = self.coordinator.clock.now();
            let id = self.open(Trigger::Once, now).await?.id;
            self.coordinator.own = Some(id);
            id
        };
        let ended = match within(ANSWER_LIMIT, batches::find(&self.store.pool, id)).await? {
            // Under an earlier lead: another closed it.
            Found::Closed(outcome) => Ended::Closed(outcome),
            Found::Open(batch) => self.run_batch(batch).await?,
        };
        Ok(match ended {
            Ended::Stopped => RunOutcome::Stopped,
            Ended::Closed(outcome) => {
                Box::pin(self.tidy_archive()).await;
                RunOutcome::Closed(outcome)
            }
        })
    }

    /// Runs every slot until told to stop. What fails is done again from what is recorded.
    async fn run_schedule(&mut self) -> anyhow::Result<RunOutcome> {
        let settings = &self.coordinator.settings;
        // A slot that is found when its batch would be over is late, whatever the grace.
        let grace = settings.misfire_grace.min(settings.batch_deadline);
        let schedule = Schedule::new(settings.interval, grace);
        let shutdown = self.coordinator.shutdown.clone();
        let mut is_resumed = false;
        let mut next_retention = Instant::now();
        let mut training = IdleTraining::default();
        while !shutdown.is_cancelled() {
            self.coordinator.pulse.beat();
            let step = if is_resumed {
                self.run_due(&schedule).await
            } else {
                self.resume(Some(&schedule)).await.map(drop)
            };
            is_resumed = step.is_ok();
            if let Err(error) = step {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the schedule stumbled, going on from what is recorded"
                );
            }
            if self.archive.wants_room() {
                next_retention = next_retention.min(Instant::now() + RETENTION_PAUSE_BUSY);
            }
            if is_resumed && Instant::now() >= next_retention && self.is_idle(&schedule) {
                next_retention = Instant::now() + self.drop_what_is_old().await;
            }
            if is_resumed && self.left(&schedule) > TRAINING_LIMIT {
                training.look(&self.store.pool).await;
            }
            tokio::select! {
                () = tokio::time::sleep(CLOCK_PULSE) => {}
                () = shutdown.cancelled() => {}
            }
        }
        Ok(RunOutcome::Stopped)
    }

    /// Whether no slot comes due while a round of retention runs.
    fn is_idle(&self, schedule: &Schedule) -> bool {
        self.left(schedule) > RETENTION_LIMIT
    }

    /// Time until the next slot.
    fn left(&self, schedule: &Schedule) -> Duration {
        let now = self.coordinator.clock.now();
        (schedule.next(schedule.slot(now)) - now).to_std().unwrap_or_default()
    }

    /// What a schedule does in its idle time, for one who runs single batches: room and a dictionary for
    /// the next. The batch is closed, so nothing of it can fail any more.
    async fn tidy_archive(&self) {
        if self.archive.wants_room() {
            self.drop_what_is_old().await;
        }
        tokio::select! {
            trained = tokio::time::timeout(TRAINING_LIMIT, train_if_due(self.store.pool.clone())) => {
                if trained.is_err() {
                    tracing::warn!(limit = ?TRAINING_LIMIT, "no dictionary was trained in time");
                }
            }
            () = self.coordinator.shutdown.cancelled() => {}
        }
    }

    /// One round of retention; says after which pause the next is due. What fails is tried again then:
    /// no batch depends on it.
    async fn drop_what_is_old(&self) -> Duration {
        let settings = &self.coordinator.settings;
        let today = self.coordinator.clock.now().date_naive();
        let round = async {
            let mut owner = retention::connect(&settings.owner).await?;
            let until = Instant::now() + RETENTION_ROUND;
            let round = retention::round(&mut owner, &settings.retention, today, until).await;
            owner.close().await?;
            round
        };
        let round = tokio::select! {
            round = within(RETENTION_LIMIT, round) => round,
            () = self.coordinator.shutdown.cancelled() => return RETENTION_PAUSE,
        };
        match round {
            Ok(round) => {
                for partition in &round.dropped {
                    tracing::info!(%partition, "a partition was dropped");
                }
                if let Some(partition) = &round.waits_for {
                    tracing::warn!(%partition, "an old partition is still read, dropping it later");
                }
                for index in &round.rebuilt {
                    tracing::info!(%index, "an index of a day that is over was built anew");
                }
                for (index, error) in &round.not_rebuilt {
                    tracing::warn!(%index, error, "an index could not be built anew, trying later");
                }
                let deleted = round.quarantine_deleted + round.latest_forgotten;
                if deleted + round.dictionaries_deleted > 0 {
                    tracing::info!(
                        dictionaries = round.dictionaries_deleted,
                        quarantine = round.quarantine_deleted,
                        latest_books = round.latest_forgotten,
                        "old rows were deleted"
                    );
                }
                if round.has_more { RETENTION_PAUSE_BUSY } else { RETENTION_PAUSE }
            }
            Err(error) if retention::is_not_owner(&error) => {
                tracing::error!(
                    %error,
                    "nothing is dropped by age: OWNER_DATABASE_URL must name the owner of the tables"
                );
                RETENTION_PAUSE
            }
            Err(error) => {
                tracing::warn!(%error, "what is old could not be dropped, trying later");
                RETENTION_PAUSE
            }
        }
    }

    /// Runs what a former leader, or a former try, left open: one batch at a time, and none into the
    /// next slot of the schedule.
    async fn resume(&mut self, schedule: Option<&Schedule>) -> anyhow::Result<Resumed> {
        let open = batches::list_open(&self.store.pool, EXCHANGE);
        for mut open in within(ANSWER_LIMIT, open).await? {
            tracing::info!(batch = %open.id, slot = %open.slot_at, "resuming an open batch");
            if let Some(schedule) = schedule {
                let next_slot = schedule.next(schedule.slot(self.coordinator.clock.now()));
                open.deadline_at = open.deadline_at.min(next_slot);
            }
            if self.run_batch(open).await? == Ended::Stopped {
                return Ok(Resumed::Stopped);
            }
        }
        self.announce_all().await?;
        Ok(Resumed::All)
    }

    async fn run_due(&mut self, schedule: &Schedule) -> anyhow::Result<()> {
        let now = self.coordinator.clock.now();
        let recorded = batches::recorded(&self.store.pool, EXCHANGE, schedule.slot(now));
        let recorded = within(ANSWER_LIMIT, recorded).await?;
        let due = schedule.due(now, recorded);
        if let Some((slot, reason)) = due.skipped.last() {
            tracing::warn!(slots = due.skipped.len(), last = %slot, reason = reason.as_str(), "slots skipped");
            let record = batches::record_skipped(&self.store, EXCHANGE, &due.skipped);
            within(ANSWER_LIMIT, record).await?;
        }
        let open = match due.run {
            Some(slot) => Some(self.open(Trigger::Slot, slot).await?),
            None => self.open_asked(schedule.next(schedule.slot(now)), now).await?,
        };
        if let Some(open) = open
            && self.run_batch(open).await? != Ended::Stopped
        {
            self.announce_all().await?;
        }
        Ok(())
    }

    /// Opens the batch that an operator asked for, or answers why not.
    async fn open_asked(
        &self,
        next_slot: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> anyhow::Result<Option<OpenBatch>> {
        let (pool, settings) = (&self.store.pool, &self.coordinator.settings);
        let asked = store::requests::next_rerun(pool, EXCHANGE);
        let Some(asked) = within(ANSWER_LIMIT, asked).await? else {
            return Ok(None);
        };
        let mut decision = requests::decide(now, asked.waited, next_slot, settings.batch_deadline);
        if let Some(batch) = asked.lost_of {
            let lost = store::requests::lost_markets(pool, batch);
            if within(ANSWER_LIMIT, lost).await?.is_empty() {
                let why = format!("batch {batch} lost no market that is still listed");
                decision = Decision::Refuse(why);
            }
        }
        match decision {
            Decision::Run { deadline_at } => {
                self.open_until(Trigger::Request(asked.id), now, deadline_at).await.map(Some)
            }
            Decision::Refuse(why) => {
                tracing::warn!(request = asked.id, why, "a batch was asked for and is refused");
                let id = &settings.coordinator_id;
                let refused = store::requests::refuse(&self.store, asked.id, &why, id);
                within(ANSWER_LIMIT, refused).await?;
                Ok(None)
            }
        }
    }

    async fn open(&self, trigger: Trigger, slot: DateTime<Utc>) -> anyhow::Result<OpenBatch> {
        let deadline = slot + TimeDelta::from_std(self.coordinator.settings.batch_deadline)?;
        self.open_until(trigger, slot, deadline).await
    }

    async fn open_until(
        &self,
        trigger: Trigger,
        slot: DateTime<Utc>,
        deadline: DateTime<Utc>,
    ) -> anyhow::Result<OpenBatch> {
        let settings = &self.coordinator.settings;
        let id = &settings.coordinator_id;
        let open = batches::open(&self.store, EXCHANGE, trigger, slot, deadline, id);
        let open = within(ANSWER_LIMIT, open).await?;
        tracing::info!(batch = %open.id, %slot, %deadline, "batch opened");
        Ok(open)
    }

    async fn run_batch(&mut self, open: OpenBatch) -> anyhow::Result<Ended> {
        let Coordinator { settings, publisher, clock, progress, shutdown, pulse, .. } =
            &*self.coordinator;
        let id = open.id;
        let runner = BatchRunner {
            settings,
            store: &self.store,
            publisher,
            clock: &**clock,
            reports: self.reports,
            pulse,
            shutdown,
        };
        let ended = runner.run(open, *progress).await?;
        if let Ended::Closed(outcome) = ended {
            self.announce(id, outcome).await;
        }
        Ok(ended)
    }

    /// Tells of batches whose event a dead leader, or a broker that was away, did not take.
    async fn announce_all(&self) -> anyhow::Result<()> {
        let unannounced = batches::list_unannounced(&self.store.pool, EXCHANGE);
        for (batch, outcome) in within(ANSWER_LIMIT, unannounced).await? {
            if !self.announce(batch, outcome).await {
                break;
            }
        }
        Ok(())
    }

    /// An event that can't be published now is published later; the database tells the same.
    async fn announce(&self, batch: BatchId, outcome: BatchOutcome) -> bool {
        let publisher = &self.coordinator.publisher;
        let announced = batch::announce(&self.store, publisher, batch, outcome).await;
        if let Err(error) = &announced {
            tracing::warn!(
                error = format!("{error:#}"),
                %batch,
                "the close of a batch could not be announced yet"
            );
        }
        announced.is_ok()
    }
}
