//! The broker as an operator looks at it: how deep queues are, whether they are as declared, and what
//! the dead letters say.

use std::collections::BTreeMap;

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection};
use serde::Serialize;
use serde_json::Value;

use super::connect::connect;
use super::publisher::confirmed;
use super::{ANSWER_TIMEOUT, PublishError, Queue, QueueError, Topology, answer};
use crate::settings::Broker;

/// A queue as the broker counts it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Depth {
    /// Messages that wait for a consumer; those in some consumer's hands are not counted.
    pub ready: u32,
    pub consumers: u32,
}

/// Whether a queue is as this program declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declared {
    AsDeclared,
    Missing,
    /// With other arguments; in the words of the broker.
    Differs(String),
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeadLetter {
    /// Name of the queue it came from; `None`: its headers do not tell.
    pub queue: Option<String>,
    /// `rejected`, `delivery_limit`, `maxlen` or `expired`, as the broker has it.
    pub reason: Option<String>,
    /// All headers, `x-death` among them.
    pub headers: BTreeMap<String, Value>,
    pub body: Vec<u8>,
}

/// What became of dead letters that were to go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Requeued {
    /// Back in the queue they came from.
    pub requeued: u32,
    /// Left where they are: the queue they came from is not one of ours.
    pub left: u32,
}

/// A message that went back to its queue so often is copied instead: brokers from 4.0 on drop a message
/// of a quorum queue after 20 returns unless the queue says otherwise, and looking at it must not cost it.
const RETURNS_BEFORE_COPY: i64 = 10;
/// Headers by which the broker tells where a dead letter died; one that goes back begins anew.
const DEATH_HEADERS: [&str; 8] = [
    "x-death",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-first-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-last-death-exchange",
    RETURNS,
];
/// Header in which a quorum queue counts how often a message came back.
const RETURNS: &str = "x-delivery-count";
/// AMQP's `reply-success`.
const REPLY_SUCCESS: u16 = 200;

/// A connection for looking.
pub struct Inspector {
    connection: Connection,
    topology: Topology,
}

impl Inspector {
    pub async fn connect(
        broker: &Broker,
        topology: &Topology,
        name: &str,
    ) -> Result<Self, QueueError> {
        let connection = connect(broker, &format!("{name} inspector")).await?;
        Ok(Self { connection, topology: topology.clone() })
    }

