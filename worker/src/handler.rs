//! The step: one job to its ending. Knows no broker and stores nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use shared::domain::{Ad, MAX_ADS_PER_PAGE, Refusal, Rule, Warning, page_count};
use shared::exchange::binance::{self, AnswerError, SEARCH_ROWS};
use shared::exchange::shape::Finding;
use shared::job::{
    EMPTY_BEYOND_LAST_PAGE, EMPTY_NO_ADS, EXPIRED_DEADLINE, EndState, Failure, Job, JobEnd, Listed,
    Report, Work,
};
use shared::store::{ANSWER_LIMIT, within};
use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::alerts::Alerts;
use crate::client::{Answer, Client, FetchError};
use crate::metrics;
use crate::rate_limit::{Class, Limiter, NoPermit, Permit};
use crate::settings::Settings;
use crate::store::archive::{Archive, RawAnswer};
use crate::store::jobs::{JobRow, LookUps};
use crate::store::versions::ad_key;

/// What became of a delivery.
#[derive(Debug)]
pub enum Outcome {
    /// The job ended here; its ending is to be stored.
    Ended(Box<Ending>),
    /// It ended elsewhere; only the report is sent again.
    EndedBefore(Report, Requests),
    /// There is nothing to do: the ledger does not know the job, or a later issue of it is out.
    Discarded(&'static str, Requests),
    /// The worker is shutting down and leaves the job to others.
    Released(Requests),
}

impl Outcome {
    /// Bytes of the answer that is to be stored.
    #[must_use]
    pub fn answer_bytes(&self) -> usize {
        match self {
            Self::Ended(ending) => ending.answer.as_ref().map_or(0, RawAnswer::total_bytes),
            _ => 0,
        }
    }
}

/// How a job ended, with everything that is to be stored with it.
#[derive(Debug)]
pub struct Ending {
    pub state: EndState,
    /// Class of the error, or why it is empty.
    pub reason: Option<&'static str>,
    pub detail: Option<String>,
    pub requests: Requests,
    pub facts: Facts,
    /// The answer that ended it, to be archived; the body of a failed job's goes into quarantine too.
    /// `None`: no complete one came, or the job ended without a request.
    pub answer: Option<RawAnswer>,
    /// How the answer's shape differs from what is known.
    pub findings: Vec<Finding>,
}

/// The requests of a job, as the ledger keeps them.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Requests sent.
    pub attempts: u16,
    /// Status of the last answer.
    pub http_status: Option<u16>,
    /// When the last request was sent.
    pub requested_at: Option<DateTime<Utc>>,
    /// When the last complete answer had arrived.
    pub fetched_at: Option<DateTime<Utc>>,
    /// Classes of the errors that were met, in order, also of those after which it went well; at most
    /// [`MAX_NOTED_ERRORS`].
    pub errors: Vec<&'static str>,
}

/// What an answer told.
#[derive(Debug)]
pub enum Facts {
    None,
    Page(binance::Page),
    /// A page without ads, whose answer declares some.
    Declared(u32),
    FiatList(Vec<binance::FiatListed>),
    Assets(binance::AssetLists),
    PaymentMethods(Vec<shared::domain::PaymentMethod>),
    Advertiser(Box<binance::AdvertiserPage>),
    WitnessAds(binance::WitnessAds),
    WitnessQuote(Decimal),
}

impl Facts {
    /// Rules that ads of the answer break, with how many ads do; fatal ones are of those refused.
    pub fn broken_rules(&self) -> impl Iterator<Item = (Rule, usize)> {
        let mut counts: BTreeMap<Rule, usize> = BTreeMap::new();
        let mut refused = |refusals: &[Refusal]| {
            for refusal in refusals {
                *counts.entry(refusal.reason).or_default() += 1;
            }
        };
        match self {
            Facts::Page(page) => refused(&page.refusals),
            Facts::Advertiser(page) => refused(&page.refusals),
            _ => {}
        }
        let mut warned = |warnings: &[Warning]| {
            let rules: BTreeSet<Rule> = warnings.iter().map(|warning| warning.rule).collect();
            for rule in rules {
                *counts.entry(rule).or_default() += 1;
            }
        };
        match self {
            Facts::Page(page) => {
                page.ads.iter().for_each(|ad| warned(&ad.warnings));
                // Each of these is of another ad.
                page.warnings.chunks(1).for_each(&mut warned);
            }
            Facts::Advertiser(page) => {
                page.ads.iter().for_each(|(_, ad)| warned(&ad.warnings));
                warned(&page.warnings);
            }
            _ => {}
        }
        counts.into_iter()
    }
}

