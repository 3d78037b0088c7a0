//! `PostgreSQL`, as a doctor looks at it.

use std::path::Path;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use coordinator::settings::Retention;
use shared::settings::{Database, Vars};
use shared::store::MIGRATOR;
use sqlx::PgPool;
use sqlx::postgres::types::Oid;
use tokio::time::Instant;

use super::servers::millis;
use super::{Checks, Level, SKEW_TRIES, Skew, check_skew};

/// Oldest version: `MERGE`, by which marts grow, came with 15.
const MIN_SERVER_VERSION: i32 = 150_000;
/// Days for which partitions are to be there: the coordinator makes them three days ahead with every
/// batch, and a day without one is no alarm yet.
const PARTITION_DAYS_AHEAD: i32 = 2;
/// A partition whose drop was decided so long ago is in somebody's way.
const DROP_GRACE: &str = "6 hours";
/// Free space below which the disk is full soon, in percent of all.
const FREE_WARN_PERCENT: u64 = 15;
const FREE_FAIL_PERCENT: u64 = 5;
/// An answer that takes longer makes every commit slow.
const SLOW: TimeDelta = TimeDelta::milliseconds(100);

/// Whether there is a database with a schema to look at further.
pub(super) async fn check(
    checks: &mut Checks,
    database: &Database,
    retention: Option<Retention>,
) -> bool {
    let began = Instant::now();
    let one = Database { max_connections: 1, ..database.clone() };
    let pool = match shared::store::connect(&one, "p2p doctor").await {
        Ok(pool) => pool,
        Err(error) => {
            checks.away(
                "PostgreSQL",
                format!("{:#}", anyhow::Error::from(error)),
                "start PostgreSQL, and see that DATABASE_URL has its address, role, password and database",
            );
            return false;
        }
    };
    let connected = began.elapsed();
    check_way(checks, database);
    if let Err(error) = check_server(checks, &pool, &millis(connected)).await {
        checks.away("PostgreSQL", format!("{error:#}"), "see its log");
        return false;
    }
    if !check_schema(checks, &pool).await {
        return false;
    }
    let looks = [
        ("roles", check_roles(checks, &pool).await),
        ("permissions", check_permissions(checks, &pool).await),
        ("owner", check_owner(checks, &pool).await),
        ("disk", check_disk(checks, &pool, database).await),
        ("partitions", check_partitions(checks, &pool, retention).await),
    ];
    for (what, looked) in looks {
        if let Err(error) = looked {
            checks.warn(
                what,
                format!("can't be looked at: {error:#}"),
                "run p2p doctor as the writer or the owner of the tables",
            );
        }
    }
    true
}

/// Whether somebody between here and the server could read or answer.
fn check_way(checks: &mut Checks, database: &Database) {
    let is_exposed = database.options().is_ok_and(|options| shared::tls::is_exposed(&options));
    let value = if is_exposed {
        "over the network, and not verified by certificate and name"
    } else {
        "on this machine, or verified by certificate and name"
    };
    let todo = "leave sslmode out of DATABASE_URL or say verify-full, unless you trust the network";
    checks.expect(!is_exposed, Level::Warn, "PostgreSQL TLS", value.to_owned(), todo);
}

async fn check_server(checks: &mut Checks, pool: &PgPool, connected: &str) -> anyhow::Result<()> {
    let mut best = None;
    for _ in 0..SKEW_TRIES {
        let (sent, began) = (Utc::now(), Instant::now());
        let server: DateTime<Utc> =
            sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(pool).await?;
        let round_trip = TimeDelta::from_std(began.elapsed())?;
        let skew = Skew { ahead: server - (sent + round_trip / 2), round_trip };
        best = Some(Skew::better(best, skew));
    }
    let (version, number): (String, i32) = sqlx::query_as(
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int",
    )
    .fetch_one(pool)
    .await?;
    if let Some(skew) = best {
        let answers = millis(skew.round_trip.to_std().unwrap_or_default());
        let value = format!("connected in {connected}, answers in {answers}");
        let todo = "it should stand near the programs";
        checks.expect(skew.round_trip <= SLOW, Level::Warn, "PostgreSQL", value, todo);
        check_skew(checks, "PostgreSQL", skew);
    }
    let value = format!("{version}, needed is {}", MIN_SERVER_VERSION / 10_000);
    let is_well = number >= MIN_SERVER_VERSION;
    checks.expect(is_well, Level::Fail, "PostgreSQL version", value, "install a newer one");
    Ok(())
}

