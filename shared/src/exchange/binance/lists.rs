//! The lists that tell which markets there are.

use serde::{Deserialize, Deserializer};

use super::wire::{AnswerError, open_list};
use crate::domain::{Market, PaymentMethod, Side};

/// A fiat of the fiat list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FiatListed {
    #[serde(rename = "currencyCode")]
    pub code: String,
    #[serde(rename = "currencySymbol", default, deserialize_with = "or_none")]
    pub symbol: Option<String>,
    #[serde(rename = "currencyScale", default, deserialize_with = "or_none")]
    pub scale: Option<i16>,
    #[serde(rename = "countryCode", default, deserialize_with = "or_none")]
    pub country: Option<String>,
}

/// Whether a code can name a market. An entry with another is left out, and the list is read all the
/// same.
fn is_code(code: &str) -> bool {
    let can_name = Market::new(code, code, Side::Buy).is_ok();
    if !can_name {
        tracing::error!(code, "a listed code can't name a market and is left out");
    }
    can_name
}

/// A decoration: of another type than it should have, it is absent, and the list is read all the same.
fn or_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    // A database can't hold NUL.
    let has_nul = value.as_str().is_some_and(|text| text.contains('\0'));
    Ok(serde_json::from_value(value).ok().filter(|_| !has_nul))
}

/// The fiats that are served. An empty list is not believed: it would delist everything.
pub fn parse_fiat_list(bytes: &[u8]) -> Result<Vec<FiatListed>, AnswerError> {
    let mut fiats: Vec<FiatListed> = open_list(bytes)?;
    fiats.retain(|fiat| is_code(&fiat.code));
    if fiats.is_empty() {
        return Err(AnswerError::Unparsable("lists no fiat".into()));
    }
    Ok(fiats)
}

/// An asset that can be traded for a fiat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssetListed {
    pub symbol: String,
    pub name: Option<String>,
}

/// Assets of a fiat; the lists of the two sides may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssetLists {
    pub buy: Vec<AssetListed>,
    pub sell: Vec<AssetListed>,
}

