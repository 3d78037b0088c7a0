//! Partitions made ahead and dropped by age, beside readers and after a kill. Days are told, for no
//! clock can be moved: all lie before the real one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::NaiveDate;
use coordinator::settings::Retention;
use coordinator::store::retention::{self, Round};
use coordinator::{Mode, RunOutcome};
use shared::settings::{Database, Vars};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::schedule::{CLOSED, MovedClock, wait_for};
use crate::url_of;

/// More than any archive of a test.
const ROOM: u64 = 1 << 40;
pub(crate) const KEPT: Retention =
    Retention { facts_days: 3, marts_days: 30, quarantine_days: 3, raw_days: 3, raw_bytes: ROOM };

/// Who waits for a reader waits for ever here: more than what a loaded machine takes tells it.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

pub(crate) async fn run(db: &PgPool, sql: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(db).await.unwrap();
}

pub(crate) async fn number(db: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
}

pub(crate) async fn make(db: &PgPool, first: &str, last: &str) -> i32 {
    sqlx::query_scalar("SELECT pipeline.make_partitions($1, $2)")
        .bind(day(first))
        .bind(day(last))
        .fetch_one(db)
        .await
        .unwrap()
}

/// A closed batch, so that days count from there.
pub(crate) async fn batch(db: &PgPool, on: &str) -> i32 {
    sqlx::query_scalar(
        "INSERT INTO pipeline.batches (batch_id, day, exchange_id, slot_at, trigger, state, outcome, opened_by,
                                       opened_at, deadline_at, closed_at)
         SELECT ($1 - DATE '1970-01-01') << 9, $1, 1, $1, 'once', 'closed', 'complete', 'test', $1, $1, $1
         RETURNING batch_id",
    )
    .bind(day(on))
    .fetch_one(db)
    .await
    .unwrap()
}

pub(crate) async fn owner(db: &PgPool) -> PgConnection {
    let url = url_of(db);
    let mut vars = Vars::from_pairs([("DATABASE_URL", url.as_str())]);
    retention::connect(&Database::read_owner(&mut vars)).await.unwrap()
}

pub(crate) async fn round_with(db: &PgPool, kept: &Retention, today: &str) -> Round {
    let mut owner = owner(db).await;
    let until = Instant::now() + Duration::from_mins(1);
    let round = retention::round(&mut owner, kept, day(today), until).await.unwrap();
    owner.close().await.unwrap();
    round
}

async fn round(db: &PgPool, today: &str) -> Round {
    round_with(db, &KEPT, today).await
}

/// Partitions of a table that a query sees, by what stands behind its name.
async fn partitions(db: &PgPool, table: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT substring(inhrelid::regclass::text FROM '[0-9]+$') FROM pg_inherits
          WHERE inhparent = to_regclass($1) AND NOT inhdetachpending ORDER BY 1",
    )
    .bind(table)
    .fetch_all(db)
    .await
    .unwrap()
}

const TABLES: [&str; 6] = [
    "warehouse.offer_versions",
    "warehouse.book_pages",
    "warehouse.books",
    "pipeline.jobs",
    "pipeline.raw_pages",
    "pipeline.witness_readings",
];

