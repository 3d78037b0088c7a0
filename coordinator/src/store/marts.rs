//! The marts of closed batches: prices, stock and flow per book, per payment method, per advertiser and
//! day, and their hours and days.
//!
//! Made when a batch closes, in its transaction, from its ads and from the complete books before it: the
//! cost grows with the batch. A range of batches of one day may be made at once, with the same rows in
//! the end; whoever fills a database with days uses that.

use std::borrow::Cow;

use chrono::NaiveDate;
use shared::domain::BatchId;
use sqlx::{AssertSqlSafe, PgConnection};

use super::listed;

/// Batches of one day, certified and without marts.
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    pub(super) first: BatchId,
    pub(super) last: BatchId,
}

impl Batches {
    /// One batch.
    #[must_use]
    pub fn one(batch: BatchId) -> Self {
        Self { first: batch, last: batch }
    }

    /// From `first` to `last`; `None` unless they are in this order and of one day.
    #[must_use]
    pub fn range(first: BatchId, last: BatchId) -> Option<Self> {
        (first <= last && first.day() == last.day()).then_some(Self { first, last })
    }
}

/// Parts of the transaction are about a few thousand rows of many: looking each up by its key beats
/// reading the day. Elsewhere the temporary tables meet each other ([`listed::BY_HASH`]).
const BY_KEY: &str = "SET LOCAL enable_nestloop = on; SET LOCAL random_page_cost = 1.1";
/// Groups are hashed, not sorted, and so take their rows in the order in which these come.
const IN_ORDER: &str = "SET LOCAL enable_sort = off; SET LOCAL enable_hashagg = on";

/// Rows of the day are read together by the index of days and not one by one; blocks of the month that the index does
/// not know yet are read with them.
const BY_DAY: &str = "SET LOCAL enable_seqscan = off";

/// Which books marts are made of, and where they are put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// All of the batches, into the warehouse.
    Warehouse,
    /// Of the markets in `remade_markets`, into temporary tables.
    Beside,
}

/// The marts, in an order in which they may be put in place.
const MARTS: [&str; 5] =
    ["mart_books", "mart_book_methods", "mart_advertiser_days", "mart_hours", "mart_days"];

