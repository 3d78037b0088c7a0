//! One line: a batch, a fault at a step of it, the end of the batch, another batch, the judgement.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rustix::process::Signal;
use serde_json::Value;

use super::arena::{Arena, Deadline, Member};
use super::disk::Disk;
use super::judge::{Judgement, judge};
use super::lines::{Fault, Line, Role, Tamper, exchange_options};
use super::link::Hit;
use super::stack::Stack;
use super::wire::Server;
use crate::fleet::Servers;

/// A small market that moves while it is read: about 250 requests, 6 seconds. It is three times as
/// lively as a real one; more, and an ad is too often swapped for another at a constant total, which
/// no certificate sees.
const MARKET: &str =
    "--fiats 4 --ads 1500 --churn-per-minute 10 --change-per-minute 200 --latency-ms 5";
/// For a step to come. The latest is the end of a batch, 6 s after its begin.
const STEP_PATIENCE: Duration = Duration::from_mins(1);
/// For a disturbed batch to close. Its deadline is at 180 s, so it closes in time if at all.
const CLOSE_PATIENCE: Duration = Duration::from_secs(200);
/// For a batch to close while a process of it is stopped: what the process held unacknowledged
/// comes again after 30 s at the latest.
const WITHOUT_PATIENCE: Duration = Duration::from_mins(1);
/// For other conditions.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long servers and links are away. The shortest is past the leader's patience of 3 s.
const AWAY_MS: std::ops::Range<u64> = 3_500..7_000;
/// What a message takes over a slow link.
const SLOW: Duration = Duration::from_millis(30);
/// Messages that are tampered with at most.
const TAMPERED: usize = 30;
/// Messages that must wait in a queue before it is worth tampering with.
const WORTH_TAMPERING: u32 = 5;

/// What a coordinator logs when it begins to lead.
const LEADING: &str = "\"leading\"";

/// Exit code of a coordinator whose one batch was partial.
const PARTIAL: i32 = 3;
/// Exit code of one that another replaced.
const REPLACED: i32 = 75;

const PLANNED: &str = "SELECT count(*) FROM pipeline.batches WHERE planned_at IS NOT NULL";
const OPENED: &str = "SELECT count(*) FROM pipeline.batches";
const UNPUBLISHED: &str = "SELECT count(*) FROM pipeline.jobs WHERE state = 'planned'";

/// What all lines share.
pub(super) struct Setting {
    pub(super) servers: Servers,
    pub(super) stack: Stack,
}

/// How many processes a line has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) workers: usize,
    pub(super) standbys: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Held,
    Failed(Vec<String>),
    NotRun(&'static str),
}

/// What came of a line.
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    pub(super) judgement: Judgement,
    /// From the fault to the close of the batch.
    pub(super) recovery: Option<Duration>,
    pub(super) worker_kib: u64,
    pub(super) coordinator_kib: u64,
}

impl Outcome {
    fn without(verdict: Verdict) -> Self {
        let judgement = Judgement::default();
        Self { verdict, judgement, recovery: None, worker_kib: 0, coordinator_kib: 0 }
    }
}

/// Runs a line in a directory of its own.
pub(super) async fn run(
    setting: &Setting,
    line: &Line,
    size: Size,
    random: Xoshiro256PlusPlus,
    directory: &Path,
) -> Outcome {
    if let Some(server) = line.needs_control_of()
        && !setting.stack.controls(server).await
    {
        return Outcome::without(Verdict::NotRun("the server is not one of dev/stack"));
    }
    match try_run(setting, line, size, random, directory).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::without(Verdict::Failed(vec![format!("{error:#}")])),
    }
}

