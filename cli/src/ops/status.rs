//! `p2p status`: one screen. Healthy or not, in words, and what to do.
//!
//! As JSON: [`Status`], with `is_healthy` and `problems`.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::limiter::Breaker;
use sqlx::PgPool;

use super::broker::{self, QueueState};
use super::facts::{self, Facts, Running};
use super::health::{self, Level, Problem};
use super::limits::{self, Egress};
use super::{Reading, Servers};
use crate::EXIT_TROUBLE;
use crate::batches;
use crate::format::{self, Table, UNKNOWN, count, count_or_unknown, counted};

/// The fleet now. What is away is told as such.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub facts: Reading<Facts>,
    pub queues: Reading<Vec<QueueState>>,
    pub limits: Reading<Vec<Egress>>,
    #[serde(skip)]
    pub is_broker_told: bool,
    #[serde(skip)]
    pub is_redis_told: bool,
}

#[derive(Serialize)]
struct Judged<'a> {
    is_healthy: bool,
    problems: &'a [Problem],
    #[serde(flatten)]
    status: &'a Status,
}

/// Prints the screen.
pub async fn run(json: bool) -> anyhow::Result<ExitCode> {
    let servers = Servers::read()?;
    let status = read(&servers).await;
    let problems = health::judge(&status);
    let is_healthy = is_healthy(&problems);
    if json {
        crate::print_json(&Judged { is_healthy, problems: &problems, status: &status })?;
    } else {
        crate::print(&text(&status, &problems)?)?;
    }
    Ok(if is_healthy { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TROUBLE) })
}

/// Nothing is wrong on which somebody must act.
#[must_use]
pub fn is_healthy(problems: &[Problem]) -> bool {
    problems.iter().all(|problem| problem.level != Level::Fail)
}

/// Looks once.
pub(super) async fn read(servers: &Servers) -> Status {
    let facts = async {
        let pool = shared::store::connect(&servers.database, "p2p").await?;
        shared::store::check_schema(&pool).await?;
        read_facts(&pool, true).await
    };
    let (facts, queues) = tokio::join!(facts, broker::read(servers));
    let facts = Reading::from(facts);
    let limits = match facts.read() {
        Some(facts) => limits::read(servers, &facts.egresses()).await,
        None => Reading::away("the egresses are not known without the database"),
    };
    Status {
        facts,
        queues,
        limits,
        is_broker_told: servers.queues.is_some(),
        is_redis_told: servers.redis.is_some(),
    }
}

/// The facts of one moment.
pub(super) async fn read_facts(pool: &PgPool, with_gaps: bool) -> anyhow::Result<Facts> {
    let mut snapshot = crate::snapshot(pool).await?;
    facts::read(&mut snapshot, with_gaps).await.context("the database can't be used")
}

/// The screen in words.
fn text(status: &Status, problems: &[Problem]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "{}", headline(problems))?;
    for problem in problems {
        writeln!(text, "  {}  {}", problem.level, problem.what)?;
        writeln!(text, "        → {}", problem.todo)?;
    }
    match &status.facts {
        Reading::Away { .. } => {}
        Reading::Read(facts) => write!(text, "\n{}", facts_text(facts)?)?,
    }
    writeln!(text, "\nqueues")?;
    match &status.queues {
        Reading::Away { away } => writeln!(text, "  not asked: {away}")?,
        Reading::Read(queues) => write!(text, "{}", queues_table(queues))?,
    }
    writeln!(text, "limiters")?;
    match &status.limits {
        Reading::Away { away } => writeln!(text, "  not asked: {away}")?,
        Reading::Read(limits) if limits.is_empty() => writeln!(text, "  no worker within a day")?,
        Reading::Read(limits) => write!(text, "{}", limits_table(limits))?,
    }
    Ok(text)
}

/// Healthy or not, in one line.
#[must_use]
pub fn headline(problems: &[Problem]) -> String {
    let fails = problems.iter().filter(|problem| problem.level == Level::Fail).count();
    let warns = problems.len() - fails;
    let many = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    match (fails, warns) {
        (0, 0) => "healthy".to_owned(),
        (0, _) => format!("healthy, {} worth a look", counted(many(warns), "thing", "things")),
        _ => format!("NOT HEALTHY: {} to be dealt with", counted(many(fails), "thing", "things")),
    }
}

