//! Writes ads and advertisers with the full set of keys of the 2026 captures.
//!
//! Every ad is grown from a captured item: its keys, their order and the values that do not matter
//! here are the item's. The JSON of an ad is kept ready and only written anew when the ad changes;
//! what moves at every request is spliced in.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{put, quote};
use crate::market::{Ad, Advertiser, Event, World};

const CAPTURES: [&str; 4] = [
    include_str!(
        "../../../fixtures/binance/collector/collector-USDT-BOB-BUY-2026-08-22T21-39-35.json"
    ),
    include_str!(
        "../../../fixtures/binance/collector/collector-USDT-BOB-SELL-2026-08-22T21-39-35.json"
    ),
    include_str!(
        "../../../fixtures/binance/collector/collector-USDT-USD-BUY-2026-08-22T21-39-35.json"
    ),
    include_str!(
        "../../../fixtures/binance/collector/collector-USDT-USD-SELL-2026-08-22T21-39-35.json"
    ),
];

/// The members of a JSON object in their order, values as text without blanks.
#[derive(Debug)]
struct Fields(Vec<(String, String)>);

/// A captured item.
#[derive(Debug, Deserialize)]
pub struct Template {
    adv: Fields,
    advertiser: Fields,
}

#[derive(Deserialize)]
struct Capture {
    anuncios: Vec<Template>,
}

impl Template {
    /// The items that ads are grown from.
    ///
    /// # Panics
    ///
    /// If the captures that were committed are not valid, which a test of this module would show.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let parse = |text: &&str| -> Capture {
            serde_json::from_str(text).expect("the committed captures are valid")
        };
        CAPTURES.iter().map(parse).flat_map(|capture| capture.anuncios).collect()
    }

    /// `user` or `merchant`.
    #[must_use]
    pub fn user_type(&self) -> &str {
        self.advertiser.text("userType")
    }

    /// Empty, `MASS_MERCHANT`, `BLOCK_MERCHANT`.
    #[must_use]
    pub fn user_identity(&self) -> &str {
        self.advertiser.text("userIdentity")
    }

    /// 2 or 3.
    #[must_use]
    pub fn user_grade(&self) -> u8 {
        self.advertiser.text("userGrade").parse().unwrap_or(2)
    }
}

impl Fields {
    /// The value of a key without quotes, or nothing.
    fn text(&self, key: &str) -> &str {
        let value = self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        value.unwrap_or_default().trim_matches('"')
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    fields.push((key, without_blanks(value.get())));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The captures went through a library that put blanks after `:` and `,`; the exchange sends none.
fn without_blanks(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let keep = |c: &char| {
        let blank = !quoted && c.is_ascii_whitespace();
        quoted ^= *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        !blank
    };
    json.chars().filter(keep).collect()
}

/// Which endpoint an ad is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// The search, which hides much.
    Search,
    /// The advertiser's page, which fills some more fields.
    Profile,
}

/// What is written once and served often.
#[derive(Debug)]
pub struct Renderer {
    templates: Vec<Template>,
    /// `adv` objects by ad.
    ads: Vec<Vec<u8>>,
    /// `advertiser` objects by advertiser, cut where the seconds since the last sighting belong.
    advertisers: Vec<[Vec<u8>; 2]>,
}

impl Renderer {
    /// Renders the whole world.
    #[must_use]
    pub fn new(world: &World, templates: Vec<Template>) -> Self {
        let mut new = Self { templates, ads: Vec::new(), advertisers: Vec::new() };
        (0..world.advertisers.len()).for_each(|at| new.update(world, Event::Advertiser(at)));
        (0..world.ads.len()).for_each(|at| new.update(world, Event::Listed(at)));
        new
    }

    /// Renders anew what an event touched.
    pub fn update(&mut self, world: &World, event: Event) {
        match event {
            Event::Listed(at) | Event::Changed(at) => {
                self.ads.resize_with(self.ads.len().max(at + 1), Vec::new);
                self.ads[at] = self.adv(world, &world.ads[at], Detail::Search);
            }
            Event::Advertiser(at) => {
                self.advertisers.resize_with(self.advertisers.len().max(at + 1), Default::default);
                self.advertisers[at] = self.advertiser(&world.advertisers[at]);
            }
            Event::Delisted(_) => {}
        }
    }

