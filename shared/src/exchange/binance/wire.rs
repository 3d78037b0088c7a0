//! The JSON of the ad search and of the page of an advertiser. Its field names are used here and in
//! `envelope`, and named in the messages of `search` and `advertiser`; those of the lists stand in `lists`, those of requests
//! in `request`, and those that are left out, with the reason, in `fields`.
//!
//! Fields are kept as raw JSON and read one by one, so that one odd value costs one field or one ad,
//! never the page.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::envelope::{self, MAX_ITEMS};
use super::value::{self, Raw};
use crate::job::Failure;

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
    /// More ads than are believed.
    #[error("the answer lists more than {MAX_ITEMS} ads")]
    Oversized,
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
            Self::Oversized => Failure::OversizedPage,
        }
    }
}

/// What the body of an error says, if it is an answer of the exchange at all: some calls send their
/// codes with HTTP 400.
#[must_use]
pub fn rejection(bytes: &[u8]) -> Option<AnswerError> {
    envelope::open(bytes).err().filter(|error| matches!(error, AnswerError::Rejected { .. }))
}

/// `data` of an answer that is believed as a whole or not at all.
pub(super) fn open(bytes: &[u8]) -> Result<&RawValue, AnswerError> {
    let data = envelope::open(bytes)?.data;
    serde_json::from_slice(data)
        .map_err(|error| AnswerError::Unparsable(value::shorten(&error.to_string())))
}

/// `data` of a list answer: a list with one odd entry is not believed.
pub(super) fn open_list<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AnswerError> {
    let data = open(bytes)?;
    serde_json::from_str(data.get())
        .map_err(|error| AnswerError::Unparsable(value::shorten(&error.to_string())))
}

/// One element of `data` of the search.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item<'a> {
    #[serde(borrow)]
    pub(super) adv: Raw<'a>,
    #[serde(borrow)]
    pub(super) advertiser: Raw<'a>,
    /// 8 on the promoted ad, 2 on the featured one; both stand out of price order. 1 on some first ads.
    #[serde(borrow)]
    pub(super) privilege_type: Raw<'a>,
}

/// `privilegeType` of items that stand out of price order at the head of page 1.
pub(super) const OUT_OF_ORDER_PRIVILEGES: [i16; 2] = [8, 2];

/// An ad, in the search and on the page of an advertiser.
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
    #[serde(borrow)]
    pub(super) adv_status: Raw<'a>,
    #[serde(borrow)]
    pub(super) create_time: Raw<'a>,
    #[serde(borrow)]
    pub(super) adv_update_time: Raw<'a>,
    #[serde(borrow)]
    pub(super) voucher_template: Raw<'a>,
    #[serde(borrow)]
    pub(super) adv_system_label_ret: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_all_trade_count_min: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_all_trade_count_max: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_buy_trade_count_min: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_buy_trade_count_max: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_sell_trade_count_min: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_sell_trade_count_max: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_trade_complete_count_min: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_trade_complete_rate_min: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_trade_complete_rate_filter_time: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_trade_count_filter_time: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_trade_type: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_trade_volume_min: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_trade_volume_max: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_trade_volume_asset: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_trade_volume_filter_time: Raw<'a>,
}

impl<'a> Adv<'a> {
    /// The conditions for the taker that have no column of their own, with their names.
    pub(super) fn taker_conditions(&self) -> [(&'static str, Raw<'a>); 15] {
        [
            ("userAllTradeCountMin", self.user_all_trade_count_min),
            ("userAllTradeCountMax", self.user_all_trade_count_max),
            ("userBuyTradeCountMin", self.user_buy_trade_count_min),
            ("userBuyTradeCountMax", self.user_buy_trade_count_max),
            ("userSellTradeCountMin", self.user_sell_trade_count_min),
            ("userSellTradeCountMax", self.user_sell_trade_count_max),
            ("userTradeCompleteCountMin", self.user_trade_complete_count_min),
            ("userTradeCompleteRateMin", self.user_trade_complete_rate_min),
            ("userTradeCompleteRateFilterTime", self.user_trade_complete_rate_filter_time),
            ("userTradeCountFilterTime", self.user_trade_count_filter_time),
            ("userTradeType", self.user_trade_type),
            ("userTradeVolumeMin", self.user_trade_volume_min),
            ("userTradeVolumeMax", self.user_trade_volume_max),
            ("userTradeVolumeAsset", self.user_trade_volume_asset),
            ("userTradeVolumeFilterTime", self.user_trade_volume_filter_time),
        ]
    }
}

