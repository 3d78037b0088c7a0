//! `p2p status`, `p2p workers` and `p2p catalog`.

use serde_json::{Value, json};
use shared::queue::Queue;
use sqlx::{Connection, PgConnection};

use super::{PASSWORD, Queues, away, json, text, variable};
use crate::database::Database;

/// What the problems of a status say.
fn told(status: &Value) -> String {
    let problems = status["problems"].as_array().unwrap();
    let line = |problem: &Value| format!("{} {}\n", problem["level"], problem["what"]);
    problems.iter().map(line).collect::<Vec<_>>().concat()
}

/// One who leads, works and has read: all that a healthy fleet has.
async fn make_healthy(db: &Database) -> PgConnection {
    db.leader(db.slot(30)).await;
    db.closed(0, "complete", None).await;
    let market = db.market("USDT", "VES").await;
    db.book(0, market, "complete", [1, 1, 0, 0]).await;
    db.job(0, ("search", market, 1), ("done", None)).await;
    db.run(
        "INSERT INTO pipeline.workers (worker_id, exchange_id, egress_id, requests_per_minute, started_at, seen_at)
         VALUES ('w1', 1, 'e1', 100, now() - interval '1 h', now() + interval '1 h')",
    )
    .await;
    let mut lock = PgConnection::connect(&db.url).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(hashtext('p2p.coordinator'), 1)")
        .execute(&mut lock)
        .await
        .unwrap();
    lock
}

#[tokio::test]
async fn an_empty_database_says_what_to_start() {
    let db = Database::create().await;
    let only = [("DATABASE_URL", db.url.as_str())];
    let (code, status) = json(&only, &["status"]);
    assert_eq!((code, &status["is_healthy"]), (3, &json!(false)), "{status}");
    for part in ["nobody has ever led", "no worker was seen"] {
        assert!(told(&status).contains(part), "{part} in {status}");
    }
    // Who was not told of a server does not complain about it.
    assert_eq!(status["queues"], json!({ "away": "AMQP_URL is not set" }));
    assert!(!told(&status).contains("AMQP_URL"), "{status}");
    let (code, shown) = text(&only, &["status"]);
    assert!(code == 3 && shown.starts_with("NOT HEALTHY: 2 things"), "{shown}");
    assert!(shown.contains("→ start a coordinator"), "{shown}");
    let (code, workers) = json(&only, &["workers"]);
    assert_eq!((code, &workers["workers"]), (3, &json!([])));
    let (code, catalog) = json(&only, &["catalog"]);
    assert_eq!((code, &catalog["markets"], &catalog["fiats"]), (0, &json!([]), &json!([])));
    assert_eq!(text(&only, &["catalog", "--fiat", "VES"]).0, 66);
    db.remove().await;
}