impl Ending {
    /// An ending without facts.
    fn without_facts(requests: Requests, state: EndState, reason: &'static str) -> Self {
        let reason = Some(reason);
        let (facts, findings) = (Facts::None, Vec::new());
        Self { state, reason, detail: None, requests, facts, answer: None, findings }
    }

    fn failed(
        requests: Requests,
        failure: Failure,
        detail: String,
        answer: Option<RawAnswer>,
    ) -> Self {
        let failed = Self::without_facts(requests, EndState::Failed, failure.as_str());
        Self { detail: Some(detail), answer, ..failed }
    }

    /// A failed ending in the place of this one, for what could not be stored as it was.
    #[must_use]
    pub fn into_failed(self, failure: Failure, detail: String) -> Self {
        Self::failed(self.requests, failure, detail, self.answer)
    }

    /// Ads of the whole book, as the answer declares them; of a page without ads only if there should be some.
    #[must_use]
    pub fn declared_total(&self) -> Option<u32> {
        match &self.facts {
            Facts::Page(page) => page.total,
            Facts::Declared(total) => Some(*total),
            _ => None,
        }
    }

    /// Rules that ads of the answer break ([`Facts::broken_rules`]).
    pub fn broken_rules(&self) -> impl Iterator<Item = (Rule, usize)> {
        self.facts.broken_rules()
    }

