//! `p2p queues`: how deep they are, and the dead letters.
//!
//! As JSON: `{"queues": [QueueState]}`, `{"letters": [Letter], "total"}`, and
//! `{"requeued", "left"}`.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use shared::job::Job;
use shared::queue::{DeadLetter, Inspector, Permissions, Queue, Role, Topology};
use shared::settings::Vars;

use super::QueueServer;
use super::broker::{self, QueueState};
use super::status::queues_table;
use crate::format::{self, counted};
use crate::{EXIT_TROUBLE, NotAllowed};

/// Characters of a body that is no job, as text shows it; JSON has all of it.
const SHOWN_BODY_CHARS: usize = 400;

/// `p2p queues …`
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct QueuesArgs {
    #[command(subcommand)]
    command: Option<Command>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Messages that no worker could read, or that killed every worker that took them.
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Commands for the broker that give coordinator, worker and operator what each needs, and no more.
    ///
    /// Makes nothing itself, and asks no server. Make the users first (`rabbitmqctl add_user`). Exit codes: 0
    /// printed, 64 a setting is not allowed.
    Permissions {
        /// Virtual host of this installation alone.
        #[arg(long, default_value = "p2p")]
        vhost: String,
    },
}

#[derive(Subcommand)]
enum DeadCommand {
    /// Where they died, why, how often, and what they say. They stay where they are.
    ///
    /// Exit codes: 0 there are none, 1 the broker can't be used, 3 there are some, 64 a setting or an
    /// argument is not allowed.
    Show {
        /// Dead letters to show, oldest first, 1 to 1000.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000), default_value_t = 10)]
        limit: u32,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Publish them again to the queues they came from, each acknowledged when the broker has it.
    ///
    /// A job that its ledger no longer wants is dropped by the worker that takes it. Exit codes: 0 done,
    /// 1 the broker can't be used, 3 some are left, for the queue they came from is not one of ours, 64 a
    /// setting or an argument is not allowed.
    Requeue {
        /// How many, oldest first.
        #[arg(value_parser = clap::value_parser!(u32).range(1..), required_unless_present = "all")]
        number: Option<u32>,
        /// All that are there now.
        #[arg(long, conflicts_with = "number")]
        all: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
struct Queues<'a> {
    queues: &'a [QueueState],
}

#[derive(Serialize)]
struct Letters {
    /// How many there are, with those that are not shown.
    total: u32,
    letters: Vec<Letter>,
}

/// A dead letter, read.
#[derive(Debug, Serialize)]
struct Letter {
    /// Queue that it came from.
    queue: Option<String>,
    /// `rejected`: no worker could read it. `delivery_limit`: it killed every worker that took it.
    reason: Option<String>,
    /// How often it died there.
    count: Option<i64>,
    /// When it last died.
    time: Option<String>,
    /// The job, if it is one.
    job: Option<Job>,
    /// The body, if it is text.
    text: Option<String>,
    bytes: usize,
    headers: std::collections::BTreeMap<String, Value>,
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        let death = letter.headers.get("x-death").and_then(|deaths| deaths.get(0)).cloned();
        let death = death.unwrap_or_default();
        Self {
            queue: letter.queue,
            reason: letter.reason,
            count: death["count"].as_i64(),
            time: death["time"].as_str().map(str::to_owned),
            job: serde_json::from_slice(&letter.body).ok(),
            bytes: letter.body.len(),
            text: String::from_utf8(letter.body).ok(),
            headers: letter.headers,
        }
    }
}

/// Does what is asked.
pub async fn run(args: QueuesArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        None => show(args.json).await,
        Some(Command::Dead(DeadCommand::Show { limit, json })) => show_dead(limit, json).await,
        Some(Command::Dead(DeadCommand::Requeue { number, all: _, json })) => {
            requeue_dead(number, json).await
        }
        Some(Command::Permissions { vhost }) => print_permissions(&vhost),
    }
}

