//! A ledger recreated from the chain alone: the payments behind the pulls, their records and splits.
//!
//! It works on a mirror that is complete, in an empty ledger. Which capability a payment was for
//! stands in the pull's calldata, where our puller appends it, else in the record; what neither
//! tells stays an unattributed inflow. docs/runbooks/restore.md lists what the chain cannot tell.

mod compare;

pub use compare::{Comparison, Difference, compare};

use crate::{
    chain::{Chain, ChainError},
    driver::{allocate, terms_at},
    eip3009::read_pull,
    failpoint::Point,
    ledger::{
        KeeperEvidence, Lease, Ledger, LedgerError, Pull, RebuiltSettlement, Settlement,
        SplitterLog, SplitterRecord, Tx,
    },
    lifecycle::{KeeperEvent, KeeperState},
    splitter::{SplitTerms, SplitterEvent},
};
use alloy::primitives::{Address, B256, U256};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde_json::json;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

/// Blocks of the mirror that are looked at at once.
const RANGE: u64 = 2_000;
/// Payments, and logs, that are written in one SQL transaction.
const BATCH: usize = 100;
/// Transactions asked for at the same time.
const PARALLEL: usize = 8;

/// Why the ledger could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A transaction whose logs the node has.
    #[error("the node does not have transaction {0}, whose logs it has; use another node")]
    NoTransaction(B256),
}

/// Rebuilds the payments of one Splitter.
#[derive(Debug)]
pub struct Rebuild {
    /// Endpoints.
    pub chain: Chain,
    /// The new ledger.
    pub ledger: Ledger,
    /// The right to write.
    pub lease: Lease,
    /// How long the lease is extended by each write.
    pub lease_time: Duration,
    /// Which Splitter.
    pub splitter: SplitterRecord,
    /// Our puller: only its tags count.
    pub puller: Option<Address>,
    /// Names of capabilities, by their ids.
    pub names: BTreeMap<B256, String>,
    /// The last block whose pulls are confirmed.
    pub confirmed_up_to: u64,
}

/// What was rebuilt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Payments.
    pub settlements: u64,
    /// Their sum, micro-USDC.
    pub amount_micro: u64,
    /// Of these, recorded.
    pub recorded: u64,
    /// Of these, split.
    pub split: u64,
    /// Held against the contract's logs and found contradictory.
    pub violations: u64,
    /// What came in and is nobody's that the chain names.
    pub unattributed: u64,
    /// Its sum, micro-USDC.
    pub unattributed_micro: u64,
}

/// What is known between two ranges.
#[derive(Default)]
struct State {
    done: Rebuilt,
    /// Recorded and not split, by capability, in log order.
    open: BTreeMap<B256, Vec<(KeeperEvidence, Settlement)>>,
    registrations: BTreeMap<B256, Vec<SplitterLog>>,
}

