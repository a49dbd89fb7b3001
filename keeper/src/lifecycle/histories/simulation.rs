//! One history: a list of steps that are carried out on world, store and two processes, and what
//! must have come of it when the faults stop.

use super::{
    super::{IntentKind, IntentState, KeeperState, Limits, Status, TransactionState},
    contracts::{Content, PAYMENTS},
    keeper::{Outbox, Reach},
    orders::Order,
    sabotage::Sabotage,
    store::{Lease, Store},
    world::{Checked, World},
};

/// Wei of a signer when all is well.
const PLENTY: u64 = 1_000_000_000;
/// What may be spent when all is well.
const GENEROUS: Limits = Limits {
    transaction: 10_000_000,
    hard_transaction: 50_000_000,
    day: 1_000_000_000,
    low_balance: 1_000,
};
/// Blocks after which nothing may be open any more, once the faults have stopped.
const PATIENCE: u64 = 80;
/// Of these the first come as often as on Base; the rest are further apart.
const QUICK: u64 = 24;
/// Most steps of an outbox in one round.
const ROUND: usize = 120;

/// Something that happens.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// A process's outbox for a signer goes on, asking a node when it must.
    Outbox { process: usize, signer: usize, node: usize, steps: usize },
    /// Its watcher reads, or writes what it has read.
    Watch { process: usize, node: usize },
    /// Its driver.
    Drive { process: usize },
    /// Its reconciler.
    Reconcile { process: usize, node: usize },
    /// It ends and forgets everything.
    Crash { process: usize },
    /// Its clock is wrong.
    Skew { process: usize, seconds: u64 },
    /// Time passes.
    Time { seconds: u64 },
    /// Blocks come and a process goes about its work; its watcher may be slow.
    Calm { process: usize, node: usize, blocks: u64, watches: bool },
    /// A block of what one node has, or all have.
    Block { node: Option<usize>, chance: u64 },
    /// The newest blocks are taken back; what was in them is in the pools again, or nowhere.
    Reorg { depth: u64, are_kept: bool, chance: u64 },
    /// The base fee changes.
    Fee { base: u64 },
    /// A node fails, in one way or another, or recovers.
    Node { node: usize, is_stalled: bool, is_blind: bool, is_deaf: bool },
    /// A node loses its pool.
    Evict { node: usize },
    /// Bytes that were sent once turn up again.
    Gossip { chance: usize },
    /// An agent pays.
    Pay { payment: usize, window: u64 },
    /// Somebody else pulls a payment, or splits.
    Stranger { payment: Option<usize> },
    /// Somebody else uses the key.
    Foreign { signer: usize },
    /// A copy of the store is taken.
    Copy,
    /// It takes the store's place.
    Restore,
    /// An operator sets limits.
    Limit { transaction: u64, hard: u64, day: u64 },
    /// An operator orders something.
    Order { process: usize, signer: usize, node: usize, order: Order },
}

/// How a history begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    /// Money at the Splitter that is nobody's payment.
    pub(super) donation: u8,
    /// What each signer has, wei.
    pub(super) wei: u64,
    /// For how many blocks the watcher stands still after the faults.
    pub(super) slow_watcher: u64,
}

#[derive(Debug, Default)]
struct Process {
    lease: Option<Lease>,
    skew: u64,
    outboxes: [Outbox; 2],
    /// What its watcher has read and not written.
    read: Option<usize>,
}

/// World, store and processes.
#[derive(Debug)]
pub(super) struct Simulation {
    world: World,
    store: Store,
    copy: Option<Store>,
    processes: [Process; 2],
    was_restored: bool,
    slow_watcher: u64,
    sabotage: Sabotage,
}

/// Runs a history to its end. The error says which promise was broken.
pub(super) fn run(
    setting: Setting,
    steps: &[Step],
    sabotage: Sabotage,
    tale: Option<&mut Vec<String>>,
) -> Checked {
    let mut simulation = Simulation {
        world: World::new(setting.donation, setting.wei),
        store: Store::new(GENEROUS),
        copy: None,
        processes: Default::default(),
        was_restored: false,
        slow_watcher: setting.slow_watcher,
        sabotage,
    };
    simulation.world.tale = tale.is_some().then(Vec::new);
    let outcome = simulation.run(steps);
    if let (Some(tale), Some(told)) = (tale, simulation.world.tale) {
        *tale = told;
    }
    outcome
}

impl Simulation {
    fn run(&mut self, steps: &[Step]) -> Checked {
        for step in steps {
            if let Some(tale) = &mut self.world.tale {
                tale.push(format!("{step:?}"));
            }
            self.take(*step)?;
        }
        self.recover()
    }

