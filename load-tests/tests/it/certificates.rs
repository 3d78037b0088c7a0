//! What certificates count, and what is marked on pages, counted again here from what the pages list.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use load_tests::fleet::Fleet;

/// Ties in another order at each second request: ads come on two pages, and pages are read again.
const SHUFFLED: &str = "--fiats 3 --ads 3000 --tie-shuffle-per-mille 500 --churn-per-minute 100";

/// A page as it was read once.
#[derive(Debug, sqlx::FromRow)]
struct Reading {
    market_id: i32,
    page: i16,
    ordinal: i32,
    fetched_at: DateTime<Utc>,
    promoted_position: Option<i16>,
    marked: Vec<i16>,
    adv_nos: Vec<String>,
}

#[derive(Debug, sqlx::FromRow)]
struct Certificate {
    market_id: i32,
    verdict: String,
    min_total: Option<i32>,
    max_total: Option<i32>,
    refused_ads: i32,
    span_ms: i32,
    listed_ads: i32,
    distinct_ads: i32,
    duplicate_ads: i32,
    estimated_missed: Option<i32>,
}

/// Where an ad stands. The least of an ad's places is the one that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    is_promoted: bool,
    /// The latest reading first.
    fetched_at: Reverse<DateTime<Utc>>,
    ordinal: Reverse<i32>,
    position: i16,
    page: i16,
    is_last: bool,
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap()
}

/// The places of each ad of a book, the one to keep first.
fn places(readings: &[&Reading]) -> BTreeMap<String, Vec<Place>> {
    let mut ads: BTreeMap<String, Vec<Place>> = BTreeMap::new();
    for reading in readings {
        let is_last =
            readings.iter().all(|r| r.page != reading.page || r.ordinal <= reading.ordinal);
        for (position, adv_no) in (1..).zip(&reading.adv_nos) {
            ads.entry(adv_no.clone()).or_default().push(Place {
                is_promoted: reading.promoted_position == Some(position),
                fetched_at: Reverse(reading.fetched_at),
                ordinal: Reverse(reading.ordinal),
                position,
                page: reading.page,
                is_last,
            });
        }
    }
    for places in ads.values_mut() {
        places.sort_unstable();
    }
    ads
}

/// An ad on top only may be counted by the total or not: it covers one that is missing, never more.
fn covered(all: usize, ordinary: usize, max_total: Option<i32>) -> i32 {
    let covers = all > ordinary && max_total.is_some_and(|total| number(ordinary) < total);
    number(ordinary) + i32::from(covers)
}

fn check(certificate: &Certificate, ads: &BTreeMap<String, Vec<Place>>) {
    let all = |is: fn(&Place) -> bool| ads.values().flatten().filter(|place| is(place)).count();
    let distinct = |is: fn(&Place) -> bool| ads.values().filter(|ad| ad.iter().any(is)).count();
    let ordinary = distinct(|place| !place.is_promoted);
    let last_ordinary = distinct(|place| place.is_last && !place.is_promoted);
    let repeated = all(|place| place.is_last && !place.is_promoted) - last_ordinary;
    assert_eq!(
        (certificate.listed_ads, certificate.distinct_ads, certificate.duplicate_ads),
        (number(all(|place| place.is_last)), number(ads.len()), number(repeated)),
        "{certificate:?}"
    );
    let max_total = certificate.max_total;
    let seen = covered(ads.len(), ordinary, max_total);
    let last_seen = covered(distinct(|place| place.is_last), last_ordinary, max_total);
    let missed = (max_total.unwrap_or(0) - seen - certificate.refused_ads).max(0);
    assert_eq!(certificate.estimated_missed, Some(missed), "{certificate:?}");
    if ["complete", "drifted"].contains(&certificate.verdict.as_str()) {
        let is_whole = certificate.min_total == max_total
            && max_total == Some(seen)
            && max_total == Some(last_seen)
            && certificate.span_ms <= 60_000;
        assert_eq!(certificate.verdict == "complete", is_whole, "{certificate:?}");
    }
}

