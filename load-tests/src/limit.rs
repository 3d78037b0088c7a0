//! The rate limit of the exchange: a sliding window per client address, without burst allowance.
//!
//! The real limit is not published. A sliding window is the strictest reading of "n per minute": a
//! client that keeps it keeps every other reading as well.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Length of the window.
const WINDOW: Duration = Duration::from_mins(1);

/// Counts granted requests per client address. Refused requests do not count.
#[derive(Debug)]
pub struct RateLimit {
    per_minute: usize,
    granted: HashMap<IpAddr, VecDeque<Duration>>,
}

impl RateLimit {
    /// A limit of `per_minute` requests per client address; 0 means no limit.
    #[must_use]
    pub fn new(per_minute: usize) -> Self {
        Self { per_minute, granted: HashMap::new() }
    }

    /// Grants a request at `now` (time since the start), or says after how many whole seconds the
    /// next one will be granted.
    pub fn check(&mut self, client: IpAddr, now: Duration) -> Result<(), u64> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let times = self.granted.entry(client).or_default();
        while times.front().is_some_and(|&first| now.saturating_sub(first) >= WINDOW) {
            times.pop_front();
        }
        if times.len() < self.per_minute {
            times.push_back(now);
            return Ok(());
        }
        let oldest = times.front().copied().unwrap_or(now);
        let wait = (oldest + WINDOW).saturating_sub(now);
        Err(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn no_window_holds_more_than_the_limit() {
        let mut limit = RateLimit::new(3);
        let mut granted = Vec::new();
        for ms in (0..200_000).step_by(700) {
            if limit.check(CLIENT, Duration::from_millis(ms)).is_ok() {
                granted.push(ms);
            }
        }
        assert!(granted.len() >= 9);
        assert!(granted.windows(4).all(|four| four[3] - four[0] >= 60_000), "{granted:?}");
    }

    #[test]
    fn a_refusal_names_the_wait_in_seconds_rounded_up() {
        let mut limit = RateLimit::new(1);
        assert_eq!(limit.check(CLIENT, Duration::from_millis(500)), Ok(()));
        assert_eq!(limit.check(CLIENT, Duration::from_secs(10)), Err(51));
        assert_eq!(limit.check(CLIENT, Duration::from_millis(60_499)), Err(1));
        assert_eq!(limit.check(CLIENT, Duration::from_millis(60_500)), Ok(()));
    }

    #[test]
    fn clients_do_not_share_and_zero_is_no_limit() {
        let mut limit = RateLimit::new(1);
        let other = IpAddr::from([127, 0, 0, 2]);
        assert_eq!(limit.check(CLIENT, Duration::ZERO), Ok(()));
        assert_eq!(limit.check(other, Duration::ZERO), Ok(()));
        let mut none = RateLimit::new(0);
        assert!((0..1000).all(|_| none.check(CLIENT, Duration::ZERO).is_ok()));
    }
}
