//! What operators ask of the leader, with real programs: a batch is cancelled in the middle, its lost
//! markets are read by another, and leaders are killed between.

use anyhow::{Context, Result, ensure};
use load_tests::fleet::{Fleet, Process};
use serde_json::Value;

/// Enough pages that a batch lasts a while at [`SLOW`].
const MARKET: &str = "--fiats 4 --ads 1500";
/// Requests per minute while a batch is to be caught in the middle.
const SLOW: (&str, &str) = ("INITIAL_RATE_LIMIT", "300");

const DONE: &str =
    "SELECT count(*) FROM pipeline.jobs WHERE kind = 'search' AND state IN ('done', 'empty')";
const NOT_ENDED: &str = "SELECT count(*) FROM pipeline.jobs WHERE ended_at IS NULL";
const CLOSED: &str = "SELECT count(*) FROM pipeline.batches WHERE state = 'closed'";
const SLOTS: &str = "SELECT count(*) FROM pipeline.slots";

/// A coordinator that keeps a schedule of one slot a day, of which the current one is on time.
fn leader(fleet: &Fleet) -> Result<Process> {
    let mut command = fleet.command("coordinator", &["run"])?;
    command
        .env("EXTRACTION_INTERVAL_MINUTES", "1440")
        .env("BATCH_DEADLINE_SECONDS", "86399")
        .env("MISFIRE_GRACE_SECONDS", "86399");
    Process::spawn(command)
}

/// The exit code of p2p, and what it says as JSON.
async fn p2p(fleet: &Fleet, args: &[&str]) -> Result<(i32, Value)> {
    let output = fleet.command("p2p", args)?.arg("--json").output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let json = serde_json::from_str(&text).with_context(|| format!("{args:?}: {output:?}"))?;
    Ok((output.status.code().context("no exit code")?, json))
}

/// A `.env` may name the database of a real installation, which `p2p migrate` would prefer.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_keeps_away_from_the_database_of_a_dotenv() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let elsewhere = std::env::temp_dir().join(format!("{}_dotenv", fleet.name));
    std::fs::create_dir(&elsewhere)?;
    let of_others = "OWNER_DATABASE_URL=postgres://owner@127.0.0.1:1/real\n";
    std::fs::write(elsewhere.join(".env"), of_others)?;
    let migrated = fleet.command("p2p", &["migrate"])?.current_dir(&elsewhere).output().await?;
    assert!(migrated.status.success(), "{migrated:?}");
    std::fs::remove_dir_all(elsewhere)?;
    fleet.remove().await
}

/// Cancelled in the middle, a batch keeps what was read, and says of the rest why it was not. A batch of
/// what it lost reads just that, although its leader is killed, and no slot is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_cancelled_and_made_good() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let slow = fleet.worker("slow", &[SLOW])?;
    let mut first = leader(&fleet)?;
    fleet.wait_for(DONE, 5).await?;
    let asked = ["batch", "cancel", "open", "--why", "a drill", "--wait", "60"];
    let (code, request) = p2p(&fleet, &asked).await?;
    ensure!((code, &request["state"]) == (0, &"done".into()), "{code}: {request}");
    let cancelled = request["batch_id"].as_i64().context("batch_id")?;
    let (outcome, reason): (String, String) =
        sqlx::query_as("SELECT outcome, reason FROM pipeline.batches")
            .fetch_one(&fleet.pool)
            .await?;
    assert_eq!(outcome, "partial");
    assert!(reason.starts_with("cancelled by ") && reason.contains(": a drill, "), "{reason}");
    assert_eq!(fleet.number(NOT_ENDED).await?, 0);
    let lost: Vec<i32> = sqlx::query_scalar(
        "SELECT market_id FROM warehouse.books WHERE pages_lost > 0 OR pages_shed > 0 ORDER BY 1",
    )
    .fetch_all(&fleet.pool)
    .await?;
    assert!(!lost.is_empty(), "cancelled too late to tell anything");
    let expired =
        "SELECT count(*) FROM pipeline.jobs WHERE state = 'expired' AND reason = 'cancelled'";
    assert!(fleet.number(expired).await? > 0);

    // Asked for while nobody leads: the next leader obeys, and one after it goes on.
    first.kill().await?;
    let asked = ["batch", "rerun", "--lost", "--why", "make good", "--wait", "0"];
    let (code, request) = p2p(&fleet, &asked).await?;
    assert_eq!((code, &request["state"]), (0, &"asked".into()), "{request}");
    assert_eq!(request["batch_id"], cancelled);
    let mut second = leader(&fleet)?;
    let opened = "SELECT count(*) FROM pipeline.batches WHERE state = 'open'";
    fleet.wait_for(opened, 1).await?;
    second.kill().await?;
    let _quick = fleet.worker("quick", &[])?;
    let third = leader(&fleet)?;
    fleet.wait_for(CLOSED, 2).await?;
    let made: i32 =
        sqlx::query_scalar("SELECT made_batch_id FROM pipeline.requests WHERE kind = 'rerun'")
            .fetch_one(&fleet.pool)
            .await?;
    let read: Vec<i32> =
        sqlx::query_scalar("SELECT market_id FROM warehouse.books WHERE batch_id = $1 ORDER BY 1")
            .bind(made)
            .fetch_all(&fleet.pool)
            .await?;
    assert_eq!(read, lost, "just what was lost");
    let (trigger, outcome): (String, String) =
        sqlx::query_as("SELECT trigger, outcome FROM pipeline.batches WHERE batch_id = $1")
            .bind(made)
            .fetch_one(&fleet.pool)
            .await?;
    assert_eq!((trigger.as_str(), outcome.as_str()), ("once", "complete"));
    assert_eq!(fleet.number(SLOTS).await?, 1, "a rerun takes no slot");

    // What was made good can be told by the rest of the tool.
    let (_, requests) = p2p(&fleet, &["batch", "requests"]).await?;
    assert_eq!(requests["requests"][1]["made_batch_id"], made);
    drop((slow, third));
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// A request to cancel outlives the leader that did not read it.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_leader_cancels() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let _slow = fleet.worker("slow", &[SLOW])?;
    let mut first = leader(&fleet)?;
    fleet.wait_for(DONE, 5).await?;
    first.kill().await?;
    let asked = ["batch", "cancel", "open", "--why", "nobody leads", "--wait", "0"];
    let (code, request) = p2p(&fleet, &asked).await?;
    assert_eq!((code, &request["state"]), (0, &"asked".into()), "{request}");
    assert_eq!(p2p_code(&fleet, &asked).await?, 64, "it was asked already");
    let _second = leader(&fleet)?;
    fleet.wait_for(CLOSED, 1).await?;
    let state: String =
        sqlx::query_scalar("SELECT state FROM pipeline.requests").fetch_one(&fleet.pool).await?;
    assert_eq!(state, "done");
    assert_eq!(p2p_code(&fleet, &asked).await?, 66, "nothing is open any more");
    fleet.remove().await
}

async fn p2p_code(fleet: &Fleet, args: &[&str]) -> Result<i32> {
    let output = fleet.command("p2p", args)?.output().await?;
    output.status.code().context("no exit code")
}
