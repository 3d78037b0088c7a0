//! Forms in which collectors keep captured answers, brought back to the form the exchange sends.
//!
//! An answer as sent is passed on untouched. Of the others the data is put into an envelope: a line
//! of a collector (`anuncios` holds the ads), a bare list of items, several of these as lines, rows
//! of a table (every value a text, "" for null), an advertiser's page (`buy_list`, `sell_list`).
//! Values are never altered: number text stays as it stands in the file.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

/// One answer out of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Number of its line, from 1, where each line is a document of its own. `None`: the file is one
    /// document.
    pub line: Option<usize>,
    pub bytes: Cow<'a, [u8]>,
}

/// The answers in a file. What is in no known form is passed on as it is, for the parser to refuse:
/// of a file of lines the line that was cut, never its neighbours.
#[must_use]
pub fn answers(file: &[u8]) -> Vec<Answer<'_>> {
    if let Ok(document) = serde_json::from_slice::<&RawValue>(file) {
        return unwrap_or_keep(None, document, file);
    }
    // Bytes and not text: a line may have been cut within a character.
    let lines = || {
        let numbered = (1..).zip(file.split(|byte| *byte == b'\n'));
        numbered.filter(|(_, line)| !line.trim_ascii().is_empty())
    };
    if !lines().any(|(_, line)| is_document_with_content(line)) {
        return vec![Answer { line: None, bytes: Cow::Borrowed(file) }];
    }
    lines()
        .flat_map(|(number, line)| match serde_json::from_slice::<&RawValue>(line) {
            Ok(document) => unwrap_or_keep(Some(number), document, line),
            Err(_) => vec![Answer { line: Some(number), bytes: Cow::Borrowed(line) }],
        })
        .collect()
}

/// Whether a line is an object or a list that holds something. One such line tells a file of lines
/// from a document that was cut: no printer that breaks lines leaves a filled one on a single line.
fn is_document_with_content(line: &[u8]) -> bool {
    let object = serde_json::from_slice::<Members<'_>>(line);
    let list = serde_json::from_slice::<Vec<&RawValue>>(line);
    object.is_ok_and(|members| !members.is_empty()) || list.is_ok_and(|items| !items.is_empty())
}

fn unwrap_or_keep<'a>(
    line: Option<usize>,
    document: &'a RawValue,
    bytes: &'a [u8],
) -> Vec<Answer<'a>> {
    let answers = unwrap(document).unwrap_or_else(|| vec![Cow::Borrowed(bytes)]);
    answers.into_iter().map(|bytes| Answer { line, bytes }).collect()
}

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Members that were made here.
type OwnMembers = BTreeMap<String, Box<RawValue>>;

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
        let rows: Vec<Box<RawValue>> = members.iter().map(unflatten).collect::<Option<_>>()?;
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
        return Some(vec![envelope(&advertiser_page(&members))]);
    }
    None
}

fn envelope(data: &str) -> Cow<'static, [u8]> {
    let text = format!(r#"{{"code":"000000","message":null,"data":{data},"success":true}}"#);
    Cow::Owned(text.into_bytes())
}

