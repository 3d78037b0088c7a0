//! How deep the queues are, as the broker says.

use std::time::Duration;

use maud::{Markup, html};
use serde::Serialize;
use shared::queue::{Inspector, Queue, QueueError, Topology};
use shared::settings::Broker;

use super::format::{UNKNOWN, count};
use super::panel::{Mark, empty, panel};

/// A queue as the broker counts it.
#[derive(Clone, Debug, Serialize)]
pub struct QueueDepth {
    pub queue: String,
    pub is_dead_letters: bool,
    /// `None`: there is no such queue.
    pub ready: Option<u32>,
    /// `None`: there is no such queue.
    pub consumers: Option<u32>,
}

/// What the broker said.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Queues {
    Asked(Vec<QueueDepth>),
    /// It could not be asked, for this reason.
    Away(String),
}

impl Queues {
    /// `None`: not known.
    pub(super) fn dead_letters(&self) -> Option<u32> {
        let Self::Asked(queues) = self else { return None };
        queues.iter().find(|queue| queue.is_dead_letters)?.ready
    }
}

/// Time in which the broker must have told of all queues.
const LIMIT: Duration = Duration::from_secs(3);

/// Asks the broker on a connection that is kept.
pub(super) struct Depths {
    broker: Broker,
    topology: Topology,
    inspector: Option<Inspector>,
}

impl Depths {
    pub(super) fn new(broker: Broker, topology: Topology) -> Self {
        Self { broker, topology, inspector: None }
    }

    pub(super) async fn read(&mut self) -> Queues {
        match tokio::time::timeout(LIMIT, self.ask()).await {
            Ok(Ok(queues)) => Queues::Asked(queues),
            Ok(Err(error)) => self.away(format!("{:#}", anyhow::Error::from(error))),
            Err(_) => self.away(format!("the broker did not answer within {LIMIT:?}")),
        }
    }

    fn away(&mut self, reason: String) -> Queues {
        self.inspector = None;
        Queues::Away(reason)
    }

    async fn ask(&mut self) -> Result<Vec<QueueDepth>, QueueError> {
        let inspector = match self.inspector.take() {
            Some(inspector) => inspector,
            None => Inspector::connect(&self.broker, &self.topology, "status page").await?,
        };
        let mut queues = Vec::with_capacity(Queue::ALL.len());
        for queue in Queue::ALL {
            let depth = inspector.depth(queue).await?;
            queues.push(QueueDepth {
                queue: self.topology.queue(queue),
                is_dead_letters: queue == Queue::Dead,
                ready: depth.map(|depth| depth.ready),
                consumers: depth.map(|depth| depth.consumers),
            });
        }
        self.inspector = Some(inspector);
        Ok(queues)
    }
}

pub(super) fn render(queues: &Queues) -> Markup {
    let number = |known: Option<u32>| known.map_or_else(|| UNKNOWN.to_owned(), count);
    panel(
        "queues",
        "Queues",
        match queues {
            Queues::Away(reason) => html! {
                p { (Mark::Bad) " RabbitMQ can't be asked: " (reason) }
            },
            Queues::Asked(queues) if queues.is_empty() => empty("There are no queues."),
            Queues::Asked(queues) => html! {
                div.scroll role="group" aria-label="Queues" tabindex="0" {
                    table {
                        thead { tr {
                            th scope="col" { "Queue" } th.number scope="col" { "Ready" }
                            th.number scope="col" { "Consumers" }
                        } }
                        tbody { @for queue in queues { tr {
                            th scope="row" {
                                @if queue.is_dead_letters && queue.ready.is_some_and(|ready| ready > 0) { (Mark::Bad) " " }
                                (queue.queue)
                            }
                            td.number { (number(queue.ready)) }
                            td.number { @if queue.is_dead_letters { "none needed" } @else { (number(queue.consumers)) } }
                        } } }
                    }
                }
                @if queues.iter().all(|queue| queue.ready.is_none()) {
                    p.note { "The queues are made when somebody first uses them." }
                }
            },
        },
    )
}
