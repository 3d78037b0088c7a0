//! Answers parsed again: nothing differs by the same parser; what a wrong one left is made right, wherever
//! the replay is killed; and what was refused goes where it belongs once it is taken.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::{Fleet, Process};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

/// A market that moves by the clock of the test only, and does so a lot.
const MOVING: &str = "--fiats 3 --assets 3 --ads 700 --churn-per-minute 20 --change-per-minute 200 \
     --month-change-per-minute 200 --rename-per-hour 300 --tie-shuffle-per-mille 0 --manual-clock";
const MINUTE: &str = "advance?ms=60000";

/// What a replay may write, each with what is not compared.
const TABLES: [(&str, &str); 16] = [
    ("warehouse.offer_versions", ""),
    ("warehouse.book_pages", "parser_version"),
    ("pipeline.quality_results", "checked_at"),
    ("warehouse.books", ""),
    ("warehouse.latest_books", ""),
    ("warehouse.mart_books", ""),
    ("warehouse.mart_book_methods", ""),
    ("warehouse.mart_advertiser_days", ""),
    ("warehouse.mart_hours", ""),
    ("warehouse.mart_days", ""),
    ("warehouse.advertiser_figures", ""),
    ("warehouse.dim_advertisers", ""),
    ("warehouse.dim_payment_methods", ""),
    ("pipeline.jobs", ""),
    ("pipeline.batches", ""),
    ("pipeline.catalog", ""),
];

async fn execute(fleet: &Fleet, sql: &str) -> Result<u64> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&fleet.pool).await;
    Ok(done.with_context(|| sql.to_owned())?.rows_affected())
}

async fn ask(fleet: &Fleet, sql: &str) -> Result<i64> {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&fleet.pool).await.context(sql.to_owned())
}

/// Remembers what is stored.
async fn keep(fleet: &Fleet) -> Result<()> {
    execute(fleet, "DROP SCHEMA IF EXISTS kept CASCADE; CREATE SCHEMA kept").await?;
    for (table, _) in TABLES {
        let name = table.rsplit('.').next().unwrap_or(table);
        execute(fleet, &format!("CREATE TABLE kept.{name} AS TABLE {table}")).await?;
    }
    // What two pages of one group show first, such as a promoted ad, is stored twice. Which of the two a page
    // refers to is no fact, and what is lost altogether does not tell.
    execute(
        fleet,
        "CREATE TABLE kept.twice AS SELECT id, adv_no FROM warehouse.offer_versions v
          WHERE EXISTS (SELECT FROM warehouse.offer_versions o
                         WHERE o.adv_no = v.adv_no AND o.content_hash = v.content_hash AND o.id <> v.id)",
    )
    .await?;
    Ok(())
}

/// Rows that differ from what was kept, by table.
async fn differing(fleet: &Fleet) -> Result<Vec<String>> {
    let mut differing = Vec::new();
    for (table, without) in TABLES {
        let name = table.rsplit('.').next().unwrap_or(table);
        let (now, was) = (rows(table, without), rows(&format!("kept.{name}"), without));
        let sql = format!(
            "SELECT row::text FROM (({now} EXCEPT ALL {was}) UNION ALL ({was} EXCEPT ALL {now})) d (row) LIMIT 4"
        );
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&fleet.pool).await?;
        if !rows.is_empty() {
            differing.push(format!("{table}:\n  {}", rows.join("\n  ")));
        }
    }
    Ok(differing)
}

fn rows(table: &str, without: &str) -> String {
    format!("SELECT to_jsonb(t) - '{{{without}}}'::text[] FROM {table} t")
}

async fn must_equal_kept(fleet: &Fleet) -> Result<()> {
    let differing = differing(fleet).await?;
    ensure!(differing.is_empty(), "differs from what it was:\n{}", differing.join("\n"));
    Ok(())
}

