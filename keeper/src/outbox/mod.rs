//! The outbox: takes intents to finality, each with exactly one effect on the chain.
//!
//! What it promises in this release: an account nonce is allocated in the SQL transaction that
//! claims the work; an envelope's bytes and hash are committed before they are sent; an unknown
//! send result frees nothing; a transaction is given up only when the finalized count is past its
//! account nonce and none of its envelopes has a receipt, and then it is parked for a human. An
//! envelope that cannot be mined, or is not for half a minute, is replaced for higher fees; a pull
//! whose window is over, and a record or split whose cause is gone, give way to a transaction that
//! does nothing. What is not here yet: spending caps.
//!
//! What it assumes: the key signs for nobody else, the node's `finalized` does not move back, the
//! database keeps what it has committed.

use crate::{
    chain::{BlockTag, Chain as Rpc, ChainError, Heads},
    ledger::{
        Envelope, Intent, IntentKind, Lease, Ledger, LedgerError, MinedCost, Outgoing, SignerRole,
        Topic,
    },
    lifecycle::{
        AttemptKind, Cause, Chain, Effect, Fees, Mined, Replacement, Sighting, TransactionState,
        Unmined,
    },
    signer::{Signer, SignerError},
};
use alloy::{
    consensus::TxEip1559,
    primitives::{Address, Bytes, TxKind},
};
use chrono::Utc;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Transactions of one signer that are not mined yet. Nodes take 16 per sender.
const MAX_PENDING: u64 = 12;
/// Seconds that must be left of a pull's window when it gets its account nonce.
const MIN_PULL_SECONDS: u64 = 4;
/// Mined transactions that are looked at in one round.
const MAX_MINED: usize = 16;
/// How long a poll may take when nothing is signalled.
const POLL: Duration = Duration::from_secs(1);
/// How long bytes are left with the nodes before they are handed over again.
const REBROADCAST_AFTER: Duration = Duration::from_secs(4);
/// Most intents that are simulated in one round; signing and following must have their turn.
const MAX_SIMULATIONS: u64 = 64;
/// How long work that would revert waits before it is simulated again; each time twice as long …
const FIRST_DEFERRAL: Duration = Duration::from_secs(1);
/// … but so often at most: 32 s.
const MAX_DOUBLINGS: u32 = 5;
/// After so many deferrals, half a minute, something is wrong that does not pass by itself.
const PATIENCE: u64 = 5;
/// Most that an envelope offers, wei per gas: two thousand times what Base asks on a quiet day.
const MAX_FEE_PER_GAS: u64 = 20_000_000_000;
/// Gas limit of a transaction that does nothing.
const NOOP_GAS: u64 = 21_000;
/// Most characters of a node's words that are kept.
const MAX_REASON: usize = 300;

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
    /// Somebody else sends with our key, or the ledger is older than the chain.
    #[error(
        "signer {signer} has sent {on_chain} transactions, but the ledger allocated only {allocated} \
         account nonces: another program uses the key, or this ledger is an old backup; find out \
         which before the keeper may sign again"
    )]
    ForeignUse {
        /// The signer.
        signer: Address,
        /// Its transaction count.
        on_chain: u64,
        /// The ledger's next account nonce.
        allocated: u64,
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
}

impl Outbox {
    /// Runs until `stop`, or until the lease is lost.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`] and [`OutboxError::ForeignUse`]; everything else is retried.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), OutboxError> {
        let mut work = self.ledger.listen(Topic::Intents);
        let mut memory = Memory::default();
        let mut adopted = false;
        while !stop.is_cancelled() {
            let done = async {
                if !adopted {
                    self.adopt().await?;
                    adopted = true;
                }
                self.tick(&mut memory).await
            };
            match done.await {
                Ok(()) => {}
                Err(
                    error @ (OutboxError::Ledger(LedgerError::LeaseLost(_))
                    | OutboxError::ForeignUse { .. }),
                ) => return Err(error),
                Err(error) => {
                    tracing::warn!(signer = %self.signer.address(), %error, "outbox: trying again");
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = work.wait(POLL) => {}
                () = self.heads.changed() => {}
            }
        }
        Ok(())
    }

