//! A page of the ad search: bytes to ads, and a list of what could not be taken and why.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::value::{self, Fault, Raw};
use super::wire::{self, Adv, AnswerError, Item, OUT_OF_ORDER_PRIVILEGES, TradeMethod};
use crate::domain::{
    Ad, AdDetails, Advertiser, Json, Market, PaymentMethod, Refusal, RefusalReason,
};

/// What a page of the search holds. Every element of the answer is in one of the two lists.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// Ads of the whole book, as declared; `None`: not told. Means nothing on a page without ads.
    pub total: Option<u32>,
    /// In the order of the exchange.
    pub ads: Vec<Ad>,
    pub refusals: Vec<Refusal>,
}

/// Reads the answer to a search of `market`.
pub fn parse_search(market: &Market, bytes: &[u8]) -> Result<Page, AnswerError> {
    let (data, total) = wire::open(bytes)?;
    let items: Vec<&RawValue> = serde_json::from_str(data.get())
        .map_err(|error| AnswerError::Unparsable(error.to_string()))?;
    let mut page = Page { total, ads: Vec::with_capacity(items.len()), refusals: Vec::new() };
    for (position, item) in items.into_iter().enumerate() {
        match parse_item(market, position, item) {
            Ok(ad) => page.ads.push(ad),
            Err(rejected) => page.refusals.push(rejected.into_refusal(position, item)),
        }
    }
    Ok(page)
}

/// A refusal before it knows where it stands.
pub(super) struct Rejected {
    adv_no: Option<String>,
    field: Option<String>,
    fault: Fault,
}

impl Rejected {
    /// The same of the ad with this number.
    pub(super) fn of(self, adv_no: Option<String>) -> Self {
        Self { adv_no, ..self }
    }

    pub(super) fn into_refusal(self, position: usize, item: &RawValue) -> Refusal {
        let (reason, detail) = self.fault;
        let raw = item.get().to_owned();
        Refusal { position, adv_no: self.adv_no, reason, field: self.field, detail, raw }
    }
}

fn parse_item(market: &Market, position: usize, item: &RawValue) -> Result<Ad, Rejected> {
    let parts: Item<'_> = object(None, Some(item))?;
    let adv: Adv<'_> = object(Some("adv"), parts.adv)?;
    let adv_no = adv.adv_no.and_then(|raw| value::text(raw).ok()).map(Cow::into_owned);
    let privilege_type = parts.privilege_type.and_then(|raw| value::integer::<i16>(raw).ok());
    let is_promoted = privilege_type.is_some_and(|kind| OUT_OF_ORDER_PRIVILEGES.contains(&kind));
    let read = || {
        let user: wire::Advertiser<'_> = object(Some("advertiser"), parts.advertiser)?;
        let mut reader = Reader { object: "advertiser", warnings: Vec::new() };
        let advertiser = reader.advertiser(&user)?;
        reader.object = "adv";
        reader.check_market(market, &adv)?;
        let ad = reader.ad(market, &adv, advertiser)?;
        Ok(Ad { position, is_promoted, privilege_type, warnings: reader.warnings, ..ad })
    };
    read().map_err(|rejected: Rejected| rejected.of(adv_no))
}

/// One object of an item; `field` is `None` for the item itself.
pub(super) fn object<'a, T: Deserialize<'a>>(
    field: Option<&str>,
    raw: Raw<'a>,
) -> Result<T, Rejected> {
    let rejected = |fault| Rejected { adv_no: None, field: field.map(str::to_owned), fault };
    let raw =
        raw.ok_or_else(|| rejected((RefusalReason::MissingField, "is absent or null".to_owned())))?;
    serde_json::from_str(raw.get()).map_err(|e| rejected((RefusalReason::Malformed, e.to_string())))
}

/// Reads fields of one object, refusing the ad for what it can't be stored without and noting the
/// rest.
pub(super) struct Reader {
    pub(super) object: &'static str,
    pub(super) warnings: Vec<String>,
}

impl Reader {
    pub(super) fn reject(&self, field: &str, fault: Fault) -> Rejected {
        Rejected { adv_no: None, field: Some(format!("{}.{field}", self.object)), fault }
    }

