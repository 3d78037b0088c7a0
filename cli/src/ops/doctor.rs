//! `p2p doctor`: whether everything is set up as it must be, and what to do where it is not.
//!
//! Looks at settings, servers, clocks, schema, roles, disk, partitions, queues and the leader, each by
//! itself: one that fails hides no other. Changes nothing, and shows no password.
//!
//! As JSON: `{"worst", "checks": [Check]}`.

mod database;
mod servers;

use std::fmt;
use std::process::ExitCode;

use chrono::TimeDelta;
use serde::Serialize;
use shared::settings::Vars;

use super::{Servers, health, status};
use crate::EXIT_TROUBLE;
use crate::format::Table;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warn,
    Fail,
    /// A server could not be reached, so that much can't be said.
    Away,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail | Self::Away => "FAIL",
        })
    }
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    level: Level,
    what: String,
    value: String,
    /// `None`: nothing.
    todo: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    worst: Level,
    checks: Vec<Check>,
}

/// The checks so far.
#[derive(Debug, Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, level: Level, what: &str, value: impl Into<String>, todo: Option<&str>) {
        let (what, value, todo) = (what.to_owned(), value.into(), todo.map(str::to_owned));
        self.0.push(Check { level, what, value, todo });
    }

    fn ok(&mut self, what: &str, value: impl Into<String>) {
        self.add(Level::Ok, what, value, None);
    }

    fn warn(&mut self, what: &str, value: impl Into<String>, todo: &str) {
        self.add(Level::Warn, what, value, Some(todo));
    }

    fn fail(&mut self, what: &str, value: impl Into<String>, todo: &str) {
        self.add(Level::Fail, what, value, Some(todo));
    }

    fn away(&mut self, what: &str, value: impl Into<String>, todo: &str) {
        self.add(Level::Away, what, value, Some(todo));
    }

    /// Ok if nothing is wrong, else `level`.
    fn expect(&mut self, is_well: bool, level: Level, what: &str, value: String, todo: &str) {
        if is_well {
            self.ok(what, value);
        } else {
            self.add(level, what, value, Some(todo));
        }
    }
}

/// Looks at everything and prints it.
pub async fn run(json: bool) -> anyhow::Result<ExitCode> {
    let mut checks = Checks::default();
    let retention = check_settings(&mut checks);
    // Bad settings are told above, each; what is left is looked at with them.
    match Servers::read() {
        Ok(servers) => {
            let is_there = database::check(&mut checks, &servers.database, retention).await;
            servers::check(&mut checks, &servers).await;
            if is_there {
                check_fleet(&mut checks, &servers).await;
            }
        }
        Err(_) => checks.fail("servers", "not looked at", "mend the settings above first"),
    }
    let worst = checks.0.iter().map(|check| check.level).max().unwrap_or(Level::Ok);
    let report = Report { worst, checks: checks.0 };
    if json {
        crate::print_json(&report)?;
    } else {
        crate::print(&text(&report))?;
    }
    Ok(match worst {
        Level::Ok | Level::Warn => ExitCode::SUCCESS,
        Level::Fail => ExitCode::from(EXIT_TROUBLE),
        Level::Away => ExitCode::FAILURE,
    })
}

/// The settings of all programs, as each would read them here. Gives for how long what is kept.
fn check_settings(checks: &mut Checks) -> Option<coordinator::settings::Retention> {
    const TODO: &str = "set it, in the environment or in .env; .env.example has all settings";
    let coordinator = coordinator::settings::Settings::read(Vars::from_environment());
    let worker = worker::settings::Settings::read(Vars::from_environment());
    let own = Servers::read();
    let mut problems: Vec<(&str, &String)> = Vec::new();
    let all = [
        ("coordinator", coordinator.as_ref().err()),
        ("worker", worker.as_ref().err()),
        ("p2p", own.as_ref().err()),
    ];
    for (program, bad) in all {
        for problem in bad.iter().flat_map(|bad| bad.problems()) {
            // What several programs need is told once.
            if !problems.iter().any(|(_, told)| *told == problem) {
                problems.push((program, problem));
            }
        }
    }
    for (program, problem) in &problems {
        checks.fail(&format!("settings of {program}"), (*problem).clone(), TODO);
    }
    if problems.is_empty() {
        checks.ok("settings", "all can be used, by coordinator, worker and p2p");
    }
    coordinator.ok().map(|settings| settings.retention)
}

