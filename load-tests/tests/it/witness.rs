//! The independent witness: the exchange's other view, held against our books.

use anyhow::{Context, Result};
use load_tests::fleet::Fleet;
use serde_json::{Value, json};

const ON: (&str, &str) = ("WITNESS_MARKETS_PER_BATCH", "3");
/// Six lively markets, none of them small.
const MARKET: &str = "--fiats 3 --assets 1 --ads 900 --churn-per-minute 60 --change-per-minute 200";
const JOBS: &str =
    "SELECT count(*) FROM pipeline.jobs WHERE kind IN ('witness_ads', 'witness_quote')";
const CHECKS: &str = "SELECT count(*) FROM pipeline.witness_checks";
const DISAGREE: &str = "SELECT count(*) FROM pipeline.witness_checks WHERE verdict = 'disagree'";
/// Of the last batch.
const LAST: &str = "SELECT count(*) FROM pipeline.witness_checks
     WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches)";
const LAST_DISAGREE: &str = "SELECT count(*) FROM pipeline.witness_checks
     WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches) AND verdict = 'disagree'";
const NOT_COMPLETE: &str =
    "SELECT count(*) FROM pipeline.batches WHERE outcome IS DISTINCT FROM 'complete'";

async fn lie(fleet: &Fleet, lies: Value) -> Result<()> {
    fleet.admin("lies", &lies).await
}

/// `p2p witness --json` with these arguments: the exit code and what it shows.
async fn shown(fleet: &Fleet, args: &[&str]) -> Result<(i32, Value)> {
    let output = fleet.command("p2p", &[&["witness", "--json"], args].concat())?.output().await?;
    let shown = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Ok((output.status.code().context("an exit code")?, shown))
}

/// Every request that the exchange saw is in the ledger.
async fn must_count_all(fleet: &Fleet) -> Result<()> {
    let counted = fleet.number("SELECT sum(attempts)::bigint FROM pipeline.jobs").await?;
    assert_eq!(usize::try_from(counted)?, fleet.requests()?.len());
    Ok(())
}

/// Against an exchange that tells the truth, over batches in which it moves, nothing disagrees; the lists
/// of the witness are read right before the pages they are held against.
#[tokio::test(flavor = "multi_thread")]
async fn an_honest_exchange_agrees_with_itself() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let _worker = fleet.worker("a", &[])?;
    // Off, nothing is asked; and of a market of which nothing is known there is nothing to ask.
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!((fleet.number(JOBS).await?, fleet.number(CHECKS).await?), (0, 0));
    assert_eq!(shown(&fleet, &[]).await?.0, 66);
    for _ in 0..3 {
        assert_eq!(fleet.batch(&[ON]).await?, 0);
    }
    assert_eq!((fleet.number(JOBS).await?, fleet.number(CHECKS).await?), (18, 9));
    let agree = "SELECT count(*) FROM pipeline.witness_checks
                  WHERE verdict = 'agree' AND agreed > 0 AND agreed + explained = compared AND skew_ms IS NOT NULL";
    assert_eq!(fleet.number(agree).await?, 9);
    let best = "SELECT count(*) FROM pipeline.witness_checks WHERE quote_verdict = 'best' AND quote_rank = 1";
    assert!(fleet.number(best).await? > 0);
    let apart = "SELECT count(*) FROM pipeline.jobs w
                  WHERE w.kind = 'witness_ads' AND NOT EXISTS
                        (SELECT FROM pipeline.jobs p
                          WHERE p.batch_id = w.batch_id AND p.ordinal = w.ordinal + 1 AND p.kind = 'search'
                            AND p.page = 1 AND p.market_id = w.market_id)";
    assert_eq!(fleet.number(apart).await?, 0);
    let (code, told) = shown(&fleet, &["--last", "10"]).await?;
    assert_eq!((code, &told["agreement"], &told["disagree"]), (0, &json!("1"), &json!(0)));
    assert_eq!(told["checks"].as_array().context("checks")?.len(), 9);
    let (code, told) = shown(&fleet, &["latest"]).await?;
    assert_eq!((code, told["checks"].as_array().context("checks")?.len()), (0, 3));
    assert_eq!(shown(&fleet, &["1"]).await?.0, 66);
    assert_eq!(fleet.number(NOT_COMPLETE).await?, 0);
    must_count_all(&fleet).await?;
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// A search that is consistent with itself and wrong: certificates can't tell, the witness does.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_lies_is_caught_by_the_witness_alone() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    for (search, column, result) in
        [("cut", "missing", "missing"), ("shifted", "price_differs", "price_differs")]
    {
        lie(&fleet, json!({ "search": search })).await?;
        let mut coordinator = fleet.command("coordinator", &["run", "--once"])?;
        coordinator.env("LOG_FORMAT", "json").env(ON.0, ON.1);
        let output = coordinator.output().await?;
        assert_eq!(output.status.code(), Some(0), "the batch is complete all the same");
        let log = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        let errors = log.lines().filter(|line| line.contains("the witness disagrees\""));
        let errors: Vec<&str> = errors.filter(|line| line.contains("ERROR")).collect();
        assert_eq!(errors.len(), 3, "{log}");
        assert!(
            errors.iter().all(|line| line.contains("market") && line.contains(column)),
            "{log}"
        );
        assert_eq!((fleet.number(LAST).await?, fleet.number(LAST_DISAGREE).await?), (3, 3));
        let (code, told) = shown(&fleet, &["latest"]).await?;
        assert_eq!(code, 3);
        for check in told["checks"].as_array().context("checks")? {
            let details = check["details"].as_array().context("details")?;
            let of_result = details.iter().filter(|one| one["result"] == result);
            let unexplained = of_result.filter(|one| one["explained"].is_null()).count();
            assert_eq!(json!(unexplained), check[column], "{check}");
            assert!(unexplained >= 3, "{check}");
            let market = check["market"].as_str().context("market")?;
            let named = market.replace(' ', "/");
            let one = shown(&fleet, &["latest", "--market", &named]).await?;
            assert_eq!((one.0, &one.1["checks"][0]), (3, check));
        }
    }
    // The truth again: what the lie left behind in the book before must not be held against it for long.
    lie(&fleet, json!({})).await?;
    assert_eq!(fleet.batch(&[ON]).await?, 0);
    assert_eq!((fleet.number(LAST).await?, fleet.number(LAST_DISAGREE).await?), (3, 0));
    fleet.remove().await
}

