//! The open batch in memory: which jobs there are and how they ended. Pure; the truth is
//! `pipeline.jobs`, from which it can be built again at any time.
//!
//! Folding the end of a page tells what more is to be done: a book that declares more ads than were
//! planned for is extended, one that turns out empty past some page is trimmed, a job that failed for
//! a passing reason is issued once more, and a book of several pages that has been read to its end and
//! does not show all that it declares is looked through for drift.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use shared::domain::{MAX_JOBS_PER_BATCH, Market, page_count};
use shared::exchange::binance::SEARCH_ROWS;
use shared::job::{EMPTY_NO_ADS, EndState, Failure, JobEnd, Listed, Work};

/// Issues of one job: a second one later in the batch, after the worker's own tries.
const MAX_ISSUES: u16 = 2;
/// Pages of one book: 40,000 ads, thirty times the largest seen. A total beyond it is not believed.
pub const MAX_PAGES_PER_BOOK: u32 = 2_000;
/// Pages of a book that answered without ads, with no ads on any page above, before the rest is not
/// asked for: one may be a passing error of the exchange, and each was asked for twice.
const EMPTY_PAGES_BEFORE_TRIM: usize = 2;
/// Rounds in which pages of a moved book are read again. Two mend what ties in another order and
/// single moves leave out of sight; a book that moves faster is not caught up with by more.
const MAX_REREAD_ROUNDS: u32 = 2;
/// Pages that may be read again in any batch, however small its share is: enough for a few books.
const MIN_REREADS: u32 = 10;

/// A job of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerJob {
    pub ordinal: u32,
    pub issue: u16,
    pub urgent: bool,
    pub work: Work,
}

/// What follows from an end.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FollowUp {
    /// Jobs to plan: the rest of a book.
    pub new: Vec<LedgerJob>,
    /// The job itself, to be issued again.
    pub again: Option<LedgerJob>,
    /// Ordinals of jobs that are not to be done any more: their pages are beyond the book's end.
    pub trimmed: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Planned,
    Published,
    Ended(EndState),
}

/// Sums for progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs planned, those shed left out.
    pub jobs: u32,
    pub ended: u32,
    /// Ads stored.
    pub ads: u64,
}

struct Book {
    market: Market,
    /// Highest page planned.
    planned: u32,
    /// Largest total declared.
    total: Option<u32>,
    /// Jobs that have not ended.
    open: u32,
    /// Jobs of each page, from which the rounds of reading follow.
    readings: BTreeMap<u32, u32>,
    /// Highest page that showed ads; 0: none did.
    highest_with_ads: u32,
    /// Pages that were asked for and showed none.
    without_ads: BTreeSet<u32>,
    /// Pages that were not asked for, or were empty when they were, as the total known then did not reach them.
    beyond: BTreeSet<u32>,
    /// Whether the last reading had ads.
    ads_expected: bool,
    /// Whether a page was left out or given up: such a book is not looked through for drift.
    is_cut: bool,
    /// What its pages list, as the last reading of each was reported.
    listed: BTreeMap<u32, (u32, Listed)>,
    /// Whether of some page it is known only that it was read.
    is_untold: bool,
}

impl Book {
    fn new(market: Market, ads_expected: bool) -> Self {
        Self {
            market,
            planned: 0,
            total: None,
            open: 0,
            readings: BTreeMap::new(),
            highest_with_ads: 0,
            without_ads: BTreeSet::new(),
            beyond: BTreeSet::new(),
            ads_expected,
            is_cut: false,
            listed: BTreeMap::new(),
            is_untold: false,
        }
    }

    /// Takes in what a page with ads lists.
    fn page_listed(&mut self, page: u32, end: &JobEnd) {
        let Some(listed) = &end.listed else {
            self.is_untold = true;
            return;
        };
        let last = self.listed.entry(page).or_default();
        if last.0 <= end.ordinal {
            *last = (end.ordinal, listed.clone());
        }
    }

