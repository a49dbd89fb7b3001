//! What a pull's calldata says, read back from the chain.

use super::{FiatToken, FiatTokenBytes, MULTICALL3, Multicall3, PULL_CALL_BYTES};
use alloy::{
    primitives::{Address, B256, U256},
    sol_types::SolCall,
};

/// The tag that the puller appends.
const TAG_BYTES: usize = 32;
/// What stands before the payer's signature in the form with bytes: a selector, six words, where the
/// signature stands, and its length.
const BYTES_HEAD: usize = 4 + 8 * 32;

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

/// A transaction that makes a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPull {
    /// The token's call.
    pub call: PullCall,
    /// Who is called before it, to deploy the payer.
    pub factory: Option<Address>,
}

/// Reads a transaction to `to` that pulls with `token`: a call of the token, or of Multicall3 that
/// deploys the payer and then calls the token, in the very form that the puller sends.
pub fn read_pull(to: Address, calldata: &[u8], token: Address) -> Option<ReadPull> {
    if to == token {
        return Some(ReadPull { call: read_pull_call(calldata)?, factory: None });
    }
    if to != MULTICALL3 {
        return None;
    }
    let batch = Multicall3::aggregate3Call::abi_decode(calldata).ok()?;
    let [deployment, pull] = batch.calls.as_slice() else { return None };
    let in_form = deployment.allowFailure && !pull.allowFailure && pull.target == token;
    if !in_form || batch.abi_encode() != calldata {
        return None;
    }
    Some(ReadPull { call: read_pull_call(&pull.callData)?, factory: Some(deployment.target) })
}

/// Reads a call of `transferWithAuthorization`, in the form with v, r and s or in that with bytes, with
/// or without a tag; `None` for any other.
pub fn read_pull_call(calldata: &[u8]) -> Option<PullCall> {
    if calldata.starts_with(&FiatTokenBytes::transferWithAuthorizationCall::SELECTOR) {
        return read_with_bytes(calldata);
    }
    let (call, rest) = calldata.split_at_checked(PULL_CALL_BYTES - TAG_BYTES)?;
    let call = FiatToken::transferWithAuthorizationCall::abi_decode(call).ok()?;
    Some(PullCall {
        payer: call.from,
        nonce: call.nonce,
        valid_after: seconds(call.validAfter),
        valid_before: seconds(call.validBefore),
        tag: tag(rest),
    })
}

fn read_with_bytes(calldata: &[u8]) -> Option<PullCall> {
    let length = calldata.get(BYTES_HEAD - 32..BYTES_HEAD).map(U256::from_be_slice)?;
    let padded = usize::try_from(length).ok()?.checked_next_multiple_of(32)?;
    let (encoded, rest) = calldata.split_at_checked(BYTES_HEAD.checked_add(padded)?)?;
    let call = FiatTokenBytes::transferWithAuthorizationCall::abi_decode(encoded).ok()?;
    // Where the signature stands is for the sender to choose; the puller chooses one way.
    let tag = tag(rest).filter(|_| call.abi_encode() == encoded);
    Some(PullCall {
        payer: call.from,
        nonce: call.nonce,
        valid_after: seconds(call.validAfter),
        valid_before: seconds(call.validBefore),
        tag,
    })
}

fn tag(rest: &[u8]) -> Option<B256> {
    <[u8; TAG_BYTES]>::try_from(rest).ok().map(B256::from)
}

fn seconds(value: U256) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX).min(u64::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::Bytes;

    const TOKEN: Address = Address::repeat_byte(0x70);
    const FACTORY: Address = Address::repeat_byte(0xfa);

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

    fn with_bytes(signature: Vec<u8>) -> Vec<u8> {
        FiatTokenBytes::transferWithAuthorizationCall {
            from: Address::repeat_byte(1),
            to: Address::repeat_byte(2),
            value: U256::from(3),
            validAfter: U256::from(4),
            validBefore: U256::from(5),
            nonce: B256::repeat_byte(6),
            signature: signature.into(),
        }
        .abi_encode()
    }

    /// Payers with code are pulled with another overload, which is read as well.
    #[test]
    fn both_overloads_are_read() {
        for length in [0, 1, 31, 32, 33, 65, 700] {
            let plain = with_bytes(vec![9; length]);
            let read = read_pull_call(&plain).unwrap();
            assert_eq!((read.payer, read.nonce), (Address::repeat_byte(1), B256::repeat_byte(6)));
            assert_eq!((read.valid_after, read.valid_before, read.tag), (4, 5, None));
            let tagged = [&plain[..], &[7; 32]].concat();
            assert_eq!(read_pull_call(&tagged).unwrap().tag, Some(B256::repeat_byte(7)));
            assert_eq!(read_pull_call(&tagged[..tagged.len() - 1]).unwrap().tag, None);
            assert_eq!(read_pull_call(&plain[..plain.len() - 33]), None);
        }
        // A length that no calldata has.
        let mut long = with_bytes(vec![9; 65]);
        long[BYTES_HEAD - 32..BYTES_HEAD].fill(0xff);
        assert_eq!(read_pull_call(&long), None);
    }

    fn deployed(change: impl Fn(&mut Vec<Multicall3::Call3>)) -> Vec<u8> {
        let pull = [with_bytes(vec![9; 65]), vec![7; 32]].concat();
        let call = |target, allow, data: &[u8]| Multicall3::Call3 {
            target,
            allowFailure: allow,
            callData: Bytes::copy_from_slice(data),
        };
        let mut calls = vec![call(FACTORY, true, &[1, 2, 3]), call(TOKEN, false, &pull)];
        change(&mut calls);
        Multicall3::aggregate3Call { calls }.abi_encode()
    }

    /// Only what the puller sends is read as one: a deployment, and a pull that must succeed.
    #[test]
    fn a_pull_after_a_deployment_is_read_in_its_one_form() {
        let good = deployed(|_| {});
        let read = read_pull(MULTICALL3, &good, TOKEN).unwrap();
        assert_eq!(read.factory, Some(FACTORY));
        assert_eq!(read.call.tag, Some(B256::repeat_byte(7)));
        assert_eq!(read_pull(TOKEN, &call(U256::from(5)), TOKEN).unwrap().factory, None);
        assert_eq!(read_pull(FACTORY, &call(U256::from(5)), TOKEN), None, "another contract");
        assert_eq!(read_pull(MULTICALL3, &call(U256::from(5)), TOKEN), None);
        for bad in [
            deployed(|calls| calls.truncate(1)),
            deployed(|calls| calls.push(calls[0].clone())),
            deployed(|calls| calls.swap(0, 1)),
            deployed(|calls| calls[1].allowFailure = true),
            deployed(|calls| calls[0].allowFailure = false),
            deployed(|calls| calls[1].target = FACTORY),
            deployed(|calls| calls[1].callData = Bytes::from_static(&[1, 2, 3, 4])),
            [&good[..], &[0; 32]].concat(),
        ] {
            assert_eq!(read_pull(MULTICALL3, &bad, TOKEN), None);
        }
    }

    #[test]
    fn times_fit_the_ledger() {
        let read = read_pull_call(&call(U256::MAX)).unwrap();
        assert!(i64::try_from(read.valid_before).is_ok());
    }
}