impl Rebuild {
    /// Walks the mirror up to its end. `progress` is told the last block that is done.
    ///
    /// # Errors
    /// When ledger or chain cannot be read, or the lease is lost.
    pub async fn run(
        &self,
        end: u64,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Rebuilt, RebuildError> {
        let SplitterRecord { chain_id, address, first_block, .. } = self.splitter;
        let mut state = State::default();
        let mut from = first_block;
        while from <= end {
            let to = end.min(from.saturating_add(RANGE - 1));
            let mut tx = self.ledger.read().await?;
            let pulls = tx.pulls(chain_id, address, from, to).await?;
            let logs = tx.splitter_logs(chain_id, address, from, to).await?;
            drop(tx);
            for batch in pulls.chunks(BATCH) {
                self.enter(batch, &mut state).await?;
            }
            for batch in logs.chunks(BATCH) {
                self.follow(batch, &mut state).await?;
            }
            progress(to);
            from = to.saturating_add(1);
        }
        Ok(state.done)
    }

    /// Begins to write; the lease is ours for as long again.
    async fn begin(&self) -> Result<Tx, LedgerError> {
        let mut tx = self.ledger.begin().await?;
        tx.renew_lease(&self.lease, self.lease_time).await?;
        Ok(tx)
    }

    /// The payments behind some pulls.
    async fn enter(&self, pulls: &[Pull], state: &mut State) -> Result<(), RebuildError> {
        let read = stream::iter(pulls).map(|pull| self.read_payment(pull));
        let payments: Vec<_> = read.buffered(PARALLEL).try_collect().await?;
        let mut tx = self.begin().await?;
        for (pull, payment) in pulls.iter().zip(payments) {
            let Some(mut payment) = payment else {
                if pull.amount.micro() != 0 {
                    state.done.unattributed = state.done.unattributed.saturating_add(1);
                    let sum = state.done.unattributed_micro;
                    state.done.unattributed_micro = sum.saturating_add(pull.amount.micro());
                }
                continue;
            };
            let capability = payment.splitter_capability_id;
            payment.terms = self.terms(&mut tx, state, capability, pull.at.position()).await?;
            tx.insert_rebuilt(&payment).await?;
            state.done.settlements = state.done.settlements.saturating_add(1);
            let sum = state.done.amount_micro;
            state.done.amount_micro = sum.saturating_add(pull.amount.micro());
        }
        tx.commit(Point::Rebuild).await?;
        Ok(())
    }

    /// The payment that a pull was for, without its terms.
    async fn read_payment(&self, pull: &Pull) -> Result<Option<RebuiltSettlement>, RebuildError> {
        let SplitterRecord { chain_id, address, asset, .. } = self.splitter;
        let Some(nonce) = pull.nonce.filter(|_| pull.amount.micro() != 0) else { return Ok(None) };
        let hash = pull.at.tx_hash;
        let transaction =
            self.chain.transaction(hash).await?.ok_or(RebuildError::NoTransaction(hash))?;
        let call = transaction
            .to
            .and_then(|to| read_pull(to, &transaction.input, asset))
            .map(|read| read.call)
            .filter(|call| (call.payer, call.nonce) == (pull.payer, nonce));
        let is_own_pull = Some(transaction.from) == self.puller && call.is_some();
        let tag = call.and_then(|call| call.tag).filter(|_| is_own_pull);
        let capability = match tag {
            Some(tag) => Some(tag),
            None => self.recorded_for(pull.payer, nonce).await?,
        };
        let Some(capability) = capability else { return Ok(None) };
        // It was valid in its block; more is not known of what somebody else sent.
        let window = call.map_or((0, pull.block_timestamp.saturating_add(1)), |call| {
            (call.valid_after, call.valid_before)
        });
        Ok(Some(RebuiltSettlement {
            chain_id,
            splitter: address,
            asset,
            payer: pull.payer,
            nonce,
            amount: pull.amount,
            window,
            is_own_pull,
            capability_id: self
                .names
                .get(&capability)
                .cloned()
                .unwrap_or_else(|| capability.to_string()),
            splitter_capability_id: capability,
            terms: None,
            pull: pull.at,
            time: pull.block_timestamp,
            confirmed_up_to: self.confirmed_up_to,
        }))
    }

    /// The capability that our settler recorded a payment for.
    async fn recorded_for(&self, payer: Address, nonce: B256) -> Result<Option<B256>, LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let records = tx.records_of(chain_id, address, payer, nonce).await?;
        Ok(records.first().and_then(|log| match log.event {
            SplitterEvent::SettlementRecorded { capability_id, .. } => Some(capability_id),
            _ => None,
        }))
    }

