//! Quality checks on the real programs: each can fail, a market that shrank is told from one that we
//! failed to read and from cut books, and what is fatal keeps the last good state.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coordinator::quality::Thresholds;
use coordinator::store::quality::{self, Check, Pass, Quality, Verdict};
use load_tests::fleet::{Fleet, PULSE};
use rust_decimal::dec;
use serde_json::{Value, json};
use shared::domain::BatchId;
use sqlx::PgConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Few markets, most of which have enough ads to be judged, and nothing happens by itself.
const WORLD: &str = "--fiats 2 --assets 4 --ads 900 --delisted 0 --churn-per-minute 0 --change-per-minute 0 --tie-shuffle-per-mille 0";
/// Cycles after which something is concluded.
const MIN_CYCLES: usize = coordinator::quality::MIN_CYCLES;
const THRESHOLDS: Thresholds =
    Thresholds { completeness: dec!(0.995), price_anomaly: dec!(0.2), volume_drop: dec!(0.5) };

#[derive(Debug, sqlx::FromRow)]
struct Market {
    market_id: i32,
    fiat: String,
    asset: String,
    side: String,
    ads: i32,
}

impl Market {
    fn told(&self, per_mille: u32) -> Value {
        json!({"fiat": self.fiat, "asset": self.asset, "side": self.side, "per_mille": per_mille})
    }
}

/// The markets of the last batch, the largest first.
async fn markets(fleet: &Fleet) -> Result<Vec<Market>> {
    let markets = sqlx::query_as(
        "SELECT market_id, currency_code AS fiat, symbol AS asset, trade_type AS side, ads
           FROM warehouse.market_overview
           JOIN warehouse.dim_markets USING (market_id, trade_type)
           JOIN warehouse.dim_fiat_currencies USING (fiat_id)
           JOIN warehouse.dim_cryptocurrencies USING (crypto_id)
          ORDER BY ads DESC, market_id",
    );
    Ok(markets.fetch_all(&fleet.pool).await?)
}

/// A fleet that has read so often that its markets are known.
async fn known_fleet() -> Result<(Fleet, load_tests::fleet::Process)> {
    let fleet = Fleet::start(WORLD).await?;
    let worker = fleet.worker("a", &[])?;
    for _ in 0..MIN_CYCLES {
        ensure!(fleet.batch(&[]).await? == 0, "a batch of a quiet world");
    }
    Ok((fleet, worker))
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    verdict: String,
    level: String,
    details: Value,
}

impl Row {
    fn of(&self, market: &Market) -> Option<&Value> {
        let markets = self.details["markets"].as_array()?;
        markets.iter().find(|entry| entry["market_id"] == market.market_id)
    }

    fn class(&self, market: &Market) -> &str {
        self.of(market).and_then(|entry| entry["class"].as_str()).unwrap_or_default()
    }
}

/// What a check said of the last batch.
async fn said(fleet: &Fleet, check: Check) -> Result<Row> {
    let row = sqlx::query_as(
        "SELECT verdict, level, details FROM pipeline.quality_results
          WHERE check_name = $1 ORDER BY batch_id DESC LIMIT 1",
    );
    row.bind(check.as_str()).fetch_one(&fleet.pool).await.context(check.as_str())
}

/// Verdicts of the last batch in the order of the checks.
async fn verdicts(fleet: &Fleet) -> Result<Vec<String>> {
    let mut verdicts = Vec::new();
    for check in Check::ALL {
        verdicts.push(said(fleet, check).await?.verdict);
    }
    Ok(verdicts)
}

#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
struct Latest {
    /// How many batches it is behind the last one.
    behind: i64,
    reason: Option<String>,
    ads: i64,
}

