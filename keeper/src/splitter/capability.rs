//! Capability ids and registrations.

use super::{DOMAIN_NAME, DOMAIN_VERSION_V1};
use alloy::{
    primitives::{Address, B256, U256, keccak256},
    sol,
    sol_types::{Eip712Domain, SolStruct},
};

sol! {
    /// The typed data of S06 8.3.
    struct Register {
        bytes32 capabilityId;
        address provider;
        uint16 providerBps;
        uint16 hubBps;
        uint16 reserveBps;
        bytes32 nonce;
        uint256 deadline;
    }
}

/// `keccak256(utf8(namespace + ":" + action_id))` (S06 8.3).
pub fn capability_id(namespace: &str, action: &str) -> B256 {
    keccak256(format!("{namespace}:{action}"))
}

/// What a provider signs to register a capability.
#[derive(Debug, Clone, Copy)]
pub struct RegistrationTerms {
    /// Id at the Splitter.
    pub capability_id: B256,
    /// Who signs and receives the provider's share.
    pub provider: Address,
    /// Shares of provider, hub and reserve in basis points; they sum to 10000.
    pub bps: [u16; 3],
    /// Any 32 bytes not used before.
    pub nonce: B256,
    /// Last second at which the signature is accepted.
    pub deadline: u64,
}

impl RegistrationTerms {
    /// The hash to sign for a published Splitter.
    pub fn signing_hash(&self, chain_id: u64, splitter: Address) -> B256 {
        let domain = Eip712Domain::new(
            Some(DOMAIN_NAME.into()),
            Some(DOMAIN_VERSION_V1.into()),
            Some(U256::from(chain_id)),
            Some(splitter),
            None,
        );
        Register {
            capabilityId: self.capability_id,
            provider: self.provider,
            providerBps: self.bps[0],
            hubBps: self.bps[1],
            reserveBps: self.bps[2],
            nonce: self.nonce,
            deadline: U256::from(self.deadline),
        }
        .eip712_signing_hash(&domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::b256;

    #[test]
    fn ids_are_the_published_ones() {
        assert_eq!(
            capability_id("jobdonebot", "remove"),
            b256!("0x60340c5f487512523c0228ca583bce6e55150b51408c623ef2bb0eba7914dd9c")
        );
    }

    #[test]
    fn typehash_is_the_published_one() {
        let empty = Register {
            capabilityId: B256::ZERO,
            provider: Address::ZERO,
            providerBps: 0,
            hubBps: 0,
            reserveBps: 0,
            nonce: B256::ZERO,
            deadline: U256::ZERO,
        };
        assert_eq!(
            empty.eip712_type_hash(),
            b256!("0xf39281b2b70b55eacbdf74c62f0e3723a046ffcdad655521cee338584c3d96d8")
        );
    }
}