    /// `None`: there is no such queue.
    pub async fn depth(&self, queue: Queue) -> Result<Option<Depth>, QueueError> {
        let channel = answer(ANSWER_TIMEOUT, self.connection.create_channel()).await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name = self.topology.queue(queue).into();
        let declared = channel.queue_declare(name, options, FieldTable::default());
        match answer(ANSWER_TIMEOUT, declared).await {
            Ok(queue) => {
                close(channel).await?;
                let (ready, consumers) = (queue.message_count(), queue.consumer_count());
                Ok(Some(Depth { ready, consumers }))
            }
            // The broker has closed the channel with that.
            Err(QueueError::Broker(error)) if is(&error, AMQPSoftError::NOTFOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks whether a queue is as this program would declare it; makes nothing.
    pub async fn declared(&self, queue: Queue) -> Result<Declared, QueueError> {
        if self.depth(queue).await?.is_none() {
            return Ok(Declared::Missing);
        }
        let channel = answer(ANSWER_TIMEOUT, self.connection.create_channel()).await?;
        match self.topology.ready(&channel, queue).await {
            Ok(_) => close(channel).await.map(|()| Declared::AsDeclared),
            Err(QueueError::Broker(error)) if is(&error, AMQPSoftError::PRECONDITIONFAILED) => {
                Ok(Declared::Differs(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// The first `limit` dead letters, oldest first. They stay: each goes back when all were read, and
    /// one that went back often is replaced by its copy first.
    pub async fn dead(&self, limit: u32) -> Result<Vec<DeadLetter>, PublishError> {
        let channel = self.confirming().await?;
        let mut held = Vec::new();
        let mut letters = Vec::new();
        for _ in 0..limit {
            let Some(message) = self.next_dead(&channel).await? else { break };
            letters.push(letter(&message));
            held.push(message);
        }
        for message in held {
            self.put_back(&channel, message).await?;
        }
        close(channel).await?;
        Ok(letters)
    }

    /// Publishes the first `limit` dead letters to the queues they came from, each acknowledged when the
    /// broker has its successor. One that is cut off in between is there twice, which workers bear.
    pub async fn requeue_dead(&self, limit: u32) -> Result<Requeued, PublishError> {
        let channel = self.confirming().await?;
        let mut left = Vec::new();
        let mut requeued = 0;
        for _ in 0..limit {
            let Some(message) = self.next_dead(&channel).await? else { break };
            let origin = letter(&message).queue;
            let origin = origin.filter(|name| {
                Queue::ALL
                    .iter()
                    .any(|ours| *ours != Queue::Dead && self.topology.queue(*ours) == *name)
            });
            let Some(origin) = origin else {
                left.push(message);
                continue;
            };
            let mut headers =
                message.properties.headers().clone().unwrap_or_default().inner().clone();
            for name in DEATH_HEADERS {
                headers.remove(name);
            }
            let properties = message.properties.clone().with_headers(headers.into());
            publish(&channel, &origin, &message.data, properties).await?;
            answer(ANSWER_TIMEOUT, message.ack(BasicAckOptions::default())).await?;
            requeued += 1;
        }
        let result = Requeued { requeued, left: u32::try_from(left.len()).unwrap_or(u32::MAX) };
        for message in left {
            self.put_back(&channel, message).await?;
        }
        close(channel).await?;
        Ok(result)
    }

    /// Ends the connection.
    pub async fn close(self) -> Result<(), QueueError> {
        answer(ANSWER_TIMEOUT, self.connection.close(REPLY_SUCCESS, "done".into())).await
    }

    async fn confirming(&self) -> Result<Channel, QueueError> {
        let channel = answer(ANSWER_TIMEOUT, self.connection.create_channel()).await?;
        answer(ANSWER_TIMEOUT, channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(channel)
    }

    async fn next_dead(&self, channel: &Channel) -> Result<Option<BasicGetMessage>, QueueError> {
        let name = self.topology.queue(Queue::Dead).into();
        answer(ANSWER_TIMEOUT, channel.basic_get(name, BasicGetOptions::default())).await
    }

    async fn put_back(
        &self,
        channel: &Channel,
        message: BasicGetMessage,
    ) -> Result<(), PublishError> {
        let headers = message.properties.headers().clone().unwrap_or_default();
        let returns = headers.inner().get(RETURNS).and_then(AMQPValue::as_long_long_int);
        if returns.unwrap_or(0) < RETURNS_BEFORE_COPY {
            let back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            return Ok(answer(ANSWER_TIMEOUT, message.nack(back)).await.map(drop)?);
        }
        let mut headers = headers.inner().clone();
        headers.remove(RETURNS);
        let properties = message.properties.clone().with_headers(headers.into());
        let dead = self.topology.queue(Queue::Dead);
        publish(channel, &dead, &message.data, properties).await?;
        Ok(answer(ANSWER_TIMEOUT, message.ack(BasicAckOptions::default())).await.map(drop)?)
    }
}

async fn publish(
    channel: &Channel,
    queue: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), PublishError> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel.basic_publish("".into(), queue.into(), options, body, properties);
    confirmed(answer(ANSWER_TIMEOUT, sent).await?).await
}

async fn close(channel: Channel) -> Result<(), QueueError> {
    answer(ANSWER_TIMEOUT, channel.close(REPLY_SUCCESS, "done".into())).await
}

fn is(error: &lapin::Error, soft: AMQPSoftError) -> bool {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => *error.kind() == AMQPErrorKind::Soft(soft),
        _ => false,
    }
}

fn letter(message: &BasicGetMessage) -> DeadLetter {
    let headers: BTreeMap<String, Value> = message
        .properties
        .headers()
        .iter()
        .flat_map(FieldTable::inner)
        .map(|(name, value)| (name.to_string(), json(value)))
        .collect();
    // The latest death stands first.
    let death = headers.get("x-death").and_then(|deaths| deaths.get(0));
    let text = |name: &str| death.and_then(|death| death[name].as_str()).map(str::to_owned);
    DeadLetter { queue: text("queue"), reason: text("reason"), headers, body: message.data.clone() }
}

/// A header as JSON; bytes as text, as far as they are.
fn json(value: &AMQPValue) -> Value {
    let table = |table: &BTreeMap<ShortString, AMQPValue>| {
        table.iter().map(|(name, value)| (name.to_string(), json(value))).collect()
    };
    match value {
        AMQPValue::Boolean(value) => Value::from(*value),
        AMQPValue::LongString(text) => {
            Value::from(String::from_utf8_lossy(text.as_bytes()).into_owned())
        }
        AMQPValue::ShortString(text) => Value::from(text.to_string()),
        AMQPValue::Timestamp(seconds) => {
            let at = i64::try_from(*seconds).ok();
            let at = at.and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
            at.map_or(Value::from(*seconds), |at| Value::from(at.to_rfc3339()))
        }
        AMQPValue::FieldTable(fields) => Value::Object(table(fields.inner())),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json).collect(),
        AMQPValue::Void => Value::Null,
        AMQPValue::ShortShortInt(number) => Value::from(*number),
        AMQPValue::ShortShortUInt(number) => Value::from(*number),
        AMQPValue::ShortInt(number) => Value::from(*number),
        AMQPValue::ShortUInt(number) => Value::from(*number),
        AMQPValue::LongInt(number) => Value::from(*number),
        AMQPValue::LongUInt(number) => Value::from(*number),
        AMQPValue::LongLongInt(number) => Value::from(*number),
        other => Value::from(format!("{other:?}")),
    }
}
