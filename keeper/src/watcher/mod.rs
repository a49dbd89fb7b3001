//! The watcher: mirrors what the chain's logs say of one Splitter and attributes what came in. It
//! has no key and never records.
//!
//! A window of blocks behind the head is read again at every new head and replaced as a whole, so
//! that the mirror follows a reorg shorter than the window by itself. After a pause the window
//! behind the mirror's own end is read again too. A log that is gone although its block is not is
//! a node's fault, never the chain's: nothing is concluded from it.

mod clock;
mod lookout;
mod parts;
mod passing;
mod read;
mod reread;
mod token;
mod verify;

pub use lookout::Lookout;
pub use passing::Passing;
pub use read::{Receipts, read};
pub use verify::Verifier;

use crate::{
    chain::{BlockTag, Chain, ChainError, Heads},
    failpoint::Point,
    ledger::{
        Contention, END, Lease, Ledger, LedgerError, LogRef, MirrorWindow, Payout, Pull,
        Settlement, SettlementQuery, SplitterLog, SplitterRecord, Stream, Topic, Tx,
    },
    lifecycle::StatusEvent,
};
use alloy::primitives::{Address, B256};
use parts::{MAX_LOGS, parts};
use reread::{Change, Progress};
use serde_json::json;
use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Most blocks read at once while catching up.
const MAX_RANGE: u64 = 2_000;
/// How long to wait for a new head before looking anyway.
const POLL: Duration = Duration::from_secs(5);

/// Why the watcher could not go on.
#[derive(Debug, thiserror::Error)]
pub enum WatcherError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A node's answers do not fit each other; the next attempt may find it consistent.
    #[error("the node contradicts itself: {0}")]
    Inconsistent(String),
}

/// Which blocks of the mirror a reading replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// From its first block on, everything: the chain goes on from there.
    Onwards {
        /// Whether blocks are replaced that were thought to be settled.
        is_deep: bool,
    },
    /// Its own blocks alone.
    Within,
}

impl Extent {
    /// The last block that is replaced.
    const fn end(self, window: &MirrorWindow) -> u64 {
        match self {
            Self::Onwards { .. } => END,
            Self::Within => window.to,
        }
    }
}

impl WatcherError {
    /// Whether another daemon has taken over.
    pub const fn is_lease_lost(&self) -> bool {
        matches!(self, Self::Ledger(LedgerError::LeaseLost(_)))
    }
}

/// Watches one Splitter.
#[derive(Debug)]
pub struct Watcher {
    /// Endpoints.
    pub chain: Chain,
    /// Its head.
    pub heads: Heads,
    /// The ledger.
    pub ledger: Ledger,
    /// The right to write.
    pub lease: Lease,
    /// What is watched.
    pub splitter: SplitterRecord,
    /// Blocks behind the head that are read again at each new head. At least as many as a payment
    /// needs to be confirmed.
    pub window: u64,
}

