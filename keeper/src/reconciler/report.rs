//! The reconciliation: what the ledger says, what the chain's logs say, and what the contracts hold,
//! side by side, at one block.

use super::ReconcilerError;
use crate::{
    chain::{BlockTag, Chain},
    eip3009::FiatToken,
    ledger::{Ledger, LedgerTotals, SplitterRecord},
    splitter::{JecpSplitter, SplitterEvent},
    x402::MicroUsdc,
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

/// One amount as three sources have it, in micro-USDC.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What is compared.
    pub what: &'static str,
    /// By the ledger.
    pub ledger_micro: i128,
    /// By the chain's logs, read again from the first block on.
    pub logs_micro: Option<i128>,
    /// By the contracts' state.
    pub contract_micro: Option<i128>,
}

impl Row {
    fn against_logs(&self) -> u128 {
        self.logs_micro.map_or(0, |logs| logs.abs_diff(self.ledger_micro))
    }

    fn against_contract(&self) -> u128 {
        self.contract_micro.map_or(0, |contract| contract.abs_diff(self.ledger_micro))
    }

    /// Whether every source that knows the amount has the same.
    pub fn agrees(&self) -> bool {
        self.against_logs() == 0 && self.against_contract() == 0
    }
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
    let balances = tx.balances(chain_id, address).await?;
    drop(tx);
    let journal = |prefix: &str| {
        balances
            .iter()
            .filter(|(code, _)| code.starts_with(prefix))
            .map(|(_, balance)| i128::from(*balance))
            .sum::<i128>()
    };

    let row = |what, ledger_micro, logs, contract| {
        let to_micro =
            |value: U256| i128::try_from(value).map_err(|_| ReconcilerError::Overflow(what));
        Ok::<_, ReconcilerError>(Row {
            what,
            ledger_micro,
            logs_micro: Option::map(logs, to_micro).transpose()?,
            contract_micro: Option::map(contract, to_micro).transpose()?,
        })
    };
    let escrowed = owed.saturating_sub(accounted);
    // What came in unasked is in suspense, not in settlements.
    let came_in = i128::from(totals.paid_micro)
        .checked_add(journal("suspense:"))
        .ok_or(ReconcilerError::Overflow("came in"))?;
    let rows = vec![
        row("came in", came_in, Some(logs.inflow), None)?,
        row("recorded", i128::from(totals.recorded_micro), Some(logs.recorded), None)?,
        row("split", i128::from(totals.split_micro), Some(logs.split), None)?,
        row("split to providers", i128::from(totals.provider_micro), Some(logs.provider), None)?,
        row("split to the hub", i128::from(totals.hub_micro), Some(logs.hub), None)?,
        row("split to the reserve", i128::from(totals.reserve_micro), Some(logs.reserve), None)?,
        row(
            "held by the Splitter",
            journal("asset:splitter"),
            Some(logs.inflow.saturating_sub(logs.outflow)),
            Some(held),
        )?,
        row(
            "recorded and not split",
            journal("accounted:"),
            Some(logs.recorded.saturating_sub(logs.split)),
            Some(accounted),
        )?,
        row("in escrow", journal("escrow:"), None, Some(escrowed))?,
        row("split and not paid out", journal("payable:"), None, Some(U256::ZERO))?,
    ];
    let chain_drift_micro = rows.iter().map(Row::against_logs).sum();
    let ledger_drift_micro = rows.iter().map(Row::against_contract).sum();
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
    let mut from = first;
    while from <= last {
        let to = last.min(from.saturating_add(MAX_RANGE - 1));
        let range = Filter::new().from_block(from).to_block(to);
        let transfers = range
            .clone()
            .address(splitter.asset)
            .event_signature(FiatToken::Transfer::SIGNATURE_HASH);
        let incoming = node.logs(&transfers.clone().topic2(splitter.address)).await?;
        let outgoing = node.logs(&transfers.topic1(splitter.address)).await?;
        let own = node.logs(&range.address(splitter.address)).await?;
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
            SplitterEvent::ProviderEscrowed { .. } | SplitterEvent::ProviderWithdrew { .. } => {}
        }
    }
}

fn transferred(logs: &[Log]) -> U256 {
    logs.iter()
        .filter_map(|log| FiatToken::Transfer::decode_log(&log.inner).ok())
        .fold(U256::ZERO, |sum, transfer| sum.saturating_add(transfer.value))
}

/// An amount for people.
impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |value: Option<i128>| match value {
            None => "-".to_owned(),
            Some(value) => u64::try_from(value)
                .ok()
                .and_then(|value| MicroUsdc::new(value).ok())
                .map_or_else(|| format!("{value} micro"), |amount| amount.to_string()),
        };
        write!(
            f,
            "{}: ledger {}, logs {}, contract {}",
            self.what,
            show(Some(self.ledger_micro)),
            show(self.logs_micro),
            show(self.contract_micro)
        )
    }
}
