//! The reconciler: confirms what the chain has buried deep enough, resolves what stayed open, and
//! books every log into the journal. Its word is the chain's: each step reads the receipt or the
//! token's state again.

mod book;
mod report;

pub use report::{Reconciliation, Row, reconcile};

use crate::{
    chain::{BlockTag, Chain, ChainError, Heads},
    eip3009::{FiatToken, inflows},
    ledger::{
        Lease, Ledger, LedgerError, LogRef, Settlement, SettlementQuery, SplitterRecord, Topic,
    },
    lifecycle::{Status, StatusEvent},
};
use alloy::primitives::U256;
use chrono::{TimeDelta, Utc};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A payment without an outcome for so long is `orphaned` (S06 6.2).
const ORPHAN_AFTER: TimeDelta = TimeDelta::minutes(10);

/// Between a round that met another writer and the next.
const CONFLICT_DELAY: Duration = Duration::from_millis(20);

/// Why the reconciler could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ReconcilerError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A log that the published contract does not write.
    #[error("log {} of {} does not fit the contract's behaviour", .0.log_index, .0.tx_hash)]
    Unexplained(LogRef),
    /// A sum does not fit.
    #[error("the sum of {0} overflows")]
    Overflow(&'static str),
}

impl ReconcilerError {
    /// Whether another daemon has taken over.
    pub const fn is_lease_lost(&self) -> bool {
        matches!(self, Self::Ledger(LedgerError::LeaseLost(_)))
    }
}

/// Reconciles one Splitter.
#[derive(Debug)]
pub struct Reconciler {
    /// Endpoints of its own: a stalled reconciler must not stall a request.
    pub chain: Chain,
    /// Head of the chain.
    pub heads: Heads,
    /// The ledger.
    pub ledger: Ledger,
    /// The right to write.
    pub lease: Lease,
    /// Which Splitter.
    pub splitter: SplitterRecord,
    /// Confirmations that make a payment `chain_confirmed` and a log bookable.
    pub confirmations: u64,
    /// At most this long between two rounds.
    pub interval: Duration,
}

impl Reconciler {
    /// Runs until `stop`, or until the lease is lost.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`]; everything else is retried.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ReconcilerError> {
        while !stop.is_cancelled() {
            match self.tick().await {
                Ok(()) => {}
                Err(error) if error.is_lease_lost() => return Err(error),
                // Somebody moved a settlement in between; on to the next snapshot.
                Err(ReconcilerError::Ledger(error)) if error.is_conflict() => {
                    tracing::debug!(%error, "reconciler: starting over");
                    tokio::time::sleep(CONFLICT_DELAY).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(
                        splitter = %self.splitter.address, %error, "reconciler: trying again"
                    );
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(self.interval) => {}
                () = self.heads.changed() => {}
            }
        }
        Ok(())
    }

    async fn tick(&self) -> Result<(), ReconcilerError> {
        let Some(seen) = self.heads.latest() else { return Ok(()) };
        let depth = self.confirmations.saturating_sub(1);
        let Some(buried) = seen.head.number().checked_sub(depth) else { return Ok(()) };
        self.confirm(buried).await?;
        self.resolve().await?;
        self.book(buried).await
    }

    /// `facilitator_attested` to `chain_confirmed`, or `mismatched`.
    async fn confirm(&self, buried: u64) -> Result<(), ReconcilerError> {
        let mut tx = self.ledger.read().await?;
        let query = SettlementQuery::InStatus(Status::FacilitatorAttested);
        let attested = tx.settlements(self.splitter.chain_id, self.splitter.address, query).await?;
        drop(tx);
        for settlement in attested {
            let Some(pull) = settlement.pull.filter(|pull| pull.block_number <= buried) else {
                continue;
            };
            // Gone or elsewhere: the watcher finds out and says where it went.
            let Some(receipt) = self.chain.receipt(pull.tx_hash).await? else { continue };
            if receipt.block_hash != pull.block_hash {
                continue;
            }
            let agreed = inflows(&receipt.logs, self.splitter.asset, self.splitter.address)
                .iter()
                .any(|inflow| {
                    inflow.log_index == pull.log_index
                        && inflow.payer == settlement.payer
                        && inflow.nonce == Some(settlement.nonce)
                        && inflow.value == U256::from(settlement.amount.micro())
                });
            let event = if agreed && receipt.success() {
                StatusEvent::Confirm
            } else {
                tracing::error!(
                    payment = %settlement.id, tx_hash = %pull.tx_hash,
                    "ALARM: the receipt disagrees with the ledger; the payment is held"
                );
                StatusEvent::Disagree
            };
            self.step(&settlement, event, &json!({"at": pull, "confirmations_from": buried}))
                .await?;
        }
        Ok(())
    }

    /// What never got an outcome (jecp.md E.1). An authorization that can still be used is never
    /// given up: only a finalized block after its window says that it was not.
    async fn resolve(&self) -> Result<(), ReconcilerError> {
        let SplitterRecord { chain_id, address, asset, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let cursor = tx.mirror_cursor(chain_id, address).await?.unwrap_or(0);
        let mut open = Vec::new();
        for status in [Status::Reserved, Status::SettlePending, Status::Orphaned] {
            let query = SettlementQuery::InStatus(status);
            open.extend(tx.settlements(chain_id, address, query).await?);
        }
        drop(tx);
        if open.is_empty() {
            return Ok(());
        }
        let node = self.chain.pinned().await?;
        let finalized = node.head(BlockTag::Finalized).await?;
        for settlement in open {
            // The mirror must hold everything up to that block, or a pull could be overlooked.
            let closed =
                settlement.valid_before <= finalized.timestamp() && cursor > finalized.number();
            if closed {
                let state = FiatToken::authorizationStateCall {
                    authorizer: settlement.payer,
                    nonce: settlement.nonce,
                };
                let block = BlockTag::Number(finalized.number());
                let used = node.call(asset, &state, block).await?;
                let event = if used { StatusEvent::Consumed } else { StatusEvent::Lapse };
                let evidence = json!({
                    "finalized_block": finalized.number(),
                    "finalized_hash": finalized.hash,
                    "authorization_state": used,
                });
                self.step(&settlement, event, &evidence).await?;
                tracing::info!(payment = %settlement.id, %event, "window closed");
            } else if settlement.status == Status::SettlePending
                && Utc::now() - settlement.reserved_at > ORPHAN_AFTER
            {
                tracing::error!(
                    payment = %settlement.id, "ALARM: no outcome for ten minutes: orphaned"
                );
                self.step(&settlement, StatusEvent::Overdue, &json!({})).await?;
            }
        }
        Ok(())
    }

    async fn step(
        &self,
        settlement: &Settlement,
        event: StatusEvent,
        evidence: &serde_json::Value,
    ) -> Result<(), ReconcilerError> {
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        match tx.step_status(settlement, event, evidence).await {
            Ok(_) => tx.commit().await?,
            // The watcher was faster; the next round reads what it wrote.
            Err(error) if error.is_conflict() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.ledger.signal(Topic::Settlements);
        Ok(())
    }
}