/// One element of `tradeMethods`.
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

/// `advertiser` of an item of the search.
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
    #[serde(borrow)]
    pub(super) adv_confirm_time: Raw<'a>,
}

/// `proMerchant` of an advertiser.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProMerchant<'a> {
    #[serde(borrow)]
    pub(super) merchant_description: Raw<'a>,
}

/// `userDetailVo` of the page of an advertiser.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserDetail<'a> {
    #[serde(borrow)]
    pub(super) user_no: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_type: Raw<'a>,
    #[serde(borrow)]
    pub(super) nick_name: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_stats_ret: Raw<'a>,
    #[serde(borrow)]
    pub(super) user_kyc_ret: Raw<'a>,
    #[serde(borrow)]
    pub(super) adv_confirm_time: Raw<'a>,
    #[serde(borrow)]
    pub(super) order_count: Raw<'a>,
    #[serde(borrow)]
    pub(super) margin: Raw<'a>,
    #[serde(borrow)]
    pub(super) margin_unit: Raw<'a>,
    #[serde(borrow)]
    pub(super) eq_margin: Raw<'a>,
    #[serde(borrow)]
    pub(super) eq_margin_unit: Raw<'a>,
    #[serde(borrow)]
    pub(super) margin_stats: Raw<'a>,
    #[serde(borrow)]
    pub(super) email_verified: Raw<'a>,
    #[serde(borrow)]
    pub(super) bind_mobile: Raw<'a>,
    #[serde(borrow)]
    pub(super) kyc_verified: Raw<'a>,
    #[serde(borrow)]
    pub(super) kyc_type: Raw<'a>,
    #[serde(borrow)]
    pub(super) kyc_status: Raw<'a>,
    #[serde(borrow)]
    pub(super) is_company_account: Raw<'a>,
}

/// `userStatsRet` of that.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserStats<'a> {
    #[serde(borrow)]
    pub(super) register_days: Raw<'a>,
    #[serde(borrow)]
    pub(super) first_order_days: Raw<'a>,
    #[serde(borrow)]
    pub(super) completed_order_num: Raw<'a>,
    #[serde(borrow)]
    pub(super) completed_buy_order_num: Raw<'a>,
    #[serde(borrow)]
    pub(super) completed_sell_order_num: Raw<'a>,
    #[serde(borrow)]
    pub(super) completed_order_total_btc_amount: Raw<'a>,
    #[serde(borrow)]
    pub(super) completed_buy_order_total_btc_amount: Raw<'a>,
    #[serde(borrow)]
    pub(super) completed_sell_order_total_btc_amount: Raw<'a>,
    #[serde(borrow)]
    pub(super) counterparty_count: Raw<'a>,
    #[serde(borrow, rename = "completedOrderNumOfLatest30day")]
    pub(super) completed_order_num_30d: Raw<'a>,
    #[serde(borrow, rename = "completedBuyOrderNumOfLatest30day")]
    pub(super) completed_buy_order_num_30d: Raw<'a>,
    #[serde(borrow, rename = "completedSellOrderNumOfLatest30day")]
    pub(super) completed_sell_order_num_30d: Raw<'a>,
    #[serde(borrow, rename = "completedOrderTotalBtcAmountOfLatest30day")]
    pub(super) completed_order_total_btc_amount_30d: Raw<'a>,
    #[serde(borrow, rename = "finishRateLatest30day")]
    pub(super) finish_rate_30d: Raw<'a>,
    #[serde(borrow, rename = "avgPayTimeOfLatest30day")]
    pub(super) avg_pay_time_30d: Raw<'a>,
    #[serde(borrow, rename = "avgReleaseTimeOfLatest30day")]
    pub(super) avg_release_time_30d: Raw<'a>,
}

/// `userKycRet` of that.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserKyc<'a> {
    #[serde(borrow)]
    pub(super) address_status: Raw<'a>,
}
