//! The whole system: what a batch leaves in the database, whatever happens while it runs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use load_tests::api::Fault;
use load_tests::fleet::Fleet;
use serde_json::Value;
use sqlx::Acquire;

/// A small market that moves while it is read, several times as fast as a real one.
const MOVING: &str =
    "--fiats 4 --ads 1500 --churn-per-minute 20 --change-per-minute 200 --latency-ms 5";

const ENDED: &str = "SELECT count(*) FROM pipeline.jobs WHERE ended_at IS NOT NULL";
const NOT_ENDED: &str = "SELECT count(*) FROM pipeline.jobs WHERE ended_at IS NULL";
const CLOSED_COMPLETE: &str =
    "SELECT count(*) FROM pipeline.batches WHERE state = 'closed' AND outcome = 'complete'";
const DANGLING: &str = "SELECT count(*) FROM warehouse.book_pages p, unnest(p.offer_ids) AS l (id)
     LEFT JOIN LATERAL (SELECT true AS found FROM warehouse.offer_versions v WHERE v.day = p.day AND v.id = l.id) v
       ON true WHERE v.found IS NULL";
const LISTED_TWICE: &str =
    "SELECT count(*) - count(DISTINCT (batch_id, market_id, offer_external_id))
     FROM warehouse.fact_offers";

/// Two batches over a moving market equal what the exchange showed, and the second stores changes
/// only.
#[tokio::test(flavor = "multi_thread")]
async fn two_batches_equal_the_truth() -> Result<()> {
    let fleet = Fleet::start(MOVING).await?;
    let _workers = [fleet.worker("a", &[])?, fleet.worker("b", &[])?];
    assert_eq!(fleet.batch(&[]).await?, 0);
    let first = fleet.number("SELECT count(*) FROM warehouse.offer_versions").await?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    let both = fleet.number("SELECT count(*) FROM warehouse.offer_versions").await?;
    fleet.must_equal_truth().await?;
    assert!(both - first < first / 2, "{first} versions after one batch, {both} after two");
    assert_eq!(fleet.number(NOT_ENDED).await?, 0);
    assert_eq!(fleet.number(DANGLING).await?, 0);
    assert_eq!(fleet.number(LISTED_TWICE).await?, 0);
    // Markets, fiats and methods were discovered by jobs.
    assert!(fleet.number("SELECT count(*) FROM warehouse.fiat_payment_methods").await? > 0);
    fleet.remove().await
}

/// A worker killed in the middle: its jobs are done by the other, no row is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_nothing() -> Result<()> {
    let fleet = Fleet::start(MOVING).await?;
    let mut killed = fleet.worker("killed", &[("INITIAL_RATE_LIMIT", "2000")])?;
    let _other = fleet.worker("other", &[("INITIAL_RATE_LIMIT", "2000")])?;
    let mut coordinator = fleet.coordinator(&[])?;
    fleet
        .wait_for(
            "SELECT count(*) FROM pipeline.jobs WHERE worker_id = 'killed' AND state = 'done'",
            10,
        )
        .await?;
    killed.kill().await?;
    assert!(fleet.number(NOT_ENDED).await? > 0, "killed too late to tell anything");
    assert_eq!(coordinator.wait().await?.code(), Some(0));
    fleet.must_equal_truth().await?;
    assert_eq!(fleet.number(NOT_ENDED).await?, 0);
    assert_eq!(fleet.number(DANGLING).await?, 0);
    assert_eq!(fleet.number(LISTED_TWICE).await?, 0);
    fleet.remove().await
}

