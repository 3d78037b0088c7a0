//! `p2p dictionary`: the data dictionary, made from the comments of the schema.
//!
//! What is written here by hand is the first page (`dictionary.md`): which table for which question,
//! keys, units, traps. The rest is what the database says of itself, so it can't rot; a test compares
//! it with `docs/data-dictionary.md`, and refuses a relation, column or function without a comment and
//! a column of the facts that names no field of the exchange although it comes from one.

use std::fmt::Write;
use std::process::ExitCode;

use serde::Serialize;
use sqlx::PgConnection;

/// The page before the tables.
const PREFACE: &str = include_str!("dictionary.md");

/// Schemas, what people read first.
const SCHEMAS: [(&str, &str); 2] = [
    ("warehouse", "What people read. The role `p2p_reader` sees this and nothing else."),
    ("pipeline", "How it got there: for operators. `p2p_reader` can't see it."),
];

/// Relations whose every column comes from a field of the exchange or is listed in [`OWN`].
const FACTS: [&str; 3] = ["offer_versions", "book_pages", "fact_offers"];

/// Columns of the facts that come from no field: what we made, and how.
const OWN: [(&str, &str); 20] = [
    ("advertiser_sk", "made here: the advertiser's version, found by advertiser.userNo"),
    ("batch_id", "made here: the schedule"),
    ("book_verdict", "made here: the certificate"),
    ("content_hash", "made here"),
    ("day", "made here: the schedule"),
    ("duplicate_positions", "made here at the close"),
    ("exchange_id", "made here"),
    ("extraction_timestamp", "made here: our clock"),
    ("fetched_at", "made here: our clock"),
    ("first_seen_at", "made here: our clock"),
    ("id", "made here: place of first sight"),
    ("is_lenient", "made here: by which parser"),
    ("market_id", "made here: as requested (fiat, asset, tradeType)"),
    ("offer_id", "made here: day and place of first sight"),
    ("offer_ids", "made here: data[] in the exchange's order"),
    ("ordinal", "made here: the job"),
    ("page", "made here: as requested (page)"),
    ("parser_version", "made here: by which parser"),
    ("traits", "made here: out of the columns that it spares"),
    ("warnings", "made here: rules held against all fields"),
];

/// Columns of the facts whose field can't be told from a column of the same name in `offer_versions`.
const FIELDS: [(&str, &str); 11] = [
    ("active_minutes", "advertiser.activeTimeInSecond / 60"),
    ("advertiser_active_minutes", "advertiser.activeTimeInSecond / 60"),
    ("advertiser_side", "adv.tradeType"),
    ("crypto_id", "adv.asset"),
    ("declared_total", "total"),
    ("fiat_id", "adv.fiatUnit"),
    ("is_promoted", "data[].privilegeType"),
    ("offer_external_id", "adv.advNo"),
    ("privilege_type", "data[].privilegeType"),
    ("promoted_position", "data[].privilegeType"),
    ("trade_type", "request: tradeType"),
];

/// One line of `dictionary.sql`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
struct Entry {
    /// `relation`, `column` or `function`.
    what: String,
    /// Of the relation, or of the function with its arguments.
    name: String,
    /// Kind of relation, type of column, result of function.
    kind: String,
    column_name: Option<String>,
    is_nullable: bool,
    comment: Option<String>,
    /// Primary key.
    key: Option<String>,
}

impl Entry {
    fn comment(&self) -> &str {
        self.comment.as_deref().unwrap_or_default()
    }
}

/// Prints the dictionary as Markdown. `check`: says what lacks, and ends with 3, if anything does.
pub async fn run(check: bool) -> anyhow::Result<ExitCode> {
    let pool = crate::connect_checked().await?;
    let mut snapshot = crate::snapshot(&pool).await?;
    let mut text = PREFACE.to_owned();
    let mut missing = Vec::new();
    for (schema, title) in SCHEMAS {
        let entries = list(&mut snapshot, schema).await?;
        missing.extend(lacks(schema, &entries));
        write_schema(&mut text, schema, title, &entries)?;
        if schema == "warehouse" {
            write_left_out(&mut text, shared::exchange::binance::LEFT_OUT)?;
        }
    }
    if check {
        for what in &missing {
            eprintln!("p2p: {what}");
        }
        return Ok(ExitCode::from(if missing.is_empty() { 0 } else { crate::EXIT_TROUBLE }));
    }
    crate::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(db: &mut PgConnection, schema: &str) -> anyhow::Result<Vec<Entry>> {
    Ok(sqlx::query_as(include_str!("dictionary.sql")).bind(schema).fetch_all(db).await?)
}

/// The field of the exchange that a comment names in brackets, as `(adv.price)` or
/// `(Binance: advertiser.userNo)`.
fn named_field(comment: &str) -> Option<&str> {
    let brackets = comment.split('(').skip(1).filter_map(|rest| rest.split_once(')'));
    let mut named = brackets.map(|(inside, _)| inside.strip_prefix("Binance: ").unwrap_or(inside));
    named.find(|inside| {
        let first = inside.split([' ', ',']).next().unwrap_or_default();
        ["adv.", "advertiser.", "data", "tradeMethod"].iter().any(|start| first.starts_with(start))
    })
}

/// Where a column of the facts comes from; `None` is what the check refuses.
fn field_of<'a>(column: &Entry, entries: &'a [Entry]) -> Option<&'a str> {
    let name = column.column_name.as_deref()?;
    let known = |list: &[(&'static str, &'static str)]| {
        list.iter().find(|(column, _)| *column == name).map(|(_, field)| *field)
    };
    // A view's column is that of the versions by the same name.
    let mut same = entries.iter().filter(|entry| {
        entry.column_name.as_deref() == Some(name)
            && (entry.name == column.name || entry.name == "offer_versions")
    });
    same.find_map(|entry| named_field(entry.comment()))
        .or_else(|| known(&FIELDS))
        .or_else(|| known(&OWN))
        .or_else(|| (name == "rank").then_some("place in data[]"))
        .or_else(|| (name == "payment_method_ids").then_some("adv.tradeMethods[].identifier"))
}

