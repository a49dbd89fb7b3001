//! The driver: has every paid settlement recorded and every recorded capability split, through the
//! outbox. It wakes with new settlements and new blocks.
//!
//! It works from the mirror alone and only hands over intents. A record is asked for once per
//! settlement, ever; a split once per capability at a time. The published Splitter divides all that
//! is accounted to a capability at once, so one split may cover several settlements (C-09).
//!
//! A settlement is recorded only while its capability is registered as it was sold: the contract
//! pays whoever holds the capability when it splits (C-11, H22).

mod registration;
mod shares;
mod timing;

pub(crate) use registration::terms_at;
pub(crate) use shares::allocate;

use crate::{
    chain::Heads,
    failpoint::Point,
    ledger::{
        Action, Closure, Contention, KeeperEvidence, Lease, Ledger, LedgerError, NewIntent,
        Settlement, SettlementQuery, SplitterLog, SplitterRecord, Stream, Topic, Tx,
    },
    lifecycle::{IntentKind, KeeperEvent, KeeperState},
    pulse::Pulse,
    splitter::{PaymentIdentity, SplitterEvent, record_call, split_call},
};
use alloy::primitives::{Address, B256, U256};
use registration::is_as_sold;
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};
use timing::{Findings, Stage};
use tokio_util::sync::CancellationToken;

/// Gas limit of a record: 82,832 measured for the first, with room for a repriced token.
const RECORD_GAS: u64 = 200_000;
/// Gas limit of a split: 94,546 measured into escrow.
const SPLIT_GAS: u64 = 300_000;
/// How long a poll may take when nothing is signalled.
const POLL: Duration = Duration::from_secs(1);

/// Beyond every block.
const NOWHERE: u64 = u64::MAX >> 1;

/// Why a settlement is held whose money would go to somebody else.
const NOT_AS_SOLD: &str = "its capability is not registered any more as it was sold";

/// Drives the settlements of one Splitter.
#[derive(Debug)]
pub struct Driver {
    /// Head of the chain.
    pub heads: Heads,
    /// The ledger.
    pub ledger: Ledger,
    /// The right to write.
    pub lease: Lease,
    /// Whose settlements.
    pub splitter: SplitterRecord,
    /// Confirmations that a pull needs before it is recorded; 1 is "in a block" (C-27).
    pub record_confirmations: u64,
    /// Blocks behind the mirror's end in which a reorg may still take a record or a split away.
    pub window: u64,
}

/// What the driver remembers between rounds.
#[derive(Debug, Default)]
struct Memory {
    /// Number of the first head that this driver saw.
    first_head: Option<u64>,
    /// Where the mirror ended when records and splits were last looked for in it.
    checked: u64,
}

impl Driver {
    /// Runs until `stop`, or until the lease is lost.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`]; everything else is retried.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), LedgerError> {
        let mut settlements = self.ledger.listen(Topic::Settlements);
        let mut contention = Contention::default();
        let mut memory = Memory::default();
        let pulse = Pulse::start(format!("driver {}", self.splitter.address));
        while !stop.is_cancelled() {
            pulse.beat();
            match self.tick(&mut memory).await {
                Ok(asked) => {
                    contention.over();
                    if asked {
                        self.ledger.signal(Topic::Intents);
                    }
                }
                Err(error) if error.is_lease_lost() => return Err(error),
                // Somebody moved a settlement in between.
                Err(error) if error.is_conflict() => {
                    contention.again("driver", &error).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(
                        splitter = %self.splitter.address, %error, "driver: trying again"
                    );
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = settlements.wait(POLL) => {}
                () = self.heads.changed() => {}
            }
        }
        Ok(())
    }

