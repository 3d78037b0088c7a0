//! The script of the limiter, on a real Redis, under a clock that is moved.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use shared::limiter::{Breaker, Class, Control, Grant, Known, Limiter, Outcome, Settings};

use crate::fleet::{Fleet, SECOND, START, Window, defaults, keeps_the_law, limiter};

async fn ask(limiter: &Limiter, settings: &Settings, worker: &str, now: u64) -> Grant {
    limiter.at(now).acquire(settings, Known::default(), worker, Class::Normal).await.unwrap().grant
}

/// A permit that must be there at `now`.
async fn permit(limiter: &Limiter, settings: &Settings, now: u64) -> u64 {
    match ask(limiter, settings, "w", now).await {
        Grant::Permit { number, .. } => number,
        Grant::AskAgain(wait) => panic!("no permit for {wait:?}"),
    }
}

async fn finish(limiter: &Limiter, permit: u64, now: u64, outcome: Outcome) {
    limiter.at(now).finish(&defaults(), Known::default(), permit, outcome).await.unwrap();
}

/// However many ask, whatever the rate, burst and classes: in any window there are no more permits
/// than burst + rate × window.
#[test]
fn no_window_holds_more_than_burst_and_rate() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let class = prop_oneof![Just(Class::High), Just(Class::Normal), Just(Class::Low)];
    let cases = (prop::collection::vec(class, 1..12), 10..2000_u32, 1..6_u32, 0..3_u64);
    let mut runner =
        TestRunner::new(Config { cases: 12, failure_persistence: None, ..Config::default() });
    runner
        .run(&cases, |(classes, rate, burst, latency)| {
            let settings =
                Settings { initial: rate, ceiling: rate, burst, max_in_flight: 100, ..defaults() };
            let mut fleet = Fleet::new(&classes, settings);
            fleet.latency = latency * SECOND;
            let law = runtime.block_on(async {
                fleet.work(10, |_| Outcome::Ok).await;
                // Idle time is not caught up with.
                fleet.now += 30 * SECOND;
                fleet.work(5, |_| Outcome::Ok).await;
                keeps_the_law(&fleet.sent, rate.into(), burst.into())
            });
            law.map_err(TestCaseError::fail)
        })
        .unwrap();
}

/// The whole rate is given, and to all workers alike.
#[tokio::test]
async fn many_workers_get_the_whole_rate_in_equal_shares() {
    let settings = Settings { ceiling: 100, ..defaults() };
    let mut fleet = Fleet::of(16, settings);
    fleet.work(600, |_| Outcome::Ok).await;
    assert!((995..=1001).contains(&fleet.sent.len()), "{}", fleet.sent.len());
    let shares = fleet.shares();
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least <= 2, "{shares:?}");
}

/// The fleet finds a limit that it is not told, settles just below it, and is not refused again.
#[tokio::test]
async fn it_settles_just_below_the_limit() {
    for (limit, tells) in [(60, true), (130, false)] {
        let mut window = Window::new(limit, tells);
        let mut fleet = Fleet::of(4, defaults());
        fleet.work(600, |at| window.answer(at)).await;
        let refused = fleet.refused_since(START);
        assert!((1..=4).contains(&refused), "{limit}: refused {refused} times");
        let settled = fleet.now;
        fleet.work(600, |at| window.answer(at)).await;
        assert_eq!(fleet.refused_since(settled), 0, "{limit}");
        let used = fleet.sent_since(settled);
        assert!(used * 100 >= limit * 10 * 98, "{limit}: {used} in ten minutes");
    }
}

/// However many workers see one refusal, the rate is cut once and the limit is what was counted.
#[tokio::test]
async fn a_refusal_cuts_once() {
    let settings = Settings { max_in_flight: 100, ceiling: 100, ..defaults() };
    let limiter = limiter();
    let mut permits = Vec::new();
    for n in 0..50 {
        permits.push(permit(&limiter, &settings, START + n * 600_000).await);
    }
    let told = START + 31 * SECOND;
    for permit in &permits[40..] {
        finish(&limiter, *permit, told, Outcome::Refused(None)).await;
    }
    let status = limiter.at(told).show().await.unwrap().unwrap();
    assert!((49.0..=50.0).contains(&status.rate), "{status:?}");
    assert_eq!(status.limit, Some(50.0), "at least the rate after the cut");
    assert_eq!(status.pause, 10 * SECOND);
    assert_eq!(status.breaker, Breaker::Open, "ten failures in a row");
}

