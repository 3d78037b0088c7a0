//! The lenient fallback: an ad whose needed fields are not where or as they should be, put straight.
//!
//! The strict pass takes every ad that is as the captures have it. What it refuses for its shape comes
//! here: fields are looked for by their names, in any case and with or without underscores, anywhere
//! within the item, and out of lists of one and objects with one value. What is found is written as the
//! item should have been, in the characters that were sent, and read by the same code. It never guesses:
//! two values that differ are none.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use super::fields::LEFT_OUT;
use super::names::names;
use super::value::{self, Written};
use super::wire::{self, Adv};
use crate::domain::Rule;
use crate::exchange::scan;

/// Deepest object that is searched; a needed field stands in the second.
const MAX_DEPTH: usize = 6;
/// Most fields of an item that are looked at: ten times those of 2026.
const MAX_FIELDS: usize = 2_000;
/// Deepest wrapping of a value that is undone.
const MAX_WRAPPINGS: usize = 3;
/// Payment methods of an ad that are put straight; the reader refuses this many.
const MAX_METHODS: usize = 1_000;

/// An item as it should have been.
pub(super) struct Straight {
    pub(super) json: String,
    /// What was not where or as it should be, such as `adv.price at adv.detail.price`.
    pub(super) moved: Vec<String>,
    /// Fields that may be absent, and were left out because they have several values.
    pub(super) left_out: Vec<String>,
}

/// A needed field with several values.
#[derive(Debug)]
pub(super) struct Ambiguous(pub(super) String);

