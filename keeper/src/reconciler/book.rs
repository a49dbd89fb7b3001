//! Booking what the mirror holds: one journal per log, in chain order, once. What was booked from
//! blocks that a reorg took is reversed first, and booked again as it stands now.

use super::{
    Reconciler, ReconcilerError,
    entry::{Entry, Place, place, provider_behind},
};
use crate::{
    failpoint::Point,
    ledger::{
        AccountCode, Action, JournalKind, LOOK_BACK, LedgerError, LogRef, Posting, Pull,
        SplitterLog, SplitterRecord, Stream, Tx,
    },
    lifecycle::KeeperState,
    splitter::SplitterEvent,
    x402::MicroUsdc,
};
use alloy::primitives::{B256, U256};
use serde_json::json;
use std::collections::HashSet;
use uuid::Uuid;

/// Most blocks, and most logs, booked in one SQL transaction: it holds up the lease's renewal.
const MAX_BLOCKS: u64 = 500;
const MAX_ENTRIES: usize = 500;
/// Blocks after which it is strange that the driver has not found a record.
const LONG: u64 = 30;

/// What came of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Booked,
    /// The driver has not found it yet.
    Early,
    /// Not even suspense takes it.
    Refused,
}

/// Logs that cannot be booked at all: nothing is taken back for them again.
pub(super) type Refused = HashSet<Place>;

/// A journal about to be posted.
struct Draft {
    kind: JournalKind,
    settlement: Option<Uuid>,
    postings: Vec<Posting>,
}

impl Reconciler {
    /// Books the next blocks that are buried deep enough. True when there are more.
    ///
    /// Depth is counted from where the mirror ends, not from the head: after a pause the mirror's
    /// last blocks may be of a chain that is gone, until the watcher has read them again.
    pub(super) async fn book(
        &self,
        head: u64,
        refused: &mut Refused,
    ) -> Result<bool, ReconcilerError> {
        let SplitterRecord { chain_id, address, first_block, .. } = self.splitter;
        let mut tx = self.ledger.begin_on_snapshot().await?;
        tx.hold_lease(&self.lease).await?;
        let mirrored = tx.cursor(chain_id, address, Stream::Mirror).await?.unwrap_or(first_block);
        let from = tx.cursor(chain_id, address, Stream::Journal).await?.unwrap_or(first_block);
        // A mirror that ends above the head is of another chain.
        let is_stale = mirrored > head.saturating_add(1);
        if is_stale {
            return Ok(false);
        }
        let start = from.saturating_sub(LOOK_BACK).max(first_block);
        // After a deep reading `from` may be far behind what is booked: what was lost further on is
        // found when its blocks come.
        let far = from.saturating_add(MAX_BLOCKS);
        if let Some(lost) = tx.first_lost(chain_id, address, start, mirrored.min(far)).await? {
            self.take_back(tx, &lost, from).await?;
            return Ok(true);
        }
        if tx.is_booked_from(chain_id, address, mirrored).await? {
            // The mirror is being read anew, or the chain is shorter than it was: what is booked
            // beyond it may have come to stand before it.
            return Ok(false);
        }
        let end = mirrored.saturating_sub(self.confirmations.saturating_sub(1));
        let Some(to) = end.min(far).checked_sub(1).filter(|to| *to >= from) else {
            return Ok(false);
        };
        let booked = tx.booked_in(chain_id, address, (start, to)).await?;
        let last_booked = tx.last_booked(chain_id, address).await?;
        let mut entries = Vec::new();
        entries.extend(tx.pulls(chain_id, address, start, to).await?.into_iter().map(Entry::Pull));
        let passed = tx.passed(chain_id, address, start, to).await?;
        entries.extend(passed.into_iter().map(Entry::Passed));
        entries
            .extend(tx.payouts(chain_id, address, start, to).await?.into_iter().map(Entry::Payout));
        entries.extend(
            tx.splitter_logs(chain_id, address, start, to).await?.into_iter().map(Entry::Log),
        );
        entries.retain(Entry::moves_money);
        entries.sort_by_key(|entry| entry.at().position());
        let is_open = |entry: &Entry| !booked.contains(&place(entry.at()));
        let is_late = |entry: &Entry| Some(entry.at().position()) < last_booked;
        refused.retain(|of| entries.iter().any(|entry| place(entry.at()) == *of));
        // Logs explain one another, and accounts must not be overdrawn: they are booked in order.
        let late = entries.iter().find(|entry| {
            is_open(entry) && is_late(entry) && !refused.contains(&place(entry.at()))
        });
        if let Some(late) = late {
            self.take_back(tx, late.at(), from).await?;
            return Ok(true);
        }
        let behind = entries.iter().skip(1).map(Some).chain([None]);
        let open: Vec<_> = entries
            .iter()
            .zip(behind)
            .filter(|(entry, _)| is_open(entry) && !is_late(entry))
            .collect();
        let mut cannot = Vec::new();
        for (position, (entry, behind)) in open.into_iter().enumerate() {
            if position >= MAX_ENTRIES {
                tx.commit(Point::Book).await?;
                refused.extend(cannot);
                return Ok(true);
            }
            let outcome = self.book_one(&mut tx, entry, behind).await?;
            if outcome == Outcome::Refused {
                cannot.push(place(entry.at()));
            }
            if outcome == Outcome::Early {
                // The driver has not caught up with this log; it is booked in a later round, and
                // so is everything behind it.
                tx.commit(Point::Book).await?;
                refused.extend(cannot);
                if end.saturating_sub(entry.at().block_number) > LONG {
                    tracing::warn!(
                        tx_hash = %entry.at().tx_hash,
                        "the books wait for the driver to find this record"
                    );
                }
                return Ok(false);
            }
        }
        let next = self.next_block(&mut tx, (to.saturating_add(1), end), mirrored).await?;
        tx.set_cursor(chain_id, address, Stream::Journal, next, None).await?;
        tx.commit(Point::Book).await?;
        refused.extend(cannot);
        Ok(next < end)
    }

