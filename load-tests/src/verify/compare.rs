//! The comparison, as a function of loaded data.
//!
//! What may be wrong: an ad that the exchange never showed like that (soundness), an ad that a book
//! swears to hold and does not (completeness), a market that nobody accounts for, an ad counted
//! twice. A book that says itself that it moved or lost pages is believed: what it lacks is counted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use rust_decimal::Decimal;
use serde::Serialize;

use super::history::{History, Timeline, Window};
use crate::truth::{AdContent, AdvertiserEvent, MarketKey, PageDetails};

/// Samples kept of each kind of violation.
const MAX_SAMPLES: usize = 10;

/// The amounts of an ad, in the order of [`StoredAd::amounts`].
const AMOUNTS: [&str; 9] = [
    "price",
    "surplus_amount",
    "tradable_quantity",
    "min_amount",
    "max_amount",
    "dynamic_max_amount",
    "min_quantity",
    "max_quantity",
    "dynamic_max_quantity",
];

/// An ad as the database has it.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named after the answer, as in AdContent")]
pub struct StoredAd {
    pub adv_no: String,
    /// In the order of the names of the truth log.
    pub amounts: [Option<Decimal>; 9],
    pub pay_time_limit: Option<u16>,
    /// Sorted distinct identifiers.
    pub payment_methods: Vec<String>,
    pub classify: Option<String>,
    pub user_no: String,
    pub voucher_template: Option<serde_json::Value>,
    pub adv_system_label_ret: Option<serde_json::Value>,
    /// What the page of the advertiser told before; nothing of it is told if it was not read.
    pub details: Option<PageDetails>,
}

/// A stored page.
#[derive(Debug, Clone)]
pub struct Page {
    /// From 1.
    pub number: i16,
    /// Its job's request and answer; `None` if no job or no time is stored.
    pub window: Option<Window>,
    /// Its ads; an id of a version that does not exist where there is one.
    pub ads: Vec<Result<Arc<StoredAd>, i32>>,
}

/// A reading of a market.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named after the columns of warehouse.books")]
pub struct Book {
    pub market: MarketKey,
    pub verdict: String,
    pub estimated_missed: Option<i32>,
    /// First request to last answer of its jobs; `None` if it was not read.
    pub window: Option<Window>,
    pub pages: Vec<Page>,
}

/// A closed batch.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named after the columns of pipeline.batches")]
pub struct Batch {
    pub batch_id: i32,
    /// From opened to closed.
    pub window: Window,
    /// Whether it was to read the whole market, and not only what another batch lost.
    pub is_whole: bool,
    pub books: Vec<Book>,
    /// Ads that `fact_offers` has more than once in a book.
    pub duplicates: Vec<(MarketKey, String)>,
}

/// An advertiser as the database has it at the end.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named after the answer, as in AdvertiserEvent")]
pub struct StoredAdvertiser {
    pub user_no: String,
    pub nick_name: String,
    pub user_type: Option<String>,
    pub user_identity: Option<String>,
    pub user_grade: Option<i16>,
    pub month_order_count: Option<i32>,
    pub month_finish_rate: Option<Decimal>,
    pub positive_rate: Option<Decimal>,
    pub adv_confirm_time: Option<i32>,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Closed batches compared.
    pub batches: u64,
    /// Books by verdict.
    pub books: BTreeMap<String, u64>,
    /// Pages compared.
    pub pages: u64,
    /// Ads of pages compared.
    pub ads_compared: u64,
    /// Of these, those that the exchange showed exactly like that.
    pub ads_exact: u64,
    /// Of these, those that carry what the page of the advertiser showed.
    pub ads_with_terms: u64,
    /// Ads that books had to hold: listed all the time that a complete book was read.
    pub ads_required: u64,
    /// Ads missing in books that say that they moved or lost pages.
    pub declared_missed: u64,
    /// What these books estimate.
    pub estimated_missed: u64,
    /// Markets with ads that were left out for want of budget, over all batches.
    pub shed_with_ads: u64,
    /// Advertisers compared.
    pub advertisers: u64,
    /// What is wrong.
    pub violations: BTreeMap<&'static str, Violations>,
}

