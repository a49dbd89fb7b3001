//! Whether payments are taken at a Splitter now: what an operator switches and what closes it.

use super::Site;
use crate::ledger::{ClosureReason, Flag, LedgerError, SplitterRecord, Tx};
use alloy::primitives::B256;
use std::{
    collections::BTreeSet,
    sync::{PoisonError, RwLock},
};

/// Why no payment is begun at a Splitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shut {
    /// An operator takes no payments. What was taken is finished.
    Disabled,
    /// An operator has nothing signed: nothing could be pulled.
    Unsigned,
    /// Something closed it.
    Closed(Vec<ClosureReason>),
}

impl Shut {
    /// For whoever wants to buy. Anybody may read this: what exactly closed it is for the operator.
    pub(super) const fn message(&self) -> &'static str {
        match self {
            Self::Disabled => "this hub takes no payments now; no money moved",
            Self::Unsigned => "this hub settles no payments now; no money moved",
            Self::Closed(_) => {
                "this hub takes no payments until something was looked into; no money moved"
            }
        }
    }
}

/// What was seen last, for those who must not wait for the ledger.
#[derive(Debug, Default)]
pub struct Intake {
    seen: RwLock<Seen>,
}

/// What the ledger said.
#[derive(Debug, Default)]
struct Seen {
    shut: Option<Shut>,
    /// Capabilities that are not sold because too many of their calls fail.
    held: BTreeSet<B256>,
}

impl Intake {
    /// Why nothing is begun, if it is so.
    pub fn shut(&self) -> Option<Shut> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).shut.clone()
    }

    /// Whether a capability is not sold because too many of its calls fail.
    pub fn is_held(&self, capability: B256) -> bool {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).held.contains(&capability)
    }

    /// Whether an operator takes no payments.
    pub fn is_disabled(&self) -> bool {
        self.shut() == Some(Shut::Disabled)
    }
}

impl Site {
    /// Why nothing is begun, if it is so, as the ledger says now.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn shut(&self, tx: &mut Tx) -> Result<Option<Shut>, LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        if !tx.flag(Flag::X402Enabled).await? {
            return Ok(Some(Shut::Disabled));
        }
        if !tx.flag(Flag::X402KeeperEnabled).await? {
            return Ok(Some(Shut::Unsigned));
        }
        let closures = tx.closures(chain_id, address).await?;
        let reasons: Vec<_> = closures.into_iter().map(|closure| closure.reason).collect();
        Ok((!reasons.is_empty()).then_some(Shut::Closed(reasons)))
    }

    /// Looks again.
    ///
    /// # Errors
    /// When the ledger does not answer; what was seen last stays.
    pub async fn refresh_intake(&self) -> Result<(), LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let shut = self.shut(&mut tx).await?;
        let holds = tx.capability_holds(chain_id, address).await?;
        let held = holds.into_iter().map(|hold| hold.capability).collect();
        *self.intake.seen.write().unwrap_or_else(PoisonError::into_inner) = Seen { shut, held };
        Ok(())
    }
}