/// Over a leap day and the ends of months, by the day and by the month, and twice.
#[sqlx::test(migrations = "../migrations")]
async fn days_and_months_are_made_and_dropped(db: PgPool) {
    run(
        &db,
        "CREATE TABLE warehouse.mart_test (day date NOT NULL, ads integer, PRIMARY KEY (day)) PARTITION BY RANGE (day);
         DELETE FROM pipeline.partitioned_tables WHERE class = 'marts';
         INSERT INTO pipeline.partitioned_tables VALUES ('warehouse', 'mart_test', 'marts', 'month', 999)",
    )
    .await;
    assert_eq!(make(&db, "2024-02-27", "2024-03-02").await, 5 * 6 + 2);
    assert_eq!(make(&db, "2024-02-27", "2024-03-02").await, 0);
    assert_eq!(make(&db, "2023-12-31", "2024-01-01").await, 6 * 2 + 2);
    let all = ["20231231", "20240101", "20240227", "20240228", "20240229", "20240301", "20240302"];
    for table in TABLES {
        assert_eq!(partitions(&db, table).await, all, "{table}");
    }
    let months = ["202312", "202401", "202402", "202403"];
    assert_eq!(partitions(&db, "warehouse.mart_test").await, months);
    run(
        &db,
        "INSERT INTO warehouse.mart_test VALUES ('2024-02-01'), ('2024-02-29'), ('2024-03-01')",
    )
    .await;

    batch(&db, "2024-03-03").await;
    let first = round(&db, "2024-03-03").await;
    // The oldest first, and of a day the bytes, then the certificates before what they certify.
    assert_eq!(first.dropped.len(), 16, "{first:?}");
    assert_eq!(
        first.dropped[..7],
        [
            "pipeline.raw_pages_20231231",
            "warehouse.books_20231231",
            "warehouse.book_pages_20231231",
            "warehouse.offer_versions_20231231",
            "pipeline.witness_readings_20231231",
            "pipeline.jobs_20231231",
            "warehouse.mart_test_202312",
        ]
    );
    assert!(first.has_more);
    let second = round(&db, "2024-03-03").await;
    assert_eq!(second.dropped.len(), 10, "{second:?}");
    assert!(second.dropped.ends_with(&["pipeline.jobs_20240228".to_owned()]), "{second:?}");
    assert_eq!(round(&db, "2024-03-03").await, Round::default());
    for table in TABLES {
        assert_eq!(partitions(&db, table).await, ["20240229", "20240301", "20240302"], "{table}");
    }
    // A month goes when its last day is old enough, the leap day here.
    batch(&db, "2024-03-31").await;
    assert!(round(&db, "2024-03-30").await.dropped.iter().all(|name| !name.contains("mart")));
    assert_eq!(partitions(&db, "warehouse.mart_test").await, months[2..]);
    let left = round(&db, "2024-03-31").await.dropped;
    assert!(left.contains(&"warehouse.mart_test_202402".to_owned()), "{left:?}");
    assert_eq!(number(&db, "SELECT count(*) FROM warehouse.mart_test").await, 1);
    let recorded: (String, NaiveDate, NaiveDate, bool) = sqlx::query_as(
        "SELECT table_name, first_day, last_day, dropped_at IS NOT NULL AND bytes > 0
           FROM pipeline.dropped_partitions WHERE partition_name = 'mart_test_202402'",
    )
    .fetch_one(&db)
    .await
    .unwrap();
    assert_eq!(recorded, ("mart_test".into(), day("2024-02-01"), day("2024-02-29"), true));
}

/// Days count from the newest batch: neither a clock far ahead nor a long sleep drops what was read last.
#[sqlx::test(migrations = "../migrations")]
async fn a_clock_that_jumped_ahead_drops_nothing(db: PgPool) {
    make(&db, "2024-05-01", "2024-05-02").await;
    batch(&db, "2024-05-01").await;
    assert_eq!(round(&db, "2031-01-01").await, Round::default());
    // No batch was ever made: nothing younger than the database's own clock allows is touched.
    run(&db, "DELETE FROM pipeline.batches").await;
    sqlx::query("SELECT pipeline.make_partitions(current_date, current_date)")
        .execute(&db)
        .await
        .unwrap();
    round(&db, "2031-01-01").await;
    assert_eq!(partitions(&db, "pipeline.jobs").await.len(), 1);
}

async fn page(db: &PgPool, batch: i32, on: &str) {
    sqlx::query(
        "INSERT INTO warehouse.book_pages
                (day, batch_id, market_id, page, ordinal, fetched_at, offer_ids, active_minutes)
         SELECT $2, $1, 1, 1, count(*), now(), '{1}', '{1}' FROM warehouse.book_pages WHERE day = $2",
    )
    .bind(batch)
    .bind(day(on))
    .execute(db)
    .await
    .unwrap();
}

