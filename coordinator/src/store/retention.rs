//! What is old is dropped: partitions by their last day, the quarantine row by row. Of the raw archive
//! also what its budget has no room for, the oldest day first.
//!
//! A plain `DROP` or `DETACH` takes ACCESS EXCLUSIVE on the parent: it waits behind the longest query,
//! and everybody else waits behind it. So a partition goes in steps, each of which gives up after
//! [`LOCK_LIMIT`] and is taken up again by a later round, or by a later coordinator:
//!
//! 1. the decision is recorded in `pipeline.dropped_partitions`;
//! 2. `DETACH PARTITION ... CONCURRENTLY`: from its first commit on, new queries no longer see the
//!    partition; then it waits for those that may, without holding a lock that others want;
//! 3. `FINALIZE`, if the second step was cut while it waited;
//! 4. `DROP TABLE` of what is then a table of its own;
//! 5. the record says when it was gone.
//!
//! In rounds that drop nothing, indexes of days that are over are built anew ([`rebuild`]).
//!
//! None of it can be bound to the leader's term, for step 2 takes no transaction. It need not be: each
//! step leaves the same behind whoever does it, and a lock of the session lets one at a time try.

use chrono::NaiveDate;
use shared::settings::Database;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};
use tokio::time::Instant;

use crate::settings::Retention;

/// Longest wait for a lock. Below `deadlock_timeout` (1 s): where a reader and a step wait for each
/// other, it is the step that gives up. A reader who must wait for a step waits no longer than this.
const LOCK_LIMIT: &str = "500ms";
/// Longest statement: dropping a partition deletes its files.
const STATEMENT_LIMIT: &str = "5s";
/// Longest building of an index anew, and most of them in one round.
const REBUILD_LIMIT: &str = "8s";
const REBUILT_PER_ROUND: i64 = 4;
/// Partitions dropped in one round. A day has six; after a long absence the rest comes in the next.
const PARTITIONS_PER_ROUND: i64 = 16;
/// A dictionary that is not the newest may still be used by workers that have not heard of its successor,
/// for a sign of life or two.
const DICTIONARY_GRACE: &str = "1 day";
/// Rows of the quarantine deleted in one statement: each carries up to a page's bytes.
const QUARANTINE_CHUNK: i64 = 500;
/// Such statements in one round.
const QUARANTINE_CHUNKS_PER_ROUND: usize = 10;

/// What a round did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Partitions that are gone, with their schemas.
    pub dropped: Vec<String>,
    /// A partition that is still read; the round ended with it.
    pub waits_for: Option<String>,
    /// Entries of the quarantine that were deleted.
    pub quarantine_deleted: u64,
    /// Markets whose last good book went with its day.
    pub latest_forgotten: u64,
    /// Dictionaries of the raw archive that nothing needs any more.
    pub dictionaries_deleted: u64,
    /// Indexes that were built anew, with their schemas.
    pub rebuilt: Vec<String>,
    /// Those that could not be, and why: they are still read, or it takes too long.
    pub not_rebuilt: Vec<(String, String)>,
    /// Whether there is more to do than one round does.
    pub has_more: bool,
}

/// A connection of the owner for one round.
pub async fn connect(owner: &Database) -> Result<PgConnection, sqlx::Error> {
    let options = owner.options()?;
    let limits = [
        ("lock_timeout", LOCK_LIMIT.to_owned()),
        ("statement_timeout", STATEMENT_LIMIT.to_owned()),
    ];
    options.application_name("coordinator retention").options(limits).connect().await
}

/// A partition that is to go, or is going.
#[derive(Debug, sqlx::FromRow)]
struct Partition {
    /// Quoted, with its schema.
    parent: String,
    /// Quoted, with its schema.
    child: String,
    schema_name: String,
    partition_name: String,
    /// Whether it is still a partition.
    is_attached: bool,
    /// Whether its detaching began and was cut.
    is_pending: bool,
}