/// The page of an advertiser as it was sent, from which its collector took the lists of ads and keyed
/// them by number.
fn advertiser_page(members: &Members<'_>) -> String {
    let list = |name: &str| {
        let ads = members.get(name).and_then(|ads| serde_json::from_str(ads.get()).ok());
        let ads: Members<'_> = ads.unwrap_or_default();
        ads.into_values().map(RawValue::get).collect::<Vec<_>>().join(",")
    };
    let user: Vec<String> = members
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "buy_list" | "sell_list"))
        .map(|(name, value)| format!("{}:{}", json!(name), value.get()))
        .collect();
    format!(
        r#"{{"userDetailVo":{{{}}},"buyList":[{}],"sellList":[{}]}}"#,
        user.join(","),
        list("buy_list"),
        list("sell_list")
    )
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
fn unflatten(row: &Members<'_>) -> Option<Box<RawValue>> {
    let (mut item, mut adv, mut advertiser) =
        (OwnMembers::new(), OwnMembers::new(), OwnMembers::new());
    for (column, raw) in row {
        let value = cell(column, raw)?;
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
    item.insert("adv".into(), to_raw_value(&adv).ok()?);
    item.insert("advertiser".into(), to_raw_value(&advertiser).ok()?);
    to_raw_value(&item).ok()
}

/// The value of a cell. Raw, for a number must keep its digits.
fn cell(column: &str, raw: &RawValue) -> Option<Box<RawValue>> {
    let Ok(text) = serde_json::from_str::<String>(raw.get()) else {
        return Some(raw.to_owned());
    };
    let field = column.rsplit('.').next().unwrap_or(column);
    if text.is_empty() {
        // The search never sends these as null; an empty text is a value there.
        let empty = (field == "userIdentity").then_some("");
        return to_raw_value(&empty).ok();
    }
    if text.starts_with(['[', '{'])
        && let Some(value) = python_literal(&text)
    {
        return Some(value);
    }
    match field {
        // `Banesco:Banesco|BANK:Bank Transfer`
        "tradeMethods" => {
            let methods = text.split('|').map(|method| {
                let (identifier, name) = method.split_once(':').unwrap_or((method, method));
                json!({ "identifier": identifier, "tradeMethodName": name })
            });
            to_raw_value(&methods.collect::<Vec<_>>()).ok()
        }
        "badges" => to_raw_value(&text.split('|').collect::<Vec<_>>()).ok(),
        _ => to_raw_value(&text).ok(),
    }
}

/// A Python literal of lists, dictionaries, texts and constants.
fn python_literal(text: &str) -> Option<Box<RawValue>> {
    let mut json = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first == '\'' || first == '"' {
            let (value, after) = python_text(&rest[1..], first)?;
            json.push_str(&json!(value).to_string());
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
    RawValue::from_string(json).ok()
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

    /// Line and text of each answer.
    fn read(file: &[u8]) -> Vec<(Option<usize>, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        answers(file).iter().map(|answer| (answer.line, text(&answer.bytes))).collect()
    }

    #[test]
    fn an_answer_as_sent_is_untouched() {
        for sent in [r#"{"code":"000000","data":[],"total":0,"success":true}"#, "<html>"] {
            assert_eq!(read(sent.as_bytes()), [(None, sent.to_owned())]);
        }
    }

    #[test]
    fn number_text_survives_the_wrapper_of_a_collector() {
        let line = br#"{"lado":"compra","anuncios":[{"adv":{"x":0.0014503263234227903}}]}"#;
        assert!(read(line)[0].1.contains("0.0014503263234227903"));
    }

    #[test]
    fn number_text_survives_the_cells_of_a_table() {
        let rows = br#"[{"adv.price":102830.00000000000001,"adv.commissionRate":1e-3,
            "adv.list":"[{'x': 0.10}]","monthFinishRate":0.9666666666666667}]"#;
        let item = &read(rows)[0].1;
        for number in ["102830.00000000000001", "1e-3", "0.10", "0.9666666666666667"] {
            assert!(item.contains(number), "{number} in {item}");
        }
    }

    #[test]
    fn lines_are_answers_of_their_own() {
        let lines: Vec<_> = read(b"{\"anuncios\":[]}\n\n{\"anuncios\":[]}\n")
            .into_iter()
            .map(|(line, _)| line)
            .collect();
        assert_eq!(lines, [Some(1), Some(3)]);
    }

    #[test]
    fn a_line_that_was_cut_costs_itself_only() {
        // Cut within a character, as a collector that was killed leaves it.
        let answers = read(b"{\"anuncios\":[]}\n{\"anuncios\":[{\"a\":\"\xc3\n{\"anuncios\":[]}\n");
        assert_eq!(answers.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3].map(Some));
        assert!(answers[1].1.starts_with(r#"{"anuncios":[{"a":""#));
        assert!(answers[2].1.contains("000000"));
    }

    #[test]
    fn a_document_that_was_cut_is_refused_as_one() {
        let cut = "[\n  {\n    \"a\": []\n  },\n  {}\n";
        assert_eq!(read(cut.as_bytes()), [(None, cut.to_owned())]);
    }

    #[test]
    fn python_literals_become_json() {
        let literal = r#"[{'a': None, 'b': "it's", 'c': 'say \'hi\' \u26a1', 'd': True}]"#;
        let json = python_literal(literal).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(json.get()).unwrap(),
            json!([{ "a": null, "b": "it's", "c": "say 'hi' ⚡", "d": true }])
        );
        assert!(python_literal("[don't").is_none());
    }
}