/// What the latest state shows of a market.
async fn latest(fleet: &Fleet, market: &Market) -> Result<Latest> {
    let latest = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pipeline.batches b WHERE b.batch_id > l.batch_id) AS behind, newer_reason AS reason,
                (SELECT count(*) FROM warehouse.mv_latest_market_state s WHERE s.market_id = l.market_id) AS ads
           FROM warehouse.latest_books l WHERE market_id = $1",
    );
    Ok(latest.bind(market.market_id).fetch_one(&fleet.pool).await?)
}

fn shown(ads: i64) -> Latest {
    Latest { behind: 0, reason: None, ads }
}

/// A market that shrinks by itself is shown; one whose pages can't be stored keeps its last good state.
#[tokio::test(flavor = "multi_thread")]
async fn a_market_that_shrank_is_told_from_one_that_we_lost() -> Result<()> {
    let (fleet, _worker) = known_fleet().await?;
    let before: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT verdict FROM pipeline.quality_results WHERE check_name = 'volume_consistency'")
            .fetch_all(&fleet.pool)
            .await?;
    assert_eq!(before, ["unknown"], "nothing is ordinary after so few cycles");
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!(verdicts(&fleet).await?, ["pass"; 6]);
    let output = fleet.command("p2p", &["quality"])?.output().await?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    let all = markets(&fleet).await?;
    let (shrinks, lost) = (&all[0], &all[1]);
    fleet.admin("resize", &shrinks.told(400)).await?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    let volume = said(&fleet, Check::VolumeConsistency).await?;
    assert_eq!((volume.verdict.as_str(), volume.level.as_str()), ("warn", "warning"));
    assert_eq!(volume.class(shrinks), "market_shrank", "{volume:?}");
    let left = i64::from(shrinks.ads * 400 / 1000);
    assert_eq!(latest(&fleet, shrinks).await?, shown(left));

    let refuse = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'on purpose'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON warehouse.book_pages FOR EACH ROW WHEN (NEW.market_id = {})
         EXECUTE FUNCTION refuse()",
        lost.market_id
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(refuse)).execute(&fleet.pool).await?;
    assert_eq!(fleet.batch(&[]).await?, 3, "partial");
    let volume = said(&fleet, Check::VolumeConsistency).await?;
    assert_eq!((volume.verdict.as_str(), volume.level.as_str()), ("fail", "fatal"));
    assert_eq!(volume.class(lost), "we_failed", "{volume:?}");
    assert_eq!(volume.class(shrinks), "market_shrank", "{volume:?}");
    let complete = said(&fleet, Check::Completeness).await?;
    assert_eq!(complete.verdict, "fail");
    assert!(complete.of(lost).is_some(), "{complete:?}");
    let kept = Latest { behind: 1, reason: Some("pages_lost".into()), ads: lost.ads.into() };
    assert_eq!(latest(&fleet, lost).await?, kept);
    let output = fleet.command("p2p", &["quality", "latest"])?.output().await?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("class we_failed") && text.contains("class market_shrank"), "{text}");

    sqlx::raw_sql("DROP TRIGGER refuse ON warehouse.book_pages").execute(&fleet.pool).await?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!(latest(&fleet, lost).await?, shown(lost.ads.into()));
    fleet.remove().await
}

