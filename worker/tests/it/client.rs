//! Every kind of answer is classed, and none can hang or flood the worker.

use std::io::Write;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use shared::exchange::binance::{Request, request};
use shared::job::{Failure, Work};
use tokio_util::sync::CancellationToken;
use worker::client::{Answer, Client, FetchError};
use worker::rate_limit::{Class, Limiter};
use worker::settings::Settings;
use worker::store::archive::Archive;

use crate::exchange::{Exchange, Script, answer};
use crate::settings;

async fn fetch(script: Script) -> Result<Answer, FetchError> {
    let exchange = Exchange::start(script).await;
    fetch_from(&exchange.url).await
}

async fn fetch_from(url: &str) -> Result<Answer, FetchError> {
    fetch_with(&[("BINANCE_BASE_URL", url)]).await
}

async fn fetch_with(more: &[(&str, &str)]) -> Result<Answer, FetchError> {
    shared::service::install_tls_provider();
    let settings = settings(&[more, &[("REQUEST_TIMEOUT_SECONDS", "1")]].concat());
    fetch_by(&Client::new(&settings).unwrap(), &settings).await
}

async fn fetch_by(client: &Client, settings: &Settings) -> Result<Answer, FetchError> {
    let limiter = Limiter::new(settings).unwrap();
    let deadline = Utc::now() + TimeDelta::seconds(10);
    let permit = limiter.acquire(Class::Normal, deadline, &CancellationToken::new()).await.unwrap();
    let request: Request = request(&Work::FiatList);
    client.fetch(permit, request).await
}

/// Each body is its own, whatever the one before was: longer, cut, or of more than a buffer has room for.
#[tokio::test]
async fn bodies_of_one_client_do_not_mix() {
    shared::service::install_tls_provider();
    let body = |letter: &str, bytes: usize| format!("[\"{}\"]", letter.repeat(bytes)).into_bytes();
    let cut = Script::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n[\"cut".to_vec());
    let (long, short, huge) = (body("a", 50_000), body("b", 3), body("c", 300_000));
    let expected = [Some(&long), Some(&short), None, Some(&short), Some(&huge), Some(&long)];
    let script =
        |body: Option<&Vec<u8>>| body.map_or(cut.clone(), |body| answer("200 OK", "", body));
    let exchange = Exchange::start_each(expected.into_iter().map(script).collect()).await;
    let settings =
        settings(&[("BINANCE_BASE_URL", &exchange.url), ("REQUEST_TIMEOUT_SECONDS", "5")]);
    let (client, archive) = (Client::new(&settings).unwrap(), Archive::new().unwrap());
    for (number, body) in expected.into_iter().enumerate() {
        let answer = fetch_by(&client, &settings).await.ok();
        assert!(answer.as_ref().map(Answer::body) == body.map(Vec::as_slice), "answer {number}");
        // With that its buffer is free for the next one.
        answer.map(|answer| archive.pack(&Work::FiatList, answer));
    }
}

#[tokio::test]
async fn a_body_comes_through() {
    let answer =
        fetch(answer("200 OK", "content-type: application/json\r\n", b"{}")).await.unwrap();
    assert_eq!(answer.body(), b"{}");
}

#[tokio::test]
async fn refusals_tell_how_long_to_wait() {
    for (status, headers, wait) in [
        ("429 Too Many Requests", "retry-after: 7\r\n", Some(Duration::from_secs(7))),
        ("418 I'm a teapot", "", None),
        ("403 Forbidden", "content-type: text/html\r\n", None),
        // The exchange's firewall, by which nothing gets through either.
        ("202 Accepted", "x-amzn-waf-action: challenge\r\n", None),
        ("405 Method Not Allowed", "x-amzn-waf-action: captcha\r\n", None),
    ] {
        let error = fetch(answer(status, headers, b"<html>")).await.unwrap_err();
        let FetchError::RateLimited { retry_after, .. } = error else {
            panic!("{status}: {error}")
        };
        assert_eq!(retry_after, wait, "{status}");
    }
}

