//! Forms in which collectors keep captured answers, brought back to the form the exchange sends.
//!
//! An answer as sent is passed on untouched. Of the others the ads are put into an envelope: a line
//! of a collector (`anuncios` holds the ads), a bare list of items, several of these as lines, rows
//! of a table (every value a text, "" for null), an advertiser's page (`buy_list`, `sell_list`).
//! Values are never altered: number text stays as it stands in the file.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

/// The answers in a file. What is in no known form is passed on as it is, for the parser to refuse.
#[must_use]
pub fn answers(bytes: &[u8]) -> Vec<Cow<'_, [u8]>> {
    let as_sent = || vec![Cow::Borrowed(bytes)];
    let Ok(text) = std::str::from_utf8(bytes) else {
        return as_sent();
    };
    if let Ok(document) = serde_json::from_str::<&RawValue>(text) {
        return unwrap(document).unwrap_or_else(as_sent);
    }
    let lines: Option<Vec<_>> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let document = serde_json::from_str::<&RawValue>(line).ok()?;
            Some(unwrap(document).unwrap_or_else(|| vec![Cow::Borrowed(line.as_bytes())]))
        })
        .collect();
    match lines {
        Some(lines) if !lines.is_empty() => lines.into_iter().flatten().collect(),
        _ => as_sent(),
    }
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// The answers in one document; `None`: it is an answer as sent, or nothing that is known.
fn unwrap(document: &RawValue) -> Option<Vec<Cow<'_, [u8]>>> {
    if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(document.get()) {
        let members: Vec<Members<'_>> = items
            .iter()
            .map(|item| serde_json::from_str(item.get()).ok())
            .collect::<Option<_>>()?;
        if members.iter().any(|members| members.contains_key("code")) {
            return Some(items.iter().map(|item| Cow::Borrowed(item.get().as_bytes())).collect());
        }
        if members.iter().any(|members| members.contains_key("adv")) {
            return Some(vec![envelope(document.get())]);
        }
        let rows: Vec<Box<RawValue>> =
            members.iter().map(|row| to_raw_value(&unflatten(row)).ok()).collect::<Option<_>>()?;
        return Some(vec![envelope(&to_raw_value(&rows).ok()?.to_string())]);
    }
    let members: Members<'_> = serde_json::from_str(document.get()).ok()?;
    if members.contains_key("code") {
        return None;
    }
    if let Some(ads) = members.get("anuncios") {
        return Some(vec![envelope(ads.get())]);
    }
    if members.contains_key("buy_list") || members.contains_key("sell_list") {
        return Some(vec![envelope(&profile_items(document, &members))]);
    }
    None
}

fn envelope(items: &str) -> Cow<'static, [u8]> {
    let text = format!(r#"{{"code":"000000","message":null,"data":{items},"success":true}}"#);
    Cow::Owned(text.into_bytes())
}