/// A reader in a transaction and the drop of a day: the reader goes on, others read and write and make
/// partitions meanwhile, and when the reader is done the day goes.
async fn is_dropped_beside_a_reader(db: PgPool, isolation: &str) {
    make(&db, "2024-01-01", "2024-01-10").await;
    let old = batch(&db, "2024-01-01").await;
    let new = batch(&db, "2024-01-05").await;
    page(&db, old, "2024-01-01").await;
    page(&db, new, "2024-01-05").await;
    let mut reader = db.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("SET TRANSACTION ISOLATION LEVEL {isolation}")))
        .execute(&mut *reader)
        .await
        .unwrap();
    let count = "SELECT count(*) FROM warehouse.book_pages";
    let seen: i64 = sqlx::query_scalar(count).fetch_one(&mut *reader).await.unwrap();
    assert_eq!(seen, 2);
    for _ in 0..2 {
        let began = Instant::now();
        let waiting = round(&db, "2024-01-05").await;
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        assert_eq!(
            waiting.waits_for.as_deref(),
            Some("warehouse.book_pages_20240101"),
            "{waiting:?}"
        );
        assert!(waiting.has_more);
        // Bytes and certificates went first, whom nobody reads.
        let went = ["pipeline.raw_pages_20240101", "warehouse.books_20240101"];
        assert!(waiting.dropped.iter().all(|name| went.contains(&name.as_str())));
        // Nobody waits: not who reads, nor who writes, nor who makes the partitions of a new day.
        let others = async {
            page(&db, new, "2024-01-05").await;
            number(&db, "SELECT count(*) FROM warehouse.book_pages").await;
            number(&db, "SELECT count(*) FROM warehouse.fact_offers").await;
        };
        tokio::time::timeout(PATIENCE, others).await.expect("others wait");
        sqlx::query_scalar::<_, i64>(count).fetch_one(&mut *reader).await.unwrap();
    }
    assert_eq!(partitions(&db, "warehouse.book_pages").await[0], "20240102", "no query sees it");
    let made = tokio::time::timeout(PATIENCE, make(&db, "2024-01-11", "2024-01-11"));
    assert_eq!(made.await.expect("making partitions waits"), 6);
    reader.commit().await.unwrap();
    let after = round(&db, "2024-01-05").await;
    assert_eq!(after.dropped.len(), 4, "{after:?}");
    assert_eq!(
        number(&db, "SELECT count(*) FROM warehouse.book_pages WHERE day < '2024-01-05'").await,
        0
    );
    assert_eq!(round(&db, "2024-01-05").await, Round::default());
}

#[sqlx::test(migrations = "../migrations")]
async fn a_day_is_dropped_beside_a_reader(db: PgPool) {
    is_dropped_beside_a_reader(db, "READ COMMITTED").await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_day_is_dropped_beside_an_export(db: PgPool) {
    is_dropped_beside_a_reader(db, "REPEATABLE READ").await;
}

/// Pages of a day in an order that is not that of their key, as many as make several blocks of an index.
async fn pages_out_of_order(db: &PgPool, batch: i32, on: &str) {
    run(
        db,
        format!(
            "INSERT INTO warehouse.book_pages (day, batch_id, market_id, page, ordinal, fetched_at, offer_ids, active_minutes)
             SELECT '{on}', {batch}, hashint4(n) & 1048575, 1, n, now(), '{{1}}', '{{1}}' FROM generate_series(1, 50000) AS n"
        ),
    )
    .await;
}

const INDEX_BYTES: &str = "SELECT pg_relation_size('warehouse.book_pages_20240101_pkey')";
const INDEXES_OF_TWO_DAYS: &str =
    "SELECT count(*) FROM pg_index WHERE indrelid::regclass::text ~ 'book_pages_2024010[12]$'";

/// When a day is over its loose index is built anew, full, once, and with the same entries.
#[sqlx::test(migrations = "../migrations")]
async fn indexes_of_days_that_are_over_are_built_anew(db: PgPool) {
    make(&db, "2024-01-01", "2024-01-02").await;
    let old = batch(&db, "2024-01-01").await;
    pages_out_of_order(&db, old, "2024-01-01").await;
    assert_eq!(round(&db, "2024-01-01").await, Round::default(), "the day is not over");
    let loose = number(&db, INDEX_BYTES).await;
    batch(&db, "2024-01-02").await;

    let first = round(&db, "2024-01-02").await;
    assert_eq!(first.rebuilt, ["warehouse.book_pages_20240101_pkey"], "{first:?}");
    let full = number(&db, INDEX_BYTES).await;
    assert!(full * 4 < loose * 3, "{loose} bytes, then {full}");
    // In one transaction, for settings are of a connection and the pool has several.
    let mut by_index = db.begin().await.unwrap();
    let no_other = "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off";
    sqlx::raw_sql(no_other).execute(&mut *by_index).await.unwrap();
    let of_day =
        "SELECT count(*) FROM warehouse.book_pages WHERE day = '2024-01-01' AND batch_id > 0";
    let found: i64 = sqlx::query_scalar(of_day).fetch_one(&mut *by_index).await.unwrap();
    assert_eq!(found, 50_000);
    by_index.rollback().await.unwrap();
    assert_eq!(number(&db, INDEXES_OF_TWO_DAYS).await, 2);
    assert_eq!(round(&db, "2024-01-02").await, Round::default(), "once is enough");
    // The key still holds who would store a page again.
    let again =
        "INSERT INTO warehouse.book_pages SELECT * FROM warehouse.book_pages WHERE ordinal = 1";
    let error = sqlx::query(again).execute(&db).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("23505"));
}

