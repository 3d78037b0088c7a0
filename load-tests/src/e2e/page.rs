//! The status page in a real browser.
//!
//! A coordinator and workers read the simulated exchange slowly enough to be watched. The browser must
//! see the batch go on without a reload, find everything by keyboard, in light and dark and on a phone,
//! and find no accessibility error (axe-core, where `--axe` names it). What it looked like is kept as
//! pictures: look at them, no test sees whether a page is clear.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use load_tests::fleet::Fleet;
use serde_json::{Value, json};
use sqlx::Executor;

use crate::browser::Browser;
use crate::{Cli, free_port, step};

/// Enough markets for "more", and a batch of about 300 pages.
const MARKET: &str =
    "--fiats 24 --ads 5000 --churn-per-minute 3 --change-per-minute 8 --latency-ms 20";
/// Requests per minute of the batch that is watched: it takes longer than the looking.
const WATCHED_RATE: &str = "150";
/// Width of a small phone, and of a desk.
const PHONE: u32 = 360;
const DESK: u32 = 1280;
/// Tab stops at most to whatever is looked for.
const MAX_TABS: usize = 60;

pub(crate) async fn run(cli: &Cli) -> Result<()> {
    std::fs::create_dir_all(&cli.pictures)?;
    let fleet = Fleet::start(MARKET).await?;
    let looked = look(&fleet, cli).await;
    fleet.remove().await?;
    looked
}

async fn look(fleet: &Fleet, cli: &Cli) -> Result<()> {
    step("a first batch, so that there is something to show");
    fleet.pool.execute(include_str!("history.sql")).await.context("make a day of history")?;
    let mut first = fleet.worker("first", &[])?;
    fleet.batch(&[]).await?;
    first.terminate().await?;
    fleet.pool.execute(include_str!("prices.sql")).await.context("make a day of prices")?;
    // A name as an attacker would have it, in the market that is looked at.
    sqlx::query(
        "UPDATE warehouse.dim_advertisers SET advertiser = '<script>document.title=1</script><b>x'",
    )
    .execute(&fleet.pool)
    .await?;

    step("a slow batch, and the page");
    let slow = [
        ("INITIAL_RATE_LIMIT", WATCHED_RATE),
        ("MAX_RATE_LIMIT", WATCHED_RATE),
        ("EGRESS_ID", "slow-egress"),
    ];
    let _workers = [fleet.worker("e2e-worker-1", &slow)?, fleet.worker("e2e-worker-2", &slow)?];
    let port = free_port()?.to_string();
    let _coordinator = fleet.coordinator(&[("STATUS_PORT", &port)])?;
    let browser = Browser::start().await?;
    let looked = async {
        let page = format!("http://127.0.0.1:{port}/");
        browser.open(&page).await?;
        sees_progress(&browser).await?;
        sees_panels(&browser).await?;
        picture(&browser, &cli.pictures, "status").await?;
        walks_the_strip(&browser).await?;
        is_accessible(&browser, cli.axe.as_deref(), "status, light").await?;
        walks_the_map(&browser).await?;
        browser.open(&page).await?;
        chooses_a_market(&browser, fleet).await?;
        picture(&browser, &cli.pictures, "market").await?;
        is_accessible(&browser, cli.axe.as_deref(), "market, light").await?;
        browser.dark(true).await?;
        picture(&browser, &cli.pictures, "market-dark").await?;
        is_accessible(&browser, cli.axe.as_deref(), "market, dark").await?;
        browser.width(PHONE).await?;
        fits(&browser, "market").await?;
        picture(&browser, &cli.pictures, "market-phone").await?;
        browser.open(&page).await?;
        browser.until("return document.getElementById('running') !== null").await?;
        fits(&browser, "status").await?;
        picture(&browser, &cli.pictures, "status-phone").await?;
        browser.width(DESK).await?;
        is_dark(&browser).await?;
        picture(&browser, &cli.pictures, "status-dark").await?;
        is_accessible(&browser, cli.axe.as_deref(), "status, dark").await?;
        works_without_script(&browser, &page).await
    };
    let looked = looked.await;
    browser.close().await?;
    looked
}

async fn sees_progress(browser: &Browser) -> Result<()> {
    step("the batch goes on without a reload");
    browser.until("return document.getElementById('progress')?.value > 0").await?;
    // A reload would lose it.
    browser.run("window.marker = document.getElementById('progress').value; return true").await?;
    browser.until("return document.getElementById('progress')?.value > window.marker + 5").await?;
    let live = browser.run("return document.getElementById('live').textContent").await?;
    ensure!(live == "Live. Times are UTC.", "the page says {live}");
    Ok(())
}

async fn sees_panels(browser: &Browser) -> Result<()> {
    step("everything is there");
    for id in [
        "headline",
        "running",
        "slots",
        "completeness",
        "queues",
        "workers",
        "limits",
        "quality",
        "gaps",
        "market",
    ] {
        let seen = browser
            .run(&format!("return document.getElementById('{id}')?.checkVisibility()"))
            .await?;
        ensure!(seen == true, "{id} is not to be seen");
    }
    let slots = browser.run("return document.querySelectorAll('.strip > li').length").await?;
    ensure!(slots.as_u64() >= Some(140), "{slots} slots");
    let states = "return ['complete', 'partial', 'failed', 'skipped', 'unrecorded', 'running']
        .filter(state => !document.querySelector('.strip > .' + state))";
    let missing = browser.run(states).await?;
    ensure!(missing == json!([]), "no slot is {missing}");
    let rows = browser.run("return document.querySelectorAll('.heatmap tbody tr').length").await?;
    ensure!(rows.as_u64() == Some(24), "{rows} fiats in the heat map");
    for words in ["e2e-worker-1", "slow-egress", "jobs.normal"] {
        let text = browser.run("return document.body.innerText").await?;
        ensure!(text.as_str().is_some_and(|text| text.contains(words)), "{words} is missing");
    }
    Ok(())
}

