//! The coordinator: decides what is read and when. It never calls an exchange.
//!
//! - [`schedule`]: which slots are due. Pure.
//! - [`planner`]: which pages a batch reads, within its budget. Pure.
//! - [`ledger`]: the open batch in memory, and what follows from the end of a job. Pure.
//! - [`batch`]: one batch from its opening, or from where it was left, to its close.
//! - [`leader`]: one coordinator acts at a time.
//! - [`progress`]: the running batch on a terminal.
//! - [`store`]: the statements.

pub mod batch;
pub mod leader;
pub mod ledger;
pub mod planner;
pub mod progress;
pub mod schedule;
pub mod settings;
pub mod store;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use shared::exchange::Exchange;
use shared::queue::{Consumer, Delivery, Publisher, Queue};
use shared::service;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::batch::{BatchRunner, Ended};
use crate::leader::Leadership;
use crate::schedule::{Clock, Schedule, SystemClock};
use crate::settings::Settings;
use crate::store::batches::{self, Trigger};
use crate::store::close::BatchOutcome;

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
    /// [`Mode::Once`]: another coordinator leads.
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

/// Leads, or stands by, and runs batches.
pub async fn run(
    settings: Settings,
    mode: Mode,
    progress: bool,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) -> anyhow::Result<RunOutcome> {
    let pool = shared::store::connect(&settings.database, "coordinator").await?;
    shared::store::check_schema(&pool).await?;
    let Some(leadership) = lead(&settings, mode, &shutdown).await? else {
        let stopped = shutdown.is_cancelled();
        return Ok(if stopped { RunOutcome::Stopped } else { RunOutcome::OtherLeads });
    };
    tracing::info!("leading");
    let publisher = Publisher::new(&settings.broker, settings.topology.clone(), "coordinator");
    let (consumer, [reports]) = Consumer::start(
        &settings.broker,
        &settings.topology,
        "coordinator",
        [Queue::Reports],
        REPORT_PREFETCH,
    );
    let mut leader =
        Leader { settings, pool, publisher, clock, reports, progress, shutdown: shutdown.clone() };
    let outcome = tokio::select! {
        outcome = leader.run(mode) => outcome,
        () = leadership.lost().cancelled() => Err(anyhow::anyhow!("another coordinator may lead now")),
    };
    consumer.close().await;
    outcome
}

/// Waits to lead; `None`: told to stop, or somebody else leads and there is no waiting.
async fn lead(
    settings: &Settings,
    mode: Mode,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Leadership>> {
    let mut stands_by = false;
    loop {
        match Leadership::try_acquire(&settings.database, Exchange::Binance).await {
            Ok(Some(leadership)) => return Ok(Some(leadership)),
            Ok(None) => {}
            // Who stands by bears a database that is away for a while.
            Err(error) if stands_by => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the leader's lock can't be asked for"
                );
            }
            Err(error) => return Err(error),
        }
        if mode == Mode::Once {
            tracing::error!("another coordinator leads");
            return Ok(None);
        }
        if !stands_by {
            tracing::info!("another coordinator leads, standing by");
            stands_by = true;
        }
        tokio::select! {
            () = tokio::time::sleep(leader::PULSE) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}

/// Time between two looks at the clock. A clock that jumps is noticed within it.
const CLOCK_PULSE: Duration = Duration::from_millis(500);

/// Whether all open batches were run to their close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resumed {
    All,
    Stopped,
}

struct Leader {
    settings: Settings,
    pool: PgPool,
    publisher: Publisher,
    clock: Arc<dyn Clock>,
    reports: mpsc::Receiver<Delivery>,
    progress: bool,
    shutdown: CancellationToken,
}

impl Leader {
    async fn run(&mut self, mode: Mode) -> anyhow::Result<RunOutcome> {
        match mode {
            Mode::Once => self.run_once().await,
            Mode::Schedule => self.run_schedule().await,
        }
    }

    async fn run_once(&mut self) -> anyhow::Result<RunOutcome> {
        if self.resume().await? == Resumed::Stopped {
            return Ok(RunOutcome::Stopped);
        }
        let now = self.clock.now();
        Ok(match self.open_and_run(Trigger::Once, now).await? {
            Ended::Stopped => RunOutcome::Stopped,
            Ended::Closed(outcome) => RunOutcome::Closed(outcome),
        })
    }

    /// Runs every slot until told to stop. What fails, for want of the database mostly, is done again
    /// from what is recorded.
    async fn run_schedule(&mut self) -> anyhow::Result<RunOutcome> {
        let schedule = Schedule::new(self.settings.interval, self.settings.misfire_grace);
        let mut is_resumed = false;
        while !self.shutdown.is_cancelled() {
            let step = if is_resumed {
                self.run_due(&schedule).await.map(|()| true)
            } else {
                self.resume().await.map(|_| true)
            };
            is_resumed = step.unwrap_or_else(|error| {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the schedule stumbled, going on from what is recorded"
                );
                false
            });
            tokio::select! {
                () = tokio::time::sleep(CLOCK_PULSE) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
        Ok(RunOutcome::Stopped)
    }

    /// Runs what a former leader, or a former try, left open: one batch at a time.
    async fn resume(&mut self) -> anyhow::Result<Resumed> {
        for open in batches::list_open(&self.pool, Exchange::Binance).await? {
            tracing::info!(batch = %open.id, slot = %open.slot_at, "resuming an open batch");
            if self.run_batch(open).await? == Ended::Stopped {
                return Ok(Resumed::Stopped);
            }
        }
        Ok(Resumed::All)
    }

    async fn run_due(&mut self, schedule: &Schedule) -> anyhow::Result<()> {
        let last = batches::last_slot(&self.pool, Exchange::Binance).await?;
        let due = schedule.due(self.clock.now(), last);
        if let Some((slot, reason)) = due.skipped.last() {
            tracing::warn!(slots = due.skipped.len(), last = %slot, reason = reason.as_str(), "slots skipped");
            batches::record_skipped(&self.pool, Exchange::Binance, &due.skipped).await?;
        }
        if let Some(slot) = due.run {
            self.open_and_run(Trigger::Slot, slot).await?;
        }
        Ok(())
    }

    async fn open_and_run(
        &mut self,
        trigger: Trigger,
        slot: chrono::DateTime<chrono::Utc>,
    ) -> anyhow::Result<Ended> {
        let deadline = slot + TimeDelta::from_std(self.settings.batch_deadline)?;
        let id = &self.settings.coordinator_id;
        let open =
            batches::open(&self.pool, Exchange::Binance, trigger, slot, deadline, id).await?;
        tracing::info!(batch = %open.id, %slot, %deadline, "batch opened");
        self.run_batch(open).await
    }

    async fn run_batch(&mut self, open: batches::OpenBatch) -> anyhow::Result<Ended> {
        BatchRunner {
            settings: &self.settings,
            pool: &self.pool,
            publisher: &self.publisher,
            clock: &*self.clock,
            reports: &mut self.reports,
            shutdown: &self.shutdown,
        }
        .run(open, self.progress)
        .await
    }
}
