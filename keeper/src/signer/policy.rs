//! What a key may sign. Pure.
//!
//! KMS sees 32 bytes and cannot know what they are for, so this is looked at before it is asked.

use crate::{
    eip3009::{
        FiatToken, FiatTokenBytes, MAX_SIGNATURE_BYTES, MULTICALL3, Multicall3, PULL_CALL_BYTES,
        read_pull,
    },
    splitter::{JecpSplitter, RECORD_CALL_BYTES, SPLIT_CALL_BYTES},
};
use alloy::{
    consensus::TxEip1559,
    primitives::{Address, TxKind},
    sol_types::SolCall,
};
use std::collections::BTreeSet;

/// A call that a key may make.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    to: Address,
    selector: [u8; 4],
    form: Form,
}

/// What its calldata may be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// Of one length, as nearly all that the keeper sends.
    Bytes(usize),
    /// A pull with a tag and a payer's signature of any length.
    Signed,
    /// The same with the token, after a call of one of these factories.
    Deploying { token: Address, factories: BTreeSet<Address> },
}

/// Most calldata of a pull whose signature or deployment has no fixed length.
const MAX_PULL_BYTES: usize = 2 * MAX_SIGNATURE_BYTES + 1_024;

impl Call {
    fn permits(&self, input: &[u8]) -> bool {
        let token = match &self.form {
            Form::Bytes(bytes) => return input.len() == *bytes,
            Form::Signed => self.to,
            Form::Deploying { token, .. } => *token,
        };
        input.len() <= MAX_PULL_BYTES
            && read_pull(self.to, input, token).is_some_and(|pull| {
                let deploys = match (&self.form, pull.factory) {
                    (Form::Deploying { factories, .. }, Some(factory)) => {
                        factories.contains(&factory)
                    }
                    (_, factory) => factory.is_none(),
                };
                pull.call.tag.is_some() && deploys
            })
    }
}

/// The calls that a key may make. Besides them it may send itself nothing, which only uses up an
/// account nonce.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    calls: BTreeSet<Call>,
}

/// What is wrong with a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is for another chain.
    #[error("another chain")]
    Chain,
    /// It would make a contract.
    #[error("a new contract")]
    Creation,
    /// It would send ether.
    #[error("it carries ether")]
    Value,
    /// It names storage in advance, which the keeper never does.
    #[error("an access list")]
    AccessList,
    /// The key has no business there.
    #[error("another destination")]
    Destination,
    /// The key may not call that function.
    #[error("another function")]
    Selector,
    /// The calldata is shorter or longer than the function's.
    #[error("calldata of another length")]
    Calldata,
}

impl Refusal {
    /// Its word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Creation => "creation",
            Self::Value => "value",
            Self::AccessList => "access_list",
            Self::Destination => "destination",
            Self::Selector => "selector",
            Self::Calldata => "calldata",
        }
    }
}

impl Policy {
    /// A settler records and splits at its Splitter.
    pub fn settler(splitter: Address) -> Self {
        let record = JecpSplitter::recordSettlementCall::SELECTOR;
        let split = JecpSplitter::splitForCall::SELECTOR;
        Self {
            calls: BTreeSet::from([
                Call { to: splitter, selector: record, form: Form::Bytes(RECORD_CALL_BYTES) },
                Call { to: splitter, selector: split, form: Form::Bytes(SPLIT_CALL_BYTES) },
            ]),
        }
    }

    /// A puller submits authorizations to the token, and has one of the factories deploy a payer before
    /// (ERC-6492).
    pub fn puller(token: Address, factories: &[Address]) -> Self {
        let by_key = FiatToken::transferWithAuthorizationCall::SELECTOR;
        let by_code = FiatTokenBytes::transferWithAuthorizationCall::SELECTOR;
        let mut calls = BTreeSet::from([
            Call { to: token, selector: by_key, form: Form::Bytes(PULL_CALL_BYTES) },
            Call { to: token, selector: by_code, form: Form::Signed },
        ]);
        if !factories.is_empty() {
            let factories = factories.iter().copied().collect();
            calls.insert(Call {
                to: MULTICALL3,
                selector: Multicall3::aggregate3Call::SELECTOR,
                form: Form::Deploying { token, factories },
            });
        }
        Self { calls }
    }

    /// What either permits, for a key that serves several Splitters.
    pub fn extend(&mut self, other: &Self) {
        self.calls.extend(other.calls.iter().cloned());
    }