/// Runs `p2p`; its exit code and its answer.
async fn p2p(fleet: &Fleet, args: &[&str]) -> Result<(i32, Value)> {
    let output = fleet.command("p2p", args)?.output().await?;
    let code = output.status.code().context("p2p was killed")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_str(&text).unwrap_or_else(|_| json!(format!("{text}{error}")));
    Ok((code, value))
}

/// The arguments of a replay of everything until now, which is what a moment to come means. The last batch may
/// have begun, which is the slot of a single batch, less than any span before now.
fn replay(how: &'static str) -> [&'static str; 7] {
    ["replay", "--from", "1h", "--to", "2100-01-01", "--json", how]
}

fn number(answer: &Value, name: &str) -> u64 {
    answer[name].as_u64().unwrap_or_else(|| panic!("{name} in {answer}"))
}

/// A world of three batches, whose answers are archived.
async fn world() -> Result<(Fleet, Process)> {
    let fleet = Fleet::start(MOVING).await?;
    let worker = fleet.worker("a", &[])?;
    for _ in 0..3 {
        ensure!(fleet.batch(&[]).await? == 0, "the batch is not complete");
        fleet.admin(MINUTE, &json!(null)).await?;
    }
    Ok((fleet, worker))
}

/// By the same parser nothing differs, and nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_parser_reads_the_same() -> Result<()> {
    let (fleet, _worker) = world().await?;
    keep(&fleet).await?;
    let (code, found) = p2p(&fleet, &replay("--dry-run")).await?;
    assert_eq!(code, 0, "{found}");
    let pages = ask(&fleet, "SELECT count(*) FROM warehouse.book_pages").await?;
    assert!(number(&found, "pages") >= pages.unsigned_abs(), "{found}");
    assert!(number(&found, "ads") > 1000, "{found}");
    for what in
        ["added", "removed", "changed", "pages_changed", "advertisers_changed", "not_archived"]
    {
        assert_eq!(number(&found, what), 0, "{what}: {found}");
    }
    assert_eq!(ask(&fleet, "SELECT count(*) FROM pipeline.replays").await?, 0);
    must_equal_kept(&fleet).await?;

    execute(&fleet, "UPDATE warehouse.book_pages SET parser_version = NULL").await?;
    let (code, found) = p2p(&fleet, &replay("--apply")).await?;
    assert_eq!((code, number(&found, "changed")), (0, 0), "{found}");
    must_equal_kept(&fleet).await?;
    let noted = "SELECT count(*) FROM warehouse.book_pages WHERE parser_version IS NULL";
    assert_eq!(ask(&fleet, noted).await?, 0, "a replay notes that it looked");

    let (code, _) = p2p(&fleet, &["replay", "--from", "2020-01-01", "--to", "2020-01-02"]).await?;
    assert_eq!(code, 66);
    let (code, _) = p2p(&fleet, &["replay", "--from", "1h", "--to", "2h"]).await?;
    assert_eq!(code, 64);
    fleet.remove().await
}

