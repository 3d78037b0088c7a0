//! No panel of the dashboards is empty: each query is asked of a real Prometheus that scraped a real fleet,
//! or of the real database as `p2p_reader`, with variables and macros replaced as Grafana does it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use load_tests::fleet::Fleet;
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row};

use crate::monitors::{Prometheus, Watched, directory};
use crate::step;

/// Markets of which several have complete books on both sides, so that there are spreads.
const MARKET: &str = "--fiats 6 --ads 2000 --churn-per-minute 0 --change-per-minute 30 --tie-shuffle-per-mille 0 --latency-ms 20 --fault http500:5 --fault new-field:5";
/// What the queries look back over: all of this test.
const MINUTES: i64 = 15;
/// Longest wait for a figure: scrapes, rules, and looks of the coordinator.
const PATIENCE: Duration = Duration::from_mins(2);
const PULSE: Duration = Duration::from_secs(2);
/// Exit code of a request that the leader refused.
const REFUSED: i32 = 3;
/// What Grafana makes of a scrape interval of ten seconds.
const RATE_INTERVAL: &str = "40s";

pub(crate) async fn run() -> Result<()> {
    step("a fleet and a Prometheus for the dashboards");
    let fleet = Fleet::start(MARKET).await?;
    let home = std::env::temp_dir().join(format!("{}_panels", fleet.name));
    let seen = watch(&fleet, &home).await;
    fleet.remove().await?;
    std::fs::remove_dir_all(home)?;
    seen
}

async fn watch(fleet: &Fleet, home: &Path) -> Result<()> {
    let prometheus = Prometheus::start(home, None).await?;
    let witness = [("WITNESS_MARKETS_PER_BATCH", "3"), ("EXTRACTION_INTERVAL_MINUTES", "1440")];
    let mut settings = witness.to_vec();
    let management = management_url()?;
    settings.push(("RABBITMQ_MANAGEMENT_URL", &management));
    let coordinator = Watched::start(fleet, home, "coordinator", &settings)?;
    // Slow enough to be scraped a few times meanwhile.
    let rate = [("INITIAL_RATE_LIMIT", "600"), ("MAX_RATE_LIMIT", "600")];
    let worker = Watched::start(fleet, home, "worker", &rate)?;
    prometheus.watch("coordinators", &[&coordinator])?;
    prometheus.watch("workers", &[&worker])?;
    for number in 1..=2 {
        step(&format!("batch {number}"));
        batch(fleet).await?;
    }
    let reader = reader(fleet).await?;
    let mut panels = 0;
    for (file, dashboard) in dashboards()? {
        step(&format!("the queries of {file}"));
        let variables = variables(&dashboard, &reader, &prometheus).await.context(file.clone())?;
        for panel in dashboard["panels"].as_array().context("panels")? {
            let title = panel["title"].as_str().context("a title")?;
            for target in panel["targets"].as_array().context("targets")? {
                let asked = ask(target, &variables, &prometheus, &reader).await;
                asked.with_context(|| format!("{file}: {title}"))?;
            }
            panels += 1;
        }
    }
    println!("   {panels} panels, none is empty");
    Ok(())
}

/// One batch, asked for as an operator does, to its close.
pub(crate) async fn batch(fleet: &Fleet) -> Result<()> {
    const CLOSED: &str = "SELECT count(*) FROM pipeline.batches WHERE state = 'closed'";
    let closed = fleet.number(CLOSED).await?;
    begin_batch(fleet).await?;
    fleet.wait_for(CLOSED, closed + 1).await
}

/// Asks for a batch until it is opened: just before the slot of midnight the leader refuses.
pub(crate) async fn begin_batch(fleet: &Fleet) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let rerun = ["batch", "rerun", "--why", "e2e", "--wait", "60"];
        let rerun = fleet.command("p2p", &rerun)?.output().await?;
        if rerun.status.success() {
            return Ok(());
        }
        ensure!(rerun.status.code() == Some(REFUSED) && Instant::now() < end, "{rerun:?}");
        tokio::time::sleep(PULSE).await;
    }
}

/// As Grafana connects.
async fn reader(fleet: &Fleet) -> Result<PgPool> {
    let options: PgConnectOptions = fleet.database_url.parse()?;
    let pool = PgPoolOptions::new().max_connections(1);
    Ok(pool.connect_with(options.username("p2p_reader")).await?)
}

pub(crate) fn management_url() -> Result<String> {
    #[expect(clippy::disallowed_methods, reason = "the servers of a test run are told this way")]
    std::env::var("RABBITMQ_MANAGEMENT_URL").context("run this by `make e2e`")
}

/// File names and dashboards.
fn dashboards() -> Result<Vec<(String, Value)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory().join("grafana/dashboards"))? {
        let path = entry?.path();
        let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
        let dashboard = serde_json::from_str(&std::fs::read_to_string(&path)?);
        found.push((name.clone(), dashboard.context(name)?));
    }
    ensure!(!found.is_empty(), "there are no dashboards");
    found.sort_by(|(left, _), (right, _)| left.cmp(right));
    Ok(found)
}

