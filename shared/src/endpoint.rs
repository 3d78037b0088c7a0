//! What a process serves to people and to their tools: metrics and health, the status page.
//!
//! On this machine to everybody; elsewhere to who has the token ([`Access`]). Bounded against clients that are
//! slow or many ([`serve`]), for market data is worth more than figures about it.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::settings::Vars;

/// Connections of one port at once; more are closed unheard.
const MAX_CONNECTIONS: usize = 128;
/// Longest wait for the head of a request, from the moment when there could be one.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Largest head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Headers of a request.
const MAX_HEADERS: usize = 64;
/// Time that what is under way gets when a connection has lived for as long as it may.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// Pause after a connection could not be taken, for want of files mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Fewest characters of a token: what `openssl rand -hex 8` gives.
const MIN_TOKEN_CHARS: usize = 16;
/// Most of them: it has to fit into the head of a request.
const MAX_TOKEN_CHARS: usize = 1024;
/// Value of `OPS_TOKEN` that says: whoever reaches the port may read.
const OPEN: &str = "none";

/// An address to serve at: the settings `host` and `port`. `None`: nowhere, for the port is 0 or the
/// address is none.
pub fn read_address(
    vars: &mut Vars,
    (host, default_host): (&str, &str),
    (port, default_port): (&str, u16),
    allowed: std::ops::RangeInclusive<u16>,
) -> Option<SocketAddr> {
    let port = vars.number(port, default_port, allowed);
    let host = vars.address(host, default_host)?;
    (port != 0).then_some(SocketAddr::new(host, port))
}

/// Who may read: `OPS_TOKEN`.
#[derive(Clone, Default)]
pub struct Access(Option<Arc<str>>);

/// What a header can carry, and nobody guesses.
fn is_token(text: &str) -> bool {
    (MIN_TOKEN_CHARS..=MAX_TOKEN_CHARS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl Access {
    /// Everybody who reaches the port.
    #[must_use]
    pub fn open() -> Self {
        Self(None)
    }

    /// Who has the token.
    #[must_use]
    pub fn by(token: &str) -> Self {
        Self(Some(token.into()))
    }

    /// `address` is where is served, by the setting `host`. A port that others than this machine can reach
    /// needs a token, or the word that it needs none.
    pub fn read(vars: &mut Vars, host: &str, address: Option<SocketAddr>) -> Self {
        const NAME: &str = "OPS_TOKEN";
        let is_exposed = address.filter(|address| !address.ip().is_loopback());
        // A file of a secret may end with a line break.
        match vars.optional(NAME).map(|token| token.trim().to_owned()) {
            Some(token) if token == OPEN => Self::open(),
            Some(token) if is_token(&token) => Self::by(&token),
            Some(_) => {
                vars.problem(format!(
                    "{NAME}: allowed are {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} characters of ASCII without blanks, or {OPEN}"
                ));
                Self::open()
            }
            None => {
                if let Some(address) = is_exposed {
                    vars.problem(format!(
                        "{NAME} is not set, and {host}={} can be reached from elsewhere: needed is a token, or {OPEN} where the network lets only those through who may read",
                        address.ip()
                    ));
                }
                Self::open()
            }
        }
    }

    /// Whether a request may be answered: `Authorization: Bearer TOKEN`, or `Basic` with the token as
    /// password, which browsers ask for.
    #[must_use]
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.0 else { return true };
        let Some(given) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let Some((scheme, credentials)) = given.split_once(' ') else { return false };
        let given = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(credentials.trim().as_bytes().to_vec()),
            "basic" => BASE64_STANDARD.decode(credentials.trim()).ok().and_then(|pair| {
                let colon = pair.iter().position(|byte| *byte == b':')?;
                Some(pair[colon + 1..].to_vec())
            }),
            _ => None,
        };
        // Takes as long whatever the first character is that differs.
        given.is_some_and(|given| given.ct_eq(token.as_bytes()).into())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "by token" } else { "open" })
    }
}

/// Middleware that answers only whom `access` admits.
pub async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    if access.admits(request.headers()) {
        return next.run(request).await;
    }
    let asks = [(WWW_AUTHENTICATE, "Basic realm=\"p2p\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, asks, "the token of OPS_TOKEN is needed\n").into_response()
}

/// Serves until it is dropped; each connection for at most `lifetime`.
pub async fn serve(listener: TcpListener, app: Router, lifetime: Duration) -> Infallible {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        let app = app.clone();
        tokio::spawn(async move {
            serve_one(stream, app, lifetime).await;
            drop(place);
        });
    }
}

