//! What is ordinary in a market, and what a fall means: whether the market shrank, we failed, or the
//! reading is to be confirmed before it is believed. Pure; [`crate::store::quality`] gathers and writes.

use std::collections::HashMap;

use rust_decimal::{Decimal, dec};

/// Cycles that a market must have been read before anything is concluded.
pub const MIN_CYCLES: usize = 5;
/// Cycles whose median is ordinary: what moved and stays is ordinary after five of them, and a single
/// spike never is.
pub const RECENT_CYCLES: usize = 9;
/// Ads below which nothing is concluded: of three ads two go every day, and one nonsense price is a
/// third of the median.
pub const MIN_ADS: Decimal = dec!(10);
/// Others of a fiat, an asset or the exchange that must be judged before they are evidence.
pub const MIN_NEIGHBOURS: usize = 3;
/// A fall within moments to less than this share is beyond belief, whatever the neighbours do.
pub const BEYOND_BELIEF: Decimal = dec!(0.9);
/// Readings that must confirm a market that fell alone, and ...
const CONFIRM_ALONE: i16 = 1;
/// ... one that fell with its neighbours: an exchange or a firewall that serves cut books does so for
/// a while, and three cycles are long enough to be noticed and too short to hold back the truth.
const CONFIRM_TOGETHER: i16 = 3;

/// From where on a check is no longer good. Shares of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Least part of the declared pages and ads that must be read.
    pub completeness: Decimal,
    /// Largest deviation of a median price from the last cycles.
    pub price_anomaly: Decimal,
    /// Largest drop of ads or stock.
    pub volume_drop: Decimal,
}

/// What the certificate says of a book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Every page was read.
    Whole,
    /// Pages lost or left out; `ads` of the book are not all.
    Lacking,
    /// Ads were listed and every one was refused, or no page could be read.
    Nothing,
}

/// What a market ordinarily has. Ads and stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    pub ads: Decimal,
    pub amount: Decimal,
}

/// What was learned of a market that was read often enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Median of the ads of the last cycles.
    pub recent_ads: Decimal,
    /// Mean of the last 24 hours.
    pub day: Level,
    /// This hour of the week; `None`: not known from an earlier week.
    pub hour: Option<Level>,
}

/// One market in one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub fiat_id: i32,
    pub crypto_id: i32,
    pub certificate: Certificate,
    /// Whether requests of its pages met errors, also such that a further try got over.
    pub met_errors: bool,
    /// Whether the exchange still offers it.
    pub is_listed: bool,
    /// As read.
    pub seen: Level,
    /// Ads that the exchange declares and a whole book lacks: refused, or by its own estimate out of sight.
    pub lacking_ads: Decimal,
    /// `None`: nothing can be concluded yet.
    pub baseline: Option<Baseline>,
    /// Suspect readings in a row before this one.
    pub suspicions: i16,
}

/// What a reading means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Too few cycles, or too few ads, to say.
    Unknown,
    Steady,
    /// The market is smaller: the reading is shown.
    MarketShrank,
    /// What is missing is what we could not read or take: the last good state stays.
    WeFailed,
    /// Too much at once: the last good state stays until further readings confirm it.
    Suspect,
}

impl Class {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Steady => "steady",
            Self::MarketShrank => "market_shrank",
            Self::WeFailed => "we_failed",
            Self::Suspect => "suspect",
        }
    }
}

/// What is found of one market.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    pub class: Class,
    /// Share of 1 by which ads or stock, whichever fell more, are below what is ordinary. `None`:
    /// nothing is ordinary yet, or nothing was read.
    pub drop: Option<Decimal>,
    /// Whether half of its neighbours fell at the same moment.
    pub fell_together: bool,
    /// Whether it was suspect before and is believed now.
    pub is_confirmed: bool,
}

