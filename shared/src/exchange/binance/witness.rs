//! The small public calls for agents: the first ads of a market, and a price. Another view of the same
//! ads, which is what makes it a witness.
//!
//! No answer of it was captured. What other readers of it take is taken: the list as `data.items` or as
//! `data` itself, the ad's fields in the item or in its `adv`, its number as `adNo` or `advNo`, prices as
//! number or text. An entry that can't be read costs itself; a list of such entries alone is unreadable.

use std::collections::HashSet;

use rust_decimal::Decimal;
use serde::Deserialize;

use super::value::{self, Raw, Written};
use super::wire::{AnswerError, open};

/// Entries that are looked at: more than are asked for, and few enough to hold.
const MAX_ITEMS: usize = 100;
/// Longest number of an ad that is believed; those seen have 20 digits.
const MAX_AD_NUMBER_CHARS: usize = 40;

/// An ad as the witness names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessAd {
    pub adv_no: String,
    pub price: Decimal,
}

/// The list of the witness, in its order, each ad once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WitnessAds {
    pub ads: Vec<WitnessAd>,
    /// Entries that could not be read.
    pub unreadable: usize,
}

#[derive(Deserialize)]
struct Listing<'a> {
    #[serde(borrow)]
    items: Vec<Written<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(borrow)]
    ad_no: Raw<'a>,
    #[serde(borrow)]
    adv_no: Raw<'a>,
    #[serde(borrow)]
    price: Raw<'a>,
    #[serde(borrow)]
    adv: Raw<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Quote<'a> {
    #[serde(borrow)]
    asset: Raw<'a>,
    #[serde(borrow)]
    fiat: Raw<'a>,
    #[serde(borrow)]
    price: Raw<'a>,
}

/// The first ads of a market.
pub fn parse_witness_ads(bytes: &[u8]) -> Result<WitnessAds, AnswerError> {
    let data = open(bytes)?;
    let items = items(data)?;
    if items.len() > MAX_ITEMS {
        let detail = format!("lists {} ads, {MAX_ITEMS} are believed", items.len());
        return Err(AnswerError::Unparsable(detail));
    }
    let mut list = WitnessAds::default();
    let mut known = HashSet::new();
    for item in items {
        match ad(item) {
            Some(ad) if known.insert(ad.adv_no.clone()) => list.ads.push(ad),
            Some(_) => {}
            None => list.unreadable += 1,
        }
    }
    if list.ads.is_empty() && list.unreadable > 0 {
        let detail = format!("none of its {} ads can be read", list.unreadable);
        return Err(AnswerError::Unparsable(detail));
    }
    Ok(list)
}

