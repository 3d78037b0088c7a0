//! Pages and the ad versions they saw first.

use shared::domain::{Ad, AdDetails, BatchId, Json, offer_version_id, rule_names};
use shared::exchange::binance::{self, PARSER_VERSION};
use shared::job::Work;
use sqlx::{AssertSqlSafe, PgConnection};

use super::advertisers::Advertisers;
use super::payment_methods::PaymentMethods;
use super::versions::content_hash;
use super::{JobKey, StoreError, ToStore};

/// A page ready to be stored.
pub(crate) struct PageRows<'a> {
    pub(crate) batch_id: BatchId,
    pub(crate) market_id: i32,
    pub(crate) ordinal: u32,
    pub(crate) page: u32,
    pub(crate) fetched_at: chrono::DateTime<chrono::Utc>,
    pub(crate) declared_total: Option<u32>,
    pub(crate) is_lenient: bool,
    pub(crate) ads: Vec<AdRow<'a>>,
}

/// An ad of a page, with its keys.
pub(crate) struct AdRow<'a> {
    pub(crate) ad: &'a Ad,
    /// As the ad tells them, or else the page of its advertiser.
    pub(crate) details: AdDetails,
    pub(crate) advertiser_sk: i32,
    pub(crate) payment_method_ids: Vec<i32>,
    pub(crate) content_hash: i64,
    pub(crate) version_id: i32,
    /// Whether the version is to be inserted.
    pub(crate) is_new: bool,
}

impl AdRow<'_> {
    pub(crate) fn adv_no(&self) -> &str {
        &self.ad.adv_no
    }

    /// Names of the rules that it breaks; none have a blank. `None`: it breaks none.
    fn warnings(&self) -> Option<String> {
        let names = rule_names(&self.ad.warnings);
        (!names.is_empty()).then(|| names.join(" "))
    }
}

/// Longest time since an advertiser was seen that a page keeps, in minutes: 22 days.
const MAX_ACTIVE_MINUTES: i64 = i16::MAX as i64;

impl<'a> PageRows<'a> {
    /// Rows of a page. All names of its group must have been resolved before. `terms` gives for every ad
    /// what the page of its advertiser told.
    pub(crate) fn new(
        one: &'a ToStore,
        page: &'a binance::Page,
        advertisers: &Advertisers,
        payment_methods: &PaymentMethods,
        terms: &mut impl Iterator<Item = Option<AdDetails>>,
    ) -> Self {
        let Work::Search { market_id, page: number, .. } = one.job.work else {
            unreachable!("only a search is read as a page")
        };
        let mut row = |ad: &'a Ad| {
            let id =
                |method| payment_methods.id(method).expect("all methods of the group are resolved");
            let mut payment_method_ids: Vec<i32> = ad.payment_methods.iter().map(id).collect();
            payment_method_ids.sort_unstable();
            let advertiser_sk =
                advertisers.sk(&ad.advertiser).expect("all advertisers of the group are resolved");
            let known = terms.next().flatten();
            let own = ad.details.clone();
            let details = known.map_or_else(|| own.clone(), |known| own.clone().or(&known));
            AdRow {
                ad,
                advertiser_sk,
                content_hash: content_hash(ad, &details, advertiser_sk, &payment_method_ids),
                details,
                payment_method_ids,
                version_id: offer_version_id(one.job.batch_id, one.job.ordinal, ad.position),
                is_new: true,
            }
        };
        Self {
            batch_id: one.job.batch_id,
            market_id,
            ordinal: one.job.ordinal,
            page: number,
            fetched_at: one.ending.requests.fetched_at.expect("a page was fetched at some time"),
            declared_total: page.total,
            is_lenient: page.is_lenient(),
            ads: page.ads.iter().map(&mut row).collect(),
        }
    }

    pub(crate) fn key(&self) -> JobKey {
        (self.batch_id, self.ordinal)
    }

    pub(crate) fn active_minutes(&self) -> impl Iterator<Item = Option<i32>> {
        let minutes =
            |seconds: i64| i32::try_from((seconds / 60).clamp(0, MAX_ACTIVE_MINUTES)).ok();
        self.ads.iter().map(move |row| row.ad.advertiser.active_seconds.and_then(minutes))
    }

    /// `None`: no ad of the page has a privilege.
    fn privilege_types(&self) -> Option<String> {
        let types = || self.ads.iter().map(|row| row.ad.privilege_type.map(i32::from));
        types().flatten().next()?;
        Some(array_literal(types()))
    }

    /// Index in `offer_ids` of the ad out of price order, from 1.
    fn promoted_position(&self) -> Option<i32> {
        let index = self.ads.iter().position(|row| row.ad.is_promoted)?;
        i32::try_from(index + 1).ok()
    }
}