/// What a wrong parser would have left, table by table.
const DAMAGES: [&str; 9] = [
    // Prices times ten.
    "UPDATE warehouse.offer_versions SET price = price * 10, content_hash = content_hash + 1 WHERE id % 7 = 0",
    // Limits the wrong way round.
    "UPDATE warehouse.offer_versions SET min_limit = max_limit, max_limit = min_limit WHERE id % 7 = 1",
    // No payment methods.
    "UPDATE warehouse.offer_versions SET payment_method_ids = '{}' WHERE id % 7 = 2",
    // Some ads are not seen at all, from the first page to the last.
    "CREATE TEMP TABLE lost AS SELECT id FROM warehouse.offer_versions
      WHERE right(adv_no, 1) = '3' AND adv_no NOT IN (SELECT adv_no FROM kept.twice);
     UPDATE warehouse.book_pages p
        SET (offer_ids, active_minutes, privilege_types, promoted_position) =
            (SELECT coalesce(array_agg(l.id ORDER BY n) FILTER (WHERE l.id NOT IN (TABLE lost)), '{}'),
                    coalesce(array_agg(l.minutes ORDER BY n) FILTER (WHERE l.id NOT IN (TABLE lost)), '{}'),
                    CASE WHEN p.privilege_types IS NOT NULL THEN array_agg(l.privilege ORDER BY n) FILTER (WHERE l.id NOT IN (TABLE lost)) END,
                    NULL::smallint
               FROM ROWS FROM (unnest(p.offer_ids), unnest(p.active_minutes), unnest(p.privilege_types)) WITH ORDINALITY AS l (id, minutes, privilege, n));
     UPDATE pipeline.jobs j SET ads_taken = cardinality(p.offer_ids)
       FROM warehouse.book_pages p WHERE p.batch_id = j.batch_id AND p.ordinal = j.ordinal;
     DELETE FROM warehouse.offer_versions WHERE id IN (TABLE lost);
     DROP TABLE lost",
    // Some of these were refused.
    "INSERT INTO pipeline.quarantine (day, batch_id, ordinal, scope, position, reason, detail, parser_version, body, quarantined_at)
     SELECT day, batch_id, ordinal, 'ad', 5, 'missing_field', 'planted', 1, 'x', now() FROM pipeline.jobs
      WHERE kind = 'search' AND state = 'done' AND page = 1;
     UPDATE pipeline.jobs SET ads_refused = 1 WHERE kind = 'search' AND state = 'done' AND page = 1",
    // Pages of the last batch that could not be read.
    "CREATE TEMP TABLE lost AS SELECT batch_id, ordinal FROM warehouse.book_pages
      WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches) AND page = 2
        AND NOT offer_ids && (SELECT array_agg(id) FROM kept.twice);
     DELETE FROM warehouse.offer_versions v USING lost l WHERE v.id >> 5 = ((l.batch_id & 511) << 17 | l.ordinal);
     DELETE FROM warehouse.book_pages p USING lost l WHERE p.batch_id = l.batch_id AND p.ordinal = l.ordinal;
     UPDATE pipeline.jobs j SET state = 'failed', reason = 'unparsable', detail = 'planted', declared_total = NULL, ads_taken = NULL, ads_refused = NULL
       FROM lost l WHERE j.batch_id = l.batch_id AND j.ordinal = l.ordinal;
     INSERT INTO pipeline.quarantine (day, batch_id, ordinal, scope, reason, detail, parser_version, body, quarantined_at)
     SELECT j.day, j.batch_id, j.ordinal, 'answer', 'unparsable', 'planted', 1, 'x', now() FROM pipeline.jobs j JOIN lost USING (batch_id, ordinal);
     DROP TABLE lost",
    // Fields of the page.
    "UPDATE warehouse.book_pages SET declared_total = declared_total + 5 WHERE page = 1 AND ordinal % 2 = 0;
     UPDATE pipeline.jobs SET declared_total = declared_total + 5 WHERE kind = 'search' AND state = 'done' AND page = 1 AND ordinal % 2 = 0",
    // Figures of advertisers.
    "UPDATE warehouse.advertiser_figures SET month_order_count = 0, completion_rate = NULL WHERE advertiser_id % 3 = 0;
     UPDATE warehouse.dim_advertisers SET month_order_count = 0, completion_rate = NULL WHERE advertiser_id % 3 = 0",
    // Names of advertisers.
    "UPDATE warehouse.dim_advertisers SET advertiser = '?', user_grade = NULL, is_merchant = NOT is_merchant WHERE advertiser_id % 3 = 1",
];

/// Damages everything as a wrong parser would have, and what was made of it at the close.
async fn damage(fleet: &Fleet) -> Result<()> {
    for damage in DAMAGES {
        execute(fleet, damage).await?;
    }
    execute(
        fleet,
        "UPDATE warehouse.book_pages SET parser_version = 1; UPDATE pipeline.raw_pages SET parser_version = 1",
    )
    .await?;
    execute(
        fleet,
        "INSERT INTO pipeline.remakes (batch_id, market_id, noted_at)
         SELECT batch_id, market_id, now() FROM warehouse.books
             ON CONFLICT (batch_id, market_id) DO UPDATE SET made_at = NULL",
    )
    .await?;
    let (code, answer) = p2p(fleet, &["replay", "--resume", "--json"]).await?;
    ensure!(code == 0, "{answer}");
    Ok(())
}

