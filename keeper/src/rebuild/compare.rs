//! Two ledgers of one Splitter, payment by payment, in what the chain tells.

use crate::{
    ledger::{KeeperEvidence, Ledger, LedgerError, LogRef, Settlement, SettlementQuery},
    lifecycle::KeeperState,
    splitter::SplitTerms,
    x402::MicroUsdc,
};
use alloy::primitives::{Address, B256};
use serde::Serialize;
use std::collections::BTreeMap;

/// Something in which two ledgers differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Payer.
    pub payer: Address,
    /// Authorization nonce.
    pub authorization_nonce: B256,
    /// In what.
    pub what: &'static str,
    /// By the old ledger.
    pub old: String,
    /// By the rebuilt one.
    pub rebuilt: String,
}

/// What came of comparing two ledgers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Payments that both have, with nothing different.
    pub equal: u64,
    /// Everything else.
    pub differences: Vec<Difference>,
}

/// How far a payment is on the chain. Whether something is on its way there, or held back, is not
/// told by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Pulled,
    Recorded,
    Split,
    Violation,
}

/// What the chain tells of a payment, up to a block.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    amount: MicroUsdc,
    capability: Option<B256>,
    terms: Option<SplitTerms>,
    stage: Stage,
    pull: LogRef,
    record: Option<KeeperEvidence>,
    split: Option<KeeperEvidence>,
    shares: Option<[u64; 3]>,
}

impl Told {
    fn of(settlement: &Settlement, end: u64) -> Option<Self> {
        let pull = settlement.pull.filter(|pull| pull.block_number <= end)?;
        let seen = |at: &KeeperEvidence| at.block_number <= end;
        let record = settlement.record.filter(seen);
        let split = settlement.split.filter(seen);
        let shares = settlement.shares.filter(|_| split.is_some());
        Some(Self {
            amount: settlement.amount,
            capability: settlement.splitter_capability_id,
            terms: settlement.terms,
            stage: match (settlement.keeper_state, record, split) {
                (KeeperState::Violation, _, _) => Stage::Violation,
                (_, _, Some(_)) => Stage::Split,
                (_, Some(_), None) => Stage::Recorded,
                (_, None, None) => Stage::Pulled,
            },
            pull,
            record,
            split,
            shares: shares.map(|shares| {
                [shares.provider.micro(), shares.hub.micro(), shares.reserve.micro()]
            }),
        })
    }

    /// In what two payments differ.
    fn differences(&self, other: &Self) -> Vec<(&'static str, String, String)> {
        let pairs = [
            ("amount", self.amount.to_string(), other.amount.to_string()),
            ("capability", format!("{:?}", self.capability), format!("{:?}", other.capability)),
            ("terms", format!("{:?}", self.terms), format!("{:?}", other.terms)),
            ("state", format!("{:?}", self.stage), format!("{:?}", other.stage)),
            ("pull", format!("{:?}", self.pull), format!("{:?}", other.pull)),
            ("record", format!("{:?}", self.record), format!("{:?}", other.record)),
            ("split", format!("{:?}", self.split), format!("{:?}", other.split)),
            ("shares", format!("{:?}", self.shares), format!("{:?}", other.shares)),
        ];
        pairs.into_iter().filter(|(_, old, rebuilt)| old != rebuilt).collect()
    }
}

/// Compares an old ledger with a rebuilt one, as far as the rebuilt one has seen the chain.
///
/// # Errors
/// When one of them cannot be read.
pub async fn compare(
    old: &Ledger,
    rebuilt: &Ledger,
    (chain_id, splitter): (u64, Address),
    end: u64,
) -> Result<Comparison, LedgerError> {
    let mut ours = payments(old, (chain_id, splitter), end).await?;
    let mut comparison = Comparison::default();
    for (identity, payment) in payments(rebuilt, (chain_id, splitter), end).await? {
        let differences = match ours.remove(&identity) {
            None => vec![("payment", "missing".to_owned(), payment.amount.to_string())],
            Some(known) if known == payment => {
                comparison.equal = comparison.equal.saturating_add(1);
                continue;
            }
            Some(known) => known.differences(&payment),
        };
        comparison.add(identity, differences);
    }
    for (identity, payment) in ours {
        comparison
            .add(identity, vec![("payment", payment.amount.to_string(), "missing".to_owned())]);
    }
    Ok(comparison)
}

impl Comparison {
    fn add(
        &mut self,
        (payer, nonce): (Address, B256),
        in_what: Vec<(&'static str, String, String)>,
    ) {
        self.differences.extend(in_what.into_iter().map(|(what, old, rebuilt)| Difference {
            payer,
            authorization_nonce: nonce,
            what,
            old,
            rebuilt,
        }));
    }
}

/// Payments whose money has come in. What passed through came in nowhere, and cannot be rebuilt.
async fn payments(
    ledger: &Ledger,
    (chain_id, splitter): (u64, Address),
    end: u64,
) -> Result<BTreeMap<(Address, B256), Told>, LedgerError> {
    let mut tx = ledger.read().await?;
    let all = tx.settlements(chain_id, splitter, SettlementQuery::All).await?;
    Ok(all
        .iter()
        .filter(|settlement| !settlement.passes_through())
        .filter_map(|settlement| {
            Some(((settlement.payer, settlement.nonce), Told::of(settlement, end)?))
        })
        .collect())
}
