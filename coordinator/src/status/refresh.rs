//! One task reads for all viewers: a second viewer costs no statement more.
//!
//! It reads while somebody watches or has just asked, and rests otherwise: a page that nobody looks at
//! costs nothing.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use maud::Markup;
use shared::queue::Topology;
use shared::settings::Broker;
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::headline::{self, Finding};
use super::queues::Depths;
use super::snapshot::{Reader, Snapshot};
use super::{completeness, fleet, gaps, quality, queues, running, slots};

/// Time between two readings while somebody watches.
const PULSE: Duration = Duration::from_secs(1);
/// Age up to which a reading is good enough for a page that is asked for.
const FRESH: Duration = Duration::from_secs(2);
/// Longest wait of a page for a fresh reading; then it shows the old one and its age.
const PATIENCE: Duration = Duration::from_secs(4);

/// What the page shows now.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// The last reading that went well; `None`: none has.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) findings: Vec<Finding>,
    /// When this was last tried; `None`: never.
    tried_at: Option<Instant>,
    /// Since when the database can't be read, and why; `None`: it can.
    pub(super) away: Option<(DateTime<Utc>, String)>,
    /// The panels, by `id`, as they are sent.
    pub(super) panels: Arc<Vec<(&'static str, String)>>,
}

/// Asks for readings and takes them.
#[derive(Clone)]
pub(super) struct Readings {
    shown: watch::Receiver<Shown>,
    wanted: Arc<Notify>,
}

impl Readings {
    /// Starts the task.
    pub(super) fn start(
        pool: PgPool,
        broker: Broker,
        topology: Topology,
        shutdown: CancellationToken,
    ) -> Self {
        let (sender, shown) = watch::channel(Shown::default());
        let wanted = Arc::new(Notify::new());
        let refresher = Refresher {
            pool,
            depths: Depths::new(broker, topology),
            reader: Reader::default(),
            shown: sender,
            wanted: wanted.clone(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = refresher.run() => {}
                () = shutdown.cancelled() => {}
            }
        });
        Self { shown, wanted }
    }

    /// A reading that is fresh, or the last one if none can be had in time.
    pub(super) async fn fresh(&self) -> Shown {
        let mut shown = self.shown.clone();
        let is_fresh = |shown: &Shown| shown.tried_at.is_some_and(|tried| tried.elapsed() < FRESH);
        self.wanted.notify_one();
        let waited = tokio::time::timeout(PATIENCE, shown.wait_for(is_fresh)).await;
        match waited {
            Ok(Ok(shown)) => shown.clone(),
            _ => self.shown.borrow().clone(),
        }
    }

    /// All readings from now on. The task goes on as long as somebody holds this.
    pub(super) fn watch(&self) -> Watching {
        self.wanted.notify_one();
        Watching { shown: self.shown.clone(), wanted: self.wanted.clone() }
    }
}

/// A viewer that watches.
pub(super) struct Watching {
    shown: watch::Receiver<Shown>,
    wanted: Arc<Notify>,
}

impl Watching {
    /// The next reading; `None`: there will be no more.
    pub(super) async fn next(&mut self) -> Option<Shown> {
        self.wanted.notify_one();
        self.shown.changed().await.ok()?;
        Some(self.shown.borrow_and_update().clone())
    }
}

struct Refresher {
    pool: PgPool,
    depths: Depths,
    reader: Reader,
    shown: watch::Sender<Shown>,
    wanted: Arc<Notify>,
}

impl Refresher {
    async fn run(mut self) {
        loop {
            self.wanted.notified().await;
            self.refresh().await;
            tokio::time::sleep(PULSE).await;
        }
    }

    async fn refresh(&mut self) {
        let shown = match self.reader.read(&self.pool, self.depths.read()).await {
            Ok(snapshot) => Shown::new(Some(Arc::new(snapshot)), None),
            Err(error) => {
                let before = self.shown.borrow().clone();
                let since = before.away.map_or_else(Utc::now, |(since, _)| since);
                tracing::debug!(%error, "the status page can't read the database");
                Shown::new(before.snapshot, Some((since, reason(&error))))
            }
        };
        self.shown.send_replace(shown);
    }
}

/// In words that hold no address and no password.
fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => format!("it says {}", error.message()),
        sqlx::Error::PoolTimedOut => "no connection could be had in time".to_owned(),
        sqlx::Error::Io(error) => format!("the connection failed ({})", error.kind()),
        other => other.to_string(),
    }
}

impl Shown {
    fn new(snapshot: Option<Arc<Snapshot>>, away: Option<(DateTime<Utc>, String)>) -> Self {
        // Of an old reading only its age is certain.
        let mut findings = Vec::new();
        if let Some((_, reason)) = &away {
            findings.push(headline::database_away(reason));
        } else if let Some(snapshot) = &snapshot {
            findings = headline::judge(snapshot);
        }
        let panels = render(snapshot.as_deref(), &findings, away.is_some());
        let panels = panels.into_iter().map(|(id, panel)| (id, panel.into_string())).collect();
        Self { snapshot, findings, tried_at: Some(Instant::now()), away, panels: Arc::new(panels) }
    }
}

fn render(
    snapshot: Option<&Snapshot>,
    findings: &[Finding],
    is_away: bool,
) -> Vec<(&'static str, Markup)> {
    let mut panels = vec![
        ("headline", headline::render(snapshot, findings)),
        ("as-of", super::page::as_of(snapshot, is_away)),
    ];
    if let Some(now) = snapshot {
        panels.extend([
            ("running", running::render(now.running.as_ref(), now.last_closed.as_ref())),
            ("slots", slots::render(&now.slots)),
            ("completeness", completeness::render(&now.completeness)),
            ("queues", queues::render(&now.queues)),
            ("workers", fleet::render_workers(&now.workers, now.leader.as_ref())),
            ("limits", fleet::render_egresses(&now.egresses)),
            ("quality", quality::render(&now.quality)),
            ("gaps", gaps::render(&now.gaps)),
        ]);
    }
    panels
}
