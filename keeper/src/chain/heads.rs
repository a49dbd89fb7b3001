//! Following the head.

use super::{
    BlockTag, Chain, ChainError, Head, Result,
    history::{History, Place, Reorg},
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// A head and when we saw it.
#[derive(Debug, Clone, Copy)]
pub struct SeenHead {
    /// The header.
    pub head: Head,
    /// By this process's monotonic clock.
    pub seen_at: Instant,
    /// By the machine's clock, seconds since 1970, when it followed on a head that was seen before.
    /// Any other may have been there for long.
    pub arrived_at: Option<u64>,
}

impl SeenHead {
    /// The chain's time now: the head's plus what has elapsed since. The machine's own clock may be
    /// wrong; this cannot be wrong by more than a block and the polling interval.
    pub fn now(&self) -> u64 {
        self.head.timestamp().saturating_add(self.seen_at.elapsed().as_secs())
    }
}

/// Without an answer for so long the chain counts as out of reach.
const SILENCE: Duration = Duration::from_secs(10);

/// Reorgs that a follower has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reorgs {
    /// How many.
    pub count: u64,
    /// Blocks that the deepest took.
    pub deepest: u64,
    /// The last one.
    pub last: Option<Reorg>,
}

impl Reorgs {
    fn add(&mut self, reorg: Reorg) {
        self.count = self.count.saturating_add(1);
        self.deepest = self.deepest.max(reorg.depth);
        self.last = Some(reorg);
    }
}

/// The newest head, for everybody in this process. Cheap to clone; the clones share one follower.
#[derive(Debug, Clone)]
pub struct Heads {
    receiver: watch::Receiver<Option<SeenHead>>,
    answered: watch::Receiver<Option<Instant>>,
    reorgs: watch::Receiver<Reorgs>,
    nudge: Arc<Notify>,
}

impl Heads {
    /// Polls the head until `stop`.
    pub fn follow(chain: Chain, interval: Duration, stop: CancellationToken) -> Self {
        let (sender, receiver) = watch::channel::<Option<SeenHead>>(None);
        let (answer, answered) = watch::channel(None);
        let (reorg, reorgs) = watch::channel(Reorgs::default());
        let nudge = Arc::new(Notify::new());
        let nudged = Arc::clone(&nudge);
        tokio::spawn(async move {
            let mut history = History::default();
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {}
                    () = nudged.notified() => {}
                }
                let (head, place) = match look(&chain, &mut history).await {
                    Ok(seen) => seen,
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the head");
                        continue;
                    }
                };
                answer.send_replace(Some(Instant::now()));
                let mut arrived_at = None;
                match place {
                    Place::Same | Place::Behind | Place::Ask(_) => continue,
                    Place::Forward => arrived_at = machine_time(),
                    Place::Anew => {}
                    Place::Reorg(seen) => {
                        let Reorg { depth, at } = seen;
                        tracing::warn!(
                            depth,
                            at,
                            head = head.number(),
                            "the chain was reorganized"
                        );
                        reorg.send_modify(|reorgs| reorgs.add(seen));
                    }
                }
                let seen_at = Instant::now();
                sender.send_replace(Some(SeenHead { head, seen_at, arrived_at }));
            }
        });
        Self { receiver, answered, reorgs, nudge }
    }

    /// The newest head, if any was seen. It goes back only when the chain did: a node that lags does
    /// not move it.
    pub fn latest(&self) -> Option<SeenHead> {
        *self.receiver.borrow()
    }

    /// Whether a node has answered lately.
    pub fn is_answered(&self) -> bool {
        self.answered.borrow().is_some_and(|when| when.elapsed() < SILENCE)
    }

    /// Whether no new block was seen for longer than that: the node answers, and stands still.
    pub fn is_silent(&self, longer_than: Duration) -> bool {
        self.latest().is_some_and(|seen| seen.seen_at.elapsed() > longer_than)
    }

    /// The reorgs since this follower began.
    pub fn reorgs(&self) -> Reorgs {
        *self.reorgs.borrow()
    }

    /// Has the head looked at at once instead of at the next interval. Several nudges make one look.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Waits for another head than the one last returned by this handle.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The follower stopped; so does the caller, by its own token.
            std::future::pending::<()>().await;
        }
    }
}

/// Seconds since 1970 by the machine's clock.
fn machine_time() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|time| time.as_secs())
}

/// Reads the head and its ancestors as far as they are not held, and keeps them.
async fn look(chain: &Chain, history: &mut History) -> Result<(Head, Place)> {
    let method = "eth_getBlockByHash";
    let chain = chain.pinned().await?;
    let head = chain.head(BlockTag::Latest).await?;
    let mut path = vec![head];
    let mut child = head;
    loop {
        let place = history.place(&path);
        let Place::Ask(parent) = place else {
            history.take(place, &path);
            return Ok((head, place));
        };
        let block = chain.head_by_hash(parent).await?.filter(|block| {
            block.hash == parent && block.number().checked_add(1) == Some(child.number())
        });
        child = block.ok_or_else(|| ChainError::Malformed {
            method,
            reason: format!("no parent of block {}", child.number()),
        })?;
        path.push(child);
    }
}
