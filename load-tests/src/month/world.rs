//! Days of readings out of a simulated market, as lines of `COPY`.

use std::collections::HashMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use chrono::{DateTime, Duration, NaiveDate, SecondsFormat, Utc};
use load_tests::market::{Ad, Event, Market, Rates, Spec, TICK_MS, Top, World, rng_for};
use rand::RngExt;
use shared::domain::{BatchId, offer_version_id};

/// Ads per page, as the worker asks for.
const ROWS: usize = 20;
/// Milliseconds between two pages: 1,900 pages in eight minutes.
const PAGE_MS: i64 = 250;
/// Markets without ads are probed once in so many batches.
const EMPTY_EVERY: u32 = 12;
/// Books that moved while they were read, and books that lost their last page, per 1,000.
const DRIFTED_PER_MILLE: u32 = 15;
const PARTIAL_PER_MILLE: u32 = 5;
/// Purpose of [`rng_for`].
const VERDICTS: u64 = 77;

/// Change rates of `api/binance-p2p.md` section 8 for full-depth books: in nine minutes about 2 % go and
/// as many come, 4.5 % of the rest change, 1.1 % of the advertisers' month figures; per 1,000 and minute.
const RATES: Rates = Rates { churn: 2, change: 5, month: 1, rename: 1, reword: 0 };

/// What a day adds to each table, as text of `COPY`.
#[derive(Default)]
pub(crate) struct Day {
    pub(crate) batches: String,
    pub(crate) versions: String,
    pub(crate) pages: String,
    pub(crate) books: String,
    pub(crate) advertisers: String,
    /// Ends of validity: `advertiser_sk`, instant.
    pub(crate) closed_advertisers: Vec<(i32, DateTime<Utc>)>,
    pub(crate) figures: String,
    pub(crate) readings: u64,
    pub(crate) batch_ids: Vec<BatchId>,
}

/// The content of an ad that was stored last.
#[derive(Clone, Copy)]
struct Stored {
    day: NaiveDate,
    revision: u64,
    advertiser_sk: i32,
    id: i32,
}

/// An advertiser in the database.
struct Known {
    advertiser_sk: i32,
    nick_name: String,
}

/// The market, and what of it is stored.
pub(crate) struct Generator {
    pub(crate) world: World,
    seed: u64,
    stored: HashMap<usize, Stored>,
    known: Vec<Known>,
    next_sk: i32,
    batches_made: u32,
}

impl Generator {
    #[must_use]
    pub(crate) fn new(seed: u64, ads: usize, fiats: usize) -> Self {
        let templates = vec![true, false, false, true, false];
        let spec = Spec { seed, fiats, assets: 14, ads, delisted: 0, templates, rates: RATES };
        Self {
            world: World::new(&spec),
            seed,
            stored: HashMap::new(),
            known: Vec::new(),
            next_sk: 1,
            batches_made: 0,
        }
    }

    /// The batches at `slots`, all of one day.
    pub(crate) fn day(&mut self, slots: &[DateTime<Utc>], number_from: u32) -> Result<Day> {
        let mut day = Day::default();
        for (number, slot) in (number_from..).zip(slots) {
            let batch = BatchId::new(slot.date_naive(), number)?;
            self.move_on(*slot, &mut day)?;
            self.batch(batch, *slot, &mut day)?;
            day.batch_ids.push(batch);
        }
        Ok(day)
    }

    /// Lets ten minutes pass.
    fn move_on(&mut self, at: DateTime<Utc>, day: &mut Day) -> Result<()> {
        if self.batches_made > 0 {
            let until = self.world.tick + 600_000 / TICK_MS;
            let mut moved = Vec::new();
            while let Some(event) = self.world.next_event(until) {
                if let Event::Advertiser(advertiser) = event {
                    moved.push(advertiser);
                }
            }
            moved.sort_unstable();
            moved.dedup();
            // Who has no ad on show is not seen.
            let known = self.known.len();
            let mut is_shown = vec![false; known];
            for ad in self.world.ads.iter().filter(|ad| ad.listed && ad.advertiser < known) {
                is_shown[ad.advertiser] = true;
            }
            for advertiser in moved.into_iter().filter(|at| is_shown.get(*at) == Some(&true)) {
                self.meet_again(advertiser, at, day)?;
            }
        }
        for advertiser in self.known.len()..self.world.advertisers.len() {
            let sk = self.write_version(advertiser, at, day)?;
            let nick_name = self.world.advertisers[advertiser].nick_name.clone();
            self.known.push(Known { advertiser_sk: sk, nick_name });
            self.write_figures(advertiser, at, day)?;
        }
        Ok(())
    }

