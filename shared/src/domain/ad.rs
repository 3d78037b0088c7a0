//! One advertisement as an answer showed it.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Rule, Side, Warning};

/// An ad, taken from an answer. Amounts are in units of the asset, limits in fiat; `None` means that
/// the exchange did not tell. Decimals come from the text that was sent, never through a float.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ad {
    /// Index in the answer, from 0.
    pub position: usize,
    /// The exchange's number of the ad. Binance's exceed 64 bits signed.
    pub adv_no: String,
    /// Side of the *advertiser*: the opposite of the market's.
    pub advertiser_side: Side,
    /// Whether it stands at the promoted place, out of price order.
    pub is_promoted: bool,
    /// The exchange's number of what it paid for, such as that place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privilege_type: Option<i16>,
    pub price: Decimal,
    /// What is left of the ad.
    pub available_amount: Decimal,
    pub tradable_quantity: Option<Decimal>,
    pub min_limit: Decimal,
    pub max_limit: Decimal,
    /// The largest order that holds now.
    pub dynamic_max_limit: Option<Decimal>,
    pub min_quantity: Option<Decimal>,
    pub max_quantity: Option<Decimal>,
    pub dynamic_max_quantity: Option<Decimal>,
    pub amount_after_editing: Option<Decimal>,
    /// Share of 1.
    pub commission_rate: Option<Decimal>,
    /// Share of 1.
    pub taker_commission_rate: Option<Decimal>,
    pub min_taker_fee: Option<Decimal>,
    pub pay_time_limit_minutes: Option<i16>,
    /// As a set: sorted by identifier, each once.
    pub payment_methods: Vec<PaymentMethod>,
    pub classify: Option<String>,
    pub is_tradable: Option<bool>,
    pub is_safe_payment: Option<bool>,
    pub taker_kyc_required: Option<bool>,
    pub asset_scale: Option<i16>,
    pub fiat_scale: Option<i16>,
    pub price_scale: Option<i16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voucher_template: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_labels: Option<Json>,
    #[serde(flatten)]
    pub details: AdDetails,
    pub advertiser: Advertiser,
    /// What is odd about it, fields that are `None` because they could not be read among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// What the ad search mostly leaves out, and the page of the advertiser tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AdDetails {
    pub initial_amount: Option<Decimal>,
    pub auto_reply: Option<String>,
    pub terms: Option<String>,
    /// 1 fixed, 2 floating.
    pub price_type: Option<i16>,
    /// Percent.
    pub price_floating_ratio: Option<Decimal>,
    /// Percent.
    pub rate_floating_ratio: Option<Decimal>,
    pub buyer_kyc_limit: Option<i32>,
    pub buyer_registration_days: Option<i32>,
    pub buyer_btc_position: Option<Decimal>,
    /// Further conditions for the taker, by the exchange's names, those that are set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taker_conditions: Option<Json>,
    /// 1 online, 3 offline, 4 closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adv_status: Option<i16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<DateTime<Utc>>,
}

impl AdDetails {
    /// What is told here, and `other` where nothing is.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            initial_amount: self.initial_amount.or(other.initial_amount),
            auto_reply: self.auto_reply.or_else(|| other.auto_reply.clone()),
            terms: self.terms.or_else(|| other.terms.clone()),
            price_type: self.price_type.or(other.price_type),
            price_floating_ratio: self.price_floating_ratio.or(other.price_floating_ratio),
            rate_floating_ratio: self.rate_floating_ratio.or(other.rate_floating_ratio),
            buyer_kyc_limit: self.buyer_kyc_limit.or(other.buyer_kyc_limit),
            buyer_registration_days: self.buyer_registration_days.or(other.buyer_registration_days),
            buyer_btc_position: self.buyer_btc_position.or(other.buyer_btc_position),
            taker_conditions: self.taker_conditions.or_else(|| other.taker_conditions.clone()),
            adv_status: self.adv_status.or(other.adv_status),
            created_at: self.created_at.or(other.created_at),
            updated_at: self.updated_at.or(other.updated_at),
        }
    }
}

