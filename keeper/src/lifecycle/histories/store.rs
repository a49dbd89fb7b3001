//! The database as the model has it: the tables of the outbox that matter, under a lease with an
//! epoch. What is not written here a crash forgets.

use super::{
    super::{
        AttemptKind, Closed, Fees, IntentKind, IntentState, KeeperState, Limits, Purse, Standing,
        Status, TransactionState, certainly_free, knows_less,
    },
    contracts::{Content, PAYMENTS},
    sabotage::Sabotage,
    world::{Checked, InBlock, World},
};
use std::time::Duration;

/// Seconds that a lease lasts without renewal.
const LEASE_SECONDS: u64 = 10;
/// How far back spending is summed up.
const DAY: u64 = 86_400;

/// What the store holds of a payment. Where it was pulled, recorded and split the mirror says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payment {
    pub(super) status: Status,
    pub(super) keeper: KeeperState,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Intent {
    pub(super) content: Content,
    pub(super) state: IntentState,
    pub(super) deferrals: u64,
    pub(super) due: u64,
}

impl Intent {
    pub(super) const fn kind(&self) -> IntentKind {
        match self.content {
            Content::Pull(_) => IntentKind::Pull,
            Content::Record(_) => IntentKind::Record,
            Content::Split(_) | Content::Nothing => IntentKind::Split,
        }
    }

    /// Which key signs it: 0 pulls, 1 settles.
    pub(super) const fn signer(&self) -> usize {
        if matches!(self.content, Content::Pull(_)) { 0 } else { 1 }
    }
}

/// An outgoing transaction and its envelopes.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub(super) signer: usize,
    pub(super) nonce: u64,
    pub(super) state: TransactionState,
    pub(super) is_final: bool,
    pub(super) intent: Option<usize>,
    pub(super) envelopes: Vec<usize>,
    max_cost: u64,
    cost: Option<u64>,
    /// Number of the block that holds it.
    block: Option<u64>,
    created_at: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Signer {
    pub(super) next: u64,
    pub(super) is_quarantined: bool,
    pub(super) end: Option<u64>,
    pub(super) closed: Option<Closed>,
    epoch: u64,
    pub(super) limits: Limits,
}

/// What a process may have been granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    holder: usize,
    epoch: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Store {
    lease: Lease,
    expires: u64,
    /// Which history of the database the lease was taken in.
    origin: u32,
    /// Which history this is.
    pub(super) history: u32,
    pub(super) signers: [Signer; 2],
    pub(super) payments: [Option<Payment>; PAYMENTS],
    pub(super) intents: Vec<Intent>,
    pub(super) transactions: Vec<Transaction>,
    /// The block that the mirror has read last; what it holds follows from that.
    pub(super) mirror: usize,
    /// Number of the newest final block that was seen.
    pub(super) finalized: u64,
}

/// Why nothing was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Somebody else leads, or this is another copy.
    LeaseLost,
    /// The row is not any more as it was read.
    Conflict,
}

/// One SQL transaction.
#[derive(Debug, Clone, Copy)]
pub(super) enum Write {
    Guard {
        finalized: u64,
    },
    Adopt {
        seen: u64,
    },
    Close(Option<Closed>),
    Expire {
        intent: usize,
    },
    Defer {
        intent: usize,
        delay: Duration,
    },
    Plan {
        intent: usize,
        cost: u64,
    },
    Envelope {
        transaction: usize,
        id: usize,
    },
    Stand {
        transaction: usize,
        known: TransactionState,
        standing: Standing,
        mined: Option<InBlock>,
    },
    Quarantine,
    Occupy {
        seen: u64,
    },
    EndQuarantine {
        finalized: u64,
    },
}

impl Store {
    pub(super) fn new(limits: Limits) -> Self {
        let signer =
            Signer { next: 0, is_quarantined: false, end: None, closed: None, epoch: 0, limits };
        Self {
            lease: Lease { holder: usize::MAX, epoch: 0 },
            expires: 0,
            origin: 0,
            history: 0,
            signers: [signer; 2],
            payments: [None; PAYMENTS],
            intents: Vec::new(),
            transactions: Vec::new(),
            mirror: 0,
            finalized: 0,
        }
    }

    // ------------------------------------------------------------------------ the lease

    pub(super) fn acquire(&mut self, holder: usize, now: u64) -> Option<Lease> {
        if self.expires >= now {
            return None;
        }
        self.lease = Lease { holder, epoch: self.lease.epoch + 1 };
        self.expires = now + LEASE_SECONDS;
        if self.origin != self.history {
            self.origin = self.history;
            for signer in &mut self.signers {
                signer.is_quarantined = true;
                signer.end = None;
                signer.closed = Some(Closed::Quarantine);
            }
        }
        Some(self.lease)
    }

