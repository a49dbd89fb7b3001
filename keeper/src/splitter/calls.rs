//! Calldata of the keeper's transactions.

use super::JecpSplitter;
use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall,
};

/// Selector and two words of `recordSettlement`.
const RECORD_BYTES: usize = 4 + 2 * 32;
/// Payer and authorization nonce.
const IDENTITY_BYTES: usize = 20 + 32;

/// Length of what [`record_call`] makes.
pub const RECORD_CALL_BYTES: usize = RECORD_BYTES + IDENTITY_BYTES;
/// Length of what [`split_call`] makes: a selector and two words.
pub const SPLIT_CALL_BYTES: usize = 4 + 2 * 32;

/// Which payment a record is for. The published `recordSettlement` names none, so the settler
/// appends this to its calldata: the contract reads the payer for its event, and whoever reads the
/// chain learns the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaymentIdentity {
    /// Payer.
    pub payer: Address,
    /// Authorization nonce.
    pub nonce: B256,
}

/// `recordSettlement(capabilityId, amount)` with the payment's identity appended.
pub fn record_call(capability_id: B256, amount: U256, identity: PaymentIdentity) -> Bytes {
    let mut call =
        JecpSplitter::recordSettlementCall { capabilityId: capability_id, amount }.abi_encode();
    call.extend_from_slice(identity.payer.as_slice());
    call.extend_from_slice(identity.nonce.as_slice());
    call.into()
}

/// The identity that stands in the calldata of a record. It counts only in a transaction from the
/// settler that succeeded.
pub fn recorded_identity(calldata: &[u8]) -> Option<PaymentIdentity> {
    if calldata.len() != RECORD_CALL_BYTES
        || !calldata.starts_with(&JecpSplitter::recordSettlementCall::SELECTOR)
    {
        return None;
    }
    let identity = &calldata[RECORD_BYTES..];
    Some(PaymentIdentity {
        payer: Address::from_slice(&identity[..20]),
        nonce: B256::from_slice(&identity[20..]),
    })
}

/// `splitFor(capabilityId, payer)`. The payer is only a label in the event.
pub fn split_call(capability_id: B256, payer: Address) -> Bytes {
    JecpSplitter::splitForCall { capabilityId: capability_id, payer }.abi_encode().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_round_trip() {
        let identity =
            PaymentIdentity { payer: Address::repeat_byte(1), nonce: B256::repeat_byte(2) };
        let call = record_call(B256::repeat_byte(3), U256::from(200_000), identity);
        assert_eq!(recorded_identity(&call), Some(identity));
        assert_eq!(recorded_identity(&call[..call.len() - 1]), None);
        assert_eq!(recorded_identity(&call[..RECORD_BYTES]), None);
        assert_eq!(recorded_identity(&[&call[..], &[0]].concat()), None);
        assert_eq!(recorded_identity(&[&[0][..], &call[1..]].concat()), None);
        assert_eq!(recorded_identity(&[]), None);
    }

    #[test]
    fn selectors_are_the_published_ones() {
        assert_eq!(JecpSplitter::recordSettlementCall::SELECTOR, [0x89, 0xd8, 0xe7, 0x6d]);
        assert_eq!(JecpSplitter::splitForCall::SELECTOR, [0x28, 0x6e, 0xae, 0x40]);
    }
}