    fn needed<T>(
        &self,
        field: &str,
        raw: Raw<'_>,
        read: impl Fn(&RawValue) -> Result<T, Fault>,
    ) -> Result<T, Rejected> {
        let missing = || (RefusalReason::MissingField, "is absent or null".to_owned());
        raw.ok_or_else(missing).and_then(read).map_err(|fault| self.reject(field, fault))
    }

    /// Text that names something: not empty.
    fn key(&self, field: &str, raw: Raw<'_>) -> Result<String, Rejected> {
        const MAX_KEY_CHARS: usize = 64;
        let key = self.needed(field, raw, |raw| value::text(raw).map(Cow::into_owned))?;
        if key.is_empty() || key.chars().count() > MAX_KEY_CHARS {
            let detail =
                format!("has {} characters, allowed are 1 to {MAX_KEY_CHARS}", key.chars().count());
            return Err(self.reject(field, (RefusalReason::BadText, detail)));
        }
        Ok(key)
    }

    /// Money that may be absent. A number that does not fit refuses the ad, never a rounded value;
    /// another type than a number is noted, for a retyped decoration must not cost the market.
    fn amount(&mut self, field: &str, raw: Raw<'_>) -> Result<Option<Decimal>, Rejected> {
        match raw.map(value::amount).transpose() {
            Ok(amount) => Ok(amount),
            Err((RefusalReason::WrongType, detail)) => {
                self.warn(field, &detail);
                Ok(None)
            }
            Err(fault) => Err(self.reject(field, fault)),
        }
    }

    /// Anything that may be absent; what can't be read is noted and left out.
    pub(super) fn optional<'a, T>(
        &mut self,
        field: &str,
        raw: Raw<'a>,
        read: impl Fn(&'a RawValue) -> Result<T, Fault>,
    ) -> Option<T> {
        match raw.map(read).transpose() {
            Ok(value) => value,
            Err((_, detail)) => {
                self.warn(field, &detail);
                None
            }
        }
    }

    pub(super) fn optional_text(&mut self, field: &str, raw: Raw<'_>) -> Option<String> {
        self.optional(field, raw, |raw| value::text(raw).map(Cow::into_owned))
    }

    pub(super) fn warn(&mut self, field: &str, detail: &str) {
        self.warnings.push(format!("{}.{field} {detail}", self.object));
    }

    /// An ad of another market than was asked for is not stored under the wrong one. The ad says the
    /// advertiser's side, the opposite of the taker's.
    fn check_market(&mut self, market: &Market, adv: &Adv<'_>) -> Result<(), Rejected> {
        let wanted = [
            ("fiatUnit", adv.fiat_unit, market.fiat.as_str()),
            ("asset", adv.asset, market.asset.as_str()),
            ("tradeType", adv.trade_type, market.side.opposite().as_str()),
        ];
        for (field, raw, expected) in wanted {
            match self.optional_text(field, raw) {
                Some(told) if told == expected => {}
                Some(told) => {
                    let detail = format!("is {told:?} where {expected:?} belongs to {market}");
                    return Err(self.reject(field, (RefusalReason::OtherMarket, detail)));
                }
                None => self.warn(field, "is not told, taken from the request"),
            }
        }
        Ok(())
    }