    pub(super) fn is_held(&self, lease: Lease) -> bool {
        self.lease == lease && self.origin == self.history
    }

    pub(super) fn renew(&mut self, lease: Lease, now: u64) -> bool {
        if self.is_held(lease) {
            self.expires = now + LEASE_SECONDS;
        }
        self.is_held(lease)
    }

    // ------------------------------------------------------------------------ reading

    pub(super) fn work(&self, transaction: &Transaction) -> Option<Intent> {
        transaction.intent.and_then(|intent| self.intents.get(intent)).copied()
    }

    /// Whether open work is wanted as the mirror has the chain.
    pub(super) fn is_wanted(&self, world: &World, intent: &Intent, sabotage: Sabotage) -> bool {
        let status = |payment: usize| self.payments[payment].map(|payment| payment.status);
        match intent.content {
            Content::Pull(payment) => {
                matches!(status(payment), Some(Status::SettlePending | Status::Orphaned))
            }
            Content::Record(payment) => {
                let keeper = self.payments[payment].map(|payment| payment.keeper);
                status(payment).is_some_and(Status::is_paid)
                    && (keeper == Some(KeeperState::Recording)
                        || matches!(
                            sabotage,
                            Sabotage::RecordsNotLookedFor | Sabotage::MirrorGoesBack
                        ))
                    && (world.state(self.mirror).records[payment] == 0
                        || sabotage == Sabotage::RecordsNotLookedFor)
            }
            Content::Split(_) => self.is_backed(world),
            Content::Nothing => true,
        }
    }

    /// Whether every record that is not split has its pull.
    fn is_backed(&self, world: &World) -> bool {
        let state = world.state(self.mirror);
        !self.payments.iter().enumerate().any(|(id, payment)| {
            payment.is_some_and(|payment| !payment.status.is_paid())
                && state.records[id] > 0
                && !state.split[id]
        })
    }

    /// Whether what some work follows from is on the chain.
    pub(super) fn has_cause(&self, world: &World, intent: &Intent) -> bool {
        match intent.content {
            Content::Record(payment) => {
                self.payments[payment].is_some_and(|payment| payment.status.is_paid())
            }
            Content::Split(_) => {
                use KeeperState::{Recorded, Splitting};
                let is_recorded = |keeper| matches!(keeper, Recorded | Splitting);
                self.payments.iter().flatten().any(|payment| is_recorded(payment.keeper))
                    && self.is_backed(world)
            }
            Content::Pull(_) | Content::Nothing => true,
        }
    }

    /// Whether a split is under way, or in a block that the mirror does not hold yet.
    pub(super) fn split_is_pending(&self, mirrored: u64) -> bool {
        self.intents.iter().enumerate().any(|(id, intent)| {
            intent.kind() == IntentKind::Split
                && (matches!(intent.state, IntentState::Open | IntentState::Claimed)
                    || self.transactions.iter().any(|transaction| {
                        transaction.intent == Some(id)
                            && transaction.block.is_some_and(|block| block >= mirrored)
                    }))
        })
    }

    pub(super) fn of(&self, signer: usize) -> impl Iterator<Item = (usize, &Transaction)> {
        let all = self.transactions.iter().enumerate();
        all.filter(move |(_, transaction)| transaction.signer == signer)
    }

    pub(super) fn pending(&self, signer: usize) -> u64 {
        self.of(signer).fold(0, |sum, (_, one)| sum + u64::from(one.state.is_pending()))
    }

    pub(super) fn purse(&self, signer: usize, balance: u64, now: u64) -> Purse {
        let (mut owed, mut day) = (0, 0);
        for (_, transaction) in self.of(signer) {
            if transaction.state.is_pending() {
                owed += u128::from(transaction.max_cost);
            }
            if !transaction.is_final || transaction.created_at + DAY > now {
                day += u128::from(transaction.cost.unwrap_or(transaction.max_cost));
            }
        }
        Purse { balance: balance.into(), owed, day }
    }

    // ------------------------------------------------------------------------ writing

    pub(super) fn add_intent(&mut self, content: Content, now: u64) {
        self.intents.push(Intent { content, state: IntentState::Open, deferrals: 0, due: now });
    }

