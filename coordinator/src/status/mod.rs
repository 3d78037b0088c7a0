//! The status page: whether the fleet is healthy, what is late and what to do, for people without a
//! terminal at hand.
//!
//! Every coordinator serves it, whether it leads or stands by: it only reads, from the database by a pool
//! of its own, whose sessions can't write, and from the broker by looking at its queues. One task reads
//! for all viewers ([`refresh`]). A file a panel: what it is, the statement that reads it, and how it
//! looks ([ADR 19](../../../docs/adr/0019-status-page.md)).
//!
//! The pages are plain HTML and work without the script, which only puts in what has changed. What comes
//! from the exchange is hostile: everything is escaped by the templates, and the page may run nothing but
//! its own script.

mod chart;
pub mod completeness;
pub mod fleet;
mod format;
pub mod gaps;
pub mod headline;
pub mod market;
mod page;
mod panel;
pub mod quality;
pub mod queues;
mod refresh;
pub mod running;
pub mod slots;
pub mod snapshot;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::{Query, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use maud::Markup;
use serde::Serialize;
use shared::endpoint::{self, Access};
use shared::queue::Topology;
use shared::settings::{Broker, Database, Vars};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use self::headline::{Finding, Level};
use self::market::MarketError;
use self::refresh::{Readings, Shown, Watching};
use self::snapshot::Snapshot;

/// Viewers that are sent what changes; more are told to come again.
pub const MAX_VIEWERS: usize = 64;
/// Markets that are read at once; others wait their turn.
const MAX_MARKET_READERS: usize = 3;
/// Longest wait for a turn, and then for the market.
const MARKET_LIMIT: Duration = Duration::from_secs(5);
/// Connections to the database: one for the task that reads for all, one for each reader of a market.
const CONNECTIONS: u32 = 4;
/// Longest wait for a connection: a page says that the database is away rather than wait for it.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest statement, kept by the server.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest life of a connection: a browser that watches makes another.
const LIFETIME: Duration = Duration::from_hours(1);
/// Time without an event after which a viewer is sent a comment, so that proxies keep the line.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Nothing but what this server sends, and no frame, form or address elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
     img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Where to serve: `STATUS_HOST`, `STATUS_PORT`; `None`: nowhere.
pub(crate) fn read_address(vars: &mut Vars) -> Option<SocketAddr> {
    let host = ("STATUS_HOST", "127.0.0.1");
    endpoint::read_address(vars, host, ("STATUS_PORT", 8080), 0..=u16::MAX)
}

/// Serves at `address` until `shutdown`. A port that is taken is an error in the log and no more: batches
/// are worth more than a page about them.
pub(crate) async fn run(
    address: SocketAddr,
    access: Access,
    database: Database,
    broker: Broker,
    topology: Topology,
    shutdown: CancellationToken,
) {
    let served = async {
        let listener = TcpListener::bind(address).await.context("STATUS_PORT")?;
        tracing::info!(%address, "the status page is served");
        serve(listener, access, &database, broker, topology, shutdown).await
    };
    if let Err(error) = served.await {
        tracing::error!(
            error = format!("{error:#}"),
            %address,
            "the status page is not served: STATUS_PORT needs a port of its own for each process"
        );
    }
}

/// Serves on a listener until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    access: Access,
    database: &Database,
    broker: Broker,
    topology: Topology,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let pool = connect_lazily(database)?;
    let readings = Readings::start(pool.clone(), broker, topology, shutdown.clone());
    let site = Site {
        pool,
        readings,
        viewers: Arc::new(Semaphore::new(MAX_VIEWERS)),
        market_readers: Arc::new(Semaphore::new(MAX_MARKET_READERS)),
        shutdown: shutdown.clone(),
    };
    tokio::select! {
        never = endpoint::serve(listener, routes(site, access), LIFETIME) => match never {},
        // Nobody is in the middle of anything that matters.
        () = shutdown.cancelled() => Ok(()),
    }
}

/// A pool that connects when it is first asked: the page is there even if the database is not.
fn connect_lazily(database: &Database) -> anyhow::Result<PgPool> {
    let options = database.options().context("DATABASE_URL")?;
    let options = options.application_name("coordinator status page").options([
        ("default_transaction_read_only", "on".to_owned()),
        ("statement_timeout", STATEMENT_TIMEOUT.as_millis().to_string()),
        ("jit", "off".to_owned()),
    ]);
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT);
    Ok(pool.connect_lazy_with(options))
}

#[derive(Clone)]
struct Site {
    pool: PgPool,
    readings: Readings,
    viewers: Arc<Semaphore>,
    market_readers: Arc<Semaphore>,
    shutdown: CancellationToken,
}

fn routes(site: Site, access: Access) -> Router {
    Router::new()
        .route("/", get(show_status))
        .route("/market", get(show_market))
        .route("/events", get(send_events))
        .route("/api/status.json", get(status_json))
        .route("/api/market.json", get(market_json))
        .route(
            "/style.css",
            get(|headers: HeaderMap| {
                std::future::ready(asset(&headers, "text/css; charset=utf-8", STYLE))
            }),
        )
        .route(
            "/script.js",
            get(|headers: HeaderMap| {
                std::future::ready(asset(&headers, "text/javascript; charset=utf-8", SCRIPT))
            }),
        )
        .route(
            "/icon.svg",
            get(|headers: HeaderMap| std::future::ready(asset(&headers, "image/svg+xml", ICON))),
        )
        .layer(middleware::from_fn_with_state(access, endpoint::guard))
        .layer(middleware::from_fn(headers))
        .with_state(site)
}

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
const ICON: &str = include_str!("icon.svg");

