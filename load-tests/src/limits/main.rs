//! `limits`: the proof that a fleet finds a limit that it is not told, uses nearly all of it, and is
//! not refused any more once it has settled.
//!
//! Real limiters and clients of the worker, on a real Redis, send real requests to simulated exchanges
//! that count strictly in a sliding window and ban who does not wait. What is checked is the exchange's
//! own log. Windows are shorter than a minute here, and the fleet is told so, that it does not take an
//! hour; with a minute the same steps take three to six times as long.

mod exchange;
mod fleet;
mod redis;

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use load_tests::limit::jain_per_mille;
use shared::settings::Vars;

use self::exchange::Exchange;
use self::fleet::Fleet;
use self::redis::Redis;

/// Find a strict exchange's limit with 1, 4 and 16 workers; exit 0 only if all holds.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// One fleet and one short look, for the tests.
    #[arg(long)]
    short: bool,
}

/// What is tried.
#[derive(Clone, Copy)]
struct Scenario {
    workers: usize,
    /// Requests that the exchange allows in a window.
    limit: u32,
    /// Length of the window in seconds.
    window: u64,
    /// Requests that it allows in a second besides; 0: as many as the window.
    per_second: u32,
    backoff: &'static str,
    /// How long the settled fleet is watched, in windows.
    watched: u32,
    /// Requests in a window that a hiccup of the machine may move.
    slack: usize,
}

/// Longest time to settle or to follow a change, in windows: from the cut a step each sixth of a window,
/// about fourteen; from half of the limit a step each quarter, about fifteen.
const PATIENCE_WINDOWS: u32 = 12;
/// Part of the limit, in thousandths, that must be used once settled.
const LEAST_USE: u64 = 980;
/// How long a refused rate is remembered: the default.
const MEMORY: Duration = Duration::from_mins(30);
/// Jain index in thousandths.
const LEAST_FAIRNESS: u64 = 950;