/// An exchange that is away for a while and says so is left alone, and its limit is not doubted.
#[tokio::test]
async fn a_failure_may_say_when_to_come_again() {
    let (limiter, settings) = (limiter(), defaults());
    let failed = permit(&limiter, &settings, START).await;
    finish(&limiter, failed, START, Outcome::Failed(Some(Duration::from_mins(2)))).await;
    let status = limiter.at(START).show().await.unwrap().unwrap();
    assert_eq!((status.pause, status.rate), (120 * SECOND, 100.0));
    let early = ask(&limiter, &settings, "w", START + 119 * SECOND).await;
    assert!(matches!(early, Grant::AskAgain(_)), "{early:?}");
    permit(&limiter, &settings, START + 120 * SECOND).await;
}

/// What one is told all heed, for as long as was told; the longest counts.
#[tokio::test]
async fn a_pause_holds_for_everybody() {
    let (limiter, settings) = (limiter(), defaults());
    let one = permit(&limiter, &settings, START).await;
    let other = permit(&limiter, &settings, START + SECOND).await;
    let now = START + 2 * SECOND;
    finish(&limiter, one, now, Outcome::Refused(Some(Duration::from_secs(40)))).await;
    finish(&limiter, other, now, Outcome::Refused(Some(Duration::from_secs(2)))).await;
    let end = now + 40 * SECOND;
    for (n, at) in [now, now + 20 * SECOND, end - SECOND].into_iter().enumerate() {
        let Grant::AskAgain(wait) = ask(&limiter, &settings, &format!("w{n}"), at).await else {
            panic!("a permit in a pause");
        };
        assert!(wait <= Duration::from_secs(1), "looks again every second");
    }
    permit(&limiter, &settings, end + SECOND).await;
}

/// A ban that goes on is waited out longer each time, and costs the rate no more than once.
#[tokio::test]
async fn a_ban_is_not_knocked_at() {
    let mut fleet = Fleet::of(4, Settings { breaker_failures: 1000, ..defaults() });
    fleet.work(60, |_| Outcome::Ok).await;
    let banned = fleet.now;
    fleet.work(600, |_| Outcome::Refused(None)).await;
    let knocks = fleet.refused_since(banned);
    assert!((4..=9).contains(&knocks), "{knocks} requests in a ban of ten minutes");
    let rate = fleet.status().await.rate;
    assert!(rate > 45.0, "{rate}");
}

/// The limit is halved: the fleet follows. It is doubled: the fleet finds out when the memory ends.
#[tokio::test]
async fn it_follows_a_limit_that_changes() {
    let settings = Settings { memory: Duration::from_mins(5), ..defaults() };
    let mut fleet = Fleet::of(4, settings);
    let mut window = Window::new(120, true);
    fleet.work(240, |at| window.answer(at)).await;
    window.limit = 60;
    fleet.work(240, |at| window.answer(at)).await;
    let halved = fleet.now;
    fleet.work(60, |at| window.answer(at)).await;
    assert_eq!(fleet.refused_since(halved), 0);
    assert!(fleet.sent_since(halved) >= 58, "{}", fleet.sent_since(halved));
    window.limit = 120;
    fleet.work(900, |at| window.answer(at)).await;
    let rate = fleet.status().await.rate;
    assert!(rate > 100.0, "{rate}");
}

/// Limits per second and per minute together, with 403 pages in place of 429.
#[tokio::test]
async fn it_settles_below_two_limits_together() {
    let mut minute = Window::new(150, false);
    let mut second = Window::new(2, false).per_second();
    let mut fleet = Fleet::of(4, defaults());
    let mut exchange = |at| match second.answer(at) {
        Outcome::Ok => minute.answer(at),
        refused => refused,
    };
    fleet.work(900, &mut exchange).await;
    let settled = fleet.now;
    fleet.work(600, &mut exchange).await;
    assert_eq!(fleet.refused_since(settled), 0);
    assert!(fleet.sent_since(settled) > 1000, "{}", fleet.sent_since(settled));
}

