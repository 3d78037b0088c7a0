//! `p2p limiter` on limiters that a worker uses.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use shared::exchange::Exchange;
use shared::limiter::{Class, Grant, Known, Limiter, Settings};
use shared::settings::{Redis, Vars};

use crate::database::Database;
use crate::ops::text;

#[expect(clippy::disallowed_methods, reason = "the servers of a test run are told this way")]
fn redis_url() -> String {
    std::env::var("REDIS_URL").expect("REDIS_URL is not set: run the tests by `make test`")
}

/// Exit code, stdout and stderr; the egress is known by its name alone.
fn limiter(egress: &str, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_p2p"))
        .arg("limiter")
        .args(args)
        .args(["--egress", egress])
        .env("REDIS_URL", redis_url())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// What a worker of an egress of its own does.
struct Worker {
    limiter: Limiter,
    egress: String,
}

impl Worker {
    fn new(name: &str) -> Self {
        let url = redis_url();
        let redis = Redis::read(&mut Vars::from_pairs([("REDIS_URL", url.as_str())]));
        let egress = format!("{name}-{}", std::process::id());
        Self { limiter: Limiter::new(&redis, Exchange::Binance, &egress).unwrap(), egress }
    }

    async fn ask(&self) -> Grant {
        let settings = Settings {
            started: 1,
            initial: 6000,
            floor: 10,
            ceiling: 10_000,
            burst: 10,
            max_in_flight: 100,
            backoff: 0.5,
            breaker_failures: 10,
            window: Duration::from_mins(1),
            memory: Duration::from_mins(30),
            permit_life: Duration::from_secs(35),
        };
        self.limiter.acquire(&settings, Known::default(), "w", Class::Normal).await.unwrap().grant
    }

    fn show(&self) -> Value {
        let (code, text, _) = limiter(&self.egress, &["show", "--json"]);
        assert_eq!(code, 0);
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&shown[0]["exchange"], &shown[0]["egress"]),
            (&json!("binance"), &json!(self.egress))
        );
        shown[0]["limiter"].clone()
    }

    fn does(&self, args: &[&str]) {
        let (code, text, error) = limiter(&self.egress, args);
        assert_eq!((code, text), (0, format!("egress {}: done\n", self.egress)), "{error}");
    }
}

/// What an operator says is what workers are told next.
#[tokio::test]
async fn an_operator_pauses_resumes_and_sets() {
    let worker = Worker::new("operated");
    assert!(matches!(worker.ask().await, Grant::Permit { .. }));
    assert_eq!(worker.show()["rate"], 6000.0);

    worker.does(&["pause", "--for", "10m"]);
    assert!(matches!(worker.ask().await, Grant::AskAgain(_)));
    let shown = worker.show();
    let left = shown["pause"].as_u64().unwrap();
    assert!(shown["is_held"] == true && (590_000_000..=600_000_000).contains(&left), "{shown}");
    let (_, text, _) = limiter(&worker.egress, &["show"]);
    assert!(text.contains("by an operator"), "{text}");

    worker.does(&["resume"]);
    assert_eq!(worker.show()["pause"], 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(matches!(worker.ask().await, Grant::Permit { .. }));

    worker.does(&["set", "--rate", "30", "--max", "60"]);
    let shown = worker.show();
    assert_eq!(
        (&shown["rate"], &shown["ceiling"], &shown["floor"]),
        (&json!(30.0), &json!(60.0), &json!(10.0))
    );
}

/// Whoever names what is not there, or asks for what can't be, is told so, and nothing is done.
#[tokio::test]
async fn mistakes_are_told() {
    let worker = Worker::new("mistaken");
    worker.ask().await;
    for (egress, args, code, told) in [
        (
            &*worker.egress,
            &["set", "--rate", "9"][..],
            64,
            "not between the floor 10 and the ceiling 10000",
        ),
        (
            &worker.egress,
            &["set", "--min", "20000"],
            64,
            "the floor 20000 would be above the ceiling 10000",
        ),
        (&worker.egress, &["set"], 64, "--rate"),
        (&worker.egress, &["set", "--rate", "0"], 64, "1..=1000000"),
        (&worker.egress, &["pause", "--for", "soon"], 64, "such as 90s"),
        (&worker.egress, &["show", "--exchange", "other"], 64, "other"),
        ("nobody", &["pause"], 66, "\"nobody\""),
        ("nobody", &["show"], 66, "\"nobody\""),
    ] {
        let (told_code, _, error) = limiter(egress, args);
        assert!(told_code == code && error.contains(told), "{args:?}: {told_code}, {error}");
    }
    let shown = worker.show();
    assert_eq!((&shown["rate"], &shown["pause"]), (&json!(6000.0), &json!(0)));
}

/// What one egress refuses is set for none; and who names one needs no database.
#[tokio::test]
async fn all_egresses_are_set_or_none() {
    let db = Database::create().await;
    let (first, second) = (Worker::new("all-a"), Worker::new("all-b"));
    for worker in [&first, &second] {
        worker.ask().await;
        sqlx::query(
            "INSERT INTO pipeline.workers (worker_id, exchange_id, egress_id, requests_per_minute, started_at, seen_at)
             VALUES ($1, 1, $1, 100, now(), now())",
        )
        .bind(&worker.egress)
        .execute(&db.pool)
        .await
        .unwrap();
    }
    second.does(&["set", "--max", "7000"]);
    let redis = redis_url();
    let all = [("DATABASE_URL", db.url.as_str()), ("REDIS_URL", redis.as_str())];
    let (code, told) = text(&all, &["limiter", "set", "--rate", "8000"]);
    assert!(code == 64 && told.contains(&second.egress) && told.contains("7000"), "{told}");
    assert_eq!(first.show()["rate"], 6000.0, "{told}");
    let (code, told) = text(&all, &["limiter", "set", "--rate", "6500"]);
    assert_eq!(code, 0, "{told}");
    assert_eq!((&first.show()["rate"], &second.show()["rate"]), (&json!(6500.0), &json!(6500.0)));
    let away = [("DATABASE_URL", "postgres://user@127.0.0.1:1/d"), all[1]];
    let (code, told) = text(&away, &["limiter", "pause"]);
    assert!(code == 1 && told.contains("by --egress"), "{told}");
    db.remove().await;
}
