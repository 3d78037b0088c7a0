//! Slots on the wall clock. Pure: it is told what time it is.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// The clock of the schedule, which tests move by hand.
pub trait Clock: Send + Sync {
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// What is to be recorded of slots that came due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Slots that nobody took, oldest first, with the reason.
    pub skipped: Vec<(DateTime<Utc>, SkipReason)>,
    /// The slot to run now.
    pub run: Option<DateTime<Utc>>,
}

/// What is recorded of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The latest slot before the current one of which anything is recorded.
    pub before: Option<DateTime<Utc>>,
    /// What became of the current one.
    pub current: Option<SlotState>,
}

/// What became of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    Batch,
    Skipped,
}

/// Why a slot was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// No coordinator led, or a batch was still running, until the next slot came.
    Missed,
    /// It was found only after the misfire grace.
    Late,
}

impl SkipReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Late => "late",
        }
    }
}

/// Slots recorded as skipped at once: thirty days of every ten minutes. Who was away for longer
/// knows it.
const MAX_SKIPPED: i64 = 30 * 144;

/// When batches are due.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    interval: TimeDelta,
    misfire_grace: TimeDelta,
}

impl Schedule {
    /// # Panics
    /// If a duration is beyond what a calendar holds; the settings' ranges keep far below.
    #[must_use]
    pub fn new(interval: Duration, misfire_grace: Duration) -> Self {
        let delta = |duration| TimeDelta::from_std(duration).expect("settings are at most a year");
        Self { interval: delta(interval), misfire_grace: delta(misfire_grace) }
    }

    /// The latest slot not after `now`, a whole second.
    ///
    /// # Panics
    /// If `now` is thousands of years away, which no clock says.
    #[must_use]
    pub fn slot(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let (now, interval) = (now.timestamp(), self.interval.num_seconds());
        let slot = now - now.rem_euclid(interval);
        DateTime::from_timestamp(slot, 0).expect("a clock's time is within a calendar")
    }

    /// The slot after `slot`.
    #[must_use]
    pub fn next(&self, slot: DateTime<Utc>) -> DateTime<Utc> {
        slot + self.interval
    }

    /// What came due at `now`, given what is recorded. All missed slots become one batch: only the
    /// latest is run, and only within the misfire grace.
    ///
    /// A clock that jumps forward finds slots missed, one that is set back finds the current slot
    /// taken and runs nothing twice. Slots that were recorded as skipped while the clock was ahead come
    /// due when their time really comes.
    #[must_use]
    pub fn due(&self, now: DateTime<Utc>, recorded: Recorded) -> Due {
        let current = self.slot(now);
        let on_time = now - current <= self.misfire_grace;
        if recorded.current == Some(SlotState::Batch) {
            return Due { skipped: Vec::new(), run: None };
        }
        let run = on_time.then_some(current);
        let Some(last) = recorded.before else {
            // The first start: there is no earlier slot that anyone could miss.
            return Due { skipped: Vec::new(), run };
        };
        let earliest = current - self.interval * i32::try_from(MAX_SKIPPED).unwrap_or(i32::MAX);
        let mut slot = (self.slot(last) + self.interval).max(earliest);
        let mut skipped = Vec::new();
        while slot < current {
            skipped.push((slot, SkipReason::Missed));
            slot += self.interval;
        }
        if !on_time && recorded.current.is_none() {
            skipped.push((current, SkipReason::Late));
        }
        Due { skipped, run }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("2026-11-22T{text}Z").parse().unwrap()
    }

    fn schedule() -> Schedule {
        Schedule::new(Duration::from_mins(10), Duration::from_mins(2))
    }

    /// Recorded is only what was before the current slot.
    fn after(last: &str) -> Recorded {
        Recorded { before: Some(at(last)), current: None }
    }

    #[test]
    fn a_slot_is_run_on_time_and_once() {
        let due = schedule().due(at("10:00:01"), after("09:50:00"));
        assert_eq!(due, Due { skipped: vec![], run: Some(at("10:00:00")) });
        let taken = Recorded { current: Some(SlotState::Batch), ..after("09:50:00") };
        let due = schedule().due(at("10:09:59"), taken);
        assert_eq!(due, Due { skipped: vec![], run: None });
    }

    /// A real clock tells nanoseconds, a database keeps microseconds.
    #[test]
    fn fractions_of_a_second_make_no_other_slot() {
        let now = at("10:00:01.123456789");
        let slot = schedule().due(now, Recorded::default()).run.unwrap();
        assert_eq!(slot, at("10:00:00"));
    }

    #[test]
    fn a_slot_found_after_the_grace_is_skipped() {
        let due = schedule().due(at("10:02:01"), after("09:50:00"));
        assert_eq!(due, Due { skipped: vec![(at("10:00:00"), SkipReason::Late)], run: None });
        assert_eq!(schedule().due(at("10:02:00"), after("09:50:00")).run, Some(at("10:00:00")));
    }

    #[test]
    fn missed_slots_are_recorded_and_become_one_batch() {
        let due = schedule().due(at("10:00:05"), after("09:30:00"));
        let missed = [at("09:40:00"), at("09:50:00")].map(|slot| (slot, SkipReason::Missed));
        assert_eq!(due, Due { skipped: missed.to_vec(), run: Some(at("10:00:00")) });
    }

    #[test]
    fn the_first_start_misses_nothing() {
        assert_eq!(schedule().due(at("10:01:00"), Recorded::default()).run, Some(at("10:00:00")));
        assert_eq!(
            schedule().due(at("10:05:00"), Recorded::default()),
            Due { skipped: vec![], run: None }
        );
    }

    #[test]
    fn a_clock_set_back_runs_no_slot_again() {
        let taken = Recorded { current: Some(SlotState::Batch), ..after("09:30:00") };
        assert_eq!(schedule().due(at("09:40:01"), taken), Due { skipped: vec![], run: None });
    }

    /// While the clock was ahead, slots of the future were recorded as missed. Their time comes.
    #[test]
    fn a_clock_that_was_ahead_costs_no_slot() {
        let ahead = schedule().due(at("12:00:05"), after("09:50:00"));
        assert_eq!(ahead.skipped.len(), 12);
        let skipped = Recorded { current: Some(SlotState::Skipped), ..after("09:50:00") };
        let due = schedule().due(at("10:00:05"), skipped);
        assert_eq!(due, Due { skipped: vec![], run: Some(at("10:00:00")) });
        let due = schedule().due(at("10:05:00"), skipped);
        assert_eq!(due, Due { skipped: vec![], run: None }, "recorded as skipped already");
    }

    #[test]
    fn a_long_absence_is_bounded() {
        let due = schedule().due(
            at("10:00:00"),
            Recorded { before: Some(at("10:00:00") - TimeDelta::days(365)), current: None },
        );
        assert_eq!(due.skipped.len(), 30 * 144);
    }
}
