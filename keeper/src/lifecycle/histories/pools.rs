//! The nodes' pools: envelopes in them are replaced, forgotten and handed around again.

use super::{
    contracts::Content,
    world::{Checked, Envelope, World},
};

impl World {
    /// The key signs.
    pub(super) fn sign(&mut self, envelope: Envelope) -> usize {
        self.envelopes.push(envelope);
        self.envelopes.len() - 1
    }

    /// Somebody hands an envelope to every node. `has_cause` is what the sender knows of it.
    pub(super) fn send(&mut self, id: usize, has_cause: bool) -> Checked {
        let envelope = self.envelopes[id];
        if !envelope.is_committed {
            return Err(format!("envelope {id} is broadcast and was never committed"));
        }
        if let Content::Record(payment) = envelope.content {
            if !has_cause {
                return Err(format!("the record of payment {payment} is sent without its pull"));
            }
            self.excused[payment] |= !self.state(self.head).pulled[payment];
        }
        self.envelopes[id].was_sent = true;
        for node in 0..self.nodes.len() {
            if !self.nodes[node].is_deaf {
                self.put(node, id);
            }
        }
        Ok(())
    }

    /// A pool's rule: another envelope of the same account nonce is replaced for a tenth more.
    pub(super) fn put(&mut self, node: usize, id: usize) {
        let new = self.envelopes[id];
        let node = &mut self.nodes[node];
        if new.nonce < self.blocks[node.head].state.counts[new.signer] || node.pool.contains(&id) {
            return;
        }
        let same = node.pool.iter().position(|other| {
            let other = &self.envelopes[*other];
            (other.signer, other.nonce) == (new.signer, new.nonce)
        });
        let Some(at) = same else { return node.pool.push(id) };
        let old = self.envelopes[node.pool[at]].fees;
        if new.fees.max_fee_per_gas * 10 >= old.max_fee_per_gas * 11
            && new.fees.max_priority_fee_per_gas * 10 >= old.max_priority_fee_per_gas * 11
        {
            node.pool[at] = id;
        }
    }

    /// A node that kept an envelope hands it around again.
    pub(super) fn gossip(&mut self, chance: usize) {
        let sent = self.envelopes.iter().filter(|envelope| envelope.was_sent).count();
        let Some(nth) = chance.checked_rem(sent) else { return };
        let mut ids = (0..self.envelopes.len()).filter(|id| self.envelopes[*id].was_sent);
        if let Some(id) = ids.nth(nth) {
            self.tell(|_| format!("envelope {id} turns up again"));
            for node in 0..self.nodes.len() {
                // Its pool held another, or none.
                let new = self.envelopes[id];
                let envelopes = &self.envelopes;
                let pool = &mut self.nodes[node].pool;
                pool.retain(|other| {
                    (envelopes[*other].signer, envelopes[*other].nonce) != (new.signer, new.nonce)
                });
                self.put(node, id);
            }
            self.excuse();
        }
    }

    /// A node loses its pool.
    pub(super) fn evict(&mut self, node: usize) {
        self.nodes[node].pool.clear();
    }

    /// What is in a pool may be mined, whatever the keeper does.
    pub(super) fn excuse(&mut self) {
        for node in &self.nodes {
            for envelope in &node.pool {
                if let Content::Record(payment) = self.envelopes[*envelope].content {
                    self.excused[payment] |= !self.blocks[self.head].state.pulled[payment];
                }
            }
        }
    }
}
