//! Money: micro-USDC in an integer, nothing else.

use alloy::primitives::U256;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Micro-USDC in one USDC.
const MICRO: u64 = 1_000_000;

/// An amount in micro-USDC, the token's atomic unit (6 decimals).
///
/// It never exceeds `i64::MAX`, so that it fits the ledger's BIGINT columns: some 9.2 trillion
/// USDC.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct MicroUsdc(u64);

/// Why a text or number is no amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not of the form "$1.25", at most 6 decimals.
    #[error("not a price such as \"$0.20\" with at most 6 decimals")]
    Malformed,
    /// Above `i64::MAX` micro-USDC.
    #[error("more than the ledger can hold (2^63 - 1 micro-USDC)")]
    TooLarge,
}

impl MicroUsdc {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From micro-USDC.
    pub const fn new(micro: u64) -> Result<Self, AmountError> {
        if micro > i64::MAX.unsigned_abs() { Err(AmountError::TooLarge) } else { Ok(Self(micro)) }
    }

    /// In micro-USDC.
    pub const fn micro(self) -> u64 {
        self.0
    }

    /// In micro-USDC, as the ledger's columns hold it.
    pub const fn column(self) -> i64 {
        self.0.cast_signed()
    }

    /// From a price in USD, "$0.20" (S04 5: `^\$\d+(\.\d+)?$`). More than 6 decimals are refused:
    /// a price must be an exact number of atomic units (C-66).
    pub fn from_price(text: &str) -> Result<Self, AmountError> {
        let digits = text.strip_prefix('$').ok_or(AmountError::Malformed)?;
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let numeric =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !numeric(whole) || !numeric(fraction) || fraction.len() > 6 {
            return Err(AmountError::Malformed);
        }
        let fraction = format!("{fraction:0<6}");
        let whole: u64 = whole.parse().map_err(|_| AmountError::TooLarge)?;
        let fraction: u64 = fraction.parse().map_err(|_| AmountError::Malformed)?;
        let micro = whole
            .checked_mul(MICRO)
            .and_then(|micro| micro.checked_add(fraction))
            .ok_or(AmountError::TooLarge)?;
        Self::new(micro)
    }

    /// The sum, if the ledger can hold it.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Self::new(self.0.checked_add(other.0)?).ok()
    }

    /// The difference, if it is not negative.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }
}

impl TryFrom<u64> for MicroUsdc {
    type Error = AmountError;

    fn try_from(micro: u64) -> Result<Self, AmountError> {
        Self::new(micro)
    }
}

impl TryFrom<U256> for MicroUsdc {
    type Error = AmountError;

    fn try_from(value: U256) -> Result<Self, AmountError> {
        Self::new(u64::try_from(value).map_err(|_| AmountError::TooLarge)?)
    }
}

impl From<MicroUsdc> for u64 {
    fn from(amount: MicroUsdc) -> Self {
        amount.0
    }
}

impl FromStr for MicroUsdc {
    type Err = AmountError;

    /// See [`MicroUsdc::from_price`].
    fn from_str(text: &str) -> Result<Self, AmountError> {
        Self::from_price(text)
    }
}

impl fmt::Display for MicroUsdc {
    /// In USDC with all six decimals, "0.200000".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / MICRO, self.0 % MICRO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    ///
    #[test]
    fn prices_are_exact() {
        for (text, micro) in [
            ("$0.20", 200_000),
            ("$0.005", 5_000),
            ("$1", 1_000_000),
            ("$0.000001", 1),
            ("$8.2", 8_200_000),
            ("$64.1", 64_100_000),
            ("$1.005", 1_005_000),
            ("$9223372036854.775807", i64::MAX.unsigned_abs()),
        ] {
            assert_eq!(MicroUsdc::from_price(text).map(MicroUsdc::micro), Ok(micro), "{text}");
        }
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for text in ["0.20", "$", "$.5", "$1.", "$1.0000001", "$-1", "$+1", "$1e3", "$1,0", "$ 1"] {
            assert_eq!(MicroUsdc::from_price(text), Err(AmountError::Malformed), "{text}");
        }
        assert_eq!(MicroUsdc::from_price("$9223372036854.775808"), Err(AmountError::TooLarge));
        assert_eq!(MicroUsdc::from_price("$99999999999999999999"), Err(AmountError::TooLarge));
        assert_eq!(MicroUsdc::try_from(U256::MAX), Err(AmountError::TooLarge));
    }

    #[test]
    fn shown_with_all_decimals() {
        assert_eq!(MicroUsdc::new(200_001).unwrap().to_string(), "0.200001");
        assert_eq!(MicroUsdc::new(12_000_000).unwrap().to_string(), "12.000000");
    }
}
