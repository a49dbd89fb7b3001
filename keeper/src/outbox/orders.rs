//! Carries out what an operator has ordered with `keeper tx`.

use super::{
    Memory, Outbox, OutboxError,
    follow::{point, receipt},
    foreign::foreign,
};
use crate::{
    chain::BlockTag,
    failpoint::Point,
    ledger::{LedgerError, Order, OrderAction, Outcome, Outgoing},
    lifecycle::{AttemptKind, Cause, Chain, Sighting, TransactionState},
};

impl Outbox {
    /// Carries out every order that waits. What cannot be done is said, and not tried again.
    pub(super) async fn obey(&self, memory: &mut Memory) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let mut tx = self.ledger.read().await?;
        let orders = tx.orders(self.chain_id, signer).await?;
        drop(tx);
        for (id, order) in orders {
            let outcome = match self.carry_out(memory, &order).await {
                Ok(outcome) => outcome,
                Err(error) if error.is_lease_lost() => return Err(error),
                Err(error) => refused(error.to_string()),
            };
            tracing::warn!(
                %signer, order = id, action = %order.action, reason = order.reason,
                succeeded = outcome.succeeded, outcome = outcome.text, "order carried out"
            );
            let mut tx = self.ledger.begin().await?;
            tx.finish_order(&self.lease, id, &outcome).await?;
            tx.commit(Point::Order).await?;
        }
        Ok(())
    }

    async fn carry_out(&self, memory: &mut Memory, order: &Order) -> Result<Outcome, OutboxError> {
        match order.action {
            OrderAction::Quarantine => {
                let mut tx = self.ledger.begin().await?;
                let signer = self.signer.address();
                tx.quarantine(&self.lease, self.chain_id, signer, &order.reason).await?;
                tx.commit(Point::Quarantine).await?;
                Ok(done("in quarantine until every account nonce that may be used is final"))
            }
            OrderAction::Release => self.release(order).await,
            OrderAction::Rebroadcast
            | OrderAction::Bump
            | OrderAction::Cancel
            | OrderAction::Resolve => {
                let Some(nonce) = order.account_nonce else {
                    return Ok(refused("the order names no account nonce"));
                };
                let mut tx = self.ledger.read().await?;
                let outgoing = tx.outgoing(self.chain_id, self.signer.address()).await?;
                drop(tx);
                let wanted = outgoing.iter().find(|found| found.account_nonce == nonce);
                let Some(transaction) = wanted else {
                    return Ok(refused(format!(
                        "account nonce {nonce} has no transaction whose fate is open"
                    )));
                };
                memory.sent.remove(&transaction.id);
                if order.action == OrderAction::Resolve {
                    self.resolve(transaction, order).await
                } else {
                    self.push(memory, transaction, order.action).await
                }
            }
        }
    }

    async fn release(&self, order: &Order) -> Result<Outcome, OutboxError> {
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        let settlement = match order.settlement {
            Some(id) => tx.settlement(id).await?,
            None => None,
        };
        let Some(settlement) = settlement else {
            return Ok(refused("there is no such payment"));
        };
        let state = match tx.release(&settlement, &order.reason).await {
            Ok(state) => state,
            Err(LedgerError::Conflict(_)) => {
                return Ok(refused(
                    "the transaction of its record is not decided for good; resolve that first",
                ));
            }
            Err(error) => return Err(error.into()),
        };
        tx.commit(Point::Order).await?;
        Ok(done(format!("the payment goes on; the keeper's progress is {state}")))
    }

    /// Sends, bumps or cancels a transaction that is not mined.
    async fn push(
        &self,
        memory: &mut Memory,
        transaction: &Outgoing,
        action: OrderAction,
    ) -> Result<Outcome, OutboxError> {
        let (Some(envelope), true) = (transaction.envelopes.last(), transaction.state.is_pending())
        else {
            return Ok(refused(format!("the transaction is {}", transaction.state)));
        };
        let is_noop = action == OrderAction::Cancel || envelope.kind == AttemptKind::Noop;
        let node = self.chain.pinned().await?;
        if !is_noop && self.cause(memory, &node, transaction).await? != Cause::Stands {
            return Ok(refused("what it follows from is not on the chain; cancel it, or wait"));
        }
        if action == OrderAction::Rebroadcast {
            self.broadcast(transaction.account_nonce, envelope).await;
            return Ok(done(format!("{} was handed to the nodes", envelope.hash)));
        }
        let kind = if is_noop { AttemptKind::Noop } else { AttemptKind::Bump };
        let unmined = self.unmined(transaction, envelope, Cause::Stands).await?;
        let Some(fees) = unmined.higher(&self.chain.market().await?, kind) else {
            return Ok(refused(format!(
                "that would offer more than the hard limit of {} wei per gas; raise it with \
                 `keeper tx limits`",
                unmined.ceiling
            )));
        };
        let envelope = self.replace(transaction, kind, fees).await?;
        Ok(done(format!(
            "{} was signed ({kind}, at most {} wei per gas) and handed to the nodes",
            envelope.hash, fees.max_fee_per_gas
        )))
    }

    /// Decides a parked transaction by the one that took its account nonce. The chain must agree:
    /// an operator's word alone moves nothing.
    async fn resolve(&self, parked: &Outgoing, order: &Order) -> Result<Outcome, OutboxError> {
        let signer = self.signer.address();
        let (TransactionState::Parked, Some(hash)) = (parked.state, order.tx_hash) else {
            return Ok(refused(format!(
                "the transaction is {}; only a parked one is resolved, by the hash of what took \
                 its account nonce",
                parked.state
            )));
        };
        let node = self.chain.pinned().await?;
        let chain = Chain {
            finalized_count: node.transaction_count(signer, BlockTag::Finalized).await?,
            finalized: node.head(BlockTag::Finalized).await?.number(),
            safe: node.head(BlockTag::Safe).await?.number(),
        };
        let Some(found) = node.transaction(hash).await? else {
            return Ok(refused(format!("the node does not know {hash}")));
        };
        if (found.from, found.account_nonce()) != (signer, parked.account_nonce) {
            return Ok(refused(format!(
                "{hash} is account nonce {} of {}, not {} of {signer}",
                found.account_nonce(),
                found.from,
                parked.account_nonce
            )));
        }
        // Whatever does not do our work has done nothing, as far as our work goes.
        let is_ours = found.to == Some(parked.to) && found.input == parked.calldata;
        let kind = if is_ours { AttemptKind::First } else { AttemptKind::Noop };
        let Some(mined) = receipt(&node, hash, kind).await? else {
            return Ok(refused(format!("{hash} is in no sealed block")));
        };
        let sighting = Sighting { chain, mined: Some(mined.mined) };
        let (standing, _) =
            TransactionState::observe(parked.account_nonce, parked.work.is_some(), &sighting);
        let foreign = foreign(&node, parked, Some(&mined)).await;
        let mut tx = self.ledger.begin().await?;
        tx.set_standing(&self.lease, parked, standing, Some(&mined)).await?;
        self.enter_foreign(&mut tx, parked, Some(&mined), &foreign).await?;
        tx.commit(point(standing.state)).await?;
        Ok(done(format!("the transaction is {} by {hash}", standing.state)))
    }
}

fn done(text: impl Into<String>) -> Outcome {
    Outcome { succeeded: true, text: text.into() }
}

fn refused(text: impl Into<String>) -> Outcome {
    Outcome { succeeded: false, text: text.into() }
}
