//! Orders of an operator, as `outbox/orders.rs` carries them out.

use super::{
    super::{AttemptKind, Cause, Mined, Sighting, TransactionState, Unmined},
    contracts::Content,
    keeper::{Op, Outbox, Reach, Seen, market},
    store::Write,
    world::{Checked, InBlock},
};
use alloy::primitives::B256;

/// What an operator may order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Rebroadcast,
    Bump,
    Cancel,
    Resolve,
    Quarantine,
}

impl Outbox {
    /// An operator orders something, for the newest transaction under way.
    pub(super) fn obey(&mut self, reach: &mut Reach<'_>, order: Order, node: usize) -> Checked {
        if order == Order::Quarantine {
            self.ops.push(Op::Write(Write::Quarantine));
            return Ok(());
        }
        self.look(reach, node);
        let Some(seen) = self.round.first().copied() else { return Ok(()) };
        match order {
            Order::Resolve => self.resolve(reach, &seen),
            _ if !seen.state.is_pending() => {}
            // A record is not sent without its pull, whoever wants it.
            Order::Rebroadcast | Order::Bump
                if !seen.has_cause && seen.newest.1 != AttemptKind::Noop => {}
            Order::Rebroadcast => {
                let (transaction, id) = (seen.id, seen.newest.0);
                self.ops.push(Op::Send { transaction, id, has_cause: seen.has_cause });
            }
            _ => self.push(reach, &seen, order)?,
        }
        Ok(())
    }

    fn push(&mut self, reach: &mut Reach<'_>, seen: &Seen, order: Order) -> Checked {
        let (_, kind, fees) = seen.newest;
        let is_noop = order == Order::Cancel || kind == AttemptKind::Noop;
        let kind = if is_noop { AttemptKind::Noop } else { AttemptKind::Bump };
        let limits = reach.store.signers[reach.signer].limits;
        let ceiling = limits.ceiling(seen.gas, 0);
        let noop_ceiling = limits.ceiling(Content::Nothing.gas(), 0);
        let unmined = Unmined { kind, fees, age: 0, cause: Cause::Stands, ceiling, noop_ceiling };
        let Some(fees) = unmined.higher(&market(reach.world, self.node), kind) else {
            return Ok(());
        };
        self.replace(reach, seen, kind, fees)
    }

    /// The operator knows who took a parked transaction's account nonce.
    fn resolve(&mut self, reach: &mut Reach<'_>, seen: &Seen) {
        let head = reach.world.nodes[self.node].head;
        let owner = reach.world.owner(head, reach.signer, seen.nonce);
        let (TransactionState::Parked, Some(chain), Some(mined)) = (seen.state, self.chain, owner)
        else {
            return;
        };
        let done = mined.envelope.map_or(Content::Nothing, |id| reach.world.envelopes[id].content);
        let is_ours = seen.work.is_some_and(|work| work.content == done);
        let kind = if is_ours { AttemptKind::First } else { AttemptKind::Noop };
        let InBlock { block, success, .. } = mined;
        let sighting =
            Sighting { chain, mined: Some(Mined { hash: B256::ZERO, kind, block, success }) };
        let (standing, _) = TransactionState::observe(seen.nonce, seen.work.is_some(), &sighting);
        let (transaction, known) = (seen.id, seen.state);
        self.ops.push(Op::Write(Write::Stand { transaction, known, standing, mined: owner }));
    }
}
