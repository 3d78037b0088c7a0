//! The JSON of the ad search and of the page of an advertiser. Its field names are used here and in
//! `envelope`, and named in the messages of `search` and `advertiser`; those of the lists stand in `lists`, those of requests
//! in `request`, and those that are left out, with the reason, in `fields`.
//!
//! Fields are kept as raw JSON and read one by one, so that one odd value costs one field or one ad,
//! never the page.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::envelope::{self, MAX_ITEMS};
use super::value::{self, Raw, Written};
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
pub(super) fn open(bytes: &[u8]) -> Result<Written<'_>, AnswerError> {
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

/// An object whose fields are kept as they are written, whichever way they are found: by `serde`, or one by
/// one under the index of their name.
macro_rules! object {
    ($(#[$about:meta])* $name:ident { $($field:ident: $json:literal,)* }) => {
        $(#[$about])*
        #[derive(Default, Deserialize)]
        pub(super) struct $name<'a> {
            $(#[serde(borrow, rename = $json)] pub(super) $field: Raw<'a>,)*
        }

        impl<'a> $name<'a> {
            pub(super) const NAMES: &'static [&'static str] = &[$($json),*];

            /// From values in the order of the names.
            pub(super) fn of(mut values: impl Iterator<Item = Raw<'a>>) -> Self {
                Self { $($field: values.next().flatten(),)* }
            }
        }
    };
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

object! {
    /// An ad, in the search and on the page of an advertiser.
    Adv {
        adv_no: "advNo",
        classify: "classify",
        trade_type: "tradeType",
        asset: "asset",
        fiat_unit: "fiatUnit",
        price: "price",
        surplus_amount: "surplusAmount",
        tradable_quantity: "tradableQuantity",
        min_single_trans_amount: "minSingleTransAmount",
        max_single_trans_amount: "maxSingleTransAmount",
        dynamic_max_single_trans_amount: "dynamicMaxSingleTransAmount",
        min_single_trans_quantity: "minSingleTransQuantity",
        max_single_trans_quantity: "maxSingleTransQuantity",
        dynamic_max_single_trans_quantity: "dynamicMaxSingleTransQuantity",
        init_amount: "initAmount",
        amount_after_editing: "amountAfterEditing",
        commission_rate: "commissionRate",
        taker_commission_rate: "takerCommissionRate",
        min_taker_fee: "minTakerFee",
        pay_time_limit: "payTimeLimit",
        trade_methods: "tradeMethods",
        is_tradable: "isTradable",
        is_safe_payment: "isSafePayment",
        taker_additional_kyc_required: "takerAdditionalKycRequired",
        asset_scale: "assetScale",
        fiat_scale: "fiatScale",
        price_scale: "priceScale",
        auto_reply_msg: "autoReplyMsg",
        remarks: "remarks",
        price_type: "priceType",
        price_floating_ratio: "priceFloatingRatio",
        rate_floating_ratio: "rateFloatingRatio",
        buyer_kyc_limit: "buyerKycLimit",
        buyer_reg_days_limit: "buyerRegDaysLimit",
        buyer_btc_position_limit: "buyerBtcPositionLimit",
        adv_status: "advStatus",
        create_time: "createTime",
        adv_update_time: "advUpdateTime",
        voucher_template: "voucherTemplate",
        adv_system_label_ret: "advSystemLabelRet",
        user_all_trade_count_min: "userAllTradeCountMin",
        user_all_trade_count_max: "userAllTradeCountMax",
        user_buy_trade_count_min: "userBuyTradeCountMin",
        user_buy_trade_count_max: "userBuyTradeCountMax",
        user_sell_trade_count_min: "userSellTradeCountMin",
        user_sell_trade_count_max: "userSellTradeCountMax",
        user_trade_complete_count_min: "userTradeCompleteCountMin",
        user_trade_complete_rate_min: "userTradeCompleteRateMin",
        user_trade_complete_rate_filter_time: "userTradeCompleteRateFilterTime",
        user_trade_count_filter_time: "userTradeCountFilterTime",
        user_trade_type: "userTradeType",
        user_trade_volume_min: "userTradeVolumeMin",
        user_trade_volume_max: "userTradeVolumeMax",
        user_trade_volume_asset: "userTradeVolumeAsset",
        user_trade_volume_filter_time: "userTradeVolumeFilterTime",
    }
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

object! {
    /// One element of `tradeMethods`.
    TradeMethod {
        identifier: "identifier",
        trade_method_name: "tradeMethodName",
        trade_method_short_name: "tradeMethodShortName",
    }
}

object! {
    /// `advertiser` of an item of the search.
    Advertiser {
        user_no: "userNo",
        nick_name: "nickName",
        user_type: "userType",
        user_identity: "userIdentity",
        user_grade: "userGrade",
        vip_level: "vipLevel",
        badges: "badges",
        pro_merchant: "proMerchant",
        is_blocked: "isBlocked",
        merchant_group_member: "merchantGroupMember",
        month_order_count: "monthOrderCount",
        month_finish_rate: "monthFinishRate",
        positive_rate: "positiveRate",
        active_time_in_second: "activeTimeInSecond",
        adv_confirm_time: "advConfirmTime",
    }
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
