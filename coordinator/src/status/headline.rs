//! Whether all is well, what is late, and what to do, in words. Pure.

use maud::{Markup, html};
use serde::Serialize;
use shared::limiter::REFUSALS_BEFORE_ALERT;

use super::fleet::Egress;
use super::format::{clock, count, counted, span};
use super::panel::Mark;
use super::quality::Verdict;
use super::queues::Queues;
use super::slots::{Slot, SlotState};
use super::snapshot::Snapshot;

/// Time after a slot at which somebody must have recorded what became of it.
const SLOT_GRACE_SECONDS: i64 = 120;
/// Time that a close may take after the deadline.
const CLOSE_GRACE_SECONDS: i64 = 60;
/// Intervals after which the last closed batch is late: one until the next begins, one in which it runs.
const LATE_INTERVALS: i64 = 2;

/// How the whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Healthy,
    /// Worth a look.
    Attention,
    /// Somebody must act.
    Broken,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    /// What to do.
    pub todo: &'static str,
    /// Where more stands.
    pub runbook: &'static str,
}

/// All that is wrong, what matters most first.
#[must_use]
pub fn judge(snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Found::default();
    judge_schedule(&mut found, snapshot);
    judge_last_batch(&mut found, snapshot);
    judge_fleet(&mut found, snapshot);
    judge_queues(&mut found, &snapshot.queues);
    judge_quality(&mut found, &snapshot.quality);
    found.0.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    found.0
}

#[derive(Default)]
struct Found(Vec<Finding>);

impl Found {
    fn broken(&mut self, what: String, todo: &'static str, runbook: &'static str) {
        self.0.push(Finding { level: Level::Broken, what, todo, runbook });
    }

    fn attention(&mut self, what: String, todo: &'static str, runbook: &'static str) {
        self.0.push(Finding { level: Level::Attention, what, todo, runbook });
    }
}

fn judge_schedule(found: &mut Found, snapshot: &Snapshot) {
    if snapshot.leader.as_ref().is_none_or(|leader| !leader.is_leading) {
        found.broken(
            "No coordinator leads: no batch will begin.".to_owned(),
            "Start one (coordinator run); if one runs, its log says why it does not lead.",
            "no-leader",
        );
    }
    let interval = snapshot.leader.as_ref().and_then(|leader| leader.interval_seconds);
    // Batches that operators asked for stand between the slots, and not on the wall clock.
    let is_of_schedule = |slot: &&Slot| {
        interval.is_some_and(|interval| slot.slot_at.timestamp() % i64::from(interval) == 0)
    };
    let last = snapshot.slots.iter().rev().find(is_of_schedule);
    let overdue = |slot: &&Slot| {
        let age = (snapshot.read_at - slot.slot_at).num_seconds();
        slot.state == SlotState::Unrecorded && age > SLOT_GRACE_SECONDS
    };
    if let Some(slot) = last.filter(overdue) {
        found.broken(
            format!("No batch took the slot of {} UTC.", clock(slot.slot_at)),
            "Look at the log of the leader, then at p2p gaps.",
            "slot-skipped",
        );
    }
    if let Some(running) = &snapshot.running
        && running.deadline_seconds < -CLOSE_GRACE_SECONDS
    {
        found.broken(
            format!("Batch {} is open past its deadline.", running.batch_id),
            "The leader closes it: see that one leads and that the database takes writes.",
            "batch-duration-high",
        );
    }
}

fn judge_last_batch(found: &mut Found, snapshot: &Snapshot) {
    let Some(closed) = &snapshot.last_closed else { return };
    let id = closed.batch_id;
    match closed.outcome.as_str() {
        "failed" => found.broken(
            format!("The last batch ({id}) failed: nothing was read."),
            "p2p batch show says why its jobs failed.",
            "batch-execution-failed",
        ),
        "partial" => found.attention(
            format!("The last batch ({id}) is partial."),
            "p2p batch show says what was lost or left out, and why.",
            "data-completeness-low",
        ),
        _ => {}
    }
    let interval = snapshot.leader.as_ref().and_then(|leader| leader.interval_seconds);
    if let Some(interval) = interval
        && closed.closed_seconds_ago > LATE_INTERVALS * i64::from(interval)
    {
        found.broken(
            format!(
                "The data is late: no batch closed for more than {}.",
                span(LATE_INTERVALS * i64::from(interval))
            ),
            "p2p batches and p2p gaps say what became of the slots since.",
            "no-batch-closed",
        );
    }
}