/// One kind of violation.
#[derive(Debug, Default, Serialize)]
pub struct Violations {
    /// How many.
    pub count: u64,
    /// The first few, in words.
    pub samples: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.violations.is_empty()
    }

    fn violation(&mut self, kind: &'static str, sample: impl FnOnce() -> String) {
        let violations = self.violations.entry(kind).or_default();
        violations.count += 1;
        if violations.samples.len() < MAX_SAMPLES {
            violations.samples.push(sample());
        }
    }
}

/// Compares a batch.
pub fn compare_batch(history: &History, batch: &Batch, report: &mut Report) {
    report.batches += 1;
    for book in &batch.books {
        *report.books.entry(book.verdict.clone()).or_default() += 1;
        for page in &book.pages {
            let place = || {
                let MarketKey { fiat, asset, side } = &book.market;
                format!("batch {} {fiat}/{asset}/{side} page {}", batch.batch_id, page.number)
            };
            compare_page(history, &book.market, page, &place, report);
        }
        compare_book(history, batch, book, report);
    }
    let books: HashMap<&MarketKey, &Book> = batch.books.iter().map(|b| (&b.market, b)).collect();
    for market in history.header.markets.iter().filter(|_| batch.is_whole) {
        if history.listed_throughout(market, batch.window).next().is_none() {
            continue;
        }
        match books.get(market).map(|book| book.verdict.as_str()) {
            None => report.violation("market without a book", || {
                format!("batch {} {market:?}", batch.batch_id)
            }),
            Some("shed") => report.shed_with_ads += 1,
            Some(_) => {}
        }
    }
    for (market, adv_no) in &batch.duplicates {
        report.violation("ad twice in fact_offers", || {
            format!("batch {} {market:?} ad {adv_no}", batch.batch_id)
        });
    }
}

fn compare_page(
    history: &History,
    market: &MarketKey,
    page: &Page,
    place: &dyn Fn() -> String,
    report: &mut Report,
) {
    report.pages += 1;
    let Some(window) = page.window else {
        report.violation("page without the times of its job", place);
        return;
    };
    for ad in &page.ads {
        report.ads_compared += 1;
        match ad {
            Err(id) => {
                report.violation("dangling offer id", || format!("{} id {id}", place()));
            }
            Ok(ad) => match find_state(history, market, ad, window) {
                Ok(()) => {
                    report.ads_exact += 1;
                    report.ads_with_terms += u64::from(ad.details.is_some());
                }
                Err(why) => {
                    report.violation("ad not as shown", || {
                        format!("{} ad {}: {why}", place(), ad.adv_no)
                    });
                }
            },
        }
    }
}

/// Finds an instant of the window at which the ad was listed with exactly these values, or says
/// what differs at best.
fn find_state(
    history: &History,
    market: &MarketKey,
    ad: &StoredAd,
    window: Window,
) -> Result<(), String> {
    let states = history.ads.get(market).and_then(|ads| ads.get(&ad.adv_no));
    let Some(states) = states else {
        return Err("was never listed in this market".to_owned());
    };
    let differences = states.during(window).flatten().map(|state| differences(ad, state));
    // Terms may be of any time before the page: its advertiser's page was read at some time.
    let before = Window { from_us: 0, ..window };
    if let Some(details) = &ad.details {
        let known = history.details.get(&ad.adv_no).into_iter();
        let mut shown = known.flat_map(|states: &Timeline<PageDetails>| states.during(before));
        if !shown.any(|shown| shown == details) {
            return Err(format!("{details:?} was never shown"));
        }
    }
    match differences.min_by_key(Vec::len) {
        None => Err("was not listed at that time".to_owned()),
        Some(none) if none.is_empty() => Ok(()),
        Some(some) => Err(some.join(", ")),
    }
}

