//! The catalogue: which fault at which step of a batch, and what it may cost.

use std::fmt;
use std::ops::RangeInclusive;

use clap::ValueEnum;

use super::link::{Side, Trigger};
use super::wire::{Moment, Server, Target, Work};
use crate::api;

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Worker,
    Coordinator,
}

/// A step of the batch, as a message on a link of the first worker or of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) role: Role,
    moment: Moment,
    side: Side,
    /// Which occurrence is drawn. Small enough that every batch has so many.
    first: u32,
    last: u32,
}

impl Step {
    /// `draw` gives a number of a range.
    pub(super) fn trigger(&self, draw: impl FnOnce(RangeInclusive<u32>) -> u32) -> Trigger {
        Trigger { moment: self.moment, nth: draw(self.first..=self.last), side: self.side }
    }

    pub(super) fn server(&self) -> Server {
        self.moment.server()
    }
}

impl Moment {
    fn server(self) -> Server {
        match self {
            Self::Commit(_) | Self::Committed(_) => Server::Postgres,
            Self::Permit => Server::Redis,
            Self::Request | Self::Answer => Server::Exchange,
            Self::Publish(_) | Self::Confirm(_) | Self::Deliver(_) | Self::Ack => Server::Rabbitmq,
        }
    }
}

const fn step(name: &'static str, role: Role, moment: Moment, side: Side, last: u32) -> Step {
    Step { name, role, moment, side, first: 1, last }
}

use Role::{Coordinator, Worker};
use Side::{After, Before};

// A worker's steps, in their order.
const TAKEN: Step = step("taken", Worker, Moment::Deliver(Target::Normal), After, 20);
const PERMIT: Step = step("permit", Worker, Moment::Permit, Before, 20);
const REQUEST: Step = step("request", Worker, Moment::Request, Before, 20);
const ANSWER: Step = step("answer", Worker, Moment::Answer, Before, 20);
const ADVERTISERS: Step =
    step("advertisers", Worker, Moment::Committed(Work::Advertisers), Before, 5);
const COMMIT: Step = step("commit", Worker, Moment::Commit(Work::EndJobs), Before, 10);
const COMMITTED: Step = step("committed", Worker, Moment::Committed(Work::EndJobs), Before, 10);
const REPORTED: Step = step("reported", Worker, Moment::Confirm(Target::Reports), Before, 10);
const ACK: Step = step("ack", Worker, Moment::Ack, Before, 10);
const ACKED: Step = step("acked", Worker, Moment::Ack, After, 10);

const WORKER_STEPS: [Step; 10] =
    [TAKEN, PERMIT, REQUEST, ANSWER, ADVERTISERS, COMMIT, COMMITTED, REPORTED, ACK, ACKED];

// The leader's steps, in their order.
const OPENED: Step = step("opened", Coordinator, Moment::Committed(Work::Open), Before, 1);
const DISCOVERING: Step =
    step("discovering", Coordinator, Moment::Publish(Target::Urgent), Before, 3);
const PLANNING: Step = step("planning", Coordinator, Moment::Commit(Work::Plan), Before, 1);
const PLANNED: Step = step("planned", Coordinator, Moment::Committed(Work::Plan), Before, 1);
const PUBLISHING: Step =
    step("publishing", Coordinator, Moment::Publish(Target::Normal), Before, 40);
/// More than the workers hold in their hands, so that messages wait in the queue.
const PUBLISHED_MANY: Step = Step { name: "published many", first: 80, last: 100, ..PUBLISHING };
const CONFIRMED: Step = step("confirmed", Coordinator, Moment::Confirm(Target::Normal), Before, 1);
const FOLDING: Step = step("folding", Coordinator, Moment::Deliver(Target::Reports), After, 40);
/// Past discovery, without which no page is read and nothing more is reported.
const READING: Step = Step { name: "reading", first: 10, ..FOLDING };
const EXTENDING: Step = step("extending", Coordinator, Moment::Commit(Work::Jobs), Before, 2);
const CLOSING: Step = step("closing", Coordinator, Moment::Commit(Work::Close), Before, 1);
const CLOSED: Step = step("closed", Coordinator, Moment::Committed(Work::Close), Before, 1);
const ANNOUNCING: Step =
    step("announcing", Coordinator, Moment::Publish(Target::Events), Before, 1);
const ANNOUNCED: Step = step("announced", Coordinator, Moment::Confirm(Target::Events), Before, 1);

