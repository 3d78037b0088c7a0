//! The raw archive of a fleet: the bytes that the exchange sent, exactly, for every answer that ended a
//! job; nothing without its job's end, no facts without their bytes; and an operator who asks for them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::{Fleet, Process, program};
use serde_json::{Value, json};
use shared::archive::{Dictionary, Lengths, unpack};
use tokio::io::AsyncWriteExt;

use crate::errors::Measured;

const MARKET: &str = "--fiats 3 --ads 1200 --seed 11 --change-per-minute 200";

/// Jobs with facts or an end from an answer, of which nothing is archived. A page that was empty and then lay beyond its
/// book's end has its end from other pages.
const WITHOUT_BYTES: &str = "SELECT count(*) FROM pipeline.jobs j LEFT JOIN pipeline.raw_pages r USING (day, batch_id, ordinal)
     WHERE j.fetched_at IS NOT NULL AND j.state IN ('done', 'empty') AND r.ordinal IS NULL
       AND j.reason IS DISTINCT FROM 'beyond_last_page'";
/// Pages without their bytes.
const PAGES_WITHOUT_BYTES: &str = "SELECT count(*) FROM warehouse.book_pages p
      LEFT JOIN pipeline.raw_pages r USING (day, batch_id, ordinal) WHERE r.ordinal IS NULL";
/// Bytes of jobs that have not ended.
const BYTES_WITHOUT_END: &str = "SELECT count(*) FROM pipeline.raw_pages r LEFT JOIN pipeline.jobs j USING (day, batch_id, ordinal)
     WHERE j.ended_at IS NULL";
const ARCHIVED: &str = "SELECT count(*) FROM pipeline.raw_pages";
const SUSPENDED: &str = "SELECT count(*) FROM pipeline.raw_suspensions WHERE to_at IS NULL";

#[derive(sqlx::FromRow)]
struct Row {
    ordinal: i32,
    http_status: i16,
    dictionary_id: Option<i32>,
    request_bytes: i32,
    headers_bytes: i32,
    body_bytes: i32,
    content: Vec<u8>,
}

/// Length and CRC-32, as the exchange logs them of what it sends.
type Mark = (u64, u64);

fn mark(body: &[u8]) -> Mark {
    let mut crc = flate2::Crc::new();
    crc.update(body);
    (body.len() as u64, u64::from(crc.sum()))
}

/// What the exchange sent, by path.
fn sent(fleet: &Fleet) -> Result<BTreeMap<Mark, String>> {
    let mark = |line: &Value| Some((line["body_bytes"].as_u64()?, line["body_crc32"].as_u64()?));
    let lines = fleet.requests()?;
    let sent = lines.iter().map(|line| {
        Ok((
            mark(line).context("a marked line")?,
            line["path"].as_str().context("a path")?.to_owned(),
        ))
    });
    sent.collect()
}

async fn p2p(fleet: &Fleet, args: &[&str]) -> Result<Output> {
    Ok(fleet.command("p2p", args)?.output().await?)
}

async fn told(fleet: &Fleet, args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = p2p(fleet, args).await?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(text)?))
}

/// Every archived answer is one that the exchange sent, byte for byte, under the path that was asked.
async fn must_be_what_was_sent(fleet: &Fleet) -> Result<usize> {
    let sent = sent(fleet)?;
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT ordinal, http_status, dictionary_id, request_bytes, headers_bytes, body_bytes, content
           FROM pipeline.raw_pages",
    )
    .fetch_all(&fleet.pool)
    .await?;
    let mut dictionaries = BTreeMap::new();
    for id in rows.iter().filter_map(|row| row.dictionary_id).collect::<BTreeSet<_>>() {
        dictionaries.insert(id, Dictionary::load(&fleet.pool, id).await?);
    }
    for row in &rows {
        let lengths = Lengths::from_columns(row.request_bytes, row.headers_bytes, row.body_bytes);
        let dictionary = row.dictionary_id.and_then(|id| dictionaries.get(&id));
        let transcript = unpack(&row.content, lengths.context("lengths")?, dictionary)?;
        let path = sent.get(&mark(&transcript.body));
        let path = path.with_context(|| format!("job {}: nobody sent that", row.ordinal))?;
        let request = String::from_utf8(transcript.request)?;
        ensure!(request.lines().next().is_some_and(|line| line.contains(path)), "{request} {path}");
        ensure!(row.http_status != 200 || transcript.headers.starts_with(b"content-type: "));
    }
    Ok(rows.len())
}

