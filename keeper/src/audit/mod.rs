//! The audit: everything that the ledger says, recomputed from what it is made of, and held against
//! the contracts. And the seals, which let it find what is missing.
//!
//! It streams: a ledger of a million payments must fit into half a gigabyte and a minute.

mod books;
mod chain;
mod events;
mod report;
mod rules;
mod sealer;
mod seals;

pub use chain::{AuditedSplitter, hold_against_chain};
pub use report::{Check, Finding, Report, Verdict};
pub use sealer::Sealer;

use crate::ledger::{AttemptRow, Ledger, LedgerError, MAX_SEALED, Tx};
use alloy::{
    consensus::{Transaction as _, TxEnvelope, transaction::SignerRecoverable},
    eips::eip2718::Decodable2718,
    hex,
    primitives::{Address, B256, keccak256},
};
use chrono::TimeDelta;
use events::Payments;
use rules::{BOOKED, BOOKS, EVIDENCE, Rule};
use seals::Seals;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Connections that read at the same time, where the database allows it.
const LANES: usize = 3;
/// An event that is older has a seal, or the seal was taken away.
const MAX_UNSEALED_AGE: TimeDelta = TimeDelta::minutes(2);
/// More events than this are never without a seal while a daemon runs.
const MAX_UNSEALED: u64 = 2 * MAX_SEALED;

/// How far an audit is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    inner: Arc<[AtomicU64; 2]>,
}

impl Progress {
    /// Rows that were read, and how many there are.
    pub fn rows(&self) -> (u64, u64) {
        let [done, all] = &*self.inner;
        (done.load(Ordering::Relaxed), all.load(Ordering::Relaxed))
    }

    fn more(&self, rows: u64) {
        self.inner[0].fetch_add(rows, Ordering::Relaxed);
    }

    fn expect(&self, rows: u64) {
        self.inner[1].fetch_add(rows, Ordering::Relaxed);
    }
}

/// What is asked of an audit.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Recover the signer of every envelope, too. A second per 10,000.
    pub deep: bool,
    /// A root that an operator has kept: it must still be there.
    pub since_root: Option<B256>,
    /// The ledger was read from an export: nobody seals it any more, and its newest event is its now.
    pub is_copy: bool,
    /// Where to say how far it is.
    pub progress: Progress,
}

/// Checks everything that needs no chain, on one snapshot.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn audit(ledger: &Ledger, options: &Options) -> Result<Report, LedgerError> {
    let mut lanes = ledger.snapshot(LANES).await?.into_iter();
    let (first, second, third) = (lanes.next(), lanes.next(), lanes.next());
    let Some(mut first) = first else { return Err(LedgerError::Conflict("snapshot".to_owned())) };
    let (report, mut checks) = match (second, third) {
        (Some(mut second), Some(mut third)) => {
            let (report, books, evidence) = tokio::try_join!(
                payments(&mut first, options),
                all_books(&mut second),
                outbox_and_evidence(&mut third, options),
            )?;
            (report, [books, evidence].concat())
        }
        _ => {
            let report = payments(&mut first, options).await?;
            let books = all_books(&mut first).await?;
            (report, [books, outbox_and_evidence(&mut first, options).await?].concat())
        }
    };
    let mut report = report;
    report.checks.append(&mut checks);
    Ok(report.conclude())
}

/// Events, seals and the payments' own columns.
async fn payments(tx: &mut Tx, options: &Options) -> Result<Report, LedgerError> {
    let expected = tx.count("SELECT count(*) FROM x402_settlements").await?;
    options.progress.expect(tx.count("SELECT max(seq) FROM settlement_events").await?);
    options.progress.expect(expected);
    let all = tx.seals().await?;
    let newest_root = all.last().map(|seal| seal.root);
    let mut seals = Seals::new(all, options.since_root);
    let mut payments = Payments::new(usize::try_from(expected).unwrap_or_default());
    tx.scan_events(|row| {
        let hash = payments.event(&row);
        seals.event(row.seq, row.position, hash);
        options.progress.more(1);
        Ok(())
    })
    .await?;
    tx.scan_settlements(|row| {
        payments.settlement(&row);
        options.progress.more(1);
        Ok(())
    })
    .await?;
    let unsealed_events = seals.unsealed;
    let mut missing = Vec::new();
    let overdue = overdue(tx, options, unsealed_events).await?;
    if overdue > 0 {
        missing.push(format!(
            "{overdue} events should be under a seal by now and are not: let the daemon seal them, \
             and hold its former roots against the ledger with --since-root; somebody may have taken \
             their seals away"
        ));
    }
    let seals = seals.finish();
    let sealed_events = seals[0].checked;
    let mut checks = payments.finish();
    checks.extend(seals);
    Ok(Report {
        verdict: Verdict::Sound,
        sealed_events,
        unsealed_events,
        newest_root,
        checks,
        missing,
    })
}

