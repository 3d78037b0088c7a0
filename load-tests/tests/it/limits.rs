//! The short form of `make limits`.

use std::process::Command;

/// A fleet finds a limit that it is not told, uses it, and is not refused any more.
#[test]
fn a_fleet_settles_just_below_the_limit() {
    let output = Command::new(env!("CARGO_BIN_EXE_limits")).arg("--short").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}