/// While a group is being stored as many jobs as may be in flight are worked on, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_fetches_while_it_stores() -> Result<()> {
    const IN_FLIGHT: i64 = 5;
    /// Longest wait for the requests. Generous: it bounds a hang, not a speed.
    const PATIENCE: Duration = Duration::from_secs(20);
    /// How long no more must come: a worker without a bound would send thirty requests meanwhile.
    const SILENCE: Duration = Duration::from_secs(1);
    let fleet = Fleet::start("--fiats 4 --ads 800").await?;
    let in_flight = IN_FLIGHT.to_string();
    let settings = [("INITIAL_RATE_LIMIT", "2000"), ("MAX_WORKERS", in_flight.as_str())];
    let _worker = fleet.worker("a", &settings)?;
    let mut coordinator = fleet.coordinator(&[])?;
    fleet.wait_for("SELECT count(*) FROM pipeline.jobs WHERE state = 'done'", 10).await?;
    // What a group writes last: from here on none is committed.
    let mut storing = fleet.pool.begin().await?;
    sqlx::query("LOCK TABLE pipeline.raw_pages IN SHARE MODE").execute(&mut *storing).await?;
    let stored = fleet.number("SELECT sum(attempts)::bigint FROM pipeline.jobs").await?;
    let in_hand = || anyhow::Ok(i64::try_from(fleet.requests()?.len())? - stored);
    let end = Instant::now() + PATIENCE;
    while in_hand()? <= IN_FLIGHT {
        assert!(Instant::now() < end, "only {} jobs in hand", in_hand()?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(SILENCE).await;
    assert!(in_hand()? <= 2 * IN_FLIGHT, "{} jobs in hand", in_hand()?);
    storing.rollback().await?;
    assert_eq!(coordinator.wait().await?.code(), Some(0));
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// A coordinator killed in the middle: the next one finds the batch, goes on and closes it once.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_coordinator_is_followed() -> Result<()> {
    let fleet = Fleet::start(MOVING).await?;
    let _worker = fleet.worker("a", &[("INITIAL_RATE_LIMIT", "2000")])?;
    let mut killed = fleet.coordinator(&[])?;
    fleet.wait_for(ENDED, 30).await?;
    killed.kill().await?;
    assert_eq!(fleet.number(CLOSED_COMPLETE).await?, 0, "killed too late to tell anything");
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!(fleet.number(CLOSED_COMPLETE).await?, 2);
    assert_eq!(fleet.number("SELECT count(*) FROM pipeline.batches").await?, 2);
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// Ties in another order hide ads from a reading page by page; pages that moved are read again.
#[tokio::test(flavor = "multi_thread")]
async fn moved_pages_are_read_again() -> Result<()> {
    let still = "--churn-per-minute 0 --change-per-minute 0 --month-change-per-minute 0";
    let market = "--fiats 3 --ads 3000 --tie-shuffle-per-mille 200";
    let fleet = Fleet::start(&format!("{market} {still}")).await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[("REREAD_PERCENT", "0")]).await?, 0);
    let missed = "SELECT sum(estimated_missed) FROM warehouse.books";
    let missed_by_reading_once = fleet.number(missed).await?;
    assert_eq!(fleet.number("SELECT sum(pages_reread) FROM warehouse.books").await?, 0);
    assert_eq!(fleet.batch(&[("REREAD_PERCENT", "100")]).await?, 0);
    let missed = fleet.number(missed).await? - missed_by_reading_once;
    assert!(fleet.number("SELECT sum(pages_reread) FROM warehouse.books").await? > 0);
    // Pages read again may be in another order again, so some ads stay out of sight.
    assert!(
        missed * 3 < missed_by_reading_once * 2,
        "{missed} missed, {missed_by_reading_once} without reading again"
    );
    assert_eq!(fleet.number(LISTED_TWICE).await?, 0);
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// Errors of the exchange are tried again until every page is read. Every passing kind is met.
#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_exchange_cost_requests_only() -> Result<()> {
    let passing = || Fault::value_variants().iter().copied().filter(|fault| fault.is_passing());
    let name = |fault: Fault| fault.to_possible_value().unwrap().get_name().to_owned();
    let faults: Vec<String> = passing()
        .map(|fault| {
            // Refusals that don't say how long pause everybody for 10 s.
            let long = matches!(fault, Fault::Http429 | Fault::Http429Html | Fault::Http403);
            format!("--fault {}:{}", name(fault), if long { 5 } else { 20 })
        })
        .collect();
    // What can't be read a job asks for once more only. Of many jobs one would meet two such answers, and
    // be given up as it should be, so a request meets one fault; which are drawn is then told by the seed:
    // with this one the first 150 draws have every kind, and the long refusals once.
    let market = "--fiats 3 --ads 2000 --seed 701 --faults-per-request 1";
    let fleet = Fleet::start(&format!("{market} {}", faults.join(" "))).await?;
    // A kind that never ends is given up after this.
    // Refusals that have nothing to do with the rate would take it down to the floor.
    let settings = [("REQUEST_TIMEOUT_SECONDS", "4"), ("MIN_RATE_LIMIT", "6000")];
    let _worker = fleet.worker("a", &settings)?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    fleet.must_equal_truth().await?;
    let requests = fleet.requests()?;
    let met: BTreeSet<_> = requests.iter().filter_map(|line| line["fault"].as_str()).collect();
    let unmet: Vec<_> = passing().map(name).filter(|kind| !met.contains(&**kind)).collect();
    assert_eq!(unmet, Vec::<String>::new(), "another seed is needed");
    // A pause of everybody is long enough for jobs to be published again. What was spent on one that the
    // other delivery ended is added when its worker sees that.
    let attempts = "SELECT sum(attempts) FROM pipeline.jobs";
    fleet.wait_for(attempts, i64::try_from(requests.len())?).await?;
    let (ledger, requests) = (fleet.number(attempts).await?, fleet.requests()?.len());
    assert_eq!(usize::try_from(ledger), Ok(requests), "the ledger counts every request");
    fleet.remove().await
}

