//! The pages of advertisers: read beside the batch, merged into what the search shows.

use anyhow::Result;
use load_tests::fleet::Fleet;
use serde_json::json;

const ON: (&str, &str) = ("ADVERTISER_REQUESTS_PER_BATCH", "10000");
/// A market in which only the terms change, and these by the clock of the test.
const STILL: &str = "--fiats 2 --ads 300 --churn-per-minute 0 --change-per-minute 0 \
     --month-change-per-minute 0 --rename-per-hour 0 --tie-shuffle-per-mille 0 --manual-clock";
const PATH: &str = "/bapi/c2c/v2/friendly/c2c/user/profile-and-ads-list";
const OUT: &str = "SELECT count(*) FROM pipeline.jobs WHERE ended_at IS NULL";
const NONE_OUT: &str =
    "SELECT (count(*) = 0)::int::bigint FROM pipeline.jobs WHERE ended_at IS NULL";
const READ: &str =
    "SELECT count(*) FROM pipeline.jobs WHERE kind = 'advertiser' AND state = 'done'";
const ADVERTISERS: &str = "SELECT count(DISTINCT advertiser_id) FROM warehouse.dim_advertisers";
/// A promoted ad stands on its page twice, so that its content may be stored twice.
const VERSIONS: &str =
    "SELECT count(DISTINCT (adv_no, content_hash)) FROM warehouse.offer_versions";
/// Ads of the last batch that carry terms, and all of them.
const WITH_TERMS: &str = "SELECT count(terms) FROM warehouse.fact_offers
     WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches)";
const ADS: &str = "SELECT count(*) FROM warehouse.fact_offers
     WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches)";

fn requests_for_advertisers(fleet: &Fleet) -> Result<usize> {
    Ok(fleet.requests()?.iter().filter(|line| line["path"] == PATH).count())
}

async fn all_ended(fleet: &Fleet) -> Result<()> {
    fleet.wait_for(NONE_OUT, 1).await
}

/// Lets so much time pass for what is known of advertisers.
async fn age(fleet: &Fleet, time: &str) -> Result<()> {
    sqlx::query(
        "UPDATE pipeline.advertiser_catalog
            SET asked_at = asked_at - $1::text::interval, read_at = read_at - $1::text::interval,
                failed_at = failed_at - $1::text::interval",
    )
    .bind(time)
    .execute(&fleet.pool)
    .await?;
    Ok(())
}

/// Off, nothing asks for the pages. On, the next batch carries the terms, a version is new only where
/// something is news, and nobody is asked again before the time.
#[tokio::test(flavor = "multi_thread")]
async fn terms_come_with_the_next_batch_and_cost_rows_on_change_only() -> Result<()> {
    let fleet = Fleet::start(&format!("{STILL} --reword-per-hour 10000")).await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!(requests_for_advertisers(&fleet)?, 0);
    assert_eq!(fleet.number(WITH_TERMS).await?, 0);
    let plain = fleet.number(VERSIONS).await?;

    // Whose ads the last batch showed is planned now; the terms are known from the next batch on.
    assert_eq!(fleet.batch(&[ON]).await?, 0);
    all_ended(&fleet).await?;
    let advertisers = fleet.number(ADVERTISERS).await?;
    assert_eq!(fleet.number(READ).await?, advertisers);
    assert_eq!(requests_for_advertisers(&fleet)?, usize::try_from(advertisers)?);
    assert_eq!(fleet.batch(&[ON]).await?, 0);
    let ads = fleet.number(ADS).await?;
    assert_eq!(fleet.number(WITH_TERMS).await?, ads);
    let merged = fleet.number(VERSIONS).await?;
    assert_eq!(merged - plain, ads, "each ad has one more version: that with terms");
    assert_eq!(fleet.number(READ).await?, advertisers, "all were read a moment ago");

    // Nothing is news: no row.
    assert_eq!(fleet.batch(&[ON]).await?, 0);
    assert_eq!(fleet.number(VERSIONS).await?, merged);
    let terms = "SELECT count(*) FROM warehouse.offer_terms";
    let profiles = "SELECT count(*) FROM warehouse.advertiser_profiles";
    assert_eq!(fleet.number(terms).await?, ads);
    assert_eq!(fleet.number(profiles).await?, advertisers);

    // Some terms are reworded. They are old enough to be read again only if they were read long ago.
    fleet.admin("advance?ms=30000", &json!(null)).await?;
    age(&fleet, "25 hours").await?;
    assert_eq!(fleet.batch(&[ON]).await?, 0);
    all_ended(&fleet).await?;
    assert_eq!(fleet.number(READ).await?, 2 * advertisers);
    assert_eq!(fleet.batch(&[]).await?, 0);
    let reworded = fleet.number(terms).await? - ads;
    assert!(reworded > 3 && reworded < ads / 2, "{reworded} of {ads}");
    assert_eq!(fleet.number(profiles).await?, advertisers, "figures did not change");
    assert_eq!(fleet.number(VERSIONS).await? - merged, reworded);
    fleet.must_equal_truth().await?;

    let undated = "SELECT count(*) FROM warehouse.dim_advertisers
                    WHERE registered_on IS DISTINCT FROM (now() AT TIME ZONE 'UTC')::date - 900";
    assert_eq!(fleet.number(undated).await?, 0);
    let exact = "SELECT count(*) FROM warehouse.fact_offers WHERE taker_conditions::text = '{\"userTradeVolumeMin\": 0.10}'";
    assert!(fleet.number(exact).await? > 0);
    let privileges = "SELECT count(*) FROM warehouse.book_pages WHERE privilege_types @> '{8}'";
    assert!(fleet.number(privileges).await? > 0);
    fleet.remove().await
}

