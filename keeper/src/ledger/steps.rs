//! Every step of a settlement: compare-and-set of its state, its evidence, and the event that tells.

use super::{
    Action, KeeperEvidence, LedgerError, LogRef, Result, Settlement, Shares, Tx,
    columns::{bigint, hex, now},
    query::execute,
};
use crate::{
    lifecycle::{KeeperEvent, KeeperState, Status, StatusEvent},
    x402::MicroUsdc,
};
use serde::Serialize;
use serde_json::{Value, json};

/// What is kept of a Transfer that pays a settlement.
#[derive(Serialize)]
struct PullSeen<'a> {
    #[serde(flatten)]
    at: &'a LogRef,
    amount_micro: MicroUsdc,
}

impl Tx {
    /// Moves a settlement's status; `evidence` goes into its event log.
    ///
    /// # Errors
    /// [`LedgerError::Illegal`] when the machine has no such step, [`LedgerError::Conflict`] when
    /// the settlement is not any more as `known` says.
    pub async fn step_status<B: Serialize>(
        &mut self,
        known: &Settlement,
        event: StatusEvent,
        evidence: &B,
    ) -> Result<Status> {
        const UPDATE: &str =
            "UPDATE x402_settlements SET status = $1 WHERE id = $2 AND status = $3";
        const CONFIRM: &str = "UPDATE x402_settlements SET status = $1, chain_confirmed_at = $4
            WHERE id = $2 AND status = $3";
        // Its place may become another payment's; the event log keeps it.
        const LOSE: &str = "UPDATE x402_settlements SET status = $1, tx_hash = NULL,
            log_index = NULL, block_number = NULL, block_hash = NULL, settled_at = NULL,
            chain_confirmed_at = NULL WHERE id = $2 AND status = $3";
        let status = known.status.step(event)?;
        let id = known.id.to_string();
        let (from, to) = (known.status.as_str(), status.as_str());
        let updated = match event {
            StatusEvent::Confirm => execute!(self, CONFIRM, to, &id, from, now())?,
            StatusEvent::PullLost => execute!(self, LOSE, to, &id, from)?,
            _ => execute!(self, UPDATE, to, &id, from)?,
        };
        self.changed(known, updated)?;
        let kind = format!("status.{event}");
        self.append_to_locked(known.id, known.trace_id, &kind, status.as_str(), evidence).await?;
        let noticed = match event {
            StatusEvent::Overdue => Some(Action::OrphanDetected),
            StatusEvent::Disagree => Some(Action::MismatchFlagged),
            _ => None,
        };
        if let Some(action) = noticed {
            let splitter = (!known.passes_through()).then_some((known.chain_id, known.pay_to));
            self.log_action(action, splitter, Some(known.id), evidence).await?;
        }
        Ok(status)
    }

    /// Stores where a settlement was pulled and moves its status to `facilitator_attested`.
    ///
    /// # Errors
    /// As [`Tx::step_status`].
    pub async fn pull_seen(&mut self, known: &Settlement, pull: &LogRef) -> Result<()> {
        const UPDATE: &str = "UPDATE x402_settlements SET status = $1, tx_hash = $2,
            log_index = $3, block_number = $4, block_hash = $5, settled_at = $6
            WHERE id = $7 AND status = $8";
        let status = known.status.step(StatusEvent::PullSeen)?;
        let updated = execute!(
            self,
            UPDATE,
            status.as_str(),
            hex(pull.tx_hash),
            bigint("log index", pull.log_index)?,
            bigint("block number", pull.block_number)?,
            hex(pull.block_hash),
            now(),
            known.id.to_string(),
            known.status.as_str(),
        )?;
        self.changed(known, updated)?;
        let evidence = PullSeen { at: pull, amount_micro: known.amount };
        let (id, trace) = (known.id, known.trace_id);
        self.append_to_locked(id, trace, "status.pull_seen", status.as_str(), &evidence).await
    }

    /// Moves the keeper's progress; `evidence` goes into the event log.
    ///
    /// # Errors
    /// As [`Tx::step_status`].
    pub async fn step_keeper(
        &mut self,
        known: &Settlement,
        event: KeeperEvent,
        evidence: &Value,
    ) -> Result<KeeperState> {
        const UPDATE: &str =
            "UPDATE x402_settlements SET keeper_state = $1 WHERE id = $2 AND keeper_state = $3";
        let state = known.keeper_state.step(event)?;
        let updated = execute!(
            self,
            UPDATE,
            state.as_str(),
            known.id.to_string(),
            known.keeper_state.as_str()
        )?;
        self.changed(known, updated)?;
        let kind = format!("keeper.{event}");
        self.append_to_locked(known.id, known.trace_id, &kind, state.as_str(), evidence).await?;
        Ok(state)
    }

