//! How long after its pull a payment is recorded and split: measured for each, by the blocks' own
//! time, and said when it was too long (I-8; ERR E.2.3 calls it I-6). Being late moves no state:
//! it must not freeze money (C-29).

use crate::{
    ledger::{Action, LedgerError, Settlement, SplitterLog, Tx},
    metrics::{
        I7_CHECK_TOTAL, LATENCY_CHECK_TOTAL, RECORD_LANDED_TOTAL, RECORD_LATENCY_SECONDS,
        RECORD_LATENCY_SECONDS_MAX, SPLIT_LATENCY_SECONDS,
    },
};
use serde_json::json;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Longest that any record took in this process, seconds.
static SLOWEST: AtomicU64 = AtomicU64::new(0);

/// Time between two blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lag {
    seconds: u64,
    blocks: u64,
}

/// What the keeper does after a pull, and how long it may take: so many seconds, or so many blocks
/// if the chain is slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    ///
    Record,
    ///
    Split,
}

impl Stage {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Split => "split",
        }
    }

    /// Each has its own: a payment of which both are late has both in the audit log.
    const fn exceeded(self) -> Action {
        match self {
            Self::Record => Action::LatencyExceeded,
            Self::Split => Action::SplitLatencyExceeded,
        }
    }

    const fn longest(self) -> Lag {
        match self {
            Self::Record => Lag { seconds: 6, blocks: 2 },
            Self::Split => Lag { seconds: 12, blocks: 4 },
        }
    }

    const fn is_in_time(self, lag: Lag) -> bool {
        let longest = self.longest();
        lag.seconds <= longest.seconds || lag.blocks <= longest.blocks
    }
}

/// What one round has found; counted once the round is committed.
#[derive(Debug, Default)]
pub(super) struct Findings {
    lags: Vec<(Stage, Lag)>,
    /// Payments whose amount and payee were those of their Transfer, and whose were not.
    pub(super) agreed: u64,
    pub(super) disagreed: u64,
}

impl Findings {
    /// Measures and logs that a payment was recorded, or split, by this log. A record is counted
    /// once, however often reorgs take it back.
    pub(super) async fn measure(
        &mut self,
        tx: &mut Tx,
        settlement: &Settlement,
        stage: Stage,
        log: &SplitterLog,
    ) -> Result<(), LedgerError> {
        let (chain_id, splitter) = (settlement.chain_id, settlement.pay_to);
        let pull = tx.pull_of(chain_id, splitter, settlement.payer, settlement.nonce).await?;
        let lag = pull.map(|pull| Lag {
            seconds: log.block_timestamp.saturating_sub(pull.block_timestamp),
            blocks: log.at.block_number.saturating_sub(pull.at.block_number),
        });
        let (seconds, blocks) = (lag.map(|lag| lag.seconds), lag.map(|lag| lag.blocks));
        let (at, id) = (Some((chain_id, splitter)), Some(settlement.id));
        let is_new = match stage {
            Stage::Record => {
                let detail = json!({
                    "tx_hash": log.at.tx_hash,
                    "log_index": log.at.log_index,
                    "block_number": log.at.block_number,
                    "amount_micro": settlement.amount,
                    "seconds": seconds,
                    "blocks": blocks,
                });
                tx.log_action(Action::SettlementRecorded, at, id, &detail).await?
            }
            Stage::Split => true,
        };
        let Some(lag) = lag.filter(|_| is_new) else { return Ok(()) };
        self.lags.push((stage, lag));
        if !stage.is_in_time(lag) {
            tracing::warn!(
                payment = %settlement.id, stage = stage.as_str(), seconds, blocks,
                "settlement_latency_exceeded: too long after its pull"
            );
            let detail = json!({
                "subcause": "settlement_latency_exceeded",
                "stage": stage.as_str(),
                "tx_hash": log.at.tx_hash,
                "seconds": seconds,
                "blocks": blocks,
            });
            tx.log_action(stage.exceeded(), at, id, &detail).await?;
        }
        Ok(())
    }

    /// Counts what was found.
    pub(super) fn count(&self) {
        for (result, checks) in [("hold", self.agreed), ("violation", self.disagreed)] {
            if checks > 0 {
                I7_CHECK_TOTAL.add(checks, [result]);
            }
        }
        for (stage, lag) in &self.lags {
            let took = Duration::from_secs(lag.seconds);
            let result = if stage.is_in_time(*lag) { "pass" } else { "breach" };
            LATENCY_CHECK_TOTAL.add(1, [result, stage.as_str()]);
            match stage {
                Stage::Record => {
                    let slowest = SLOWEST.fetch_max(lag.seconds, Ordering::Relaxed);
                    RECORD_LANDED_TOTAL.add(1, []);
                    RECORD_LATENCY_SECONDS.record(took, []);
                    RECORD_LATENCY_SECONDS_MAX.set(slowest.max(lag.seconds), []);
                }
                Stage::Split => SPLIT_LATENCY_SECONDS.record(took, []),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// in time by the clock, or by blocks where those are slow.
    #[test]
    fn in_time_is_six_seconds_or_two_blocks_and_twice_that_for_a_split() {
        let lag = |seconds, blocks| Lag { seconds, blocks };
        for (stage, seconds, blocks) in [(Stage::Record, 6, 2), (Stage::Split, 12, 4)] {
            assert!(stage.is_in_time(lag(seconds, 100)), "{stage:?}");
            assert!(stage.is_in_time(lag(100, blocks)), "{stage:?}");
            assert!(!stage.is_in_time(lag(seconds + 1, blocks + 1)), "{stage:?}");
        }
    }
}
