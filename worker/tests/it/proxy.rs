//! A way to a server that can be cut.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            // Connections end with the set, so that a cut cuts those that are open too.
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                let target = target.clone();
                connections.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(target).await {
                        copy_bidirectional(&mut from, &mut to).await.ok();
                    }
                });
            }
        });
        Self { address, task }
    }

    pub(crate) async fn cut(self) {
        self.task.abort();
        self.task.await.unwrap_err();
    }
}