fn differences(ad: &StoredAd, state: &AdContent) -> Vec<String> {
    let truth = [
        &state.price,
        &state.surplus_amount,
        &state.tradable_quantity,
        &state.min_amount,
        &state.max_amount,
        &state.dynamic_max_amount,
        &state.min_quantity,
        &state.max_quantity,
        &state.dynamic_max_quantity,
    ];
    let mut found = Vec::new();
    for ((name, stored), truth) in AMOUNTS.iter().zip(&ad.amounts).zip(truth) {
        if stored.is_none() || *stored != Decimal::from_str(truth).ok() {
            found.push(format!("{name} is {stored:?}, was {truth}"));
        }
    }
    let mut check = |name: &str, stored: String, truth: String| {
        if stored != truth {
            found.push(format!("{name} is {stored}, was {truth}"));
        }
    };
    check(
        "pay_time_limit",
        format!("{:?}", ad.pay_time_limit),
        format!("{:?}", state.pay_time_limit),
    );
    check("payment_methods", ad.payment_methods.join("+"), state.payment_methods.join("+"));
    check("classify", ad.classify.clone().unwrap_or_default(), state.classify.clone());
    check("user_no", ad.user_no.clone(), state.user_no.clone());
    let json = |value: &Option<serde_json::Value>| format!("{value:?}");
    check("voucher_template", json(&ad.voucher_template), json(&state.voucher_template));
    let labels = (json(&ad.adv_system_label_ret), json(&state.adv_system_label_ret));
    check("adv_system_label_ret", labels.0, labels.1);
    found
}

fn compare_book(history: &History, batch: &Batch, book: &Book, report: &mut Report) {
    let swears = matches!(book.verdict.as_str(), "complete" | "empty");
    let Some(window) = book.window else {
        if swears || !book.pages.is_empty() {
            report.violation("book with a verdict and no request", || {
                format!("batch {} {:?} {}", batch.batch_id, book.market, book.verdict)
            });
        }
        return;
    };
    let ads = book.pages.iter().flat_map(|page| &page.ads).flatten();
    let present: HashSet<&str> = ads.map(|ad| ad.adv_no.as_str()).collect();
    let mut missed: Vec<&str> = Vec::new();
    let mut required = 0;
    for adv_no in history.listed_throughout(&book.market, window) {
        required += 1;
        if !present.contains(adv_no) {
            missed.push(adv_no);
        }
    }
    missed.sort_unstable();
    if swears {
        report.ads_required += required;
        let kind =
            if book.verdict == "empty" { "empty book had ads" } else { "complete book lacks ads" };
        for adv_no in missed {
            report.violation(kind, || {
                format!("batch {} {:?} ad {adv_no}", batch.batch_id, book.market)
            });
        }
    } else {
        report.declared_missed += missed.len() as u64;
        let estimated = u64::try_from(book.estimated_missed.unwrap_or(0)).unwrap_or(0);
        report.estimated_missed += estimated;
    }
}

/// Compares the advertisers of a batch with what they were between its pages that show them and
/// `end_us`, the last answer that is stored at all.
pub fn compare_advertisers(
    history: &History,
    last: &Batch,
    stored: &[StoredAdvertiser],
    end_us: u64,
    report: &mut Report,
) {
    let mut seen: HashMap<&str, Window> = HashMap::new();
    for page in last.books.iter().flat_map(|book| &book.pages) {
        let Some(window) = page.window else { continue };
        let window = Window { to_us: window.to_us.max(end_us), ..window };
        for ad in page.ads.iter().flatten() {
            let known = seen.entry(&ad.user_no).or_insert(window);
            *known = known.join(window);
        }
    }
    let stored: HashMap<&str, &StoredAdvertiser> =
        stored.iter().map(|advertiser| (advertiser.user_no.as_str(), advertiser)).collect();
    let mut seen: Vec<_> = seen.into_iter().collect();
    seen.sort_unstable_by_key(|(user_no, _)| *user_no);
    for (user_no, window) in seen {
        report.advertisers += 1;
        let states = history.advertisers.get(user_no).into_iter();
        let states: Vec<_> = states.flat_map(|states| states.during(window)).collect();
        match stored.get(user_no) {
            None => report.violation("advertiser without a current row", || user_no.to_owned()),
            Some(found) => {
                // The two are stored apart, so that they may stem from two answers.
                if !states.iter().any(|state| same_identity(found, state)) {
                    report.violation("advertiser's identity not as shown", || format!("{found:?}"));
                }
                if !states.iter().any(|state| same_figures(found, state)) {
                    report.violation("advertiser's figures not as shown", || format!("{found:?}"));
                }
            }
        }
    }
}

