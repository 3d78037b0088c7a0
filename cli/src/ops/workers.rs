//! `p2p workers`: who works, behind which egress, and what it did in the last batch.
//!
//! As JSON: `{"now", "workers": [Worker]}`, see [`Worker`].

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::facts::{self, Worker};
use crate::EXIT_TROUBLE;
use crate::format::{self, Table, UNKNOWN, count};

#[derive(Serialize)]
struct Workers {
    now: DateTime<Utc>,
    workers: Vec<Worker>,
}

/// Prints them.
pub async fn run(json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let facts = facts::read(&mut snapshot, false).await?;
    let works = facts.seen().next().is_some();
    let workers = Workers { now: facts.now, workers: facts.workers };
    if json {
        crate::print_json(&workers)?;
    } else if workers.workers.is_empty() {
        crate::print("no worker was seen within a day\n")?;
    } else {
        crate::print(&table(&workers).to_string())?;
    }
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TROUBLE) })
}

fn table(Workers { now, workers }: &Workers) -> Table {
    let since = |at: DateTime<Utc>| format::span((*now - at).num_seconds().max(0));
    let mut table = Table::new(&[
        "worker",
        "egress",
        ">rate/min",
        "breaker",
        "seen",
        ">up",
        ">jobs",
        ">requests",
        "last end",
        "",
    ]);
    for worker in workers {
        let breaker = match worker.breaker_open_until {
            None => "closed".to_owned(),
            Some(until) => {
                format!("open for {}", format::span((until - *now).num_seconds().max(0)))
            }
        };
        table.row(vec![
            format::name(&worker.worker_id),
            format::name(&worker.egress_id),
            count(worker.requests_per_minute),
            breaker,
            format!("{} ago", since(worker.seen_at)),
            since(worker.started_at),
            count(worker.jobs),
            count(worker.requests),
            worker
                .last_ended_at
                .map_or_else(|| UNKNOWN.to_owned(), |at| format!("{} ago", since(at))),
            if worker.is_stale { "STALE".to_owned() } else { String::new() },
        ]);
    }
    table
}
