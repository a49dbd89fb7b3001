//! What is booked: a log of any of the mirrors.

use super::ReconcilerError;
use crate::{
    ledger::{LogRef, Payout, Pull, SplitterLog},
    splitter::SplitterEvent,
};
use alloy::primitives::{Address, B256, U256};

/// A log and its block: transaction, log index, block.
pub(super) type Place = (B256, u64, B256);

/// A log of any of the mirrors.
pub(super) enum Entry {
    /// What came in.
    Pull(Pull),
    /// What passed through to another payee.
    Passed(Pull),
    /// What went out.
    Payout(Payout),
    /// What the Splitter said.
    Log(SplitterLog),
}

impl Entry {
    /// Where.
    pub(super) const fn at(&self) -> &LogRef {
        match self {
            Self::Pull(pull) | Self::Passed(pull) => &pull.at,
            Self::Payout(payout) => &payout.at,
            Self::Log(log) => &log.at,
        }
    }

    /// Whether there is anything to book. Anybody can send nothing to anybody.
    pub(super) const fn moves_money(&self) -> bool {
        match self {
            Self::Pull(pull) | Self::Passed(pull) => pull.amount.micro() != 0,
            Self::Payout(payout) => payout.amount.micro() != 0,
            Self::Log(log) => !matches!(
                log.event,
                SplitterEvent::CapabilityRegistered { .. }
                    | SplitterEvent::CapabilityDeactivated { .. }
            ),
        }
    }
}

/// Which log, in which block.
pub(super) const fn place(at: &LogRef) -> Place {
    (at.tx_hash, at.log_index, at.block_hash)
}

/// `PaymentSplit` does not name the provider; the log behind it, his payment or his escrow, does.
pub(super) fn provider_behind(
    log: &SplitterLog,
    next: Option<&Entry>,
    share: U256,
) -> Result<Address, ReconcilerError> {
    match next.filter(|next| next.at().tx_hash == log.at.tx_hash) {
        Some(Entry::Payout(payout)) if U256::from(payout.amount.micro()) == share => {
            Ok(payout.recipient)
        }
        Some(Entry::Log(SplitterLog {
            event: SplitterEvent::ProviderEscrowed { provider, amount },
            ..
        })) if *amount == share => Ok(*provider),
        _ => Err(ReconcilerError::Unexplained(log.at)),
    }
}
