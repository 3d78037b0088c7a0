//! `p2p batch cancel`, `p2p batch rerun` and `p2p batch requests`: what is asked of the leader.
//!
//! A request is a row, so that it is not lost with this program, a connection or a leader. The leader
//! looks every second; this program waits a little for its answer.
//!
//! As JSON: [`Request`], and `{"requests": [Request]}`.

use std::fmt::Write;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::settings::Vars;
use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;

use super::facts;
use crate::format::{self, Table, UNKNOWN};
use crate::span::Moment;
use crate::{EXCHANGE, EXIT_TROUBLE, NotAllowed, NotFound};

/// Time between two looks for the answer.
const PULSE: Duration = Duration::from_millis(250);

/// The batch that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one that runs.
    Open,
    /// The last one that closed.
    Latest,
    Id(i32),
    /// The one that took this slot.
    Slot(DateTime<Utc>),
}

/// Names no batch.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "allowed are a number as `p2p batches` shows it, `open`, `latest`, and a slot such as \"2026-11-23 10:00\" (UTC)"
)]
pub struct BadTarget;

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "open" => return Ok(Self::Open),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(id) = text.parse::<i32>() {
            return if id >= 0 { Ok(Self::Id(id)) } else { Err(BadTarget) };
        }
        match text.parse() {
            Ok(Moment::At(slot)) => Ok(Self::Slot(slot)),
            _ => Err(BadTarget),
        }
    }
}

