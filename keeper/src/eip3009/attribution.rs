//! Who consumed an authorization nonce.

use super::FiatToken;
use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Log,
    sol_types::SolEvent,
};

/// USDC that arrived at a payee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inflow {
    /// Position of the Transfer in its block.
    pub log_index: u64,
    /// Sender.
    pub payer: Address,
    /// Atomic units.
    pub value: U256,
    /// The authorization that moved it; `None` for a plain transfer.
    pub nonce: Option<B256>,
}

/// Finds what `token` brought to `payee` in the logs of one receipt.
///
/// A Transfer carries no nonce. It belongs to an authorization only if the token's
/// `AuthorizationUsed` of the same payer stands directly before it; `authorizationState` would
/// prove nothing, since a cancelled authorization looks used. `logs` are all logs of the receipt,
/// in order.
pub fn inflows(logs: &[Log], token: Address, payee: Address) -> Vec<Inflow> {
    let mut found = Vec::new();
    let mut used: Option<(Address, B256, u64)> = None;
    for log in logs {
        let previous = used.take();
        let (true, Some(index)) = (log.address() == token, log.log_index) else { continue };
        if let Ok(event) = FiatToken::AuthorizationUsed::decode_log(&log.inner) {
            used = Some((event.authorizer, event.nonce, index));
        } else if let Ok(event) = FiatToken::Transfer::decode_log(&log.inner)
            && event.to == payee
        {
            let nonce = previous
                .filter(|(payer, _, at)| *payer == event.from && at.checked_add(1) == Some(index))
                .map(|(_, nonce, _)| nonce);
            found.push(Inflow { log_index: index, payer: event.from, value: event.value, nonce });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::{Log as Inner, LogData, address};

    const TOKEN: Address = address!("0x1000000000000000000000000000000000000001");
    const OTHER: Address = address!("0x1000000000000000000000000000000000000002");
    const PAYEE: Address = address!("0x2000000000000000000000000000000000000002");
    const ALICE: Address = address!("0x3000000000000000000000000000000000000003");
    const BOB: Address = address!("0x4000000000000000000000000000000000000004");

    fn at(index: u64, address: Address, data: LogData) -> Log {
        Log { inner: Inner { address, data }, log_index: Some(index), ..Log::default() }
    }

    fn used(payer: Address, nonce: u8) -> LogData {
        FiatToken::AuthorizationUsed { authorizer: payer, nonce: B256::repeat_byte(nonce) }
            .encode_log_data()
    }

    fn transfer(from: Address, to: Address, value: u64) -> LogData {
        FiatToken::Transfer { from, to, value: U256::from(value) }.encode_log_data()
    }

    fn nonces(logs: &[Log]) -> Vec<Option<B256>> {
        inflows(logs, TOKEN, PAYEE).into_iter().map(|inflow| inflow.nonce).collect()
    }

    #[test]
    fn a_batch_of_pulls() {
        let logs = [
            at(10, TOKEN, used(ALICE, 1)),
            at(11, TOKEN, transfer(ALICE, PAYEE, 5)),
            at(12, TOKEN, used(BOB, 2)),
            at(13, TOKEN, transfer(BOB, PAYEE, 6)),
        ];
        let found = inflows(&logs, TOKEN, PAYEE);
        assert_eq!(nonces(&logs), [Some(B256::repeat_byte(1)), Some(B256::repeat_byte(2))]);
        assert_eq!((found[1].payer, found[1].value, found[1].log_index), (BOB, U256::from(6), 13));
    }

    #[test]
    fn a_plain_transfer_has_no_nonce() {
        assert_eq!(nonces(&[at(0, TOKEN, transfer(ALICE, PAYEE, 5))]), [None]);
    }

    #[test]
    fn only_the_direct_neighbour_counts() {
        // Another payer's authorization, one that paid somebody else, one with a log between,
        // one of another token, one behind a hole in the indices.
        assert_eq!(
            nonces(&[at(0, TOKEN, used(BOB, 1)), at(1, TOKEN, transfer(ALICE, PAYEE, 5))]),
            [None]
        );
        assert_eq!(
            nonces(&[
                at(0, TOKEN, used(ALICE, 1)),
                at(1, TOKEN, transfer(ALICE, BOB, 5)),
                at(2, TOKEN, transfer(ALICE, PAYEE, 5))
            ]),
            [None]
        );
        assert_eq!(
            nonces(&[
                at(0, TOKEN, used(ALICE, 1)),
                at(1, OTHER, used(ALICE, 2)),
                at(2, TOKEN, transfer(ALICE, PAYEE, 5))
            ]),
            [None]
        );
        assert_eq!(
            nonces(&[at(0, OTHER, used(ALICE, 1)), at(1, TOKEN, transfer(ALICE, PAYEE, 5))]),
            [None]
        );
        assert_eq!(
            nonces(&[at(0, TOKEN, used(ALICE, 1)), at(2, TOKEN, transfer(ALICE, PAYEE, 5))]),
            [None]
        );
    }

    #[test]
    fn transfers_elsewhere_and_of_other_tokens_are_not_inflows() {
        let logs = [at(0, TOKEN, transfer(ALICE, BOB, 5)), at(1, OTHER, transfer(ALICE, PAYEE, 5))];
        assert!(inflows(&logs, TOKEN, PAYEE).is_empty());
    }
}