/// Puts an item of the search straight.
pub(super) fn item(raw: &str) -> Result<Straight, Ambiguous> {
    let mut search = Search::new(raw, "");
    let adv = search.object("adv", names::<Adv<'_>>())?;
    let advertiser = search.object("advertiser", names::<wire::Advertiser<'_>>())?;
    let privilege = search.pick("", "privilegeType", Kind::Any)?;
    let privilege = privilege.map_or_else(String::new, |raw| format!(r#","privilegeType":{raw}"#));
    Ok(search.into_straight(format!(r#"{{"adv":{adv},"advertiser":{advertiser}{privilege}}}"#)))
}

/// Puts an ad of an advertiser's page straight.
pub(super) fn adv(raw: &str) -> Result<Straight, Ambiguous> {
    let mut search = Search::new(raw, "adv");
    let adv = search.object("adv", names::<Adv<'_>>())?;
    Ok(search.into_straight(adv))
}

/// What a field should hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A text with a decimal.
    Amount,
    /// A text.
    Text,
    /// A list of payment methods.
    Methods,
    /// Whatever stands there: it may be absent.
    Any,
}

impl Kind {
    fn of(field: &str) -> Self {
        match field {
            "price" | "surplusAmount" | "minSingleTransAmount" | "maxSingleTransAmount" => {
                Self::Amount
            }
            "advNo" | "userNo" | "fiatUnit" | "asset" | "tradeType" | "nickName" => Self::Text,
            "tradeMethods" => Self::Methods,
            _ => Self::Any,
        }
    }

    /// Whether the strict pass reads it.
    fn is_straight(self, raw: &str) -> bool {
        match self {
            Self::Amount | Self::Text => raw.starts_with('"'),
            Self::Methods => raw.starts_with('['),
            Self::Any => true,
        }
    }

    /// The value in a form that tells equal ones, if it is one of this kind.
    fn reading(self, raw: &str) -> Option<String> {
        let is_list = raw.starts_with('[');
        let value: Written<'_> = serde_json::from_str(raw).ok()?;
        match self {
            Self::Amount => match value::decimal(value) {
                Ok(amount) => Some(amount.normalize().to_string()),
                // For the reader to refuse.
                Err((Rule::OutOfRange, _)) => Some(raw.to_owned()),
                Err(_) => None,
            },
            // A number is a key only in plain digits: `1.1E19` is none.
            Self::Text => value::text(value)
                .ok()
                .filter(|text| {
                    raw.starts_with('"') || text.bytes().all(|byte| byte.is_ascii_digit())
                })
                .map(std::borrow::Cow::into_owned),
            Self::Methods => is_list.then(|| raw.to_owned()),
            Self::Any => Some(raw.to_owned()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Amount | Self::Text => "text",
            Self::Methods => "list",
            Self::Any => "value",
        }
    }
}

/// A field, wherever it stands.
struct Found<'a> {
    path: String,
    /// Without case and underscores.
    name: String,
    raw: &'a str,
}

struct Search<'a> {
    found: Vec<Found<'a>>,
    moved: Vec<String>,
    left_out: Vec<String>,
}

impl<'a> Search<'a> {
    fn new(raw: &'a str, path: &str) -> Self {
        let mut search = Self { found: Vec::new(), moved: Vec::new(), left_out: Vec::new() };
        search.walk(path, raw, 0);
        search
    }

    fn walk(&mut self, path: &str, raw: &'a str, depth: usize) {
        for (name, raw) in members(inner(raw)) {
            if self.found.len() == MAX_FIELDS {
                return;
            }
            if raw == "null" {
                continue;
            }
            let path = join(path, &name);
            let name = plain(&name);
            // What stands inside a field that has a meaning of its own belongs to that.
            if depth < MAX_DEPTH && !KNOWN.contains(&name) {
                self.walk(&path, raw, depth + 1);
            }
            self.found.push(Found { path, name, raw });
        }
    }

    /// An object of these fields, as JSON.
    fn object(&mut self, object: &str, fields: &[&str]) -> Result<String, Ambiguous> {
        let mut members = Vec::new();
        for field in fields {
            let kind = Kind::of(field);
            if let Some(raw) = self.pick(object, field, kind)? {
                let raw = if kind == Kind::Methods { self.methods(&raw) } else { raw };
                members.push(format!("\"{field}\":{raw}"));
            }
        }
        Ok(format!("{{{}}}", members.join(",")))
    }

    /// The value of a field, from wherever there is exactly one.
    fn pick(&mut self, object: &str, field: &str, kind: Kind) -> Result<Option<String>, Ambiguous> {
        let (place, name) = (join(object, field), plain(field));
        let named = || self.found.iter().filter(|found| found.name == name);
        let mut in_place = named().filter(|found| found.path == place);
        if let (Some(found), None) = (in_place.next(), in_place.next())
            && kind.is_straight(found.raw)
        {
            return Ok(Some(found.raw.to_owned()));
        }
        let mut readings = BTreeMap::new();
        for found in named() {
            for raw in unwrapped(found.raw, kind, 0) {
                if let Some(reading) = kind.reading(&raw) {
                    readings.entry(reading).or_insert((found, raw));
                }
            }
        }
        let several = readings.len() > 1;
        match readings.into_values().next() {
            // A name to show is not worth an ad.
            Some(_) if several && (kind == Kind::Any || field == "nickName") => {
                self.left_out.push(place);
                Ok(None)
            }
            Some(_) if several => Err(Ambiguous(place)),
            Some((found, raw)) => {
                let elsewhere = found.path != place;
                let how = match (elsewhere, found.raw == raw) {
                    (true, _) => format!("at {}", found.path),
                    (false, false) => "wrapped".to_owned(),
                    (false, true) if kind.is_straight(&raw) => "twice".to_owned(),
                    (false, true) => format!("no {}", kind.name()),
                };
                if kind != Kind::Any {
                    self.moved.push(format!("{place} {how}"));
                }
                Ok(Some(raw))
            }
            None => Ok(None),
        }
    }

    /// Payment methods, each an object with its fields by their names.
    fn methods(&mut self, raw: &str) -> String {
        let fields = names::<wire::TradeMethod<'_>>();
        let straight = |element: &str| -> Option<String> {
            if element.starts_with('"') {
                return Some(format!(r#"{{"identifier":{element}}}"#));
            }
            let members = members(element);
            if members.iter().any(|(name, _)| name == "identifier") {
                return None;
            }
            let named = fields.iter().filter_map(|field| {
                let wanted = plain(field);
                let mut found = members.iter().filter(|(name, _)| plain(name) == wanted);
                let (first, second) = (found.next(), found.next());
                first.filter(|_| second.is_none()).map(|(_, raw)| format!("\"{field}\":{raw}"))
            });
            Some(format!("{{{}}}", named.collect::<Vec<_>>().join(",")))
        };
        let mut is_moved = false;
        let elements: Vec<String> = elements(raw, MAX_METHODS)
            .into_iter()
            .map(|element| {
                let own = straight(element);
                is_moved |= own.is_some();
                own.unwrap_or_else(|| element.to_owned())
            })
            .collect();
        if !is_moved {
            return raw.to_owned();
        }
        self.moved.push("adv.tradeMethods[] in another form".to_owned());
        format!("[{}]", elements.join(","))
    }

    fn into_straight(self, json: String) -> Straight {
        Straight { json, moved: self.moved, left_out: self.left_out }
    }
}

/// The values of a kind in what may be wrapped around one.
fn unwrapped(raw: &str, kind: Kind, depth: usize) -> Vec<String> {
    if depth > MAX_WRAPPINGS {
        return Vec::new();
    }
    let deeper = |raw: &str| unwrapped(raw, kind, depth + 1);
    match (kind, raw.as_bytes().first()) {
        (Kind::Any, _) | (Kind::Methods, Some(b'[')) => vec![raw.to_owned()],
        // One payment method alone.
        (Kind::Methods, Some(b'{'))
            if members(raw).iter().any(|(name, _)| plain(name) == "identifier") =>
        {
            vec![format!("[{raw}]")]
        }
        (_, Some(b'{')) => members(raw).into_iter().flat_map(|(_, raw)| deeper(raw)).collect(),
        (_, Some(b'[')) => match elements(raw, 1)[..] {
            [only] => deeper(only),
            _ => Vec::new(),
        },
        (Kind::Methods, _) => Vec::new(),
        (Kind::Amount | Kind::Text, _) => vec![raw.to_owned()],
    }
}

/// The element of a list of one, or the value itself.
fn inner(raw: &str) -> &str {
    match elements(raw, 1)[..] {
        [only] => only,
        _ => raw,
    }
}

/// The members of an object; of anything else none.
fn members(raw: &str) -> Vec<(String, &str)> {
    let members = scan::members(raw.as_bytes(), MAX_FIELDS).unwrap_or_default();
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let member = |(name, raw)| {
        let name = serde_json::from_str(&format!("\"{}\"", text(name)?)).ok()?;
        Some((name, text(raw)?))
    };
    members.into_iter().filter_map(member).collect()
}

/// The elements of a list; of anything else, or of a longer one, none.
fn elements(raw: &str, most: usize) -> Vec<&str> {
    let elements = scan::elements(raw.as_bytes(), most).unwrap_or_default();
    elements.into_iter().filter_map(|element| std::str::from_utf8(element).ok()).collect()
}

fn join(object: &str, field: &str) -> String {
    if object.is_empty() { field.to_owned() } else { format!("{object}.{field}") }
}

/// A name without case and separators: `advNo`, `adv_no` and `ADV-NO` are one.
pub(super) fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Plain names of the fields that are known: those that are read, and those that are left out.
static KNOWN: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let read = names::<Adv<'_>>().iter().chain(names::<wire::Advertiser<'_>>()).copied();
    let left_out = LEFT_OUT.iter().filter_map(|(path, _)| match path.split_once('.') {
        Some(("adv" | "advertiser", field)) if !field.contains(['.', '[', '*']) => Some(field),
        _ => None,
    });
    read.chain(left_out).map(plain).collect()
});