/// A run of failures opens the breaker; then exactly one request tries; its success closes it.
#[tokio::test]
async fn the_breaker_lets_one_request_try() {
    let (limiter, settings) = (limiter(), defaults());
    let mut now = START;
    for _ in 0..10 {
        let permit = permit(&limiter, &settings, now).await;
        finish(&limiter, permit, now, Outcome::Failed(None)).await;
        now += SECOND;
    }
    let mut length = 30;
    for openings in 1..4 {
        let status = limiter.at(now).show().await.unwrap().unwrap();
        assert_eq!((status.breaker, status.openings), (Breaker::Open, openings));
        let refused = ask(&limiter, &settings, "w", now).await;
        assert_eq!(refused, Grant::AskAgain(Duration::from_secs(1)));
        now += (length + 1) * SECOND;
        let probe = permit(&limiter, &settings, now).await;
        for worker in ["a", "b"] {
            let grant = ask(&limiter, &settings, worker, now + SECOND).await;
            assert!(matches!(grant, Grant::AskAgain(_)), "one probe only");
        }
        let status = limiter.at(now).show().await.unwrap().unwrap();
        assert_eq!(status.breaker, Breaker::HalfOpen);
        let failed = if openings == 3 { Outcome::Ok } else { Outcome::Failed(None) };
        finish(&limiter, probe, now + SECOND, failed).await;
        now += SECOND;
        length *= 2;
    }
    let status = limiter.at(now).show().await.unwrap().unwrap();
    assert_eq!((status.breaker, status.openings), (Breaker::Closed, 0));
    permit(&limiter, &settings, now + 2 * SECOND).await;
}

/// Many who come just before the breaker lets one through: one goes, and its success closes it.
#[tokio::test]
async fn one_of_many_tries() {
    let (limiter, settings) = (limiter(), Settings { breaker_failures: 1, ..defaults() });
    let failed = permit(&limiter, &settings, START).await;
    finish(&limiter, failed, START, Outcome::Failed(None)).await;
    let mut probes = Vec::new();
    for ms in (29_900..33_000).step_by(10) {
        let now = START + ms * 1000;
        if let Grant::Permit { number, .. } =
            ask(&limiter, &settings, &format!("w{}", ms % 7), now).await
        {
            probes.push(number);
        }
    }
    assert_eq!(probes.len(), 1);
    finish(&limiter, probes[0], START + 33 * SECOND, Outcome::Ok).await;
    let status = limiter.at(START + 33 * SECOND).show().await.unwrap().unwrap();
    assert_eq!((status.breaker, status.openings), (Breaker::Closed, 0));
}

/// On a slow way to Redis nobody comes in time; everybody keeps its place.
#[tokio::test]
async fn a_slow_way_to_redis_costs_little() {
    let mut fleet = Fleet::of(8, Settings { ceiling: 100, ..defaults() });
    fleet.way = 150_000;
    fleet.work(180, |_| Outcome::Ok).await;
    assert!(fleet.sent.len() >= 270, "{} of 300", fleet.sent.len());
    assert!(fleet.shares().iter().all(|share| *share >= 25), "{:?}", fleet.shares());
}

/// Refusals by chance, which say nothing of the rate, cost a pause each and not half an hour.
#[tokio::test]
async fn refusals_by_chance_are_got_over() {
    let mut fleet = Fleet::of(4, defaults());
    fleet.work(600, |_| Outcome::Ok).await;
    for seconds in [45, 90, 60, 150] {
        let mut refused = false;
        let answer = |_| {
            let is_first = !std::mem::replace(&mut refused, true);
            if is_first { Outcome::Refused(None) } else { Outcome::Ok }
        };
        fleet.work(seconds, answer).await;
    }
    fleet.work(240, |_| Outcome::Ok).await;
    let status = fleet.status().await;
    assert!(status.rate >= 170.0, "{status:?}");
}

/// A probe whose worker was killed does not hold the others for ever.
#[tokio::test]
async fn a_lost_probe_is_followed_by_another() {
    let (limiter, settings) = (limiter(), Settings { breaker_failures: 1, ..defaults() });
    let failed = permit(&limiter, &settings, START).await;
    limiter
        .at(START)
        .finish(&settings, Known::default(), failed, Outcome::Failed(None))
        .await
        .unwrap();
    let now = START + 31 * SECOND;
    permit(&limiter, &settings, now).await;
    let lost = now + 36 * SECOND;
    permit(&limiter, &settings, lost).await;
}