    /// Stores where a settlement was recorded.
    ///
    /// # Errors
    /// As [`Tx::step_status`].
    pub async fn record_seen(
        &mut self,
        known: &Settlement,
        evidence: &KeeperEvidence,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE x402_settlements SET keeper_state = $1, record_tx_hash = $2,
            record_log_index = $3, record_block_number = $4 WHERE id = $5 AND keeper_state = $6";
        let state = known.keeper_state.step(KeeperEvent::RecordSeen)?;
        let updated = execute!(
            self,
            UPDATE,
            state.as_str(),
            hex(evidence.tx_hash),
            bigint("log index", evidence.log_index)?,
            bigint("block number", evidence.block_number)?,
            known.id.to_string(),
            known.keeper_state.as_str(),
        )?;
        self.changed(known, updated)?;
        let (id, trace) = (known.id, known.trace_id);
        self.append_to_locked(id, trace, "keeper.record_seen", state.as_str(), evidence).await
    }

    /// Stores which split covers a settlement, and its shares in it.
    ///
    /// # Errors
    /// As [`Tx::step_status`].
    pub async fn split_seen(
        &mut self,
        known: &Settlement,
        evidence: &KeeperEvidence,
        shares: &Shares,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE x402_settlements SET keeper_state = $1, split_tx_hash = $2,
            split_log_index = $3, split_block_number = $4, provider_share_micro = $5,
            hub_share_micro = $6, network_share_micro = $7 WHERE id = $8 AND keeper_state = $9";
        let state = known.keeper_state.step(KeeperEvent::SplitSeen)?;
        let updated = execute!(
            self,
            UPDATE,
            state.as_str(),
            hex(evidence.tx_hash),
            bigint("log index", evidence.log_index)?,
            bigint("block number", evidence.block_number)?,
            shares.provider.column(),
            shares.hub.column(),
            shares.reserve.column(),
            known.id.to_string(),
            known.keeper_state.as_str(),
        )?;
        self.changed(known, updated)?;
        let body = json!({"at": evidence, "shares_micro": shares});
        let (id, trace) = (known.id, known.trace_id);
        self.append_to_locked(id, trace, "keeper.split_seen", state.as_str(), &body).await
    }

    /// Takes back where a settlement was recorded: that log is not on the chain any more.
    ///
    /// # Errors
    /// As [`Tx::step_status`].
    pub async fn record_lost(&mut self, known: &Settlement) -> Result<()> {
        const UPDATE: &str = "UPDATE x402_settlements SET keeper_state = $1, record_tx_hash = NULL,
            record_log_index = NULL, record_block_number = NULL
            WHERE id = $2 AND keeper_state = $3";
        let state = known.keeper_state.step(KeeperEvent::RecordLost)?;
        let from = known.keeper_state.as_str();
        let updated = execute!(self, UPDATE, state.as_str(), known.id.to_string(), from)?;
        self.changed(known, updated)?;
        let (id, trace) = (known.id, known.trace_id);
        self.append_to_locked(id, trace, "keeper.record_lost", state.as_str(), &known.record).await
    }

    /// Takes back which split covers a settlement: that log is not on the chain any more.
    ///
    /// # Errors
    /// As [`Tx::step_status`].
    pub async fn split_lost(&mut self, known: &Settlement) -> Result<Settlement> {
        const UPDATE: &str = "UPDATE x402_settlements SET keeper_state = $1, split_tx_hash = NULL,
            split_log_index = NULL, split_block_number = NULL, provider_share_micro = NULL,
            hub_share_micro = NULL, network_share_micro = NULL
            WHERE id = $2 AND keeper_state = $3";
        let state = known.keeper_state.step(KeeperEvent::SplitLost)?;
        let from = known.keeper_state.as_str();
        let updated = execute!(self, UPDATE, state.as_str(), known.id.to_string(), from)?;
        self.changed(known, updated)?;
        let (id, trace) = (known.id, known.trace_id);
        self.append_to_locked(id, trace, "keeper.split_lost", state.as_str(), &known.split).await?;
        Ok(Settlement { keeper_state: state, split: None, shares: None, ..known.clone() })
    }

    /// Lets a held payment go on: its record is tried again, or it is looked at anew.
    ///
    /// # Errors
    /// [`LedgerError::Illegal`] when it is not held, [`LedgerError::Conflict`] when its record's
    /// transaction is not decided for good.
    pub async fn release(&mut self, known: &Settlement, reason: &str) -> Result<KeeperState> {
        let evidence = json!({"reason": reason});
        if self.reopen_record(known.id).await? {
            return self.step_keeper(known, KeeperEvent::Record, &evidence).await;
        }
        if self.has_record(known.id).await? {
            return Err(LedgerError::Conflict(format!("the record of payment {}", known.id)));
        }
        self.step_keeper(known, KeeperEvent::Release, &evidence).await
    }

    fn changed(&self, known: &Settlement, rows: u64) -> Result<()> {
        if rows == 1 { Ok(()) } else { Err(LedgerError::Conflict(format!("payment {}", known.id))) }
    }
}
