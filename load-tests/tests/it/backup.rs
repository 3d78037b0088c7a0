//! What the runbook says of dumps is run as it stands there.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::{Fleet, program};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};
use tokio::process::Command;
use url::Url;

/// Every table of ours with its rows, partitions counted with their parent.
const ROWS: &str = "SELECT n.nspname || '.' || c.relname,
           (xpath('/row/count/text()', query_to_xml(format('SELECT count(*) FROM %I.%I', n.nspname, c.relname), false, true, '')))[1]::text
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname IN ('warehouse', 'pipeline') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
     ORDER BY 1";

/// The shell script below a heading of the runbook.
fn script(heading: &str) -> Result<String> {
    let runbook =
        Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs").join("OPERATIONS.md");
    let runbook = std::fs::read_to_string(runbook)?;
    let (_, section) = runbook.split_once(&format!("\n### {heading}\n")).context("the heading")?;
    let (_, script) = section.split_once("\n```sh\n").context("a script")?;
    let (script, _) = script.split_once("\n```\n").context("its end")?;
    Ok(script.to_owned())
}

/// Runs a script as an operator does, with `p2p` on the path.
async fn run(fleet: &Fleet, heading: &str, variables: &[(&str, &str)]) -> Result<String> {
    let p2p = program("p2p")?;
    let directory = Path::new(p2p.as_std().get_program()).parent().context("a directory")?;
    // The settings of the fleet, but another program.
    let settings = fleet.command("p2p", &[])?;
    let mut shell = Command::new("sh");
    shell.args(["-euc", &format!("PATH={}:$PATH\n{}", directory.display(), script(heading)?)]);
    shell.envs(settings.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("DATABASE_URL", for_libpq(&fleet.database_url)?);
    let output = shell.envs(variables.iter().copied()).output().await?;
    ensure!(output.status.success(), "{heading}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Without the parameters of our client, which those of `PostgreSQL` do not know.
fn for_libpq(url: &str) -> Result<String> {
    let mut url = Url::parse(url)?;
    url.set_query(None);
    Ok(url.to_string())
}

async fn rows(pool: &PgPool) -> Result<Vec<(String, String)>> {
    Ok(sqlx::query_as(ROWS).fetch_all(pool).await?)
}

/// What commands that read say of a database.
async fn told(fleet: &Fleet, database_url: &str) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for args in [
        &["batches", "--last", "5", "--json"][..],
        &["batch", "show", "latest", "--json"],
        &["batch", "show", "open", "--json"],
        &["quality", "--json"],
        &["quarantine", "list", "--json"],
        &["dictionary"],
    ] {
        let mut command = fleet.command("p2p", args)?;
        let output = command.env("DATABASE_URL", database_url).output().await?;
        told.push(format!(
            "{args:?} {:?} {}",
            output.status.code(),
            String::from_utf8(output.stdout)?
        ));
    }
    Ok(told)
}

/// A dump, taken while a batch is open, and restored into an empty database: all rows are there, commands say
/// the same of both, the restored one equals what the exchange showed, and the system goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_restored_as_the_runbook_says() -> Result<()> {
    let fleet =
        Fleet::start("--fiats 2 --ads 300 --churn-per-minute 0 --fault bad-price:300").await?;
    let worker = fleet.worker("a", &[])?;
    ensure!(fleet.batch(&[]).await? == 3, "partial, for ads are in quarantine");
    drop(worker);
    // A batch that nobody works on.
    let open = fleet.coordinator(&[])?;
    fleet.wait_for("SELECT count(*) FROM pipeline.jobs WHERE state = 'published'", 1).await?;
    drop(open);

    let backup = std::env::temp_dir().join(format!("{}_backup", fleet.name));
    let backup_path = backup.to_str().context("a path")?;
    run(&fleet, "Take a dump", &[("BACKUP", backup_path)]).await?;
    let name = format!("{}_restored", fleet.name);
    fleet.pool.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
    let options: PgConnectOptions = fleet.database_url.parse()?;
    let options = options.database(&name);
    let restored_url = for_libpq(options.to_url_lossy().as_str())?;
    let variables = [("BACKUP", backup_path), ("RESTORED_URL", &restored_url)];
    let said = run(&fleet, "Restore a dump", &variables).await?;
    ensure!(said.contains("partial"), "the batches are not shown: {said}");

    let restored = PgPoolOptions::new().max_connections(2).connect_with(options).await?;
    let counted = rows(&fleet.pool).await?;
    let ads = counted.iter().find(|(table, _)| table == "warehouse.offer_versions");
    ensure!(ads.is_some_and(|(_, rows)| rows != "0"), "{counted:?}");
    assert_eq!(rows(&restored).await?, counted);
    assert_eq!(told(&fleet, &restored_url).await?, told(&fleet, &fleet.database_url).await?);

    // The batch that was open is brought to its end there, and the readers' role may read.
    let worker = fleet.worker("b", &[("DATABASE_URL", &restored_url)])?;
    let code = fleet.batch(&[("DATABASE_URL", &restored_url)]).await?;
    ensure!(code == 3, "the restored batch ends with {code}");
    // That one, and the one that `--once` then opens itself.
    let ended = "SELECT count(*) FILTER (WHERE state = 'closed'), count(*) FROM pipeline.batches";
    assert_eq!(sqlx::query_as::<_, (i64, i64)>(ended).fetch_one(&restored).await?, (3, 3));
    let mut verify = program("exchange-sim")?;
    verify.args(["verify", "--truth"]).arg(fleet.truth());
    let verified = verify.env("DATABASE_URL", &restored_url).output().await?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let readers: PgConnectOptions = restored_url.parse()?;
    let reader = PgPoolOptions::new().connect_with(readers.username("p2p_reader")).await?;
    let seen = "SELECT count(*) FROM warehouse.fact_offers";
    assert!(sqlx::query_scalar::<_, i64>(seen).fetch_one(&reader).await? > 0);

    reader.close().await;
    restored.close().await;
    drop(worker);
    fleet.pool.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await?;
    std::fs::remove_dir_all(backup)?;
    fleet.remove().await
}
