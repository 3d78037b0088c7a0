//! The real binary: exit codes and words.

use std::process::{Command, Output};

use sqlx::PgPool;

use crate::{url_of, variable};

fn run_once(database_url: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coordinator"))
        .args(["run", "--once"])
        .env("DATABASE_URL", database_url)
        .env("OWNER_DATABASE_URL", "")
        .env("AMQP_URL", variable("AMQP_URL"))
        .env("STATUS_PORT", "0")
        .output()
        .unwrap()
}

#[test]
fn bad_settings_are_told_together() {
    let output = Command::new(env!("CARGO_BIN_EXE_coordinator"))
        .arg("run")
        .env_clear()
        // Away from a `.env` of this clone.
        .current_dir("/")
        .env("EXTRACTION_INTERVAL_MINUTES", "7")
        .env("LOG_FORMAT", "loud")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    for part in ["DATABASE_URL", "AMQP_URL", "EXTRACTION_INTERVAL_MINUTES=7", "LOG_FORMAT=\"loud\""]
    {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[sqlx::test(migrations = false)]
async fn a_database_without_schema_is_refused(pool: PgPool) {
    let output = run_once(&url_of(&pool));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("run `p2p migrate`"));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_older_schema_is_refused(pool: PgPool) {
    let newest =
        "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)";
    sqlx::query(newest).execute(&pool).await.unwrap();
    let output = run_once(&url_of(&pool));
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("the schema has version") && text.contains("run `p2p migrate`"),
        "{text}"
    );
}

#[test]
fn it_tells_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_coordinator")).arg("--version").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("coordinator {}\n", shared::build::version()));
}
