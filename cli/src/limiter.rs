//! `p2p limiter`: what the shared limiters do, and an operator's word to them.
//!
//! Works on Redis alone; the database only tells which egresses there are.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use shared::exchange::Exchange;
use shared::limiter::{Breaker, Control, Limiter, Status};
use shared::settings::{Database, Redis, Vars};

/// `p2p limiter …`
#[derive(Subcommand)]
pub enum Command {
    /// Rate, limits, pause, breaker and use of every egress (`REDIS_URL`, `DATABASE_URL`).
    Show {
        #[command(flatten)]
        which: Which,
        /// As JSON; times in microseconds, counted from now.
        #[arg(long)]
        json: bool,
    },
    /// Set rates, in requests per minute. The rate goes on adapting from there; floor and ceiling
    /// stay until they are set again, or until nobody asked for a day.
    Set {
        #[command(flatten)]
        which: Which,
        /// Rate now. What was learnt of the exchange's limit is forgotten.
        #[arg(long, required_unless_present_any = ["min", "max"], value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rate: Option<u32>,
        /// Floor.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        min: Option<u32>,
        /// Ceiling.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        max: Option<u32>,
    },
    /// Send nothing any more.
    Pause {
        #[command(flatten)]
        which: Which,
        /// For so long, such as 90s, 10m or 2h; without it until resumed.
        #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
        length: Option<Duration>,
    },
    /// Go on after a pause, the exchange's own included, and close the breaker.
    Resume {
        #[command(flatten)]
        which: Which,
    },
}

/// The limiters that are meant.
#[derive(Args)]
pub struct Which {
    #[arg(long, default_value = "binance")]
    exchange: Exchange,
    /// Only this egress; else all of the workers seen within a day, or without a database `default`.
    #[arg(long, value_name = "NAME")]
    egress: Option<String>,
}

/// A number and its unit: s, m, h.
fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || "allowed is a number of s, m or h, such as 10m".to_owned();
    let (count, unit) = text.split_at_checked(text.len().wrapping_sub(1)).ok_or_else(wrong)?;
    let count: u64 = count.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => Some(count),
        "m" => count.checked_mul(60),
        "h" => count.checked_mul(3600),
        _ => None,
    };
    let most = Duration::from_hours(365 * 24);
    seconds
        .map(Duration::from_secs)
        .filter(|time| !time.is_zero() && *time <= most)
        .ok_or_else(wrong)
}

/// Does it.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Show { which, json } => show(&which, json).await,
        Command::Set { which, rate, min, max } => {
            control(&which, Control::Set { rate, floor: min, ceiling: max }).await
        }
        Command::Pause { which, length } => {
            let length = length.map(|length| u64::try_from(length.as_micros())).transpose()?;
            control(&which, Control::Pause { length }).await
        }
        Command::Resume { which } => control(&which, Control::Resume).await,
    }
}

async fn control(which: &Which, control: Control) -> anyhow::Result<ExitCode> {
    for (egress, limiter) in limiters(which).await? {
        if let Err(objection) = limiter.control(control).await.context("Redis")? {
            bail!("egress {egress}: {objection}");
        }
        println!("egress {egress}: done");
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(which: &Which, json: bool) -> anyhow::Result<ExitCode> {
    let mut all = Vec::new();
    for (egress, limiter) in limiters(which).await? {
        all.push((egress, limiter.show().await.context("Redis")?));
    }
    if json {
        let limiters: Vec<_> = all
            .iter()
            .map(|(egress, status)| {
                json!({ "exchange": which.exchange, "egress": egress, "limiter": status })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&limiters)?);
    } else {
        print!("{}", table(&all)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// The limiters, by egress.
async fn limiters(which: &Which) -> anyhow::Result<Vec<(String, Limiter)>> {
    let mut vars = Vars::from_environment();
    let redis = Redis::read(&mut vars);
    let has_database = which.egress.is_none() && vars.optional("DATABASE_URL").is_some();
    let database = has_database.then(|| Database::read(&mut vars));
    let (redis, database) = vars.finish((redis, database))?;
    let egresses = match (&which.egress, database) {
        (Some(egress), _) => vec![egress.clone()],
        (None, Some(database)) => {
            let pool = shared::store::connect(&database, "p2p").await?;
            sqlx::query_scalar(
                "SELECT DISTINCT egress_id FROM pipeline.workers WHERE exchange_id = $1 ORDER BY 1",
            )
            .bind(which.exchange.id())
            .fetch_all(&pool)
            .await
            .context("the workers can't be listed")?
        }
        (None, None) => vec!["default".to_owned()],
    };
    if egresses.is_empty() {
        bail!("no worker was seen within a day: name the egress by --egress");
    }
    let limiter = |egress: String| {
        let limiter = Limiter::new(&redis, which.exchange, &egress).context("REDIS_URL")?;
        Ok((egress, limiter))
    };
    egresses.into_iter().map(limiter).collect()
}

fn table(all: &[(String, Option<Status>)]) -> Result<String, std::fmt::Error> {
    let mut text = format!(
        "{:<16} {:>7} {:>11} {:>16} {:>14} {:<20} {:>7} {:>9} {:>8}\n",
        "egress",
        "rate",
        "from-to",
        "refused at",
        "pause",
        "breaker",
        "workers",
        "in flight",
        "sent/min"
    );
    for (egress, status) in all {
        let Some(now) = status else {
            writeln!(text, "{egress:<16} not used within a day")?;
            continue;
        };
        let range = format!("{:.0}-{:.0}", now.floor, now.ceiling);
        let refused = match (now.limit, now.limit_age) {
            (Some(limit), Some(age)) => format!("{limit:.0} ({} ago)", seconds(age)),
            _ => "-".to_owned(),
        };
        let by_operator = if now.is_held { " by operator" } else { "" };
        let pause = match now.pause {
            0 => "-".to_owned(),
            left => format!("{}{by_operator}", seconds(left)),
        };
        let breaker = match now.breaker {
            Breaker::Open => format!("open, {} (×{})", seconds(now.open), now.openings),
            other => other.as_str().to_owned(),
        };
        let flight = format!("{}/{}", now.in_flight, now.max_in_flight);
        writeln!(
            text,
            "{egress:<16} {:>7.1} {range:>11} {refused:>16} {pause:>14} {breaker:<20} {:>7} {flight:>9} {:>8}",
            now.rate, now.workers, now.sent
        )?;
    }
    Ok(text)
}

fn seconds(micros: u64) -> String {
    format!("{} s", micros.div_ceil(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(parse_time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(parse_time("2h"), Ok(Duration::from_hours(2)));
        for wrong in ["", "10", "m", "0s", "-1m", "9999999h", "1µ"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
