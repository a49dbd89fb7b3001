//! Watcher, driver and reconciler as the model has them: what the outbox is asked for, and what of
//! it is still wanted. Each writes in one SQL transaction.

use super::{
    super::{IntentKind, IntentState, KeeperEvent, KeeperState, Status, StatusEvent},
    contracts::{Content, PAYMENTS},
    sabotage::Sabotage,
    store::{Payment, Store},
    world::World,
};

impl Payment {
    fn on(&mut self, event: StatusEvent) {
        if let Ok(status) = self.status.step(event) {
            self.status = status;
        }
    }

    fn go(&mut self, event: KeeperEvent) {
        if let Ok(keeper) = self.keeper.step(event) {
            self.keeper = keeper;
        }
    }
}

impl Store {
    /// An agent pays: its identity is reserved and its pull handed over, once.
    pub(super) fn reserve(&mut self, payment: usize, now: u64) -> bool {
        if self.payments[payment].is_some() {
            return false;
        }
        let (status, keeper) = (Status::SettlePending, KeeperState::None);
        self.payments[payment] = Some(Payment { status, keeper });
        self.add_intent(Content::Pull(payment), now);
        true
    }

    /// The watcher has read everything up to this block.
    pub(super) fn mirror(&mut self, world: &World, block: usize, sabotage: Sabotage) {
        let is_behind = world.block(block).number < self.finalized;
        if is_behind && sabotage != Sabotage::MirrorGoesBack {
            return;
        }
        self.mirror = block;
        for payment in 0..PAYMENTS {
            let Some(row) = &mut self.payments[payment] else { continue };
            match (world.state(block).pulled[payment], row.status.is_paid()) {
                (true, false) => row.on(StatusEvent::PullSeen),
                (false, true) => row.on(StatusEvent::PullLost),
                _ => {}
            }
        }
    }

    /// The driver's round.
    pub(super) fn drive(&mut self, world: &mut World) {
        let now = world.now;
        let (mirrored, state) = (world.block(self.mirror).number + 1, *world.state(self.mirror));
        for payment in 0..PAYMENTS {
            let Some(mut row) = self.payments[payment] else { continue };
            let records = state.records[payment];
            if row.keeper == KeeperState::Split && !state.split[payment] {
                row.go(KeeperEvent::SplitLost);
            }
            if matches!(row.keeper, KeeperState::Recorded | KeeperState::Splitting) && records == 0
            {
                row.go(KeeperEvent::RecordLost);
            }
            if row.keeper == KeeperState::None && row.status.is_paid() {
                row.go(KeeperEvent::Record);
                self.add_intent(Content::Record(payment), now);
            }
            if matches!(row.keeper, KeeperState::Recording | KeeperState::Held) {
                match records {
                    0 => {}
                    1 => row.go(KeeperEvent::RecordSeen),
                    _ => row.go(KeeperEvent::Contradict),
                }
            }
            let is_held = self.intents.iter().any(|intent| {
                intent.content == Content::Record(payment) && intent.state == IntentState::Held
            });
            if row.keeper == KeeperState::Recording && is_held {
                row.go(KeeperEvent::Hold);
            }
            if state.split[payment] {
                row.go(KeeperEvent::SplitSeen);
            }
            self.payments[payment] = Some(row);
        }
        self.split(world, mirrored);
    }

    fn split(&mut self, world: &mut World, mirrored: u64) {
        let is_recorded =
            |row: &Payment| matches!(row.keeper, KeeperState::Recorded | KeeperState::Splitting);
        if !self.payments.iter().flatten().any(is_recorded) {
            for intent in &mut self.intents {
                if intent.kind() == IntentKind::Split && intent.state == IntentState::Open {
                    intent.state = IntentState::Cancelled;
                }
            }
        } else if !self.split_is_pending(mirrored) {
            for row in self.payments.iter_mut().flatten() {
                if row.keeper == KeeperState::Recorded {
                    row.go(KeeperEvent::Split);
                }
            }
            world.splits += 1;
            self.add_intent(Content::Split(world.splits), world.now);
        }
    }

    /// The reconciler's round, through one node.
    pub(super) fn reconcile(&mut self, world: &World, node: usize) {
        let view = world.view(node);
        let mirror = world.block(self.mirror);
        for payment in 0..PAYMENTS {
            let Some(row) = &mut self.payments[payment] else { continue };
            let is_used = view.final_state.pulled[payment];
            if row.status == Status::FacilitatorAttested && is_used {
                row.on(StatusEvent::Confirm);
            }
            let is_closed = world.windows[payment] <= view.finalized_time
                && mirror.number >= view.finalized
                && !mirror.state.pulled[payment];
            if !is_closed || row.status.is_paid() || row.status.is_void() {
                continue;
            }
            row.on(if is_used { StatusEvent::Consumed } else { StatusEvent::Lapse });
            if row.keeper != KeeperState::None {
                row.go(KeeperEvent::Contradict);
            }
        }
    }
}