    /// The next block from which there is something to do: a log to be booked or taken back.
    async fn next_block(
        &self,
        tx: &mut Tx,
        (next, end): (u64, u64),
        mirrored: u64,
    ) -> Result<u64, LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        if next >= end {
            return Ok(next);
        }
        let range = (next, end.saturating_sub(1));
        let open = tx.first_unbooked(chain_id, address, range).await?;
        let lost = tx.first_lost(chain_id, address, next, mirrored).await?;
        let lost = lost.map(|lost| lost.block_number);
        Ok(open.into_iter().chain(lost).min().map_or(end, |block| block.clamp(next, end)))
    }

    /// Reverses everything from a log on, lost or come late, so that what is booked next is
    /// what booking from scratch would give. The first comes last: until it is reversed the next round
    /// goes on.
    async fn take_back(
        &self,
        mut tx: Tx,
        first: &LogRef,
        from: u64,
    ) -> Result<(), ReconcilerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let reversed = match tx.reverse_from(chain_id, address, first, MAX_ENTRIES).await {
            Ok(reversed) => reversed,
            Err(error) => {
                if error.is_refusal() {
                    tracing::error!(
                        tx_hash = %first.tx_hash, log_index = first.log_index, %error,
                        "ALARM: what a reorg took cannot be taken out of the books"
                    );
                }
                return Err(error.into());
            }
        };
        if reversed < MAX_ENTRIES {
            let next = from.min(first.block_number);
            tx.set_cursor(chain_id, address, Stream::Journal, next, None).await?;
        }
        tx.commit(Point::Reverse).await?;
        tracing::warn!(
            tx_hash = %first.tx_hash, block = first.block_number, reversed,
            "a reorg took what was booked, or a log came late: reversed, to be booked anew"
        );
        Ok(())
    }

    /// Books one log. What cannot be booked as what it says goes into suspense, with an alarm: it
    /// must not hold up the others. False when it is too early.
    async fn book_one(
        &self,
        tx: &mut Tx,
        entry: &Entry,
        behind: Option<&Entry>,
    ) -> Result<Outcome, ReconcilerError> {
        tx.mark().await?;
        let refused = match self.draft(tx, entry, behind).await {
            Ok(None) => {
                tx.undo().await?;
                return Ok(Outcome::Early);
            }
            Ok(Some(draft)) => match self.post(tx, entry, draft).await {
                Ok(()) => {
                    tx.keep().await?;
                    return Ok(Outcome::Booked);
                }
                Err(error) => ReconcilerError::from(error),
            },
            Err(error) => error,
        };
        if !refused.is_refusal() {
            return Err(refused);
        }
        let at = entry.at();
        tracing::error!(
            tx_hash = %at.tx_hash, log_index = at.log_index, error = %refused,
            "ALARM: a log cannot be booked as what it says; it is in suspense"
        );
        tx.undo().await?;
        tx.mark().await?;
        match self.post(tx, entry, unexplained(entry)?).await {
            Ok(()) => tx.keep().await?,
            Err(error) if error.is_refusal() => {
                tracing::error!(
                    tx_hash = %at.tx_hash, log_index = at.log_index, %error,
                    "ALARM: a log cannot be booked at all; ledger and chain differ by it"
                );
                tx.undo().await?;
                return Ok(Outcome::Refused);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Outcome::Booked)
    }

    async fn post(&self, tx: &mut Tx, entry: &Entry, draft: Draft) -> Result<(), LedgerError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let Draft { kind, settlement, postings } = draft;
        tx.post(chain_id, address, kind, settlement, entry.at(), &postings).await
    }

    async fn draft(
        &self,
        tx: &mut Tx,
        entry: &Entry,
        next: Option<&Entry>,
    ) -> Result<Option<Draft>, ReconcilerError> {
        Ok(match entry {
            Entry::Pull(pull) => Some(self.draft_pull(tx, pull).await?),
            Entry::Passed(pull) => Some(draft_passed(tx, pull).await?),
            Entry::Payout(payout) => Some(Draft {
                kind: JournalKind::Payout,
                settlement: None,
                postings: vec![
                    Posting::debit(AccountCode::Payable(payout.recipient), payout.amount),
                    Posting::credit(AccountCode::Splitter, payout.amount),
                ],
            }),
            Entry::Log(log) => match log.event {
                SplitterEvent::SettlementRecorded { capability_id, amount, .. } => {
                    self.draft_record(tx, log, capability_id, micro(amount)?).await?
                }
                SplitterEvent::CapabilityRegistered { .. }
                | SplitterEvent::CapabilityDeactivated { .. } => {
                    return Err(ReconcilerError::Unexplained(log.at));
                }
                SplitterEvent::PaymentSplit { .. } => Some(self.draft_split(log, next)?),
                SplitterEvent::ProviderEscrowed { provider, amount } => {
                    let amount = micro(amount)?;
                    Some(Draft {
                        kind: JournalKind::Escrow,
                        settlement: None,
                        postings: vec![
                            Posting::debit(AccountCode::Payable(provider), amount),
                            Posting::credit(AccountCode::Escrow(provider), amount),
                        ],
                    })
                }
                SplitterEvent::ProviderWithdrew { provider, amount } => {
                    let amount = micro(amount)?;
                    Some(Draft {
                        kind: JournalKind::Withdrawal,
                        settlement: None,
                        postings: vec![
                            Posting::debit(AccountCode::Escrow(provider), amount),
                            Posting::credit(AccountCode::Payable(provider), amount),
                        ],
                    })
                }
            },
        })
    }

    /// Money for a settlement waits in clearing; money for nobody in suspense.
    async fn draft_pull(&self, tx: &mut Tx, pull: &Pull) -> Result<Draft, ReconcilerError> {
        let mut paid = None;
        if let Some(id) = pull.settlement {
            paid = tx.settlement(id).await?.filter(|known| known.status.is_paid());
        }
        let sold = paid.and_then(|known| Some((known.id, known.splitter_capability_id?)));
        let Some((settlement, capability)) = sold else {
            tracing::info!(
                tx_hash = %pull.at.tx_hash, amount = %pull.amount,
                "money came in that no payment asked for"
            );
            let SplitterRecord { chain_id, address, .. } = self.splitter;
            let detail = json!({"at": pull.at, "amount_micro": pull.amount});
            let action = Action::UnattributedBalance;
            tx.log_action(action, Some((chain_id, address)), None, &detail).await?;
            return Ok(Draft {
                kind: JournalKind::UnattributedInflow,
                settlement: None,
                postings: vec![
                    Posting::debit(AccountCode::Splitter, pull.amount),
                    Posting::credit(AccountCode::Suspense, pull.amount),
                ],
            });
        };
        let clearing = AccountCode::Clearing(capability);
        let mut postings = vec![
            Posting::debit(AccountCode::Splitter, pull.amount),
            Posting::credit(clearing, pull.amount),
        ];
        if tx.left_by(settlement, AccountCode::Suspense).await? < 0 {
            // Its record came first, and took its money out of suspense.
            postings.push(Posting::debit(clearing, pull.amount));
            postings.push(Posting::credit(AccountCode::Suspense, pull.amount));
        }
        Ok(Draft { kind: JournalKind::Pull, settlement: Some(settlement), postings })
    }

    /// A record that is a settlement's takes its money out of clearing, if its pull was booked
    /// there. Any other takes it out of suspense, which may be overdrawn and then shows it.
    async fn draft_record(
        &self,
        tx: &mut Tx,
        log: &SplitterLog,
        capability: B256,
        amount: MicroUsdc,
    ) -> Result<Option<Draft>, ReconcilerError> {
        let SplitterRecord { chain_id, address, asset, .. } = self.splitter;
        let SplitterEvent::SettlementRecorded { payer, .. } = log.event else { return Ok(None) };
        let named = match log.nonce {
            Some(nonce) => tx.settlement_by_identity(chain_id, asset, payer, nonce).await?,
            None => None,
        };
        // Not looked for yet, or known from a block that a reorg has taken.
        if let Some(known) = &named {
            if matches!(known.keeper_state, KeeperState::Recording | KeeperState::Held) {
                return Ok(None);
            }
            // A ledger that was put back does not know of it until the driver has found it.
            let is_new = known.keeper_state == KeeperState::None && known.status.is_paid();
            if is_new && known.splitter_capability_id.is_some() {
                return Ok(None);
            }
            let records = tx.records_of(chain_id, address, known.payer, known.nonce).await?;
            let follows = matches!(
                known.keeper_state,
                KeeperState::Recorded | KeeperState::Splitting | KeeperState::Split
            );
            let stale = known.record.filter(|_| follows).is_some_and(|record| {
                !records.iter().any(|log| {
                    (log.at.tx_hash, log.at.position()) == (record.tx_hash, record.position())
                })
            });
            if stale {
                return Ok(None);
            }
        }
        let ours = named.filter(|known| {
            known.record.is_some_and(|record| {
                record.tx_hash == log.at.tx_hash && record.log_index == log.at.log_index
            })
        });
        let mut from = AccountCode::Suspense;
        let kind = match &ours {
            Some(settlement) => {
                if let Some(paid_for) = settlement.splitter_capability_id {
                    let clearing = AccountCode::Clearing(paid_for);
                    if tx.left_by(settlement.id, clearing).await? > 0 {
                        from = clearing;
                    }
                }
                JournalKind::Record
            }
            None => {
                tracing::error!(
                    tx_hash = %log.at.tx_hash,
                    "ALARM: a record that belongs to no settlement of this ledger"
                );
                JournalKind::UnattributedRecord
            }
        };
        Ok(Some(Draft {
            kind,
            settlement: ours.map(|settlement| settlement.id),
            postings: vec![
                Posting::debit(from, amount),
                Posting::credit(AccountCode::Accounted(capability), amount),
            ],
        }))
    }

    fn draft_split(
        &self,
        log: &SplitterLog,
        next: Option<&Entry>,
    ) -> Result<Draft, ReconcilerError> {
        let SplitterRecord { hub_treasury, network_reserve, .. } = self.splitter;
        let SplitterEvent::PaymentSplit {
            capability_id,
            amount,
            provider_amount,
            hub_amount,
            reserve_amount,
            ..
        } = log.event
        else {
            return Err(ReconcilerError::Unexplained(log.at));
        };
        let mut postings =
            vec![Posting::debit(AccountCode::Accounted(capability_id), micro(amount)?)];
        if !provider_amount.is_zero() {
            let provider = provider_behind(log, next, provider_amount)?;
            postings.push(Posting::credit(AccountCode::Payable(provider), micro(provider_amount)?));
        }
        postings.push(Posting::credit(AccountCode::Payable(hub_treasury), micro(hub_amount)?));
        postings
            .push(Posting::credit(AccountCode::Payable(network_reserve), micro(reserve_amount)?));
        Ok(Draft { kind: JournalKind::Split, settlement: None, postings })
    }
}

