//! The outbox: takes intents to finality, each with exactly one effect on the chain.
//!
//! An account nonce is allocated in the SQL transaction that claims the work; an envelope's bytes and
//! hash are committed before they are sent; an unknown send result frees nothing; only the finalized
//! count decides an account nonce. docs/outbox.md has the whole list of what it guarantees and what
//! it assumes.

mod follow;
mod foreign;
mod orders;
mod plan;
mod quarantine;

pub(crate) use quarantine::seen_of;

use crate::{
    chain::{Chain as Rpc, ChainError, Heads},
    ledger::{Flag, Lease, Ledger, LedgerError, SignerRole, Topic},
    lifecycle::{Closed, JITTER_PERCENT, Limits, backoff},
    metrics::{PARKED_NONCES, PAUSED, PENDING_TRANSACTIONS},
    pulse::Pulse,
    signer::{Signer, SignerError},
};
use alloy::primitives::{Address, B256};
use rand::Rng;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How long a poll may take when nothing is signalled.
const POLL: Duration = Duration::from_secs(1);
/// How often it is looked whether what was final still is.
const GUARD_INTERVAL: Duration = Duration::from_secs(2);

/// Why the outbox could not go on.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The key.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// An operator wants nothing signed.
    #[error("signing is switched off; `keeper flags set x402_keeper_enabled on` switches it on")]
    SwitchedOff,
    /// The chain has taken back a block that was final.
    #[error(
        "chain {chain_id}: block {number} was final as {remembered} and is {found} now; nothing is \
         sent or booked until a human has compared ledger and chain: read \
         docs/runbooks/finality.md, then run `keeper tx quarantine --accept-reorg`"
    )]
    FinalityBroken {
        /// Which chain.
        chain_id: u64,
        /// Number of the block.
        number: u64,
        /// Its hash when it was final.
        remembered: B256,
        /// Its hash now.
        found: B256,
    },
}

impl OutboxError {
    /// Whether another daemon has taken over.
    pub const fn is_lease_lost(&self) -> bool {
        matches!(self, Self::Ledger(LedgerError::LeaseLost(_)))
    }
}

/// Runs the transactions of one signer on one chain.
#[derive(Debug)]
pub struct Outbox {
    /// Chain id.
    pub chain_id: u64,
    /// Endpoints.
    pub chain: Rpc,
    /// Its head.
    pub heads: Heads,
    /// The ledger.
    pub ledger: Ledger,
    /// The right to write.
    pub lease: Lease,
    /// The key.
    pub signer: Signer,
    /// What the key may do.
    pub role: SignerRole,
    /// What it may spend, unless an operator has set something else at run time.
    pub limits: Limits,
    /// Most of its transactions that are under way and not mined.
    pub max_pending: u64,
    /// The Splitters that are served; their mirrors say what was done.
    pub splitters: Vec<Address>,
    /// Once this is cancelled nothing is sent.
    pub stop: CancellationToken,
}

/// What the outbox remembers between ticks; none of it is needed after a restart.
#[derive(Debug, Default)]
struct Memory {
    /// When a transaction's bytes were last handed to the nodes.
    sent: BTreeMap<i64, Instant>,
    /// When a mined transaction was last looked at.
    looked: BTreeMap<i64, Instant>,
    /// Since when what a transaction follows from is not on the chain.
    missing: BTreeMap<i64, Instant>,
    /// When the purse was last looked at.
    purse: Option<Instant>,
    /// When it was last looked whether what was final still is.
    guarded: Option<Instant>,
    /// Whether an operator wants nothing signed.
    is_off: bool,
}

impl Outbox {
    /// Runs until it is stopped, or until the lease is lost.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`] and [`OutboxError::FinalityBroken`]; everything else is retried.
    pub async fn run(mut self) -> Result<(), OutboxError> {
        let stop = self.stop.clone();
        let mut work = self.ledger.listen(Topic::Intents);
        let mut memory = Memory::default();
        let mut adopted = false;
        let mut failures = 0u64;
        let pulse = Pulse::start(format!("outbox {}", self.signer.address()));
        while !stop.is_cancelled() {
            pulse.beat();
            let done = async {
                if !adopted {
                    self.guard().await?;
                    self.adopt().await?;
                    adopted = true;
                }
                self.tick(&mut memory).await
            };
            match done.await {
                Ok(()) => failures = 0,
                Err(
                    error @ (OutboxError::Ledger(LedgerError::LeaseLost(_))
                    | OutboxError::FinalityBroken { .. }),
                ) => return Err(error),
                Err(error) => {
                    tracing::warn!(signer = %self.signer.address(), %error, "outbox: trying again");
                    failures = failures.saturating_add(1);
                }
            }
            // A new head says that a node answers again: then nothing waits for the backoff's end.
            let chance = rand::thread_rng().gen_range(0..=2 * JITTER_PERCENT);
            let pause = failures.checked_sub(1).map_or(POLL, |before| backoff(before, chance));
            tokio::select! {
                () = stop.cancelled() => {}
                () = work.wait(pause) => {}
                () = self.heads.changed() => {}
            }
        }
        // Whoever leads next counts.
        for gauge in [PENDING_TRANSACTIONS, PARKED_NONCES] {
            gauge.set(0, [&self.label()]);
        }
        for reason in Closed::ALL {
            PAUSED.set(0, [&self.label(), reason.as_str()]);
        }
        Ok(())
    }

    /// The signer, as metrics name it.
    fn label(&self) -> String {
        self.signer.address().to_string()
    }

    /// Each part on its own: a fault of one must not hold up the others.
    async fn tick(&self, memory: &mut Memory) -> Result<(), OutboxError> {
        let mut parts = Vec::new();
        let is_off = !self.may_sign().await?;
        if is_off != memory.is_off {
            memory.is_off = is_off;
            tracing::warn!(signer = %self.signer.address(), is_off, "signing was switched");
        }
        if memory.guarded.is_none_or(|guarded| guarded.elapsed() >= GUARD_INTERVAL) {
            self.guard().await?;
            memory.guarded = Some(Instant::now());
            // Nobody is called for what waits on purpose.
            if !is_off {
                parts.push(self.flag_late().await);
            }
        }
        parts.push(self.obey(memory).await);
        let mut tx = self.ledger.read().await?;
        let known = tx.signer(self.chain_id, self.signer.address()).await?;
        drop(tx);
        if let Some(known) = known.filter(|_| !is_off) {
            parts.push(match &known.quarantine {
                Some(quarantine) => self.heal(&known, quarantine).await,
                None => self.plan(memory, &known).await,
            });
        }
        if !is_off {
            parts.push(self.sign().await);
        }
        parts.push(self.follow(memory).await);
        worst(parts)
    }

    /// Whether an operator wants transactions signed.
    async fn may_sign(&self) -> Result<bool, OutboxError> {
        let mut tx = self.ledger.read().await?;
        Ok(tx.flag(Flag::X402KeeperEnabled).await?)
    }
}

/// The error that matters most: a lost lease ends everything, anything else is tried again.
fn worst(parts: impl IntoIterator<Item = Result<(), OutboxError>>) -> Result<(), OutboxError> {
    let errors = parts.into_iter().filter_map(Result::err);
    let worst = errors.reduce(|first, next| {
        let (worse, other) = if next.is_lease_lost() { (next, first) } else { (first, next) };
        tracing::debug!(error = %other, "outbox: another fault in the same round");
        worse
    });
    worst.map_or(Ok(()), Err)
}