    fn add_transaction(&mut self, signer: usize, intent: Option<usize>, max_cost: u64, now: u64) {
        let row = &mut self.signers[signer];
        let nonce = row.next;
        row.next += 1;
        self.transactions.push(Transaction {
            signer,
            nonce,
            state: TransactionState::Planned,
            is_final: false,
            intent,
            envelopes: Vec::new(),
            max_cost,
            cost: None,
            block: None,
            created_at: now,
        });
    }

    /// Commits one SQL transaction of a signer's outbox, or refuses it. `Err` is a promise broken.
    pub(super) fn commit(
        &mut self,
        world: &mut World,
        lease: Lease,
        signer: usize,
        write: Write,
        sabotage: Sabotage,
    ) -> Checked<Result<(), Refused>> {
        if !self.is_held(lease) {
            if sabotage != Sabotage::NoFence {
                return Ok(Err(Refused::LeaseLost));
            }
            if matches!(write, Write::Plan { .. } | Write::Envelope { .. } | Write::Stand { .. }) {
                return Err(format!("{write:?} by a process that does not lead any more"));
            }
        }
        let done = self.write(world, lease, signer, write, sabotage)?;
        if done.is_ok() {
            world.tell(|_| format!("signer {signer}: committed {write:?}"));
        }
        Ok(done)
    }

    fn write(
        &mut self,
        world: &mut World,
        lease: Lease,
        signer: usize,
        write: Write,
        sabotage: Sabotage,
    ) -> Checked<Result<(), Refused>> {
        let now = world.now;
        match write {
            Write::Guard { finalized } => self.finalized = self.finalized.max(finalized),
            Write::Adopt { seen } => {
                let row = &mut self.signers[signer];
                row.epoch = lease.epoch;
                if knows_less(row.next, seen) && !row.is_quarantined {
                    row.is_quarantined = true;
                    row.end = None;
                    row.closed = Some(Closed::Quarantine);
                }
            }
            Write::Quarantine => {
                let row = &mut self.signers[signer];
                if !row.is_quarantined {
                    row.is_quarantined = true;
                    row.end = None;
                    row.closed = Some(Closed::Quarantine);
                }
            }
            Write::Close(closed) => self.signers[signer].closed = closed,
            Write::Expire { intent } | Write::Defer { intent, .. } | Write::Plan { intent, .. }
                if self.intents.get(intent).is_none_or(|row| row.state != IntentState::Open) =>
            {
                return Ok(Err(Refused::Conflict));
            }
            Write::Expire { intent } => self.intents[intent].state = IntentState::Cancelled,
            Write::Defer { intent, delay } => {
                let row = &mut self.intents[intent];
                row.deferrals += 1;
                row.due = now + delay.as_secs();
            }
            Write::Plan { intent, cost } => {
                let row = &self.signers[signer];
                let is_free = !row.is_quarantined || sabotage == Sabotage::QuarantineIgnored;
                if row.epoch != lease.epoch || !is_free {
                    return Ok(Err(Refused::Conflict));
                }
                if row.is_quarantined || row.closed.is_some() {
                    return Err("an account nonce is given out by a closed signer".to_owned());
                }
                self.check_undone(world, intent)?;
                world.give(signer, row.next, self.intents[intent].content)?;
                self.intents[intent].state = IntentState::Claimed;
                self.add_transaction(signer, Some(intent), cost, now);
            }
            Write::Envelope { transaction, id } => {
                let Some(row) = self.transactions.get_mut(transaction) else {
                    return Ok(Err(Refused::Conflict));
                };
                if !row.state.is_pending() {
                    return Ok(Err(Refused::Conflict));
                }
                let envelope = &mut world.envelopes[id];
                let cost = envelope.content.gas() * envelope.fees.max_fee_per_gas;
                envelope.is_committed = true;
                row.envelopes.push(id);
                row.state = TransactionState::Signed;
                row.max_cost = row.max_cost.max(cost);
            }
            Write::Stand { transaction, known, standing, mined } => {
                let row = self.transactions.get_mut(transaction);
                let Some(row) = row.filter(|row| row.state == known && !row.is_final) else {
                    return Ok(Err(Refused::Conflict));
                };
                row.state = standing.state;
                row.is_final = standing.is_final;
                row.cost = mined.map(|mined| mined.cost);
                row.block = mined.map(|mined| mined.block);
                if standing.is_final {
                    let row = row.clone();
                    self.check_verdict(world, &row)?;
                }
                self.follow_up(transaction, standing, sabotage);
                self.check_over(world, &self.transactions[transaction])?;
            }
            Write::Occupy { seen } => {
                let end = match sabotage {
                    Sabotage::NoMargin => self.signers[signer].next.max(seen),
                    _ => certainly_free(self.signers[signer].next, seen),
                };
                self.signers[signer].end = Some(end);
                while self.signers[signer].next < end {
                    self.add_transaction(signer, None, 0, now);
                }
            }
            Write::EndQuarantine { finalized } => {
                let row = &self.signers[signer];
                let Some(end) = row.end else { return Ok(Err(Refused::Conflict)) };
                let is_open = self.of(signer).any(|(_, one)| !one.is_final && one.nonce < end);
                let is_behind = world.block(self.mirror).number < finalized;
                if is_open || is_behind && sabotage != Sabotage::QuarantineWithoutMirror {
                    return Ok(Err(Refused::Conflict));
                }
                self.finalized = self.finalized.max(finalized);
                let row = &mut self.signers[signer];
                row.is_quarantined = false;
                row.end = None;
                row.closed = None;
            }
        }
        Ok(Ok(()))
    }

