//! The chain's logs, read again from a Splitter's first block on.

use super::ReconcilerError;
use crate::{
    chain::Chain,
    eip3009::FiatToken,
    ledger::{Finding, Ledger, LogRef, MirrorSums, SplitterRecord, Verdict},
    splitter::SplitterEvent,
};
use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::{Filter, Log},
    sol_types::SolEvent,
};
use std::collections::{BTreeMap, BTreeSet};

/// Most blocks asked for at once.
const MAX_RANGE: u64 = 2_000;

/// Sums over logs, and the capabilities that they name.
#[derive(Default)]
pub(super) struct Logs {
    pub(super) inflow: U256,
    pub(super) outflow: U256,
    pub(super) recorded: U256,
    pub(super) split: U256,
    pub(super) provider: U256,
    pub(super) hub: U256,
    pub(super) reserve: U256,
    pub(super) capabilities: BTreeSet<B256>,
}

impl Logs {
    /// As the mirror has them.
    pub(super) fn mirrored(
        sums: &MirrorSums,
        [recorded, split]: [u64; 2],
        capabilities: BTreeSet<B256>,
    ) -> Self {
        Self {
            inflow: U256::from(sums.inflow),
            outflow: U256::from(sums.outflow),
            recorded: U256::from(recorded),
            split: U256::from(split),
            provider: U256::from(sums.provider),
            hub: U256::from(sums.hub),
            reserve: U256::from(sums.reserve),
            capabilities,
        }
    }

    fn add(&mut self, event: &SplitterEvent) {
        match *event {
            SplitterEvent::SettlementRecorded { capability_id, amount, .. } => {
                self.recorded = self.recorded.saturating_add(amount);
                self.capabilities.insert(capability_id);
            }
            SplitterEvent::PaymentSplit {
                amount,
                provider_amount,
                hub_amount,
                reserve_amount,
                ..
            } => {
                self.split = self.split.saturating_add(amount);
                self.provider = self.provider.saturating_add(provider_amount);
                self.hub = self.hub.saturating_add(hub_amount);
                self.reserve = self.reserve.saturating_add(reserve_amount);
            }
            SplitterEvent::CapabilityRegistered { .. }
            | SplitterEvent::CapabilityDeactivated { .. }
            | SplitterEvent::ProviderEscrowed { .. }
            | SplitterEvent::ProviderWithdrew { .. } => {}
        }
    }
}

/// What a range of blocks holds.
struct Range {
    from: u64,
    to: u64,
    incoming: Vec<(Log, FiatToken::Transfer)>,
    outgoing: Vec<(Log, FiatToken::Transfer)>,
    own: Vec<(Log, SplitterEvent)>,
}

impl Range {
    async fn read(
        node: &Chain,
        splitter: &SplitterRecord,
        from: u64,
        last: u64,
    ) -> Result<Self, ReconcilerError> {
        let to = last.min(from.saturating_add(MAX_RANGE - 1));
        let SplitterRecord { address, asset, .. } = *splitter;
        let transfers =
            Filter::new().address(asset).event_signature(FiatToken::Transfer::SIGNATURE_HASH);
        let incoming = node.logs(&transfers.clone().topic2(address), from, to).await?;
        let outgoing = node.logs(&transfers.topic1(address), from, to).await?;
        let own = node.logs(&Filter::new().address(address), from, to).await?;
        let own = own.into_iter().filter_map(|log| {
            let event = SplitterEvent::decode(&log.inner)?;
            Some((log, event))
        });
        Ok(Self {
            from,
            to,
            incoming: transfers_in(incoming),
            outgoing: transfers_in(outgoing),
            own: own.collect(),
        })
    }

    fn add_to(&self, sums: &mut Logs, up_to: u64) {
        let counts = |log: &Log| log.block_number.is_some_and(|number| number <= up_to);
        let sum = |logs: &[(Log, FiatToken::Transfer)], start: U256| {
            logs.iter()
                .filter(|(log, _)| counts(log))
                .fold(start, |sum, (_, transfer)| sum.saturating_add(transfer.value))
        };
        sums.inflow = sum(&self.incoming, sums.inflow);
        sums.outflow = sum(&self.outgoing, sums.outflow);
        for (_, event) in self.own.iter().filter(|(log, _)| counts(log)) {
            sums.add(event);
        }
    }