/// Building waits for who reads, and gives up; what a cut one leaves is cleared away, and it is built then.
async fn is_built_anew_after_its_readers(db: PgPool, isolation: &str) {
    make(&db, "2024-01-01", "2024-01-02").await;
    let old = batch(&db, "2024-01-01").await;
    pages_out_of_order(&db, old, "2024-01-01").await;
    batch(&db, "2024-01-02").await;
    let loose = number(&db, INDEX_BYTES).await;
    let mut reader = db.begin().await.unwrap();
    let level = format!("SET TRANSACTION ISOLATION LEVEL {isolation}");
    sqlx::raw_sql(AssertSqlSafe(level)).execute(&mut *reader).await.unwrap();
    let read = "SELECT count(*) FROM warehouse.book_pages";
    sqlx::query(read).execute(&mut *reader).await.unwrap();
    for _ in 0..2 {
        let is_over = AtomicBool::new(false);
        let building = async {
            let began = Instant::now();
            let waiting = round(&db, "2024-01-02").await;
            is_over.store(true, Ordering::Relaxed);
            assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
            waiting
        };
        // Who comes meanwhile does not wait.
        let others = async {
            let mut written = 0;
            while !is_over.load(Ordering::Relaxed) {
                let write = page(&db, old, "2024-01-01");
                tokio::time::timeout(Duration::from_millis(400), write).await.expect("it waits");
                written += 1;
            }
            written
        };
        let (waiting, written) = tokio::join!(building, others);
        assert!(written > 1);
        assert_eq!(waiting.rebuilt, Vec::<String>::new());
        let [(index, _)] = &waiting.not_rebuilt[..] else { panic!("{waiting:?}") };
        assert_eq!(index, "warehouse.book_pages_20240101_pkey");
        assert!(!waiting.has_more, "it would be tried again at once");
    }
    assert!(number(&db, INDEXES_OF_TWO_DAYS).await > 2, "nothing was begun");
    reader.commit().await.unwrap();
    let after = round(&db, "2024-01-02").await;
    assert_eq!(after.rebuilt, ["warehouse.book_pages_20240101_pkey"], "{after:?}");
    assert!(number(&db, INDEX_BYTES).await < loose);
    assert_eq!(number(&db, INDEXES_OF_TWO_DAYS).await, 2, "something is left over");
    assert_eq!(round(&db, "2024-01-02").await, Round::default());
}

#[sqlx::test(migrations = "../migrations")]
async fn an_index_is_built_anew_after_its_readers(db: PgPool) {
    is_built_anew_after_its_readers(db, "READ COMMITTED").await;
}

#[sqlx::test(migrations = "../migrations")]
async fn an_index_is_built_anew_after_an_export(db: PgPool) {
    is_built_anew_after_its_readers(db, "REPEATABLE READ").await;
}

/// Partitions are made while somebody reads for long, and while somebody waits behind nobody.
#[sqlx::test(migrations = "../migrations")]
async fn partitions_are_made_beside_a_reader(db: PgPool) {
    make(&db, "2024-01-01", "2024-01-01").await;
    let mut reader = db.begin().await.unwrap();
    sqlx::query("SELECT * FROM warehouse.fact_offers").execute(&mut *reader).await.unwrap();
    let made = tokio::time::timeout(PATIENCE, make(&db, "2024-01-01", "2024-01-04"));
    assert_eq!(made.await.expect("it waits behind a reader"), 18);
    // Somebody alters a table: what is made ahead can wait, what is needed now is an error.
    sqlx::query("LOCK TABLE warehouse.offer_versions IN SHARE UPDATE EXCLUSIVE MODE")
        .execute(&mut *reader)
        .await
        .unwrap();
    assert_eq!(make(&db, "2024-01-04", "2024-01-05").await, 3, "the three before offer_versions");
    let needed = sqlx::query("SELECT pipeline.make_partitions('2024-01-06', '2024-01-06')");
    let error = needed.execute(&db).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("55P03"));
    reader.rollback().await.unwrap();
    assert_eq!(make(&db, "2024-01-04", "2024-01-06").await, 9);
}

