//! The broker. Nothing outside this folder names `lapin`.
//!
//! No automatic recovery of the client library: sessions were seen to hang in it. Instead
//! [`consumer`] supervises itself (connect, declare, consume until any error, pause, again), and
//! [`publisher`] says of every message whether the broker has it. Every wait has a limit.

mod connect;
mod consumer;
mod inspect;
mod management;
mod publisher;
mod topology;
mod trace;

use std::time::Duration;

pub use consumer::{Consumer, Delivery};
pub use inspect::{DeadLetter, Declared, Depth, Inspector, Requeued};
pub use management::{Management, ManagementError};
pub use publisher::{Message, PublishError, Publisher};
pub use topology::{Permissions, Queue, Role, Topology};

/// Longest wait for a connection and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for any single answer of the broker, confirms included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Something the broker did not do.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("the broker can't be reached")]
    Broker(#[from] lapin::Error),
    #[error("the broker did not answer within {0:?}")]
    Silent(Duration),
    #[error("the broker cancelled the consumer: its queue is gone")]
    Cancelled,
}

/// An answer of the broker, or an error when it takes too long.
async fn answer<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, QueueError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(QueueError::Silent(limit)),
    }
}
