//! Publishing with confirms: success means that the broker has the message.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeleteOptions,
};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};

use super::connect::{Connections, Object, Pool, PoolError};
use super::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, Depth, Queue, QueueError, Topology, answer, trace};
use crate::settings::Broker;
use tracing::Span;

/// Connections for publishing, apart from those for consuming: flow control on one must not stall
/// the other.
const POOL_SIZE: usize = 2;
/// Confirms in flight. One at a time gives about a tenth of the rate of 200, more gains little.
const CONFIRM_WINDOW: usize = 200;
/// Delivery mode 2: the message survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// A message and where it goes.
#[derive(Clone, Debug)]
pub enum Message {
    /// Onto a queue, which must exist.
    To(Queue, Vec<u8>),
    /// To whoever listens for the routing key, if anyone.
    Event { routing_key: &'static str, body: Vec<u8> },
}

/// Why a message is perhaps not with the broker. It may be there all the same: publish again, the
/// receivers can take a message twice.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("no connection to the broker")]
    NoConnection(#[source] PoolError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the broker refused the message: its queue is full or can't store it")]
    Refused,
    #[error("no queue takes the message")]
    Unroutable,
}

#[derive(Clone)]
pub struct Publisher {
    pool: Pool,
    topology: Topology,
    /// Channels that were published on and wait for the next call, at most [`POOL_SIZE`]: to open one and to
    /// declare all queues costs the broker as much as some dozens of messages.
    idle: Arc<Mutex<Vec<Channel>>>,
}

impl Publisher {
    /// Connects when first used.
    #[must_use]
    pub fn new(broker: &Broker, topology: Topology, name: &'static str) -> Self {
        let limits = (CONNECT_TIMEOUT, ANSWER_TIMEOUT);
        let pool = Connections::pool(broker, &format!("{name} publisher"), POOL_SIZE, limits);
        Self { pool, topology, idle: Arc::default() }
    }

    /// Publishes all messages in order; `Ok` means that the broker confirmed every one. After an
    /// error any part of them may have arrived.
    pub async fn publish(&self, messages: &[Message]) -> Result<(), PublishError> {
        let span = Span::current();
        self.publish_each(messages.iter().map(|message| (message, &span))).await
    }

    /// The same, each message with the trace of the span that it comes from.
    pub async fn publish_each<'a>(
        &self,
        messages: impl ExactSizeIterator<Item = (&'a Message, &'a Span)> + Clone,
    ) -> Result<(), PublishError> {
        if messages.len() == 0 {
            return Ok(());
        }
        if let Some(channel) = self.take_idle() {
            match publish_on(&channel, &self.topology, messages.clone()).await {
                // A queue may have been deleted since: it is declared again below, and whoever gets a
                // message twice can bear it.
                Err(PublishError::Unroutable) => close(&channel).await?,
                Ok(()) => {
                    self.keep_idle(channel);
                    return Ok(());
                }
                Err(error) => {
                    self.forget_connections();
                    return Err(error);
                }
            }
        }
        let connection = self.pool.get().await.map_err(PublishError::NoConnection)?;
        let published = async {
            let channel = answer(ANSWER_TIMEOUT, connection.create_channel()).await?;
            // Publishing before anyone consumed must not fail for want of a queue.
            self.topology.declare(&channel).await?;
            answer(ANSWER_TIMEOUT, channel.confirm_select(ConfirmSelectOptions::default())).await?;
            publish_on(&channel, &self.topology, messages).await?;
            Ok(channel)
        };
        let published = published.await.inspect_err(|_| self.forget_connections());
        let channel = give_back(connection, published)?;
        self.keep_idle(channel);
        Ok(())
    }

    /// Whatever went wrong, the next call begins with a new connection.
    fn forget_connections(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.pool.retain(|_, _| false);
    }