/// Whether there is a schema to look at further.
async fn check_schema(checks: &mut Checks, pool: &PgPool) -> bool {
    let needed = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default();
    match shared::store::check_schema(pool).await {
        Ok(()) => {
            checks.ok("schema", format!("at least version {needed}, which this program needs"));
            true
        }
        Err(error) => {
            checks.fail("schema", error.to_string(), "run p2p migrate as the owner of the tables");
            false
        }
    }
}

async fn check_roles(checks: &mut Checks, pool: &PgPool) -> anyhow::Result<()> {
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT r FROM unnest(ARRAY['p2p_reader', 'p2p_writer']) r
          WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)",
    )
    .fetch_all(pool)
    .await?;
    let value = match missing.as_slice() {
        [] => "p2p_reader and p2p_writer are there".to_owned(),
        missing => format!("{} not there", missing.join(" and ")),
    };
    let todo = "as a role with CREATEROLE run SELECT pipeline.make_roles(), then p2p migrate";
    checks.expect(missing.is_empty(), Level::Warn, "roles", value, todo);
    // A role that was there before the schema has them only if whoever migrated might set them.
    let unbounded: Vec<String> = sqlx::query_scalar(
        "SELECT bound FROM unnest(ARRAY['default_transaction_read_only', 'statement_timeout', 'search_path', 'TimeZone']) bound
          WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = 'p2p_reader')
            AND NOT EXISTS (SELECT FROM pg_roles, unnest(rolconfig) setting
                             WHERE rolname = 'p2p_reader' AND setting LIKE bound || '=%')",
    )
    .fetch_all(pool)
    .await?;
    if !unbounded.is_empty() {
        let value = format!("not set for it: {}", unbounded.join(", "));
        let todo = "as a role that may alter p2p_reader run SELECT pipeline.make_roles()";
        checks.warn("bounds of p2p_reader", value, todo);
    }
    Ok(())
}

/// What the role of `DATABASE_URL` is for, and whether it may do all that needs.
async fn check_permissions(checks: &mut Checks, pool: &PgPool) -> anyhow::Result<()> {
    let (role, is_owner, is_writer): (String, bool, bool) = sqlx::query_as(
        "SELECT current_user::text,
                pg_has_role(c.relowner, 'USAGE'),
                has_schema_privilege('pipeline', 'USAGE') AND has_table_privilege(c.oid, 'INSERT')
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = 'pipeline' AND c.relname = 'batches'",
    )
    .fetch_one(pool)
    .await?;
    let (what, privileges) = match (is_owner, is_writer) {
        (true, _) => ("owner", "SELECT,INSERT,UPDATE"),
        (false, true) => ("writer", "SELECT,INSERT,UPDATE"),
        (false, false) => ("reader", "SELECT"),
    };
    // What only migrations and retention write is for the owner.
    let lacking: Vec<String> = sqlx::query_scalar(
        "SELECT p.privilege || ' on ' || format('%I.%I', n.nspname, c.relname)
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          CROSS JOIN unnest(string_to_array($1, ',')) AS p (privilege)
          WHERE n.nspname IN ('warehouse', 'pipeline') AND (n.nspname = 'warehouse' OR $2)
            AND (c.relkind IN ('r', 'p') OR c.relkind IN ('v', 'm') AND p.privilege = 'SELECT') AND NOT c.relispartition
            AND NOT has_table_privilege(c.oid, p.privilege)
            AND (p.privilege = 'SELECT' OR (n.nspname, c.relname) NOT IN
                 (('warehouse', 'dim_exchanges'), ('pipeline', 'partitioned_tables'), ('pipeline', 'dropped_partitions')))
          ORDER BY 1",
    )
    .bind(privileges)
    .bind(what != "reader")
    .fetch_all(pool)
    .await?;
    let value = match lacking.as_slice() {
        [] => format!("{role} is {what}, and may do all that is needed for it"),
        [first, ..] => {
            format!("{role} is {what}, and lacks {} rights, {first} first", lacking.len())
        }
    };
    let todo = "as the owner of the tables run p2p migrate, which grants them";
    checks.expect(lacking.is_empty(), Level::Fail, "permissions", value, todo);
    if what == "reader" {
        checks.warn(
            "role",
            format!("{role} may only read"),
            "coordinator and worker need p2p_writer or the owner",
        );
    }
    Ok(())
}