/// Drops what is older than `kept`, counted from `today` or from the newest batch, whichever is
/// older: a clock that jumps ahead drops nothing. Ends at `until`, at the first partition that is
/// still read, or after a bounded piece of work.
pub async fn round(
    owner: &mut PgConnection,
    kept: &Retention,
    today: NaiveDate,
    until: Instant,
) -> Result<Round, sqlx::Error> {
    let mut round = Round::default();
    let is_alone: bool =
        sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('pipeline.retention'))")
            .fetch_one(&mut *owner)
            .await?;
    if !is_alone {
        return Ok(round);
    }
    let today: NaiveDate = sqlx::query_scalar(
        "SELECT least($1, (now() AT TIME ZONE 'UTC')::date, (SELECT max(day) FROM pipeline.batches))",
    )
    .bind(today)
    .fetch_one(&mut *owner)
    .await?;
    let first_kept = |days: u16| today - chrono::Days::new(u64::from(days));
    let (facts, marts) = (first_kept(kept.facts_days), first_kept(kept.marts_days));
    round.latest_forgotten = forget_latest(owner, facts).await?;
    let raw = first_kept(kept.raw_days);
    let raw_with_room =
        first_with_room(owner, kept.raw_bytes).await?.map_or(raw, |day| day.max(raw));
    decide(owner, &FirstKept { facts, marts, raw, raw_with_room }).await?;
    round.dictionaries_deleted = delete_dictionaries(owner).await?;
    let going = list_going(owner).await?;
    round.has_more = i64::try_from(going.len()).is_ok_and(|going| going == PARTITIONS_PER_ROUND);
    for partition in going {
        if Instant::now() >= until {
            round.has_more = true;
            return Ok(round);
        }
        match let_go(owner, &partition).await {
            Ok(()) => round.dropped.push(partition.child),
            Err(error) if is_in_use(&error) => {
                round.waits_for = Some(partition.child);
                round.has_more = true;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    for chunk in 1..=QUARANTINE_CHUNKS_PER_ROUND {
        if Instant::now() >= until {
            round.has_more = true;
            break;
        }
        let deleted = delete_quarantine(owner, first_kept(kept.quarantine_days)).await?;
        round.quarantine_deleted += deleted;
        if i64::try_from(deleted).is_ok_and(|deleted| deleted < QUARANTINE_CHUNK) {
            break;
        }
        round.has_more |= chunk == QUARANTINE_CHUNKS_PER_ROUND;
    }
    // Building waits for who reads, as dropping does, and takes room, which dropping may be there to make.
    if round.dropped.is_empty() && round.waits_for.is_none() {
        rebuild(owner, today, until, &mut round).await?;
    }
    Ok(round)
}

/// An index of a partition that is over.
#[derive(Debug, sqlx::FromRow)]
struct Loose {
    /// Quoted, with its schema.
    index: String,
    /// What a building of it that was cut left, quoted, with schemas.
    left_over: Vec<String>,
}

/// Builds indexes of days that are over anew: up to a third of them is empty where rows came in another order than
/// that of the key. `CONCURRENTLY`, so nobody waits for it; it waits for those who read. What can't be built now is
/// tried again after the usual pause.
///
/// That an index is to be full is what says that it was built anew. A kill between the two statements leaves
/// an index as loose as it was and costs nothing else.
async fn rebuild(
    owner: &mut PgConnection,
    today: NaiveDate,
    until: Instant,
    round: &mut Round,
) -> Result<(), sqlx::Error> {
    let loose: Vec<Loose> = sqlx::query_as(include_str!("retention_rebuild.sql"))
        .bind(today)
        .bind(REBUILT_PER_ROUND)
        .fetch_all(&mut *owner)
        .await?;
    let is_full = i64::try_from(loose.len()).is_ok_and(|loose| loose == REBUILT_PER_ROUND);
    for Loose { index, left_over } in loose {
        if Instant::now() >= until {
            round.has_more = true;
            return Ok(());
        }
        match build_anew(owner, &index, &left_over).await {
            Ok(()) => round.rebuilt.push(index),
            // The server's own word: the connection is good, and what was dropped is told.
            Err(sqlx::Error::Database(error)) => {
                run(owner, format!("ALTER INDEX {index} RESET (fillfactor)")).await?;
                round.not_rebuilt.push((index, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    // Not for those that failed alone: they would be tried without a pause.
    round.has_more |= is_full && !round.rebuilt.is_empty();
    Ok(())
}

async fn build_anew(
    owner: &mut PgConnection,
    index: &str,
    left_over: &[String],
) -> Result<(), sqlx::Error> {
    for left_over in left_over {
        run(owner, format!("DROP INDEX CONCURRENTLY IF EXISTS {left_over}")).await?;
    }
    run(owner, format!("ALTER INDEX {index} SET (fillfactor = 100)")).await?;
    run(owner, format!("SET statement_timeout = '{REBUILD_LIMIT}'")).await?;
    let built = run(owner, format!("REINDEX INDEX CONCURRENTLY {index}")).await;
    run(owner, format!("SET statement_timeout = '{STATEMENT_LIMIT}'")).await?;
    built
}

/// A market whose last good book is of a day before `first_kept` has no latest state any more: a row
/// that points to pages that are gone would show a book without ads.
async fn forget_latest(
    owner: &mut PgConnection,
    first_kept: NaiveDate,
) -> Result<u64, sqlx::Error> {
    let forgotten = sqlx::query("DELETE FROM warehouse.latest_books WHERE day < $1");
    Ok(forgotten.bind(first_kept).execute(owner).await?.rows_affected())
}

/// The first day of the raw archive for which there is room in `budget`, if there is none for all.
async fn first_with_room(
    owner: &mut PgConnection,
    budget: u64,
) -> Result<Option<NaiveDate>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT max(day) + 1
           FROM (SELECT day, may_go, sum(bytes) OVER (ORDER BY day DESC) AS total FROM pipeline.raw_days()) d
          WHERE may_go AND total > $1",
    )
    .bind(i64::try_from(budget).unwrap_or(i64::MAX))
    .fetch_one(owner)
    .await
}

/// Dictionaries that were replaced and that no archived answer needs.
async fn delete_dictionaries(owner: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query(
        "DELETE FROM pipeline.raw_dictionaries d
          WHERE EXISTS (SELECT FROM pipeline.raw_dictionaries n
                         WHERE n.exchange_id = d.exchange_id AND n.trained_at > d.trained_at
                           AND n.trained_at < now() - $1::interval)
            AND NOT EXISTS (SELECT FROM pipeline.raw_pages r WHERE r.dictionary_id = d.dictionary_id)",
    );
    Ok(deleted.bind(DICTIONARY_GRACE).execute(owner).await?.rows_affected())
}

/// The first day that is kept of each class.
struct FirstKept {
    facts: NaiveDate,
    marts: NaiveDate,
    /// By age, and by age and budget.
    raw: NaiveDate,
    raw_with_room: NaiveDate,
}

/// Records which partitions are to go, the oldest first. A decision that a longer time made wrong is
/// taken back as long as nothing happened.
async fn decide(owner: &mut PgConnection, first_kept: &FirstKept) -> Result<(), sqlx::Error> {
    sqlx::query(include_str!("retention_decide.sql"))
        .bind(first_kept.facts)
        .bind(first_kept.marts)
        .bind(PARTITIONS_PER_ROUND)
        .bind(first_kept.raw_with_room)
        .bind(first_kept.raw)
        .execute(owner)
        .await?;
    Ok(())
}

async fn list_going(owner: &mut PgConnection) -> Result<Vec<Partition>, sqlx::Error> {
    sqlx::query_as(
        "SELECT format('%I.%I', d.schema_name, d.table_name) AS parent,
                format('%I.%I', d.schema_name, d.partition_name) AS child,
                d.schema_name, d.partition_name,
                i.inhrelid IS NOT NULL AS is_attached, i.inhdetachpending IS TRUE AS is_pending
           FROM pipeline.dropped_partitions d
           LEFT JOIN pipeline.partitioned_tables t USING (schema_name, table_name)
           LEFT JOIN pg_inherits i ON i.inhrelid = to_regclass(format('%I.%I', d.schema_name, d.partition_name))
          WHERE d.dropped_at IS NULL
          -- A table can have one partition under way only, so that goes first.
          ORDER BY i.inhrelid IS NOT NULL AND NOT i.inhdetachpending, d.last_day, t.drop_order LIMIT $1",
    )
    .bind(PARTITIONS_PER_ROUND)
    .fetch_all(owner)
    .await
}

/// Takes a partition from whatever step it is at to its end.
async fn let_go(owner: &mut PgConnection, partition: &Partition) -> Result<(), sqlx::Error> {
    let Partition { parent, child, .. } = partition;
    if partition.is_pending {
        run(owner, format!("ALTER TABLE {parent} DETACH PARTITION {child} FINALIZE")).await?;
    } else if partition.is_attached {
        run(owner, format!("ALTER TABLE {parent} DETACH PARTITION {child} CONCURRENTLY")).await?;
    }
    run(owner, format!("DROP TABLE IF EXISTS {child}")).await?;
    sqlx::query(
        "UPDATE pipeline.dropped_partitions SET dropped_at = now()
          WHERE schema_name = $1 AND partition_name = $2",
    )
    .bind(&partition.schema_name)
    .bind(&partition.partition_name)
    .execute(owner)
    .await?;
    Ok(())
}

/// Without a transaction around it. The names come quoted from the database.
async fn run(owner: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(owner).await?;
    Ok(())
}

async fn delete_quarantine(
    owner: &mut PgConnection,
    first_kept: NaiveDate,
) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query(
        "DELETE FROM pipeline.quarantine WHERE quarantine_id IN
                (SELECT quarantine_id FROM pipeline.quarantine WHERE day < $1 ORDER BY day LIMIT $2)",
    );
    let deleted = deleted.bind(first_kept).bind(QUARANTINE_CHUNK).execute(owner).await?;
    Ok(deleted.rows_affected())
}

/// Somebody still uses it: a lock that was not got in time, a statement that took too long, a deadlock
/// that was broken, another partition of the table that is under way.
fn is_in_use(error: &sqlx::Error) -> bool {
    const CODES: [&str; 4] = ["55P03", "57014", "40P01", "55000"];
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| CODES.contains(&code.as_ref()))
}

/// Whether the one who tried owns the tables.
#[must_use]
pub fn is_not_owner(error: &sqlx::Error) -> bool {
    const INSUFFICIENT_PRIVILEGE: &str = "42501";
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.as_deref() == Some(INSUFFICIENT_PRIVILEGE)
}