/// Money that went past the Splitter touches none of its accounts.
async fn draft_passed(tx: &mut Tx, pull: &Pull) -> Result<Draft, ReconcilerError> {
    let payment = match pull.settlement {
        Some(id) => tx.settlement(id).await?,
        None => None,
    };
    let payment = payment.ok_or(ReconcilerError::Unexplained(pull.at))?;
    Ok(Draft {
        kind: JournalKind::Pull,
        settlement: Some(payment.id),
        postings: vec![
            Posting::debit(AccountCode::PassedThrough, pull.amount),
            Posting::credit(AccountCode::Passed(payment.pay_to), pull.amount),
        ],
    })
}

/// A journal that says no more of a log than what came in or went out. Anything else is marked as
/// looked at.
fn unexplained(entry: &Entry) -> Result<Draft, LedgerError> {
    let (debit, credit, amount) = match entry {
        Entry::Pull(pull) => (AccountCode::Splitter, AccountCode::Suspense, pull.amount),
        // It never came in: there is nothing to hold.
        Entry::Passed(pull) => {
            (AccountCode::PassedThrough, AccountCode::PassedThrough, pull.amount)
        }
        Entry::Payout(payout) => (AccountCode::Suspense, AccountCode::Splitter, payout.amount),
        Entry::Log(log) => match log.event {
            SplitterEvent::SettlementRecorded { amount, .. }
            | SplitterEvent::PaymentSplit { amount, .. }
            | SplitterEvent::ProviderEscrowed { amount, .. }
            | SplitterEvent::ProviderWithdrew { amount, .. } => {
                (AccountCode::Suspense, AccountCode::Suspense, micro(amount)?)
            }
            SplitterEvent::CapabilityRegistered { .. }
            | SplitterEvent::CapabilityDeactivated { .. } => {
                (AccountCode::Suspense, AccountCode::Suspense, MicroUsdc::ZERO)
            }
        },
    };
    Ok(Draft {
        kind: JournalKind::Unexplained,
        settlement: None,
        postings: vec![Posting::debit(debit, amount), Posting::credit(credit, amount)],
    })
}

fn micro(amount: U256) -> Result<MicroUsdc, LedgerError> {
    MicroUsdc::try_from(amount)
        .map_err(|_| LedgerError::OutOfRange { what: "amount", value: amount.to_string() })
}