/// What each of the markets of a batch means, in their order.
#[must_use]
pub fn judge(readings: &[Reading], volume_drop: Decimal) -> Vec<Finding> {
    let falls: Vec<Option<Fall>> = readings.iter().map(fall).collect();
    let stepped: Vec<Option<bool>> =
        falls.iter().map(|fall| fall.as_ref().map(|fall| fall.step > volume_drop)).collect();
    let neighbours = Neighbours::count(readings, &stepped);
    readings
        .iter()
        .zip(&falls)
        .zip(&stepped)
        .map(|((reading, fall), stepped)| {
            let together = neighbours.fell_with(reading, *stepped);
            finding(reading, fall.as_ref(), together, volume_drop)
        })
        .collect()
}

/// By how much a market is below what is ordinary; 0: not at all.
struct Fall {
    /// Of ads or stock, against the last 24 hours.
    drop: Decimal,
    /// Of ads, against the last cycles.
    step: Decimal,
}

impl Fall {
    fn is_ordinary(&self, volume_drop: Decimal) -> bool {
        self.drop.max(self.step) <= volume_drop
    }
}

/// `None`: nothing can be concluded.
fn fall(reading: &Reading) -> Option<Fall> {
    fall_to(reading.seen.ads, Some(reading.seen.amount), reading)
}

/// The fall of the reading if it had seen what it lacks as well: ads like the others. Where there are no others, their
/// number alone tells.
fn fall_without_lacking(reading: &Reading) -> Option<Fall> {
    let Level { ads, amount } = reading.seen;
    let declared = ads + reading.lacking_ads;
    let amount =
        declared.checked_div(ads).map(|ratio| amount.checked_mul(ratio).unwrap_or(Decimal::MAX));
    fall_to(declared, amount, reading)
}

/// This hour of the week excuses what it ordinarily brings.
fn fall_to(seen_ads: Decimal, seen_amount: Option<Decimal>, reading: &Reading) -> Option<Fall> {
    let baseline = reading.baseline.as_ref()?;
    let Baseline { recent_ads, day, hour } = baseline;
    if (*recent_ads).max(day.ads) < MIN_ADS || reading.certificate == Certificate::Nothing {
        return None;
    }
    let excused = |ordinary: Decimal, at_this_hour: Option<Decimal>| {
        at_this_hour.map_or(ordinary, |hour| ordinary.min(hour))
    };
    let (hour_ads, hour_amount) = (hour.map(|hour| hour.ads), hour.map(|hour| hour.amount));
    let ads = below(seen_ads, excused(day.ads, hour_ads));
    let amount = seen_amount.map(|seen| below(seen, excused(day.amount, hour_amount)));
    let amount = amount.unwrap_or_default();
    let step = below(seen_ads, excused(*recent_ads, hour_ads));
    Some(Fall { drop: ads.max(amount), step })
}

/// Share of 1 by which `seen` is below `ordinary`.
fn below(seen: Decimal, ordinary: Decimal) -> Decimal {
    let share = seen.checked_div(ordinary).unwrap_or(Decimal::ONE);
    (Decimal::ONE - share).max(Decimal::ZERO)
}

fn finding(
    reading: &Reading,
    fall: Option<&Fall>,
    fell_together: bool,
    volume_drop: Decimal,
) -> Finding {
    let of = |class| Finding {
        class,
        drop: fall.map(|fall| fall.drop.max(Decimal::ZERO)),
        fell_together,
        is_confirmed: false,
    };
    if reading.certificate == Certificate::Nothing {
        return of(Class::WeFailed);
    }
    let Some(fall) = fall else {
        return of(Class::Unknown);
    };
    if fall.is_ordinary(volume_drop) {
        return of(Class::Steady);
    }
    // What the exchange declares and we lack is no fall of the market, if it makes up for what is missing.
    let would_be = fall_without_lacking(reading);
    if reading.certificate == Certificate::Lacking
        || would_be.is_some_and(|would_be| would_be.is_ordinary(volume_drop))
    {
        return of(Class::WeFailed);
    }
    let has_stepped = fall.step > volume_drop;
    let is_doubtful = fell_together || reading.met_errors || fall.step >= BEYOND_BELIEF;
    // A list that no longer names the market says the same as its book.
    if !has_stepped || !is_doubtful || !reading.is_listed {
        return of(Class::MarketShrank);
    }
    let needed = if fell_together { CONFIRM_TOGETHER } else { CONFIRM_ALONE };
    if reading.suspicions < needed {
        return of(Class::Suspect);
    }
    Finding { is_confirmed: true, ..of(Class::MarketShrank) }
}

