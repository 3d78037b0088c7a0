//! `p2p batches`: one line per batch, and per slot that no batch took.
//!
//! As JSON: `{"batches": [Entry]}`, newest last; see [`Entry`].

use std::process::ExitCode;

use serde::Serialize;

use crate::format::{self, Table, UNKNOWN, count, count_or_unknown};
use crate::span::Span;
use crate::timeline::{self, Entry};

#[derive(Debug, Serialize)]
struct Batches {
    batches: Vec<Entry>,
}

/// Prints the last `last` entries of the timeline, of those since `since`.
pub async fn run(last: u32, since: Option<Span>, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let now = timeline::now(&mut snapshot).await?;
    let from = since.map(|Span(span)| now - span);
    let batches = timeline::read(&mut snapshot, now, from, last).await?;
    if json {
        crate::print_json(&Batches { batches })?;
    } else if batches.is_empty() {
        crate::print("no batch was opened and no slot came due\n")?;
    } else {
        crate::print(&table(&batches).to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(entries: &[Entry]) -> Table {
    let mut table = Table::new(&[
        "batch",
        "slot (UTC)",
        "by",
        "state",
        ">secs",
        ">read",
        ">lost",
        ">shed",
        ">again",
        ">complete",
        ">ads",
        ">missed",
        ">requests",
        ">egr",
        "reason",
    ]);
    for entry in entries {
        table.row(vec![
            entry.batch_id.map_or_else(|| UNKNOWN.to_owned(), |id| id.to_string()),
            format::instant(entry.slot_at),
            entry.trigger.clone(),
            entry.outcome.clone().unwrap_or_else(|| entry.state.clone()),
            entry.duration_ms.map_or_else(|| UNKNOWN.to_owned(), format::seconds),
            count_or_unknown(entry.pages_read),
            count_or_unknown(entry.pages_lost),
            count_or_unknown(entry.pages_shed),
            count_or_unknown(entry.pages_reread),
            of(entry.books_complete, entry.books),
            count_or_unknown(entry.ads),
            count_or_unknown(entry.ads_missed),
            of(entry.requests, entry.request_budget),
            count_or_unknown(entry.egresses),
            progress(entry).or_else(|| entry.reason.clone()).unwrap_or_default(),
        ]);
    }
    table
}

/// A part of a whole: `2,900/3,000`.
fn of(part: Option<i32>, whole: Option<i32>) -> String {
    match (part, whole) {
        (None, None) => UNKNOWN.to_owned(),
        _ => format!("{}/{}", count_or_unknown(part), count_or_unknown(whole)),
    }
}

/// How far an open batch is.
pub(crate) fn progress(entry: &Entry) -> Option<String> {
    let (ended, planned) = (entry.jobs_ended?, entry.jobs_planned?);
    Some(format!("{} of {} jobs ended", count(ended), count(planned)))
}