    pub(super) fn ad(
        &mut self,
        market: &Market,
        adv: &Adv<'_>,
        advertiser: Advertiser,
    ) -> Result<Ad, Rejected> {
        let price = self.needed("price", adv.price, value::amount)?;
        if price.is_zero() {
            let detail = "0 is not allowed: a price is above zero".to_owned();
            return Err(self.reject("price", (RefusalReason::OutOfRange, detail)));
        }
        Ok(Ad {
            position: 0,
            adv_no: self.key("advNo", adv.adv_no)?,
            advertiser_side: market.side.opposite(),
            is_promoted: false,
            privilege_type: None,
            price,
            available_amount: self.needed("surplusAmount", adv.surplus_amount, value::amount)?,
            tradable_quantity: self.amount("tradableQuantity", adv.tradable_quantity)?,
            min_limit: self.needed(
                "minSingleTransAmount",
                adv.min_single_trans_amount,
                value::amount,
            )?,
            max_limit: self.needed(
                "maxSingleTransAmount",
                adv.max_single_trans_amount,
                value::amount,
            )?,
            dynamic_max_limit: self
                .amount("dynamicMaxSingleTransAmount", adv.dynamic_max_single_trans_amount)?,
            min_quantity: self.amount("minSingleTransQuantity", adv.min_single_trans_quantity)?,
            max_quantity: self.amount("maxSingleTransQuantity", adv.max_single_trans_quantity)?,
            dynamic_max_quantity: self
                .amount("dynamicMaxSingleTransQuantity", adv.dynamic_max_single_trans_quantity)?,
            amount_after_editing: self.amount("amountAfterEditing", adv.amount_after_editing)?,
            commission_rate: self.amount("commissionRate", adv.commission_rate)?,
            taker_commission_rate: self.amount("takerCommissionRate", adv.taker_commission_rate)?,
            min_taker_fee: self.amount("minTakerFee", adv.min_taker_fee)?,
            pay_time_limit_minutes: self.optional(
                "payTimeLimit",
                adv.pay_time_limit,
                value::integer,
            ),
            payment_methods: self.payment_methods(adv.trade_methods)?,
            classify: self.optional_text("classify", adv.classify),
            is_tradable: self.optional("isTradable", adv.is_tradable, value::flag),
            is_safe_payment: self.optional("isSafePayment", adv.is_safe_payment, value::flag),
            taker_kyc_required: self.optional(
                "takerAdditionalKycRequired",
                adv.taker_additional_kyc_required,
                value::flag,
            ),
            asset_scale: self.optional("assetScale", adv.asset_scale, value::integer),
            fiat_scale: self.optional("fiatScale", adv.fiat_scale, value::integer),
            price_scale: self.optional("priceScale", adv.price_scale, value::integer),
            voucher_template: self.optional("voucherTemplate", adv.voucher_template, value::json),
            system_labels: self.optional(
                "advSystemLabelRet",
                adv.adv_system_label_ret,
                value::json,
            ),
            details: self.details(adv)?,
            advertiser,
            warnings: Vec::new(),
        })
    }

    /// What the search mostly leaves out.
    fn details(&mut self, adv: &Adv<'_>) -> Result<AdDetails, Rejected> {
        Ok(AdDetails {
            initial_amount: self.amount("initAmount", adv.init_amount)?,
            auto_reply: self.optional_text("autoReplyMsg", adv.auto_reply_msg),
            terms: self.optional_text("remarks", adv.remarks),
            price_type: self.optional("priceType", adv.price_type, value::integer),
            price_floating_ratio: self.amount("priceFloatingRatio", adv.price_floating_ratio)?,
            rate_floating_ratio: self.amount("rateFloatingRatio", adv.rate_floating_ratio)?,
            buyer_kyc_limit: self.optional("buyerKycLimit", adv.buyer_kyc_limit, value::integer),
            buyer_registration_days: self.optional(
                "buyerRegDaysLimit",
                adv.buyer_reg_days_limit,
                value::integer,
            ),
            buyer_btc_position: self
                .amount("buyerBtcPositionLimit", adv.buyer_btc_position_limit)?,
            taker_conditions: self.taker_conditions(adv),
            adv_status: self.optional("advStatus", adv.adv_status, value::integer),
            created_at: self.optional("createTime", adv.create_time, value::instant),
            updated_at: self.optional("advUpdateTime", adv.adv_update_time, value::instant),
        })
    }

    /// Those that are set, as one object.
    fn taker_conditions(&mut self, adv: &Adv<'_>) -> Option<Json> {
        let mut members = Vec::new();
        for (name, raw) in adv.taker_conditions() {
            if let Some(json) = self.optional(name, raw, value::json) {
                members.push(format!("\"{name}\":{}", json.as_str()));
            }
        }
        if members.is_empty() {
            return None;
        }
        Json::new(format!("{{{}}}", members.join(",")))
    }

