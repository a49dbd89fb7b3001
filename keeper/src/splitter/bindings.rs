//! Bindings generated from the checked-in artifacts.

#![allow(missing_docs, reason = "generated from abi/, which carries no documentation")]

alloy::sol!(
    #[derive(Debug, PartialEq, Eq)]
    JecpSplitter,
    "../abi/JecpSplitter.json"
);

alloy::sol!(
    #[derive(Debug, PartialEq, Eq)]
    JecpSplitterV2,
    "../abi/JecpSplitterV2.json"
);

#[cfg(test)]
mod tests {
    use super::{IJecpSplitterV2, JecpSplitterV2, JecpSplitterV2::JecpSplitterV2Events};
    use alloy::{
        primitives::{Address, B256, Bytes, U256},
        sol_types::{SolCall, SolEvent, SolEventInterface},
    };

    /// A batch as the settler will send it, and an event as the watcher will read it.
    #[test]
    fn version_2_is_spoken() {
        let payment = IJecpSplitterV2::Payment {
            payerAndValue: U256::from(1),
            nonce: B256::repeat_byte(2),
            terms: U256::from(3),
            r: B256::repeat_byte(4),
            vs: B256::repeat_byte(5),
        };
        let batch = IJecpSplitterV2::Batch {
            capabilityIds: vec![B256::repeat_byte(6)],
            providers: vec![Address::repeat_byte(7)],
            payments: vec![payment],
            signatures: Bytes::new(),
        };
        let call = JecpSplitterV2::settleCall { batch, pullGas: U256::from(120_000) };
        let decoded = JecpSplitterV2::settleCall::abi_decode(&call.abi_encode()).unwrap();
        assert_eq!(decoded, call);

        let event = JecpSplitterV2::PaymentSettled {
            capabilityId: B256::repeat_byte(6),
            number: 9,
            payerAndValue: U256::from(1),
            nonce: B256::repeat_byte(2),
        };
        let log = alloy::primitives::Log { address: Address::ZERO, data: event.encode_log_data() };
        let decoded = JecpSplitterV2Events::decode_log(&log).unwrap().data;
        assert_eq!(decoded, JecpSplitterV2Events::PaymentSettled(event));
    }
}
