//! `p2p batches`, `p2p batch show` and `p2p gaps` on rows made by hand.

use std::process::Stdio;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::database::Database;

const WHOLE: [i32; 4] = [1, 1, 0, 0];
const BUDGET: (&str, Option<&str>) = ("shed", Some("budget"));
const DEADLINE: (&str, Option<&str>) = ("expired", Some("deadline"));
const DONE: (&str, Option<&str>) = ("done", None);

fn failed(class: &str) -> (&str, Option<&str>) {
    ("failed", Some(class))
}

fn reason(reason: &str, batches: i64, pages_missed: i64, pages: &str) -> Value {
    json!({ "reason": reason, "batches": batches, "pages_missed": pages_missed, "pages": pages })
}

/// The gaps of one market.
fn gaps_of<'a>(gaps: &'a Value, market: &str) -> Vec<&'a Value> {
    gaps["markets"].as_array().unwrap().iter().filter(|gap| gap["market"] == market).collect()
}

/// An object of the fields named only.
fn pick(object: &Value, fields: &[&str]) -> Value {
    fields.iter().map(|field| ((*field).to_owned(), object[*field].clone())).collect()
}

/// Every way in which a slot is not read is a gap, told once, with its reason and its end.
#[tokio::test]
async fn slots_that_were_not_read_are_gaps() {
    let db = Database::create().await;
    db.leader(db.slot(30)).await;
    db.closed(12, "complete", None).await;
    db.skipped(11, "missed").await;
    db.skipped(10, "missed").await;
    db.skipped(9, "late").await;
    db.closed(8, "partial", Some("1 pages lost")).await;
    db.closed(7, "failed", Some("no page was read")).await;
    db.run("UPDATE pipeline.batches SET planned_at = NULL WHERE outcome = 'failed'").await;
    db.closed(6, "failed", Some("no page was read")).await;
    db.closed(5, "complete", None).await;
    db.closed(3, "complete", None).await;
    db.run(
        "UPDATE pipeline.batches SET state = 'open', outcome = NULL, closed_at = NULL
          WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches)",
    )
    .await;
    let (code, gaps) = db.json(&["gaps"]);
    let fields = ["kind", "reason", "slots", "first_slot", "last_slot", "until", "seconds"];
    let mut slots: Vec<Value> =
        gaps["slots"].as_array().unwrap().iter().map(|gap| pick(gap, &fields)).collect();
    // Open ones last until now.
    for open in slots.iter_mut().filter(|gap| gap["until"].is_null()) {
        assert!(open["seconds"].as_i64().unwrap() >= 120, "{open}");
        open["seconds"] = json!(null);
    }
    let gap = |kind: &str, reason: &str, (first, last): (i64, i64), until: i64| {
        json!({
            "kind": kind, "reason": reason, "slots": first - last + 1,
            "first_slot": db.slot_json(first), "last_slot": db.slot_json(last),
            "until": if until < 0 { json!(null) } else { db.slot_json(until) },
            "seconds": if until < 0 { json!(null) } else { json!((first - until) * 600) },
        })
    };
    assert_eq!(
        slots,
        [
            gap("skipped", "missed", (11, 10), 8),
            gap("skipped", "late", (9, 9), 8),
            gap("unplanned", "no page was read", (7, 7), 5),
            gap("failed", "no page was read", (6, 6), 5),
            gap("overdue", "0 of 0 jobs ended", (3, 3), -1),
            gap("unrecorded", "nobody led", (2, 0), -1),
        ]
    );
    assert_eq!((code, &gaps["has_gaps"]), (3, &json!(true)));
    assert_eq!(gaps["slots"][2]["batch_ids"], json!([db.id(7)]));
    let (_, text) = db.text(&["gaps"]);
    for part in ["unrecorded  still open", "nobody led", "missed", "late", "overdue"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let (_, short) = db.json(&["gaps", "--since", "50m"]);
    assert_eq!(short["slots"].as_array().unwrap().len(), 2, "{short}");
    db.remove().await;
}