    /// One round. True when there is new work for the outbox.
    async fn tick(&self, memory: &mut Memory) -> Result<bool, LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let Some(seen) = self.heads.latest() else { return Ok(false) };
        let head = seen.head.number();
        let first_head = *memory.first_head.get_or_insert(head);
        let mut tx = self.ledger.begin_on_snapshot().await?;
        tx.hold_lease(&self.lease).await?;
        let mirrored = tx.cursor(chain_id, address, Stream::Mirror).await?.unwrap_or(0);
        // The mirror may be of a chain that is gone, until the watcher has read it again.
        if mirrored <= first_head || mirrored > head.saturating_add(1) {
            return Ok(false);
        }
        let up_to_block = mirrored.saturating_sub(self.record_confirmations);
        // What is on the chain is found all the same; nothing more is asked for.
        let closures = tx.closures(chain_id, address).await?;
        let is_frozen = closures.iter().any(|Closure { reason, .. }| reason.stops_recording());
        let mut findings = Findings::default();
        self.undo_lost(&mut tx, memory.checked.min(mirrored)).await?;
        self.adopt(&mut tx).await?;
        let recorded = !is_frozen && self.record(&mut tx, &mut findings, up_to_block).await?;
        self.find_records(&mut tx, &mut findings).await?;
        self.hold_stuck(&mut tx).await?;
        self.find_splits(&mut tx, &mut findings).await?;
        let split = !is_frozen && self.split(&mut tx).await?;
        tx.commit(Point::Drive).await?;
        findings.count();
        memory.checked = mirrored;
        Ok(recorded || split)
    }

    /// Takes back records and splits that a reorg took off the chain since the mirror ended at
    /// `checked`. Their transactions go back to the nodes by themselves.
    async fn undo_lost(&self, tx: &mut Tx, checked: u64) -> Result<(), LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let from = checked.saturating_sub(self.window);
        let again = tx.cursor(chain_id, address, Stream::Evidence).await?.unwrap_or(NOWHERE);
        let from = from.min(again);
        let query = SettlementQuery::EvidenceLost { from };
        for mut settlement in tx.settlements(chain_id, address, query).await? {
            if settlement.keeper_state == KeeperState::Split {
                tracing::warn!(payment = %settlement.id, "its split lost its block");
                settlement = tx.split_lost(&settlement).await?;
            }
            let Some(record) = settlement.record else { continue };
            let (payer, nonce) = (settlement.payer, settlement.nonce);
            let records = tx.records_of(chain_id, address, payer, nonce).await?;
            if !records.iter().any(|log| evidence(log) == record) {
                tracing::warn!(payment = %settlement.id, "its record lost its block");
                tx.record_lost(&settlement).await?;
            }
        }
        if again != NOWHERE {
            tx.set_cursor(chain_id, address, Stream::Evidence, NOWHERE, None).await?;
        }
        Ok(())
    }

    /// Asks for the record of every paid settlement.
    async fn record(
        &self,
        tx: &mut Tx,
        findings: &mut Findings,
        up_to_block: u64,
    ) -> Result<bool, LedgerError> {
        let SplitterRecord { chain_id, address, authorized_settler, per_tx_cap, .. } =
            self.splitter;
        let query = SettlementQuery::Unrecorded { up_to_block };
        let unrecorded = tx.settlements(chain_id, address, query).await?;
        for settlement in &unrecorded {
            let Some(capability) = settlement.splitter_capability_id else { continue };
            if !self.is_as_pulled(tx, findings, settlement).await? {
                continue;
            }
            if settlement.amount > per_tx_cap {
                hold(tx, settlement, "above PER_TX_CAP").await?;
                continue;
            }
            if !self.is_as_sold(tx, settlement).await? {
                hold(tx, settlement, NOT_AS_SOLD).await?;
                continue;
            }
            let identity = PaymentIdentity { payer: settlement.payer, nonce: settlement.nonce };
            tx.step_keeper(settlement, KeeperEvent::Record, &json!({})).await?;
            tx.add_intent(&NewIntent {
                chain_id,
                splitter: address,
                signer: authorized_settler,
                kind: IntentKind::Record,
                settlement: Some(settlement.id),
                splitter_capability_id: capability,
                to: address,
                calldata: record_call(capability, U256::from(settlement.amount.micro()), identity),
                gas_limit: RECORD_GAS,
                valid_before: None,
            })
            .await?;
        }
        Ok(!unrecorded.is_empty())
    }

    /// A ledger that was put back may not know what it recorded. What is on the chain is looked for,
    /// not asked for again; also while nothing may be asked for, or the books would wait for it.
    async fn adopt(&self, tx: &mut Tx) -> Result<(), LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        for settlement in tx.settlements(chain_id, address, SettlementQuery::RecordUnknown).await? {
            tx.step_keeper(&settlement, KeeperEvent::Record, &json!({"found": true})).await?;
        }
        Ok(())
    }

    /// Whether a settlement's amount and payee are those of its Transfer (I-7). The chain's log is the
    /// truth; a settlement that differs is never recorded.
    async fn is_as_pulled(
        &self,
        tx: &mut Tx,
        findings: &mut Findings,
        settlement: &Settlement,
    ) -> Result<bool, LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let (payer, nonce) = (settlement.payer, settlement.nonce);
        let pull = tx.pull_of(chain_id, address, payer, nonce).await?;
        let Some(pull) = pull.filter(|pull| settlement.pull == Some(pull.at)) else {
            hold(tx, settlement, "its Transfer is not where the ledger says").await?;
            return Ok(false);
        };
        if (pull.amount, address) == (settlement.amount, settlement.pay_to) {
            findings.agreed = findings.agreed.saturating_add(1);
            return Ok(true);
        }
        findings.disagreed = findings.disagreed.saturating_add(1);
        tracing::error!(
            payment = %settlement.id, expected = %settlement.amount, found = %pull.amount,
            pay_to = %settlement.pay_to,
            "ALARM: X402_RECONCILER_MISMATCH_FLAGGED: the payment is not what its Transfer says; it \
             is not recorded"
        );
        let detail = json!({
            "subcause": "amount_attribution_violation",
            "tx_hash": pull.at.tx_hash,
            "log_index": pull.at.log_index,
            "expected_micro": settlement.amount,
            "found_micro": pull.amount,
            "pay_to": settlement.pay_to,
        });
        let at = Some((chain_id, address));
        tx.log_action(Action::AmountViolation, at, Some(settlement.id), &detail).await?;
        tx.step_keeper(settlement, KeeperEvent::Contradict, &detail).await?;
        Ok(false)
    }

    /// Finds the records that were asked for. One that is on the chain is not held any more.
    async fn find_records(&self, tx: &mut Tx, findings: &mut Findings) -> Result<(), LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut waiting = Vec::new();
        for state in [KeeperState::Recording, KeeperState::Held] {
            let query = SettlementQuery::InKeeperState(state);
            waiting.extend(tx.settlements(chain_id, address, query).await?);
        }
        for settlement in waiting {
            let records =
                tx.records_of(chain_id, address, settlement.payer, settlement.nonce).await?;
            let [record] = records.as_slice() else {
                if !records.is_empty() {
                    contradict(tx, &settlement, "recorded more than once").await?;
                }
                continue;
            };
            let as_agreed = matches!(
                record.event,
                SplitterEvent::SettlementRecorded { capability_id, amount, .. }
                    if Some(capability_id) == settlement.splitter_capability_id
                        && amount == U256::from(settlement.amount.micro())
            );
            if as_agreed {
                tx.record_seen(&settlement, &evidence(record)).await?;
                findings.measure(tx, &settlement, Stage::Record, record).await?;
            } else {
                contradict(tx, &settlement, "recorded with other terms").await?;
            }
        }
        Ok(())
    }

    /// Holds settlements whose record cannot or must not be made.
    async fn hold_stuck(&self, tx: &mut Tx) -> Result<(), LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        for settlement in tx.settlements(chain_id, address, SettlementQuery::RecordHeld).await? {
            hold(tx, &settlement, "its record reverted, or is lost").await?;
        }
        let query = SettlementQuery::InKeeperState(KeeperState::Recording);
        let mut sold = BTreeMap::new();
        for settlement in tx.settlements(chain_id, address, query).await? {
            let what = (settlement.splitter_capability_id, settlement.terms);
            let as_sold = match sold.get(&what) {
                Some(known) => *known,
                None => self.is_as_sold(tx, &settlement).await?,
            };
            sold.insert(what, as_sold);
            if !as_sold && tx.hold_record(settlement.id, NOT_AS_SOLD).await? {
                hold(tx, &settlement, NOT_AS_SOLD).await?;
            }
        }
        Ok(())
    }

    /// Whether a settlement's capability is registered now as it was when it was sold.
    async fn is_as_sold(&self, tx: &mut Tx, settlement: &Settlement) -> Result<bool, LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let Some(capability) = settlement.splitter_capability_id else { return Ok(false) };
        let logs = tx.registrations_of(chain_id, address, capability).await?;
        Ok(is_as_sold(&logs, settlement.terms))
    }

    /// Finds the splits that cover what is recorded: a split closes every earlier record of its
    /// capability.
    async fn find_splits(&self, tx: &mut Tx, findings: &mut Findings) -> Result<(), LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        for (capability, mut open) in self.recorded(tx).await? {
            let from = open.iter().map(|(record, _)| record.block_number).min().unwrap_or(0);
            let registrations = tx.registrations_of(chain_id, address, capability).await?;
            for split in tx.splits_of(chain_id, address, capability, from).await? {
                let at = evidence(&split);
                let (covered, rest): (Vec<_>, Vec<_>) =
                    open.into_iter().partition(|(record, _)| record.position() < at.position());
                open = rest;
                if covered.is_empty() {
                    continue;
                }
                let terms = terms_at(&registrations, at.position());
                let amounts = covered.iter().map(|(_, settlement)| settlement.amount);
                match allocate(&split.event, &amounts.collect::<Vec<_>>()) {
                    Some(shares) => {
                        for ((_, settlement), shares) in covered.iter().zip(shares) {
                            if settlement.terms == terms {
                                tx.split_seen(settlement, &at, &shares).await?;
                                findings.measure(tx, settlement, Stage::Split, &split).await?;
                            } else {
                                contradict(tx, settlement, "split on other terms than sold")
                                    .await?;
                            }
                        }
                    }
                    None => {
                        for (_, settlement) in &covered {
                            contradict(tx, settlement, "split with another sum").await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks for a split wherever something is recorded and none is on its way.
    async fn split(&self, tx: &mut Tx) -> Result<bool, LedgerError> {
        let SplitterRecord { chain_id, address, authorized_settler, .. } = self.splitter;
        let mut asked = false;
        let mirrored = tx.cursor(chain_id, address, Stream::Mirror).await?.unwrap_or(0);
        let recorded = self.recorded(tx).await?;
        // A split that came before ours may have taken everything; an open intent would revert for
        // ever.
        for (intent, capability) in tx.open_splits(chain_id, address).await? {
            if !recorded.contains_key(&capability) {
                tx.cancel_intent(intent, "another split covered everything").await?;
            }
        }
        for (capability, open) in recorded {
            if tx.split_is_pending(chain_id, address, capability, mirrored).await? {
                continue;
            }
            for (_, settlement) in &open {
                if settlement.keeper_state == KeeperState::Recorded {
                    tx.step_keeper(settlement, KeeperEvent::Split, &json!({})).await?;
                }
            }
            let label = match open.as_slice() {
                [(_, only)] => only.payer,
                _ => Address::ZERO,
            };
            tx.add_intent(&NewIntent {
                chain_id,
                splitter: address,
                signer: authorized_settler,
                kind: IntentKind::Split,
                settlement: None,
                splitter_capability_id: capability,
                to: address,
                calldata: split_call(capability, label),
                gas_limit: SPLIT_GAS,
                valid_before: None,
            })
            .await?;
            asked = true;
        }
        Ok(asked)
    }

    /// Recorded and not split, by capability, in log order.
    async fn recorded(
        &self,
        tx: &mut Tx,
    ) -> Result<BTreeMap<B256, Vec<(KeeperEvidence, Settlement)>>, LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut by_capability = BTreeMap::<B256, Vec<_>>::new();
        for state in [KeeperState::Recorded, KeeperState::Splitting] {
            let query = SettlementQuery::InKeeperState(state);
            for settlement in tx.settlements(chain_id, address, query).await? {
                if let (Some(capability), Some(record)) =
                    (settlement.splitter_capability_id, settlement.record)
                {
                    by_capability.entry(capability).or_default().push((record, settlement));
                }
            }
        }
        for open in by_capability.values_mut() {
            open.sort_by_key(|(record, _)| record.position());
        }
        Ok(by_capability)
    }
}

const fn evidence(log: &SplitterLog) -> KeeperEvidence {
    KeeperEvidence {
        tx_hash: log.at.tx_hash,
        log_index: log.at.log_index,
        block_number: log.at.block_number,
    }
}

async fn hold(tx: &mut Tx, settlement: &Settlement, reason: &str) -> Result<(), LedgerError> {
    tracing::error!(payment = %settlement.id, reason, "ALARM: the payment is held");
    tx.step_keeper(settlement, KeeperEvent::Hold, &json!({"reason": reason})).await?;
    Ok(())
}

async fn contradict(tx: &mut Tx, settlement: &Settlement, reason: &str) -> Result<(), LedgerError> {
    tracing::error!(payment = %settlement.id, reason, "ALARM: the contract contradicts the ledger");
    tx.step_keeper(settlement, KeeperEvent::Contradict, &json!({"reason": reason})).await?;
    Ok(())
}
