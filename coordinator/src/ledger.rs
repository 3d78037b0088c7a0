//! The open batch in memory: which jobs there are and how they ended. Pure; the truth is
//! `pipeline.jobs`, from which it can be built again at any time.
//!
//! Folding the end of a page tells what more is to be done: a book that declares more ads than were
//! planned for is extended, a job that failed for a passing reason is issued once more, and a book of
//! several pages that has been read to its end is looked through for drift.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::domain::{MAX_JOBS_PER_BATCH, Market, page_count};
use shared::exchange::binance::SEARCH_ROWS;
use shared::job::{EndState, Failure, JobEnd, Work};

/// Issues of one job: a second one later in the batch, after the worker's own tries.
const MAX_ISSUES: u16 = 2;
/// Pages of one book: 10,000 ads, eight times the largest seen. A total beyond it is not believed.
const MAX_PAGES_PER_BOOK: u32 = 500;
/// Rounds in which pages of a moved book are read again. Two mend what ties in another order and
/// single moves leave out of sight; a book that moves faster is not caught up with by more.
const MAX_REREAD_ROUNDS: u32 = 2;

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
    /// Whether a page was left out or given up: such a book is not looked through for drift.
    is_cut: bool,
}

impl Book {
    fn new(market: Market) -> Self {
        let readings = BTreeMap::new();
        Self { market, planned: 0, total: None, open: 0, readings, is_cut: false }
    }

    /// Rounds in which pages were read again.
    fn rounds(&self) -> u32 {
        self.readings.values().max().map_or(0, |most| most - 1)
    }
}

#[derive(Default)]
pub struct Ledger {
    jobs: BTreeMap<u32, (LedgerJob, State)>,
    books: HashMap<i32, Book>,
    counts: Counts,
    /// Books read to their end and not yet looked through for drift.
    unchecked: BTreeSet<i32>,
}

impl Ledger {
    /// The ordinal of the next job; `None`: the batch is full.
    #[must_use]
    pub fn next_ordinal(&self) -> Option<u32> {
        let next = self.jobs.last_key_value().map_or(0, |(ordinal, _)| ordinal + 1);
        (next < MAX_JOBS_PER_BATCH).then_some(next)
    }

    /// A job that was planned, published or not.
    pub fn add(&mut self, job: LedgerJob, is_published: bool) {
        if let Work::Search { market_id, market, page, .. } = &job.work {
            let new = || Book::new(market.clone());
            let book = self.books.entry(*market_id).or_insert_with(new);
            book.planned = book.planned.max(*page);
            book.open += 1;
            *book.readings.entry(*page).or_default() += 1;
        }
        let state = if is_published { State::Published } else { State::Planned };
        if self.jobs.insert(job.ordinal, (job, state)).is_none() {
            self.counts.jobs += 1;
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
        }
        if let Some((_, state)) = self.jobs.get_mut(&ordinal) {
            *state = State::Ended(EndState::Shed);
        }
    }

    /// Takes in an end; one that is known already, or of an earlier issue, changes nothing.
    pub fn fold(&mut self, end: &JobEnd) -> FollowUp {
        let Some((job, state)) = self.jobs.get_mut(&end.ordinal) else {
            return FollowUp::default();
        };
        if matches!(state, State::Ended(_)) || job.issue != end.issue {
            return FollowUp::default();
        }
        let passing =
            end.reason.as_deref().and_then(Failure::from_column).is_some_and(Failure::is_transient);
        if end.state == EndState::Failed && passing && job.issue < MAX_ISSUES {
            job.issue += 1;
            *state = State::Planned;
            return FollowUp { new: Vec::new(), again: Some(job.clone()) };
        }
        *state = State::Ended(end.state);
        self.counts.ended += 1;
        self.counts.ads += u64::from(end.ads);
        let Some(market_id) = market_id(&job.work) else {
            return FollowUp::default();
        };
        // A total on a page without ads means nothing: past the end it is 0.
        let total = end.declared_total.filter(|_| end.state == EndState::Done);
        let new = self.extend(market_id, total);
        self.page_ended(market_id, end.state);
        FollowUp { new, again: None }
    }

