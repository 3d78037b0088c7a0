//! Markets: fiat × asset × side of one exchange.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Side of the *taker*, as an exchange's search is asked for it.
///
/// `Buy` lists ads from which the taker buys; the ads themselves then say `SELL`, because the
/// advertiser sells. Best price: `Buy` lowest, `Sell` highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Side {
    Buy,
    Sell,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Buy, Self::Sell];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "BUY",
            Self::Sell => "SELL",
        }
    }

    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Buy => Self::Sell,
            Self::Sell => Self::Buy,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value that cannot name a market.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MarketError {
    #[error("side {0:?} is not allowed: BUY or SELL")]
    Side(String),
    #[error("{what} {value:?} is not allowed: 1 to 32 characters, without white space or control")]
    Code { what: &'static str, value: String },
}

impl FromStr for Side {
    type Err = MarketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::BOTH
            .into_iter()
            .find(|side| text.eq_ignore_ascii_case(side.as_str()))
            .ok_or_else(|| MarketError::Side(text.to_owned()))
    }
}

/// One market of an exchange, by the exchange's own codes (`VES`, `USDT`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Market {
    pub fiat: String,
    pub asset: String,
    pub side: Side,
}

impl Market {
    /// Codes are taken as they are: some are not ISO, and an asset may itself be a fiat.
    pub fn new(fiat: &str, asset: &str, side: Side) -> Result<Self, MarketError> {
        Ok(Self { fiat: code("fiat", fiat)?, asset: code("asset", asset)?, side })
    }
}

impl fmt::Display for Market {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.asset, self.fiat, self.side)
    }
}

/// Longest code that is believed; the longest seen is 8 characters.
const MAX_CODE_CHARS: usize = 32;

fn code(what: &'static str, value: &str) -> Result<String, MarketError> {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if value.is_empty() || value.chars().count() > MAX_CODE_CHARS || value.contains(odd) {
        return Err(MarketError::Code { what, value: value.to_owned() });
    }
    Ok(value.to_owned())
}

/// Pages of a book of `total` ads; at least one, for an empty book costs one request too.
#[must_use]
pub fn page_count(total: u32, rows: u32) -> u32 {
    total.div_ceil(rows).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_is_read_in_any_case_and_nothing_else() {
        assert_eq!("buy".parse(), Ok(Side::Buy));
        assert_eq!("SELL".parse(), Ok(Side::Sell));
        assert_eq!("both".parse::<Side>(), Err(MarketError::Side("both".into())));
    }

    #[test]
    fn a_market_needs_codes() {
        assert!(Market::new("", "USDT", Side::Buy).is_err());
        assert!(Market::new("VES", "US DT", Side::Buy).is_err());
        assert_eq!(Market::new("VES", "USDT", Side::Buy).unwrap().to_string(), "USDT/VES BUY");
    }

    #[test]
    fn pages_are_rounded_up() {
        assert_eq!([0, 1, 20, 21, 40].map(|total| page_count(total, 20)), [1, 1, 1, 2, 2]);
    }
}