const LEADER_STEPS: [Step; 12] = [
    OPENED,
    DISCOVERING,
    PLANNING,
    PLANNED,
    PUBLISHING,
    CONFIRMED,
    FOLDING,
    EXTENDING,
    CLOSING,
    CLOSED,
    ANNOUNCING,
    ANNOUNCED,
];

/// What is done to jobs or reports on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tamper {
    Duplicate,
    Delay,
    Reorder,
    /// Lost: taken and never given back.
    Lose,
    /// Ones that nobody can read, and ones of a batch that does not exist.
    Forge,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing: what the other lines are measured by.
    None,
    /// SIGKILL to the process whose step it is.
    Kill,
    /// SIGSTOP to it, until the batch is closed without it.
    Stop,
    /// SIGSTOP to it, for some seconds.
    Pause,
    /// A clean restart of a server.
    Restart(Server),
    /// SIGKILL to a server, which is started again after some seconds.
    Crash(Server),
    /// `pg_terminate_backend` for every session of the fleet.
    EndSessions,
    PurgeQueues,
    DeleteQueues,
    FlushRedis,
    /// The link from the process whose step it is to a server: reset and refused for some seconds.
    Cut(Server),
    /// The same link: nothing passes for some seconds.
    Silence(Server),
    /// The same link: slow to the end of the batch.
    Slow(Server),
    /// The connection whose step it is passes nothing more, for good, and nobody is told.
    DeadConnection,
    /// The disk of the database is full for some seconds.
    DiskFull,
    Jobs(Tamper),
    Reports(Tamper),
    /// Some requests in a row get a faulty answer of the exchange.
    Exchange(api::Fault),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::None => "nothing".to_owned(),
            Self::Kill => "killed".to_owned(),
            Self::Stop => "stopped until closed".to_owned(),
            Self::Pause => "paused".to_owned(),
            Self::Restart(server) => format!("{} restarted", server.name()),
            Self::Crash(server) => format!("{} crashed", server.name()),
            Self::EndSessions => "postgres sessions ended".to_owned(),
            Self::PurgeQueues => "rabbitmq queues purged".to_owned(),
            Self::DeleteQueues => "rabbitmq queues deleted".to_owned(),
            Self::FlushRedis => "redis flushed".to_owned(),
            Self::Cut(server) => format!("link to {} cut", server.name()),
            Self::Silence(server) => format!("link to {} silent", server.name()),
            Self::Slow(server) => format!("link to {} slow", server.name()),
            Self::DeadConnection => "connection dead".to_owned(),
            Self::DiskFull => "disk full".to_owned(),
            Self::Jobs(tamper) => format!("jobs {}", tamper.name()),
            Self::Reports(tamper) => format!("reports {}", tamper.name()),
            Self::Exchange(kind) => format!("exchange {}", name_of(*kind)),
        };
        f.write_str(&text)
    }
}

impl Tamper {
    fn name(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicated",
            Self::Delay => "delayed",
            Self::Reorder => "reordered",
            Self::Lose => "lost",
            Self::Forge => "forged",
        }
    }
}

fn name_of(kind: api::Fault) -> String {
    kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The first request with a faulty answer: discovery is over, and pages with ads are being read.
const FIRST_FAULTY: u32 = 100;
/// The same in the batch after it: of a market that was never read, an empty answer says nothing odd.
const FIRST_FAULTY_AGAIN: u32 = 330;
/// How many follow. Few where the worker gives up only after its timeout or pauses for long.
const FAULTY: u32 = 10;
const FAULTY_AND_LONG: u32 = 3;

/// Options of `exchange-sim serve` for a kind of fault.
pub(super) fn exchange_options(kind: api::Fault) -> String {
    use api::Fault::{Drip, Endless, Hang, Http403, Http429, Http429Html};
    let is_long = matches!(kind, Drip | Endless | Hang | Http403 | Http429 | Http429Html);
    let is_later = matches!(kind, api::Fault::EmptyBook);
    let first = if is_later { FIRST_FAULTY_AGAIN } else { FIRST_FAULTY };
    let until = first + if is_long { FAULTY_AND_LONG } else { FAULTY };
    format!("--fault {}:1000 --fault-requests {first}..{until}", name_of(kind))
}

/// Whether pages are lost to the kind: the exchange said no for good, or what is there is no answer.
fn loses_pages(kind: api::Fault) -> bool {
    use api::Fault::{Code000002, Code000002Http400, Http404, Http451, Redirect};
    matches!(kind, Http404 | Http451 | Code000002 | Code000002Http400 | Redirect)
}

/// A line of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) fault: Fault,
    /// `None`: the fault is there all the time.
    pub(super) step: Option<Step>,
    /// Whether it belongs to the short round.
    pub(super) is_short: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) if step.role == Worker => write!(f, "{} × worker {}", self.fault, step.name),
            Some(step) => write!(f, "{} × leader {}", self.fault, step.name),
            None => write!(f, "{} × all the time", self.fault),
        }
    }
}

