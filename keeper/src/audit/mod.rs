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
use books::{Books, Claimed, Keys};
use chrono::TimeDelta;
use events::Payments;
use rules::{BOOKED, BOOKS, EVIDENCE, MINED, MIRRORED, ONCE, Rule};
use seals::Seals;
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

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
    let keys = Keys::default();
    let lanes = ledger.snapshot(LANES).await?;
    let (mut tx, mut report, claimed, books, outbox) = match <[Tx; LANES]>::try_from(lanes) {
        Ok([first, second, third]) => {
            let payments = lane(payments(first, options.clone(), keys.clone()));
            let books = lane(all_books(second, keys));
            let outbox = lane(outbox_and_rest(third, options.clone()));
            let (first, report, claimed) = ended(payments.await)?;
            let (_, books) = ended(books.await)?;
            let (_, outbox) = ended(outbox.await)?;
            (first, report, claimed, books, outbox)
        }
        Err(mut one) => {
            let Some(tx) = one.pop() else { return Err(LedgerError::Conflict("snapshot".into())) };
            let (tx, report, claimed) = payments(tx, options.clone(), keys.clone()).await?;
            let (tx, books) = all_books(tx, keys).await?;
            let (tx, outbox) = outbox_and_rest(tx, options.clone()).await?;
            (tx, report, claimed, books, outbox)
        }
    };
    let (books, mut checks) = books;
    report.checks.push(books.balance);
    report.checks.append(&mut checks);
    report.checks.extend(outbox.checks);
    // What passes through has journals and a mirror of its own kind: the rules know them.
    const PASSING: &str =
        "SELECT (SELECT count(*) FROM x402_settlements WHERE kind <> 'capability')
        + (SELECT count(*) FROM passed_events)";
    let is_plain = tx.count(PASSING).await? == 0;
    let is_booked = is_plain && books.fit && claimed.claims.fit_journal(&books.claims);
    for (rules, fit) in [
        (BOOKED, is_booked),
        (MIRRORED, is_plain && claimed.claims.fit_mirror(&books.claims)),
        (ONCE, !claimed.is_twice),
        (MINED, outbox.is_mined),
    ] {
        report.checks.extend(keep_unless(&mut tx, rules, fit).await?);
    }
    Ok(report.conclude())
}

/// Begins a lane, on whatever core is free. It ends with its handle.
fn lane<T: Send + 'static>(
    work: impl Future<Output = Result<T, LedgerError>> + Send + 'static,
) -> AbortOnDropHandle<Result<T, LedgerError>> {
    AbortOnDropHandle::new(tokio::spawn(work))
}

fn ended<T>(outcome: Result<Result<T, LedgerError>, JoinError>) -> Result<T, LedgerError> {
    outcome.unwrap_or_else(|error| Err(LedgerError::Conflict(format!("the audit: {error}"))))
}

/// Events, seals and the payments' own columns.
async fn payments(
    mut tx: Tx,
    options: Options,
    keys: Keys,
) -> Result<(Tx, Report, Claimed), LedgerError> {
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
    let mut claimed = Claimed::new(keys);
    tx.scan_settlements(|row| {
        payments.settlement(&row);
        claimed.settlement(&row);
        options.progress.more(1);
        Ok(())
    })
    .await?;
    let unsealed_events = seals.unsealed;
    let mut missing = Vec::new();
    let overdue = overdue(&mut tx, &options, unsealed_events).await?;
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
    let verdict = Verdict::Sound;
    let report = Report { verdict, sealed_events, unsealed_events, newest_root, checks, missing };
    Ok((tx, report, claimed))
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

/// The journal in itself, and what it and the mirror say.
async fn all_books(mut tx: Tx, keys: Keys) -> Result<(Tx, (Books, Vec<Check>)), LedgerError> {
    let books = books::books(&mut tx, &keys).await?;
    let checks = keep(&mut tx, BOOKS).await?;
    Ok((tx, (books, checks)))
}

/// Runs rules, or only says how much was looked at where they are known to be kept.
async fn keep_unless(tx: &mut Tx, rules: &[Rule], fit: bool) -> Result<Vec<Check>, LedgerError> {
    if !fit {
        return keep(tx, rules).await;
    }
    let mut checks = Vec::with_capacity(rules.len());
    for rule in rules {
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

/// What a pass over the outbox came to.
struct Outbox {
    checks: Vec<Check>,
    /// Whether whatever was mined is one of the transaction's own envelopes.
    is_mined: bool,
}

async fn outbox_and_rest(mut tx: Tx, options: Options) -> Result<(Tx, Outbox), LedgerError> {
    const ON_CHAIN: &str = "SELECT count(*) FROM transactions WHERE mined_hash IS NOT NULL
        AND state IN ('included', 'safe', 'finalized', 'reverted')";
    options.progress.expect(tx.count("SELECT count(*) FROM attempts").await?);
    let mut hashes = Check::new("outbox.hashes", "every envelope's bytes have its hash");
    let mut envelopes = Check::new(
        "outbox.envelopes",
        "every envelope belongs to a transaction, and every one that was sent has one",
    );
    let mut mined = HashSet::new();
    tx.scan_envelopes(|row| {
        match (row.envelope, row.transaction) {
            (Some((hash, _)), None) => {
                envelopes.fail(format!("attempts {hash}"), "its transaction is not there");
            }
            (None, Some((id, state))) if !matches!(state, "planned" | "parked") => {
                let problem = format!("it is {state} and has no envelope");
                envelopes.fail(format!("transactions {id}"), problem);
            }
            _ => {}
        }
        if let Some((id, _)) = row.transaction.filter(|_| row.is_mined) {
            mined.insert(id);
        }
        let Some((hash, raw)) = row.envelope else { return };
        options.progress.more(1);
        envelopes.pass();
        let mut stored = B256::ZERO;
        let digits = hash.strip_prefix("0x").unwrap_or_default();
        let is_hash = hex::decode_to_slice(digits, stored.as_mut_slice()).is_ok();
        hashes.expect(is_hash && keccak256(raw) == stored, || {
            (format!("attempts {hash}"), "its bytes have another hash".to_owned())
        });
    })
    .await?;
    let is_mined = u64::try_from(mined.len()).ok() == Some(tx.count(ON_CHAIN).await?);
    let mut checks = vec![hashes, envelopes];
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
    checks.extend(keep(&mut tx, EVIDENCE).await?);
    Ok((tx, Outbox { checks, is_mined }))
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