async fn try_run(
    setting: &Setting,
    line: &Line,
    size: Size,
    random: Xoshiro256PlusPlus,
    directory: &Path,
) -> Result<Outcome> {
    let mut disk = None;
    if line.fault == Fault::DiskFull {
        let name = format!("chaos_{}", std::process::id());
        let Some(mounted) = Disk::mount(&setting.servers.database_url, &name).await? else {
            return Ok(Outcome::without(Verdict::NotRun("needs root to mount")));
        };
        disk = Some(mounted);
    }
    let tablespace = disk.as_ref().map(|disk| disk.tablespace.as_str());
    let market = match line.fault {
        Fault::Exchange(kind) => format!("{MARKET} {}", exchange_options(kind)),
        _ => MARKET.to_owned(),
    };
    let arena = Arena::start(&setting.servers, directory, tablespace, &market).await?;
    let mut play =
        Play { setting, line, size, random, arena, disk, broken: Vec::new(), dead: Vec::new() };
    let outcome = play.play().await;
    let Play { arena, disk, .. } = play;
    let removed = arena.remove().await;
    if let Some(disk) = disk {
        disk.remove(&setting.servers.database_url).await?;
    }
    let outcome = outcome?;
    removed?;
    Ok(outcome)
}

/// A line at work.
struct Play<'a> {
    setting: &'a Setting,
    line: &'a Line,
    size: Size,
    random: Xoshiro256PlusPlus,
    arena: Arena,
    disk: Option<Disk>,
    /// What did not hold before the judgement.
    broken: Vec<String>,
    /// Messages that never get further.
    dead: Vec<Hit>,
}