fn items(data: Written<'_>) -> Result<Vec<Written<'_>>, AnswerError> {
    let json = data.get();
    let items = if json.starts_with('[') {
        serde_json::from_str(json)
    } else {
        serde_json::from_str::<Listing<'_>>(json).map(|listing| listing.items)
    };
    items.map_err(|error| AnswerError::Unparsable(error.to_string()))
}

fn ad(item: Written<'_>) -> Option<WitnessAd> {
    let entry: Entry<'_> = serde_json::from_str(item.get()).ok()?;
    let entry = match entry.adv {
        Some(adv) => serde_json::from_str(adv.get()).ok()?,
        None => entry,
    };
    let number = value::text(entry.ad_no.or(entry.adv_no)?).ok()?;
    let is_number = (1..=MAX_AD_NUMBER_CHARS).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let price = price(entry.price)?;
    is_number.then(|| WitnessAd { adv_no: number.into_owned(), price })
}

/// No ad is free.
fn price(raw: Raw<'_>) -> Option<Decimal> {
    value::amount(raw?).ok().filter(|price| !price.is_zero())
}

/// The price that is quoted for a market of this fiat and asset.
pub fn parse_witness_quote(fiat: &str, asset: &str, bytes: &[u8]) -> Result<Decimal, AnswerError> {
    let data = open(bytes)?;
    let quote: Quote<'_> = serde_json::from_str(data.get())
        .map_err(|error| AnswerError::Unparsable(error.to_string()))?;
    for (name, told, asked) in [("fiat", quote.fiat, fiat), ("asset", quote.asset, asset)] {
        if let Some(told) = told.and_then(|raw| value::text(raw).ok())
            && told != asked
        {
            return Err(AnswerError::Unparsable(format!("is of {name} {told:?}, not {asked:?}")));
        }
    }
    price(quote.price).ok_or_else(|| AnswerError::Unparsable("has no price".into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rust_decimal::dec;

    use super::*;

    fn list(data: &str) -> Result<Vec<(String, String)>, AnswerError> {
        let body = format!(r#"{{"code":"000000","success":true,"data":{data}}}"#);
        let ads = parse_witness_ads(body.as_bytes())?.ads;
        Ok(ads.into_iter().map(|ad| (ad.adv_no, ad.price.to_string())).collect())
    }

    fn quote(data: &str) -> Result<Decimal, AnswerError> {
        let body = format!(r#"{{"code":"000000","data":{data},"success":true}}"#);
        parse_witness_quote("CNY", "USDT", body.as_bytes())
    }

    /// All forms that other readers take, and the reverse of each type.
    #[test]
    fn every_known_form_of_the_list_is_read() {
        let ads = [("13912345678901234567".to_owned(), "6.660".to_owned())];
        for data in [
            r#"{"items":[{"adNo":"13912345678901234567","price":"6.660","more":{}}],"total":1}"#,
            r#"{"items":[{"adNo":13912345678901234567,"price":6.660}]}"#,
            r#"[{"adNo":"13912345678901234567","price":6.660}]"#,
            r#"[{"advNo":"13912345678901234567","price":"6.660"}]"#,
            r#" [{"adv":{"advNo":"13912345678901234567","price":"6.660"},"advertiser":{}}]"#,
            r#"{"items":[{"adNo":null,"advNo":"13912345678901234567","price":"6.660","adv":null}]}"#,
        ] {
            assert_eq!(list(data).unwrap(), ads, "{data}");
        }
    }

    #[test]
    fn an_entry_that_cannot_be_read_costs_itself() {
        let body = br#"{"code":"000000","data":{"items":[
            {"adNo":"1","price":"6.66"}, {"adNo":"2","price":"NaN"}, {"adNo":"3"}, {"price":"1"}, 7, null,
            {"adNo":"","price":"1"}, {"adNo":"4","price":"0"}, {"adNo":"5 6","price":"1"},
            {"adNo":"7","price":"-1"}, {"adNo":"1","price":"9"}]}}"#;
        let list = parse_witness_ads(body).unwrap();
        assert_eq!(list.ads, [WitnessAd { adv_no: "1".into(), price: dec!(6.66) }]);
        assert_eq!(list.unreadable, 9);
    }

    #[test]
    fn what_is_no_list_is_unreadable_and_an_empty_one_is_not() {
        assert_eq!(list(r#"{"items":[]}"#).unwrap(), []);
        for data in [r#"{"items":[{"adNo":"1"}]}"#, r#"{"list":[]}"#, "7", "null", r#""x""#] {
            let failure = list(data).unwrap_err().failure();
            assert_eq!(failure, crate::job::Failure::Unparsable, "{data}");
        }
        let many = format!("[{}]", vec![r#"{"adNo":"1","price":1}"#; MAX_ITEMS + 1].join(","));
        assert!(list(&many).is_err());
        let refused = parse_witness_ads(br#"{"code":"000002","message":"illegal parameter"}"#);
        assert!(refused.unwrap_err().is_permanent());
    }

    #[test]
    fn a_quote_keeps_its_digits() {
        assert_eq!(
            quote(r#"{"asset":"USDT","fiat":"CNY","price":6.660}"#).unwrap().to_string(),
            "6.660"
        );
        assert_eq!(quote(r#"{"price":"6.66"}"#).unwrap(), dec!(6.66));
        for data in [
            r#"{"asset":"BTC","fiat":"CNY","price":6.66}"#,
            r#"{"asset":"USDT","fiat":"VES","price":6.66}"#,
            r#"{"asset":"USDT","fiat":"CNY","price":null}"#,
            r#"{"asset":"USDT","fiat":"CNY","price":0}"#,
            r#"{"asset":"USDT","fiat":"CNY","price":[6.66]}"#,
            "[]",
        ] {
            assert!(quote(data).is_err(), "{data}");
        }
    }

    proptest! {
        /// Whatever the bytes: an answer or an error.
        #[test]
        fn no_bytes_panic(data in r#"[\[\]{}":,0-9a-zA-Z.\-]{0,80}"#) {
            drop(list(&data));
            drop(quote(&data));
        }
    }
}
