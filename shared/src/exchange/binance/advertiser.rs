//! The page of an advertiser: its figures, and its ads of all markets with what the search leaves out.

use std::collections::BTreeSet;

use super::envelope::{self, Members};
use super::lenient;
use super::search::{Element, Pass, Reader, Rejected, object};
use super::value::{self, Raw, Written, shorten};
use super::wire::{Adv, AnswerError, UserDetail, UserKyc, UserStats};
use crate::domain::{Ad, Advertiser, Market, Profile, Refusal, Rule, Side, Warning};

/// Most ads of one advertiser that are believed: fifty times the most seen.
const MAX_ADS: usize = 1_000;

/// What the page of an advertiser holds. Every ad of the answer is in one of the two lists.
#[derive(Debug, PartialEq, Eq)]
pub struct AdvertiserPage {
    pub user_no: String,
    pub profile: Profile,
    /// Of both sides, each with its market.
    pub ads: Vec<(Market, Ad)>,
    pub refusals: Vec<Refusal>,
    /// Fields of the profile that could not be read.
    pub warnings: Vec<Warning>,
    /// What stood elsewhere or had another type, and was found by the lenient fallback; sorted.
    pub leniencies: Vec<String>,
}

impl AdvertiserPage {
    /// Whether anything was taken by the lenient fallback.
    #[must_use]
    pub fn is_lenient(&self) -> bool {
        !self.leniencies.is_empty()
    }
}

/// Whether an answer is the page of an advertiser, by its shape.
#[must_use]
pub fn is_advertiser_page(bytes: &[u8]) -> bool {
    let is_page = || -> Result<bool, AnswerError> {
        let data = Members::of(bytes)?.get("data", &mut Vec::new())?.unwrap_or_default();
        Ok(Members::of(data)?.get("userDetailVo", &mut Vec::new())?.is_some())
    };
    is_page().unwrap_or(false)
}

/// Reads the answer to a request for the page of `user_no`; `None`: of anybody.
pub fn parse_advertiser(
    user_no: Option<&str>,
    bytes: &[u8],
) -> Result<AdvertiserPage, AnswerError> {
    let unparsable = |detail: String| AnswerError::Unparsable(detail);
    let opened = envelope::open(bytes)?;
    let page = Members::of(opened.data)?;
    let mut moved = opened.moved;
    let detail = page.get("userDetailVo", &mut moved)?.and_then(envelope::json);
    let detail = detail.ok_or_else(|| unparsable("has no userDetailVo".into()))?;
    let user: UserDetail<'_> = serde_json::from_str(detail.get())
        .map_err(|error| unparsable(shorten(&format!("userDetailVo: {error}"))))?;
    let mut reader = Reader::new(Pass::Lenient);
    reader.object = "userDetailVo";
    let told = reader.optional_text("userNo", user.user_no);
    let owner = match (user_no, told) {
        // What is of another must not be stored under this one.
        (Some(wanted), Some(told)) if wanted != told => {
            return Err(unparsable(format!("is of {told:?} and not of {wanted:?}")));
        }
        (Some(wanted), _) => wanted.to_owned(),
        (None, Some(told)) => told,
        (None, None) => return Err(unparsable("names no advertiser".into())),
    };
    let profile = profile(&mut reader, &user, detail);
    let owner = bare(&mut reader, owner, &user);
    let mut items: Vec<&[u8]> = Vec::new();
    for name in ["buyList", "sellList"] {
        if let Some(list) = page.get(name, &mut moved)? {
            items.extend(envelope::elements(list)?);
        }
    }
    if items.len() > MAX_ADS {
        return Err(AnswerError::Oversized);
    }
    let mut leniencies: BTreeSet<String> = moved.into_iter().collect();
    let (mut ads, mut refusals) = (Vec::with_capacity(items.len()), Vec::new());
    for (position, bytes) in items.into_iter().enumerate() {
        let item = Element { bytes, straighten: lenient::adv };
        match item.read(&mut leniencies, |json, reader| parse_ad(&owner, position, json, reader)) {
            Ok(ad) => ads.push(ad),
            Err(rejected) => refusals.push(rejected.into_refusal(position, bytes)),
        }
    }
    let (user_no, warnings) = (owner.user_no, reader.warnings);
    let leniencies = leniencies.into_iter().collect();
    Ok(AdvertiserPage { user_no, profile, ads, refusals, warnings, leniencies })
}

/// An ad of the page. Which market it is of, it says itself.
fn parse_ad(
    owner: &Advertiser,
    position: usize,
    item: Written<'_>,
    mut reader: Reader,
) -> Result<(Market, Ad), Rejected> {
    let adv: Adv<'_> = object(Some("adv"), Some(item))?;
    let adv_no = adv.adv_no.and_then(|raw| value::text(raw).ok()).map(std::borrow::Cow::into_owned);
    let mut read = || {
        let mut text = |field, raw| reader.expected_text(field, raw).map(Option::unwrap_or_default);
        let (fiat, asset) = (text("fiatUnit", adv.fiat_unit)?, text("asset", adv.asset)?);
        let side: Option<Side> = text("tradeType", adv.trade_type)?.parse().ok();
        let market = side.and_then(|side| Market::new(&fiat, &asset, side.opposite()).ok());
        let market = market.ok_or_else(|| {
            let detail = "fiatUnit, asset and tradeType name no market".to_owned();
            reader.reject("tradeType", (Rule::OtherMarket, detail))
        })?;
        let ad = reader.ad(&market, &adv, None, owner.clone())?;
        let warnings = std::mem::take(&mut reader.warnings);
        Ok((market, Ad { position, warnings, ..ad }))
    };
    read().map_err(|rejected: Rejected| rejected.of(adv_no))
}

