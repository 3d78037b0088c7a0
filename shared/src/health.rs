//! Whether a process is alive, and whether it can do its work: `/healthz` and `/readyz`, beside the
//! metrics.
//!
//! *Alive*: each main loop gave a sign within its bound. Nothing outside the process counts, for to start
//! it again mends no server. *Ready*: what it needs answers now. Both tell their reasons.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

/// Time between two signs of a loop that waits: far below any bound.
const BEAT: Duration = Duration::from_secs(1);
/// What was found is told again for so long: whoever asks often must not wear out the servers.
const FRESH: Duration = Duration::from_secs(1);

/// What a process tells of itself. A clone is the same process.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

type Probe = Box<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>;

#[derive(Default)]
struct Inner {
    loops: Mutex<BTreeMap<&'static str, Loop>>,
    probe: Mutex<Option<Arc<Probe>>>,
    /// What was found last, and when. Held while it is found out: one look at a time.
    found: tokio::sync::Mutex<Option<(Instant, Answer)>>,
}

#[derive(Clone, Copy)]
struct Loop {
    beat: Instant,
    limit: Duration,
}

/// A loop that is watched, until this is dropped.
#[derive(Clone)]
pub struct Pulse(Arc<Watched>);

struct Watched {
    health: Health,
    name: &'static str,
}

/// One thing that a process needs.
#[derive(Clone, Debug)]
pub struct Check {
    name: &'static str,
    /// Why it can't be used; `None`: it can.
    reason: Option<String>,
    details: Map<String, Value>,
}

/// Yes or no, with reasons, as JSON.
#[derive(Clone, Debug)]
pub struct Answer {
    pub is_good: bool,
    pub body: Value,
}

impl Check {
    #[must_use]
    pub fn new(name: &'static str, result: Result<(), String>) -> Self {
        Self { name, reason: result.err(), details: Map::new() }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// A server that must answer within `limit`.
    pub async fn answers<T, E: Into<anyhow::Error>>(
        name: &'static str,
        limit: Duration,
        call: impl Future<Output = Result<T, E>>,
    ) -> Self {
        let result = match tokio::time::timeout(limit, call).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("{:#}", error.into())),
            Err(_) => Err(format!("no answer within {limit:?}")),
        };
        Self::new(name, result)
    }
}

impl Health {
    /// Watches a loop, which must give a sign every `limit`: longer than anything it waits for.
    #[must_use]
    pub fn watch(&self, name: &'static str, limit: Duration) -> Pulse {
        self.loops().insert(name, Loop { beat: Instant::now(), limit });
        Pulse(Arc::new(Watched { health: self.clone(), name }))
    }

    /// How to find out whether the process is ready. Until this is called it is not.
    pub fn ready_when<F>(&self, probe: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Vec<Check>> + Send + 'static,
    {
        let probe: Probe = Box::new(move || Box::pin(probe()));
        *self.0.probe.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(probe));
    }

    /// Whether all loops gave their signs.
    #[must_use]
    pub fn alive(&self) -> Answer {
        let (mut loops, mut reasons) = (Map::new(), Vec::new());
        for (name, Loop { beat, limit }) in self.loops().iter() {
            let silent = beat.elapsed();
            if silent > *limit {
                reasons.push(format!("{name}: silent for {silent:.1?}, allowed are {limit:?}"));
            }
            let told = json!({ "silent_ms": millis(silent), "limit_ms": millis(*limit) });
            loops.insert((*name).to_owned(), told);
        }
        let is_good = reasons.is_empty();
        let body = json!({ "alive": is_good, "reasons": reasons, "loops": loops });
        Answer { is_good, body }
    }

    /// Whether all that the process needs can be used.
    pub async fn ready(&self) -> Answer {
        let mut found = self.0.found.lock().await;
        if let Some((at, answer)) = &*found
            && at.elapsed() < FRESH
        {
            return answer.clone();
        }
        let probe = self.0.probe.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(probe) = probe else {
            let body =
                json!({ "ready": false, "reasons": ["the process is starting"], "checks": {} });
            return Answer { is_good: false, body };
        };
        let answer = sum_up(probe().await);
        *found = Some((Instant::now(), answer.clone()));
        answer
    }

    fn loops(&self) -> MutexGuard<'_, BTreeMap<&'static str, Loop>> {
        self.0.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sum_up(checks: Vec<Check>) -> Answer {
    let (mut told, mut reasons) = (Map::new(), Vec::new());
    for Check { name, reason, mut details } in checks {
        details.insert("ok".to_owned(), reason.is_none().into());
        if let Some(reason) = reason {
            reasons.push(format!("{name}: {reason}"));
            details.insert("reason".to_owned(), reason.into());
        }
        told.insert(name.to_owned(), details.into());
    }
    let is_good = reasons.is_empty();
    Answer { is_good, body: json!({ "ready": is_good, "reasons": reasons, "checks": told }) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Health")
    }
}

impl Pulse {
    /// The loop goes on.
    pub fn beat(&self) {
        if let Some(one) = self.0.health.loops().get_mut(self.0.name) {
            one.beat = Instant::now();
        }
    }

    /// Gives signs while the loop waits for something that may take any time.
    pub async fn while_waiting<T>(&self, waited_for: impl Future<Output = T>) -> T {
        let mut waited_for = pin!(waited_for);
        loop {
            self.beat();
            tokio::select! {
                waited = &mut waited_for => return waited,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Of a loop that ended in a panic the silence is to be seen.
        if !std::thread::panicking() {
            self.health.loops().remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_is_silent_for_too_long_is_dead() {
        let health = Health::default();
        assert!(health.alive().is_good, "nothing is watched yet");
        let pulse = health.watch("storer", Duration::from_mins(1));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(health.alive().is_good);
        tokio::time::advance(Duration::from_secs(2)).await;
        let answer = health.alive();
        assert!(!answer.is_good);
        assert_eq!(answer.body["reasons"][0], "storer: silent for 61.0s, allowed are 60s");
        pulse.beat();
        assert!(health.alive().is_good);
        // Who waits is not silent.
        pulse.while_waiting(tokio::time::sleep(Duration::from_mins(10))).await;
        assert!(health.alive().is_good);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(!health.alive().is_good);
        drop(pulse);
        assert!(health.alive().is_good, "a loop that ended is not missed");
    }

    #[tokio::test(start_paused = true)]
    async fn ready_tells_what_lacks() {
        let health = Health::default();
        let starting = health.ready().await;
        assert!(!starting.is_good && starting.body["reasons"][0] == "the process is starting");
        health.ready_when(|| async {
            let never = std::future::pending::<anyhow::Result<()>>();
            let silent = Check::answers("broker", Duration::from_secs(3), never).await;
            vec![Check::new("lock", Ok(())).with("state", "leads"), silent]
        });
        let answer = health.ready().await;
        assert!(!answer.is_good);
        assert_eq!(answer.body["reasons"], json!(["broker: no answer within 3s"]));
        assert_eq!(answer.body["checks"]["lock"], json!({ "ok": true, "state": "leads" }));
    }
}