/// All books cut at the same moment: the last good state stays, also for `book()`, until three further
/// cycles say the same; then it is believed, and ordinary.
#[tokio::test(flavor = "multi_thread")]
async fn books_that_are_cut_all_at_once_are_held_until_confirmed() -> Result<()> {
    let (fleet, _worker) = known_fleet().await?;
    let all = markets(&fleet).await?;
    let market = &all[0];
    let cut = json!({"per_mille": 300});
    let left = i64::from(market.ads * 300 / 1000);
    fleet.admin("resize", &cut).await?;
    assert_eq!(fleet.batch(&[]).await?, 0, "each page was read");
    let volume = said(&fleet, Check::VolumeConsistency).await?;
    assert_eq!((volume.verdict.as_str(), volume.class(market)), ("fail", "suspect"), "{volume:?}");
    let held = |behind| Latest { behind, reason: Some("suspect".into()), ads: market.ads.into() };
    assert_eq!(latest(&fleet, market).await?, held(1));
    let of_book: i64 = sqlx::query_scalar("SELECT count(*) FROM warehouse.book($1, $2, $3)")
        .bind(&market.fiat)
        .bind(&market.asset)
        .bind(&market.side)
        .fetch_one(&fleet.pool)
        .await?;
    assert_eq!(of_book, i64::from(market.ads), "book() shows what the latest state shows");
    let output = fleet.command("p2p", &["quality"])?.output().await?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("held back") && text.contains("suspect"), "{text}");
    let output = fleet.command("p2p", &["batch", "show", "latest"])?.output().await?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("fail: volume_consistency"), "{text}");
    let name = format!("{}/{}/{}", market.asset, market.fiat, market.side);
    let output = fleet.command("p2p", &["quality", "--market", &name])?.output().await?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("1 readings, the last of") && text.contains("is not: suspect"), "{text}");

    // It was a lie: everything is as it was.
    fleet.admin("resize", &json!({"per_mille": 1000})).await?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!(said(&fleet, Check::VolumeConsistency).await?.verdict, "pass");
    assert_eq!(latest(&fleet, market).await?, shown(market.ads.into()));

    // It is the truth: believed at the fourth reading, and ordinary from then on.
    fleet.admin("resize", &cut).await?;
    for behind in 1..=3 {
        assert_eq!(fleet.batch(&[]).await?, 0);
        assert_eq!(latest(&fleet, market).await?, held(behind));
    }
    assert_eq!(fleet.batch(&[]).await?, 0);
    let volume = said(&fleet, Check::VolumeConsistency).await?;
    assert_eq!((volume.verdict.as_str(), volume.class(market)), ("warn", "market_shrank"));
    assert_eq!(volume.of(market).map(|entry| &entry["is_confirmed"]), Some(&json!(true)));
    assert_eq!(latest(&fleet, market).await?, shown(left));
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert_eq!(said(&fleet, Check::VolumeConsistency).await?.verdict, "pass");
    fleet.remove().await
}

/// A spike warns once and moves nothing; a step warns until it is ordinary. Both are shown.
#[tokio::test(flavor = "multi_thread")]
async fn a_price_spike_warns_and_a_step_becomes_ordinary() -> Result<()> {
    let (fleet, _worker) = known_fleet().await?;
    let all = markets(&fleet).await?;
    let market = &all[0];
    let batch = async |per_mille: Option<u32>| -> Result<Row> {
        if let Some(per_mille) = per_mille {
            fleet.admin("reprice", &market.told(per_mille)).await?;
        }
        ensure!(fleet.batch(&[]).await? == 0, "a batch");
        ensure!(latest(&fleet, market).await?.behind == 0, "the new price is shown");
        said(&fleet, Check::PriceAnomalies).await
    };
    let spike = batch(Some(1_300)).await?;
    assert_eq!((spike.verdict.as_str(), spike.level.as_str()), ("warn", "warning"));
    assert!(spike.of(market).is_some(), "{spike:?}");
    assert_eq!(batch(Some(770)).await?.verdict, "pass");
    let mut warned = 0;
    let mut step = batch(Some(1_300)).await?;
    while step.verdict == "warn" {
        warned += 1;
        ensure!(warned <= coordinator::quality::RECENT_CYCLES, "it never becomes ordinary");
        step = batch(None).await?;
    }
    assert_eq!(step.verdict, "pass");
    assert!((2..=5).contains(&warned), "{warned} warnings");
    fleet.remove().await
}

async fn check(connection: &mut PgConnection, pass: Pass) -> Result<Quality> {
    let batch: i32 = sqlx::query_scalar("SELECT max(batch_id) FROM pipeline.batches")
        .fetch_one(&mut *connection)
        .await?;
    quality::check(connection, BatchId::from_raw(batch)?, &THRESHOLDS, pass).await
}

