//! Many batches by the same processes: their memory must not grow with them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Process;
use tokio_util::task::AbortOnDropHandle;

use crate::figures::{Column, Figures, median};
use crate::meter;
use crate::run::{self, Load, Running};

/// Time between two looks at the memory.
const LOOK: Duration = Duration::from_millis(100);
/// What each may take at so many ads. At more it is only told what they take.
const JUDGED_ADS: u64 = 30_000;
const WORKER_MB: f64 = 40.0;
const COORDINATOR_MB: f64 = 60.0;
/// Growth from batch to batch that is taken for none: in a day of 144 batches 3 MB.
const FLAT_MB: f64 = 0.02;
/// Batches before those that are judged. They fill caches: as many as a worker remembers ads for that are gone
/// (`GONE_FOR_BATCHES`), until which each batch adds some.
const WARM_UP: usize = 24;

/// The fewest batches after these that say whether memory grows: the growth from batch to batch is known to 0.02 MB by 26,
/// to 0.008 by 50, as what is there at a moment differs by some 0.8 MB.
const LEAST_BATCHES: usize = 26;

/// Memory of a process, in MB.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    /// The most that was seen while a batch ran, and what was there after it.
    most: f64,
    after: f64,
    /// What was there on average. Growth is told by it: a single look finds more or less of what the allocator will give
    /// back in a moment, which is much more than growth.
    mean: f64,
}

/// What was seen of a process since it was last asked.
#[derive(Clone, Copy, Debug, Default)]
struct Looks {
    most: f64,
    sum: f64,
    count: u32,
}

impl Looks {
    fn add(&mut self, mb: f64) {
        *self = Self { most: self.most.max(mb), sum: self.sum + mb, count: self.count + 1 };
    }

    fn mean(self) -> f64 {
        self.sum / f64::from(self.count)
    }
}

/// A process that is watched.
struct Watched {
    name: String,
    id: u32,
    /// What it may take; `None`: not judged.
    limit: Option<f64>,
    /// After each batch.
    memory: Vec<Memory>,
}

impl Watched {
    fn new(name: String, process: &Process, limit: Option<f64>) -> Result<Self> {
        let id = process.id().with_context(|| format!("{name} has ended"))?;
        Ok(Self { name, id, limit, memory: Vec::new() })
    }
}

/// Runs `batches`, after those that warm up where memory is judged, and tells each by `tell`. What each process took, and
/// whether all limits hold.
pub(crate) async fn soak(
    load: &Load,
    batches: usize,
    tell: impl Fn(&str),
) -> Result<(Vec<Column>, bool)> {
    let is_judged = is_judged(load.ads, batches)?;
    let batches = if is_judged { WARM_UP + batches } else { batches };
    let watch = async |running: &mut Running<'_>| watch(running, batches, is_judged, &tell).await;
    let (processes, is_trained) = run::with(load, watch).await?;
    let mut columns = Vec::new();
    let mut is_good = is_trained || !is_judged;
    if !is_trained {
        // It is what takes a coordinator most, once a day.
        tell("coordinator: trained NO DICTIONARY of the archive, so what that takes is not known");
    }
    for Watched { name, limit, memory, .. } in processes {
        let judged = judge(&name, &memory, limit);
        tell(judged.text.trim_end());
        is_good &= judged.holds;
        columns.push(Column { name, of: memory.len(), figures: judged.figures });
    }
    Ok((columns, is_good))
}

/// Whether a soak of so many ads is judged; an error if its batches are too few for that.
fn is_judged(ads: u64, batches: usize) -> Result<bool> {
    let is_judged = ads <= JUDGED_ADS;
    ensure!(
        !is_judged || batches >= LEAST_BATCHES,
        "--batches {batches}: of up to {JUDGED_ADS} ads allowed are {LEAST_BATCHES} and more, which say whether memory grows"
    );
    Ok(is_judged)
}

