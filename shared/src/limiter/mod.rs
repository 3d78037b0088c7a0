//! The limit that all workers behind one egress share: one script in Redis, and its typed calls.
//!
//! What the script guarantees is told at its head. Here is no waiting and no retrying: the worker's
//! `rate_limit` does that; the operator's tool looks and sets.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{ErrorKind, FromRedisValue, RedisError, Script};
use serde::{Deserialize, Serialize};

use crate::exchange::Exchange;
use crate::settings;

/// Redis on a local network answers in well under a millisecond.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Refusals of an egress in a row that somebody should know of.
pub const REFUSALS_BEFORE_ALERT: u32 = 10;
/// Permits beside the first that one call brings at most.
pub const MOST_MORE: usize = 31;
/// Outcomes that one call tells at most.
const MOST_OUTCOMES: usize = 1_000;

/// The egress of workers that name none.
pub const DEFAULT_EGRESS: &str = "default";

/// What a worker is set to. Of several workers the settings of the one that started last hold.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// When the worker started, in milliseconds since 1970.
    pub started: u64,
    /// Rate to begin with, per minute.
    pub initial: u32,
    /// Lowest and highest rate, per minute.
    pub floor: u32,
    pub ceiling: u32,
    /// Requests that may follow each other without a pause.
    pub burst: u32,
    /// Requests on the way at the same time.
    pub max_in_flight: u32,
    /// By what a refusal multiplies the rate.
    pub backoff: f64,
    /// Failures without a success after which the breaker opens.
    pub breaker_failures: u32,
    /// Length of the window by which the exchange is taken to count.
    #[serde(serialize_with = "micros")]
    pub window: Duration,
    /// How long a refused rate is remembered.
    #[serde(serialize_with = "micros")]
    pub memory: Duration,
    /// After so long a permit whose outcome was not told is lost.
    #[serde(serialize_with = "micros")]
    pub permit_life: Duration,
}

/// Who goes first when permits are scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// What others wait for.
    High,
    Normal,
    /// What nothing waits for: it never takes the last token.
    Low,
}

/// What became of a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// Too fast, or banned; for how long, if that was told.
    Refused(Option<Duration>),
    /// Timeout, connection, 5xx; when to come again, if that was told.
    Failed(Option<Duration>),
    /// Another answer, which says nothing of limit and health.
    Neutral,
    /// No request was sent.
    Unused,
}

/// The answer to a worker that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub grant: Grant,
    /// Workers behind the egress.
    pub workers: u32,
    pub known: Known,
}

/// What a worker was last told, by which it goes on should Redis go away, and the limit should Redis lose
/// everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Known {
    /// For so long nothing may be sent: a pause, or the open breaker.
    #[serde(serialize_with = "micros")]
    pub blocked: Duration,
    /// In thousandths of a request per minute; 0: not known.
    pub rate_milli: u64,
    /// The rate that was refused, in the same unit; 0: none is remembered.
    pub limit_milli: u64,
    /// For how much longer.
    #[serde(serialize_with = "micros")]
    pub limit_left: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The request may be sent after this wait, which is short.
    Permit { number: u64, wait: Duration },
    /// Ask again after this wait: a second at most. Who comes much later loses its place.
    AskAgain(Duration),
}

/// State of the circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breaker {
    Closed,
    /// No request is sent.
    Open,
    /// One request is sent, to try.
    HalfOpen,
}

