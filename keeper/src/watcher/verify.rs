//! The verifier: reads what is final again, from two endpoints, and holds the mirror against both.
//! An endpoint that leaves out a log, or makes one up, is not found out by asking it twice.

use super::{MAX_RANGE, Receipts, WatcherError, passing::passing, read};
use crate::{
    chain::Chain,
    failpoint::Point,
    ledger::{ClosureReason, Lease, Ledger, MirrorWindow, SplitterRecord, Stream},
};
use alloy::primitives::B256;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks when there is nothing left to compare.
const INTERVAL: Duration = Duration::from_secs(5);
/// After a difference, or without a second endpoint that answers.
const PATIENCE: Duration = Duration::from_secs(15);

/// Verifies one Splitter's mirror.
#[derive(Debug)]
pub struct Verifier {
    /// Endpoints.
    pub chain: Chain,
    /// The ledger.
    pub ledger: Ledger,
    /// The right to write.
    pub lease: Lease,
    /// Which Splitter.
    pub splitter: SplitterRecord,
}

/// A range as an endpoint shows it.
struct Reading {
    endpoint: String,
    window: MirrorWindow,
}

/// What came of one step.
enum Step {
    /// Everything that is final is compared.
    Done,
    /// There is more.
    More,
    /// There was a difference.
    Differs,
}

impl Verifier {
    /// Runs until `stop`, or until the lease is lost. With one endpoint there is nothing to do.
    ///
    /// # Errors
    /// [`crate::ledger::LedgerError::LeaseLost`]; everything else is retried.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WatcherError> {
        if self.chain.singly().len() < 2 {
            tracing::info!(
                splitter = %self.splitter.address,
                "one rpc endpoint: what it says of final blocks is held against nobody's word"
            );
            stop.cancelled().await;
            return Ok(());
        }
        while !stop.is_cancelled() {
            let pause = match self.step().await {
                Ok(Step::More) => continue,
                Ok(Step::Done) => INTERVAL,
                Ok(Step::Differs) => PATIENCE,
                Err(error) if error.is_lease_lost() => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        splitter = %self.splitter.address, %error, "verifier: trying again"
                    );
                    PATIENCE
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    /// Compares one range.
    async fn step(&self) -> Result<Step, WatcherError> {
        let SplitterRecord { chain_id, address, first_block, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let next = tx.cursor(chain_id, address, Stream::Verified).await?.unwrap_or(first_block);
        let mirrored = tx.cursor(chain_id, address, Stream::Mirror).await?.unwrap_or(first_block);
        let finalized = tx.finalized(chain_id).await?;
        drop(tx);
        let Some((finalized, _)) = finalized else { return Ok(Step::Done) };
        let Some(mirrored) = mirrored.checked_sub(1) else { return Ok(Step::Done) };
        let last = finalized.min(mirrored);
        let to = last.min(next.saturating_add(MAX_RANGE - 1));
        if next > to {
            return Ok(Step::Done);
        }
        let mut difference = self.difference(next, to).await?;
        if difference.is_some() {
            // One of them may just have been behind.
            difference = self.difference(next, to).await?;
        }
        match difference {
            Some(detail) => {
                self.close(&detail).await?;
                Ok(Step::Differs)
            }
            None => Ok(if to < last { Step::More } else { Step::Done }),
        }
    }

    /// Reads a range from two endpoints and moves the cursor if mirror and both agree; else says who
    /// differs from whom.
    async fn difference(&self, from: u64, to: u64) -> Result<Option<String>, WatcherError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let readings = self.readings(from, to).await?;
        let mut tx = self.ledger.begin_on_snapshot().await?;
        tx.hold_lease(&self.lease).await?;
        let held = tx.mirror_window(chain_id, address, (from, to)).await?.unattributed();
        let head = common_head(&readings);
        let differ: Vec<_> =
            readings.iter().filter_map(|reading| reading.difference(&held)).collect();
        match head {
            Some(head) if differ.is_empty() => {
                let next = to.saturating_add(1);
                tx.set_cursor(chain_id, address, Stream::Verified, next, Some(head)).await?;
                tx.commit(Point::Watch).await?;
                Ok(None)
            }
            Some(_) => Ok(Some(format!("blocks {from} to {to}: {}", differ.join("; ")))),
            None => Ok(Some(format!("the endpoints show different blocks {to}"))),
        }
    }

    /// The range from the first two endpoints that have come as far.
    async fn readings(&self, from: u64, to: u64) -> Result<Vec<Reading>, WatcherError> {
        let mut readings = Vec::new();
        let mut failure = None;
        let mut tx = self.ledger.read().await?;
        let passing = passing(&mut tx, &self.splitter, from).await?;
        drop(tx);
        for endpoint in self.chain.singly() {
            let mut receipts = Receipts::default();
            match read(&endpoint, &self.splitter, (from, to), &passing, &mut receipts).await {
                Ok(window) => {
                    readings.push(Reading { endpoint: endpoint.name().to_owned(), window });
                }
                Err(error) => failure = Some(error),
            }
            if readings.len() == 2 {
                return Ok(readings);
            }
        }
        let one = WatcherError::Inconsistent("only one endpoint can be compared".to_owned());
        Err(failure.unwrap_or(one))
    }

    async fn close(&self, detail: &str) -> Result<(), WatcherError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        let is_new = tx.close(chain_id, address, ClosureReason::SourcesDiffer, detail).await?;
        tx.commit(Point::Watch).await?;
        if is_new {
            tracing::error!(
                splitter = %address, detail,
                "ALARM: two endpoints disagree about what is final; the Splitter is closed"
            );
        }
        Ok(())
    }
}

/// The last block's hash, if both show the same.
fn common_head(readings: &[Reading]) -> Option<B256> {
    let head = readings.first()?.window.head_hash;
    readings.iter().all(|reading| reading.window.head_hash == head).then_some(head)
}

impl Reading {
    /// In what the mirror differs from it, by the first log of each kind.
    fn difference(&self, held: &MirrorWindow) -> Option<String> {
        let Self { endpoint, window } = self;
        let kinds = [
            first(&held.pulls, &window.pulls, |pull| pull.at.position()).map(|at| ("inflows", at)),
            first(&held.passed, &window.passed, |pull| pull.at.position())
                .map(|at| ("what passed it by", at)),
            first(&held.payouts, &window.payouts, |payout| payout.at.position())
                .map(|at| ("outflows", at)),
            first(&held.logs, &window.logs, |log| log.at.position())
                .map(|at| ("the Splitter's events", at)),
        ];
        let kinds: Vec<_> = kinds
            .into_iter()
            .flatten()
            .map(|(what, (block, index))| format!("{what} from block {block}, log {index} on"))
            .collect();
        (!kinds.is_empty())
            .then(|| format!("{endpoint} and the mirror differ in {}", kinds.join(" and ")))
    }
}

/// Where two ordered lists first differ.
fn first<T: PartialEq>(
    held: &[T],
    read: &[T],
    position: fn(&T) -> (u64, u64),
) -> Option<(u64, u64)> {
    let same = held.iter().zip(read).take_while(|(held, read)| held == read).count();
    held.iter().skip(same).chain(read.iter().skip(same)).map(position).min()
}