/// What the status screen says of leader, batches, workers, queues and limiters.
async fn check_fleet(checks: &mut Checks, servers: &Servers) {
    let status = status::read(servers).await;
    let Some(facts) = status.facts.read() else {
        // Told by the checks of the database.
        return;
    };
    let problems = health::judge(&status);
    if let Some(leader) = facts.leader.as_ref().filter(|leader| leader.is_leading) {
        checks.ok("leader", leader.coordinator_id.clone());
    }
    let seen = facts.seen().count();
    if seen > 0 {
        checks.ok("workers", format!("{seen} seen within a minute"));
    }
    for problem in &problems {
        let level = match problem.level {
            health::Level::Fail => Level::Fail,
            health::Level::Warn => Level::Warn,
        };
        checks.add(level, "fleet", problem.what.clone(), Some(&problem.todo));
    }
    if problems.is_empty() {
        checks.ok("fleet", "no batch overdue, no dead letters, no breaker open");
    }
    for egress in status.limits.read().into_iter().flatten() {
        let value = match &egress.limiter {
            None => "not used within a day".to_owned(),
            Some(now) => format!(
                "{:.1} of {:.0} to {:.0} a minute, breaker {}, {} sent in the last minute",
                now.rate,
                now.floor,
                now.ceiling,
                now.breaker.as_str(),
                now.sent
            ),
        };
        checks.ok(&format!("limiter {}", egress.egress), value);
    }
}

fn text(report: &Report) -> String {
    let mut table = Table::new(&["", "what", "value"]);
    for check in &report.checks {
        table.row(vec![check.level.to_string(), check.what.clone(), check.value.clone()]);
        if let Some(todo) = &check.todo {
            table.row(vec![String::new(), String::new(), format!("→ {todo}")]);
        }
    }
    let count =
        |level: &[Level]| report.checks.iter().filter(|check| level.contains(&check.level)).count();
    let fails = count(&[Level::Fail, Level::Away]);
    format!("{table}{fails} to be mended, {} to look at\n", count(&[Level::Warn]))
}

/// A difference between two clocks, as the server's is ahead of this machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Skew {
    ahead: TimeDelta,
    /// Time of the question and its answer: the skew is known to half of it.
    round_trip: TimeDelta,
}

/// Skew from which on times of different machines can't be compared: permits and pauses count in
/// seconds.
const SKEW_WARN: TimeDelta = TimeDelta::milliseconds(500);
/// Skew from which on deadlines are cut wrongly.
const SKEW_FAIL: TimeDelta = TimeDelta::seconds(5);
/// Questions of which the one with the shortest round trip counts.
const SKEW_TRIES: u32 = 5;

impl Skew {
    /// The better of the two.
    fn better(best: Option<Self>, other: Self) -> Self {
        best.filter(|best| best.round_trip <= other.round_trip).unwrap_or(other)
    }

    /// How far the clocks are apart at least, whatever the way took.
    fn at_least(self) -> TimeDelta {
        (self.ahead.abs() - self.round_trip / 2).max(TimeDelta::zero())
    }
}

fn check_skew(checks: &mut Checks, server: &str, skew: Skew) {
    const TODO: &str = "keep the clocks of all machines by NTP";
    let what = format!("clock of {server}");
    let side = if skew.ahead < TimeDelta::zero() { "behind" } else { "ahead of" };
    let value = format!(
        "{} ms {side} this machine's, to {} ms",
        skew.ahead.abs().num_milliseconds(),
        (skew.round_trip / 2).num_milliseconds().max(1)
    );
    match skew.at_least() {
        apart if apart >= SKEW_FAIL => checks.fail(&what, value, TODO),
        apart if apart >= SKEW_WARN => checks.warn(&what, value, TODO),
        _ => checks.ok(&what, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(ahead_ms: i64, round_trip_ms: i64) -> Check {
        let ms = TimeDelta::milliseconds;
        let mut checks = Checks::default();
        check_skew(&mut checks, "X", Skew { ahead: ms(ahead_ms), round_trip: ms(round_trip_ms) });
        checks.0.remove(0)
    }

    #[test]
    fn a_skew_is_told_only_as_far_as_it_is_known() {
        assert_eq!(checked(-40, 2).level, Level::Ok);
        assert_eq!(checked(-40, 2).value, "40 ms behind this machine's, to 1 ms");
        assert_eq!(checked(700, 2).level, Level::Warn);
        assert_eq!(checked(700, 900).level, Level::Ok, "the way may have taken it");
        assert_eq!(checked(-5_100, 2).level, Level::Fail);
    }
}
