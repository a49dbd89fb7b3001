//! Tables for people.

use crate::{
    ledger::{AttemptView, SignerRecord, Spending, TransactionView},
    lifecycle::Limits,
};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

fn table(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header.to_vec());
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A signer, in a few lines.
pub(super) fn heading(
    chain_id: u64,
    signer: &SignerRecord,
    spending: &Spending,
    limits: &Limits,
) -> String {
    let mut lines = vec![
        format!(
            "{} {} on chain {chain_id}, next account nonce {}",
            signer.role, signer.address, signer.next_account_nonce
        ),
        format!(
            "  spent or owed in 24 hours {} of {} wei, still owed {} wei",
            spending.day, limits.day, spending.owed
        ),
    ];
    if let Some(closed) = signer.closed {
        lines.push(format!("  begins nothing new: {closed}"));
    }
    if let Some(quarantine) = &signer.quarantine {
        let end = quarantine.end.map_or_else(
            || "the chain is being asked up to where".to_owned(),
            |end| format!("until account nonce {end} is final"),
        );
        lines.push(format!("  in quarantine, {end}: {}", quarantine.reason));
    }
    lines.join("\n")
}

/// Transactions, one a row.
pub(super) fn transactions(all: &[TransactionView]) -> Table {
    let header = ["nonce", "for", "state", "signed", "newest or mined hash", "block", "cost wei"];
    let mut table = table(&header, &[0, 3, 5, 6]);
    for transaction in all {
        let work = transaction.kind.map_or("nothing", |kind| kind.as_str());
        let payment = transaction.payment.map(|id| format!(" of {id}")).unwrap_or_default();
        let last = transaction.attempts.last().map(|attempt| attempt.hash);
        let hash = transaction.mined_hash.or(last);
        let cost = transaction
            .l2_fee_wei
            .map(|fee| fee.saturating_add(transaction.l1_fee_wei.unwrap_or_default()).to_string());
        table.add_row([
            transaction.account_nonce.to_string(),
            format!("{work}{payment}"),
            format!("{}{}", transaction.state, if transaction.is_final { ", final" } else { "" }),
            transaction.attempts.len().to_string(),
            hash.map(|hash| hash.to_string()).unwrap_or_default(),
            transaction.block_number.map(|block| block.to_string()).unwrap_or_default(),
            cost.unwrap_or_else(|| format!("up to {}", transaction.max_cost_wei)),
        ]);
    }
    table
}

/// Signed envelopes, one a row.
pub(super) fn attempts(all: &[AttemptView]) -> Table {
    let header = ["signed at", "for", "hash", "max fee wei/gas", "max tip wei/gas"];
    let mut table = table(&header, &[3, 4]);
    for attempt in all {
        table.add_row([
            attempt.signed_at.to_rfc3339(),
            attempt.kind.to_string(),
            attempt.hash.to_string(),
            attempt.max_fee_per_gas.to_string(),
            attempt.max_priority_fee_per_gas.to_string(),
        ]);
    }
    table
}
