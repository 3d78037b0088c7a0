//! The queues as the broker counts them: exact and now by AMQP, and what is in the hands of consumers
//! by its management, which lags a few seconds.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use shared::queue::{Inspector, Queue};

use super::{Management, QueueServer, Reading, Servers};

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
            Some(management) if depth.is_some() => Some(unacked(management, server, which).await),
            _ => None,
        };
        let (unacked, unacked_away) = match unacked {
            None => (None, None),
            Some(Ok(count)) => (count, None),
            Some(Err(error)) => (None, Some(format!("{error:#}"))),
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

#[derive(Deserialize)]
struct ManagedQueue {
    /// Not there in the first seconds of a queue.
    messages_unacknowledged: Option<u64>,
}

#[derive(Deserialize)]
struct Overview {
    rabbitmq_version: String,
}

async fn unacked(
    management: &Management,
    server: &QueueServer,
    queue: Queue,
) -> anyhow::Result<Option<u64>> {
    // The path of an AMQP URL is the virtual host, escaped as the management wants it.
    let vhost = match server.broker.url.path().trim_start_matches('/') {
        "" => "%2f",
        vhost => vhost,
    };
    let path = format!("api/queues/{vhost}/{}", server.topology.queue(queue));
    let queue: ManagedQueue = get(management, &path).await?;
    Ok(queue.messages_unacknowledged)
}

/// Version of the broker.
pub async fn version(management: &Management) -> anyhow::Result<String> {
    let overview: Overview = get(management, "api/overview").await?;
    Ok(overview.rabbitmq_version)
}

async fn get<T: serde::de::DeserializeOwned>(
    management: &Management,
    path: &str,
) -> anyhow::Result<T> {
    let base = management.url.as_str().trim_end_matches('/');
    // Errors of the client name the URL, which may hold a password.
    let answer = management.client.get(format!("{base}/{path}")).send().await;
    let answer = answer.and_then(reqwest::Response::error_for_status);
    let answer = match answer {
        Ok(answer) => answer.json().await,
        Err(error) => Err(error),
    };
    answer.map_err(reqwest::Error::without_url).context("the broker's management")
}
