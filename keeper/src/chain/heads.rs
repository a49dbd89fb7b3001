//! Following the head.

use super::{BlockTag, Chain, Head};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A head and when we saw it.
#[derive(Debug, Clone, Copy)]
pub struct SeenHead {
    /// The header.
    pub head: Head,
    /// By this process's monotonic clock.
    pub seen_at: Instant,
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

/// The newest head, for everybody in this process.
#[derive(Debug, Clone)]
pub struct Heads {
    receiver: watch::Receiver<Option<SeenHead>>,
    answered: watch::Receiver<Option<Instant>>,
}

impl Heads {
    /// Polls the head until `stop`.
    pub fn follow(chain: Chain, interval: Duration, stop: CancellationToken) -> Self {
        let (sender, receiver) = watch::channel::<Option<SeenHead>>(None);
        let (answer, answered) = watch::channel(None);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                match chain.head(BlockTag::Latest).await {
                    Ok(head) => {
                        answer.send_replace(Some(Instant::now()));
                        sender.send_if_modified(|seen| {
                            let new = seen.is_none_or(|seen| seen.head.hash != head.hash);
                            if new {
                                *seen = Some(SeenHead { head, seen_at: Instant::now() });
                            }
                            new
                        });
                    }
                    Err(error) => tracing::warn!(%error, "cannot read the head"),
                }
            }
        });
        Self { receiver, answered }
    }

    /// The newest head, if any was seen.
    pub fn latest(&self) -> Option<SeenHead> {
        *self.receiver.borrow()
    }

    /// Whether a node has answered lately.
    pub fn is_answered(&self) -> bool {
        self.answered.borrow().is_some_and(|when| when.elapsed() < SILENCE)
    }

    /// Waits for another head than the one last returned by this handle.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The follower stopped; so does the caller, by its own token.
            std::future::pending::<()>().await;
        }
    }
}
