//! The shapes that the captures show are those that are shipped, and no capture differs from them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use cli::capture;
use shared::domain::{Market, Side};
use shared::exchange::binance::{WITH_VALUES, findings, is_advertiser_page};
use shared::exchange::shape::{Shape, Type};
use shared::job::Work;

/// Folders of answers whose items are as they were sent, and the call. Tables are not among them.
const FOLDERS: [(&str, &str); 6] = [
    ("advertiser", "profile"),
    ("assets", "config"),
    ("search", "collector"),
    ("search", "errors"),
    ("search", "search"),
    ("search", "series-2026-07-29"),
];
/// Written when the variable is set; compared otherwise.
const SHIPPED: &str = "../shared/src/exchange/binance/shapes.txt";
const HEAD: &str = "\
# The shapes that the captures show; made by a test of the crate cli, which tells how.
# CALL PATH TYPES always|sometimes [VALUE…]
";

/// What is known of a path.
#[derive(Default)]
struct Seen {
    types: BTreeSet<Type>,
    values: BTreeSet<String>,
}

struct Capture {
    call: &'static str,
    bytes: Vec<u8>,
    /// Whether it was put into an envelope here.
    is_wrapped: bool,
    /// Whether its ads are of the newest form there is.
    is_newest: bool,
}

impl Capture {
    /// Whether it can tell that a path is always there: ads by the newest captures, what is around them
    /// by answers as they were sent.
    fn tells_presence(&self, path: &str) -> bool {
        if path.starts_with("data[]") { self.is_newest } else { !self.is_wrapped }
    }
}

fn captures() -> Vec<Capture> {
    let mut captures = Vec::new();
    for (call, folder) in FOLDERS {
        let folder = Path::new("../fixtures/binance").join(folder);
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            let name = file.file_name().unwrap().to_str().unwrap();
            for answer in capture::answers(&bytes) {
                assert_eq!(is_advertiser_page(&answer.bytes), call == "advertiser", "{name}");
                captures.push(Capture {
                    call,
                    is_wrapped: matches!(answer.bytes, Cow::Owned(_)),
                    is_newest: call != "search" || name.contains("-2026-"),
                    bytes: answer.bytes.into_owned(),
                });
            }
        }
    }
    captures
}

/// Paths that the form of the capture made, and not the exchange: its envelope, and the figures of an
/// advertiser that its collector put beside their own object.
fn is_of_the_form(path: &str, capture: &Capture, all: &BTreeSet<String>) -> bool {
    let is_envelope = capture.is_wrapped && !path.starts_with("data");
    let figure = path.strip_prefix("data.userDetailVo.");
    let is_figure =
        figure.is_some_and(|name| all.contains(&format!("data.userDetailVo.userStatsRet.{name}")));
    is_envelope || is_figure && capture.call == "advertiser"
}

fn survey() -> String {
    let captures = captures();
    let mut known: BTreeMap<(&str, String), Seen> = BTreeMap::new();
    // By capture: each path, and whether every object has it.
    let mut paths: Vec<BTreeMap<String, bool>> = Vec::new();
    for capture in &captures {
        let shape = Shape::of(&capture.bytes, &WITH_VALUES).paths();
        let all: BTreeSet<String> = shape.iter().map(|seen| seen.path.clone()).collect();
        paths.push(shape.iter().map(|seen| (seen.path.clone(), seen.is_always)).collect());
        for seen in shape {
            if !is_of_the_form(&seen.path, capture, &all) {
                let known = known.entry((capture.call, seen.path)).or_default();
                known.types.extend(seen.types);
                known.values.extend(seen.values);
            }
        }
    }
    // An ad has the fields of the search on the pages of advertisers too, in both of their lists.
    let of_ads = |(call, path): &(&str, String)| {
        let ad = [
            ("search", "data[].adv"),
            ("advertiser", "data.buyList[]"),
            ("advertiser", "data.sellList[]"),
        ];
        ad.into_iter()
            .find_map(|(of, ad)| path.strip_prefix(ad).filter(|_| of == *call).map(str::to_owned))
    };
    let ads: Vec<(String, BTreeSet<Type>, BTreeSet<String>)> = known
        .iter()
        .filter_map(|(key, seen)| Some((of_ads(key)?, seen.types.clone(), seen.values.clone())))
        .collect();
    for (field, types, values) in ads {
        for list in ["data.buyList[]", "data.sellList[]"] {
            let known = known.entry(("advertiser", format!("{list}{field}"))).or_default();
            known.types.extend(types.clone());
            known.values.extend(values.clone());
        }
    }
    let mut text = HEAD.to_owned();
    for ((call, path), seen) in known {
        let parent = path.rsplit_once('.').map_or(".", |(parent, _)| parent);
        let telling = captures.iter().zip(&paths).filter(|(capture, paths)| {
            capture.call == call && capture.tells_presence(&path) && paths.contains_key(parent)
        });
        let mut has =
            telling.map(|(_, paths)| paths.get(&path).copied().unwrap_or(false)).peekable();
        // Below a list nothing need be there. What an advertiser always has, a form that a collector made
        // does not tell.
        let is_always = has.peek().is_some()
            && has.all(|has| has)
            && !path.ends_with("[]")
            && !(call == "advertiser" && path.contains("userDetailVo."));
        let presence = if is_always { "always" } else { "sometimes" };
        let types: Vec<_> = seen.types.iter().map(|kind| kind.as_str()).collect();
        let types = types.join("|");
        let words = [call, &path, &types, presence].into_iter();
        let words: Vec<&str> = words.chain(seen.values.iter().map(String::as_str)).collect();
        writeln!(text, "{}", words.join(" ")).unwrap();
    }
    text
}

/// No capture of the newest form differs from what is shipped.
#[test]
fn the_newest_captures_are_known() {
    for capture in captures().iter().filter(|capture| capture.is_newest && capture.call == "search")
    {
        let market = Market::new("BOB", "USDT", Side::Buy).unwrap();
        let work = Work::Search { market_id: 1, market, page: 1, ads_expected: true };
        let mut found = findings(&work, &capture.bytes);
        // The envelope is ours.
        found.retain(|finding| finding.path.starts_with("data"));
        assert_eq!(found, []);
    }
}

/// Set `UPDATE_SHAPES` to write the file anew, and read what changed.
#[test]
fn the_shipped_shapes_are_those_of_the_captures() {
    let made = survey();
    if std::env::var_os("UPDATE_SHAPES").is_some() {
        std::fs::write(SHIPPED, &made).unwrap();
    }
    assert!(made == std::fs::read_to_string(SHIPPED).unwrap(), "made anew, {SHIPPED} differs");
}