    /// The acknowledgement of the job.
    #[must_use]
    pub fn report(&self, job: &Job) -> Report {
        let (ads, listed) = match &self.facts {
            Facts::Page(page) => (count(page.ads.len()), listed(page)),
            _ => (0, None),
        };
        let end = JobEnd {
            ordinal: job.ordinal,
            issue: job.issue,
            state: self.state,
            reason: self.reason.map(str::to_owned),
            declared_total: self.declared_total(),
            ads,
            listed,
        };
        Report::new(job.batch_id, end)
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The ads of a page as its report names them; `None`: it has none.
fn listed(page: &binance::Page) -> Option<Listed> {
    // Half of a hash is enough to tell the ads of a book apart.
    let key = |ad: &Ad| (ad_key(&ad.adv_no) >> 32) as u32;
    let promoted = page.ads.iter().position(|ad| ad.is_promoted);
    let ordinary = page.ads.iter().enumerate().filter(|(index, _)| Some(*index) != promoted);
    (!page.ads.is_empty()).then(|| Listed {
        ordinary: ordinary.map(|(_, ad)| key(ad)).collect(),
        promoted: promoted.map(|index| key(&page.ads[index])),
        refused: count(page.refusals.len()),
    })
}

/// Status with which some calls send the exchange's own codes.
const BAD_REQUEST: u16 = 400;
/// First pause before a request is tried again; doubled each time, with jitter, up to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LAST_BACKOFF: Duration = Duration::from_secs(20);
/// Errors of one issue of a job that the ledger keeps. Only refusals come oftener, whose tries are
/// bounded by the deadline.
pub const MAX_NOTED_ERRORS: usize = 50;
/// A wait for a permit after which the job is looked up again before its request is sent.
const LONG_WAIT: Duration = Duration::from_secs(5);
/// Times an answer is asked for again before it is believed unreadable, or empty against expectation.
const MAX_REREADS: u32 = 1;
/// Clocks that differ by less are as good as the same.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
/// Pause before a page that is empty against expectation is asked for again. Mostly its book has become shorter, which
/// pages tell that are on their way to the database.
const EMPTY_PAUSE: Duration = Duration::from_millis(200);
/// In that pause, the time between looks whether they were stored.
const LOOK_FOR_END: Duration = Duration::from_millis(50);

/// Refusals of a job between which requests of others went well: then it is this request that is refused,
/// not its rate, and asking on would cut the rate of all.
const MAX_LONE_REFUSALS: u32 = 5;

pub struct Handler {
    look_ups: LookUps,
    limiter: Limiter,
    client: Client,
    archive: Archive,
    max_retries: u32,
    shutdown: CancellationToken,
    /// Answers that came, to any request of this worker but those to the witness, whose host is another.
    answers: AtomicU64,
    alerts: Alerts,
}

/// How often each kind of trouble was met, and what it allows.
struct Patience {
    backoff: backon::ExponentialBackoff,
    /// Times that an answer may still be asked for again.
    rereads: u32,
    lone_refusals: u32,
    /// Answers that this worker had when the job was last refused.
    answers: u64,
}

impl Patience {
    /// What a job is given. The witness is asked once: a later answer would tell of another moment
    /// than its page, and each request more would be taken from the pages.
    fn with(work: &Work, max_retries: u32) -> Self {
        let (retries, rereads) =
            if work.is_witness() { (0, 0) } else { (max_retries, MAX_REREADS) };
        let retries = usize::try_from(retries).unwrap_or(usize::MAX);
        Self { backoff: backoff(retries), rereads, lone_refusals: 0, answers: u64::MAX }
    }

    /// The pause before an answer is asked for once more; `None`: it was.
    fn reread(&mut self) -> Option<Duration> {
        self.rereads = self.rereads.checked_sub(1)?;
        Some(FIRST_BACKOFF)
    }

    /// Notes a refusal, when the worker had so many answers.
    fn refused(&mut self, answers: u64) {
        self.lone_refusals += u32::from(answers > self.answers);
        self.answers = answers;
    }
}

impl Requests {
    /// Notes an error, and counts it.
    fn note(&mut self, job: &Job, failure: Failure) {
        metrics::failed(failure.as_str(), &job.work);
        if self.errors.len() < MAX_NOTED_ERRORS {
            self.errors.push(failure.as_str());
        }
    }
}

/// What to do after a request.
#[expect(clippy::large_enum_variant, reason = "there is one for a moment, and it mostly ends")]
enum Next {
    End(Ending),
    /// After a pause.
    TryAgain(Duration),
    /// The same; meanwhile it is looked whether the job became pointless.
    TryAgainIfNeeded(Duration),
}

impl Handler {
    #[must_use]
    pub fn new(
        settings: &Settings,
        pool: PgPool,
        limiter: Limiter,
        client: Client,
        archive: Archive,
        shutdown: CancellationToken,
    ) -> Self {
        let max_retries = settings.max_retries;
        let (answers, alerts) = (AtomicU64::new(0), Alerts::default());
        let look_ups = LookUps::new(pool);
        Self { look_ups, limiter, client, archive, max_retries, shutdown, answers, alerts }
    }

    /// Does one job. Never an error: whatever goes wrong is how the job ended.
    pub async fn run(&self, job: &Job, is_urgent: bool) -> Outcome {
        let class = match job.work {
            Work::PaymentMethods { .. } | Work::Advertiser { .. } => Class::Low,
            _ if is_urgent => Class::High,
            _ => Class::Normal,
        };
        let mut patience = Patience::with(&job.work, self.max_retries);
        let mut requests = Requests::default();
        loop {
            if let Some(outcome) = self.is_pointless(job, &requests).await {
                return outcome;
            }
            let permit = self.permit(job, class, &requests).instrument(permit_span(class)).await;
            let permit = match permit {
                Ok(permit) => permit,
                Err(outcome) => return outcome,
            };
            let (pause, look) = match self.request(job, permit, &mut requests, &mut patience).await
            {
                Next::End(ending) => return Outcome::Ended(Box::new(ending)),
                Next::TryAgain(pause) => (pause, pause),
                Next::TryAgainIfNeeded(pause) => (pause, LOOK_FOR_END),
            };
            if let Some(outcome) = self.pause(job, &requests, pause, look).await {
                return outcome;
            }
        }
    }

    /// Lets `pause` pass. What became of the job meanwhile, if anything: looked for after each `look` but the last, after
    /// which whoever goes on looks anyway.
    async fn pause(
        &self,
        job: &Job,
        requests: &Requests,
        pause: Duration,
        look: Duration,
    ) -> Option<Outcome> {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            tokio::select! {
                () = tokio::time::sleep(left.min(look)) => {}
                () = self.shutdown.cancelled() => return Some(Outcome::Released(requests.clone())),
            }
            if left <= look {
                return None;
            }
            if let Some(outcome) = self.is_pointless(job, requests).await {
                return Some(outcome);
            }
        }
    }

    /// The right to send a request for the job, or what became of the job meanwhile: in a long wait it
    /// may have been published again and done by another. Looked at before the limit gives a slot too,
    /// so that no slot goes to a job that is done.
    async fn permit(
        &self,
        job: &Job,
        class: Class,
        requests: &Requests,
    ) -> Result<Permit, Outcome> {
        let mut deadline = job.expires_at;
        loop {
            match self.permit_until(deadline, job, class, requests).await? {
                Ok(permit) => return Ok(permit),
                Err(NoPermit::Shutdown) => return Err(Outcome::Released(requests.clone())),
                Err(NoPermit::Deadline) => {
                    deadline = Utc::now() + self.left_by_ledger(job, requests).await?;
                }
            }
        }
    }

    async fn permit_until(
        &self,
        deadline: DateTime<Utc>,
        job: &Job,
        class: Class,
        requests: &Requests,
    ) -> Result<Result<Permit, NoPermit>, Outcome> {
        let since = Instant::now();
        let turn = match self.limiter.turn(class, deadline, &self.shutdown).await {
            Ok(turn) => turn,
            Err(why) => return Ok(Err(why)),
        };
        self.look_again(job, requests, since).await?;
        let since = Instant::now();
        let permit = turn.permit(deadline, &self.shutdown).await;
        if permit.is_ok() {
            self.look_again(job, requests, since).await?;
        }
        Ok(permit)
    }

    /// How long a job has that is over by this worker's clock, or what became of it. A clock that is ahead would
    /// otherwise end all that it can take at once, faster than others can read it.
    async fn left_by_ledger(&self, job: &Job, requests: &Requests) -> Result<TimeDelta, Outcome> {
        let row = self.row_of(job, requests).await?;
        if row.seconds_left <= 0.0 {
            let requests = requests.clone();
            let expired = Ending::without_facts(requests, EndState::Expired, EXPIRED_DEADLINE);
            return Err(Outcome::Ended(Box::new(expired)));
        }
        // Once: it would be told of every job.
        if row.seconds_left > CLOCK_TOLERANCE.as_secs_f64() && self.alerts.is_first("clock") {
            tracing::error!(
                seconds = row.seconds_left,
                "the clock of this worker is ahead of the database's by more than this: jobs seem over that are not, and what is read has wrong times"
            );
        }
        let left = Duration::try_from_secs_f64(row.seconds_left).unwrap_or(LAST_BACKOFF);
        Ok(TimeDelta::from_std(left).unwrap_or(TimeDelta::zero()))
    }

    /// An error if no request is to be sent any more for a job that waited long.
    async fn look_again(
        &self,
        job: &Job,
        requests: &Requests,
        since: Instant,
    ) -> Result<(), Outcome> {
        if since.elapsed() <= LONG_WAIT {
            return Ok(());
        }
        self.is_pointless(job, requests).await.map_or(Ok(()), Err)
    }

    /// Why no request is to be sent for the job, if so.
    async fn is_pointless(&self, job: &Job, requests: &Requests) -> Option<Outcome> {
        let row = match self.row_of(job, requests).await {
            Ok(row) => row,
            Err(outcome) => return Some(outcome),
        };
        if let Some(state) = row.end_state() {
            return Some(Outcome::EndedBefore(row.report(job, state), requests.clone()));
        }
        if row.issue > i32::from(job.issue) {
            return Some(Outcome::Discarded("a later issue of the job is out", requests.clone()));
        }
        if let (Work::Search { page, .. }, Some(total)) = (&job.work, row.book_total)
            && *page > page_count(total, SEARCH_ROWS)
        {
            let ending =
                Ending::without_facts(requests.clone(), EndState::Empty, EMPTY_BEYOND_LAST_PAGE);
            return Some(Outcome::Ended(Box::new(ending)));
        }
        None
    }

    /// The job's row, or what becomes of a job that has none.
    async fn row_of(&self, job: &Job, requests: &Requests) -> Result<JobRow, Outcome> {
        match self.look_up(job).await {
            Some(Ok(row)) => Ok(row),
            Some(Err(reason)) => Err(Outcome::Discarded(reason, requests.clone())),
            None => Err(Outcome::Released(requests.clone())),
        }
    }

    /// The job's row; `None` when shutting down. While the database is away this waits: what is
    /// fetched could not be stored anyway, and the jobs in hand are bounded.
    async fn look_up(&self, job: &Job) -> Option<Result<JobRow, &'static str>> {
        let mut backoff = backoff(usize::MAX);
        loop {
            match within(ANSWER_LIMIT, self.look_ups.find(job)).await {
                Ok(Some(row)) => return Some(Ok(row)),
                Ok(None) => return Some(Err("the ledger does not know the job")),
                Err(error) => {
                    tracing::error!(%error, "the job can't be looked up, trying again");
                    if Utc::now() >= job.expires_at {
                        return Some(Err("the batch is over"));
                    }
                    let pause = backoff.next().unwrap_or(LAST_BACKOFF);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.shutdown.cancelled() => return None,
                    }
                }
            }
        }
    }

    async fn request(
        &self,
        job: &Job,
        permit: Permit,
        requests: &mut Requests,
        patience: &mut Patience,
    ) -> Next {
        let requested_at = Utc::now();
        let fetched = self.client.fetch(permit, binance::request(&job.work)).await;
        if matches!(fetched, Err(FetchError::LatePermit)) {
            tracing::debug!("the permit came too late, asking for another");
            return Next::TryAgain(Duration::ZERO);
        }
        requests.attempts = requests.attempts.saturating_add(1);
        requests.requested_at = Some(requested_at);
        requests.http_status = match &fetched {
            Ok(_) => Some(200),
            Err(error) => error.status(),
        };
        match fetched {
            Ok(answer) => {
                if !job.work.is_witness() {
                    self.answers.fetch_add(1, Ordering::Relaxed);
                }
                requests.fetched_at = Some(answer.fetched_at);
                judge_answer(job, answer, requests, patience, &self.archive, &self.alerts)
            }
            Err(error) => {
                if let FetchError::RateLimited { .. } = error {
                    patience.refused(self.answers.load(Ordering::Relaxed));
                }
                judge_error(job, error, requests, patience, &self.archive)
            }
        }
    }
}

