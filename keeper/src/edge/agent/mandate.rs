//! A mandate: what an agent's owner allows it in one call (S02 4).

use super::credentials::ApiKey;
use crate::x402::MicroUsdc;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;

/// Most that a mandate may allow, micro-USDC: 1000 USDC (S02 4.2).
const MOST: u64 = 1_000_000_000;
/// Decimals of USDC.
const DECIMALS: i64 = 6;
/// Digits of any number that 64 bits hold.
const MAX_DIGITS: i64 = 19;

/// A mandate as a call carries it. One with a limit that is not known here is refused: what its owner
/// forbade must not be ignored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct Mandate {
    /// Who calls; before the header.
    pub(super) agent_id: Option<String>,
    /// Their key; before the header.
    pub(super) api_key: Option<ApiKey>,
    /// Most that this call may cost.
    #[serde(default, deserialize_with = "budget")]
    pub(super) budget_usdc: Option<MicroUsdc>,
    /// Until when it holds.
    pub(super) expires_at: Option<DateTime<Utc>>,
    /// See [`super::provenance`].
    pub(in crate::edge) provenance_hash: Option<String>,
}

impl Mandate {
    /// Whether it holds no more (S02 4.3: `expires_at < now`).
    pub(super) fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at < now)
    }
}

fn budget<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MicroUsdc>, D::Error> {
    let Some(raw) = Option::<Box<RawValue>>::deserialize(deserializer)? else { return Ok(None) };
    let budget = micro(raw.get())
        .ok_or_else(|| D::Error::custom("mandate.budget_usdc must be a number from 0 to 1000"))?;
    Ok(Some(budget))
}

/// A JSON number of USDC, from its text. What is finer than a micro-USDC is rounded down: a budget is
/// a bound.
fn micro(text: &str) -> Option<MicroUsdc> {
    let (is_negative, number) = match text.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, text),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(MicroUsdc::ZERO);
    }
    if is_negative {
        return None;
    }
    // An exponent that does not fit is beyond every bound, on its side.
    let Ok(exponent) = exponent.parse::<i64>() else {
        return exponent.starts_with('-').then_some(MicroUsdc::ZERO);
    };
    let fraction = i64::try_from(fraction.len()).ok()?;
    let length = i64::try_from(digits.len()).ok()?;
    // The value is `digits` with this many zeros behind it, or so many digits less.
    let shift = DECIMALS.saturating_add(exponent).saturating_sub(fraction);
    let kept = length.saturating_add(shift);
    if kept > MAX_DIGITS {
        return None;
    }
    if kept <= 0 {
        return Some(MicroUsdc::ZERO);
    }
    let kept = usize::try_from(kept).ok()?;
    let (floor, rest) = match digits.get(kept..) {
        Some(rest) => (digits.get(..kept)?.parse::<u64>().ok()?, rest),
        None => (format!("{digits:0<kept$}").parse().ok()?, ""),
    };
    let is_more = rest.bytes().any(|digit| digit != b'0');
    if floor > MOST || floor == MOST && is_more {
        return None;
    }
    MicroUsdc::new(floor).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parsed(text: &str) -> Option<u64> {
        micro(text).map(MicroUsdc::micro)
    }

    /// R-309: an integer, from the number's own text.
    #[test]
    fn budgets() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-0.0", Some(0)),
            ("0e999999999999999999999", Some(0)),
            ("1", Some(1_000_000)),
            ("1.00", Some(1_000_000)),
            ("0.2", Some(200_000)),
            ("0.1999999", Some(199_999)),
            // As floats these two would be the same.
            ("0.19999999999999999999", Some(199_999)),
            ("0.20000000000000000001", Some(200_000)),
            ("1e-6", Some(1)),
            ("1E-7", Some(0)),
            ("2e-1", Some(200_000)),
            ("20.0e-2", Some(200_000)),
            ("1e3", Some(1_000_000_000)),
            ("1e+3", Some(1_000_000_000)),
            ("1000", Some(1_000_000_000)),
            ("1000.0000000", Some(1_000_000_000)),
            ("1e-99999999999999999999", Some(0)),
            ("1000.0000001", None),
            ("1000.000001", None),
            ("1001", None),
            ("1e4", None),
            ("1e99999999999999999999", None),
            ("9223372036854775807e0", None),
            ("-1", None),
            ("-0.000001", None),
            ("\"1\"", None),
            ("true", None),
            ("{}", None),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn what_a_mandate_may_say() {
        let parse = |mandate: &str| serde_json::from_str::<Mandate>(mandate);
        let mandate = parse(r#"{"budget_usdc": 0.20, "expires_at": "2026-12-31T23:59:59+01:00"}"#);
        let mandate = mandate.unwrap();
        assert_eq!(mandate.budget_usdc.map(MicroUsdc::micro), Some(200_000));
        let end = mandate.expires_at.unwrap();
        assert_eq!(end.to_rfc3339(), "2026-12-31T22:59:59+00:00");
        assert!(!mandate.is_expired(end));
        assert!(mandate.is_expired(end + chrono::TimeDelta::milliseconds(1)));
        assert_eq!(parse(r#"{"budget_usdc": null}"#).unwrap().budget_usdc, None);
        assert_eq!(parse("{}").unwrap().budget_usdc, None);
        for wrong in [
            json!({"budget_total_usdc": 1}),
            json!({"budget": 1}),
            json!({"budget_usdc": -1}),
            json!({"budget_usdc": 1_000.01}),
            json!({"budget_usdc": "1"}),
            json!({"expires_at": "tomorrow"}),
            json!({"expires_at": 1}),
        ] {
            parse(&wrong.to_string()).expect_err(&wrong.to_string());
        }
        // A key is in no message and no log.
        let mandate = parse(r#"{"api_key": "keeper_ak_secret"}"#).unwrap();
        assert!(!format!("{mandate:?}").contains("secret"));
    }

    proptest! {
        /// The same number is the same budget, however it is written.
        #[test]
        fn a_number_has_many_spellings(micro in 0..=MOST, zeros in 0usize..30, shift in -20i64..20) {
            let plain = format!("{}.{:06}{}", micro / 1_000_000, micro % 1_000_000, "0".repeat(zeros));
            prop_assert_eq!(parsed(&plain), Some(micro));
            let padding = "0".repeat(zeros);
            let scaled = format!("{micro}.{padding}e{}", -6);
            prop_assert_eq!(parsed(&scaled), Some(micro));
            if shift >= 0 {
                let zeros = "0".repeat(usize::try_from(shift).unwrap());
                prop_assert_eq!(parsed(&format!("{micro}{zeros}E{}", -6 - shift)), Some(micro));
            }
        }

        /// Whatever stands there, it is a budget within its bounds or none.
        #[test]
        fn no_text_is_more_than_allowed(text in "-?[0-9]{0,25}(\\.[0-9]{0,25})?([eE][+-]?[0-9]{0,22})?") {
            if let Some(micro) = parsed(&text) {
                prop_assert!(micro <= MOST);
            }
        }
    }
}
