//! A link between one process and one server: a TCP proxy that can be cut, silenced and slowed, and
//! that stops at an exact message.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::wire::{Direction, Moment, Server, Session};

/// Most bytes that are looked at at once.
const CHUNK: usize = 16 * 1024;

/// Where a message is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Before it is forwarded.
    Before,
    /// After it was.
    After,
}

/// What is waited for on a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trigger {
    pub(super) moment: Moment,
    /// Which occurrence, from 1.
    pub(super) nth: u32,
    pub(super) side: Side,
}

/// The message came. Until this is let go or dropped nothing more passes in its direction of its
/// connection; dropped, the connection ends.
#[derive(Debug)]
pub(super) struct Hit(oneshot::Sender<()>);

impl Hit {
    pub(super) fn let_go(self) {
        // The connection may have ended meanwhile.
        self.0.send(()).ok();
    }
}

struct Armed {
    trigger: Trigger,
    seen: u32,
    hit: oneshot::Sender<Hit>,
}

/// The state of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Open,
    /// Connections end and new ones are refused.
    Cut,
    /// Nothing passes, and nobody is told.
    Silent,
    /// Every chunk takes this long, in each direction.
    Slow(Duration),
}

/// A proxy; it ends with its owner.
pub(super) struct Link {
    pub(super) address: SocketAddr,
    pub(super) server: Server,
    network: watch::Sender<Network>,
    armed: Arc<Mutex<Option<Armed>>>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Listens on a free port and forwards to `target`, a host with a port.
    pub(super) async fn start(server: Server, target: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for a link")?;
        let address = listener.local_addr()?;
        let (network, state) = watch::channel(Network::Open);
        let armed = Arc::new(Mutex::new(None));
        let accepting = accept(listener, server, target, state, Arc::clone(&armed));
        Ok(Self { address, server, network, armed, task: tokio::spawn(accepting) })
    }

    /// Stops at a message. One trigger at a time: a second replaces the first.
    pub(super) fn arm(&self, trigger: Trigger) -> oneshot::Receiver<Hit> {
        let (hit, receiver) = oneshot::channel();
        let armed = Armed { trigger, seen: 0, hit };
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(armed);
        receiver
    }

    pub(super) fn cut(&self) {
        self.network.send_replace(Network::Cut);
    }

    pub(super) fn silence(&self) {
        self.network.send_replace(Network::Silent);
    }

    pub(super) fn slow(&self, delay: Duration) {
        self.network.send_replace(Network::Slow(delay));
    }

    pub(super) fn heal(&self) {
        self.network.send_replace(Network::Open);
    }
}

async fn accept(
    listener: TcpListener,
    server: Server,
    target: String,
    network: watch::Receiver<Network>,
    armed: Arc<Mutex<Option<Armed>>>,
) {
    // With the set all connections end.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if *network.borrow() == Network::Cut {
            continue;
        }
        let (target, network, armed) = (target.clone(), network.clone(), Arc::clone(&armed));
        connections.spawn(async move {
            let Ok(upstream) = TcpStream::connect(target).await else { return };
            connect(client, upstream, server, network, armed).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Forwards until either end, the network or a trigger ends the connection.
async fn connect(
    client: TcpStream,
    upstream: TcpStream,
    server: Server,
    mut network: watch::Receiver<Network>,
    armed: Arc<Mutex<Option<Armed>>>,
) {
    drop((client.set_nodelay(true), upstream.set_nodelay(true)));
    let session = Arc::new(Mutex::new(Session::new(server)));
    let ((client_from, client_to), (upstream_from, upstream_to)) =
        (client.into_split(), upstream.into_split());
    let pump = |direction, from, to| {
        let (network, armed) = (network.clone(), Arc::clone(&armed));
        Pump { direction, from, to, network, armed, session: Arc::clone(&session) }
    };
    let mut up = pump(Direction::Up, client_from, upstream_to);
    let mut down = pump(Direction::Down, upstream_from, client_to);
    tokio::select! {
        _ = up.run() => {}
        _ = down.run() => {}
        _ = network.wait_for(|network| *network == Network::Cut) => {}
    }
}

struct Pump {
    direction: Direction,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    network: watch::Receiver<Network>,
    armed: Arc<Mutex<Option<Armed>>>,
    session: Arc<Mutex<Session>>,
}

impl Pump {
    async fn run(&mut self) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = self.from.read(&mut buffer).await?;
            self.pass().await?;
            if length == 0 {
                return Ok(());
            }
            self.forward(&buffer[..length]).await?;
        }
    }

    /// Waits as the network makes everything wait.
    async fn pass(&mut self) -> Result<()> {
        let network = *self.network.wait_for(|network| *network != Network::Silent).await?;
        if let Network::Slow(delay) = network {
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }

    async fn forward(&mut self, bytes: &[u8]) -> Result<()> {
        let seen =
            self.session.lock().unwrap_or_else(PoisonError::into_inner).look(self.direction, bytes);
        let mut sent = 0;
        for seen in seen {
            let Some(armed) = self.take_if_hit(seen.moment) else { continue };
            let until = if armed.trigger.side == Side::Before { seen.start } else { seen.end };
            self.to.write_all(&bytes[sent..until]).await?;
            sent = until;
            let (go, gone) = oneshot::channel();
            armed.hit.send(Hit(go)).ok().context("nobody waits for the message any more")?;
            gone.await?;
        }
        Ok(self.to.write_all(&bytes[sent..]).await?)
    }

    fn take_if_hit(&self, moment: Moment) -> Option<Armed> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = armed.as_mut().filter(|armed| armed.trigger.moment == moment)?;
        waiting.seen += 1;
        if waiting.seen < waiting.trigger.nth {
            return None;
        }
        armed.take()
    }
}
