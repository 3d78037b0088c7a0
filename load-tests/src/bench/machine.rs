//! What a measurement ran on, which its figures mean little without.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Servers;
use shared::queue::Management;
use shared::settings::Vars;
use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use crate::peers::Place;

/// Machine, servers and programs. It is asked before anything is measured: what is missing is told at once,
/// and the load is that of others.
pub(crate) async fn describe() -> Result<Vec<String>> {
    let servers = Servers::from_environment()?;
    let cpus = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let model = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = model.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':']));
    let mut programs = format!("bench {}", shared::build::version());
    if let Some(tree) = working_tree().await {
        programs = format!("{programs}, {tree}");
    }
    Ok(vec![
        format!("{cpus} cores, {model}; load before {}", load.join(" ")),
        postgres(&servers).await?,
        format!("RabbitMQ {}, Redis {}", rabbitmq(&servers).await?, redis(&servers).await?),
        programs,
    ])
}

async fn postgres(servers: &Servers) -> Result<String> {
    let mut connection = PgConnection::connect(&servers.database_url).await?;
    let told = sqlx::query_scalar(
        "SELECT 'PostgreSQL ' || current_setting('server_version') || ', shared_buffers '
                || current_setting('shared_buffers') || ', synchronous_commit '
                || current_setting('synchronous_commit') || ', fsync ' || current_setting('fsync')",
    );
    Ok(told.fetch_one(&mut connection).await?)
}

async fn rabbitmq(servers: &Servers) -> Result<String> {
    Ok(management(servers)?.version().await?)
}

/// The management of the broker, which must be set.
pub(crate) fn management(servers: &Servers) -> Result<Management> {
    let url = servers.amqp_url.parse().context("AMQP_URL")?;
    let mut vars = Vars::from_environment();
    let management = Management::read(&mut vars, &url);
    vars.finish(management)?.context(
        "RABBITMQ_MANAGEMENT_URL is not set: RabbitMQ's version and process are asked for there",
    )
}

async fn redis(servers: &Servers) -> Result<String> {
    redis_info(servers).await?.get("redis_version").context("Redis does not tell its version")
}

/// What Redis tells of its process.
pub(crate) async fn redis_info(servers: &Servers) -> Result<redis::InfoDict> {
    let client = redis::Client::open(servers.redis_url.as_str()).context("REDIS_URL")?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    Ok(redis::cmd("INFO").arg("server").query_async(&mut connection).await?)
}

/// The commit of the directory that this runs in. `None`: there is no repository, or no git.
async fn working_tree() -> Option<String> {
    let commit = git(&["rev-parse", "--short", "HEAD"]).await?;
    let status = git(&["status", "--porcelain", "--untracked-files=no"]).await?;
    let changed = if status.is_empty() { "" } else { " and changes" };
    Some(format!("in a working tree of commit {commit}{changed}"))
}

async fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).stdin(Stdio::null()).output().await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Versions of what the peers are made of.
pub(crate) async fn describe_peers(place: &Place) -> Result<String> {
    const ASK: &str = "import platform, sys; from importlib.metadata import distributions; \
                       have = {one.metadata['Name'].lower(): one.version for one in distributions()}; \
                       print('Python', platform.python_version() + ''.join(f', {name} {have[name]}' for name in sys.argv[1:] if name in have))";
    const PACKAGES: [&str; 8] =
        ["celery", "redis", "requests", "psycopg", "aiohttp", "asyncpg", "orjson", "uvloop"];
    let output = Command::new(place.python()?).args(["-c", ASK]).args(PACKAGES).output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "versions of the peers: {}", error.trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