/// Two batches, the second with a dictionary that the first one's answers taught.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_that_were_sent_come_back() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let measured = Measured::start(&fleet, &[])?;
    for _ in 0..2 {
        assert_eq!(fleet.batch(&[]).await?, 0);
    }
    let archived = must_be_what_was_sent(&fleet).await?;
    assert!(archived > 120, "{archived} answers");
    assert_eq!(fleet.number(WITHOUT_BYTES).await?, 0);
    assert_eq!(fleet.number(PAGES_WITHOUT_BYTES).await?, 0);
    assert_eq!(fleet.number(BYTES_WITHOUT_END).await?, 0);
    let done = measured.metric("p2p_raw_answers_total", "archived=\"yes\",state=\"done\"").await?
        + measured.metric("p2p_raw_answers_total", "state=\"done\",archived=\"yes\"").await?;
    let ended = "SELECT count(*) FROM pipeline.raw_pages JOIN pipeline.jobs USING (day, batch_id, ordinal) WHERE state = 'done'";
    assert_eq!(done, fleet.number(ended).await?);
    let bytes = "SELECT sum(octet_length(content))::bigint FROM pipeline.raw_pages";
    assert_eq!(measured.metric("p2p_raw_bytes_total", "").await?, fleet.number(bytes).await?);

    // The dictionary pays: with it an answer takes far less than the same kind without.
    let (code, stats) = told(&fleet, &["raw", "stats", "--json"]).await?;
    assert_eq!(code, Some(0), "{stats}");
    let stats: Value = serde_json::from_str(&stats)?;
    let per_ad = |name: &str| stats[name].as_str().and_then(|text| text.parse::<f64>().ok());
    let (plain, trained) = (per_ad("bytes_per_ad_plain"), per_ad("bytes_per_ad_trained"));
    let (plain, trained) = (plain.context("plain")?, trained.context("trained")?);
    assert!(trained < plain * 0.8, "{trained} and {plain} bytes per ad");

    // The operator gets the bytes, and the parser takes them.
    let market: (String, String, String) = sqlx::query_as(
        "SELECT f.currency_code, c.symbol, m.trade_type
           FROM warehouse.latest_books l JOIN warehouse.dim_markets m USING (market_id)
           JOIN warehouse.dim_fiat_currencies f USING (fiat_id) JOIN warehouse.dim_cryptocurrencies c USING (crypto_id)
           JOIN warehouse.books b USING (day, batch_id, market_id) ORDER BY b.distinct_ads DESC LIMIT 1",
    )
    .fetch_one(&fleet.pool)
    .await?;
    let (fiat, asset, side) = (market.0.as_str(), market.1.as_str(), market.2.as_str());
    let show = ["raw", "show", "latest", fiat, asset, side, "1"];
    let body = p2p(&fleet, &[&show[..], &["--body"]].concat()).await?.stdout;
    assert!(sent(&fleet)?.contains_key(&mark(&body)));
    let mut parse = program("p2p")?;
    parse.args(["parse", "--fiat", fiat, "--asset", asset, "--side", side, "-"]);
    let mut parse =
        parse.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn()?;
    parse.stdin.take().context("stdin")?.write_all(&body).await?;
    let parsed = parse.wait_with_output().await?;
    assert!(
        parsed.status.success() && String::from_utf8_lossy(&parsed.stdout).lines().count() >= 20
    );
    let (code, text) = told(&fleet, &show).await?;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("POST /bapi")
            && text.contains("content-type:")
            && text.contains("dictionary "),
        "{text}"
    );
    let (_, shown) = told(&fleet, &[&show[..], &["--json"]].concat()).await?;
    let shown: Value = serde_json::from_str(&shown)?;
    assert_eq!((&shown["page"], &shown["state"]), (&json!(1), &json!("done")));
    // A list, by the number of its job.
    let (code, text) = told(&fleet, &["raw", "show", "latest", "--ordinal", "0"]).await?;
    assert!(code == Some(0) && text.contains("body:"), "{text}");
    for (args, part) in [
        (&["raw", "show", "latest", fiat, asset, side, "90"][..], "was not planned"),
        (&["raw", "show", "latest", "XXX", asset, side, "1"], "is not known"),
        (&["raw", "show", "1", fiat, asset, side, "1"], "is not known"),
        (&["raw", "show", "latest", fiat, asset, side, "1", "--reading", "9"], "was read"),
    ] {
        let (code, text) = told(&fleet, args).await?;
        assert!(code == Some(66) && text.contains(part), "{args:?}: {code:?} {text}");
    }
    // Damaged bytes are told.
    sqlx::query(
        "UPDATE pipeline.raw_pages SET content = substr(content, 1, octet_length(content) / 2)",
    )
    .execute(&fleet.pool)
    .await?;
    let (code, text) = told(&fleet, &show).await?;
    assert!(code == Some(1) && text.contains("can't be unpacked"), "{code:?} {text}");
    drop(measured);
    fleet.remove().await
}