/// Every count of every certificate, its verdict, and every mark, in books whose ads come several times: on top and
/// at their place or on top only, on two pages, and on a page that was read again.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_count_what_pages_list() -> Result<()> {
    for promoted in ["repeat", "once"] {
        let fleet = Fleet::start(&format!("{SHUFFLED} --promoted {promoted}")).await?;
        let _worker = fleet.worker("a", &[])?;
        ensure!(fleet.batch(&[("REREAD_PERCENT", "100")]).await? == 0);
        let readings: Vec<Reading> = sqlx::query_as(
            "SELECT market_id, page, ordinal, fetched_at, promoted_position,
                    coalesce(duplicate_positions, '{}') AS marked,
                    ARRAY(SELECT v.adv_no::text FROM unnest(p.offer_ids) WITH ORDINALITY AS l (id, position)
                            JOIN warehouse.offer_versions v ON v.day = p.day AND v.id = l.id
                           ORDER BY l.position) AS adv_nos
               FROM warehouse.book_pages p",
        )
        .fetch_all(&fleet.pool)
        .await?;
        let certificates: Vec<Certificate> =
            sqlx::query_as("SELECT * FROM warehouse.books").fetch_all(&fleet.pool).await?;
        let mut verdicts = BTreeSet::new();
        let mut marks = 0;
        for certificate in &certificates {
            let of: Vec<&Reading> =
                readings.iter().filter(|r| r.market_id == certificate.market_id).collect();
            let ads = places(&of);
            check(certificate, &ads);
            verdicts.insert(certificate.verdict.as_str());
            let expected: BTreeSet<(i16, i32, i16)> = ads
                .values()
                .flat_map(|places| &places[1..])
                .map(|place| (place.page, place.ordinal.0, place.position))
                .collect();
            let marked: BTreeSet<(i16, i32, i16)> = of
                .iter()
                .flat_map(|r| r.marked.iter().map(|position| (r.page, r.ordinal, *position)))
                .collect();
            assert_eq!(marked, expected, "{certificate:?}");
            marks += marked.len();
        }
        // Otherwise the market was too quiet to tell anything.
        ensure!(verdicts.contains("complete") && verdicts.contains("drifted"), "{verdicts:?}");
        let pages: BTreeSet<(i32, i16)> = readings.iter().map(|r| (r.market_id, r.page)).collect();
        ensure!(pages.len() < readings.len(), "no page was read again");
        ensure!(certificates.iter().any(|c| c.duplicate_ads > 0), "no ad came twice");
        ensure!(marks > 0, "nothing is marked");
        fleet.remove().await?;
    }
    Ok(())
}

/// First pages that declare ads and list none: their books are not sworn to be empty, and what is missed is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_declares_ads_is_not_empty() -> Result<()> {
    let fleet =
        Fleet::start("--fiats 2 --ads 300 --churn-per-minute 0 --fault no-ads:1000").await?;
    let _worker = fleet.worker("a", &[])?;
    // Partial: of the pages that are declared, only the first was asked for.
    ensure!(fleet.batch(&[]).await? == 3);
    let certificates: Vec<Certificate> =
        sqlx::query_as("SELECT * FROM warehouse.books").fetch_all(&fleet.pool).await?;
    let mut missed = 0;
    for certificate in &certificates {
        let total = certificate.max_total.unwrap_or(0);
        assert_eq!(certificate.estimated_missed, Some(total), "{certificate:?}");
        assert_eq!(certificate.listed_ads, 0, "{certificate:?}");
        let verdict = match total {
            0 => "empty",
            1..=20 => "drifted",
            _ => "partial",
        };
        assert_eq!(certificate.verdict, verdict, "{certificate:?}");
        missed += total;
    }
    assert_eq!(missed, 300);
    fleet.must_equal_truth().await?;
    fleet.remove().await
}

/// A worker whose clock is weeks behind: the time that a book took is no number of milliseconds any more, and its batch
/// is closed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_weeks_behind_keeps_no_batch_open() -> Result<()> {
    let fleet = Fleet::start("--fiats 1 --ads 300 --churn-per-minute 0").await?;
    sqlx::raw_sql(
        "CREATE FUNCTION behind() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.fetched_at = NEW.fetched_at - interval '40 days'; RETURN NEW; END $$;
         CREATE TRIGGER behind BEFORE UPDATE ON pipeline.jobs
            FOR EACH ROW WHEN (NEW.page = 1 AND NEW.state = 'done') EXECUTE FUNCTION behind()",
    )
    .execute(&fleet.pool)
    .await?;
    let _worker = fleet.worker("a", &[])?;
    ensure!(fleet.batch(&[]).await? == 0);
    let longest = fleet.number("SELECT max(span_ms)::bigint FROM warehouse.books").await?;
    assert_eq!(longest, i64::from(i32::MAX));
    fleet.remove().await
}

/// Where no page tells a total, the next batch expects the ads that were seen.
#[tokio::test(flavor = "multi_thread")]
async fn what_tells_no_total_is_planned_by_what_was_seen() -> Result<()> {
    let market = "--fiats 1 --ads 300 --churn-per-minute 0 --tie-shuffle-per-mille 0";
    let fleet = Fleet::start(&format!("{market} --fault no-total:1000")).await?;
    let _worker = fleet.worker("a", &[])?;
    ensure!(fleet.batch(&[]).await? == 0);
    let planned: Vec<(i32, i32)> = sqlx::query_as(
        "SELECT c.last_total, b.distinct_ads FROM warehouse.books b JOIN pipeline.catalog c USING (market_id)
          WHERE b.distinct_ads > 0",
    )
    .fetch_all(&fleet.pool)
    .await?;
    ensure!(!planned.is_empty(), "no book has ads");
    for (planned, seen) in planned {
        assert_eq!(planned, seen);
    }
    fleet.remove().await
}
