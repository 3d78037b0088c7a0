//! Reads the collector's database, one batch at a time.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use rust_decimal::Decimal;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::compare::{Batch, Book, Page, StoredAd, StoredAdvertiser};
use super::history::Window;
use crate::truth::{MarketKey, PageDetails};

/// A closed batch, not yet loaded.
#[derive(Debug)]
pub(super) struct BatchHead {
    batch_id: i32,
    day: String,
    window: Window,
}

/// Holds what all batches share.
pub(super) struct Loader {
    pool: PgPool,
    markets: HashMap<i32, MarketKey>,
    methods: HashMap<i32, String>,
    /// The versions of one day.
    day: String,
    versions: HashMap<i32, Arc<StoredAd>>,
}

impl Loader {
    pub(super) async fn new(pool: PgPool) -> Result<Self> {
        let markets = sqlx::query_as::<_, (i32, String, String, String)>(
            "SELECT market_id, currency_code, symbol, trade_type FROM warehouse.dim_markets
               JOIN warehouse.dim_fiat_currencies USING (fiat_id)
               JOIN warehouse.dim_cryptocurrencies USING (crypto_id)",
        )
        .fetch_all(&pool)
        .await
        .context("read warehouse.dim_markets")?
        .into_iter()
        .map(|(id, fiat, asset, side)| (id, MarketKey { fiat, asset, side }))
        .collect();
        let methods = sqlx::query_as::<_, (i32, String)>(
            "SELECT payment_method_id, identifier FROM warehouse.dim_payment_methods",
        )
        .fetch_all(&pool)
        .await
        .context("read warehouse.dim_payment_methods")?
        .into_iter()
        .collect();
        Ok(Self { pool, markets, methods, day: String::new(), versions: HashMap::new() })
    }

    /// Closed batches that were opened at `since_us` or later, oldest first.
    pub(super) async fn closed_batches(&self, since_us: u64) -> Result<Vec<BatchHead>> {
        let rows = sqlx::query_as::<_, (i32, String, i64, i64)>(
            "SELECT batch_id, day::text, (extract(epoch FROM opened_at) * 1000000)::bigint,
                    (extract(epoch FROM closed_at) * 1000000)::bigint
               FROM pipeline.batches
              WHERE state = 'closed' AND (extract(epoch FROM opened_at) * 1000000)::bigint >= $1
              ORDER BY batch_id",
        )
        .bind(i64::try_from(since_us)?)
        .fetch_all(&self.pool)
        .await
        .context("read pipeline.batches")?;
        let head = |(batch_id, day, opened, closed)| -> Result<BatchHead> {
            Ok(BatchHead { batch_id, day, window: window(opened, closed)? })
        };
        rows.into_iter().map(head).collect()
    }

    /// A whole batch.
    pub(super) async fn batch(&mut self, head: &BatchHead) -> Result<Batch> {
        let context = || format!("load batch {}", head.batch_id);
        self.load_versions(&head.day).await.with_context(context)?;
        let mut books = self.books(head).await.with_context(context)?;
        self.add_windows(head, &mut books).await.with_context(context)?;
        self.add_pages(head, &mut books).await.with_context(context)?;
        let duplicates = sqlx::query_as::<_, (i32, String)>(
            "SELECT market_id, offer_external_id FROM warehouse.fact_offers
              WHERE day = $1::date AND batch_id = $2
              GROUP BY market_id, offer_external_id HAVING count(*) > 1",
        )
        .bind(&head.day)
        .bind(head.batch_id)
        .fetch_all(&self.pool)
        .await
        .with_context(context)?
        .into_iter()
        .map(|(market, adv_no)| Ok((self.market(market)?, adv_no)))
        .collect::<Result<_>>()?;
        let books = books.into_values().collect();
        let is_whole = sqlx::query_scalar(
            "SELECT NOT EXISTS (SELECT FROM pipeline.requests WHERE made_batch_id = $1 AND lost_only)",
        );
        let is_whole = is_whole.bind(head.batch_id).fetch_one(&self.pool).await;
        let is_whole = is_whole.with_context(context)?;
        Ok(Batch { batch_id: head.batch_id, window: head.window, is_whole, books, duplicates })
    }