impl Breaker {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// The state of a limiter. Times are microseconds, counted from now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Requests per minute.
    pub rate: f64,
    pub floor: f64,
    pub ceiling: f64,
    /// Requests per minute at which the exchange refused; `None`: none is remembered.
    pub limit: Option<f64>,
    pub limit_age: Option<u64>,
    /// Until the pause ends.
    pub pause: u64,
    /// Whether the pause is an operator's.
    pub is_held: bool,
    pub breaker: Breaker,
    /// Until the open breaker lets a request try.
    pub open: u64,
    /// Since the breaker last opened; `None`: it never did.
    pub since_opened: Option<u64>,
    /// Times that the breaker opened without closing.
    pub openings: u32,
    /// Failures since the last success.
    pub failures: u32,
    /// Refusals in a row, those aside that were on the way when the first one was told.
    pub refusals: u32,
    /// Workers that asked within the last minute.
    pub workers: u32,
    /// Workers that wait for a permit.
    pub waiting: u32,
    pub in_flight: u32,
    pub max_in_flight: u32,
    /// Permits within the last minute.
    pub sent: u32,
}

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum Control {
    /// Nobody sends, for `length` microseconds or until resumed.
    Pause {
        #[serde(skip_serializing_if = "Option::is_none")]
        length: Option<u64>,
    },
    /// Ends every pause, and closes the breaker.
    Resume,
    /// Per minute; what is `None` stays.
    Set {
        #[serde(skip_serializing_if = "Option::is_none")]
        rate: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        floor: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ceiling: Option<u32>,
    },
}

#[derive(Serialize)]
struct Controlling {
    #[serde(flatten)]
    control: Control,
    is_trial: bool,
}

/// A worker that asks.
#[derive(Serialize)]
struct Asking<'a> {
    worker: &'a str,
    class: Class,
    more: usize,
    settings: KnownSettings<'a>,
}

#[derive(Serialize)]
struct Showing<'a> {
    settings: KnownSettings<'a>,
}

#[derive(Serialize)]
struct Finishing<'a> {
    told: Vec<Told>,
    settings: KnownSettings<'a>,
}

/// What became of one permit.
#[derive(Serialize)]
struct Told {
    permit: u64,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Told {
    fn new(permit: u64, outcome: Outcome) -> Self {
        let (outcome, retry_after) = match outcome {
            Outcome::Ok => ("ok", None),
            Outcome::Refused(retry_after) => ("refused", retry_after.map(as_micros)),
            Outcome::Failed(retry_after) => ("failed", retry_after.map(as_micros)),
            Outcome::Neutral => ("neutral", None),
            Outcome::Unused => ("unused", None),
        };
        Self { permit, outcome, retry_after }
    }
}

#[derive(Serialize)]
struct KnownSettings<'a> {
    #[serde(flatten)]
    settings: &'a Settings,
    known: Known,
}

/// The limiter of one exchange and egress.
#[derive(Clone)]
pub struct Limiter {
    connection: ConnectionManager,
    script: Script,
    keys: [String; 6],
    now_us: u64,
}

