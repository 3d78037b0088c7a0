//! How to get a connection, for consumers, publishers and inspectors alike.

use std::time::Duration;

use deadpool::managed;
use deadpool::managed::{Metrics, RecycleError, RecycleResult};
use lapin::{Connection, ConnectionProperties};

use super::{CONNECT_TIMEOUT, QueueError, answer};
use crate::settings::Broker;

/// A new connection, which the broker shows under `name`.
pub(super) async fn connect(broker: &Broker, name: &str) -> Result<Connection, QueueError> {
    answer(CONNECT_TIMEOUT, open(broker, name)).await
}

async fn open(broker: &Broker, name: &str) -> Result<Connection, lapin::Error> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connect_with_config(broker.url.as_str(), properties, broker.tls.amqp(), runtime)
        .await
}

/// Connections of a publisher, kept by a pool.
pub(super) type Pool = managed::Pool<Connections>;
pub(super) type Object = managed::Object<Connections>;
pub(super) type PoolError = managed::PoolError<lapin::Error>;

/// Makes the connections of a pool. (Those of `deadpool-lapin` can't be told whom to trust.)
#[derive(Debug)]
pub(super) struct Connections {
    broker: Broker,
    name: String,
}

impl Connections {
    /// A pool of at most `size` connections, each made when it is first needed.
    ///
    /// # Panics
    /// Never: a pool is built with a runtime, which is all that its builder checks.
    pub(super) fn pool(
        broker: &Broker,
        name: &str,
        size: usize,
        limits: (Duration, Duration),
    ) -> Pool {
        let (connect, recycle) = limits;
        let connections = Self { broker: broker.clone(), name: name.to_owned() };
        managed::Pool::builder(connections)
            .max_size(size)
            .wait_timeout(Some(connect))
            .create_timeout(Some(connect))
            .recycle_timeout(Some(recycle))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .expect("a runtime is given")
    }
}

impl managed::Manager for Connections {
    type Type = Connection;
    type Error = lapin::Error;

    async fn create(&self) -> Result<Connection, lapin::Error> {
        open(&self.broker, &self.name).await
    }

    async fn recycle(
        &self,
        connection: &mut Connection,
        _: &Metrics,
    ) -> RecycleResult<lapin::Error> {
        if connection.status().connected() {
            Ok(())
        } else {
            Err(RecycleError::message("the connection is gone"))
        }
    }
}