/// The ads of both sides of an advertiser's page, each with the advertiser.
fn profile_items(document: &RawValue, members: &Members<'_>) -> String {
    let mut items = Vec::new();
    for list in ["buy_list", "sell_list"] {
        let ads: Members<'_> = members
            .get(list)
            .and_then(|ads| serde_json::from_str(ads.get()).ok())
            .unwrap_or_default();
        for ad in ads.values() {
            items.push(format!(r#"{{"adv":{},"advertiser":{}}}"#, ad.get(), document.get()));
        }
    }
    format!("[{}]", items.join(","))
}

/// Columns of an advertiser where the table has no prefixes.
const ADVERTISER_COLUMNS: [&str; 12] = [
    "userNo",
    "nickName",
    "monthOrderCount",
    "monthFinishRate",
    "positiveRate",
    "userType",
    "userGrade",
    "userIdentity",
    "badges",
    "isBlocked",
    "activeTimeInSecond",
    "vipLevel",
];

/// An item from a row of a table.
fn unflatten(row: &Members<'_>) -> Value {
    let (mut item, mut adv, mut advertiser) = (Map::new(), Map::new(), Map::new());
    for (column, raw) in row {
        let value = cell(column, raw);
        match column.split_once('.') {
            Some(("adv", field)) => adv.insert(field.to_owned(), value),
            Some(("advertiser", field)) => advertiser.insert(field.to_owned(), value),
            _ if ADVERTISER_COLUMNS.contains(&column.as_str()) => {
                advertiser.insert(column.clone(), value)
            }
            _ if column.starts_with("privilege") => item.insert(column.clone(), value),
            _ => adv.insert(column.clone(), value),
        };
    }
    item.insert("adv".into(), Value::Object(adv));
    item.insert("advertiser".into(), Value::Object(advertiser));
    Value::Object(item)
}

fn cell(column: &str, raw: &RawValue) -> Value {
    let Ok(text) = serde_json::from_str::<String>(raw.get()) else {
        return serde_json::from_str(raw.get()).unwrap_or(Value::Null);
    };
    let field = column.rsplit('.').next().unwrap_or(column);
    if text.is_empty() {
        // The search never sends these as null; an empty text is a value there.
        return if field == "userIdentity" { json!("") } else { Value::Null };
    }
    if text.starts_with(['[', '{'])
        && let Some(value) = python_literal(&text)
    {
        return value;
    }
    match field {
        // `Banesco:Banesco|BANK:Bank Transfer`
        "tradeMethods" => text
            .split('|')
            .map(|method| {
                let (identifier, name) = method.split_once(':').unwrap_or((method, method));
                json!({ "identifier": identifier, "tradeMethodName": name })
            })
            .collect(),
        "badges" => text.split('|').map(Value::from).collect(),
        _ => Value::String(text),
    }
}

/// A Python literal of lists, dictionaries, texts and constants.
fn python_literal(text: &str) -> Option<Value> {
    let mut json = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first == '\'' || first == '"' {
            let (value, after) = python_text(&rest[1..], first)?;
            json.push_str(&Value::String(value).to_string());
            rest = after;
            continue;
        }
        let constants = [("None", "null"), ("True", "true"), ("False", "false")];
        if let Some((python, own)) =
            constants.into_iter().find(|(python, _)| rest.starts_with(python))
        {
            json.push_str(own);
            rest = &rest[python.len()..];
        } else {
            json.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    serde_json::from_str(&json).ok()
}

/// A text up to its closing quote, and what follows.
fn python_text(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((value, &text[at + 1..])),
            '\\' => {
                let (_, escape) = chars.next()?;
                let digits = match escape {
                    'x' => 2,
                    'u' => 4,
                    'U' => 8,
                    _ => 0,
                };
                if digits == 0 {
                    value.push(match escape {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    });
                } else {
                    let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                    value.push(char::from_u32(u32::from_str_radix(&hex, 16).ok()?)?);
                }
            }
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_as_sent_is_untouched() {
        let sent = br#"{"code":"000000","data":[],"total":0,"success":true}"#;
        assert_eq!(answers(sent), [Cow::Borrowed(&sent[..])]);
        assert_eq!(answers(b"<html>"), [Cow::Borrowed(&b"<html>"[..])]);
    }

    #[test]
    fn number_text_survives_the_wrapper_of_a_collector() {
        let line = br#"{"lado":"compra","anuncios":[{"adv":{"x":0.0014503263234227903}}]}"#;
        let answers = answers(line);
        assert!(String::from_utf8_lossy(&answers[0]).contains("0.0014503263234227903"));
    }

    #[test]
    fn lines_are_answers_of_their_own() {
        let line = r#"{"anuncios":[]}"#;
        assert_eq!(answers(format!("{line}\n{line}\n").as_bytes()).len(), 2);
    }

    #[test]
    fn python_literals_become_json() {
        let literal = r#"[{'a': None, 'b': "it's", 'c': 'say \'hi\' \u26a1', 'd': True}]"#;
        assert_eq!(
            python_literal(literal),
            Some(json!([{ "a": null, "b": "it's", "c": "say 'hi' ⚡", "d": true }]))
        );
        assert_eq!(python_literal("[don't"), None);
    }
}