    /// Whether the key at `own` may sign this for the chain.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        &self,
        chain_id: u64,
        own: Address,
        transaction: &TxEip1559,
    ) -> Result<(), Refusal> {
        let TxEip1559 { input, access_list, value, .. } = transaction;
        if transaction.chain_id != chain_id {
            return Err(Refusal::Chain);
        }
        let TxKind::Call(to) = transaction.to else { return Err(Refusal::Creation) };
        if !value.is_zero() {
            return Err(Refusal::Value);
        }
        if !access_list.is_empty() {
            return Err(Refusal::AccessList);
        }
        if to == own {
            return if input.is_empty() { Ok(()) } else { Err(Refusal::Calldata) };
        }
        let mut there = self.calls.iter().filter(|call| call.to == to).peekable();
        if there.peek().is_none() {
            return Err(Refusal::Destination);
        }
        let mut there = there.filter(|call| input.starts_with(&call.selector)).peekable();
        if there.peek().is_none() {
            return Err(Refusal::Selector);
        }
        if there.any(|call| call.permits(input)) { Ok(()) } else { Err(Refusal::Calldata) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitter::{PaymentIdentity, record_call, split_call};
    use alloy::{
        eips::eip2930::{AccessList, AccessListItem},
        primitives::{B256, Bytes, U256},
    };

    const CHAIN: u64 = 84_532;
    const OWN: Address = Address::repeat_byte(1);
    const SPLITTER: Address = Address::repeat_byte(2);
    const TOKEN: Address = Address::repeat_byte(3);

    fn transaction(to: Address, input: Bytes) -> TxEip1559 {
        TxEip1559 { chain_id: CHAIN, to: TxKind::Call(to), input, ..TxEip1559::default() }
    }

    fn record() -> Bytes {
        let identity = PaymentIdentity { payer: OWN, nonce: B256::repeat_byte(9) };
        record_call(B256::repeat_byte(8), U256::from(200_000), identity)
    }

    fn split() -> Bytes {
        split_call(B256::repeat_byte(8), OWN)
    }

    fn pull() -> Bytes {
        let mut call = FiatToken::transferWithAuthorizationCall {
            from: OWN,
            to: SPLITTER,
            value: U256::from(200_000),
            validAfter: U256::ZERO,
            validBefore: U256::from(9),
            nonce: B256::ZERO,
            v: 27,
            r: B256::repeat_byte(4),
            s: B256::repeat_byte(5),
        }
        .abi_encode();
        call.extend_from_slice(B256::repeat_byte(6).as_slice());
        call.into()
    }

    fn refused(policy: &Policy, transaction: &TxEip1559) -> Option<Refusal> {
        policy.check(CHAIN, OWN, transaction).err()
    }

    #[test]
    fn a_key_signs_its_own_work_and_nothing_of_the_others() {
        let (settler, puller) = (Policy::settler(SPLITTER), Policy::puller(TOKEN, &[]));
        for call in [record(), split()] {
            assert_eq!(refused(&settler, &transaction(SPLITTER, call.clone())), None);
            assert_eq!(
                refused(&puller, &transaction(SPLITTER, call.clone())),
                Some(Refusal::Destination)
            );
            assert_eq!(refused(&puller, &transaction(TOKEN, call)), Some(Refusal::Selector));
        }
        assert_eq!(refused(&puller, &transaction(TOKEN, pull())), None);
        assert_eq!(refused(&settler, &transaction(TOKEN, pull())), Some(Refusal::Destination));
        assert_eq!(refused(&settler, &transaction(SPLITTER, pull())), Some(Refusal::Selector));
    }

    #[test]
    fn nothing_to_oneself_is_a_transaction_that_does_nothing() {
        for policy in [Policy::settler(SPLITTER), Policy::puller(TOKEN, &[]), Policy::default()] {
            assert_eq!(refused(&policy, &transaction(OWN, Bytes::new())), None);
            let with_data = transaction(OWN, Bytes::from_static(&[0]));
            assert_eq!(refused(&policy, &with_data), Some(Refusal::Calldata));
        }
    }

    #[test]
    fn nothing_is_smuggled_past_it() {
        let mut policy = Policy::settler(SPLITTER);
        policy.extend(&Policy::puller(TOKEN, &[]));
        for (to, call) in [(SPLITTER, record()), (SPLITTER, split()), (TOKEN, pull())] {
            let good = transaction(to, call.clone());
            assert_eq!(refused(&policy, &good), None);

            let elsewhere = transaction(Address::repeat_byte(7), call.clone());
            assert_eq!(refused(&policy, &elsewhere), Some(Refusal::Destination));
            let zero = transaction(Address::ZERO, call.clone());
            assert_eq!(refused(&policy, &zero), Some(Refusal::Destination));
            let creation = TxEip1559 { to: TxKind::Create, ..good.clone() };
            assert_eq!(refused(&policy, &creation), Some(Refusal::Creation));
            let value = TxEip1559 { value: U256::from(1), ..good.clone() };
            assert_eq!(refused(&policy, &value), Some(Refusal::Value));
            for chain_id in [0, 1, 8_453] {
                let other = TxEip1559 { chain_id, ..good.clone() };
                assert_eq!(refused(&policy, &other), Some(Refusal::Chain));
            }
            let item = AccessListItem { address: to, storage_keys: vec![] };
            let listed = TxEip1559 { access_list: AccessList(vec![item]), ..good };
            assert_eq!(refused(&policy, &listed), Some(Refusal::AccessList));

            // Every shorter calldata, and longer ones.
            for length in 0..call.len() {
                let short = transaction(to, call.slice(..length));
                let expected = if length < 4 { Refusal::Selector } else { Refusal::Calldata };
                assert_eq!(refused(&policy, &short), Some(expected), "{length} bytes");
            }
            let long = transaction(to, [&call[..], &[0]].concat().into());
            assert_eq!(refused(&policy, &long), Some(Refusal::Calldata));

            // Every other selector that differs in one bit.
            for bit in 0..32 {
                let mut other = call.to_vec();
                other[bit / 8] ^= 1 << (bit % 8);
                let other = transaction(to, other.into());
                assert_eq!(refused(&policy, &other), Some(Refusal::Selector), "bit {bit}");
            }
        }
        // The functions that would hurt most.
        for signature in ["transfer(address,uint256)", "approve(address,uint256)"] {
            let selector = alloy::primitives::keccak256(signature);
            let call = [&selector[..4], &[0; 64]].concat();
            let bad = transaction(TOKEN, call.into());
            assert_eq!(refused(&policy, &bad), Some(Refusal::Selector), "{signature}");
        }
    }

    #[test]
    fn ether_to_oneself_or_a_wrong_chain_is_no_transaction_that_does_nothing() {
        let policy = Policy::settler(SPLITTER);
        let noop = transaction(OWN, Bytes::new());
        let value = TxEip1559 { value: U256::from(1), ..noop.clone() };
        assert_eq!(refused(&policy, &value), Some(Refusal::Value));
        let chain = TxEip1559 { chain_id: 1, ..noop };
        assert_eq!(refused(&policy, &chain), Some(Refusal::Chain));
    }

    /// A pull from a payer with code, and the same after the payer's deployment.
    fn pulls_by_code(factory: Address) -> [Bytes; 2] {
        let mut pull = FiatTokenBytes::transferWithAuthorizationCall {
            from: OWN,
            to: SPLITTER,
            value: U256::from(200_000),
            validAfter: U256::ZERO,
            validBefore: U256::from(9),
            nonce: B256::ZERO,
            signature: vec![4; 65].into(),
        }
        .abi_encode();
        pull.extend_from_slice(B256::repeat_byte(6).as_slice());
        let pull = Bytes::from(pull);
        let call = |target, allow, data: &Bytes| Multicall3::Call3 {
            target,
            allowFailure: allow,
            callData: data.clone(),
        };
        let deploy = call(factory, true, &Bytes::from_static(&[1, 2, 3, 4]));
        let calls = vec![deploy, call(TOKEN, false, &pull)];
        [pull, Multicall3::aggregate3Call { calls }.abi_encode().into()]
    }

    /// Payers with code have signatures of any length; their factories are named by the operator.
    #[test]
    fn a_puller_serves_payers_with_code_and_deploys_by_named_factories_only() {
        let (factory, foreign) = (Address::repeat_byte(10), Address::repeat_byte(11));
        let [pull, deploying] = pulls_by_code(factory);
        let (plain, with_factory) = (Policy::puller(TOKEN, &[]), Policy::puller(TOKEN, &[factory]));
        for policy in [&plain, &with_factory] {
            assert_eq!(refused(policy, &transaction(TOKEN, pull.clone())), None);
            let untagged = transaction(TOKEN, pull.slice(..pull.len() - 32));
            assert_eq!(refused(policy, &untagged), Some(Refusal::Calldata));
            for length in 4..pull.len() {
                let short = transaction(TOKEN, pull.slice(..length));
                assert_eq!(refused(policy, &short), Some(Refusal::Calldata), "{length} bytes");
            }
            let long = [&pull[..], &[0; MAX_PULL_BYTES]].concat();
            assert_eq!(refused(policy, &transaction(TOKEN, long.into())), Some(Refusal::Calldata));
        }
        let batch = transaction(MULTICALL3, deploying);
        assert_eq!(refused(&plain, &batch), Some(Refusal::Destination));
        assert_eq!(refused(&with_factory, &batch), None);
        let [_, other] = pulls_by_code(foreign);
        let other = transaction(MULTICALL3, other);
        assert_eq!(refused(&with_factory, &other), Some(Refusal::Calldata));
        // Nor may the token itself be called twice.
        let [_, twice] = pulls_by_code(TOKEN);
        let twice = transaction(MULTICALL3, twice);
        assert_eq!(refused(&with_factory, &twice), Some(Refusal::Calldata));
    }

    #[test]
    fn a_key_of_several_splitters_serves_each() {
        let second = Address::repeat_byte(5);
        let mut policy = Policy::settler(SPLITTER);
        assert_eq!(refused(&policy, &transaction(second, split())), Some(Refusal::Destination));
        policy.extend(&Policy::settler(second));
        assert_eq!(refused(&policy, &transaction(second, split())), None);
        assert_eq!(refused(&policy, &transaction(SPLITTER, record())), None);
    }
}
