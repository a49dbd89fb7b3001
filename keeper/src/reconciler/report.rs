//! The reconciliation: what the ledger says, what the chain's logs say, and what the contracts hold,
//! side by side, at one block.

use super::ReconcilerError;
use crate::{
    chain::{BlockTag, Chain},
    eip3009::FiatToken,
    ledger::{Account, Ledger, LedgerTotals, SplitterRecord},
    splitter::{JecpSplitter, SplitterEvent},
};
use alloy::{
    primitives::{B256, U256},
    rpc::types::{Filter, Log},
    sol_types::SolEvent,
};
use serde::Serialize;
use std::collections::BTreeSet;

/// Most blocks asked for at once.
const MAX_RANGE: u64 = 2_000;

/// One amount as up to four sources have it, in micro-USDC.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What is compared.
    pub what: &'static str,
    /// By the settlements.
    pub settlements_micro: Option<i128>,
    /// By the journal.
    pub journal_micro: Option<i128>,
    /// By the chain's logs, read again from the first block on.
    pub logs_micro: Option<i128>,
    /// By the contracts' state.
    pub contract_micro: Option<i128>,
}

impl Row {
    const fn new(what: &'static str) -> Self {
        Self {
            what,
            settlements_micro: None,
            journal_micro: None,
            logs_micro: None,
            contract_micro: None,
        }
    }

    /// Differences between the ledger, settlements or journal, and the chain's logs.
    fn against_logs(&self) -> u128 {
        let ledger = [self.settlements_micro, self.journal_micro];
        differences(self.logs_micro, ledger)
    }

    /// Differences between everything else and the contracts; where they do not say, between
    /// settlements and journal.
    fn against_contracts(&self) -> u128 {
        let ledger = [self.settlements_micro, self.journal_micro];
        match (self.contract_micro, self.logs_micro) {
            (None, None) => differences(self.journal_micro, [self.settlements_micro, None]),
            (contract, _) => differences(contract, ledger),
        }
    }

    /// Whether every source that knows the amount has the same.
    pub fn agrees(&self) -> bool {
        let chain = differences(self.contract_micro, [self.logs_micro, None]);
        self.against_logs() == 0 && self.against_contracts() == 0 && chain == 0
    }
}

fn differences(from: Option<i128>, to: [Option<i128>; 2]) -> u128 {
    from.map_or(0, |from| to.into_iter().flatten().map(|other| other.abs_diff(from)).sum())
}

/// A reconciliation of one Splitter.
#[derive(Debug, Clone, Serialize)]
pub struct Reconciliation {
    /// Chain.
    pub chain_id: u64,
    /// The Splitter.
    pub splitter: alloy::primitives::Address,
    /// The block at which chain and contracts were read.
    pub block: u64,
    /// Sums over settlements.
    pub totals: LedgerTotals,
    /// What was compared.
    pub rows: Vec<Row>,
    /// Sum of the differences between ledger and logs.
    pub chain_drift_micro: u128,
    /// Sum of the differences between journal and contracts.
    pub ledger_drift_micro: u128,
}

impl Reconciliation {
    /// Whether everything agrees to the last micro-USDC.
    pub const fn is_sound(&self) -> bool {
        self.chain_drift_micro == 0 && self.ledger_drift_micro == 0
    }
}

/// Sums over the chain's logs.
#[derive(Default)]
struct Logs {
    inflow: U256,
    outflow: U256,
    recorded: U256,
    split: U256,
    provider: U256,
    hub: U256,
    reserve: U256,
    capabilities: BTreeSet<B256>,
}

