//! Which work gets an account nonce now, and which must wait.

use super::{Memory, Outbox, OutboxError, worst};
use crate::{
    chain::ChainError,
    failpoint::Point,
    ledger::{Action, Cost, Intent, SignerRecord},
    lifecycle::{
        Closed, IntentKind, JITTER_PERCENT, Limits, Market, Purse, backoff, is_closing, room,
    },
    metrics::{LATE_INTENTS_TOTAL, PAUSED, SIGNER_BALANCE_WEI, SPEND_DAY_LIMIT_WEI, SPEND_DAY_WEI},
};
use chrono::TimeDelta;
use rand::Rng;
use serde_json::json;
use std::time::{Duration, Instant};

/// Most intents that are simulated in one round; signing and following must have their turn.
const MAX_SIMULATIONS: u64 = 64;
/// How often a purse is looked at when there is nothing to do.
const PURSE_INTERVAL: Duration = Duration::from_secs(2);
/// Gas limit of the dearest transaction that the keeper sends; a purse must suffice for one.
const TYPICAL_GAS: u64 = 300_000;
/// And its size, bytes.
const TYPICAL_SIZE: u64 = 512;
/// Bytes of an envelope beside its calldata, at most: fees, signature, lengths.
const ENVELOPE_SIZE: u64 = 200;
/// After so long a record or a split is late: four blocks of Ethereum, six of Base (C-30).
const LATE: TimeDelta = TimeDelta::seconds(12);
/// Most characters of a node's words that are kept.
const MAX_REASON: usize = 300;

/// What may be begun in this round.
struct Allowance {
    limits: Limits,
    purse: Purse,
    market: Market,
}