#[tokio::test]
async fn each_thing_that_goes_wrong_is_told_with_what_to_do() {
    let db = Database::create().await;
    let queues = Queues::declare(&db).await;
    let (amqp, redis) = (variable("AMQP_URL"), variable("REDIS_URL"));
    let all = [
        ("DATABASE_URL", db.url.as_str()),
        ("AMQP_URL", amqp.as_str()),
        ("REDIS_URL", redis.as_str()),
        ("AMQP_PREFIX", queues.prefix.as_str()),
    ];
    let lock = make_healthy(&db).await;
    let (code, status) = json(&all, &["status"]);
    assert_eq!((code, told(&status).as_str()), (0, ""), "{status:#}");
    let facts = &status["facts"];
    assert_eq!(facts["leader"]["is_leading"], true);
    assert_eq!(facts["workers"][0]["jobs"], 1);
    assert_eq!(facts["gaps_open"], json!({ "slots": 0, "markets": 0, "lists": 0 }));
    assert_eq!(status["queues"][0]["ready"], 0);
    let (_, shown) = text(&all, &["status"]);
    assert!(shown.starts_with("healthy\n") && shown.contains("host-1 for "), "{shown}");

    let mut expected = Vec::new();
    let mut expect = |level: &str, part: &str| {
        expected.push((format!("\"{level}\""), part.to_owned()));
        let (code, status) = json(&all, &["status"]);
        for (level, part) in &expected {
            let told = told(&status);
            let line = told.lines().find(|line| line.contains(part.as_str()));
            let line = line.unwrap_or_else(|| panic!("{part:?} in\n{told}"));
            assert!(line.starts_with(level), "{line}");
        }
        code
    };
    db.run("UPDATE pipeline.batches SET outcome = 'partial', reason = '1 pages lost'").await;
    assert_eq!(expect("warn", "is partial: 1 pages lost"), 0, "worth a look, and healthy");
    db.run(
        "INSERT INTO pipeline.quarantine (day, batch_id, ordinal, scope, reason, detail, parser_version, body, quarantined_at)
         VALUES (current_date, 1, 0, 'answer', 'not_json', 'x', 1, 'x', now())",
    )
    .await;
    assert_eq!(expect("warn", "1 entry in quarantine"), 0);
    queues.kill("not a job").await;
    assert_eq!(expect("fail", "1 dead letter on "), 3);
    db.run("UPDATE pipeline.workers SET breaker_open_until = now() + interval '9 min'").await;
    expect("fail", "the circuit breaker of e1 is open");
    db.run("UPDATE warehouse.latest_books SET read_at = now() - interval '25 min'").await;
    // That others are empty is known just now, and is no data.
    let empty = db.market("BTC", "VES").await;
    db.book(0, empty, "empty", [1, 1, 0, 0]).await;
    db.run("UPDATE warehouse.latest_books SET read_at = now() WHERE verdict = 'empty'").await;
    expect("fail", "the newest complete book is 25m old");
    lock.close().await.unwrap();
    expect("fail", "nobody leads; the last one was host-1");
    db.run(
        "UPDATE pipeline.batches SET state = 'open', outcome = NULL, closed_at = NULL,
                deadline_at = now() - interval '5 min'",
    )
    .await;
    let (_, status) = json(&all, &["status"]);
    for part in ["is open 5m past its deadline", "nobody consumes "] {
        assert!(told(&status).contains(part), "{part} in {status}");
    }
    db.run("UPDATE pipeline.workers SET seen_at = now() - interval '2 min'").await;
    db.run("UPDATE pipeline.slots SET slot_at = slot_at - interval '20 min'").await;
    let (_, status) = json(&all, &["status"]);
    for part in ["no worker was seen within a minute", "no batch took the slot of "] {
        assert!(told(&status).contains(part), "{part} in {status}");
    }
    let (code, workers) = text(&all, &["workers"]);
    assert!(code == 3 && workers.contains("STALE"), "{workers}");
    queues.remove().await;
    db.remove().await;
}

/// Each server that is away is told; what the others say is shown all the same.
#[tokio::test]
async fn servers_that_are_away_are_told_and_passwords_are_not() {
    let db = Database::create().await;
    let away = away();
    let mut settings: Vec<(&str, &str)> =
        away.iter().map(|(name, url)| (*name, url.as_str())).collect();
    let (code, status) = json(&settings, &["status"]);
    assert_eq!(code, 3);
    assert!(told(&status).contains("the database can't be read"), "{status}");
    let failing: [(&[&str], i32); 9] = [
        (&["status"], 3),
        (&["workers"], 1),
        (&["catalog"], 1),
        (&["queues"], 1),
        (&["queues", "dead", "show"], 1),
        (&["queues", "dead", "requeue", "--all"], 1),
        (&["batch", "cancel", "open", "--why", "x"], 1),
        (&["batch", "rerun", "--why", "x"], 1),
        (&["doctor"], 1),
    ];
    // At once, for each tries for a while.
    std::thread::scope(|scope| {
        for (args, expected) in failing {
            let settings = &settings;
            scope.spawn(move || {
                let (code, shown) = text(settings, args);
                assert_eq!(code, expected, "{args:?}: {shown}");
                assert!(!shown.contains(PASSWORD), "{args:?}: {shown}");
            });
        }
    });
    settings[0] = ("DATABASE_URL", db.url.as_str());
    db.leader(db.slot(3)).await;
    db.run(
        "INSERT INTO pipeline.workers (worker_id, exchange_id, egress_id, requests_per_minute, started_at, seen_at)
         VALUES ('w1', 1, 'e1', 100, now(), now())",
    )
    .await;
    let (_, status) = json(&settings, &["status"]);
    for part in ["RabbitMQ can't be asked", "Redis can't be asked"] {
        assert!(told(&status).contains(part), "{part} in {status}");
    }
    assert_eq!(status["facts"]["leader"]["coordinator_id"], "host-1");
    assert!(!status.to_string().contains(PASSWORD), "{status}");
    db.remove().await;
}

