//! The reconciliation: what the ledger says, what the chain's logs say, and what the contracts hold,
//! side by side, at one block.

mod category;
mod deep;
mod payments;

pub use category::Category;
pub use payments::{CapabilityRow, CategorySum, Line, Options, Report, each_line, report};

use super::ReconcilerError;
use crate::{
    chain::{BlockTag, Chain},
    eip3009::FiatToken,
    ledger::{Ledger, LedgerTotals, Scope, SplitterRecord, Tx},
    splitter::JecpSplitter,
};
use alloy::primitives::{B256, U256};
use deep::Logs;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Beyond every block.
const END: u64 = u64::MAX >> 1;

/// One amount as up to four sources have it, in micro-USDC.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What is compared.
    pub what: &'static str,
    /// By the settlements.
    pub settlements_micro: Option<i128>,
    /// By the journal.
    pub journal_micro: Option<i128>,
    /// By the chain's logs: as the mirror has them, or read again from the first block on.
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

/// What the ledger says up to a block.
struct Books {
    totals: LedgerTotals,
    /// Debits, credits and balance of each account.
    accounts: BTreeMap<String, [i128; 3]>,
}

impl Books {
    async fn read(tx: &mut Tx, scope: &Scope) -> Result<Self, ReconcilerError> {
        let Scope { chain_id, splitter, up_to, .. } = *scope;
        let totals = tx.totals(chain_id, splitter, up_to).await?;
        let accounts = tx.accounts_up_to(scope).await?;
        Ok(Self { totals, accounts })
    }

    fn sum(&self, prefix: &str, column: usize) -> Option<i128> {
        let accounts = self.accounts.iter().filter(|(code, _)| code.starts_with(prefix));
        Some(accounts.filter_map(|(_, sums)| sums.get(column)).sum())
    }

    fn debits(&self, prefix: &str) -> Option<i128> {
        self.sum(prefix, 0)
    }

    fn credits(&self, prefix: &str) -> Option<i128> {
        self.sum(prefix, 1)
    }

    fn balance(&self, prefix: &str) -> Option<i128> {
        self.sum(prefix, 2)
    }
}

/// What the contracts hold at a block.
struct Contracts {
    held: U256,
    escrowed: U256,
    accounted: BTreeMap<B256, U256>,
}

impl Contracts {
    async fn read(
        node: &Chain,
        splitter: &SplitterRecord,
        capabilities: &BTreeSet<B256>,
        block: u64,
    ) -> Result<Self, ReconcilerError> {
        let SplitterRecord { address, asset, .. } = *splitter;
        let block = BlockTag::Number(block);
        let held = node.call(asset, &FiatToken::balanceOfCall { account: address }, block).await?;
        let owed = node.call(address, &JecpSplitter::totalOwedCall {}, block).await?;
        let mut accounted = BTreeMap::new();
        for capability in capabilities {
            let call = JecpSplitter::accountedBalanceCall { capabilityId: *capability };
            accounted.insert(*capability, node.call(address, &call, block).await?);
        }
        let sum = accounted.values().fold(U256::ZERO, |sum, part| sum.saturating_add(*part));
        Ok(Self { held, escrowed: owed.saturating_sub(sum), accounted })
    }

    fn accounted(&self) -> U256 {
        self.accounted.values().fold(U256::ZERO, |sum, part| sum.saturating_add(*part))
    }
}

/// Compares one Splitter's ledger with the chain at its head; the chain's logs are read again.
/// Payments on their way show as drift; run it when none is, or look at the rows.
///
/// # Errors
/// When ledger or chain cannot be read.
pub async fn reconcile(
    ledger: &Ledger,
    chain: &Chain,
    splitter: &SplitterRecord,
) -> Result<Reconciliation, ReconcilerError> {
    let node = chain.pinned().await?;
    let head = node.head(BlockTag::Latest).await?.number();
    let logs = deep::sums(&node, splitter, head).await?;
    let contracts = Contracts::read(&node, splitter, &logs.capabilities, head).await?;
    let SplitterRecord { chain_id, address, asset, .. } = *splitter;
    let mut tx = ledger.read().await?;
    let scope = Scope { chain_id, splitter: address, asset, up_to: END };
    let books = Books::read(&mut tx, &scope).await?;
    drop(tx);
    side_by_side(splitter, head, &books, &logs, &contracts)
}

/// Every amount as each source has it.
fn side_by_side(
    splitter: &SplitterRecord,
    block: u64,
    books: &Books,
    logs: &Logs,
    contracts: &Contracts,
) -> Result<Reconciliation, ReconcilerError> {
    let totals = books.totals;
    let settlements = |micro: u64| Some(i128::from(micro));
    let chain = |what, value: U256| {
        i128::try_from(value).map(Some).map_err(|_| ReconcilerError::Overflow(what))
    };
    let rows = vec![
        // Sums over everything that ever happened: with nothing booked they show it, where
        // balances would all be zero.
        Row {
            journal_micro: books.debits("asset:splitter"),
            logs_micro: chain("came in", logs.inflow)?,
            ..Row::new("came in")
        },
        Row {
            settlements_micro: settlements(totals.paid_micro),
            journal_micro: books.credits("clearing:"),
            ..Row::new("came in as payments")
        },
        Row {
            settlements_micro: settlements(totals.recorded_micro),
            journal_micro: books.credits("accounted:"),
            logs_micro: chain("recorded", logs.recorded)?,
            ..Row::new("recorded")
        },
        Row {
            settlements_micro: settlements(totals.split_micro),
            journal_micro: books.debits("accounted:"),
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
            journal_micro: books.credits("asset:splitter"),
            logs_micro: chain("went out", logs.outflow)?,
            ..Row::new("went out")
        },
        Row {
            journal_micro: books.balance("asset:splitter"),
            logs_micro: chain("held", logs.inflow.saturating_sub(logs.outflow))?,
            contract_micro: chain("held", contracts.held)?,
            ..Row::new("held by the Splitter")
        },
        Row {
            journal_micro: books.balance("accounted:"),
            logs_micro: chain("accounted", logs.recorded.saturating_sub(logs.split))?,
            contract_micro: chain("accounted", contracts.accounted())?,
            ..Row::new("recorded and not split")
        },
        Row {
            journal_micro: books.balance("escrow:"),
            contract_micro: chain("escrow", contracts.escrowed)?,
            ..Row::new("in escrow")
        },
        Row {
            journal_micro: books.balance("payable:"),
            contract_micro: Some(0),
            ..Row::new("split and not paid out")
        },
    ];
    let chain_drift_micro = rows.iter().map(Row::against_logs).sum();
    let ledger_drift_micro = rows.iter().map(Row::against_contracts).sum();
    Ok(Reconciliation {
        chain_id: splitter.chain_id,
        splitter: splitter.address,
        block,
        totals,
        rows,
        chain_drift_micro,
        ledger_drift_micro,
    })
}
