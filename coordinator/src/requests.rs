//! What operators ask for between slots: whether it can be done now. Pure.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// Longest wait of a request for a batch. Who asked an hour ago meant the market of then, and several
/// slots have read it since.
const LONGEST_WAIT: TimeDelta = TimeDelta::hours(1);
/// Time before the next slot at which the batch is cut, so that it is closed when the slot comes.
const CLOSE_MARGIN: TimeDelta = TimeDelta::seconds(10);
/// A batch with less time than this reads too little to be worth its place in the day.
const SHORTEST_RUN: TimeDelta = TimeDelta::seconds(30);

/// The answer to a request for a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It runs now, and is cut then at the latest.
    Run { deadline_at: DateTime<Utc> },
    /// Not, for this reason.
    Refuse(String),
}

/// Whether a batch that was asked for `waited` ago runs at `now`, when no other does: one batch runs at
/// a time, and none into the next slot.
#[must_use]
pub fn decide(
    now: DateTime<Utc>,
    waited: TimeDelta,
    next_slot: DateTime<Utc>,
    batch_deadline: Duration,
) -> Decision {
    if waited > LONGEST_WAIT {
        return Decision::Refuse(format!(
            "nobody could obey for {} minutes, allowed are {}: ask again",
            waited.num_minutes(),
            LONGEST_WAIT.num_minutes()
        ));
    }
    let left = next_slot - CLOSE_MARGIN - now;
    if left < SHORTEST_RUN {
        return Decision::Refuse(format!(
            "the next slot is in {} seconds, which is less than a batch needs ({}): ask again after it",
            (next_slot - now).num_seconds(),
            (SHORTEST_RUN + CLOSE_MARGIN).num_seconds()
        ));
    }
    let deadline = TimeDelta::from_std(batch_deadline).unwrap_or(TimeDelta::MAX);
    Decision::Run { deadline_at: now + left.min(deadline) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_mins(8);

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-22T{text}Z").parse().unwrap()
    }

    fn decided(now: &str, waited: TimeDelta) -> Decision {
        decide(at(now), waited, at("10:10:00"), DEADLINE)
    }

    #[test]
    fn a_batch_never_runs_into_the_next_slot() {
        let run = |deadline| Decision::Run { deadline_at: at(deadline) };
        assert_eq!(decided("10:00:30", TimeDelta::zero()), run("10:08:30"));
        assert_eq!(decided("10:05:00", TimeDelta::zero()), run("10:09:50"));
        assert_eq!(decided("10:09:20", TimeDelta::zero()), run("10:09:50"));
        let Decision::Refuse(why) = decided("10:09:21", TimeDelta::zero()) else {
            panic!("it would eat the slot")
        };
        assert!(why.contains("the next slot is in 39 seconds"), "{why}");
    }

    #[test]
    fn what_was_asked_long_ago_is_not_done() {
        assert!(matches!(decided("10:01:00", TimeDelta::hours(1)), Decision::Run { .. }));
        let Decision::Refuse(why) = decided("10:01:00", TimeDelta::minutes(61)) else {
            panic!("it is old")
        };
        assert!(why.contains("61 minutes"), "{why}");
    }
}
