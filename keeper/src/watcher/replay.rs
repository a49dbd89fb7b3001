//! One log, as the chain has it and as the ledger has it.

use super::{Receipts, WatcherError, read};
use crate::{
    chain::Chain,
    failpoint::Point,
    ledger::{Action, Ledger, LedgerError, LogRef, MirrorWindow, Settlement, SplitterRecord, Tx},
    metrics::{DUPLICATE_IGNORED_TOTAL, REPLAY_SKIPPED_TOTAL},
    splitter::SplitterEvent,
};
use alloy::primitives::B256;
use serde_json::{Value, json};

/// A log as the chain has it, and where.
#[derive(Debug)]
pub struct FoundLog {
    /// At which Splitter.
    pub record: SplitterRecord,
    /// Where it stands.
    pub at: LogRef,
    /// What it is, in the contract's words.
    what: String,
    /// The chain's word for the block, without whose payment it is.
    block: MirrorWindow,
}

impl FoundLog {
    /// Reads its block. `None` when the log is nothing that the ledger keeps.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub async fn read(
        chain: &Chain,
        record: SplitterRecord,
        number: u64,
        log: (B256, u64),
    ) -> Result<Option<Self>, WatcherError> {
        let block = read(chain, &record, (number, number), &[], &mut Receipts::default()).await?;
        let is_it = |at: &LogRef| (at.tx_hash, at.log_index) == log;
        let pull = block.pulls.iter().find(|pull| is_it(&pull.at));
        let payout = block.payouts.iter().find(|payout| is_it(&payout.at));
        let event = block.logs.iter().find(|log| is_it(&log.at));
        let what = pull
            .map(|pull| (pull.at, format!("{} came in from {}", pull.amount, pull.payer)))
            .or(payout.map(|payout| {
                (payout.at, format!("{} went out to {}", payout.amount, payout.recipient))
            }))
            .or(event.map(|log| (log.at, log.event.name().to_owned())));
        Ok(what.map(|(at, what)| Self { record, at, what, block }))
    }

    /// Whether the mirror holds the log as the chain has it, and what the ledger made of it.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn tell(&self, ledger: &Ledger) -> Result<(bool, Value), LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.record;
        let at = self.at;
        let mut tx = ledger.read().await?;
        let range = (at.block_number, at.block_number);
        let held = tx.mirror_window(chain_id, address, range).await?.unattributed();
        let is_ingested = alike(&held.pulls, &self.block.pulls, |pull| pull.at == at)
            && alike(&held.payouts, &self.block.payouts, |payout| payout.at == at)
            && alike(&held.logs, &self.block.logs, |log| log.at == at);
        let journals = tx.journals_of_log(chain_id, address, at.tx_hash, at.log_index).await?;
        let settlement = self.payment(&mut tx).await?;
        let told = json!({
            "chain_id": chain_id,
            "splitter": address,
            "tx_hash": at.tx_hash,
            "log_index": at.log_index,
            "block_number": at.block_number,
            "block_hash": at.block_hash,
            "log": self.what,
            "mirrored": is_ingested,
            "payment": settlement.as_ref().map(|settlement| settlement.id),
            "status": settlement.as_ref().map(|settlement| settlement.status.as_str()),
            "keeper_state": settlement.as_ref().map(|settlement| settlement.keeper_state.as_str()),
            "booked": journals,
        });
        Ok((is_ingested, told))
    }

    /// Writes down that it was replayed for nothing: it is ingested.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub async fn skip(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.record;
        let LogRef { tx_hash, log_index, .. } = self.at;
        let mut tx = ledger.begin().await?;
        let settlement = self.payment(&mut tx).await?.map(|settlement| settlement.id);
        let detail = json!({"tx_hash": tx_hash, "log_index": log_index});
        let splitter = Some((chain_id, address));
        tx.log_action(Action::ReplaySkipped, splitter, settlement, &detail).await?;
        tx.commit(Point::Order).await?;
        REPLAY_SKIPPED_TOTAL.add(1, []);
        DUPLICATE_IGNORED_TOTAL.add(1, []);
        tracing::info!(%tx_hash, index = log_index, "x402.keeper.duplicate_ignored");
        Ok(())
    }

    /// The payment that a log belongs to: by its authorization for an inflow and a record.
    async fn payment(&self, tx: &mut Tx) -> Result<Option<Settlement>, LedgerError> {
        let SplitterRecord { chain_id, asset, .. } = self.record;
        let inflow = self.block.pulls.iter().find(|pull| pull.at == self.at);
        let record = self.block.logs.iter().find(|log| log.at == self.at);
        let identity = match (inflow, record) {
            (Some(pull), _) => pull.nonce.map(|nonce| (pull.payer, nonce)),
            (None, Some(log)) => match log.event {
                SplitterEvent::SettlementRecorded { payer, .. } => {
                    log.nonce.map(|nonce| (payer, nonce))
                }
                _ => None,
            },
            (None, None) => None,
        };
        match identity {
            Some((payer, nonce)) => tx.settlement_by_identity(chain_id, asset, payer, nonce).await,
            None => Ok(None),
        }
    }
}

/// Whether both have the same of what is wanted.
fn alike<T: PartialEq>(held: &[T], read: &[T], wanted: impl Fn(&T) -> bool) -> bool {
    held.iter().find(|log| wanted(log)) == read.iter().find(|log| wanted(log))
}