/// No answer. Refusals pause everybody and are bounded by the deadline, not by their count, unless it is
/// this job alone that is refused; what is no JSON is asked for once more; other passing errors are tried again a few times; the rest ends the job.
fn judge_error(
    job: &Job,
    error: FetchError,
    requests: &mut Requests,
    patience: &mut Patience,
    archive: &Archive,
) -> Next {
    let detail = error.to_string();
    let rejection = match &error {
        FetchError::Status { status: BAD_REQUEST, answer: Some(answer) } => {
            binance::rejection(answer.body())
        }
        _ => None,
    };
    let failure = rejection.as_ref().map_or_else(|| error.failure(), AnswerError::failure);
    requests.note(job, failure);
    let again = match &error {
        // The pause is in the limiter: the next permit comes after it.
        FetchError::RateLimited { .. } => {
            // One refused request more for what nothing waits for would slow the pages down.
            let is_worth_it = !job.work.is_aside()
                && !job.work.is_witness()
                && patience.lone_refusals < MAX_LONE_REFUSALS;
            is_worth_it.then_some(Duration::ZERO)
        }
        FetchError::CorruptBody(_) | FetchError::EmptyBody(_) | FetchError::NotJson { .. } => {
            patience.reread()
        }
        _ if failure.is_transient() => patience.backoff.next(),
        _ => None,
    };
    if let Some(pause) = again {
        tracing::warn!(error = detail, work = ?job.work, attempts = requests.attempts, "request failed, trying again");
        return Next::TryAgain(pause);
    }
    let detail = rejection.map_or(detail, |rejection| rejection.to_string());
    tracing::error!(error = detail, work = ?job.work, attempts = requests.attempts, "request failed, the job is given up");
    let answer = error.into_answer().map(|answer| archive.pack(&job.work, answer));
    Next::End(Ending::failed(requests.clone(), failure, detail, answer))
}

