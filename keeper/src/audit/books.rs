//! The journal against the mirror and the payments, in one pass over each.
//!
//! Journals that stand and logs that move money must be the same, one for one. Instead of joining
//! them, each side's fingerprints, under a key of this run, are added up: equal sums mean equal sides.

use super::report::Check;
use crate::ledger::{JournalRow, LedgerError, Tx};
use std::hash::{BuildHasher, Hash, RandomState};

/// A sum of fingerprints in which order does not matter.
#[derive(Default, PartialEq, Eq, Clone, Copy)]
struct Sum(u64, u64);

/// Two keys: 64 bits alone would be few for a sum.
#[derive(Default)]
struct Keys(RandomState, RandomState);

impl Keys {
    fn add(&self, sum: &mut Sum, value: &impl Hash) {
        sum.0 = sum.0.wrapping_add(self.0.hash_one(value));
        sum.1 = sum.1.wrapping_add(self.1.hash_one(value));
    }
}

/// What a pass over the books came to.
pub(super) struct Books {
    pub(super) balance: Check,
    /// Whether journals, mirror and payments are one for one.
    pub(super) fit: bool,
}

/// The class of log that a kind of journal cites.
fn class(kind: &str) -> &str {
    match kind {
        "pull" | "unattributed_inflow" => "inflow",
        "payout" => "outflow",
        "record" | "unattributed_record" => "SettlementRecorded",
        "split" => "PaymentSplit",
        "escrow" => "ProviderEscrowed",
        "withdrawal" => "ProviderWithdrew",
        // Whatever it is, it does not fit; the rules know better.
        other => other,
    }
}

/// Reads journals, mirror and payments.
pub(super) async fn books(tx: &mut Tx) -> Result<Books, LedgerError> {
    let mut balance =
        Check::new("journals.balance", "every journal has postings, and they balance");
    let keys = Keys::default();
    let (mut journals, mut logs) = (Sum::default(), Sum::default());
    let (mut pulls, mut payments) = (Sum::default(), Sum::default());
    let reversed = tx.reversed().await?;
    tx.scan_journals(|row| {
        let problem = unbalanced(&row);
        balance.expect(problem.is_none(), || {
            let name = row.id.or(row.journal_id).unwrap_or_default();
            (format!("journals {name}"), problem.unwrap_or_default())
        });
        let stands = row.id.is_some_and(|id| reversed.is_empty() || !reversed.contains(id));
        if !stands || row.reverses.is_some() || row.tx_hash.is_none() {
            return;
        }
        let kind = row.kind.unwrap_or_default();
        // A paid refund cites a Transfer of the treasury's, which no mirror holds.
        if row.is_booked && kind != "refund_paid" {
            let place = (row.chain_id, row.splitter, row.tx_hash, row.log_index, row.block_hash);
            keys.add(&mut journals, &(place, row.booked, class(kind)));
            if kind == "pull" {
                keys.add(&mut pulls, &(row.settlement_id, row.booked));
            }
        }
    })
    .await?;
    tx.scan_money(|row| {
        let place = (
            Some(row.chain_id),
            Some(row.splitter),
            Some(row.tx_hash),
            Some(row.log_index),
            Some(row.block_hash),
        );
        keys.add(&mut logs, &(place, Some(row.amount), row.class));
    })
    .await?;
    tx.scan_confirmed(|row| keys.add(&mut payments, &(Some(row.id), Some(row.amount)))).await?;
    Ok(Books { balance, fit: journals == logs && pulls == payments })
}

fn unbalanced(row: &JournalRow<'_>) -> Option<String> {
    if row.id.is_none() {
        return Some("its postings are there, but not the journal".to_owned());
    }
    match (row.debits, row.credits) {
        (Some(debits), Some(credits)) if debits > 0 && debits == credits => None,
        (Some(debits), Some(credits)) => Some(format!("debits {debits}, credits {credits}")),
        _ => Some("it has no postings".to_owned()),
    }
}
