//! Which content of an ad is already stored, and under which id.
//!
//! A bounded cache: market → ad → (hash of content, id). It decides "unchanged", and an unchanged ad
//! costs no row. Filled on a miss from the market's last stored book, unless this worker stored all of
//! that itself, and with what this worker stored, after its commit. Ads that are gone stay for some hours,
//! because many come back as they were. A cold cache costs a second version row, never a wrong fact.

use std::collections::{BTreeSet, HashMap};

use chrono::NaiveDate;
use rust_decimal::Decimal;
use shared::domain::{Ad, AdDetails, BatchId, Json, page_count, rule_names};
use shared::exchange::binance::SEARCH_ROWS;
use sqlx::PgConnection;
use xxhash_rust::xxh3::xxh3_64;

use super::StoreError;
use super::pages::PageRows;

/// Ads remembered by a worker: several times the whole market of 2026, about 40 bytes each.
pub(super) const MAX_CACHED_ADS: usize = 150_000;
/// Batches for which an ad that is gone is remembered: four hours of ten minutes. Advertisers go offline and
/// come back with the same ad, and then it costs no row.
const GONE_FOR_BATCHES: u32 = 24;

/// Room for the fields of an ordinary ad, in bytes.
const HASHED_BYTES: usize = 1024;

/// A hash over fields in a fixed order. Every field is framed, so that no two lists of fields look
/// alike; the value is stored, so it must not depend on the machine. Fields are gathered and hashed at once.
pub(super) struct Hasher(Vec<u8>);

impl Default for Hasher {
    fn default() -> Self {
        Self(Vec::with_capacity(HASHED_BYTES))
    }
}

impl Hasher {
    fn bytes(&mut self, bytes: Option<&[u8]>) {
        let length = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(bytes.unwrap_or_default());
    }

    pub(super) fn text(&mut self, text: Option<&str>) {
        self.bytes(text.map(str::as_bytes));
    }

    /// As text.
    pub(super) fn number(&mut self, number: Option<impl itoa::Integer>) {
        let mut text = itoa::Buffer::new();
        self.text(number.map(|number| text.format(number)));
    }

    /// As text.
    pub(super) fn flag(&mut self, flag: Option<bool>) {
        self.text(flag.map(|is_set| if is_set { "true" } else { "false" }));
    }

    /// Without zeros at the end: `500` and `500.00` are one content.
    pub(super) fn decimal(&mut self, decimal: Option<Decimal>) {
        self.bytes(
            decimal.map(|decimal| decimal.normalize().serialize()).as_ref().map(|bytes| &bytes[..]),
        );
    }

    pub(super) fn finish(&self) -> i64 {
        xxh3_64(&self.0).cast_signed()
    }
}

/// The hash of what an ad says, without what belongs to the moment. `details` are the ad's own, or of
/// its advertiser's page where the ad is silent.
pub(crate) fn content_hash(
    ad: &Ad,
    details: &AdDetails,
    advertiser_sk: i32,
    payment_method_ids: &[i32],
) -> i64 {
    let mut hasher = Hasher::default();
    hasher.text(Some(&ad.adv_no));
    hasher.number(Some(advertiser_sk));
    let amounts = [
        Some(ad.price),
        Some(ad.available_amount),
        ad.tradable_quantity,
        Some(ad.min_limit),
        Some(ad.max_limit),
        ad.dynamic_max_limit,
        ad.min_quantity,
        ad.max_quantity,
        ad.dynamic_max_quantity,
        ad.amount_after_editing,
        ad.commission_rate,
        ad.taker_commission_rate,
        ad.min_taker_fee,
    ];
    for amount in amounts {
        hasher.decimal(amount);
    }
    for number in [ad.pay_time_limit_minutes, ad.asset_scale, ad.fiat_scale, ad.price_scale] {
        hasher.number(number);
    }
    for flag in [ad.is_tradable, ad.is_safe_payment, ad.taker_kyc_required] {
        hasher.flag(flag);
    }
    hasher.text(ad.classify.as_deref());
    for json in [&ad.voucher_template, &ad.system_labels] {
        hasher.text(json.as_ref().map(Json::as_str));
    }
    hash_details(&mut hasher, details);
    for id in payment_method_ids {
        hasher.number(Some(*id));
    }
    // Words, which no id is; nothing at all for an ordinary ad.
    for name in rule_names(&ad.warnings) {
        hasher.text(Some(name));
    }
    hasher.finish()
}

