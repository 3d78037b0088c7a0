//! What the witness said of a market, held against our book.
//!
//! The two are read a moment apart, and books move. A difference counts as moved only if the ad moved
//! since the last good book before, and only as long as no more ads differ so than can move in that
//! moment: a search that is wrong differs at too many places at once.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use shared::domain::Side;

/// Longest time between the two readings in which they can be compared: later, too much has moved.
const MAX_SKEW_MS: i64 = 60_000;
/// Ads that may have moved however short the time, one of so many that are compared, at least one and at
/// most [`FREE_MOVES`]: a move is a matter of an instant, and one ad that goes may let another come into the
/// list.
const FREE_MOVES_SHARE: i64 = 10;
const FREE_MOVES: i64 = 2;
/// Milliseconds in which as many ads may move as are compared. Measured: the top of a book changes by a
/// quarter in ten minutes, so this is four times what is to be expected.
const ALL_MOVE_MS: i64 = 600_000;

/// An ad that the witness names, and its price.
pub type Named = (String, Decimal);

/// What the witness said of a market.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statement {
    /// When its list arrived, and the ads in it; `None`: it gave none that can be read.
    pub list: Option<(DateTime<Utc>, Vec<Named>)>,
    pub quote: Option<Decimal>,
}

/// An ad on a page of our book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub adv_no: String,
    pub price: Decimal,
    pub page: i32,
    /// Place in the book, from 1; `None`: promoted, out of the order of prices.
    pub rank: Option<i32>,
    pub at: DateTime<Utc>,
}

/// Our book of the market.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book {
    pub side: Side,
    /// Whether anything of it was read, with or without ads.
    pub is_read: bool,
    /// Whether no page of it is missing.
    pub is_whole: bool,
    /// Everything that its pages showed.
    pub sightings: Vec<Sighting>,
    /// Ads and prices of the last good book before.
    pub before: HashMap<String, Decimal>,
    /// Ads that were read and could not be taken.
    pub quarantined: HashSet<String>,
}

/// Why nothing could be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    NotRead,
    NoAds,
    BookNotRead,
    BookIncomplete,
    TooFarApart,
}

impl Unknown {
    /// As in `pipeline.witness_checks.reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotRead => "not_read",
            Self::NoAds => "no_ads",
            Self::BookNotRead => "book_not_read",
            Self::BookIncomplete => "book_incomplete",
            Self::TooFarApart => "too_far_apart",
        }
    }
}

/// What the comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Agree,
    Disagree,
    Unknown(Unknown),
}

impl Verdict {
    /// As in `pipeline.witness_checks.verdict`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::Disagree => "disagree",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// How an ad differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// In both, at different prices.
    PriceDiffers,
    /// The witness has it, our book does not.
    Missing,
    /// Our book has it where the witness should name it, and it does not.
    Lacking,
}

/// Why a difference is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Explanation {
    Moved,
    Quarantined,
}

/// An ad that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub adv_no: String,
    pub result: Finding,
    pub explained: Option<Explanation>,
    /// Place in the list of the witness, from 1.
    pub rank_witness: Option<usize>,
    pub price_witness: Option<Decimal>,
    pub page: Option<i32>,
    pub rank_ours: Option<i32>,
    pub price_ours: Option<Decimal>,
    pub price_before: Option<Decimal>,
}

/// Where the quote lies in our book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuoteVerdict {
    Best,
    Listed,
    Within,
    Outside,
    Unknown,
}

impl QuoteVerdict {
    /// As in `pipeline.witness_checks.quote_verdict`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Listed => "listed",
            Self::Within => "within",
            Self::Outside => "outside",
            Self::Unknown => "unknown",
        }
    }
}

/// The quote held against our book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    pub verdict: QuoteVerdict,
    /// The place it would take, from 1.
    pub rank: Option<i32>,
}