    fn take(&mut self, step: Step) -> Checked {
        match step {
            Step::Outbox { process, signer, node, steps } => {
                self.advance(process, signer, node, steps)?;
            }
            Step::Watch { process, node } => self.watch(process, node),
            Step::Drive { process } => {
                if self.leads(process) {
                    self.store.drive(&mut self.world);
                }
            }
            Step::Reconcile { process, node } => {
                if self.leads(process) {
                    self.store.reconcile(&self.world, node);
                }
            }
            Step::Crash { process } => self.processes[process] = Process::default(),
            Step::Skew { process, seconds } => self.processes[process].skew = seconds,
            Step::Time { seconds } => self.world.now += seconds,
            Step::Calm { process, node, blocks, watches } => {
                for block in 0..blocks {
                    self.world.mine(2, None, block)?;
                    self.check()?;
                    self.round(process, node, watches)?;
                }
            }
            Step::Block { node, chance } => {
                self.world.mine(2, node, chance)?;
                self.check()?;
            }
            Step::Reorg { depth, are_kept, chance } => {
                self.world.reorg(depth, are_kept, chance)?;
                self.check()?;
            }
            Step::Fee { base } => self.world.base_fee = base,
            Step::Node { node, is_stalled, is_blind, is_deaf } => {
                let node = &mut self.world.nodes[node];
                node.is_stalled = is_stalled;
                node.is_blind = is_blind;
                node.is_deaf = is_deaf;
            }
            Step::Evict { node } => self.world.evict(node),
            Step::Gossip { chance } => self.world.gossip(chance),
            Step::Pay { payment, window } => {
                let now = self.world.now;
                if self.world.windows[payment] == 0 {
                    self.world.windows[payment] = now + window;
                }
                self.store.reserve(payment, now);
            }
            Step::Stranger { payment } => self.world.stranger(match payment {
                Some(payment) => Content::Pull(payment),
                None => Content::Split(u32::MAX),
            }),
            Step::Foreign { signer } => self.world.foreign(signer),
            Step::Copy => self.copy = Some(self.store.clone()),
            Step::Restore => {
                if let Some(mut copy) = self.copy.clone() {
                    if self.sabotage != Sabotage::RestoreUnnoticed {
                        copy.history = self.store.history + 1;
                    }
                    self.store = copy;
                    self.was_restored = true;
                }
            }
            Step::Limit { transaction, hard, day } => {
                for signer in &mut self.store.signers {
                    let (low_balance, hard_transaction) = (GENEROUS.low_balance, hard);
                    signer.limits = Limits { transaction, hard_transaction, day, low_balance };
                }
            }
            Step::Order { process, signer, node, order } => {
                if self.leads(process) {
                    self.finish_round(process, signer, node)?;
                    self.with_outbox(process, signer, 0, |outbox, reach| {
                        outbox.obey(reach, order, node)
                    })?;
                }
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------------------ processes

    /// Whether a process may go on: it has the lease, renews it, or takes it.
    fn leads(&mut self, process: usize) -> bool {
        let (store, now) = (&mut self.store, self.world.now);
        let lease = self.processes[process].lease;
        if lease.is_some_and(|lease| store.renew(lease, now)) {
            return true;
        }
        self.processes[process].lease = store.acquire(process, now);
        if let Some(lease) = self.processes[process].lease {
            self.world.tell(|_| format!("process {process} leads with {lease:?}"));
        }
        self.processes[process].outboxes = Default::default();
        self.processes[process].read = None;
        self.processes[process].lease.is_some()
    }

    fn with_outbox<T>(
        &mut self,
        process: usize,
        signer: usize,
        chance: u32,
        act: impl FnOnce(&mut Outbox, &mut Reach<'_>) -> Checked<T>,
    ) -> Checked<Option<T>> {
        let Process { lease, skew, outboxes, .. } = &mut self.processes[process];
        let Some(lease) = *lease else { return Ok(None) };
        let mut reach = Reach {
            world: &mut self.world,
            store: &mut self.store,
            lease,
            signer,
            skew: *skew,
            chance,
            sabotage: self.sabotage,
        };
        act(&mut outboxes[signer], &mut reach).map(Some)
    }

    /// An outbox goes on. One that has lost the lease does not know before it writes.
    fn advance(&mut self, process: usize, signer: usize, node: usize, steps: usize) -> Checked {
        if self.processes[process].lease.is_none() && !self.leads(process) {
            return Ok(());
        }
        let now = self.world.now;
        if let Some(lease) = self.processes[process].lease {
            self.store.renew(lease, now);
        }
        for _ in 0..steps {
            let held =
                self.with_outbox(process, signer, 20, |outbox, reach| outbox.step(reach, node))?;
            if held == Some(false) {
                self.world.tell(|_| format!("process {process} finds that it does not lead"));
                let skew = self.processes[process].skew;
                self.processes[process] = Process { skew, ..Process::default() };
                break;
            }
        }
        Ok(())
    }

    fn watch(&mut self, process: usize, node: usize) {
        match self.processes[process].read.take() {
            None => {
                if self.leads(process) {
                    self.processes[process].read = Some(self.world.nodes[node].head);
                }
            }
            Some(block) => {
                let lease = self.processes[process].lease;
                if lease.is_some_and(|lease| self.store.is_held(lease)) {
                    self.store.mirror(&self.world, block, self.sabotage);
                }
            }
        }
    }

    fn check(&self) -> Checked {
        match self.world.state(self.world.head).split_twice {
            // A store that has lost a split may ask for it again: it divides what is accounted.
            Some(number) if !self.was_restored => Err(format!("split {number} is done twice")),
            _ => Ok(()),
        }
    }

    // ------------------------------------------------------------------------ the end

    /// The faults stop. Within a bounded number of blocks nothing may be open any more.
    fn recover(&mut self) -> Checked {
        self.world.base_fee = 100;
        self.world.tell(|_| "the faults stop".to_owned());
        for signer in &mut self.store.signers {
            signer.limits = GENEROUS;
        }
        self.world.heal(PLENTY);
        self.processes[1] = Process::default();
        let mut waits_for = String::new();
        for block in 0..PATIENCE {
            self.world.mine(if block < QUICK { 2 } else { 15 }, None, block)?;
            self.check()?;
            self.round(0, 0, block >= self.slow_watcher)?;
            match self.waits_for() {
                None => return Ok(()),
                Some(what) => waits_for = what,
            }
        }
        Err(format!("after {PATIENCE} blocks without faults: {waits_for}"))
    }

    /// A round of everything that a process runs.
    fn round(&mut self, process: usize, node: usize, watches: bool) -> Checked {
        if !self.leads(process) {
            return Ok(());
        }
        if watches {
            self.processes[process].read = None;
            self.watch(process, node);
            self.watch(process, node);
        }
        self.store.reconcile(&self.world, node);
        self.store.drive(&mut self.world);
        for signer in 0..2 {
            self.finish_round(process, signer, node)?;
        }
        Ok(())
    }

    fn finish_round(&mut self, process: usize, signer: usize, node: usize) -> Checked {
        let rounds = self.processes[process].outboxes[signer].rounds();
        for _ in 0..ROUND {
            self.advance(process, signer, node, 1)?;
            if self.processes[process].outboxes[signer].rounds() != rounds {
                break;
            }
        }
        Ok(())
    }

    /// What is still open, if anything.
    fn waits_for(&self) -> Option<String> {
        let store = &self.store;
        let mut is_parked = false;
        // The network put a record on the chain and not its pull: money is missing for another, and
        // a human was told.
        let state = self.world.state(self.world.head);
        let is_short = (0..PAYMENTS).any(|one| state.records[one] > 0 && !state.pulled[one]);
        for row in store.transactions.iter().filter(|row| !row.is_final) {
            if row.state != TransactionState::Parked {
                return Some(format!("{row:?}"));
            }
            if let Err(wrong) = store.check_parked(&self.world, row) {
                return Some(wrong);
            }
            is_parked = true;
        }
        for intent in &store.intents {
            let is_over = match intent.state {
                IntentState::Done | IntentState::Cancelled | IntentState::Held => true,
                IntentState::Reverted => intent.kind() != IntentKind::Record,
                IntentState::Open if is_short && intent.kind() == IntentKind::Record => true,
                IntentState::Open => !store.is_wanted(&self.world, intent, Sabotage::None),
                IntentState::Claimed | IntentState::Included => false,
            };
            // A quarantine does not end before a human has looked at what is parked.
            if !is_over && !is_parked {
                return Some(format!("{intent:?}"));
            }
        }
        for payment in 0..PAYMENTS {
            let Some(row) = store.payments[payment] else { continue };
            // Nothing is divided while money is missing for something that is accounted.
            let waits = matches!(
                row.keeper,
                KeeperState::Recording | KeeperState::Recorded | KeeperState::Splitting
            );
            if is_short && waits {
                continue;
            }
            let is_over = match row.keeper {
                KeeperState::Split | KeeperState::Held | KeeperState::Violation => true,
                _ => row.status.is_void() || row.status == Status::Mismatched,
            };
            if !is_over && !is_parked {
                return Some(format!("payment {payment}: {row:?}"));
            }
        }
        None
    }
}