    /// Whether the last readings of its pages show all ads of the largest total, as far as reports tell: then nothing
    /// moved out of sight. By the rule of `store/drift.sql`, which looks through all other books.
    fn is_whole(&self) -> bool {
        let pages = || self.listed.values().map(|(_, listed)| listed);
        let ordinary: HashSet<u32> = pages().flat_map(|page| &page.ordinary).copied().collect();
        // A promoted ad that comes at no ordinary place may be the one that lacks; so may a refused one.
        let has_more = pages().filter_map(|page| page.promoted).any(|ad| !ordinary.contains(&ad));
        let refused: usize = pages().map(|page| page.refused as usize).sum();
        let total = self.total.unwrap_or_default() as usize;
        !self.is_untold && ordinary.len() + usize::from(has_more) + refused >= total
    }

    /// Rounds in which pages were read again.
    fn rounds(&self) -> u32 {
        self.readings.values().max().map_or(0, |most| most - 1)
    }

    /// The last page worth asking for, once enough pages above all ads showed none.
    fn believed_end(&self) -> Option<u32> {
        let mut beyond = self.without_ads.range(self.highest_with_ads + 1..);
        beyond.nth(EMPTY_PAGES_BEFORE_TRIM - 1).copied()
    }
}

pub struct Ledger {
    jobs: BTreeMap<u32, (LedgerJob, State)>,
    /// Ordinals of the jobs that are to be published.
    unpublished: BTreeSet<u32>,
    /// Ordinals of the jobs that have not ended and that the batch waits for.
    open: BTreeSet<u32>,
    /// Those of them that read the witness, for which it waits a moment only.
    witness: BTreeSet<u32>,
    books: HashMap<i32, Book>,
    counts: Counts,
    /// Books read to their end and not yet looked through for drift.
    unchecked: BTreeSet<i32>,
    /// Pages of first readings, and of later ones.
    pages: u32,
    rereads: u32,
    /// Pages that may be read again, in percent of the pages.
    reread_percent: u32,
}

impl Ledger {
    /// An empty one. `reread_percent` bounds the pages that are read again because books moved.
    #[must_use]
    pub fn new(reread_percent: u32) -> Self {
        Self {
            jobs: BTreeMap::new(),
            unpublished: BTreeSet::new(),
            open: BTreeSet::new(),
            witness: BTreeSet::new(),
            books: HashMap::new(),
            counts: Counts::default(),
            unchecked: BTreeSet::new(),
            pages: 0,
            rereads: 0,
            reread_percent,
        }
    }

    /// The ordinal of the next job; `None`: the batch is full.
    #[must_use]
    pub fn next_ordinal(&self) -> Option<u32> {
        let next = self.jobs.last_key_value().map_or(0, |(ordinal, _)| ordinal + 1);
        (next < MAX_JOBS_PER_BATCH).then_some(next)
    }

    /// A job that was planned, published or not.
    pub fn add(&mut self, job: LedgerJob, is_published: bool) {
        if let Work::Search { market_id, market, page, ads_expected } = &job.work {
            let new = || Book::new(market.clone(), *ads_expected);
            let book = self.books.entry(*market_id).or_insert_with(new);
            book.planned = book.planned.max(*page);
            book.open += 1;
            let readings = book.readings.entry(*page).or_default();
            *readings += 1;
            *(if *readings > 1 { &mut self.rereads } else { &mut self.pages }) += 1;
        }
        let ordinal = job.ordinal;
        let state = if is_published { State::Published } else { State::Planned };
        let (is_aside, is_witness) = (job.work.is_aside(), job.work.is_witness());
        let is_new = self.jobs.insert(ordinal, (job, state)).is_none();
        if !is_aside {
            self.counts.jobs += u32::from(is_new);
            self.open.insert(ordinal);
        }
        if is_witness {
            self.witness.insert(ordinal);
        }
        if !is_published {
            self.unpublished.insert(ordinal);
        }
    }