#[tokio::test]
async fn statuses_are_classed() {
    for (status, headers, failure) in [
        ("500 Internal Server Error", "", Failure::ServerError),
        ("503 Service Unavailable", "", Failure::ServerError),
        ("404 Not Found", "", Failure::HttpStatus),
        ("405 Method Not Allowed", "", Failure::HttpStatus),
        ("451 Unavailable For Legal Reasons", "", Failure::HttpStatus),
        // Followed, it would leave the host that the settings name.
        ("302 Found", "location: http://127.0.0.1:9/\r\n", Failure::Redirect),
    ] {
        let error = fetch(answer(status, headers, b"")).await.unwrap_err();
        assert_eq!(error.failure(), failure, "{status}: {error}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_a_network_error() {
    let cut = Script::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec());
    let gzip =
        answer("200 OK", "content-encoding: gzip\r\n", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab]);
    for script in [Script::Bytes(Vec::new()), cut] {
        assert_eq!(fetch(script).await.unwrap_err().failure(), Failure::Network);
    }
    assert_eq!(fetch(gzip).await.unwrap_err().failure(), Failure::CorruptBody);
    assert_eq!(fetch_from("http://127.0.0.1:9").await.unwrap_err().failure(), Failure::Network);
}

/// What is no JSON is no answer, whatever it is called; JSON is one.
#[tokio::test]
async fn the_bytes_decide_what_is_an_answer() {
    let html = "content-type: application/json\r\n";
    for (headers, body, failure) in [
        ("", "", Failure::EmptyBody),
        (html, "<html>", Failure::NotJson),
        ("", "\u{1}", Failure::NotJson),
    ] {
        let error = fetch(answer("200 OK", headers, body.as_bytes())).await.unwrap_err();
        assert_eq!((error.failure(), error.status()), (failure, Some(200)), "{body}");
    }
    let answer = fetch(answer("200 OK", "content-type: image/png\r\n", b" {}")).await.unwrap();
    assert_eq!(answer.body(), b" {}");
}

/// Requests leave through the proxy of the egress: the host itself is nowhere.
#[tokio::test]
async fn requests_go_through_the_proxy() {
    let proxy = Exchange::start(answer("200 OK", "", b"{}")).await;
    let settings =
        [("BINANCE_BASE_URL", "http://exchange.invalid"), ("EGRESS_PROXY_URL", proxy.url.as_str())];
    assert_eq!(fetch_with(&settings).await.unwrap().body(), b"{}");
    assert_eq!(proxy.connections(), 1);
    assert_eq!(fetch_with(&settings[..1]).await.unwrap_err().failure(), Failure::Network);
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    assert_eq!(fetch(Script::Endless).await.unwrap_err().failure(), Failure::TooLarge);
}

/// A few bytes that unpack to far more than is ever read.
#[tokio::test]
async fn a_body_that_unpacks_to_too_much_is_cut() {
    const UNPACKED_MIB: usize = 256;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![b' '; 1 << 20];
    for _ in 0..UNPACKED_MIB {
        encoder.write_all(&zeros).unwrap();
    }
    let packed = encoder.finish().unwrap();
    assert!(packed.len() < 1 << 20, "{} bytes are sent", packed.len());
    let bomb = answer("200 OK", "content-encoding: gzip\r\n", &packed);
    assert_eq!(fetch(bomb).await.unwrap_err().failure(), Failure::TooLarge);
}

/// An answer that leads to another host, which would answer well, leads nowhere.
#[tokio::test]
async fn no_other_host_is_asked() {
    let elsewhere = Exchange::start(answer("200 OK", "", b"{}")).await;
    for status in
        ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        let location = format!("location: {}/\r\n", elsewhere.url);
        let error = fetch(answer(status, &location, b"")).await.unwrap_err();
        assert_eq!(error.failure(), Failure::Redirect, "{status}: {error}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_dripping_body_is_timed_out() {
    assert_eq!(fetch(Script::Drip).await.unwrap_err().failure(), Failure::Timeout);
}
