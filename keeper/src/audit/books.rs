//! Journal, mirror and payments against each other, in one pass over each.
//!
//! Journals that stand and logs that move money must be the same, one for one; so must payments and
//! what journal and mirror say of them. Instead of joining millions of rows, each side's fingerprints,
//! under a key of this run, are added up: equal sums mean equal sides. Where sums differ, a rule in
//! SQL says which row it is, and whether it is wrong at all.

use super::report::Check;
use crate::{
    ledger::{JournalRow, LedgerError, LogRow, SettlementRow, Tx},
    lifecycle::Status,
};
use foldhash::quality::RandomState;
use std::{
    collections::HashSet,
    hash::{BuildHasher, Hash},
};

/// A sum of fingerprints in which order does not matter.
#[derive(Default, PartialEq, Eq, Clone, Copy)]
struct Sum(u64, u64);

/// Two keys: 64 bits alone would be few for a sum.
#[derive(Default, Clone)]
pub(super) struct Keys(RandomState, RandomState);

impl Keys {
    fn add(&self, sum: &mut Sum, value: &impl Hash) {
        sum.0 = sum.0.wrapping_add(self.0.hash_one(value));
        sum.1 = sum.1.wrapping_add(self.1.hash_one(value));
    }
}

/// What is said of payments, by themselves or by journal and mirror.
#[derive(Default)]
pub(super) struct Claims {
    /// A pull is booked: place, payment, amount, account.
    pulls_booked: Sum,
    /// A record is booked: place, payment, account.
    records_booked: Sum,
    /// A pull is in the mirror, with all that is known of it.
    pulls: Sum,
    /// A pull is a payment's: payment, identity.
    owners: Sum,
    /// A record is in the mirror: place, amount.
    records: Sum,
}

impl Claims {
    /// Whether journals say of the payments what they say themselves.
    pub(super) fn fit_journal(&self, other: &Self) -> bool {
        self.pulls_booked == other.pulls_booked && self.records_booked == other.records_booked
    }

    /// Whether the mirror says of the payments what they say themselves.
    pub(super) fn fit_mirror(&self, other: &Self) -> bool {
        self.pulls == other.pulls && self.owners == other.owners && self.records == other.records
    }
}

/// What the payments say, while they go by.
pub(super) struct Claimed {
    keys: Keys,
    pub(super) claims: Claims,
    pulls: HashSet<u64>,
    records: HashSet<u64>,
    /// Whether a log may be cited twice.
    pub(super) is_twice: bool,
}

impl Claimed {
    pub(super) fn new(keys: Keys) -> Self {
        Self {
            keys,
            claims: Claims::default(),
            pulls: HashSet::new(),
            records: HashSet::new(),
            is_twice: false,
        }
    }

    /// A payment goes by.
    pub(super) fn settlement(&mut self, row: &SettlementRow<'_>) {
        let Self { keys, claims, pulls, records, is_twice } = self;
        let (id, amount) = (Some(row.id), row.amount_usdc_micro);
        let clearing =
            row.splitter_capability_id.map(|capability| format!("clearing:{capability}"));
        let clearing = clearing.as_deref();
        let status = Status::from_word(row.status);
        let (chain, splitter, nonce) = (row.chain_id, row.splitter, Some(row.eip3009_nonce));
        if status == Some(Status::ChainConfirmed) && row.is_booked {
            let place = (Some(chain), row.tx_hash, row.log_index);
            keys.add(&mut claims.pulls_booked, &(place, id, Some(amount), clearing));
        }
        let is_paid = matches!(status, Some(Status::FacilitatorAttested | Status::ChainConfirmed));
        if is_paid && row.is_booked {
            let place = (chain, row.tx_hash, row.log_index, row.block_number, row.block_hash);
            let what = (splitter, Some(row.asset), Some(row.payer), nonce, amount, id);
            keys.add(&mut claims.pulls, &(place, what));
        }
        if row.tx_hash.is_some() {
            let owner = (id, Some(row.payer), nonce, chain, Some(row.asset));
            keys.add(&mut claims.owners, &owner);
            *is_twice |= !pulls.insert(keys.0.hash_one((chain, row.tx_hash, row.log_index)));
        }
        if row.record_tx_hash.is_some() {
            let place = (chain, row.record_tx_hash, row.record_log_index);
            *is_twice |= !records.insert(keys.0.hash_one(place));
            if row.is_record_booked {
                let what = (row.record_block_number, splitter, amount);
                keys.add(&mut claims.records, &(place, what));
                let place = (Some(chain), row.record_tx_hash, row.record_log_index);
                keys.add(&mut claims.records_booked, &(place, id, clearing));
            }
        }
    }
}