/// Whether `OWNER_DATABASE_URL`, where it is set, reaches the owner of the tables of the same database.
async fn check_owner(checks: &mut Checks, pool: &PgPool) -> anyhow::Result<()> {
    // The moment at which a server started tells it from others.
    const WHICH: &str = "SELECT pg_postmaster_start_time(), oid, current_user::text,
                EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('pipeline.batches') AND pg_has_role(relowner, 'USAGE'))
           FROM pg_database WHERE datname = current_database()";
    type Which = (DateTime<Utc>, Oid, String, bool);
    let mut vars = Vars::from_environment();
    if vars.optional("OWNER_DATABASE_URL").is_none() {
        return Ok(());
    }
    let owner = Database::read_owner(&mut vars);
    // What is wrong with it is told with the settings.
    let Ok(owner) = vars.finish(owner) else { return Ok(()) };
    let owner = match shared::store::connect(&owner, "p2p doctor").await {
        Ok(owner) => owner,
        Err(error) => {
            let value = format!("{:#}", anyhow::Error::from(error));
            let todo =
                "see that OWNER_DATABASE_URL has address, role, password and database of the owner";
            checks.away("owner", value, todo);
            return Ok(());
        }
    };
    let here: Which = sqlx::query_as(WHICH).fetch_one(pool).await?;
    let (start, oid, role, is_owner): Which = sqlx::query_as(WHICH).fetch_one(&owner).await?;
    if (start, oid) != (here.0, here.1) {
        let todo = "name the same database in DATABASE_URL and OWNER_DATABASE_URL";
        checks.fail("owner", "OWNER_DATABASE_URL is another database than DATABASE_URL", todo);
        return Ok(());
    }
    let owns = if is_owner { "owns" } else { "does not own" };
    let value = format!("{role} {owns} the tables");
    let todo = "OWNER_DATABASE_URL must name the role that ran p2p migrate first";
    checks.expect(is_owner, Level::Fail, "owner", value, todo);
    Ok(())
}

async fn check_disk(checks: &mut Checks, pool: &PgPool, database: &Database) -> anyhow::Result<()> {
    let size: String =
        sqlx::query_scalar("SELECT pg_size_pretty(pg_database_size(current_database()))")
            .fetch_one(pool)
            .await?;
    checks.ok("database size", format!("{size}; p2p storage says of what"));
    let is_local =
        matches!(database.url.host_str(), None | Some("" | "localhost" | "127.0.0.1" | "[::1]"));
    // Only some roles are told where the data is.
    let directory: Result<String, _> =
        sqlx::query_scalar("SELECT current_setting('data_directory')").fetch_one(pool).await;
    let space = directory.ok().filter(|_| is_local).and_then(|path| free(Path::new(&path)));
    let Some((free, percent)) = space else {
        checks.ok("disk", "can't be told from here: not on this machine, or not for this role");
        return Ok(());
    };
    let value = format!("{} GiB free, {percent}% of the disk", free >> 30);
    let todo = "make room, or keep less: RETENTION_FACTS_DAYS, RETENTION_MARTS_DAYS";
    match percent {
        0..FREE_FAIL_PERCENT => checks.fail("disk", value, todo),
        FREE_FAIL_PERCENT..FREE_WARN_PERCENT => checks.warn("disk", value, todo),
        _ => checks.ok("disk", value),
    }
    Ok(())
}

/// Bytes free and their share in percent. `None`: there is no such directory on this machine.
fn free(directory: &Path) -> Option<(u64, u64)> {
    let space = rustix::fs::statvfs(directory).ok()?;
    let percent = space.f_bavail.saturating_mul(100).checked_div(space.f_blocks)?;
    Some((space.f_bavail.saturating_mul(space.f_frsize), percent))
}