/// A piece of JSON as it was sent: numbers keep their digits. Only what a database can hold as `jsonb`.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// `None`: the text is no JSON.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        RawValue::from_string(text).ok().map(Self)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Json {}

/// Who placed an ad. `user_no` is the key; the nickname changes and is not unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advertiser {
    pub user_no: String,
    /// Exactly as sent, trailing spaces and emoji included.
    pub nickname: String,
    pub user_type: Option<String>,
    pub is_merchant: bool,
    pub user_identity: Option<String>,
    pub user_grade: Option<i16>,
    pub vip_level: Option<i16>,
    pub badges: Option<Vec<String>>,
    pub is_pro_merchant: bool,
    /// In the merchant's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pro_merchant_description: Option<String>,
    pub is_blocked: Option<bool>,
    pub merchant_group_member: Option<bool>,
    /// Orders in 30 days.
    pub month_order_count: Option<i32>,
    /// Share of 1, all digits that were sent.
    pub completion_rate: Option<Decimal>,
    /// Share of 1, all digits that were sent.
    pub positive_rate: Option<Decimal>,
    /// Average time to release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_seconds: Option<i32>,
    /// Seconds since last seen online; differs at every request.
    pub active_seconds: Option<i64>,
}

/// What the page of an advertiser tells of it; `None`: not told. Names, grade and the figures of 30
/// days that the ad search tells too are left to the search.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Days since registration, and since the first order.
    pub registered_days: Option<i32>,
    pub first_order_days: Option<i32>,
    /// Orders completed since registration, and of these those in which the advertiser bought and sold.
    pub orders: Option<i32>,
    pub buy_orders: Option<i32>,
    pub sell_orders: Option<i32>,
    /// Worth in BTC.
    pub btc_volume: Option<Decimal>,
    pub btc_bought: Option<Decimal>,
    pub btc_sold: Option<Decimal>,
    /// Different users traded with.
    pub counterparties: Option<i32>,
    pub orders_30d: Option<i32>,
    pub buy_orders_30d: Option<i32>,
    pub sell_orders_30d: Option<i32>,
    pub btc_volume_30d: Option<Decimal>,
    /// Share of 1.
    pub completion_rate_30d: Option<Decimal>,
    pub average_pay_seconds_30d: Option<Decimal>,
    pub average_release_seconds_30d: Option<Decimal>,
    pub release_seconds: Option<i32>,
    /// Of unknown meaning.
    pub order_count: Option<i32>,
    /// The deposit.
    pub margin: Option<Decimal>,
    pub margin_unit: Option<String>,
    pub equivalent_margin: Option<Decimal>,
    pub equivalent_margin_unit: Option<String>,
    pub margins: Option<Json>,
    pub is_email_verified: Option<bool>,
    pub is_mobile_bound: Option<bool>,
    pub is_kyc_verified: Option<bool>,
    pub kyc_type: Option<i32>,
    pub kyc_status: Option<String>,
    pub kyc_address_status: Option<String>,
    pub is_company: Option<bool>,
}

/// A way to pay, by the exchange's identifier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PaymentMethod {
    pub identifier: String,
    /// The exchange sends null for some.
    pub name: Option<String>,
    pub short_name: Option<String>,
}

/// An ad that was not taken, with its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Index in the answer, from 0.
    pub position: usize,
    /// If it could be read.
    pub adv_no: Option<String>,
    pub reason: Rule,
    /// Path of the offending field, for example `adv.price`; `None`: the whole.
    pub field: Option<String>,
    pub detail: String,
    /// The ad as sent, which need not be text.
    #[serde(serialize_with = "as_text")]
    pub raw: Vec<u8>,
}

/// What is no text is shown as such.
fn as_text<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}