/// Adds what the page of an advertiser tells of an ad.
pub(super) fn hash_details(hasher: &mut Hasher, details: &AdDetails) {
    let amounts = [
        details.initial_amount,
        details.price_floating_ratio,
        details.rate_floating_ratio,
        details.buyer_btc_position,
    ];
    for amount in amounts {
        hasher.decimal(amount);
    }
    for number in [details.price_type, details.adv_status] {
        hasher.number(number);
    }
    for number in [details.buyer_kyc_limit, details.buyer_registration_days] {
        hasher.number(number);
    }
    for text in [&details.auto_reply, &details.terms] {
        hasher.text(text.as_deref());
    }
    hasher.text(details.taker_conditions.as_ref().map(Json::as_str));
    for at in [details.created_at, details.updated_at] {
        hasher.number(at.map(|at| at.timestamp_millis()));
    }
}

/// The number of an ad as a key. Two ads would have to share it *and* their content's hash, which
/// holds the number too, to be taken for one another.
pub(crate) fn ad_key(adv_no: &str) -> u64 {
    xxh3_64(adv_no.as_bytes())
}

/// The ads of one market.
struct MarketVersions {
    day: NaiveDate,
    /// The batch for which the last stored book was loaded; `None`: only own pages so far.
    loaded_for: Option<BatchId>,
    last_used: u64,
    /// The batch whose book this worker stored alone, as far as its total tells: nothing that others know
    /// of it could be loaded.
    whole_in: Option<BatchId>,
    /// The pages of the newest batch that were stored here.
    pages: BTreeSet<u32>,
    pages_of: Option<BatchId>,
    /// By key of the ad.
    ads: HashMap<u64, Known>,
}

impl MarketVersions {
    fn new(day: NaiveDate, last_used: u64) -> Self {
        let (pages, ads) = (BTreeSet::new(), HashMap::new());
        Self { day, loaded_for: None, last_used, whole_in: None, pages, pages_of: None, ads }
    }

    /// Forgets what was last listed more than so many batches before this one; how many ads that were.
    fn forget_gone(&mut self, batch: BatchId, gone_for: u32) -> usize {
        let before = self.ads.len();
        let since = batch.number().saturating_sub(gone_for);
        self.ads.retain(|_, known| known.listed_in.number() >= since);
        // Where much comes and goes a table doubles for the sake of what is gone.
        self.ads.shrink_to_fit();
        before - self.ads.len()
    }
}

/// What is stored of an ad.
#[derive(Clone, Copy)]
struct Known {
    content_hash: i64,
    id: i32,
    /// The batch in which it was last listed, as far as this worker saw.
    listed_in: BatchId,
}

pub(super) struct VersionCache {
    /// Most ads that are remembered from one group to the next.
    max_ads: usize,
    markets: HashMap<i32, MarketVersions>,
    cached_ads: usize,
    clock: u64,
    /// The newest batch that this worker had pages of, and the one before.
    batch: Option<BatchId>,
    batch_before: Option<BatchId>,
}

impl VersionCache {
    pub(super) fn new(max_ads: usize) -> Self {
        let (markets, batch, batch_before) = (HashMap::new(), None, None);
        Self { max_ads, markets, cached_ads: 0, clock: 0, batch, batch_before }
    }

    pub(super) fn forget(&mut self) {
        *self = Self::new(self.max_ads);
    }

