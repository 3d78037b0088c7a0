//! The page of the search that is as it always is, in one pass over its bytes.
//!
//! Nearly every answer is valid JSON of the known shape. Such a one is read here at a fifth of the cost;
//! whatever else it is, the readers for anything take it apart. Both find the same: what an ad's fields
//! mean is decided by the same [`Reader`](super::search::Reader).

use std::sync::LazyLock;

use super::envelope::{MAX_ITEMS, SUCCESS};
use super::shapes;
use super::value::{self, Raw, Written};
use super::wire::{Adv, Advertiser, TradeMethod};
use crate::exchange::shape::{Known, Mark, Met};

/// An answer that is not as it always is.
pub(super) struct IsOther;

/// One element of `data`, as written.
pub(super) struct Item<'a> {
    pub(super) adv: Adv<'a>,
    pub(super) methods: Vec<TradeMethod<'a>>,
    pub(super) advertiser: Advertiser<'a>,
    pub(super) privilege_type: Raw<'a>,
}

// What marks say: the index of an item's field, or one of those after them.
const ADVERTISER: usize = Adv::NAMES.len();
const PRIVILEGE_TYPE: usize = ADVERTISER + Advertiser::NAMES.len();
const FIELDS: usize = PRIVILEGE_TYPE + 1;
const METHOD_FIELD: usize = FIELDS;
const ITEM: usize = METHOD_FIELD + TradeMethod::NAMES.len();
const METHOD: usize = ITEM + 1;
const CODE: usize = METHOD + 1;
const SUCCEEDED: usize = CODE + 1;
const TOTAL: usize = SUCCEEDED + 1;

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let mut known = shapes::read().remove("search").expect("the shape of the search is known");
    let objects = [
        ("data[].adv", Adv::NAMES, 0),
        ("data[].advertiser", Advertiser::NAMES, ADVERTISER),
        ("data[]", &["privilegeType"], PRIVILEGE_TYPE),
        ("data[].adv.tradeMethods[]", TradeMethod::NAMES, METHOD_FIELD),
    ];
    for (path, names, first) in objects {
        for (index, name) in names.iter().enumerate() {
            known.mark(&format!("{path}.{name}"), Mark::Value(first + index));
        }
    }
    known.mark("data[]", Mark::Begin(ITEM));
    known.mark("data[].adv.tradeMethods[]", Mark::Begin(METHOD));
    known.mark("code", Mark::Value(CODE));
    known.mark("success", Mark::Value(SUCCEEDED));
    known.mark("total", Mark::Value(TOTAL));
    known
});

/// Reads an answer to the search; gives the declared total. Each item goes to `give` once it is whole, which says whether
/// it is as always: a list of all items would be a second page in memory.
pub(super) fn read<'a>(
    bytes: &'a [u8],
    give: impl FnMut(Item<'a>) -> bool,
) -> Result<Option<u32>, IsOther> {
    let text = std::str::from_utf8(bytes).map_err(|_| IsOther)?;
    let (fields, methods) = ([None; FIELDS], Vec::new());
    let mut page = Page { give, items: 0, fields, methods, total: None };
    let mut succeeded = (false, false);
    let is_known = KNOWN.follow(text, |met| match met {
        Met::Begin(ITEM) => page.begin(),
        Met::Begin(_) => {
            page.methods.push([None; TradeMethod::NAMES.len()]);
            true
        }
        Met::Value(CODE, value) => {
            succeeded.0 = value.trim_matches('"') == SUCCESS;
            succeeded.0
        }
        Met::Value(SUCCEEDED, value) => {
            succeeded.1 = value == "true";
            succeeded.1
        }
        Met::Value(mark, value) => {
            page.take(mark, Written::new(value));
            true
        }
    });
    if is_known && succeeded == (true, true) && page.end() { Ok(page.total) } else { Err(IsOther) }
}

