//! The exchange changes the shape of its answers: the batch goes on, what can be read is read, what
//! can't is in quarantine with its bytes, and everything is told.

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Fleet;
use serde_json::{Value, json};

use crate::errors::Measured;

const MARKET: &str = "--fiats 2 --ads 90 --churn-per-minute 0";

/// What a command prints as JSON, and its exit code.
async fn ask(fleet: &Fleet, args: &[&str]) -> Result<(Option<i32>, Value)> {
    let output = fleet.command("p2p", args)?.output().await?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&printed).with_context(|| {
        format!("{args:?}: {printed}{}", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok((output.status.code(), value))
}

/// Findings as `change path found`.
async fn findings(fleet: &Fleet) -> Result<Vec<String>> {
    let (_, found) = ask(fleet, &["shapes", "--json"]).await?;
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or("-").to_owned();
    let line =
        |finding: &Value| ["change", "path", "type"].map(|name| text(finding, name)).join(" ");
    Ok(found.as_array().context("a list")?.iter().map(line).collect())
}

async fn series(measured: &Measured, labels: &[(&str, &str, i64)]) -> Result<()> {
    for (name, labels, wanted) in labels {
        let counted = measured.metric(name, labels).await?;
        ensure!(counted == *wanted, "{name}{{{labels}}} is {counted}, not {wanted}");
    }
    Ok(())
}

/// All calls of an ordinary fleet, the pages of advertisers too, have shapes that are known.
#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_batch_finds_nothing() -> Result<()> {
    let fleet = Fleet::start(MARKET).await?;
    let measured = Measured::start(&fleet, &[])?;
    // Whose pages are due is known from the first batch on.
    for _ in 0..2 {
        assert_eq!(fleet.batch(&[("ADVERTISER_REQUESTS_PER_BATCH", "20")]).await?, 0);
    }
    fleet
        .wait_for(
            "SELECT count(*) FROM pipeline.jobs WHERE kind = 'advertiser' AND state = 'done'",
            1,
        )
        .await?;
    assert_eq!(findings(&fleet).await?, [""; 0]);
    assert_eq!(ask(&fleet, &["shapes", "--json"]).await?.0, Some(0));
    let pages = fleet.number("SELECT count(*) FROM warehouse.book_pages WHERE parser_version >= 3 AND NOT is_lenient").await?;
    assert!(pages > 5);
    assert_eq!(pages, fleet.number("SELECT count(*) FROM warehouse.book_pages").await?);
    assert_eq!(
        fleet
            .number("SELECT count(*) FROM warehouse.offer_versions WHERE warnings IS NOT NULL")
            .await?,
        0
    );
    assert_eq!(measured.metric("p2p_parser_pages_total", "lenient").await?, 0);
    assert!(measured.metric("p2p_parser_pages_total", "strict").await? >= pages);
    drop(measured);
    fleet.remove().await
}

/// A price that is renamed, a number or nested: the facts are the right ones, the pages say how they were
/// read, and the findings are recorded, counted, and accepted by the operator.
#[tokio::test(flavor = "multi_thread")]
async fn what_drifted_is_read_leniently_and_told() -> Result<()> {
    for (fault, wanted) in [
        ("renamed-price", vec!["new data[].adv.Price text", "missing data[].adv.price -"]),
        ("number-price", vec!["retyped data[].adv.price number"]),
        ("nested-price", vec!["new data[].adv.detail object", "missing data[].adv.price -"]),
    ] {
        let fleet = Fleet::start(&format!("{MARKET} --fault {fault}:1000")).await?;
        let measured = Measured::start(&fleet, &[])?;
        ensure!(fleet.batch(&[]).await? == 0, "{fault}: every ad is taken");
        fleet.must_equal_truth().await.context(fault)?;
        let found = findings(&fleet).await?;
        ensure!(found == wanted, "{fault}: {found:?}");
        let pages = fleet.number("SELECT count(*) FROM warehouse.book_pages").await?;
        let lenient =
            fleet.number("SELECT count(*) FROM warehouse.book_pages WHERE is_lenient").await?;
        ensure!(pages > 5 && pages == lenient, "{fault}: {lenient} of {pages} pages");
        let answers = fleet.number("SELECT min(answers) FROM pipeline.api_shapes").await?;
        ensure!(answers == pages, "{fault}: {answers} answers, {pages} pages");
        let change = wanted[0].split(' ').next().unwrap_or_default();
        series(
            &measured,
            &[
                ("p2p_parser_pages_total", "parser=\"lenient\"", pages),
                ("p2p_parser_pages_total", "parser=\"strict\"", 0),
                ("p2p_api_shape_changes_total", &format!("change=\"{change}\""), pages),
                ("p2p_extraction_errors_total", "", 0),
            ],
        )
        .await?;

        let accept = fleet.command("p2p", &["shapes", "accept", "data[].adv"])?.output().await?;
        ensure!(accept.status.success(), "{accept:?}");
        ensure!(findings(&fleet).await?.is_empty(), "{fault}: accepted");
        ensure!(fleet.batch(&[]).await? == 0, "{fault}: the second batch");
        // The worker learns of it with the first group of answers, and then writes no more.
        let more = fleet.number("SELECT min(answers) FROM pipeline.api_shapes").await? - answers;
        ensure!((1..=pages).contains(&more), "{fault}: {more} answers more");
        let counted =
            measured.metric("p2p_api_shape_changes_total", &format!("change=\"{change}\"")).await?;
        ensure!(counted == pages, "{fault}: {counted} counted, what is accepted is not");
        drop(measured);
        fleet.remove().await?;
    }
    Ok(())
}

/// One ad that can't be read, for whatever reason, costs itself: its bytes are in quarantine.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_read_costs_its_ad() -> Result<()> {
    for (fault, reason) in [
        ("nan-price", "malformed"),
        ("no-price", "missing_field"),
        ("two-prices", "ambiguous_field"),
        ("bad-utf8", "bad_text"),
    ] {
        let fleet = Fleet::start(&format!("{MARKET} --fault {fault}:1000")).await?;
        let measured = Measured::start(&fleet, &[])?;
        ensure!(fleet.batch(&[]).await? == 3, "{fault}: partial");
        let pages =
            fleet.number("SELECT count(*) FROM warehouse.book_pages WHERE NOT is_lenient").await?;
        let refused = fleet.number("SELECT sum(ads_refused) FROM pipeline.jobs").await?;
        ensure!(pages > 5 && refused == pages, "{fault}: {refused} ads refused on {pages} pages");
        let (_, shown) = ask(&fleet, &["batch", "show", "latest", "--json"]).await?;
        let kept = json!([{ "scope": "ad", "reason": reason, "entries": pages }]);
        ensure!(shown["quarantine"] == kept, "{fault}: {}", shown["quarantine"]);
        series(
            &measured,
            &[
                ("p2p_validation_total", &format!("rule=\"{reason}\""), pages),
                ("p2p_validation_total", "level=\"fatal\"", pages),
            ],
        )
        .await?;
        if fault == "bad-utf8" {
            let exact = "SELECT count(*) FROM pipeline.quarantine WHERE position(decode('fffe', 'hex') IN body) > 0";
            ensure!(fleet.number(exact).await? == pages, "the bytes are kept as they were");
        }
        drop(measured);
        fleet.remove().await?;
    }
    Ok(())
}

