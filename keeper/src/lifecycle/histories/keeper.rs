//! The outbox of one process as the model has it: the order of reading, deciding, committing and
//! sending of `outbox/`, with every decision taken by the real functions. Between any two of its
//! steps anything may happen to the world, the store and the process itself.

use super::{
    super::{
        AttemptKind, Cause, Chain, DEFAULT_PENDING, Effect, Fees, Limits, Market, Mined, Purse,
        Replacement, Sighting, TransactionState, Unmined, backoff, is_closed, is_closing, room,
    },
    contracts::Content,
    sabotage::Sabotage,
    store::{Intent, Lease, Refused, Store, Write, newest},
    world::{Checked, Envelope, InBlock, World},
};
use alloy::primitives::B256;

/// What a new envelope offers to the sequencer, and how much of the base fee.
const TIP: u64 = 10;
/// Gas of the dearest transaction.
const TYPICAL_GAS: u64 = 3;

/// What an outbox was about to do when it was interrupted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Write(Write),
    /// Hands bytes to the nodes; with what was known of the work's cause.
    Send {
        transaction: usize,
        id: usize,
        has_cause: bool,
    },
}

/// Where an outbox is in its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Adopt,
    Plan,
    Sign,
    Look,
    Follow,
}

/// A transaction as it was read at the beginning of the round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) id: usize,
    pub(super) nonce: u64,
    pub(super) state: TransactionState,
    pub(super) work: Option<Intent>,
    pub(super) has_cause: bool,
    pub(super) newest: (usize, AttemptKind, Fees),
    pub(super) gas: u64,
}

/// The outbox of one signer in one process. A crash forgets all of it.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    place: Place,
    rounds: u32,
    /// What comes next, last first.
    pub(super) ops: Vec<Op>,
    /// What is looked at in this round.
    pub(super) round: Vec<Seen>,
    /// The node that this round asks, and where the chain stood there.
    pub(super) node: usize,
    pub(super) chain: Option<Chain>,
    /// Since when what a transaction follows from is missing.
    missing: Vec<(usize, u64)>,
}

/// What an outbox can reach.
pub(super) struct Reach<'a> {
    pub(super) world: &'a mut World,
    pub(super) store: &'a mut Store,
    pub(super) lease: Lease,
    pub(super) signer: usize,
    /// By how much this process's clock is wrong.
    pub(super) skew: u64,
    pub(super) chance: u32,
    pub(super) sabotage: Sabotage,
}

impl Outbox {
    /// How many rounds are over.
    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    fn end_round(&mut self) {
        self.place = Place::Plan;
        self.rounds += 1;
    }

    /// One step: does what was decided, or decides what is next. Says when the lease is lost.
    pub(super) fn step(&mut self, reach: &mut Reach<'_>, node: usize) -> Checked<bool> {
        let Some(op) = self.ops.pop() else {
            self.decide(reach, node)?;
            return Ok(true);
        };
        match op {
            Op::Send { transaction, id, has_cause } => {
                reach.world.tell(|_| format!("signer {}: sends {id}", reach.signer));
                reach.world.send(id, has_cause)?;
                let is_unknown = reach.world.nodes.iter().any(|node| node.is_deaf);
                if is_unknown && reach.sabotage == Sabotage::UnknownSendForgotten {
                    reach.store.forget(transaction);
                }
            }
            Op::Write(write) => {
                let (world, lease, signer) = (&mut *reach.world, reach.lease, reach.signer);
                match reach.store.commit(world, lease, signer, write, reach.sabotage)? {
                    Ok(()) => {}
                    Err(Refused::LeaseLost) => return Ok(false),
                    // The next round reads what is.
                    Err(Refused::Conflict) => self.ops.clear(),
                }
            }
        }
        Ok(true)
    }

    fn decide(&mut self, reach: &mut Reach<'_>, node: usize) -> Checked {
        match self.place {
            Place::Adopt => {
                let seen = reach.world.pending_count(node, reach.signer);
                self.ops.push(Op::Write(Write::Adopt { seen }));
                self.place = Place::Plan;
            }
            Place::Plan => {
                self.place = Place::Sign;
                if reach.store.signers[reach.signer].is_quarantined
                    && reach.sabotage != Sabotage::QuarantineIgnored
                {
                    self.heal(reach, node);
                } else {
                    self.plan(reach, node)?;
                }
                let finalized = reach.world.view(node).finalized;
                if finalized > reach.store.finalized {
                    self.ops.push(Op::Write(Write::Guard { finalized }));
                }
            }
            Place::Sign => self.sign(reach, node)?,
            Place::Look => self.look(reach, node),
            Place::Follow => match self.round.pop() {
                Some(seen) => self.follow(reach, &seen)?,
                None => self.end_round(),
            },
        }
        Ok(())
    }