/// Failed answers are archived too, whatever they are.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_fail_are_archived() -> Result<()> {
    for (fault, status, reason) in [
        ("http404", 404, "http_status"),
        ("html200", 200, "not_json"),
        ("cut-json", 200, "unparsable"),
        ("http503", 503, "server_error"),
        ("code000002", 200, "rejected"),
    ] {
        let fleet = Fleet::start("--fiats 1 --ads 60 --churn-per-minute 0").await?;
        let settings =
            [("MAX_RETRIES", "1"), ("BREAKER_FAILURES", "1000"), ("MIN_RATE_LIMIT", "6000")];
        let _worker = fleet.worker("a", &settings)?;
        assert_eq!(fleet.batch(&[]).await?, 0);
        fleet.admin("faults", &json!({ fault: 1000 })).await?;
        fleet.batch(&[]).await?;
        let failed = format!(
            "SELECT count(*), count(r.ordinal) FILTER (WHERE r.http_status = {status} AND r.body_bytes > 0)
               FROM pipeline.jobs j LEFT JOIN pipeline.raw_pages r USING (day, batch_id, ordinal)
              WHERE j.state = 'failed' AND j.reason = '{reason}'"
        );
        let (failed, archived): (i64, i64) =
            sqlx::query_as(sqlx::AssertSqlSafe(failed)).fetch_one(&fleet.pool).await?;
        assert!(failed > 5 && failed == archived, "{fault}: {archived} of {failed}");
        must_be_what_was_sent(&fleet).await?;
        fleet.remove().await?;
    }
    Ok(())
}

/// Workers are killed in the middle, again and again: no facts without bytes, no bytes without an end,
/// and each answer once.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_facts_with_their_bytes_or_neither() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let mut coordinator = fleet.coordinator(&[])?;
    for least in [5, 25, 45] {
        let mut worker: Process = fleet.worker("killed", &[("INITIAL_RATE_LIMIT", "3000")])?;
        fleet.wait_for(ARCHIVED, least).await?;
        worker.kill().await?;
        for rows in [WITHOUT_BYTES, PAGES_WITHOUT_BYTES, BYTES_WITHOUT_END] {
            assert_eq!(fleet.number(rows).await?, 0, "{rows}");
        }
    }
    let _worker = fleet.worker("last", &[])?;
    assert_eq!(coordinator.wait().await?.code(), Some(0));
    for rows in [WITHOUT_BYTES, PAGES_WITHOUT_BYTES, BYTES_WITHOUT_END] {
        assert_eq!(fleet.number(rows).await?, 0, "{rows}");
    }
    must_be_what_was_sent(&fleet).await?;
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// Where the archive is off nothing is archived, which is recorded and told; then it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_is_obeyed_and_told() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 100").await?;
    let mut schedule = fleet.command("coordinator", &["run"])?;
    schedule.env("EXTRACTION_INTERVAL_MINUTES", "1440").env("BATCH_DEADLINE_SECONDS", "480");
    let mut leader = Measured::spawn(schedule, &[("RAW_ARCHIVE_MB", "0")])?;
    leader.wait_for("p2p_raw_archive_suspended", "", 1).await?;
    fleet.wait_for(SUSPENDED, 1).await?;
    leader.terminate().await?;
    let measured = Measured::start(&fleet, &[])?;
    assert_eq!(fleet.batch(&[("RAW_ARCHIVE_MB", "0")]).await?, 0);
    assert_eq!(fleet.number(ARCHIVED).await?, 0);
    let suspended = measured.metric("p2p_raw_answers_total", "archived=\"suspended\"").await?;
    let answers = "SELECT count(*) FROM pipeline.jobs WHERE fetched_at IS NOT NULL";
    assert_eq!(suspended, fleet.number(answers).await?);
    let (code, text) = told(&fleet, &["raw", "show", "latest", "--ordinal", "0"]).await?;
    assert!(code == Some(66) && text.contains("suspended (off)"), "{code:?} {text}");
    let (_, text) = told(&fleet, &["raw", "stats"]).await?;
    assert!(text.contains("nothing is archived") && text.contains("suspended (off)"), "{text}");

    let mut schedule = fleet.command("coordinator", &["run"])?;
    schedule.env("EXTRACTION_INTERVAL_MINUTES", "1440").env("BATCH_DEADLINE_SECONDS", "480");
    let mut leader = Measured::spawn(schedule, &[("RAW_ARCHIVE_MB", "1")])?;
    leader.wait_for("p2p_raw_archive_budget_bytes", "", 1 << 20).await?;
    leader.wait_for("p2p_raw_archive_bytes", "", 1).await?;
    assert_eq!(leader.metric("p2p_raw_archive_suspended", "").await?, 0);
    assert_eq!(fleet.number(SUSPENDED).await?, 0);
    leader.terminate().await?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    assert!(fleet.number(ARCHIVED).await? > 5);
    drop(measured);
    fleet.remove().await
}

/// A coordinator that keeps a schedule has its first dictionary soon after its first batch: it looks again before
/// the next one, ten minutes later.
#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_has_a_dictionary_after_its_first_batch() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let _worker = fleet.worker("w1", &[])?;
    let mut command = fleet.command("coordinator", &["run"])?;
    // No slot comes due meanwhile.
    command.envs([("EXTRACTION_INTERVAL_MINUTES", "1440"), ("MISFIRE_GRACE_SECONDS", "1")]);
    let mut coordinator = Process::spawn(command)?;
    sqlx::query(
        "INSERT INTO pipeline.requests (exchange_id, kind, why, asked_by) VALUES (1, 'rerun', 'the first', 'test')",
    )
    .execute(&fleet.pool)
    .await?;
    fleet.wait_for("SELECT count(*) FROM pipeline.raw_dictionaries", 1).await?;
    coordinator.terminate().await?;
    fleet.remove().await
}