/// What a line may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// Requests that the exchange saw and the ledger does not count.
    pub(super) beyond: RangeInclusive<i64>,
    /// Messages `batch.closed` for the disturbed batch.
    pub(super) events: RangeInclusive<usize>,
    /// Notifications of the database for it.
    pub(super) notifications: RangeInclusive<usize>,
    pub(super) dead_letters: u32,
    /// Whether messages that came twice may wait when all workers have ended: one of them may have been
    /// about to find that it has nothing to do.
    pub(super) leftovers: bool,
    /// Outcome of the disturbed batch.
    pub(super) outcome: &'static str,
    /// With which exit codes a leader may end that went on after it was replaced.
    pub(super) late_leader: &'static [i32],
}

/// `EX_TEMPFAIL`: the coordinator closed no batch.
const CLOSED_NOTHING: i32 = 75;

/// Jobs that a worker has in flight at most: `MAX_WORKERS` of the fleet.
pub(super) const IN_FLIGHT: i64 = 20;
/// Jobs that a worker has in hand at most: those in flight, and a group of as many that is being stored.
const IN_HAND: i64 = 2 * IN_FLIGHT;
/// Requests per job at most: four tries, and as many again when it is issued again.
const REQUESTS_PER_JOB: i64 = 8;

impl Line {
    pub(super) fn needs_control_of(&self) -> Option<Server> {
        match self.fault {
            Fault::Restart(server) | Fault::Crash(server) => Some(server),
            Fault::DiskFull => Some(Server::Postgres),
            _ => None,
        }
    }

    /// What the line may cost with so many workers. Where nothing is killed and no message comes
    /// twice the ledger counts every request.
    pub(super) fn allowed(&self, workers: usize) -> Allowed {
        let one = 0..=IN_HAND;
        // Messages that come twice may be worked on by two workers at once.
        let all = 0..=IN_HAND * i64::try_from(workers).unwrap_or(i64::MAX);
        let is = |step: Step| self.step == Some(step);
        let leader_publishes =
            [DISCOVERING, PLANNED, PUBLISHING, CONFIRMED, EXTENDING].into_iter().any(is);
        let beyond = match self.fault {
            // What was held on its way when the process stopped is counted and was not seen.
            Fault::Stop | Fault::Pause if is(REQUEST) => -IN_FLIGHT..=IN_HAND,
            Fault::Kill | Fault::Stop if leader_publishes => all,
            Fault::Kill | Fault::Stop | Fault::Pause
                if self.step.is_some_and(|step| step.role == Coordinator) =>
            {
                0..=0
            }
            Fault::Kill | Fault::Stop | Fault::Pause => one,
            Fault::Cut(Server::Exchange) | Fault::Silence(Server::Exchange) => {
                // A try that was refused on the way is counted and was not seen.
                -IN_FLIGHT * REQUESTS_PER_JOB..=IN_FLIGHT * REQUESTS_PER_JOB
            }
            // The broker delivers again what was in hand, or a new leader publishes again what it
            // finds unpublished.
            Fault::Restart(Server::Postgres | Server::Rabbitmq)
            | Fault::Crash(Server::Postgres | Server::Rabbitmq)
            | Fault::Cut(Server::Postgres | Server::Rabbitmq)
            | Fault::Silence(Server::Postgres | Server::Rabbitmq)
            | Fault::EndSessions
            | Fault::DiskFull
            | Fault::DeadConnection
            | Fault::PurgeQueues
            | Fault::DeleteQueues
            | Fault::Jobs(_)
            | Fault::Reports(_) => all,
            _ => 0..=0,
        };
        // Told at least once; again if nobody noted that the broker took it.
        let may_be_told_again = is(ANNOUNCING)
            || is(ANNOUNCED)
            || is(CLOSING)
                && matches!(
                    self.fault,
                    Fault::Restart(_) | Fault::Crash(_) | Fault::EndSessions | Fault::Stop
                );
        let database_is_away = matches!(
            self.fault,
            Fault::Restart(Server::Postgres) | Fault::Crash(Server::Postgres) | Fault::EndSessions
        );
        Allowed {
            beyond,
            events: 1..=1 + usize::from(may_be_told_again),
            notifications: usize::from(!database_is_away)..=1,
            dead_letters: u32::from(self.fault == Fault::Jobs(Tamper::Forge)),
            leftovers: self.fault == Fault::DeadConnection,
            outcome: match self.fault {
                Fault::Exchange(kind) if loses_pages(kind) => "partial",
                _ => "complete",
            },
            late_leader: if [CLOSED, ANNOUNCING, ANNOUNCED].into_iter().any(is) {
                &[0, CLOSED_NOTHING]
            } else {
                &[CLOSED_NOTHING]
            },
        }
    }
}

