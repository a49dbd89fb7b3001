//! A settlement: what is known of its pull, and how far the keeper is with it.

use super::{IllegalStep, words};

/// What is known of the pull (S06 6.2, ADR-0004, jecp.md E.1). `failed` never comes from a
/// timeout: a status moves only on evidence that is stored with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// The identity is taken; nothing has been sent.
    Reserved,
    /// Whoever settles has it; the outcome is open.
    SettlePending,
    /// Its Transfer was seen in a block.
    FacilitatorAttested,
    /// That block has its confirmations.
    ChainConfirmed,
    /// No money moved and none can any more, or it was refused before anything was sent.
    Released,
    /// The authorization was consumed without paying us.
    Failed,
    /// No outcome for ten minutes; it may still be confirmed.
    Orphaned,
    /// The chain shows something else than was agreed. Held for a human.
    Mismatched,
}

words!(Status {
    Reserved => "reserved",
    SettlePending => "settle_pending",
    FacilitatorAttested => "facilitator_attested",
    ChainConfirmed => "chain_confirmed",
    Released => "released",
    Failed => "failed",
    Orphaned => "orphaned",
    Mismatched => "mismatched",
});

/// What happens to a settlement's pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatusEvent {
    /// A released identity is taken again.
    Reserve,
    /// The pull is handed to whoever settles.
    Settle,
    /// The Transfer of this payer and authorization nonce stands in a block.
    PullSeen,
    /// That block has its confirmations.
    Confirm,
    /// The block with the Transfer is not canonical any more.
    PullLost,
    /// The facilitator will not settle it, and the authorization is unused.
    Refuse,
    /// The window is closed at a finalized block, and the nonce is unused there.
    Lapse,
    /// The nonce is consumed at a finalized block, and no Transfer to us came of it.
    Consumed,
    /// Ten minutes without an outcome.
    Overdue,
    /// The Transfer disagrees with what was agreed.
    Disagree,
}

words!(StatusEvent {
    Reserve => "reserve",
    Settle => "settle",
    PullSeen => "pull_seen",
    Confirm => "confirm",
    PullLost => "pull_lost",
    Refuse => "refuse",
    Lapse => "lapse",
    Consumed => "consumed",
    Overdue => "overdue",
    Disagree => "disagree",
});

impl Status {
    /// One step.
    ///
    /// # Errors
    /// When the machine has no such step.
    pub fn step(self, event: StatusEvent) -> Result<Self, IllegalStep> {
        use Status::{
            ChainConfirmed, FacilitatorAttested, Failed, Mismatched, Orphaned, Released, Reserved,
            SettlePending,
        };
        match (self, event) {
            (Released, StatusEvent::Reserve) => Ok(Reserved),
            (Reserved, StatusEvent::Settle) => Ok(SettlePending),
            // Whoever saw the signature may be faster than our own next step.
            (Reserved | SettlePending | Orphaned | FacilitatorAttested, StatusEvent::PullSeen) => {
                Ok(FacilitatorAttested)
            }
            (FacilitatorAttested, StatusEvent::Confirm) => Ok(ChainConfirmed),
            (FacilitatorAttested | ChainConfirmed, StatusEvent::PullLost) => Ok(SettlePending),
            (Reserved | SettlePending, StatusEvent::Refuse)
            | (Reserved | SettlePending | Orphaned, StatusEvent::Lapse) => Ok(Released),
            (Reserved | SettlePending | Orphaned, StatusEvent::Consumed) => Ok(Failed),
            (SettlePending, StatusEvent::Overdue) => Ok(Orphaned),
            (Reserved | SettlePending | Orphaned | FacilitatorAttested, StatusEvent::Disagree) => {
                Ok(Mismatched)
            }
            _ => Err(IllegalStep {
                machine: "settlement",
                state: self.to_string(),
                event: event.to_string(),
            }),
        }
    }

    /// Whether the money is known to lie in the Splitter.
    pub const fn is_paid(self) -> bool {
        matches!(self, Self::FacilitatorAttested | Self::ChainConfirmed)
    }

    /// Whether something is still to come of it.
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::ChainConfirmed | Self::Released | Self::Failed)
    }

    /// Whether this identity is free to be reserved again, and its request to be paid anew.
    pub const fn is_void(self) -> bool {
        matches!(self, Self::Released | Self::Failed)
    }
}

/// How far the keeper is with a paid settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeeperState {
    /// Nothing yet.
    None,
    /// A record is on its way.
    Recording,
    /// `SettlementRecorded` with this payment's identity was seen.
    Recorded,
    /// A split is on its way.
    Splitting,
    /// A `PaymentSplit` covers it.
    Split,
    /// Waits for a human.
    Held,
    /// The contract's records contradict the ledger.
    Violation,
}

words!(KeeperState {
    None => "none",
    Recording => "recording",
    Recorded => "recorded",
    Splitting => "splitting",
    Split => "split",
    Held => "held",
    Violation => "violation",
});

