//! What the demo shows and writes.

use super::{Call, Outcome, Stack, balance, shown};
use crate::{cli::reconcile, ledger::Settlement};
use alloy::primitives::B256;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use eyre::ensure;
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// target/demo/report.json.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Calls that were paid for.
    payments_sent: usize,
    /// Of these, answered 200 with a receipt and the provider's result.
    answered_200: usize,
    /// Settlements confirmed.
    confirmed: u64,
    /// Settlements recorded.
    recorded: u64,
    /// Settlements split.
    split: u64,
    /// What the payers paid.
    amount_micro: u64,
    /// What the provider has on the chain.
    provider_micro: u64,
    /// What the hub's treasury has on the chain.
    hub_micro: u64,
    /// What the network reserve has on the chain.
    reserve_micro: u64,
    /// Differences between ledger and the chain's logs.
    chain_drift_micro: u128,
    /// Differences between ledger and contracts.
    ledger_drift_micro: u128,
    /// Calls per client.
    clients: BTreeMap<&'static str, usize>,
    /// Every transaction of the keeper.
    transactions: Vec<Transaction>,
    /// From start to reconciliation.
    duration_seconds: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Transaction {
    kind: &'static str,
    hash: B256,
}

impl Report {
    pub(super) async fn new(
        stack: &Stack,
        calls: &[Call],
        outcome: &Outcome,
        duration: Duration,
    ) -> eyre::Result<Self> {
        let totals = outcome.reconciliation.totals;
        let mut clients = BTreeMap::new();
        for call in calls {
            let count: &mut usize = clients.entry(call.agent.name()).or_default();
            *count += 1;
        }
        let mut transactions = Vec::new();
        for settlement in &outcome.settlements {
            let Settlement { pull, record, split, .. } = settlement;
            let hashes = [
                ("pull", pull.map(|pull| pull.tx_hash)),
                ("record", record.map(|record| record.tx_hash)),
                ("split", split.map(|split| split.tx_hash)),
            ];
            for (kind, hash) in hashes {
                if let Some(hash) = hash {
                    transactions.push(Transaction { kind, hash });
                }
            }
        }
        // One split may cover several payments.
        transactions.sort();
        transactions.dedup();
        Ok(Self {
            payments_sent: calls.len(),
            answered_200: calls.iter().filter(|call| call.is_served()).count(),
            confirmed: totals.confirmed,
            recorded: totals.recorded,
            split: totals.split,
            amount_micro: totals.paid_micro,
            provider_micro: balance(stack, stack.provider_account).await?,
            hub_micro: balance(stack, stack.roles.hub_treasury).await?,
            reserve_micro: balance(stack, stack.roles.network_reserve).await?,
            chain_drift_micro: outcome.reconciliation.chain_drift_micro,
            ledger_drift_micro: outcome.reconciliation.ledger_drift_micro,
            clients,
            transactions,
            duration_seconds: duration.as_secs(),
        })
    }

    /// The payments, then the balances.
    pub(super) fn print(&self, stack: &Stack, outcome: &Outcome) {
        println!("{}", payments(&outcome.settlements));
        println!("{}", reconcile::table(&outcome.reconciliation));
        println!(
            "{} payments of {} USDC in {} s; provider {}, hub {}, reserve {} on the chain; drift {}",
            self.payments_sent,
            usdc(self.amount_micro),
            self.duration_seconds,
            usdc(self.provider_micro),
            usdc(self.hub_micro),
            usdc(self.reserve_micro),
            self.chain_drift_micro.saturating_add(self.ledger_drift_micro),
        );
        println!("address book: {}", shown(&stack.contracts.address_book()).display());
    }

    /// An error unless everything went through and agrees to the last micro-USDC.
    pub(super) fn verdict(&self) -> eyre::Result<()> {
        let sent = u64::try_from(self.payments_sent)?;
        ensure!(self.answered_200 == self.payments_sent, "not every call was served");
        ensure!(
            [self.confirmed, self.recorded, self.split] == [sent; 3],
            "not every payment is through: {} confirmed, {} recorded, {} split of {sent}",
            self.confirmed,
            self.recorded,
            self.split
        );
        let paid_out = self
            .provider_micro
            .checked_add(self.hub_micro)
            .and_then(|sum| sum.checked_add(self.reserve_micro));
        ensure!(paid_out == Some(self.amount_micro), "what was paid out is not what came in");
        ensure!(
            self.chain_drift_micro == 0 && self.ledger_drift_micro == 0,
            "ledger and chain differ by {} and {} micro-USDC",
            self.chain_drift_micro,
            self.ledger_drift_micro
        );
        Ok(())
    }
}

fn payments(settlements: &[Settlement]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "payer", "amount", "pull", "record", "split", "provider", "hub", "reserve", "state",
    ]);
    let hash = |hash: Option<B256>| hash.map_or_else(|| "-".to_owned(), |hash| short(&hash));
    for settlement in settlements {
        let share = |pick: fn(&crate::ledger::Shares) -> u64| {
            settlement.shares.as_ref().map_or_else(|| "-".to_owned(), |shares| usdc(pick(shares)))
        };
        table.add_row([
            short(&settlement.payer),
            settlement.amount.to_string(),
            hash(settlement.pull.map(|pull| pull.tx_hash)),
            hash(settlement.record.map(|record| record.tx_hash)),
            hash(settlement.split.map(|split| split.tx_hash)),
            share(|shares| shares.provider.micro()),
            share(|shares| shares.hub.micro()),
            share(|shares| shares.reserve.micro()),
            format!("{}, {}", settlement.status, settlement.keeper_state),
        ]);
    }
    table
}

fn usdc(micro: u64) -> String {
    reconcile::usdc(i128::from(micro))
}

/// Enough of a hash to find it.
fn short(bytes: &impl AsRef<[u8]>) -> String {
    let text = alloy::hex::encode_prefixed(bytes);
    format!("{}…{}", &text[..8], &text[text.len().saturating_sub(4)..])
}
