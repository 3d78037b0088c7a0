//! A link to a server, which can be cut while programs use it.

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

/// A link to a server that can be cut.
pub struct Link {
    /// Of the server, through this.
    pub url: String,
    is_cut: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Link {
    pub async fn to(url: &str) -> Result<Self> {
        let mut url = Url::parse(url)?;
        let target =
            format!("{}:{}", url.host_str().context("a host")?, url.port().context("a port")?);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        url.set_port(Some(listener.local_addr()?.port())).ok().context("a port")?;
        let (is_cut, state) = watch::channel(false);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let (target, mut state) = (target.clone(), state.clone());
                connections.spawn(async move {
                    let forward = async {
                        let mut server = TcpStream::connect(target).await?;
                        copy_bidirectional(&mut client, &mut server).await
                    };
                    tokio::select! {
                        _ = forward => {}
                        _ = state.wait_for(|is_cut| *is_cut) => {}
                    }
                });
            }
        });
        Ok(Self { url: url.to_string(), is_cut, _accepting: accepting })
    }

    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub fn heal(&self) {
        self.is_cut.send_replace(false);
    }
}
