//! One advertisement as an answer showed it.

use std::fmt;

use rust_decimal::Decimal;
use serde::Serialize;

use super::Side;

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
    pub initial_amount: Option<Decimal>,
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
    pub advertiser: Advertiser,
    /// Fields that could not be read and are `None` for that reason, not because they were null.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

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
    pub is_blocked: Option<bool>,
    pub merchant_group_member: Option<bool>,
    /// Orders in 30 days.
    pub month_order_count: Option<i32>,
    /// Share of 1, all digits that were sent.
    pub completion_rate: Option<Decimal>,
    /// Share of 1, all digits that were sent.
    pub positive_rate: Option<Decimal>,
    /// Seconds since last seen online; differs at every request.
    pub active_seconds: Option<i64>,
}

/// A way to pay, by the exchange's identifier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PaymentMethod {
    pub identifier: String,
    /// The exchange sends null for some.
    pub name: Option<String>,
    pub short_name: Option<String>,
}

/// Why an ad was not taken. Its name is the class in ledgers, metrics and quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// Not an object with the parts of an ad, or a key twice.
    Malformed,
    /// A field that an ad can't be stored without is absent or null.
    MissingField,
    /// A field holds another type than a number, text or flag should.
    WrongType,
    /// Text that should be a decimal is none.
    NotADecimal,
    /// More digits than the column holds (12 before, 8 after the point), or not above zero.
    OutOfRange,
    /// The ad belongs to another fiat, asset or side than was asked for.
    OtherMarket,
    /// Text that a database can't hold (NUL), or that is too long to be believed.
    BadText,
}

impl RefusalReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::NotADecimal => "not_a_decimal",
            Self::OutOfRange => "out_of_range",
            Self::OtherMarket => "other_market",
            Self::BadText => "bad_text",
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An ad that was not taken, with its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Index in the answer, from 0.
    pub position: usize,
    /// If it could be read.
    pub adv_no: Option<String>,
    pub reason: RefusalReason,
    /// Path of the offending field, for example `adv.price`; `None`: the whole.
    pub field: Option<String>,
    pub detail: String,
    /// The ad as sent.
    pub raw: String,
}