    fn market(&self, id: i32) -> Result<MarketKey> {
        self.markets.get(&id).cloned().with_context(|| format!("dim_markets has no market {id}"))
    }

    async fn load_versions(&mut self, day: &str) -> Result<()> {
        if self.day == day {
            return Ok(());
        }
        let rows = sqlx::query(
            "SELECT v.id, v.adv_no, v.price, v.available_amount, v.tradable_quantity, v.min_limit,
                    v.max_limit, v.dynamic_max_limit, v.min_quantity, v.max_quantity,
                    v.dynamic_max_quantity, v.pay_time_limit_minutes, v.payment_method_ids,
                    v.classify, a.user_no, v.voucher_template::text AS voucher_template,
                    v.system_labels::text AS system_labels, v.terms, v.price_type,
                    v.price_floating_ratio::text AS price_floating_ratio, v.buyer_kyc_limit,
                    v.taker_conditions ->> 'userTradeVolumeMin' AS user_trade_volume_min
               FROM warehouse.offer_contents v
               JOIN warehouse.dim_advertisers a USING (advertiser_sk)
              WHERE v.day = $1::date",
        )
        .bind(day)
        .fetch_all(&self.pool)
        .await?;
        self.versions.clear();
        for row in rows {
            let amount = |column: &str| row.try_get::<Option<Decimal>, _>(column);
            let method =
                |id: &i32| self.methods.get(id).cloned().unwrap_or_else(|| format!("#{id}"));
            let ids: Vec<i32> = row.try_get("payment_method_ids")?;
            let mut payment_methods: Vec<String> = ids.iter().map(method).collect();
            payment_methods.sort();
            let minutes: Option<i16> = row.try_get("pay_time_limit_minutes")?;
            let ad = StoredAd {
                adv_no: row.try_get("adv_no")?,
                amounts: [
                    amount("price")?,
                    amount("available_amount")?,
                    amount("tradable_quantity")?,
                    amount("min_limit")?,
                    amount("max_limit")?,
                    amount("dynamic_max_limit")?,
                    amount("min_quantity")?,
                    amount("max_quantity")?,
                    amount("dynamic_max_quantity")?,
                ],
                pay_time_limit: minutes.map(u16::try_from).transpose()?,
                payment_methods,
                classify: row.try_get("classify")?,
                user_no: row.try_get("user_no")?,
                voucher_template: json(&row, "voucher_template")?,
                adv_system_label_ret: json(&row, "system_labels")?,
                details: details(&row)?,
            };
            self.versions.insert(row.try_get("id")?, Arc::new(ad));
        }
        day.clone_into(&mut self.day);
        Ok(())
    }

    async fn books(&self, head: &BatchHead) -> Result<HashMap<i32, Book>> {
        let rows = sqlx::query_as::<_, (i32, String, Option<i32>)>(
            "SELECT market_id, verdict, estimated_missed FROM warehouse.books
              WHERE day = $1::date AND batch_id = $2",
        )
        .bind(&head.day)
        .bind(head.batch_id)
        .fetch_all(&self.pool)
        .await?;
        let book = |(id, verdict, estimated_missed)| {
            let market = self.market(id)?;
            Ok((id, Book { market, verdict, estimated_missed, window: None, pages: Vec::new() }))
        };
        rows.into_iter().map(book).collect()
    }

    async fn add_windows(&self, head: &BatchHead, books: &mut HashMap<i32, Book>) -> Result<()> {
        let rows = sqlx::query_as::<_, (i32, i64, i64)>(
            "SELECT market_id, (extract(epoch FROM min(requested_at)) * 1000000)::bigint,
                    (extract(epoch FROM max(fetched_at)) * 1000000)::bigint
               FROM pipeline.jobs
              WHERE day = $1::date AND batch_id = $2 AND kind = 'search'
                AND state IN ('done', 'empty') AND requested_at IS NOT NULL
                AND fetched_at IS NOT NULL
              GROUP BY market_id",
        )
        .bind(&head.day)
        .bind(head.batch_id)
        .fetch_all(&self.pool)
        .await?;
        for (id, from, to) in rows {
            if let Some(book) = books.get_mut(&id) {
                book.window = Some(window(from, to)?);
            }
        }
        Ok(())
    }