async fn watch(
    running: &mut Running<'_>,
    batches: usize,
    is_judged: bool,
    tell: &impl Fn(&str),
) -> Result<(Vec<Watched>, bool)> {
    let mut processes = Vec::new();
    let [worker_mb, coordinator_mb] =
        [WORKER_MB, COORDINATOR_MB].map(|limit| is_judged.then_some(limit));
    for (number, worker) in running.workers.iter().enumerate() {
        processes.push(Watched::new(format!("worker {number}"), worker, worker_mb)?);
    }
    let coordinator = &running.coordinator;
    processes.push(Watched::new("coordinator".to_owned(), coordinator, coordinator_mb)?);
    let ids: Vec<u32> = processes.iter().map(|process| process.id).collect();
    let looks = Arc::new(Mutex::new(vec![Looks::default(); ids.len()]));
    let _looking = AbortOnDropHandle::new(tokio::spawn({
        let looks = Arc::clone(&looks);
        async move {
            loop {
                for (at, id) in ids.iter().enumerate() {
                    // One that has ended is noticed by who waits for the batch.
                    if let Ok(seen) = meter::resident_mb(*id) {
                        looks.lock().unwrap_or_else(PoisonError::into_inner)[at].add(seen);
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }));
    let mut head = format!("{:>5} {:>8} {:>12}", "batch", "ads", "ads/s");
    for process in &processes {
        let name = format!("{} MB", process.name);
        write!(head, " {name:>14} {:>19}", "most in the batch").ok();
    }
    tell(&head);
    let mut days = BTreeSet::new();
    let mut is_trained = false;
    for number in 1..=batches {
        if number > 1 {
            running.let_time_pass().await?;
        }
        let batch = running.batch().await?;
        days.insert(batch.day());
        let mut line = format!(
            "{number:5} {:8.0} {:12.0}",
            batch.figures["ads"], batch.figures["ads_per_s, opened to last end"]
        );
        for (at, process) in processes.iter_mut().enumerate() {
            let after = meter::resident_mb(process.id).context(process.name.clone())?;
            let mut looks = looks.lock().unwrap_or_else(PoisonError::into_inner);
            let mut seen = std::mem::take(&mut looks[at]);
            seen.add(after);
            let most = seen.most;
            process.memory.push(Memory { most, after, mean: seen.mean() });
            write!(line, " {after:14.1} {most:19.1}").ok();
        }
        tell(&line);
        if !is_trained && running.has_dictionary().await? {
            tell("      the coordinator has trained a dictionary of the archive");
            is_trained = true;
        }
    }
    if days.len() > 1 {
        tell(&format!(
            "the batches are of {} days: versions are stored anew with each",
            days.len()
        ));
    }
    Ok((processes, is_trained))
}

/// What is said of a process.
struct Judged {
    text: String,
    figures: Figures,
    holds: bool,
}

fn judge(name: &str, memory: &[Memory], limit: Option<f64>) -> Judged {
    let most = memory.iter().map(|memory| memory.most).fold(0.0, f64::max);
    let settled: Vec<f64> = memory.iter().skip(WARM_UP).map(|memory| memory.mean).collect();
    let slope = slope(&settled);
    let mut text = String::new();
    let after = |memory: Option<&Memory>| memory.map_or(f64::NAN, |memory| memory.after);
    let mut figures = vec![
        ("rss_mb, after the first batch", after(memory.first())),
        ("rss_mb, after the last batch", after(memory.last())),
        ("rss_mb, at most", most),
    ];
    let mut holds = true;
    if let Some(limit) = limit {
        let within = most <= limit;
        let word = if within { "holds" } else { "NOT HELD" };
        writeln!(text, "{name}: at most {most:.1} MB, allowed are {limit}: {word}").ok();
        let flat = slope <= FLAT_MB;
        let word = if flat { "flat" } else { "GROWS" };
        writeln!(
            text,
            "{name}: {slope:+.3} MB from batch to batch after the first {WARM_UP}: {word}"
        )
        .ok();
        figures.extend([
            ("rss_mb, at most allowed", limit),
            ("rss_mb from batch to batch", slope),
            ("rss_mb from batch to batch, allowed", FLAT_MB),
        ]);
        holds = within && flat;
    } else {
        writeln!(
            text,
            "{name}: at most {most:.1} MB; what is allowed holds up to {JUDGED_ADS} ads"
        )
        .ok();
    }
    let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Judged { text, figures, holds }
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
        (0..50).map(at).map(|mb| Memory { most: mb, after: mb, mean: mb }).collect()
    }

    #[test]
    fn growth_is_told_from_a_jump() {
        assert!(judge("x", &of(|n| 20.0 + if n > 30.0 { 3.0 } else { 0.0 }), Some(40.0)).holds);
        assert!(!judge("x", &of(|n| 20.0 + n * 0.1), Some(40.0)).holds);
    }

    #[test]
    fn what_says_nothing_of_growth_is_refused() {
        let error = is_judged(30_000, 5).unwrap_err().to_string();
        assert!(error.contains("--batches 5") && error.contains("26 and more"), "{error}");
        assert!(is_judged(30_000, 26).unwrap());
        assert!(!is_judged(300_000, 2).unwrap());
    }

    #[test]
    fn too_much_is_not_held() {
        assert!(!judge("x", &of(|_| 41.0), Some(40.0)).holds);
        assert!(judge("x", &of(|_| 41.0), None).holds);
    }
}