/// Compares one Splitter's ledger with the chain. Payments on their way show as drift; run it when
/// none is, or look at the rows.
///
/// # Errors
/// When ledger or chain cannot be read.
pub async fn reconcile(
    ledger: &Ledger,
    chain: &Chain,
    splitter: &SplitterRecord,
) -> Result<Reconciliation, ReconcilerError> {
    let SplitterRecord { chain_id, address, asset, first_block, .. } = *splitter;
    let node = chain.pinned().await?;
    let head = node.head(BlockTag::Latest).await?;
    let block = BlockTag::Number(head.number());
    let logs = read_logs(&node, splitter, first_block, head.number()).await?;
    let held = node.call(asset, &FiatToken::balanceOfCall { account: address }, block).await?;
    let owed = node.call(address, &JecpSplitter::totalOwedCall {}, block).await?;
    let mut accounted = U256::ZERO;
    for capability in &logs.capabilities {
        let call = JecpSplitter::accountedBalanceCall { capabilityId: *capability };
        accounted = accounted.saturating_add(node.call(address, &call, block).await?);
    }

    let mut tx = ledger.read().await?;
    let totals = tx.totals(chain_id, address).await?;
    let accounts = tx.accounts(chain_id, address).await?;
    drop(tx);
    let journal = |prefix: &str, pick: fn(&Account) -> i128| {
        let accounts = accounts.iter().filter(|account| account.code.starts_with(prefix));
        Some(accounts.map(pick).sum::<i128>())
    };
    let debits = |account: &Account| i128::from(account.debits);
    let credits = |account: &Account| i128::from(account.credits);
    let balance = |account: &Account| i128::from(account.balance);
    let settlements = |micro: u64| Some(i128::from(micro));
    let chain = |what, value: U256| {
        i128::try_from(value).map(Some).map_err(|_| ReconcilerError::Overflow(what))
    };
    let escrowed = owed.saturating_sub(accounted);
    let rows = vec![
        // Sums over everything that ever happened: with nothing booked they show it, where
        // balances would all be zero.
        Row {
            journal_micro: journal("asset:splitter", debits),
            logs_micro: chain("came in", logs.inflow)?,
            ..Row::new("came in")
        },
        Row {
            settlements_micro: settlements(totals.paid_micro),
            journal_micro: journal("clearing:", credits),
            ..Row::new("came in as payments")
        },
        Row {
            settlements_micro: settlements(totals.recorded_micro),
            journal_micro: journal("accounted:", credits),
            logs_micro: chain("recorded", logs.recorded)?,
            ..Row::new("recorded")
        },
        Row {
            settlements_micro: settlements(totals.split_micro),
            journal_micro: journal("accounted:", debits),
            logs_micro: chain("split", logs.split)?,
            ..Row::new("split")
        },
        Row {
            settlements_micro: settlements(totals.provider_micro),
            logs_micro: chain("split to providers", logs.provider)?,
            ..Row::new("split to providers")
        },
        Row {
            settlements_micro: settlements(totals.hub_micro),
            logs_micro: chain("split to the hub", logs.hub)?,
            ..Row::new("split to the hub")
        },
        Row {
            settlements_micro: settlements(totals.reserve_micro),
            logs_micro: chain("split to the reserve", logs.reserve)?,
            ..Row::new("split to the reserve")
        },
        Row {
            journal_micro: journal("asset:splitter", credits),
            logs_micro: chain("went out", logs.outflow)?,
            ..Row::new("went out")
        },
        Row {
            journal_micro: journal("asset:splitter", balance),
            logs_micro: chain("held", logs.inflow.saturating_sub(logs.outflow))?,
            contract_micro: chain("held", held)?,
            ..Row::new("held by the Splitter")
        },
        Row {
            journal_micro: journal("accounted:", balance),
            logs_micro: chain("accounted", logs.recorded.saturating_sub(logs.split))?,
            contract_micro: chain("accounted", accounted)?,
            ..Row::new("recorded and not split")
        },
        Row {
            journal_micro: journal("escrow:", balance),
            contract_micro: chain("escrow", escrowed)?,
            ..Row::new("in escrow")
        },
        Row {
            journal_micro: journal("payable:", balance),
            contract_micro: Some(0),
            ..Row::new("split and not paid out")
        },
    ];
    let chain_drift_micro = rows.iter().map(Row::against_logs).sum();
    let ledger_drift_micro = rows.iter().map(Row::against_contracts).sum();
    Ok(Reconciliation {
        chain_id,
        splitter: address,
        block: head.number(),
        totals,
        rows,
        chain_drift_micro,
        ledger_drift_micro,
    })
}

async fn read_logs(
    node: &Chain,
    splitter: &SplitterRecord,
    first: u64,
    last: u64,
) -> Result<Logs, ReconcilerError> {
    let mut sums = Logs::default();
    let transfers =
        Filter::new().address(splitter.asset).event_signature(FiatToken::Transfer::SIGNATURE_HASH);
    let mut from = first;
    while from <= last {
        let to = last.min(from.saturating_add(MAX_RANGE - 1));
        let incoming = node.logs(&transfers.clone().topic2(splitter.address), from, to).await?;
        let outgoing = node.logs(&transfers.clone().topic1(splitter.address), from, to).await?;
        let own = node.logs(&Filter::new().address(splitter.address), from, to).await?;
        sums.inflow = sums.inflow.saturating_add(transferred(&incoming));
        sums.outflow = sums.outflow.saturating_add(transferred(&outgoing));
        for event in own.iter().filter_map(|log| SplitterEvent::decode(&log.inner)) {
            sums.add(&event);
        }
        from = to.saturating_add(1);
    }
    Ok(sums)
}

impl Logs {
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

fn transferred(logs: &[Log]) -> U256 {
    logs.iter()
        .filter_map(|log| FiatToken::Transfer::decode_log(&log.inner).ok())
        .fold(U256::ZERO, |sum, transfer| sum.saturating_add(transfer.value))
}