impl Limiter {
    /// Connects when it is first used: a worker starts while Redis is away.
    pub fn new(
        redis: &settings::Redis,
        exchange: Exchange,
        egress: &str,
    ) -> Result<Self, RedisError> {
        let client = redis.client()?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT))
            .set_number_of_retries(1);
        let key = |part: &str| format!("{{p2p:{exchange}:{egress}}}:{part}");
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(client, config)?,
            script: Script::new(include_str!("limiter.lua")),
            keys: ["state", "workers", "queue", "due", "flight", "sends"].map(key),
            now_us: 0,
        })
    }

    /// The same at a given time, for tests with a clock of their own.
    #[must_use]
    pub fn at(&self, now_us: u64) -> Self {
        Self { now_us, ..self.clone() }
    }

    /// Asks for a permit.
    pub async fn acquire(
        &self,
        settings: &Settings,
        known: Known,
        worker: &str,
        class: Class,
    ) -> Result<Answer, RedisError> {
        Ok(self.acquire_several(settings, known, worker, class, 0).await?.0)
    }

    /// Asks for a permit, and for as many as `more` further ones, at most [`MOST_MORE`]: their numbers and
    /// waits. They are given only where nobody else waits and their slots are as near as that of a single one.
    pub async fn acquire_several(
        &self,
        settings: &Settings,
        known: Known,
        worker: &str,
        class: Class,
        more: usize,
    ) -> Result<(Answer, Vec<(u64, Duration)>), RedisError> {
        let settings = KnownSettings { settings, known };
        let asking = Asking { worker, class, more: more.min(MOST_MORE), settings };
        let answer: Vec<u64> = self.call("acquire", &asking).await?;
        let Some((&[number, wait, workers, blocked, rate_milli, limit_milli, limit_left], others)) =
            answer.split_first_chunk()
        else {
            return Err((ErrorKind::UnexpectedReturnType, "not what the limiter says").into());
        };
        let [wait, blocked, limit_left] = [wait, blocked, limit_left].map(Duration::from_micros);
        let grant = if number > 0 { Grant::Permit { number, wait } } else { Grant::AskAgain(wait) };
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        let known = Known { blocked, rate_milli, limit_milli, limit_left };
        let others = others.chunks_exact(2).map(|one| (one[0], Duration::from_micros(one[1])));
        Ok((Answer { grant, workers, known }, others.collect()))
    }

    /// Tells what became of a permit.
    pub async fn finish(
        &self,
        settings: &Settings,
        known: Known,
        permit: u64,
        outcome: Outcome,
    ) -> Result<(), RedisError> {
        self.finish_all(settings, known, &[(permit, outcome)]).await
    }

    /// Tells what became of permits, in order.
    pub async fn finish_all(
        &self,
        settings: &Settings,
        known: Known,
        told: &[(u64, Outcome)],
    ) -> Result<(), RedisError> {
        for told in told.chunks(MOST_OUTCOMES) {
            let told = told.iter().map(|(permit, outcome)| Told::new(*permit, *outcome)).collect();
            let settings = KnownSettings { settings, known };
            let _done: u8 = self.call("finish", &Finishing { told, settings }).await?;
        }
        Ok(())
    }

    /// The state; `None`: nobody used the limiter for a day.
    pub async fn show(&self) -> Result<Option<Status>, RedisError> {
        let text: String = self.call("show", &serde_json::Map::new()).await?;
        if text.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text).map_err(|error| unexpected(&error))?))
    }

    /// The state as it is for a worker, whose settings may be newer than the state.
    pub async fn show_to(&self, settings: &Settings, known: Known) -> Result<Status, RedisError> {
        let settings = KnownSettings { settings, known };
        let text: String = self.call("show", &Showing { settings }).await?;
        serde_json::from_str(&text).map_err(|error| unexpected(&error))
    }

    /// Obeys an operator; `Err` in the answer: why not.
    pub async fn control(&self, control: Control) -> Result<Result<(), String>, RedisError> {
        self.obey(Controlling { control, is_trial: false }).await
    }

    /// What [`Self::control`] would answer; changes nothing.
    pub async fn try_control(&self, control: Control) -> Result<Result<(), String>, RedisError> {
        self.obey(Controlling { control, is_trial: true }).await
    }

    async fn obey(&self, controlling: Controlling) -> Result<Result<(), String>, RedisError> {
        let objection: String = self.call("control", &controlling).await?;
        Ok(if objection.is_empty() { Ok(()) } else { Err(objection) })
    }

    async fn call<T: FromRedisValue>(
        &self,
        operation: &str,
        arguments: &impl Serialize,
    ) -> Result<T, RedisError> {
        let arguments = serde_json::to_string(arguments).map_err(|error| unexpected(&error))?;
        let mut connection = self.connection.clone();
        self.script
            .key(&self.keys[..])
            .arg(operation)
            .arg(self.now_us)
            .arg(arguments)
            .invoke_async(&mut connection)
            .await
    }
}

fn unexpected(error: &serde_json::Error) -> RedisError {
    (ErrorKind::UnexpectedReturnType, "not what the limiter says", error.to_string()).into()
}

fn as_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn micros<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(as_micros(*duration))
}
