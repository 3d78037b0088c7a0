//! The management of `RabbitMQ`, which alone knows what is in the hands of consumers. It lags some seconds.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::{Permissions, Queue, Topology};
use crate::settings::{Vars, redacted};
use crate::tls::Tls;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The management at `RABBITMQ_MANAGEMENT_URL`.
#[derive(Clone)]
pub struct Management {
    url: Url,
    /// One for all requests, for it keeps its connections.
    client: reqwest::Client,
    /// Name of the virtual host, escaped for a path.
    vhost: String,
}

/// The management does not tell. Without its URL, which may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("the broker's management does not tell")]
pub struct ManagementError(#[source] reqwest::Error);

#[derive(Deserialize)]
struct ManagedQueue {
    /// Not there in the first seconds of a queue.
    messages_unacknowledged: Option<u64>,
}

#[derive(Deserialize)]
struct Overview {
    rabbitmq_version: String,
}

#[derive(Deserialize)]
struct Node {
    /// Not there in the first seconds of a node.
    os_pid: Option<String>,
}

impl Management {
    /// Of the virtual host that the URL of a broker names. `None`: it is not set, or a problem was noted.
    pub fn read(vars: &mut Vars, broker: &Url) -> Option<Self> {
        const NAME: &str = "RABBITMQ_MANAGEMENT_URL";
        vars.optional(NAME)?;
        let url = vars.url(NAME, None, &["http", "https"]);
        // Without one no client can be made.
        crate::service::install_tls_provider();
        let own = Tls::read(vars);
        let own = own.authorities().unwrap_or_default();
        // What is no certificate was noted.
        let own = reqwest::Certificate::from_pem_bundle(own).unwrap_or_default();
        let client = reqwest::Client::builder()
            .tls_certs_merge(own)
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build();
        match client {
            Ok(client) => Some(Self { url, client, vhost: vhost(broker).to_owned() }),
            Err(error) => {
                vars.problem(format!("{NAME}: {}", error.without_url()));
                None
            }
        }
    }

    /// Messages of a queue that some consumer has and did not acknowledge; `None`: not known yet.
    pub async fn unacked(
        &self,
        topology: &Topology,
        queue: Queue,
    ) -> Result<Option<u64>, ManagementError> {
        let path = format!("queues/{}/{}", self.vhost, topology.queue(queue));
        let queue: ManagedQueue = self.get(&path).await?;
        Ok(queue.messages_unacknowledged)
    }

    /// What a user may do in the virtual host; an error also if the management tells it to administrators only.
    /// `user` is escaped as in a URL.
    pub async fn permissions(&self, user: &str) -> Result<Permissions, ManagementError> {
        self.get(&format!("permissions/{}/{user}", self.vhost)).await
    }

    /// Version of the broker.
    pub async fn version(&self) -> Result<String, ManagementError> {
        let overview: Overview = self.get("overview").await?;
        Ok(overview.rabbitmq_version)
    }

    /// Process of each node on its machine, as text; `None`: not known yet.
    pub async fn processes(&self) -> Result<Vec<Option<String>>, ManagementError> {
        let nodes: Vec<Node> = self.get("nodes").await?;
        Ok(nodes.into_iter().map(|node| node.os_pid).collect())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ManagementError> {
        let base = self.url.as_str().trim_end_matches('/');
        let asked = async {
            let answer = self.client.get(format!("{base}/api/{path}")).send().await?;
            answer.error_for_status()?.json().await
        };
        let asked: Result<T, reqwest::Error> = asked.await;
        asked.map_err(|error| ManagementError(error.without_url()))
    }
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.url))
    }
}

/// The virtual host, escaped as the management wants it: as the path of an AMQP URL has it.
fn vhost(broker: &Url) -> &str {
    match broker.path().trim_start_matches('/') {
        "" => "%2f",
        vhost => vhost,
    }
}
