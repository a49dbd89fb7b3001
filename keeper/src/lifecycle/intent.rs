//! An intent: work that a transaction must do.

use super::{Standing, TransactionState, words};

/// What an intent wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntentKind {
    /// Pull an authorization.
    Pull,
    /// Record a pulled payment.
    Record,
    /// Split what is recorded of a capability.
    Split,
}

words!(IntentKind {
    Pull => "pull",
    Record => "record",
    Split => "split",
});

/// How far an intent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IntentState {
    /// Waits for an account nonce.
    Open,
    /// Has a transaction.
    Claimed,
    /// That transaction is mined with success.
    Included,
    /// And final.
    Done,
    /// That transaction reverted.
    Reverted,
    /// Nothing will be done.
    Cancelled,
    /// Waits for a human.
    Held,
}

words!(IntentState {
    Open => "open",
    Claimed => "claimed",
    Included => "included",
    Done => "done",
    Reverted => "reverted",
    Cancelled => "cancelled",
    Held => "held",
});

impl IntentState {
    /// What a transaction's standing makes of the work that it carries. Work gets another account
    /// nonce only when the old one is final: before, a reorg could bring both.
    pub const fn after(kind: IntentKind, standing: Standing) -> Self {
        match (standing.state, kind, standing.is_final) {
            (
                TransactionState::Planned | TransactionState::Signed | TransactionState::Broadcast,
                ..,
            )
            | (TransactionState::Superseded, _, false) => Self::Claimed,
            (TransactionState::Included | TransactionState::Safe, ..) => Self::Included,
            (TransactionState::Finalized, ..) => Self::Done,
            // Nothing was done. A pull's window is over; anything else waits for its cause.
            (TransactionState::Superseded, IntentKind::Pull, true) => Self::Cancelled,
            (TransactionState::Superseded, _, true) => Self::Open,
            // A record that reverted for good is missing at the contract: a human must see why. A
            // pull may have been made by somebody else, and a split is asked for again.
            (TransactionState::Reverted, IntentKind::Record, true)
            | (TransactionState::Parked, ..) => Self::Held,
            (TransactionState::Reverted, ..) => Self::Reverted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table. What is not final is never given up or begun anew.
    #[test]
    fn work_follows_its_transaction() {
        for kind in IntentKind::ALL {
            for state in TransactionState::ALL {
                for is_final in [false, true] {
                    let after = IntentState::after(*kind, Standing { state: *state, is_final });
                    let expected = match (state.as_str(), kind.as_str(), is_final) {
                        ("planned" | "signed" | "broadcast", ..) => "claimed",
                        ("included" | "safe", ..) => "included",
                        ("finalized", ..) => "done",
                        ("parked", ..) | ("reverted", "record", true) => "held",
                        ("reverted", ..) => "reverted",
                        ("superseded", _, false) => "claimed",
                        ("superseded", "pull", true) => "cancelled",
                        ("superseded", _, true) => "open",
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(after.as_str(), expected, "{kind} {state} {is_final}");
                    if !is_final {
                        assert_ne!(after, IntentState::Open);
                        assert_ne!(after, IntentState::Cancelled);
                    }
                }
            }
        }
    }
}