/// A market's gap runs from reading to reading, through batches that had no book of it, and says which
/// pages were missed for which reason.
#[tokio::test]
async fn markets_that_were_not_read_are_gaps() {
    let db = Database::create().await;
    for (n, outcome) in
        [(9, "complete"), (8, "partial"), (7, "partial"), (6, "partial"), (5, "complete")]
    {
        db.closed(n, outcome, None).await;
    }
    // Shed twice with a batch without a book between, and not read since.
    let open = db.market("USDT", "VES").await;
    db.book(9, open, "complete", [3, 3, 0, 0]).await;
    for n in [8, 6] {
        db.book(n, open, "shed", [3, 0, 0, 3]).await;
        for page in 1..=3 {
            db.job(n, ("search", open, page), BUDGET).await;
        }
    }
    // Failed, then cut, and read again.
    let recovered = db.market("BTC", "VES").await;
    db.book(9, recovered, "drifted", [2, 2, 0, 0]).await;
    db.book(8, recovered, "failed", [2, 0, 2, 0]).await;
    db.job(8, ("search", recovered, 1), failed("timeout")).await;
    db.job(8, ("search", recovered, 2), DEADLINE).await;
    // Of five pages declared the deadline let only two be planned; page 1 was read at the second try.
    db.book(7, recovered, "partial", [5, 1, 4, 0]).await;
    db.job(7, ("search", recovered, 1), failed("timeout")).await;
    db.job(7, ("search", recovered, 2), DEADLINE).await;
    db.job(7, ("search", recovered, 1), DONE).await;
    db.book(6, recovered, "complete", [2, 2, 0, 0]).await;
    let (code, gaps) = db.json(&["gaps"]);
    assert_eq!(code, 3);
    assert_eq!(
        gaps["markets_total"],
        json!({ "gaps": 2, "open": 1, "pages_missed": 12 }),
        "{gaps:#}"
    );
    let fields = ["batches", "pages_missed", "reasons", "since", "until", "ended", "is_never_read"];
    let only = |market: &str| {
        let found = gaps_of(&gaps, market);
        assert_eq!(found.len(), 1, "{market}");
        pick(found[0], &fields)
    };
    let reason = |reason: &str, batches: i64, pages_missed: i64, pages: &str| json!({ "reason": reason, "batches": batches, "pages_missed": pages_missed, "pages": pages });
    assert_eq!(
        only("USDT/VES BUY"),
        json!({
            "batches": 2, "pages_missed": 6, "reasons": [reason("shed(budget)", 2, 6, "1-3")],
            "since": db.read_json(9), "until": null, "ended": "open", "is_never_read": false,
        })
    );
    assert_eq!(
        only("BTC/VES BUY"),
        json!({
            "batches": 2, "pages_missed": 6,
            "reasons": [
                reason("expired(deadline)", 2, 2, "2"),
                reason("failed(timeout)", 1, 1, "1"),
                reason("unplanned(deadline)", 1, 3, "3-5"),
            ],
            "since": db.read_json(9), "until": db.read_json(6), "ended": "read", "is_never_read": false,
        })
    );
    db.remove().await;
}

