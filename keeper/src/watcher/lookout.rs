//! The lookout: closes a Splitter while its token or this machine's clock is not as it must be, and
//! opens it again where that is over by itself. It moves no payment.

use super::{
    WatcherError,
    clock::{Clock, Verdict},
    token::{self, Doubt},
};
use crate::{
    chain::{BlockTag, Chain, Heads, SeenHead},
    failpoint::Point,
    ledger::{ClosureReason, Lease, Ledger, SplitterRecord, Stream},
    metrics::{STREAM_BLOCK, STREAM_LAG_BLOCKS},
    pulse::Pulse,
};
use alloy::primitives::B256;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks at the token, unless no block came.
const INTERVAL: Duration = Duration::from_secs(5);
/// Seconds between two blocks of Base.
const BLOCK_TIME: Duration = Duration::from_secs(2);

/// What was looked at.
#[derive(Debug, Default)]
struct Looked {
    /// The newest block of which all was seen.
    head: Option<B256>,
    /// A token that is not the known one.
    doubt: Doubt,
}

/// Looks out for one Splitter.
#[derive(Debug)]
pub struct Lookout {
    /// Endpoints.
    pub chain: Chain,
    /// Its head.
    pub heads: Heads,
    /// The ledger.
    pub ledger: Ledger,
    /// The right to write.
    pub lease: Lease,
    /// Which Splitter.
    pub splitter: SplitterRecord,
    /// By how much this machine's clock may be off.
    pub max_clock_skew: Duration,
    /// How often the head is looked at.
    pub poll_interval: Duration,
    /// Without a new block for so long the chain counts as silent.
    pub max_silence: Duration,
}

