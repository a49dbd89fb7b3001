//! The reconciler: confirms what the chain has buried deep enough, resolves what stayed open, books
//! every log into the journal, and checks that all of it agrees. Its word is the chain's: each step reads the receipt or the
//! token's state again.

mod book;
mod cancelled;
mod check;
mod entry;
mod refunds;
mod report;

pub use report::{
    CapabilityRow, Category, CategorySum, Line, Options, Reconciliation, Report, Row, each_line,
    reconcile, report,
};

use crate::{
    chain::{BlockTag, Chain, ChainError, Head, Heads},
    eip3009::{FiatToken, inflows},
    failpoint::Point,
    ledger::{
        Contention, Lease, Ledger, LedgerError, LogRef, Settlement, SettlementQuery,
        SplitterRecord, Stream, Topic,
    },
    lifecycle::{Delivery, Failure, KeeperEvent, KeeperState, RefundPolicy, Status, StatusEvent},
    metrics::ATTRIBUTION_DRIFT_TOTAL,
};
use alloy::primitives::{Address, U256};
use book::Refused;
use check::Checked;
use chrono::{TimeDelta, Utc};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A payment without an outcome for so long is `orphaned` (S06 6.2).
const ORPHAN_AFTER: TimeDelta = TimeDelta::minutes(10);
/// A paid call that nobody asks for any more is not served after so long.
const FORGO_AFTER: TimeDelta = TimeDelta::minutes(10);
/// No provider may take longer (five minutes at most), and ten seconds for the answer's way.
const LOST_AFTER: TimeDelta = TimeDelta::seconds(310);

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
    /// There is nothing to compare with.
    #[error("the ledger has read nothing of Splitter {0} yet; let a daemon run first")]
    NoMirror(Address),
    /// The mirror ends with a block that was replaced.
    #[error(
        "block {0}, with which the ledger's mirror of the chain ends, is another one on the chain; \
         let a daemon run until it has followed, then try again"
    )]
    MirrorGone(u64),
}

impl ReconcilerError {
    /// Whether another daemon has taken over.
    pub const fn is_lease_lost(&self) -> bool {
        matches!(self, Self::Ledger(LedgerError::LeaseLost(_)))
    }

    /// Whether it lies in what was to be booked, and would come again.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Unexplained(_) => true,
            Self::Ledger(error) => error.is_refusal(),
            Self::Chain(_) | Self::Overflow(_) | Self::NoMirror(_) | Self::MirrorGone(_) => false,
        }
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
    /// What is refunded without asking anybody.
    pub refunds: RefundPolicy,
}

