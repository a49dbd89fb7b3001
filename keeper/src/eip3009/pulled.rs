//! What a pull's calldata says, read back from the chain.

use super::{FiatToken, PULL_CALL_BYTES};
use alloy::{
    primitives::{Address, B256},
    sol_types::SolCall,
};

/// The tag that the puller appends.
const TAG_BYTES: usize = 32;

/// A call of `transferWithAuthorization`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullCall {
    /// Payer.
    pub payer: Address,
    /// Authorization nonce.
    pub nonce: B256,
    /// Valid after this second; seconds beyond 63 bits are for ever.
    pub valid_after: u64,
    /// Valid before this second.
    pub valid_before: u64,
    /// What was appended: the capability, if our puller sent it. ABI decoding ignores it, so anybody
    /// else may append anything.
    pub tag: Option<B256>,
}

/// Reads a call of `transferWithAuthorization(…, v, r, s)`, with or without a tag; `None` for any
/// other.
pub fn read_pull_call(calldata: &[u8]) -> Option<PullCall> {
    let (call, rest) = calldata.split_at_checked(PULL_CALL_BYTES - TAG_BYTES)?;
    let call = FiatToken::transferWithAuthorizationCall::abi_decode(call).ok()?;
    let seconds = |value| u64::try_from(value).unwrap_or(u64::MAX).min(u64::MAX >> 1);
    Some(PullCall {
        payer: call.from,
        nonce: call.nonce,
        valid_after: seconds(call.validAfter),
        valid_before: seconds(call.validBefore),
        tag: <[u8; TAG_BYTES]>::try_from(rest).ok().map(B256::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::U256;

    fn call(valid_before: U256) -> Vec<u8> {
        FiatToken::transferWithAuthorizationCall {
            from: Address::repeat_byte(1),
            to: Address::repeat_byte(2),
            value: U256::from(3),
            validAfter: U256::from(4),
            validBefore: valid_before,
            nonce: B256::repeat_byte(6),
            v: 27,
            r: B256::repeat_byte(8),
            s: B256::repeat_byte(9),
        }
        .abi_encode()
    }

    #[test]
    fn a_tag_is_read_and_nothing_else_counts_as_one() {
        let plain = call(U256::from(5));
        let read = read_pull_call(&plain).unwrap();
        assert_eq!((read.payer, read.nonce), (Address::repeat_byte(1), B256::repeat_byte(6)));
        assert_eq!((read.valid_after, read.valid_before, read.tag), (4, 5, None));
        let tagged = [&plain[..], &[7; 32]].concat();
        assert_eq!(read_pull_call(&tagged).unwrap().tag, Some(B256::repeat_byte(7)));
        assert_eq!(tagged.len(), PULL_CALL_BYTES);
        let short = read_pull_call(&tagged[..tagged.len() - 1]).unwrap();
        assert_eq!(short.tag, None, "part of a tag is none");
        assert_eq!(read_pull_call(&[&tagged[..], &[0]].concat()).unwrap().tag, None);
        assert_eq!(read_pull_call(&plain[..plain.len() - 1]), None);
        assert_eq!(read_pull_call(&[&[0][..], &plain[1..]].concat()), None, "another function");
        assert_eq!(read_pull_call(&[]), None);
    }

    #[test]
    fn times_fit_the_ledger() {
        let read = read_pull_call(&call(U256::MAX)).unwrap();
        assert!(i64::try_from(read.valid_before).is_ok());
    }
}