fn judge_fleet(found: &mut Found, snapshot: &Snapshot) {
    if snapshot.workers.iter().all(|worker| worker.is_stale) {
        found.broken(
            "No worker was seen within a minute: nothing is read.".to_owned(),
            "Start workers (worker run); if some run, their log says what they wait for.",
            "no-worker",
        );
    }
    let named = |is_meant: fn(&Egress) -> bool| -> Vec<&str> {
        let meant = snapshot.egresses.iter().filter(|egress| is_meant(egress));
        meant.map(|egress| egress.egress_id.as_str()).collect()
    };
    let away = named(|egress| egress.is_redis_away);
    if !away.is_empty() {
        found.attention(
            format!("Redis does not answer the workers of {}.", away.join(", ")),
            "They share the lowest rate meanwhile: see that Redis runs and that REDIS_URL names it.",
            "redis-down",
        );
    }
    let refused = named(|egress| egress.refusals >= REFUSALS_BEFORE_ALERT.cast_signed());
    if !refused.is_empty() {
        found.broken(
            format!("The exchange refuses {} again and again.", refused.join(", ")),
            "The rate is cut and all pause by themselves; p2p limiter show says how long.",
            "consecutive-429s",
        );
    }
    let open = snapshot.egresses.iter().filter(|egress| egress.breaker_open_until.is_some());
    let open: Vec<&str> = open.map(|egress| egress.egress_id.as_str()).collect();
    if open.is_empty() {
        return;
    }
    let what = format!("The circuit breaker of {} is open.", open.join(", "));
    let todo = "The exchange does not answer there: see proxy and network, and p2p limiter show; p2p limiter resume tries at once.";
    if open.len() == snapshot.egresses.len() {
        found.broken(what, todo, "breaker-open");
    } else {
        found.attention(what, todo, "breaker-open");
    }
}

fn judge_queues(found: &mut Found, queues: &Queues) {
    if let Queues::Away(_) = queues {
        found.broken(
            "RabbitMQ can't be asked: no job reaches a worker.".to_owned(),
            "See that it runs and that AMQP_URL names it; p2p doctor says more.",
            "rabbitmq-down",
        );
    }
    if let Some(letters) = queues.dead_letters().filter(|letters| *letters > 0) {
        found.attention(
            format!("{} on the dead-letter queue.", counted(letters, "message is", "messages are")),
            "p2p queues dead show tells what they are.",
            "dead-letters",
        );
    }
}

/// As alerts and `p2p status` do.
fn judge_quality(found: &mut Found, verdicts: &[Verdict]) {
    for verdict in verdicts.iter().filter(|verdict| verdict.verdict == "fail") {
        let what = format!("The quality check {} failed.", verdict.check_name.replace('_', " "));
        let (todo, runbook) = if verdict.check_name == "completeness" {
            (
                "p2p quality and p2p batch show latest say what was not read.",
                "data-completeness-low",
            )
        } else {
            (
                "p2p quality says which markets it concerns; they keep their last good state.",
                "quality-check-failed",
            )
        };
        if verdict.level == "fatal" {
            found.broken(what, todo, runbook);
        } else {
            found.attention(what, todo, runbook);
        }
    }
}

/// What a page without a snapshot, or with an old one, must say first.
pub(super) fn database_away(reason: &str) -> Finding {
    Finding {
        level: Level::Broken,
        what: format!("The database can't be read: {reason}."),
        todo: "See that PostgreSQL runs and that DATABASE_URL names it; p2p doctor says more.",
        runbook: "database-down",
    }
}

