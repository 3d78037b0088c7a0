//! An answer onto the wire: headers, compression, and bodies that end too early, never, or don't
//! begin.

use std::convert::Infallible;
use std::future;
use std::io::{self, Write};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{self, StreamExt};

use crate::api::{Answer, Fault};

/// Pause between two bytes of a body that drips.
const DRIP: Duration = Duration::from_millis(100);
/// A piece of a body that never ends. Blanks are JSON so far.
const BLANKS: &[u8] = &[b' '; 64 * 1024];

/// Whether a client takes gzip.
#[must_use]
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|list| list.split(',').any(|coding| coding.trim().starts_with("gzip")))
}

/// The response, as soon as there is one. Endless ones end when the client closes the connection.
pub async fn respond(answer: Answer, gzip: bool) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    if let Some((name, value)) = answer.header
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        headers.insert(name, value);
    }
    let body = match answer.fault {
        Some(Fault::Hang) => future::pending().await,
        Some(Fault::Reset) => Body::from_stream(stream::once(future::ready(aborted()))),
        Some(Fault::Endless) => {
            Body::from_stream(stream::repeat(Ok::<_, Infallible>(Bytes::from_static(BLANKS))))
        }
        Some(Fault::Drip) => Body::from_stream(stream::unfold((), |()| async {
            tokio::time::sleep(DRIP).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
        })),
        Some(Fault::CutGzip) => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            let mut packed = pack(&answer.body);
            packed.truncate(packed.len() / 2);
            Body::from(packed)
        }
        Some(Fault::BrokenGzip) => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            let mut packed = pack(&answer.body);
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(packed.len()));
            packed.truncate(packed.len() / 2);
            let end = stream::once(async {
                // What was written before goes out first.
                tokio::task::yield_now().await;
                aborted()
            });
            Body::from_stream(stream::iter([Ok(Bytes::from(packed))]).chain(end))
        }
        _ if gzip && !answer.body.is_empty() => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Body::from(pack(&answer.body))
        }
        _ => Body::from(answer.body),
    };
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

/// A JSON answer that was packed before.
pub fn respond_packed(packed: Bytes) -> Response {
    let mut response = Response::new(Body::from(packed));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

/// The server closes a connection whose body fails; with the first piece, before it sent a byte.
fn aborted() -> io::Result<Bytes> {
    Err(io::Error::from(io::ErrorKind::ConnectionAborted))
}

/// A body as gzip.
///
/// # Panics
/// Never: memory takes everything.
#[must_use]
pub fn pack(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    let packed = encoder.write_all(body).and_then(|()| encoder.finish());
    packed.expect("a Vec takes everything")
}
