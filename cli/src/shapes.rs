//! `p2p shapes`: how answers differ from the shapes that are known, and an operator's word that they may.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::{Serialize, Serializer};
use sqlx::PgConnection;

use crate::format::{self, Table, count, counted};
use crate::{EXCHANGE, EXIT_TROUBLE, NotAllowed, NotFound};

/// Characters of a sample that a line of a table shows; JSON has them all.
const SHOWN_SAMPLE_CHARS: usize = 40;

/// Which findings are accepted.
#[derive(Args)]
pub struct Which {
    /// Paths as `p2p shapes` shows them; what lies below a path goes with it.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    paths: Vec<String>,
    /// All that are open.
    #[arg(long)]
    all: bool,
    /// Only of this call, for example search.
    #[arg(long)]
    call: Option<String>,
}

/// A row of `pipeline.api_shapes`.
#[derive(Debug, Serialize, sqlx::FromRow)]
struct Finding {
    call: String,
    path: String,
    /// `new`, `missing`, `retyped` or `value`.
    change: String,
    /// The type found; `None`: missing.
    #[serde(rename = "type")]
    found: Option<String>,
    /// The value found, as written; `None`: it is not about a value.
    value: Option<String>,
    state: String,
    answers: i64,
    first_batch_id: i32,
    first_seen_at: DateTime<Utc>,
    last_batch_id: i32,
    last_seen_at: DateTime<Utc>,
    accepted_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "as_text")]
    sample: Vec<u8>,
}

/// What is no text is shown as such.
fn as_text<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

/// Prints the findings that nobody accepted, or all.
pub async fn list(all: bool, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let findings = read(&mut *pool.acquire().await?, all).await?;
    if json {
        crate::print_json(&findings)?;
    } else {
        crate::print(&text(&findings))?;
    }
    let is_open = findings.iter().any(|finding| finding.accepted_at.is_none());
    Ok(if is_open { ExitCode::from(EXIT_TROUBLE) } else { ExitCode::SUCCESS })
}

async fn read(db: &mut PgConnection, all: bool) -> anyhow::Result<Vec<Finding>> {
    let findings = sqlx::query_as(
        "SELECT call, path, change, nullif(type, '') AS found, nullif(value, '') AS value, state, answers,
                first_batch_id, first_seen_at, last_batch_id, last_seen_at, accepted_at, sample
           FROM pipeline.api_shapes WHERE exchange_id = $1 AND (state = 'new' OR $2)
          ORDER BY call, path, change, type, value",
    );
    Ok(findings.bind(EXCHANGE.id()).bind(all).fetch_all(db).await?)
}

fn text(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "answers have the shapes that are known\n".to_owned();
    }
    let mut table = Table::new(&[
        "call",
        "path",
        "change",
        "found",
        "state",
        ">answers",
        "first seen",
        "last seen",
        "sample",
    ]);
    for finding in findings {
        let found = finding.value.as_ref().or(finding.found.as_ref());
        let sample = String::from_utf8_lossy(&finding.sample);
        let sample: String = sample.chars().take(SHOWN_SAMPLE_CHARS).collect();
        table.row(vec![
            finding.call.clone(),
            format::name(&finding.path),
            finding.change.clone(),
            found.map_or_else(|| format::UNKNOWN.to_owned(), |found| format::name(found)),
            finding.state.clone(),
            count(finding.answers),
            format::instant(finding.first_seen_at),
            format::instant(finding.last_seen_at),
            format::name(&sample),
        ]);
    }
    table.to_string()
}

/// Accepts findings: they are known from then on.
pub async fn accept(which: &Which) -> anyhow::Result<ExitCode> {
    if let Some(empty) = which.paths.iter().find(|path| path.is_empty()) {
        return Err(NotAllowed(format!(
            "path {empty:?}: allowed are paths as p2p shapes shows them"
        ))
        .into());
    }
    let pool = crate::connect_checked().await?;
    let mut tx = pool.begin().await?;
    let mut accepted = 0;
    let paths: Vec<Option<&str>> = if which.all {
        vec![None]
    } else {
        which.paths.iter().map(|path| Some(path.as_str())).collect()
    };
    for path in paths {
        let update = sqlx::query(
            "UPDATE pipeline.api_shapes SET state = 'accepted', accepted_at = coalesce(accepted_at, now())
              WHERE exchange_id = $1 AND ($2::text IS NULL OR call = $2) AND (state = 'new' OR $3 IS NOT NULL)
                AND ($3::text IS NULL OR path = $3 OR starts_with(path, $3 || '.')
                     OR starts_with(path, $3 || '[]'))",
        );
        let rows =
            update.bind(EXCHANGE.id()).bind(&which.call).bind(path).execute(&mut *tx).await?;
        if let Some(path) = path.filter(|_| rows.rows_affected() == 0) {
            return Err(NotFound(format!(
                "no finding has the path {path:?}, see p2p shapes --all"
            ))
            .into());
        }
        accepted += rows.rows_affected();
    }
    tx.commit().await?;
    let accepted = i64::try_from(accepted).unwrap_or(i64::MAX);
    crate::print(&format!("accepted {}\n", counted(accepted, "finding", "findings")))?;
    Ok(ExitCode::SUCCESS)
}
