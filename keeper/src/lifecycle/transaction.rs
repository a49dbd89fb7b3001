//! An outgoing transaction: one account nonce of one signer, whatever envelopes were signed for it.

use super::words;
use alloy::primitives::B256;

/// Where an outgoing transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionState {
    /// The account nonce is allocated; nothing is signed.
    Planned,
    /// An envelope is signed and committed.
    Signed,
    /// An envelope was handed to a node.
    Broadcast,
    /// Mined with success.
    Included,
    /// Its block is posted to L1.
    Safe,
    /// Its block is final.
    Finalized,
    /// Mined, and reverted. Provisional until final.
    Reverted,
    /// A no-op took the account nonce. Provisional until final.
    Superseded,
    /// The account nonce is gone at a final block, and nothing says that one of our envelopes took
    /// it. Waits for a human, or for evidence.
    Parked,
}

words!(TransactionState {
    Planned => "planned",
    Signed => "signed",
    Broadcast => "broadcast",
    Included => "included",
    Safe => "safe",
    Finalized => "finalized",
    Reverted => "reverted",
    Superseded => "superseded",
    Parked => "parked",
});

/// Why an envelope was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptKind {
    /// To do the work.
    First,
    /// To do the work for a higher fee.
    Bump,
    /// To take the account nonce without doing anything.
    Noop,
}

words!(AttemptKind {
    First => "first",
    Bump => "bump",
    Noop => "noop",
});

/// A mined envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mined {
    /// Which envelope.
    pub hash: B256,
    /// What it was signed for.
    pub kind: AttemptKind,
    /// Block number.
    pub block: u64,
    /// Whether it succeeded.
    pub success: bool,
}

/// Where the chain stood at one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Number of the `safe` block.
    pub safe: u64,
    /// Number of the `finalized` block.
    pub finalized: u64,
    /// The signer's transaction count at the `finalized` block: account nonces below it are gone
    /// for good.
    pub finalized_count: u64,
}

/// What one endpoint said, the count read before the receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Where the chain stood.
    pub chain: Chain,
    /// The one transaction that took the account nonce, if it is known: one of our envelopes has a
    /// receipt, or the contracts' events lead to a transaction of our signer with this account
    /// nonce.
    pub mined: Option<Mined>,
}

/// Where a transaction stands and whether that can still change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: TransactionState,
    /// True once the block that decided it is final.
    pub is_final: bool,
}

/// What must be done after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// Hand the committed bytes to the nodes again.
    Rebroadcast,
    /// Tell a human.
    Alarm,
}

impl TransactionState {
    /// What a sighting makes of a transaction that has a signed envelope and the given account
    /// nonce.
    ///
    /// Only the finalized count decides that an account nonce is gone: before, a missing receipt
    /// means "not yet", however long it takes. A transaction that only occupies its account nonce
    /// has done that, whoever took it.
    pub fn observe(account_nonce: u64, has_work: bool, sighting: &Sighting) -> (Standing, Effect) {
        let Sighting { chain, mined } = sighting;
        match mined {
            Some(mined) => {
                let is_final = mined.block <= chain.finalized;
                let state = match (mined.kind, mined.success) {
                    (AttemptKind::Noop, _) => Self::Superseded,
                    (_, false) => Self::Reverted,
                    (_, true) if is_final => Self::Finalized,
                    (_, true) if mined.block <= chain.safe => Self::Safe,
                    (_, true) => Self::Included,
                };
                (Standing { state, is_final }, Effect::Nothing)
            }
            None if account_nonce < chain.finalized_count && has_work => {
                (Standing { state: Self::Parked, is_final: false }, Effect::Alarm)
            }
            None if account_nonce < chain.finalized_count => {
                (Standing { state: Self::Superseded, is_final: true }, Effect::Nothing)
            }
            None => (Standing { state: Self::Broadcast, is_final: false }, Effect::Rebroadcast),
        }
    }

    /// Whether it occupies the node's pool.
    pub const fn is_pending(self) -> bool {
        matches!(self, Self::Planned | Self::Signed | Self::Broadcast)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: Chain = Chain { safe: 20, finalized: 10, finalized_count: 5 };

    fn observe(nonce: u64, mined: Option<(AttemptKind, u64, bool)>) -> (Standing, Effect) {
        let mined =
            mined.map(|(kind, block, success)| Mined { hash: B256::ZERO, kind, block, success });
        TransactionState::observe(nonce, true, &Sighting { chain: CHAIN, mined })
    }

    #[test]
    fn success_climbs_the_ladder() {
        for (block, state, is_final) in [
            (21, TransactionState::Included, false),
            (20, TransactionState::Safe, false),
            (11, TransactionState::Safe, false),
            (10, TransactionState::Finalized, true),
        ] {
            assert_eq!(
                observe(5, Some((AttemptKind::Bump, block, true))),
                (Standing { state, is_final }, Effect::Nothing)
            );
        }
    }

    #[test]
    fn a_revert_is_provisional_until_final() {
        for (block, is_final) in [(11, false), (10, true)] {
            assert_eq!(
                observe(5, Some((AttemptKind::First, block, false))).0,
                Standing { state: TransactionState::Reverted, is_final }
            );
        }
    }

    #[test]
    fn a_noop_supersedes() {
        assert_eq!(
            observe(5, Some((AttemptKind::Noop, 10, true))).0,
            Standing { state: TransactionState::Superseded, is_final: true }
        );
    }

    /// No receipt is no verdict until the finalized count is past the nonce.
    #[test]
    fn absence_is_not_failure() {
        assert_eq!(
            observe(5, None),
            (Standing { state: TransactionState::Broadcast, is_final: false }, Effect::Rebroadcast)
        );
        assert_eq!(
            observe(4, None),
            (Standing { state: TransactionState::Parked, is_final: false }, Effect::Alarm)
        );
    }

    #[test]
    fn an_occupied_account_nonce_is_occupied_by_whomever() {
        let sighting = Sighting { chain: CHAIN, mined: None };
        let observe = |nonce| TransactionState::observe(nonce, false, &sighting).0;
        assert_eq!(observe(4), Standing { state: TransactionState::Superseded, is_final: true });
        assert_eq!(observe(5), Standing { state: TransactionState::Broadcast, is_final: false });
    }
}
