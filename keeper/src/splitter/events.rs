//! The Splitter's events.

use super::{
    JecpSplitter::{self, JecpSplitterEvents},
    SplitTerms,
};
use alloy::{
    primitives::{Address, B256, Log, U256},
    sol_types::SolEventInterface,
};

/// An event of a Splitter that moves or attributes money, or says who gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitterEvent {
    /// A capability is registered on these terms.
    CapabilityRegistered {
        /// The capability.
        capability_id: B256,
        /// Who is paid, and how much of it.
        terms: SplitTerms,
    },
    /// It is not any more, and what was accounted to it is split.
    CapabilityDeactivated {
        /// The capability.
        capability_id: B256,
        /// Whose it was.
        provider: Address,
    },
    /// An amount was attributed to a capability.
    SettlementRecorded {
        /// The capability.
        capability_id: B256,
        /// Atomic units.
        amount: U256,
        /// Payer of the appended identity, or zero.
        payer: Address,
    },
    /// Everything accounted to a capability was divided.
    PaymentSplit {
        /// The capability.
        capability_id: B256,
        /// A label.
        payer: Address,
        /// What was divided.
        amount: U256,
        /// Provider's share.
        provider_amount: U256,
        /// Hub's share.
        hub_amount: U256,
        /// Reserve's share.
        reserve_amount: U256,
    },
    /// A provider's share went to escrow.
    ProviderEscrowed {
        /// The provider.
        provider: Address,
        /// Atomic units.
        amount: U256,
    },
    /// A provider took what was escrowed for him.
    ProviderWithdrew {
        /// The provider.
        provider: Address,
        /// Atomic units.
        amount: U256,
    },
}

impl SplitterEvent {
    /// Decodes a log of the Splitter; `None` for events of no concern to money.
    pub fn decode(log: &Log) -> Option<Self> {
        match JecpSplitterEvents::decode_log(log).ok()?.data {
            JecpSplitterEvents::SettlementRecorded(JecpSplitter::SettlementRecorded {
                capabilityId,
                amount,
                payer,
            }) => Some(Self::SettlementRecorded { capability_id: capabilityId, amount, payer }),
            JecpSplitterEvents::PaymentSplit(event) => Some(Self::PaymentSplit {
                capability_id: event.capabilityId,
                payer: event.payer,
                amount: event.amount,
                provider_amount: event.providerAmount,
                hub_amount: event.hubAmount,
                reserve_amount: event.reserveAmount,
            }),
            JecpSplitterEvents::ProviderEscrowed(event) => {
                Some(Self::ProviderEscrowed { provider: event.provider, amount: event.amount })
            }
            JecpSplitterEvents::ProviderWithdrew(event) => {
                Some(Self::ProviderWithdrew { provider: event.provider, amount: event.amount })
            }
            JecpSplitterEvents::CapabilityRegistered(event) => Some(Self::CapabilityRegistered {
                capability_id: event.capabilityId,
                terms: SplitTerms {
                    provider: event.provider,
                    bps: [event.providerBps, event.hubBps, event.reserveBps],
                },
            }),
            JecpSplitterEvents::CapabilityDeactivated(event) => Some(Self::CapabilityDeactivated {
                capability_id: event.capabilityId,
                provider: event.provider,
            }),
            JecpSplitterEvents::RelayerRotated(_) | JecpSplitterEvents::EIP712DomainChanged(_) => {
                None
            }
        }
    }

    /// The event's name in the contract.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CapabilityRegistered { .. } => "CapabilityRegistered",
            Self::CapabilityDeactivated { .. } => "CapabilityDeactivated",
            Self::SettlementRecorded { .. } => "SettlementRecorded",
            Self::PaymentSplit { .. } => "PaymentSplit",
            Self::ProviderEscrowed { .. } => "ProviderEscrowed",
            Self::ProviderWithdrew { .. } => "ProviderWithdrew",
        }
    }
}
