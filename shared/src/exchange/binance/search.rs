//! A page of the ad search: bytes to ads, and a list of what could not be taken and why.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use rust_decimal::Decimal;
use serde::Deserialize;

use super::envelope::{self, Items};
use super::lenient::{self, Ambiguous, Straight};
use super::quick;
use super::request::SEARCH_ROWS;
use super::shapes;
use super::value::{self, Fault, Raw, Written};
use super::wire::{self, Adv, AnswerError, Item, OUT_OF_ORDER_PRIVILEGES, TradeMethod};
use crate::domain::{
    Ad, AdDetails, Advertiser, Json, Market, PaymentMethod, Refusal, Rule, Side, Warning,
};
use crate::exchange::shape::Finding;

/// Ads of an ordinary page: all that were asked for, and one out of order.
const ORDINARY_ADS: usize = SEARCH_ROWS as usize + 1;

/// What a page of the search holds. Every element of the answer is in one of the two lists.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// Ads of the whole book, as declared; `None`: not told. Means nothing on a page without ads.
    pub total: Option<u32>,
    /// In the order of the exchange.
    pub ads: Vec<Ad>,
    pub refusals: Vec<Refusal>,
    /// What is odd about the page as a whole; what is odd about an ad is with the ad.
    pub warnings: Vec<Warning>,
    /// What stood elsewhere or had another type, and was found by the lenient fallback; sorted.
    pub leniencies: Vec<String>,
}

impl Page {
    /// Whether anything was taken by the lenient fallback.
    #[must_use]
    pub fn is_lenient(&self) -> bool {
        !self.leniencies.is_empty()
    }

    /// Ads that the book has by the word of a page that lists none, as page `number` of it. Past the end of a
    /// book a total means nothing, so this is told of the first page only.
    #[must_use]
    pub fn declared_without_ads(&self, number: u32) -> Option<u32> {
        let is_bare = self.ads.is_empty() && self.refusals.is_empty();
        self.total.filter(|total| is_bare && number == 1 && *total > 0)
    }
}

/// Reads the answer to a search of `market`.
pub fn parse_search(market: &Market, bytes: &[u8]) -> Result<Page, AnswerError> {
    parse_quickly(market, bytes).map_or_else(|| parse_thoroughly(market, bytes), Ok)
}

/// Reads the answer to a search of `market`, and tells how it differs from what is known.
pub fn read_search(market: &Market, bytes: &[u8]) -> (Result<Page, AnswerError>, Vec<Finding>) {
    match parse_quickly(market, bytes) {
        Some(page) => (Ok(page), Vec::new()),
        None => (parse_thoroughly(market, bytes), shapes::findings_of("search", bytes)),
    }
}

/// A page of the known shape, of which every ad can be taken; `None`: it is another.
pub(super) fn parse_quickly(market: &Market, bytes: &[u8]) -> Option<Page> {
    let mut ads: Vec<Ad> = Vec::with_capacity(ORDINARY_ADS);
    let give = |item: quick::Item<'_>| {
        let quick::Item { adv, methods, advertiser, privilege_type } = item;
        let (position, reader) = (ads.len(), Reader::new(Pass::Strict));
        let ad =
            read_ad(market, position, privilege_type, &adv, Some(&methods), &advertiser, reader);
        ad.map(|ad| ads.push(ad)).is_ok()
    };
    let total = quick::read(bytes, give).ok()?;
    let warnings = duplicates(&ads);
    Some(Page { total, ads, refusals: Vec::new(), warnings, leniencies: Vec::new() })
}

/// Any page, each ad on its own.
pub(super) fn parse_thoroughly(market: &Market, bytes: &[u8]) -> Result<Page, AnswerError> {
    let Items { items, total, moved } = envelope::open(bytes)?.into_items()?;
    let mut leniencies: BTreeSet<String> = moved.into_iter().collect();
    let (mut ads, mut refusals) = (Vec::new(), Vec::new());
    for (position, bytes) in items.into_iter().enumerate() {
        let item = Element { bytes, straighten: lenient::item };
        match item.read(&mut leniencies, |json, reader| parse_item(market, position, json, reader))
        {
            Ok(ad) => ads.push(ad),
            Err(rejected) => refusals.push(rejected.into_refusal(position, bytes)),
        }
    }
    let leniencies = leniencies.into_iter().collect();
    Ok(Page { total, warnings: duplicates(&ads), ads, refusals, leniencies })
}