/// A page while it is read.
struct Page<'a, F> {
    give: F,
    /// Items that were begun.
    items: usize,
    /// Of the item that is being read.
    fields: [Raw<'a>; FIELDS],
    methods: Vec<[Raw<'a>; TradeMethod::NAMES.len()]>,
    total: Option<u32>,
}

impl<'a, F: FnMut(Item<'a>) -> bool> Page<'a, F> {
    /// Begins another item; whether there may be one.
    fn begin(&mut self) -> bool {
        let is_good = self.end();
        self.items += 1;
        is_good && self.items <= MAX_ITEMS
    }

    /// Ends the item that was begun, if one was; whether it is one as always.
    fn end(&mut self) -> bool {
        if self.items == 0 {
            return true;
        }
        let mut fields = self.fields.iter_mut().map(Option::take);
        let item = Item {
            adv: Adv::of(&mut fields),
            advertiser: Advertiser::of(&mut fields),
            privilege_type: fields.next().flatten(),
            methods: self.methods.drain(..).map(|one| TradeMethod::of(one.into_iter())).collect(),
        };
        debug_assert!(fields.next().is_none(), "each field belongs to one item only");
        (self.give)(item)
    }

    fn take(&mut self, mark: usize, raw: Written<'a>) {
        if mark == TOTAL {
            self.total = value::count(raw);
        } else if let Some(field) = self.fields.get_mut(mark) {
            *field = Some(raw);
        } else if let Some(method) = self.methods.last_mut() {
            method[mark - METHOD_FIELD] = Some(raw);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::super::search::{parse_quickly, parse_thoroughly};
    use super::super::shapes::findings_of;
    use crate::domain::{Market, Side};

    /// A page of 21 ads as it was captured, within the envelope of every answer.
    static PAGE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(borrow)]
            anuncios: Written<'a>,
        }
        let line = include_str!(
            "../../../../fixtures/binance/collector/collector-USDT-BOB-SELL-2026-08-22T21-39-35.json"
        );
        let ads = serde_json::from_str::<Line<'_>>(line).unwrap().anuncios.get();
        let page = format!(
            r#"{{"code":"000000","message":null,"messageDetail":null,"data":{ads},"total":101,"success":true}}"#
        );
        page.into_bytes()
    });

    use super::*;

    fn market() -> Market {
        Market::new("BOB", "USDT", Side::Sell).unwrap()
    }

    /// Whether it went the quick way; if so, it must have found what the other way finds, which must have
    /// nothing to say of the shape.
    fn is_quick(bytes: &[u8]) -> bool {
        let Some(quick) = parse_quickly(&market(), bytes) else { return false };
        assert_eq!(Ok(quick), parse_thoroughly(&market(), bytes));
        assert_eq!(findings_of("search", bytes), []);
        true
    }

    fn changed(from: &str, to: &str) -> Vec<u8> {
        let page = String::from_utf8(PAGE.clone()).unwrap();
        assert!(page.contains(from), "{from} is not on the page");
        page.replacen(from, to, 1).into_bytes()
    }

    #[test]
    fn a_page_as_captured_goes_the_quick_way() {
        assert_eq!(parse_quickly(&market(), &PAGE).map(|page| page.ads.len()), Some(21));
        assert!(is_quick(&PAGE));
    }

    #[test]
    fn blanks_and_another_order_do_not_matter() {
        let value: serde_json::Value = serde_json::from_slice(&PAGE).unwrap();
        assert!(is_quick(serde_json::to_string_pretty(&value).unwrap().as_bytes()));
        assert!(is_quick(&changed(
            r#""code":"000000","message":null"#,
            r#""message":null,"code":"000000""#
        )));
    }

    #[test]
    fn an_empty_page_goes_the_quick_way() {
        let page = br#"{"code":"000000","message":null,"messageDetail":null,"data":[],"total":0,"success":true}"#;
        assert!(is_quick(page));
    }

    #[test]
    fn whatever_is_odd_goes_the_other_way() {
        for (from, to) in [
            (r#""code":"000000""#, r#""code":"000002""#),
            (r#""success":true"#, r#""success":false"#),
            (r#""message":null"#, r#""message":"busy""#),
            (r#""message":null,"#, ""),
            (r#""message":null"#, r#""message":null,"message":null"#),
            (r#""total":101"#, r#""total":"101""#),
            (r#""total":101"#, r#""total":0101"#),
            (r#""total":101"#, r#""total":101."#),
            (r#""total":101"#, r#""total":NaN"#),
            (r#""total":101"#, r#""total":101,"more":1"#),
            (r#""success":true}"#, r#""success":true} 1"#),
            (r#""success":true}"#, r#""success":true,}"#),
            (r#""success":true}"#, r#""success":true]"#),
            (r#""success":true}"#, r#""success":true"#),
            (r#""price": ""#, r#""price": "x"#),
            (r#""price": ""#, r#""pr\u0069ce": ""#),
            (r#""userNo": ""#, "\"userNo\": \"\u{1}"),
            (r#""userNo": ""#, r#""userNo": "\x"#),
            (r#""classify": ""#, r#""classify": "un"#),
        ] {
            assert!(!is_quick(&changed(from, to)), "{from} as {to}");
        }
        assert!(!is_quick(b""));
        assert!(!is_quick(&[&PAGE[..], b"\xff"].concat()));
    }

    /// An edit at a share of the page: bytes that go, and bytes that come in their place.
    fn edit() -> impl Strategy<Value = (usize, usize, &'static [u8])> {
        let piece = prop::sample::select(vec![
            &b""[..],
            b" ",
            b"\n",
            b"\"",
            b"\\",
            b"\\n",
            b"\\u0041",
            b"\\ud800",
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b"null",
            b"true",
            b"0",
            b"-1",
            b"1e5",
            b"NaN",
            b"\x01",
            b"\xff",
            b"\xc3\xa9",
            b"\"adv\":{},",
            b"\"price\":null,",
            b"\"1.50\"",
            b",{}",
        ]);
        (0..PAGE.len(), prop_oneof![Just(0usize), 1usize..24], piece)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn both_ways_find_the_same(edits in prop::collection::vec(edit(), 1..3)) {
            let mut page = PAGE.clone();
            for (at, gone, piece) in edits {
                let at = at.min(page.len());
                let end = (at + gone).min(page.len());
                page.splice(at..end, piece.iter().copied());
            }
            is_quick(&page);
        }

        /// Values exchanged for others of the page, which leaves it whole more often.
        #[test]
        fn both_ways_read_values_alike(from in 0usize..1_500, to in 0usize..1_500) {
            let text = String::from_utf8(PAGE.clone()).unwrap();
            let values: Vec<(usize, usize)> = text
                .match_indices("\":")
                .filter_map(|(at, _)| {
                    let start = at + 2;
                    let end = text[start..].find([',', '}'])? + start;
                    Some((start, end))
                })
                .collect();
            let (from, to) = (values[from % values.len()], values[to % values.len()]);
            let page = [&text[..to.0], &text[from.0..from.1], &text[to.1..]].concat();
            is_quick(page.as_bytes());
        }
    }
}
