//! The suite's own client of the broker: it counts events and tampers with messages.

use std::collections::HashMap;

use anyhow::Result;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};

/// A message that was taken from a queue.
pub(super) type Message = (Vec<u8>, BasicProperties);

/// Connects for every call, since the broker may be restarted between any two.
pub(super) struct Broker {
    url: String,
    prefix: String,
}

impl Broker {
    pub(super) fn new(url: &str, prefix: &str) -> Self {
        Self { url: url.to_owned(), prefix: prefix.to_owned() }
    }

    async fn channel(&self) -> Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok((connection, channel))
    }

    fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.prefix)
    }

    /// Binds a queue of our own to the exchange for events.
    pub(super) async fn watch_events(&self) -> Result<()> {
        let (_connection, channel) = self.channel().await?;
        let (events, own) = (self.name("events"), self.name("chaos"));
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(
                events.clone().into(),
                ExchangeKind::Topic,
                durable,
                FieldTable::default(),
            )
            .await?;
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(own.clone().into(), durable, FieldTable::default()).await?;
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        Ok(channel.queue_bind(own.into(), events.into(), "#".into(), options, arguments).await?)
    }

    /// How often each batch was told to be closed, and deletes the queue.
    pub(super) async fn count_events(&self) -> Result<HashMap<String, usize>> {
        let mut counts = HashMap::new();
        for (body, _) in self.take("chaos", usize::MAX).await? {
            let event: serde_json::Value = serde_json::from_slice(&body)?;
            *counts.entry(event["batch_id"].to_string()).or_default() += 1;
        }
        self.delete("chaos").await?;
        Ok(counts)
    }

    /// Messages that wait in a queue.
    pub(super) async fn depth(&self, queue: &str) -> Result<u32> {
        let (_connection, channel) = self.channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let name = self.name(queue).into();
        let queue = channel.queue_declare(name, passive, FieldTable::default()).await?;
        Ok(queue.message_count())
    }

    pub(super) async fn purge(&self, queue: &str) -> Result<u32> {
        let (_connection, channel) = self.channel().await?;
        Ok(channel.queue_purge(self.name(queue).into(), QueuePurgeOptions::default()).await?)
    }

    pub(super) async fn delete(&self, queue: &str) -> Result<u32> {
        let (_connection, channel) = self.channel().await?;
        Ok(channel.queue_delete(self.name(queue).into(), QueueDeleteOptions::default()).await?)
    }

    /// Takes messages off a queue, at most so many.
    pub(super) async fn take(&self, queue: &str, most: usize) -> Result<Vec<Message>> {
        let (_connection, channel) = self.channel().await?;
        let mut taken = Vec::new();
        while taken.len() < most {
            let options = BasicGetOptions { no_ack: true };
            let Some(got) = channel.basic_get(self.name(queue).into(), options).await? else {
                break;
            };
            taken.push((got.delivery.data, got.delivery.properties));
        }
        Ok(taken)
    }

    /// Puts messages onto a queue, in order.
    pub(super) async fn put(&self, queue: &str, messages: &[Message]) -> Result<()> {
        let (_connection, channel) = self.channel().await?;
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        for (body, properties) in messages {
            let name = self.name(queue).into();
            channel
                .basic_publish("".into(), name, options, body, properties.clone())
                .await?
                .await?;
        }
        Ok(())
    }
}