/// All lines, in the order in which they run.
pub(super) fn all() -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |fault, steps: &[Step], short: &[Step]| {
        lines.extend(steps.iter().map(|step| Line {
            fault,
            step: Some(*step),
            is_short: short.contains(step),
        }));
    };
    add(Fault::Kill, &WORKER_STEPS, &[COMMITTED]);
    add(Fault::Kill, &LEADER_STEPS, &[PUBLISHING]);
    add(Fault::Pause, &[REQUEST, COMMIT], &[]);
    add(Fault::Stop, &[REQUEST, COMMIT, ACK], &[]);
    add(Fault::Stop, &LEADER_STEPS, &[FOLDING]);
    let batch_steps = [PUBLISHING, COMMIT, CLOSING];
    add(Fault::Restart(Server::Postgres), &batch_steps, &[]);
    add(Fault::Crash(Server::Postgres), &batch_steps, &[COMMIT]);
    add(Fault::EndSessions, &batch_steps, &[]);
    add(Fault::Restart(Server::Rabbitmq), &batch_steps, &[]);
    add(Fault::Crash(Server::Rabbitmq), &batch_steps, &[COMMIT]);
    add(Fault::PurgeQueues, &[PUBLISHED_MANY, COMMIT], &[]);
    add(Fault::DeleteQueues, &[PUBLISHING, COMMIT], &[]);
    add(Fault::Restart(Server::Redis), &[PERMIT, REQUEST], &[]);
    add(Fault::Crash(Server::Redis), &[PERMIT, REQUEST], &[REQUEST]);
    add(Fault::FlushRedis, &[PERMIT, REQUEST], &[]);
    for (server, worker_step) in [
        (Server::Postgres, COMMIT),
        (Server::Redis, PERMIT),
        (Server::Rabbitmq, REPORTED),
        (Server::Exchange, REQUEST),
    ] {
        add(Fault::Cut(server), &[worker_step], &[]);
        add(Fault::Silence(server), &[worker_step], &[]);
        add(Fault::Slow(server), &[worker_step], &[]);
    }
    for (server, leader_step) in [(Server::Postgres, FOLDING), (Server::Rabbitmq, PUBLISHING)] {
        add(Fault::Cut(server), &[leader_step], &[FOLDING]);
        add(Fault::Silence(server), &[leader_step], &[]);
        add(Fault::Slow(server), &[leader_step], &[]);
    }
    add(Fault::DeadConnection, &[COMMITTED, PLANNED, EXTENDING, CLOSING], &[]);
    add(Fault::DiskFull, &[COMMIT, PLANNING], &[COMMIT]);
    for tamper in [Tamper::Duplicate, Tamper::Delay, Tamper::Reorder, Tamper::Lose, Tamper::Forge] {
        add(Fault::Jobs(tamper), &[CONFIRMED], &[]);
    }
    for tamper in [Tamper::Duplicate, Tamper::Delay, Tamper::Reorder, Tamper::Lose, Tamper::Forge] {
        add(Fault::Reports(tamper), &[READING], &[]);
    }
    let always = |fault, is_short| Line { fault, step: None, is_short };
    lines.insert(0, always(Fault::None, false));
    let kinds = api::Fault::value_variants().iter();
    lines.extend(kinds.map(|kind| {
        let is_short = matches!(kind, api::Fault::Http429Seconds | api::Fault::CutJson);
        always(Fault::Exchange(*kind), is_short)
    }));
    for line in &mut lines {
        line.is_short |= line.fault == Fault::Jobs(Tamper::Duplicate);
    }
    lines
}