fn print_permissions(vhost: &str) -> anyhow::Result<ExitCode> {
    let mut vars = Vars::from_environment();
    let prefix = vars.prefix("AMQP_PREFIX", "p2p");
    let topology = Topology::new(&vars.finish(prefix)?);
    let vhost = quoted(vhost);
    let mut text = format!("rabbitmqctl add_vhost {vhost}\n");
    for role in Role::ALL {
        let Permissions { configure, write, read } = topology.permissions(role);
        let [configure, write, read] = [configure, write, read].map(|pattern| quoted(&pattern));
        let user = format!("p2p-{}", role.as_str());
        writeln!(text, "rabbitmqctl set_permissions -p {vhost} {user} {configure} {write} {read}")?;
    }
    crate::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The broker is needed here, the database is not.
async fn connect() -> anyhow::Result<(Inspector, QueueServer)> {
    let mut vars = Vars::from_environment();
    let server = QueueServer::read(&mut vars);
    let server = vars.finish(server)?;
    Ok((server.connect("p2p").await.context("RabbitMQ")?, server))
}

async fn show(json: bool) -> anyhow::Result<ExitCode> {
    let (inspector, server) = connect().await?;
    let queues = broker::list(&inspector, &server).await.context("RabbitMQ")?;
    inspector.close().await?;
    let is_dead = |queue: &QueueState| queue.which == Queue::Dead && queue.ready > Some(0);
    let has_trouble = queues.iter().any(|queue| !queue.exists || is_dead(queue));
    if json {
        crate::print_json(&Queues { queues: &queues })?;
    } else {
        let mut text = queues_table(&queues).to_string();
        if let Some(away) = queues.iter().find_map(|queue| queue.unacked_away.as_ref()) {
            writeln!(text, "unacked: {away}")?;
        } else if server.management.is_none() {
            writeln!(text, "unacked: RABBITMQ_MANAGEMENT_URL is not set")?;
        }
        crate::print(&text)?;
    }
    Ok(if has_trouble { ExitCode::from(EXIT_TROUBLE) } else { ExitCode::SUCCESS })
}

async fn show_dead(limit: u32, json: bool) -> anyhow::Result<ExitCode> {
    let (inspector, _) = connect().await?;
    let total = inspector.depth(Queue::Dead).await.context("RabbitMQ")?;
    let total = total.map_or(0, |depth| depth.ready);
    let letters = if total > 0 {
        inspector.dead(limit).await.context("RabbitMQ")?
    } else {
        // There may be no queue to ask.
        Vec::new()
    };
    inspector.close().await?;
    let letters = Letters { total, letters: letters.into_iter().map(Letter::from).collect() };
    if json {
        crate::print_json(&letters)?;
    } else {
        crate::print(&text(&letters)?)?;
    }
    Ok(if total > 0 { ExitCode::from(EXIT_TROUBLE) } else { ExitCode::SUCCESS })
}

async fn requeue_dead(number: Option<u32>, json: bool) -> anyhow::Result<ExitCode> {
    let (inspector, server) = connect().await?;
    let there = inspector.depth(Queue::Dead).await.context("RabbitMQ")?;
    let Some(there) = there else {
        let queue = server.topology.queue(Queue::Dead);
        return Err(
            NotAllowed(format!("there is no queue {queue}: see AMQP_URL and AMQP_PREFIX")).into()
        );
    };
    // No more than are there now: one that dies again at once would be sent round and round.
    let number = number.unwrap_or(u32::MAX).min(there.ready);
    let done = inspector.requeue_dead(number).await.context("RabbitMQ")?;
    inspector.close().await?;
    if json {
        crate::print_json(&done)?;
    } else {
        let requeued = counted(done.requeued.into(), "dead letter", "dead letters");
        let mut text = format!("{requeued} requeued\n");
        if done.left > 0 {
            writeln!(text, "{} left: the queue they came from is not one of ours", done.left)?;
        }
        crate::print(&text)?;
    }
    Ok(if done.left > 0 { ExitCode::from(EXIT_TROUBLE) } else { ExitCode::SUCCESS })
}

fn text(Letters { total, letters }: &Letters) -> Result<String, std::fmt::Error> {
    if *total == 0 {
        return Ok("no dead letters\n".to_owned());
    }
    let mut text = String::new();
    for (number, letter) in letters.iter().enumerate() {
        let unknown = || "unknown".to_owned();
        writeln!(
            text,
            "{}. from {}: {}, {}, last {}",
            number + 1,
            letter.queue.clone().unwrap_or_else(unknown),
            letter.reason.clone().unwrap_or_else(unknown),
            letter.count.map_or_else(unknown, |count| counted(count, "time", "times")),
            letter.time.clone().unwrap_or_else(unknown),
        )?;
        for (name, value) in letter.headers.iter().filter(|(name, _)| *name != "x-death") {
            writeln!(text, "   {name}: {}", format::name(&value.to_string()))?;
        }
        writeln!(text, "   {}", body(letter))?;
    }
    let more = usize::try_from(*total).unwrap_or(usize::MAX).saturating_sub(letters.len());
    if more > 0 {
        writeln!(text, "and {more} more, see --limit")?;
    }
    Ok(text)
}

fn body(letter: &Letter) -> String {
    if let Some(job) = &letter.job {
        let work = serde_json::to_string(&job.work).unwrap_or_default();
        return format!(
            "job {} of batch {}, issue {}, expires {}: {}",
            job.ordinal,
            job.batch_id,
            job.issue,
            format::instant(job.expires_at),
            format::name(&work)
        );
    }
    match &letter.text {
        Some(text) => {
            let shown: String = text.chars().take(SHOWN_BODY_CHARS).collect();
            format!("{} bytes, no job: {}", letter.bytes, format::name(&shown))
        }
        None => format!("{} bytes, no text", letter.bytes),
    }
}