    /// Takes the signer over and checks that nobody else used it.
    async fn adopt(&self) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let on_chain = self.chain.transaction_count(signer, BlockTag::Latest).await?;
        let mut tx = self.ledger.begin().await?;
        let allocated =
            tx.adopt_signer(&self.lease, self.chain_id, signer, self.role, on_chain).await?;
        tx.commit().await?;
        if on_chain > allocated {
            return Err(OutboxError::ForeignUse { signer, on_chain, allocated });
        }
        Ok(())
    }

    /// Each part on its own: a fault of one must not hold up the others.
    async fn tick(&self, memory: &mut Memory) -> Result<(), OutboxError> {
        let parts = [self.plan().await, self.sign().await, self.follow(memory).await];
        worst(parts)
    }

    /// Gives due intents account nonces.
    async fn plan(&self) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let mut budget = MAX_SIMULATIONS;
        let mut faults = Vec::new();
        while budget > 0 {
            let mut tx = self.ledger.read().await?;
            let pending = tx.pending_transactions(self.chain_id, signer).await?;
            let room = MAX_PENDING.saturating_sub(pending).min(budget);
            let due = tx.due_intents(self.chain_id, signer, room).await?;
            drop(tx);
            if due.is_empty() {
                break;
            }
            for intent in &due {
                budget = budget.saturating_sub(1);
                match self.plan_one(intent).await {
                    Ok(()) => {}
                    // No node answers: the others would not do better.
                    Err(error @ OutboxError::Chain(_)) => return Err(error),
                    Err(error) => faults.push(Err(error)),
                }
            }
        }
        worst(faults)
    }

    /// Plans an intent, or puts it off: what is wrong with one must not hold up the next.
    async fn plan_one(&self, intent: &Intent) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        if self.has_expired(intent) {
            let mut tx = self.ledger.begin().await?;
            tx.hold_lease(&self.lease).await?;
            let reason = "the authorization's window closed before its pull";
            tx.cancel_intent(intent.id, reason).await?;
            tx.commit().await?;
            tracing::warn!(intent = intent.id, reason, "pull cancelled");
            return Ok(());
        }
        let latest = BlockTag::Latest;
        match self.chain.simulate(Some(signer), intent.to, &intent.calldata, latest).await {
            Ok(_) => {}
            Err(error @ ChainError::Unavailable { .. }) => return Err(error.into()),
            Err(error) => return self.put_off(intent, &error).await,
        }
        let mut tx = self.ledger.begin().await?;
        let nonce = tx.plan(&self.lease, self.chain_id, signer, intent).await?;
        tx.commit().await?;
        tracing::info!(intent = intent.id, kind = %intent.kind, account_nonce = nonce, "planned");
        Ok(())
    }

    /// Looks at an intent again later, each time later than before. A pull's window ends by itself;
    /// for a record or a split that keeps reverting somebody is called, and it is tried on.
    async fn put_off(&self, intent: &Intent, error: &ChainError) -> Result<(), OutboxError> {
        let reason: String = error.to_string().chars().take(MAX_REASON).collect();
        let reverts = matches!(error, ChainError::Reverted { .. });
        let doublings = u32::try_from(intent.deferrals).unwrap_or(u32::MAX).min(MAX_DOUBLINGS);
        // A node that refuses may be busy: that passes sooner than what is wrong with the intent.
        let delay = if reverts { FIRST_DEFERRAL * (1 << doublings) } else { FIRST_DEFERRAL };
        let mut tx = self.ledger.begin().await?;
        tx.defer_intent(&self.lease, intent.id, delay, &reason).await?;
        tx.commit().await?;
        if intent.deferrals >= PATIENCE && intent.kind != IntentKind::Pull {
            tracing::error!(
                intent = intent.id, kind = %intent.kind, reason,
                "ALARM: cannot be sent, again and again"
            );
        } else {
            tracing::warn!(
                intent = intent.id, kind = %intent.kind, reason,
                "cannot be sent now, looking again later"
            );
        }
        Ok(())
    }

    fn has_expired(&self, intent: &Intent) -> bool {
        let Some(valid_before) = intent.valid_before else { return false };
        // Without a head nothing is known; the simulation will tell.
        let Some(head) = self.heads.latest() else { return false };
        valid_before < head.now().saturating_add(MIN_PULL_SECONDS)
    }

    /// Signs what is planned. The envelope is committed; it is sent by [`Outbox::follow`].
    async fn sign(&self) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let mut tx = self.ledger.read().await?;
        let unsigned = tx.unsigned(self.chain_id, signer).await?;
        drop(tx);
        if unsigned.is_empty() {
            return Ok(());
        }
        let fees = self.chain.market().await?.fees;
        for planned in unsigned {
            let content = (planned.to, planned.calldata, planned.gas_limit);
            let slot = (planned.id, planned.account_nonce);
            self.add_envelope(slot, content, AttemptKind::First, fees).await?;
        }
        Ok(())
    }

    /// Signs an envelope and commits it.
    async fn add_envelope(
        &self,
        (transaction, account_nonce): (i64, u64),
        (to, input, gas_limit): (Address, Bytes, u64),
        kind: AttemptKind,
        fees: Fees,
    ) -> Result<Envelope, OutboxError> {
        let signed = self
            .signer
            .sign(TxEip1559 {
                chain_id: self.chain_id,
                nonce: account_nonce,
                gas_limit,
                max_fee_per_gas: fees.max_fee_per_gas.into(),
                max_priority_fee_per_gas: fees.max_priority_fee_per_gas.into(),
                to: TxKind::Call(to),
                input,
                ..TxEip1559::default()
            })
            .await?;
        let envelope = Envelope { hash: signed.hash, kind, raw: signed.raw, fees, signed_at: None };
        let mut tx = self.ledger.begin().await?;
        tx.add_envelope(&self.lease, transaction, &envelope).await?;
        tx.commit().await?;
        Ok(envelope)
    }

    /// Sends what is signed, and looks what became of what was sent.
    async fn follow(&self, memory: &mut Memory) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let mut tx = self.ledger.read().await?;
        let outgoing = tx.outgoing(self.chain_id, signer).await?;
        drop(tx);
        let known: BTreeSet<_> = outgoing.iter().map(|transaction| transaction.id).collect();
        memory.sent.retain(|id, _| known.contains(id));
        memory.looked.retain(|id, _| known.contains(id));
        memory.missing.retain(|id, _| known.contains(id));
        if outgoing.is_empty() {
            return Ok(());
        }
        // One endpoint for count and receipts, the count first: two nodes' views must not be mixed.
        let node = self.chain.pinned().await?;
        let chain = Chain {
            finalized_count: node.transaction_count(signer, BlockTag::Finalized).await?,
            finalized: node.head(BlockTag::Finalized).await?.number(),
            safe: node.head(BlockTag::Safe).await?.number(),
        };
        // What is not mined comes first. The mined wait for minutes to become final; a few of them
        // are looked at each time, whichever were not for longest, so that they hold up nothing.
        let (pending, mut mined): (Vec<_>, Vec<_>) =
            outgoing.iter().partition(|transaction| transaction.state.is_pending());
        mined.sort_by_key(|transaction| memory.looked.get(&transaction.id).copied());
        mined.truncate(MAX_MINED);
        let mut parts = Vec::with_capacity(pending.len() + mined.len());
        for transaction in pending.into_iter().chain(mined) {
            memory.looked.insert(transaction.id, Instant::now());
            parts.push(self.follow_one(memory, &node, chain, transaction).await);
        }
        worst(parts)
    }

    async fn follow_one(
        &self,
        memory: &mut Memory,
        node: &Rpc,
        chain: Chain,
        transaction: &Outgoing,
    ) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let account_nonce = transaction.account_nonce;
        let mined = mined(node, transaction).await?;
        let sighting = Sighting { chain, mined: mined.map(|mined| mined.mined) };
        let (standing, effect) = TransactionState::observe(account_nonce, &sighting);
        match effect {
            Effect::Nothing => {}
            Effect::Rebroadcast => self.send(memory, transaction).await?,
            Effect::Alarm => tracing::error!(
                %signer, account_nonce,
                "ALARM: the account nonce is gone and none of our envelopes took it; the \
                 transaction is parked: find what {signer} sent with it",
            ),
        }
        if standing.state == transaction.state && !standing.is_final {
            return Ok(());
        }
        let mut tx = self.ledger.begin().await?;
        tx.set_standing(&self.lease, transaction, standing, mined.as_ref()).await?;
        tx.commit().await?;
        let (state, hash) = (standing.state, mined.map(|mined| mined.mined.hash));
        match (state, self.role) {
            // Whoever holds the authorization may have been faster with the pull.
            (TransactionState::Reverted, SignerRole::Puller) => {
                tracing::warn!(%signer, account_nonce, ?hash, "a pull reverted");
            }
            (TransactionState::Reverted, SignerRole::Settler) => {
                tracing::error!(%signer, account_nonce, ?hash, "ALARM: a transaction reverted");
            }
            _ => tracing::info!(%signer, account_nonce, %state, "transaction moved"),
        }
        Ok(())
    }

    /// Hands a transaction that is not mined to the nodes again, or replaces its envelope.
    async fn send(&self, memory: &mut Memory, transaction: &Outgoing) -> Result<(), OutboxError> {
        let recent =
            memory.sent.get(&transaction.id).is_some_and(|sent| sent.elapsed() < REBROADCAST_AFTER);
        let Some(envelope) = transaction.envelopes.last() else { return Ok(()) };
        if recent {
            return Ok(());
        }
        memory.sent.insert(transaction.id, Instant::now());
        let unmined = Unmined {
            kind: envelope.kind,
            fees: envelope.fees,
            age: envelope
                .signed_at
                .map_or(0, |when| u64::try_from((Utc::now() - when).num_seconds()).unwrap_or(0)),
            cause: self.cause(memory, transaction),
            ceiling: MAX_FEE_PER_GAS,
        };
        let (account_nonce, signer) = (transaction.account_nonce, self.signer.address());
        let (kind, fees) = match unmined.replace(&self.chain.market().await?) {
            Replacement::Again => {
                self.broadcast(account_nonce, envelope).await;
                return Ok(());
            }
            Replacement::Wait => {
                tracing::info!(%signer, account_nonce, "not sent: its cause is not on the chain");
                return Ok(());
            }
            Replacement::Capped => {
                tracing::error!(
                    %signer, account_nonce, max_fee_per_gas = MAX_FEE_PER_GAS,
                    "ALARM: fees are above what may be paid; the transaction waits"
                );
                self.broadcast(account_nonce, envelope).await;
                return Ok(());
            }
            Replacement::Bump(fees) => (AttemptKind::Bump, fees),
            Replacement::Noop(fees) => (AttemptKind::Noop, fees),
        };
        let content = match kind {
            AttemptKind::Noop => (signer, Bytes::new(), NOOP_GAS),
            _ => (transaction.to, transaction.calldata.clone(), transaction.gas_limit),
        };
        let slot = (transaction.id, account_nonce);
        let envelope = self.add_envelope(slot, content, kind, fees).await?;
        tracing::info!(%signer, account_nonce, %kind, hash = %envelope.hash, "replaced");
        self.broadcast(account_nonce, &envelope).await;
        Ok(())
    }

    /// Whether a transaction's work is still wanted.
    fn cause(&self, memory: &mut Memory, transaction: &Outgoing) -> Cause {
        if let Some(valid_before) = transaction.valid_before {
            // Without a head nothing is known.
            let over = self.heads.latest().is_some_and(|head| head.now() >= valid_before);
            return if over { Cause::Gone } else { Cause::Stands };
        }
        if transaction.has_cause {
            memory.missing.remove(&transaction.id);
            return Cause::Stands;
        }
        let since = memory.missing.entry(transaction.id).or_insert_with(Instant::now);
        Cause::Missing { since: since.elapsed().as_secs() }
    }

    async fn broadcast(&self, account_nonce: u64, envelope: &Envelope) {
        let class = self.chain.send_raw(&envelope.raw).await;
        tracing::info!(
            signer = %self.signer.address(), account_nonce, hash = %envelope.hash,
            class = class.as_str(), "broadcast"
        );
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

/// The envelope of a transaction that has a receipt in a canonical block, if any has.
async fn mined(node: &Rpc, transaction: &Outgoing) -> Result<Option<MinedCost>, ChainError> {
    for envelope in &transaction.envelopes {
        let Some(receipt) = node.receipt(envelope.hash).await? else { continue };
        // A receipt may be a preconfirmation; only a sealed, canonical block counts.
        let block = node.head(BlockTag::Number(receipt.block_number())).await?;
        if block.hash != receipt.block_hash {
            continue;
        }
        return Ok(Some(MinedCost {
            mined: Mined {
                hash: envelope.hash,
                kind: envelope.kind,
                block: receipt.block_number(),
                success: receipt.success(),
            },
            block_hash: receipt.block_hash,
            gas_used: receipt.gas_used(),
            l2_fee: receipt.l2_fee(),
            l1_fee: receipt.l1_fee(),
        }));
    }
    Ok(None)
}
