//! The limit that all workers share, on a real Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use shared::exchange::Exchange;
use shared::limiter::Control;
use tokio_util::sync::CancellationToken;
use worker::rate_limit::{Class, Limiter, NoPermit, Outcome};
use worker::settings::Settings;

use crate::proxy::Proxy;
use crate::{settings, unique, variable};

async fn acquire(limiter: &Limiter, within: TimeDelta) -> Result<Instant, NoPermit> {
    limiter.acquire(Class::Normal, Utc::now() + within, &CancellationToken::new()).await.map(
        |permit| {
            // Used, or it would be given back.
            drop(permit.begin());
            Instant::now()
        },
    )
}

/// A request that is refused.
async fn refuse(limiter: &Limiter, pause: Duration) {
    let deadline = Utc::now() + TimeDelta::seconds(10);
    let permit = limiter.acquire(Class::Normal, deadline, &CancellationToken::new()).await.unwrap();
    permit.begin().unwrap().finish(Outcome::Refused(Some(pause))).await;
}

/// Permits of all workers together, in the order in which they were given.
async fn permits_of(workers: usize, each: usize, settings: &Settings) -> Vec<Instant> {
    let tasks = (0..workers).map(|n| {
        let settings = Settings { worker_id: format!("w{n}"), ..settings.clone() };
        tokio::spawn(async move {
            let limiter = Limiter::new(&settings).unwrap();
            let mut permits = Vec::new();
            for _ in 0..each {
                permits.push(acquire(&limiter, TimeDelta::seconds(60)).await.unwrap());
            }
            permits
        })
    });
    let mut permits = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        permits.extend(task.await.unwrap());
    }
    permits.sort();
    permits
}

/// However many workers ask, n permits take n − 1 intervals: none is given early.
#[tokio::test(flavor = "multi_thread")]
async fn workers_share_one_rate() {
    // 1,200 a minute: one in 50 ms.
    let settings = settings(&[("INITIAL_RATE_LIMIT", "1200"), ("MAX_IN_FLIGHT", "100")]);
    let began = Instant::now();
    let permits = permits_of(6, 8, &settings).await;
    for (n, permit) in (0u32..).zip(&permits) {
        let earliest = Duration::from_millis(50) * n;
        assert!(
            permit.duration_since(began) >= earliest,
            "permit {n} came after {:?}",
            *permit - began
        );
    }
}

/// A burst is given at once, and not more than it.
#[tokio::test]
async fn a_burst_is_given_once() {
    let settings = settings(&[("INITIAL_RATE_LIMIT", "60"), ("RATE_LIMIT_BURST", "5")]);
    let limiter = Limiter::new(&settings).unwrap();
    for _ in 0..5 {
        acquire(&limiter, TimeDelta::milliseconds(900)).await.unwrap();
    }
    assert_eq!(acquire(&limiter, TimeDelta::milliseconds(300)).await, Err(NoPermit::Deadline));
}

/// What one worker is told by the exchange, all heed.
#[tokio::test]
async fn a_pause_holds_for_everybody() {
    let settings = settings(&[]);
    let (one, other) = (Limiter::new(&settings).unwrap(), Limiter::new(&settings).unwrap());
    refuse(&one, Duration::from_secs(2)).await;
    let paused = Instant::now();
    let permit = acquire(&other, TimeDelta::seconds(10)).await.unwrap();
    assert!(permit - paused >= Duration::from_millis(1900), "{:?}", permit - paused);
}

/// Egresses have limits of their own.
#[tokio::test]
async fn another_egress_is_not_paused() {
    let paused = Limiter::new(&settings(&[])).unwrap();
    refuse(&paused, Duration::from_mins(1)).await;
    let free = Limiter::new(&settings(&[])).unwrap();
    acquire(&free, TimeDelta::seconds(5)).await.unwrap();
}

/// A way to the Redis of the test run that can be cut, and the URL of that way.
async fn redis_to_cut() -> (Proxy, String) {
    let redis = url::Url::parse(&variable("REDIS_URL")).unwrap();
    let target = format!("{}:{}", redis.host_str().unwrap(), redis.port().unwrap_or(6379));
    let proxy = Proxy::to(target).await;
    let mut through = redis.clone();
    through.set_port(Some(proxy.address.port())).unwrap();
    (proxy, through.to_string())
}