/// The advertiser as far as an ad needs one. Its identity is left to the search: the page masks some
/// nicknames and leaves out what kind of user it is.
fn bare(reader: &mut Reader, user_no: String, user: &UserDetail<'_>) -> Advertiser {
    let user_type = reader.optional_text("userType", user.user_type);
    Advertiser {
        nickname: reader
            .optional_text("nickName", user.nick_name)
            .unwrap_or_else(|| user_no.clone()),
        user_no,
        is_merchant: user_type.as_deref() == Some("merchant"),
        user_type,
        user_identity: None,
        user_grade: None,
        vip_level: None,
        badges: None,
        is_pro_merchant: false,
        pro_merchant_description: None,
        is_blocked: None,
        merchant_group_member: None,
        month_order_count: None,
        completion_rate: None,
        positive_rate: None,
        release_seconds: None,
        active_seconds: None,
    }
}

fn profile(reader: &mut Reader, user: &UserDetail<'_>, detail: Written<'_>) -> Profile {
    let inner = |raw: Raw<'_>| raw.map_or_else(|| "{}".to_owned(), |raw| raw.get().to_owned());
    let (stats, kyc) = (inner(user.user_stats_ret), inner(user.user_kyc_ret));
    reader.object = "userStatsRet";
    // Without the object its fields are looked for outside it.
    let stats = if stats == "{}" { detail.get() } else { &stats };
    let stats = serde_json::from_str::<UserStats<'_>>(stats).unwrap_or_else(|error| {
        reader.warn(Rule::UnreadableField, "", shorten(&error.to_string()));
        UserStats::default()
    });
    let mut profile = figures(reader, &stats);
    reader.object = "userKycRet";
    let kyc = serde_json::from_str::<UserKyc<'_>>(&kyc).unwrap_or_else(|error| {
        reader.warn(Rule::UnreadableField, "", shorten(&error.to_string()));
        UserKyc::default()
    });
    profile.kyc_address_status = reader.optional_text("addressStatus", kyc.address_status);
    reader.object = "userDetailVo";
    let filled = |text: &String| !text.is_empty();
    Profile {
        release_seconds: reader.optional("advConfirmTime", user.adv_confirm_time, value::integer),
        order_count: reader.optional("orderCount", user.order_count, value::integer),
        margin: reader.optional("margin", user.margin, value::decimal),
        margin_unit: reader.optional_text("marginUnit", user.margin_unit).filter(filled),
        equivalent_margin: reader.optional("eqMargin", user.eq_margin, value::decimal),
        equivalent_margin_unit: reader
            .optional_text("eqMarginUnit", user.eq_margin_unit)
            .filter(filled),
        margins: reader
            .optional("marginStats", user.margin_stats, value::json)
            .filter(|json| json.as_str() != "[]"),
        is_email_verified: reader.optional("emailVerified", user.email_verified, value::flag),
        is_mobile_bound: reader.optional("bindMobile", user.bind_mobile, value::flag),
        is_kyc_verified: reader.optional("kycVerified", user.kyc_verified, value::flag),
        kyc_type: reader.optional("kycType", user.kyc_type, value::integer),
        kyc_status: reader.optional_text("kycStatus", user.kyc_status),
        is_company: reader.optional("isCompanyAccount", user.is_company_account, value::flag),
        ..profile
    }
}

fn figures(reader: &mut Reader, stats: &UserStats<'_>) -> Profile {
    let mut count = |field, raw| reader.optional(field, raw, value::integer);
    let profile = Profile {
        registered_days: count("registerDays", stats.register_days),
        first_order_days: count("firstOrderDays", stats.first_order_days),
        orders: count("completedOrderNum", stats.completed_order_num),
        buy_orders: count("completedBuyOrderNum", stats.completed_buy_order_num),
        sell_orders: count("completedSellOrderNum", stats.completed_sell_order_num),
        counterparties: count("counterpartyCount", stats.counterparty_count),
        orders_30d: count("completedOrderNumOfLatest30day", stats.completed_order_num_30d),
        buy_orders_30d: count(
            "completedBuyOrderNumOfLatest30day",
            stats.completed_buy_order_num_30d,
        ),
        sell_orders_30d: count(
            "completedSellOrderNumOfLatest30day",
            stats.completed_sell_order_num_30d,
        ),
        ..Profile::default()
    };
    let mut decimal = |field, raw| reader.optional(field, raw, value::decimal);
    Profile {
        btc_volume: decimal("completedOrderTotalBtcAmount", stats.completed_order_total_btc_amount),
        btc_bought: decimal(
            "completedBuyOrderTotalBtcAmount",
            stats.completed_buy_order_total_btc_amount,
        ),
        btc_sold: decimal(
            "completedSellOrderTotalBtcAmount",
            stats.completed_sell_order_total_btc_amount,
        ),
        btc_volume_30d: decimal(
            "completedOrderTotalBtcAmountOfLatest30day",
            stats.completed_order_total_btc_amount_30d,
        ),
        completion_rate_30d: decimal("finishRateLatest30day", stats.finish_rate_30d),
        average_pay_seconds_30d: decimal("avgPayTimeOfLatest30day", stats.avg_pay_time_30d),
        average_release_seconds_30d: decimal(
            "avgReleaseTimeOfLatest30day",
            stats.avg_release_time_30d,
        ),
        ..profile
    }
}