    /// A channel that was not closed meanwhile.
    fn take_idle(&self) -> Option<Channel> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|channel| channel.status().connected());
        idle.pop()
    }

    /// After an error a channel is not kept: it goes with this value.
    fn keep_idle(&self, channel: Channel) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < POOL_SIZE {
            idle.push(channel);
        }
    }

    /// How full a queue is. One that does not exist is declared, as everybody does: only to look at it would
    /// be an error for the broker.
    pub async fn depth(&self, queue: Queue) -> Result<Depth, PublishError> {
        let connection = self.pool.get().await.map_err(PublishError::NoConnection)?;
        let depth = async {
            let channel = answer(ANSWER_TIMEOUT, connection.create_channel()).await?;
            let depth = self.topology.depth(&channel, queue).await?;
            close(&channel).await?;
            Ok(depth)
        };
        let depth = depth.await;
        give_back(connection, depth)
    }

    /// Messages of a queue that wait for a consumer; those in some consumer's hands are not counted. A
    /// queue that a crash left broken tells that it is empty and answers nothing more, so an empty one
    /// is asked for a message as well: that is an error then.
    pub async fn ready(&self, queue: Queue) -> Result<u32, PublishError> {
        let connection = self.pool.get().await.map_err(PublishError::NoConnection)?;
        let ready = async {
            let channel = answer(ANSWER_TIMEOUT, connection.create_channel()).await?;
            let ready = self.topology.ready(&channel, queue).await?;
            if ready == 0 {
                let name = self.topology.queue(queue).into();
                let got = channel.basic_get(name, BasicGetOptions::default());
                // One that came meanwhile goes back to the queue with the end of the channel.
                drop(answer(ANSWER_TIMEOUT, got).await?);
            }
            close(&channel).await?;
            Ok(ready)
        };
        let ready = ready.await;
        give_back(connection, ready)
    }

    /// Deletes a queue with all that is in it; it is declared again when it is next used.
    pub async fn delete(&self, queue: Queue) -> Result<(), PublishError> {
        let connection = self.pool.get().await.map_err(PublishError::NoConnection)?;
        let deleted = async {
            let channel = answer(ANSWER_TIMEOUT, connection.create_channel()).await?;
            let name = self.topology.queue(queue).into();
            answer(DELETE_TIMEOUT, channel.queue_delete(name, QueueDeleteOptions::default()))
                .await?;
            close(&channel).await?;
            Ok(())
        };
        let deleted = deleted.await;
        give_back(connection, deleted)
    }
}

async fn publish_on<'a>(
    channel: &Channel,
    topology: &Topology,
    messages: impl Iterator<Item = (&'a Message, &'a Span)>,
) -> Result<(), PublishError> {
    let mut in_flight = VecDeque::with_capacity(CONFIRM_WINDOW);
    for (message, span) in messages {
        if in_flight.len() == CONFIRM_WINDOW
            && let Some(oldest) = in_flight.pop_front()
        {
            confirmed(oldest).await?;
        }
        in_flight.push_back(send(channel, topology, message, span).await?);
    }
    for confirm in in_flight {
        confirmed(confirm).await?;
    }
    Ok(())
}

async fn send(
    channel: &Channel,
    topology: &Topology,
    message: &Message,
    span: &Span,
) -> Result<PublisherConfirm, QueueError> {
    let (exchange, routing_key, mandatory, body) = match message {
        Message::To(queue, body) => (String::new(), topology.queue(*queue), true, body),
        Message::Event { routing_key, body } => {
            (topology.events(), (*routing_key).to_owned(), false, body)
        }
    };
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_headers(trace::headers(span));
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    let sent =
        channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties);
    answer(PUBLISH_TIMEOUT, sent).await
}

async fn close(channel: &Channel) -> Result<(), QueueError> {
    answer(ANSWER_TIMEOUT, channel.close(REPLY_SUCCESS, "done".into())).await
}

/// Gives a connection back to the pool; whatever went wrong, the next call begins with a new one.
fn give_back<T>(connection: Object, result: Result<T, PublishError>) -> Result<T, PublishError> {
    if result.is_err() {
        drop(Object::take(connection));
    }
    result
}

/// A queue that is broken is deleted only after the broker has waited for its members in vain.
const DELETE_TIMEOUT: Duration = Duration::from_secs(20);
/// AMQP's `reply-success`.
const REPLY_SUCCESS: u16 = 200;
/// A broker under memory pressure stops reading for a while; that is not yet an error.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn confirmed(confirm: PublisherConfirm) -> Result<(), PublishError> {
    match answer(ANSWER_TIMEOUT, confirm).await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(_)) => Err(PublishError::Unroutable),
        Confirmation::Nack(_) | Confirmation::NotRequested => Err(PublishError::Refused),
    }
}