impl AssetLists {
    #[must_use]
    pub fn side(&self, side: Side) -> &[AssetListed] {
        match side {
            Side::Buy => &self.buy,
            Side::Sell => &self.sell,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct PortalConfig {
    areas: Vec<Area>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Area {
    area: String,
    trade_sides: Option<Vec<TradeSide>>,
}

#[derive(Deserialize)]
pub(super) struct TradeSide {
    side: String,
    assets: Option<Vec<AreaAsset>>,
}

#[derive(Deserialize)]
pub(super) struct AreaAsset {
    asset: String,
    #[serde(default, deserialize_with = "or_none")]
    description: Option<String>,
}

/// The area whose ads the search lists.
const P2P_AREA: &str = "P2P";

/// The assets of a fiat's P2P area. Long names often stand in another area only. A list without assets, or with
/// sides that nobody knows, is not believed: it would delist markets of the fiat.
pub fn parse_assets(bytes: &[u8]) -> Result<AssetLists, AnswerError> {
    let config: PortalConfig = open_list(bytes)?;
    let mut areas = config.areas.iter().filter(|area| area.area == P2P_AREA).peekable();
    if areas.peek().is_none() {
        return Err(AnswerError::Unparsable(format!("has no area {P2P_AREA}")));
    }
    let is_known = |side: &str| Side::BOTH.iter().any(|known| known.as_str() == side);
    let mut sides = areas.flat_map(|area| area.trade_sides.iter().flatten());
    if let Some(odd) = sides.find(|listed| !is_known(&listed.side)) {
        let detail = format!("the area {P2P_AREA} has a side {:?}", odd.side);
        return Err(AnswerError::Unparsable(detail));
    }
    let every_asset = || {
        let sides = config.areas.iter().flat_map(|area| area.trade_sides.iter().flatten());
        sides.flat_map(|side| side.assets.iter().flatten())
    };
    let name_of = |symbol: &str| {
        let named = |asset: &&AreaAsset| asset.asset == symbol;
        every_asset()
            .filter(named)
            .find_map(|asset| asset.description.clone().filter(|name| !name.is_empty()))
    };
    let list = |side: Side| -> Vec<AssetListed> {
        let area = config.areas.iter().filter(|area| area.area == P2P_AREA);
        let sides = area.flat_map(|area| area.trade_sides.iter().flatten());
        let assets = sides
            .filter(|listed| listed.side == side.as_str())
            .flat_map(|s| s.assets.iter().flatten());
        let assets = assets.filter(|a| is_code(&a.asset));
        assets.map(|a| AssetListed { symbol: a.asset.clone(), name: name_of(&a.asset) }).collect()
    };
    let lists = AssetLists { buy: list(Side::Buy), sell: list(Side::Sell) };
    if lists.buy.is_empty() && lists.sell.is_empty() {
        return Err(AnswerError::Unparsable(format!("the area {P2P_AREA} lists no asset")));
    }
    Ok(lists)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilterConditions {
    trade_methods: Option<Vec<ListedMethod>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedMethod {
    #[serde(default, deserialize_with = "or_none")]
    identifier: Option<String>,
    #[serde(default, deserialize_with = "or_none")]
    trade_method_name: Option<String>,
    #[serde(default, deserialize_with = "or_none")]
    trade_method_short_name: Option<String>,
}

/// The payment methods of a fiat, sorted, each once; entries without identifier say nothing.
pub fn parse_payment_methods(bytes: &[u8]) -> Result<Vec<PaymentMethod>, AnswerError> {
    let conditions: FilterConditions = open_list(bytes)?;
    let mut methods: Vec<PaymentMethod> = conditions
        .trade_methods
        .into_iter()
        .flatten()
        .filter_map(|method| {
            Some(PaymentMethod {
                identifier: method.identifier.filter(|id| !id.is_empty() && !id.contains('\0'))?,
                name: method.trade_method_name,
                short_name: method.trade_method_short_name,
            })
        })
        .collect();
    // A named entry goes before its nameless twin, so that the twin is the one that is dropped.
    methods
        .sort_by(|a, b| (&a.identifier, a.name.is_none()).cmp(&(&b.identifier, b.name.is_none())));
    methods.dedup_by(|a, b| a.identifier == b.identifier);
    Ok(methods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_come_from_the_p2p_area_and_names_from_any() {
        let bytes = include_bytes!(
            "../../../../fixtures/binance/config/portal-config-KZT-2022-06-20T17-34.json"
        );
        let lists = parse_assets(bytes).unwrap();
        let symbols: Vec<_> = lists.side(Side::Buy).iter().map(|a| a.symbol.as_str()).collect();
        assert_eq!(symbols, ["USDT", "BTC", "BUSD", "BNB", "ETH", "SHIB"]);
        assert_eq!(lists.sell[0].name.as_deref(), Some("Tether"));
        assert_eq!(lists.sell[5].name, None);
    }

    #[test]
    fn an_empty_fiat_list_is_not_believed() {
        let error = parse_fiat_list(br#"{"code":"000000","data":[],"success":true}"#).unwrap_err();
        assert_eq!(error.failure(), crate::job::Failure::Unparsable);
    }

    #[test]
    fn a_list_that_would_delist_a_fiat_is_not_believed() {
        let bodies = [
            "[]",
            r#"[{"area":"EXPRESS","tradeSides":[{"side":"BUY","assets":[{"asset":"USDT"}]}]}]"#,
            r#"[{"area":"P2P","tradeSides":null}]"#,
            r#"[{"area":"P2P","tradeSides":[]}]"#,
            r#"[{"area":"P2P","tradeSides":[{"side":"BUY","assets":null},{"side":"SELL","assets":[]}]}]"#,
            r#"[{"area":"P2P","tradeSides":[{"side":"BUY","assets":[{"asset":"U SDT"}]}]}]"#,
            r#"[{"area":"P2P","tradeSides":[{"side":"BUY","assets":[{"asset":"USDT"}]},{"side":"sell","assets":[{"asset":"USDT"}]}]}]"#,
        ];
        for areas in bodies {
            let body = format!(r#"{{"code":"000000","success":true,"data":{{"areas":{areas}}}}}"#);
            let error = parse_assets(body.as_bytes()).unwrap_err();
            assert_eq!(error.failure(), crate::job::Failure::Unparsable, "{areas}");
        }
        let one = r#"{"code":"000000","success":true,"data":{"areas":[{"area":"P2P","tradeSides":[{"side":"BUY","assets":[{"asset":"USDT"}]}]}]}}"#;
        assert_eq!(parse_assets(one.as_bytes()).unwrap().buy.len(), 1);
    }

    #[test]
    fn an_odd_code_is_left_out_alone() {
        let body = br#"{"code":"000000","data":[{"currencyCode":"V ES"},{"currencyCode":"BOB"}]}"#;
        let codes: Vec<_> =
            parse_fiat_list(body).unwrap().into_iter().map(|fiat| fiat.code).collect();
        assert_eq!(codes, ["BOB"]);
    }

    #[test]
    fn a_retyped_decoration_does_not_cost_the_list() {
        let body = br#"{"code":"000000","data":[{"currencyCode":"VES","currencyScale":"two","countryCode":7}]}"#;
        let fiats = parse_fiat_list(body).unwrap();
        assert_eq!((fiats[0].code.as_str(), fiats[0].scale), ("VES", None));
    }

    #[test]
    fn a_null_name_does_not_hide_a_name() {
        let body = br#"{"code":"000000","success":true,"data":{"tradeMethods":[
            {"identifier":"BANK","tradeMethodName":null},
            {"identifier":"BANK","tradeMethodName":"Bank Transfer"},
            {"identifier":null,"tradeMethodName":"?"}]}}"#;
        let methods = parse_payment_methods(body).unwrap();
        assert_eq!(methods.len(), 1);
        assert_eq!(methods[0].name.as_deref(), Some("Bank Transfer"));
    }
}
