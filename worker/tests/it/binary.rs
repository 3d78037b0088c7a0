//! The real binary: exit codes and words.

use std::process::Command;

#[test]
fn bad_settings_are_told_together() {
    let output = Command::new(env!("CARGO_BIN_EXE_worker"))
        .arg("run")
        .env_clear()
        // Away from a `.env` of this clone.
        .current_dir("/")
        .env("MAX_WORKERS", "0")
        .env("INITIAL_RATE_LIMIT", "5")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8_lossy(&output.stderr);
    for part in [
        "DATABASE_URL",
        "AMQP_URL",
        "REDIS_URL",
        "MAX_WORKERS=\"0\": allowed are 1 to 500",
        "MIN_RATE_LIMIT=10",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn it_tells_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_worker")).arg("--version").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("worker {}\n", shared::build::version()));
}