/// A witness that is wrong is told of; one that can't be read is unknown, and costs a batch nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_fails_costs_nothing() -> Result<()> {
    let fleet = Fleet::start(&format!("{MARKET} --manual-clock")).await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    let reasons = "SELECT count(*) FROM pipeline.witness_checks
                    WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches) AND reason = 'not_read'";
    for (kind, asked) in [("unreadable", 3), ("http404", 1), ("html200", 1), ("http403", 1)] {
        lie(&fleet, json!({ "witness": kind })).await?;
        assert_eq!(fleet.batch(&[ON]).await?, 0, "{kind}");
        // Nothing it said could be read for long: it is asked about one market, to try.
        if kind != "http403" {
            assert_eq!(
                (fleet.number(LAST).await?, fleet.number(reasons).await?),
                (asked, asked),
                "{kind}"
            );
        }
    }
    let once = "SELECT count(*) FROM pipeline.jobs
                 WHERE kind IN ('witness_ads', 'witness_quote') AND (attempts <> 1 OR issue <> 1)";
    assert_eq!(fleet.number(once).await?, 0);
    // Blocked there, it counted as refused: an hour without it.
    lie(&fleet, json!({})).await?;
    assert_eq!(fleet.batch(&[ON]).await?, 0);
    assert_eq!(fleet.number(LAST).await?, 0);
    sqlx::query("UPDATE pipeline.batches SET opened_at = opened_at - interval '61 minutes'")
        .execute(&fleet.pool)
        .await?;
    for (kind, disagree) in [("shifted", 3), ("stale", 3)] {
        lie(&fleet, json!({ "witness": kind })).await?;
        // What is stale differs once the market moved.
        fleet.admin("advance?ms=600000", &Value::Null).await?;
        assert_eq!(fleet.batch(&[ON]).await?, 0, "{kind}");
        assert_eq!(
            (fleet.number(LAST).await?, fleet.number(LAST_DISAGREE).await?),
            (3, disagree),
            "{kind}"
        );
    }
    // It hangs: the batch does not wait until its deadline.
    lie(&fleet, json!({ "witness": "hang" })).await?;
    assert_eq!(fleet.batch(&[ON]).await?, 0);
    assert_eq!((fleet.number(LAST).await?, fleet.number(reasons).await?), (3, 3));
    let early = "SELECT count(*) FROM pipeline.batches b JOIN pipeline.jobs j USING (batch_id)
                  WHERE j.kind = 'witness_ads' AND j.state = 'expired' AND b.closed_at < b.deadline_at";
    assert!(fleet.number(early).await? > 0);
    assert_eq!(fleet.number(NOT_COMPLETE).await?, 0);
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// The witness takes one request of a hundred at most, and the batch no more than its budget.
#[tokio::test(flavor = "multi_thread")]
async fn the_witness_keeps_to_its_share_of_the_budget() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    let many = ("WITNESS_MARKETS_PER_BATCH", "100");
    assert_eq!(fleet.batch(&[many, ("BATCH_DEADLINE_SECONDS", "10")]).await?, 0);
    let share =
        "SELECT request_budget::bigint / 200 FROM pipeline.batches ORDER BY batch_id DESC LIMIT 1";
    let share = fleet.number(share).await?;
    assert!((1..10).contains(&share), "{share}");
    assert_eq!((fleet.number(JOBS).await?, fleet.number(CHECKS).await?), (2 * share, share));
    fleet.remove().await
}

/// Killed in the middle, worker and coordinator leave a batch that others end, each market checked once.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_leaves_each_market_checked_once() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let mut first = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    first.terminate().await?;
    let slow = [("INITIAL_RATE_LIMIT", "600"), ("MAX_RATE_LIMIT", "600"), ON];
    let mut worker = fleet.worker("b", &slow)?;
    let mut coordinator = fleet.coordinator(&slow)?;
    let read = "SELECT count(*) FROM pipeline.witness_readings";
    fleet.wait_for(read, 1).await?;
    worker.kill().await?;
    coordinator.kill().await?;
    let open = "SELECT count(*) FROM pipeline.batches WHERE state = 'open'";
    assert_eq!(fleet.number(open).await?, 1);
    let _other = fleet.worker("c", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!(fleet.number(open).await?, 0);
    assert_eq!((fleet.number(JOBS).await?, fleet.number(CHECKS).await?), (6, 3));
    assert_eq!((fleet.number(read).await?, fleet.number(DISAGREE).await?), (6, 0));
    assert_eq!(fleet.number(NOT_COMPLETE).await?, 0);
    fleet.remove().await
}