    async fn add_pages(&self, head: &BatchHead, books: &mut HashMap<i32, Book>) -> Result<()> {
        let rows = sqlx::query_as::<_, (i32, i16, Vec<i32>, Option<i64>, Option<i64>)>(
            "SELECT p.market_id, p.page, p.offer_ids,
                    (extract(epoch FROM j.requested_at) * 1000000)::bigint,
                    (extract(epoch FROM j.fetched_at) * 1000000)::bigint
               FROM warehouse.book_pages p
               LEFT JOIN pipeline.jobs j USING (day, batch_id, ordinal)
              WHERE p.day = $1::date AND p.batch_id = $2
              ORDER BY p.market_id, p.page",
        )
        .bind(&head.day)
        .bind(head.batch_id)
        .fetch_all(&self.pool)
        .await?;
        for (id, number, offer_ids, from, to) in rows {
            let ad = |id: &i32| self.versions.get(id).cloned().ok_or(*id);
            let window = from.zip(to).map(|(from, to)| window(from, to)).transpose()?;
            let page = Page { number, window, ads: offer_ids.iter().map(ad).collect() };
            let market = self.market(id)?;
            // A page that no book accounts for still has to be right.
            let orphan = || Book {
                market,
                verdict: "no book row".to_owned(),
                estimated_missed: None,
                window: None,
                pages: Vec::new(),
            };
            books.entry(id).or_insert_with(orphan).pages.push(page);
        }
        Ok(())
    }

    /// The current row of every advertiser.
    pub(super) async fn advertisers(&self) -> Result<Vec<StoredAdvertiser>> {
        let rows = sqlx::query(
            "SELECT user_no, advertiser, user_type, user_identity, user_grade, month_order_count,
                    completion_rate, positive_rate, release_seconds
               FROM warehouse.dim_advertisers WHERE is_current",
        )
        .fetch_all(&self.pool)
        .await
        .context("read warehouse.dim_advertisers")?;
        let stored = |row: sqlx::postgres::PgRow| -> Result<StoredAdvertiser> {
            Ok(StoredAdvertiser {
                user_no: row.try_get("user_no")?,
                nick_name: row.try_get("advertiser")?,
                user_type: row.try_get("user_type")?,
                user_identity: row.try_get("user_identity")?,
                user_grade: row.try_get("user_grade")?,
                month_order_count: row.try_get("month_order_count")?,
                month_finish_rate: row.try_get("completion_rate")?,
                positive_rate: row.try_get("positive_rate")?,
                adv_confirm_time: row.try_get("release_seconds")?,
            })
        };
        rows.into_iter().map(stored).collect()
    }

    /// When the last answer of any batch had arrived.
    pub(super) async fn last_fetched_us(&self) -> Result<u64> {
        let last: Option<i64> = sqlx::query_scalar(
            "SELECT (extract(epoch FROM max(fetched_at)) * 1000000)::bigint FROM pipeline.jobs",
        )
        .fetch_one(&self.pool)
        .await
        .context("read pipeline.jobs")?;
        Ok(u64::try_from(last.unwrap_or(0))?)
    }
}

fn json(row: &PgRow, column: &str) -> Result<Option<serde_json::Value>> {
    let text: Option<String> = row.try_get(column)?;
    Ok(text.as_deref().map(serde_json::from_str).transpose()?)
}

/// What stems from the page of the advertiser. The exchange always tells a type of price there.
fn details(row: &PgRow) -> Result<Option<PageDetails>> {
    let Some(price_type) = row.try_get("price_type")? else {
        let terms: Option<String> = row.try_get("terms")?;
        anyhow::ensure!(terms.is_none(), "terms without a type of price: {terms:?}");
        return Ok(None);
    };
    Ok(Some(PageDetails {
        remarks: row.try_get::<Option<String>, _>("terms")?.unwrap_or_default(),
        price_type,
        price_floating_ratio: row
            .try_get::<Option<String>, _>("price_floating_ratio")?
            .unwrap_or_default(),
        buyer_kyc_limit: row.try_get::<Option<i32>, _>("buyer_kyc_limit")?.unwrap_or_default(),
        user_trade_volume_min: row.try_get("user_trade_volume_min")?,
    }))
}

fn window(from: i64, to: i64) -> Result<Window> {
    Ok(Window { from_us: u64::try_from(from)?, to_us: u64::try_from(to)? })
}