/// A reading parts gaps, a delisting ends one, and a market that was never read is told as such.
#[tokio::test]
async fn a_gap_ends_with_a_reading_or_a_delisting() {
    let db = Database::create().await;
    for n in 5..=9 {
        db.closed(n, "partial", None).await;
    }
    // Two gaps, parted by a reading.
    let twice = db.market("USDT", "ARS").await;
    for n in [9, 7, 5] {
        db.book(n, twice, "complete", WHOLE).await;
    }
    for n in [8, 6] {
        db.book(n, twice, "failed", [1, 0, 1, 0]).await;
        db.job(n, ("search", twice, 1), failed("rate_limited")).await;
    }
    // Never read.
    let never = db.market("ETH", "ARS").await;
    db.book(5, never, "failed", [1, 0, 1, 0]).await;
    db.job(5, ("search", never, 1), failed("unparsable")).await;
    // Lost and then delisted.
    let delisted = db.market("BUSD", "ARS").await;
    db.book(9, delisted, "complete", WHOLE).await;
    db.book(8, delisted, "failed", [1, 0, 1, 0]).await;
    db.run(
        "UPDATE pipeline.catalog SET is_listed = false, delisted_at = now()
          WHERE market_id = (SELECT max(market_id) FROM pipeline.catalog)",
    )
    .await;
    // Left out in part, then in whole.
    let open = db.market("USDT", "VES").await;
    db.book(9, open, "empty", WHOLE).await;
    // A part of it was read: that is no good reading.
    db.book(6, open, "partial", [2, 1, 0, 1]).await;
    db.job(6, ("search", open, 1), DONE).await;
    db.job(6, ("search", open, 2), BUDGET).await;
    db.book(5, open, "shed", [1, 0, 0, 1]).await;
    db.job(5, ("search", open, 1), BUDGET).await;
    let (_, gaps) = db.json(&["gaps"]);
    let twice = gaps_of(&gaps, "USDT/ARS BUY");
    assert_eq!(twice.len(), 2);
    assert!(twice.iter().all(|gap| gap["seconds"] == 1200), "{twice:?}");
    assert!(
        twice
            .iter()
            .all(|gap| gap["reasons"] == json!([reason("failed(rate_limited)", 1, 1, "1")]))
    );
    assert_eq!(
        pick(gaps_of(&gaps, "ETH/ARS BUY")[0], &["since", "ended", "is_never_read"]),
        json!({ "since": null, "ended": "open", "is_never_read": true })
    );
    let delisted = gaps_of(&gaps, "BUSD/ARS BUY")[0];
    assert_eq!(delisted["ended"], "delisted");
    assert_eq!(delisted["reasons"][0]["reason"], "failed", "its jobs are gone: the verdict");
    // The longest open one is first, and what is left out is counted.
    assert_eq!(gaps["markets"][0]["market"], "ETH/ARS BUY");
    assert_eq!(gaps["markets"][1]["market"], "USDT/VES BUY");
    assert_eq!(gaps["markets"][1]["since"], db.read_json(9));
    let (_, text) = db.text(&["gaps", "--limit", "2"]);
    for part in ["shed(budget) ×2 1-2", "never", "still open", "and 3 more, see --limit"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let (_, one_fiat) = db.json(&["gaps", "--fiat", "VES"]);
    assert_eq!(one_fiat["markets_total"]["gaps"], 1);
    let (code, error) = db.text(&["gaps", "--fiat", "VEZ"]);
    assert_eq!(code, 66);
    assert!(error.contains("\"VEZ\" is not known: allowed are ARS, VES"), "{error}");
    db.remove().await;
}

/// The last good reading is found before the time asked for: a day further back, and for an open gap
/// however long ago it was.
#[tokio::test]
async fn the_last_good_reading_is_looked_for_further_back() {
    let db = Database::create().await;
    let hour = 6;
    for n in [60 * hour, 20 * hour, 2, 1] {
        db.closed(n, "partial", None).await;
    }
    let yesterday = db.market("USDT", "VES").await;
    let before = db.market("BTC", "VES").await;
    let open = db.market("ETH", "VES").await;
    db.book(20 * hour, yesterday, "complete", WHOLE).await;
    for market in [before, open] {
        db.book(60 * hour, market, "complete", WHOLE).await;
    }
    for market in [yesterday, before, open] {
        db.book(2, market, "failed", [1, 0, 1, 0]).await;
        db.job(2, ("search", market, 1), failed("network")).await;
    }
    for market in [yesterday, before] {
        db.book(1, market, "complete", WHOLE).await;
    }
    let (_, gaps) = db.json(&["gaps", "--since", "1h"]);
    let since = |market: &str| gaps_of(&gaps, market)[0]["since"].clone();
    assert_eq!(since("USDT/VES BUY"), db.read_json(20 * hour));
    assert_eq!(since("BTC/VES BUY"), Value::Null);
    assert_eq!(gaps_of(&gaps, "BTC/VES BUY")[0]["is_never_read"], false);
    assert_eq!(since("ETH/VES BUY"), db.read_json(60 * hour));
    db.remove().await;
}

#[tokio::test]
async fn lists_that_were_not_read_are_gaps() {
    let db = Database::create().await;
    let (ves, ars) = (db.market("USDT", "VES").await, db.market("USDT", "ARS").await);
    for n in [3, 2, 1] {
        db.closed(n, "partial", None).await;
    }
    for n in [3, 2] {
        db.job(n, ("assets", ves, 0), failed("http_status")).await;
    }
    db.job(1, ("assets", ves, 0), DONE).await;
    db.job(1, ("payment_methods", ars, 0), DEADLINE).await;
    let (code, gaps) = db.json(&["gaps"]);
    assert_eq!(code, 3);
    let fields = ["kind", "fiat", "reason", "batches"];
    let lists: Vec<Value> =
        gaps["lists"].as_array().unwrap().iter().map(|list| pick(list, &fields)).collect();
    assert_eq!(
        lists,
        [
            json!({ "kind": "payment_methods", "fiat": "ARS", "reason": "expired(deadline)", "batches": 1 }),
            json!({ "kind": "assets", "fiat": "VES", "reason": "failed(http_status)", "batches": 2 }),
        ]
    );
    assert_eq!(gaps["lists"][0]["until"], Value::Null);
    assert_eq!(gaps["lists"][1]["seconds"], 1200);
    assert_eq!(db.json(&["gaps", "--fiat", "ARS"]).1["lists"].as_array().unwrap().len(), 1);
    db.remove().await;
}

/// What is as it should be is no gap: the first start, a batch that is running, markets empty for long,
/// books that drifted or have an ad in quarantine, pages beyond the end, delisted markets.
#[tokio::test]
async fn nothing_is_a_gap_that_is_none() {
    let db = Database::create().await;
    let (code, gaps) = db.json(&["gaps"]);
    assert_eq!((code, &gaps["slots_seen"]), (0, &json!(0)), "an empty database: {gaps}");
    assert!(db.text(&["gaps"]).1.contains("no batch was opened"));
    // A leader that has just begun, and has taken no slot yet.
    db.leader(Utc::now() - TimeDelta::seconds(60)).await;
    assert_eq!(db.text(&["gaps"]).0, 0);
    for n in [3, 2, 1, 0] {
        db.closed(n, "complete", None).await;
    }
    db.run(
        "UPDATE pipeline.batches
            SET state = 'open', outcome = NULL, closed_at = NULL, planned_at = NULL, deadline_at = now()
          WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches)",
    )
    .await;
    let empty = db.market("USDT", "XAF").await;
    db.book(3, empty, "empty", WHOLE).await;
    let (drifted, refused) = (db.market("USDT", "VES").await, db.market("BTC", "VES").await);
    for n in [3, 2, 1] {
        db.book(n, drifted, "drifted", [2, 2, 0, 0]).await;
        db.book(n, refused, "partial", [1, 1, 0, 0]).await;
        db.job(n, ("search", drifted, 3), ("empty", Some("beyond_last_page"))).await;
    }
    let gone = db.market("BUSD", "VES").await;
    db.book(1, gone, "failed", [1, 0, 1, 0]).await;
    db.run("UPDATE warehouse.books SET estimated_missed = 2 WHERE verdict = 'drifted'").await;
    db.run("UPDATE warehouse.books SET refused_ads = 1 WHERE verdict = 'partial'").await;
    db.run("UPDATE warehouse.books SET is_listed = false WHERE verdict = 'failed'").await;
    let (code, gaps) = db.json(&["gaps"]);
    assert_eq!((code, &gaps["has_gaps"]), (0, &json!(false)), "{gaps:#}");
    assert_eq!(
        gaps["incomplete"],
        json!({ "books_drifted": 3, "ads_missed": 6, "books_with_refused_ads": 3, "ads_refused": 3 })
    );
    let (_, text) = db.text(&["gaps"]);
    assert!(text.starts_with("no gaps since "), "{text}");
    assert!(text.contains("3 books drifted while read, 6 ads missed by estimate"), "{text}");
    db.remove().await;
}

