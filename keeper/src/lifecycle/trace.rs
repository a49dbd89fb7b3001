//! A settlement's trace: an id that can be derived from the chain alone, and the hashes that chain
//! its events.

use crate::x402::MicroUsdc;
use alloy::primitives::{Address, B256, keccak256};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// What a trace id is made of.
#[derive(Debug, Clone, Copy)]
pub struct TraceTerms {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The token.
    pub asset: Address,
    /// Payer.
    pub payer: Address,
    /// Payee.
    pub pay_to: Address,
    /// Amount.
    pub amount: MicroUsdc,
    /// Authorization nonce.
    pub nonce: B256,
}

impl TraceTerms {
    /// keccak256 of the JCS form (RFC 8785): integers and the chain as strings, hex in lower case.
    ///
    /// # Errors
    /// When the terms cannot be written as JSON.
    pub fn id(&self) -> Result<B256, serde_json::Error> {
        #[derive(Serialize)]
        struct PreImage {
            amount: String,
            asset: Address,
            authorization_nonce: B256,
            chain: String,
            pay_to: Address,
            payer: Address,
        }
        let pre_image = PreImage {
            amount: self.amount.micro().to_string(),
            asset: self.asset,
            authorization_nonce: self.nonce,
            chain: format!("eip155:{}", self.chain_id),
            pay_to: self.pay_to,
            payer: self.payer,
        };
        Ok(keccak256(serde_json_canonicalizer::to_vec(&pre_image)?))
    }
}

/// Hash of event `n`: sha256(0x01 ‖ previous ‖ n as big-endian u32 ‖ state LF kind LF ‖ body). The
/// event before event 0 is the trace id.
pub fn event_hash(previous: B256, n: u32, state: &str, kind: &str, body: &[u8]) -> B256 {
    let mut hasher = Sha256::new();
    hasher.update([1]);
    hasher.update(previous);
    hasher.update(n.to_be_bytes());
    hasher.update(state);
    hasher.update("\n");
    hasher.update(kind);
    hasher.update("\n");
    hasher.update(body);
    B256::from_slice(&hasher.finalize())
}

/// Root of a seal: sha256(0x02 ‖ previous root ‖ first position ‖ last position ‖ hashes of the events
/// in the order of their positions). Positions are big-endian u64; the root before the first is zero.
#[derive(Debug, Clone)]
pub struct SealHasher(Sha256);

impl SealHasher {
    /// Begins the root of a range of positions.
    pub fn new(previous: B256, from: u64, to: u64) -> Self {
        let mut hasher = Sha256::new();
        hasher.update([2]);
        hasher.update(previous);
        hasher.update(from.to_be_bytes());
        hasher.update(to.to_be_bytes());
        Self(hasher)
    }

    /// The event at the next position.
    pub fn add(&mut self, event: &B256) {
        self.0.update(event);
    }

    /// The root.
    pub fn root(self) -> B256 {
        B256::from_slice(&self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::{address, b256};

    /// The pre-image written out by hand.
    #[test]
    fn id_is_keccak_of_jcs() {
        let terms = TraceTerms {
            chain_id: 84_532,
            asset: address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
            payer: address!("0x1111111111111111111111111111111111111111"),
            pay_to: address!("0x2222222222222222222222222222222222222222"),
            amount: MicroUsdc::new(200_000).unwrap(),
            nonce: b256!("0xabababababababababababababababababababababababababababababababab"),
        };
        let jcs = concat!(
            r#"{"amount":"200000","asset":"0x036cbd53842c5426634e7929541ec2318f3dcf7e","#,
            r#""authorization_nonce":"0xabababababababababababababababababababababababababababababababab","#,
            r#""chain":"eip155:84532","pay_to":"0x2222222222222222222222222222222222222222","#,
            r#""payer":"0x1111111111111111111111111111111111111111"}"#,
        );
        assert_eq!(terms.id().unwrap(), keccak256(jcs));
    }

    #[test]
    fn every_part_of_a_seal_is_hashed() {
        let root = |previous, from, to, events: &[B256]| {
            let mut hasher = SealHasher::new(previous, from, to);
            events.iter().for_each(|event| hasher.add(event));
            hasher.root()
        };
        let events = [B256::repeat_byte(1), B256::repeat_byte(2)];
        let base = root(B256::ZERO, 0, 1, &events);
        assert_ne!(base, root(B256::repeat_byte(1), 0, 1, &events));
        assert_ne!(base, root(B256::ZERO, 1, 1, &events));
        assert_ne!(base, root(B256::ZERO, 0, 2, &events));
        assert_ne!(base, root(B256::ZERO, 0, 1, &[events[1], events[0]]));
        assert_ne!(base, root(B256::ZERO, 0, 1, &events[..1]));
    }

    #[test]
    fn every_part_of_an_event_is_hashed() {
        let base = event_hash(B256::ZERO, 0, "reserved", "reserve", b"{}");
        assert_ne!(base, event_hash(B256::repeat_byte(1), 0, "reserved", "reserve", b"{}"));
        assert_ne!(base, event_hash(B256::ZERO, 1, "reserved", "reserve", b"{}"));
        assert_ne!(base, event_hash(B256::ZERO, 0, "released", "reserve", b"{}"));
        assert_ne!(base, event_hash(B256::ZERO, 0, "reserved", "settle", b"{}"));
        assert_ne!(base, event_hash(B256::ZERO, 0, "reserved", "reserve", b"{ }"));
    }
}
