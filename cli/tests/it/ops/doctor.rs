//! `p2p doctor`: each cause by itself.

use serde_json::Value;

use super::{PASSWORD, Queues, away, json, text, variable};
use crate::database::Database;

/// Level and value of the checks of this name.
fn checks<'a>(report: &'a Value, what: &str) -> Vec<(&'a str, &'a str)> {
    let checks = report["checks"].as_array().unwrap().iter();
    let of =
        |check: &'a Value| (check["level"].as_str().unwrap(), check["value"].as_str().unwrap());
    let found: Vec<_> = checks.filter(|check| check["what"] == what).map(of).collect();
    assert!(!found.is_empty(), "{what} in {report:#}");
    found
}

#[tokio::test]
async fn what_is_well_is_told_and_what_is_not_with_what_to_do() {
    let db = Database::create().await;
    let queues = Queues::declare(&db).await;
    let (amqp, redis, management) =
        (variable("AMQP_URL"), variable("REDIS_URL"), variable("RABBITMQ_MANAGEMENT_URL"));
    let all = [
        ("DATABASE_URL", db.url.as_str()),
        ("AMQP_URL", amqp.as_str()),
        ("REDIS_URL", redis.as_str()),
        ("RABBITMQ_MANAGEMENT_URL", management.as_str()),
        ("AMQP_PREFIX", queues.prefix.as_str()),
    ];
    let ahead = "SELECT pipeline.make_partitions(current_date, current_date + 3)";
    db.run(ahead).await;
    let (code, report) = json(&all, &["doctor"]);
    assert_eq!(code, 3, "nobody leads");
    for what in [
        "settings",
        "PostgreSQL version",
        "clock of PostgreSQL",
        "schema",
        "roles",
        "permissions",
        "database size",
        "partitions ahead",
        "partitions old",
        "RabbitMQ",
        "RabbitMQ version",
        "Redis",
        "Redis version",
        "clock of Redis",
    ] {
        assert_eq!(checks(&report, what)[0].0, "ok", "{what} in {report:#}");
    }
    assert!(checks(&report, "fleet").contains(&("fail", "nobody has ever led")));
    let normal = format!("queue {}.jobs.normal", queues.prefix);
    assert_eq!(checks(&report, &normal), [("warn", "as declared, 0 ready, 0 consumers")]);
    let (_, shown) = text(&all, &["doctor"]);
    for part in ["ok", "warn", "FAIL", "→ start workers", "to be mended"] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }

    // Each thing by itself.
    db.run(
        "DO $$ BEGIN EXECUTE format('DROP TABLE pipeline.jobs_%s', to_char(current_date + 1, 'YYYYMMDD')); END $$",
    )
    .await;
    db.run("SELECT pipeline.make_partitions('2024-01-01', '2024-01-01')").await;
    db.closed(0, "complete", None).await;
    db.run("REVOKE UPDATE ON pipeline.jobs FROM p2p_writer").await;
    let other = serde_json::json!({ "durable": true, "arguments": { "x-queue-type": "classic" } });
    let dead = format!("{}.dead", queues.prefix);
    shared::service::install_tls_provider();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let queue = format!("{}/api/queues/%2f/{dead}", management.trim_end_matches('/'));
    client.delete(&queue).send().await.unwrap().error_for_status().unwrap();
    let made = client.put(&queue).json(&other).send().await.unwrap();
    made.error_for_status().unwrap();
    let writer = db.url.replace("postgres@", "p2p_writer@");
    let mut settings = all.to_vec();
    settings[0].1 = &writer;
    let (code, report) = json(&settings, &["doctor"]);
    assert_eq!(code, 3);
    let (level, value) = checks(&report, "partitions ahead")[0];
    assert!(level == "warn" && value.starts_with("1 not there, pipeline.jobs of"), "{value}");
    let (level, value) = checks(&report, "partitions old")[0];
    assert!(level == "warn" && value.contains("_20240101"), "{value}");
    // A worker's shell does not know the coordinator's settings, so that is told by which it is overdue.
    assert!(value.contains("by RETENTION_FACTS_DAYS=35 and RETENTION_MARTS_DAYS=1095"), "{value}");
    let (level, value) = checks(&report, "permissions")[0];
    assert!(
        level == "fail"
            && value.contains("p2p_writer is writer")
            && value.contains("UPDATE on pipeline.jobs"),
        "{value}"
    );
    let (level, value) = checks(&report, &format!("queue {dead}"))[0];
    assert!(level == "fail" && value.contains("declared with other arguments"), "{value}");
    client.delete(&queue).send().await.unwrap();

    let reader = db.url.replace("postgres@", "p2p_reader@");
    settings[0].1 = &reader;
    let (code, report) = json(&settings, &["doctor"]);
    assert_eq!(code, 3, "{report:#}");
    assert!(checks(&report, "role")[0].1.contains("p2p_reader may only read"));
    queues.remove().await;
    db.remove().await;
}