fn backoff(max_times: usize) -> backon::ExponentialBackoff {
    ExponentialBuilder::new()
        .with_jitter()
        .with_min_delay(FIRST_BACKOFF)
        .with_max_delay(LAST_BACKOFF)
        .with_max_times(max_times)
        .build()
}

/// A complete answer: what it told, or whether to ask again.
fn judge_answer(
    job: &Job,
    answer: Answer,
    requests: &mut Requests,
    patience: &mut Patience,
    archive: &Archive,
    alerts: &Alerts,
) -> Next {
    let (facts, findings) = read(job, answer.body());
    // What is said of a refusal has a shape of its own.
    let findings = match &facts {
        Err(AnswerError::Rejected { .. }) => Vec::new(),
        _ => findings,
    };
    match judge_facts(job, facts, answer, requests, patience, archive) {
        Next::End(ending) => {
            measure(job, &ending, alerts);
            Next::End(Ending { findings, ..ending })
        }
        again => again,
    }
}

/// Counts how an answer was read, and alerts where the lenient fallback was needed.
fn measure(job: &Job, ending: &Ending, alerts: &Alerts) {
    let (refused, leniencies) = match &ending.facts {
        Facts::Page(page) => (page.refusals.len(), &page.leniencies),
        Facts::Advertiser(page) => (page.refusals.len(), &page.leniencies),
        _ => return,
    };
    metrics::ads_refused(&job.work, refused);
    metrics::page_parsed(!leniencies.is_empty());
    for (rule, ads) in ending.broken_rules() {
        metrics::rule_broken(rule, ads);
    }
    for leniency in leniencies.iter().filter(|leniency| alerts.is_first(leniency)) {
        tracing::error!(field = leniency, work = ?job.work, "a field that is needed stands elsewhere or has another type, it is read leniently: see p2p shapes");
    }
}