async fn walks_the_strip(browser: &Browser) -> Result<()> {
    step("the strip by keyboard");
    browser.tab_to("document.activeElement.matches('.strip > li')", MAX_TABS).await?;
    let last = browser.run("return document.activeElement.id").await?;
    browser.keys("\u{e012}\u{e012}").await?;
    let moved = browser.run("return document.activeElement.id").await?;
    ensure!(moved != last, "the arrow moves nothing");
    let tip = "return getComputedStyle(document.activeElement.querySelector('.tip')).clipPath";
    ensure!(browser.run(tip).await? == "none", "the slot's words are not shown");
    // The page goes on beneath it, and the focus stays.
    browser
        .run("window.marker = document.getElementById('as-of').textContent; return true")
        .await?;
    browser.until("return document.getElementById('as-of').textContent !== window.marker").await?;
    ensure!(browser.run("return document.activeElement.id").await? == moved, "the focus is lost");
    Ok(())
}

async fn walks_the_map(browser: &Browser) -> Result<()> {
    step("the heat map by keyboard");
    browser.tab_to("document.activeElement.matches('.heatmap a')", MAX_TABS).await?;
    browser.keys("\u{e015}\u{e014}").await?;
    let at = "const cell = document.activeElement.parentElement;
        return [cell.cellIndex, cell.parentElement.sectionRowIndex]";
    let at = browser.run(at).await?;
    ensure!(at == json!([2, 1]), "down and right lead to {at}");
    Ok(())
}

async fn chooses_a_market(browser: &Browser, fleet: &Fleet) -> Result<()> {
    let (fiat, asset): (String, String) = sqlx::query_as(
        "SELECT fiat_code, crypto_symbol FROM warehouse.market_overview WHERE trade_type = 'BUY'
          ORDER BY ads DESC LIMIT 1",
    )
    .fetch_one(&fleet.pool)
    .await?;
    step(&format!("a market by keyboard only: {asset}/{fiat}"));
    browser.tab_to("document.activeElement.id === 'fiat'", MAX_TABS).await?;
    browser.keys(&fiat.to_lowercase()).await?;
    browser.tab_to("document.activeElement.id === 'asset'", 2).await?;
    browser.keys(&asset.to_lowercase()).await?;
    browser.tab_to("document.activeElement.matches('button[type=submit]')", 3).await?;
    browser.keys("\u{e007}").await?;
    browser
        .until("return location.pathname === '/market' && document.readyState === 'complete'")
        .await?;
    let ads = browser.run("return document.querySelectorAll('.ads tbody tr').length").await?;
    ensure!(ads.as_u64() > Some(0), "the book has no ads");
    let lines = browser.run("return document.querySelectorAll('.chart polyline').length").await?;
    ensure!(lines.as_u64() >= Some(4), "{lines} lines: the gaps are drawn over");
    let named = "return document.querySelector('.ads bdi').textContent.startsWith('<script>')
        && document.querySelector('main script, main b') === null && document.title !== '1'";
    ensure!(browser.run(named).await? == true, "a nickname is not text");
    Ok(())
}

async fn fits(browser: &Browser, what: &str) -> Result<()> {
    step(&format!("{what} at {PHONE} px"));
    let width = browser.run("return document.documentElement.scrollWidth").await?;
    ensure!(width.as_u64() <= Some(u64::from(PHONE)), "{what} is {width} px wide");
    Ok(())
}

async fn is_dark(browser: &Browser) -> Result<()> {
    step("dark");
    let ground = browser.run("return getComputedStyle(document.body).backgroundColor").await?;
    ensure!(ground == "rgb(20, 23, 26)", "the ground is {ground}");
    Ok(())
}

/// Names of controls by a check of our own; the rest by axe-core.
async fn is_accessible(browser: &Browser, axe: Option<&Path>, what: &str) -> Result<()> {
    step(&format!("accessible: {what}"));
    let nameless = "return [...document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]')]
        .filter(element => !(element.textContent.trim() || element.ariaLabel || element.labels?.length))
        .map(element => element.outerHTML.slice(0, 120))";
    let nameless = browser.run(nameless).await?;
    ensure!(nameless == json!([]), "no name: {nameless}");
    let landmarks =
        browser.run("return document.querySelectorAll('header, main, footer, h1').length").await?;
    ensure!(landmarks == 4, "{landmarks} landmarks and headings");
    let Some(axe) = axe else { return Ok(()) };
    let source = std::fs::read_to_string(axe).with_context(|| format!("read {}", axe.display()))?;
    browser.run(&format!("{source}; return true")).await?;
    let found = browser
        .run_async("axe.run().then(result => arguments[0](result.violations.map(violation =>
            violation.id + ': ' + violation.nodes.slice(0, 3).map(node => node.html.slice(0, 160) + ' ' + node.failureSummary).join(' | '))))")
        .await?;
    ensure!(found == Value::Array(Vec::new()), "axe, {what}: {found:#}");
    Ok(())
}

async fn works_without_script(browser: &Browser, page: &str) -> Result<()> {
    step("without the script");
    browser.script(false).await?;
    browser.open(page).await?;
    let source = browser.source().await?;
    ensure!(source.contains(">Refresh</a>") && source.contains("id=\"completeness\""), "{source}");
    browser.script(true).await
}

async fn picture(browser: &Browser, directory: &Path, name: &str) -> Result<()> {
    // Transitions end first; fonts are those of the system and need no wait.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let path = directory.join(format!("{name}.png"));
    std::fs::write(&path, browser.picture().await?)?;
    println!("   {}", path.display());
    Ok(())
}
