//! The queues as the broker counts them: exact and now by AMQP, and what is in the hands of consumers
//! by its management, which lags a few seconds.

use serde::Serialize;
use shared::queue::{Inspector, Queue};

use super::{QueueServer, Reading, Servers};

/// A queue now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueState {
    pub queue: String,
    #[serde(skip)]
    pub which: Queue,
    pub exists: bool,
    /// Messages that wait for a consumer. `None`: there is no such queue.
    pub ready: Option<u32>,
    pub consumers: Option<u32>,
    /// Messages in the hands of consumers. `None`: `RABBITMQ_MANAGEMENT_URL` is not set, or `unacked_away`.
    pub unacked: Option<u64>,
    /// Why the management did not tell.
    pub unacked_away: Option<String>,
}

/// All queues, dead letters last.
pub async fn read(servers: &Servers) -> Reading<Vec<QueueState>> {
    let Some(server) = &servers.queues else {
        return Reading::away("AMQP_URL is not set");
    };
    let reading = async {
        let inspector = server.connect("p2p").await?;
        let queues = list(&inspector, server).await;
        // What was read stays true if the good-bye fails.
        inspector.close().await.ok();
        queues
    };
    reading.await.into()
}

/// The same by a connection that stays.
pub async fn list(inspector: &Inspector, server: &QueueServer) -> anyhow::Result<Vec<QueueState>> {
    let mut queues = Vec::new();
    let in_order = Queue::ALL.into_iter().filter(|queue| *queue != Queue::Dead);
    for which in in_order.chain([Queue::Dead]) {
        let depth = inspector.depth(which).await?;
        let unacked = match &server.management {
            Some(management) if depth.is_some() => {
                Some(management.unacked(&server.topology, which).await)
            }
            _ => None,
        };
        let (unacked, unacked_away) = match unacked {
            None => (None, None),
            Some(Ok(count)) => (count, None),
            Some(Err(error)) => (None, Some(format!("{:#}", anyhow::Error::from(error)))),
        };
        queues.push(QueueState {
            queue: server.topology.queue(which),
            which,
            exists: depth.is_some(),
            ready: depth.map(|depth| depth.ready),
            consumers: depth.map(|depth| depth.consumers),
            unacked,
            unacked_away,
        });
    }
    Ok(queues)
}
