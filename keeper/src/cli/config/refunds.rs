//! What is refunded, and what is sold, without asking anybody.

use crate::{lifecycle::RefundPolicy, x402::MicroUsdc};
use serde::{Deserialize, Deserializer, de::Error};

/// `[refunds]`; each field at what S06 4.5 has.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli) struct Refunds {
    /// Most refunds of an agent in 24 hours.
    agent_day: u64,
    /// A larger amount is looked at first, USDC.
    #[serde(deserialize_with = "usdc")]
    review_above: MicroUsdc,
    /// Most that is given back in seven days, USDC.
    #[serde(deserialize_with = "usdc")]
    week_limit: MicroUsdc,
    /// Most calls of a hundred of a capability that may fail within an hour.
    failure_percent: u64,
    /// So many calls must have ended before that is judged.
    failure_sample: u64,
    /// So many payers must have failed calls.
    failure_payers: u64,
}

impl Default for Refunds {
    fn default() -> Self {
        let RefundPolicy {
            agent_day,
            review_above,
            week_limit,
            failure_percent,
            failure_sample,
            failure_payers,
        } = RefundPolicy::default();
        Self {
            agent_day,
            review_above,
            week_limit,
            failure_percent,
            failure_sample,
            failure_payers,
        }
    }
}

impl Refunds {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=100).contains(&self.failure_percent) {
            return Err(
                "refunds.failure_percent must be between 1 and 100; 100 never stops a sale"
                    .to_owned(),
            );
        }
        if self.failure_sample == 0 {
            return Err("refunds.failure_sample must be at least 1".to_owned());
        }
        if self.failure_payers == 0 {
            return Err("refunds.failure_payers must be at least 1".to_owned());
        }
        Ok(())
    }

    /// For the reconciler and for commands.
    pub(in crate::cli) const fn policy(&self) -> RefundPolicy {
        RefundPolicy {
            agent_day: self.agent_day,
            review_above: self.review_above,
            week_limit: self.week_limit,
            failure_percent: self.failure_percent,
            failure_sample: self.failure_sample,
            failure_payers: self.failure_payers,
        }
    }
}

/// An amount as text, "10.00": a float is no amount.
fn usdc<'de, D: Deserializer<'de>>(written: D) -> Result<MicroUsdc, D::Error> {
    let text = String::deserialize(written)?;
    MicroUsdc::from_price(&format!("${text}"))
        .map_err(|_| D::Error::custom(format!("{text:?} is not an amount such as \"10.00\"")))
}