    /// A page that was left out: known, so that its book is not extended into it.
    pub fn add_shed(&mut self, job: LedgerJob) {
        let ordinal = job.ordinal;
        let market_id = market_id(&job.work);
        self.add(job, true);
        self.counts.jobs -= 1;
        if let Some(book) = market_id.and_then(|id| self.books.get_mut(&id)) {
            book.is_cut = true;
            book.open -= 1;
            self.pages -= 1;
        }
        self.set_ended(ordinal, EndState::Shed);
    }

    fn set_ended(&mut self, ordinal: u32, end: EndState) {
        if let Some((_, state)) = self.jobs.get_mut(&ordinal) {
            *state = State::Ended(end);
        }
        self.open.remove(&ordinal);
        self.witness.remove(&ordinal);
        self.unpublished.remove(&ordinal);
    }

    /// Takes in an end; one that is known already, or of an earlier issue, changes nothing.
    pub fn fold(&mut self, end: &JobEnd) -> FollowUp {
        let Some((job, state)) = self.jobs.get_mut(&end.ordinal) else {
            return FollowUp::default();
        };
        if matches!(state, State::Ended(_)) || job.issue != end.issue {
            return FollowUp::default();
        }
        if job.work.is_aside() {
            // Nothing waits for it, and it is not issued again: it is due in a later batch.
            self.set_ended(end.ordinal, end.state);
            return FollowUp::default();
        }
        if job.work.is_witness() {
            // Later it would tell of another moment than its page.
            self.set_ended(end.ordinal, end.state);
            self.counts.ended += 1;
            return FollowUp::default();
        }
        let passing =
            end.reason.as_deref().and_then(Failure::from_column).is_some_and(Failure::is_transient);
        if end.state == EndState::Failed && passing && job.issue < MAX_ISSUES {
            job.issue += 1;
            *state = State::Planned;
            self.unpublished.insert(end.ordinal);
            return FollowUp { again: Some(job.clone()), ..FollowUp::default() };
        }
        let page = match &job.work {
            Work::Search { market_id, page, .. } => Some((*market_id, *page)),
            _ => None,
        };
        self.set_ended(end.ordinal, end.state);
        self.counts.ended += 1;
        self.counts.ads += u64::from(end.ads);
        let Some((market_id, page)) = page else {
            return FollowUp::default();
        };
        self.page_ended(market_id, page, end);
        // A total on a page without ads means nothing: past the end it is 0.
        let total = end.declared_total.filter(|_| end.state == EndState::Done);
        let new = self.extend(market_id, total);
        let trimmed = self.trim(market_id);
        self.book_may_be_read(market_id);
        FollowUp { new, again: None, trimmed }
    }

    fn page_ended(&mut self, market_id: i32, page: u32, end: &JobEnd) {
        let Some(book) = self.books.get_mut(&market_id) else { return };
        book.open -= 1;
        match end.state {
            EndState::Done => {
                book.highest_with_ads = book.highest_with_ads.max(page);
                book.without_ads.remove(&page);
                book.page_listed(page, end);
            }
            EndState::Empty if end.reason.as_deref() == Some(EMPTY_NO_ADS) => {
                book.without_ads.insert(page);
            }
            EndState::Empty => {
                book.beyond.insert(page);
                book.readings.entry(page).and_modify(|readings| *readings -= 1);
            }
            EndState::Failed | EndState::Expired => book.is_cut = true,
            EndState::Shed => {}
        }
    }

    /// Ends the open jobs of a book beyond the end that its empty pages let believe. Their rows are to
    /// be ended likewise; should a worker have been faster, its word counts.
    fn trim(&mut self, market_id: i32) -> Vec<u32> {
        let Some(end) = self.books.get(&market_id).and_then(Book::believed_end) else {
            return Vec::new();
        };
        let is_beyond = |ordinal: &u32| match self.jobs.get(ordinal) {
            Some((LedgerJob { work: Work::Search { market_id: id, page, .. }, .. }, _)) => {
                *id == market_id && *page > end
            }
            _ => false,
        };
        let beyond: Vec<u32> = self.open.iter().copied().filter(is_beyond).collect();
        for ordinal in &beyond {
            self.set_ended(*ordinal, EndState::Empty);
            self.counts.ended += 1;
            if let Some(book) = self.books.get_mut(&market_id) {
                book.open -= 1;
                // It may have been read before, and its report be on the way.
                book.is_untold = true;
            }
        }
        beyond
    }