    // ------------------------------------------------------------------------ plan

    fn heal(&mut self, reach: &mut Reach<'_>, node: usize) {
        let known = &reach.store.signers[reach.signer];
        let Some(end) = known.end else {
            let seen = reach.world.highest_count(reach.signer);
            self.ops.push(Op::Write(Write::Occupy { seen }));
            return;
        };
        let view = reach.world.view(node);
        if view.final_state.counts[reach.signer] >= end {
            let finalized = view.finalized;
            self.ops.push(Op::Write(Write::EndQuarantine { finalized }));
        }
    }

    fn plan(&mut self, reach: &mut Reach<'_>, node: usize) -> Checked {
        let (world, store, now) = (&*reach.world, &*reach.store, reach.world.now);
        let known = &store.signers[reach.signer];
        let market = market(world, node);
        let head = world.block(world.nodes[node].head);
        let purse = store.purse(reach.signer, head.state.wei[reach.signer], now);
        let cost = |gas: u64| gas * market.fees.max_fee_per_gas;
        let allow = |cost: u64| match reach.sabotage {
            Sabotage::LimitIgnored => Ok(()),
            _ => known.limits.allow(&purse, cost.into()),
        };
        let closed = allow(cost(TYPICAL_GAS)).err();
        if closed != known.closed {
            self.ops.push(Op::Write(Write::Close(closed)));
        }
        if closed.is_some() || room(store.pending(reach.signer), DEFAULT_PENDING) == 0 {
            return Ok(());
        }
        let due = store.intents.iter().enumerate().filter(|(_, intent)| {
            intent.signer() == reach.signer
                && intent.state == super::super::IntentState::Open
                && intent.due <= now
                && store.is_wanted(world, intent, reach.sabotage)
        });
        let Some((intent, work)) = due.min_by_key(|(id, intent)| (intent.due, *id)) else {
            return Ok(());
        };
        // There may be more: they have their turn before anything is signed.
        self.place = Place::Plan;
        let write = if window(world, work).is_some_and(|closes| is_closing(closes, now)) {
            Write::Expire { intent }
        } else if !head.state.would_succeed(work.content, now, &world.windows) {
            Write::Defer { intent, delay: backoff(work.deferrals, reach.chance) }
        } else if let Err(closed) = allow(cost(work.content.gas())) {
            self.place = Place::Sign;
            Write::Close(Some(closed))
        } else {
            let cost = cost(work.content.gas());
            check_allowed(&known.limits, &purse, cost)?;
            Write::Plan { intent, cost }
        };
        // What was closed is opened first.
        self.ops.insert(0, Op::Write(write));
        Ok(())
    }

    // ------------------------------------------------------------------------ sign

    fn sign(&mut self, reach: &mut Reach<'_>, node: usize) -> Checked {
        let unsigned = reach.store.of(reach.signer);
        let unsigned = unsigned.filter(|(_, row)| row.state == TransactionState::Planned);
        let Some((transaction, row)) = unsigned.min_by_key(|(_, row)| row.nonce) else {
            self.place = Place::Look;
            return Ok(());
        };
        let work = reach.store.work(row);
        let kind = if work.is_some() { AttemptKind::First } else { AttemptKind::Noop };
        let content = work.map_or(Content::Nothing, |work| work.content);
        let (nonce, limits) = (row.nonce, reach.store.signers[reach.signer].limits);
        let fees = market(reach.world, node).fees.within(limits.ceiling(content.gas(), 0));
        let id = envelope(reach, &limits, nonce, content, kind, fees)?;
        self.ops.push(Op::Write(Write::Envelope { transaction, id }));
        if reach.sabotage == Sabotage::SentBeforeCommit {
            self.ops.push(Op::Send { transaction, id, has_cause: true });
        }
        Ok(())
    }

    // ------------------------------------------------------------------------ follow