fn same_identity(stored: &StoredAdvertiser, state: &AdvertiserEvent) -> bool {
    stored.nick_name == state.nick_name
        && stored.user_type.as_ref() == Some(&state.user_type)
        && stored.user_identity.as_ref() == Some(&state.user_identity)
        && stored.user_grade == Some(i16::from(state.user_grade))
}

fn same_figures(stored: &StoredAdvertiser, state: &AdvertiserEvent) -> bool {
    let rate = |text: &String| Decimal::from_str(text).ok();
    stored.month_order_count.map(i64::from) == Some(i64::from(state.month_order_count))
        && stored.month_finish_rate == rate(&state.month_finish_rate)
        && stored.positive_rate == rate(&state.positive_rate)
        && stored.adv_confirm_time == state.adv_confirm_time
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::truth::{AdEvent, Header, Record};

    fn market() -> MarketKey {
        MarketKey { fiat: "VES".to_owned(), asset: "USDT".to_owned(), side: "BUY".to_owned() }
    }

    fn content(price: &str) -> AdContent {
        AdContent {
            price: price.to_owned(),
            surplus_amount: "100.00".to_owned(),
            tradable_quantity: "99.80".to_owned(),
            min_amount: "500".to_owned(),
            max_amount: "9000".to_owned(),
            dynamic_max_amount: "9000".to_owned(),
            min_quantity: "0.51".to_owned(),
            max_quantity: "9.20".to_owned(),
            dynamic_max_quantity: "9.20".to_owned(),
            pay_time_limit: Some(15),
            payment_methods: vec!["BANK".to_owned(), "PagoMovil".to_owned()],
            classify: "mass".to_owned(),
            user_no: "s1".to_owned(),
            voucher_template: None,
            adv_system_label_ret: None,
        }
    }

    fn details(remarks: &str) -> PageDetails {
        PageDetails {
            remarks: remarks.to_owned(),
            price_type: 1,
            price_floating_ratio: "100.00000000".to_owned(),
            buyer_kyc_limit: 90,
            user_trade_volume_min: None,
        }
    }

    fn ad_event(at_us: u64, adv_no: &str, ad: Option<AdContent>) -> AdEvent {
        let details = ad.is_some().then(|| details(&format!("since {at_us}")));
        AdEvent { at_us, market: market(), adv_no: adv_no.to_owned(), ad, details }
    }

    fn advertiser(at_us: u64, nick_name: &str) -> Record {
        Record::Advertiser(AdvertiserEvent {
            at_us,
            user_no: "s1".to_owned(),
            nick_name: nick_name.to_owned(),
            user_type: "user".to_owned(),
            user_identity: String::new(),
            user_grade: 2,
            month_order_count: 7,
            month_finish_rate: "1.000".to_owned(),
            positive_rate: "0.9912345678901234567".to_owned(),
            adv_confirm_time: Some(71),
        })
    }

    /// Ads 1 and 2 from 100 on; ad 1 changes its price at 500; ad 3 comes at 450 and goes at 600.
    fn history() -> History {
        let records = [
            Record::Header(Header {
                seed: 1,
                started_at_us: 100,
                options: serde_json::Value::Null,
                fiats: vec!["VES".to_owned()],
                markets: vec![market()],
            }),
            advertiser(100, "old "),
            Record::Listed(ad_event(100, "1", Some(content("961.50")))),
            Record::Listed(ad_event(100, "2", Some(content("970.00")))),
            Record::Listed(ad_event(450, "3", Some(content("980.00")))),
            Record::Changed(ad_event(500, "1", Some(content("961.60")))),
            Record::Delisted(ad_event(600, "3", None)),
            advertiser(700, "new"),
        ];
        let line = |record: &Record| serde_json::to_string(record).unwrap() + "\n";
        let log: String = records.iter().map(line).collect();
        History::read((log + "{\"kind\":\"lis").as_bytes()).unwrap()
    }

    fn stored(adv_no: &str, price: &str) -> Arc<StoredAd> {
        let amounts = [price, "100", "99.8", "500.00000000", "9000", "9000", "0.51", "9.2", "9.2"];
        Arc::new(StoredAd {
            adv_no: adv_no.to_owned(),
            amounts: amounts.map(|text| Some(Decimal::from_str(text).unwrap())),
            pay_time_limit: Some(15),
            payment_methods: vec!["BANK".to_owned(), "PagoMovil".to_owned()],
            classify: Some("mass".to_owned()),
            user_no: "s1".to_owned(),
            voucher_template: None,
            adv_system_label_ret: None,
            details: None,
        })
    }

    fn batch(verdict: &str, from_us: u64, to_us: u64, ads: Vec<Arc<StoredAd>>) -> Batch {
        let window = Window { from_us, to_us };
        let ads = ads.into_iter().map(Ok).collect();
        Batch {
            batch_id: 1,
            window,
            is_whole: true,
            books: vec![Book {
                market: market(),
                verdict: verdict.to_owned(),
                estimated_missed: Some(1),
                window: Some(window),
                pages: vec![Page { number: 1, window: Some(window), ads }],
            }],
            duplicates: vec![],
        }
    }

    fn kinds(batch: &Batch) -> Vec<(&'static str, u64)> {
        let mut report = Report::default();
        compare_batch(&history(), batch, &mut report);
        report.violations.iter().map(|(kind, found)| (*kind, found.count)).collect()
    }

    #[test]
    fn a_true_book_is_equal() {
        let both = vec![stored("1", "961.5"), stored("2", "970")];
        assert_eq!(kinds(&batch("complete", 200, 300, both)), []);
        // While the price changes either is true, and the ad that came and went may be there or not.
        let new = vec![stored("1", "961.6"), stored("2", "970"), stored("3", "980")];
        assert_eq!(kinds(&batch("complete", 400, 550, new)), []);
        let old = vec![stored("1", "961.5"), stored("2", "970")];
        assert_eq!(kinds(&batch("complete", 400, 650, old)), []);
    }

    #[test]
    fn a_value_of_another_time_or_of_nobody_is_found() {
        let early = vec![stored("1", "961.6"), stored("2", "970")];
        assert_eq!(kinds(&batch("complete", 200, 300, early)), [("ad not as shown", 1)]);
        for field in 0..9 {
            let mut ad = StoredAd::clone(&stored("2", "970"));
            ad.amounts[field] = Some(Decimal::from_str("970.00000001").unwrap());
            let ads = vec![stored("1", "961.5"), Arc::new(ad)];
            assert_eq!(kinds(&batch("complete", 200, 300, ads)), [("ad not as shown", 1)]);
        }
        let changes: [fn(&mut StoredAd); 9] = [
            |ad| ad.voucher_template = Some(serde_json::json!({})),
            |ad| ad.adv_system_label_ret = Some(serde_json::json!([])),
            |ad| ad.details = Some(details("never")),
            // Only later.
            |ad| ad.details = Some(details("since 500")),
            |ad| ad.amounts[1] = None,
            |ad| ad.pay_time_limit = None,
            |ad| drop(ad.payment_methods.pop()),
            |ad| ad.classify = Some("profession".to_owned()),
            |ad| ad.user_no.push('x'),
        ];
        for change in changes {
            let mut ad = StoredAd::clone(&stored("2", "970"));
            change(&mut ad);
            let ads = vec![stored("1", "961.5"), Arc::new(ad)];
            assert_eq!(kinds(&batch("complete", 200, 300, ads)), [("ad not as shown", 1)]);
        }
    }

    #[test]
    fn terms_may_be_older_than_the_page() {
        let mut ad = StoredAd::clone(&stored("1", "961.6"));
        ad.details = Some(details("since 100"));
        let ads = vec![Arc::new(ad), stored("2", "970")];
        assert_eq!(kinds(&batch("complete", 610, 700, ads)), []);
    }

    #[test]
    fn an_ad_too_many_or_too_few_is_found() {
        let gone = vec![stored("1", "961.6"), stored("2", "970"), stored("3", "980")];
        assert_eq!(kinds(&batch("complete", 650, 680, gone)), [("ad not as shown", 1)]);
        let lacks = vec![stored("2", "970")];
        assert_eq!(kinds(&batch("complete", 200, 300, lacks)), [("complete book lacks ads", 1)]);
        assert_eq!(kinds(&batch("empty", 200, 300, vec![])), [("empty book had ads", 2)]);
        assert_eq!(kinds(&batch("empty", 50, 90, vec![])), []);
    }

    #[test]
    fn a_book_that_says_it_moved_is_believed_and_counted() {
        let mut report = Report::default();
        let batch = batch("drifted", 200, 300, vec![stored("2", "970")]);
        compare_batch(&history(), &batch, &mut report);
        assert!(report.is_equal());
        assert_eq!((report.declared_missed, report.estimated_missed), (1, 1));
    }

    #[test]
    fn a_lost_page_time_a_dangling_id_and_a_lost_book_are_found() {
        let ads = vec![stored("1", "961.5"), stored("2", "970")];
        let good = batch("complete", 200, 300, ads);
        let mut timeless = good.clone();
        timeless.books[0].pages[0].window = None;
        assert_eq!(kinds(&timeless), [("page without the times of its job", 1)]);
        let mut dangling = good.clone();
        dangling.books[0].pages[0].ads.push(Err(77));
        assert_eq!(kinds(&dangling), [("dangling offer id", 1)]);
        let mut missing = good.clone();
        missing.books.clear();
        assert_eq!(kinds(&missing), [("market without a book", 1)]);
        missing.is_whole = false;
        assert_eq!(kinds(&missing), []);
        let mut twice = good.clone();
        twice.duplicates.push((market(), "1".to_owned()));
        assert_eq!(kinds(&twice), [("ad twice in fact_offers", 1)]);
        let mut unread = good;
        unread.books[0].window = None;
        assert_eq!(kinds(&unread), [("book with a verdict and no request", 1)]);
    }

    #[test]
    fn shed_books_are_counted() {
        let mut shed = batch("shed", 200, 300, vec![]);
        shed.books[0].window = None;
        shed.books[0].pages.clear();
        let mut report = Report::default();
        compare_batch(&history(), &shed, &mut report);
        assert!(report.is_equal());
        assert_eq!(report.shed_with_ads, 1);
    }

    #[test]
    fn advertisers_are_compared_with_the_time_since_their_page() {
        let last = batch("complete", 200, 300, vec![stored("1", "961.5")]);
        let check = |nick: &str, orders: i32, end_us: u64| {
            let found = StoredAdvertiser {
                user_no: "s1".to_owned(),
                nick_name: nick.to_owned(),
                user_type: Some("user".to_owned()),
                user_identity: Some(String::new()),
                user_grade: Some(2),
                month_order_count: Some(orders),
                month_finish_rate: Some(Decimal::ONE),
                positive_rate: Decimal::from_str("0.9912345678901234567").ok(),
                adv_confirm_time: Some(71),
            };
            let mut report = Report::default();
            compare_advertisers(&history(), &last, &[found], end_us, &mut report);
            assert_eq!(report.advertisers, 1);
            report.violations.keys().copied().collect::<Vec<_>>()
        };
        assert!(check("old ", 7, 300).is_empty());
        assert!(check("new", 7, 800).is_empty());
        assert_eq!(check("new", 7, 300), ["advertiser's identity not as shown"]);
        assert_eq!(check("old", 7, 300), ["advertiser's identity not as shown"]);
        assert_eq!(check("old ", 8, 300), ["advertiser's figures not as shown"]);
    }
}
