//! The rate limits of the exchange: sliding windows per client address, without burst allowance, and
//! bans for those who do not wait.
//!
//! The real limit is not published. A sliding window is the strictest reading of "n per minute": a
//! client that keeps it keeps every other reading as well.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// The second limit's window.
const SECOND: Duration = Duration::from_secs(1);
/// Requests that arrive so soon after a refusal were on the way already.
const ON_THE_WAY: Duration = Duration::from_secs(1);
/// Longest ban.
const LONGEST_BAN: Duration = Duration::from_hours(1);

/// What is allowed per client address; 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests within `window`.
    pub per_window: usize,
    /// Length of the window.
    pub window: Duration,
    /// Requests within a second.
    pub per_second: usize,
    /// How long who asks again before the time that it was told is refused, at first; twice as long
    /// each further time. Zero: not at all.
    pub ban: Duration,
}

/// Counts granted requests per client address. Refused requests do not count.
#[derive(Debug)]
pub struct RateLimit {
    limits: Limits,
    clients: HashMap<IpAddr, Client>,
}

#[derive(Debug, Default)]
struct Client {
    granted: VecDeque<Duration>,
    refused_at: Duration,
    /// Until when it was told to wait, or is banned.
    refused_until: Duration,
    bans: u32,
}

impl RateLimit {
    /// Nobody was granted anything yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, clients: HashMap::new() }
    }

    /// From now on other limits, for what was granted before too.
    pub fn set(&mut self, per_window: usize, per_second: usize) {
        self.limits = Limits { per_window, per_second, ..self.limits };
    }

    /// Grants a request at `now` (time since the start), or says after how many whole seconds the
    /// next one will be granted.
    pub fn check(&mut self, client: IpAddr, now: Duration) -> Result<(), u64> {
        let Limits { per_window, window, per_second, ban } = self.limits;
        let client = self.clients.entry(client).or_default();
        let longest = window.max(SECOND);
        while client.granted.front().is_some_and(|&first| now.saturating_sub(first) >= longest) {
            client.granted.pop_front();
        }
        // The time at which the oldest of the last `most` requests leaves the window.
        let free_at = |most: usize, length: Duration| match client.granted.len().checked_sub(most) {
            Some(oldest) if most > 0 => client.granted[oldest] + length,
            _ => Duration::ZERO,
        };
        let mut wait_until = free_at(per_window, window).max(free_at(per_second, SECOND));
        if !ban.is_zero() && now < client.refused_until {
            if now > client.refused_at + ON_THE_WAY {
                let length = ban.saturating_mul(1 << client.bans.min(16)).min(LONGEST_BAN);
                client.refused_until = client.refused_until.max(now + length);
                client.refused_at = now;
                client.bans += 1;
            }
            wait_until = wait_until.max(client.refused_until);
        }
        if now >= wait_until {
            client.granted.push_back(now);
            client.bans = 0;
            return Ok(());
        }
        if now >= client.refused_until {
            (client.refused_at, client.refused_until) = (now, wait_until);
        }
        let wait = wait_until.saturating_sub(now);
        Err(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
    }
}

/// Jain index of shares, in thousandths: 1000 if all of n are equal, 1000 / n if one has all.
#[must_use]
pub fn jain_per_mille(shares: &[u64]) -> u64 {
    let sum: u64 = shares.iter().sum();
    let squares: u64 = shares.iter().map(|share| share * share).sum();
    sum * sum * 1000 / (squares * shares.len() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn per_minute(per_window: usize) -> Limits {
        let window = Duration::from_mins(1);
        Limits { per_window, window, per_second: 0, ban: Duration::ZERO }
    }

    /// Times in ms at which a client that asks all the time is granted something.
    fn granted(limits: Limits, every_ms: u64, until_ms: u64) -> Vec<u64> {
        let mut limit = RateLimit::new(limits);
        let times = (0..until_ms).step_by(usize::try_from(every_ms).unwrap());
        times.filter(|&ms| limit.check(CLIENT, Duration::from_millis(ms)).is_ok()).collect()
    }

    #[test]
    fn no_window_holds_more_than_the_limit() {
        let granted = granted(per_minute(3), 700, 200_000);
        assert!(granted.len() >= 9);
        assert!(granted.windows(4).all(|four| four[3] - four[0] >= 60_000), "{granted:?}");
    }

    #[test]
    fn both_windows_hold() {
        let granted = granted(Limits { per_second: 2, ..per_minute(5) }, 100, 60_000);
        assert_eq!(granted, [0, 100, 1000, 1100, 2000]);
    }

    #[test]
    fn who_does_not_wait_is_banned_for_longer_each_time() {
        let limits = Limits { ban: Duration::from_secs(100), ..per_minute(1) };
        let mut limit = RateLimit::new(limits);
        let mut check = |secs| limit.check(CLIENT, Duration::from_secs(secs));
        assert_eq!(check(0), Ok(()));
        assert_eq!(check(10), Err(50));
        assert_eq!(check(11), Err(49), "was on the way");
        assert_eq!(check(20), Err(100));
        assert_eq!(check(110), Err(200));
        assert_eq!(check(310), Ok(()));
        assert_eq!(granted(limits, 5000, 600_000), [0]);
    }

    #[test]
    fn a_refusal_names_the_wait_in_seconds_rounded_up() {
        let mut limit = RateLimit::new(per_minute(1));
        assert_eq!(limit.check(CLIENT, Duration::from_millis(500)), Ok(()));
        assert_eq!(limit.check(CLIENT, Duration::from_secs(10)), Err(51));
        assert_eq!(limit.check(CLIENT, Duration::from_millis(60_499)), Err(1));
        assert_eq!(limit.check(CLIENT, Duration::from_millis(60_500)), Ok(()));
    }

    #[test]
    fn a_limit_that_is_lowered_holds_for_what_was_granted() {
        let mut limit = RateLimit::new(per_minute(4));
        for secs in 0..4 {
            assert_eq!(limit.check(CLIENT, Duration::from_secs(secs)), Ok(()));
        }
        limit.set(2, 0);
        assert_eq!(limit.check(CLIENT, Duration::from_millis(60_500)), Err(2));
        assert_eq!(limit.check(CLIENT, Duration::from_secs(62)), Ok(()));
    }

    #[test]
    fn clients_do_not_share_and_zero_is_no_limit() {
        let mut limit = RateLimit::new(per_minute(1));
        let other = IpAddr::from([127, 0, 0, 2]);
        assert_eq!(limit.check(CLIENT, Duration::ZERO), Ok(()));
        assert_eq!(limit.check(other, Duration::ZERO), Ok(()));
        let mut none = RateLimit::new(per_minute(0));
        assert!((0..1000).all(|_| none.check(CLIENT, Duration::ZERO).is_ok()));
    }
}
