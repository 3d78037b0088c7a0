//! Consuming, supervised: after any error the connection is made anew, and the broker delivers again
//! what was not acknowledged.

use std::time::Duration;

use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use lapin::{Acker, BasicProperties};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::connect::connect;
use super::{ANSWER_TIMEOUT, Queue, QueueError, Topology, answer, trace};
use crate::settings::Broker;

/// Pause before connecting again: between half and the whole of it, so that a fleet does not come
/// back in one instant.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// A message that was delivered. Dropped without [`Delivery::ack`] it is delivered again, to someone,
/// when this connection ends.
#[derive(Debug)]
pub struct Delivery {
    pub body: Vec<u8>,
    properties: BasicProperties,
    acker: Acker,
}

impl Delivery {
    /// The work is done and recorded. An error means that the connection is gone and the message
    /// will come again, which the receiver must bear anyway.
    pub async fn ack(&self) -> Result<(), QueueError> {
        answer(ANSWER_TIMEOUT, self.acker.ack(BasicAckOptions::default())).await.map(drop)
    }

    /// The message can't be worked on by anyone: to the dead letters.
    pub async fn reject(&self) -> Result<(), QueueError> {
        answer(ANSWER_TIMEOUT, self.acker.reject(BasicRejectOptions { requeue: false }))
            .await
            .map(drop)
    }

    /// Time since it was published; `None`: by a program that did not say when.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        trace::age(self.properties.headers().as_ref())
    }

    /// Links `span` to the span that published the message.
    pub fn link(&self, span: &tracing::Span) {
        trace::link(span, self.properties.headers().as_ref());
    }
}

/// Consumes queues in the background. Deliveries of each queue come out of a receiver of its own.
pub struct Consumer {
    stop_taking: CancellationToken,
    close: CancellationToken,
    task: JoinHandle<()>,
}

impl Consumer {
    /// Begins to consume `queues` with `prefetch` unacknowledged messages each.
    #[must_use]
    pub fn start<const N: usize>(
        broker: &Broker,
        topology: &Topology,
        name: &'static str,
        queues: [Queue; N],
        prefetch: u16,
    ) -> (Self, [mpsc::Receiver<Delivery>; N]) {
        let (stop_taking, close) = (CancellationToken::new(), CancellationToken::new());
        let channels = queues.map(|_| mpsc::channel(usize::from(prefetch)));
        let mut targets = Vec::with_capacity(N);
        let mut queue = queues.into_iter();
        let receivers = channels.map(|(sender, receiver)| {
            targets.extend(queue.next().map(|queue| (queue, sender)));
            receiver
        });
        let supervisor = Supervisor {
            broker: broker.clone(),
            topology: topology.clone(),
            name,
            prefetch,
            targets,
            stop_taking: stop_taking.clone(),
            close: close.clone(),
        };
        let task = tokio::spawn(supervisor.run());
        (Self { stop_taking, close, task }, receivers)
    }

    /// Takes no more deliveries; those in hand can still be acknowledged.
    pub fn stop_taking(&self) {
        self.stop_taking.cancel();
    }

    /// Ends the connection; what was not acknowledged is delivered again.
    pub async fn close(self) {
        self.stop_taking.cancel();
        self.close.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the consumer ended abnormally");
        }
    }
}

struct Supervisor {
    broker: Broker,
    topology: Topology,
    name: &'static str,
    prefetch: u16,
    targets: Vec<(Queue, mpsc::Sender<Delivery>)>,
    stop_taking: CancellationToken,
    close: CancellationToken,
}

impl Supervisor {
    async fn run(self) {
        loop {
            match self.session().await {
                Ok(()) => return,
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the broker's session ended, connecting again"
                    );
                }
            }
            let pause = RECONNECT_PAUSE.mul_f64(rand::random_range(0.5..1.0));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.close.cancelled() => return,
                // Nothing is in hand on a lost connection, so there is nothing to wait for.
                () = self.stop_taking.cancelled() => return,
            }
        }
    }

    /// One connection from its beginning to its end; `Ok` when it was closed on purpose.
    async fn session(&self) -> Result<(), QueueError> {
        let connection = connect(&self.broker, &format!("{} consumer", self.name)).await?;
        let mut pumps = JoinSet::new();
        for (queue, target) in &self.targets {
            let channel = answer(ANSWER_TIMEOUT, connection.create_channel()).await?;
            self.topology.declare(&channel).await?;
            answer(ANSWER_TIMEOUT, channel.basic_qos(self.prefetch, BasicQosOptions::default()))
                .await?;
            let consumer = channel.basic_consume(
                self.topology.queue(*queue).into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let consumer = answer(ANSWER_TIMEOUT, consumer).await?;
            pumps.spawn(pump(consumer, target.clone(), self.stop_taking.clone()));
        }
        tracing::info!(queues = self.targets.len(), "consuming");
        while let Some(ended) = pumps.join_next().await {
            ended.unwrap_or(Ok(()))?;
        }
        // All pumps stopped on purpose. The connection stays for acknowledgements until the end.
        self.close.cancelled().await;
        let closed = connection.close(REPLY_SUCCESS, "done".into());
        if let Err(error) = answer(ANSWER_TIMEOUT, closed).await {
            tracing::debug!(%error, "the connection was gone before it was closed");
        }
        Ok(())
    }
}

/// AMQP's `reply-success`.
const REPLY_SUCCESS: u16 = 200;

/// Moves deliveries of one queue until told to stop (`Ok`) or until the session breaks.
async fn pump(
    mut consumer: lapin::Consumer,
    target: mpsc::Sender<Delivery>,
    stop: CancellationToken,
) -> Result<(), QueueError> {
    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery,
            () = stop.cancelled() => return Ok(()),
        };
        let delivery = delivery.ok_or(QueueError::Cancelled)??;
        let delivery = Delivery {
            body: delivery.data,
            properties: delivery.properties,
            acker: delivery.acker,
        };
        tokio::select! {
            sent = target.send(delivery) => if sent.is_err() { return Ok(()) },
            () = stop.cancelled() => return Ok(()),
        }
    }
}
