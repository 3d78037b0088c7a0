//! A fleet that asks the real script under a clock that is moved: minutes pass in a second.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use shared::exchange::Exchange;
use shared::limiter::{Class, Grant, Known, Limiter, Outcome, Settings, Status};
use shared::settings::{Redis, Vars};

use crate::{unique, variable};

/// When all fleets start: any time will do.
pub(crate) const START: u64 = 1_800_000_000_000_000;
pub(crate) const SECOND: u64 = 1_000_000;

/// A limiter that nobody else uses.
pub(crate) fn limiter() -> Limiter {
    let url = variable("REDIS_URL");
    let redis = Redis::read(&mut Vars::from_pairs([("REDIS_URL", url.as_str())]));
    Limiter::new(&redis, Exchange::Binance, &unique("fleet")).unwrap()
}

/// The defaults of a worker.
pub(crate) fn defaults() -> Settings {
    Settings {
        started: 1,
        initial: 100,
        floor: 10,
        ceiling: 200,
        burst: 1,
        max_in_flight: 4,
        backoff: 0.5,
        breaker_failures: 10,
        window: Duration::from_mins(1),
        memory: Duration::from_mins(30),
        permit_life: Duration::from_secs(35),
    }
}

/// A permit that was used.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) at: u64,
    pub(crate) worker: usize,
    pub(crate) refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The answer to a request sent at this time is there.
    Answered {
        permit: u64,
        sent: u64,
    },
    Ask {
        worker: usize,
    },
}

/// An exchange that counts: a strict sliding window, and how long to wait where it tells.
pub(crate) struct Window {
    pub(crate) limit: usize,
    length: u64,
    tells: bool,
    granted: VecDeque<u64>,
}

impl Window {
    pub(crate) fn new(limit: usize, tells: bool) -> Self {
        Self { limit, length: 60 * SECOND, tells, granted: VecDeque::new() }
    }

    /// The same, counting by the second.
    pub(crate) fn per_second(self) -> Self {
        Self { length: SECOND, ..self }
    }

    pub(crate) fn answer(&mut self, at: u64) -> Outcome {
        while self.granted.front().is_some_and(|first| first + self.length <= at) {
            self.granted.pop_front();
        }
        if self.granted.len() < self.limit {
            self.granted.push_back(at);
            return Outcome::Ok;
        }
        let oldest = self.granted[self.granted.len() - self.limit];
        let wait = Duration::from_micros(oldest + self.length - at);
        Outcome::Refused(self.tells.then(|| Duration::from_secs(wait.as_secs() + 1)))
    }
}

/// Workers that always have a request to send.
pub(crate) struct Fleet {
    pub(crate) limiter: Limiter,
    pub(crate) settings: Settings,
    pub(crate) now: u64,
    /// Time a request takes.
    pub(crate) latency: u64,
    /// Time to Redis, and the same back.
    pub(crate) way: u64,
    classes: Vec<Class>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    pub(crate) sent: Vec<Sent>,
}

impl Fleet {
    pub(crate) fn new(classes: &[Class], settings: Settings) -> Self {
        let ask = |worker| Reverse((START + worker as u64, Event::Ask { worker }));
        Self {
            limiter: limiter(),
            settings,
            now: START,
            latency: SECOND / 5,
            way: 0,
            classes: classes.to_vec(),
            events: (0..classes.len()).map(ask).collect(),
            sent: Vec::new(),
        }
    }

    pub(crate) fn of(workers: usize, settings: Settings) -> Self {
        Self::new(&vec![Class::Normal; workers], settings)
    }

    /// Works for `seconds` against an exchange that answers a request that reaches it at a time.
    pub(crate) async fn work(&mut self, seconds: u64, mut exchange: impl FnMut(u64) -> Outcome) {
        let end = self.now + seconds * SECOND;
        while let Some(&Reverse((at, event))) = self.events.peek() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now = at;
            match event {
                Event::Ask { worker } => self.ask(worker).await,
                Event::Answered { permit, sent } => {
                    let outcome = exchange(sent);
                    if let Outcome::Refused(_) = outcome {
                        let one = self.sent.iter_mut().rev().find(|one| one.at == sent);
                        one.unwrap().refused = true;
                    }
                    let limiter = self.limiter.at(self.now);
                    limiter
                        .finish(&self.settings, Known::default(), permit, outcome)
                        .await
                        .unwrap();
                }
            }
        }
        self.now = end;
    }

    async fn ask(&mut self, worker: usize) {
        let limiter = self.limiter.at(self.now);
        let name = format!("w{worker}");
        let answer = limiter
            .acquire(&self.settings, Known::default(), &name, self.classes[worker])
            .await
            .unwrap();
        let again = match answer.grant {
            Grant::AskAgain(wait) => wait,
            Grant::Permit { number, wait } => {
                let at = self.now + u64::try_from(wait.as_micros()).unwrap().max(self.way);
                self.sent.push(Sent { at, worker, refused: false });
                let answered = Event::Answered { permit: number, sent: at };
                self.events.push(Reverse((at + self.latency, answered)));
                Duration::from_micros(100)
            }
        };
        let again = self.now + u64::try_from(again.as_micros()).unwrap() + 2 * self.way;
        self.events.push(Reverse((again, Event::Ask { worker })));
    }

    /// The worker is gone: it asks no more.
    pub(crate) fn kill(&mut self, gone: usize) {
        self.events.retain(|Reverse((_, event))| *event != Event::Ask { worker: gone });
    }

    pub(crate) async fn status(&self) -> Status {
        self.limiter.at(self.now).show().await.unwrap().unwrap()
    }

    pub(crate) fn refused_since(&self, time: u64) -> usize {
        self.sent.iter().filter(|one| one.refused && one.at >= time).count()
    }

    pub(crate) fn sent_since(&self, time: u64) -> usize {
        self.sent.iter().filter(|one| one.at >= time).count()
    }

    /// Sends of each worker.
    pub(crate) fn shares(&self) -> Vec<usize> {
        let count = |worker| self.sent.iter().filter(|one| one.worker == worker).count();
        (0..self.classes.len()).map(count).collect()
    }
}

/// Whether in any window there are no more than burst + rate × window, `rate` per minute.
pub(crate) fn keeps_the_law(sent: &[Sent], rate: u64, burst: u64) -> Result<(), String> {
    let mut times: Vec<u64> = sent.iter().map(|one| one.at).collect();
    times.sort_unstable();
    for (n, from) in times.iter().enumerate() {
        for (count, until) in (1u64..).zip(&times[n..]) {
            // One microsecond for each rounding.
            if count > burst && (count - burst) * 60 * SECOND > (until - from + count) * rate {
                return Err(format!("{count} permits within {} us", until - from));
            }
        }
    }
    Ok(())
}