/// The sentence at the top. It has no figures that tick, so that it is spoken only when something changes.
fn sentence(snapshot: Option<&Snapshot>, findings: &[Finding]) -> String {
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Healthy);
    let others = findings.len().saturating_sub(1);
    let and_more = match others {
        0 => String::new(),
        more => format!(
            " And {}.",
            counted(i64::try_from(more).unwrap_or(0), "more finding", "more findings")
        ),
    };
    let first = findings.first().map(|finding| finding.what.as_str()).unwrap_or_default();
    match worst {
        Level::Broken => format!("Broken. {first}{and_more}"),
        Level::Attention => format!("Needs attention. {first}{and_more}"),
        Level::Healthy => match snapshot.and_then(|snapshot| snapshot.last_closed.as_ref()) {
            Some(closed) => format!(
                "Healthy. The batch of {} UTC is complete{}.",
                clock(closed.slot_at),
                closed.ads.map_or_else(String::new, |ads| format!(", with {} ads", count(ads)))
            ),
            None => "Healthy. No batch has closed yet.".to_owned(),
        },
    }
}

pub(super) fn render(snapshot: Option<&Snapshot>, findings: &[Finding]) -> Markup {
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Healthy);
    let (class, mark) = mark(worst);
    html! {
        section id="headline" class={ "headline " (class) } aria-label="Health" {
            p.verdict role="status" { (mark) " " (sentence(snapshot, findings)) }
            @if !findings.is_empty() {
                ol.findings {
                    @for finding in findings { li {
                        strong { (finding.what) } " " (finding.todo)
                        " " span.note { "Runbook: docs/OPERATIONS.md#" (finding.runbook) }
                    } }
                }
            }
        }
    }
}

