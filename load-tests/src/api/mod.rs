//! The answers of the exchange: requests in, bytes out, no network.
//!
//! Shapes and codes are those of the captures; where nothing was captured (429, 500, the WAF's
//! page) they are invented and say so. What is wrong on purpose is a [`Fault`].

mod fault;
mod reference;
mod render;
mod search;
mod witness;

use std::io::Write;

use serde::Serialize;

pub use self::fault::{Fault, Faults, Share};
pub use self::render::{Renderer, Template};
pub use self::search::{Query, render_all};
pub use self::witness::Lies;
use crate::market::World;

/// How the answers behave, apart from the world.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// Seed of what is drawn per request.
    pub seed: u64,
    /// Whether the promoted ad stands at its top place only, and `total` leaves it out.
    pub promoted_once: bool,
    /// Requests that see another order among equal prices, per 1,000.
    pub tie_shuffle_per_mille: u32,
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
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What the body is declared to be.
    pub content_type: &'static str,
    /// Another header: `retry-after` or `location`.
    pub header: Option<(&'static str, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// What is wrong with it.
    pub fault: Option<Fault>,
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
    /// HTTP 200 with a body of that type.
    fn new(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let (header, fault, seen) = (None, None, Seen::default());
        Self { status: 200, content_type, header, body: body.into(), fault, seen }
    }

    /// HTTP 200 with JSON.
    fn json(body: impl Into<Vec<u8>>) -> Self {
        Self::new("application/json;charset=UTF-8", body)
    }

    /// HTTP 200 with HTML.
    fn html(body: &str) -> Self {
        Self::new("text/html", body)
    }

    /// What an admin call did: HTTP 204, or 400 with the reason.
    #[must_use]
    pub fn of_admin(done: Result<(), String>) -> Self {
        let status = if done.is_ok() { 204 } else { 400 };
        Self { status, ..Self::new("text/plain", done.err().unwrap_or_default()) }
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

    /// What a search gets that names a payment method which no market has.
    fn unsupported_payment_method() -> Self {
        Self::json(
            r#"{"code":"083932","message":"Dear User, this payment method is unsupported on Binance P2P. Please choose another one.","messageDetail":{"code":null,"message":null,"params":null},"data":null,"success":false}"#,
        )
    }

    /// HTTP 429 with the seconds to wait; the body is invented.
    #[must_use]
    pub fn too_many_requests(retry_after: u64) -> Self {
        Self {
            status: 429,
            header: Some(("retry-after", retry_after.to_string())),
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

/// Where pages are asked for.
pub const SEARCH_PATH: &str = "/bapi/c2c/v2/friendly/c2c/adv/search";

/// The answer to a request from the world as it stands: the right one, unless it is told to lie.
#[must_use]
pub fn answer(
    world: &World,
    renderer: &Renderer,
    behaviour: &Behaviour,
    lies: &Lies,
    request: &Request<'_>,
) -> Answer {
    match (request.method, request.path) {
        ("POST", SEARCH_PATH) => search::search(world, renderer, behaviour, lies, request),
        ("GET", "/bapi/c2c/v1/public/c2c/agent/ad-list") => {
            witness::ad_list(world, behaviour, lies, request)
        }
        ("GET", "/bapi/c2c/v1/public/c2c/agent/quote-price") => {
            witness::quote_price(world, behaviour, lies, request)
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