/// Redis goes away: the worker keeps to its share of the minimum rate, and not to less than a limit.
#[tokio::test]
async fn while_redis_is_away_a_local_share_holds() {
    let (proxy, url) = redis_to_cut().await;
    let settings = settings(&[("REDIS_URL", &url), ("MIN_RATE_LIMIT", "300")]);
    let limiter = Limiter::new(&settings).unwrap();
    acquire(&limiter, TimeDelta::seconds(10)).await.unwrap();
    proxy.cut().await;
    let first = acquire(&limiter, TimeDelta::seconds(20)).await.unwrap();
    let second = acquire(&limiter, TimeDelta::seconds(20)).await.unwrap();
    // 300 a minute, one worker: 200 ms apart, where the shared rate would have given 1 ms.
    assert!(second - first >= Duration::from_millis(190), "{:?}", second - first);
}

/// Who was told to pause just before Redis went away pauses on, whoever said so.
#[tokio::test]
async fn a_pause_holds_while_redis_is_away() {
    let (proxy, url) = redis_to_cut().await;
    let settings = settings(&[("REDIS_URL", &url), ("MIN_RATE_LIMIT", "6000")]);
    let limiter = Limiter::new(&settings).unwrap();
    acquire(&limiter, TimeDelta::seconds(10)).await.unwrap();
    refuse(&limiter, Duration::from_mins(1)).await;
    assert_eq!(acquire(&limiter, TimeDelta::seconds(2)).await, Err(NoPermit::Deadline));
    proxy.cut().await;
    assert_eq!(acquire(&limiter, TimeDelta::seconds(4)).await, Err(NoPermit::Deadline));
}

/// Redis away and nothing known of the fleet: no permit, rather than one without a limit.
#[tokio::test]
async fn without_redis_there_is_no_permit() {
    let settings = settings(&[("REDIS_URL", "redis://127.0.0.1:9/0")]);
    let limiter = Limiter::new(&settings).unwrap();
    assert_eq!(acquire(&limiter, TimeDelta::seconds(2)).await, Err(NoPermit::Deadline));
}

/// A permit that comes too late, after a SIGSTOP, is not used but given back.
#[tokio::test]
async fn a_late_permit_is_given_back() {
    let settings = settings(&[("INITIAL_RATE_LIMIT", "10"), ("MIN_RATE_LIMIT", "1")]);
    let limiter = Limiter::new(&settings).unwrap();
    let deadline = Utc::now() + TimeDelta::seconds(5);
    let late = limiter.acquire(Class::Normal, deadline, &CancellationToken::new()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(late.begin().is_none());
    // Another one would be due in six seconds.
    acquire(&limiter, TimeDelta::seconds(3)).await.unwrap();
}

/// What an operator says holds within a second for workers that wait already.
#[tokio::test]
async fn an_operator_is_obeyed_within_a_second() {
    let settings = settings(&[("INITIAL_RATE_LIMIT", "2"), ("MIN_RATE_LIMIT", "1")]);
    let limiter = Limiter::new(&settings).unwrap();
    acquire(&limiter, TimeDelta::seconds(5)).await.unwrap();
    let operator =
        shared::limiter::Limiter::new(&settings.redis, Exchange::Binance, &settings.egress_id)
            .unwrap();
    let control = async |control| operator.control(control).await.unwrap().unwrap();
    // The next permit is due in half a minute, until the operator knows better.
    let waits = tokio::spawn(async move { acquire(&limiter, TimeDelta::seconds(25)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    control(Control::Pause { length: None }).await;
    control(Control::Set { rate: Some(6000), floor: None, ceiling: None }).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!waits.is_finished(), "paused");
    let resumed = Instant::now();
    control(Control::Resume).await;
    let permit = waits.await.unwrap().unwrap();
    assert!(permit - resumed < Duration::from_millis(1500), "{:?}", permit - resumed);
}

/// Shutting down, nobody waits for a permit.
#[tokio::test]
async fn a_shutdown_ends_the_wait() {
    let settings = settings(&[("INITIAL_RATE_LIMIT", "60"), ("EGRESS_ID", &unique("shutdown"))]);
    let limiter = Arc::new(Limiter::new(&settings).unwrap());
    acquire(&limiter, TimeDelta::seconds(5)).await.unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let refused =
        limiter.acquire(Class::Normal, Utc::now() + TimeDelta::seconds(60), &shutdown).await;
    assert_eq!(refused.map(|_| ()), Err(NoPermit::Shutdown));
}