/// A wrong parser's facts are made what the right one would have stored, row for row, in every table.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_parser_is_undone() -> Result<()> {
    let (fleet, _worker) = world().await?;
    keep(&fleet).await?;
    damage(&fleet).await?;
    let damaged = differing(&fleet).await?;
    for table in [
        "offer_versions",
        "book_pages",
        "books",
        "mart_books",
        "mart_days",
        "advertiser_figures",
        "dim_advertisers",
        "jobs",
        "batches",
    ] {
        assert!(
            damaged.iter().any(|rows| rows.contains(&format!(".{table}:"))),
            "{table} is not damaged"
        );
    }

    let (code, found) = p2p(&fleet, &replay("--dry-run")).await?;
    assert_eq!(code, 3, "{found}");
    for what in ["added", "changed", "pages_recovered", "pages_changed", "advertisers_changed"] {
        assert!(number(&found, what) > 0, "{what}: {found}");
    }
    assert!(number(&found["by_parser_version"]["1"], "changed") > 0, "{found}");
    let fields: Vec<&Value> =
        found["differences"].as_array().unwrap().iter().map(|d| &d["fields"]).collect();
    assert!(!fields.is_empty());
    assert_eq!(differing(&fleet).await?.len(), damaged.len(), "a dry run changes nothing");

    let (code, applied) = p2p(&fleet, &replay("--apply")).await?;
    assert_eq!(code, 0, "{applied}");
    for what in ["pages", "ads", "added", "removed", "changed", "refused", "advertisers_changed"] {
        assert_eq!(number(&applied, what), number(&found, what), "{what}: {applied}\n{found}");
    }
    must_equal_kept(&fleet).await?;
    let open = "SELECT count(*) FROM pipeline.quarantine WHERE state = 'open'";
    assert_eq!(ask(&fleet, open).await?, 0, "what is taken now is closed");

    let (code, again) = p2p(&fleet, &replay("--dry-run")).await?;
    assert_eq!((code, number(&again, "changed"), number(&again, "added")), (0, 0, 0), "{again}");
    fleet.remove().await
}

/// Killed between pages, and between the facts and what is made of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replay_is_finished_by_the_next() -> Result<()> {
    let (fleet, _worker) = world().await?;
    keep(&fleet).await?;
    damage(&fleet).await?;
    let start = || {
        let mut command = fleet.command("p2p", &replay("--apply"))?;
        command.stdout(Stdio::null());
        Process::spawn(command)
    };
    let pending = "SELECT count(*) FROM pipeline.remakes WHERE made_at IS NULL";
    // The first page waits for this row, the second time all of them are done and the close of the first batch is.
    let mut replay_process = start()?;
    fleet.wait_for(pending, 1).await?;
    replay_process.kill().await?;
    assert_eq!(
        ask(&fleet, "SELECT count(*) FROM pipeline.replays WHERE facts_at IS NULL").await?,
        1
    );
    assert!(!differing(&fleet).await?.is_empty(), "killed too late to tell anything");

    let mut holder = fleet.pool.begin().await?;
    sqlx::query("SELECT FROM pipeline.batches FOR UPDATE").execute(&mut *holder).await?;
    let mut replay_process = start()?;
    fleet.wait_for("SELECT count(*) FROM pipeline.replays WHERE facts_at IS NOT NULL", 1).await?;
    let (code, answer) = p2p(&fleet, &replay("--apply")).await?;
    assert_eq!(code, 64, "one at a time: {answer}");
    replay_process.kill().await?;
    holder.rollback().await?;
    assert!(ask(&fleet, pending).await? > 0);

    let (code, answer) = p2p(&fleet, &["replay", "--resume", "--json"]).await?;
    assert_eq!(code, 0, "{answer}");
    must_equal_kept(&fleet).await?;
    assert_eq!(ask(&fleet, pending).await?, 0);
    let (code, again) = p2p(&fleet, &replay("--dry-run")).await?;
    assert_eq!(code, 0, "{again}");
    fleet.remove().await
}

