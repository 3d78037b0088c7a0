//! `p2p parse`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use shared::domain::{Market, Side, Warning};
use shared::exchange::Exchange;
use shared::exchange::binance::{is_advertiser_page, parse_advertiser, parse_search};

use crate::capture::{self, Answer};
use crate::{EXIT_NOT_FOUND, EXIT_TROUBLE};

/// Reads all files; ads go to stdout, refusals and what is odd about an answer to stderr. A reader that has seen enough and closes
/// the pipe is no error.
pub fn run(
    exchange: Exchange,
    fiat: &str,
    asset: &str,
    side: Side,
    files: &[PathBuf],
) -> anyhow::Result<ExitCode> {
    let Exchange::Binance = exchange;
    let market = Market::new(fiat, asset, side)?;
    match parse_all(&market, files) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        other => Ok(other?),
    }
}

fn parse_all(market: &Market, files: &[PathBuf]) -> std::io::Result<ExitCode> {
    let (mut unreadable, mut refused) = (false, false);
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    for file in files {
        let bytes = match read(file) {
            Ok(bytes) => bytes,
            Err(error) => {
                writeln!(err, "p2p: {}: {error}", file.display())?;
                unreadable = true;
                continue;
            }
        };
        for answer in capture::answers(&bytes) {
            refused |= !parse_one(market, file, &answer, &mut out, &mut err)?;
        }
    }
    out.flush()?;
    Ok(match (unreadable, refused) {
        (true, _) => ExitCode::from(EXIT_NOT_FOUND),
        (_, true) => ExitCode::from(EXIT_TROUBLE),
        _ => ExitCode::SUCCESS,
    })
}

/// Prints one answer; whether everything in it was taken.
fn parse_one(
    market: &Market,
    file: &Path,
    answer: &Answer<'_>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> std::io::Result<bool> {
    let place = match answer.line {
        Some(line) => json!({ "file": file.display().to_string(), "line": line }),
        None => json!({ "file": file.display().to_string() }),
    };
    if is_advertiser_page(&answer.bytes) {
        return parse_page(place, answer, out, err);
    }
    let page = match parse_search(market, &answer.bytes) {
        Ok(page) => page,
        Err(error) => {
            let mut object = place;
            let why = json!({ "reason": error.failure().as_str(), "detail": error.to_string() });
            merge(&mut object, why);
            writeln!(err, "{object}")?;
            return Ok(false);
        }
    };
    tell_of_answer(&place, &page.warnings, &page.leniencies, err)?;
    for ad in &page.ads {
        let mut object =
            json!({ "fiat": market.fiat, "asset": market.asset, "trade_type": market.side });
        merge(&mut object, serde_json::to_value(ad)?);
        writeln!(out, "{object}")?;
    }
    for refusal in &page.refusals {
        let mut object = place.clone();
        merge(&mut object, serde_json::to_value(refusal)?);
        writeln!(err, "{object}")?;
    }
    Ok(page.refusals.is_empty())
}

/// Prints the page of an advertiser: its figures, then its ads, whatever their markets.
fn parse_page(
    place: serde_json::Value,
    answer: &Answer<'_>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> std::io::Result<bool> {
    let page = match parse_advertiser(None, &answer.bytes) {
        Ok(page) => page,
        Err(error) => {
            let mut object = place;
            let why = json!({ "reason": error.failure().as_str(), "detail": error.to_string() });
            merge(&mut object, why);
            writeln!(err, "{object}")?;
            return Ok(false);
        }
    };
    tell_of_answer(&place, &[], &page.leniencies, err)?;
    let mut profile = json!({ "user_no": page.user_no });
    merge(&mut profile, serde_json::to_value(&page.profile)?);
    if !page.warnings.is_empty() {
        merge(&mut profile, json!({ "warnings": page.warnings }));
    }
    writeln!(out, "{profile}")?;
    for (market, ad) in &page.ads {
        let mut object =
            json!({ "fiat": market.fiat, "asset": market.asset, "trade_type": market.side });
        merge(&mut object, serde_json::to_value(ad)?);
        writeln!(out, "{object}")?;
    }
    for refusal in &page.refusals {
        let mut object = place.clone();
        merge(&mut object, serde_json::to_value(refusal)?);
        writeln!(err, "{object}")?;
    }
    Ok(page.refusals.is_empty())
}

/// Says what is odd about an answer as a whole, if anything is.
fn tell_of_answer(
    place: &serde_json::Value,
    warnings: &[Warning],
    leniencies: &[String],
    err: &mut impl Write,
) -> std::io::Result<()> {
    let mut object = place.clone();
    if !warnings.is_empty() {
        merge(&mut object, json!({ "warnings": warnings }));
    }
    if !leniencies.is_empty() {
        merge(&mut object, json!({ "lenient": leniencies }));
    }
    if warnings.is_empty() && leniencies.is_empty() { Ok(()) } else { writeln!(err, "{object}") }
}

fn merge(object: &mut serde_json::Value, more: serde_json::Value) {
    if let (Some(object), serde_json::Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(file)
}