/// How many markets were judged, and how many of them stepped down.
#[derive(Clone, Copy, Default)]
struct Count {
    judged: usize,
    stepped: usize,
}

impl Count {
    fn add(&mut self, stepped: bool) {
        self.judged += 1;
        self.stepped += usize::from(stepped);
    }

    /// Whether half of the others stepped, one that stepped itself left out.
    fn others_fell(self) -> bool {
        let (judged, stepped) = (self.judged.saturating_sub(1), self.stepped.saturating_sub(1));
        judged >= MIN_NEIGHBOURS && stepped * 2 >= judged
    }
}

struct Neighbours {
    exchange: Count,
    fiats: HashMap<i32, Count>,
    assets: HashMap<i32, Count>,
}

impl Neighbours {
    fn count(readings: &[Reading], stepped: &[Option<bool>]) -> Self {
        let mut all =
            Self { exchange: Count::default(), fiats: HashMap::new(), assets: HashMap::new() };
        for (reading, stepped) in readings.iter().zip(stepped) {
            if let Some(stepped) = *stepped {
                all.exchange.add(stepped);
                all.fiats.entry(reading.fiat_id).or_default().add(stepped);
                all.assets.entry(reading.crypto_id).or_default().add(stepped);
            }
        }
        all
    }

    fn fell_with(&self, reading: &Reading, stepped: Option<bool>) -> bool {
        let of = |counts: &HashMap<i32, Count>, id| counts.get(&id).copied().unwrap_or_default();
        stepped == Some(true)
            && [
                self.exchange,
                of(&self.fiats, reading.fiat_id),
                of(&self.assets, reading.crypto_id),
            ]
            .into_iter()
            .any(Count::others_fell)
    }
}

/// By how much a price deviates from the median of the last cycles, share of 1. `None`: too few cycles.
#[must_use]
pub fn deviation(price: Decimal, recent: &[Decimal]) -> Option<Decimal> {
    if recent.len() < MIN_CYCLES {
        return None;
    }
    let ratio = price.checked_div(median(recent)?)?;
    Some((ratio - Decimal::ONE).abs())
}

