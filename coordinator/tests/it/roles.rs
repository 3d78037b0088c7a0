//! What each role may do, and nothing more.

use coordinator::store::retention;
use shared::settings::{Database, Vars};
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::url_of;

/// Logged in as a role, so that its settings hold too. The servers of tests ask for no password.
async fn login(db: &PgPool, role: &str) -> PgConnection {
    let options: PgConnectOptions = url_of(db).parse().unwrap();
    options.username(role).connect().await.unwrap()
}

async fn code(connection: &mut PgConnection, sql: impl Into<String>) -> String {
    match sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection).await {
        Ok(_) => "done".to_owned(),
        Err(error) => {
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            code.unwrap_or_else(|| panic!("{error}")).into_owned()
        }
    }
}

const DENIED: &str = "42501";
const READ_ONLY: &str = "25006";

async fn relations(db: &PgPool, schema: &str) -> Vec<String> {
    let relations = sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm') ORDER BY 1",
    );
    relations.bind(schema).fetch_all(db).await.unwrap()
}

#[sqlx::test(migrations = "../migrations")]
async fn the_reader_reads_the_warehouse_and_nothing_else(db: PgPool) {
    sqlx::raw_sql(
        "SELECT pipeline.make_partitions('2024-01-01', '2024-01-01');
         CREATE TABLE warehouse.made_later (day date);
         CREATE VIEW warehouse.view_made_later AS SELECT count(*) FROM pipeline.batches;
         CREATE FUNCTION warehouse.function_made_later() RETURNS integer LANGUAGE sql RETURN 1;
         CREATE TABLE pipeline.made_later (day date)",
    )
    .execute(&db)
    .await
    .unwrap();
    let mut reader = login(&db, "p2p_reader").await;
    let readable = relations(&db, "warehouse").await;
    assert!(readable.len() > 18, "{readable:?}");
    for relation in readable {
        assert_eq!(
            code(&mut reader, format!("SELECT * FROM {relation} LIMIT 1")).await,
            "done",
            "{relation}"
        );
    }
    // As the sample queries are written: nothing before the names.
    for sql in [
        "SELECT count(*) FROM fact_offers",
        "SELECT offer_id(DATE '2024-01-01', 1), function_made_later()",
    ] {
        assert_eq!(code(&mut reader, sql).await, "done", "{sql}");
    }
    for relation in [relations(&db, "pipeline").await, relations(&db, "public").await].concat() {
        assert_eq!(
            code(&mut reader, format!("SELECT * FROM {relation} LIMIT 1")).await,
            DENIED,
            "{relation}"
        );
    }
    let writes = [
        "INSERT INTO warehouse.dim_exchanges VALUES (2, 'x')",
        "UPDATE warehouse.dim_exchanges SET exchange_name = 'x'",
        "DELETE FROM warehouse.latest_books",
        "TRUNCATE warehouse.latest_books",
        "CREATE TABLE warehouse.x ()",
        "CREATE TABLE public.x ()",
        "CREATE TEMP TABLE x ()",
        "CREATE SCHEMA x",
        "DROP TABLE warehouse.made_later",
        "ALTER TABLE warehouse.made_later ADD x integer",
        "SELECT nextval('warehouse.advertiser_ids')",
        "SELECT pipeline.make_partitions('2024-01-02', '2024-01-02')",
        "SELECT * FROM pg_authid",
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT * FROM warehouse.dim_exchanges FOR UPDATE",
        "COPY warehouse.dim_exchanges TO PROGRAM 'true'",
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock_shared(1)",
    ];
    for sql in writes {
        let denied = code(&mut reader, sql).await;
        assert!([DENIED, READ_ONLY].contains(&denied.as_str()), "{sql}: {denied}");
    }
    // Nor if the reader says that it is no reader.
    sqlx::raw_sql("SET default_transaction_read_only = off").execute(&mut reader).await.unwrap();
    for sql in writes {
        assert_eq!(code(&mut reader, sql).await, DENIED, "{sql}");
    }
    let timeout: String =
        sqlx::query_scalar("SHOW statement_timeout").fetch_one(&mut reader).await.unwrap();
    assert_eq!(timeout, "1min");
    // CURRENT_DATE is the UTC day. Asked of the role, for this client sets the zone by itself.
    let is_utc: bool = sqlx::query_scalar(
        "SELECT 'TimeZone=UTC' = ANY (rolconfig) FROM pg_roles WHERE rolname = 'p2p_reader'",
    )
    .fetch_one(&mut reader)
    .await
    .unwrap();
    assert!(is_utc);
    // It holds; a shorter one, so that the test ends.
    sqlx::raw_sql("SET statement_timeout = '50ms'").execute(&mut reader).await.unwrap();
    assert_eq!(code(&mut reader, "SELECT pg_sleep(5)").await, "57014");
    reader.close().await.unwrap();
}

#[sqlx::test(migrations = "../migrations")]
async fn the_writer_writes_rows_and_changes_no_tables(db: PgPool) {
    let mut writer = login(&db, "p2p_writer").await;
    for sql in [
        "SELECT pipeline.make_partitions('2024-01-01', '2024-01-02')",
        "SELECT max(version) FROM _sqlx_migrations",
        "INSERT INTO warehouse.books (day, batch_id, market_id, verdict, pages_planned, pages_read, pages_lost,
                                      pages_shed, pages_reread, listed_ads, distinct_ads, duplicate_ads, refused_ads)
         VALUES ('2024-01-01', 1, 1, 'shed', 0, 0, 0, 0, 0, 0, 0, 0, 0)",
        "DELETE FROM pipeline.workers",
    ] {
        assert_eq!(code(&mut writer, sql).await, "done", "{sql}");
    }
    for sql in [
        "DROP TABLE warehouse.books_20240101",
        "ALTER TABLE warehouse.books ADD x integer",
        "ALTER TABLE warehouse.books DETACH PARTITION warehouse.books_20240101 CONCURRENTLY",
        "TRUNCATE warehouse.books",
        "DELETE FROM warehouse.books",
        "DELETE FROM pipeline.jobs",
        "DELETE FROM pipeline.quarantine",
        "INSERT INTO pipeline.partitioned_tables VALUES ('pg_catalog', 'pg_authid', 'facts', 'day', 0)",
        "UPDATE pipeline.dropped_partitions SET bytes = 0",
        "INSERT INTO warehouse.dim_exchanges VALUES (2, 'x')",
        "UPDATE _sqlx_migrations SET version = 0",
        "CREATE TABLE warehouse.x ()",
        "CREATE TABLE pipeline.x ()",
        "CREATE TABLE public.x ()",
        "CREATE ROLE x",
        "SELECT pipeline.grant_roles()",
        "SELECT * FROM pg_authid",
    ] {
        assert_eq!(code(&mut writer, sql).await, DENIED, "{sql}");
    }
    writer.close().await.unwrap();
    // A coordinator that is not told of the owner drops nothing and can tell why.
    let url = url_of(&db).replace("postgres@", "p2p_writer@");
    assert!(url.contains("p2p_writer"), "{url}");
    let mut vars = Vars::from_pairs([("DATABASE_URL", url.as_str())]);
    let mut writer = retention::connect(&Database::read_owner(&mut vars)).await.unwrap();
    let kept = crate::settings(&db).retention;
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    let today = "2024-01-01".parse().unwrap();
    let error = retention::round(&mut writer, &kept, today, until).await.unwrap_err();
    assert!(retention::is_not_owner(&error), "{error}");
}