/// A field that nobody knows is a finding and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_field_is_told() -> Result<()> {
    let fleet = Fleet::start(&format!("{MARKET} --fault new-field:1000")).await?;
    let _worker = fleet.worker("a", &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0);
    fleet.must_equal_truth().await?;
    let (code, found) = ask(&fleet, &["shapes", "--json"]).await?;
    assert_eq!((code, found.as_array().map(Vec::len)), (Some(3), Some(1)));
    assert_eq!(found[0]["path"], "data[].adv.newField");
    assert_eq!(
        (&found[0]["sample"], &found[0]["call"]),
        (&json!(r#"{"a":[1]}"#), &json!("search"))
    );
    assert_eq!(
        fleet.number("SELECT count(*) FROM warehouse.book_pages WHERE is_lenient").await?,
        0
    );
    let unknown =
        fleet.command("p2p", &["shapes", "accept", "data[].adv.nothing"])?.output().await?;
    assert_eq!(unknown.status.code(), Some(66));
    fleet.remove().await
}

/// What is odd and no reason to refuse is kept with the ad, counted with the job, and shown.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_is_kept_and_counted() -> Result<()> {
    // Nothing moves: a page that is read again shows no ad anew.
    let still = "--manual-clock --tie-shuffle-per-mille 0";
    let fleet = Fleet::start(&format!("{MARKET} {still} --fault odd-price:1000")).await?;
    let measured = Measured::start(&fleet, &[])?;
    assert_eq!(fleet.batch(&[]).await?, 0, "every ad is taken");
    let pages = fleet.number("SELECT count(*) FROM warehouse.book_pages").await?;
    // A promoted ad may come again at its ordinary place, where it is not odd; readers see that one.
    let shown = "SELECT count(*) FROM warehouse.fact_offers WHERE warnings = '{price_scale}'";
    assert!((1..=pages).contains(&fleet.number(shown).await?));
    for sql in [
        "SELECT count(*) FROM warehouse.offer_versions WHERE warnings = '{price_scale}'",
        "SELECT count(*) FROM warehouse.offer_versions WHERE warnings IS NOT NULL",
        "SELECT sum((warnings ->> 'price_scale')::bigint)::bigint FROM pipeline.jobs",
    ] {
        assert_eq!(fleet.number(sql).await?, pages, "{sql}");
    }
    let (_, shown) = ask(&fleet, &["batch", "show", "latest", "--json"]).await?;
    assert_eq!(shown["warnings"], json!([{ "rule": "price_scale", "ads": pages, "pages": pages }]));
    series(
        &measured,
        &[
            ("p2p_validation_total", "rule=\"price_scale\"", pages),
            ("p2p_validation_total", "level=\"warning\"", pages),
            ("p2p_validation_total", "level=\"fatal\"", 0),
        ],
    )
    .await?;
    drop(measured);
    fleet.remove().await
}