async fn check_partitions(
    checks: &mut Checks,
    pool: &PgPool,
    retention: Option<Retention>,
) -> anyhow::Result<()> {
    let missing: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', t.schema_name, t.table_name) || ' of ' || d.day
           FROM pipeline.partitioned_tables t
          CROSS JOIN LATERAL (
             SELECT ((now() AT TIME ZONE 'UTC')::date + n) AS day FROM generate_series(0, $1) n) d
          WHERE to_regclass(format('%I.%I', t.schema_name, t.table_name || to_char(d.day,
                CASE t.step WHEN 'day' THEN '_YYYYMMDD' ELSE '_YYYYMM' END))) IS NULL
          ORDER BY d.day, t.drop_order",
    )
    .bind(PARTITION_DAYS_AHEAD)
    .fetch_all(pool)
    .await?;
    let value = match missing.first() {
        None => format!("made for today and {PARTITION_DAYS_AHEAD} days ahead"),
        Some(first) => format!("{} not there, {first} first", missing.len()),
    };
    let todo = "the leader makes them with its next batch, p2p migrate at once";
    checks.expect(missing.is_empty(), Level::Warn, "partitions ahead", value, todo);
    let stuck: Vec<String> = sqlx::query_scalar(
        "SELECT schema_name || '.' || partition_name FROM pipeline.dropped_partitions
          WHERE dropped_at IS NULL AND decided_at < now() - $1::interval ORDER BY decided_at",
    )
    .bind(DROP_GRACE)
    .fetch_all(pool)
    .await?;
    let overdue = list_overdue(pool, retention).await?;
    // Those of this shell, which need not be the coordinator's.
    let kept = retention.map_or_else(String::new, |kept| {
        let Retention { facts_days, marts_days, .. } = kept;
        format!(" by RETENTION_FACTS_DAYS={facts_days} and RETENTION_MARTS_DAYS={marts_days}")
    });
    let value = match (stuck.first(), overdue.first()) {
        (None, None) => format!("none overdue to be dropped{kept}"),
        (Some(stuck), _) => format!("{stuck} was to be dropped more than {DROP_GRACE} ago"),
        (None, Some(old)) => {
            format!("{} overdue to be dropped{kept}, {old} first", overdue.len())
        }
    };
    let todo = if stuck.is_empty() {
        "if the coordinator has these settings, too, see that a leader runs with OWNER_DATABASE_URL"
    } else {
        "see that a leader runs with OWNER_DATABASE_URL, and end queries that read them for hours"
    };
    let is_well = stuck.is_empty() && overdue.is_empty();
    checks.expect(is_well, Level::Warn, "partitions old", value, todo);
    Ok(())
}

/// Partitions older than they are kept by more than a day, by the settings of a coordinator as they are here. None
/// if these can't be used.
async fn list_overdue(pool: &PgPool, retention: Option<Retention>) -> anyhow::Result<Vec<String>> {
    let Some(Retention { facts_days, marts_days, .. }) = retention else {
        return Ok(Vec::new());
    };
    let newest: Option<NaiveDate> =
        sqlx::query_scalar("SELECT max(day) FROM pipeline.batches").fetch_one(pool).await?;
    let today = Utc::now().date_naive();
    let Some(newest) = newest.map(|newest| newest.min(today)) else {
        return Ok(Vec::new());
    };
    // Age counts from the newest batch; a day is given to the rounds of retention.
    let before = |days: u16| newest - TimeDelta::days(i64::from(days) + 1);
    Ok(sqlx::query_scalar(
        "SELECT format('%I.%I', t.schema_name, c.relname)
           FROM pipeline.partitioned_tables t
           JOIN pg_inherits i ON i.inhparent = to_regclass(format('%I.%I', t.schema_name, t.table_name))
           JOIN pg_class c ON c.oid = i.inhrelid
          CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b
          WHERE substring(b.bound FROM 'TO \\(''([0-9-]+)''\\)')::date - 1
                < CASE t.class WHEN 'facts' THEN $1::date WHEN 'marts' THEN $2::date END
          ORDER BY 1",
    )
    .bind(before(facts_days))
    .bind(before(marts_days))
    .fetch_all(pool)
    .await?)
}
