//! An exchange that answers every connection with the same bytes, however broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the exchange does on a connection.
#[derive(Clone)]
pub(crate) enum Script {
    /// Sends these bytes and closes.
    Bytes(Vec<u8>),
    /// Sends a head and then a body without end.
    Endless,
    /// Sends a head and then a byte now and then, for ever.
    Drip,
}

pub(crate) struct Exchange {
    pub(crate) url: String,
    connections: Arc<AtomicU32>,
}

impl Exchange {
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_each(vec![script]).await
    }

    /// Each connection has the next script, and those after the last have it too.
    pub(crate) async fn start_each(scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::Relaxed) as usize;
                tokio::spawn(serve(stream, scripts[number.min(scripts.len() - 1)].clone()));
            }
        });
        Self { url, connections }
    }

    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// An answer with this status line, these headers and this body.
pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Script {
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    Script::Bytes([head.as_bytes(), body].concat())
}

async fn serve(mut stream: TcpStream, script: Script) {
    let mut request = [0; 4096];
    if stream.read(&mut request).await.is_err() {
        return;
    }
    let endless = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    match script {
        Script::Bytes(bytes) => {
            // The client may hang up before the end, and that is what some tests are about.
            stream.write_all(&bytes).await.ok();
        }
        Script::Endless => {
            stream.write_all(endless).await.ok();
            let block = vec![b' '; 65536];
            while stream.write_all(&block).await.is_ok() {}
        }
        Script::Drip => {
            stream.write_all(endless).await.ok();
            while stream.write_all(b" ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