    /// Frees the work of a transaction that may yet be mined.
    pub(super) fn forget(&mut self, transaction: usize) {
        let Some(row) = self.transactions.get_mut(transaction) else { return };
        row.is_final = true;
        if let Some(intent) = row.intent {
            self.intents[intent].state = IntentState::Open;
        }
    }

    /// What a transaction's standing makes of its work.
    fn follow_up(&mut self, transaction: usize, standing: Standing, sabotage: Sabotage) {
        let Some(intent) = self.transactions[transaction].intent else { return };
        let row = &mut self.intents[intent];
        row.state = match (sabotage, standing.state) {
            (Sabotage::PlannedAnewBeforeFinality, TransactionState::Superseded) => {
                IntentState::after(row.kind(), Standing { is_final: true, ..standing })
            }
            _ => IntentState::after(row.kind(), standing),
        };
    }

    /// Work gets an account nonce when no other that it had can still be used.
    fn check_undone(&self, world: &World, intent: usize) -> Checked {
        let mut rows = self.transactions.iter().filter(|row| row.intent == Some(intent));
        match rows.find(|row| world.final_owner(row.signer, row.nonce).is_none()) {
            Some(row) => Err(format!("{:?} is planned beside {row:?}", self.intents[intent])),
            None => Ok(()),
        }
    }

    /// Work is over when the account nonce that did it, or gave it up, is gone for good.
    fn check_over(&self, world: &World, row: &Transaction) -> Checked {
        let state = self.work(row).map(|work| work.state);
        let is_over = matches!(state, Some(IntentState::Done | IntentState::Cancelled));
        match world.final_owner(row.signer, row.nonce) {
            None if is_over => Err(format!("{state:?} with {row:?}, which is not final")),
            _ => Ok(()),
        }
    }

    /// What is parked must be so: nothing says that an envelope of ours took the account nonce.
    pub(super) fn check_parked(&self, world: &World, row: &Transaction) -> Checked {
        let owner = world.final_owner(row.signer, row.nonce).and_then(|owner| {
            let id = owner.envelope?;
            let work = self.work(row).map(|work| work.content);
            let did_it = owner.success && Some(world.envelopes[id].content) == work;
            Some(did_it || row.envelopes.contains(&id))
        });
        if owner == Some(true) || row.intent.is_none() {
            return Err(format!("{row:?} is parked, and the chain says what became of it"));
        }
        Ok(())
    }

    /// A verdict that is final must be the final chain's.
    fn check_verdict(&self, world: &World, row: &Transaction) -> Checked {
        let owner = world.final_owner(row.signer, row.nonce);
        let Some(owner) = owner else {
            return Err(format!("account nonce {} is decided before it is final", row.nonce));
        };
        let work = self.work(row).map(|work| work.content);
        let done = owner.envelope.map(|id| world.envelopes[id]);
        let is_noop = done.is_none_or(|done| done.kind == AttemptKind::Noop);
        let is_right = match row.state {
            TransactionState::Finalized => {
                owner.success && !is_noop && done.map(|done| done.content) == work
            }
            TransactionState::Reverted => !owner.success && !is_noop,
            TransactionState::Superseded => is_noop || work.is_none(),
            _ => false,
        };
        if is_right {
            Ok(())
        } else {
            Err(format!("{row:?} is final, and its account nonce went to {owner:?} {done:?}"))
        }
    }
}

/// Fees of an envelope that a store holds.
pub(super) fn newest(
    world: &World,
    transaction: &Transaction,
) -> Option<(usize, AttemptKind, Fees)> {
    let id = *transaction.envelopes.last()?;
    let envelope = world.envelopes.get(id)?;
    Some((id, envelope.kind, envelope.fees))
}