/// Ads and answers whose bytes are fine now are put back from the quarantine, once.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_goes_where_it_belongs() -> Result<()> {
    let (fleet, _worker) = world().await?;
    keep(&fleet).await?;
    // From the first page of a market its third and sixth ad are refused; from the last batch a page is lost.
    let batch = ask(&fleet, "SELECT max(batch_id)::bigint FROM pipeline.batches").await?;
    let ordinal = ask(&fleet, &format!("SELECT min(ordinal)::bigint FROM warehouse.book_pages WHERE batch_id = {batch} AND page = 1 AND cardinality(offer_ids) > 10")).await?;
    // None that refers to another page of this batch: whichever of the two is stored first has the versions of both.
    let lost = ask(&fleet, &format!("SELECT min(ordinal)::bigint FROM warehouse.book_pages p WHERE batch_id = {batch} AND page = 2
        AND NOT EXISTS (SELECT FROM unnest(p.offer_ids) i WHERE i >> 22 = p.batch_id & 511 AND (i >> 5) & 131071 <> p.ordinal)")).await?;
    for (position, index) in [(2, 3), (4, 4)] {
        let body = raw_body(&fleet, batch, ordinal).await?;
        // As it was sent: a rate has more digits than a float holds.
        let item = serde_json::from_slice::<Items<'_>>(&body)?.data[position].get().to_owned();
        sqlx::query("INSERT INTO pipeline.quarantine (day, batch_id, ordinal, scope, position, adv_no, reason, field, detail, parser_version, body, quarantined_at)
                     SELECT day, batch_id, ordinal, 'ad', $3, $5, 'missing_field', 'adv.price', 'planted', 1, $4, now() FROM pipeline.jobs WHERE batch_id = $1 AND ordinal = $2")
            .bind(i32::try_from(batch)?).bind(i32::try_from(ordinal)?).bind(i32::try_from(position)?).bind(item.as_bytes())
            .bind(serde_json::from_str::<Value>(&item)?["adv"]["advNo"].as_str())
            .execute(&fleet.pool).await?;
        // After the third is gone the fifth is the fourth.
        execute(&fleet, &format!("UPDATE warehouse.book_pages SET offer_ids = offer_ids[:{index} - 1] || offer_ids[{index} + 1:], active_minutes = active_minutes[:{index} - 1] || active_minutes[{index} + 1:], privilege_types = privilege_types[:{index} - 1] || privilege_types[{index} + 1:] WHERE batch_id = {batch} AND ordinal = {ordinal}")).await?;
    }
    execute(&fleet, &format!("UPDATE pipeline.jobs SET ads_taken = ads_taken - 2, ads_refused = 2 WHERE batch_id = {batch} AND ordinal = {ordinal}")).await?;
    let answer = raw_body(&fleet, batch, lost).await?;
    sqlx::query("INSERT INTO pipeline.quarantine (day, batch_id, ordinal, scope, reason, detail, parser_version, body, quarantined_at)
                 SELECT day, batch_id, ordinal, 'answer', 'unparsable', 'planted', 1, $3, now() FROM pipeline.jobs WHERE batch_id = $1 AND ordinal = $2")
        .bind(i32::try_from(batch)?).bind(i32::try_from(lost)?).bind(answer).execute(&fleet.pool).await?;
    execute(&fleet, &format!("DELETE FROM warehouse.book_pages WHERE batch_id = {batch} AND ordinal = {lost};
        UPDATE pipeline.jobs SET state = 'failed', reason = 'unparsable', detail = 'planted', declared_total = NULL, ads_taken = NULL, ads_refused = NULL WHERE batch_id = {batch} AND ordinal = {lost};
        INSERT INTO pipeline.quarantine (day, batch_id, ordinal, scope, position, reason, detail, parser_version, body, quarantined_at)
        SELECT day, batch_id, ordinal, 'ad', 30, 'malformed', 'planted', 1, '{{}}', now() FROM pipeline.jobs WHERE batch_id = {batch} AND ordinal = (SELECT min(ordinal) FROM warehouse.book_pages WHERE batch_id = {batch} AND ordinal NOT IN ({ordinal}, {lost}));
        INSERT INTO pipeline.remakes (batch_id, market_id, noted_at) SELECT batch_id, market_id, now() FROM warehouse.books")).await?;
    assert_eq!(p2p(&fleet, &["replay", "--resume", "--json"]).await?.0, 0);
    assert!(!differing(&fleet).await?.is_empty());
    // Retrying needs no archive.
    execute(&fleet, "DELETE FROM pipeline.raw_pages").await?;

    let (code, entries) = p2p(&fleet, &["quarantine", "list", "--json", "--state", "open"]).await?;
    assert_eq!((code, entries.as_array().map(Vec::len)), (0, Some(4)), "{entries}");
    let (code, entries) = p2p(
        &fleet,
        &["quarantine", "list", "--json", "--reason", "missing_field", "--since", "1h"],
    )
    .await?;
    assert_eq!((code, entries.as_array().map(Vec::len)), (0, Some(2)), "{entries}");
    let id = entries[0]["quarantine_id"].to_string();
    let (code, shown) = p2p(&fleet, &["quarantine", "show", &id, "--json"]).await?;
    assert_eq!((code, &shown["field"]), (0, &json!("adv.price")), "{shown}");
    assert!(shown["body"].as_str().unwrap().contains("advNo"), "{shown}");
    assert_eq!(p2p(&fleet, &["quarantine", "show", "9999"]).await?.0, 66);

    let (code, would) =
        p2p(&fleet, &["quarantine", "retry", "--all", "--dry-run", "--json"]).await?;
    assert_eq!((code, number(&would, "taken"), number(&would, "refused")), (3, 3, 1), "{would}");
    let (code, done) = p2p(&fleet, &["quarantine", "retry", "--all", "--json"]).await?;
    assert_eq!((code, number(&done, "taken"), number(&done, "refused")), (3, 3, 1), "{done}");
    must_equal_kept(&fleet).await?;

    let (code, again) = p2p(&fleet, &["quarantine", "retry", "--all", "--json"]).await?;
    assert_eq!((code, number(&again, "taken"), number(&again, "refused")), (3, 0, 1), "{again}");
    let (code, closed) = p2p(&fleet, &["quarantine", "retry", &id, "--json"]).await?;
    assert_eq!((code, &closed["entries"][0]["outcome"]), (0, &json!("closed")), "{closed}");
    must_equal_kept(&fleet).await?;
    let left = ask(
        &fleet,
        "SELECT quarantine_id FROM pipeline.quarantine WHERE state = 'open' AND tries = 2",
    )
    .await?;
    let left = left.to_string();
    assert_eq!(
        p2p(&fleet, &["quarantine", "discard", &left, "--why", "an empty object"]).await?.0,
        0
    );
    assert_eq!(p2p(&fleet, &["quarantine", "discard", &left, "--why", "again"]).await?.0, 3);
    assert_eq!(p2p(&fleet, &["quarantine", "discard", "9999", "--why", "nobody"]).await?.0, 66);
    fleet.remove().await
}

async fn raw_body(fleet: &Fleet, batch: i64, ordinal: i64) -> Result<Vec<u8>> {
    let (batch, ordinal) = (batch.to_string(), ordinal.to_string());
    let args = ["raw", "show", &batch, "--ordinal", &ordinal, "--body"];
    Ok(fleet.command("p2p", &args)?.output().await?.stdout)
}

#[derive(Deserialize)]
struct Items<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}
