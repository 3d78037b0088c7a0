//! Messages that nobody can work on.

use std::time::Duration;

use shared::queue::{Consumer, Message, Publisher, Queue};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::exchange::{Exchange, answer};
use crate::{settings, unique};

/// What can't be read goes to the dead letters, and the worker goes on; what the ledger does not
/// know is dropped without a request.
#[sqlx::test(migrations = "../migrations")]
async fn poison_goes_to_the_dead_letters(pool: PgPool) {
    shared::service::install_tls_provider();
    let exchange = Exchange::start(answer("200 OK", "", b"{}")).await;
    let database_url = {
        use sqlx::ConnectOptions;
        pool.connect_options().to_url_lossy().to_string()
    };
    let prefix = unique("poison");
    let settings = settings(&[
        ("DATABASE_URL", &database_url),
        ("AMQP_PREFIX", &prefix),
        ("BINANCE_BASE_URL", &exchange.url),
    ]);
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(worker::run(settings.clone(), shutdown.clone()));
    let publisher = Publisher::new(&settings.broker, settings.topology.clone(), "test");
    let unknown = br#"{"version":1,"exchange":"binance","batch_id":1,"ordinal":0,"issue":1,
        "expires_at":"2100-01-01T00:00:00Z","work":{"kind":"fiat_list"}}"#;
    let newer = br#"{"version":2,"exchange":"binance","batch_id":1,"ordinal":0,"issue":1,
        "expires_at":"2100-01-01T00:00:00Z","work":{"kind":"fiat_list"}}"#;
    let messages = [&unknown[..], b"no job at all", &newer[..]]
        .map(|body| Message::To(Queue::UrgentJobs, body.to_vec()));
    publisher.publish(&messages).await.unwrap();
    let (consumer, [mut dead]) =
        Consumer::start(&settings.broker, &settings.topology, "test", [Queue::Dead], 10);
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let letter =
            tokio::time::timeout(Duration::from_secs(30), dead.recv()).await.unwrap().unwrap();
        letter.ack().await.unwrap();
        bodies.push(letter.body);
    }
    bodies.sort();
    assert_eq!(bodies, [b"no job at all".to_vec(), newer.to_vec()]);
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    consumer.close().await;
    assert_eq!(exchange.connections(), 0, "nothing was asked for");
}
