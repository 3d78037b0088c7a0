//! What an exchange's API looks like, without doing any I/O.
//!
//! The seam between what is common and what is one exchange's own: everything outside this folder
//! knows ads and markets only. Field names of an exchange stop at its own folder.

pub mod binance;
mod scan;
pub mod shape;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Exchanges that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exchange {
    Binance,
}

impl Exchange {
    pub const ALL: [Self; 1] = [Self::Binance];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binance => "binance",
        }
    }

    /// Key in `warehouse.dim_exchanges`, fixed by the migrations.
    #[must_use]
    pub fn id(self) -> i16 {
        match self {
            Self::Binance => 1,
        }
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("exchange {0:?} is not allowed: {known}", known = Exchange::ALL.map(Exchange::as_str).join(", "))]
pub struct UnknownExchange(String);

impl FromStr for Exchange {
    type Err = UnknownExchange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|exchange| exchange.as_str() == text)
            .ok_or_else(|| UnknownExchange(text.to_owned()))
    }
}
