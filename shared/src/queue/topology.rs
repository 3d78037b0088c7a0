//! Queues and exchanges, declared by whoever comes first; declaring again changes nothing.
//!
//! ```text
//! coordinator ─► P.jobs.urgent ─┐
//!             ─► P.jobs.normal ─┼► workers ─► P.reports ─► coordinator ─► P.events (topic)
//!             ─► P.jobs.low ────┘
//!                      └─ delivery limit ─► P.dead
//! ```

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use serde::Deserialize;

use super::{ANSWER_TIMEOUT, Depth, QueueError, answer};

/// The queues there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Jobs that go first: discovery, and the rest of books already begun. One queue per class,
    /// because message priorities mean another thing in every broker version.
    UrgentJobs,
    /// All other jobs, in plan order.
    NormalJobs,
    /// Jobs that no batch waits for: pages of advertisers.
    LowJobs,
    /// Acknowledgements of jobs.
    Reports,
    /// Poison messages: what no worker could read, or what killed every worker that took it.
    Dead,
}

impl Queue {
    pub const ALL: [Self; 5] =
        [Self::Dead, Self::UrgentJobs, Self::NormalJobs, Self::LowJobs, Self::Reports];

    /// Without the prefix of an installation, as metrics have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UrgentJobs => "jobs.urgent",
            Self::NormalJobs => "jobs.normal",
            Self::LowJobs => "jobs.low",
            Self::Reports => "reports",
            Self::Dead => "dead",
        }
    }
}

/// Who comes to the broker: each as a user of its own, with no more than it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Coordinator,
    Worker,
    /// `p2p`: looks at queues, and publishes dead letters again.
    Operator,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Coordinator, Self::Worker, Self::Operator];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Worker => "worker",
            Self::Operator => "operator",
        }
    }
}

/// Permissions of a user in a virtual host, as `RabbitMQ` has them: patterns of names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Permissions {
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// Deliveries of one message before it is poison. Every killed worker costs its jobs one, so there
/// is room for many restarts; a job that kills its worker is found all the same.
const DELIVERY_LIMIT: i32 = 20;
/// Messages a queue holds before the broker refuses more: above a batch's largest plan of 131,072.
const MAX_MESSAGES: i32 = 150_000;
/// Reports are hints; older ones than an hour tell nothing that the database does not.
const REPORT_TTL_MS: i32 = 3_600_000;

/// Names of one installation; `AMQP_PREFIX` tells several on one broker apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
}

impl Topology {
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    #[must_use]
    pub fn queue(&self, queue: Queue) -> String {
        format!("{}.{}", self.prefix, queue.as_str())
    }

    /// What suffices for a role. All three declare all queues, which needs to configure them, to read those with
    /// dead letters, and to write to the default exchange, over which dead letters, jobs and reports go.
    #[must_use]
    pub fn permissions(&self, role: Role) -> Permissions {
        let prefix: String = self
            .prefix
            .chars()
            .map(|one| if one.is_alphanumeric() { one.to_string() } else { format!("\\{one}") })
            .collect();
        let names = |rest: &str| format!("^{prefix}\\.{rest}$");
        let jobs = "jobs\\.(urgent|normal|low)";
        Permissions {
            configure: names(&format!("({jobs}|reports|dead|events)")),
            write: match role {
                Role::Coordinator => format!("^(amq\\.default|{prefix}\\.events)$"),
                Role::Worker | Role::Operator => "^amq\\.default$".to_owned(),
            },
            read: match role {
                Role::Coordinator => names(&format!("({jobs}|reports)")),
                Role::Worker => names(jobs),
                Role::Operator => names(&format!("({jobs}|dead)")),
            },
        }
    }

    /// Topic exchange for events that others may listen to, for example `batch.closed`.
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// Declares everything.
    pub(super) async fn declare(&self, channel: &Channel) -> Result<(), QueueError> {
        for queue in Queue::ALL {
            self.ready(channel, queue).await?;
        }
        let declared = channel.exchange_declare(
            self.events().into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() },
            FieldTable::default(),
        );
        answer(ANSWER_TIMEOUT, declared).await
    }

    /// Declares a queue, which tells how many of its messages wait for a consumer.
    pub(super) async fn ready(&self, channel: &Channel, queue: Queue) -> Result<u32, QueueError> {
        Ok(self.depth(channel, queue).await?.ready)
    }

    /// Declares a queue, which tells how full it is.
    pub(super) async fn depth(&self, channel: &Channel, queue: Queue) -> Result<Depth, QueueError> {
        let declared = channel.queue_declare(
            self.queue(queue).into(),
            QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() },
            self.arguments(queue),
        );
        let declared = answer(ANSWER_TIMEOUT, declared).await?;
        Ok(Depth { ready: declared.message_count(), consumers: declared.consumer_count() })
    }

    fn arguments(&self, queue: Queue) -> FieldTable {
        let mut arguments = FieldTable::default();
        let mut set = |name: &str, value: AMQPValue| {
            arguments.insert(name.into(), value);
        };
        let text = |text: &str| AMQPValue::LongString(text.into());
        // Quorum: survives the loss of a node, and counts deliveries.
        set("x-queue-type", text("quorum"));
        set("x-max-length", AMQPValue::LongInt(MAX_MESSAGES));
        match queue {
            Queue::UrgentJobs | Queue::NormalJobs | Queue::LowJobs => {
                // Written out: brokers before 4.0 have no limit unless told.
                set("x-delivery-limit", AMQPValue::LongInt(DELIVERY_LIMIT));
                set("x-dead-letter-exchange", text(""));
                set("x-dead-letter-routing-key", text(&self.queue(Queue::Dead)));
                // No dead letter is lost on the way; this needs reject-publish, and a refused
                // publish is what slows the coordinator down.
                set("x-dead-letter-strategy", text("at-least-once"));
                set("x-overflow", text("reject-publish"));
            }
            Queue::Reports => {
                set("x-message-ttl", AMQPValue::LongInt(REPORT_TTL_MS));
                set("x-overflow", text("drop-head"));
            }
            Queue::Dead => set("x-overflow", text("reject-publish")),
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_permissions_are_taken_as_they_are() {
        let permissions = Topology::new("p2p.eu-1").permissions(Role::Worker);
        assert_eq!(permissions.read, r"^p2p\.eu\-1\.jobs\.(urgent|normal|low)$");
        assert_eq!(permissions.write, r"^amq\.default$");
    }
}