async fn intend(db: &PgPool, names: &str) {
    run(
        db,
        format!(
            "INSERT INTO pipeline.dropped_partitions
             SELECT 'warehouse', name, left(name, -9), right(name, 8)::date, right(name, 8)::date, 0, 0, now()
               FROM unnest('{names}'::text[]) AS name"
        ),
    )
    .await;
}

/// Whatever step a coordinator was killed at, the next one finishes it, and touches nothing else.
#[sqlx::test(migrations = "../migrations")]
async fn what_was_begun_is_finished(db: PgPool) {
    make(&db, "2024-01-01", "2024-01-08").await;
    batch(&db, "2024-01-05").await;
    // Decided only; detached; dropped and not noted.
    intend(&db, "{book_pages_20240101,offer_versions_20240101,books_20240101,books_20231231}")
        .await;
    run(
        &db,
        "ALTER TABLE warehouse.offer_versions DETACH PARTITION warehouse.offer_versions_20240101",
    )
    .await;
    run(&db, "DROP TABLE warehouse.books_20240101").await;
    // An operator keeps a day aside: it was not decided on.
    run(&db, "ALTER TABLE warehouse.books DETACH PARTITION warehouse.books_20240102").await;
    // Killed while it waited for a reader.
    let mut reader = db.begin().await.unwrap();
    sqlx::query("SELECT FROM pipeline.jobs WHERE day = '2024-01-01'")
        .execute(&mut *reader)
        .await
        .unwrap();
    let mut killed = owner(&db).await;
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut killed).await.unwrap();
    let kill = async {
        let waits = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhdetachpending
                                       AND inhrelid = to_regclass('pipeline.jobs_20240101'))";
        let wait = async {
            while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&db).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("nothing is detached");
        sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&db).await.unwrap();
    };
    let until = Instant::now() + Duration::from_mins(1);
    let today = day("2024-01-05");
    let (cut, ()) = tokio::join!(retention::round(&mut killed, &KEPT, today, until), kill);
    // On a slow machine it may have given up by itself before.
    assert!(cut.is_err() || cut.is_ok_and(|round| round.waits_for.is_some()));
    reader.rollback().await.unwrap();

    let after = round(&db, "2024-01-05").await;
    assert_eq!(after.dropped, ["pipeline.jobs_20240101"], "{after:?}");
    for table in TABLES {
        assert_ne!(partitions(&db, table).await[0], "20240101", "{table}");
    }
    let left = "SELECT count(*) FROM pipeline.dropped_partitions WHERE dropped_at IS NULL";
    assert_eq!(number(&db, left).await, 0);
    let tables =
        "SELECT count(*) FROM pg_class WHERE relname LIKE '%\\_20240101' AND relkind = 'r'";
    assert_eq!(number(&db, tables).await, 0);
    batch(&db, "2024-01-08").await;
    let later = round(&db, "2024-01-08").await;
    assert!(later.dropped.contains(&"pipeline.jobs_20240102".to_owned()), "{later:?}");
    assert_eq!(
        number(&db, "SELECT count(*) FROM warehouse.books_20240102").await,
        0,
        "it is there"
    );
}

/// More days are to be kept than when it was decided: what is untouched stays.
#[sqlx::test(migrations = "../migrations")]
async fn a_longer_time_takes_decisions_back(db: PgPool) {
    make(&db, "2024-01-01", "2024-01-02").await;
    batch(&db, "2024-01-10").await;
    intend(&db, "{books_20240101,books_20240102}").await;
    run(&db, "ALTER TABLE warehouse.books DETACH PARTITION warehouse.books_20240101").await;
    let kept = Retention { facts_days: 30, raw_days: 30, ..KEPT };
    assert_eq!(round_with(&db, &kept, "2024-01-10").await.dropped, ["warehouse.books_20240101"]);
    assert_eq!(partitions(&db, "warehouse.books").await, ["20240102"]);
    assert_eq!(number(&db, "SELECT count(*) FROM pipeline.dropped_partitions").await, 1);
}