    fn advertiser(&mut self, user: &wire::Advertiser<'_>) -> Result<Advertiser, Rejected> {
        let user_type = self.optional_text("userType", user.user_type);
        let user_no = self.key("userNo", user.user_no)?;
        // A name to show is not worth an ad: without one the key stands in.
        let nickname = self.optional_text("nickName", user.nick_name).unwrap_or_else(|| {
            self.warn("nickName", "is not told, the userNo stands in");
            user_no.clone()
        });
        Ok(Advertiser {
            user_no,
            nickname,
            is_merchant: user_type.as_deref() == Some("merchant"),
            user_type,
            user_identity: self.optional_text("userIdentity", user.user_identity),
            user_grade: self.optional("userGrade", user.user_grade, value::integer),
            vip_level: self.optional("vipLevel", user.vip_level, value::integer),
            badges: self.optional("badges", user.badges, badges),
            is_pro_merchant: user.pro_merchant.is_some(),
            pro_merchant_description: self.description(user.pro_merchant),
            is_blocked: self.optional("isBlocked", user.is_blocked, value::flag),
            merchant_group_member: self.optional(
                "merchantGroupMember",
                user.merchant_group_member,
                value::flag,
            ),
            month_order_count: self.optional(
                "monthOrderCount",
                user.month_order_count,
                value::integer,
            ),
            completion_rate: self.optional(
                "monthFinishRate",
                user.month_finish_rate,
                value::decimal,
            ),
            positive_rate: self.optional("positiveRate", user.positive_rate, value::decimal),
            release_seconds: self.optional("advConfirmTime", user.adv_confirm_time, value::integer),
            active_seconds: self.optional(
                "activeTimeInSecond",
                user.active_time_in_second,
                value::integer,
            ),
        })
    }

    /// What a merchant says of itself, unless it is empty.
    fn description(&mut self, pro_merchant: Raw<'_>) -> Option<String> {
        let pro: Option<wire::ProMerchant<'_>> =
            self.optional("proMerchant", pro_merchant, |raw| {
                serde_json::from_str(raw.get())
                    .map_err(|_| value::wrong_type("an object", raw.get()))
            });
        let text = pro.and_then(|pro| pro.merchant_description);
        self.optional_text("proMerchant.merchantDescription", text).filter(|text| !text.is_empty())
    }

    /// The exchange may name a method twice, the second time without a name: a set, in which a null
    /// never hides a name.
    fn payment_methods(&mut self, raw: Raw<'_>) -> Result<Vec<PaymentMethod>, Rejected> {
        let Some(raw) = raw else {
            return Ok(Vec::new());
        };
        let wrong = |_| value::wrong_type("a list of objects", raw.get());
        let methods: Vec<TradeMethod<'_>> =
            serde_json::from_str(raw.get()).map_err(|e| self.reject("tradeMethods", wrong(e)))?;
        if methods.len() > MAX_METHODS {
            let detail = format!("has {} entries, allowed are {MAX_METHODS}", methods.len());
            return Err(self.reject("tradeMethods", (RefusalReason::OutOfRange, detail)));
        }
        let mut set = BTreeMap::new();
        for (index, method) in methods.iter().enumerate() {
            let field = format!("tradeMethods[{index}].identifier");
            let identifier = self.key(&field, method.identifier)?;
            let name = self.optional_text("tradeMethods.tradeMethodName", method.trade_method_name);
            let short_name = self
                .optional_text("tradeMethods.tradeMethodShortName", method.trade_method_short_name);
            let entry = set.entry(identifier).or_insert((None, None));
            entry.0 = entry.0.take().or(name);
            entry.1 = entry.1.take().or(short_name);
        }
        let method =
            |(identifier, (name, short_name))| PaymentMethod { identifier, name, short_name };
        Ok(set.into_iter().map(method).collect())
    }
}

/// Payment methods of one ad; the exchange allows five.
const MAX_METHODS: usize = 100;

fn badges(raw: &RawValue) -> Result<Vec<String>, Fault> {
    let badges: Vec<String> = serde_json::from_str(raw.get())
        .map_err(|_| value::wrong_type("a list of texts", raw.get()))?;
    if badges.iter().any(|badge| badge.contains('\0')) {
        return Err((RefusalReason::BadText, "contains NUL".into()));
    }
    Ok(badges)
}
