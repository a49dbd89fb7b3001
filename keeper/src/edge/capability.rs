//! A capability for sale, and whether the Splitter knows it on the agreed terms.

use super::{InputSchema, Tier};
use crate::{
    chain::{BlockTag, Chain, ChainError},
    ledger::Sale,
    splitter::{JecpSplitter, SplitTerms},
    x402::MicroUsdc,
};
use alloy::primitives::{Address, B256};
use chrono::{DateTime, TimeDelta, Utc};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use url::Url;

/// How long before its end a call is told that an action ends.
const SUNSET_NOTICE: TimeDelta = TimeDelta::days(30);

/// How an action may be paid (S06 2.3, 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentMethods {
    /// From a wallet at the hub behind this one.
    Stripe,
    /// With x402.
    X402,
    /// Either way.
    Both,
}

impl PaymentMethods {
    /// Whether an x402 payment is taken.
    pub const fn take_x402(self) -> bool {
        matches!(self, Self::X402 | Self::Both)
    }

    /// Whether a wallet may pay.
    pub const fn take_stripe(self) -> bool {
        matches!(self, Self::Stripe | Self::Both)
    }

    /// The words of the specification.
    pub const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Stripe => &["stripe"],
            Self::X402 => &["x402"],
            Self::Both => &["stripe", "x402"],
        }
    }
}

/// The end of an action (S01 4.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sunset {
    /// From then on it is not sold.
    pub at: DateTime<Utc>,
    /// Who does its work then, "namespace/action".
    pub successor: Option<String>,
}

impl Sunset {
    /// Whether it is over.
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        now >= self.at
    }

    /// Whether callers are told: from 30 days before.
    pub fn is_near(&self, now: DateTime<Utc>) -> bool {
        self.at.signed_duration_since(now) <= SUNSET_NOTICE
    }
}

/// A capability for sale.
#[derive(Clone)]
pub struct Capability {
    /// Id at the Splitter.
    pub id: B256,
    /// First half of its name.
    pub namespace: String,
    /// Second half.
    pub action: String,
    /// What a call costs.
    pub price: MicroUsdc,
    /// How it may be paid.
    pub methods: PaymentMethods,
    /// One line for people.
    pub description: String,
    /// What its input must look like, if that is said.
    pub input_schema: Option<Arc<InputSchema>>,
    /// When it ends, if it does.
    pub sunset: Option<Sunset>,
    /// Who must be registered for it, on which shares.
    pub terms: SplitTerms,
    /// Where the provider is called.
    pub endpoint: Url,
    /// Shared secret for those calls.
    pub hmac_secret: Vec<u8>,
    /// Agents of lower tiers may not call it.
    pub trust_tier_required: Tier,
    /// Whether a call may be repeated when its outcome is unknown.
    pub idempotent: bool,
    /// How long the provider may take.
    pub timeout: Duration,
}

impl Capability {
    /// "namespace/action".
    pub fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.action)
    }

    /// What a payment for it buys.
    pub(super) fn sale(&self) -> Sale {
        Sale { capability_id: self.name(), splitter_capability_id: self.id, terms: self.terms }
    }
}

impl fmt::Debug for Capability {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capability").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// What the Splitter says of a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Active, on the agreed terms.
    Active,
    /// Not registered, or deactivated.
    Inactive,
    /// Somebody registered it on other terms: it must not be sold (C-11).
    Foreign,
}

impl Registration {
    /// Asks the Splitter.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn read(
        chain: &Chain,
        splitter: Address,
        capability: &Capability,
    ) -> Result<Self, ChainError> {
        let found = chain.call(splitter, &Self::question(capability), BlockTag::Latest).await?;
        Ok(Self::of(&found, capability))
    }

    /// The question to the Splitter.
    pub(super) const fn question(capability: &Capability) -> JecpSplitter::capabilitiesCall {
        JecpSplitter::capabilitiesCall { capabilityId: capability.id }
    }

    /// What its answer means.
    pub(super) fn of(found: &JecpSplitter::capabilitiesReturn, capability: &Capability) -> Self {
        let registered = SplitTerms {
            provider: found.provider,
            bps: [found.providerBps, found.hubBps, found.reserveBps],
        };
        match (found.active, registered == capability.terms) {
            (false, _) => Self::Inactive,
            (true, true) => Self::Active,
            (true, false) => Self::Foreign,
        }
    }
}

/// What the Splitter said last of each capability. A challenge relies on it; a payment asks again.
#[derive(Debug, Default)]
pub struct Registrations {
    known: RwLock<BTreeMap<B256, Registration>>,
}

impl Registrations {
    /// Asks the Splitter about every capability that is paid through it.
    ///
    /// # Errors
    /// When the chain does not answer; what was known stays.
    pub async fn refresh(
        &self,
        chain: &Chain,
        splitter: Address,
        capabilities: &[Capability],
    ) -> Result<(), ChainError> {
        for capability in capabilities.iter().filter(|sold| sold.methods.take_x402()) {
            let registration = Registration::read(chain, splitter, capability).await?;
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if known.insert(capability.id, registration) != Some(registration) {
                match registration {
                    Registration::Active => {
                        tracing::info!(capability = capability.name(), "for sale");
                    }
                    Registration::Inactive => tracing::warn!(
                        capability = capability.name(),
                        "not for sale: not registered at the Splitter (script/Register.s.sol)"
                    ),
                    Registration::Foreign => tracing::error!(
                        capability = capability.name(),
                        "ALARM: not for sale: registered at the Splitter with another provider or \
                         split than the catalogue says"
                    ),
                }
            }
        }
        Ok(())
    }

    /// What the Splitter said last.
    pub fn get(&self, capability: B256) -> Option<Registration> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&capability).copied()
    }
}
