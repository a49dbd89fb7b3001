//! Hints that something changed. The ledger is the truth: whoever misses a hint finds the change at
//! its next poll.

use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// There is work for the outbox.
    Intents,
    /// A settlement moved.
    Settlements,
}

/// Both topics' channels. The number counts hints; only its change matters.
#[derive(Debug, Clone)]
pub(super) struct Signals {
    intents: Arc<watch::Sender<u64>>,
    settlements: Arc<watch::Sender<u64>>,
}

impl Signals {
    pub(super) fn new() -> Self {
        Self {
            intents: Arc::new(watch::Sender::new(0)),
            settlements: Arc::new(watch::Sender::new(0)),
        }
    }

    fn topic(&self, topic: Topic) -> &watch::Sender<u64> {
        match topic {
            Topic::Intents => &self.intents,
            Topic::Settlements => &self.settlements,
        }
    }

    pub(super) fn send(&self, topic: Topic) {
        self.topic(topic).send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn listen(&self, topic: Topic) -> Listener {
        Listener { receiver: self.topic(topic).subscribe() }
    }
}

/// Waits for hints.
#[derive(Debug)]
pub struct Listener {
    receiver: watch::Receiver<u64>,
}

impl Listener {
    /// Returns at the next hint, at once if one came since the last call, or after `at_most`.
    pub async fn wait(&mut self, at_most: Duration) {
        // An error would mean that the ledger is closed; then time alone must wake the caller.
        let hint = async {
            if self.receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(at_most, hint).await;
    }
}