/// What happens to the keeper's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeeperEvent {
    /// A record is handed to the outbox.
    Record,
    /// The record was seen.
    RecordSeen,
    /// A split is handed to the outbox.
    Split,
    /// A split that covers the record was seen.
    SplitSeen,
    /// The block with the record is not canonical any more.
    RecordLost,
    /// The block with the split is not canonical any more.
    SplitLost,
    /// Something must be looked at first.
    Hold,
    /// It was looked at: begin anew.
    Release,
    /// The contract's records contradict the ledger.
    Contradict,
}

words!(KeeperEvent {
    Record => "record",
    RecordSeen => "record_seen",
    Split => "split",
    SplitSeen => "split_seen",
    RecordLost => "record_lost",
    SplitLost => "split_lost",
    Hold => "hold",
    Release => "release",
    Contradict => "contradict",
});

impl KeeperState {
    /// One step. A reorg is undone in the order of the chain: the split first, then its record.
    ///
    /// # Errors
    /// When the machine has no such step.
    pub fn step(self, event: KeeperEvent) -> Result<Self, IllegalStep> {
        use KeeperState::{Held, None, Recorded, Recording, Split, Splitting, Violation};
        match (self, event) {
            (None | Held, KeeperEvent::Record) => Ok(Recording),
            // What is on the chain is not held any more.
            (Recording | Held, KeeperEvent::RecordSeen) => Ok(Recorded),
            (Recorded, KeeperEvent::Split) => Ok(Splitting),
            // A split takes all that is recorded of its capability, ours or anybody's.
            (Recorded | Splitting, KeeperEvent::SplitSeen) => Ok(Split),
            (Recorded | Splitting, KeeperEvent::RecordLost) => Ok(Recording),
            (Split, KeeperEvent::SplitLost) => Ok(Splitting),
            (None | Recording, KeeperEvent::Hold) => Ok(Held),
            (Held, KeeperEvent::Release) => Ok(None),
            (_, KeeperEvent::Contradict) => Ok(Violation),
            _ => Err(IllegalStep {
                machine: "keeper",
                state: self.to_string(),
                event: event.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table: everything that is not listed is refused.
    #[test]
    fn every_step_of_a_settlement() {
        let allowed = [
            "released reserve reserved",
            "reserved settle settle_pending",
            "reserved pull_seen facilitator_attested",
            "settle_pending pull_seen facilitator_attested",
            "orphaned pull_seen facilitator_attested",
            "facilitator_attested pull_seen facilitator_attested",
            "facilitator_attested confirm chain_confirmed",
            "facilitator_attested pull_lost settle_pending",
            "chain_confirmed pull_lost settle_pending",
            "reserved refuse released",
            "settle_pending refuse released",
            "reserved lapse released",
            "settle_pending lapse released",
            "orphaned lapse released",
            "reserved consumed failed",
            "settle_pending consumed failed",
            "orphaned consumed failed",
            "settle_pending overdue orphaned",
            "reserved disagree mismatched",
            "settle_pending disagree mismatched",
            "orphaned disagree mismatched",
            "facilitator_attested disagree mismatched",
        ];
        for status in Status::ALL {
            for event in StatusEvent::ALL {
                let expected =
                    allowed.iter().find(|line| line.starts_with(&format!("{status} {event} ")));
                let step = status.step(*event).ok().map(|to| format!("{status} {event} {to}"));
                assert_eq!(step.as_deref(), expected.copied(), "{status} {event}");
            }
        }
    }

    #[test]
    fn every_step_of_the_keeper() {
        let allowed = [
            "none record recording",
            "recording record_seen recorded",
            "recorded split splitting",
            "recorded split_seen split",
            "splitting split_seen split",
            "recorded record_lost recording",
            "splitting record_lost recording",
            "split split_lost splitting",
            "none hold held",
            "recording hold held",
            "held release none",
            "held record recording",
            "held record_seen recorded",
        ];
        for state in KeeperState::ALL {
            for event in KeeperEvent::ALL {
                let contradiction = format!("{state} contradict violation");
                let expected = allowed
                    .into_iter()
                    .chain([contradiction.as_str()])
                    .find(|line| line.starts_with(&format!("{state} {event} ")));
                let step = state.step(*event).ok().map(|to| format!("{state} {event} {to}"));
                assert_eq!(step.as_deref(), expected, "{state} {event}");
            }
        }
    }

    /// Once money may have left the payer, only evidence ends a settlement without it.
    #[test]
    fn nothing_paid_is_ever_released() {
        for status in Status::ALL.iter().filter(|status| status.is_paid()) {
            for event in [
                StatusEvent::Lapse,
                StatusEvent::Refuse,
                StatusEvent::Consumed,
                StatusEvent::Reserve,
            ] {
                assert!(status.step(event).is_err(), "{status} {event}");
            }
        }
    }
}