    fn meet_again(&mut self, advertiser: usize, at: DateTime<Utc>, day: &mut Day) -> Result<()> {
        let nick_name = self.world.advertisers[advertiser].nick_name.clone();
        if nick_name != self.known[advertiser].nick_name {
            day.closed_advertisers.push((self.known[advertiser].advertiser_sk, at));
            let advertiser_sk = self.write_version(advertiser, at, day)?;
            self.known[advertiser] = Known { advertiser_sk, nick_name };
        }
        self.write_figures(advertiser, at, day)
    }

    /// A row of `dim_advertisers`, current until told otherwise.
    fn write_version(&mut self, at: usize, seen: DateTime<Utc>, day: &mut Day) -> Result<i32> {
        let advertiser = &self.world.advertisers[at];
        let sk = self.next_sk;
        self.next_sk += 1;
        let merchant = self.is_merchant(at);
        writeln!(
            day.advertisers,
            "{sk}\t{id}\t1\t{user_no}\t{nick}\t{kind}\t{merchant}\t{identity}\t2\tf\t{sk}\t{seen}\t\\N\tt\t{orders}\t{finish}\t{positive}\t{seen}",
            id = at + 1,
            user_no = advertiser.user_no,
            nick = escaped(&advertiser.nick_name),
            kind = if merchant { "merchant" } else { "user" },
            identity = if merchant { "MASS_MERCHANT" } else { "" },
            orders = advertiser.month_order_count,
            finish = advertiser.month_finish_rate,
            positive = advertiser.positive_rate,
            seen = instant(seen),
        )?;
        Ok(sk)
    }

    fn write_figures(&self, at: usize, seen: DateTime<Utc>, day: &mut Day) -> Result<()> {
        let advertiser = &self.world.advertisers[at];
        writeln!(
            day.figures,
            "{}\t{}\t{}\t{}\t{}",
            at + 1,
            instant(seen),
            advertiser.month_order_count,
            advertiser.month_finish_rate,
            advertiser.positive_rate
        )?;
        Ok(())
    }

    #[must_use]
    pub(crate) fn is_merchant(&self, advertiser: usize) -> bool {
        matches!(self.world.advertisers[advertiser].template, 0 | 3)
    }

    fn batch(&mut self, batch: BatchId, slot: DateTime<Utc>, day: &mut Day) -> Result<()> {
        let mut rng = rng_for(self.seed, VERDICTS, u64::from(batch.raw().unsigned_abs()));
        let probing = self.batches_made.is_multiple_of(EMPTY_EVERY);
        self.batches_made += 1;
        let opened = slot + Duration::seconds(1);
        let mut ordinal = 0_u32;
        let (mut ads, mut books, mut complete) = (0, 0, 0);
        for market in 0..self.world.markets.len() {
            let listed = self.world.markets[market].book.len();
            if listed == 0 && !probing {
                continue;
            }
            books += 1;
            let begun = opened + Duration::milliseconds(i64::from(ordinal) * PAGE_MS);
            let draw = rng.random_range(0..1_000);
            let pages = listed.div_ceil(ROWS);
            let lost = usize::from(draw < PARTIAL_PER_MILLE && pages > 1);
            let drifted = lost == 0 && draw < PARTIAL_PER_MILLE + DRIFTED_PER_MILLE && listed > 0;
            let mut ended = begun;
            for page in 0..pages - lost {
                ended = opened + Duration::milliseconds(i64::from(ordinal) * PAGE_MS);
                let place = Place { batch, ordinal, market, page, at: ended };
                day.readings += self.page(&place, day)?;
                ordinal += 1;
            }
            ordinal += u32::from(pages == 0);
            let read = listed.min((pages - lost) * ROWS);
            let verdict = match () {
                () if listed == 0 => "empty",
                () if lost > 0 => "partial",
                () if drifted => "drifted",
                () => "complete",
            };
            complete += u32::from(verdict == "complete" || verdict == "empty");
            ads += read;
            let total = if listed == 0 { "\\N".to_owned() } else { listed.to_string() };
            let last_total = if drifted { (listed + 1).to_string() } else { total.clone() };
            writeln!(
                day.books,
                "{}\t{}\t{}\t{verdict}\t{total}\t{last_total}\t{total}\t{last_total}\t{}\t{}\t{lost}\t0\t0\t{read}\t{read}\t0\t0\t{}\t{}\t{}\t{}",
                batch.day(),
                batch.raw(),
                market + 1,
                pages.max(1),
                (pages - lost).max(1),
                listed - read + usize::from(drifted),
                instant(begun),
                instant(ended),
                (ended - begun).num_milliseconds(),
            )?;
        }
        let closed = opened + Duration::milliseconds(i64::from(ordinal) * PAGE_MS + 1_000);
        writeln!(
            day.batches,
            "{}\t{}\t1\t{}\tschedule\tclosed\t{}\tmonth\t{}\t{}\t{}\t{}\t{books}\t{complete}\t{ads}",
            batch.raw(),
            batch.day(),
            instant(slot),
            if complete == books { "complete" } else { "partial" },
            instant(opened),
            instant(opened),
            instant(slot + Duration::seconds(480)),
            instant(closed),
        )?;
        Ok(())
    }

