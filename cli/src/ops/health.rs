//! Whether the fleet is healthy, and what to do if not. Pure.

use std::fmt;

use chrono::TimeDelta;
use serde::Serialize;
use shared::limiter::Breaker;
use shared::queue::Queue;

use super::Reading;
use super::facts::Facts;
use super::status::Status;
use crate::format::{self, count, counted};

/// Time after its slot at which a batch that nobody opened is overdue: the default of
/// `MISFIRE_GRACE_SECONDS`.
const SLOT_GRACE: TimeDelta = TimeDelta::minutes(2);
/// Time that a close may take after the deadline.
const CLOSE_GRACE: TimeDelta = TimeDelta::seconds(60);
/// The newest complete book may be as old as two intervals: one in which it is read, one until it is
/// read again.
const FRESH_INTERVALS: i64 = 2;
/// Interval where no schedule was ever kept: the default.
const DEFAULT_INTERVAL_SECONDS: i32 = 600;

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Somebody must act.
    Fail,
    /// Worth a look.
    Warn,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fail => "FAIL",
            Self::Warn => "warn",
        })
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub level: Level,
    pub what: String,
    pub todo: String,
}

/// All that is wrong, what matters first.
#[must_use]
pub fn judge(status: &Status) -> Vec<Problem> {
    let mut found = Found::default();
    match &status.facts {
        Reading::Away { away } => found.fail(
            format!("the database can't be read: {away}"),
            "see that PostgreSQL runs and that DATABASE_URL names it; p2p doctor says more",
        ),
        Reading::Read(facts) => judge_facts(&mut found, facts),
    }
    judge_queues(&mut found, status);
    judge_limits(&mut found, status);
    found.0.sort_by_key(|problem| problem.level);
    found.0
}

#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    fn fail(&mut self, what: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Problem { level: Level::Fail, what: what.into(), todo: todo.into() });
    }

    fn warn(&mut self, what: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Problem { level: Level::Warn, what: what.into(), todo: todo.into() });
    }
}

fn judge_facts(found: &mut Found, facts: &Facts) {
    let now = facts.now;
    match &facts.leader {
        None => found.fail("nobody has ever led", "start a coordinator: coordinator run"),
        Some(leader) if !leader.is_leading => found.fail(
            format!("nobody leads; the last one was {}", leader.coordinator_id),
            "start a coordinator: coordinator run; if one runs, its log says why it does not lead",
        ),
        Some(_) => {}
    }
    let interval = facts.leader.as_ref().and_then(|leader| leader.interval_seconds);
    let interval = i64::from(interval.unwrap_or(DEFAULT_INTERVAL_SECONDS));
    if let (Some(next), Some(last)) = (facts.next_slot, facts.last_slot) {
        let interval = TimeDelta::seconds(interval);
        let current = next - interval;
        // The current one may be taken yet.
        let due = if now - current > SLOT_GRACE { current } else { current - interval };
        if last < due {
            found.fail(
                format!(
                    "no batch took the slot of {}; the last slot with one is {}",
                    format::instant(due),
                    format::instant(last)
                ),
                "look at the log of the coordinator, then p2p gaps",
            );
        }
    }
    for running in &facts.running {
        let late = now - running.deadline_at;
        if late > CLOSE_GRACE {
            found.fail(
                format!(
                    "batch {} is open {} past its deadline",
                    running.batch_id,
                    format::span(late.num_seconds())
                ),
                "the leader closes it: see that one leads and that the database takes writes",
            );
        }
    }
    if facts.seen().next().is_none() {
        found.fail(
            "no worker was seen within a minute",
            "start workers: worker run; if some run, their log says what they wait for",
        );
    }
    judge_last_batch(found, facts);
    if let Some(age) = facts.newest.complete_age_seconds
        && age > FRESH_INTERVALS * interval
    {
        found.fail(
            format!("the newest complete book is {} old", format::span(age)),
            "p2p batches and p2p gaps say what was lost and why",
        );
    }
    let broken: Vec<&str> = facts
        .seen()
        .filter(|worker| worker.breaker_open_until.is_some())
        .map(|worker| worker.egress_id.as_str())
        .collect();
    if !broken.is_empty() {
        let all = facts.seen().all(|worker| worker.breaker_open_until.is_some());
        let mut egresses = broken;
        egresses.sort_unstable();
        egresses.dedup();
        let what = format!("the circuit breaker of {} is open", egresses.join(", "));
        let todo = "the exchange does not answer there: see proxy and network, p2p limiter show";
        if all { found.fail(what, todo) } else { found.warn(what, todo) }
    }
    if let Some(gaps) = facts.gaps_open.filter(|gaps| gaps.total() > 0) {
        found.warn(
            format!("{} of the last 24h still open", counted(gaps.total(), "gap", "gaps")),
            "p2p gaps",
        );
    }
    if facts.quarantine_open > 0 {
        found.warn(
            format!("{} in quarantine", counted(facts.quarantine_open, "entry", "entries")),
            "p2p quarantine list",
        );
    }
    for result in facts.quality.iter().flatten() {
        let text = |name: &str| result[name].as_str();
        let check = text("check_name").unwrap_or("a check");
        match (text("verdict"), text("level")) {
            (Some("fail"), Some("fatal")) => {
                found.fail(format!("quality: {check} failed"), "p2p quality");
            }
            (Some("fail" | "warn"), _) => {
                found.warn(format!("quality: {check} did not pass"), "p2p quality");
            }
            _ => {}
        }
    }
}

