//! The newest blocks by hash, and where another one fits.

use super::Head;
use alloy::primitives::B256;
use std::collections::VecDeque;

/// Blocks that are held: some eight minutes of Base.
const HELD: usize = 256;
/// A head further ahead than this is taken without asking for every block in between: after an
/// outage the head is wanted now.
const MAX_GAP: u64 = 32;

/// Blocks that were taken off the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reorg {
    /// How many were taken; of a reorg beyond what is held, at least so many.
    pub depth: u64,
    /// Number of the first of them.
    pub at: u64,
}

/// Where a new head fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the head that is held.
    Same,
    /// An older block that is held, or one before all of them: the node lags.
    Behind,
    /// It follows on the head.
    Forward,
    /// It is the first, or far ahead: it begins a new history.
    Anew,
    /// It replaces blocks.
    Reorg(Reorg),
    /// That is not known before this ancestor is.
    Ask(B256),
}

/// The newest blocks, oldest first, each the parent of the next.
#[derive(Debug, Default)]
pub(super) struct History {
    blocks: VecDeque<(u64, B256)>,
}

impl History {
    /// Where a head fits: `path` is the head and as many of its ancestors as are known, newest
    /// first.
    pub(super) fn place(&self, path: &[Head]) -> Place {
        let (Some(head), Some(last)) = (path.first(), path.last()) else { return Place::Same };
        let (Some((oldest, _)), Some((tip, tip_hash))) = (self.blocks.front(), self.blocks.back())
        else {
            return Place::Anew;
        };
        if head.hash == *tip_hash {
            return Place::Same;
        }
        if head.number() < *oldest || self.holds(head.number(), head.hash) {
            return Place::Behind;
        }
        if head.number().saturating_sub(*tip) > MAX_GAP {
            return Place::Anew;
        }
        let before = last.number().saturating_sub(1);
        if self.holds(before, last.parent_hash) {
            return match tip.saturating_sub(before) {
                0 => Place::Forward,
                depth => Place::Reorg(Reorg { depth, at: last.number() }),
            };
        }
        if last.number() <= *oldest {
            let depth = tip.saturating_sub(*oldest).saturating_add(1);
            return Place::Reorg(Reorg { depth, at: *oldest });
        }
        Place::Ask(last.parent_hash)
    }

    /// Keeps a head and its ancestors in the place that was found for them.
    pub(super) fn take(&mut self, place: Place, path: &[Head]) {
        match place {
            Place::Same | Place::Behind | Place::Ask(_) => return,
            Place::Anew => self.blocks.clear(),
            Place::Forward => {}
            Place::Reorg(Reorg { at, .. }) => self.blocks.retain(|(number, _)| *number < at),
        }
        self.blocks.extend(path.iter().rev().map(|head| (head.number(), head.hash)));
        let surplus = self.blocks.len().saturating_sub(HELD);
        self.blocks.drain(..surplus);
    }