/// Ads that stand twice at ordinary places. The promoted one may come again at its ordinary place.
fn duplicates(ads: &[Ad]) -> Vec<Warning> {
    let mut seen = HashSet::new();
    let again = ads.iter().filter(|ad| !ad.is_promoted && !seen.insert(&ad.adv_no));
    let warning = |ad: &Ad| Warning {
        rule: Rule::DuplicateInPage,
        field: format!("data[{}].adv.advNo", ad.position),
        detail: format!("{:?} stands twice on the page", ad.adv_no),
    };
    again.map(warning).collect()
}

/// How an ad is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Every needed field must be where and as the captures have it.
    Strict,
    /// What is not there is done without, if the ad can be.
    Lenient,
}

/// Characters of a name to show: several times what the exchange allows, and short enough for an index.
const MAX_NAME_CHARS: usize = 256;

/// Distinct leniencies of one answer that are told.
const MAX_LENIENCIES: usize = 100;

/// An element of a list of ads, as sent.
pub(super) struct Element<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) straighten: fn(&str) -> Result<Straight, Ambiguous>,
}

impl Element<'_> {
    /// Reads it strictly, and put straight if that fails for its shape. A refusal tells what was wrong
    /// with the ad as it was sent.
    pub(super) fn read<T>(
        &self,
        leniencies: &mut BTreeSet<String>,
        read: impl Fn(Written<'_>, Reader) -> Result<T, Rejected>,
    ) -> Result<T, Rejected> {
        let whole = |fault| Rejected { adv_no: None, field: None, fault };
        let text = std::str::from_utf8(self.bytes)
            .map_err(|error| whole((Rule::BadText, format!("is no UTF-8: {error}"))))?;
        let json = |text| {
            serde_json::from_str::<Written<'_>>(text)
                .map_err(|error| whole((Rule::Malformed, value::shorten(&error.to_string()))))
        };
        let strict = match read(json(text)?, Reader::new(Pass::Strict)) {
            Err(rejected) if rejected.is_of_shape() => rejected,
            other => return other,
        };
        let straight = match (self.straighten)(text) {
            Ok(straight) => straight,
            Err(Ambiguous(field)) => {
                let detail = "has several values, or stands in several places".to_owned();
                let fault = (Rule::AmbiguousField, detail);
                return Err(Rejected { field: Some(field), fault, ..strict });
            }
        };
        let mut reader = Reader::new(Pass::Lenient);
        reader.warnings.extend(straight.left_out.into_iter().map(|field| Warning {
            rule: Rule::UnreadableField,
            field,
            detail: "has several values".to_owned(),
        }));
        let ad = match read(json(&straight.json)?, reader) {
            // What was wrong with it as it was sent, unless something was found.
            Err(rejected) if rejected.is_of_shape() || straight.moved.is_empty() => {
                return Err(strict);
            }
            other => other?,
        };
        let mut moved = straight.moved;
        if moved.is_empty() {
            // Wrapped as a whole, or without something that can be done without.
            moved.push(format!(
                "{} not as it should be",
                strict.field.as_deref().unwrap_or("data[]")
            ));
        }
        if leniencies.len() < MAX_LENIENCIES {
            leniencies.extend(moved);
        }
        Ok(ad)
    }
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

    /// Whether it is the shape that is wrong, and not a value: the lenient fallback may help.
    fn is_of_shape(&self) -> bool {
        matches!(self.fault.0, Rule::Malformed | Rule::MissingField | Rule::WrongType)
    }

    pub(super) fn into_refusal(self, position: usize, item: &[u8]) -> Refusal {
        let (reason, detail) = self.fault;
        let raw = item.to_owned();
        Refusal { position, adv_no: self.adv_no, reason, field: self.field, detail, raw }
    }
}

fn parse_item(
    market: &Market,
    position: usize,
    item: Written<'_>,
    reader: Reader,
) -> Result<Ad, Rejected> {
    let parts: Item<'_> = object(None, Some(item))?;
    let adv: Adv<'_> = object(Some("adv"), parts.adv)?;
    let read = || {
        let user: wire::Advertiser<'_> = object(Some("advertiser"), parts.advertiser)?;
        read_ad(market, position, parts.privilege_type, &adv, None, &user, reader)
    };
    read().map_err(|rejected: Rejected| {
        let adv_no = adv.adv_no.and_then(|raw| value::text(raw).ok());
        rejected.of(adv_no.map(Cow::into_owned))
    })
}

