//! `p2p limiter`: what the shared limiters do, and an operator's word to them.
//!
//! Works on Redis alone; the database only tells which egresses there are.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use shared::exchange::Exchange;
use shared::limiter::{Breaker, Control, DEFAULT_EGRESS, Limiter, Status};
use shared::settings::{Database, Redis, Vars};

use crate::format::{self, Table, UNKNOWN};
use crate::span::Span;
use crate::{NotAllowed, NotFound};

/// `p2p limiter …`
#[derive(Subcommand)]
pub enum Command {
    /// Rate, limits, pause, breaker and use of every egress (`REDIS_URL`, `DATABASE_URL`).
    ///
    /// Exit codes: 0 shown, 1 Redis can't be used, 64 a setting is not allowed, 66 nobody used the egress.
    Show {
        #[command(flatten)]
        which: Which,
        /// As JSON; times in microseconds, counted from now.
        #[arg(long)]
        json: bool,
    },
    /// Set rates, in requests per minute. The rate goes on adapting from there; floor and ceiling
    /// stay until they are set again, or until nobody asked for a day.
    ///
    /// Exit codes: 0 set, 1 Redis can't be used, 64 a rate is not allowed for one of the egresses, and none
    /// was set, 66 nobody used the egress.
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
    ///
    /// Exit codes: 0 paused, 1 Redis can't be used, 64 the span is not allowed, 66 nobody used the egress.
    Pause {
        #[command(flatten)]
        which: Which,
        /// For so long, such as 90s, 10m or 2h; without it until resumed.
        #[arg(long = "for", value_name = "SPAN")]
        length: Option<Span>,
    },
    /// Go on after a pause, the exchange's own included, and close the breaker.
    ///
    /// Exit codes: 0 resumed, 1 Redis can't be used, 66 nobody used the egress.
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
    /// Only this egress, for which no database is asked; else all of the workers seen within a day, or
    /// without `DATABASE_URL` the egress `default`.
    #[arg(long, value_name = "NAME")]
    egress: Option<String>,
}

/// Does it.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Show { which, json } => show(&which, json).await,
        Command::Set { which, rate, min, max } => {
            control(&which, Control::Set { rate, floor: min, ceiling: max }).await
        }
        Command::Pause { which, length } => {
            let micros = |Span(length): Span| length.num_microseconds().unwrap_or(i64::MAX);
            let length = length.map(|length| micros(length).cast_unsigned());
            control(&which, Control::Pause { length }).await
        }
        Command::Resume { which } => control(&which, Control::Resume).await,
    }
}

async fn control(which: &Which, control: Control) -> anyhow::Result<ExitCode> {
    let limiters = limiters(which).await?;
    let allowed = |egress: &str, answer: Result<(), String>| {
        answer.map_err(|objection| NotAllowed(format!("egress {egress}: {objection}")))
    };
    // All or none: what one would refuse is set for no other.
    for (egress, limiter) in &limiters {
        allowed(egress, limiter.try_control(control).await.context("Redis")?)?;
    }
    for (egress, limiter) in limiters {
        allowed(&egress, limiter.control(control).await.context("Redis")?)?;
        crate::print(&format!("egress {egress}: done\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(which: &Which, json: bool) -> anyhow::Result<ExitCode> {
    let mut all = Vec::new();
    for (egress, limiter) in limiters(which).await? {
        let status = limiter.show().await.context("Redis")?;
        all.push(Shown { exchange: which.exchange, egress, limiter: status });
    }
    if json {
        crate::print_json(&all)?;
    } else {
        crate::print(&table(&all).to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A limiter and how it is.
#[derive(Debug, Serialize)]
struct Shown {
    exchange: Exchange,
    egress: String,
    /// `None`: nobody used it for a day.
    limiter: Option<Status>,
}

/// The limiters that are meant, by egress. One that is named must be in use: an operator who pauses
/// what nobody uses should know.
async fn limiters(which: &Which) -> anyhow::Result<Vec<(String, Limiter)>> {
    let mut vars = Vars::from_environment();
    let redis = Redis::read(&mut vars);
    let has_database = which.egress.is_none() && vars.optional("DATABASE_URL").is_some();
    let database = has_database.then(|| Database::read(&mut vars));
    let (redis, database) = vars.finish((redis, database))?;
    let limiter = |egress: String| {
        let limiter = Limiter::new(&redis, which.exchange, &egress).context("REDIS_URL")?;
        anyhow::Ok((egress, limiter))
    };
    if let Some(database) = database {
        let egresses = list_egresses(&database, which.exchange).await?;
        if egresses.is_empty() {
            let text = "no worker was seen within a day: name an egress by --egress";
            return Err(NotFound(text.to_owned()).into());
        }
        return egresses.into_iter().map(limiter).collect();
    }
    let named = limiter(which.egress.clone().unwrap_or_else(|| DEFAULT_EGRESS.to_owned()))?;
    if named.1.show().await.context("Redis")?.is_none() {
        let text = format!("no worker used the egress {:?} within a day", named.0);
        return Err(NotFound(text).into());
    }
    Ok(vec![named])
}

/// Egresses of workers seen within a day.
async fn list_egresses(database: &Database, exchange: Exchange) -> anyhow::Result<Vec<String>> {
    let pool = shared::store::connect(database, "p2p").await;
    let pool = pool.context(
        "the egresses can't be listed, but one can be named without the database, by --egress",
    )?;
    let egresses = sqlx::query_scalar(
        "SELECT DISTINCT egress_id FROM pipeline.workers WHERE exchange_id = $1 ORDER BY 1",
    );
    egresses.bind(exchange.id()).fetch_all(&pool).await.context("the workers can't be listed")
}

fn table(all: &[Shown]) -> Table {
    let mut table = Table::new(&[
        "egress",
        ">rate",
        ">floor",
        ">ceiling",
        "refused at",
        "pause",
        "breaker",
        ">workers",
        ">waiting",
        ">in flight",
        ">sent/min",
    ]);
    for shown in all {
        let Some(now) = &shown.limiter else {
            table.row(vec![shown.egress.clone(), "not used within a day".to_owned()]);
            continue;
        };
        let refused = match (now.limit, now.limit_age) {
            (Some(limit), Some(age)) => format!("{limit:.1}, {} ago", seconds(age)),
            _ => UNKNOWN.to_owned(),
        };
        let pause = match (now.pause, now.is_held) {
            (0, _) => UNKNOWN.to_owned(),
            (left, false) => seconds(left),
            (left, true) => format!("{} by an operator", seconds(left)),
        };
        let breaker = match now.breaker {
            Breaker::Open => format!("open for {}, opening {}", seconds(now.open), now.openings),
            other => other.as_str().to_owned(),
        };
        table.row(vec![
            shown.egress.clone(),
            format!("{:.1}", now.rate),
            format!("{:.0}", now.floor),
            format!("{:.0}", now.ceiling),
            refused,
            pause,
            breaker,
            now.workers.to_string(),
            now.waiting.to_string(),
            format!("{}/{}", now.in_flight, now.max_in_flight),
            now.sent.to_string(),
        ]);
    }
    table
}

fn seconds(micros: u64) -> String {
    format::span(i64::try_from(micros.div_ceil(1_000_000)).unwrap_or(i64::MAX))
}
