//! The calls that say what is traded and by whom.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::render::Detail;
use super::{Answer, Renderer};
use crate::market::{Ad, Side, TICK_MS, World};

const MS_OF_A_DAY: u64 = 86_400_000;
/// `null`.
const NULL: () = ();

#[derive(Deserialize)]
struct FiatBody {
    fiat: Option<String>,
}

/// The fiat that a body names.
fn fiat_of(body: &[u8]) -> Option<String> {
    let parsed = serde_json::from_slice::<FiatBody>(body).ok()?;
    parsed.fiat.filter(|fiat| !fiat.is_empty())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FiatItem<'a> {
    currency_code: &'a str,
    currency_symbol: &'a str,
    currency_scale: u32,
    country_code: &'a str,
    icon_url: Option<&'a str>,
    description: Option<&'a str>,
}

pub(super) fn fiat_list(world: &World) -> Answer {
    let item = |fiat: &'_ crate::market::catalog::Fiat| -> serde_json::Result<Box<RawValue>> {
        serde_json::value::to_raw_value(&FiatItem {
            currency_code: &fiat.code,
            currency_symbol: &fiat.symbol,
            currency_scale: fiat.scale,
            country_code: fiat.code.get(..2).unwrap_or(&fiat.code),
            icon_url: None,
            description: None,
        })
    };
    let listed = world.catalog.fiats.iter().filter(|fiat| fiat.listed);
    let items: Vec<_> = listed.filter_map(|fiat| item(fiat).ok()).collect();
    Answer::data(&items)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    fiat: &'a str,
    areas: Vec<Area<'a>>,
    filter_default_values: FilterDefaults,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FilterDefaults {
    publisher_type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Area<'a> {
    #[serde(rename = "area")]
    name: &'static str,
    pro_merchant_filter_available: bool,
    trade_sides: Vec<TradeSide<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TradeSide<'a> {
    side: &'static str,
    assets: Vec<AssetItem<'a>>,
    convert_assets: [(); 0],
    trade_methods: Vec<Identifier<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AssetItem<'a> {
    asset: &'a str,
    description: (),
    icon_url: (),
}

#[derive(Serialize)]
struct Identifier<'a> {
    identifier: &'a str,
}

pub(super) fn portal_config(world: &World, body: &[u8]) -> Answer {
    let Some(code) = fiat_of(body) else {
        return Answer::illegal_parameter();
    };
    let listed = world.catalog.fiat(&code);
    let known = world.catalog.fiats.iter().any(|fiat| fiat.code == code)
        || world.catalog.delisted.contains(&code);
    let side = |(at, side): (usize, Side), most: usize| {
        let count = listed.map_or(2, |(fiat, _)| world.catalog.offered_assets(fiat, at));
        let methods = listed.map(|(_, fiat)| fiat.methods.as_slice()).unwrap_or_default();
        let identifier =
            |&method: &usize| Identifier { identifier: &world.catalog.methods[method].identifier };
        let assets = world.catalog.assets.iter().take(count.min(most));
        TradeSide {
            side: side.as_str(),
            assets: assets
                .map(|asset| AssetItem { asset: &asset.symbol, description: NULL, icon_url: NULL })
                .collect(),
            convert_assets: [],
            trade_methods: methods.iter().map(identifier).collect(),
        }
    };
    let area = |name, most| Area {
        name,
        pro_merchant_filter_available: name == "P2P",
        trade_sides: Side::ALL.into_iter().enumerate().map(|one| side(one, most)).collect(),
    };
    // Express trades a few assets only: who reads its list instead of P2P's misses markets.
    let areas = if known { vec![area("EXPRESS", 3), area("P2P", usize::MAX)] } else { vec![] };
    let filter_default_values = FilterDefaults { publisher_type: "" };
    Answer::data(&Config { fiat: &code, areas, filter_default_values })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Conditions<'a> {
    trade_methods: Vec<MethodItem<'a>>,
    countries: Vec<Country<'a>>,
    periods: [u16; 6],
    preferred_country: (),
}

#[derive(Serialize)]
struct Country<'a> {
    scode: &'a str,
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MethodItem<'a> {
    id: (),
    pay_method_id: &'static str,
    pay_account: (),
    pay_bank: (),
    pay_sub_bank: (),
    pay_type: &'a str,
    identifier: &'a str,
    icon_url_color: (),
    trade_method_name: &'a str,
    trade_method_short_name: Option<&'a str>,
    trade_method_bg_color: &'a str,
}