impl Play<'_> {
    async fn play(&mut self) -> Result<Outcome> {
        let recovery = self.disturbed_batch().await.context("the disturbed batch")?;
        self.next_batch().await.context("the batch after it")?;
        if matches!(self.line.fault, Fault::Exchange(..)) {
            let requests = self.arena.fleet.requests()?;
            let is_hit = requests.iter().any(|request| request["fault"].is_string());
            ensure!(is_hit, "not hit: no answer was faulty");
        }
        let mut judgement = judge(&self.arena, &self.line.allowed(self.size.workers)).await?;
        self.broken.append(&mut judgement.violations);
        let broken = std::mem::take(&mut self.broken);
        Ok(Outcome {
            verdict: if broken.is_empty() { Verdict::Held } else { Verdict::Failed(broken) },
            judgement,
            recovery: Some(recovery),
            worker_kib: self.arena.peak_kib(Role::Worker),
            coordinator_kib: self.arena.peak_kib(Role::Coordinator),
        })
    }

    /// From the start of the processes to the close of the batch; gives the time from the fault on.
    async fn disturbed_batch(&mut self) -> Result<Duration> {
        let step = self.line.step;
        let random = &mut self.random;
        let trigger = step.map(|step| step.trigger(|range| random.random_range(range)));
        let arm = |role| step.zip(trigger).filter(|(step, _)| step.role == role);
        let mut hit = None;
        for number in 0..self.size.workers {
            let arm = arm(Role::Worker).filter(|_| number == 0);
            hit = self.arena.add(Role::Worker, false, arm).await?.or(hit);
        }
        let leader = self.arena.members.len();
        let is_leaders = step.is_some_and(|step| step.role == Role::Coordinator);
        let victim = if is_leaders { leader } else { 0 };
        hit = self.arena.add(Role::Coordinator, true, arm(Role::Coordinator)).await?.or(hit);
        self.arena.wait_for(OPENED, 1, PATIENCE).await?;
        for _ in 0..self.size.standbys {
            self.arena.add(Role::Coordinator, false, None).await?;
        }
        let hit = match hit {
            Some(hit) => Some(self.arena.wait_hit(hit, leader, STEP_PATIENCE).await?),
            None => None,
        };
        let since = Instant::now();
        if let Some(hit) = hit {
            self.inject(victim, hit).await.with_context(|| self.line.fault.to_string())?;
        }
        self.arena.wait_closed(1, CLOSE_PATIENCE).await?;
        let recovery = since.elapsed();
        Ok(recovery)
    }

    /// A batch without a fault, by a coordinator that was not there before.
    async fn next_batch(&mut self) -> Result<()> {
        for link in self.arena.members.iter().flat_map(Member::links) {
            link.heal();
        }
        let outcome = self.line.allowed(self.size.workers).outcome;
        let outcome = if outcome == "partial" { PARTIAL } else { 0 };
        // Without its database the leader may have been replaced.
        self.arena.end(Role::Coordinator, &[0, outcome, REPLACED]).await?;
        while self.arena.running(Role::Worker) < self.size.workers {
            self.arena.add(Role::Worker, false, None).await?;
        }
        self.arena.add(Role::Coordinator, true, None).await?;
        let last = self.arena.members.len() - 1;
        let code = self.arena.members[last].end().await?;
        if code != 0 {
            self.broken.push(format!("next-batch: the coordinator ended with {code}"));
        }
        let deadline = Deadline::new("the queues of jobs are empty", PATIENCE);
        for queue in ["jobs.urgent", "jobs.normal"] {
            while self.arena.broker.depth(queue).await? > 0 {
                deadline.pulse().await?;
            }
        }
        self.arena.end(Role::Worker, &[0]).await
    }

    fn away(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(AWAY_MS))
    }

    /// Does the fault. The message at which the step was hit is held meanwhile.
    async fn inject(&mut self, victim: usize, hit: Hit) -> Result<()> {
        let away = self.away();
        let stack = &self.setting.stack;
        match self.line.fault {
            Fault::None | Fault::Exchange(..) => hit.let_go(),
            Fault::Kill => {
                self.arena.members[victim].kill().await?;
                drop(hit);
            }
            Fault::Pause => {
                let member = &self.arena.members[victim];
                member.signal(Signal::STOP)?;
                tokio::time::sleep(away).await;
                member.signal(Signal::CONT)?;
                hit.let_go();
            }
            Fault::Stop => self.stop(victim, hit).await?,
            Fault::Restart(server) => {
                stack.order("restart", server).await?;
                hit.let_go();
            }
            Fault::Crash(server) => {
                stack.order("kill", server).await?;
                tokio::time::sleep(away).await;
                stack.order("start", server).await?;
                hit.let_go();
            }
            Fault::EndSessions => {
                sqlx::query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid()",
                )
                .execute(&self.arena.fleet.pool)
                .await?;
                hit.let_go();
            }
            Fault::FlushRedis => {
                self.flush_redis().await?;
                hit.let_go();
            }
            Fault::PurgeQueues => {
                let mut purged = 0;
                for queue in ["jobs.urgent", "jobs.normal", "reports"] {
                    purged += self.arena.broker.purge(queue).await?;
                }
                ensure!(purged > 0, "not hit: the queues were empty");
                hit.let_go();
            }
            Fault::DeleteQueues => {
                for queue in ["jobs.urgent", "jobs.normal", "reports"] {
                    self.arena.broker.delete(queue).await?;
                }
                hit.let_go();
            }
            Fault::Cut(server) | Fault::Silence(server) | Fault::Slow(server) => {
                let link = self.arena.members[victim].link(server)?;
                match self.line.fault {
                    Fault::Cut(_) => link.cut(),
                    Fault::Silence(_) => link.silence(),
                    _ => link.slow(SLOW),
                }
                hit.let_go();
                if !matches!(self.line.fault, Fault::Slow(_)) {
                    tokio::time::sleep(away).await;
                    link.heal();
                }
            }
            Fault::DeadConnection => self.dead.push(hit),
            Fault::DiskFull => self.fill_disk(hit, away).await?,
            Fault::Jobs(tamper) => {
                self.tamper("jobs.normal", Role::Worker, tamper, hit, away).await?;
            }
            Fault::Reports(tamper) => {
                self.tamper("reports", Role::Coordinator, tamper, hit, away).await?;
            }
        }
        Ok(())
    }

    /// Stops a process; the batch must close without it. Then it goes on, with all that it had on the
    /// way, and that must change nothing.
    async fn stop(&mut self, victim: usize, hit: Hit) -> Result<()> {
        self.arena.members[victim].signal(Signal::STOP)?;
        let is_leader = self.arena.members[victim].role == Role::Coordinator;
        if is_leader {
            self.arena.members[victim].leave();
        }
        if let Err(error) = self.goes_on_without(is_leader).await {
            self.broken.push(format!("without-it: {error:#}"));
        }
        let was_replaced = self.broken.is_empty();
        let member = &mut self.arena.members[victim];
        member.signal(Signal::CONT)?;
        hit.let_go();
        if is_leader {
            let code = member.end().await.context("the leader that was stopped")?;
            let allowed = self.line.allowed(self.size.workers).late_leader;
            if was_replaced && !allowed.contains(&code) {
                self.broken.push(format!("late-leader: ended with {code}, allowed {allowed:?}"));
            }
        }
        Ok(())
    }

    /// The batch closes, and if the leader is stopped another one leads.
    async fn goes_on_without(&mut self, is_leader: bool) -> Result<()> {
        self.arena.wait_closed(1, WITHOUT_PATIENCE).await?;
        let deadline = Deadline::new("another coordinator leads", PATIENCE);
        let leads = |member: &Member| member.role == Role::Coordinator && member.logged(LEADING);
        while is_leader && self.arena.members.iter().filter(|member| leads(member)).count() < 2 {
            self.arena.supervise().await?;
            deadline.pulse().await?;
        }
        Ok(())
    }

    async fn flush_redis(&self) -> Result<()> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let url: url::Url = self.setting.servers.redis_url.parse()?;
        let host = url.host_str().context("REDIS_URL has no host")?;
        let stream = tokio::net::TcpStream::connect((host, url.port().unwrap_or(6379)));
        let mut stream = stream.await?;
        stream.write_all(b"FLUSHALL\r\n").await?;
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).await?;
        ensure!(&answer == b"+OK", "redis does not flush");
        Ok(())
    }

    async fn fill_disk(&mut self, hit: Hit, away: Duration) -> Result<()> {
        let disk = self.disk.as_ref().context("no disk was mounted")?;
        disk.fill()?;
        hit.let_go();
        let deadline = Deadline::new("not hit, the full disk is met", PATIENCE);
        let is_met = |arena: &Arena| {
            arena.members.iter().any(|member| member.logged("No space left on device"))
        };
        while !is_met(&self.arena) {
            deadline.pulse().await?;
        }
        tokio::time::sleep(away).await;
        disk.free()
    }

    /// Takes messages of a queue away from those who consume it, and does something to them.
    async fn tamper(
        &mut self,
        queue: &str,
        consumers: Role,
        tamper: Tamper,
        hit: Hit,
        away: Duration,
    ) -> Result<()> {
        let links = |arena: &Arena, act: fn(&super::link::Link)| -> Result<()> {
            for member in arena.members.iter().filter(|member| member.role == consumers) {
                act(member.link(Server::Rabbitmq)?);
            }
            Ok(())
        };
        links(&self.arena, super::link::Link::cut)?;
        hit.let_go();
        if consumers == Role::Worker {
            // All jobs of the plan are on the queue before it is touched.
            self.arena.wait_for(PLANNED, 1, PATIENCE).await?;
            let deadline = Deadline::new("all jobs are published", PATIENCE);
            while self.arena.fleet.number(UNPUBLISHED).await? > 0 {
                deadline.pulse().await?;
            }
        }
        let deadline = Deadline::new("not hit, messages wait in the queue", PATIENCE);
        while self.arena.broker.depth(queue).await? < WORTH_TAMPERING {
            deadline.pulse().await?;
        }
        let broker = &self.arena.broker;
        let mut messages = broker.take(queue, TAMPERED).await?;
        if messages.is_empty() {
            bail!("not hit: no message was left");
        }
        match tamper {
            Tamper::Duplicate => {
                broker.put(queue, &messages).await?;
                broker.put(queue, &messages).await?;
            }
            Tamper::Reorder => {
                messages.reverse();
                broker.put(queue, &messages).await?;
            }
            Tamper::Lose => {}
            Tamper::Delay => {
                links(&self.arena, super::link::Link::heal)?;
                tokio::time::sleep(away).await;
                self.arena.broker.put(queue, &messages).await?;
            }
            Tamper::Forge => {
                let mut other = messages[0].clone();
                let mut body: Value = serde_json::from_slice(&other.0)?;
                body["batch_id"] = Value::from(1);
                other.0 = serde_json::to_vec(&body)?;
                let noise = (b"not a message".to_vec(), other.1.clone());
                messages.extend([other, noise]);
                broker.put(queue, &messages).await?;
            }
        }
        links(&self.arena, super::link::Link::heal)
    }
}