impl Lookout {
    /// Runs until `stop`, or until the lease is lost.
    ///
    /// # Errors
    /// [`crate::ledger::LedgerError::LeaseLost`]; everything else is retried.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), WatcherError> {
        let mut clock = Clock::new(self.max_clock_skew, BLOCK_TIME, self.poll_interval);
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looked = Looked::default();
        let mut was_silent = false;
        let pulse = Pulse::start(format!("lookout {}", self.splitter.address));
        loop {
            pulse.beat();
            let round = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.heads.changed() => self.meet(&mut clock, &mut looked).await,
                _ = ticks.tick() => {
                    self.listen(&mut was_silent);
                    self.look(&mut looked).await
                }
            };
            match round {
                Ok(()) => {}
                Err(error) if error.is_lease_lost() => return Err(error),
                Err(error) => {
                    tracing::warn!(
                        splitter = %self.splitter.address, %error, "lookout: trying again"
                    );
                }
            }
        }
    }

    /// Says once that no block comes, and once that they come again.
    fn listen(&self, was_silent: &mut bool) {
        let is_silent = self.heads.is_silent(self.max_silence);
        if is_silent && !*was_silent {
            tracing::error!(
                chain_id = self.splitter.chain_id, longer_than = ?self.max_silence,
                "ALARM: the chain is silent: no new block"
            );
        } else if *was_silent && !is_silent {
            tracing::info!(chain_id = self.splitter.chain_id, "blocks come again");
        }
        *was_silent = is_silent;
    }

    /// A head has come. The first is looked at at once.
    async fn meet(&self, clock: &mut Clock, looked: &mut Looked) -> Result<(), WatcherError> {
        self.look_at_clock(clock).await?;
        if looked.head.is_none() { self.look(looked).await } else { Ok(()) }
    }

    /// What is to be seen at the newest block, unless it was looked at before.
    async fn look(&self, looked: &mut Looked) -> Result<(), WatcherError> {
        let Some(SeenHead { head, .. }) = self.heads.latest() else { return Ok(()) };
        self.measure(head.number()).await?;
        if looked.head == Some(head.hash) {
            return Ok(());
        }
        // One node, and none that is before this block: it would show what was.
        let node = self.chain.pinned_at(head.number()).await?;
        let at = BlockTag::Number(head.number());
        // Each on its own: a node that cannot tell the one may tell the other.
        let token = self.look_at_token(&node, at, head.hash, &mut looked.doubt).await;
        self.look_at_bars(&node, at).await?;
        token?;
        looked.head = Some(head.hash);
        Ok(())
    }

    /// The token's code and implementation are what they were, or somebody looks first.
    async fn look_at_token(
        &self,
        node: &Chain,
        at: BlockTag,
        head: B256,
        doubt: &mut Doubt,
    ) -> Result<(), WatcherError> {
        let SplitterRecord { chain_id, address, asset, .. } = self.splitter;
        let seen = token::sight(node, asset, at).await?;
        let mut tx = self.ledger.read().await?;
        let known = tx.token_sighting(chain_id, address).await?;
        drop(tx);
        if !doubt.judge(head, seen, known) {
            if known.is_some_and(|known| known != seen) {
                tracing::warn!(
                    splitter = %address, block = %at, ?seen,
                    "the token looks like another one; looking again"
                );
            }
            return Ok(());
        }
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        // It is known from now on: when the closure is lifted, this is what it is held against.
        tx.add_token_sighting(chain_id, address, asset, &seen).await?;
        let detail = known.map(|known| {
            format!(
                "token {asset} at block {at}: implementation {} was {}, hash of the code {} was {}",
                seen.implementation, known.implementation, seen.code_hash, known.code_hash
            )
        });
        if let Some(detail) = &detail {
            tx.close(chain_id, address, ClosureReason::TokenChanged, detail).await?;
        }
        tx.commit(Point::Watch).await?;
        if let Some(detail) = detail {
            tracing::error!(
                splitter = %address, detail, "ALARM: the token is not what it was; the Splitter is closed"
            );
        }
        Ok(())
    }

    /// Paused, or a blacklist that would have every split revert.
    async fn look_at_bars(&self, node: &Chain, at: BlockTag) -> Result<(), WatcherError> {
        let asset = self.splitter.asset;
        let paused = token::is_paused(node, asset, at).await?;
        let paused = paused.then(|| format!("token {asset} is paused at block {at}"));
        if self.set(ClosureReason::TokenPaused, paused.as_deref()).await? {
            tracing::error!(
                splitter = %self.splitter.address,
                "ALARM: the token is paused; the Splitter is closed until that is over"
            );
        }
        let barred = token::barred(node, &self.splitter, at).await?;
        let detail = (!barred.is_empty()).then(|| {
            format!("the blacklist of token {asset} has {} at block {at}", barred.join(" and "))
        });
        if self.set(ClosureReason::Blacklisted, detail.as_deref()).await? {
            tracing::error!(
                splitter = %self.splitter.address, who = barred.join(", "),
                "ALARM: the token's blacklist has an account that every split needs; the Splitter is \
                 closed until that is over"
            );
        }
        Ok(())
    }

    /// Holds the machine's clock against a head that has just come.
    async fn look_at_clock(&self, clock: &mut Clock) -> Result<(), WatcherError> {
        let Some(SeenHead { head, arrived_at: Some(machine), .. }) = self.heads.latest() else {
            return Ok(());
        };
        let detail = match clock.judge(head.timestamp(), machine) {
            Verdict::Open => return Ok(()),
            Verdict::Right => None,
            Verdict::Wrong(skew) => Some(format!(
                "block {} is of second {}, and came at second {machine} of this machine's clock: \
                 {skew} s",
                head.number(),
                head.timestamp()
            )),
        };
        if self.set(ClosureReason::ClockSkew, detail.as_deref()).await? {
            tracing::error!(
                splitter = %self.splitter.address, detail,
                "ALARM: this machine's clock and the chain's disagree; the Splitter is closed until \
                 that is over"
            );
        }
        Ok(())
    }

    /// Closes for a reason while there is a detail, and opens when there is none. True when it has
    /// just been closed.
    async fn set(&self, reason: ClosureReason, detail: Option<&str>) -> Result<bool, WatcherError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let closures = tx.closures(chain_id, address).await?;
        drop(tx);
        let is_closed = closures.iter().any(|closure| closure.reason == reason);
        if is_closed == detail.is_some() {
            return Ok(false);
        }
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        let why = "it is over";
        let is_changed = match detail {
            Some(detail) => tx.close(chain_id, address, reason, detail).await?,
            None => tx.lift(chain_id, address, reason, why).await?,
        };
        tx.commit(Point::Watch).await?;
        if is_changed && detail.is_none() {
            tracing::info!(splitter = %address, %reason, "what closed the Splitter is over");
        }
        Ok(is_changed && detail.is_some())
    }

    /// How fresh each stream is.
    async fn measure(&self, head: u64) -> Result<(), WatcherError> {
        let SplitterRecord { chain_id, address, .. } = self.splitter;
        let mut tx = self.ledger.read().await?;
        let splitter = address.to_string();
        for (stream, name) in [
            (Stream::Mirror, "mirror"),
            (Stream::Journal, "journal"),
            (Stream::Verified, "verified"),
        ] {
            let Some(next) = tx.cursor(chain_id, address, stream).await? else { continue };
            let last = next.saturating_sub(1);
            STREAM_BLOCK.set(last, [&splitter, name]);
            STREAM_LAG_BLOCKS.set(head.saturating_sub(last), [&splitter, name]);
        }
        Ok(())
    }
}