pub(super) fn filter_conditions(world: &World, body: &[u8]) -> Answer {
    let Some(code) = fiat_of(body) else {
        return Answer::illegal_parameter();
    };
    let methods = world.catalog.fiat(&code).map(|(_, fiat)| fiat.methods.as_slice());
    let item = |&at: &usize| {
        let method = &world.catalog.methods[at];
        MethodItem {
            id: NULL,
            pay_method_id: "",
            pay_account: NULL,
            pay_bank: NULL,
            pay_sub_bank: NULL,
            pay_type: &method.identifier,
            identifier: &method.identifier,
            icon_url_color: NULL,
            trade_method_name: &method.name,
            trade_method_short_name: method.short_name.as_deref(),
            trade_method_bg_color: &method.color,
        }
    };
    let country = code.get(..2).unwrap_or(&code);
    Answer::data(&Conditions {
        trade_methods: methods.unwrap_or_default().iter().map(item).collect(),
        countries: vec![Country { scode: country, name: country }],
        periods: [15, 30, 45, 60, 180, 360],
        preferred_country: NULL,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Profile<'a> {
    user_detail_vo: UserDetail<'a>,
    buy_list: Vec<Box<RawValue>>,
    sell_list: Vec<Box<RawValue>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "as the answer has them")]
struct UserDetail<'a> {
    user_no: &'a str,
    nick_name: &'a str,
    user_grade: u8,
    user_identity: &'a str,
    margin: u32,
    margin_unit: Option<&'a str>,
    order_count: u32,
    month_order_count: u32,
    month_finish_rate: &'a RawValue,
    adv_confirm_time: i32,
    email_verified: bool,
    bind_mobile: bool,
    kyc_verified: bool,
    kyc_type: u8,
    kyc_status: &'a str,
    user_stats_ret: UserStats<'a>,
    user_kyc_ret: UserKyc<'a>,
    active_time_in_second: Option<u64>,
    is_company_account: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserStats<'a> {
    register_days: u64,
    first_order_days: u64,
    #[serde(rename = "avgReleaseTimeOfLatest30day")]
    avg_release_time: &'a RawValue,
    #[serde(rename = "avgPayTimeOfLatest30day")]
    avg_pay_time: &'a RawValue,
    #[serde(rename = "finishRateLatest30day")]
    finish_rate: &'a RawValue,
    #[serde(rename = "completedOrderNumOfLatest30day")]
    month_orders: u32,
    completed_order_num: u32,
    completed_order_total_btc_amount: &'a RawValue,
    counterparty_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserKyc<'a> {
    kyc_type: &'a str,
    address_status: Option<&'a str>,
}

pub(super) fn profile(world: &World, renderer: &Renderer, query: &str) -> Answer {
    let user_no = query.split('&').find_map(|pair| pair.strip_prefix("userNo="));
    let found = |user: &&str| world.advertisers.iter().position(|known| known.user_no == **user);
    let Some(at) = user_no.as_ref().and_then(found) else {
        return Answer::illegal_parameter();
    };
    let advertiser = &world.advertisers[at];
    let template = renderer.template(advertiser);
    let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap_or_default();
    let list = |side: Side| {
        let of_side = |ad: &&Ad| {
            ad.listed && ad.advertiser == at && world.markets[ad.market].side.opposite() == side
        };
        let adv = |ad: &Ad| {
            let json = String::from_utf8(renderer.adv(world, ad, Detail::Profile));
            raw(&json.unwrap_or_default())
        };
        world.ads.iter().filter(of_side).map(adv).collect()
    };
    // Figures follow from the month's orders, so that they change when these do.
    let orders = advertiser.month_order_count;
    let decimals = |whole: u32| raw(&format!("{whole}.{:02}", orders % 100));
    let (pay, release, volume) = (decimals(100), decimals(40), decimals(orders / 10));
    let finish_rate = raw(&advertiser.month_finish_rate);
    Answer::data(&Profile {
        user_detail_vo: UserDetail {
            user_no: &advertiser.user_no,
            nick_name: &advertiser.nick_name,
            user_grade: template.user_grade(),
            user_identity: template.user_identity(),
            margin: 0,
            margin_unit: None,
            order_count: 0,
            month_order_count: orders,
            month_finish_rate: &finish_rate,
            adv_confirm_time: advertiser.confirm_seconds().unwrap_or(0),
            email_verified: true,
            bind_mobile: true,
            kyc_verified: true,
            kyc_type: 1,
            kyc_status: "PASS",
            user_stats_ret: UserStats {
                register_days: 900 + world.tick * TICK_MS / MS_OF_A_DAY,
                first_order_days: 800 + world.tick * TICK_MS / MS_OF_A_DAY,
                avg_release_time: &release,
                avg_pay_time: &pay,
                finish_rate: &finish_rate,
                month_orders: orders,
                completed_order_num: 1_000 + orders,
                completed_order_total_btc_amount: &volume,
                counterparty_count: 500 + orders / 2,
            },
            user_kyc_ret: UserKyc { kyc_type: "1", address_status: Some("PASS") },
            active_time_in_second: world.active_seconds(advertiser),
            is_company_account: false,
        },
        buy_list: list(Side::Buy),
        sell_list: list(Side::Sell),
    })
}
