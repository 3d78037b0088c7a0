//! Consumers of one queue of jobs, as many as there are workers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Servers;
use serde::Deserialize;
use shared::queue::{Consumer, Message, Publisher, Queue, Topology};
use shared::settings::{Broker, Vars};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Longest wait for the next message: all consumers connect within it.
const PATIENCE: Duration = Duration::from_mins(2);
/// Bytes of a message: about those of a job with its headers.
const MESSAGE_BYTES: usize = 300;

/// What was seen of the queue.
pub(crate) struct Drained {
    workers: usize,
    prefetch: u16,
    messages: usize,
    took: Duration,
    /// CPU of the broker in microseconds, from the first message published to the last acknowledged.
    broker_us: u64,
    broker_mb: u64,
    /// More than were published.
    again: usize,
}

/// A node, as the management tells of it.
#[derive(Deserialize)]
struct Node {
    os_pid: String,
    mem_used: u64,
}

/// Publishes messages to waiting consumers, each with connections of its own, until all are acknowledged.
pub(crate) async fn drain(
    servers: &Servers,
    workers: usize,
    prefetch: u16,
    messages: usize,
) -> Result<Drained> {
    let mut vars = Vars::from_pairs([("AMQP_URL", servers.amqp_url.as_str())]);
    let broker = Broker::read(&mut vars);
    let broker = vars.finish(broker)?;
    let topology = Topology::new(&format!("scale_{}_{workers}", std::process::id()));
    let publisher = Publisher::new(&broker, topology.clone(), "scale");
    // The queue is there before all declare it at once.
    publisher.ready(Queue::NormalJobs).await?;
    let (done, mut acknowledged) = mpsc::unbounded_channel();
    let mut consumers = Vec::new();
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let (consumer, [mut deliveries]) =
            Consumer::start(&broker, &topology, "scale", [Queue::NormalJobs], prefetch);
        consumers.push(consumer);
        let done = done.clone();
        tasks.spawn(async move {
            while let Some(delivery) = deliveries.recv().await {
                if delivery.ack().await.is_err() || done.send(()).is_err() {
                    return;
                }
            }
        });
    }
    let end = Instant::now() + PATIENCE;
    loop {
        // While a thousand connect at once it may not answer in time.
        let consumers = publisher.depth(Queue::NormalJobs).await.map(|depth| depth.consumers);
        if consumers.as_ref().is_ok_and(|consumers| usize::try_from(*consumers) == Ok(workers)) {
            break;
        }
        ensure!(Instant::now() < end, "{workers} consumers are awaited, there are {consumers:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (before, from) = (node().await?, Instant::now());
    let cpu_before = cpu_us(&before.os_pid)?;
    let sending = tokio::spawn({
        let publisher = publisher.clone();
        let messages: Vec<Message> = (0..messages)
            .map(|_| Message::To(Queue::NormalJobs, vec![b'x'; MESSAGE_BYTES]))
            .collect();
        async move { publisher.publish(&messages).await }
    });
    for left in (1..=messages).rev() {
        let next = tokio::time::timeout(PATIENCE, acknowledged.recv()).await;
        next.with_context(|| format!("{left} messages do not come"))?;
    }
    let took = from.elapsed();
    sending.await??;
    let node = node().await?;
    let broker_us = cpu_us(&node.os_pid)? - cpu_before;
    for consumer in consumers {
        consumer.close().await;
    }
    while tasks.join_next().await.is_some() {}
    drop(done);
    let mut again = 0;
    while acknowledged.recv().await.is_some() {
        again += 1;
    }
    for queue in Queue::ALL {
        publisher.delete(queue).await?;
    }
    let broker_mb = node.mem_used / 1_000_000;
    Ok(Drained { workers, prefetch, messages, took, broker_us, broker_mb, again })
}

/// The broker, which is on this machine.
async fn node() -> Result<Node> {
    let mut vars = Vars::from_environment();
    let url = vars.url("RABBITMQ_MANAGEMENT_URL", None, &["http", "https"]);
    let url = vars.finish(url)?;
    let nodes = format!("{}/api/nodes", url.as_str().trim_end_matches('/'));
    let answer = reqwest::get(nodes).await.and_then(reqwest::Response::error_for_status);
    let nodes: Vec<Node> = answer.map_err(reqwest::Error::without_url)?.json().await?;
    nodes.into_iter().next().context("the broker has no node")
}

/// CPU time of a process of this machine, in microseconds.
fn cpu_us(pid: &str) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} of the broker is not on this machine"))?;
    // After the name, which may hold blanks: state is the first, utime the 12th and stime the 13th.
    let (_, fields) = stat.rsplit_once(')').context("a line of /proc")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<u64, _>>()?;
    Ok(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}

impl Drained {
    /// Prints a line; whether every message came, and none twice.
    pub(crate) fn tell(&self) -> bool {
        let took_us = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX).max(1);
        let messages = u64::try_from(self.messages.max(1)).unwrap_or(u64::MAX);
        println!(
            "{:>16}  {:>8}  {:>10}  {:>17}  {:>8} ‰  {:>9}  {:>15}",
            self.workers,
            self.prefetch,
            messages * 1_000_000 / took_us,
            self.broker_us / messages,
            self.broker_us * 1000 / took_us,
            self.broker_mb,
            self.again,
        );
        self.again == 0
    }
}