/// A market whose last good book is too old has no latest state, and the quarantine loses what is old.
#[sqlx::test(migrations = "../migrations")]
async fn rows_that_are_old_are_deleted(db: PgPool) {
    let new = batch(&db, "2024-01-10").await;
    run(
        &db,
        "INSERT INTO warehouse.dim_fiat_currencies (currency_code, first_seen_at) VALUES ('BOB', now());
         INSERT INTO warehouse.dim_cryptocurrencies (symbol, first_seen_at) VALUES ('USDT', now()), ('BTC', now());
         INSERT INTO warehouse.dim_markets (exchange_id, fiat_id, crypto_id, trade_type, first_seen_at)
         SELECT 1, 1, crypto_id, 'BUY', now() FROM warehouse.dim_cryptocurrencies;
         INSERT INTO warehouse.latest_books VALUES (1, '2024-01-06', 0, 'complete', now()), (2, '2024-01-07', 0, 'complete', now());
         INSERT INTO pipeline.quarantine (day, batch_id, ordinal, scope, reason, detail, parser_version, body, quarantined_at)
         SELECT DATE '2024-01-01' + n % 9, 0, n, 'ad', 'r', 'd', 1, 'b', now() FROM generate_series(1, 1800) n",
    )
    .await;
    let round = round(&db, "2024-01-10").await;
    assert_eq!((round.latest_forgotten, round.quarantine_deleted), (1, 1200), "{round:?}");
    let oldest: NaiveDate = sqlx::query_scalar("SELECT min(day) FROM pipeline.quarantine")
        .fetch_one(&db)
        .await
        .unwrap();
    assert_eq!(oldest, day("2024-01-07"));
    assert_eq!(number(&db, "SELECT market_id::bigint FROM warehouse.latest_books").await, 2);
    assert!(new > 0);
}

/// One at a time: a second one leaves it to the first.
#[sqlx::test(migrations = "../migrations")]
async fn two_at_once_do_it_once(db: PgPool) {
    make(&db, "2024-01-01", "2024-01-01").await;
    batch(&db, "2024-01-10").await;
    let mut first = owner(&db).await;
    sqlx::query("SELECT pg_advisory_lock(hashtext('pipeline.retention'))")
        .execute(&mut first)
        .await
        .unwrap();
    assert_eq!(round(&db, "2024-01-10").await, Round::default());
    first.close().await.unwrap();
    assert_eq!(round(&db, "2024-01-10").await.dropped.len(), 6);
}

/// A coordinator that sleeps for three days over the end of a month: partitions are there when it wakes
/// up, a late page goes to the day of its batch, and what became old meanwhile is dropped in idle time.
#[sqlx::test(migrations = "../migrations")]
async fn a_coordinator_asleep_for_days_goes_on(db: PgPool) {
    let at = |text: &str| text.parse().unwrap();
    let clock = Arc::new(MovedClock(Mutex::new(at("2026-10-30T23:50:00Z"))));
    let mut settings = crate::settings(&db);
    settings.retention = Retention { marts_days: 3, ..KEPT };
    let shutdown = CancellationToken::new();
    make(&db, "2026-10-26", "2026-10-27").await;
    let run = coordinator::run(settings, Mode::Schedule, false, clock.clone(), shutdown.clone());
    let run = tokio::spawn(run);
    wait_for(&db, "SELECT count(*) FROM pipeline.batches", 1).await;
    clock.set(at("2026-10-30T23:50:02Z"));
    wait_for(&db, CLOSED, 1).await;
    let gone = "SELECT count(*) FROM pipeline.dropped_partitions WHERE dropped_at IS NOT NULL";
    wait_for(&db, gone, 6).await;
    let slept = ["20261027", "20261030", "20261031", "20261101", "20261102"];
    assert_eq!(partitions(&db, "warehouse.books").await, slept);
    clock.set(at("2026-11-03T00:00:00.100Z"));
    wait_for(&db, "SELECT count(*) FROM pipeline.batches", 2).await;
    let awake = ["20261103", "20261104", "20261105", "20261106"];
    assert_eq!(partitions(&db, "warehouse.books").await, [&slept[..], &awake[..]].concat());
    let late = sqlx::query_scalar("SELECT min(batch_id) FROM pipeline.batches");
    page(&db, late.fetch_one(&db).await.unwrap(), "2026-10-30").await;
    assert_eq!(number(&db, "SELECT count(*) FROM warehouse.book_pages_20261030").await, 1);
    clock.set(at("2026-11-03T00:00:02Z"));
    wait_for(&db, CLOSED, 2).await;
    shutdown.cancel();
    assert_eq!(run.await.unwrap().unwrap(), RunOutcome::Stopped);
}