#[tokio::test]
async fn the_catalog_tells_what_is_listed_and_when_it_was_read() {
    let db = Database::create().await;
    let only = [("DATABASE_URL", db.url.as_str())];
    db.market("USDT", "VES").await;
    db.market("BTC", "VES").await;
    db.market("USDT", "ARS").await;
    db.run(
        "UPDATE pipeline.catalog SET last_total = 40, last_read_at = now() - interval '3 min', changes_per_hour = 7
          WHERE market_id = (SELECT min(market_id) FROM pipeline.catalog)",
    )
    .await;
    db.run(
        "UPDATE pipeline.catalog SET is_listed = false, delisted_at = now() - interval '2 h'
          WHERE market_id = (SELECT max(market_id) FROM pipeline.catalog)",
    )
    .await;
    let (_, catalog) = json(&only, &["catalog"]);
    let markets = |catalog: &Value| -> Vec<String> {
        let markets = catalog["markets"].as_array().unwrap();
        markets.iter().map(|market| market["market"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(markets(&catalog), ["USDT/VES BUY", "BTC/VES BUY"], "the largest first");
    assert_eq!(catalog["fiats"][0]["ads"], 40);
    let (_, all) = json(&only, &["catalog", "--all", "--fiat", "ARS"]);
    assert_eq!(markets(&all), ["USDT/ARS BUY"]);
    assert_eq!(all["markets"][0]["is_listed"], false);
    let (_, shown) = text(&only, &["catalog", "--all"]);
    for part in ["delisted 2h 00m ago", "3m ago", "list of fiats read never", "3 markets"] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    db.remove().await;
}

/// Verdicts of the checks of the last batch are told.
#[tokio::test]
async fn quality_is_told() {
    let db = Database::create().await;
    let only = [("DATABASE_URL", db.url.as_str())];
    let _lock = make_healthy(&db).await;
    assert_eq!(json(&only, &["status"]).1["facts"]["quality"], json!([]));
    db.run(
        "INSERT INTO pipeline.quality_results (day, batch_id, check_name, value, threshold, level, verdict, details, checked_at)
         SELECT day, batch_id, 'completeness', 0.5, 0.995, 'fatal', 'fail', '{}', now() FROM pipeline.batches",
    )
    .await;
    let (code, status) = json(&only, &["status"]);
    assert_eq!(code, 3);
    assert!(told(&status).contains("quality: completeness failed"), "{status}");
    assert!(text(&only, &["status"]).1.contains("quality   1 fail"));
    db.remove().await;
}

/// Messages that wait are counted exactly.
#[tokio::test]
async fn queues_are_counted_exactly() {
    let db = Database::create().await;
    let queues = Queues::declare(&db).await;
    queues.publish(Queue::NormalJobs, "a").await;
    queues.publish(Queue::NormalJobs, "b").await;
    let amqp = variable("AMQP_URL");
    let settings = [("AMQP_URL", amqp.as_str()), ("AMQP_PREFIX", queues.prefix.as_str())];
    let (code, shown) = json(&settings, &["queues"]);
    assert_eq!(code, 0, "{shown}");
    let normal = format!("{}.jobs.normal", queues.prefix);
    let normal = shown["queues"].as_array().unwrap().iter().find(|queue| queue["queue"] == normal);
    assert_eq!((&normal.unwrap()["ready"], &normal.unwrap()["consumers"]), (&json!(2), &json!(0)));
    queues.remove().await;
    db.remove().await;
}
