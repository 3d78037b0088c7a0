//! Whether this coordinator leads or stands by, for metrics and readiness.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{describe_gauge, gauge};
use shared::health::Check;
use tokio::time::Instant;

const LEADER: &str = "p2p_leader";

/// Where a coordinator stands. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Starting,
    StandsBy,
    Leads {
        since: Instant,
    },
    /// The lock can't be asked for.
    Unknown(String),
}

impl Standing {
    /// Another coordinator leads.
    pub fn stands_by(&self) {
        self.set(State::StandsBy);
    }

    pub fn leads(&self) {
        self.set(State::Leads { since: Instant::now() });
    }

    /// Nobody can say who leads.
    pub fn is_unknown(&self, error: &anyhow::Error) {
        self.set(State::Unknown(format!("{error:#}")));
    }

    /// Since when it leads; `None`: it does not.
    #[must_use]
    pub fn leads_since(&self) -> Option<Instant> {
        match *self.state() {
            State::Leads { since } => Some(since),
            _ => None,
        }
    }

    /// The lock, as readiness tells it: to stand by is as good as to lead.
    #[must_use]
    pub fn check(&self) -> Check {
        let lock = |result| Check::new("lock", result);
        match self.state().clone() {
            State::Starting => lock(Err("the coordinator is starting".to_owned())),
            State::StandsBy => lock(Ok(())).with("state", "stands by"),
            State::Leads { since } => lock(Ok(()))
                .with("state", "leads")
                .with("leading_seconds", since.elapsed().as_secs()),
            State::Unknown(error) => lock(Err(format!("it can't be asked for: {error}"))),
        }
    }

    fn set(&self, state: State) {
        describe_gauge!(LEADER, "1: this coordinator leads. 0: it stands by");
        gauge!(LEADER).set(u8::from(matches!(state, State::Leads { .. })));
        *self.state() = state;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