    fn book_may_be_read(&mut self, market_id: i32) {
        let Some(book) = self.books.get(&market_id) else { return };
        let may_have_moved = book.planned > 1 && !book.is_cut;
        let may_be_read_again = book.rounds() < MAX_REREAD_ROUNDS && self.rereads_left() > 0;
        if book.open == 0 && may_have_moved && may_be_read_again && !book.is_whole() {
            self.unchecked.insert(market_id);
        }
    }

    /// Books to be looked through for drift.
    #[must_use]
    pub fn unchecked(&self) -> Vec<i32> {
        self.unchecked.iter().copied().collect()
    }

    /// Pages that may still be read again. What a fresh look at a moved book costs is taken from
    /// markets that wait for their first.
    fn rereads_left(&self) -> u32 {
        let share = u64::from(self.pages) * u64::from(self.reread_percent) / 100;
        let least = if self.reread_percent == 0 { 0 } else { MIN_REREADS };
        u32::try_from(share).unwrap_or(u32::MAX).max(least).saturating_sub(self.rereads)
    }

    /// The look through `markets` is done: `moved` are the pages to be read again, by market. Gives
    /// their jobs, as far as they may be read.
    pub fn reread(&mut self, markets: &[i32], moved: &[(i32, u32)]) -> Vec<LedgerJob> {
        for market_id in markets {
            self.unchecked.remove(market_id);
        }
        let most = usize::try_from(self.rereads_left()).unwrap_or(usize::MAX);
        let mut new = Vec::with_capacity(moved.len().min(most));
        for (market_id, page) in moved.iter().take(most) {
            let market = self.books.get(market_id).map(|book| book.market.clone());
            let (Some(ordinal), Some(market)) = (self.next_ordinal(), market) else { break };
            let (market_id, page) = (*market_id, *page);
            let work = Work::Search { market_id, market, page, ads_expected: true };
            let job = LedgerJob { ordinal, issue: 1, urgent: true, work };
            self.add(job.clone(), false);
            new.push(job);
        }
        new
    }

    /// The pages that a book turns out to have beyond those planned.
    fn extend(&mut self, market_id: i32, total: Option<u32>) -> Vec<LedgerJob> {
        let Some(book) = self.books.get_mut(&market_id) else {
            return Vec::new();
        };
        let before = page_count(book.total.unwrap_or(0), SEARCH_ROWS);
        book.total = book.total.max(total);
        let pages = page_count(book.total.unwrap_or(0), SEARCH_ROWS);
        // Each of its pages says so: it is told once, and again when it grows.
        if pages > MAX_PAGES_PER_BOOK.max(before) {
            tracing::error!(market = %book.market, pages, "a book declares more pages than are ever read");
        }
        let market = book.market.clone();
        let end = book.believed_end().unwrap_or(MAX_PAGES_PER_BOOK).min(MAX_PAGES_PER_BOOK);
        let end = pages.min(end);
        // A total that went down and up again reaches pages that were left out meanwhile.
        let mut due: Vec<u32> = book.beyond.range(..=end).copied().collect();
        book.beyond.retain(|page| *page > end);
        due.extend(book.planned + 1..=end);
        let mut new = Vec::new();
        for page in due {
            let Some(ordinal) = self.next_ordinal() else {
                tracing::error!(%market, page, "the batch is full, the book is not read to its end");
                break;
            };
            let market = market.clone();
            let work = Work::Search { market_id, market, page, ads_expected: true };
            let job = LedgerJob { ordinal, issue: 1, urgent: true, work };
            self.add(job.clone(), false);
            new.push(job);
        }
        new
    }

