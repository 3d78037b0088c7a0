//! Every captured answer: each ad is taken or refused with a reason, none is dropped.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use cli::capture;
use serde_json::Value;
use shared::domain::{Market, Side, rule_names};
use shared::exchange::binance::{is_advertiser_page, parse_advertiser, parse_assets, parse_search};

/// Folders with ads.
const FOLDERS: [&str; 7] = [
    "collector",
    "errors",
    "lists",
    "profile",
    "search",
    "series-2026-07-29",
    "series-fulldepth-bob",
];

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new("../fixtures/binance").join(folder);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The market that a file's name tells: `…-ASSET-FIAT-SIDE-…`.
fn market(name: &str) -> Market {
    let parts: Vec<&str> = name.split('-').collect();
    let named = parts.windows(3).find_map(|w| Some((w[0], w[1], w[2].parse::<Side>().ok()?)));
    let (asset, fiat, side) = named.unwrap_or(("USDT", "BND", Side::Buy));
    Market::new(fiat, asset, side).unwrap()
}

/// Ads in a file, counted without the parser.
fn count(bytes: &[u8]) -> usize {
    let length = |value: &Value| value.as_array().map_or(0, Vec::len);
    let text = std::str::from_utf8(bytes).unwrap();
    let documents = match serde_json::from_str::<Value>(text) {
        Ok(document) => vec![document],
        Err(_) => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    };
    let ads = |document: &Value| match document {
        Value::Array(items) => items.len(),
        Value::Object(object) if object.contains_key("buy_list") => ["buy_list", "sell_list"]
            .iter()
            .map(|list| document[list].as_object().map_or(0, serde_json::Map::len))
            .sum(),
        document => length(&document["data"]) + length(&document["anuncios"]),
    };
    documents.iter().map(ads).sum()
}

#[test]
fn every_ad_is_taken_or_refused() {
    let mut table = String::new();
    for file in FOLDERS.into_iter().flat_map(files) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&file).unwrap();
        let (mut taken, mut refused, mut told) = (0, 0, BTreeMap::new());
        let mut tell = |word: &str| *told.entry(word.to_owned()).or_insert(0) += 1;
        for answer in capture::answers(&bytes) {
            if is_advertiser_page(&answer.bytes) {
                let page = parse_advertiser(None, &answer.bytes).unwrap();
                taken += page.ads.len();
                refused += page.refusals.len();
                page.warnings.iter().for_each(|warning| tell(warning.rule.as_str()));
                page.leniencies.iter().for_each(|leniency| tell(leniency));
                let ads = page.ads.iter().flat_map(|(_, ad)| rule_names(&ad.warnings));
                ads.for_each(&mut tell);
                continue;
            }
            let page = parse_search(&market(&name), &answer.bytes)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            taken += page.ads.len();
            refused += page.refusals.len();
            page.refusals.iter().for_each(|refusal| tell(refusal.reason.as_str()));
            page.warnings.iter().for_each(|warning| tell(warning.rule.as_str()));
            page.leniencies.iter().for_each(|leniency| tell(leniency));
            page.ads.iter().flat_map(|ad| rule_names(&ad.warnings)).for_each(&mut tell);
        }
        assert_eq!(taken + refused, count(&bytes), "{name}");
        let told: Vec<_> = told.iter().map(|(word, ads)| format!("{word} {ads}")).collect();
        writeln!(table, "{taken:>4} taken {refused:>3} refused  {name}  {}", told.join(", "))
            .unwrap();
    }
    insta::assert_snapshot!(table);
}

#[test]
fn every_list_of_assets_is_read() {
    for file in files("config") {
        let lists = parse_assets(&std::fs::read(&file).unwrap()).unwrap();
        assert!(lists.buy.len() >= 5 && lists.sell.len() >= 5, "{}", file.display());
    }
}
