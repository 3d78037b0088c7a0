//! The management of `RabbitMQ`, which alone knows what is in the hands of consumers. It lags some seconds.

use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use shared::queue::{Queue, Topology};
use shared::settings::{Broker, BrokerManagement};
use url::Url;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(3);

pub struct Management {
    client: reqwest::Client,
    /// Of the queues of the virtual host; a path follows.
    queues: String,
}

#[derive(Deserialize)]
struct ManagedQueue {
    /// Not there in the first seconds of a queue.
    messages_unacknowledged: Option<u32>,
}

impl Management {
    pub fn new(settings: &BrokerManagement, broker: &Broker) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .context("the client of RABBITMQ_MANAGEMENT_URL can't be made")?;
        let base = settings.url.as_str().trim_end_matches('/');
        Ok(Self { client, queues: format!("{base}/api/queues/{}", vhost(&broker.url)) })
    }

    /// Messages of a queue that some consumer has and did not acknowledge; `None`: not known yet.
    pub async fn unacked(
        &self,
        topology: &Topology,
        queue: Queue,
    ) -> Result<Option<u32>, reqwest::Error> {
        let url = format!("{}/{}", self.queues, topology.queue(queue));
        let asked = async {
            let answer = self.client.get(url).send().await?.error_for_status()?;
            answer.json::<ManagedQueue>().await
        };
        // With the URL the error would show the password.
        let queue = asked.await.map_err(reqwest::Error::without_url)?;
        Ok(queue.messages_unacknowledged)
    }
}

/// The virtual host, escaped as the management wants it.
fn vhost(broker: &Url) -> &str {
    match broker.path().trim_start_matches('/') {
        "" => "%2f",
        vhost => vhost,
    }
}
