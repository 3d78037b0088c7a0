//! Many batches by the same processes: their memory must not grow with them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::figures::median;
use crate::meter;
use crate::run::{self, Load, Running};

/// Time between two looks at the memory.
const LOOK: Duration = Duration::from_millis(100);
/// What each may take at 30,000 ads.
const WORKER_MB: f64 = 40.0;
const COORDINATOR_MB: f64 = 60.0;
/// Growth from batch to batch that is taken for none: in a day of 144 batches 3 MB.
const FLAT_MB: f64 = 0.02;
/// Of the batches so many, at their beginning, fill caches; their growth is not judged.
const WARM_UP: usize = 4;

/// The fewest batches that say whether memory grows.
pub(crate) const LEAST_BATCHES: u64 = WARM_UP as u64 + 2;

/// Memory of a process, in MB.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    /// The most that was seen while a batch ran, and what was there after it.
    most: f64,
    after: f64,
}

/// Runs `batches`; tells each, and whether all limits hold.
pub(crate) async fn soak(load: &Load, batches: usize) -> Result<bool> {
    run::with(load, async |running| watch(running, batches).await).await
}

async fn watch(running: &mut Running<'_>, batches: usize) -> Result<bool> {
    let worker = running.workers.first().and_then(load_tests::fleet::Process::id);
    let ids = [worker.context("no worker")?, running.coordinator.id().context("ended")?];
    let most = Arc::new(Mutex::new([0.0_f64; 2]));
    let looking = tokio::spawn({
        let most = Arc::clone(&most);
        async move {
            loop {
                let seen = ids.map(|id| meter::resident_mb(id).unwrap_or_default());
                {
                    let mut most = most.lock().unwrap_or_else(PoisonError::into_inner);
                    for (most, seen) in most.iter_mut().zip(seen) {
                        *most = most.max(seen);
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    });
    let (mut workers, mut coordinators) = (Vec::new(), Vec::new());
    println!(
        "{:>5} {:>8} {:>12} {:>14} {:>19} {:>14} {:>19}",
        "batch",
        "ads",
        "ads/s",
        "worker MB",
        "most in the batch",
        "coordinator MB",
        "most in the batch"
    );
    let mut days = BTreeSet::new();
    for number in 1..=batches {
        if number > 1 {
            running.let_time_pass().await?;
        }
        let batch = running.batch().await?;
        days.insert(batch.id >> 9);
        let seen = std::mem::take(&mut *most.lock().unwrap_or_else(PoisonError::into_inner));
        let after = [running.worker_mb()?, running.coordinator_mb()?];
        workers.push(Memory { most: seen[0].max(after[0]), after: after[0] });
        coordinators.push(Memory { most: seen[1].max(after[1]), after: after[1] });
        println!(
            "{number:5} {:8.0} {:12.0} {:14.1} {:19.1} {:14.1} {:19.1}",
            batch.figures["ads"],
            batch.figures["ads_per_s, opened to last end"],
            after[0],
            seen[0],
            after[1],
            seen[1]
        );
    }
    looking.abort();
    let mut is_good = true;
    for (name, memory, limit) in
        [("worker", workers, WORKER_MB), ("coordinator", coordinators, COORDINATOR_MB)]
    {
        let (text, holds) = judge(name, &memory, limit);
        print!("{text}");
        is_good &= holds;
    }
    if days.len() > 1 {
        println!("the batches are of {} days: versions are stored anew with each", days.len());
    }
    Ok(is_good)
}

fn judge(name: &str, memory: &[Memory], limit: f64) -> (String, bool) {
    let most = memory.iter().map(|memory| memory.most).fold(0.0, f64::max);
    let settled: Vec<f64> = memory.iter().skip(WARM_UP).map(|memory| memory.after).collect();
    let slope = slope(&settled);
    let mut text = String::new();
    let within = most <= limit;
    let word = if within { "holds" } else { "NOT HELD" };
    writeln!(text, "{name}: at most {most:.1} MB, allowed are {limit}: {word}").ok();
    let flat = slope <= FLAT_MB;
    let word = if flat { "flat" } else { "GROWS" };
    writeln!(text, "{name}: {slope:+.3} MB from batch to batch after the first {WARM_UP}: {word}")
        .ok();
    (text, within && flat)
}

/// The median of the slopes between all pairs (Theil and Sen): a single jump does not tilt it.
fn slope(values: &[f64]) -> f64 {
    let mut slopes = Vec::new();
    for (from, first) in values.iter().enumerate() {
        for (steps, later) in values[from..].iter().enumerate().skip(1) {
            #[expect(clippy::cast_precision_loss, reason = "some dozens of batches")]
            slopes.push((later - first) / steps as f64);
        }
    }
    if slopes.is_empty() { 0.0 } else { median(slopes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(after: impl Fn(f64) -> f64) -> Vec<Memory> {
        let at = |number: i32| after(f64::from(number));
        (0..50).map(at).map(|after| Memory { most: after, after }).collect()
    }

    #[test]
    fn growth_is_told_from_a_jump() {
        assert!(judge("x", &of(|n| 20.0 + if n > 30.0 { 3.0 } else { 0.0 }), 40.0).1);
        assert!(!judge("x", &of(|n| 20.0 + n * 0.1), 40.0).1);
    }

    #[test]
    fn too_much_is_not_held() {
        assert!(!judge("x", &of(|_| 41.0), 40.0).1);
    }
}