/// What every answer says to the browser.
async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A file that is part of the program: the browser asks whether it has changed.
fn asset(headers: &HeaderMap, kind: &'static str, content: &'static str) -> Response {
    let tag = format!("\"{:016x}\"", xxhash_rust::xxh3::xxh3_64(content.as_bytes()));
    let has_it = headers.get(IF_NONE_MATCH).is_some_and(|known| {
        known.to_str().is_ok_and(|known| known.split(',').any(|known| known.trim() == tag))
    });
    let caching = [(ETAG, tag), (CACHE_CONTROL, "no-cache".to_owned())];
    if has_it {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(CONTENT_TYPE, kind)], content).into_response()
}

fn html(status: StatusCode, page: Markup) -> Response {
    (status, Html(page.into_string())).into_response()
}

async fn show_status(State(site): State<Site>) -> Response {
    html(StatusCode::OK, page::status(&site.readings.fresh().await))
}

/// The page as JSON.
#[derive(Serialize)]
struct StatusJson<'a> {
    /// The worst of the findings.
    level: Level,
    findings: &'a [Finding],
    /// Since when the database can't be read; `null`: it can. The rest is as old as `read_at` says.
    database_away_since: Option<chrono::DateTime<chrono::Utc>>,
    /// `null`: nothing was read yet.
    status: Option<&'a Snapshot>,
}

async fn status_json(State(site): State<Site>) -> Response {
    let shown = site.readings.fresh().await;
    let findings = &shown.findings;
    let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Healthy);
    let database_away_since = shown.away.as_ref().map(|(since, _)| *since);
    let status = shown.snapshot.as_deref();
    Json(StatusJson { level, findings, database_away_since, status }).into_response()
}

impl Site {
    /// Reads a market when it is its turn.
    async fn market(&self, query: &market::Query) -> Result<market::Market, MarketError> {
        let read = async {
            let _turn = self.market_readers.acquire().await.map_err(|_| sqlx::Error::PoolClosed)?;
            market::read(&self.pool, query).await
        };
        match tokio::time::timeout(MARKET_LIMIT, read).await {
            Ok(market) => market,
            Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
        }
    }
}

fn status_of(error: &MarketError) -> StatusCode {
    match error {
        MarketError::Unknown(_) => StatusCode::NOT_FOUND,
        MarketError::Database(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn show_market(State(site): State<Site>, Query(query): Query<market::Query>) -> Response {
    let shown = site.readings.fresh().await;
    match site.market(&query).await {
        Ok(market) => {
            let query = market::Query {
                fiat: market.fiat.clone(),
                asset: market.asset.clone(),
                side: market.side.as_str().to_owned(),
                ..query
            };
            let title = format!("{}/{} {}", market.asset, market.fiat, market.side);
            html(StatusCode::OK, page::market(&shown, &query, &title, &market::render(&market)))
        }
        Err(error) => {
            if let MarketError::Database(error) = &error {
                tracing::debug!(%error, "the status page can't read a market");
            }
            let body = market::render_error(&error);
            html(status_of(&error), page::market(&shown, &query, "No such market", &body))
        }
    }
}

async fn market_json(State(site): State<Site>, Query(query): Query<market::Query>) -> Response {
    match site.market(&query).await {
        Ok(market) => Json(market).into_response(),
        Err(error) => {
            let words = match &error {
                MarketError::Unknown(words) => words.clone(),
                MarketError::Database(_) => "the database can't be read".to_owned(),
            };
            (status_of(&error), Json(serde_json::json!({ "error": words }))).into_response()
        }
    }
}

/// A viewer, and what it was sent.
struct Viewer {
    watching: Watching,
    sent: Vec<(&'static str, String)>,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Viewer {
    /// The panels that changed, by `id`; `None`: there will be no more.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let shown = tokio::select! {
                shown = self.watching.next() => shown?,
                () = self.shutdown.cancelled() => return None,
            };
            let changed: serde_json::Map<String, serde_json::Value> = shown
                .panels
                .iter()
                .filter(|panel| !self.sent.contains(panel))
                .map(|(id, panel)| ((*id).to_owned(), panel.as_str().into()))
                .collect();
            if changed.is_empty() {
                continue;
            }
            self.sent.clone_from(&shown.panels);
            let update = Update { closed_batch: closed_batch(&shown), panels: changed };
            return Event::default().event("update").json_data(update).ok();
        }
    }
}

/// What a viewer is sent.
#[derive(Serialize)]
struct Update {
    /// By it the page of a market knows that there may be a newer book.
    closed_batch: Option<i32>,
    panels: serde_json::Map<String, serde_json::Value>,
}

fn closed_batch(shown: &Shown) -> Option<i32> {
    shown.snapshot.as_ref()?.last_closed.as_ref().map(|closed| closed.batch_id)
}

async fn send_events(State(site): State<Site>) -> Response {
    let Ok(place) = site.viewers.clone().try_acquire_owned() else {
        let words = "as many as can be are watching: come again later\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "60")], words).into_response();
    };
    let watching = site.readings.watch();
    let viewer = Viewer { watching, sent: Vec::new(), shutdown: site.shutdown, _place: place };
    let events = futures::stream::unfold(viewer, |mut viewer| async move {
        let event = viewer.next().await?;
        Some((Ok::<_, Infallible>(event), viewer))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}