/// Ads by what came of them; differences that are explained count as such only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub agreed: i32,
    pub price_differs: i32,
    pub missing: i32,
    pub lacking: i32,
    pub explained: i32,
}

impl Counts {
    #[must_use]
    pub fn compared(&self) -> i32 {
        self.agreed + self.explained + self.differing()
    }

    /// Ads whose difference is not explained.
    #[must_use]
    pub fn differing(&self) -> i32 {
        self.price_differs + self.missing + self.lacking
    }
}

/// A market held against its witness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub verdict: Verdict,
    /// From the list of the witness to the nearest reading of our page 1.
    pub skew_ms: Option<i64>,
    pub counts: Counts,
    pub quote: Quote,
    pub differences: Vec<Difference>,
}

/// Holds a statement against our book.
#[must_use]
pub fn compare(statement: &Statement, book: &Book) -> Check {
    let quote = place_quote(statement.quote, book);
    let mut check = Check {
        verdict: Verdict::Unknown(Unknown::NotRead),
        skew_ms: None,
        counts: Counts::default(),
        quote,
        differences: Vec::new(),
    };
    let Some((at, list)) = &statement.list else {
        return check;
    };
    let skew_of = |sighting: &Sighting| (sighting.at - *at).num_milliseconds();
    let first_page = book.sightings.iter().filter(|sighting| sighting.page == 1);
    check.skew_ms = first_page.map(skew_of).min_by_key(|skew| skew.abs());
    let unknown = if list.is_empty() {
        Some(Unknown::NoAds)
    } else if !book.is_read {
        Some(Unknown::BookNotRead)
    } else if !book.is_whole {
        Some(Unknown::BookIncomplete)
    } else {
        let is_far = check.skew_ms.is_some_and(|skew| skew.abs() > MAX_SKEW_MS);
        is_far.then_some(Unknown::TooFarApart)
    };
    if let Some(reason) = unknown {
        check.verdict = Verdict::Unknown(reason);
        return check;
    }
    let ours = nearest(book, *at);
    let mut found = differences(list, book, &ours);
    let agreed = list.len() - found.iter().filter(|one| one.result != Finding::Lacking).count();
    check.counts.agreed = i32::try_from(agreed).unwrap_or(i32::MAX);
    explain(*at, &mut found, book, &ours, agreed, check.skew_ms.unwrap_or(0));
    for one in &found {
        let count = match (one.explained, one.result) {
            (Some(_), _) => &mut check.counts.explained,
            (None, Finding::PriceDiffers) => &mut check.counts.price_differs,
            (None, Finding::Missing) => &mut check.counts.missing,
            (None, Finding::Lacking) => &mut check.counts.lacking,
        };
        *count += 1;
    }
    let is_all = check.counts.differing() == 0;
    check.verdict = if is_all { Verdict::Agree } else { Verdict::Disagree };
    check.differences = found;
    check
}

/// Each ad as our book showed it nearest to that moment; at its ordinary place rather than promoted.
fn nearest(book: &Book, at: DateTime<Utc>) -> HashMap<&str, &Sighting> {
    let mut ours: HashMap<&str, &Sighting> = HashMap::with_capacity(book.sightings.len());
    let distance = |one: &Sighting| ((one.at - at).abs(), one.rank.is_none());
    for sighting in &book.sightings {
        let best = ours.entry(&sighting.adv_no).or_insert(sighting);
        if distance(sighting) < distance(best) {
            *best = sighting;
        }
    }
    ours
}

