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

use serde::Serialize;
use shared::queue::{Inspector, Management, QueueError, Topology};
use shared::settings::{BadSettings, Broker, Database, Redis, Vars};

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
    /// Which alone knows what is in the hands of consumers. `None`: `RABBITMQ_MANAGEMENT_URL` is not set.
    pub management: Option<Management>,
}

impl QueueServer {
    fn read(vars: &mut Vars) -> Self {
        let broker = Broker::read(vars);
        Self {
            topology: Topology::new(&vars.prefix("AMQP_PREFIX", "p2p")),
            management: Management::read(vars, &broker.url),
            broker,
        }
    }

    async fn connect(&self, name: &str) -> Result<Inspector, QueueError> {
        Inspector::connect(&self.broker, &self.topology, name).await
    }
}

impl Servers {
    /// The database is needed.
    pub fn read() -> Result<Self, BadSettings> {
        Self::read_from(Vars::from_environment())
    }

    pub fn read_from(mut vars: Vars) -> Result<Self, BadSettings> {
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
