//! The known shapes of the answers, and what differs from them.
//!
//! `shapes.txt` is made from the captures by a test; `shapes_noted.txt` is written by hand from the notes
//! on the API, for the calls and values of which there is no capture.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::exchange::shape::{Finding, Known, Shape};
use crate::job::Work;

/// Fields with few values, each of which is known: another is data, and a finding.
pub const WITH_VALUES: [&str; 7] = [
    "classify",
    "tradeType",
    "userType",
    "userIdentity",
    "priceType",
    "advStatus",
    "privilegeType",
];

static KNOWN: LazyLock<BTreeMap<String, Known>> = LazyLock::new(read);

/// The known shapes, by call.
pub(super) fn read() -> BTreeMap<String, Known> {
    let text = concat!(include_str!("shapes.txt"), include_str!("shapes_noted.txt"));
    Known::read(text).expect("a test reads the files of shapes")
}

/// How the answer to `work` differs from what is known.
#[must_use]
pub fn findings(work: &Work, bytes: &[u8]) -> Vec<Finding> {
    findings_of(work.kind(), bytes)
}

/// The same, of the answer to a call.
pub(super) fn findings_of(call: &str, bytes: &[u8]) -> Vec<Finding> {
    let shape = Shape::of(bytes, &WITH_VALUES);
    KNOWN.get(call).map(|known| known.compare(&shape)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_a_known_shape() {
        let calls: Vec<&str> = KNOWN.keys().map(String::as_str).collect();
        assert_eq!(calls, ["advertiser", "assets", "fiat_list", "payment_methods", "search"]);
    }
}