/// How many events have no seal although they should have one.
async fn overdue(tx: &mut Tx, options: &Options, unsealed: u64) -> Result<u64, LedgerError> {
    if unsealed == 0 || unsealed > MAX_UNSEALED {
        return Ok(unsealed);
    }
    let newest = tx.newest_event_at().await?.filter(|_| options.is_copy);
    let now = match newest {
        Some(newest) => newest,
        None => tx.clock().await?,
    };
    tx.unsealed_before(now - MAX_UNSEALED_AGE).await
}

/// The journal in itself, and against mirror and payments.
async fn all_books(tx: &mut Tx) -> Result<Vec<Check>, LedgerError> {
    let books = books::books(tx).await?;
    let mut checks = vec![books.balance];
    checks.extend(keep(tx, BOOKS).await?);
    if !books.fit {
        checks.extend(keep(tx, BOOKED).await?);
        return Ok(checks);
    }
    for rule in BOOKED {
        let mut check = Check::new(rule.name, rule.promise);
        check.checked = tx.count(rule.count).await?;
        checks.push(check);
    }
    Ok(checks)
}

/// Runs rules, one after the other.
async fn keep(tx: &mut Tx, rules: &[Rule]) -> Result<Vec<Check>, LedgerError> {
    let mut checks = Vec::with_capacity(rules.len());
    for rule in rules {
        let mut check = Check::new(rule.name, rule.promise);
        tx.scan_violations(rule.violations, |row, problem| check.fail(row, problem)).await?;
        check.checked = tx.count(rule.count).await?;
        checks.push(check);
    }
    Ok(checks)
}

async fn outbox_and_evidence(tx: &mut Tx, options: &Options) -> Result<Vec<Check>, LedgerError> {
    options.progress.expect(tx.count("SELECT count(*) FROM attempts").await?);
    let mut hashes = Check::new("outbox.hashes", "every envelope's bytes have its hash");
    tx.scan_envelopes(|hash, raw| {
        options.progress.more(1);
        let mut stored = B256::ZERO;
        let digits = hash.strip_prefix("0x").unwrap_or_default();
        let is_hash = hex::decode_to_slice(digits, stored.as_mut_slice()).is_ok();
        hashes.expect(is_hash && keccak256(raw) == stored, || {
            (format!("attempts {hash}"), "its bytes have another hash".to_owned())
        });
    })
    .await?;
    let mut checks = vec![hashes];
    if options.deep {
        let mut senders = Check::new(
            "outbox.senders",
            "every envelope is signed by its key, for its chain and account nonce",
        );
        tx.scan_attempts(|row| {
            let problem = sender_problem(&row);
            senders.expect(problem.is_none(), || {
                (format!("attempts {}", row.hash), problem.unwrap_or_default().to_owned())
            });
        })
        .await?;
        checks.push(senders);
    }
    checks.extend(keep(tx, EVIDENCE).await?);
    Ok(checks)
}

/// What is wrong with who signed an envelope.
fn sender_problem(row: &AttemptRow<'_>) -> Option<&'static str> {
    let Ok(envelope) = TxEnvelope::decode_2718_exact(row.raw) else {
        return Some("its bytes are no transaction");
    };
    let Ok(signer) = envelope.recover_signer() else { return Some("nobody signed it") };
    if row.signer.parse::<Address>().ok() != Some(signer) {
        return Some("another key signed it");
    }
    if envelope.chain_id() != u64::try_from(row.chain_id).ok() {
        return Some("it is for another chain");
    }
    (Some(envelope.nonce()) != u64::try_from(row.account_nonce).ok())
        .then_some("it has another account nonce")
}
