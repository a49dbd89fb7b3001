//! Payment by payment: what whoever pulled says, what the chain says, and what the ledger says.
//!
//! Everything is compared at the last block that is booked, so that what is on its way is no
//! difference. The chain is the ingested mirror, and the contracts' state at that block; a deep
//! comparison holds the mirror against the chain's own logs.

use super::{
    Books, Category, Contracts, ReconcilerError, Reconciliation,
    category::{is_drift, words_of},
    deep::{Logs, differences},
    side_by_side,
};
use crate::{
    chain::{BlockTag, Chain},
    ledger::{CapabilitySums, Finding, Ledger, LedgerError, Scope, SplitterRecord, Stream, Tx},
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Blocks that the journal may be behind what is confirmed before that is a difference.
const PATIENCE: u64 = 30;

/// How to compare.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Confirmations after which a log is booked.
    pub confirmations: u64,
    /// Whether the chain's logs are read again.
    pub deep: bool,
    /// Most findings of one kind to list.
    pub limit: u64,
}

/// How much there is of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CategorySum {
    /// Which kind.
    pub category: &'static str,
    /// How many.
    pub count: u64,
    /// Their sum, micro-USDC.
    pub amount_micro: u64,
    /// Whether ledger and chain differ by it.
    pub is_drift: bool,
}

/// One payment, or one finding that belongs to none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Which kind.
    pub category: &'static str,
    /// What exactly.
    pub verdict: &'static str,
    /// The same in words.
    pub what: &'static str,
    /// Which payment, if the ledger has it.
    pub settlement_id: Option<String>,
    /// Who paid, or whom a log names.
    pub payer: Option<String>,
    /// The authorization.
    pub authorization_nonce: Option<String>,
    /// Id at the Splitter.
    pub splitter_capability_id: Option<String>,
    /// By the ledger; of what it does not have, by the chain.
    pub amount_micro: Option<i64>,
    /// By the chain, where it differs.
    pub found_micro: Option<i64>,
    /// The pull, or the log.
    pub tx_hash: Option<String>,
    /// Its position in the block.
    pub log_index: Option<i64>,
    /// Its block.
    pub block_number: Option<i64>,
    /// The record.
    pub record_tx_hash: Option<String>,
    /// The split.
    pub split_tx_hash: Option<String>,
}

impl From<Finding> for Line {
    fn from(finding: Finding) -> Self {
        Self {
            category: Category::of(finding.verdict).as_str(),
            verdict: finding.verdict.as_str(),
            what: words_of(finding.verdict),
            settlement_id: finding.settlement,
            payer: finding.payer,
            authorization_nonce: finding.nonce,
            splitter_capability_id: finding.capability,
            amount_micro: finding.amount_micro,
            found_micro: finding.found_micro,
            tx_hash: finding.tx_hash,
            log_index: finding.log_index,
            block_number: finding.block_number,
            record_tx_hash: finding.record_tx_hash,
            split_tx_hash: finding.split_tx_hash,
        }
    }
}

/// One capability by every source (R-155, C-19).
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CapabilityRow {
    /// Settlements and logs.
    #[serde(flatten)]
    pub sums: CapabilitySums,
    /// Recorded and not split, by the journal.
    pub accounted_journal_micro: i128,
    /// The same by the contract: its `accountedBalance`.
    pub accounted_contract_micro: i128,
    /// Sum of the differences.
    pub drift_micro: u128,
}

/// A comparison of one Splitter.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Sums, side by side, at the last block that is booked.
    #[serde(flatten)]
    pub sums: Reconciliation,
    /// Where the mirror ends.
    pub mirrored: u64,
    /// The chain's head.
    pub head: u64,
    /// Whether the chain's logs were read again.
    pub is_deep: bool,
    /// How much there is of each kind.
    pub categories: Vec<CategorySum>,
    /// Each capability.
    pub capabilities: Vec<CapabilityRow>,
    /// The first findings of each kind.
    pub findings: Vec<Line>,
    #[serde(skip)]
    scope: Scope,
    /// What reading the chain again has brought up.
    #[serde(skip)]
    unlike_chain: Vec<Line>,
}