/// What the dictionary of a schema lacks.
fn lacks(schema: &str, entries: &[Entry]) -> Vec<String> {
    let mut missing = Vec::new();
    for entry in entries {
        let column =
            entry.column_name.as_deref().map_or_else(String::new, |name| format!(".{name}"));
        let full = format!("{} {schema}.{}{column}", entry.what, entry.name);
        if entry.comment().trim().is_empty() {
            missing.push(format!("{full} has no comment"));
        }
        if entry.is_nullable && schema == "warehouse" && !entry.comment().contains("NULL") {
            missing.push(format!("{full} may be NULL and does not say what that means"));
        }
        let is_fact = schema == "warehouse" && FACTS.contains(&entry.name.as_str());
        if is_fact && entry.column_name.is_some() && field_of(entry, entries).is_none() {
            missing.push(format!("{full} names no field of the exchange"));
        }
    }
    if schema == "warehouse" {
        for (name, _) in OWN.iter().chain(&FIELDS) {
            let is_used = entries.iter().any(|entry| {
                FACTS.contains(&entry.name.as_str()) && entry.column_name.as_deref() == Some(*name)
            });
            if !is_used {
                missing.push(format!("no fact has a column {name}, which the dictionary explains"));
            }
        }
    }
    missing
}

/// In a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn write_schema(
    text: &mut String,
    schema: &str,
    title: &str,
    entries: &[Entry],
) -> std::fmt::Result {
    writeln!(text, "\n## Schema `{schema}`\n\n{title}")?;
    for relation in entries.iter().filter(|entry| entry.what == "relation") {
        writeln!(text, "\n### `{schema}.{}`\n", relation.name)?;
        let key = relation.key.as_ref().map(|key| format!(" Key: `{key}`."));
        let (kind, key) = (&relation.kind, key.unwrap_or_default());
        writeln!(text, "*{kind}.*{key} {}\n", relation.comment())?;
        let columns: Vec<&Entry> = entries
            .iter()
            .filter(|entry| entry.what == "column" && entry.name == relation.name)
            .collect();
        let is_fact = schema == "warehouse" && FACTS.contains(&relation.name.as_str());
        let (head, rule) = if is_fact { (" the exchange's field |", " --- |") } else { ("", "") };
        writeln!(text, "| column | type | meaning | NULL means |{head}")?;
        writeln!(text, "| --- | --- | --- | --- |{rule}")?;
        for column in columns {
            let (meaning, null) = match column.comment().split_once(" NULL: ") {
                Some((meaning, null)) => (meaning, null.trim_end_matches('.')),
                None => {
                    (column.comment(), if column.is_nullable { "see meaning" } else { "never" })
                }
            };
            let null = if column.comment().contains("NULL") || column.is_nullable {
                null
            } else {
                "never"
            };
            let name = column.column_name.as_deref().unwrap_or_default();
            write!(text, "| `{name}` | {} | {} | {} |", column.kind, cell(meaning), cell(null))?;
            if is_fact {
                write!(text, " {} |", cell(field_of(column, entries).unwrap_or("?")))?;
            }
            writeln!(text)?;
        }
    }
    let mut functions = entries.iter().filter(|entry| entry.what == "function").peekable();
    if functions.peek().is_some() {
        writeln!(text, "\n### Functions of `{schema}`\n\n| function | gives | meaning |")?;
        writeln!(text, "| --- | --- | --- |")?;
    }
    for function in functions {
        let (name, result) = (cell(&function.name), cell(&function.kind));
        writeln!(text, "| `{name}` | {result} | {} |", cell(function.comment()))?;
    }
    Ok(())
}

fn write_left_out(text: &mut String, fields: &[(&str, &str)]) -> std::fmt::Result {
    if fields.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n### Fields of the exchange that are left out\n")?;
    writeln!(text, "| field | why |\n| --- | --- |")?;
    for (field, reason) in fields {
        writeln!(text, "| {} | {} |", cell(field), cell(reason))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, comment: &str, is_nullable: bool) -> Entry {
        Entry {
            what: "column".into(),
            name: "offer_versions".into(),
            kind: "text".into(),
            column_name: Some(name.into()),
            is_nullable,
            comment: (!comment.is_empty()).then(|| comment.into()),
            key: None,
        }
    }

    #[test]
    fn fields_are_read_from_comments() {
        for (comment, field) in [
            ("Price, in fiat (adv.price).", Some("adv.price")),
            ("Number of the ad (Binance: adv.advNo), text.", Some("adv.advNo")),
            ("Market (dim_markets).", None),
            ("Key.", None),
        ] {
            assert_eq!(named_field(comment), field, "{comment}");
        }
    }

    #[test]
    fn what_lacks_is_told() {
        let entries = [
            column("price", "Price (adv.price).", false),
            column("odd", "Something.", false),
            column("silent", "", false),
            column("unsaid", "May lack (adv.x).", true),
        ];
        let told: Vec<String> = lacks("warehouse", &entries)
            .into_iter()
            .filter(|what| !what.starts_with("no fact"))
            .collect();
        assert_eq!(
            told,
            [
                "column warehouse.offer_versions.odd names no field of the exchange",
                "column warehouse.offer_versions.silent has no comment",
                "column warehouse.offer_versions.silent names no field of the exchange",
                "column warehouse.offer_versions.unsaid may be NULL and does not say what that means",
            ]
        );
    }
}