/// A fiat that goes while it is read: its books may be cut short or empty, but are not wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_fiat_delisted_in_the_middle_is_no_loss() -> Result<()> {
    let fleet = Fleet::start(MOVING).await?;
    let _worker = fleet.worker("a", &[("INITIAL_RATE_LIMIT", "2000")])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    let before = fleet.number(ENDED).await?;
    let mut coordinator = fleet.coordinator(&[])?;
    fleet.wait_for(ENDED, before + 20).await?;
    fleet.admin("delist?fiat=VES", &Value::Null).await?;
    assert!(fleet.number(NOT_ENDED).await? > 0, "delisted too late to tell anything");
    assert_eq!(coordinator.wait().await?.code(), Some(0));
    assert_eq!(fleet.batch(&[]).await?, 0);
    fleet.must_equal_truth().await?;
    // Its markets answer empty. That it left, only the list of fiats tells, which is read at once.
    let lists = "SELECT count(*) FROM pipeline.jobs WHERE kind = 'fiat_list' AND state = 'done'";
    assert!(fleet.number(lists).await? >= 2);
    let gone = "SELECT count(*) FROM warehouse.books b JOIN warehouse.dim_markets USING (market_id)
                  JOIN warehouse.dim_fiat_currencies USING (fiat_id)
                 WHERE verdict = 'empty' AND is_listed = (currency_code = 'VES')
                   AND batch_id = (SELECT max(batch_id) FROM pipeline.batches)";
    let empty = "SELECT count(*) FROM warehouse.books WHERE verdict = 'empty'
                   AND batch_id = (SELECT max(batch_id) FROM pipeline.batches)";
    assert_eq!(fleet.number(gone).await?, 0, "listed is what is not VES");
    assert!(fleet.number(empty).await? > 0);
    fleet.remove().await
}

/// A total that is far too large costs a few requests, and no loss is claimed nor a whole book sworn.
#[tokio::test(flavor = "multi_thread")]
async fn an_untrue_total_is_not_followed() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 400 --assets 3 --fault untrue-total:1000").await?;
    let _worker = fleet.worker("a", &[("MAX_WORKERS", "4")])?;
    for _ in 0..2 {
        assert_eq!(fleet.batch(&[]).await?, 0);
    }
    let complete = "SELECT count(*) FROM warehouse.books WHERE verdict = 'complete'";
    assert_eq!(fleet.number(complete).await?, 0);
    let estimate =
        "SELECT count(*) FROM warehouse.books WHERE max_total > 0 AND estimated_missed < 900";
    assert_eq!(fleet.number(estimate).await?, 0, "what is not seen is told");
    // 1,000 more ads are 50 more pages of each of six markets and two batches.
    let empty = "SELECT sum(attempts) FROM pipeline.jobs WHERE page > 1 AND state = 'empty'";
    let asked = fleet.number(empty).await?;
    assert!(asked < 200, "{asked} requests for pages that are not there");
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// SIGTERM: the worker ends by itself, and what it left is done by another.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_drains() -> Result<()> {
    let fleet = Fleet::start(MOVING).await?;
    let mut drained = fleet.worker("drained", &[("INITIAL_RATE_LIMIT", "2000")])?;
    let mut coordinator = fleet.coordinator(&[])?;
    fleet.wait_for(ENDED, 30).await?;
    assert!(drained.terminate().await?.success());
    assert!(fleet.number(NOT_ENDED).await? > 0, "drained too late to tell anything");
    let _other = fleet.worker("other", &[])?;
    assert_eq!(coordinator.wait().await?.code(), Some(0));
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// With no exchange to be reached the batch fails, at its deadline at the latest, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_read_is_a_failed_batch() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 50").await?;
    // Nothing listens on the discard port.
    let nowhere = [("BINANCE_BASE_URL", "http://127.0.0.1:9"), ("MAX_RETRIES", "0")];
    let _worker = fleet.worker("a", &nowhere)?;
    assert_eq!(fleet.batch(&[]).await?, 4);
    let failed = "SELECT count(*) FROM pipeline.jobs WHERE state = 'failed' AND reason = 'network' AND issue = 2";
    assert_eq!(fleet.number(failed).await?, 1);
    fleet.remove().await
}