/// An ad out of its parts. `methods` if they were taken apart already.
fn read_ad(
    market: &Market,
    position: usize,
    privilege_type: Raw<'_>,
    adv: &Adv<'_>,
    methods: Option<&[TradeMethod<'_>]>,
    user: &wire::Advertiser<'_>,
    mut reader: Reader,
) -> Result<Ad, Rejected> {
    let privilege_type = privilege_type.and_then(|raw| value::integer::<i16>(raw).ok());
    let is_promoted = privilege_type.is_some_and(|kind| OUT_OF_ORDER_PRIVILEGES.contains(&kind));
    reader.object = "advertiser";
    let advertiser = reader.advertiser(user)?;
    reader.object = "adv";
    reader.check_market(market, adv)?;
    let ad = reader.ad(market, adv, methods, advertiser)?;
    Ok(Ad { position, is_promoted, privilege_type, warnings: reader.warnings, ..ad })
}

/// One object of an item; `field` is `None` for the item itself.
pub(super) fn object<'a, T: Deserialize<'a>>(
    field: Option<&str>,
    raw: Raw<'a>,
) -> Result<T, Rejected> {
    let rejected = |fault| Rejected { adv_no: None, field: field.map(str::to_owned), fault };
    let raw = raw.ok_or_else(|| rejected((Rule::MissingField, "is absent or null".to_owned())))?;
    // A list would be read as the fields in their order.
    if !raw.get().starts_with('{') {
        let (_, detail) = value::wrong_type("an object", raw.get());
        return Err(rejected((Rule::Malformed, detail)));
    }
    serde_json::from_str(raw.get())
        .map_err(|e| rejected((Rule::Malformed, value::shorten(&e.to_string()))))
}

/// Reads fields of one object, refusing the ad for what it can't be stored without and noting the
/// rest.
pub(super) struct Reader {
    pub(super) object: &'static str,
    pass: Pass,
    pub(super) warnings: Vec<Warning>,
}

impl Reader {
    pub(super) fn new(pass: Pass) -> Self {
        Self { object: "adv", pass, warnings: Vec::new() }
    }

    pub(super) fn reject(&self, field: &str, fault: Fault) -> Rejected {
        Rejected { adv_no: None, field: Some(format!("{}.{field}", self.object)), fault }
    }

    fn needed<'a, T>(
        &self,
        field: &str,
        raw: Raw<'a>,
        read: impl Fn(Written<'a>) -> Result<T, Fault>,
    ) -> Result<T, Rejected> {
        let missing = || (Rule::MissingField, "is absent or null".to_owned());
        raw.ok_or_else(missing)
            .and_then(|raw| self.as_text(raw))
            .and_then(read)
            .map_err(|fault| self.reject(field, fault))
    }

    /// What is needed of an ad is a text in every answer.
    fn as_text<'a>(&self, raw: Written<'a>) -> Result<Written<'a>, Fault> {
        if self.pass == Pass::Strict && !raw.get().starts_with('"') {
            return Err(value::wrong_type("a text", raw.get()));
        }
        Ok(raw)
    }

    /// Text that an ad can be stored without, but is not expected to: the lenient fallback looks for it.
    pub(super) fn expected_text<'a>(
        &mut self,
        field: &str,
        raw: Raw<'a>,
    ) -> Result<Option<Cow<'a, str>>, Rejected> {
        if self.pass == Pass::Strict {
            return match self.needed(field, raw, value::text) {
                Err(rejected) if !rejected.is_of_shape() => {
                    Ok(self.optional(field, raw, value::text))
                }
                other => other.map(Some),
            };
        }
        Ok(self.optional(field, raw, value::text))
    }

    /// Text that names something: not empty.
    fn key(&self, field: &str, raw: Raw<'_>) -> Result<String, Rejected> {
        const MAX_KEY_CHARS: usize = 64;
        let key = self.needed(field, raw, |raw| value::text(raw).map(Cow::into_owned))?;
        if key.is_empty() || key.len() > MAX_KEY_CHARS && key.chars().count() > MAX_KEY_CHARS {
            let detail =
                format!("has {} characters, allowed are 1 to {MAX_KEY_CHARS}", key.chars().count());
            return Err(self.reject(field, (Rule::BadText, detail)));
        }
        Ok(key)
    }

    /// Money that may be absent. A number that does not fit refuses the ad, never a rounded value;
    /// another type than a number is noted, for a retyped decoration must not cost the market.
    fn amount(&mut self, field: &str, raw: Raw<'_>) -> Result<Option<Decimal>, Rejected> {
        match raw.map(value::amount).transpose() {
            Ok(amount) => Ok(amount),
            Err((Rule::WrongType, detail)) => {
                self.warn(Rule::UnreadableField, field, detail);
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
        read: impl Fn(Written<'a>) -> Result<T, Fault>,
    ) -> Option<T> {
        match raw.map(read).transpose() {
            Ok(value) => value,
            Err((_, detail)) => {
                self.warn(Rule::UnreadableField, field, detail);
                None
            }
        }
    }

    pub(super) fn optional_text(&mut self, field: &str, raw: Raw<'_>) -> Option<String> {
        self.optional(field, raw, |raw| value::text(raw).map(Cow::into_owned))
    }

    pub(super) fn warn(&mut self, rule: Rule, field: &str, detail: String) {
        let field = format!("{}.{field}", self.object);
        self.warnings.push(Warning { rule, field, detail });
    }

    /// An ad of another market than was asked for is not stored under the wrong one. The ad says the
    /// advertiser's side, the opposite of the taker's. A side by a word that is not known is none that
    /// contradicts.
    fn check_market(&mut self, market: &Market, adv: &Adv<'_>) -> Result<(), Rejected> {
        let wanted = [
            ("fiatUnit", adv.fiat_unit, market.fiat.as_str()),
            ("asset", adv.asset, market.asset.as_str()),
            ("tradeType", adv.trade_type, market.side.opposite().as_str()),
        ];
        for (field, raw, expected) in wanted {
            match self.expected_text(field, raw)? {
                Some(told) if told == expected => {}
                Some(told) if field == "tradeType" && !is_other_side(&told, market) => {
                    if told.parse::<Side>().is_err() {
                        let detail = format!("{told:?} is no side, taken from the request");
                        self.warn(Rule::UnknownSide, field, value::shorten(&detail));
                    }
                }
                Some(told) => {
                    let told = value::shorten(&told);
                    let detail = format!("is {told:?} where {expected:?} belongs to {market}");
                    return Err(self.reject(field, (Rule::OtherMarket, detail)));
                }
                None => {
                    let detail = "is not told, taken from the request".to_owned();
                    self.warn(Rule::MarketNotTold, field, detail);
                }
            }
        }
        Ok(())
    }

    pub(super) fn ad(
        &mut self,
        market: &Market,
        adv: &Adv<'_>,
        methods: Option<&[TradeMethod<'_>]>,
        advertiser: Advertiser,
    ) -> Result<Ad, Rejected> {
        let price = self.needed("price", adv.price, value::amount)?;
        if price.is_zero() {
            let detail = "0 is not allowed: a price is above zero".to_owned();
            return Err(self.reject("price", (Rule::PriceNotPositive, detail)));
        }
        let ad = Ad {
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
            payment_methods: match methods {
                Some(methods) => self.payment_methods(methods)?,
                None => self.written_payment_methods(adv.trade_methods)?,
            },
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
        };
        self.check(&ad);
        Ok(ad)
    }

    /// Rules about values that were read, none of which is a reason to refuse the ad.
    fn check(&mut self, ad: &Ad) {
        let mut above = |rule, (low, low_field): (Decimal, &str), high: Option<Decimal>| {
            if let Some(high) = high.filter(|high| low > *high) {
                self.warn(rule, low_field, format!("{low} is above {high}"));
            }
        };
        let min = (ad.min_limit, "minSingleTransAmount");
        above(Rule::LimitsCrossed, min, Some(ad.max_limit));
        if let Some(dynamic) = ad.dynamic_max_limit {
            let dynamic = (dynamic, "dynamicMaxSingleTransAmount");
            above(Rule::DynamicMaxAboveMax, dynamic, Some(ad.max_limit));
        }
        if let Some(tradable) = ad.tradable_quantity {
            let tradable = (tradable, "tradableQuantity");
            above(Rule::TradableAboveAvailable, tradable, Some(ad.available_amount));
        }
        let is_within = |scale: i16| {
            u32::try_from(scale).is_ok_and(|scale| value::scale_within(ad.price, scale))
        };
        if let Some(scale) = ad.price_scale.filter(|scale| !is_within(*scale)) {
            let detail = format!("{} has more than {scale} decimals", ad.price);
            self.warn(Rule::PriceScale, "price", detail);
        }
        if ad.payment_methods.is_empty() {
            self.warn(Rule::NoPaymentMethods, "tradeMethods", "names none".to_owned());
        }
        let rates = [
            ("monthFinishRate", ad.advertiser.completion_rate),
            ("positiveRate", ad.advertiser.positive_rate),
        ];
        for (field, rate) in rates {
            if let Some(rate) = rate.filter(|rate| rate.is_sign_negative() || *rate > Decimal::ONE)
            {
                let field = format!("advertiser.{field}");
                let detail = format!("{rate} is no share of 1");
                self.warnings.push(Warning { rule: Rule::RateOutOfRange, field, detail });
            }
        }
    }

    /// What the search mostly leaves out.
    fn details(&mut self, adv: &Adv<'_>) -> Result<AdDetails, Rejected> {
        Ok(AdDetails {
            initial_amount: self.amount("initAmount", adv.init_amount)?,
            auto_reply: self.optional_text("autoReplyMsg", adv.auto_reply_msg),
            terms: self.optional_text("remarks", adv.remarks),
            price_type: self.optional("priceType", adv.price_type, value::integer),
            // Below the reference price, and an ad is worth more than its percents.
            price_floating_ratio: self.optional(
                "priceFloatingRatio",
                adv.price_floating_ratio,
                value::signed,
            ),
            rate_floating_ratio: self.optional(
                "rateFloatingRatio",
                adv.rate_floating_ratio,
                value::signed,
            ),
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
        // A name to show is not worth an ad: without one that can be kept the key stands in.
        let nickname = self.expected_text("nickName", user.nick_name)?.map(Cow::into_owned);
        let nickname = nickname.filter(|name| name.chars().count() <= MAX_NAME_CHARS);
        let nickname = nickname.unwrap_or_else(|| {
            let detail = format!(
                "is not told, or in more than {MAX_NAME_CHARS} characters: the userNo stands in"
            );
            self.warn(Rule::NameNotTold, "nickName", detail);
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

    fn written_payment_methods(&mut self, raw: Raw<'_>) -> Result<Vec<PaymentMethod>, Rejected> {
        let Some(raw) = raw else {
            if self.pass == Pass::Strict {
                let missing = (Rule::MissingField, "is absent or null".to_owned());
                return Err(self.reject("tradeMethods", missing));
            }
            return Ok(Vec::new());
        };
        let wrong = |_| value::wrong_type("a list of objects", raw.get());
        let methods: Vec<TradeMethod<'_>> =
            serde_json::from_str(raw.get()).map_err(|e| self.reject("tradeMethods", wrong(e)))?;
        self.payment_methods(&methods)
    }

    /// The exchange may name a method twice, the second time without a name: a set, in which a null
    /// never hides a name.
    fn payment_methods(
        &mut self,
        methods: &[TradeMethod<'_>],
    ) -> Result<Vec<PaymentMethod>, Rejected> {
        if methods.len() > MAX_METHODS {
            let detail = format!("has {} entries, allowed are {MAX_METHODS}", methods.len());
            return Err(self.reject("tradeMethods", (Rule::OutOfRange, detail)));
        }
        // Few, so a list that is looked through.
        let mut set: Vec<PaymentMethod> = Vec::with_capacity(methods.len());
        for (index, method) in methods.iter().enumerate() {
            let identifier = self.key("identifier", method.identifier).map_err(|rejected| {
                let field = format!("{}.tradeMethods[{index}].identifier", self.object);
                Rejected { field: Some(field), ..rejected }
            })?;
            let name = self.optional_text("tradeMethods.tradeMethodName", method.trade_method_name);
            let short_name = self
                .optional_text("tradeMethods.tradeMethodShortName", method.trade_method_short_name);
            match set.iter_mut().find(|known| known.identifier == identifier) {
                Some(known) => {
                    known.name = known.name.take().or(name);
                    known.short_name = known.short_name.take().or(short_name);
                }
                None => set.push(PaymentMethod { identifier, name, short_name }),
            }
        }
        set.sort_unstable_by(|a, b| a.identifier.cmp(&b.identifier));
        Ok(set)
    }
}

/// Whether a side is the other one than an ad of this market should tell, and not just a new word.
fn is_other_side(told: &str, market: &Market) -> bool {
    told.parse::<Side>().is_ok_and(|side| side == market.side)
}

/// Payment methods of one ad; the exchange allows five.
const MAX_METHODS: usize = 100;

fn badges(raw: Written<'_>) -> Result<Vec<String>, Fault> {
    let badges: Vec<String> = serde_json::from_str(raw.get())
        .map_err(|_| value::wrong_type("a list of texts", raw.get()))?;
    if badges.iter().any(|badge| badge.contains('\0')) {
        return Err((Rule::BadText, "contains NUL".into()));
    }
    Ok(badges)
}