    /// Jobs to be published, in plan order, `most` at a time.
    #[must_use]
    pub fn unpublished(&self, most: usize) -> Vec<LedgerJob> {
        let job = |ordinal| self.jobs.get(ordinal).map(|(job, _)| job.clone());
        self.unpublished.iter().take(most).filter_map(job).collect()
    }

    pub fn mark_published(&mut self, ordinals: &[u32]) {
        for ordinal in ordinals {
            if let Some((_, state @ State::Planned)) = self.jobs.get_mut(ordinal) {
                *state = State::Published;
                self.unpublished.remove(ordinal);
            }
        }
    }

    /// Everything that is waited for is to be published again: the messages may be lost.
    pub fn mark_lost(&mut self) {
        for ordinal in &self.open {
            if let Some((_, state)) = self.jobs.get_mut(ordinal) {
                *state = State::Planned;
                self.unpublished.insert(*ordinal);
            }
        }
    }

    /// Ordinals of the jobs that have not ended, those left aside that nothing waits for.
    #[must_use]
    pub fn open(&self) -> Vec<u32> {
        self.open.iter().copied().collect()
    }

    /// Whether every job has ended, those that read the witness left aside, and every book was looked
    /// through.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.has_all_ends() && self.unchecked.is_empty()
    }

    /// Whether every job has ended, those that read the witness left aside.
    #[must_use]
    pub fn has_all_ends(&self) -> bool {
        self.open.len() == self.witness.len()
    }

    /// Whether jobs that read the witness are out.
    #[must_use]
    pub fn waits_for_witness(&self) -> bool {
        !self.witness.is_empty()
    }

    /// Whether all markets of some fiat that had ads came back empty: the fiat may have left the
    /// exchange, whose search answers empty then, and only the list of fiats tells.
    #[must_use]
    pub fn a_fiat_seems_gone(&self) -> bool {
        let mut by_fiat: HashMap<&str, bool> = HashMap::new();
        for book in self.books.values().filter(|book| book.ads_expected) {
            let is_empty = book.highest_with_ads == 0 && book.without_ads.contains(&1);
            let all_empty = by_fiat.entry(&book.market.fiat).or_insert(true);
            *all_empty &= is_empty;
        }
        by_fiat.into_values().any(|all_empty| all_empty)
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether a job with this work is in the batch.
    #[must_use]
    pub fn has(&self, work: &Work) -> bool {
        self.jobs.values().any(|(job, _)| job.work == *work)
    }
}