/// The urgent class goes first, and the low one leaves the last token to the others.
#[tokio::test]
async fn lower_classes_wait() {
    let classes = [Class::Low, Class::Normal, Class::Normal, Class::High];
    let mut fleet = Fleet::new(&classes, Settings { ceiling: 100, ..defaults() });
    fleet.work(60, |_| Outcome::Ok).await;
    let shares = fleet.shares();
    assert!(shares[3] >= 98 && shares[0] <= 1, "{shares:?}");
    fleet.kill(3);
    fleet.work(60, |_| Outcome::Ok).await;
    let shares = fleet.shares();
    assert!(shares[0] <= 1 && shares[1] >= 48 && shares[2] >= 48, "{shares:?}");
    fleet.kill(1);
    fleet.kill(2);
    fleet.work(60, |_| Outcome::Ok).await;
    assert!(fleet.shares()[0] >= 45, "{:?}", fleet.shares());
}

/// No more requests are on the way than allowed, however slow the exchange; and a place whose worker
/// was killed is free again in time.
#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let settings = Settings { initial: 600, ceiling: 600, ..defaults() };
    let mut fleet = Fleet::of(8, settings.clone());
    fleet.latency = 2 * SECOND;
    fleet.work(60, |_| Outcome::Ok).await;
    for one in &fleet.sent {
        let together =
            fleet.sent.iter().filter(|o| o.at <= one.at && one.at < o.at + fleet.latency);
        assert!(together.count() <= 4);
    }
    assert!(fleet.sent.len() >= 110, "{} of 120", fleet.sent.len());
    let lone = limiter();
    for n in 0..4 {
        permit(&lone, &settings, START + n * 100_000).await;
    }
    let full = ask(&lone, &settings, "w", START + SECOND).await;
    assert!(matches!(full, Grant::AskAgain(_)));
    permit(&lone, &settings, START + 40 * SECOND).await;
}

/// Where permits come fast, one call brings those of the next moments too, each with its own slot; but not
/// at the rates that exchanges allow, and not while another worker waits.
#[tokio::test]
async fn permits_come_together_only_where_they_come_fast() {
    let several = async |limiter: &Limiter, settings: &Settings, worker: &str, now| {
        let limiter = limiter.at(now);
        let asked = limiter.acquire_several(settings, Known::default(), worker, Class::Normal, 20);
        let (answer, others) = asked.await.unwrap();
        (answer.grant, others)
    };
    let fast = Settings { initial: 60_000, ceiling: 60_000, max_in_flight: 1_000, ..defaults() };
    let lone = limiter();
    let (first, others) = several(&lone, &fast, "w", START).await;
    let Grant::Permit { number, wait } = first else { panic!("no permit: {first:?}") };
    assert_eq!(others.len(), 20);
    let mut numbers: Vec<u64> = others.iter().map(|(number, _)| *number).chain([number]).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 21);
    let waits: Vec<Duration> =
        [wait].into_iter().chain(others.iter().map(|(_, wait)| *wait)).collect();
    for pair in waits.windows(2) {
        // A millisecond each; microseconds are cut.
        assert!(pair[1] >= pair[0] + Duration::from_micros(999), "{waits:?}");
    }

    let slow = limiter();
    let (first, others) = several(&slow, &defaults(), "w", START).await;
    assert!(matches!(first, Grant::Permit { .. }));
    assert_eq!(others, []);

    let shared = limiter();
    // All slots of the next moments are given, so the first worker waits, and then another.
    let mut now = START;
    while matches!(ask(&shared, &fast, "a", START).await, Grant::Permit { .. }) {}
    assert!(matches!(ask(&shared, &fast, "b", START).await, Grant::AskAgain(_)));
    let others = loop {
        now += 1_000;
        if let (Grant::Permit { .. }, others) = several(&shared, &fast, "a", now).await {
            break others;
        }
    };
    assert_eq!(others, [], "another worker waits");
}