/// No page waits for an advertiser: a batch closes, complete, while these are still to be read, and what
/// is lost of them is recorded when a later batch opens.
#[tokio::test(flavor = "multi_thread")]
async fn lost_pages_of_advertisers_leave_the_batch_complete() -> Result<()> {
    let fleet = Fleet::start(STILL).await?;
    let mut worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert!(worker.terminate().await?.success());
    // Slow enough that the pages end long before the advertisers.
    let mut slow =
        fleet.worker("b", &[("INITIAL_RATE_LIMIT", "1200"), ("MAX_RATE_LIMIT", "1200")])?;
    let seconds = [ON, ("BATCH_DEADLINE_SECONDS", "20")];
    assert_eq!(fleet.batch(&seconds).await?, 0);
    slow.kill().await?;
    let open = fleet.number(OUT).await?;
    assert!(open > 0, "all were read before the worker was killed");
    let told =
        "SELECT advertisers_open::bigint FROM pipeline.batches ORDER BY batch_id DESC LIMIT 1";
    assert!(fleet.number(told).await? >= open);

    // Their messages are gone.
    fleet.lose_queue("jobs.low").await?;
    let over = "SELECT (deadline_at < now())::int::bigint FROM pipeline.batches ORDER BY batch_id DESC LIMIT 1";
    fleet.wait_for(over, 1).await?;
    // What the killed worker had sent to the database may have been done after it was gone.
    let open = fleet.number(OUT).await?;
    let _other = fleet.worker("c", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!(fleet.number(OUT).await?, 0);
    let expired = "SELECT count(*) FROM pipeline.jobs WHERE kind = 'advertiser' AND state = 'expired' AND reason = 'deadline'";
    assert_eq!(fleet.number(expired).await?, open);
    let partial = "SELECT count(*) FROM pipeline.batches WHERE outcome <> 'complete'";
    assert_eq!(fleet.number(partial).await?, 0);
    fleet.remove().await
}

/// An advertiser whose page fails costs its own requests, is quarantined or noted, and is left alone for
/// a while; the batch is complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_fails_is_not_asked_for_in_every_batch() -> Result<()> {
    let fleet = Fleet::start(STILL).await?;
    // A path of the host that is gone.
    let gone = [("BINANCE_ADVERTISER_ENDPOINT", "/gone")];
    let _worker = fleet.worker("a", &gone)?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    for _ in 0..2 {
        assert_eq!(fleet.batch(&[ON]).await?, 0);
        all_ended(&fleet).await?;
    }
    let failed = "SELECT count(*) FROM pipeline.jobs WHERE kind = 'advertiser' AND state = 'failed' AND reason = 'http_status'";
    let advertisers = fleet.number(ADVERTISERS).await?;
    assert_eq!(fleet.number(failed).await?, advertisers, "once each");
    let noted = "SELECT count(*) FROM pipeline.advertiser_catalog WHERE read_at IS NULL AND consecutive_failures = 1";
    assert_eq!(fleet.number(noted).await?, advertisers);
    age(&fleet, "59 minutes").await?;
    assert_eq!(fleet.batch(&[ON]).await?, 0);
    assert_eq!(fleet.number(failed).await?, advertisers, "not yet");
    age(&fleet, "2 minutes").await?;
    assert_eq!(fleet.batch(&[ON]).await?, 0);
    all_ended(&fleet).await?;
    assert_eq!(fleet.number(failed).await?, 2 * advertisers);
    fleet.remove().await
}

/// The bound of its own holds.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_advertisers_are_read_than_told() -> Result<()> {
    let fleet = Fleet::start(STILL).await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!(fleet.batch(&[("ADVERTISER_REQUESTS_PER_BATCH", "7")]).await?, 0);
    all_ended(&fleet).await?;
    assert_eq!(requests_for_advertisers(&fleet)?, 7);
    assert_eq!(fleet.number("SELECT count(*) FROM pipeline.advertiser_catalog").await?, 7);

    // After a refusal a single one is asked for, to try.
    sqlx::query(
        "UPDATE pipeline.advertiser_catalog SET failure = 'rate_limited', failed_at = now()
          WHERE advertiser_id = (SELECT min(advertiser_id) FROM pipeline.advertiser_catalog)",
    )
    .execute(&fleet.pool)
    .await?;
    assert_eq!(fleet.batch(&[("ADVERTISER_REQUESTS_PER_BATCH", "7")]).await?, 0);
    all_ended(&fleet).await?;
    assert_eq!(requests_for_advertisers(&fleet)?, 8);
    fleet.remove().await
}
