//! The service that seals the event log while it grows.

use crate::{
    failpoint::Point,
    ledger::{Contention, Lease, Ledger, LedgerError},
    metrics::SEALED_EVENTS,
    pulse::Pulse,
};
use chrono::TimeDelta;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Between two rounds.
const INTERVAL: Duration = Duration::from_secs(10);
/// After so long without a round that came to its end somebody is called.
const MAX_UNSEALED: Duration = Duration::from_secs(60);
/// An event without a seal that is older was not written just before the daemon ended.
const OLD: TimeDelta = TimeDelta::minutes(2);
/// `seq` is not the order of commits: so far behind the last event that has a position it is looked
/// for others. No transaction stays open for more than some seconds.
const TRAILING: u64 = 50_000;

/// Seals the events of a ledger, whatever chain they are of: sealers of two chains take turns.
#[derive(Debug)]
pub struct Sealer {
    /// The ledger.
    pub ledger: Ledger,
    /// The right to write.
    pub lease: Lease,
}

impl Sealer {
    /// Runs until `stop`, or until the lease is lost.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`]; everything else is retried.
    pub async fn run(self, stop: CancellationToken) -> Result<(), LedgerError> {
        let mut contention = Contention::default();
        // The first round looks at every event there is.
        let mut after = 0;
        let mut broken = BTreeSet::new();
        let mut has_looked = false;
        // When a round last came to its end; nothing once somebody was called.
        let mut sealed = Some(Instant::now());
        let pulse = Pulse::start(self.lease.name.replace("chain:", "sealer "));
        while !stop.is_cancelled() {
            pulse.beat();
            let outcome = async {
                if !has_looked {
                    self.look_for_lost_seals().await?;
                    has_looked = true;
                }
                self.round(&mut after, &mut broken).await
            };
            let outcome = outcome.await;
            if let Err(error) = &outcome
                && sealed.is_some_and(|sealed| sealed.elapsed() > MAX_UNSEALED)
            {
                sealed = None;
                tracing::error!(%error, "ALARM: no event could be sealed for a minute");
            }
            match outcome {
                Ok(()) => {
                    sealed = Some(Instant::now());
                    contention.over();
                }
                Err(error) if error.is_lease_lost() => return Err(error),
                Err(error) if error.is_conflict() || error.is_duplicate() => {
                    contention.again("sealer", &error).await;
                    continue;
                }
                Err(error) => tracing::warn!(%error, "sealer: trying again"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
        Ok(())
    }

    /// Whoever takes seals away wants them made anew over another history: it is said before that
    /// happens, once per start.
    async fn look_for_lost_seals(&self) -> Result<(), LedgerError> {
        let mut tx = self.ledger.read().await?;
        let before = tx.clock().await? - OLD;
        let is_first = tx.newest_seal().await?.is_none();
        let old = if is_first { tx.unsealed_before(before).await? } else { 0 };
        let uncovered = tx.uncovered_positions().await?;
        if old > 0 || uncovered > 0 {
            tracing::error!(
                events = old.max(uncovered),
                "ALARM: old events are under no seal; they are sealed as they are. After an upgrade \
                 from a release without seals this is normal, once; otherwise seals were taken away"
            );
        }
        Ok(())
    }

    /// Seals everything that is there, one bounded SQL transaction after the other.
    async fn round(&self, after: &mut u64, known: &mut BTreeSet<u64>) -> Result<(), LedgerError> {
        loop {
            let mut tx = self.ledger.read().await?;
            let first = tx.first_unsealed(*after).await?;
            let last = tx.last_sealed().await?;
            drop(tx);
            let Some(first) = first else {
                *after = last.saturating_sub(TRAILING);
                return Ok(());
            };
            let mut tx = self.ledger.begin_on_snapshot().await?;
            let sealed = tx.seal(&self.lease, first).await?;
            tx.commit(Point::Seal).await?;
            if let Some(seal) = sealed.seal {
                // An operator's log keeps what the database cannot change.
                tracing::info!(from = seal.from, to = seal.to, root = %seal.root, "events sealed");
                SEALED_EVENTS.set(seal.to.saturating_add(1), []);
            }
            if let Some(seq) = sealed.broken.filter(|seq| known.insert(*seq)) {
                tracing::error!(seq, "ALARM: an event is not what its hash says; it is not sealed");
            }
            *after = sealed.last_seq;
        }
    }
}