    /// Reads what is under way, then where the chain stands.
    pub(super) fn look(&mut self, reach: &mut Reach<'_>, node: usize) {
        let (world, store) = (&*reach.world, &*reach.store);
        self.round.clear();
        for (id, row) in store.of(reach.signer) {
            let Some(newest) = newest(world, row).filter(|_| !row.is_final) else { continue };
            let work = store.work(row);
            let has_cause = work.is_none_or(|work| store.has_cause(world, &work));
            let gas = work.map_or(Content::Nothing, |work| work.content).gas();
            let (nonce, state) = (row.nonce, row.state);
            self.round.push(Seen { id, nonce, state, work, has_cause, newest, gas });
        }
        self.round.reverse();
        let round = &self.round;
        self.missing.retain(|(id, _)| round.iter().any(|seen| seen.id == *id));
        let view = world.view(node);
        let count = match reach.sabotage {
            Sabotage::DecidedByLatest => world.state(world.nodes[node].head),
            _ => &view.final_state,
        };
        self.node = node;
        self.chain = Some(Chain {
            safe: view.safe,
            finalized: view.finalized,
            finalized_count: count.counts[reach.signer],
        });
        self.place = Place::Follow;
    }

    fn follow(&mut self, reach: &mut Reach<'_>, seen: &Seen) -> Checked {
        let Some(chain) = self.chain else { return Ok(()) };
        let mut mined = receipt(reach, self.node, seen);
        if mined.is_none() && seen.nonce < chain.finalized_count {
            mined = owner(reach, self.node, seen);
        }
        let sighting = Sighting {
            chain,
            mined: mined.map(|mined| Mined {
                hash: B256::ZERO,
                kind: kind(reach.world, &mined),
                block: mined.block,
                success: mined.success,
            }),
        };
        let has_work = seen.work.is_some();
        let (standing, effect) = TransactionState::observe(seen.nonce, has_work, &sighting);
        if standing.state != seen.state || standing.is_final {
            let (transaction, known) = (seen.id, seen.state);
            let write = Write::Stand { transaction, known, standing, mined };
            self.ops.push(Op::Write(write));
        }
        if effect == Effect::Rebroadcast && seen.state.is_pending() {
            self.send(reach, seen)?;
        }
        Ok(())
    }

    fn send(&mut self, reach: &mut Reach<'_>, seen: &Seen) -> Checked {
        let cause = self.cause(reach, seen);
        let (id, kind, fees) = seen.newest;
        let transaction = seen.id;
        let signed_at = reach.world.envelopes[id].signed_at;
        let age = (reach.world.now + reach.skew).saturating_sub(signed_at);
        if reach.sabotage == Sabotage::NonceFreedOnTimeout && age > 60 {
            reach.store.forget(transaction);
        }
        let limits = reach.store.signers[reach.signer].limits;
        let ceiling = limits.ceiling(seen.gas, 0);
        let noop_ceiling = limits.ceiling(Content::Nothing.gas(), 0);
        let unmined = Unmined { kind, fees, age, cause, ceiling, noop_ceiling };
        let again = Op::Send { transaction, id, has_cause: seen.has_cause };
        let (kind, fees) = match unmined.replace(&market(reach.world, self.node)) {
            Replacement::Again | Replacement::Capped => {
                self.ops.push(again);
                return Ok(());
            }
            Replacement::Wait | Replacement::Stuck => return Ok(()),
            Replacement::Bump(fees) => (AttemptKind::Bump, fees),
            Replacement::Noop(fees) => (AttemptKind::Noop, fees),
        };
        self.replace(reach, seen, kind, fees)
    }

    /// Signs another envelope; it is committed, then sent.
    pub(super) fn replace(
        &mut self,
        reach: &mut Reach<'_>,
        seen: &Seen,
        kind: AttemptKind,
        fees: Fees,
    ) -> Checked {
        let limits = reach.store.signers[reach.signer].limits;
        let content = match (kind, seen.work) {
            (AttemptKind::First | AttemptKind::Bump, Some(work)) => work.content,
            _ => Content::Nothing,
        };
        let id = envelope(reach, &limits, seen.nonce, content, kind, fees)?;
        let transaction = seen.id;
        self.ops.push(Op::Send { transaction, id, has_cause: seen.has_cause });
        if reach.sabotage == Sabotage::ReplacedWithoutCommit {
            // What checks the commit is not what is tested here.
            reach.world.envelopes[id].is_committed = true;
        } else {
            self.ops.push(Op::Write(Write::Envelope { transaction, id }));
        }
        Ok(())
    }

