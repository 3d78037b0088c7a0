//! What an operator looks at and asks for.
//!
//! - [`status`]: one screen; [`watch`] the same, live; [`health`] judges it.
//! - [`alive`]: what a coordinator or worker says of itself, for health checks.
//! - [`queues`], [`workers`], [`catalog`]: one thing each, in full.
//! - [`requests`]: what is asked of the leader.
//! - [`doctor`]: whether everything is set up as it must be.
//! - [`manual`]: completions, man pages, exit codes.
//!
//! [`facts`] reads the database, [`broker`] the queues, [`limits`] the limiters. Only the database is
//! needed: what else is away is told as such.

pub mod alive;
pub mod broker;
pub mod catalog;
pub mod doctor;
pub mod facts;
pub mod health;
pub mod limits;
pub mod manual;
pub mod queues;
pub mod requests;
pub mod status;
pub mod watch;
pub mod workers;

use std::time::Duration;

use serde::Serialize;
use shared::queue::{Inspector, QueueError, Topology};
use shared::settings::{BadSettings, Broker, Database, Redis, Vars};
use url::Url;

/// The servers, as far as they were told.
#[derive(Clone, Debug)]
pub struct Servers {
    pub database: Database,
    /// `None`: `AMQP_URL` is not set.
    pub queues: Option<QueueServer>,
    /// `None`: `REDIS_URL` is not set.
    pub redis: Option<Redis>,
}

/// The broker, and which queues are ours.
#[derive(Clone, Debug)]
pub struct QueueServer {
    pub broker: Broker,
    pub topology: Topology,
    pub management: Option<Management>,
}

impl QueueServer {
    fn read(vars: &mut Vars) -> Self {
        Self {
            broker: Broker::read(vars),
            topology: Topology::new(&vars.prefix("AMQP_PREFIX", "p2p")),
            management: Management::read(vars),
        }
    }

    async fn connect(&self, name: &str) -> Result<Inspector, QueueError> {
        Inspector::connect(&self.broker, &self.topology, name).await
    }
}

/// The broker's management, which alone knows what is in the hands of consumers: `RABBITMQ_MANAGEMENT_URL`.
#[derive(Clone)]
pub struct Management {
    pub url: Url,
    /// One for all requests, for it keeps its connections.
    pub client: reqwest::Client,
}

/// Longest wait for an answer of the management.
const MANAGEMENT_TIMEOUT: Duration = Duration::from_secs(5);

impl std::fmt::Debug for Management {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shared::settings::redacted(&self.url))
    }
}

impl Management {
    fn read(vars: &mut Vars) -> Option<Self> {
        const NAME: &str = "RABBITMQ_MANAGEMENT_URL";
        vars.optional(NAME)?;
        let url = vars.url(NAME, None, &["http", "https"]);
        let client = reqwest::Client::builder()
            .timeout(MANAGEMENT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        match client {
            Ok(client) => Some(Self { url, client }),
            Err(error) => {
                vars.problem(format!("{NAME}: {}", error.without_url()));
                None
            }
        }
    }
}

impl Servers {
    /// The database is needed.
    pub fn read() -> Result<Self, BadSettings> {
        let mut vars = Vars::from_environment();
        let servers = Self {
            database: Database::read(&mut vars),
            queues: vars.optional("AMQP_URL").map(|_| QueueServer::read(&mut vars)),
            redis: vars.optional("REDIS_URL").map(|_| Redis::read(&mut vars)),
        };
        vars.finish(servers)
    }
}

/// What was read, or why it could not be: a server that is away is never taken for an empty one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Reading<T> {
    Read(T),
    Away { away: String },
}

impl<T> Reading<T> {
    #[must_use]
    pub fn read(&self) -> Option<&T> {
        match self {
            Self::Read(value) => Some(value),
            Self::Away { .. } => None,
        }
    }

    fn away(why: impl Into<String>) -> Self {
        Self::Away { away: why.into() }
    }
}

impl<T> From<anyhow::Result<T>> for Reading<T> {
    fn from(result: anyhow::Result<T>) -> Self {
        match result {
            Ok(value) => Self::Read(value),
            Err(error) => Self::away(format!("{error:#}")),
        }
    }
}