/// The middle one, or the mean of the two in the middle. `None`: there are none.
#[must_use]
pub fn median(numbers: &[Decimal]) -> Option<Decimal> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let upper = sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(*upper);
    }
    let lower = sorted.get(sorted.len() / 2 - 1)?;
    // Not half of the sum, which may not fit.
    lower.checked_add(upper.checked_sub(*lower)?.checked_div(Decimal::TWO)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DROP: Decimal = dec!(0.5);

    fn level(ads: i64, amount: i64) -> Level {
        Level { ads: ads.into(), amount: amount.into() }
    }

    /// A market of 100 ads and a stock of 1,000, of a fiat and an asset of its own.
    fn reading(number: i32, ads: i64, amount: i64) -> Reading {
        Reading {
            fiat_id: number,
            crypto_id: number,
            certificate: Certificate::Whole,
            met_errors: false,
            is_listed: true,
            seen: level(ads, amount),
            lacking_ads: Decimal::ZERO,
            baseline: Some(Baseline { recent_ads: dec!(100), day: level(100, 1000), hour: None }),
            suspicions: 0,
        }
    }

    /// The class of a reading among ten quiet markets.
    fn alone(reading: Reading) -> Class {
        let mut all = vec![reading];
        all.extend((1000..1010).map(|number| self::reading(number, 100, 1000)));
        judge(&all, DROP)[0].class
    }

    #[test]
    fn what_a_fall_means_by_its_evidence() {
        let whole = |ads, amount| reading(1, ads, amount);
        let lacking = Reading { certificate: Certificate::Lacking, ..whole(40, 400) };
        let nothing = Reading { certificate: Certificate::Nothing, ..whole(0, 0) };
        let errors = Reading { met_errors: true, ..whole(40, 400) };
        let gone = Reading { is_listed: false, ..whole(0, 0) };
        let declaring =
            |ads, lacking: i64| Reading { lacking_ads: lacking.into(), ..whole(ads, ads * 10) };
        let table = [
            ("as ever", whole(95, 900), Class::Steady),
            ("half is not more than half", whole(50, 500), Class::Steady),
            ("it halved", whole(45, 500), Class::MarketShrank),
            ("its stock halved", whole(95, 450), Class::MarketShrank),
            ("less, and pages are missing", lacking.clone(), Class::WeFailed),
            ("whole but for some ads", Reading { seen: level(97, 970), ..lacking }, Class::Steady),
            ("the rest came empty", declaring(20, 130), Class::WeFailed),
            ("all of it came empty", declaring(0, 100), Class::WeFailed),
            ("nothing came of the little that is left", declaring(0, 3), Class::Suspect),
            ("ads were refused", declaring(40, 30), Class::WeFailed),
            ("it halved, and an ad was refused", declaring(45, 1), Class::MarketShrank),
            ("fell beyond belief, and declares no more", declaring(5, 3), Class::Suspect),
            ("an untrue total", declaring(95, 500), Class::Steady),
            ("nothing was read", nothing.clone(), Class::WeFailed),
            ("nothing, and nothing known", Reading { baseline: None, ..nothing }, Class::WeFailed),
            ("less after errors", errors.clone(), Class::Suspect),
            ("errors and no fall", Reading { seen: level(95, 900), ..errors }, Class::Steady),
            ("beyond belief", whole(10, 100), Class::Suspect),
            ("empty", whole(0, 0), Class::Suspect),
            ("empty and delisted", gone, Class::MarketShrank),
            ("confirmed", Reading { suspicions: 1, ..whole(10, 100) }, Class::MarketShrank),
            ("back again", Reading { suspicions: 1, ..whole(99, 990) }, Class::Steady),
            ("never read", Reading { baseline: None, ..whole(10, 10) }, Class::Unknown),
        ];
        for (what, reading, class) in table {
            assert_eq!(alone(reading), class, "{what}");
        }
        let small = Baseline { recent_ads: dec!(9), day: level(9, 90), hour: None };
        assert_eq!(alone(Reading { baseline: Some(small), ..whole(1, 1) }), Class::Unknown);
    }

    #[test]
    fn a_night_is_no_fall() {
        let night =
            Baseline { recent_ads: dec!(60), day: level(100, 1000), hour: Some(level(40, 400)) };
        let at_night =
            |ads, amount| Reading { baseline: Some(night.clone()), ..reading(1, ads, amount) };
        assert_eq!(alone(at_night(38, 380)), Class::Steady);
        assert_eq!(alone(at_night(19, 190)), Class::MarketShrank);
        // Before a week is known, a night is a fall that is told and shown: it comes slowly.
        let first = Baseline { hour: None, ..night.clone() };
        assert_eq!(
            alone(Reading { baseline: Some(first), ..reading(1, 38, 380) }),
            Class::MarketShrank
        );
    }

    #[test]
    fn who_falls_with_all_the_others_is_not_believed_at_once() {
        let cut = |number| Reading { fiat_id: 1, crypto_id: number, ..reading(number, 20, 200) };
        let mut all: Vec<Reading> = (0..4).map(cut).collect();
        all.extend((1000..1010).map(|number| reading(number, 100, 1000)));
        for suspicions in 0..=3 {
            all[..4].iter_mut().for_each(|reading| reading.suspicions = suspicions);
            let found = judge(&all, DROP);
            let class = if suspicions < 3 { Class::Suspect } else { Class::MarketShrank };
            assert!(found[..4].iter().all(|found| found.class == class), "{suspicions}: {found:?}");
            assert!(found[4..].iter().all(|found| found.class == Class::Steady));
        }
        // Three of a fiat are too few to be evidence for each other.
        assert_eq!(judge(&all[1..], DROP)[0].class, Class::MarketShrank);
    }

    #[test]
    fn a_spike_is_an_anomaly_and_a_step_becomes_ordinary() {
        let mut recent = vec![dec!(100); RECENT_CYCLES];
        let mut see = |price: Decimal| {
            let found = deviation(price, &recent).unwrap();
            recent.remove(0);
            recent.push(price);
            found
        };
        assert_eq!(see(dec!(130)), dec!(0.3));
        assert_eq!(see(dec!(100)), Decimal::ZERO);
        let after: Vec<Decimal> = (0..6).map(|_| see(dec!(130))).collect();
        assert_eq!(after[..4], [dec!(0.3); 4]);
        assert_eq!(after[5], Decimal::ZERO);
        assert_eq!(deviation(dec!(130), &[dec!(100); MIN_CYCLES - 1]), None);
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[dec!(3), dec!(1), dec!(2)]), Some(dec!(2)));
        assert_eq!(median(&[dec!(4), dec!(1), dec!(2), dec!(3)]), Some(dec!(2.5)));
        assert_eq!(median(&[Decimal::MAX, Decimal::MAX]), Some(Decimal::MAX));
    }

    fn any_reading() -> impl Strategy<Value = Reading> {
        let baseline = prop::option::of((0_i64..200, 0_i64..200, prop::option::of(0_i64..200)));
        let certificate = prop_oneof![
            Just(Certificate::Whole),
            Just(Certificate::Lacking),
            Just(Certificate::Nothing)
        ];
        let facts =
            (0_i32..3, 0_i32..3, any::<bool>(), any::<bool>(), 0_i16..5, 0_i64..200, 0_i64..100);
        (certificate, facts, baseline).prop_map(|(certificate, facts, baseline)| {
            let (fiat_id, crypto_id, met_errors, is_listed, suspicions, ads, lacking) = facts;
            let baseline = baseline.map(|(recent, day, hour)| Baseline {
                recent_ads: recent.into(),
                day: level(day, day * 10),
                hour: hour.map(|hour| level(hour, hour * 10)),
            });
            let seen = level(ads, ads * 10);
            Reading {
                fiat_id,
                crypto_id,
                certificate,
                met_errors,
                is_listed,
                seen,
                // Half of them lack nothing.
                lacking_ads: (lacking - 50).max(0).into(),
                baseline,
                suspicions,
            }
        })
    }

    proptest! {
        /// Whatever all of them do: a whole reading is believed after at most three others, one that
        /// did not fall is never held, and nothing unread passes for a small market.
        #[test]
        fn nothing_is_held_for_ever(mut all in prop::collection::vec(any_reading(), 0..30)) {
            for (reading, found) in all.iter().zip(judge(&all, DROP)) {
                match found.class {
                    Class::Suspect => {
                        prop_assert_eq!(reading.certificate, Certificate::Whole);
                        prop_assert!(reading.is_listed && reading.suspicions < CONFIRM_TOGETHER);
                    }
                    Class::MarketShrank => {
                        prop_assert_eq!(reading.certificate, Certificate::Whole);
                        prop_assert!(reading.baseline.is_some());
                    }
                    Class::Steady => prop_assert!(found.drop.unwrap() <= DROP),
                    Class::WeFailed => prop_assert!(
                        reading.certificate != Certificate::Whole || !reading.lacking_ads.is_zero()
                    ),
                    Class::Unknown => {}
                }
            }
            for reading in &mut all {
                reading.suspicions = CONFIRM_TOGETHER;
            }
            prop_assert!(judge(&all, DROP).iter().all(|found| found.class != Class::Suspect));
        }

        /// Fewer ads never make a market look better.
        #[test]
        fn a_larger_fall_is_no_smaller_drop(ads in 1_i64..200, fewer in 0_i64..200) {
            let drop = |ads| judge(&[reading(1, ads, 1000)], DROP)[0].drop.unwrap();
            prop_assert!(drop(ads.min(fewer)) >= drop(ads.max(fewer)));
        }
    }
}
