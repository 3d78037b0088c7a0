//! What an export reads. Columns are asked of the catalog, so that a new column is exported too.

use chrono::{DateTime, NaiveDate, Utc};
use futures::TryStreamExt;
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use super::file::{Column, Kind, Table};
use crate::EXCHANGE;

/// A closed batch, as the manifest tells it.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub(super) struct Batch {
    pub(super) batch_id: i32,
    pub(super) slot_at: DateTime<Utc>,
    closed_at: Option<DateTime<Utc>>,
    outcome: Option<String>,
    reason: Option<String>,
    books: Option<i32>,
    books_complete: Option<i32>,
    ads: Option<i32>,
    ads_missed: Option<i32>,
}

/// What the certificates of a day say together.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub(super) struct Completeness {
    books: i64,
    books_complete: i64,
    books_empty: i64,
    books_drifted: i64,
    books_partial: i64,
    books_failed: i64,
    books_shed: i64,
    /// Different ads of each book, summed: as many rows as `offers.parquet` has.
    ads: i64,
    /// Ads that were probably listed and not read.
    ads_missed_estimated: i64,
    /// Books of which nothing was read, so that nothing is known of what they lack.
    books_unknown: i64,
    first_reading_at: Option<DateTime<Utc>>,
    last_reading_at: Option<DateTime<Utc>>,
}

/// A day as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct Day {
    /// Whether its last slot is past.
    pub(super) is_past: bool,
    pub(super) batches_open: i64,
    /// Whether its facts were dropped by age.
    pub(super) is_dropped: bool,
}

pub(super) async fn day(db: &mut PgConnection, day: NaiveDate) -> anyhow::Result<Day> {
    let state = sqlx::query_as(
        "SELECT (now() AT TIME ZONE 'UTC')::date > $1 AS is_past,
                (SELECT count(*) FROM pipeline.batches
                  WHERE day = $1 AND exchange_id = $2 AND state = 'open') AS batches_open,
                EXISTS (SELECT FROM pipeline.dropped_partitions d JOIN pipeline.partitioned_tables t
                                 USING (schema_name, table_name)
                         WHERE t.schema_name = 'warehouse' AND t.class = 'facts'
                           AND $1 BETWEEN d.first_day AND d.last_day) AS is_dropped",
    );
    Ok(state.bind(day).bind(EXCHANGE.id()).fetch_one(db).await?)
}

pub(super) async fn closed(db: &mut PgConnection, day: NaiveDate) -> anyhow::Result<Vec<Batch>> {
    let batches = sqlx::query_as(
        "SELECT batch_id, slot_at, closed_at, outcome, reason, books, books_complete, ads, ads_missed
           FROM pipeline.batches WHERE day = $1 AND exchange_id = $2 AND state = 'closed' ORDER BY batch_id",
    );
    Ok(batches.bind(day).bind(EXCHANGE.id()).fetch_all(db).await?)
}

pub(super) async fn completeness(
    db: &mut PgConnection,
    day: NaiveDate,
) -> anyhow::Result<Completeness> {
    let completeness = sqlx::query_as(
        "SELECT count(*) AS books,
                count(*) FILTER (WHERE verdict = 'complete') AS books_complete,
                count(*) FILTER (WHERE verdict = 'empty') AS books_empty,
                count(*) FILTER (WHERE verdict = 'drifted') AS books_drifted,
                count(*) FILTER (WHERE verdict = 'partial') AS books_partial,
                count(*) FILTER (WHERE verdict = 'failed') AS books_failed,
                count(*) FILTER (WHERE verdict = 'shed') AS books_shed,
                coalesce(sum(distinct_ads), 0)::bigint AS ads,
                coalesce(sum(estimated_missed), 0)::bigint AS ads_missed_estimated,
                count(*) FILTER (WHERE estimated_missed IS NULL) AS books_unknown,
                min(first_fetched_at) AS first_reading_at, max(last_fetched_at) AS last_reading_at
           FROM warehouse.books WHERE day = $1",
    );
    Ok(completeness.bind(day).fetch_one(db).await?)
}

/// The schema's version, by its last migration.
pub(super) async fn schema_version(db: &mut PgConnection) -> anyhow::Result<i64> {
    let version = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success");
    Ok(version.fetch_one(db).await?)
}

/// A relation's columns. What has no kind goes as text, which loses nothing.
async fn columns(db: &mut PgConnection, relation: &str) -> anyhow::Result<Vec<Column>> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
          WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    )
    .bind(relation)
    .fetch_all(db)
    .await?;
    let column = |(name, sql_type): (String, String)| {
        let kind = Kind::of(&sql_type);
        let cast = if kind.is_none() { "::text" } else { "" };
        Column { expression: format!("r.{name}{cast}"), name, kind: kind.unwrap_or(Kind::Text) }
    };
    Ok(columns.into_iter().map(column).collect())
}