impl Report {
    /// Whether ledger, chain and contracts agree to the last micro-USDC, payment by payment.
    pub fn is_sound(&self) -> bool {
        self.sums.is_sound()
            && self.categories.iter().all(|sum| !sum.is_drift || sum.count == 0)
            && self.capabilities.iter().all(|row| row.drift_micro == 0)
    }

    /// Blocks that the mirror is behind the chain.
    pub const fn behind(&self) -> u64 {
        self.head.saturating_sub(self.mirrored)
    }
}

/// What the ledger has in one moment.
struct Ingested {
    mirrored: u64,
    mirrored_hash: alloy::primitives::B256,
    scope: Scope,
    books: Books,
    logs: Logs,
    capabilities: Vec<CapabilitySums>,
    /// How many of each kind, of what amount, and whether ledger and chain differ by them.
    counts: BTreeMap<Category, (u64, u64, bool)>,
    findings: Vec<Finding>,
}

impl Ingested {
    async fn read(
        tx: &mut Tx,
        splitter: &SplitterRecord,
        options: &Options,
    ) -> Result<Self, ReconcilerError> {
        let SplitterRecord { chain_id, address, asset, first_block, .. } = *splitter;
        tx.prepare_comparison().await?;
        let (mirrored, mirrored_hash) =
            tx.mirror_end(chain_id, address).await?.ok_or(ReconcilerError::NoMirror(address))?;
        let booked = tx.cursor(chain_id, address, Stream::Journal).await?.unwrap_or(first_block);
        // What should be booked by now counts, booked or not.
        let overdue = mirrored.saturating_sub(options.confirmations.saturating_add(PATIENCE));
        let up_to = booked.saturating_sub(1).max(overdue).min(mirrored);
        let scope = Scope { chain_id, splitter: address, asset, up_to };
        let (parts, findings) = tx.verdicts(&scope, options.limit).await?;
        let mut counts = BTreeMap::<_, (u64, u64, bool)>::new();
        for part in parts {
            let sum = counts.entry(Category::of(part.verdict)).or_default();
            sum.0 = sum.0.saturating_add(part.count);
            sum.1 = sum.1.saturating_add(part.micro);
            sum.2 |= is_drift(part.verdict);
        }
        let capabilities = tx.capability_sums(&scope).await?;
        let sum = |pick: fn(&CapabilitySums) -> u64| {
            capabilities.iter().map(pick).fold(0, u64::saturating_add)
        };
        let recorded = [sum(|it| it.recorded_logs_micro), sum(|it| it.split_logs_micro)];
        let named: BTreeSet<_> = capabilities.iter().map(|sums| sums.capability).collect();
        let logs = Logs::mirrored(&tx.mirror_sums(&scope).await?, recorded, named);
        let books = Books::read(tx, &scope).await?;
        Ok(Self { mirrored, mirrored_hash, scope, books, logs, capabilities, counts, findings })
    }
}

