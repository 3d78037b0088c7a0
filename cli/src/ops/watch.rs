//! `p2p watch`: the status live on the whole terminal.
//!
//! One task looks once a second, one thread waits for keys, and [`screen`] draws what is known. A server
//! that goes away is told on the screen, and asked again.

mod screen;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use shared::queue::Inspector;
use sqlx::PgPool;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use self::screen::Screen;
use super::facts::{self, Facts, OpenGaps};
use super::status::Status;
use super::{Reading, Servers, broker, limits};
use crate::NotAllowed;
use crate::timeline::Entry;

/// Time between two looks.
const PULSE: Duration = Duration::from_secs(1);
/// Time between two looks for gaps, which cost as much as everything else together.
const GAPS_PULSE: Duration = Duration::from_mins(1);
/// Longest look: one that hangs is told as such, and the screen goes on.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait of the thread that reads keys before it looks whether it is still wanted.
const KEYS_PULSE: Duration = Duration::from_millis(100);

/// Exit code after a signal: 128 and its number, as shells have it.
const EXIT_SIGNAL: u8 = 128;

/// Why the screen is left.
enum Left {
    ByKey,
    BySignal(SignalKind),
}

/// Takes the terminal until told to give it back.
pub async fn run() -> anyhow::Result<ExitCode> {
    let servers = Servers::read()?;
    if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        let text = "p2p watch needs a terminal; p2p status prints the same once, also as --json";
        return Err(NotAllowed(text.to_owned()).into());
    }
    // Before the terminal is taken, so that none of them ends the process and leaves it as it is.
    let signals = Signals::new().context("signals can't be watched")?;
    // A panic gives the terminal back as well.
    let terminal = ratatui::try_init().context("the terminal can't be used")?;
    let left = watch(terminal, servers, signals).await;
    ratatui::try_restore().context("the terminal can't be given back")?;
    Ok(match left? {
        Left::ByKey => ExitCode::SUCCESS,
        Left::BySignal(kind) => {
            let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
            ExitCode::from(EXIT_SIGNAL.saturating_add(number))
        }
    })
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }
}

async fn watch(
    mut terminal: DefaultTerminal,
    servers: Servers,
    mut signals: Signals,
) -> anyhow::Result<Left> {
    let (looks_sender, mut looks) = mpsc::channel(1);
    let looking = tokio::spawn(look_on(servers, looks_sender));
    let (keys_sender, mut keys) = mpsc::channel(16);
    let is_over = Arc::new(AtomicBool::new(false));
    let reading = std::thread::spawn({
        let is_over = is_over.clone();
        move || read_keys(&keys_sender, &is_over)
    });
    let mut screen = Screen::default();
    let left = loop {
        if let Err(error) = terminal.draw(|frame| screen::draw(frame, &screen)) {
            break Err(error).context("the terminal can't be drawn on");
        }
        tokio::select! {
            look = looks.recv() => match look {
                Some(look) => screen.take(look),
                None => break Err(anyhow::anyhow!("nobody looks any more")),
            },
            key = keys.recv() => match key {
                Some(Event::Key(key)) if is_quit(key) => break Ok(Left::ByKey),
                // Of a new size, and of other keys, only drawing again follows.
                Some(_) => {}
                None => break Err(anyhow::anyhow!("the keyboard can't be read")),
            },
            kind = signals.next() => break Ok(Left::BySignal(kind)),
            // The times on the screen go on while a server does not answer.
            () = tokio::time::sleep(PULSE) => {}
        }
    };
    looking.abort();
    is_over.store(true, Ordering::Relaxed);
    // One that panicked has said so itself.
    reading.join().ok();
    left
}

fn is_quit(key: event::KeyEvent) -> bool {
    let is_interrupt =
        key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press
        && (is_interrupt || matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc))
}

/// Waits for keys until told that nobody wants them.
fn read_keys(keys: &mpsc::Sender<Event>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        match event::poll(KEYS_PULSE) {
            Ok(false) => {}
            Ok(true) => {
                let Ok(event) = event::read() else { return };
                if keys.blocking_send(event).is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// What one look saw.
struct Look {
    at: Instant,
    status: Status,
    /// The slots of the last day.
    strip: Vec<Entry>,
}

/// Looks once a second until nobody wants it.
async fn look_on(servers: Servers, looks: mpsc::Sender<Look>) {
    let mut looker = Looker { servers, pool: None, inspector: None, gaps: None };
    let mut pulse = tokio::time::interval(PULSE);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pulse.tick().await;
        let look = looker.look().await;
        if looks.send(look).await.is_err() {
            return;
        }
    }
}

/// Keeps its connections from look to look.
struct Looker {
    servers: Servers,
    pool: Option<PgPool>,
    inspector: Option<Inspector>,
    gaps: Option<(Instant, OpenGaps)>,
}

impl Looker {
    async fn look(&mut self) -> Look {
        let facts = Reading::from(limited(self.facts()).await);
        if facts.read().is_none() {
            self.pool = None;
        }
        let (facts, strip) = match facts {
            Reading::Read((facts, strip)) => (Reading::Read(facts), strip),
            Reading::Away { away } => (Reading::Away { away }, Vec::new()),
        };
        let egresses = facts.read().map(Facts::egresses).unwrap_or_default();
        let limits = limits::read(&self.servers, &egresses).await;
        let queues = match &self.servers.queues {
            None => Reading::away("AMQP_URL is not set"),
            Some(_) => Reading::from(limited(self.queues()).await),
        };
        if queues.read().is_none() {
            self.inspector = None;
        }
        let (is_broker_told, is_redis_told) =
            (self.servers.queues.is_some(), self.servers.redis.is_some());
        let status = Status { facts, queues, limits, is_broker_told, is_redis_told };
        Look { at: Instant::now(), status, strip }
    }

    async fn facts(&mut self) -> anyhow::Result<(Facts, Vec<Entry>)> {
        let pool = if let Some(pool) = &self.pool {
            pool.clone()
        } else {
            let pool = shared::store::connect(&self.servers.database, "p2p watch").await?;
            shared::store::check_schema(&pool).await?;
            self.pool.insert(pool).clone()
        };
        let wants_gaps = self.gaps.is_none_or(|(at, _)| at.elapsed() >= GAPS_PULSE);
        let mut snapshot = crate::snapshot(&pool).await?;
        let strip = facts::strip(&mut snapshot).await?;
        let mut facts = facts::read(&mut snapshot, wants_gaps).await?;
        if let Some(gaps) = facts.gaps_open {
            self.gaps = Some((Instant::now(), gaps));
        }
        facts.gaps_open = self.gaps.map(|(_, gaps)| gaps);
        Ok((facts, strip))
    }

    async fn queues(&mut self) -> anyhow::Result<Vec<broker::QueueState>> {
        let server = self.servers.queues.as_ref().context("AMQP_URL is not set")?;
        let inspector = if let Some(inspector) = &self.inspector {
            inspector
        } else {
            self.inspector.insert(server.connect("p2p watch").await?)
        };
        broker::list(inspector, server).await
    }
}

async fn limited<T>(look: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let looked = tokio::time::timeout(LOOK_LIMIT, look).await;
    looked.unwrap_or_else(|_| anyhow::bail!("no answer within {LOOK_LIMIT:?}"))
}
