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

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] = b"POST /bapi/search";

    async fn reads(stream: &mut TcpStream, text: &[u8]) {
        let mut bytes = vec![0; text.len()];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, text);
    }

    /// Goal: the second request is held before its first byte until it is let go, or ends with the
    /// connection if it is not.
    #[tokio::test]
    async fn a_message_is_held_and_let_go_or_dropped() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let link = Link::start(Server::Exchange, target).await.unwrap();
        let trigger = Trigger { moment: Moment::Request, nth: 2, side: Side::Before };
        for is_let_go in [true, false] {
            let hit = link.arm(trigger);
            let mut client = TcpStream::connect(link.address).await.unwrap();
            let (mut far_end, _) = listener.accept().await.unwrap();
            client.write_all(REQUEST).await.unwrap();
            reads(&mut far_end, REQUEST).await;
            client.write_all(REQUEST).await.unwrap();
            let hit = hit.await.unwrap();
            let held = far_end.try_read(&mut [0; 1]).unwrap_err();
            assert_eq!(held.kind(), std::io::ErrorKind::WouldBlock);
            if is_let_go {
                hit.let_go();
                reads(&mut far_end, REQUEST).await;
            } else {
                drop(hit);
                assert_eq!(far_end.read(&mut [0; 1]).await.unwrap(), 0);
            }
        }
    }

    /// Goal: what is cut is told at once; what is silent passes again when it is healed.
    #[tokio::test]
    async fn a_link_is_cut_silenced_and_healed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let link = Link::start(Server::Exchange, target).await.unwrap();
        let mut client = TcpStream::connect(link.address).await.unwrap();
        let (mut far_end, _) = listener.accept().await.unwrap();
        client.write_all(b"1").await.unwrap();
        reads(&mut far_end, b"1").await;
        link.silence();
        client.write_all(b"2").await.unwrap();
        link.heal();
        reads(&mut far_end, b"2").await;
        link.cut();
        assert_eq!(far_end.read(&mut [0; 1]).await.unwrap(), 0);
        let mut refused = TcpStream::connect(link.address).await.unwrap();
        assert_eq!(refused.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