fn judge_last_batch(found: &mut Found, facts: &Facts) {
    let closed = facts.batches.iter().rev().find(|entry| entry.state == "closed");
    let Some(last) = closed else { return };
    let id = last.batch_id.unwrap_or_default();
    let reason = last.reason.as_deref().unwrap_or("no reason recorded");
    let todo = format!("p2p batch show {id}");
    match last.outcome.as_deref() {
        Some("failed") => found.fail(format!("the last batch ({id}) failed: {reason}"), todo),
        Some("partial") => found.warn(format!("the last batch ({id}) is partial: {reason}"), todo),
        _ => {}
    }
}

fn judge_queues(found: &mut Found, status: &Status) {
    let queues = match &status.queues {
        Reading::Read(queues) => queues,
        Reading::Away { away } if status.is_broker_told => {
            return found.fail(
                format!("RabbitMQ can't be asked: {away}"),
                "see that RabbitMQ runs and that AMQP_URL names it; p2p doctor says more",
            );
        }
        // Who was not told of a broker did not want to ask it.
        Reading::Away { .. } => return,
    };
    let is_running = status.facts.read().is_some_and(|facts| !facts.running.is_empty());
    for queue in queues {
        let ready = queue.ready.unwrap_or(0);
        if queue.which == Queue::Dead && ready > 0 {
            found.fail(
                format!(
                    "{} on {}",
                    counted(ready.into(), "dead letter", "dead letters"),
                    queue.queue
                ),
                "p2p queues dead show, then p2p queues dead requeue",
            );
        }
        let has_jobs = matches!(queue.which, Queue::UrgentJobs | Queue::NormalJobs);
        if has_jobs && is_running && queue.consumers == Some(0) {
            found.fail(
                format!("nobody consumes {} ({} ready)", queue.queue, count(ready)),
                "start workers; if some run, see their AMQP_URL and AMQP_PREFIX",
            );
        }
        if let Some(away) = &queue.unacked_away {
            found.warn(
                format!("the management of RabbitMQ can't be asked: {away}"),
                "look at RABBITMQ_MANAGEMENT_URL",
            );
            break;
        }
    }
}

fn judge_limits(found: &mut Found, status: &Status) {
    let limits = match &status.limits {
        Reading::Read(limits) => limits,
        Reading::Away { away } if status.is_redis_told => {
            return found.warn(
                format!("Redis can't be asked: {away}"),
                "start Redis: until then workers keep to a share of the minimum rate",
            );
        }
        Reading::Away { .. } => return,
    };
    for egress in limits {
        let Some(limiter) = &egress.limiter else { continue };
        if limiter.is_held && limiter.pause > 0 {
            found.warn(
                format!("egress {} is paused by an operator", egress.egress),
                format!("p2p limiter resume --egress {}", egress.egress),
            );
        } else if limiter.breaker == Breaker::Closed && limiter.pause > 0 {
            found.warn(
                format!("egress {} is paused by the exchange", egress.egress),
                "it goes on by itself; often so: a lower ceiling, p2p limiter set --max",
            );
        }
    }
}
