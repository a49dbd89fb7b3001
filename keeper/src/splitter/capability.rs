//! Capability ids, and what is registered under them.

use alloy::primitives::{Address, B256, keccak256};

/// `keccak256(utf8(namespace + ":" + action_id))` (S06 8.3).
pub fn capability_id(namespace: &str, action: &str) -> B256 {
    keccak256(format!("{namespace}:{action}"))
}

/// Who is paid for a capability, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SplitTerms {
    /// Receives the provider's share.
    pub provider: Address,
    /// Shares of provider, hub and reserve in basis points; they sum to 10000.
    pub bps: [u16; 3],
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
}