/// What was asked, and what came of it: a row of `pipeline.requests`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
struct Request {
    request_id: i64,
    /// `cancel` or `rerun`.
    kind: String,
    batch_id: Option<i32>,
    slot_at: Option<DateTime<Utc>>,
    lost_only: bool,
    why: String,
    asked_by: String,
    asked_at: DateTime<Utc>,
    /// `asked`, `done` or `refused`.
    state: String,
    /// Why it was refused.
    answer: Option<String>,
    /// The batch that was opened for a rerun.
    made_batch_id: Option<i32>,
    answered_by: Option<String>,
    answered_at: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct Requests {
    requests: Vec<Request>,
}

/// How to ask.
#[derive(clap::Args)]
pub struct Asking {
    /// Why, for whoever asks later; kept with the request.
    #[arg(long, value_name = "TEXT", value_parser = why)]
    why: String,
    /// Seconds to wait for the answer of the leader, 0 to 3600.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600), default_value_t = 10)]
    wait: u64,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Most characters of a reason, as the table has it.
const MAX_WHY_CHARS: usize = 500;

fn why(text: &str) -> Result<String, String> {
    let text = text.trim();
    let length = text.chars().count();
    if !(1..=MAX_WHY_CHARS).contains(&length) || text.chars().any(char::is_control) {
        return Err(format!("allowed are 1 to {MAX_WHY_CHARS} characters on one line"));
    }
    Ok(text.to_owned())
}

/// Asks for the end of a batch.
pub async fn cancel(target: Target, asking: Asking) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let batch = find(&pool, target).await?;
    let Some(batch_id) = batch.batch_id else {
        return Err(NotFound(format!("slot {} has no batch", slot_text(batch.slot_at))).into());
    };
    let by = asked_by(&pool).await?;
    let mut tx = pool.begin().await?;
    // Whoever closes the batch waits until this is there, or has closed it before.
    let state: Option<String> =
        sqlx::query_scalar("SELECT state FROM pipeline.batches WHERE batch_id = $1 FOR UPDATE")
            .bind(batch_id)
            .fetch_optional(&mut *tx)
            .await?;
    match state.as_deref() {
        None => return Err(NotFound(format!("there is no batch {batch_id}")).into()),
        Some("open") => {}
        Some(_) => return Err(NotAllowed(format!("batch {batch_id} is closed already")).into()),
    }
    let id = sqlx::query_scalar(
        "INSERT INTO pipeline.requests (exchange_id, kind, batch_id, why, asked_by)
         VALUES ($1, 'cancel', $2, $3, $4) ON CONFLICT DO NOTHING RETURNING request_id",
    );
    let id: Option<i64> = id
        .bind(EXCHANGE.id())
        .bind(batch_id)
        .bind(&asking.why)
        .bind(by)
        .fetch_optional(&mut *tx)
        .await?;
    tx.commit().await?;
    answer(&pool, id, &asking).await
}

/// Asks for a batch.
pub async fn rerun(
    target: Option<Target>,
    lost_only: bool,
    asking: Asking,
) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let batch = match target.or(lost_only.then_some(Target::Latest)) {
        Some(target) => find(&pool, target).await?,
        None => Batch::default(),
    };
    if lost_only {
        check_lost(&pool, &batch).await?;
    }
    let by = asked_by(&pool).await?;
    let id = sqlx::query_scalar(
        "INSERT INTO pipeline.requests (exchange_id, kind, batch_id, slot_at, lost_only, why, asked_by)
         VALUES ($1, 'rerun', $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING request_id",
    );
    let id: Option<i64> = id
        .bind(EXCHANGE.id())
        .bind(batch.batch_id)
        .bind(batch.slot_at)
        .bind(lost_only)
        .bind(&asking.why)
        .bind(by)
        .fetch_optional(&pool)
        .await?;
    answer(&pool, id, &asking).await
}

/// Lists what was asked.
pub async fn list(limit: u32, json: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut requests: Vec<Request> = sqlx::query_as(
        "SELECT * FROM pipeline.requests WHERE exchange_id = $1 ORDER BY request_id DESC LIMIT $2",
    )
    .bind(EXCHANGE.id())
    .bind(i64::from(limit))
    .fetch_all(&pool)
    .await?;
    requests.reverse();
    if json {
        crate::print_json(&Requests { requests })?;
    } else if requests.is_empty() {
        crate::print("nothing was ever asked of the leader\n")?;
    } else {
        crate::print(&table(&requests).to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Default, sqlx::FromRow)]
struct Batch {
    batch_id: Option<i32>,
    slot_at: Option<DateTime<Utc>>,
}

async fn find(pool: &PgPool, target: Target) -> anyhow::Result<Batch> {
    // A slot that nobody took has no batch, and can be made good all the same.
    let found: Option<Batch> = match target {
        Target::Open | Target::Latest => {
            let state = if target == Target::Open { "open" } else { "closed" };
            sqlx::query_as(
                "SELECT batch_id, slot_at FROM pipeline.batches WHERE exchange_id = $1 AND state = $2
                  ORDER BY batch_id DESC LIMIT 1",
            )
            .bind(EXCHANGE.id())
            .bind(state)
            .fetch_optional(pool)
            .await?
        }
        Target::Id(id) => {
            sqlx::query_as(
                "SELECT batch_id, slot_at FROM pipeline.batches WHERE exchange_id = $1 AND batch_id = $2",
            )
            .bind(EXCHANGE.id())
            .bind(id)
            .fetch_optional(pool)
            .await?
        }
        Target::Slot(slot) => {
            sqlx::query_as(
                "SELECT batch_id, slot_at FROM pipeline.slots WHERE exchange_id = $1 AND slot_at = $2",
            )
            .bind(EXCHANGE.id())
            .bind(slot)
            .fetch_optional(pool)
            .await?
        }
    };
    found.ok_or_else(|| {
        let text = match target {
            Target::Open => "no batch is open".to_owned(),
            Target::Latest => "no batch was closed yet".to_owned(),
            Target::Id(id) => format!("there is no batch {id}: see p2p batches"),
            Target::Slot(slot) => {
                format!(
                    "nothing is recorded of a slot at {}: see p2p batches",
                    slot_text(Some(slot))
                )
            }
        };
        NotFound(text).into()
    })
}

fn slot_text(slot: Option<DateTime<Utc>>) -> String {
    slot.map_or_else(|| UNKNOWN.to_owned(), format::instant)
}

/// Only a closed batch says what it lost.
async fn check_lost(pool: &PgPool, batch: &Batch) -> anyhow::Result<()> {
    let Some(batch_id) = batch.batch_id else {
        let slot = slot_text(batch.slot_at);
        return Err(NotAllowed(format!("slot {slot} has no batch: leave out --lost")).into());
    };
    let (is_open, lost): (bool, i64) = sqlx::query_as(
        "SELECT b.state = 'open', (SELECT count(*) FROM warehouse.books k
                  WHERE k.day = b.day AND k.batch_id = b.batch_id AND (k.pages_lost > 0 OR k.pages_shed > 0))
           FROM pipeline.batches b WHERE b.batch_id = $1",
    )
    .bind(batch_id)
    .fetch_one(pool)
    .await?;
    if is_open {
        return Err(NotAllowed(format!("batch {batch_id} is open: it may still read them")).into());
    }
    if lost == 0 {
        let text = format!("batch {batch_id} lost no market, or its day was dropped by age");
        return Err(NotAllowed(text).into());
    }
    Ok(())
}

/// User and host as this program was told, and the role in the database.
async fn asked_by(pool: &PgPool) -> anyhow::Result<String> {
    let role: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(pool).await?;
    let user = Vars::from_environment().text("USER", crate::settings::UNKNOWN_USER);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(format::name(&format!("{user}@{host} ({role})")))
}

async fn read(db: &PgPool, id: i64) -> anyhow::Result<Request> {
    Ok(sqlx::query_as("SELECT * FROM pipeline.requests WHERE request_id = $1")
        .bind(id)
        .fetch_one(db)
        .await?)
}

/// Waits for the answer to request `id`; `None`: the same was asked before and still waits.
async fn answer(pool: &PgPool, id: Option<i64>, asking: &Asking) -> anyhow::Result<ExitCode> {
    let Some(id) = id else {
        let text = "the same was asked already and waits for the leader: see p2p batch requests";
        return Err(NotAllowed(text.to_owned()).into());
    };
    let end = Instant::now() + Duration::from_secs(asking.wait);
    let mut request = read(pool, id).await?;
    while request.state == "asked" && Instant::now() < end {
        tokio::time::sleep(PULSE).await;
        request = read(pool, id).await?;
    }
    if asking.json {
        crate::print_json(&request)?;
    } else {
        let mut connection = pool.acquire().await?;
        crate::print(&outcome(&mut connection, &request).await?)?;
    }
    let is_refused = request.state == "refused";
    Ok(if is_refused { ExitCode::from(EXIT_TROUBLE) } else { ExitCode::SUCCESS })
}

/// What came of it, in words.
async fn outcome(db: &mut PgConnection, request: &Request) -> anyhow::Result<String> {
    let mut text = String::new();
    let id = request.request_id;
    match (request.state.as_str(), request.made_batch_id) {
        ("done", Some(made)) => writeln!(text, "request {id}: batch {made} was opened")?,
        ("done", None) => {
            let batch = request.batch_id.unwrap_or_default();
            writeln!(
                text,
                "request {id}: batch {batch} was cancelled, see p2p batch show {batch}"
            )?;
        }
        ("refused", _) => {
            let why = request.answer.as_deref().unwrap_or(UNKNOWN);
            writeln!(text, "request {id}: refused: {why}")?;
        }
        _ => {
            let facts = facts::read(db, false).await?;
            let leads = facts.leader.as_ref().is_some_and(|leader| leader.is_leading);
            let why = match facts.running.first() {
                _ if !leads => "nobody leads now: the next leader obeys".to_owned(),
                Some(running) if request.kind == "rerun" => {
                    format!("batch {} runs: the leader answers when it is closed", running.batch_id)
                }
                _ => "the leader has not answered yet".to_owned(),
            };
            writeln!(text, "request {id} is recorded; {why}")?;
        }
    }
    Ok(text)
}

fn table(requests: &[Request]) -> Table {
    let mut table =
        Table::new(&[">request", "asked (UTC)", "what", "batch", "state", "answer", "by", "why"]);
    for request in requests {
        let what = if request.lost_only { "rerun lost" } else { &request.kind };
        let batch = match (request.batch_id, request.slot_at) {
            (Some(id), _) => id.to_string(),
            (None, Some(slot)) => format!("slot {}", format::instant(slot)),
            (None, None) => UNKNOWN.to_owned(),
        };
        let made = request.made_batch_id.map(|id| format!("batch {id}"));
        table.row(vec![
            request.request_id.to_string(),
            request.asked_at.format("%m-%d %H:%M:%S").to_string(),
            what.to_owned(),
            batch,
            request.state.clone(),
            made.or_else(|| request.answer.clone()).unwrap_or_else(|| UNKNOWN.to_owned()),
            format::name(&request.asked_by),
            format::name(&request.why),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_named_by_number_word_or_slot() {
        assert_eq!("open".parse(), Ok(Target::Open));
        assert_eq!("latest".parse(), Ok(Target::Latest));
        assert_eq!("10576409".parse(), Ok(Target::Id(10_576_409)));
        let slot = "2026-11-23T10:00:00Z".parse().unwrap();
        assert_eq!("2026-11-23 10:00".parse(), Ok(Target::Slot(slot)));
        for bad in ["-1", "", "2h", "yesterday"] {
            assert_eq!(bad.parse::<Target>(), Err(BadTarget), "{bad}");
        }
    }

    #[test]
    fn a_reason_is_one_line() {
        assert_eq!(why(" a leak "), Ok("a leak".to_owned()));
        assert!(why(" ").is_err() && why("a\nb").is_err() && why(&"x".repeat(501)).is_err());
    }
}