/// The owner's URL is tried: whether it is one, of this database, and owns the tables.
#[tokio::test]
async fn the_url_of_the_owner_is_tried() {
    let db = Database::create().await;
    let writer = db.url.replace("postgres@", "p2p_writer@");
    let nobody = db.url.replace("postgres@", "nobody_at_all@");
    let other = variable("DATABASE_URL");
    let owner = |url: &str| {
        let (code, report) =
            json(&[("DATABASE_URL", &writer), ("OWNER_DATABASE_URL", url)], &["doctor"]);
        let (level, value) = checks(&report, "owner")[0];
        (code, level.to_owned(), value.to_owned())
    };
    let told = |level: &str, value: &str| (3, level.to_owned(), value.to_owned());
    assert_eq!(owner(&db.url), told("ok", "postgres owns the tables"));
    assert_eq!(owner(&writer), told("fail", "p2p_writer does not own the tables"));
    let elsewhere = "OWNER_DATABASE_URL is another database than DATABASE_URL";
    assert_eq!(owner(&other), told("fail", elsewhere));
    let (code, level, value) = owner(&nobody);
    assert!(code == 1 && level == "away" && value.contains("nobody_at_all"), "{value}");
    db.remove().await;
}

#[tokio::test]
async fn an_old_schema_and_none_are_told() {
    let db = Database::create().await;
    let only = [("DATABASE_URL", db.url.as_str())];
    db.run(
        "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
    )
    .await;
    let (code, report) = json(&only, &["doctor"]);
    assert_eq!(code, 3);
    let (level, value) = checks(&report, "schema")[0];
    assert!(level == "fail" && value.contains("run `p2p migrate`"), "{value}");
    db.remove().await;
}

/// Bad settings are told all together, and no server that is away hides another.
#[test]
fn everything_wrong_is_told_at_once() {
    let (code, report) =
        json(&[("MAX_WORKERS", "none"), ("EXTRACTION_INTERVAL_MINUTES", "7")], &["doctor"]);
    assert_eq!(code, 3);
    let told = report.to_string();
    assert!(told.contains("EXTRACTION_INTERVAL_MINUTES=7"), "{report:#}");
    for part in ["DATABASE_URL is not set", "AMQP_URL is not set", "MAX_WORKERS"] {
        assert_eq!(told.matches(part).count(), 1, "{part} in {report:#}");
    }
    let away = away();
    let settings: Vec<(&str, &str)> =
        away.iter().map(|(name, url)| (*name, url.as_str())).collect();
    let (code, report) = json(&settings, &["doctor"]);
    assert_eq!(code, 1);
    for what in ["PostgreSQL", "RabbitMQ", "Redis"] {
        assert_eq!(checks(&report, what)[0].0, "away", "{report:#}");
    }
    assert!(!report.to_string().contains(PASSWORD), "{report:#}");
}