/// Outcomes that are told together count as told one by one, in their order.
#[tokio::test]
async fn outcomes_are_told_together() {
    let settings = Settings { initial: 60_000, ceiling: 60_000, max_in_flight: 100, ..defaults() };
    let outcomes = [Outcome::Ok, Outcome::Refused(None), Outcome::Refused(None), Outcome::Unused];
    let mut rates = Vec::new();
    for are_together in [true, false] {
        let limiter = limiter();
        let mut told = Vec::new();
        for outcome in outcomes {
            told.push((permit(&limiter, &settings, START).await, outcome));
        }
        let limiter = limiter.at(START + SECOND);
        if are_together {
            limiter.finish_all(&settings, Known::default(), &told).await.unwrap();
        } else {
            for (permit, outcome) in told {
                limiter.finish(&settings, Known::default(), permit, outcome).await.unwrap();
            }
        }
        // Whoever asks next sets the rate by what was told.
        ask(&limiter, &settings, "w", START + 2 * SECOND).await;
        let status = limiter.show().await.unwrap().unwrap();
        rates.push((status.rate, status.refusals, status.in_flight, status.sent));
    }
    assert_eq!(rates[0], rates[1]);
    assert!(rates[0].0 < 60_000.0, "no refusal was told");
}

/// A permit that is given back is given to the next at once.
#[tokio::test]
async fn an_unused_permit_is_given_back() {
    let (limiter, settings) = (limiter(), defaults());
    let unused = permit(&limiter, &settings, START).await;
    assert!(matches!(ask(&limiter, &settings, "other", START).await, Grant::AskAgain(_)));
    finish(&limiter, unused, START, Outcome::Unused).await;
    let other = ask(&limiter, &settings, "other", START + SECOND / 100).await;
    assert!(matches!(other, Grant::Permit { .. }));
}

/// Workers that are killed while they wait leave no hole behind them.
#[tokio::test]
async fn the_dead_do_not_hold_the_queue() {
    let mut fleet = Fleet::of(12, Settings { ceiling: 100, ..defaults() });
    fleet.work(60, |_| Outcome::Ok).await;
    for gone in 0..11 {
        fleet.kill(gone);
    }
    let killed = fleet.now;
    fleet.work(60, |_| Outcome::Ok).await;
    assert!(fleet.sent_since(killed) >= 97, "{}", fleet.sent_since(killed));
}

/// After Redis lost everything the fleet goes on with what it knew: the rate, and the limit that it
/// found, for as long as it would have been remembered.
#[tokio::test]
async fn a_lost_state_begins_with_what_was_known() {
    let limiter = limiter();
    let limit_left = Duration::from_mins(10);
    let known =
        Known { blocked: Duration::ZERO, rate_milli: 37_000, limit_milli: 80_000, limit_left };
    let now = limiter.at(START);
    let answer = now.acquire(&defaults(), known, "w", Class::Normal).await.unwrap();
    assert_eq!(answer.known, known);
    assert_eq!(now.show().await.unwrap().unwrap().limit, Some(80.0));
    let later = limiter.at(START + 601 * SECOND).show().await.unwrap().unwrap();
    assert_eq!(later.limit, None);
}

/// Another initial rate, set by a worker that started later, is a new start; older workers change
/// nothing.
#[tokio::test]
async fn the_settings_of_the_youngest_worker_hold() {
    let limiter = limiter();
    let rate_at = async |settings: &Settings, now: u64| {
        limiter
            .at(now)
            .acquire(settings, Known::default(), "w", Class::Normal)
            .await
            .unwrap()
            .known
            .rate_milli
            / 1000
    };
    let rate = async |settings: &Settings| rate_at(settings, START).await;
    let younger = Settings { started: 2, initial: 50, ..defaults() };
    assert_eq!(rate(&defaults()).await, 100);
    assert_eq!(rate(&younger).await, 50);
    assert_eq!(rate(&defaults()).await, 50);
    // A worker that started in a year, by its clock, does not stand before those that start after it.
    let year = 365 * 24 * 3_600 * 1_000;
    let ahead = Settings { started: START / 1_000 + year, initial: 60, ..defaults() };
    assert_eq!(rate(&ahead).await, 60);
    let next = Settings { started: START / 1_000 + 1_000, initial: 70, ..defaults() };
    assert_eq!(rate_at(&next, START + SECOND).await, 70);
    // Nor is what it asks a new start each time, or the rate would never rise.
    let mut rate = 0;
    for window in 1..5 {
        rate = rate_at(&ahead, START + window * 60 * SECOND).await;
    }
    assert!(rate > 60, "{rate} after four windows without a refusal");
}