/// What a pass over journal and mirror came to.
pub(super) struct Books {
    pub(super) balance: Check,
    /// Whether journals that stand and logs are one for one, and book to the accounts of the logs.
    pub(super) fit: bool,
    pub(super) claims: Claims,
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

/// Whether a journal is of the usual form: one account is debited and one credited, by a split several;
/// and those which neither log nor payment determines are the ones of its kind.
fn is_in_form(row: &JournalRow<'_>, kind: &str, first: Option<&str>, second: Option<&str>) -> bool {
    let (Some(first), Some(second)) = (first, second) else { return false };
    let is_divided = match row.lines {
        Some(2) => true,
        Some(3 | 4) => kind == "split",
        _ => false,
    };
    let is_debited_once = row.first_side == Some("debit") && row.booked == row.debits;
    let moves = |from: &str, to: &str| {
        first.strip_prefix(from).is_some_and(|whose| second.strip_prefix(to) == Some(whose))
    };
    is_divided
        && is_debited_once
        && match kind {
            // What passed through is booked to accounts of its own, which the rules know.
            "pull" => first == "asset:splitter",
            "unattributed_inflow" => (first, second) == ("asset:splitter", "suspense:unattributed"),
            "unattributed_record" => first == "suspense:unattributed",
            "payout" => second == "asset:splitter",
            "escrow" => moves("payable:", "escrow:"),
            "withdrawal" => moves("escrow:", "payable:"),
            // What is left is held against payments, logs and, by a rule, the shares.
            "record" | "split" => true,
            _ => false,
        }
}

/// The account that a log determines.
fn account(log: &LogRow<'_>) -> Option<String> {
    match log.class {
        "SettlementRecorded" | "PaymentSplit" => {
            log.capability.map(|capability| format!("accounted:{capability}"))
        }
        "outflow" | "ProviderEscrowed" => log.account.map(|account| format!("payable:{account}")),
        "ProviderWithdrew" => log.account.map(|account| format!("escrow:{account}")),
        _ => None,
    }
}

/// Reads journals and mirror.
pub(super) async fn books(tx: &mut Tx, keys: &Keys) -> Result<Books, LedgerError> {
    let mut balance =
        Check::new("journals.balance", "every journal has postings, and they balance");
    let (mut journals, mut logs) = (Sum::default(), Sum::default());
    let mut claims = Claims::default();
    let mut is_plain = true;
    let reversed = tx.reversed().await?;
    let codes = tx.account_codes().await?;
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
        if kind == "refund_paid" {
            return;
        }
        // Nothing behind the cursor is held against the mirror.
        if !row.is_booked {
            is_plain = false;
            return;
        }
        let code = |id: Option<i64>| id.and_then(|id| codes.get(&id)).map(String::as_str);
        let (first, second) = (code(row.first_account), code(row.second_account));
        is_plain &= is_in_form(&row, kind, first, second);
        let determined = match kind {
            "record" | "unattributed_record" => second,
            "split" | "payout" | "escrow" | "withdrawal" => first,
            _ => None,
        };
        let block = (row.block_number, row.block_hash);
        let place = (row.chain_id, row.splitter, row.tx_hash, row.log_index, block);
        keys.add(&mut journals, &(place, row.booked, class(kind), determined));
        let log = (row.chain_id, row.tx_hash, row.log_index);
        match kind {
            "pull" => {
                let booked = (log, row.settlement_id, row.booked, second);
                keys.add(&mut claims.pulls_booked, &booked);
            }
            "record" => keys.add(&mut claims.records_booked, &(log, row.settlement_id, first)),
            _ => {}
        }
    })
    .await?;
    tx.scan_logs(|row| {
        if row.is_booked && row.amount > 0 {
            let place = (
                Some(row.chain_id),
                Some(row.splitter),
                Some(row.tx_hash),
                Some(row.log_index),
                (Some(row.block_number), Some(row.block_hash)),
            );
            let determined = account(&row);
            keys.add(&mut logs, &(place, Some(row.amount), row.class, determined.as_deref()));
        }
        mirrored(&row, keys, &mut claims);
    })
    .await?;
    Ok(Books { balance, fit: is_plain && journals == logs, claims })
}

/// What a log says of a payment.
fn mirrored(row: &LogRow<'_>, keys: &Keys, claims: &mut Claims) {
    let (chain, splitter) = (row.chain_id, Some(row.splitter));
    let (tx_hash, log_index) = (Some(row.tx_hash), Some(row.log_index));
    let (block, block_hash) = (Some(row.block_number), Some(row.block_hash));
    if row.class == "inflow" && row.settlement_id.is_some() {
        let (id, nonce) = (row.settlement_id, row.eip3009_nonce);
        keys.add(&mut claims.owners, &(id, row.account, nonce, chain, row.asset));
        if row.is_booked {
            let place = (chain, tx_hash, log_index, block, block_hash);
            let what = (splitter, row.asset, row.account, nonce, row.amount, id);
            keys.add(&mut claims.pulls, &(place, what));
        }
    }
    if row.class == "SettlementRecorded" && row.is_booked {
        let place = (chain, tx_hash, log_index);
        keys.add(&mut claims.records, &(place, (block, splitter, row.amount)));
    }
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