impl Outbox {
    /// Gives due intents account nonces.
    pub(super) async fn plan(
        &self,
        memory: &mut Memory,
        known: &SignerRecord,
    ) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let mut tx = self.ledger.read().await?;
        let is_idle = tx.due_intents(self.chain_id, signer, 1).await?.is_empty();
        drop(tx);
        if is_idle && memory.purse.is_some_and(|looked| looked.elapsed() < PURSE_INTERVAL) {
            return Ok(());
        }
        memory.purse = Some(Instant::now());
        let mut allowance = self.allowance().await?;
        let typical = self.cost(&allowance.market, TYPICAL_GAS, TYPICAL_SIZE).await?;
        let closed = allowance.limits.allow(&allowance.purse, typical.max.into()).err();
        self.close(known, closed).await?;
        if closed.is_some() || is_idle {
            return Ok(());
        }
        let mut budget = MAX_SIMULATIONS;
        let mut faults = Vec::new();
        while budget > 0 {
            let mut tx = self.ledger.read().await?;
            let pending = tx.pending_transactions(self.chain_id, signer).await?;
            let limit = room(pending, self.max_pending).min(budget);
            let due = tx.due_intents(self.chain_id, signer, limit).await?;
            drop(tx);
            if due.is_empty() {
                break;
            }
            let node = self.chain.pinned().await?;
            let splitters = due.iter().filter(|intent| intent.kind != IntentKind::Pull);
            let standing = self.standing(&node, splitters.map(|intent| intent.to)).await?;
            let mut waits = false;
            for intent in &due {
                // The mirror says that its cause is there, but not of which chain.
                if intent.kind != IntentKind::Pull && !standing.contains(&intent.to) {
                    waits = true;
                    continue;
                }
                if self.stop.is_cancelled() {
                    return worst(faults);
                }
                budget = budget.saturating_sub(1);
                match self.plan_one(&mut allowance, intent).await {
                    Ok(None) => {}
                    Ok(closed) => {
                        self.close(known, closed).await?;
                        return worst(faults);
                    }
                    // No node answers: the others would not do better.
                    Err(error @ OutboxError::Chain(_)) => return Err(error),
                    Err(error) => faults.push(Err(error)),
                }
            }
            if waits {
                break;
            }
        }
        worst(faults)
    }

    /// What the signer may spend, has and owes.
    async fn allowance(&self) -> Result<Allowance, OutboxError> {
        let signer = self.signer.address();
        let market = self.chain.market().await?;
        let balance = self.chain.balance(signer).await?;
        let limits = self.limits().await?;
        let mut tx = self.ledger.read().await?;
        let spending = tx.spending(self.chain_id, signer).await?;
        let purse = Purse {
            balance: balance.saturating_to(),
            owed: spending.owed.into(),
            day: spending.day.into(),
        };
        let label = self.label();
        SIGNER_BALANCE_WEI.set(balance.saturating_to(), [&label]);
        SPEND_DAY_WEI.set(spending.day, [&label]);
        SPEND_DAY_LIMIT_WEI.set(limits.day, [&label]);
        Ok(Allowance { limits, purse, market })
    }

    /// The limits that hold now: an operator's, or else the configuration's.
    pub(super) async fn limits(&self) -> Result<Limits, OutboxError> {
        let mut tx = self.ledger.read().await?;
        let set = tx.limits(self.chain_id, self.signer.address()).await?;
        Ok(set.unwrap_or(self.limits))
    }

    /// Most that a transaction can cost, wei.
    async fn cost(&self, market: &Market, gas_limit: u64, size: u64) -> Result<Cost, OutboxError> {
        let data = self.chain.data_fee(size, gas_limit).await?;
        let data = u64::try_from(data.total()).unwrap_or(u64::MAX);
        let execution = gas_limit.saturating_mul(market.fees.max_fee_per_gas);
        Ok(Cost { max: execution.saturating_add(data), data })
    }

    /// Opens or closes the intake, and calls somebody when it closes.
    async fn close(&self, known: &SignerRecord, closed: Option<Closed>) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        for reason in Closed::ALL {
            let is_why = u64::from(closed == Some(*reason));
            PAUSED.set(is_why, [&self.label(), reason.as_str()]);
        }
        if known.closed == closed {
            return Ok(());
        }
        let mut tx = self.ledger.begin().await?;
        let changed = tx.close_signer(&self.lease, self.chain_id, signer, closed).await?;
        tx.commit(Point::Purse).await?;
        match closed {
            Some(reason) if changed => tracing::error!(
                %signer, %reason,
                "ALARM: nothing new is begun: a spending limit is reached, or the balance is low"
            ),
            None if changed => tracing::info!(%signer, "new work is begun again"),
            _ => {}
        }
        Ok(())
    }

    /// Plans an intent, or puts it off: what is wrong with one must not hold up the next. Says why
    /// nothing more may be begun, if it is so.
    async fn plan_one(
        &self,
        allowance: &mut Allowance,
        intent: &Intent,
    ) -> Result<Option<Closed>, OutboxError> {
        let signer = self.signer.address();
        if self.has_expired(intent) {
            let mut tx = self.ledger.begin().await?;
            tx.hold_lease(&self.lease).await?;
            let reason = "the authorization's window closed before its pull";
            tx.cancel_intent(intent.id, reason).await?;
            tx.commit(Point::Expire).await?;
            tracing::warn!(intent = intent.id, reason, "pull cancelled");
            return Ok(None);
        }
        let Intent { to, calldata, gas_limit, .. } = intent;
        match self.chain.simulate(signer, *to, calldata, *gas_limit).await {
            Ok(_) => {}
            Err(error @ ChainError::Unavailable { .. }) => return Err(error.into()),
            Err(error) => return self.put_off(intent, &error).await.map(|()| None),
        }
        let size = u64::try_from(intent.calldata.len()).unwrap_or(u64::MAX);
        let size = size.saturating_add(ENVELOPE_SIZE);
        let cost = self.cost(&allowance.market, intent.gas_limit, size).await?;
        if let Err(closed) = allowance.limits.allow(&allowance.purse, cost.max.into()) {
            return Ok(Some(closed));
        }
        let mut tx = self.ledger.begin().await?;
        let nonce = tx.plan(&self.lease, self.chain_id, signer, intent, cost).await?;
        tx.commit(Point::Plan).await?;
        let purse = &mut allowance.purse;
        purse.owed = purse.owed.saturating_add(cost.max.into());
        purse.day = purse.day.saturating_add(cost.max.into());
        tracing::info!(intent = intent.id, kind = %intent.kind, account_nonce = nonce, "planned");
        Ok(None)
    }

    /// Looks at an intent again later, each time later than before. A pull's window ends by
    /// itself; a record or a split is tried on until it is done or held (C-30).
    async fn put_off(&self, intent: &Intent, error: &ChainError) -> Result<(), OutboxError> {
        let reason: String = error.to_string().chars().take(MAX_REASON).collect();
        let chance = rand::thread_rng().gen_range(0..=2 * JITTER_PERCENT);
        let delay = backoff(intent.deferrals, chance);
        let mut tx = self.ledger.begin().await?;
        tx.defer_intent(&self.lease, intent.id, delay, &reason).await?;
        tx.commit(Point::Defer).await?;
        tracing::warn!(
            intent = intent.id, kind = %intent.kind, reason, again_in = ?delay,
            "cannot be sent now, looking again later"
        );
        Ok(())
    }

    fn has_expired(&self, intent: &Intent) -> bool {
        let Some(valid_before) = intent.valid_before else { return false };
        // Without a head nothing is known; the simulation will tell.
        let Some(head) = self.heads.latest() else { return false };
        is_closing(valid_before, head.now())
    }

    /// Calls somebody for records and splits that should be on the chain and are not.
    pub(super) async fn flag_late(&self) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let mut tx = self.ledger.begin().await?;
        let late = tx.flag_late(&self.lease, self.chain_id, signer, LATE).await?;
        if late.is_empty() {
            return Ok(());
        }
        for work in &late {
            let detail = json!({
                "subcause": "record_retry_exhausted",
                "intent": work.id,
                "kind": work.kind.as_str(),
                "reason": work.reason,
            });
            let at = Some((self.chain_id, work.splitter));
            tx.log_action(Action::RetryExhausted, at, work.settlement, &detail).await?;
        }
        tx.commit(Point::Flag).await?;
        for work in late {
            LATE_INTENTS_TOTAL.add(1, [work.kind.as_str()]);
            tracing::error!(
                intent = work.id,
                kind = %work.kind,
                payment = work.settlement.map(tracing::field::display),
                reason = work.reason.as_deref().unwrap_or("not mined yet"),
                "ALARM: X402_RECONCILER_MISMATCH_FLAGGED: a record or split is late"
            );
        }
        Ok(())
    }
}
