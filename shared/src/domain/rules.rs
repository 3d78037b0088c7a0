//! The rules that an ad is held against, in one place. Each has a name, by which refusals, warnings,
//! ledgers and metrics call it, and a level: what breaks a fatal rule is refused and goes into
//! quarantine, what breaks another is stored with the name of the rule beside it.

use std::fmt;

use serde::Serialize;

/// What follows if a rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The ad is refused.
    Fatal,
    /// The ad is taken, and the warning kept with it.
    Warning,
}

impl Level {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::Warning => "warning",
        }
    }
}

/// A rule, named after what breaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Not an object with the parts of an ad, or no valid JSON.
    Malformed,
    /// A field that an ad can't be stored without is absent or null.
    MissingField,
    /// A needed field is not where it should be, and elsewhere stand two that differ; or it stands twice
    /// in its place.
    AmbiguousField,
    /// A field holds another type than a number, text or flag should.
    WrongType,
    /// Text that should be a decimal is none.
    NotADecimal,
    /// An amount has more digits than the column holds (12 before, 8 after the point), or is negative.
    OutOfRange,
    /// A price of zero.
    PriceNotPositive,
    /// The ad belongs to another fiat, asset or side than was asked for.
    OtherMarket,
    /// Text that a database can't hold (NUL), bytes that are no text, or what is too long to be believed.
    BadText,

    /// The smallest order is larger than the largest.
    LimitsCrossed,
    /// The order that holds now is larger than the largest as set.
    DynamicMaxAboveMax,
    /// More can be traded than is left of the ad.
    TradableAboveAvailable,
    /// The price has more decimals than the ad itself says.
    PriceScale,
    /// A share of orders or reviews is not between 0 and 1.
    RateOutOfRange,
    /// The ad names no way to pay.
    NoPaymentMethods,
    /// A field that may be absent holds what can't be read, and is stored as if it were.
    UnreadableField,
    /// Fiat, asset or side are not told, and taken from the request.
    MarketNotTold,
    /// The side is a word that is not known; it is taken from the request.
    UnknownSide,
    /// The advertiser's name is not told, its key stands in.
    NameNotTold,
    /// An ad stands twice at ordinary places of one page. Of the page, not of the ad.
    DuplicateInPage,
}

impl Rule {
    pub const ALL: [Self; 20] = [
        Self::Malformed,
        Self::MissingField,
        Self::AmbiguousField,
        Self::WrongType,
        Self::NotADecimal,
        Self::OutOfRange,
        Self::PriceNotPositive,
        Self::OtherMarket,
        Self::BadText,
        Self::LimitsCrossed,
        Self::DynamicMaxAboveMax,
        Self::TradableAboveAvailable,
        Self::PriceScale,
        Self::RateOutOfRange,
        Self::NoPaymentMethods,
        Self::UnreadableField,
        Self::MarketNotTold,
        Self::UnknownSide,
        Self::NameNotTold,
        Self::DuplicateInPage,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MissingField => "missing_field",
            Self::AmbiguousField => "ambiguous_field",
            Self::WrongType => "wrong_type",
            Self::NotADecimal => "not_a_decimal",
            Self::OutOfRange => "out_of_range",
            Self::PriceNotPositive => "price_not_positive",
            Self::OtherMarket => "other_market",
            Self::BadText => "bad_text",
            Self::LimitsCrossed => "limits_crossed",
            Self::DynamicMaxAboveMax => "dynamic_max_above_max",
            Self::TradableAboveAvailable => "tradable_above_available",
            Self::PriceScale => "price_scale",
            Self::RateOutOfRange => "rate_out_of_range",
            Self::NoPaymentMethods => "no_payment_methods",
            Self::UnreadableField => "unreadable_field",
            Self::MarketNotTold => "market_not_told",
            Self::UnknownSide => "unknown_side",
            Self::NameNotTold => "name_not_told",
            Self::DuplicateInPage => "duplicate_in_page",
        }
    }

    #[must_use]
    pub fn level(self) -> Level {
        match self {
            Self::Malformed
            | Self::MissingField
            | Self::AmbiguousField
            | Self::WrongType
            | Self::NotADecimal
            | Self::OutOfRange
            | Self::PriceNotPositive
            | Self::OtherMarket
            | Self::BadText => Level::Fatal,
            Self::LimitsCrossed
            | Self::DynamicMaxAboveMax
            | Self::TradableAboveAvailable
            | Self::PriceScale
            | Self::RateOutOfRange
            | Self::NoPaymentMethods
            | Self::UnreadableField
            | Self::MarketNotTold
            | Self::UnknownSide
            | Self::NameNotTold
            | Self::DuplicateInPage => Level::Warning,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A rule that is no reason to refuse, and what broke it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    pub rule: Rule,
    /// Path of the field, for example `adv.price`.
    pub field: String,
    pub detail: String,
}

/// The names of the rules that some warnings break, sorted, each once.
#[must_use]
pub fn names(warnings: &[Warning]) -> Vec<&'static str> {
    let mut names: Vec<_> = warnings.iter().map(|warning| warning.rule.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_rule_is_listed_once_under_the_name_that_is_written() {
        let names: HashSet<_> = Rule::ALL.iter().map(|rule| rule.as_str()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        for rule in Rule::ALL {
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.as_str());
        }
    }
}