impl Watcher {
    /// Runs until `stop`, or until the lease is lost.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`]; everything else is retried.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), WatcherError> {
        let mut receipts = Receipts::default();
        let mut progress = Progress::default();
        let mut contention = Contention::default();
        while !stop.is_cancelled() {
            match self.round(&mut receipts, &mut progress).await {
                // Behind: go on at once.
                Ok(true) => continue,
                Ok(false) => contention.over(),
                Err(error) if error.is_lease_lost() => return Err(error),
                // Somebody moved a settlement in between.
                Err(WatcherError::Ledger(error)) if error.is_conflict() => {
                    contention.again("watcher", &error).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(
                        splitter = %self.splitter.address, %error, "watcher: trying again"
                    );
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.heads.changed() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
        Ok(())
    }

    /// Catches up, then reads again what an operator wants. True when there is more to do.
    async fn round(
        &self,
        receipts: &mut Receipts,
        progress: &mut Progress,
    ) -> Result<bool, WatcherError> {
        if self.tick(receipts).await? {
            return Ok(true);
        }
        self.reread(progress).await
    }

    /// Reads one range. True when there is more to catch up.
    async fn tick(&self, receipts: &mut Receipts) -> Result<bool, WatcherError> {
        let Some(seen) = self.heads.latest() else { return Ok(false) };
        let head = seen.head.number();
        let SplitterRecord { chain_id, address, first_block, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let cursor = tx.cursor(chain_id, address, Stream::Mirror).await?.unwrap_or(first_block);
        let finalized = tx.finalized(chain_id).await?;
        let mirrored = tx.mirror_end(chain_id, address).await?;
        drop(tx);
        // To an endpoint that is far behind even what is final looks undone, and a restored ledger,
        // which knows of it from the mirror alone, would have it done again.
        if let Some((number, _)) = finalized.filter(|(number, _)| head < *number) {
            return Err(WatcherError::Inconsistent(format!(
                "block {number} was final, and the newest is {head}"
            )));
        }
        let end = cursor.min(head.saturating_add(1));
        let from = end.saturating_sub(self.window);
        // Where the mirror ends is another chain now: how far back it is another one, nobody knows.
        let usual = from.max(first_block);
        let from = match (self.is_gone(mirrored).await?, finalized) {
            (true, Some((number, _))) => from.min(number.saturating_add(1)),
            (true, None) => first_block,
            (false, _) => from,
        };
        let from = from.max(first_block);
        let to = head.min(from.saturating_add(MAX_RANGE - 1));
        if from > to {
            return Ok(false);
        }
        let mut tx = self.ledger.read().await?;
        let passing = passing::passing(&mut tx, &self.splitter, from).await?;
        drop(tx);
        let range = (from, to);
        let window = read(&self.chain, &self.splitter, range, &passing, receipts).await?;
        let extent = Extent::Onwards { is_deep: from < usual };
        self.check_gone(&window, extent).await?;
        self.store(window, extent, cursor.saturating_sub(1)).await?;
        Ok(to < head)
    }

    /// Whether a block that the mirror ended with is not on the chain any more.
    async fn is_gone(&self, mirrored: Option<(u64, B256)>) -> Result<bool, WatcherError> {
        let Some((number, hash)) = mirrored else { return Ok(false) };
        match self.chain.head(BlockTag::Number(number)).await {
            Ok(block) => Ok(block.hash != hash),
            // The chain is shorter now, or this node lags.
            Err(ChainError::Malformed { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// What the ledger holds and the reading lacks must have lost its block.
    async fn check_gone(&self, window: &MirrorWindow, extent: Extent) -> Result<(), WatcherError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let range = (window.from, extent.end(window));
        let mut held = places(&tx.mirror_window(chain_id, address, range).await?);
        // A payment's evidence, too, though the mirror may have lost it.
        let query = SettlementQuery::PulledIn { from: range.0, to: range.1 };
        let paid = tx.settlements(chain_id, address, query).await?;
        drop(tx);
        held.extend(paid.into_iter().filter_map(|settlement| settlement.pull));
        let found: HashSet<_> = places(window).into_iter().collect();
        let gone = held.into_iter().filter(|at| !found.contains(at));
        let blocks: BTreeSet<_> = gone.map(|at| (at.block_number, at.block_hash)).collect();
        for (number, hash) in blocks {
            match self.chain.head(BlockTag::Number(number)).await {
                Ok(block) if block.hash == hash => {
                    return Err(WatcherError::Inconsistent(format!(
                        "logs of block {number} are gone, but block {hash} is not"
                    )));
                }
                // Another block there, or none yet.
                Ok(_) | Err(ChainError::Malformed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Replaces the range in the mirror, and says what changed. The mirror never ends before `floor`
    /// in between.
    async fn store(
        &self,
        window: MirrorWindow,
        extent: Extent,
        floor: u64,
    ) -> Result<Change, WatcherError> {
        let pulls = window.pulls.iter().chain(&window.passed).map(|pull| pull.at).collect();
        let mut change = Change::default();
        for part in parts(window, MAX_LOGS, floor) {
            change = change.and(self.store_part(part, &pulls, extent).await?);
        }
        Ok(change)
    }

    /// One part of a reading that has these pulls in all.
    async fn store_part(
        &self,
        mut window: MirrorWindow,
        pulls: &HashSet<LogRef>,
        extent: Extent,
    ) -> Result<Change, WatcherError> {
        let SplitterRecord { chain_id, address, asset, .. } = self.splitter;
        let (from, to, end) = (window.from, window.to, extent.end(&window));
        let mut tx = self.ledger.begin_on_snapshot().await?;
        tx.hold_lease(&self.lease).await?;
        let held = tx.mirror_window(chain_id, address, (from, end)).await?;

        self.drop_lost(&mut tx, (from, end), pulls).await?;
        let known: HashSet<_> = held.pulls.iter().map(|pull| pull.at).collect();
        for pull in &mut window.pulls {
            let is_new = !known.contains(&pull.at);
            self.attribute(&mut tx, pull, is_new).await?;
        }
        for pull in &mut window.passed {
            self.attribute_passed(&mut tx, pull).await?;
        }
        // Of a payment that was given up, or that it disagrees with, it is nobody's any more.
        window.passed.retain(|pull| pull.settlement.is_some());
        // Only what changed is written again.
        let changed = first_change(&held, &window);
        let start = changed.unwrap_or(to);
        let change = Change::between(&held, &window, changed.is_some());
        let is_deep = match extent {
            Extent::Onwards { is_deep } => is_deep,
            Extent::Within => changed.is_some(),
        };
        if is_deep {
            // What was concluded and booked from these blocks must be looked at again.
            for stream in [Stream::Journal, Stream::Evidence] {
                let next = tx.cursor(chain_id, address, stream).await?.unwrap_or(from);
                tx.set_cursor(chain_id, address, stream, next.min(from), None).await?;
            }
        }
        window.from = start;
        window.pulls.retain(|pull| pull.at.block_number >= start);
        window.passed.retain(|pull| pull.at.block_number >= start);
        window.payouts.retain(|payout| payout.at.block_number >= start);
        window.logs.retain(|log| log.at.block_number >= start);
        match extent {
            Extent::Onwards { .. } => {
                tx.replace_window(chain_id, address, asset, &window).await?;
            }
            Extent::Within => tx.replace_logs(chain_id, address, asset, &window, end).await?,
        }
        tx.commit(Point::Mirror).await?;
        if changed.is_some() {
            self.ledger.signal(Topic::Settlements);
        }
        Ok(change)
    }

    /// Settlements whose pull is not in the range any more lost it to a reorg.
    async fn drop_lost(
        &self,
        tx: &mut Tx,
        (from, to): (u64, u64),
        pulls: &HashSet<LogRef>,
    ) -> Result<(), WatcherError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let query = SettlementQuery::PulledIn { from, to };
        for settlement in tx.settlements(chain_id, address, query).await? {
            if !settlement.pull.is_some_and(|pull| pulls.contains(&pull)) {
                tracing::warn!(payment = %settlement.id, "its pull lost its block");
                tx.step_status(&settlement, StatusEvent::PullLost, &json!(settlement.pull)).await?;
            }
        }
        Ok(())
    }

    /// Finds the settlement that an inflow pays.
    async fn attribute(
        &self,
        tx: &mut Tx,
        pull: &mut Pull,
        is_new: bool,
    ) -> Result<(), WatcherError> {
        let SplitterRecord { chain_id, asset, .. } = self.splitter;
        let Some(nonce) = pull.nonce else { return Ok(()) };
        let Some(settlement) =
            tx.settlement_by_identity(chain_id, asset, pull.payer, nonce).await?
        else {
            return Ok(());
        };
        if settlement.status.is_void() {
            // Money for a payment that was given up: suspense, and a human.
            if is_new {
                tracing::error!(
                    payment = %settlement.id, tx_hash = %pull.at.tx_hash,
                    "ALARM: money came in for a payment that is {}", settlement.status
                );
            }
            return Ok(());
        }
        pull.settlement = Some(settlement.id);
        if settlement.pull == Some(pull.at) && settlement.status.is_paid() {
            return Ok(());
        }
        self.move_settlement(tx, &settlement, pull, self.splitter.address).await?;
        Ok(())
    }

    /// Finds the payment that passed through, and moves it.
    async fn attribute_passed(&self, tx: &mut Tx, pull: &mut Pull) -> Result<(), WatcherError> {
        let SplitterRecord { chain_id, asset, .. } = self.splitter;
        let Some(nonce) = pull.nonce else { return Ok(()) };
        let known = tx.settlement_by_identity(chain_id, asset, pull.payer, nonce).await?;
        let Some(settlement) = known.filter(|it| !it.status.is_void() && it.passes_through())
        else {
            return Ok(());
        };
        let is_known = settlement.pull == Some(pull.at) && settlement.status.is_paid();
        // It was looked for by its payee.
        if is_known || self.move_settlement(tx, &settlement, pull, settlement.pay_to).await? {
            pull.settlement = Some(settlement.id);
        }
        Ok(())
    }

    /// True when pull and payment agree.
    async fn move_settlement(
        &self,
        tx: &mut Tx,
        settlement: &Settlement,
        pull: &Pull,
        payee: Address,
    ) -> Result<bool, WatcherError> {
        let agreed = settlement.amount == pull.amount && settlement.pay_to == payee;
        if agreed && settlement.status.step(StatusEvent::PullSeen).is_ok() {
            tx.pull_seen(settlement, &pull.at).await?;
        } else if !agreed && settlement.status.step(StatusEvent::Disagree).is_ok() {
            let evidence = json!({"at": pull.at, "amount_micro": pull.amount});
            tx.step_status(settlement, StatusEvent::Disagree, &evidence).await?;
            tracing::error!(
                payment = %settlement.id, expected = %settlement.amount, found = %pull.amount,
                "ALARM: the pull disagrees with what was agreed; the payment is held"
            );
        }
        Ok(agreed)
    }
}

/// Where the logs of a range stand.
fn places(window: &MirrorWindow) -> Vec<LogRef> {
    let all = window.pulls.iter().map(|pull| pull.at);
    let all = all.chain(window.passed.iter().map(|pull| pull.at));
    let all = all.chain(window.payouts.iter().map(|payout| payout.at));
    all.chain(window.logs.iter().map(|log| log.at)).collect()
}

/// The first block in which two readings of the same range differ.
fn first_change(old: &MirrorWindow, new: &MirrorWindow) -> Option<u64> {
    let pull = |pull: &Pull| pull.at.block_number;
    let payout = |payout: &Payout| payout.at.block_number;
    let log = |log: &SplitterLog| log.at.block_number;
    first_difference(&old.pulls, &new.pulls, pull)
        .into_iter()
        .chain(first_difference(&old.passed, &new.passed, pull))
        .chain(first_difference(&old.payouts, &new.payouts, payout))
        .chain(first_difference(&old.logs, &new.logs, log))
        .min()
}

/// The first block in which two ordered lists differ.
fn first_difference<T: PartialEq>(old: &[T], new: &[T], block: fn(&T) -> u64) -> Option<u64> {
    let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    old[same..].iter().chain(&new[same..]).map(block).min()
}
