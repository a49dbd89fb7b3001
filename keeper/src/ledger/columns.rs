//! Between the domain's types and the columns' texts and numbers.

use super::{LedgerError, Result};
use crate::x402::MicroUsdc;
use alloy::primitives::{Address, B256};
use chrono::{DateTime, SubsecRound, Utc};
use std::str::FromStr;
use uuid::Uuid;

/// Now, as precise as PostgreSQL keeps it.
pub(super) fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// The moment so many milliseconds after the beginning of 1970.
pub(super) fn moment(milliseconds: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_millis(milliseconds)
        .ok_or_else(|| LedgerError::OutOfRange { what: "time", value: milliseconds.to_string() })
}

/// Lower-case 0x hex.
pub(super) fn hex(bytes: impl AsRef<[u8]>) -> String {
    alloy::hex::encode_prefixed(bytes)
}

fn parse<T: FromStr>(column: &'static str, value: &str, expected: &'static str) -> Result<T> {
    value.parse().map_err(|_| LedgerError::Corrupt { column, value: value.to_owned(), expected })
}

/// An address column.
pub(super) fn address(column: &'static str, value: &str) -> Result<Address> {
    parse(column, value, "address")
}

/// A hash column.
pub(super) fn hash(column: &'static str, value: &str) -> Result<B256> {
    parse(column, value, "hash")
}

/// A UUID column.
pub(super) fn uuid(column: &'static str, value: &str) -> Result<Uuid> {
    parse(column, value, "uuid")
}

/// A column that is never negative.
pub(super) fn unsigned(column: &'static str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| LedgerError::Corrupt {
        column,
        value: value.to_string(),
        expected: "non-negative integer",
    })
}

/// A money column.
pub(super) fn money(column: &'static str, value: i64) -> Result<MicroUsdc> {
    MicroUsdc::new(unsigned(column, value)?).map_err(|_| LedgerError::Corrupt {
        column,
        value: value.to_string(),
        expected: "amount",
    })
}

/// A column of basis points.
pub(super) fn bps(value: i64) -> Result<u16> {
    u16::try_from(value).map_err(|_| LedgerError::Corrupt {
        column: "bps",
        value: value.to_string(),
        expected: "number of basis points",
    })
}

/// A column with a word of one of our enums.
pub(super) fn word<T>(
    column: &'static str,
    value: &str,
    from_word: impl Fn(&str) -> Option<T>,
) -> Result<T> {
    from_word(value).ok_or_else(|| LedgerError::Corrupt {
        column,
        value: value.to_owned(),
        expected: "known word",
    })
}

/// A number on its way into a BIGINT column.
pub(super) fn bigint<T: Copy + ToString>(what: &'static str, value: T) -> Result<i64>
where
    i64: TryFrom<T>,
{
    i64::try_from(value).map_err(|_| LedgerError::OutOfRange { what, value: value.to_string() })
}
