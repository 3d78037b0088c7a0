//! What must hold after a fault: named checks of the database, the broker and the exchange's log.

use std::collections::HashMap;

use anyhow::{Context, Result};

use super::arena::Arena;
use super::lines::Allowed;

/// Counts that must be 0, with the name of the check.
const MUST_BE_NONE: [(&str, &str); 7] = [
    ("jobs-ended", "SELECT count(*) FROM pipeline.jobs WHERE ended_at IS NULL"),
    (
        "batches-closed",
        "SELECT count(*) FROM pipeline.batches WHERE state <> 'closed' OR closed_at IS NULL",
    ),
    (
        "no-dangling-ads",
        "SELECT count(*) FROM warehouse.book_pages p, unnest(p.offer_ids) AS l (id)
           LEFT JOIN LATERAL (SELECT true AS found FROM warehouse.offer_versions v
                               WHERE v.day = p.day AND v.id = l.id) v ON true
          WHERE v.found IS NULL",
    ),
    (
        "no-ad-twice",
        "SELECT count(*) - count(DISTINCT (batch_id, market_id, offer_external_id))
           FROM warehouse.fact_offers",
    ),
    (
        "pages-of-done-jobs",
        "SELECT count(*) FROM pipeline.jobs j
           FULL JOIN warehouse.book_pages p USING (day, batch_id, ordinal)
          WHERE (j.kind = 'search' AND j.state = 'done') IS DISTINCT FROM (p.ordinal IS NOT NULL)
            AND (j.kind = 'search' OR p.ordinal IS NOT NULL)",
    ),
    (
        "slots-ended",
        "SELECT count(*) FROM pipeline.slots s LEFT JOIN pipeline.batches b USING (batch_id)
          WHERE s.state = 'batch' AND b.state IS DISTINCT FROM 'closed'",
    ),
    (
        "books-of-all-markets",
        "SELECT count(*) FROM pipeline.jobs j
           LEFT JOIN warehouse.books k USING (day, batch_id, market_id)
          WHERE j.kind = 'search' AND k.market_id IS NULL",
    ),
];

/// The batches of a line: the disturbed one, and the one after it.
const BATCHES: usize = 2;

/// What a line cost, and what did not hold.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    /// Requests beyond one per job.
    pub(super) repeated: i64,
    /// Requests that the exchange saw and the ledger does not count.
    pub(super) beyond: i64,
    pub(super) violations: Vec<String>,
}

impl Judgement {
    fn check(&mut self, name: &str, holds: bool, found: impl std::fmt::Display) {
        if !holds {
            self.violations.push(format!("{name}: {found}"));
        }
    }
}

/// Judges; all processes of the fleet have ended.
pub(super) async fn judge(arena: &Arena, allowed: &Allowed) -> Result<Judgement> {
    let mut judgement = Judgement::default();
    let fleet = &arena.fleet;
    let verified = fleet.verify().await?;
    let report = String::from_utf8_lossy(&verified.stdout);
    std::fs::write(arena.directory.join("verify.txt"), report.as_bytes())?;
    let differences: Vec<&str> =
        report.lines().filter(|line| line.starts_with("VIOLATION")).collect();
    let error = String::from_utf8_lossy(&verified.stderr);
    let differences = format!("{} {}", differences.join("; "), error.trim());
    judgement.check("equals-truth", verified.status.success(), differences.trim());
    for (name, sql) in MUST_BE_NONE {
        let count = fleet.number(sql).await?;
        judgement.check(name, count == 0, count);
    }
    let outcomes: Vec<Option<String>> =
        sqlx::query_scalar("SELECT outcome FROM pipeline.batches ORDER BY batch_id")
            .fetch_all(&fleet.pool)
            .await?;
    let must = [Some(allowed.outcome.to_owned()), Some("complete".to_owned())];
    judgement.check("outcomes", outcomes == must, format!("{outcomes:?}, must be {must:?}"));
    told_once(arena, allowed, &mut judgement).await?;
    queues(arena, allowed, &mut judgement).await?;
    requests(arena, allowed, &mut judgement).await?;
    Ok(judgement)
}

/// Each batch is told to be closed once, by the broker and by the database.
async fn told_once(arena: &Arena, allowed: &Allowed, judgement: &mut Judgement) -> Result<()> {
    let batches: Vec<i32> =
        sqlx::query_scalar("SELECT batch_id FROM pipeline.batches ORDER BY batch_id")
            .fetch_all(&arena.fleet.pool)
            .await?;
    judgement.check("two-batches", batches.len() == BATCHES, batches.len());
    let events: HashMap<String, usize> = arena.broker.count_events().await?;
    for (index, batch) in batches.iter().map(ToString::to_string).enumerate() {
        let told = events.get(&batch).copied().unwrap_or(0);
        let notified = arena.notifications(&batch);
        let (events, notifications) = if index == 0 {
            (allowed.events.clone(), allowed.notifications.clone())
        } else {
            (1..=1, 1..=1)
        };
        judgement.check("event-once", events.contains(&told), format!("{told}, batch {index}"));
        let found = format!("{notified}, batch {index}");
        judgement.check("notified-once", notifications.contains(&notified), found);
    }
    Ok(())
}

async fn queues(arena: &Arena, allowed: &Allowed, judgement: &mut Judgement) -> Result<()> {
    for queue in ["jobs.urgent", "jobs.normal"] {
        let depth = arena.broker.depth(queue).await?;
        judgement.check(
            "queues-empty",
            depth == 0 || allowed.leftovers,
            format!("{depth} in {queue}"),
        );
    }
    // A report that comes after its batch was closed waits for the next leader: never more than a
    // batch has jobs.
    let reports = i64::from(arena.broker.depth("reports").await?);
    let jobs = arena.fleet.number("SELECT count(*) FROM pipeline.jobs").await?;
    judgement.check("reports-bounded", reports <= jobs, format!("{reports} of {jobs} jobs"));
    let dead = arena.broker.depth("dead").await?;
    judgement.check("dead-letters", dead == allowed.dead_letters, dead);
    Ok(())
}

/// What the exchange saw against what the ledger counts.
async fn requests(arena: &Arena, allowed: &Allowed, judgement: &mut Judgement) -> Result<()> {
    let log = std::fs::read_to_string(&arena.fleet.request_log).context("the request log")?;
    let seen = i64::try_from(log.lines().count())?;
    let counted =
        arena.fleet.number("SELECT coalesce(sum(attempts), 0)::bigint FROM pipeline.jobs").await?;
    let asking =
        arena.fleet.number("SELECT count(*) FROM pipeline.jobs WHERE attempts > 0").await?;
    judgement.repeated = seen - asking;
    judgement.beyond = seen - counted;
    let found = format!("{seen} seen, {counted} counted, allowed beyond: {:?}", allowed.beyond);
    judgement.check("requests", allowed.beyond.contains(&judgement.beyond), found);
    Ok(())
}