impl Place {
    /// A statement of the close as it is for this place.
    fn statement(self, statement: impl Into<Cow<'static, str>>) -> Cow<'static, str> {
        let statement = statement.into();
        match self {
            Self::Warehouse => statement,
            Self::Beside => statement.replace("warehouse.mart_", "remade_mart_").into(),
        }
    }
}

/// Reads the ads of `batches` and makes their marts. In a transaction with whose end its temporary tables go.
pub async fn make(connection: &mut PgConnection, batches: Batches) -> sqlx::Result<()> {
    listed::read(connection, batches, None).await?;
    make_of_listed(connection, batches).await
}

/// Makes the marts of `batches`, whose ads are listed ([`listed::read`]).
pub(super) async fn make_of_listed(
    connection: &mut PgConnection,
    batches: Batches,
) -> sqlx::Result<()> {
    make_in(connection, batches, Place::Warehouse).await?;
    execute(connection, include_str!("marts/catalog.sql")).await
}

/// Makes the marts of these markets, of all closed batches of a day, in temporary tables. Flows are counted
/// from the books that were complete before the day.
pub(super) async fn make_beside(
    connection: &mut PgConnection,
    batches: Batches,
    markets: &[i32],
) -> sqlx::Result<()> {
    for mart in MARTS {
        let statement = format!(
            "CREATE TEMP TABLE remade_{mart} (LIKE warehouse.{mart} INCLUDING INDEXES) ON COMMIT DROP"
        );
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    sqlx::query(
        "CREATE TEMP TABLE remade_markets ON COMMIT DROP AS
         SELECT m.market_id, k.batch_id AS last_complete_batch_id
           FROM unnest($1::int[]) AS m (market_id)
           LEFT JOIN LATERAL (SELECT b.batch_id FROM warehouse.mart_books b
                               WHERE b.market_id = m.market_id AND b.day < $2
                                 AND b.verdict IN ('complete', 'empty')
                               ORDER BY b.day DESC, b.batch_id DESC LIMIT 1) k ON true",
    )
    .bind(markets)
    .bind(batches.first.day())
    .execute(&mut *connection)
    .await?;
    listed::read(connection, batches, Some(markets)).await?;
    make_in(connection, batches, Place::Beside).await
}

/// What [`make_beside`] made becomes the marts of these markets on this day.
pub(super) async fn put_in_place(
    connection: &mut PgConnection,
    day: NaiveDate,
    markets: &[i32],
) -> sqlx::Result<()> {
    // Quality checks hold books back after the marts are made.
    sqlx::query(
        "UPDATE remade_mart_books r SET held_reason = b.held_reason
           FROM warehouse.mart_books b
          WHERE b.day = $1 AND b.market_id = ANY ($2) AND b.held_reason IS NOT NULL
            AND r.market_id = b.market_id AND r.batch_id = b.batch_id",
    )
    .bind(day)
    .bind(markets)
    .execute(&mut *connection)
    .await?;
    for mart in MARTS {
        let delete =
            format!("DELETE FROM warehouse.{mart} WHERE day = $1 AND market_id = ANY ($2)");
        sqlx::query(AssertSqlSafe(delete))
            .bind(day)
            .bind(markets)
            .execute(&mut *connection)
            .await?;
        let insert = format!("INSERT INTO warehouse.{mart} SELECT * FROM remade_{mart}");
        sqlx::query(AssertSqlSafe(insert)).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn make_in(
    connection: &mut PgConnection,
    batches: Batches,
    place: Place,
) -> sqlx::Result<()> {
    let day = batches.first.day();
    execute(connection, listed::IN_MEMORY).await?;
    run(connection, batches, include_str!("marts/closing.sql").into()).await?;
    if place == Place::Beside {
        let others = "DELETE FROM closing_books WHERE market_id NOT IN (SELECT market_id FROM remade_markets)";
        execute(connection, others).await?;
    }
    execute(connection, "ANALYZE closing_books").await?;
    execute(connection, BY_KEY).await?;
    let pairs = include_str!("marts/pairs.sql");
    match place {
        Place::Warehouse => execute(connection, pairs).await?,
        Place::Beside => {
            let pairs = pairs.replace("pipeline.catalog", "remade_markets");
            sqlx::raw_sql(AssertSqlSafe(pairs)).execute(&mut *connection).await?;
        }
    }
    execute(connection, "ANALYZE book_pairs").await?;
    execute(connection, include_str!("marts/ads_before.sql")).await?;
    let before: Vec<NaiveDate> = sqlx::query_scalar("SELECT DISTINCT previous_day FROM book_pairs")
        .fetch_all(&mut *connection)
        .await?;
    // Day by day, so that each statement names the one partition it reads. Without any, for
    // this one, of which there are none, so that the table is there.
    let ids = include_str!("marts/before.sql");
    let (first, others) = before.split_first().unwrap_or((&day, &[]));
    let made = format!("CREATE TEMP TABLE ids_before ON COMMIT DROP AS {ids}");
    bound(connection, made.into(), &[*first]).await?;
    for other in others {
        bound(connection, format!("INSERT INTO ids_before {ids}").into(), &[*other]).await?;
    }
    execute(connection, "ANALYZE ids_before").await?;
    execute(connection, listed::BY_HASH).await?;
    bound(connection, include_str!("marts/unmatched.sql").into(), &[day]).await?;
    execute(connection, "ANALYZE unmatched").await?;
    execute(connection, BY_KEY).await?;
    for before in &before {
        bound(connection, include_str!("marts/gone.sql").into(), &[*before]).await?;
    }
    execute(connection, listed::BY_HASH).await?;
    execute(connection, "ANALYZE ads_before").await?;
    execute(connection, include_str!("marts/moves.sql")).await?;
    execute(connection, "ANALYZE ad_moves").await?;
    execute(connection, include_str!("marts/seen.sql")).await?;
    bound(connection, place.statement(include_str!("marts/books.sql")), &[day]).await?;
    execute(connection, IN_ORDER).await?;
    bound(connection, place.statement(include_str!("marts/methods.sql")), &[day]).await?;
    execute(connection, "RESET enable_sort; RESET enable_hashagg").await?;
    let summed = if batches.first == batches.last {
        include_str!("marts/summed_of_one.sql")
    } else {
        include_str!("marts/summed.sql")
    };
    let advertisers = include_str!("marts/advertisers.sql").replace("SUMMED", summed);
    execute(connection, BY_DAY).await?;
    bound(connection, place.statement(advertisers), &[day]).await?;
    execute(connection, "RESET enable_seqscan").await?;
    run(connection, batches, place.statement(include_str!("marts/hours.sql"))).await?;
    bound(connection, place.statement(include_str!("marts/days.sql")), &[day]).await?;
    execute(
        connection,
        "RESET enable_nestloop; RESET enable_mergejoin; RESET random_page_cost; RESET work_mem",
    )
    .await
}

async fn execute(connection: &mut PgConnection, statements: &'static str) -> sqlx::Result<()> {
    sqlx::raw_sql(statements).execute(connection).await.map(drop)
}

/// Runs a statement of days.
async fn bound(
    connection: &mut PgConnection,
    statement: Cow<'static, str>,
    days: &[NaiveDate],
) -> sqlx::Result<()> {
    days.iter()
        .fold(sqlx::query(AssertSqlSafe(statement.into_owned())), |query, day| query.bind(*day))
        .execute(connection)
        .await
        .map(drop)
}

/// Runs a statement of `$1` day, `$2` first and `$3` last batch.
async fn run(
    connection: &mut PgConnection,
    batches: Batches,
    statement: Cow<'static, str>,
) -> sqlx::Result<()> {
    sqlx::query(AssertSqlSafe(statement.into_owned()))
        .bind(batches.first.day())
        .bind(batches.first.raw())
        .bind(batches.last.raw())
        .execute(connection)
        .await
        .map(drop)
}