    /// A page and the versions it sees first; how many ads it lists.
    fn page(&mut self, place: &Place, day: &mut Day) -> Result<u64> {
        let market = &self.world.markets[place.market];
        let from = place.page * ROWS;
        let ordinary = &market.book[from..market.book.len().min(from + ROWS)];
        let promoted = if let (0, Top::Promoted(Some(ad))) = (place.page, market.top) {
            Some(ad)
        } else {
            None
        };
        let listed: Vec<usize> = promoted.into_iter().chain(ordinary.iter().copied()).collect();
        let mut ids = String::new();
        let mut minutes = String::new();
        for (position, &ad) in listed.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            write!(ids, "{comma}{}", self.version(place, position, ad, day)?)?;
            let advertiser = &self.world.advertisers[self.world.ads[ad].advertiser];
            match self.world.active_seconds(advertiser) {
                Some(seconds) => write!(minutes, "{comma}{}", (seconds / 60).min(32_767))?,
                None => write!(minutes, "{comma}NULL")?,
            }
        }
        writeln!(
            day.pages,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{{{ids}}}\t{{{minutes}}}\t{}\t{}",
            place.batch.day(),
            place.batch.raw(),
            place.market + 1,
            place.page + 1,
            place.ordinal,
            instant(place.at),
            self.world.markets[place.market].book.len(),
            if promoted.is_some() { "1" } else { "\\N" },
            // It comes again at its ordinary place.
            if promoted.is_some() { "{1}" } else { "\\N" },
        )?;
        Ok(listed.len() as u64)
    }

    /// The id of an ad's content on this day; a row if it is new.
    fn version(&mut self, place: &Place, position: usize, at: usize, day: &mut Day) -> Result<i32> {
        let ad = &self.world.ads[at];
        let advertiser_sk = self.known[ad.advertiser].advertiser_sk;
        let today = place.batch.day();
        if let Some(stored) = self.stored.get(&at)
            && (stored.day, stored.revision, stored.advertiser_sk)
                == (today, ad.revision, advertiser_sk)
        {
            return Ok(stored.id);
        }
        let id = offer_version_id(place.batch, place.ordinal, position);
        let market = &self.world.markets[place.market];
        write_ad(&mut day.versions, &self.world, place, market, ad, id, advertiser_sk)
            .context("to memory")?;
        let stored = Stored { day: today, revision: ad.revision, advertiser_sk, id };
        self.stored.insert(at, stored);
        Ok(id)
    }
}

/// Where and when a page is read.
struct Place {
    batch: BatchId,
    ordinal: u32,
    /// Index of the market; its id is one more.
    market: usize,
    /// From 0.
    page: usize,
    at: DateTime<Utc>,
}

/// Columns of `offer_versions` that [`write_ad`] fills.
pub(crate) const VERSION_COLUMNS: &str = "day, id, market_id, advertiser_sk, content_hash, first_seen_at, adv_no, price, \
    available_amount, tradable_quantity, min_limit, max_limit, dynamic_max_limit, min_quantity, max_quantity, \
    dynamic_max_quantity, pay_time_limit_minutes, payment_method_ids, classify, is_tradable, is_safe_payment, \
    taker_kyc_required, asset_scale, fiat_scale, price_scale";

fn write_ad(
    out: &mut String,
    world: &World,
    place: &Place,
    market: &Market,
    ad: &Ad,
    id: i32,
    advertiser_sk: i32,
) -> std::fmt::Result {
    let mut methods: Vec<usize> = ad.terms.methods.iter().map(|(method, _)| method + 1).collect();
    methods.sort_unstable();
    methods.dedup();
    let methods: Vec<String> = methods.iter().map(usize::to_string).collect();
    let hash =
        ad.number.rotate_left(17).wrapping_add(ad.revision.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    writeln!(
        out,
        "{}\t{id}\t{}\t{advertiser_sk}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{{{}}}\t{}\tt\tf\tf\t{}\t{}\t{}",
        place.batch.day(),
        place.market + 1,
        hash.cast_signed(),
        instant(place.at),
        ad.number,
        ad.terms.price,
        ad.terms.surplus,
        ad.derived.tradable,
        ad.terms.min,
        ad.terms.max,
        ad.derived.dynamic_max,
        ad.derived.min_quantity,
        ad.derived.max_quantity,
        ad.derived.dynamic_max_quantity,
        ad.terms.pay_time_limit.map_or_else(|| "\\N".to_owned(), |minutes| minutes.to_string()),
        methods.join(","),
        ad.terms.classify,
        world.catalog.assets[market.asset].scale,
        world.catalog.fiats[market.fiat].scale,
        market.price_scale,
    )
}

/// As `COPY` reads it.
fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Text of `COPY`: its separators escaped.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}