fn facts_text(facts: &Facts) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let now = facts.now;
    let ago = |at: DateTime<Utc>| format!("{} ago", format::span((now - at).num_seconds().max(0)));
    let leader = match &facts.leader {
        None => "nobody has ever led".to_owned(),
        Some(leader) if leader.is_leading => {
            format!("{} for {}", leader.coordinator_id, span_since(now, leader.leading_since))
        }
        Some(leader) => format!("nobody; last was {}", leader.coordinator_id),
    };
    writeln!(text, "leader    {leader}")?;
    for running in &facts.running {
        writeln!(text, "running   {}", running_line(running, now))?;
    }
    let next = facts.next_slot.map_or_else(
        || "no schedule was kept yet".to_owned(),
        |slot| {
            format!(
                "{} UTC, in {}",
                format::instant(slot),
                format::span((slot - now).num_seconds())
            )
        },
    );
    writeln!(text, "next slot {next}")?;
    let complete = facts.newest.complete_at.map_or_else(|| "nothing yet".to_owned(), ago);
    writeln!(text, "newest complete book  {complete}")?;
    let gaps = facts.gaps_open.map_or_else(|| UNKNOWN.to_owned(), |gaps| count(gaps.total()));
    writeln!(text, "gaps open {gaps} (24h), quarantine open {}", count(facts.quarantine_open))?;
    if let Some(results) = &facts.quality {
        writeln!(text, "quality   {}", quality_line(results))?;
    }
    if facts.requests_waiting > 0 {
        let waiting = counted(facts.requests_waiting, "request waits", "requests wait");
        writeln!(text, "asked     {waiting} for the leader, see p2p batch requests")?;
    }
    let (seen, all) = (facts.seen().count(), facts.workers.len());
    let egresses = counted(many(facts.egresses().len()), "egress", "egresses");
    writeln!(text, "workers   {seen} seen within a minute, {all} within a day, {egresses}")?;
    writeln!(text, "\nlast batches")?;
    write!(text, "{}", batches_table(facts))?;
    Ok(text)
}

fn many(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn span_since(now: DateTime<Utc>, at: DateTime<Utc>) -> String {
    format::span((now - at).num_seconds().max(0))
}

/// The checks of the last batch in one line.
#[must_use]
pub fn quality_line(results: &[serde_json::Value]) -> String {
    let verdict =
        |result: &serde_json::Value| result["verdict"].as_str().unwrap_or("unknown").to_owned();
    let mut verdicts: Vec<String> = results.iter().map(verdict).collect();
    verdicts.sort_unstable();
    if verdicts.is_empty() {
        return "no check of the last batch".to_owned();
    }
    let groups = verdicts.chunk_by(|left, right| left == right);
    groups.map(|group| format!("{} {}", group.len(), group[0])).collect::<Vec<_>>().join(", ")
}

/// An open batch in one line.
#[must_use]
pub fn running_line(running: &Running, now: DateTime<Utc>) -> String {
    let left = (running.deadline_at - now).num_seconds();
    let left = match left {
        0.. => format!("{} left", format::span(left)),
        _ => format!("{} past its deadline", format::span(-left)),
    };
    let stage = if running.is_planned { "" } else { ", discovering" };
    let cancel = if running.is_cancel_asked { ", to be cancelled" } else { "" };
    format!(
        "batch {}: {} of {} jobs ({}), {}, {} lost, {left}{stage}{cancel}",
        running.batch_id,
        count(running.ended),
        count(running.jobs),
        format::percent(running.ended, running.jobs),
        counted(running.ads, "ad", "ads"),
        count(running.lost),
    )
}

fn batches_table(facts: &Facts) -> Table {
    let mut table = Table::new(&[
        "batch",
        "slot (UTC)",
        "state",
        ">secs",
        ">read",
        ">lost",
        ">shed",
        ">ads",
        "reason",
    ]);
    for entry in &facts.batches {
        table.row(vec![
            entry.batch_id.map_or_else(|| UNKNOWN.to_owned(), |id| id.to_string()),
            format::instant(entry.slot_at),
            entry.outcome.clone().unwrap_or_else(|| entry.state.clone()),
            entry.duration_ms.map_or_else(|| UNKNOWN.to_owned(), format::seconds),
            count_or_unknown(entry.pages_read),
            count_or_unknown(entry.pages_lost),
            count_or_unknown(entry.pages_shed),
            count_or_unknown(entry.ads),
            batches::progress(entry).or_else(|| entry.reason.clone()).unwrap_or_default(),
        ]);
    }
    table
}

/// The queues, a line each.
#[must_use]
pub fn queues_table(queues: &[QueueState]) -> Table {
    let mut table = Table::new(&["queue", ">ready", ">consumers", ">unacked", ""]);
    for queue in queues {
        table.row(vec![
            queue.queue.clone(),
            count_or_unknown(queue.ready),
            count_or_unknown(queue.consumers),
            count_or_unknown(queue.unacked.map(|count| i64::try_from(count).unwrap_or(i64::MAX))),
            if queue.exists { String::new() } else { "not there".to_owned() },
        ]);
    }
    table
}

fn limits_table(limits: &[Egress]) -> Table {
    let mut table =
        Table::new(&["egress", ">rate", ">ceiling", "breaker", "pause", ">in flight", ">sent/min"]);
    for egress in limits {
        let Some(now) = &egress.limiter else {
            table.row(vec![egress.egress.clone(), "not used within a day".to_owned()]);
            continue;
        };
        let breaker = match now.breaker {
            Breaker::Open => format!("open for {}", micros(now.open)),
            other => other.as_str().to_owned(),
        };
        let pause = match (now.pause, now.is_held) {
            (0, _) => UNKNOWN.to_owned(),
            (left, true) => format!("{} by an operator", micros(left)),
            (left, false) => micros(left),
        };
        table.row(vec![
            egress.egress.clone(),
            format!("{:.1}", now.rate),
            format!("{:.0}", now.ceiling),
            breaker,
            pause,
            format!("{}/{}", now.in_flight, now.max_in_flight),
            count(now.sent),
        ]);
    }
    table
}

fn micros(micros: u64) -> String {
    format::span(i64::try_from(micros.div_ceil(1_000_000)).unwrap_or(i64::MAX))
}