/// An operator's word holds at once, is checked, and can be taken back.
#[tokio::test]
async fn an_operator_is_obeyed() {
    let (limiter, settings) = (limiter(), defaults());
    let set = |rate, floor, ceiling| Control::Set { rate, floor, ceiling };
    permit(&limiter, &settings, START).await;
    let now = START + SECOND;
    let control = async |control| limiter.at(now).control(control).await.unwrap();
    assert!(control(set(Some(500), None, None)).await.unwrap_err().contains("ceiling 200"));
    assert!(control(set(None, Some(300), None)).await.unwrap_err().contains("above"));
    let tried = async |control| limiter.at(now).try_control(control).await.unwrap();
    assert!(tried(set(Some(500), None, None)).await.unwrap_err().contains("ceiling 200"));
    tried(set(Some(500), None, Some(600))).await.unwrap();
    tried(Control::Pause { length: None }).await.unwrap();
    let status = limiter.at(now).show().await.unwrap().unwrap();
    assert_eq!((status.ceiling, status.is_held), (200.0, false), "it was only tried");
    control(set(Some(500), None, Some(600))).await.unwrap();
    let status = limiter.at(now).show().await.unwrap().unwrap();
    assert_eq!((status.rate.round(), status.ceiling), (500.0, 600.0));
    control(Control::Pause { length: None }).await.unwrap();
    let grant = ask(&limiter, &settings, "w", now).await;
    assert_eq!(grant, Grant::AskAgain(Duration::from_secs(1)));
    assert!(limiter.at(now).show().await.unwrap().unwrap().is_held);
    control(Control::Resume).await.unwrap();
    permit(&limiter, &settings, now).await;
}

/// Nothing is kept for ever.
#[tokio::test]
async fn all_keys_expire() {
    let mut fleet = Fleet::of(3, defaults());
    fleet.work(5, |_| Outcome::Ok).await;
    let client = redis::Client::open(crate::variable("REDIS_URL")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("{p2p:binance:fleet-*").query_async(&mut connection).await.unwrap();
    assert!(!keys.is_empty());
    for key in keys {
        let left: i64 = redis::cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap();
        assert!(left == -2 || left > 0, "{key} has no end");
    }
}

/// A floor above the rate that was refused says that it is to be forgotten.
#[tokio::test]
async fn a_floor_goes_before_what_was_refused() {
    let mut fleet = Fleet::of(2, defaults());
    fleet.work(120, |_| Outcome::Ok).await;
    let mut window = Window::new(80, true);
    fleet.work(300, |at| window.answer(at)).await;
    assert!(fleet.status().await.limit.is_some());
    let floor = Control::Set { rate: None, floor: Some(150), ceiling: None };
    fleet.limiter.at(fleet.now).control(floor).await.unwrap().unwrap();
    let set = fleet.now;
    fleet.work(60, |_| Outcome::Ok).await;
    assert!(fleet.sent_since(set) >= 145, "{}", fleet.sent_since(set));
}

/// The clock of Redis is set back: nobody waits until it is where it was.
#[tokio::test]
async fn a_clock_that_is_set_back_stops_nobody() {
    let (limiter, settings) = (limiter(), defaults());
    for n in 0..4 {
        permit(&limiter, &settings, START + n * SECOND).await;
    }
    // Somebody more important died while it waited, and there is a pause.
    let high = limiter.at(START + 3 * SECOND);
    let high = high.acquire(&settings, Known::default(), "gone", Class::High).await.unwrap();
    assert!(matches!(high.grant, Grant::AskAgain(_)));
    let control = Control::Pause { length: Some(10 * SECOND) };
    limiter.at(START + 4 * SECOND).control(control).await.unwrap().unwrap();
    let back = START - 3600 * SECOND;
    assert!(matches!(ask(&limiter, &settings, "w", back).await, Grant::AskAgain(_)));
    let status = limiter.at(back).show().await.unwrap().unwrap();
    assert_eq!(status.pause, 10 * SECOND);
    permit(&limiter, &settings, back + 12 * SECOND).await;
}
