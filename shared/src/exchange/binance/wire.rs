//! The JSON of the ad search. Its field names are used here, and named in the messages of `search`;
//! those of the lists stand in `lists`, those of requests in `request`.
//!
//! Fields are kept as raw JSON and read one by one, so that one odd value costs one field or one ad,
//! never the page.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::value::{self, Raw};
use crate::job::Failure;

/// Code of success.
const SUCCESS: &str = "000000";
/// "illegal parameter": our request is wrong, and stays so.
const ILLEGAL_PARAMETER: &str = "000002";

/// An answer from which nothing can be taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AnswerError {
    /// Not JSON of the expected shape: HTML of a firewall, an empty or a cut body.
    #[error("the answer can't be read: {0}")]
    Unparsable(String),
    /// The exchange says no, with HTTP 200.
    #[error("the exchange answered code {code}: {message}")]
    Rejected { code: String, message: String },
}

impl AnswerError {
    /// Whether the same request would get the same answer for ever.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Rejected { code, .. } if code == ILLEGAL_PARAMETER)
    }

    #[must_use]
    pub fn failure(&self) -> Failure {
        match self {
            Self::Unparsable(_) => Failure::Unparsable,
            Self::Rejected { .. } => Failure::Rejected,
        }
    }
}

/// What surrounds every answer:
/// `{"code":"000000","message":null,"messageDetail":null,"data":…,"total":395,"success":true}`
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    code: Raw<'a>,
    #[serde(borrow)]
    message: Raw<'a>,
    #[serde(borrow)]
    data: Raw<'a>,
    #[serde(borrow)]
    total: Raw<'a>,
    #[serde(borrow)]
    success: Raw<'a>,
}

/// `data` and `total` of a successful answer. HTTP 200 says nothing: errors have it too.
pub(super) fn open(bytes: &[u8]) -> Result<(&RawValue, Option<u32>), AnswerError> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| AnswerError::Unparsable(error.to_string()))?;
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| {
        let start: String = text.chars().take(40).collect();
        AnswerError::Unparsable(format!("{error}; {} bytes that begin with {start:?}", bytes.len()))
    })?;
    let code = value::code(envelope.code);
    let refused = envelope.success.is_some_and(|success| success.get() == "false");
    match code {
        Some(code) if code == SUCCESS && !refused => {}
        Some(code) => {
            let message =
                envelope.message.and_then(|raw| value::text(raw).ok()).unwrap_or_default();
            return Err(AnswerError::Rejected { code, message: message.into_owned() });
        }
        None => return Err(AnswerError::Unparsable("has no code".into())),
    }
    let data = envelope.data.ok_or_else(|| AnswerError::Unparsable("has no data".into()))?;
    Ok((data, envelope.total.and_then(value::count)))
}

/// What the body of an error says, if it is an answer of the exchange at all: some calls send their
/// codes with HTTP 400.
#[must_use]
pub fn rejection(bytes: &[u8]) -> Option<AnswerError> {
    open(bytes).err().filter(|error| matches!(error, AnswerError::Rejected { .. }))
}

/// `data` of a list answer, as a whole: a list with one odd entry is not believed.
pub(super) fn open_list<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AnswerError> {
    let (data, _) = open(bytes)?;
    serde_json::from_str(data.get()).map_err(|error| AnswerError::Unparsable(error.to_string()))
}

/// One element of `data` of the search.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item<'a> {
    #[serde(borrow)]
    pub(super) adv: Raw<'a>,
    #[serde(borrow)]
    pub(super) advertiser: Raw<'a>,
    /// 8 on the promoted ad, 2 on the featured one; both stand out of price order.
    #[serde(borrow)]
    pub(super) privilege_type: Raw<'a>,
}