/// The first value of each variable, as a dashboard has it that nobody touched.
async fn variables(
    dashboard: &Value,
    reader: &PgPool,
    prometheus: &Prometheus,
) -> Result<Vec<(String, String)>> {
    let mut known: Vec<(String, String)> = vec![("__rate_interval".into(), RATE_INTERVAL.into())];
    for variable in dashboard["templating"]["list"].as_array().context("variables")? {
        let name = variable["name"].as_str().context("a name")?;
        let query = &variable["query"];
        let value = match (variable["type"].as_str(), variable["datasource"]["type"].as_str()) {
            (Some("custom"), _) => query
                .as_str()
                .and_then(|values| values.split(',').next())
                .context("values")?
                .to_owned(),
            (Some("query"), Some("postgres")) => {
                let sql = replaced(query.as_str().context("a query")?, &known);
                let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(reader).await?;
                row.try_get(0)?
            }
            (Some("query"), Some("prometheus")) => {
                let query = query["query"].as_str().context("a query")?;
                let inner =
                    query.strip_prefix("label_values(").and_then(|query| query.strip_suffix(')'));
                let (metric, label) =
                    inner.and_then(|inner| inner.split_once(", ")).context("label_values")?;
                let found = prometheus.ask(metric, MINUTES).await?;
                ensure!(
                    found.iter().any(|series| series["metric"][label].is_string()),
                    "{query} finds nothing"
                );
                variable["allValue"].as_str().context("all values")?.to_owned()
            }
            other => bail!("{name}: {other:?} is not known"),
        };
        known.push((name.to_owned(), value));
    }
    Ok(known)
}

fn replaced(query: &str, variables: &[(String, String)]) -> String {
    variables
        .iter()
        .fold(query.to_owned(), |query, (name, value)| query.replace(&format!("${name}"), value))
}

async fn ask(
    target: &Value,
    variables: &[(String, String)],
    prometheus: &Prometheus,
    reader: &PgPool,
) -> Result<()> {
    match target["datasource"]["uid"].as_str() {
        Some("p2p-prometheus") => {
            let expression = replaced(target["expr"].as_str().context("expr")?, variables);
            ask_prometheus(prometheus, &expression).await
        }
        Some("p2p-postgres") => {
            let sql = replaced(target["rawSql"].as_str().context("rawSql")?, variables);
            ask_database(reader, &sql, target["format"] == "time_series").await
        }
        other => bail!("no datasource {other:?} is provisioned"),
    }
}

/// At least one number, which scrapes and rules may still have to bring.
async fn ask_prometheus(prometheus: &Prometheus, expression: &str) -> Result<()> {
    ensure!(!expression.contains('$'), "a variable is not known: {expression}");
    let end = Instant::now() + PATIENCE;
    loop {
        let found = prometheus.ask(expression, MINUTES).await?;
        let is_number = |value: &Value| value[1].as_str().is_some_and(|value| value != "NaN");
        let mut values = found.iter().filter_map(|series| series["values"].as_array()).flatten();
        if values.any(is_number) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "empty: {expression}");
        tokio::time::sleep(PULSE).await;
    }
}

/// At least one row; of series a time in the first column, and a number that is not NULL.
async fn ask_database(reader: &PgPool, sql: &str, is_series: bool) -> Result<()> {
    let sql = with_macros(sql)?;
    ensure!(!sql.contains('$'), "a variable or macro is not known: {sql}");
    let query = if is_series {
        format!(
            "SELECT count(*) FROM ({sql}) AS q WHERE q.time::timestamptz IS NOT NULL AND (to_jsonb(q) - 'time' - 'metric') <> '{{}}' AND jsonb_strip_nulls(to_jsonb(q) - 'time' - 'metric') <> '{{}}'"
        )
    } else {
        format!("SELECT count(*) FROM ({sql}) AS q")
    };
    let rows: i64 =
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(reader).await.context(sql.clone())?;
    ensure!(rows > 0, "empty: {sql}");
    Ok(())
}

/// What Grafana makes of its macros for `PostgreSQL`.
fn with_macros(sql: &str) -> Result<String> {
    let from = format!("(now() - interval '{MINUTES} minutes')");
    let mut sql = sql.replace("$__timeFrom()", &from).replace("$__timeTo()", "now()");
    while let Some(start) = sql.find("$__timeFilter(") {
        let inner = start + "$__timeFilter(".len();
        let end = inner + sql[inner..].find(')').context("a closing bracket")?;
        let filter = format!("{} BETWEEN {from} AND now()", &sql[inner..end]);
        sql.replace_range(start..=end, &filter);
    }
    Ok(sql)
}