impl Reconciler {
    /// Runs until `stop`, or until the lease is lost.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`]; everything else is retried.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ReconcilerError> {
        let mut contention = Contention::default();
        let mut checked = Checked::default();
        let mut refused = Refused::default();
        ATTRIBUTION_DRIFT_TOTAL.add(0, []);
        while !stop.is_cancelled() {
            match self.tick(&mut contention, &mut checked, &mut refused).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(self.interval) => {}
                () = self.heads.changed() => {}
            }
        }
        Ok(())
    }

    /// One round. True when another must follow at once.
    ///
    /// Each part on its own: a fault of one must not hold up the others.
    async fn tick(
        &self,
        contention: &mut Contention,
        checked: &mut Checked,
        refused: &mut Refused,
    ) -> Result<bool, ReconcilerError> {
        let Some(seen) = self.heads.latest() else { return Ok(false) };
        let depth = self.confirmations.saturating_sub(1);
        let Some(buried) = seen.head.number().checked_sub(depth) else { return Ok(false) };
        let parts = [
            self.confirm(buried).await.map(|()| false),
            self.resolve().await.map(|()| false),
            self.give_up_deliveries().await.map(|()| false),
            self.book(seen.head.number(), refused).await,
            self.refund().await,
            self.check(checked).await.map(|()| false),
        ];
        let mut again = false;
        for part in parts {
            match part {
                Ok(more) => again |= more,
                Err(error) if error.is_lease_lost() => return Err(error),
                // Somebody moved a settlement in between.
                Err(ReconcilerError::Ledger(error)) if error.is_conflict() => {
                    contention.again("reconciler", &error).await;
                    return Ok(true);
                }
                Err(error) => {
                    tracing::warn!(
                        splitter = %self.splitter.address, %error, "reconciler: trying again"
                    );
                }
            }
        }
        contention.over();
        Ok(again)
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
            let confirmed = self.confirm_one(&settlement, &pull, buried).await;
            tolerate(&settlement, confirmed)?;
        }
        Ok(())
    }

    async fn confirm_one(
        &self,
        settlement: &Settlement,
        pull: &LogRef,
        buried: u64,
    ) -> Result<(), ReconcilerError> {
        // Gone or elsewhere: the watcher finds out and says where it went.
        let Some(receipt) = self.chain.receipt(pull.tx_hash).await? else { return Ok(()) };
        if receipt.block_hash != pull.block_hash {
            return Ok(());
        }
        let found = inflows(&receipt.logs, self.splitter.asset, settlement.pay_to)
            .into_iter()
            .find(|inflow| inflow.log_index == pull.log_index);
        let agreed = found.as_ref().is_some_and(|inflow| {
            inflow.payer == settlement.payer
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
        let evidence = json!({
            "at": pull,
            "confirmations_from": buried,
            "success": receipt.success(),
            "payer": found.as_ref().map(|inflow| inflow.payer),
            "nonce": found.as_ref().and_then(|inflow| inflow.nonce),
            "amount": found.map(|inflow| inflow.value.to_string()),
        });
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        tx.step_status(settlement, event, &evidence).await?;
        tx.commit(Point::Confirm).await?;
        self.ledger.signal(Topic::Settlements);
        Ok(())
    }

    /// What never got an outcome (jecp.md E.1). An authorization that can still be used is never
    /// given up: only a finalized block after its window says that it was not.
    async fn resolve(&self) -> Result<(), ReconcilerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let mirrored = tx.cursor(chain_id, address, Stream::Mirror).await?.unwrap_or(0);
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
            let held = mirrored > finalized.number();
            let resolved = if held && settlement.valid_before <= finalized.timestamp() {
                self.close(&settlement, &node, &finalized).await
            } else {
                match self.end_cancelled(&settlement, &node, &finalized, held).await {
                    Ok(false) => self.orphan(&settlement).await,
                    ended => ended.map(drop),
                }
            };
            tolerate(&settlement, resolved)?;
        }
        Ok(())
    }

    /// The window is closed at a finalized block: either nothing was moved and nothing can be, or
    /// the authorization was consumed without paying us.
    async fn close(
        &self,
        settlement: &Settlement,
        node: &Chain,
        finalized: &Head,
    ) -> Result<(), ReconcilerError> {
        let SplitterRecord { chain_id, address, asset, .. } = self.splitter;
        let (payer, nonce) = (settlement.payer, settlement.nonce);
        let state = FiatToken::authorizationStateCall { authorizer: payer, nonce };
        let used = node.call(asset, &state, BlockTag::Number(finalized.number())).await?;
        let event = if used { StatusEvent::Consumed } else { StatusEvent::Lapse };
        let evidence = json!({
            "finalized_block": finalized.number(),
            "finalized_hash": finalized.hash,
            "authorization_state": used,
        });
        let mut tx = self.ledger.begin_on_snapshot().await?;
        tx.hold_lease(&self.lease).await?;
        if tx.pull_of(chain_id, address, payer, nonce).await?.is_some() {
            // The mirror has its pull: the watcher is about to say so.
            return Ok(());
        }
        tx.step_status(settlement, event, &evidence).await?;
        tx.give_up_pull(settlement.id).await?;
        if event == StatusEvent::Consumed {
            // No money came in: there is nothing to refund (C-33a).
            tracing::error!(
                payment = %settlement.id,
                "ALARM: the authorization was consumed without paying us: the payment failed"
            );
        }
        if settlement.keeper_state != KeeperState::None {
            let reason = json!({"reason": "recorded, but its pull is not on the chain"});
            tx.step_keeper(settlement, KeeperEvent::Contradict, &reason).await?;
            tracing::error!(
                payment = %settlement.id,
                "ALARM: the payment was handed to be recorded, but its pull is not on the chain"
            );
        }
        let served = tx.delivery(settlement.id).await?.is_some_and(|delivery| {
            matches!(delivery.state, Delivery::Delivered | Delivery::Calling | Delivery::Unknown)
        });
        tx.commit(Point::Close).await?;
        if served {
            tracing::error!(payment = %settlement.id, "ALARM: served, but never paid");
        }
        tracing::info!(payment = %settlement.id, %event, "window closed");
        self.ledger.signal(Topic::Settlements);
        Ok(())
    }

    async fn orphan(&self, settlement: &Settlement) -> Result<(), ReconcilerError> {
        if settlement.status != Status::SettlePending
            || Utc::now() - settlement.reserved_at <= ORPHAN_AFTER
        {
            return Ok(());
        }
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        tx.step_status(settlement, StatusEvent::Overdue, &json!({})).await?;
        tx.commit(Point::Orphan).await?;
        tracing::error!(payment = %settlement.id, "ALARM: no outcome for ten minutes: orphaned");
        self.ledger.signal(Topic::Settlements);
        Ok(())
    }

    /// Paid calls that nobody serves: the agent went away, or the process that called the provider
    /// did. A refund is due.
    async fn give_up_deliveries(&self) -> Result<(), ReconcilerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let undelivered = tx.undelivered(chain_id, address, LOST_AFTER, FORGO_AFTER).await?;
        drop(tx);
        for id in undelivered {
            let mut tx = self.ledger.begin().await?;
            tx.hold_lease(&self.lease).await?;
            let Some(settlement) = tx.settlement(id).await? else { continue };
            let given_up = match tx.delivery(id).await? {
                None => tx.forgo_delivery(&settlement).await,
                Some(delivery) => {
                    let why = "the process that called the provider is gone";
                    let attempt = delivery.attempts;
                    tx.fail_delivery(&settlement, attempt, Failure::Lost, None, why).await
                }
            };
            match given_up {
                Ok(()) => tx.commit(Point::ForgoDelivery).await?,
                Err(error) if error.is_conflict() => continue,
                Err(error) => return Err(error.into()),
            }
            tracing::error!(payment = %id, "ALARM: paid and not served: a refund is due");
        }
        Ok(())
    }
}

/// What goes wrong with one payment must not hold up the others: it is tried again in the next
/// round. Only a lost lease ends everything.
fn tolerate(
    settlement: &Settlement,
    outcome: Result<(), ReconcilerError>,
) -> Result<(), ReconcilerError> {
    match outcome {
        Err(error) if error.is_lease_lost() => Err(error),
        // The watcher was faster; the next round reads what it wrote.
        Err(ReconcilerError::Ledger(error)) if error.is_conflict() => Ok(()),
        Err(error) => {
            tracing::warn!(payment = %settlement.id, %error, "reconciler: trying again");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
