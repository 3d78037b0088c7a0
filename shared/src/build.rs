//! Which build of the programs this is.

use std::sync::LazyLock;

/// What every program calls itself: its version, and the commit if whoever built it told it in
/// `P2P_COMMIT`. The build doesn't ask git: it often runs where there is none, and each commit would
/// compile everything anew.
#[must_use]
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> =
        LazyLock::new(|| describe(env!("CARGO_PKG_VERSION"), option_env!("P2P_COMMIT")));
    &VERSION
}

fn describe(version: &str, commit: Option<&str>) -> String {
    match commit {
        None | Some("") => version.to_owned(),
        Some(commit) => format!("{version} ({commit})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_told_where_it_is_known() {
        assert_eq!(describe("0.1.0", None), "0.1.0");
        assert_eq!(describe("0.1.0", Some("")), "0.1.0");
        assert_eq!(describe("0.1.0", Some("4c3d55c")), "0.1.0 (4c3d55c)");
    }
}
