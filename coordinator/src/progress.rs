//! The running batch on stdout: a bar on a terminal, a line every few seconds elsewhere.

use std::fmt;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{
    HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};
use shared::domain::BatchId;

use crate::ledger::Counts;

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Shows the progress of one batch.
pub enum Progress {
    Hidden,
    Bar(ProgressBar),
    Lines { bar: ProgressBar, batch: BatchId, last: Instant },
}

impl Progress {
    #[must_use]
    pub fn new(shown: bool, batch: BatchId) -> Self {
        if !shown {
            return Self::Hidden;
        }
        if !std::io::stdout().is_terminal() {
            // Draws nothing, but reckons rate and time left.
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            return Self::Lines { bar, batch, last: Instant::now() };
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stdout());
        let template = "batch {prefix} {bar:32} {pos}/{len} jobs  {rate:>8}  {msg}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
                // Nowhere to tell of a bar that can't be written.
                write!(text, "{:.1}/s", state.per_sec()).ok();
            };
            bar.set_style(style.with_key("rate", rate).progress_chars("━╸ "));
        }
        bar.set_prefix(batch.to_string());
        bar.enable_steady_tick(Duration::from_millis(250));
        Self::Bar(bar)
    }

    /// Shows where the batch stands.
    pub fn show(&mut self, counts: Counts) {
        match self {
            Self::Hidden => {}
            Self::Bar(bar) => update(bar, counts),
            Self::Lines { bar, batch, last } => {
                update(bar, counts);
                if last.elapsed() >= LINE_INTERVAL && counts.ended < counts.jobs {
                    *last = Instant::now();
                    println!(
                        "batch {batch}: {}/{} jobs, {:.1}/s, {} ads, {} left",
                        counts.ended,
                        counts.jobs,
                        bar.per_sec(),
                        HumanCount(counts.ads),
                        HumanDuration(bar.eta()),
                    );
                }
            }
        }
    }

    /// Leaves the screen to the result.
    pub fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn update(bar: &ProgressBar, counts: Counts) {
    bar.set_length(u64::from(counts.jobs));
    bar.set_position(u64::from(counts.ended));
    bar.set_message(format!("{} ads", HumanCount(counts.ads)));
}