fn differences(list: &[Named], book: &Book, ours: &HashMap<&str, &Sighting>) -> Vec<Difference> {
    let mut found = Vec::new();
    for (place, (adv_no, price)) in list.iter().enumerate() {
        let sighting = ours.get(adv_no.as_str());
        let result = match sighting {
            Some(sighting) if sighting.price == *price => continue,
            Some(_) => Finding::PriceDiffers,
            None => Finding::Missing,
        };
        let witness = Some((place + 1, *price));
        found.push(difference(adv_no, result, witness, sighting.copied(), book));
    }
    let named: HashSet<&str> = list.iter().map(|(adv_no, _)| adv_no.as_str()).collect();
    let mut lacking: Vec<&Sighting> = due(list, book, ours);
    lacking.retain(|sighting| !named.contains(sighting.adv_no.as_str()));
    lacking.sort_by_key(|sighting| (sighting.rank, sighting.adv_no.as_str()));
    found.extend(lacking.into_iter().map(|sighting| {
        difference(&sighting.adv_no, Finding::Lacking, None, Some(sighting), book)
    }));
    found
}

/// Our ads that a list of so many should name: as many of our first, if they are better than its last.
/// Of a list that is not in the order of prices nothing can be said.
fn due<'a>(list: &[Named], book: &Book, ours: &HashMap<&str, &'a Sighting>) -> Vec<&'a Sighting> {
    let is_better = |a: Decimal, b: Decimal| is_better(book.side, a, b);
    let is_ordered = list.windows(2).all(|pair| !is_better(pair[1].1, pair[0].1));
    let Some((_, worst)) = list.last().filter(|_| is_ordered) else {
        return Vec::new();
    };
    let most = i32::try_from(list.len()).unwrap_or(i32::MAX);
    let is_due =
        |one: &&Sighting| one.rank.is_some_and(|rank| rank <= most) && is_better(one.price, *worst);
    ours.values().copied().filter(is_due).collect()
}

fn difference(
    adv_no: &str,
    result: Finding,
    witness: Option<(usize, Decimal)>,
    ours: Option<&Sighting>,
    book: &Book,
) -> Difference {
    Difference {
        adv_no: adv_no.to_owned(),
        result,
        explained: None,
        rank_witness: witness.map(|(rank, _)| rank),
        price_witness: witness.map(|(_, price)| price),
        page: ours.map(|sighting| sighting.page),
        rank_ours: ours.and_then(|sighting| sighting.rank),
        price_ours: ours.map(|sighting| sighting.price),
        price_before: book.before.get(adv_no).copied(),
    }
}

/// Tells differences that are moves, or ads in quarantine, from others.
fn explain(
    at: DateTime<Utc>,
    found: &mut [Difference],
    book: &Book,
    ours: &HashMap<&str, &Sighting>,
    agreed: usize,
    skew_ms: i64,
) {
    for one in found.iter_mut().filter(|one| one.result == Finding::Missing) {
        if book.quarantined.contains(&one.adv_no) {
            one.explained = Some(Explanation::Quarantined);
        }
    }
    // Read after our page, the witness may show what no book of ours can tell yet.
    let is_later = |one: &Difference| match ours.get(one.adv_no.as_str()) {
        Some(sighting) => at > sighting.at,
        None => skew_ms < 0,
    };
    let may_have_moved = |one: &Difference| {
        one.explained.is_none()
            && (is_later(one)
                || match one.result {
                    // It was there, and went.
                    Finding::Missing => one.price_before.is_some(),
                    // It came, or changed.
                    Finding::PriceDiffers | Finding::Lacking => one.price_before != one.price_ours,
                })
    };
    let compared = i64::try_from(agreed + found.len()).unwrap_or(i64::MAX);
    let free = (compared / FREE_MOVES_SHARE).clamp(1, FREE_MOVES);
    let movable = free + compared.saturating_mul(skew_ms.abs()) / ALL_MOVE_MS;
    let moved = found.iter().filter(|one| may_have_moved(one)).count();
    if i64::try_from(moved).is_ok_and(|moved| moved <= movable) {
        let moved: Vec<bool> = found.iter().map(may_have_moved).collect();
        for (one, _) in found.iter_mut().zip(moved).filter(|(_, moved)| *moved) {
            one.explained = Some(Explanation::Moved);
        }
    }
}

fn is_better(side: Side, left: Decimal, right: Decimal) -> bool {
    match side {
        Side::Buy => left < right,
        Side::Sell => left > right,
    }
}