/// Damage that the facts of a batch could have, each found by its check and by no other.
const DAMAGES: [(&str, Check, &str); 12] = [
    (
        "ads that were promised and not read",
        Check::Completeness,
        "UPDATE warehouse.books SET estimated_missed = distinct_ads WHERE market_id = $1",
    ),
    (
        "pages lost",
        Check::Completeness,
        "UPDATE warehouse.books SET pages_lost = 5 WHERE market_id = $1",
    ),
    (
        "a page listed twice",
        Check::Duplicates,
        "UPDATE warehouse.book_pages SET offer_ids = offer_ids || offer_ids[1], active_minutes = active_minutes || 1::smallint
          WHERE market_id = $1 AND page = 1",
    ),
    (
        "repeated ads that are not marked",
        Check::Duplicates,
        "UPDATE warehouse.book_pages SET duplicate_positions = NULL",
    ),
    (
        "a reading from the future",
        Check::TemporalConsistency,
        "UPDATE warehouse.book_pages SET fetched_at = fetched_at + interval '1 hour' WHERE market_id = $1 AND page = 1",
    ),
    (
        "a reading older than its batch, or than what it lists",
        Check::TemporalConsistency,
        "UPDATE warehouse.book_pages SET fetched_at = fetched_at - interval '1 hour' WHERE market_id = $1 AND page = 1",
    ),
    (
        "a book read before the one before",
        Check::TemporalConsistency,
        "WITH b AS (UPDATE warehouse.latest_books SET batch_id = batch_id - 1, read_at = read_at + interval '1 hour' WHERE market_id = $1)
         SELECT",
    ),
    (
        "a page that lists a version that is not there",
        Check::ReferentialIntegrity,
        "UPDATE warehouse.book_pages SET offer_ids[1] = 2147483647 WHERE market_id = $1 AND page = 1",
    ),
    (
        "a version of another market",
        Check::ReferentialIntegrity,
        "UPDATE warehouse.offer_versions SET market_id = market_id + 1 WHERE market_id = $1",
    ),
    (
        "an advertiser that is not there",
        Check::ReferentialIntegrity,
        "UPDATE warehouse.offer_versions SET advertiser_sk = 2147483647 WHERE market_id = $1",
    ),
    (
        "a payment method that is not there",
        Check::ReferentialIntegrity,
        "UPDATE warehouse.offer_versions SET payment_method_ids = payment_method_ids || 2147483647 WHERE market_id = $1",
    ),
    (
        "a market that is not there",
        Check::ReferentialIntegrity,
        "UPDATE warehouse.book_pages SET market_id = 2147483647 WHERE market_id = $1",
    ),
];

/// Each check finds its damage, holds the market back where that is fatal for it, and lets go when the
/// damage is mended. What was judged by baselines stays.
#[tokio::test(flavor = "multi_thread")]
async fn each_damage_is_found_by_its_check() -> Result<()> {
    let fleet = Fleet::start(WORLD).await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    let market = &markets(&fleet).await?[0];
    for (what, found_by, damage) in DAMAGES {
        let mut tx = fleet.pool.begin().await?;
        let found = check(&mut tx, Pass::Again).await?;
        assert!(found.outcomes.iter().all(|outcome| outcome.verdict == Verdict::Pass), "{found:?}");
        let query = sqlx::query(damage);
        let query = if damage.contains("$1") { query.bind(market.market_id) } else { query };
        let damaged = query.execute(&mut *tx).await.context(what)?;
        ensure!(damaged.rows_affected() > 0, "{what}: nothing is damaged");
        let found = check(&mut tx, Pass::Again).await?;
        for outcome in &found.outcomes {
            let is_found = outcome.verdict == Verdict::Fail;
            assert_eq!(is_found, outcome.check == found_by, "{what}: {outcome:?}");
        }
        // A page of no market has no book to hold.
        let is_held = found_by != Check::Completeness && !what.contains("a market that");
        assert_eq!(found.books_held > 0, is_held, "{what}: {found:?}");
        tx.rollback().await?;
    }

    let mut tx = fleet.pool.begin().await?;
    let flip = "UPDATE warehouse.book_pages SET offer_ids[1] = -offer_ids[1] WHERE market_id = $1 AND page = 1";
    sqlx::query(flip).bind(market.market_id).execute(&mut *tx).await?;
    assert_eq!(check(&mut tx, Pass::Again).await?.books_held, 1);
    let reasons = "SELECT array_agg(DISTINCT held_reason) FROM warehouse.mart_books WHERE held_reason IS NOT NULL";
    let reason: Vec<String> = sqlx::query_scalar(reasons).fetch_one(&mut *tx).await?;
    assert_eq!(reason, ["referential_integrity"]);
    sqlx::query(flip).bind(market.market_id).execute(&mut *tx).await?;
    assert_eq!(check(&mut tx, Pass::Again).await?.books_held, 0);
    tx.rollback().await?;
    fleet.remove().await
}