/// A deadline cuts the batch: what was read stays, the rest is expired, the exit code says partial.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_cuts_the_batch() -> Result<()> {
    let fleet = Fleet::start("--fiats 3 --ads 1200 --latency-ms 100").await?;
    // One request at a time can't use the rate that the plan counts on.
    let _worker = fleet.worker("a", &[("MAX_WORKERS", "1")])?;
    assert_eq!(fleet.batch(&[("BATCH_DEADLINE_SECONDS", "4")]).await?, 3);
    assert_eq!(fleet.number(NOT_ENDED).await?, 0);
    assert!(fleet.number("SELECT count(*) FROM pipeline.jobs WHERE state = 'expired'").await? > 0);
    assert!(
        fleet.number("SELECT count(*) FROM warehouse.books WHERE verdict = 'complete'").await? > 0
    );
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// A budget that does not suffice sheds whole books, records them, and reads them first next time.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_shed_is_recorded_and_read_next() -> Result<()> {
    let fleet = Fleet::start("--fiats 2 --ads 600").await?;
    let mut fast = fleet.worker("fast", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert!(fast.terminate().await?.success());
    // 600 requests a minute for 6 seconds, less the reserve: 57 pages, where about 70 are needed. The
    // coordinator learns the rate from the worker.
    let _slow = fleet.worker("slow", &[("INITIAL_RATE_LIMIT", "600")])?;
    fleet.wait_for("SELECT count(*) FROM pipeline.workers WHERE worker_id = 'slow'", 1).await?;
    let tight = [("BATCH_DEADLINE_SECONDS", "6")];
    assert_eq!(fleet.batch(&tight).await?, 3);
    let shed = "SELECT count(DISTINCT market_id) FROM pipeline.jobs WHERE state = 'shed' AND reason = 'budget'";
    let markets_shed = fleet.number(shed).await?;
    assert!(markets_shed > 0);
    assert_eq!(
        fleet.number("SELECT count(*) FROM pipeline.catalog WHERE consecutive_shed = 1").await?,
        markets_shed
    );
    assert_eq!(fleet.batch(&tight).await?, 3);
    assert_eq!(
        fleet.number("SELECT count(*) FROM pipeline.catalog WHERE consecutive_shed = 2").await?,
        0
    );
    fleet.remove().await
}

/// The rate of each egress is there for the plan once, however many workers share it.
#[tokio::test(flavor = "multi_thread")]
async fn the_budget_counts_every_egress_once() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 100").await?;
    let _workers = [
        fleet.worker("a", &[("EGRESS_ID", "one"), ("INITIAL_RATE_LIMIT", "600")])?,
        fleet.worker("b", &[("EGRESS_ID", "one"), ("INITIAL_RATE_LIMIT", "600")])?,
        fleet.worker("c", &[("EGRESS_ID", "two"), ("INITIAL_RATE_LIMIT", "1200")])?,
    ];
    fleet.wait_for("SELECT count(*) FROM pipeline.workers", 3).await?;
    assert_eq!(fleet.batch(&[("BATCH_DEADLINE_SECONDS", "60")]).await?, 0);
    assert_eq!(fleet.number("SELECT egresses::bigint FROM pipeline.batches").await?, 2);
    // 1,800 a minute less the reserve, for what is left of the minute after the discovery.
    let budget = fleet.number("SELECT request_budget::bigint FROM pipeline.batches").await?;
    assert!((1200..=1710).contains(&budget), "{budget}");
    fleet.remove().await
}