    /// Whether a transaction's work is still wanted.
    fn cause(&mut self, reach: &Reach<'_>, seen: &Seen) -> Cause {
        let now = reach.world.now;
        let Some(work) = seen.work else { return Cause::Stands };
        if let Some(closes) = window(reach.world, &work) {
            return if is_closed(closes, now) { Cause::Gone } else { Cause::Stands };
        }
        // Of a mirror that shows another chain nothing is known.
        let is_known = reach.world.stands(self.node, reach.store.mirror);
        if !is_known && reach.sabotage != Sabotage::RecordedWithoutPull {
            return Cause::Missing { since: 0 };
        }
        let at = self.missing.iter().position(|(id, _)| *id == seen.id);
        if seen.has_cause || reach.sabotage == Sabotage::RecordedWithoutPull {
            at.map(|at| self.missing.remove(at));
            return Cause::Stands;
        }
        let since = match at {
            Some(at) => self.missing[at].1,
            None => {
                self.missing.push((seen.id, now));
                now
            }
        };
        Cause::Missing { since: now - since }
    }
}

/// A receipt of one of a transaction's envelopes.
fn receipt(reach: &Reach<'_>, node: usize, seen: &Seen) -> Option<InBlock> {
    let node = &reach.world.nodes[node];
    if node.is_blind {
        return None;
    }
    let mined = reach.world.owner(node.head, reach.signer, seen.nonce)?;
    let known = &reach.store.transactions.get(seen.id)?.envelopes;
    known.contains(&mined.envelope?).then_some(mined)
}

/// Who took an account nonce that is gone, by what the mirror holds.
fn owner(reach: &Reach<'_>, node: usize, seen: &Seen) -> Option<InBlock> {
    if let Some(late) = receipt(reach, node, seen) {
        return Some(late);
    }
    let world = &*reach.world;
    if reach.sabotage == Sabotage::OwnerNotLookedFor || world.nodes[node].is_blind {
        return None;
    }
    let mirrored = world.owner(reach.store.mirror, reach.signer, seen.nonce)?;
    let did = world.envelopes[mirrored.envelope?].content;
    // The mirror knows a pull and a record by the payment, a split by its capability.
    let is_this = match (did, seen.work?.content) {
        (Content::Split(_), Content::Split(_)) => true,
        (did, work) => did == work,
    };
    let found = world.owner(world.nodes[node].head, reach.signer, seen.nonce)?;
    (is_this && mirrored.success && found.envelope == mirrored.envelope).then_some(found)
}

/// What a mined envelope was signed for; one that the ledger has lost did the work.
fn kind(world: &World, mined: &InBlock) -> AttemptKind {
    mined.envelope.map_or(AttemptKind::Noop, |id| world.envelopes[id].kind)
}

/// Until when work can be done.
fn window(world: &World, work: &Intent) -> Option<u64> {
    if let Content::Pull(payment) = work.content { Some(world.windows[payment]) } else { None }
}

/// What a node's newest block asks.
pub(super) fn market(world: &World, node: usize) -> Market {
    let base_fee = world.block(world.nodes[node].head).base_fee;
    let fees = Fees { max_fee_per_gas: 2 * base_fee + TIP, max_priority_fee_per_gas: TIP };
    Market { base_fee, fees }
}

/// The key signs; nobody but this process knows.
fn envelope(
    reach: &mut Reach<'_>,
    limits: &Limits,
    nonce: u64,
    content: Content,
    kind: AttemptKind,
    fees: Fees,
) -> Checked<usize> {
    if content.gas() * fees.max_fee_per_gas > limits.hard_transaction {
        return Err("an envelope offers more than the hard limit".to_owned());
    }
    let (world, signer) = (&mut *reach.world, reach.signer);
    let signed_at = world.now + reach.skew;
    let id = world.sign(Envelope::new((signer, nonce), (content, kind, fees), signed_at));
    world.tell(|_| {
        format!("signer {signer}: envelope {id} is {content:?} at {nonce}, {kind}, {fees:?}")
    });
    Ok(id)
}

/// The limits once more, in other words.
fn check_allowed(limits: &Limits, purse: &Purse, cost: u64) -> Checked {
    let left = purse.balance.checked_sub(purse.owed + u128::from(cost));
    let is_low = left.is_none_or(|left| left < limits.low_balance.into());
    let is_too_much = purse.day + u128::from(cost) > limits.day.into();
    if is_low || is_too_much || cost > limits.transaction {
        return Err("work is begun beyond a spending limit".to_owned());
    }
    Ok(())
}