async fn serve_one(stream: TcpStream, app: Router, lifetime: Duration) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = tokio::time::sleep(lifetime) => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_ANSWER, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_the_token_opens() {
        let access = Access::by("correct-horse-battery");
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        for good in [
            "Bearer correct-horse-battery".to_owned(),
            "bearer correct-horse-battery".to_owned(),
            basic("anybody:correct-horse-battery"),
            basic(":correct-horse-battery"),
        ] {
            assert!(access.admits(&headers(&good)), "{good}");
        }
        for bad in [
            "Bearer correct-horse-batterx".to_owned(),
            "Bearer correct-horse".to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            "correct-horse-battery".to_owned(),
            "Digest correct-horse-battery".to_owned(),
            "Basic correct-horse-battery".to_owned(),
            basic("correct-horse-battery"),
            basic("correct-horse-battery:"),
        ] {
            assert!(!access.admits(&headers(&bad)), "{bad}");
        }
        assert!(!access.admits(&HeaderMap::new()));
        assert!(Access::open().admits(&HeaderMap::new()));
    }

    #[test]
    fn a_port_that_others_reach_needs_a_token_or_a_word() {
        let read = |token: &'static str, address: &str| {
            let mut vars = Vars::from_pairs([("OPS_TOKEN", token)]);
            let access = Access::read(&mut vars, "STATUS_HOST", Some(address.parse().unwrap()));
            vars.finish(format!("{access:?}")).map_err(|error| error.to_string())
        };
        assert_eq!(read("", "127.0.0.1:80").unwrap(), "open");
        assert_eq!(read("0123456789abcdef", "127.0.0.1:80").unwrap(), "by token");
        assert_eq!(read("0123456789abcdef", "0.0.0.0:80").unwrap(), "by token");
        assert_eq!(read("none", "0.0.0.0:80").unwrap(), "open");
        assert_eq!(read("0123456789abcdef\n", "0.0.0.0:80").unwrap(), "by token", "of a file");
        for bad in ["geheim 0123456789abcdef", "geheim\u{e9}0123456789abcdef"] {
            assert!(!read(bad, "127.0.0.1:80").unwrap_err().contains("geheim"));
        }
        let error = read("", "10.0.0.1:80").unwrap_err();
        assert!(error.contains("STATUS_HOST=10.0.0.1") && error.contains("OPS_TOKEN"), "{error}");
        let error = read("geheim", "127.0.0.1:80").unwrap_err();
        assert!(error.contains("16 to") && !error.contains("geheim"), "{error}");
    }

    async fn served(lifetime: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/", get(|| async { "here" }));
        tokio::spawn(serve(listener, app, lifetime));
        address
    }

    /// All that the server says until it closes the connection.
    async fn told(stream: &mut TcpStream) -> String {
        let mut told = Vec::new();
        // A reset is an end, too.
        stream.read_to_end(&mut told).await.ok();
        String::from_utf8_lossy(&told).into_owned()
    }

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_with_a_request_is_cut_off() {
        let address = served(Duration::from_hours(1)).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
        let told = tokio::time::timeout(HEAD_LIMIT * 3, told(&mut slow)).await;
        assert!(!told.expect("the connection is kept").contains("200 OK"));
    }

    #[tokio::test]
    async fn a_connection_lives_for_a_while() {
        let address = served(Duration::from_millis(50)).await;
        let mut kept = TcpStream::connect(address).await.unwrap();
        kept.write_all(ASK).await.unwrap();
        let told = tokio::time::timeout(HEAD_LIMIT / 2, told(&mut kept)).await;
        assert!(told.expect("the connection is kept").contains("here"));
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let address = served(Duration::from_hours(1)).await;
        let mut large = TcpStream::connect(address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD_BYTES));
        // It may be cut off before it has said all.
        large.write_all(head.as_bytes()).await.ok();
        assert!(!told(&mut large).await.contains("200 OK"));
    }

    #[tokio::test]
    async fn more_clients_than_there_are_places_are_turned_away() {
        let address = served(Duration::from_hours(1)).await;
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(ASK).await.unwrap();
            let mut byte = [0];
            client.read_exact(&mut byte).await.unwrap();
            held.push(client);
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(ASK).await.ok();
        assert_eq!(told(&mut late).await, "");
        drop(held);
        // A place is free as soon as its client is gone.
        loop {
            let mut next = TcpStream::connect(address).await.unwrap();
            let ask = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            next.write_all(ask).await.ok();
            if told(&mut next).await.contains("here") {
                break;
            }
        }
    }
}