    /// Every log by its place, with what the mirror should have of it.
    fn places(&self) -> BTreeMap<(B256, u64), Seen> {
        let incoming = self.incoming.iter().map(|(log, it)| (log, it.from, it.value));
        let outgoing = self.outgoing.iter().map(|(log, it)| (log, it.to, it.value));
        let own = self.own.iter().map(|(log, event)| (log, Address::ZERO, amount(event)));
        incoming
            .chain(outgoing)
            .chain(own)
            .filter_map(|(log, account, amount)| {
                let at = LogRef {
                    tx_hash: log.transaction_hash?,
                    log_index: log.log_index?,
                    block_number: log.block_number?,
                    block_hash: log.block_hash?,
                };
                Some(((at.tx_hash, at.log_index), Seen { at, account, amount }))
            })
            .collect()
    }
}

/// A log as one side has it.
struct Seen {
    at: LogRef,
    account: Address,
    amount: U256,
}

impl Seen {
    fn finding(&self, verdict: Verdict, found: Option<U256>) -> Finding {
        let micro = |amount: U256| i64::try_from(amount).ok();
        Finding {
            verdict,
            settlement: None,
            payer: (!self.account.is_zero()).then(|| format!("{:#x}", self.account)),
            nonce: None,
            capability: None,
            amount_micro: micro(self.amount),
            found_micro: found.and_then(micro),
            tx_hash: Some(self.at.tx_hash.to_string()),
            log_index: i64::try_from(self.at.log_index).ok(),
            block_number: i64::try_from(self.at.block_number).ok(),
            record_tx_hash: None,
            split_tx_hash: None,
        }
    }
}

fn amount(event: &SplitterEvent) -> U256 {
    match *event {
        SplitterEvent::SettlementRecorded { amount, .. }
        | SplitterEvent::PaymentSplit { amount, .. }
        | SplitterEvent::ProviderEscrowed { amount, .. }
        | SplitterEvent::ProviderWithdrew { amount, .. } => amount,
        SplitterEvent::CapabilityRegistered { .. }
        | SplitterEvent::CapabilityDeactivated { .. } => U256::ZERO,
    }
}

fn transfers_in(logs: Vec<Log>) -> Vec<(Log, FiatToken::Transfer)> {
    logs.into_iter()
        .filter_map(|log| {
            let transfer = FiatToken::Transfer::decode_log(&log.inner).ok()?.data;
            Some((log, transfer))
        })
        .collect()
}

/// Sums over the chain's logs up to a block.
pub(super) async fn sums(
    node: &Chain,
    splitter: &SplitterRecord,
    last: u64,
) -> Result<Logs, ReconcilerError> {
    let mut sums = Logs::default();
    let mut from = splitter.first_block;
    while from <= last {
        let range = Range::read(node, splitter, from, last).await?;
        range.add_to(&mut sums, last);
        from = range.to.saturating_add(1);
    }
    Ok(sums)
}

/// Holds the mirror against the chain, log by log, up to a block; sums up the chain's logs up to an
/// earlier one.
pub(super) async fn differences(
    ledger: &Ledger,
    node: &Chain,
    splitter: &SplitterRecord,
    (summed, last): (u64, u64),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Logs, Vec<Finding>), ReconcilerError> {
    let SplitterRecord { chain_id, address, .. } = *splitter;
    let mut sums = Logs::default();
    let mut findings = Vec::new();
    let mut from = splitter.first_block;
    while from <= last {
        let range = Range::read(node, splitter, from, last).await?;
        range.add_to(&mut sums, summed);
        let mut tx = ledger.read().await?;
        let pulls = tx.pulls(chain_id, address, range.from, range.to).await?;
        let payouts = tx.payouts(chain_id, address, range.from, range.to).await?;
        let logs = tx.splitter_logs(chain_id, address, range.from, range.to).await?;
        drop(tx);
        let pulls = pulls.iter().map(|pull| (pull.at, pull.payer, U256::from(pull.amount.micro())));
        let payouts = payouts
            .iter()
            .map(|payout| (payout.at, payout.recipient, U256::from(payout.amount.micro())));
        let logs = logs.iter().map(|log| (log.at, Address::ZERO, amount(&log.event)));
        let mut places = range.places();
        for (at, account, amount) in pulls.chain(payouts).chain(logs) {
            let mirrored = Seen { at, account, amount };
            match places.remove(&(at.tx_hash, at.log_index)) {
                Some(seen) if seen.at == at && seen.account == account => {
                    if seen.amount != amount {
                        findings.push(mirrored.finding(Verdict::MirrorAmount, Some(seen.amount)));
                    }
                }
                _ => findings.push(mirrored.finding(Verdict::NotOnChain, None)),
            }
        }
        let missing =
            places.values().filter(|seen| !seen.account.is_zero() || !seen.amount.is_zero());
        findings.extend(missing.map(|seen| seen.finding(Verdict::NotMirrored, None)));
        progress(range.to);
        from = range.to.saturating_add(1);
    }
    Ok((sums, findings))
}