/// A close looks at the marks on the pages, as readers do, and not at what it meant to mark.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_close_does_not_mark_it_finds() -> Result<()> {
    let fleet = Fleet::start(WORLD).await?;
    let _worker = fleet.worker("a", &[])?;
    sqlx::raw_sql(
        "CREATE FUNCTION warehouse.unmarked() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER unmarked BEFORE UPDATE ON warehouse.book_pages FOR EACH ROW
            WHEN (NEW.duplicate_positions IS NOT NULL) EXECUTE FUNCTION warehouse.unmarked()",
    )
    .execute(&fleet.pool)
    .await?;
    fleet.batch(&[]).await?;
    let verdicts: Vec<String> = sqlx::query_scalar(
        "SELECT check_name FROM pipeline.quality_results WHERE verdict = 'fail'",
    )
    .fetch_all(&fleet.pool)
    .await?;
    assert_eq!(verdicts, ["duplicates"]);
    fleet.remove().await
}

/// However often a batch is checked, the rows are the same and baselines learn once.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_teaches_once() -> Result<()> {
    let fleet = Fleet::start(WORLD).await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    let state = "SELECT string_agg(t::text, E'\n' ORDER BY t::text) FROM (
                     SELECT to_jsonb(b)::text FROM pipeline.market_baselines b
                     UNION ALL SELECT to_jsonb(h)::text FROM pipeline.market_baseline_hours h
                     UNION ALL SELECT (to_jsonb(q) - 'checked_at')::text FROM pipeline.quality_results q) t";
    let before: String = sqlx::query_scalar(state).fetch_one(&fleet.pool).await?;
    for pass in [Pass::Close, Pass::Again] {
        let mut tx = fleet.pool.begin().await?;
        check(&mut tx, pass).await?;
        tx.commit().await?;
        let after: String = sqlx::query_scalar(state).fetch_one(&fleet.pool).await?;
        assert_eq!(after, before, "{pass:?}");
    }
    let learned = "SELECT min(cycles) FROM pipeline.market_baselines";
    let learned: i32 = sqlx::query_scalar(learned).fetch_one(&fleet.pool).await?;
    assert_eq!(learned, 1);
    fleet.remove().await
}

/// Checks that can't be made are unknown, and the batch closes and is shown all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_closes_without_its_checks() -> Result<()> {
    let fleet = Fleet::start(WORLD).await?;
    let _worker = fleet.worker("a", &[])?;
    sqlx::raw_sql("ALTER TABLE pipeline.market_baselines RENAME TO elsewhere")
        .execute(&fleet.pool)
        .await?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    let expected = ["pass", "unknown", "unknown", "pass", "pass", "pass"];
    assert_eq!(verdicts(&fleet).await?, expected);
    let reason: String = sqlx::query_scalar(
        "SELECT reason FROM pipeline.quality_results WHERE check_name = 'volume_consistency'",
    )
    .fetch_one(&fleet.pool)
    .await?;
    assert!(reason.contains("market_baselines"), "{reason}");
    let output = fleet.command("p2p", &["quality"])?.output().await?;
    assert_eq!(output.status.code(), Some(0), "unknown is no trouble by itself: {output:?}");

    sqlx::raw_sql("ALTER TABLE pipeline.quality_results RENAME TO elsewhere_too")
        .execute(&fleet.pool)
        .await?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    let behind = "SELECT count(*) FROM warehouse.latest_books WHERE batch_id < (SELECT max(batch_id) FROM pipeline.batches)";
    assert_eq!(fleet.number(behind).await?, 0, "all books are shown");
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// A figure of a process; `None`: it serves no such thing.
async fn figure(address: &str, series: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = "GET /metrics HTTP/1.1\r\nhost: coordinator\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(series)?.strip_prefix(' ')?.to_owned()))
}

