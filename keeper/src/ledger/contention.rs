//! What a service does that met another writer at the same rows.

use super::LedgerError;
use std::time::Duration;

/// Between a round that met another writer and the next.
const DELAY: Duration = Duration::from_millis(20);
/// So many rounds in a row are no coincidence any more.
const SUSPICIOUS: u32 = 50;

/// Rounds in a row that met another writer.
#[derive(Debug, Default)]
pub struct Contention {
    rounds: u32,
}

impl Contention {
    /// Another one; on to the next snapshot.
    pub async fn again(&mut self, service: &str, error: &LedgerError) {
        self.rounds = self.rounds.saturating_add(1);
        if self.rounds.is_multiple_of(SUSPICIOUS) {
            let rounds = self.rounds;
            tracing::warn!(service, rounds, %error, "does not get on: starting over and over");
        } else {
            tracing::debug!(service, %error, "starting over");
        }
        tokio::time::sleep(DELAY).await;
    }

    /// A round that did not.
    pub const fn over(&mut self) {
        self.rounds = 0;
    }
}
