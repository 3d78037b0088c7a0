//! The answers of the exchange: requests in, bytes out, no network.
//!
//! Shapes and codes are those of the captures; where nothing was captured (429, 500, the WAF's
//! page) they are invented and say so.

mod reference;
mod render;
mod search;

use std::io::Write;

use rand::RngExt;
use serde::Serialize;

pub use self::render::{Renderer, Template};
use crate::market::{World, rng_for};

/// How the answers behave, apart from the world.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// Seed of what is drawn per request.
    pub seed: u64,
    /// Whether the promoted ad stands at its top place only, and `total` leaves it out.
    pub promoted_once: bool,
    /// Requests that see another order among equal prices, per 1,000.
    pub tie_shuffle_per_mille: u32,
    /// Answers that are a fault, per 1,000.
    pub fault_per_mille: u32,
}

/// A request as far as the exchange looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Number of the request since the start, from 0.
    pub number: u64,
    /// HTTP method.
    pub method: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// Query without `?`.
    pub query: &'a str,
    /// Body.
    pub body: &'a [u8],
}

/// An answer, and what the request log says of it.
#[derive(Debug, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Whether the body is HTML instead of JSON.
    pub html: bool,
    /// Seconds of the `Retry-After` header.
    pub retry_after: Option<u64>,
    /// Body.
    pub body: Vec<u8>,
    /// What was asked for and given.
    pub seen: Seen,
}

/// What the request log says of a request.
#[derive(Debug, Default, Clone, Serialize)]
#[expect(missing_docs, reason = "the fields are named after those of the request and answer")]
pub struct Seen {
    pub fiat: Option<String>,
    pub asset: Option<String>,
    pub side: Option<String>,
    pub page: Option<i64>,
    pub ads: Option<usize>,
    pub total: Option<usize>,
}

impl Answer {
    /// HTTP 200 with JSON.
    fn json(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    /// The wrapper around `data`.
    fn data(data: &impl Serialize) -> Self {
        let mut body = br#"{"code":"000000","message":null,"messageDetail":null,"data":"#.to_vec();
        serde_json::to_writer(&mut body, data).expect("plain structs always serialize");
        body.extend_from_slice(br#","success":true}"#);
        Self::json(body)
    }

    /// What every request gets that the exchange does not accept.
    fn illegal_parameter() -> Self {
        Self::json(
            r#"{"code":"000002","message":"illegal parameter","messageDetail":null,"data":null,"success":false}"#,
        )
    }

    /// HTTP 429; the body is invented.
    #[must_use]
    pub fn too_many_requests(retry_after: u64) -> Self {
        Self {
            status: 429,
            retry_after: Some(retry_after),
            ..Self::json(
                r#"{"code":"000429","message":"Too many requests","messageDetail":null,"data":null,"success":false}"#,
            )
        }
    }

    /// The error document of the framework behind the exchange; it has no `code`.
    fn error(status: u16, reason: &str, path: &str) -> Self {
        let path = serde_json::Value::from(path);
        let body = format!(
            r#"{{"timestamp":"2026-11-01T00:00:00.000+00:00","status":{status},"error":"{reason}","message":"No message available","path":{path}}}"#
        );
        Self { status, ..Self::json(body) }
    }
}

/// Answers a request from the world as it stands.
#[must_use]
pub fn answer(
    world: &World,
    renderer: &Renderer,
    behaviour: &Behaviour,
    request: &Request<'_>,
) -> Answer {
    const FAULT: u64 = 3;
    let mut rng = rng_for(behaviour.seed, FAULT, request.number);
    if rng.random_ratio(behaviour.fault_per_mille, 1000) {
        return match rng.random_range(0..3) {
            0 => Answer::error(500, "Internal Server Error", request.path),
            1 => Answer {
                html: true,
                ..Answer::json("<html><body>Human Verification</body></html>")
            },
            _ => Answer::json(""),
        };
    }
    match (request.method, request.path) {
        ("POST", "/bapi/c2c/v2/friendly/c2c/adv/search") => {
            search::search(world, renderer, behaviour, request)
        }
        ("POST", "/bapi/c2c/v1/friendly/c2c/trade-rule/fiat-list") => reference::fiat_list(world),
        ("POST", "/bapi/c2c/v2/friendly/c2c/portal/config") => {
            reference::portal_config(world, request.body)
        }
        ("POST", "/bapi/c2c/v2/public/c2c/adv/filter-conditions") => {
            reference::filter_conditions(world, request.body)
        }
        ("GET", "/bapi/c2c/v2/friendly/c2c/user/profile-and-ads-list") => {
            reference::profile(world, renderer, request.query)
        }
        _ => Answer::error(404, "Not Found", request.path),
    }
}

/// Writes a JSON string.
fn quote(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a string always serializes into memory");
}

/// Writes formatted text.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes everything");
}