async fn wait_for(address: &str, series: &str, is_there: impl Fn(&str) -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let found = figure(address, series).await;
        if found.as_deref().is_some_and(&is_there) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{series} is {found:?}");
        tokio::time::sleep(PULSE).await;
    }
}

/// Each figure of a batch moves when it closes, and is there again after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn the_close_is_measured() -> Result<()> {
    let (fleet, worker) = known_fleet().await?;
    fleet.admin("resize", &json!({"per_mille": 300})).await?;
    // A batch that waits for a worker, so that the coordinator that closes it goes on.
    let mut worker = worker;
    ensure!(worker.terminate().await?.success(), "a worker that drains");
    let mut once = fleet.coordinator(&[])?;
    fleet.wait_for("SELECT count(*) FROM pipeline.batches WHERE state = 'open'", 1).await?;
    once.kill().await?;
    let start = || -> Result<_> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = fleet.command("coordinator", &["run"])?;
        command
            .env("ENABLE_METRICS", "true")
            .env("PROMETHEUS_PORT", address.port().to_string())
            .env("EXTRACTION_INTERVAL_MINUTES", "1440");
        Ok((load_tests::fleet::Process::spawn(command)?, address.to_string()))
    };
    let is_one = |value: &str| value == "1";
    let is_zero = |value: &str| value == "0";
    let (coordinator, address) = start()?;
    // Of the batch before.
    wait_for(&address, "p2p_batch_status{outcome=\"complete\"}", is_one).await?;
    let cut = "p2p_quality_check_failed{check=\"volume_consistency\",level=\"fatal\"}";
    wait_for(&address, cut, is_zero).await?;
    wait_for(&address, "p2p_markets_held{reason=\"suspect\"}", is_zero).await?;
    assert_eq!(figure(&address, "p2p_batch_duration_seconds_count").await, None);
    wait_for(&address, "p2p_schedule_interval_seconds", |interval| interval == "86400").await?;
    wait_for(&address, "p2p_batch_deadline_seconds", |deadline| deadline == "480").await?;
    let took = "p2p_last_batch_duration_seconds";
    let before_took = figure(&address, took).await.context(took)?;

    let _worker = fleet.worker("b", &[])?;
    wait_for(&address, cut, is_one).await?;
    wait_for(&address, "p2p_batch_duration_seconds_count", is_one).await?;
    wait_for(&address, took, |now| now != before_took).await?;
    wait_for(&address, "p2p_data_completeness_ratio", is_one).await?;
    wait_for(&address, "p2p_quality_check_value{check=\"volume_consistency\"}", |drop| {
        // The largest of any market: seven of ten ads went, and in a small one all but a trifle.
        drop.parse().is_ok_and(|drop: f64| (0.6..=1.0).contains(&drop))
    })
    .await?;
    wait_for(&address, "p2p_markets_held{reason=\"suspect\"}", |markets| markets != "0").await?;
    drop(coordinator);

    let (_coordinator, address) = start()?;
    wait_for(&address, cut, is_one).await?;
    wait_for(&address, "p2p_markets_held{reason=\"suspect\"}", |markets| markets != "0").await?;
    fleet.remove().await
}
