//! Whether requirements are such as are settled here for a caller, and what an authorization must say
//! to meet them.

use super::{
    Caller,
    reason::Reason,
    wire::{Order, Refusal},
};
use crate::{
    edge::{Capability, Edge, Site},
    eip3009::{Terms, domain},
    x402::{MicroUsdc, Version},
};

/// Seconds by which a payer's clock may be wrong.
const MAX_CLOCK_SKEW: u64 = 600;
/// Longest window of an authorization, seconds: so long it may occupy us.
const MAX_WINDOW: u64 = 86_400;

/// What may be settled.
#[derive(Debug)]
pub(super) struct Deal {
    /// The capability that the Splitter is paid for, at the price that is asked; without one the
    /// payment passes through to its payee.
    pub(super) capability: Option<Capability>,
    /// How much.
    pub(super) amount: MicroUsdc,
    /// What the authorization must say.
    pub(super) terms: Terms,
}

fn refuse(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Requirements, message)
}

/// Holds requirements against what the caller may have settled.
///
/// # Errors
/// Why they are none of it.
pub(super) fn deal(
    edge: &Edge,
    site: &Site,
    caller: &Caller,
    order: &Order,
) -> Result<Deal, Refusal> {
    let required = &order.requirements;
    let usdc = site.network.usdc();
    if order.payment.network != site.network {
        return Err(Refusal::new(Reason::Network, "this network is not served here"));
    }
    if required.asset != usdc.address {
        return Err(refuse("another token than the network's USDC"));
    }
    check_domain(order, usdc.name, usdc.version)?;
    let amount = amount(&required.amount).ok_or_else(|| {
        refuse("the amount must be a decimal number of micro-USDC, above 0, in range")
    })?;
    if required.max_timeout_seconds == 0 || required.max_timeout_seconds > MAX_WINDOW {
        return Err(refuse(format!("maxTimeoutSeconds must be between 1 and {MAX_WINDOW}")));
    }
    let capability = if required.pay_to == site.splitter.address {
        let capability = sold(edge, caller, order)?;
        if amount > site.splitter.per_tx_cap {
            return Err(refuse("the amount is above the Splitter's PER_TX_CAP"));
        }
        Some(Capability { price: amount, ..capability.clone() })
    } else if caller.may_pay(required.pay_to) {
        None
    } else {
        return Err(refuse("payTo is not on this caller's list"));
    };
    let terms = Terms {
        domain: domain(&usdc, site.network.chain_id()),
        pay_to: required.pay_to,
        amount,
        longest: required.max_timeout_seconds.saturating_add(MAX_CLOCK_SKEW),
    };
    Ok(Deal { capability, amount, terms })
}

/// The capability that the Splitter is paid for: the one that requirements name in
/// `extra.capability`, or the only one that the caller sells.
fn sold<'e>(edge: &'e Edge, caller: &Caller, order: &Order) -> Result<&'e Capability, Refusal> {
    let own = caller.capabilities();
    let name = match (order.requirements.extra.get("capability"), own) {
        (Some(name), _) => name.as_str().unwrap_or_default(),
        (None, [only]) => only,
        (None, []) => return Err(refuse("this caller sells no capability of the Splitter's")),
        (None, _) => {
            return Err(refuse("extra.capability must say which of the caller's capabilities"));
        }
    };
    let mut all = edge.catalogue.all().iter();
    all.find(|capability| own.iter().any(|it| it == name) && capability.name() == name)
        .ok_or_else(|| refuse("extra.capability is none of this caller's"))
}

/// The EIP-712 domain that the payer was told to sign for must be the token's. Version 1 may leave it
/// out.
fn check_domain(order: &Order, name: &str, version: &str) -> Result<(), Refusal> {
    let extra = &order.requirements.extra;
    let method = extra.get("assetTransferMethod");
    if method.is_some_and(|method| method != "eip3009") {
        let message = "only EIP-3009 authorizations are settled here";
        return Err(Refusal::new(Reason::PayloadType, message));
    }
    for (key, own, reason) in
        [("name", name, Reason::TokenName), ("version", version, Reason::TokenVersion)]
    {
        match extra.get(key) {
            Some(given) if given == own => {}
            None if order.payment.version == Version::V1 => {}
            None => {
                let message = format!("extra.{key} of the token's EIP-712 domain is missing");
                return Err(Refusal::new(Reason::MissingDomain, message));
            }
            Some(_) => {
                let message = format!("extra.{key} must be {own:?} on this network");
                return Err(Refusal::new(reason, message));
            }
        }
    }
    Ok(())
}

/// Decimal digits without sign, blanks or leading zeros.
fn amount(text: &str) -> Option<MicroUsdc> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    let micro = is_number.then(|| text.parse().ok())??;
    MicroUsdc::new(micro).ok().filter(|amount| *amount != MicroUsdc::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_in_one_way() {
        assert_eq!(amount("200000").map(MicroUsdc::micro), Some(200_000));
        for text in ["", "0", "00", "01", "+1", "-1", "1.0", " 1", "1e3", "99999999999999999999"] {
            assert_eq!(amount(text), None, "{text:?}");
        }
    }
}
