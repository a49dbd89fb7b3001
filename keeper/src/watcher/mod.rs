//! The watcher: mirrors what the chain's logs say of one Splitter and attributes what came in. It
//! has no key and never records.
//!
//! A window of blocks behind the head is read again at every new head and replaced as a whole, so
//! that the mirror follows a reorg shorter than the window by itself. After a pause the window
//! behind the mirror's own end is read again too. A log that is gone although its block is not is
//! a node's fault, never the chain's: nothing is concluded from it.

mod read;

use crate::{
    chain::{BlockTag, Chain, ChainError, Heads},
    failpoint::Point,
    ledger::{
        Contention, Lease, Ledger, LedgerError, LogRef, MirrorWindow, Payout, Pull, Settlement,
        SettlementQuery, SplitterLog, SplitterRecord, Stream, Topic, Tx,
    },
    lifecycle::StatusEvent,
};
use alloy::primitives::B256;
use read::Receipts;
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};
use tokio_util::sync::CancellationToken;

/// Most blocks read at once while catching up.
const MAX_RANGE: u64 = 2_000;
/// Beyond every block: after a reorg to a shorter chain the mirror holds some above its head.
const END: u64 = u64::MAX >> 1;
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
        let mut contention = Contention::default();
        while !stop.is_cancelled() {
            match self.tick(&mut receipts).await {
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
        let window = self.read(from, to, receipts).await?;
        self.check_gone(&window).await?;
        if self.store(window, from < usual).await? {
            self.ledger.signal(Topic::Settlements);
        }
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

    /// What the mirror holds and the reading lacks must have lost its block.
    async fn check_gone(&self, window: &MirrorWindow) -> Result<(), WatcherError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let pulls = tx.pulls(chain_id, address, window.from, END).await?;
        let payouts = tx.payouts(chain_id, address, window.from, END).await?;
        let logs = tx.splitter_logs(chain_id, address, window.from, END).await?;
        drop(tx);
        let places = |pulls: &[Pull], payouts: &[Payout], logs: &[SplitterLog]| {
            let all = pulls.iter().map(|pull| pull.at);
            let all = all.chain(payouts.iter().map(|payout| payout.at));
            all.chain(logs.iter().map(|log| log.at)).collect::<Vec<LogRef>>()
        };
        let found = places(&window.pulls, &window.payouts, &window.logs);
        let gone = places(&pulls, &payouts, &logs).into_iter().filter(|at| !found.contains(at));
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

    /// Replaces the range in the mirror. True when something new came in.
    async fn store(&self, mut window: MirrorWindow, is_deep: bool) -> Result<bool, WatcherError> {
        let SplitterRecord { chain_id, address, asset, .. } = self.splitter;
        let (from, to) = (window.from, window.to);
        let mut tx = self.ledger.begin_on_snapshot().await?;
        tx.hold_lease(&self.lease).await?;
        let old_pulls = tx.pulls(chain_id, address, from, END).await?;
        let old_payouts = tx.payouts(chain_id, address, from, END).await?;
        let old_logs = tx.splitter_logs(chain_id, address, from, END).await?;

        if is_deep {
            // What was concluded and booked from these blocks must be looked at again.
            let booked = tx.cursor(chain_id, address, Stream::Journal).await?.unwrap_or(from);
            let journal = (Stream::Journal, booked.min(from));
            for (stream, next) in [journal, (Stream::Evidence, from)] {
                tx.set_cursor(chain_id, address, stream, next, None).await?;
            }
        }
        self.drop_lost(&mut tx, &window).await?;
        for pull in &mut window.pulls {
            let is_new = !old_pulls.iter().any(|old| old.at == pull.at);
            self.attribute(&mut tx, pull, is_new).await?;
        }
        // Only what changed is written again.
        let changed =
            first_difference(&old_pulls, &window.pulls, |pull: &Pull| pull.at.block_number)
                .into_iter()
                .chain(first_difference(&old_payouts, &window.payouts, |payout: &Payout| {
                    payout.at.block_number
                }))
                .chain(first_difference(&old_logs, &window.logs, |log: &SplitterLog| {
                    log.at.block_number
                }))
                .min();
        let start = changed.unwrap_or(to);
        window.from = start;
        window.pulls.retain(|pull| pull.at.block_number >= start);
        window.payouts.retain(|payout| payout.at.block_number >= start);
        window.logs.retain(|log| log.at.block_number >= start);
        tx.replace_window(chain_id, address, asset, &window).await?;
        tx.commit(Point::Mirror).await?;
        Ok(changed.is_some())
    }

    /// Settlements whose pull is not in the range any more lost it to a reorg.
    async fn drop_lost(&self, tx: &mut Tx, window: &MirrorWindow) -> Result<(), WatcherError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let query = SettlementQuery::PulledIn { from: window.from, to: END };
        for settlement in tx.settlements(chain_id, address, query).await? {
            let kept = window.pulls.iter().any(|pull| Some(pull.at) == settlement.pull);
            if !kept {
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
        self.move_settlement(tx, &settlement, pull).await
    }

    async fn move_settlement(
        &self,
        tx: &mut Tx,
        settlement: &Settlement,
        pull: &Pull,
    ) -> Result<(), WatcherError> {
        let agreed = settlement.amount == pull.amount && settlement.pay_to == self.splitter.address;
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
        Ok(())
    }
}

/// The first block in which two ordered lists differ.
fn first_difference<T: PartialEq>(old: &[T], new: &[T], block: fn(&T) -> u64) -> Option<u64> {
    let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    old[same..].iter().chain(&new[same..]).map(block).min()
}
