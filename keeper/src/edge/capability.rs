//! A capability for sale, and whether the Splitter knows it on the agreed terms.

use crate::{
    chain::{BlockTag, Chain, ChainError},
    ledger::Sale,
    splitter::{JecpSplitter, SplitTerms},
    x402::MicroUsdc,
};
use alloy::primitives::{Address, B256};
use std::{collections::BTreeMap, fmt, sync::PoisonError, sync::RwLock, time::Duration};
use url::Url;

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
    /// One line for people.
    pub description: String,
    /// Who must be registered for it, on which shares.
    pub terms: SplitTerms,
    /// Where the provider is called.
    pub endpoint: Url,
    /// Shared secret for those calls.
    pub hmac_secret: Vec<u8>,
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
        let call = JecpSplitter::capabilitiesCall { capabilityId: capability.id };
        let found = chain.call(splitter, &call, BlockTag::Latest).await?;
        let registered = SplitTerms {
            provider: found.provider,
            bps: [found.providerBps, found.hubBps, found.reserveBps],
        };
        Ok(match (found.active, registered == capability.terms) {
            (false, _) => Self::Inactive,
            (true, true) => Self::Active,
            (true, false) => Self::Foreign,
        })
    }
}

/// What the Splitter said last of each capability. A challenge relies on it; a payment asks again.
#[derive(Debug, Default)]
pub struct Registrations {
    known: RwLock<BTreeMap<B256, Registration>>,
}

impl Registrations {
    /// Asks the Splitter about every capability.
    ///
    /// # Errors
    /// When the chain does not answer; what was known stays.
    pub async fn refresh(
        &self,
        chain: &Chain,
        splitter: Address,
        capabilities: &[Capability],
    ) -> Result<(), ChainError> {
        for capability in capabilities {
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