    fn holds(&self, number: u64, hash: B256) -> bool {
        self.blocks.iter().rev().any(|block| *block == (number, hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hash(number: u64, fork: u8) -> B256 {
        let mut hash = B256::repeat_byte(fork);
        hash[..8].copy_from_slice(&number.to_be_bytes());
        hash
    }

    /// A block of a fork; forks part above block `from`, below it all are fork 0.
    fn block(number: u64, fork: u8, from: u64) -> Head {
        let of = |number| hash(number, if number > from { fork } else { 0 });
        serde_json::from_value(json!({
            "number": format!("{number:#x}"),
            "hash": of(number),
            "parentHash": of(number.saturating_sub(1)),
            "timestamp": "0x0",
        }))
        .unwrap()
    }

    /// Blocks `first..=last` of fork 0.
    fn history(first: u64, last: u64) -> History {
        let mut history = History::default();
        for number in first..=last {
            let path = [block(number, 0, 0)];
            let place = history.place(&path);
            history.take(place, &path);
        }
        history
    }

    /// Where a fork's head ends up, asking for ancestors as the follower does, and how many were
    /// asked for.
    fn settle(history: &mut History, head: u64, fork: u8, from: u64) -> (Place, usize) {
        let mut path = vec![block(head, fork, from)];
        loop {
            match history.place(&path) {
                Place::Ask(parent) => {
                    let next = block(path.last().unwrap().number() - 1, fork, from);
                    assert_eq!(next.hash, parent);
                    path.push(next);
                }
                place => {
                    history.take(place, &path);
                    return (place, path.len() - 1);
                }
            }
        }
    }

    fn reorg(depth: u64, at: u64) -> Place {
        Place::Reorg(Reorg { depth, at })
    }

    /// Blocks 100 to 120 are held, then a head comes: of the same chain, or of fork 1, which parts
    /// above a block.
    #[test]
    fn every_head_has_its_place() {
        for (case, head, fork, from, place, asked) in [
            ("the same", 120, 0, 0, Place::Same, 0),
            ("the next", 121, 0, 0, Place::Forward, 0),
            ("the one after it", 122, 0, 0, Place::Forward, 1),
            ("a gap", 152, 0, 0, Place::Forward, 31),
            ("far ahead", 153, 0, 0, Place::Anew, 0),
            ("far ahead on a fork", 153, 1, 110, Place::Anew, 0),
            ("lagging by one", 119, 0, 0, Place::Behind, 0),
            ("lagging at the oldest", 100, 0, 0, Place::Behind, 0),
            ("lagging beyond what is held", 99, 0, 0, Place::Behind, 0),
            ("lagging beyond, on a fork", 99, 1, 50, Place::Behind, 0),
            ("sideways by one", 120, 1, 119, reorg(1, 120), 0),
            ("sideways by three", 120, 1, 117, reorg(3, 118), 2),
            ("forward over a reorg", 122, 1, 118, reorg(2, 119), 3),
            ("backwards", 117, 1, 115, reorg(5, 116), 1),
            ("down to the oldest but one", 121, 1, 100, reorg(20, 101), 20),
            ("down to the oldest", 121, 1, 99, reorg(21, 100), 21),
            ("deeper than what is held", 121, 1, 40, reorg(21, 100), 21),
            ("another oldest", 100, 1, 50, reorg(21, 100), 0),
        ] {
            let mut history = history(100, 120);
            assert_eq!(settle(&mut history, head, fork, from), (place, asked), "{case}");
            let moved = !matches!(place, Place::Same | Place::Behind);
            let tip = if moved { block(head, fork, from) } else { block(120, 0, 0) };
            assert_eq!(history.blocks.back(), Some(&(tip.number(), tip.hash)), "{case}");
            let (first, _) = history.blocks[0];
            let numbers = history.blocks.iter().map(|(number, _)| *number);
            assert!(numbers.eq(first..=tip.number()), "{case}: without gaps");
        }
    }

    /// Two nodes, one of which lags, make the head go neither back nor forth.
    #[test]
    fn a_node_that_lags_moves_nothing() {
        let mut history = history(100, 120);
        for head in [118, 120, 117, 120, 119] {
            let (place, _) = settle(&mut history, head, 0, 0);
            assert!(matches!(place, Place::Same | Place::Behind), "{head}: {place:?}");
        }
        assert_eq!(settle(&mut history, 121, 0, 0), (Place::Forward, 0));
    }

    /// A reorg that is undone is two.
    #[test]
    fn there_and_back_are_two_reorgs() {
        let mut history = history(100, 120);
        assert_eq!(settle(&mut history, 121, 1, 118), (reorg(2, 119), 2));
        assert_eq!(settle(&mut history, 122, 0, 0), (reorg(3, 119), 3));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let history = history(1, 1_000);
        assert_eq!(history.blocks.len(), HELD);
        assert_eq!(history.blocks.front().unwrap().0, 745);
    }
}
