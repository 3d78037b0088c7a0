//! What was alerted by this process: each matter once, however many answers show it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Most matters that are told apart; what comes after stays silent here, and is counted by metrics.
const MAX_MATTERS: usize = 1_000;

#[derive(Debug, Default)]
pub(crate) struct Alerts(Mutex<HashSet<String>>);

impl Alerts {
    /// Whether this is the first time.
    pub(crate) fn is_first(&self, matter: &str) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.len() < MAX_MATTERS && !known.contains(matter) && known.insert(matter.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matter_is_first_once_and_matters_are_bounded() {
        let alerts = Alerts::default();
        assert!(alerts.is_first("a") && !alerts.is_first("a") && alerts.is_first("b"));
        let first = (0..2 * MAX_MATTERS).filter(|n| alerts.is_first(&n.to_string())).count();
        assert_eq!(first, MAX_MATTERS - 2);
    }
}