/// Where rows come from.
pub(super) struct Source {
    pub(super) columns: Vec<Column>,
    /// What stands behind the columns.
    rest: String,
}

/// Names of a market behind its id, so that a file can be read without the dimensions.
const MARKET_NAMES: [(&str, &str); 3] = [
    ("exchange_name", "e.exchange_name"),
    ("fiat_code", "f.currency_code"),
    ("crypto_symbol", "c.symbol"),
];
const MARKET_JOINS: &str = "LEFT JOIN warehouse.dim_markets m ON m.market_id = r.market_id
     LEFT JOIN warehouse.dim_exchanges e ON e.exchange_id = m.exchange_id
     LEFT JOIN warehouse.dim_fiat_currencies f ON f.fiat_id = m.fiat_id
     LEFT JOIN warehouse.dim_cryptocurrencies c ON c.crypto_id = m.crypto_id";

impl Source {
    /// Ads of a batch (`$1` day, `$2` batch): `fact_offers`, with names spelled out.
    pub(super) async fn offers(db: &mut PgConnection) -> anyhow::Result<Self> {
        let mut source = Self {
            columns: columns(db, "warehouse.fact_offers").await?,
            rest: format!(
                "FROM warehouse.fact_offers r {MARKET_JOINS}
                 LEFT JOIN warehouse.dim_advertisers a ON a.advertiser_sk = r.advertiser_sk
                WHERE r.day = $1 AND r.batch_id = $2
                ORDER BY r.market_id, r.page, r.rank NULLS FIRST, r.offer_external_id"
            ),
        };
        source.add(&MARKET_NAMES, Kind::Text);
        source.add(&[("advertiser", "a.advertiser"), ("user_no", "a.user_no")], Kind::Text);
        source.add(&[("is_merchant", "a.is_merchant")], Kind::Bool);
        let methods = "coalesce((SELECT array_agg(p.identifier ORDER BY p.identifier)
                                   FROM warehouse.dim_payment_methods p
                                  WHERE p.payment_method_id = ANY (r.payment_method_ids)), '{}')";
        source.add(&[("payment_methods", methods)], Kind::TextList);
        Ok(source)
    }

    /// Certificates of a batch (`$1` day, `$2` batch).
    pub(super) async fn books(db: &mut PgConnection) -> anyhow::Result<Self> {
        let mut source = Self {
            columns: columns(db, "warehouse.books").await?,
            rest: format!(
                "FROM warehouse.books r {MARKET_JOINS}
                WHERE r.day = $1 AND r.batch_id = $2 ORDER BY r.market_id"
            ),
        };
        source.add(&MARKET_NAMES, Kind::Text);
        source.add(&[("trade_type", "m.trade_type")], Kind::Text);
        Ok(source)
    }

    /// A whole table, in the order of its key.
    pub(super) async fn table(db: &mut PgConnection, relation: &str) -> anyhow::Result<Self> {
        let key: Option<String> = sqlx::query_scalar(
            "SELECT string_agg('r.' || quote_ident(a.attname), ', ' ORDER BY array_position(i.indkey::int2[], a.attnum))
               FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
              WHERE i.indrelid = $1::regclass AND i.indisprimary",
        )
        .bind(relation)
        .fetch_one(&mut *db)
        .await?;
        let order = key.map_or_else(String::new, |key| format!("ORDER BY {key}"));
        let rest = format!("FROM {relation} r {order}");
        Ok(Self { columns: columns(db, relation).await?, rest })
    }

    /// Columns beside those of the relation, unless it has one of that name.
    fn add(&mut self, columns: &[(&str, &str)], kind: Kind) {
        for (name, expression) in columns {
            if !self.columns.iter().any(|column| column.name == *name) {
                let (name, expression) = ((*name).to_owned(), (*expression).to_owned());
                self.columns.push(Column { name, expression, kind });
            }
        }
    }

    /// All rows into a file: of a day and a batch, or of everything.
    pub(super) async fn copy(
        &self,
        db: &mut PgConnection,
        batch: Option<(NaiveDate, i32)>,
        table: &mut Table,
    ) -> anyhow::Result<()> {
        let expressions: Vec<&str> =
            self.columns.iter().map(|column| column.expression.as_str()).collect();
        // Names come from the catalog and from here.
        let sql = AssertSqlSafe(format!("SELECT {} {}", expressions.join(", "), self.rest));
        let query = sqlx::query(sql);
        let query = match batch {
            Some((day, batch)) => query.bind(day).bind(batch),
            None => query,
        };
        let mut rows = query.fetch(db);
        while let Some(row) = rows.try_next().await? {
            table.push(&row)?;
        }
        Ok(())
    }
}

/// Tables that name things.
pub(super) async fn dimensions(db: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    let names = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = 'warehouse' AND c.relkind = 'r' AND NOT c.relispartition
            AND (c.relname LIKE 'dim\\_%' OR c.relname = 'fiat_payment_methods') ORDER BY 1",
    );
    Ok(names.fetch_all(db).await?)
}