fn market_id(work: &Work) -> Option<i32> {
    match work {
        Work::Search { market_id, .. } => Some(*market_id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use shared::domain::Side;
    use shared::job::EMPTY_BEYOND_LAST_PAGE;

    use super::*;

    fn page(ordinal: u32, page: u32) -> LedgerJob {
        let market = Market::new("VES", "USDT", Side::Buy).unwrap();
        let work = Work::Search { market_id: 1, market, page, ads_expected: false };
        LedgerJob { ordinal, issue: 1, urgent: false, work }
    }

    fn done(ordinal: u32, total: u32) -> JobEnd {
        JobEnd {
            ordinal,
            issue: 1,
            state: EndState::Done,
            reason: None,
            declared_total: Some(total),
            ads: 20,
            listed: None,
        }
    }

    /// The end of a page that lists these ads.
    fn lists(ordinal: u32, total: u32, ordinary: &[u32], promoted: Option<u32>) -> JobEnd {
        let listed = Listed { ordinary: ordinary.to_vec(), promoted, refused: 0 };
        JobEnd { listed: Some(listed), ..done(ordinal, total) }
    }

    fn ledger(pages: u32) -> Ledger {
        let mut ledger = Ledger::new(100);
        for n in 1..=pages {
            ledger.add(page(n - 1, n), true);
        }
        ledger
    }

    #[test]
    fn the_pages_of_advertisers_are_not_waited_for() {
        let mut ledger = ledger(1);
        let work = Work::Advertiser { advertiser_id: 7, user_no: "s7".to_owned() };
        for ordinal in [1, 2] {
            ledger.add(LedgerJob { ordinal, issue: 1, urgent: false, work: work.clone() }, false);
        }
        assert_eq!(ledger.unpublished(10).len(), 2, "they are published");
        ledger.mark_published(&[1, 2]);
        let failed = JobEnd {
            ordinal: 1,
            issue: 1,
            state: EndState::Failed,
            reason: Some(Failure::Timeout.as_str().to_owned()),
            declared_total: None,
            ads: 0,
            listed: None,
        };
        assert_eq!(ledger.fold(&failed), FollowUp::default(), "not issued again");
        assert_eq!((ledger.open(), ledger.is_settled()), (vec![0], false));
        ledger.fold(&done(0, 20));
        assert!(ledger.is_settled());
        assert_eq!(ledger.counts(), Counts { jobs: 1, ended: 1, ads: 20 });
        // What is out stays out: a second message would read the page twice.
        ledger.mark_lost();
        assert_eq!(ledger.unpublished(10), []);
    }

    #[test]
    fn the_witness_holds_nothing_up_and_is_asked_once() {
        let mut ledger = ledger(1);
        let market = Market::new("VES", "USDT", Side::Buy).unwrap();
        let ads = Work::WitnessAds { market_id: 1, market: market.clone() };
        let quote = Work::WitnessQuote { market_id: 1, market };
        for (ordinal, work) in [(1, ads), (2, quote)] {
            ledger.add(LedgerJob { ordinal, issue: 1, urgent: false, work }, true);
        }
        let failed = JobEnd {
            state: EndState::Failed,
            reason: Some(Failure::Timeout.as_str().to_owned()),
            declared_total: None,
            ..done(1, 0)
        };
        assert_eq!(ledger.fold(&failed), FollowUp::default(), "not issued again");
        assert!(!ledger.is_settled());
        ledger.fold(&done(0, 20));
        assert_eq!((ledger.is_settled(), ledger.waits_for_witness()), (true, true));
        assert_eq!(ledger.open(), [2], "its end is looked for");
        ledger.fold(&done(2, 0));
        assert!(!ledger.waits_for_witness());
        assert_eq!(ledger.counts(), Counts { jobs: 3, ended: 3, ads: 20 });
    }

    fn pages(jobs: &[LedgerJob]) -> Vec<u32> {
        jobs.iter()
            .map(|job| match &job.work {
                Work::Search { page, .. } => *page,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_book_is_extended_by_its_total_once() {
        let mut ledger = ledger(1);
        let follow_up = ledger.fold(&done(0, 45));
        assert_eq!(pages(&follow_up.new), [2, 3]);
        assert!(follow_up.new.iter().all(|job| job.urgent));
        assert_eq!(ledger.fold(&done(0, 45)), FollowUp::default(), "a report that comes twice");
        assert_eq!(pages(&ledger.fold(&done(1, 61)).new), [4]);
        assert!(!ledger.is_settled());
    }

    #[test]
    fn past_the_end_a_total_means_nothing() {
        let mut ledger = ledger(2);
        ledger.fold(&done(0, 20));
        let past = JobEnd {
            state: EndState::Empty,
            reason: Some(EMPTY_NO_ADS.into()),
            declared_total: Some(99),
            ..done(1, 0)
        };
        assert_eq!(ledger.fold(&past), FollowUp::default());
        ledger.reread(&[1], &[]);
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_book_is_looked_through_when_it_is_read_and_in_two_rounds_at_most() {
        let mut ledger = ledger(2);
        ledger.fold(&done(0, 40));
        assert_eq!(ledger.unchecked(), [] as [i32; 0]);
        ledger.fold(&done(1, 40));
        assert_eq!(ledger.unchecked(), [1]);
        assert!(!ledger.is_settled(), "not before it was looked through");
        for ordinal in [2, 3] {
            assert_eq!(pages(&ledger.reread(&[1], &[(1, 2)])), [2]);
            assert!(!ledger.is_settled());
            ledger.fold(&done(ordinal, 40));
        }
        assert_eq!(ledger.unchecked(), [] as [i32; 0], "a third round is not made");
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_book_that_shows_all_it_declares_is_not_looked_through() {
        let is_unchecked = |ends: &[JobEnd]| {
            let mut ledger = ledger(u32::try_from(ends.len()).unwrap());
            for end in ends {
                ledger.fold(end);
            }
            ledger.unchecked() == [1]
        };
        let first: Vec<u32> = (0..20).collect();
        assert!(!is_unchecked(&[lists(0, 22, &first, None), lists(1, 22, &[20, 21], None)]));
        // One went to the other page, and another in its place.
        assert!(is_unchecked(&[lists(0, 22, &first, None), lists(1, 22, &[19, 21], None)]));
        // A page that was read before declared more.
        assert!(is_unchecked(&[lists(0, 23, &first, None), lists(1, 22, &[20, 21], None)]));
        // A promoted ad may be the one that lacks, if it comes at no ordinary place; and so may a refused one.
        assert!(!is_unchecked(&[lists(0, 22, &first, Some(21)), lists(1, 22, &[20], None)]));
        assert!(is_unchecked(&[lists(0, 22, &first, Some(20)), lists(1, 22, &[20], None)]));
        let refused = Listed { ordinary: vec![20], promoted: None, refused: 1 };
        let refused = JobEnd { listed: Some(refused), ..done(1, 22) };
        assert!(!is_unchecked(&[lists(0, 22, &first, None), refused]));
        // Of one page nobody told.
        assert!(is_unchecked(&[lists(0, 22, &first, None), done(1, 22)]));
    }

    /// What counts of a page is its last reading, in whatever order ends are told.
    #[test]
    fn a_book_is_whole_by_the_last_readings() {
        let mut ledger = ledger(2);
        let first: Vec<u32> = (0..20).collect();
        ledger.fold(&lists(0, 22, &first, None));
        ledger.fold(&lists(1, 22, &[19, 21], None));
        assert_eq!(ledger.unchecked(), [1]);
        let again = ledger.reread(&[1], &[(1, 2)]);
        ledger.fold(&lists(again[0].ordinal, 22, &[20, 21], None));
        assert!(ledger.unchecked().is_empty());
    }

    #[test]
    fn a_book_with_a_lost_page_is_not_read_again() {
        let mut ledger = ledger(2);
        ledger.fold(&done(0, 40));
        let reason = Some("rejected".into());
        ledger.fold(&JobEnd { state: EndState::Failed, reason, ..done(1, 40) });
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_passing_failure_is_issued_once_more() {
        let mut ledger = ledger(1);
        let failed = |issue| JobEnd {
            issue,
            state: EndState::Failed,
            reason: Some("timeout".into()),
            declared_total: None,
            ..done(0, 0)
        };
        assert_eq!(ledger.fold(&failed(1)).again.map(|job| job.issue), Some(2));
        assert_eq!(ledger.unpublished(usize::MAX).len(), 1);
        assert_eq!(ledger.fold(&failed(1)), FollowUp::default(), "the first issue's report again");
        assert!(!ledger.is_settled());
        assert_eq!(ledger.fold(&failed(2)), FollowUp::default());
        assert!(ledger.is_settled());
    }

    #[test]
    fn a_lasting_failure_is_not() {
        let mut ledger = ledger(1);
        let failed =
            JobEnd { state: EndState::Failed, reason: Some("rejected".into()), ..done(0, 0) };
        assert_eq!(ledger.fold(&failed), FollowUp::default());
        assert!(ledger.is_settled());
    }

    #[test]
    fn an_absurd_total_is_bounded() {
        let mut ledger = ledger(1);
        assert_eq!(ledger.fold(&done(0, u32::MAX)).new.len(), 1_999);
    }

    /// Left out by a worker that knew a smaller total, a page is planned again when another page
    /// tells more, in whatever order the two ends come.
    #[test]
    fn a_page_left_out_too_early_is_planned_again() {
        let beyond = |ordinal| JobEnd {
            state: EndState::Empty,
            reason: Some(EMPTY_BEYOND_LAST_PAGE.into()),
            declared_total: None,
            ..done(ordinal, 0)
        };
        let mut first = ledger(3);
        first.fold(&done(0, 40));
        assert_eq!(pages(&first.fold(&beyond(2)).new), [0; 0]);
        assert_eq!(pages(&first.fold(&done(1, 41)).new), [3]);
        let mut last = ledger(3);
        last.fold(&done(0, 40));
        last.fold(&done(1, 41));
        assert_eq!(pages(&last.fold(&beyond(2)).new), [3]);
        last.fold(&done(3, 41));
        last.reread(&[1], &[]);
        assert!(last.is_settled());
    }

    /// A total that is not true ends where two pages show no ads; one alone may be an error.
    #[test]
    fn an_untrue_total_is_trimmed() {
        let mut ledger = ledger(1);
        assert_eq!(ledger.fold(&done(0, 2000)).new.len(), 99);
        let empty = |ordinal| JobEnd {
            state: EndState::Empty,
            reason: Some(EMPTY_NO_ADS.into()),
            declared_total: None,
            ..done(ordinal, 0)
        };
        assert_eq!(ledger.fold(&empty(1)).trimmed, [0; 0]);
        assert_eq!(
            ledger.fold(&done(2, 2000)).trimmed,
            [0; 0],
            "page 3 has ads, so page 2 was an error"
        );
        assert_eq!(ledger.fold(&empty(4)).trimmed, [0; 0]);
        assert_eq!(ledger.fold(&empty(3)).trimmed.len(), 95, "pages 6 to 100");
        assert_eq!(ledger.fold(&done(0, 9000)), FollowUp::default());
        ledger.reread(&[1], &[]);
        assert!(ledger.is_settled());
    }

    /// Reading again is bounded over the whole batch.
    #[test]
    fn reading_again_is_bounded_by_a_share_of_the_pages() {
        let mut ledger = Ledger::new(1);
        for n in 1..=2000 {
            ledger.add(page(n - 1, n), true);
        }
        let moved: Vec<(i32, u32)> = (1..=100).map(|page| (1, page)).collect();
        assert_eq!(ledger.reread(&[1], &moved).len(), 20);
        assert_eq!(ledger.reread(&[1], &moved).len(), 0);
    }

    #[test]
    fn a_fiat_of_which_everything_turned_empty_seems_gone() {
        let mut ledger = Ledger::new(1);
        let market = |asset| Market::new("VES", asset, Side::Buy).unwrap();
        for (market_id, asset) in [(1, "USDT"), (2, "BTC")] {
            let work =
                Work::Search { market_id, market: market(asset), page: 1, ads_expected: true };
            let ordinal = market_id.cast_unsigned();
            ledger.add(LedgerJob { ordinal, issue: 1, urgent: false, work }, true);
        }
        let empty = |ordinal| JobEnd {
            state: EndState::Empty,
            reason: Some(EMPTY_NO_ADS.into()),
            declared_total: None,
            ..done(ordinal, 0)
        };
        ledger.fold(&empty(1));
        assert!(!ledger.a_fiat_seems_gone(), "the other market is not read yet");
        ledger.fold(&empty(2));
        assert!(ledger.a_fiat_seems_gone());
    }

    #[test]
    fn what_was_lost_is_published_again() {
        let mut ledger = ledger(2);
        ledger.fold(&done(0, 40));
        assert_eq!(ledger.unpublished(usize::MAX), []);
        ledger.mark_lost();
        assert_eq!(pages(&ledger.unpublished(usize::MAX)), [2]);
    }
}