/// What an answer told, or whether to ask again.
fn judge_facts(
    job: &Job,
    facts: Result<Facts, AnswerError>,
    answer: Answer,
    requests: &mut Requests,
    patience: &mut Patience,
    archive: &Archive,
) -> Next {
    match facts {
        Ok(Facts::Page(page)) if page.ads.len() + page.refusals.len() > MAX_ADS_PER_PAGE => {
            let ads = page.ads.len() + page.refusals.len();
            let detail = format!("the page lists {ads} ads, a page holds {MAX_ADS_PER_PAGE}");
            requests.note(job, Failure::OversizedPage);
            let answer = Some(archive.pack(&job.work, answer));
            Next::End(Ending::failed(requests.clone(), Failure::OversizedPage, detail, answer))
        }
        Ok(Facts::Page(page)) if page.ads.is_empty() && page.refusals.is_empty() => {
            // Where there were ads, or where the answer itself declares some, an empty page is suspect
            // and asked for once more, unless its book turns out to end before it meanwhile.
            let (declared, are_expected) = match job.work {
                Work::Search { ads_expected, page: number, .. } => {
                    (page.declared_without_ads(number), ads_expected)
                }
                _ => (None, false),
            };
            let is_suspect = are_expected || declared.is_some();
            if is_suspect && patience.reread().is_some() {
                return Next::TryAgainIfNeeded(EMPTY_PAUSE);
            }
            let empty = Ending::without_facts(requests.clone(), EndState::Empty, EMPTY_NO_ADS);
            let facts = declared.map_or(Facts::None, Facts::Declared);
            Next::End(Ending { facts, answer: Some(archive.pack(&job.work, answer)), ..empty })
        }
        Ok(facts) => {
            if let Facts::Advertiser(page) = &facts
                && !page.warnings.is_empty()
            {
                tracing::warn!(warnings = ?page.warnings, "fields of an advertiser's page were left out");
            }
            Next::End(Ending {
                state: EndState::Done,
                reason: None,
                detail: None,
                requests: requests.clone(),
                facts,
                answer: Some(archive.pack(&job.work, answer)),
                findings: Vec::new(),
            })
        }
        Err(error) => {
            requests.note(job, error.failure());
            if !error.is_permanent()
                && let Some(pause) = patience.reread()
            {
                tracing::warn!(%error, work = ?job.work, "unreadable answer, asking once more");
                return Next::TryAgain(pause);
            }
            tracing::error!(%error, work = ?job.work, "unreadable answer");
            let (failure, detail) = (error.failure(), error.to_string());
            let answer = Some(archive.pack(&job.work, answer));
            Next::End(Ending::failed(requests.clone(), failure, detail, answer))
        }
    }
}

/// The wait for the right to send a request.
fn permit_span(class: Class) -> Span {
    tracing::info_span!("permit", class = ?class)
}

/// What an answer tells, and how it differs from what is known.
fn read(job: &Job, body: &[u8]) -> (Result<Facts, AnswerError>, Vec<Finding>) {
    let _span = tracing::info_span!("parse", bytes = body.len()).entered();
    let facts = match &job.work {
        Work::Search { market, .. } => {
            let (page, findings) = binance::read_search(market, body);
            return (page.map(Facts::Page), findings);
        }
        Work::FiatList => binance::parse_fiat_list(body).map(Facts::FiatList),
        Work::Assets { .. } => binance::parse_assets(body).map(Facts::Assets),
        Work::PaymentMethods { .. } => {
            binance::parse_payment_methods(body).map(Facts::PaymentMethods)
        }
        Work::Advertiser { user_no, .. } => binance::parse_advertiser(Some(user_no), body)
            .map(|page| Facts::Advertiser(Box::new(page))),
        Work::WitnessAds { .. } => binance::parse_witness_ads(body).map(Facts::WitnessAds),
        Work::WitnessQuote { market, .. } => {
            binance::parse_witness_quote(&market.fiat, &market.asset, body).map(Facts::WitnessQuote)
        }
    };
    (facts, binance::findings(&job.work, body))
}