#[tokio::main]
async fn main() -> ExitCode {
    shared::service::install_tls_provider();
    match run(Cli::parse().short).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("limits: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(short: bool) -> Result<bool> {
    let scenario = |workers| {
        if short {
            // Not halved: there is no time to climb. In so short a window a hiccup of the machine is
            // several requests; what holds strictly is tested with a moved clock in the worker's tests.
            Scenario {
                workers,
                limit: 40,
                window: 10,
                per_second: 0,
                backoff: "0.8",
                watched: 2,
                slack: 3,
            }
        } else {
            Scenario {
                workers,
                limit: 300,
                window: 30,
                per_second: 0,
                backoff: "0.5",
                watched: 3,
                slack: 0,
            }
        }
    };
    let redis = Vars::from_environment().optional("REDIS_URL").context("REDIS_URL not set")?;
    let redis = redis.as_str();
    println!("{}", Settled::HEAD);
    if short {
        return Ok(settle(scenario(4), redis).await?.tell());
    }
    let changing = Scenario { limit: 200, window: 20, watched: 0, ..scenario(4) };
    let both = Scenario { per_second: 15, ..scenario(4) };
    let (one, four, sixteen, both, changed, lost) = tokio::try_join!(
        settle(scenario(1), redis),
        settle(scenario(4), redis),
        settle(scenario(16), redis),
        settle(both, redis),
        follow(changing, redis),
        lose_redis(Scenario { limit: 200, window: 20, ..scenario(4) }),
    )?;
    let settled = [one, four, sixteen, both].map(|fleet| fleet.tell());
    let (changed, lost) = (changed.tell(), lost.tell());
    Ok(changed && lost && settled == [true; 4])
}

/// What a settled fleet did.
struct Settled {
    scenario: Scenario,
    /// `None`: it did not settle.
    after: Option<Duration>,
    /// Most requests in any window.
    most: usize,
    use_per_mille: u64,
    refused: usize,
    /// Before it settled.
    refused_before: usize,
    jain_per_mille: u64,
    waits: Vec<Duration>,
    round_trips_per_10: u64,
}

async fn settle(scenario: Scenario, redis: &str) -> Result<Settled> {
    let exchange = Exchange::start(&scenario).await?;
    let fleet = Fleet::start(&scenario, &exchange.url, redis, MEMORY)?;
    let patience = Duration::from_secs(scenario.window) * PATIENCE_WINDOWS;
    let after = fleet.wait_for_rate(scenario.limit, true, patience).await?;
    // What is counted from here on was sent by a settled fleet only.
    let (before, refused_before) = (fleet.counts(), exchange.refused_since(0)?);
    let round_trips = fleet.round_trips();
    let from = exchange::now_us();
    let watched = Duration::from_secs(scenario.window) * scenario.watched;
    tokio::time::sleep(watched).await;
    let until = exchange::now_us();
    let (now, round_trips) = (fleet.counts(), fleet.round_trips() - round_trips);
    let waits = fleet.stop().await;
    let sent: Vec<u64> = now.iter().zip(&before).map(|(now, before)| now - before).collect();
    let used = exchange.granted_between(from, until)?;
    let allowed_us = u64::from(scenario.limit) * (until - from);
    Ok(Settled {
        scenario,
        after,
        most: exchange.most_in_a_window(from, scenario.window)?,
        use_per_mille: u64::try_from(used)? * scenario.window * 1_000_000_000 / allowed_us,
        refused: exchange.refused_since(from)?,
        refused_before,
        jain_per_mille: jain_per_mille(&sent),
        waits,
        round_trips_per_10: round_trips * 10 / sent.iter().sum::<u64>().max(1),
    })
}

impl Settled {
    const HEAD: &str = "workers                limit  settled  refused  most in  use of  refused   Jain    wait for a permit   Redis calls\n                                after   before   window   limit    after  index      p50       p99    per permit";

    /// Prints a line; whether all holds.
    fn tell(&self) -> bool {
        let Scenario { workers, limit, window, per_second, slack, .. } = self.scenario;
        let after =
            self.after.map_or("never".to_owned(), |after| format!("{:.1} s", after.as_secs_f64()));
        let at = |percent: usize| {
            let index = (self.waits.len() * percent / 100).min(self.waits.len().saturating_sub(1));
            self.waits.get(index).copied().unwrap_or_default()
        };
        let mut limit_text = format!("{limit} in {window} s");
        if per_second > 0 {
            write!(limit_text, ", {per_second} in 1").ok();
        }
        println!(
            "{workers:>7} {limit_text:>20} {after:>8} {:>8} {:>8} {:>6}‰ {:>8} {:>5}‰ {:>8.0?} {:>9.0?} {:>10}.{}",
            self.refused_before,
            self.most,
            self.use_per_mille,
            self.refused,
            self.jain_per_mille,
            at(50),
            at(99),
            self.round_trips_per_10 / 10,
            self.round_trips_per_10 % 10,
        );
        let mut wrong = String::new();
        let mut hold = |holds: bool, law: &str| {
            if !holds {
                write!(wrong, "{law}; ").ok();
            }
        };
        hold(self.after.is_some(), "it did not settle");
        hold(self.most <= limit as usize + slack, "a window held more than the limit");
        let allowed_loss = slack as u64 * 1000 / u64::from(limit);
        hold(self.use_per_mille + allowed_loss >= LEAST_USE, "too little was used");
        hold(self.refused <= slack, "it was refused after it had settled");
        hold(self.jain_per_mille >= LEAST_FAIRNESS, "the workers were not treated alike");
        if !wrong.is_empty() {
            println!("        NOT HELD with {workers} workers: {wrong}");
        }
        wrong.is_empty()
    }
}

/// How a fleet followed a limit that was halved and doubled.
struct Changed {
    scenario: Scenario,
    halved: Option<Duration>,
    doubled: Option<Duration>,
}

/// How long the refused rate is remembered when the limit is to be doubled; with the default it would
/// take half an hour until the fleet looks whether the exchange takes more.
const SHORT_MEMORY: Duration = Duration::from_secs(90);

async fn follow(scenario: Scenario, redis: &str) -> Result<Changed> {
    let exchange = Exchange::start(&scenario).await?;
    let fleet = Fleet::start(&scenario, &exchange.url, redis, SHORT_MEMORY)?;
    let patience = Duration::from_secs(scenario.window) * PATIENCE_WINDOWS;
    fleet.wait_for_rate(scenario.limit, true, patience).await?;
    exchange.set_limit(scenario.limit / 2).await?;
    let halved = fleet.wait_for_rate(scenario.limit / 2, true, patience).await?;
    exchange.set_limit(scenario.limit).await?;
    let doubled = fleet.wait_for_rate(scenario.limit, false, patience + SHORT_MEMORY).await?;
    fleet.stop().await;
    Ok(Changed { scenario, halved, doubled })
}

impl Changed {
    fn tell(&self) -> bool {
        let Scenario { workers, limit, window, .. } = self.scenario;
        let text = |time: Option<Duration>| {
            time.map_or("never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
        };
        println!(
            "{workers} workers, {limit} in {window} s: halved, settled after {}; doubled, 90 % used after {} (the memory of refusals lasts {SHORT_MEMORY:?})",
            text(self.halved),
            text(self.doubled)
        );
        self.halved.is_some() && self.doubled.is_some()
    }
}

/// How a settled fleet bore the loss of Redis and of all that was in it.
struct Lost {
    scenario: Scenario,
    away: Duration,
    /// Requests meanwhile.
    sent: usize,
    /// Refused from the loss on.
    refused: usize,
    /// After Redis was back.
    after: Option<Duration>,
}

/// How long Redis is away: several turns of each worker's share.
const AWAY: Duration = Duration::from_secs(20);
/// A worker knows that Redis is away after its time to connect and to answer.
const NOTICED: Duration = Duration::from_secs(3);

async fn lose_redis(scenario: Scenario) -> Result<Lost> {
    let mut redis = Redis::start().await?;
    let exchange = Exchange::start(&scenario).await?;
    let fleet = Fleet::start(&scenario, &exchange.url, &redis.url, MEMORY)?;
    let patience = Duration::from_secs(scenario.window) * PATIENCE_WINDOWS;
    anyhow::ensure!(
        fleet.wait_for_rate(scenario.limit, true, patience).await?.is_some(),
        "the fleet did not settle before Redis was lost"
    );
    redis.kill().await?;
    let lost = exchange::now_us();
    tokio::time::sleep(NOTICED).await;
    let from = exchange::now_us();
    tokio::time::sleep(AWAY).await;
    let until = exchange::now_us();
    redis.run().await?;
    let after = fleet.wait_for_rate(scenario.limit, true, patience).await?;
    fleet.stop().await;
    Ok(Lost {
        scenario,
        away: AWAY,
        sent: exchange.sent_between(from, until)?,
        refused: exchange.refused_since(lost)?,
        after,
    })
}

impl Lost {
    fn tell(&self) -> bool {
        let workers = self.scenario.workers;
        let share = fleet::FLOOR * self.away.as_secs() / 60;
        // Each worker may have had its turn just before and just after.
        let most = usize::try_from(share).unwrap_or(usize::MAX) + workers;
        let after = self.after.map_or("never".to_owned(), |after| format!("{after:.1?}"));
        println!(
            "{workers} workers, Redis killed and empty again after {:?}: {} requests meanwhile (the floor allows {share}), settled again after {after}, {} refused",
            self.away, self.sent, self.refused
        );
        let holds = self.sent <= most && self.sent * 2 >= most && self.after.is_some();
        let holds = holds && self.refused == 0;
        if !holds {
            println!("        NOT HELD without Redis");
        }
        holds
    }
}