/// The tables that rows of pages and versions go to.
#[derive(Clone, Copy)]
pub(crate) struct Tables {
    pub(crate) pages: &'static str,
    pub(crate) versions: &'static str,
    /// Whether traits tell what they can, and their columns are left NULL. Else every column is written.
    pub(crate) has_traits: bool,
}

/// Where facts are kept.
pub(crate) const WAREHOUSE: Tables = Tables {
    pages: "warehouse.book_pages",
    versions: "warehouse.offer_versions",
    has_traits: true,
};

/// Inserts pages and the versions they saw first. Called only for jobs that this transaction ends.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    pages: &[&PageRows<'_>],
) -> Result<(), StoreError> {
    if pages.is_empty() {
        return Ok(());
    }
    insert_pages(connection, WAREHOUSE, pages).await?;
    insert_versions(connection, WAREHOUSE, pages).await
}

/// `statement` with `table` in the place of the one that it names.
fn into_table(statement: &str, own: &str, table: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(statement.replacen(own, table, 1))
}

pub(crate) async fn insert_pages(
    connection: &mut PgConnection,
    tables: Tables,
    pages: &[&PageRows<'_>],
) -> Result<(), StoreError> {
    let ids = |page: &PageRows<'_>| array_literal(page.ads.iter().map(|row| Some(row.version_id)));
    sqlx::query(into_table(
        "INSERT INTO warehouse.book_pages
                (day, batch_id, market_id, page, ordinal, fetched_at, declared_total, offer_ids,
                 active_minutes, promoted_position, privilege_types, parser_version, is_lenient)
         SELECT p.day, p.batch_id, p.market_id, p.page, p.ordinal, p.fetched_at, p.declared_total,
                p.offer_ids::int[], p.active_minutes::smallint[], p.promoted_position,
                p.privilege_types::smallint[], $12, p.is_lenient
           FROM unnest($1::date[], $2::int[], $3::int[], $4::int[], $5::int[], $6::timestamptz[], $7::int[],
                       $8::text[], $9::text[], $10::int[], $11::text[], $13::bool[])
             AS p (day, batch_id, market_id, page, ordinal, fetched_at, declared_total, offer_ids,
                   active_minutes, promoted_position, privilege_types, is_lenient)",
        WAREHOUSE.pages,
        tables.pages,
    ))
    .bind(pages.iter().map(|p| p.batch_id.day()).collect::<Vec<_>>())
    .bind(pages.iter().map(|p| p.batch_id.raw()).collect::<Vec<_>>())
    .bind(pages.iter().map(|p| p.market_id).collect::<Vec<_>>())
    .bind(pages.iter().map(|p| p.page.cast_signed()).collect::<Vec<_>>())
    .bind(pages.iter().map(|p| p.ordinal.cast_signed()).collect::<Vec<_>>())
    .bind(pages.iter().map(|p| p.fetched_at).collect::<Vec<_>>())
    .bind(pages.iter().map(|p| p.declared_total.map(u32::cast_signed)).collect::<Vec<_>>())
    .bind(pages.iter().map(|p| ids(p)).collect::<Vec<_>>())
    .bind(pages.iter().map(|p| array_literal(p.active_minutes())).collect::<Vec<_>>())
    .bind(pages.iter().map(|p| p.promoted_position()).collect::<Vec<_>>())
    .bind(pages.iter().map(|p| p.privilege_types()).collect::<Vec<_>>())
    .bind(PARSER_VERSION)
    .bind(pages.iter().map(|p| p.is_lenient).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

const INSERT_VERSIONS: &str = "INSERT INTO warehouse.offer_versions (
                day, id, market_id, advertiser_sk, content_hash, first_seen_at, adv_no,
                price, available_amount, tradable_quantity, min_limit, max_limit,
                dynamic_max_limit, min_quantity, max_quantity, dynamic_max_quantity,
                initial_amount, amount_after_editing, commission_rate,
                taker_commission_rate, min_taker_fee, pay_time_limit_minutes,
                payment_method_ids, classify, is_tradable, is_safe_payment,
                taker_kyc_required, asset_scale, fiat_scale, price_scale, auto_reply,
                terms, price_type, price_floating_ratio, rate_floating_ratio,
                buyer_kyc_limit, buyer_registration_days, buyer_btc_position,
                voucher_template, system_labels, taker_conditions, adv_status, ad_created_at,
                ad_updated_at, warnings, traits)
         SELECT
                x.day, x.id, x.market_id, x.advertiser_sk, x.content_hash, x.first_seen_at,
                x.adv_no, x.price, x.available_amount,
                CASE WHEN t.tradable_quantity > 0 THEN NULL ELSE x.tradable_quantity END,
                x.min_limit, x.max_limit,
                CASE WHEN t.dynamic_max_limit > 0 THEN NULL ELSE x.dynamic_max_limit END,
                CASE WHEN t.min_quantity > 0 THEN NULL ELSE x.min_quantity END,
                CASE WHEN t.max_quantity > 0 THEN NULL ELSE x.max_quantity END,
                CASE WHEN t.dynamic_max_quantity > 0 THEN NULL ELSE x.dynamic_max_quantity END,
                x.initial_amount, x.amount_after_editing,
                x.commission_rate, x.taker_commission_rate, x.min_taker_fee,
                x.pay_time_limit_minutes, x.payment_method_ids::int[],
                CASE WHEN t.classify > 0 THEN NULL ELSE x.classify END,
                CASE WHEN t.is_tradable > 0 THEN NULL ELSE x.is_tradable END,
                CASE WHEN t.is_safe_payment > 0 THEN NULL ELSE x.is_safe_payment END,
                CASE WHEN t.taker_kyc_required > 0 THEN NULL ELSE x.taker_kyc_required END,
                CASE WHEN t.asset_scale > 0 THEN NULL ELSE x.asset_scale END,
                CASE WHEN t.fiat_scale > 0 THEN NULL ELSE x.fiat_scale END,
                CASE WHEN t.price_scale > 0 THEN NULL ELSE x.price_scale END,
                x.auto_reply, x.terms, x.price_type,
                x.price_floating_ratio, x.rate_floating_ratio, x.buyer_kyc_limit,
                x.buyer_registration_days, x.buyer_btc_position, x.voucher_template::jsonb,
                x.system_labels::jsonb, x.taker_conditions::jsonb, x.adv_status, x.ad_created_at,
                x.ad_updated_at, string_to_array(x.warnings, ' '), a.traits
           FROM unnest(
                $1::date[], $2::int[], $3::int[], $4::int[], $5::bigint[],
                $6::timestamptz[], $7::text[], $8::numeric[], $9::numeric[],
                $10::numeric[], $11::numeric[], $12::numeric[], $13::numeric[],
                $14::numeric[], $15::numeric[], $16::numeric[], $17::numeric[],
                $18::numeric[], $19::numeric[], $20::numeric[], $21::numeric[],
                $22::smallint[], $23::text[], $24::text[], $25::bool[], $26::bool[],
                $27::bool[], $28::smallint[], $29::smallint[], $30::smallint[],
                $31::text[], $32::text[], $33::smallint[], $34::numeric[], $35::numeric[],
                $36::int[], $37::int[], $38::numeric[], $39::text[], $40::text[], $41::text[],
                $42::smallint[], $43::timestamptz[], $44::timestamptz[], $45::text[])
             AS x (
                day, id, market_id, advertiser_sk, content_hash, first_seen_at, adv_no,
                price, available_amount, tradable_quantity, min_limit, max_limit,
                dynamic_max_limit, min_quantity, max_quantity, dynamic_max_quantity,
                initial_amount, amount_after_editing, commission_rate,
                taker_commission_rate, min_taker_fee, pay_time_limit_minutes,
                payment_method_ids, classify, is_tradable, is_safe_payment,
                taker_kyc_required, asset_scale, fiat_scale, price_scale, auto_reply,
                terms, price_type, price_floating_ratio, rate_floating_ratio,
                buyer_kyc_limit, buyer_registration_days, buyer_btc_position, voucher_template,
                system_labels, taker_conditions, adv_status, ad_created_at, ad_updated_at,
                warnings)
          CROSS JOIN LATERAL (
                -- As they are stored: the scale of a quotient is that of its operands.
                SELECT CASE WHEN $46 THEN pipeline.offer_traits(
                       x.price::numeric(20, 8), x.available_amount::numeric(20, 8), x.tradable_quantity::numeric(20, 8),
                       x.min_limit::numeric(20, 8), x.max_limit::numeric(20, 8), x.dynamic_max_limit::numeric(20, 8),
                       x.min_quantity::numeric(20, 8), x.max_quantity::numeric(20, 8),
                       x.dynamic_max_quantity::numeric(20, 8), x.commission_rate::numeric(20, 8), x.classify,
                       x.is_tradable, x.is_safe_payment, x.taker_kyc_required, x.asset_scale, x.fiat_scale,
                       x.price_scale) END AS traits
                -- Else it would be worked out anew wherever it is named.
                OFFSET 0) a
          CROSS JOIN LATERAL (
                SELECT warehouse.trait(a.traits, 0, 2) AS tradable_quantity,
                       warehouse.trait(a.traits, 2, 2) AS dynamic_max_limit,
                       warehouse.trait(a.traits, 4, 1) AS min_quantity,
                       warehouse.trait(a.traits, 5, 1) AS max_quantity,
                       warehouse.trait(a.traits, 6, 1) AS dynamic_max_quantity,
                       warehouse.trait(a.traits, 7, 2) AS is_tradable,
                       warehouse.trait(a.traits, 9, 2) AS is_safe_payment,
                       warehouse.trait(a.traits, 11, 2) AS taker_kyc_required,
                       warehouse.trait(a.traits, 13, 4) AS asset_scale,
                       warehouse.trait(a.traits, 17, 4) AS fiat_scale,
                       warehouse.trait(a.traits, 21, 4) AS price_scale,
                       warehouse.trait(a.traits, 25, 3) AS classify) t";

pub(crate) async fn insert_versions(
    connection: &mut PgConnection,
    tables: Tables,
    pages: &[&PageRows<'_>],
) -> Result<(), StoreError> {
    let new =
        pages.iter().flat_map(|page| page.ads.iter().filter(|ad| ad.is_new).map(|ad| (*page, ad)));
    let new = Columns(new.collect());
    if new.0.is_empty() {
        return Ok(());
    }
    sqlx::query(into_table(INSERT_VERSIONS, WAREHOUSE.versions, tables.versions))
        .bind(new.column(|p, _| p.batch_id.day()))
        .bind(new.column(|_, a| a.version_id))
        .bind(new.column(|p, _| p.market_id))
        .bind(new.column(|_, a| a.advertiser_sk))
        .bind(new.column(|_, a| a.content_hash))
        .bind(new.column(|p, _| p.fetched_at))
        .bind(new.column(|_, a| a.ad.adv_no.as_str()))
        .bind(new.column(|_, a| a.ad.price))
        .bind(new.column(|_, a| a.ad.available_amount))
        .bind(new.column(|_, a| a.ad.tradable_quantity))
        .bind(new.column(|_, a| a.ad.min_limit))
        .bind(new.column(|_, a| a.ad.max_limit))
        .bind(new.column(|_, a| a.ad.dynamic_max_limit))
        .bind(new.column(|_, a| a.ad.min_quantity))
        .bind(new.column(|_, a| a.ad.max_quantity))
        .bind(new.column(|_, a| a.ad.dynamic_max_quantity))
        .bind(new.column(|_, a| a.details.initial_amount))
        .bind(new.column(|_, a| a.ad.amount_after_editing))
        .bind(new.column(|_, a| a.ad.commission_rate))
        .bind(new.column(|_, a| a.ad.taker_commission_rate))
        .bind(new.column(|_, a| a.ad.min_taker_fee))
        .bind(new.column(|_, a| a.ad.pay_time_limit_minutes))
        .bind(new.column(|_, a| array_literal(a.payment_method_ids.iter().copied().map(Some))))
        .bind(new.column(|_, a| a.ad.classify.as_deref()))
        .bind(new.column(|_, a| a.ad.is_tradable))
        .bind(new.column(|_, a| a.ad.is_safe_payment))
        .bind(new.column(|_, a| a.ad.taker_kyc_required))
        .bind(new.column(|_, a| a.ad.asset_scale))
        .bind(new.column(|_, a| a.ad.fiat_scale))
        .bind(new.column(|_, a| a.ad.price_scale))
        .bind(new.column(|_, a| a.details.auto_reply.as_deref()))
        .bind(new.column(|_, a| a.details.terms.as_deref()))
        .bind(new.column(|_, a| a.details.price_type))
        .bind(new.column(|_, a| a.details.price_floating_ratio))
        .bind(new.column(|_, a| a.details.rate_floating_ratio))
        .bind(new.column(|_, a| a.details.buyer_kyc_limit))
        .bind(new.column(|_, a| a.details.buyer_registration_days))
        .bind(new.column(|_, a| a.details.buyer_btc_position))
        .bind(new.column(|_, a| a.ad.voucher_template.as_ref().map(Json::as_str)))
        .bind(new.column(|_, a| a.ad.system_labels.as_ref().map(Json::as_str)))
        .bind(new.column(|_, a| a.details.taker_conditions.as_ref().map(Json::as_str)))
        .bind(new.column(|_, a| a.details.adv_status))
        .bind(new.column(|_, a| a.details.created_at))
        .bind(new.column(|_, a| a.details.updated_at))
        .bind(new.column(|_, a| a.warnings()))
        .bind(tables.has_traits)
        .execute(connection)
        .await?;
    Ok(())
}

/// New ads with their pages, read column by column.
struct Columns<'a>(Vec<(&'a PageRows<'a>, &'a AdRow<'a>)>);

impl<'a> Columns<'a> {
    fn column<T>(&self, value: impl Fn(&'a PageRows<'a>, &'a AdRow<'a>) -> T) -> Vec<T> {
        self.0.iter().map(|(page, ad)| value(page, ad)).collect()
    }
}

/// An array as `PostgreSQL` writes it. `unnest` would flatten a list of lists, so inner lists travel as
/// text.
fn array_literal(items: impl Iterator<Item = Option<i32>>) -> String {
    let items: Vec<String> =
        items.map(|item| item.map_or("NULL".to_owned(), |n| n.to_string())).collect();
    format!("{{{}}}", items.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_written_as_postgres_reads_them() {
        assert_eq!(array_literal([].into_iter()), "{}");
        assert_eq!(array_literal([Some(1), None, Some(-3)].into_iter()), "{1,NULL,-3}");
    }
}
