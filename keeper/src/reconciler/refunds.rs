//! Refunds: asked for when a paid call came to nothing, and closed by the Transfer with which the
//! treasury pays them. No key of ours ever pays one (S06 4.5).

use super::{Reconciler, ReconcilerError};
use crate::{
    chain::BlockTag,
    eip3009::FiatToken,
    failpoint::Point,
    ledger::{Action, LogRef, Refund, Requested, SplitterRecord, Stream},
    lifecycle::{HoldReason, RefundState},
    metrics::REFUNDS_TOTAL,
    x402::MicroUsdc,
};
use alloy::{
    primitives::Address,
    rpc::types::{Filter, Log},
    sol_types::SolEvent,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use std::collections::BTreeSet;

/// Most blocks that are searched for Transfers in one round.
const MAX_RANGE: u64 = 2_000;
/// A call whose outcome is unknown may be repeated for so long before its refund is asked for.
const PATIENCE: TimeDelta = TimeDelta::minutes(10);
/// A refund must be paid within so long after it was agreed to.
const OVERDUE: TimeDelta = TimeDelta::hours(24);

/// USDC that the treasury sent to somebody.
struct Sent {
    at: LogRef,
    to: Address,
    amount: MicroUsdc,
    when: DateTime<Utc>,
}

impl Reconciler {
    /// Asks for what is due, stops the sale of what fails, and sees what was paid. True when there
    /// are more blocks to search.
    pub(super) async fn refund(&self) -> Result<bool, ReconcilerError> {
        self.request_refunds().await?;
        self.hold_failing().await?;
        self.see_refunds_paid().await
    }

    async fn request_refunds(&self) -> Result<(), ReconcilerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let wanted = tx.refunds_wanted(chain_id, address, PATIENCE).await?;
        drop(tx);
        for payment in wanted {
            let mut tx = self.ledger.begin().await?;
            tx.hold_lease(&self.lease).await?;
            let reason = "paid and not served";
            match tx.request_refund(payment, reason, &self.refunds).await {
                Ok(Requested::New(refund)) => {
                    tx.commit(Point::Refund).await?;
                    REFUNDS_TOTAL.add(1, [refund.state.as_str()]);
                    self.say_requested(&refund);
                }
                // Served after all, or taken off the chain; the next round looks again.
                Ok(Requested::Known(_) | Requested::NotPaid | Requested::NotFinished) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn say_requested(&self, refund: &Refund) {
        let Refund { id, settlement, agent_id, amount, .. } = refund;
        match refund.hold_reason {
            None => tracing::info!(refund = %id, payment = %settlement, %amount, "refund is owed"),
            Some(reason) => {
                let (threshold, window) = match reason {
                    HoldReason::Forgone => ("any".to_owned(), "one"),
                    HoldReason::AgentDayLimit => (self.refunds.agent_day.to_string(), "24h"),
                    HoldReason::ReviewAmount => (self.refunds.review_above.to_string(), "one"),
                    HoldReason::WeekLimit => (self.refunds.week_limit.to_string(), "7d"),
                };
                tracing::error!(
                    refund = %id, payment = %settlement, agent_id, %amount, %reason, threshold,
                    window, "ALARM: a refund is held for a human"
                );
            }
        }
    }

    async fn hold_failing(&self) -> Result<(), ReconcilerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let failing = tx.failing_capabilities(chain_id, address, &self.refunds).await?;
        drop(tx);
        for calls in failing {
            let detail = format!(
                "{} of {} calls failed within an hour, more than {} percent",
                calls.failed, calls.finished, self.refunds.failure_percent
            );
            let mut tx = self.ledger.begin().await?;
            tx.hold_lease(&self.lease).await?;
            if !tx.hold_capability(chain_id, address, calls.capability, &detail).await? {
                continue;
            }
            tx.commit(Point::Hold).await?;
            tracing::error!(
                capability = %calls.capability, detail,
                "ALARM: a capability is not sold any more, because too many of its calls fail"
            );
        }
        Ok(())
    }

    /// Closes owed refunds by the treasury's Transfers in final blocks. The oldest of equal ones is
    /// paid first, and no Transfer pays two.
    async fn see_refunds_paid(&self) -> Result<bool, ReconcilerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let owed = tx.owed_refunds(chain_id, address).await?;
        let from = tx.cursor(chain_id, address, Stream::Refunds).await?;
        let clock = tx.clock().await?;
        let said = tx.actions(Action::RefundOverdue).await?;
        drop(tx);
        let (false, Some(from)) = (owed.is_empty(), from) else { return Ok(false) };
        let is_said = |refund: &Refund| {
            said.iter().any(|record| record.settlement == Some(refund.settlement))
        };
        // What was held is owed since a human has agreed.
        let is_late = |refund: &Refund| clock - owed_since(refund) > OVERDUE;
        for refund in owed.iter().filter(|refund| is_late(refund) && !is_said(refund)) {
            self.say_overdue(refund).await?;
        }
        let node = self.chain.pinned().await?;
        let finalized = node.head(BlockTag::Finalized).await?.number();
        if from > finalized {
            return Ok(false);
        }
        let to = finalized.min(from.saturating_add(MAX_RANGE - 1));
        let sent = self.sent_by_treasury(&node, &owed, from, to).await?;
        // A short range without anything is read again: that is cheaper than a commit per block.
        let is_full = to < finalized;
        if sent.is_empty() && !is_full {
            return Ok(false);
        }
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        tx.advance_refunds(chain_id, address, from, to.saturating_add(1)).await?;
        let mut paid = Vec::new();
        for Sent { at, to, amount, when } in &sent {
            let refund = tx.refund_paid_by(chain_id, address, *to, *amount, at).await?;
            let Some(refund) = refund else { continue };
            tx.pay_refund(&refund, at, *when).await?;
            paid.push((refund, at.tx_hash));
        }
        tx.commit(Point::Refund).await?;
        for (refund, tx_hash) in paid {
            REFUNDS_TOTAL.add(1, [RefundState::Paid.as_str()]);
            let Refund { id, settlement, payer, amount, .. } = refund;
            tracing::info!(
                refund = %id, payment = %settlement, %payer, %amount, %tx_hash, "refund is paid"
            );
        }
        Ok(is_full)
    }

    /// USDC that the treasury sent to payers who wait for a refund, in chain order.
    async fn sent_by_treasury(
        &self,
        node: &crate::chain::Chain,
        owed: &[Refund],
        from: u64,
        to: u64,
    ) -> Result<Vec<Sent>, ReconcilerError> {
        let payers: BTreeSet<_> = owed.iter().map(|refund| refund.payer.into_word()).collect();
        let filter = Filter::new()
            .address(self.splitter.asset)
            .event_signature(FiatToken::Transfer::SIGNATURE_HASH)
            .topic1(self.splitter.hub_treasury.into_word())
            .topic2(payers.into_iter().collect::<Vec<_>>());
        let logs = node.logs(&filter, from, to).await?;
        let mut sent = Vec::new();
        for (at, transfer) in logs.iter().filter_map(transfer) {
            // More than the ledger can hold is no refund.
            let Ok(amount) = MicroUsdc::try_from(transfer.value) else { continue };
            let block = node.head(BlockTag::Number(at.block_number)).await?;
            let seconds = i64::try_from(block.timestamp()).unwrap_or(i64::MAX);
            let when = DateTime::from_timestamp(seconds, 0);
            let when = when.ok_or(ReconcilerError::Overflow("block time"))?;
            sent.push(Sent { at, to: transfer.to, amount, when });
        }
        sent.sort_by_key(|sent| sent.at.position());
        Ok(sent)
    }

    /// Calls a human, once per refund.
    async fn say_overdue(&self, refund: &Refund) -> Result<(), ReconcilerError> {
        let place = Some((refund.chain_id, refund.splitter));
        let detail = json!({
            "refund": refund.id, "requested_at": refund.requested_at,
            "owed_since": owed_since(refund),
        });
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        let settlement = Some(refund.settlement);
        if tx.log_action(Action::RefundOverdue, place, settlement, &detail).await? {
            tx.commit(Point::Refund).await?;
            tracing::error!(
                refund = %refund.id, payment = %refund.settlement,
                "ALARM: a refund is not paid after 24 hours"
            );
        }
        Ok(())
    }
}

/// When a refund was agreed to, by the policy or by a human.
fn owed_since(refund: &Refund) -> DateTime<Utc> {
    refund.decided_at.unwrap_or(refund.requested_at)
}

/// Where a Transfer stands, and what it says.
fn transfer(log: &Log) -> Option<(LogRef, FiatToken::Transfer)> {
    let at = LogRef {
        tx_hash: log.transaction_hash?,
        log_index: log.log_index?,
        block_number: log.block_number?,
        block_hash: log.block_hash?,
    };
    let transfer = FiatToken::Transfer::decode_log(&log.inner).ok()?;
    Some((at, transfer.data))
}