/// Compares one Splitter payment by payment, and in sums. `progress` is told the last block that
/// was read again.
///
/// # Errors
/// When ledger or chain cannot be read, or the mirror ends on a chain that is gone.
pub async fn report(
    ledger: &Ledger,
    chain: &Chain,
    splitter: &SplitterRecord,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Report, ReconcilerError> {
    let mut tx = ledger.read().await?;
    let ingested = Ingested::read(&mut tx, splitter, options).await?;
    drop(tx);
    let Ingested {
        mirrored,
        mirrored_hash,
        scope,
        books,
        mut logs,
        mut counts,
        mut findings,
        capabilities,
    } = ingested;

    let node = chain.pinned_at(mirrored).await?;
    let head = node.head(BlockTag::Latest).await?.number();
    if node.head(BlockTag::Number(mirrored)).await?.hash != mirrored_hash {
        return Err(ReconcilerError::MirrorGone(mirrored));
    }
    let mut unlike_chain = Vec::new();
    if options.deep {
        let confirmed = head.saturating_sub(options.confirmations.saturating_sub(1));
        let range = (scope.up_to, confirmed.max(scope.up_to));
        let (sums, unlike) = differences(ledger, &node, splitter, range, progress).await?;
        logs = Logs { capabilities: &logs.capabilities | &sums.capabilities, ..sums };
        for finding in unlike {
            let sum = counts.entry(Category::of(finding.verdict)).or_default();
            sum.0 = sum.0.saturating_add(1);
            let micro = finding.amount_micro.unwrap_or_default();
            sum.1 = sum.1.saturating_add(micro.unsigned_abs());
            sum.2 |= is_drift(finding.verdict);
            unlike_chain.push(Line::from(finding));
        }
    }
    let contracts = Contracts::read(&node, splitter, &logs.capabilities, scope.up_to).await?;
    let sums = side_by_side(splitter, scope.up_to, &books, &logs, &contracts)?;
    let capabilities = capabilities
        .into_iter()
        .map(|sums| capability_row(sums, &books, &contracts))
        .collect::<Result<_, _>>()?;
    let categories = Category::ALL.iter().map(|category| {
        let nothing = (0, 0, category.is_drift());
        let (count, amount_micro, is_drift) = counts.get(category).copied().unwrap_or(nothing);
        CategorySum { category: category.as_str(), count, amount_micro, is_drift }
    });
    // The worst first.
    findings.sort_by_key(|finding| !is_drift(finding.verdict));
    let limit = usize::try_from(options.limit).unwrap_or(usize::MAX);
    let listed = unlike_chain.iter().take(limit).cloned();
    Ok(Report {
        sums,
        mirrored,
        head,
        is_deep: options.deep,
        categories: categories.collect(),
        capabilities,
        findings: listed.chain(findings.into_iter().map(Line::from)).collect(),
        scope,
        unlike_chain,
    })
}

/// Hands out every payment and every finding of a report, one after the other.
///
/// # Errors
/// When the ledger cannot be read, or `each` fails.
pub async fn each_line<E: From<LedgerError>>(
    ledger: &Ledger,
    report: &Report,
    mut each: impl FnMut(Line) -> Result<(), E>,
) -> Result<(), E> {
    for line in &report.unlike_chain {
        each(line.clone())?;
    }
    let mut tx = ledger.read().await?;
    tx.prepare_comparison().await?;
    tx.each_verdict(&report.scope, |finding| each(Line::from(finding))).await
}

fn capability_row(
    sums: CapabilitySums,
    books: &Books,
    contracts: &Contracts,
) -> Result<CapabilityRow, ReconcilerError> {
    let code = format!("accounted:{}", sums.capability);
    let journal = books.balance(&code).unwrap_or_default();
    let contract = contracts.accounted.get(&sums.capability).copied().unwrap_or_default();
    let contract =
        i128::try_from(contract).map_err(|_| ReconcilerError::Overflow("accountedBalance"))?;
    let logged = i128::from(sums.recorded_logs_micro) - i128::from(sums.split_logs_micro);
    let differences = [
        u128::from(sums.paid_micro.abs_diff(sums.inflow_micro)),
        u128::from(sums.recorded_micro.abs_diff(sums.recorded_logs_micro)),
        u128::from(sums.split_micro.abs_diff(sums.split_logs_micro)),
        contract.abs_diff(logged),
        contract.abs_diff(journal),
    ];
    Ok(CapabilityRow {
        sums,
        accounted_journal_micro: journal,
        accounted_contract_micro: contract,
        drift_micro: differences.into_iter().fold(0, u128::saturating_add),
    })
}