fn mark(level: Level) -> (&'static str, Mark) {
    match level {
        Level::Healthy => ("good", Mark::Good),
        Level::Attention => ("warn", Mark::Warn),
        Level::Broken => ("bad", Mark::Bad),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::super::completeness::Completeness;
    use super::super::fleet::{Leader, Worker};
    use super::super::gaps::Gaps;
    use super::super::running::Closed;
    use super::super::snapshot::Names;
    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minute)
    }

    fn slot(minute: i64, state: SlotState) -> Slot {
        Slot { slot_at: at(minute), state, batch_id: None, reason: None, ads: None }
    }

    fn healthy() -> Snapshot {
        let worker = Worker {
            worker_id: "w".to_owned(),
            egress_id: "e".to_owned(),
            seen_seconds_ago: 5,
            up_seconds: 60,
            is_stale: false,
            jobs: 3,
        };
        let closed = Closed {
            batch_id: 1,
            slot_at: at(20),
            closed_at: at(24),
            closed_seconds_ago: 60,
            outcome: "complete".to_owned(),
            reason: None,
            seconds: 240,
            ads: Some(27_000),
            books: Some(4),
            books_complete: Some(4),
        };
        Snapshot {
            read_at: at(25),
            leader: Some(Leader {
                coordinator_id: "c".to_owned(),
                leading_since: at(0),
                interval_seconds: Some(600),
                is_leading: true,
            }),
            running: None,
            last_closed: Some(closed),
            slots: vec![slot(10, SlotState::Complete), slot(20, SlotState::Complete)],
            completeness: Completeness::default(),
            queues: Queues::Asked(Vec::new()),
            workers: vec![worker],
            egresses: Vec::new(),
            quality: Vec::new(),
            gaps: Gaps::default(),
            names: Names::default(),
        }
    }

    fn first(snapshot: &Snapshot) -> String {
        let findings = judge(snapshot);
        sentence(Some(snapshot), &findings)
    }

    #[test]
    fn a_fleet_without_trouble_is_healthy() {
        assert_eq!(judge(&healthy()), []);
        assert_eq!(
            first(&healthy()),
            "Healthy. The batch of 00:20 UTC is complete, with 27,000 ads."
        );
    }

    #[test]
    fn what_matters_most_comes_first() {
        let mut snapshot = healthy();
        if let Some(closed) = &mut snapshot.last_closed {
            "partial".clone_into(&mut closed.outcome);
        }
        assert_eq!(first(&snapshot), "Needs attention. The last batch (1) is partial.");
        snapshot.workers.clear();
        assert_eq!(
            first(&snapshot),
            "Broken. No worker was seen within a minute: nothing is read. And 1 more finding."
        );
    }

    #[test]
    fn an_egress_that_fares_badly_is_told() {
        let mut snapshot = healthy();
        snapshot.egresses = vec![Egress {
            egress_id: "e".to_owned(),
            requests_per_minute: 100,
            workers: 1,
            breaker_open_until: None,
            breaker_openings: 0,
            is_redis_away: false,
            refusals: REFUSALS_BEFORE_ALERT.cast_signed() - 1,
            requests_last_minute: 5,
        }];
        assert!(judge(&snapshot).is_empty());
        snapshot.egresses[0].refusals = REFUSALS_BEFORE_ALERT.cast_signed();
        assert!(first(&snapshot).contains("refuses e again"), "{}", first(&snapshot));
        snapshot.egresses[0].refusals = 0;
        snapshot.egresses[0].is_redis_away = true;
        assert!(first(&snapshot).contains("Redis does not answer"), "{}", first(&snapshot));
    }

    #[test]
    fn a_slot_that_nobody_took_is_told_after_its_grace() {
        let mut snapshot = healthy();
        // A batch that an operator asked for hides nothing.
        snapshot.slots = vec![slot(20, SlotState::Unrecorded), slot(23, SlotState::Complete)];
        assert_eq!(first(&snapshot), "Broken. No batch took the slot of 00:20 UTC.");
        snapshot.read_at = at(21);
        assert_eq!(judge(&snapshot), []);
    }

    #[test]
    fn what_is_wrong_is_judged_and_explained_as_its_alert() {
        let verdict = |check_name: &str, level: &str| Verdict {
            batch_id: 1,
            check_name: check_name.to_owned(),
            verdict: "fail".to_owned(),
            level: level.to_owned(),
            value: None,
            threshold: 0.into(),
            reason: None,
        };
        let mut snapshot = healthy();
        snapshot.quality = vec![
            verdict("price_anomalies", "warning"),
            verdict("completeness", "fatal"),
            verdict("duplicates", "fatal"),
        ];
        snapshot.slots = vec![slot(20, SlotState::Unrecorded)];
        snapshot.leader.as_mut().unwrap().is_leading = false;
        let findings = judge(&snapshot);
        let told: Vec<_> =
            findings.iter().map(|finding| (finding.level, finding.runbook)).collect();
        assert_eq!(
            told,
            [
                (Level::Broken, "no-leader"),
                (Level::Broken, "slot-skipped"),
                (Level::Broken, "data-completeness-low"),
                (Level::Broken, "quality-check-failed"),
                (Level::Attention, "quality-check-failed"),
            ]
        );
        let runbook = include_str!("../../../docs/OPERATIONS.md");
        let headings = runbook.lines().filter_map(|line| line.strip_prefix("### "));
        let anchors: Vec<String> =
            headings.map(|heading| heading.to_lowercase().replace(' ', "-")).collect();
        for (_, anchor) in told {
            assert!(anchors.iter().any(|one| one == anchor), "{anchor} is not in the runbook");
        }
    }

    #[test]
    fn late_data_and_a_dead_broker_are_told() {
        let mut snapshot = healthy();
        if let Some(closed) = &mut snapshot.last_closed {
            closed.closed_seconds_ago = 1201;
        }
        snapshot.queues = Queues::Away("refused".to_owned());
        let words: Vec<String> = judge(&snapshot).into_iter().map(|finding| finding.what).collect();
        assert_eq!(
            words,
            [
                "The data is late: no batch closed for more than 20 min.",
                "RabbitMQ can't be asked: no job reaches a worker."
            ]
        );
    }
}
