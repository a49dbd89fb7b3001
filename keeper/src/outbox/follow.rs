//! What became of what was sent, and whether it is sent again or replaced.

use super::{Memory, Outbox, OutboxError, foreign::foreign, worst};
use crate::{
    chain::{BlockTag, Chain as Rpc, ChainError},
    failpoint::Point,
    ledger::{Envelope, MinedCost, Outgoing, SignerRole, Work},
    lifecycle::{
        AttemptKind, Cause, Chain, Effect, Fees, IntentKind, Mined, Replacement, Sighting,
        TransactionState, Unmined, is_closed,
    },
    metrics::{
        ATTEMPTS_TOTAL, PARKED_NONCES, PENDING_TRANSACTIONS, SEND_RESULTS_TOTAL, TRANSACTIONS_TOTAL,
    },
};
use alloy::{
    consensus::TxEip1559,
    primitives::{Address, B256, Bytes, TxKind},
};
use futures::{StreamExt, future::join_all, stream};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Mined transactions that are looked at in one round.
const MAX_MINED: usize = 16;
/// Signatures that are asked for at the same time.
const SIGNATURES_AT_ONCE: usize = 8;
/// Transactions whose receipts are asked for at the same time.
const SIGHTINGS_AT_ONCE: usize = 8;
/// How long bytes are left with the nodes before they are handed over again.
const REBROADCAST_AFTER: Duration = Duration::from_secs(4);
/// Gas limit of a transaction that does nothing.
pub(super) const NOOP_GAS: u64 = 21_000;