    /// Gives every unchanged ad of `pages` the id under which its content is stored.
    pub(super) async fn match_unchanged(
        &mut self,
        connection: &mut PgConnection,
        pages: &mut [PageRows<'_>],
    ) -> Result<(), StoreError> {
        let newest = pages.iter().map(|page| page.batch_id).max();
        if newest > self.batch {
            self.batch_before = std::mem::replace(&mut self.batch, newest);
        }
        let mut to_load = BTreeSet::new();
        for page in pages.iter_mut() {
            let found_all = self.match_page(page);
            if !found_all && self.is_unloaded(page) {
                to_load.insert((page.batch_id, page.market_id));
            }
        }
        let batches: BTreeSet<BatchId> = to_load.iter().map(|(batch, _)| *batch).collect();
        for batch in batches {
            let markets = to_load.iter().filter(|(of, _)| *of == batch).map(|(_, market)| *market);
            self.load(connection, batch, markets.collect()).await?;
        }
        for page in
            pages.iter_mut().filter(|page| to_load.contains(&(page.batch_id, page.market_id)))
        {
            self.match_page(page);
        }
        // Only now: what was loaded must be there to be matched, even if it has no room together.
        self.evict();
        Ok(())
    }

    /// Remembers the versions of a page. To be called only after their commit.
    pub(super) fn learn(&mut self, page: &PageRows<'_>) {
        let batch = page.batch_id;
        let gone_for = self.gone_for();
        let market = self.market(page.market_id, batch.day());
        let before = market.ads.len();
        for ad in &page.ads {
            let (content_hash, id) = (ad.content_hash, ad.version_id);
            market.ads.insert(ad_key(ad.adv_no()), Known { content_hash, id, listed_in: batch });
        }
        let added = market.ads.len() - before;
        if market.pages_of != Some(batch) {
            market.pages_of = Some(batch);
            market.pages.clear();
        }
        market.pages.insert(page.page);
        let last = page.declared_total.map(|total| page_count(total, SEARCH_ROWS));
        let is_whole =
            last.is_some_and(|last| market.pages.range(..=last).count() == last as usize);
        let mut forgotten = 0;
        if is_whole && market.whole_in != Some(batch) {
            market.whole_in = Some(batch);
            forgotten = market.forget_gone(batch, gone_for);
        }
        self.cached_ads = self.cached_ads + added - forgotten;
        self.evict();
    }

    /// Whether every ad of the page was found unchanged.
    fn match_page(&mut self, page: &mut PageRows<'_>) -> bool {
        let market = self.market(page.market_id, page.batch_id.day());
        let mut found_all = true;
        for ad in &mut page.ads {
            match market.ads.get(&ad_key(ad.adv_no())) {
                Some(known) if known.content_hash == ad.content_hash => {
                    ad.version_id = known.id;
                    ad.is_new = false;
                }
                _ => found_all = false,
            }
        }
        found_all
    }

    /// For how many batches an ad that is gone is remembered now: for none when half the room is taken, which is for those
    /// on show.
    fn gone_for(&self) -> u32 {
        if self.cached_ads > self.max_ads / 2 { 0 } else { GONE_FOR_BATCHES }
    }

    fn is_unloaded(&self, page: &PageRows<'_>) -> bool {
        self.markets.get(&page.market_id).is_none_or(|market| {
            let is_own = market.whole_in.is_some()
                && [self.batch, self.batch_before].contains(&market.whole_in);
            market.loaded_for != Some(page.batch_id) && !is_own
        })
    }

    /// The market's entry, emptied when its day is over: ids are unique within a day only.
    fn market(&mut self, market_id: i32, day: NaiveDate) -> &mut MarketVersions {
        self.clock += 1;
        let clock = self.clock;
        let new = || MarketVersions::new(day, clock);
        let market = self.markets.entry(market_id).or_insert_with(new);
        if market.day != day {
            self.cached_ads -= market.ads.len();
            *market = new();
        }
        market.last_used = clock;
        market
    }

    /// Loads the last stored books of `markets` of this batch's day, whoever stored them. There may be more ads than there
    /// is room for until [`VersionCache::evict`].
    async fn load(
        &mut self,
        connection: &mut PgConnection,
        batch: BatchId,
        markets: Vec<i32>,
    ) -> Result<(), StoreError> {
        let rows: Vec<(i32, String, i64, i32)> = sqlx::query_as(
            // By keys, page by page and ad by ad: of a day that has just begun the planner expects a handful of rows, and
            // would go through all of them for each.
            "SELECT c.market_id, v.adv_no, v.content_hash, v.id
               FROM pipeline.catalog c
              CROSS JOIN LATERAL (SELECT p.offer_ids FROM warehouse.book_pages p
                                   WHERE p.day = $1 AND p.batch_id = c.last_batch_id AND p.market_id = c.market_id
                                  OFFSET 0) p
              CROSS JOIN LATERAL unnest(p.offer_ids) AS l (id)
              CROSS JOIN LATERAL (SELECT v.adv_no, v.content_hash, v.id FROM warehouse.offer_versions v
                                   WHERE v.day = $1 AND v.id = l.id
                                  OFFSET 0) v
              WHERE c.market_id = ANY ($2)",
        )
        .bind(batch.day())
        .bind(&markets)
        .fetch_all(connection)
        .await?;
        let mut books: HashMap<i32, HashMap<u64, Known>> = HashMap::new();
        for (market_id, adv_no, content_hash, id) in rows {
            let known = Known { content_hash, id, listed_in: batch };
            books.entry(market_id).or_default().insert(ad_key(&adv_no), known);
        }
        for market_id in markets {
            let ads = books.remove(&market_id).unwrap_or_default();
            let gone_for = self.gone_for();
            let market = self.market(market_id, batch.day());
            market.loaded_for = Some(batch);
            let before = market.ads.len();
            market.ads.extend(ads);
            market.forget_gone(batch, gone_for);
            let now = market.ads.len();
            self.cached_ads = self.cached_ads - before + now;
        }
        Ok(())
    }

    /// Forgets the markets that were used longest ago, until the others have room. Whole ones, even the last: of a market
    /// that is known in part nobody could tell whether it must be loaded.
    fn evict(&mut self) {
        while self.cached_ads > self.max_ads {
            let oldest =
                self.markets.iter().min_by_key(|(_, market)| market.last_used).map(|(id, _)| *id);
            let Some(market) = oldest.and_then(|id| self.markets.remove(&id)) else {
                return;
            };
            self.cached_ads -= market.ads.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use shared::domain::{Advertiser, Side};

    use super::super::pages::AdRow;
    use super::*;

    fn ad(number: usize) -> Ad {
        let advertiser = Advertiser {
            user_no: "s1".to_owned(),
            nickname: "a".to_owned(),
            user_type: None,
            is_merchant: false,
            user_identity: None,
            user_grade: None,
            vip_level: None,
            badges: None,
            is_pro_merchant: false,
            pro_merchant_description: None,
            is_blocked: None,
            merchant_group_member: None,
            month_order_count: None,
            completion_rate: None,
            positive_rate: None,
            release_seconds: None,
            active_seconds: None,
        };
        Ad {
            position: number % 20,
            adv_no: number.to_string(),
            advertiser_side: Side::Sell,
            is_promoted: false,
            privilege_type: None,
            price: Decimal::ONE,
            available_amount: Decimal::ONE,
            tradable_quantity: None,
            min_limit: Decimal::ONE,
            max_limit: Decimal::ONE,
            dynamic_max_limit: None,
            min_quantity: None,
            max_quantity: None,
            dynamic_max_quantity: None,
            amount_after_editing: None,
            commission_rate: None,
            taker_commission_rate: None,
            min_taker_fee: None,
            pay_time_limit_minutes: None,
            payment_methods: Vec::new(),
            classify: None,
            is_tradable: None,
            is_safe_payment: None,
            taker_kyc_required: None,
            asset_scale: None,
            fiat_scale: None,
            price_scale: None,
            voucher_template: None,
            system_labels: None,
            details: AdDetails::default(),
            advertiser,
            warnings: Vec::new(),
        }
    }

    /// Stores page 1 of a market's book of one page: how many of its ads were new.
    fn store(cache: &mut VersionCache, batch: u32, market_id: i32, ads: &[Ad]) -> usize {
        let day = "2026-11-22".parse().unwrap();
        let batch_id = BatchId::new(day, batch).unwrap();
        let row = |ad| AdRow {
            ad,
            details: AdDetails::default(),
            advertiser_sk: 1,
            payment_method_ids: Vec::new(),
            content_hash: content_hash(ad, &AdDetails::default(), 1, &[]),
            version_id: i32::try_from(batch * 1_000_000).unwrap()
                + ad.adv_no.parse::<i32>().unwrap(),
            is_new: true,
        };
        let mut page = PageRows {
            batch_id,
            market_id,
            ordinal: 0,
            page: 1,
            fetched_at: chrono::Utc::now(),
            declared_total: Some(1),
            is_lenient: false,
            ads: ads.iter().map(row).collect(),
        };
        cache.match_page(&mut page);
        cache.learn(&page);
        let known: usize = cache.markets.values().map(|market| market.ads.len()).sum();
        assert_eq!(cache.cached_ads, known, "what is counted is what is kept");
        assert!(known <= cache.max_ads, "{known} ads");
        page.ads.iter().filter(|ad| ad.is_new).count()
    }

    #[test]
    fn what_is_hashed_is_framed_and_stays_the_same() {
        let mut hasher = Hasher::default();
        hasher.text(Some("ab"));
        hasher.text(None);
        hasher.number(Some(-15_i32));
        hasher.flag(Some(true));
        hasher.decimal(Some("500.00".parse().unwrap()));
        let mut framed = b"\x02\0\0\0\0\0\0\0ab".to_vec();
        framed.extend([0xff; 8]);
        framed.extend(b"\x03\0\0\0\0\0\0\0-15\x04\0\0\0\0\0\0\0true");
        // Flags with the scale, then the number in three words.
        framed.extend(b"\x10\0\0\0\0\0\0\0\0\0\0\0\xf4\x01\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(hasher.finish(), xxh3_64(&framed).cast_signed());
    }

    #[test]
    fn an_ad_that_comes_back_as_it_was_costs_no_row() {
        let mut cache = VersionCache::new(100);
        let [here, gone] = [ad(1), ad(2)];
        assert_eq!(store(&mut cache, 0, 1, &[here.clone(), gone.clone()]), 2);
        for batch in 1..GONE_FOR_BATCHES {
            assert_eq!(store(&mut cache, batch, 1, std::slice::from_ref(&here)), 0);
        }
        assert_eq!(store(&mut cache, GONE_FOR_BATCHES, 1, &[here.clone(), gone.clone()]), 0);
        let changed = Ad { price: Decimal::TWO, ..gone.clone() };
        let batch = GONE_FOR_BATCHES + 1;
        assert_eq!(store(&mut cache, batch, 1, &[here.clone(), changed.clone()]), 1);
        assert_eq!(
            store(&mut cache, batch + 1, 1, &[here.clone(), gone.clone()]),
            1,
            "as it last was"
        );
        for batch in batch + 2..batch + 3 + GONE_FOR_BATCHES {
            assert_eq!(store(&mut cache, batch, 1, std::slice::from_ref(&here)), 0);
        }
        assert_eq!(
            store(&mut cache, batch + 3 + GONE_FOR_BATCHES, 1, &[here, gone]),
            1,
            "forgotten"
        );
    }

    #[test]
    fn ads_that_are_gone_take_no_room_from_those_on_show() {
        let mut cache = VersionCache::new(100);
        let ads: Vec<Ad> = (0..=50).map(ad).collect();
        store(&mut cache, 0, 1, &ads);
        store(&mut cache, 1, 1, &ads[..10]);
        assert_eq!(cache.cached_ads, 10);
        store(&mut cache, 2, 1, &ads[10..20]);
        assert_eq!(cache.cached_ads, 20);
    }

    #[test]
    fn the_market_that_was_used_longest_ago_is_forgotten() {
        let mut cache = VersionCache::new(30);
        let books = [0, 10, 20, 30].map(|first| (first..first + 10).map(ad).collect::<Vec<_>>());
        let mut new =
            |market: i32| store(&mut cache, 0, market, &books[usize::try_from(market).unwrap()]);
        assert_eq!([0, 1, 2].map(&mut new), [10; 3]);
        assert_eq!(new(0), 0, "all have room");
        assert_eq!(new(3), 10);
        assert_eq!([0, 2, 3].map(&mut new), [0; 3]);
        assert_eq!(new(1), 10, "forgotten");
    }

    #[test]
    fn a_market_without_room_is_forgotten_whole() {
        let mut cache = VersionCache::new(10);
        let ads: Vec<Ad> = (0..11).map(ad).collect();
        assert_eq!(store(&mut cache, 0, 1, &ads[..10]), 10);
        assert_eq!(store(&mut cache, 0, 1, &ads[..10]), 0);
        assert_eq!(store(&mut cache, 0, 1, &ads), 1);
        // With what was known of its pages, too: it is loaded again.
        assert_eq!((cache.cached_ads, cache.markets.len()), (0, 0));
    }

    proptest! {
        /// `store` holds what is kept against the bound.
        #[test]
        fn no_more_is_remembered_than_there_is_room_for(
            max_ads in 0_usize..40,
            pages in vec((0_u32..2, 0_i32..5, 0_usize..60, 0_usize..30), 1..40),
        ) {
            let (mut cache, mut batch) = (VersionCache::new(max_ads), 0);
            for (later, market, first, count) in pages {
                batch += later;
                let ads: Vec<Ad> = (first..first + count).map(ad).collect();
                store(&mut cache, batch, market, &ads);
            }
        }
    }
}