#[tokio::test]
async fn batches_are_listed_with_the_slots_that_none_took() {
    let db = Database::create().await;
    assert_eq!(db.text(&["batches"]), (0, "no batch was opened and no slot came due\n".into()));
    db.leader(db.slot(30)).await;
    db.closed(6, "complete", None).await;
    db.closed(5, "partial", Some("12 pages lost")).await;
    db.run(
        "UPDATE pipeline.batches
            SET egresses = 2, request_budget = 1520, pages_read = 1200, pages_lost = 12, pages_shed = 0,
                pages_reread = 7, lists_lost = 0, ads = 23456, ads_refused = 1, ads_missed = 3,
                requests = 1234, books = 3000, books_complete = 2900
          WHERE outcome = 'partial'",
    )
    .await;
    db.skipped(4, "late").await;
    db.closed(3, "complete", None).await;
    db.run(
        "UPDATE pipeline.batches SET state = 'open', outcome = NULL, closed_at = NULL
          WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches)",
    )
    .await;
    let market = db.market("USDT", "VES").await;
    for (page, end) in [(1, DONE), (2, ("published", None)), (3, BUDGET)] {
        db.job(3, ("search", market, page), end).await;
    }
    let (code, listed) = db.json(&["batches"]);
    assert_eq!(code, 0);
    let fields = ["batch_id", "state", "slot_at"];
    let entries = listed["batches"].as_array().unwrap();
    let seen: Vec<Value> = entries.iter().map(|entry| pick(entry, &fields)).collect();
    let entry = |n: i64, id: Value, state: &str| json!({ "batch_id": id, "state": state, "slot_at": db.slot_json(n) });
    assert_eq!(
        seen,
        [
            entry(6, json!(db.id(6)), "closed"),
            entry(5, json!(db.id(5)), "closed"),
            entry(4, Value::Null, "skipped"),
            entry(3, json!(db.id(3)), "open"),
            entry(2, Value::Null, "unrecorded"),
            entry(1, Value::Null, "unrecorded"),
            entry(0, Value::Null, "unrecorded"),
        ]
    );
    assert_eq!(entries[0]["pages_read"], Value::Null);
    assert_eq!(entries[1]["duration_ms"], 59_500);
    assert_eq!(
        pick(&entries[3], &["jobs_planned", "jobs_ended"]),
        json!({ "jobs_planned": 2, "jobs_ended": 1 })
    );
    let (_, text) = db.text(&["batches"]);
    for part in [
        "2,900/3,000",
        "23,456",
        "1,234/1,520",
        "12 pages lost",
        "1 of 2 jobs ended",
        "nobody led",
        "59.5",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let states = |args: &[&str]| {
        let (_, listed) = db.json(&[&["batches"], args].concat());
        listed["batches"].as_array().unwrap().len()
    };
    assert_eq!(states(&["--last", "4"]), 4);
    let since = (Utc::now() - db.slot(4)).num_minutes() + 5;
    let since = format!("{since}m");
    assert_eq!(states(&["--since", &since]), 5);
    assert_eq!(states(&["--since", &since, "--last", "2"]), 2);
    db.remove().await;
}

