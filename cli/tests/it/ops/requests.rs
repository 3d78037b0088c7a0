//! `p2p batch cancel`, `rerun` and `requests` without a leader; with leaders they are tested with the
//! whole system.

use serde_json::json;

use super::{json, text};
use crate::database::Database;

#[tokio::test]
async fn what_is_asked_is_recorded_with_who_and_why() {
    let db = Database::create().await;
    let only = [("DATABASE_URL", db.url.as_str()), ("USER", "ada")];
    db.closed(3, "complete", None).await;
    db.closed(2, "partial", Some("1 pages lost")).await;
    db.skipped(1, "missed").await;
    let open = db.closed(0, "complete", None).await;
    let market = db.market("USDT", "VES").await;
    db.book(2, market, "failed", [1, 0, 1, 0]).await;
    let open_again = "UPDATE pipeline.batches SET state = 'open', outcome = NULL, closed_at = NULL
                       WHERE batch_id = (SELECT max(batch_id) FROM pipeline.batches)";
    db.run(open_again).await;
    let nothing = text(&only, &["batch", "requests"]);
    assert_eq!(nothing, (0, "nothing was ever asked of the leader\n".to_owned()));

    let cancel = ["batch", "cancel", "open", "--why", "a leak", "--wait", "0"];
    let (code, asked) = json(&only, &cancel);
    assert_eq!((code, &asked["state"], &asked["batch_id"]), (0, &json!("asked"), &json!(open)));
    assert!(asked["asked_by"].as_str().unwrap().starts_with("ada@"), "{asked}");
    let rerun = ["batch", "rerun", "--lost", "--why", "make good", "--wait", "0"];
    let (code, asked) = json(&only, &rerun);
    assert_eq!(
        (code, &asked["batch_id"], &asked["lost_only"]),
        (0, &json!(db.id(2)), &json!(true))
    );
    // One of each waits at most.
    for again in [&cancel[..], &rerun[..]] {
        let (code, shown) = text(&only, again);
        assert!(code == 64 && shown.contains("was asked already"), "{shown}");
    }
    let (code, shown) = text(&only, &["batch", "requests"]);
    for part in ["cancel", "rerun lost", "asked", "ada@", "a leak", "make good"] {
        assert!(code == 0 && shown.contains(part), "{part} in\n{shown}");
    }
    let (_, status) = json(&only, &["status"]);
    assert_eq!(status["facts"]["requests_waiting"], 2);
    assert_eq!(status["facts"]["running"][0]["is_cancel_asked"], true);
    // The leader answers: no.
    db.run(
        "UPDATE pipeline.requests SET state = 'refused', answer = 'no time', answered_at = now(), answered_by = 'c'
          WHERE kind = 'rerun'",
    )
    .await;
    let slot = db.slot(1).format("%Y-%m-%d %H:%M").to_string();
    let (code, asked) = json(&only, &["batch", "rerun", &slot, "--why", "missed", "--wait", "0"]);
    assert_eq!((code, &asked["batch_id"], &asked["slot_at"]), (0, &json!(null), &db.slot_json(1)));
    assert!(text(&only, &["batch", "requests"]).1.contains("no time"));
    db.remove().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let db = Database::create().await;
    let only = [("DATABASE_URL", db.url.as_str())];
    db.closed(2, "complete", None).await;
    let closed = db.id(2).to_string();
    db.skipped(1, "missed").await;
    let slot = db.slot(1).format("%Y-%m-%d %H:%M").to_string();
    let long = "x".repeat(501);
    for (args, code, told) in [
        (&["cancel", "open", "--why", "x"][..], 66, "no batch is open"),
        (&["cancel", &closed, "--why", "x"], 64, "is closed already"),
        (&["cancel", "99", "--why", "x"], 66, "there is no batch 99"),
        (&["cancel", &slot, "--why", "x"], 66, "has no batch"),
        (&["cancel", "open"], 64, "--why"),
        (&["cancel", "open", "--why", " "], 64, "1 to 500 characters"),
        (&["cancel", "open", "--why", &long], 64, "1 to 500 characters"),
        (&["cancel", "never", "--why", "x"], 64, "allowed are a number"),
        (&["cancel", "open", "--why", "x", "--wait", "9999"], 64, "0..=3600"),
        (&["rerun", "--lost", "--why", "x"], 64, "lost no market"),
        (&["rerun", &slot, "--lost", "--why", "x"], 64, "leave out --lost"),
        (&["rerun", "2020-01-01 10:00", "--why", "x"], 66, "nothing is recorded of a slot"),
        (&["rerun", "open", "--why", "x"], 66, "no batch is open"),
        (&["requests", "--limit", "0"], 64, "1..=10000"),
    ] {
        let (told_code, shown) = text(&only, &[&["batch"], args].concat());
        assert!(told_code == code && shown.contains(told), "{args:?}: {told_code}, {shown}");
    }
    assert_eq!(json(&only, &["batch", "requests"]).1, json!({ "requests": [] }));
    // A reader may ask for nothing.
    let reader = db.url.replace("postgres@", "p2p_reader@");
    let (code, shown) =
        text(&[("DATABASE_URL", &reader)], &["batch", "rerun", "--why", "x", "--wait", "0"]);
    assert!(code == 1 && shown.contains("permission denied"), "{shown}");
    db.remove().await;
}

/// Who waits is told as soon as the leader answers, and by the exit code what.
#[tokio::test]
async fn the_answer_is_waited_for() {
    let db = Database::create().await;
    let url = db.url.clone();
    let asking = tokio::task::spawn_blocking(move || {
        text(&[("DATABASE_URL", &url)], &["batch", "rerun", "--why", "x", "--wait", "60"])
    });
    let refused =
        "UPDATE pipeline.requests SET state = 'refused', answer = 'too late', answered_at = now(),
                          answered_by = 'c' WHERE state = 'asked'";
    while sqlx::query(refused).execute(&db.pool).await.unwrap().rows_affected() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let (code, shown) = asking.await.unwrap();
    assert!(code == 3 && shown.contains("refused: too late"), "{shown}");
    db.remove().await;
}