/// `privilegeType` of items that stand out of price order at the head of page 1.
pub(super) const OUT_OF_ORDER_PRIVILEGES: [i64; 2] = [8, 2];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Adv<'a> {
    #[serde(borrow)]
    pub(super) adv_no: Raw<'a>,
    #[serde(borrow)]
    pub(super) classify: Raw<'a>,
    #[serde(borrow)]
    pub(super) trade_type: Raw<'a>,
    #[serde(borrow)]
    pub(super) asset: Raw<'a>,
    #[serde(borrow)]
    pub(super) fiat_unit: Raw<'a>,
    #[serde(borrow)]
    pub(super) price: Raw<'a>,
    #[serde(borrow)]
    pub(super) surplus_amount: Raw<'a>,
    #[serde(borrow)]
    pub(super) tradable_quantity: Raw<'a>,
    #[serde(borrow)]
    pub(super) min_single_trans_amount: Raw<'a>,
    #[serde(borrow)]
    pub(super) max_single_trans_amount: Raw<'a>,
    #[serde(borrow)]
    pub(super) dynamic_max_single_trans_amount: Raw<'a>,
    #[serde(borrow)]
    pub(super) min_single_trans_quantity: Raw<'a>,
    #[serde(borrow)]
    pub(super) max_single_trans_quantity: Raw<'a>,
    #[serde(borrow)]
    pub(super) dynamic_max_single_trans_quantity: Raw<'a>,
    #[serde(borrow)]
    pub(super) init_amount: Raw<'a>,
    #[serde(borrow)]
    pub(super) amount_after_editing: Raw<'a>,
    #[serde(borrow)]
    pub(super) commission_rate: Raw<'a>,
    #[serde(borrow)]
    pub(super) taker_commission_rate: Raw<'a>,
    #[serde(borrow)]
    pub(super) min_taker_fee: Raw<'a>,
    #[serde(borrow)]
    pub(super) pay_time_limit: Raw<'a>,
    #[serde(borrow)]
    pub(super) trade_methods: Raw<'a>,
    #[serde(borrow)]
    pub(super) is_tradable: Raw<'a>,
    #[serde(borrow)]
    pub(super) is_safe_payment: Raw<'a>,
    #[serde(borrow)]
    pub(super) taker_additional_kyc_required: Raw<'a>,
    #[serde(borrow)]
    pub(super) asset_scale: Raw<'a>,
    #[serde(borrow)]
    pub(super) fiat_scale: Raw<'a>,
    #[serde(borrow)]
    pub(super) price_scale: Raw<'a>,
    #[serde(borrow)]
    pub(super) auto_reply_msg: Raw<'a>,
    #[serde(borrow)]
    pub(super) remarks: Raw<'a>,
    #[serde(borrow)]
    pub(super) price_type: Raw<'a>,
    #[serde(borrow)]
    pub(super) price_floating_ratio: Raw<'a>,
    #[serde(borrow)]
    pub(super) rate_floating_ratio: Raw<'a>,
    #[serde(borrow)]
    pub(super) buyer_kyc_limit: Raw<'a>,
    #[serde(borrow)]
    pub(super) buyer_reg_days_limit: Raw<'a>,
    #[serde(borrow)]
    pub(super) buyer_btc_position_limit: Raw<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TradeMethod<'a> {
    #[serde(borrow)]
    pub(super) identifier: Raw<'a>,
    #[serde(borrow)]
    pub(super) trade_method_name: Raw<'a>,
    #[serde(borrow)]
    pub(super) trade_method_short_name: Raw<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Advertiser<'a> {
    #[serde(borrow)]
    pub(super) user_no: Raw<'a>,
    #[serde(borrow)]
    pub(super) nick_name: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_type: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_identity: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_grade: Raw<'a>,
    #[serde(borrow)]
    pub(super) vip_level: Raw<'a>,
    #[serde(borrow)]
    pub(super) badges: Raw<'a>,
    #[serde(borrow)]
    pub(super) pro_merchant: Raw<'a>,
    #[serde(borrow)]
    pub(super) is_blocked: Raw<'a>,
    #[serde(borrow)]
    pub(super) merchant_group_member: Raw<'a>,
    #[serde(borrow)]
    pub(super) month_order_count: Raw<'a>,
    #[serde(borrow)]
    pub(super) month_finish_rate: Raw<'a>,
    #[serde(borrow)]
    pub(super) positive_rate: Raw<'a>,
    #[serde(borrow)]
    pub(super) active_time_in_second: Raw<'a>,
}