    fn page_ended(&mut self, market_id: i32, state: EndState) {
        let Some(book) = self.books.get_mut(&market_id) else { return };
        book.open -= 1;
        book.is_cut |= matches!(state, EndState::Failed | EndState::Expired);
        let may_have_moved = book.planned > 1 && !book.is_cut;
        if book.open == 0 && may_have_moved && book.rounds() < MAX_REREAD_ROUNDS {
            self.unchecked.insert(market_id);
        }
    }

    /// Books to be looked through for drift.
    #[must_use]
    pub fn unchecked(&self) -> Vec<i32> {
        self.unchecked.iter().copied().collect()
    }

    /// The look through `markets` is done: `moved` are the pages to be read again, by market. Gives
    /// their jobs.
    pub fn reread(&mut self, markets: &[i32], moved: &[(i32, u32)]) -> Vec<LedgerJob> {
        for market_id in markets {
            self.unchecked.remove(market_id);
        }
        let mut new = Vec::with_capacity(moved.len());
        for (market_id, page) in moved {
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
        let (Some(total), Some(book)) = (total, self.books.get_mut(&market_id)) else {
            return Vec::new();
        };
        book.total = book.total.max(Some(total));
        let pages = page_count(book.total.unwrap_or(0), SEARCH_ROWS);
        if pages > MAX_PAGES_PER_BOOK {
            tracing::error!(market = %book.market, pages, "a book declares more pages than are ever read");
        }
        let (first, market) = (book.planned + 1, book.market.clone());
        let mut new = Vec::new();
        for page in first..=pages.min(MAX_PAGES_PER_BOOK) {
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

    /// Jobs to be published, in plan order.
    #[must_use]
    pub fn unpublished(&self) -> Vec<LedgerJob> {
        let planned = self.jobs.values().filter(|(_, state)| *state == State::Planned);
        planned.map(|(job, _)| job.clone()).collect()
    }

    pub fn mark_published(&mut self, ordinals: &[u32]) {
        for ordinal in ordinals {
            if let Some((_, state @ State::Planned)) = self.jobs.get_mut(ordinal) {
                *state = State::Published;
            }
        }
    }

    /// Everything that is out is to be published again: the messages may be lost.
    pub fn mark_lost(&mut self) {
        for (_, state) in self.jobs.values_mut() {
            if *state == State::Published {
                *state = State::Planned;
            }
        }
    }

    /// Ordinals of the jobs that have not ended.
    #[must_use]
    pub fn open(&self) -> Vec<u32> {
        let is_open = |state: &State| !matches!(state, State::Ended(_));
        self.jobs
            .iter()
            .filter(|(_, (_, state))| is_open(state))
            .map(|(ordinal, _)| *ordinal)
            .collect()
    }

    /// Whether every job has ended and every book was looked through.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.counts.ended == self.counts.jobs && self.unchecked.is_empty()
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
    use shared::job::EMPTY_NO_ADS;

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
        }
    }

    fn ledger(pages: u32) -> Ledger {
        let mut ledger = Ledger::default();
        for n in 1..=pages {
            ledger.add(page(n - 1, n), true);
        }
        ledger
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
        assert_eq!(ledger.unpublished().len(), 1);
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
        assert_eq!(ledger.fold(&done(0, u32::MAX)).new.len(), 499);
    }

    #[test]
    fn what_was_lost_is_published_again() {
        let mut ledger = ledger(2);
        ledger.fold(&done(0, 40));
        assert_eq!(ledger.unpublished(), []);
        ledger.mark_lost();
        assert_eq!(pages(&ledger.unpublished()), [2]);
    }
}
