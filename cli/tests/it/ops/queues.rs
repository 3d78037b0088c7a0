//! `p2p queues dead …` on letters that died as they do in operation.

use serde_json::json;
use shared::queue::Queue;

use super::{Queues, json, text, variable};
use crate::database::Database;

/// A job that this build can read, of a batch long gone.
const JOB: &str = r#"{"version":1,"exchange":"binance","batch_id":5,"ordinal":3,"issue":1,
    "expires_at":"2026-11-22T10:08:00Z","work":{"kind":"fiat_list"}}"#;

/// Looked at however often, dead letters stay, in their order; then they go back to where they came from.
#[tokio::test]
async fn dead_letters_are_looked_at_and_sent_back() {
    let db = Database::create().await;
    let queues = Queues::declare(&db).await;
    let amqp = variable("AMQP_URL");
    let settings = [("AMQP_URL", amqp.as_str()), ("AMQP_PREFIX", queues.prefix.as_str())];
    let (code, shown) = text(&settings, &["queues", "dead", "show"]);
    assert_eq!((code, shown.as_str()), (0, "no dead letters\n"));
    queues.kill("not a job \u{1b}[2J").await;
    queues.kill(JOB).await;
    queues.kill("the third").await;
    // More often than the broker would bear of one that only goes back.
    for look in 0..25 {
        let (code, letters) = json(&settings, &["queues", "dead", "show"]);
        assert_eq!((code, &letters["total"]), (3, &json!(3)), "look {look}: {letters}");
        let letters = letters["letters"].as_array().unwrap();
        assert_eq!(letters.len(), 3, "look {look}");
        let from = format!("{}.jobs.normal", queues.prefix);
        assert!(letters.iter().all(|letter| letter["queue"] == from && letter["count"] == 1));
        assert_eq!(letters[1]["job"]["work"]["kind"], "fiat_list", "look {look}");
    }
    let (_, shown) = text(&settings, &["queues", "dead", "show", "--limit", "2"]);
    for part in
        ["rejected, 1 time", "no job: not a job \u{fffd}[2J", "job 3 of batch 5", "and 1 more"]
    {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    queues.wait_for(Queue::Dead, 3).await;

    let (code, done) = json(&settings, &["queues", "dead", "requeue", "1"]);
    assert_eq!((code, done), (0, json!({ "requeued": 1, "left": 0 })));
    queues.wait_for(Queue::Dead, 2).await;
    queues.wait_for(Queue::NormalJobs, 1).await;
    // One that nobody sent to a queue of ours has nowhere to go.
    queues.publish(Queue::Dead, "from nowhere").await;
    let (code, done) = json(&settings, &["queues", "dead", "requeue", "--all"]);
    assert_eq!((code, done), (3, json!({ "requeued": 2, "left": 1 })));
    queues.wait_for(Queue::Dead, 1).await;
    queues.wait_for(Queue::NormalJobs, 3).await;
    // What went back begins anew: should it die again, it is for the first time.
    queues.reject_next().await;
    let (_, letters) = json(&settings, &["queues", "dead", "show"]);
    let letters = letters["letters"].as_array().unwrap();
    let counts: Vec<_> = letters.iter().map(|letter| &letter["count"]).collect();
    assert_eq!(counts, [&json!(null), &json!(1)], "{letters:#?}");
    queues.remove().await;
    db.remove().await;
}

#[tokio::test]
async fn mistakes_are_told() {
    let amqp = variable("AMQP_URL");
    let nowhere = [("AMQP_URL", amqp.as_str()), ("AMQP_PREFIX", "p2p_nowhere")];
    for (args, code, told) in [
        (&["queues"][..], 3, "not there"),
        (&["queues", "dead", "show"], 0, "no dead letters"),
        (&["queues", "dead", "show", "--limit", "0"], 64, "1..=1000"),
        (&["queues", "dead", "requeue"], 64, "<NUMBER>"),
        (&["queues", "dead", "requeue", "0"], 64, "0"),
        (&["queues", "dead", "requeue", "1", "--all"], 64, "--all"),
        (&["queues", "dead", "requeue", "--all"], 64, "there is no queue p2p_nowhere.dead"),
        (&["queues", "alive"], 64, "alive"),
    ] {
        let (told_code, shown) = text(&nowhere, args);
        assert!(told_code == code && shown.contains(told), "{args:?}: {told_code}, {shown}");
    }
    let (code, shown) = text(&[], &["queues"]);
    assert!(code == 64 && shown.contains("AMQP_URL is not set"), "{shown}");
    let other = [("AMQP_URL", amqp.as_str()), ("RABBITMQ_MANAGEMENT_URL", "ftp://x")];
    let (code, shown) = text(&other, &["queues"]);
    assert!(code == 64 && shown.contains("RABBITMQ_MANAGEMENT_URL"), "{shown}");
}

/// What is in the hands of consumers only the management tells; without it, it is not known.
#[tokio::test]
async fn unacked_is_told_by_the_management() {
    let db = Database::create().await;
    let queues = Queues::declare(&db).await;
    let (amqp, management) = (variable("AMQP_URL"), variable("RABBITMQ_MANAGEMENT_URL"));
    let mut settings = vec![("AMQP_URL", amqp.as_str()), ("AMQP_PREFIX", queues.prefix.as_str())];
    assert_eq!(json(&settings, &["queues"]).1["queues"][0]["unacked"], json!(null));
    settings.push(("RABBITMQ_MANAGEMENT_URL", &management));
    // The management learns of a queue some seconds after it was made.
    let end = tokio::time::Instant::now() + std::time::Duration::from_mins(1);
    while json(&settings, &["queues"]).1["queues"][0]["unacked"] != 0 {
        assert!(tokio::time::Instant::now() < end, "the management does not tell");
    }
    queues.remove().await;
    db.remove().await;
}