#[tokio::test]
async fn a_batch_is_shown_with_everything() {
    let db = Database::create().await;
    let (code, error) = db.text(&["batch", "show", "latest"]);
    assert_eq!((code, error.trim()), (66, "p2p: no batch was closed yet"));
    let (code, error) = db.text(&["batch", "show", "open"]);
    assert_eq!((code, error.trim()), (66, "p2p: no batch is open"));
    db.closed(3, "complete", None).await;
    db.closed(2, "partial", Some("3 pages lost")).await;
    let (whole, lost, worst) = (
        db.market("USDT", "VES").await,
        db.market("BTC", "VES").await,
        db.market("ETH", "VES").await,
    );
    db.book(2, whole, "complete", WHOLE).await;
    db.book(2, lost, "partial", [2, 1, 1, 0]).await;
    db.book(2, worst, "failed", [2, 0, 2, 0]).await;
    db.job(2, ("search", whole, 1), DONE).await;
    db.job(2, ("search", lost, 1), DONE).await;
    db.job(2, ("search", lost, 2), DEADLINE).await;
    db.job(2, ("search", worst, 1), failed("rate_limited")).await;
    db.job(2, ("search", worst, 2), failed("timeout")).await;
    sqlx::query(
        "INSERT INTO pipeline.quarantine
                (day, batch_id, ordinal, scope, reason, detail, parser_version, body, quarantined_at)
         VALUES (current_date, $1, 0, 'ad', 'missing', 'x', 1, '', now()),
                (current_date, $1, 0, 'ad', 'missing', 'x', 1, '', now())",
    )
    .bind(db.id(2))
    .execute(&db.pool)
    .await
    .unwrap();
    db.closed(1, "complete", None).await;
    db.run(
        "UPDATE pipeline.batches SET state = 'open', outcome = NULL, closed_at = NULL
          WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches)",
    )
    .await;
    let (code, shown) = db.json(&["batch", "show", "open"]);
    assert_eq!((code, &shown["batch"]["batch_id"]), (0, &json!(db.id(1))));
    let (code, error) = db.text(&["quality", "open"]);
    assert!(code == 66 && error.contains("is open: it is checked when it closes"), "{error}");
    // The one that runs is not what alerts speak of.
    let (code, shown) = db.json(&["batch", "show", "latest", "--limit", "1"]);
    assert_eq!((code, &shown["batch"]["batch_id"]), (0, &json!(db.id(2))));
    let jobs: Vec<Value> = shown["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|jobs| pick(jobs, &["state", "reason", "jobs", "requests"]))
        .collect();
    assert_eq!(
        jobs,
        [
            json!({ "state": "done", "reason": null, "jobs": 2, "requests": 2 }),
            json!({ "state": "expired", "reason": "deadline", "jobs": 1, "requests": 0 }),
            json!({ "state": "failed", "reason": "rate_limited", "jobs": 1, "requests": 1 }),
            json!({ "state": "failed", "reason": "timeout", "jobs": 1, "requests": 1 }),
        ]
    );
    assert_eq!(
        pick(&shown["workers"][0], &["worker_id", "egress_id", "jobs"]),
        json!({ "worker_id": "w1", "egress_id": "e1", "jobs": 4 })
    );
    assert_eq!((shown["books"].as_array().unwrap().len(), &shown["books_total"]), (1, &json!(2)));
    assert_eq!(shown["books"][0]["market"], "ETH/VES BUY");
    assert_eq!(shown["lost_jobs_total"], 3);
    assert_eq!(
        pick(
            &shown["lost_jobs"][0],
            &["subject", "page", "reason", "http_status", "attempts", "detail"]
        ),
        json!({ "subject": "ETH/VES BUY", "page": 1, "reason": "rate_limited", "http_status": 429, "attempts": 1, "detail": "in words" })
    );
    assert_eq!(shown["quarantine"], json!([{ "scope": "ad", "reason": "missing", "entries": 2 }]));
    let id = db.id(2).to_string();
    let (_, text) = db.text(&["batch", "show", &id, "--limit", "1"]);
    for part in
        ["3 pages lost", "and 1 more, see --limit", "and 2 more, see --limit", "429", "1 complete"]
    {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    // The day is dropped: the batch stays.
    let drop =
        format!("DROP TABLE pipeline.jobs_{0}, warehouse.books_{0}", db.slot(2).format("%Y%m%d"));
    sqlx::query(sqlx::AssertSqlSafe(drop)).execute(&db.pool).await.unwrap();
    let (code, shown) = db.json(&["batch", "show", &id]);
    assert_eq!((code, &shown["is_day_dropped"], &shown["jobs"]), (0, &json!(true), &json!([])));
    assert!(db.text(&["batch", "show", &id]).1.contains("was dropped"));
    let (code, error) = db.text(&["batch", "show", "7"]);
    assert_eq!(code, 66);
    assert!(error.contains("batch 7 is not known") && error.contains(&id), "{error}");
    db.remove().await;
}

/// Who reads has seen enough.
#[tokio::test]
async fn a_summary_is_no_error_when_its_pipe_is_closed() {
    let db = Database::create().await;
    db.closed(1, "complete", None).await;
    db.closed(0, "partial", Some("1 pages lost")).await;
    for args in [&["summary"][..], &["summary", "--json"], &["migrate"]] {
        // The whole of it goes into a pipe that nobody reads any more.
        let mut child = db.command(args).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert!(child.wait().unwrap().success(), "{args:?}");
    }
    let (code, text) = db.text(&["summary", "--batches", "2"]);
    assert!(code == 0 && text.contains("outcome") && text.contains(": 1 pages lost"), "{text}");
    let (code, text) = db.text(&["summary", "--batches", "0"]);
    assert!(code == 64 && text.contains("1..=1000"), "{text}");
    db.remove().await;
}