/// Of all that stands at its ordinary place.
fn place_quote(quote: Option<Decimal>, book: &Book) -> Quote {
    let unknown = Quote { verdict: QuoteVerdict::Unknown, rank: None };
    let Some(quote) = quote else {
        return unknown;
    };
    let ordinary = book.sightings.iter().filter(|sighting| sighting.rank.is_some());
    let prices: HashMap<&str, Decimal> =
        ordinary.map(|sighting| (sighting.adv_no.as_str(), sighting.price)).collect();
    if prices.is_empty() {
        return unknown;
    }
    let better = prices.values().filter(|price| is_better(book.side, **price, quote)).count();
    let has_worse = prices.values().any(|price| is_better(book.side, quote, *price));
    let is_listed = prices.values().any(|price| *price == quote);
    let verdict = match (is_listed, better) {
        (true, 0) => QuoteVerdict::Best,
        (true, _) => QuoteVerdict::Listed,
        (false, 1..) if has_worse => QuoteVerdict::Within,
        (false, _) => QuoteVerdict::Outside,
    };
    let rank = i32::try_from(better + 1).ok();
    Quote { verdict, rank }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        let start: DateTime<Utc> = "2026-11-27T10:00:00Z".parse().unwrap();
        start + TimeDelta::milliseconds(ms)
    }

    /// Ads `1..=count` at prices 101, 102, ….
    fn ads(count: i64) -> Vec<(String, Decimal)> {
        (1..=count).map(|n| (n.to_string(), Decimal::from(100 + n))).collect()
    }

    /// The witness at 0 ms.
    fn said(list: Vec<(String, Decimal)>) -> Statement {
        Statement { list: Some((at(0), list)), quote: None }
    }

    /// A book of these ads, read at that time, that was the same before.
    fn book(ads: &[(String, Decimal)], read_at_ms: i64) -> Book {
        let sighting = |(place, (adv_no, price)): (i32, &(String, Decimal))| Sighting {
            adv_no: adv_no.clone(),
            price: *price,
            page: (place - 1) / 20 + 1,
            rank: Some(place),
            at: at(read_at_ms),
        };
        Book {
            side: Side::Buy,
            is_read: true,
            is_whole: true,
            sightings: (1..).zip(ads).map(sighting).collect(),
            before: ads.iter().cloned().collect(),
            quarantined: HashSet::new(),
        }
    }

    fn results(check: &Check) -> Vec<(&str, Finding, Option<Explanation>)> {
        check
            .differences
            .iter()
            .map(|one| (one.adv_no.as_str(), one.result, one.explained))
            .collect()
    }

    #[test]
    fn the_same_ads_agree_whatever_lies_behind_and_whatever_is_promoted() {
        let mut ours = book(&ads(45), 800);
        let promoted = Sighting {
            adv_no: "p".into(),
            price: Decimal::from(150),
            page: 1,
            rank: None,
            at: at(800),
        };
        ours.sightings.push(promoted);
        // Twice on our pages: promoted, and at its ordinary place.
        ours.sightings.push(Sighting { rank: None, ..ours.sightings[6].clone() });
        let check = compare(&said(ads(20)), &ours);
        assert_eq!((check.verdict, check.skew_ms), (Verdict::Agree, Some(800)));
        assert_eq!(check.counts, Counts { agreed: 20, ..Counts::default() });
    }

    /// The order among equal prices is not the exchange's promise: at the end of the list another of them
    /// may stand.
    #[test]
    fn ties_at_the_end_of_the_list_are_no_difference() {
        let mut ours = ads(22);
        for one in &mut ours[18..] {
            one.1 = Decimal::from(119);
        }
        let mut list = ours[..18].to_vec();
        list.extend([ours[20].clone(), ours[21].clone()]);
        assert_eq!(compare(&said(list), &book(&ours, 100)).verdict, Verdict::Agree);
    }

    #[test]
    fn a_search_that_leaves_ads_out_is_caught() {
        let mut ours = ads(20);
        ours.retain(|(adv_no, _)| !["3", "7"].contains(&adv_no.as_str()));
        let check = compare(&said(ads(20)), &book(&ours, 100));
        assert_eq!(check.verdict, Verdict::Disagree);
        assert_eq!(results(&check), [("3", Finding::Missing, None), ("7", Finding::Missing, None)]);
        assert_eq!(
            (check.counts.agreed, check.counts.missing, check.counts.compared()),
            (18, 2, 20)
        );
        assert_eq!(check.differences[0].rank_witness, Some(3));
    }

    /// Ads that went since are no proof if too many went at once.
    #[test]
    fn a_search_that_begins_to_leave_ads_out_is_caught() {
        let ours: Vec<_> = ads(20).into_iter().skip(3).collect();
        let mut ours = book(&ours, 100);
        ours.before = ads(20).into_iter().collect();
        let check = compare(&said(ads(20)), &ours);
        assert_eq!((check.verdict, check.counts.missing), (Verdict::Disagree, 3));
    }

    #[test]
    fn a_search_that_shifts_prices_is_caught_from_its_first_book_on() {
        let mut shifted = ads(20);
        for one in &mut shifted {
            one.1 += Decimal::ONE;
        }
        let mut ours = book(&shifted, 100);
        ours.before = ads(20).into_iter().collect();
        for _ in 0..2 {
            let check = compare(&said(ads(20)), &ours);
            assert_eq!((check.verdict, check.counts.price_differs), (Verdict::Disagree, 20));
            ours.before = shifted.iter().cloned().collect();
        }
    }

    #[test]
    fn what_moved_between_the_two_is_told_apart() {
        // Since the book before: ad 2 left after the witness saw it, ad 5 changed its price, ad 0 came.
        let mut now = ads(20);
        now.remove(1);
        now[3].1 = Decimal::new(1_045, 1);
        now.insert(0, ("0".into(), Decimal::ONE));
        let mut ours = book(&now, 30_000);
        ours.before = ads(20).into_iter().collect();
        let check = compare(&said(ads(20)), &ours);
        let moved = Some(Explanation::Moved);
        let found = [
            ("2", Finding::Missing, moved),
            ("5", Finding::PriceDiffers, moved),
            ("0", Finding::Lacking, moved),
        ];
        assert_eq!(results(&check), found);
        assert_eq!((check.verdict, check.counts.explained), (Verdict::Agree, 3));
        // So much does not move in a tenth of a second.
        for one in &mut ours.sightings {
            one.at = at(100);
        }
        let check = compare(&said(ads(20)), &ours);
        assert_eq!((check.verdict, check.counts.differing()), (Verdict::Disagree, 3));
    }

    /// It was there before at that price and is there now at that price: nothing moved.
    #[test]
    fn what_did_not_move_is_not_explained() {
        let mut list = ads(20);
        list[4].1 = Decimal::new(1_055, 1);
        list.remove(9);
        let check = compare(&said(list.clone()), &book(&ads(20), 100));
        let found = [("5", Finding::PriceDiffers, None), ("10", Finding::Lacking, None)];
        assert_eq!((check.verdict, results(&check)), (Verdict::Disagree, found.to_vec()));
        // The witness read after our page may know better.
        let check = compare(&said(list), &book(&ads(20), -100));
        assert_eq!((check.verdict, check.counts.explained), (Verdict::Agree, 2));
    }

    #[test]
    fn an_ad_in_quarantine_is_not_missing() {
        let all = ads(20);
        let mut ours = book(&all[..19], 100);
        ours.quarantined.insert("20".into());
        let check = compare(&said(all), &ours);
        assert_eq!(results(&check), [("20", Finding::Missing, Some(Explanation::Quarantined))]);
        assert_eq!(check.verdict, Verdict::Agree);
    }

    #[test]
    fn a_list_in_no_order_says_nothing_of_what_it_lacks() {
        let mut list = ads(20);
        list.remove(9);
        list.swap(0, 5);
        assert_eq!(compare(&said(list), &book(&ads(20), 100)).verdict, Verdict::Agree);
    }

    #[test]
    fn what_cannot_be_compared_is_unknown() {
        let whole = book(&ads(20), 100);
        let verdict = |statement: &Statement, book: &Book| compare(statement, book).verdict;
        let unknown = |reason| Verdict::Unknown(reason);
        assert_eq!(verdict(&Statement::default(), &whole), unknown(Unknown::NotRead));
        assert_eq!(verdict(&said(Vec::new()), &whole), unknown(Unknown::NoAds));
        let unread = Book { is_read: false, is_whole: false, ..book(&[], 0) };
        assert_eq!(verdict(&said(ads(3)), &unread), unknown(Unknown::BookNotRead));
        let cut = Book { is_whole: false, ..whole };
        assert_eq!(verdict(&said(ads(20)), &cut), unknown(Unknown::BookIncomplete));
        let late = book(&ads(20), MAX_SKEW_MS + 1);
        assert_eq!(verdict(&said(ads(20)), &late), unknown(Unknown::TooFarApart));
        let check = compare(&said(ads(20)), &late);
        assert_eq!((check.skew_ms, check.counts.compared()), (Some(60_001), 0));
        // An empty book is a statement, which the witness contradicts.
        assert_eq!(verdict(&said(ads(3)), &book(&[], 0)), Verdict::Disagree);
    }

    #[test]
    fn the_place_of_the_quote_is_told() {
        let ours = book(&ads(20), 100);
        for (quote, verdict, rank) in [
            (1010, QuoteVerdict::Best, 1),
            (1050, QuoteVerdict::Listed, 5),
            (1055, QuoteVerdict::Within, 6),
            (1000, QuoteVerdict::Outside, 1),
            (9000, QuoteVerdict::Outside, 21),
        ] {
            let statement = Statement { quote: Some(Decimal::new(quote, 1)), ..said(ads(20)) };
            assert_eq!(
                compare(&statement, &ours).quote,
                Quote { verdict, rank: Some(rank) },
                "{quote}"
            );
        }
        let sell = Book { side: Side::Sell, ..ours.clone() };
        assert_eq!(place_quote(Some(Decimal::from(120)), &sell).verdict, QuoteVerdict::Best);
        assert_eq!(place_quote(None, &ours).verdict, QuoteVerdict::Unknown);
        assert_eq!(place_quote(Some(Decimal::ONE), &book(&[], 0)).verdict, QuoteVerdict::Unknown);
    }

    proptest! {
        /// Every ad of the witness is counted once, and the verdict follows from the counts.
        #[test]
        fn the_counts_add_up(
            theirs in prop::collection::btree_map(0i64..40, 1i64..20, 1..20),
            ours in prop::collection::btree_map(0i64..40, 1i64..20, 0..40),
            skew in -60_000i64..60_000,
        ) {
            let ordered = |ads: &std::collections::BTreeMap<i64, i64>| {
                let mut ads: Vec<_> = ads.iter().map(|(n, p)| (n.to_string(), Decimal::from(*p))).collect();
                ads.sort_by_key(|(_, price)| *price);
                ads
            };
            let check = compare(&said(ordered(&theirs)), &book(&ordered(&ours), skew));
            let of_theirs = check.differences.iter().filter(|one| one.result != Finding::Lacking).count();
            let (agreed, compared) = (check.counts.agreed, check.counts.compared());
            prop_assert_eq!(usize::try_from(agreed).unwrap() + of_theirs, theirs.len());
            prop_assert_eq!(usize::try_from(compared - agreed).unwrap(), check.differences.len());
            prop_assert_eq!(check.verdict == Verdict::Agree, check.counts.differing() == 0);
        }
    }
}
