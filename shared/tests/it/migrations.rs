//! What a migration may do while the programs of the version before are at work (ADR 23).

use std::cell::Cell;

use shared::store::{self, MIGRATOR};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

/// The last migration of before there was a rule.
const BEFORE: i64 = 20_261_127_000_015;
/// Comment of a line that may, with the release since which nothing needs what goes.
const CONTRACT: &str = "-- contract:";

/// What breaks a program that knows the schema as it was.
const BREAKS: [&str; 11] = [
    "drop table",
    "drop column",
    "drop view",
    "drop schema",
    "drop function",
    "rename to",
    "rename column",
    "set not null",
    "add column not null",
    "add check",
    "type ",
];

/// Lines of a migration that break earlier programs and do not say why they may.
fn breaks(sql: &str) -> Vec<&str> {
    let code = |line: &str| line.split("--").next().unwrap_or_default().trim().to_lowercase();
    let found = sql.lines().filter(|line| !line.contains(CONTRACT)).filter(|line| {
        let code = code(line);
        BREAKS.iter().any(|what| match *what {
            // `ALTER COLUMN … TYPE`, and not `CREATE TYPE`.
            "type " => code.contains("alter column") && code.contains(" type "),
            "add column not null" => {
                code.contains("add column")
                    && code.contains("not null")
                    && !code.contains("default")
            }
            "add check" => code.contains("add constraint") && code.contains("check"),
            what => code.contains(what),
        })
    });
    found.collect()
}

#[test]
fn migrations_expand() {
    for migration in MIGRATOR.iter().filter(|migration| migration.version > BEFORE) {
        let found = breaks(migration.sql.as_str());
        assert!(
            found.is_empty(),
            "migration {} takes away what programs of the version before need; do it in a later release, and mark each line with `{CONTRACT} VERSION`:\n{}",
            migration.version,
            found.join("\n")
        );
    }
}

#[test]
fn what_takes_away_is_found() {
    for bad in [
        "ALTER TABLE pipeline.jobs DROP COLUMN kind;",
        "    ALTER COLUMN page TYPE bigint,",
        "ALTER TABLE x RENAME COLUMN a TO b;",
        "ALTER TABLE x ADD COLUMN a integer NOT NULL;",
        "DROP FUNCTION warehouse.quote(text);",
    ] {
        assert_eq!(breaks(bad), [bad]);
    }
    for good in [
        "ALTER TABLE x ADD COLUMN a integer;",
        "ALTER TABLE x ADD COLUMN a integer NOT NULL DEFAULT 0;",
        "CREATE TYPE pipeline.x AS (a integer);",
        "CREATE OR REPLACE FUNCTION warehouse.quote() RETURNS integer LANGUAGE sql RETURN 1;",
        "ALTER TABLE x DROP COLUMN a; -- contract: 0.3, nothing since 0.2 reads it",
        "-- Nothing is to DROP TABLE here.",
    ] {
        assert_eq!(breaks(good), Vec::<&str>::new());
    }
}

/// The last migration before one that takes locks on tables and views that others read.
const BEFORE_VERSIONS: i64 = 20_261_128_000_016;

/// Readers are in the way of a migration, and come while it waits: it gives way to them and is done when there is
/// a gap. Here the schema's owner has the warehouse on the path, so that names are told without their schema.
#[sqlx::test(migrations = false)]
async fn migrations_give_way_to_readers(pool: PgPool) {
    let name: String =
        sqlx::query_scalar("SELECT current_database()").fetch_one(&pool).await.unwrap();
    let path = format!("ALTER DATABASE \"{name}\" SET search_path = warehouse, public");
    sqlx::query(AssertSqlSafe(path)).execute(&pool).await.unwrap();
    let options = pool.connect_options().as_ref().clone();
    let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    let migrations = MIGRATOR.iter().filter(|m| m.version <= BEFORE_VERSIONS).cloned();
    let before = Migrator { migrations: migrations.collect(), ..Migrator::DEFAULT };
    before.run(&pool).await.unwrap();

    let mut reader = pool.begin().await.unwrap();
    let read = "SELECT count(*) FROM warehouse.offer_versions";
    sqlx::query(read).execute(&mut *reader).await.unwrap();
    let is_done = Cell::new(false);
    let migrating = async {
        store::migrate(&pool).await.unwrap();
        is_done.set(true);
    };
    let reading = async {
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                                       AND wait_event_type = 'Lock' AND query LIKE '%traits%')";
        // Not in the reader's transaction, which would be shown for ever what it saw first.
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&pool).await.unwrap() {
            assert!(!is_done.get(), "nothing was in its way");
        }
        let look = "SELECT count(*) FROM warehouse.mv_latest_market_state";
        sqlx::query(look).execute(&pool).await.unwrap();
        reader.commit().await.unwrap();
    };
    tokio::join!(migrating, reading);
    store::check_schema(&pool).await.unwrap();
}