impl Outbox {
    /// Signs what is planned. The envelope is committed; it is sent by [`Outbox::follow`]. KMS takes
    /// a tenth of a second for each: one after the other, a block's records would miss the next.
    pub(super) async fn sign(&self) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let mut tx = self.ledger.read().await?;
        let unsigned = tx.unsigned(self.chain_id, signer).await?;
        drop(tx);
        if unsigned.is_empty() {
            return Ok(());
        }
        let fees = self.chain.market().await?.fees;
        let limits = self.limits().await?;
        let signatures = unsigned.into_iter().map(async |planned| {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            let fees = fees.within(limits.ceiling(planned.gas_limit, planned.data_fee));
            let kind = if planned.has_work { AttemptKind::First } else { AttemptKind::Noop };
            let content = (planned.to, planned.calldata, planned.gas_limit);
            let slot = (planned.id, planned.account_nonce);
            self.add_envelope(slot, content, kind, fees).await.map(drop)
        });
        let signed = stream::iter(signatures).buffered(SIGNATURES_AT_ONCE).collect::<Vec<_>>();
        worst(signed.await)
    }

    /// Signs an envelope and commits it.
    async fn add_envelope(
        &self,
        (transaction, account_nonce): (i64, u64),
        (to, input, gas_limit): (Address, Bytes, u64),
        kind: AttemptKind,
        fees: Fees,
    ) -> Result<Envelope, OutboxError> {
        // Everything that is signed is signed here; the switch counts from one signature to the next.
        if !self.may_sign().await? {
            return Err(OutboxError::SwitchedOff);
        }
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
        let envelope = Envelope { hash: signed.hash, kind, raw: signed.raw, fees, age: 0 };
        let mut tx = self.ledger.begin().await?;
        tx.add_envelope(&self.lease, transaction, &envelope).await?;
        tx.commit(match kind {
            AttemptKind::First => Point::First,
            AttemptKind::Bump => Point::Bump,
            AttemptKind::Noop => Point::Noop,
        })
        .await?;
        ATTEMPTS_TOTAL.add(1, [&self.label(), kind.as_str()]);
        Ok(envelope)
    }

    /// Sends what is signed, and looks what became of what was sent.
    pub(super) async fn follow(&self, memory: &mut Memory) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let mut tx = self.ledger.read().await?;
        let outgoing = tx.outgoing(self.chain_id, signer).await?;
        drop(tx);
        let count = |is: fn(TransactionState) -> bool| {
            outgoing.iter().map(|transaction| u64::from(is(transaction.state))).sum()
        };
        PENDING_TRANSACTIONS.set(count(TransactionState::is_pending), [&self.label()]);
        let is_parked = |state| state == TransactionState::Parked;
        PARKED_NONCES.set(count(is_parked), [&self.label()]);
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
        let due: Vec<_> = pending.into_iter().chain(mined).collect();
        let mut parts = Vec::with_capacity(due.len());
        // Receipts are asked for side by side, of few enough that none is old when it is acted upon.
        for some in due.chunks(SIGHTINGS_AT_ONCE) {
            let seen = join_all(some.iter().map(|one| self.sighted(&node, chain, one))).await;
            for (transaction, seen) in some.iter().zip(seen) {
                if self.stop.is_cancelled() {
                    return worst(parts);
                }
                memory.looked.insert(transaction.id, Instant::now());
                parts.push(match seen {
                    Ok(mined) => self.follow_one(memory, &node, chain, transaction, mined).await,
                    Err(error) => Err(error),
                });
            }
        }
        worst(parts)
    }

    /// What became of a transaction on the chain.
    async fn sighted(
        &self,
        node: &Rpc,
        chain: Chain,
        transaction: &Outgoing,
    ) -> Result<Option<MinedCost>, OutboxError> {
        let mined = mined(node, transaction).await?;
        if mined.is_none() && transaction.account_nonce < chain.finalized_count {
            return self.owner(node, transaction).await;
        }
        Ok(mined)
    }

    async fn follow_one(
        &self,
        memory: &mut Memory,
        node: &Rpc,
        chain: Chain,
        transaction: &Outgoing,
        mined: Option<MinedCost>,
    ) -> Result<(), OutboxError> {
        let account_nonce = transaction.account_nonce;
        let sighting = Sighting { chain, mined: mined.map(|mined| mined.mined) };
        let has_work = transaction.work.is_some();
        let (standing, effect) = TransactionState::observe(account_nonce, has_work, &sighting);
        // What a reorg took is stored as pending first: what counts as mined gets no envelope.
        if effect == Effect::Rebroadcast && transaction.state.is_pending() {
            self.send(memory, node, transaction).await?;
        }
        if standing.state == transaction.state && !standing.is_final {
            return Ok(());
        }
        let foreign = foreign(node, transaction, mined.as_ref()).await;
        let mut tx = self.ledger.begin().await?;
        tx.set_standing(&self.lease, transaction, standing, mined.as_ref()).await?;
        self.enter_foreign(&mut tx, transaction, mined.as_ref(), &foreign).await?;
        tx.commit(point(standing.state)).await?;
        if standing.state != transaction.state {
            self.tell(account_nonce, standing.state, mined.map(|mined| mined.mined.hash));
        }
        Ok(())
    }

    fn tell(&self, account_nonce: u64, state: TransactionState, hash: Option<B256>) {
        let signer = self.signer.address();
        TRANSACTIONS_TOTAL.add(1, [&self.label(), state.as_str()]);
        match (state, self.role) {
            (TransactionState::Parked, _) => tracing::error!(
                %signer, account_nonce,
                "ALARM: the account nonce is gone and none of our envelopes took it; the \
                 transaction is parked: find what {signer} sent with it, and say so with \
                 `keeper tx resolve`",
            ),
            // Whoever holds the authorization may have been faster with the pull.
            (TransactionState::Reverted, SignerRole::Puller) => {
                tracing::warn!(%signer, account_nonce, ?hash, "a pull reverted");
            }
            (TransactionState::Reverted, SignerRole::Settler) => {
                tracing::error!(%signer, account_nonce, ?hash, "ALARM: a transaction reverted");
            }
            _ => tracing::info!(%signer, account_nonce, %state, "transaction moved"),
        }
    }

    /// Who took an account nonce that is gone for good, when none of the known envelopes has a
    /// receipt. The receipts are read once more: a node may know a count before them. Then the
    /// contracts' events are asked who did this work, and the chain whether that was with this
    /// account nonce; envelopes that a restored ledger has lost are found so.
    async fn owner(
        &self,
        node: &Rpc,
        transaction: &Outgoing,
    ) -> Result<Option<MinedCost>, OutboxError> {
        if let Some(late) = mined(node, transaction).await? {
            return Ok(Some(late));
        }
        let Some(work) = transaction.work else { return Ok(None) };
        for hash in self.doers(&work).await? {
            let Some(found) = node.transaction(hash).await? else { continue };
            let is_ours = found.from == self.signer.address()
                && found.account_nonce() == transaction.account_nonce;
            if is_ours && let Some(cost) = receipt(node, hash, AttemptKind::First).await? {
                return Ok(Some(cost));
            }
        }
        Ok(None)
    }

    /// Transactions that did a piece of work, as the mirror knows them.
    async fn doers(&self, work: &Work) -> Result<Vec<B256>, OutboxError> {
        let mut tx = self.ledger.read().await?;
        let (Some(splitter), Some(capability)) = (work.splitter, work.capability) else {
            return Ok(Vec::new());
        };
        let payment = match work.settlement {
            Some(id) => tx.settlement(id).await?,
            None => None,
        };
        let chain_id = self.chain_id;
        Ok(match (work.kind, payment) {
            (IntentKind::Pull, Some(payment)) => {
                let pull = tx.pull_of(chain_id, splitter, payment.payer, payment.nonce).await?;
                pull.into_iter().map(|pull| pull.at.tx_hash).collect()
            }
            (IntentKind::Record, Some(payment)) => {
                let logs = tx.records_of(chain_id, splitter, payment.payer, payment.nonce).await?;
                logs.into_iter().map(|log| log.at.tx_hash).collect()
            }
            (IntentKind::Split, _) => {
                let logs = tx.foreign_splits(chain_id, splitter, capability).await?;
                logs.into_iter().map(|log| log.at.tx_hash).collect()
            }
            (IntentKind::Pull | IntentKind::Record, None) => Vec::new(),
        })
    }

    /// Hands a transaction that is not mined to the nodes again, or replaces its envelope.
    async fn send(
        &self,
        memory: &mut Memory,
        node: &Rpc,
        transaction: &Outgoing,
    ) -> Result<(), OutboxError> {
        let recent =
            memory.sent.get(&transaction.id).is_some_and(|sent| sent.elapsed() < REBROADCAST_AFTER);
        let Some(envelope) = transaction.envelopes.last() else { return Ok(()) };
        if recent {
            return Ok(());
        }
        memory.sent.insert(transaction.id, Instant::now());
        let market = self.chain.market().await?;
        let cause = self.cause(memory, node, transaction).await?;
        let unmined = self.unmined(transaction, envelope, cause).await?;
        let (account_nonce, signer) = (transaction.account_nonce, self.signer.address());
        let replacement = match unmined.replace(&market) {
            Replacement::Bump(_) | Replacement::Noop(_) if memory.is_off => unmined.unsigned(),
            replacement => replacement,
        };
        // It was looked at some signatures ago: what is mined by now gets no envelope.
        if matches!(replacement, Replacement::Bump(_) | Replacement::Noop(_))
            && mined(node, transaction).await?.is_some()
        {
            return Ok(());
        }
        match replacement {
            Replacement::Again => self.broadcast(account_nonce, envelope).await,
            Replacement::Wait => {
                tracing::info!(%signer, account_nonce, "not sent: its cause is not on the chain");
            }
            Replacement::Capped => {
                tracing::error!(
                    %signer, account_nonce, max_fee_per_gas = unmined.ceiling,
                    "ALARM: fees are above what may be paid; the transaction waits"
                );
                self.broadcast(account_nonce, envelope).await;
            }
            Replacement::Stuck => tracing::error!(
                %signer, account_nonce, max_fee_per_gas = unmined.ceiling,
                "ALARM: fees are above what may be paid; the transaction waits"
            ),
            Replacement::Bump(fees) => {
                self.replace(transaction, AttemptKind::Bump, fees).await?;
            }
            Replacement::Noop(fees) => {
                self.replace(transaction, AttemptKind::Noop, fees).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn unmined(
        &self,
        transaction: &Outgoing,
        envelope: &Envelope,
        cause: Cause,
    ) -> Result<Unmined, OutboxError> {
        let limits = self.limits().await?;
        Ok(Unmined {
            kind: envelope.kind,
            fees: envelope.fees,
            age: envelope.age,
            cause,
            ceiling: limits.ceiling(transaction.gas_limit, transaction.data_fee),
            noop_ceiling: limits.ceiling(NOOP_GAS, transaction.data_fee),
        })
    }

    /// Signs another envelope for an account nonce, commits and sends it.
    pub(super) async fn replace(
        &self,
        transaction: &Outgoing,
        kind: AttemptKind,
        fees: Fees,
    ) -> Result<Envelope, OutboxError> {
        let (account_nonce, signer) = (transaction.account_nonce, self.signer.address());
        let content = match kind {
            AttemptKind::Noop => (signer, Bytes::new(), NOOP_GAS),
            _ => (transaction.to, transaction.calldata.clone(), transaction.gas_limit),
        };
        let slot = (transaction.id, account_nonce);
        let envelope = self.add_envelope(slot, content, kind, fees).await?;
        tracing::info!(%signer, account_nonce, %kind, hash = %envelope.hash, "replaced");
        self.broadcast(account_nonce, &envelope).await;
        Ok(envelope)
    }

    /// The Splitters whose mirror is of the chain as it is now. What their transactions follow from
    /// is read from the mirror; a reorg, above all one while nobody led, must not be overlooked.
    pub(super) async fn standing(
        &self,
        node: &Rpc,
        splitters: impl Iterator<Item = Address>,
    ) -> Result<BTreeSet<Address>, OutboxError> {
        let splitters: BTreeSet<_> = splitters.collect();
        let mut standing = BTreeSet::new();
        for splitter in splitters {
            let mut tx = self.ledger.read().await?;
            let end = tx.mirror_end(self.chain_id, splitter).await?;
            drop(tx);
            let Some((number, hash)) = end else { continue };
            if stands(node, number, hash).await? {
                standing.insert(splitter);
            }
        }
        Ok(standing)
    }

    /// Whether a transaction's work is still wanted, by the ledger and the chain as they are at this
    /// moment: what would be sent next is irrevocable.
    pub(super) async fn cause(
        &self,
        memory: &mut Memory,
        node: &Rpc,
        transaction: &Outgoing,
    ) -> Result<Cause, OutboxError> {
        let Some(work) = transaction.work else { return Ok(Cause::Stands) };
        if let Some(valid_before) = work.valid_before {
            // Without a head nothing is known.
            let over = self.heads.latest().is_some_and(|head| is_closed(valid_before, head.now()));
            return Ok(if over { Cause::Gone } else { Cause::Stands });
        }
        let mut tx = self.ledger.read().await?;
        let end = tx.cause(transaction.id).await?;
        drop(tx);
        let Some((number, hash)) = end else {
            let since = memory.missing.entry(transaction.id).or_insert_with(Instant::now);
            return Ok(Cause::Missing { since: since.elapsed().as_secs() });
        };
        memory.missing.remove(&transaction.id);
        // Of a mirror that shows another chain nothing is known, until it was read again.
        Ok(match stands(node, number, hash).await? {
            true => Cause::Stands,
            false => Cause::Missing { since: 0 },
        })
    }

    /// The one place from which bytes go to the nodes. They are committed: [`Envelope`]s come from
    /// the ledger, or from [`Outbox::add_envelope`].
    pub(super) async fn broadcast(&self, account_nonce: u64, envelope: &Envelope) {
        // What is committed is sent by whoever leads next.
        if self.stop.is_cancelled() {
            return;
        }
        let (chain, heads) = (self.chain.clone(), self.heads.clone());
        let (signer, hash, raw) = (self.signer.address(), envelope.hash, envelope.raw.clone());
        let send = async move {
            Point::Send.before();
            let sent = chain.broadcast(&raw, hash, &heads).await;
            Point::Send.after();
            for (rpc, class) in &sent.by_endpoint {
                SEND_RESULTS_TOTAL.add(1, [rpc, class.as_str()]);
            }
            tracing::info!(
                %signer, account_nonce, %hash, class = sent.class.as_str(), "broadcast"
            );
        };
        // Nothing else may wait for this one's inclusion.
        if self.chain.waits_for_inclusion() {
            tokio::spawn(send);
        } else {
            send.await;
        }
    }
}

/// Whether a block is on the chain.
async fn stands(node: &Rpc, number: u64, hash: B256) -> Result<bool, ChainError> {
    match node.head(BlockTag::Number(number)).await {
        Ok(block) => Ok(block.hash == hash),
        // There is none.
        Err(ChainError::Malformed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The envelope of a transaction that has a receipt in a canonical block, if any has.
async fn mined(node: &Rpc, transaction: &Outgoing) -> Result<Option<MinedCost>, ChainError> {
    for envelope in &transaction.envelopes {
        if let Some(cost) = receipt(node, envelope.hash, envelope.kind).await? {
            return Ok(Some(cost));
        }
    }
    Ok(None)
}

/// What a transaction did and cost, if it is in a canonical block.
pub(super) async fn receipt(
    node: &Rpc,
    hash: B256,
    kind: AttemptKind,
) -> Result<Option<MinedCost>, ChainError> {
    let Some(receipt) = node.receipt(hash).await? else { return Ok(None) };
    // A receipt may be a preconfirmation; only a sealed, canonical block counts.
    let block = node.head(BlockTag::Number(receipt.block_number())).await?;
    if block.hash != receipt.block_hash {
        return Ok(None);
    }
    Ok(Some(MinedCost {
        mined: Mined { hash, kind, block: receipt.block_number(), success: receipt.success() },
        block_hash: receipt.block_hash,
        gas_used: receipt.gas_used(),
        // What is paid for gas: to the sequencer and to the operator.
        l2_fee: receipt.l2_fee().saturating_add(receipt.operator_fee()),
        l1_fee: receipt.l1_fee(),
    }))
}

/// The failpoint of a standing's commit.
pub(super) const fn point(state: TransactionState) -> Point {
    match state {
        TransactionState::Planned | TransactionState::Signed | TransactionState::Broadcast => {
            Point::Broadcast
        }
        TransactionState::Included => Point::Included,
        TransactionState::Safe => Point::Safe,
        TransactionState::Finalized => Point::Finalized,
        TransactionState::Reverted => Point::Reverted,
        TransactionState::Superseded => Point::Superseded,
        TransactionState::Parked => Point::Parked,
    }
}