    /// The captured item that an advertiser is grown from.
    #[must_use]
    pub fn template(&self, advertiser: &Advertiser) -> &Template {
        &self.templates[advertiser.template]
    }

    /// Appends one item of a search page. `privilege` is description, type and number of such ads,
    /// as JSON.
    pub(super) fn item(&self, out: &mut Vec<u8>, world: &World, at: usize, privilege: [&str; 3]) {
        let ad = &world.ads[at];
        out.extend_from_slice(br#"{"adv":"#);
        out.extend_from_slice(&self.ads[at]);
        out.extend_from_slice(br#","advertiser":"#);
        let [head, tail] = &self.advertisers[ad.advertiser];
        out.extend_from_slice(head);
        match world.active_seconds(&world.advertisers[ad.advertiser]) {
            Some(seconds) => put(out, format_args!("{seconds}")),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(tail);
        let [desc, kind, count] = privilege;
        put(
            out,
            format_args!(
                r#","privilegeDesc":{desc},"privilegeType":{kind},"privilegeTypeAdTotalCount":{count}}}"#
            ),
        );
    }

    /// An `adv` object.
    pub(super) fn adv(&self, world: &World, ad: &Ad, detail: Detail) -> Vec<u8> {
        let market = &world.markets[ad.market];
        let fiat = &world.catalog.fiats[market.fiat];
        let asset = &world.catalog.assets[market.asset];
        let (terms, derived) = (&ad.terms, &ad.derived);
        let mut out = Vec::with_capacity(4_096);
        for (key, captured) in &self.templates[ad.template].adv.0 {
            out.push(if out.is_empty() { b'{' } else { b',' });
            put(&mut out, format_args!("\"{key}\":"));
            let out = &mut out;
            match (key.as_str(), detail) {
                ("advNo", _) => quoted(out, ad.number),
                ("classify", _) => quote(out, terms.classify),
                ("tradeType", _) => quote(out, market.side.opposite().as_str()),
                ("asset", _) => quote(out, &asset.symbol),
                ("fiatUnit", _) => quote(out, &fiat.code),
                ("price", _) => quoted(out, terms.price),
                ("surplusAmount", _) | ("initAmount", Detail::Profile) => {
                    quoted(out, terms.surplus);
                }
                ("tradableQuantity", _) => quoted(out, derived.tradable),
                ("maxSingleTransAmount", _) => quoted(out, terms.max),
                ("minSingleTransAmount", _) => quoted(out, terms.min),
                ("dynamicMaxSingleTransAmount", _) => quoted(out, derived.dynamic_max),
                ("minSingleTransQuantity", _) => quoted(out, derived.min_quantity),
                ("maxSingleTransQuantity", _) => quoted(out, derived.max_quantity),
                ("dynamicMaxSingleTransQuantity", _) => quoted(out, derived.dynamic_max_quantity),
                ("payTimeLimit", _) => match terms.pay_time_limit {
                    Some(minutes) => put(out, format_args!("{minutes}")),
                    None => out.extend_from_slice(b"null"),
                },
                ("tradeMethods", _) => trade_methods(out, world, ad),
                ("assetScale", _) => put(out, format_args!("{}", asset.scale)),
                ("fiatScale", _) => put(out, format_args!("{}", fiat.scale)),
                ("priceScale", _) => put(out, format_args!("{}", market.price_scale)),
                ("fiatSymbol", _) => quote(out, &fiat.symbol),
                ("voucherTemplate", _) => json(out, ad.voucher().as_ref()),
                ("advSystemLabelRet", _) => json(out, ad.labels().as_ref()),
                (_, Detail::Profile) if page_only(out, key, ad) => {}
                _ => out.extend_from_slice(captured.as_bytes()),
            }
        }
        out.push(b'}');
        out
    }

    fn advertiser(&self, advertiser: &Advertiser) -> [Vec<u8>; 2] {
        let mut head = Vec::with_capacity(1_024);
        let mut cut = 0;
        for (key, captured) in &self.templates[advertiser.template].advertiser.0 {
            head.push(if head.is_empty() { b'{' } else { b',' });
            put(&mut head, format_args!("\"{key}\":"));
            match key.as_str() {
                "userNo" => quote(&mut head, &advertiser.user_no),
                "nickName" => quote(&mut head, &advertiser.nick_name),
                "monthOrderCount" => {
                    put(&mut head, format_args!("{}", advertiser.month_order_count));
                }
                "monthFinishRate" => {
                    put(&mut head, format_args!("{}", advertiser.month_finish_rate));
                }
                "positiveRate" => put(&mut head, format_args!("{}", advertiser.positive_rate)),
                "advConfirmTime" => json(&mut head, advertiser.confirm_seconds().as_ref()),
                "activeTimeInSecond" => cut = head.len(),
                _ => head.extend_from_slice(captured.as_bytes()),
            }
        }
        head.push(b'}');
        let tail = head.split_off(cut);
        [head, tail]
    }
}

/// Writes a field that only the page of the advertiser fills; `false`: it is none.
fn page_only(out: &mut Vec<u8>, key: &str, ad: &Ad) -> bool {
    /// When the first ads were made, in milliseconds since 1970.
    const FIRST: u64 = 1_697_132_794_294;
    let details = ad.details();
    let created = FIRST + ad.number % 10_000_000_000;
    match key {
        "advStatus" => out.push(b'1'),
        "priceType" => put(out, format_args!("{}", details.price_type)),
        "priceFloatingRatio" => quote(out, &details.price_floating_ratio),
        "rateFloatingRatio" => quote(out, "0.00000000"),
        "remarks" => quote(out, &details.remarks),
        "buyerKycLimit" => put(out, format_args!("{}", details.buyer_kyc_limit)),
        // A number, not a text: its digits are to be kept.
        "userTradeVolumeMin" => {
            let volume = details.user_trade_volume_min.as_deref();
            out.extend_from_slice(volume.unwrap_or("null").as_bytes());
        }
        "createTime" => put(out, format_args!("{created}")),
        "advUpdateTime" => put(out, format_args!("{}", created + u64::from(ad.wording) * 60_000)),
        _ => return false,
    }
    true
}

fn json(out: &mut Vec<u8>, value: Option<&impl serde::Serialize>) {
    serde_json::to_writer(out, &value).expect("plain values always serialize into memory");
}

/// A number as the exchange writes most of them: in quotes.
fn quoted(out: &mut Vec<u8>, number: impl fmt::Display) {
    put(out, format_args!("\"{number}\""));
}

fn trade_methods(out: &mut Vec<u8>, world: &World, ad: &Ad) {
    out.push(b'[');
    for (place, &(at, nameless)) in ad.terms.methods.iter().enumerate() {
        let method = &world.catalog.methods[at];
        let id = &method.identifier;
        if place > 0 {
            out.push(b',');
        }
        put(
            out,
            format_args!(
                r#"{{"payId":null,"payMethodId":"","payType":"{id}","payAccount":null,"payBank":null,"paySubBank":null,"identifier":"{id}","iconUrlColor":null,"tradeMethodName":"#
            ),
        );
        let name = (!nameless).then_some(&method.name);
        let short_name = method.short_name.as_ref().filter(|_| !nameless);
        let rest = serde_json::json!([name, short_name, method.color]);
        put(
            out,
            format_args!(
                r#"{},"tradeMethodShortName":{},"tradeMethodBgColor":{}}}"#,
                rest[0], rest[1], rest[2]
            ),
        );
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_keep_order_and_text() {
        let all = Template::all();
        assert!(all.len() > 80);
        assert_eq!(all[0].adv.0[0].0, "advNo");
        assert!(all.iter().any(|item| item.user_type() == "merchant"));
        assert!(
            all.iter().any(|item| item.user_type() == "user" && item.user_identity().is_empty())
        );
    }

    #[test]
    fn blanks_go_only_between_tokens() {
        assert_eq!(without_blanks(r#"["a b", "c\" d" , 1]"#), r#"["a b","c\" d",1]"#);
    }
}
