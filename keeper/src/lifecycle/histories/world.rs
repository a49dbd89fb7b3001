//! The chain as the model has it: blocks that may be taken back down to the final one, nodes that
//! lag, stay on a lost fork or answer half of what they are asked.

use super::{
    super::{AttemptKind, Fees},
    contracts::{Content, PAYMENTS, State},
};

/// Blocks until a block is safe, and until it is final.
const SAFE: u64 = 2;
const FINAL: u64 = 4;
/// Most transactions of one signer in a block.
const PER_BLOCK: usize = 3;

/// Something is not as it must be.
pub(super) type Checked<T = ()> = Result<T, String>;

/// A transaction in a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct InBlock {
    pub(super) signer: usize,
    pub(super) nonce: u64,
    /// Which envelope; `None`: not one of the keeper's, although by its key.
    pub(super) envelope: Option<usize>,
    pub(super) success: bool,
    pub(super) cost: u64,
    /// Number of the block.
    pub(super) block: u64,
}

/// A block.
#[derive(Debug)]
pub(super) struct Block {
    parent: usize,
    pub(super) number: u64,
    pub(super) time: u64,
    pub(super) base_fee: u64,
    pub(super) state: State,
    mined: Vec<InBlock>,
    is_final: bool,
}

/// A signed envelope, whoever knows of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope {
    pub(super) signer: usize,
    pub(super) nonce: u64,
    pub(super) content: Content,
    pub(super) kind: AttemptKind,
    pub(super) fees: Fees,
    pub(super) signed_at: u64,
    /// Whether a store ever held it.
    pub(super) is_committed: bool,
    /// Whether a node ever had it.
    pub(super) was_sent: bool,
}

impl Envelope {
    pub(super) const fn new(
        (signer, nonce): (usize, u64),
        (content, kind, fees): (Content, AttemptKind, Fees),
        signed_at: u64,
    ) -> Self {
        let (is_committed, was_sent) = (false, false);
        Self { signer, nonce, content, kind, fees, signed_at, is_committed, was_sent }
    }
}

/// A node.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Its newest block, which may be on a fork that is lost.
    pub(super) head: usize,
    /// Envelopes that it holds.
    pub(super) pool: Vec<usize>,
    /// It learns of no new blocks.
    pub(super) is_stalled: bool,
    /// It answers no receipts.
    pub(super) is_blind: bool,
    /// It takes no envelopes; whoever sends one does not learn that.
    pub(super) is_deaf: bool,
}

/// What a node says of a signer.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) safe: u64,
    pub(super) finalized: u64,
    pub(super) finalized_time: u64,
    pub(super) final_state: State,
}

/// Everything outside of the keeper.
#[derive(Debug)]
pub(super) struct World {
    pub(super) now: u64,
    pub(super) base_fee: u64,
    pub(super) blocks: Vec<Block>,
    pub(super) head: usize,
    pub(super) finalized: usize,
    /// Who took each signer's account nonces for good.
    finals: [Vec<InBlock>; 2],
    pub(super) nodes: [Node; 2],
    pub(super) envelopes: Vec<Envelope>,
    /// Until when each payment can be pulled.
    pub(super) windows: [u64; PAYMENTS],
    /// What strangers do in the next block.
    strangers: Vec<Content>,
    /// Somebody else uses the key in the next block.
    foreign: [bool; 2],
    /// Payments whose record the network may put on the chain before their pull, whatever the
    /// keeper does: the record was on its way when a reorg took the pull.
    pub(super) excused: [bool; PAYMENTS],
    /// The work that each account nonce was given to, by any store that ever was.
    works: [Vec<Option<Content>>; 2],
    /// What the signers are given in the next block.
    top_up: Option<u64>,
    /// Intents to split, of any store that ever was.
    pub(super) splits: u32,
    /// What happens, when somebody wants to read it.
    pub(super) tale: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(donation: u8, wei: u64) -> Self {
        let state = State {
            counts: [0; 2],
            wei: [wei; 2],
            pulled: [false; PAYMENTS],
            records: [0; PAYMENTS],
            split: [false; PAYMENTS],
            accounted: 0,
            unaccounted: donation,
            splits: 0,
            split_twice: None,
        };
        let genesis = Block {
            parent: 0,
            number: 0,
            time: 1_000,
            base_fee: 100,
            state,
            mined: Vec::new(),
            is_final: true,
        };
        Self {
            now: 1_000,
            base_fee: 100,
            blocks: vec![genesis],
            head: 0,
            finalized: 0,
            finals: Default::default(),
            nodes: Default::default(),
            envelopes: Vec::new(),
            windows: [0; PAYMENTS],
            strangers: Vec::new(),
            foreign: [false; 2],
            excused: [false; PAYMENTS],
            works: Default::default(),
            top_up: None,
            splits: 0,
            tale: None,
        }
    }