/// The three sample queries, verbatim, with `warehouse` on the search path.
#[tokio::test(flavor = "multi_thread")]
async fn sample_queries_run_verbatim() -> Result<()> {
    const Q1: &str =
        "SELECT trade_type, MIN(price) as best_price, SUM(available_amount) as total_liquidity
FROM mv_latest_market_state
WHERE fiat_code = 'VES' AND crypto_symbol = 'USDT'
GROUP BY trade_type;";
    const Q2: &str = "SELECT advertiser, SUM(available_amount) as total_volume, AVG(completion_rate) as avg_completion_rate,
       COUNT(DISTINCT offer_external_id) as offer_count
FROM fact_offers fo JOIN dim_advertisers da ON fo.advertiser_sk = da.advertiser_sk
WHERE extraction_timestamp > NOW() - INTERVAL '24 hours' AND da.is_merchant = TRUE
GROUP BY advertiser ORDER BY total_volume DESC LIMIT 10;";
    const Q3: &str =
        "SELECT dpm.method_name, STDDEV(fo.price) as price_volatility, AVG(fo.price) as avg_price
FROM fact_offers fo
JOIN fact_offer_payment_methods fopm ON fo.offer_id = fopm.offer_id
JOIN dim_payment_methods dpm ON fopm.payment_method_id = dpm.payment_method_id
WHERE fo.fiat_id = (SELECT fiat_id FROM dim_fiat_currencies WHERE currency_code = 'VES')
  AND fo.crypto_id = (SELECT crypto_id FROM dim_cryptocurrencies WHERE symbol = 'USDT')
  AND fo.extraction_timestamp > NOW() - INTERVAL '24 hours'
GROUP BY dpm.method_name ORDER BY price_volatility DESC;";
    let fleet = Fleet::start("--fiats 4 --ads 800").await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[("FIATS", "VES")]).await?, 0);
    let mut connection = fleet.pool.acquire().await.unwrap();
    sqlx::query("SET search_path = warehouse").execute(&mut *connection).await.unwrap();
    let sides = sqlx::query(Q1).fetch_all(&mut *connection).await.unwrap();
    assert_eq!(sides.len(), 2, "both sides of USDT/VES");
    assert!(!sqlx::query(Q2).fetch_all(&mut *connection).await.unwrap().is_empty());
    assert!(!sqlx::query(Q3).fetch_all(&mut *connection).await.unwrap().is_empty());
    // However little the planner knows of a day that has just begun: each ad's version is read by its key.
    let mut tx = connection.begin().await.unwrap();
    sqlx::query("SET LOCAL enable_seqscan = off").execute(&mut *tx).await.unwrap();
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN (ANALYZE, FORMAT JSON) {Q1}"));
    let plan: Value = sqlx::query_scalar(explain).fetch_one(&mut *tx).await.unwrap();
    let ads: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM mv_latest_market_state WHERE fiat_code = 'VES' AND crypto_symbol = 'USDT'",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    let read = rows_read(&plan, "offer_versions_");
    assert!(ads > 20 && read == ads.unsigned_abs(), "{read} versions for {ads} ads: {plan:#}");
    drop(tx);
    drop(connection);
    let fiats = "SELECT count(DISTINCT fiat_id) FROM warehouse.fact_offers";
    assert_eq!(fleet.number(fiats).await?, 1, "FIATS restricts what is read");
    fleet.remove().await
}

/// Rows that a plan, as `EXPLAIN (ANALYZE, FORMAT JSON)` tells it, read of the relations whose names begin so.
fn rows_read(plan: &Value, relations: &str) -> u64 {
    match plan {
        Value::Array(nodes) => nodes.iter().map(|node| rows_read(node, relations)).sum(),
        Value::Object(node) => {
            // Some versions of the server give means with decimals.
            let number = |key: &str| {
                let text = node.get(key).map(Value::to_string).unwrap_or_default();
                text.split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or(0_u64)
            };
            let below = ["Plan", "Plans"].iter().filter_map(|key| node.get(*key));
            let below: u64 = below.map(|below| rows_read(below, relations)).sum();
            let name = node.get("Relation Name").and_then(Value::as_str).unwrap_or_default();
            let rows = number("Actual Rows") + number("Rows Removed by Filter");
            below + if name.starts_with(relations) { rows * number("Actual Loops") } else { 0 }
        }
        _ => 0,
    }
}

/// Every relation and every column of both schemas says what it is.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_commented() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 10").await?;
    let bare: Vec<String> = sqlx::query_scalar(
        "SELECT n.nspname || '.' || c.relname || coalesce('.' || a.attname, '')
           FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname IN ('warehouse', 'pipeline')
           LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped AND a.attnum >= 0
          WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
            AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)",
    )
    .fetch_all(&fleet.pool)
    .await
    .unwrap();
    assert_eq!(bare, Vec::<String>::new());
    fleet.remove().await
}
