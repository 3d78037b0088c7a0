//! What an operator looks at, on real servers, and with each of them away.

mod alive;
mod doctor;
mod manual;
mod queues;
mod requests;
mod status;
mod watch;

use std::process::{Command, Output};

use serde_json::Value;
use shared::queue::{Consumer, Message, Publisher, Queue, Topology};
use shared::settings::{Broker, Vars};

use crate::database::Database;

#[expect(clippy::disallowed_methods, reason = "the servers of a test run are told this way")]
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run the tests by `make test`"))
}

/// The settings that name servers; a test says which it has.
const SERVERS: [&str; 5] =
    ["DATABASE_URL", "OWNER_DATABASE_URL", "AMQP_URL", "REDIS_URL", "RABBITMQ_MANAGEMENT_URL"];
/// A port on which nobody listens.
const NOBODY: &str = "127.0.0.1:1";
/// The password in every URL of [`away`].
const PASSWORD: &str = "geheim42";

/// The real binary with just these settings.
pub(crate) fn p2p(settings: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p"));
    command.args(args);
    for name in SERVERS {
        // Empty counts as absent; what is removed may be in a `.env`.
        command.env(name, "");
    }
    command.envs(settings.iter().copied()).output().unwrap()
}

/// Exit code, and all that it prints.
pub(crate) fn text(settings: &[(&str, &str)], args: &[&str]) -> (i32, String) {
    let output = p2p(settings, args);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// The same, as JSON.
#[track_caller]
pub(crate) fn json(settings: &[(&str, &str)], args: &[&str]) -> (i32, Value) {
    let (code, text) = text(settings, &[args, &["--json"]].concat());
    (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
}

/// All servers, none of which is there, each with a password.
fn away() -> Vec<(&'static str, String)> {
    let url = |scheme: &str, rest: &str| format!("{scheme}://user:{PASSWORD}@{NOBODY}{rest}");
    vec![
        ("DATABASE_URL", url("postgres", "/d")),
        ("AMQP_URL", url("amqp", "/%2f")),
        ("REDIS_URL", url("redis", "")),
        ("RABBITMQ_MANAGEMENT_URL", url("http", "")),
    ]
}

/// Queues of a test's own.
pub(crate) struct Queues {
    pub(crate) prefix: String,
    broker: Broker,
    publisher: Publisher,
}

impl Queues {
    /// Declares them.
    pub(crate) async fn declare(db: &Database) -> Self {
        let url = variable("AMQP_URL");
        let broker = Broker::read(&mut Vars::from_pairs([("AMQP_URL", url.as_str())]));
        let prefix = db.name.clone();
        let publisher = Publisher::new(&broker, Topology::new(&prefix), "test");
        let queues = Self { prefix, broker, publisher };
        for queue in Queue::ALL {
            queues.publisher.ready(queue).await.unwrap();
        }
        queues
    }

    pub(crate) async fn publish(&self, queue: Queue, body: &str) {
        let message = Message::To(queue, body.as_bytes().to_vec());
        self.publisher.publish(&[message]).await.unwrap();
    }

    /// Publishes a job and rejects it, as a worker does with what it can't read.
    pub(crate) async fn kill(&self, body: &str) {
        self.publish(Queue::NormalJobs, body).await;
        self.reject_next().await;
    }

    /// Rejects the next job, and waits until the broker has moved it to the dead letters.
    pub(crate) async fn reject_next(&self) {
        let before = self.publisher.ready(Queue::Dead).await.unwrap();
        let topology = Topology::new(&self.prefix);
        let (consumer, [mut deliveries]) =
            Consumer::start(&self.broker, &topology, "test", [Queue::NormalJobs], 1);
        deliveries.recv().await.unwrap().reject().await.unwrap();
        consumer.close().await;
        self.wait_for(Queue::Dead, before + 1).await;
    }

    /// Waits until so many messages wait on a queue: what was given back is counted a moment later.
    pub(crate) async fn wait_for(&self, queue: Queue, ready: u32) {
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        while self.publisher.ready(queue).await.unwrap() != ready {
            assert!(tokio::time::Instant::now() < end, "{ready} messages on {queue:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn remove(self) {
        for queue in Queue::ALL {
            self.publisher.delete(queue).await.unwrap();
        }
    }
}