    async fn terms(
        &self,
        tx: &mut Tx,
        state: &mut State,
        capability: B256,
        position: (u64, u64),
    ) -> Result<Option<SplitTerms>, LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let logs = match state.registrations.entry(capability) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(tx.registrations_of(chain_id, address, capability).await?)
            }
        };
        Ok(terms_at(logs, position))
    }

    /// What some logs did with the payments that are entered.
    async fn follow(&self, logs: &[SplitterLog], state: &mut State) -> Result<(), RebuildError> {
        let mut tx = self.begin().await?;
        for log in logs {
            match log.event {
                SplitterEvent::SettlementRecorded { .. } => {
                    self.record(&mut tx, log, state).await?;
                }
                SplitterEvent::PaymentSplit { capability_id, .. } => {
                    self.split(&mut tx, log, capability_id, state).await?;
                }
                _ => {}
            }
        }
        tx.commit(Point::Rebuild).await?;
        Ok(())
    }

    async fn record(
        &self,
        tx: &mut Tx,
        log: &SplitterLog,
        state: &mut State,
    ) -> Result<(), LedgerError> {
        let SplitterRecord { chain_id, address, asset, .. } = self.splitter;
        let SplitterEvent::SettlementRecorded { capability_id, amount, payer } = log.event else {
            return Ok(());
        };
        let Some(nonce) = log.nonce else { return Ok(()) };
        let known = tx.settlement_by_identity(chain_id, asset, payer, nonce).await?;
        let Some(mut settlement) = known.filter(|it| it.keeper_state == KeeperState::None) else {
            return Ok(());
        };
        if tx.records_of(chain_id, address, payer, nonce).await?.len() > 1 {
            return contradict(tx, &settlement, "recorded more than once", state).await;
        }
        if settlement.splitter_capability_id != Some(capability_id)
            || amount != U256::from(settlement.amount.micro())
        {
            return contradict(tx, &settlement, "recorded with other terms", state).await;
        }
        let at = evidence(log);
        settlement.keeper_state =
            tx.step_keeper(&settlement, KeeperEvent::Record, &json!({})).await?;
        tx.record_seen(&settlement, &at).await?;
        settlement.keeper_state = KeeperState::Recorded;
        settlement.record = Some(at);
        state.open.entry(capability_id).or_default().push((at, settlement));
        state.done.recorded = state.done.recorded.saturating_add(1);
        Ok(())
    }

    /// A split closes every earlier record of its capability.
    async fn split(
        &self,
        tx: &mut Tx,
        log: &SplitterLog,
        capability: B256,
        state: &mut State,
    ) -> Result<(), LedgerError> {
        let covered = state.open.remove(&capability).unwrap_or_default();
        if covered.is_empty() {
            return Ok(());
        }
        let terms = self.terms(tx, state, capability, log.at.position()).await?;
        let amounts: Vec<_> = covered.iter().map(|(_, settlement)| settlement.amount).collect();
        let Some(shares) = allocate(&log.event, &amounts) else {
            for (_, settlement) in &covered {
                contradict(tx, settlement, "split with another sum", state).await?;
            }
            return Ok(());
        };
        for ((_, settlement), shares) in covered.iter().zip(shares) {
            if settlement.terms == terms {
                tx.split_seen(settlement, &evidence(log), &shares).await?;
                state.done.split = state.done.split.saturating_add(1);
            } else {
                contradict(tx, settlement, "split on other terms than sold", state).await?;
            }
        }
        Ok(())
    }
}

const fn evidence(log: &SplitterLog) -> KeeperEvidence {
    KeeperEvidence {
        tx_hash: log.at.tx_hash,
        log_index: log.at.log_index,
        block_number: log.at.block_number,
    }
}

async fn contradict(
    tx: &mut Tx,
    settlement: &Settlement,
    reason: &str,
    state: &mut State,
) -> Result<(), LedgerError> {
    tracing::error!(payment = %settlement.id, reason, "ALARM: the contract contradicts the ledger");
    tx.step_keeper(settlement, KeeperEvent::Contradict, &json!({"reason": reason})).await?;
    state.done.violations = state.done.violations.saturating_add(1);
    Ok(())
}