    pub(super) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.tale.is_some() {
            let line = format!("      {:5}  {}", self.now, line(self));
            self.tale.iter_mut().for_each(|tale| tale.push(line.clone()));
        }
    }

    // ------------------------------------------------------------------------ reading

    pub(super) fn block(&self, block: usize) -> &Block {
        &self.blocks[block]
    }

    pub(super) fn state(&self, block: usize) -> &State {
        &self.blocks[block].state
    }

    fn ancestor(&self, mut block: usize, number: u64) -> usize {
        while self.blocks[block].number > number {
            block = self.blocks[block].parent;
        }
        block
    }

    /// Whether a node has a block on its chain.
    pub(super) fn stands(&self, node: usize, block: usize) -> bool {
        let (head, number) = (self.nodes[node].head, self.blocks[block].number);
        number <= self.blocks[head].number && self.ancestor(head, number) == block
    }

    pub(super) fn view(&self, node: usize) -> View {
        let head = self.nodes[node].head;
        let number = self.blocks[head].number;
        let safe = number.saturating_sub(SAFE);
        let finalized = &self.blocks[self.ancestor(head, number.saturating_sub(FINAL))];
        View {
            safe,
            finalized: finalized.number,
            finalized_time: finalized.time,
            final_state: finalized.state,
        }
    }

    /// Who took an account nonce, as somebody sees it whose newest block is `head`.
    pub(super) fn owner(&self, head: usize, signer: usize, nonce: u64) -> Option<InBlock> {
        if nonce >= self.blocks[head].state.counts[signer] {
            return None;
        }
        let mut block = head;
        while !self.blocks[block].is_final {
            let mined = &self.blocks[block].mined;
            let found = mined.iter().find(|found| (found.signer, found.nonce) == (signer, nonce));
            if found.is_some() {
                return found.copied();
            }
            block = self.blocks[block].parent;
        }
        self.final_owner(signer, nonce)
    }

    /// Who took an account nonce for good.
    pub(super) fn final_owner(&self, signer: usize, nonce: u64) -> Option<InBlock> {
        self.finals[signer].get(usize::try_from(nonce).ok()?).copied()
    }

    /// The highest transaction count that any node knows of, pools included.
    pub(super) fn highest_count(&self, signer: usize) -> u64 {
        (0..self.nodes.len()).map(|node| self.pending_count(node, signer)).max().unwrap_or(0)
    }

    /// A node's transaction count with its pool.
    pub(super) fn pending_count(&self, node: usize, signer: usize) -> u64 {
        let node = &self.nodes[node];
        let mut count = self.state(node.head).counts[signer];
        let has = |nonce| {
            node.pool
                .iter()
                .map(|envelope| &self.envelopes[*envelope])
                .any(|envelope| (envelope.signer, envelope.nonce) == (signer, nonce))
        };
        while has(count) {
            count += 1;
        }
        count
    }

    // ------------------------------------------------------------------------ the chain

    /// Somebody else makes a pull or a split.
    pub(super) fn stranger(&mut self, content: Content) {
        self.strangers.push(content);
    }

    /// Somebody else has the key.
    pub(super) fn foreign(&mut self, signer: usize) {
        self.foreign[signer] = true;
    }

    /// Adds a block with what a node has, or every node.
    pub(super) fn mine(&mut self, seconds: u64, node: Option<usize>, chance: u64) -> Checked {
        self.now += seconds;
        let parent = &self.blocks[self.head];
        let number = parent.number + 1;
        let mut state = parent.state;
        let mut mined = Vec::new();
        if let Some(wei) = self.top_up.take() {
            state.wei = [wei; 2];
        }
        for content in self.strangers.drain(..) {
            state.execute(content, self.now, &self.windows);
        }
        for signer in 0..2 {
            if std::mem::take(&mut self.foreign[signer]) {
                let nonce = state.counts[signer];
                state.counts[signer] += 1;
                let (envelope, success, cost) = (None, true, 0);
                mined.push(InBlock { signer, nonce, envelope, success, cost, block: number });
            }
        }
        // Which signer comes first is chance: nothing orders pull and record but the keeper.
        let first = usize::from(chance & 1 == 1);
        for signer in [first, 1 - first] {
            for turn in 0..PER_BLOCK {
                let Some(id) = self.candidate(&state, signer, node, chance >> (turn + 1)) else {
                    break;
                };
                let Envelope { nonce, content, fees, .. } = self.envelopes[id];
                let success = state.execute(content, self.now, &self.windows);
                let tip = fees.max_priority_fee_per_gas.min(fees.max_fee_per_gas - self.base_fee);
                let cost = content.gas() * (self.base_fee + tip);
                state.wei[signer] -= cost;
                state.counts[signer] += 1;
                let envelope = Some(id);
                mined.push(InBlock { signer, nonce, envelope, success, cost, block: number });
            }
        }
        let (time, base_fee) = (self.now, self.base_fee);
        let parent = self.head;
        self.blocks.push(Block { parent, number, time, base_fee, state, mined, is_final: false });
        self.head = self.blocks.len() - 1;
        let is_empty = self.blocks[self.head].mined.is_empty();
        self.tell(|world| {
            let block = world.block(world.head);
            if is_empty {
                return format!("block {number} at {base_fee} wei");
            }
            let mined = block.mined.iter().map(|one| match one.envelope {
                Some(id) => format!("{id}{}", if one.success { "" } else { " (reverted)" }),
                None => "somebody else's".to_owned(),
            });
            let mined = mined.collect::<Vec<_>>().join(", ");
            format!("block {number} at {base_fee} wei: [{mined}] {:?}", block.state)
        });
        self.spread();
        self.finalize()?;
        self.check()
    }

    /// What a block includes next of a signer.
    fn candidate(
        &self,
        state: &State,
        signer: usize,
        node: Option<usize>,
        chance: u64,
    ) -> Option<usize> {
        let nonce = state.counts[signer];
        let mut found = None;
        for (at, pool) in self.nodes.iter().enumerate() {
            if node.is_some_and(|node| node != at) {
                continue;
            }
            for id in &pool.pool {
                let envelope = &self.envelopes[*id];
                let fits = envelope.signer == signer
                    && envelope.nonce == nonce
                    && envelope.fees.max_fee_per_gas >= self.base_fee
                    && envelope.fees.max_fee_per_gas * envelope.content.gas() <= state.wei[signer];
                if fits && (found.is_none() || chance & 1 == 1) {
                    found = Some(*id);
                }
            }
        }
        found
    }

    /// The nodes that follow see the head; what is mined leaves their pools.
    fn spread(&mut self) {
        let counts = self.blocks[self.head].state.counts;
        for node in self.nodes.iter_mut().filter(|node| !node.is_stalled) {
            node.head = self.head;
            let envelopes = &self.envelopes;
            node.pool.retain(|id| envelopes[*id].nonce >= counts[envelopes[*id].signer]);
        }
    }

    fn finalize(&mut self) -> Checked {
        let number = self.blocks[self.head].number.saturating_sub(FINAL);
        let from = self.blocks[self.finalized].number;
        for number in from + 1..=number {
            let block = self.ancestor(self.head, number);
            self.blocks[block].is_final = true;
            for mined in &self.blocks[block].mined {
                self.finals[mined.signer].push(*mined);
            }
            self.finalized = block;
            let state = &self.blocks[block].state;
            for payment in 0..PAYMENTS {
                let is_stolen = state.records[payment] > 0 && !state.pulled[payment];
                if is_stolen && !self.excused[payment] {
                    return Err(format!("payment {payment} is recorded for good and not pulled"));
                }
            }
        }
        Ok(())
    }

    /// The chain loses some of its newest blocks, and gets another one.
    pub(super) fn reorg(&mut self, depth: u64, are_kept: bool, chance: u64) -> Checked {
        let head = self.blocks[self.head].number;
        let most = head - self.blocks[self.finalized].number;
        let depth = depth.min(most);
        if depth == 0 {
            return Ok(());
        }
        let (mut lost, old) = (Vec::new(), self.head);
        self.head = self.ancestor(old, head - depth);
        let mut block = old;
        while block != self.head {
            lost.extend(self.blocks[block].mined.iter().rev().filter_map(|mined| mined.envelope));
            block = self.blocks[block].parent;
        }
        self.tell(|_| format!("reorg: {depth} blocks are gone"));
        self.spread();
        for id in lost.into_iter().rev().filter(|_| are_kept) {
            for node in 0..self.nodes.len() {
                self.put(node, id);
            }
        }
        self.excuse();
        self.mine(0, None, chance)
    }

    /// Every node follows, answers and takes envelopes again, and somebody pays the signers' gas.
    pub(super) fn heal(&mut self, wei: u64) {
        for node in &mut self.nodes {
            (node.is_stalled, node.is_blind, node.is_deaf) = (false, false, false);
        }
        self.top_up = Some(wei);
    }

    fn check(&self) -> Checked {
        let state = self.state(self.head);
        for payment in 0..PAYMENTS {
            if state.records[payment] > 1 {
                return Err(format!("payment {payment} is recorded twice"));
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------------------ what was given out

    /// An account nonce is given to a piece of work.
    pub(super) fn give(&mut self, signer: usize, nonce: u64, work: Content) -> Checked {
        let at = usize::try_from(nonce).map_err(|error| error.to_string())?;
        let works = &mut self.works[signer];
        if works.len() <= at {
            works.resize(at + 1, None);
        }
        match works[at] {
            Some(other) => Err(format!("account nonce {nonce} is given to {other:?} and {work:?}")),
            None => {
                works[at] = Some(work);
                Ok(())
            }
        }
    }
}
