//! Blocks that are read again because an operator wants it: a log that the mirror lacks, a ledger
//! that was put back, an endpoint that kept something to itself.

use super::{Extent, MAX_RANGE, Receipts, Watcher, WatcherError, passing::passing, places, read};
use crate::{
    failpoint::Point,
    ledger::{Action, LogRef, MirrorWindow, Outcome, Reread, SplitterRecord, Stream},
    metrics::REPLAY_SKIPPED_TOTAL,
};
use serde_json::json;
use std::collections::HashSet;

/// How often in a row a range is tried before its order is given up: others wait behind it.
const MAX_ATTEMPTS: u32 = 10;

/// What a reading changed in the mirror.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Logs that it did not hold.
    added: usize,
    /// Logs that it held and that are not on the chain.
    removed: usize,
    /// Whether anything at all was different.
    is_change: bool,
}

impl Change {
    pub(super) fn between(old: &MirrorWindow, new: &MirrorWindow, is_change: bool) -> Self {
        if !is_change {
            return Self::default();
        }
        let old: HashSet<LogRef> = places(old).into_iter().collect();
        let new: HashSet<LogRef> = places(new).into_iter().collect();
        let (added, removed) = (new.difference(&old).count(), old.difference(&new).count());
        Self { added, removed, is_change }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            added: self.added.saturating_add(other.added),
            removed: self.removed.saturating_add(other.removed),
            is_change: self.is_change || other.is_change,
        }
    }

    fn in_words(self) -> String {
        match self {
            Self { is_change: false, .. } => "nothing new".to_owned(),
            Self { added: 0, removed: 0, .. } => "what logs said was corrected".to_owned(),
            Self { added, removed, .. } => format!("logs added: {added}, removed: {removed}"),
        }
    }
}

/// How far the order is that is being carried out. A restart begins it anew: nothing is lost by
/// reading twice.
#[derive(Debug, Default)]
pub(super) struct Progress {
    order: i64,
    next: u64,
    change: Change,
    /// How often in a row the next range could not be read.
    failures: u32,
}

impl Watcher {
    /// One step of the oldest order. True when there is more to do.
    pub(super) async fn reread(&self, progress: &mut Progress) -> Result<bool, WatcherError> {
        let SplitterRecord { chain_id, address, first_block, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let orders = tx.open_rereads(chain_id, address).await?;
        let mirrored = tx.cursor(chain_id, address, Stream::Mirror).await?.unwrap_or(first_block);
        drop(tx);
        let Some(order) = orders.first() else { return Ok(false) };
        if progress.order != order.id {
            let next = order.from.max(first_block);
            *progress = Progress { order: order.id, next, ..Progress::default() };
        }
        // What the mirror does not hold yet is read by itself, and in its order.
        let last = order.to.min(mirrored.saturating_sub(1));
        if progress.next <= last {
            let to = last.min(progress.next.saturating_add(MAX_RANGE - 1));
            match self.reread_range(progress.next, to).await {
                Ok(change) => {
                    progress.change = progress.change.and(change);
                    progress.failures = 0;
                }
                Err(WatcherError::Inconsistent(what)) => {
                    // The operator asked and waits; nobody else would be told.
                    let text = format!("the node contradicts itself, nothing was changed: {what}");
                    self.finish(order, &Outcome { succeeded: false, text }, false).await?;
                    return Ok(orders.len() > 1);
                }
                Err(WatcherError::Chain(error)) => {
                    progress.failures = progress.failures.saturating_add(1);
                    if progress.failures < MAX_ATTEMPTS {
                        return Err(error.into());
                    }
                    let next = progress.next;
                    let text =
                        format!("given up at block {next} after {MAX_ATTEMPTS} tries: {error}");
                    self.finish(order, &Outcome { succeeded: false, text }, false).await?;
                    return Ok(orders.len() > 1);
                }
                Err(error) => return Err(error),
            }
            progress.next = to.saturating_add(1);
            if to < last {
                return Ok(true);
            }
        }
        let text = progress.change.in_words();
        let is_change = progress.change.is_change;
        self.finish(order, &Outcome { succeeded: true, text }, !is_change).await?;
        Ok(orders.len() > 1)
    }

    async fn reread_range(&self, from: u64, to: u64) -> Result<Change, WatcherError> {
        // What was learned before may be what is wrong.
        let mut receipts = Receipts::default();
        let mut tx = self.ledger.read().await?;
        let passing = passing(&mut tx, &self.splitter, from).await?;
        drop(tx);
        let range = (from, to);
        let window = read(&self.chain, &self.splitter, range, &passing, &mut receipts).await?;
        self.check_gone(&window, Extent::Within).await?;
        self.store(window, Extent::Within, from).await
    }

    async fn finish(
        &self,
        order: &Reread,
        outcome: &Outcome,
        is_skipped: bool,
    ) -> Result<(), WatcherError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let Reread { id, from, to, reason } = order;
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        tx.finish_reread(*id, outcome).await?;
        let action = if is_skipped { Action::ReplaySkipped } else { Action::Reread };
        let Outcome { succeeded, text } = outcome;
        let detail = json!({
            "from": from, "to": to, "reason": reason, "succeeded": succeeded, "outcome": text,
        });
        tx.log_action(action, Some((chain_id, address)), None, &detail).await?;
        tx.commit(Point::Watch).await?;
        if is_skipped {
            REPLAY_SKIPPED_TOTAL.add(1, []);
            tracing::info!(from, to, reason, "x402.keeper.duplicate_ignored: nothing new");
        } else {
            tracing::info!(from, to, reason, succeeded, outcome = text, "blocks were read again");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_it_is_said_in_words() {
        let change = |added, removed, is_change| Change { added, removed, is_change };
        for (change, words) in [
            (change(0, 0, false), "nothing new"),
            (change(0, 0, true), "what logs said was corrected"),
            (change(3, 0, true), "logs added: 3, removed: 0"),
            (change(1, 0, true).and(change(2, 1, true)), "logs added: 3, removed: 1"),
        ] {
            assert_eq!(change.in_words(), words);
        }
    }
}
