//! The seals, recomputed while the events go by.

use super::report::Check;
use crate::{ledger::Seal, lifecycle::SealHasher};
use alloy::primitives::B256;
use std::collections::BTreeMap;

/// Positions follow `seq` but for transactions that were open at the same time: an event that is so
/// far behind is missing.
const MAX_OUT_OF_ORDER: usize = 100_000;

/// Recomputes every root.
pub(super) struct Seals {
    seals: Vec<Seal>,
    /// Which of them is being recomputed.
    current: usize,
    hasher: Option<SealHasher>,
    /// A root that must be among those that are recomputed: a stored one proves nothing.
    since: Option<B256>,
    /// The next position that must come.
    next: u64,
    /// What came too early.
    early: BTreeMap<u64, B256>,
    positions: Check,
    roots: Check,
    pub(super) unsealed: u64,
}

impl Seals {
    pub(super) fn new(mut seals: Vec<Seal>, since: Option<B256>) -> Self {
        let positions = Check::new(
            "seals.positions",
            "every position has its event, without gaps, and is under a seal",
        );
        let mut roots = Check::new(
            "seals.roots",
            "every seal's root follows from the root before and from the events under it",
        );
        for seal in seals.extract_if(.., |seal| seal.to < seal.from) {
            roots.fail(name(&seal), "it ends before it begins");
        }
        let mut expected = 0;
        for seal in &seals {
            if seal.from != expected {
                roots.fail(
                    name(seal),
                    format!(
                        "the seal before it ends elsewhere: position {expected} is not covered"
                    ),
                );
            }
            expected = seal.to.saturating_add(1);
        }
        let mut this = Self {
            seals,
            current: 0,
            hasher: None,
            since,
            next: 0,
            early: BTreeMap::new(),
            positions,
            roots,
            unsealed: 0,
        };
        this.open();
        this
    }

    /// Begins the root of the current seal.
    fn open(&mut self) {
        let before = self.current.checked_sub(1).and_then(|before| self.seals.get(before));
        let previous = before.map_or(B256::ZERO, |seal| seal.root);
        self.hasher =
            self.seals.get(self.current).map(|seal| SealHasher::new(previous, seal.from, seal.to));
    }

    /// An event goes by.
    pub(super) fn event(&mut self, seq: i64, position: Option<i64>, hash: B256) {
        let Some(position) = position.and_then(|position| u64::try_from(position).ok()) else {
            self.unsealed = self.unsealed.saturating_add(1);
            return;
        };
        self.positions.pass();
        if position < self.next {
            self.positions.fail(
                format!("event_positions {position}"),
                format!("event {seq} is not where it was sealed"),
            );
        } else if position > self.next {
            self.early.insert(position, hash);
            if self.early.len() > MAX_OUT_OF_ORDER {
                self.skip();
            }
        } else {
            self.take(position, hash);
            self.catch_up();
        }
    }

    /// What came early may be next now.
    fn catch_up(&mut self) {
        while let Some(hash) = self.early.remove(&self.next) {
            self.take(self.next, hash);
        }
    }

    /// What should have been next never came.
    fn skip(&mut self) {
        let Some((&found, _)) = self.early.first_key_value() else { return };
        self.missing(self.next, found);
        self.next = found;
        self.catch_up();
    }

    fn missing(&mut self, from: u64, until: u64) {
        if from < until {
            let last = until.saturating_sub(1);
            let row = match from == last {
                true => format!("event_positions {from}"),
                false => format!("event_positions {from}..{last}"),
            };
            let problem = "its event is missing from settlement_events, or it lost its position";
            self.positions.fail(row, problem);
        }
        // No root over a hole is recomputed: the seals that cover it are passed over.
        if from < until {
            self.hasher = None;
            while self.seals.get(self.current).is_some_and(|seal| seal.to < until) {
                self.current = self.current.saturating_add(1);
                self.roots.pass();
                self.open();
            }
            if self.seals.get(self.current).is_some_and(|seal| seal.from < until) {
                self.hasher = None;
            }
        }
    }

    fn take(&mut self, position: u64, hash: B256) {
        self.next = position.saturating_add(1);
        while let Some(seal) = self.seals.get(self.current).filter(|seal| seal.to < position) {
            self.roots.fail(name(seal), "covers positions that another seal covers too");
            self.current = self.current.saturating_add(1);
            self.open();
        }
        let Some(seal) = self.seals.get(self.current).copied() else {
            self.positions.fail(format!("event_positions {position}"), "is under no seal");
            return;
        };
        if position < seal.from {
            // The seal that covered it is gone, which was said above.
            return;
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.add(&hash);
        }
        if position == seal.to {
            if let Some(hasher) = self.hasher.take() {
                let root = hasher.root();
                if self.since == Some(root) && root == seal.root {
                    self.since = None;
                }
                self.roots.expect(root == seal.root, || {
                    (name(&seal), "its root does not follow from the events under it".to_owned())
                });
            } else {
                self.roots.pass();
            }
            self.current = self.current.saturating_add(1);
            self.open();
        }
    }

    /// All events have gone by.
    pub(super) fn finish(mut self) -> [Check; 2] {
        while !self.early.is_empty() {
            self.skip();
        }
        if let Some(end) = self.seals.last().map(|seal| seal.to.saturating_add(1)) {
            self.missing(self.next, end);
        }
        if let Some(root) = self.since {
            self.roots.fail(
                format!("root {root}"),
                "does not follow from this ledger's events: its history was rewritten",
            );
        }
        [self.positions, self.roots]
    }
}

fn name(seal: &Seal) -> String {
    format!("event_seals {}..{}", seal.from, seal.to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(byte: u8) -> B256 {
        B256::repeat_byte(byte)
    }

    /// Two seals over four events.
    fn sealed() -> Vec<Seal> {
        let mut previous = B256::ZERO;
        [(0, 1), (2, 3)]
            .map(|(from, to)| {
                let mut hasher = SealHasher::new(previous, from, to);
                for position in from..=to {
                    hasher.add(&event(u8::try_from(position).unwrap()));
                }
                previous = hasher.root();
                Seal { from, to, root: previous }
            })
            .to_vec()
    }

    /// How many findings there are, of positions and of roots.
    fn check(seals: Vec<Seal>, events: &[(i64, u8)]) -> [u64; 2] {
        let mut audit = Seals::new(seals, None);
        for (position, byte) in events {
            audit.event(*position, Some(*position), event(*byte));
        }
        audit.finish().map(|check| check.broken)
    }

    #[test]
    fn what_was_sealed_is_found_unchanged_in_whatever_order_it_comes() {
        assert_eq!(check(sealed(), &[(0, 0), (1, 1), (2, 2), (3, 3)]), [0, 0]);
        assert_eq!(check(sealed(), &[(2, 2), (1, 1), (0, 0), (3, 3)]), [0, 0]);
        assert_eq!(check(vec![], &[]), [0, 0]);
    }

    #[test]
    fn every_change_is_found() {
        assert_eq!(check(sealed(), &[(0, 0), (1, 9), (2, 2), (3, 3)]), [0, 1], "changed");
        assert_eq!(check(sealed(), &[(0, 0), (2, 2), (3, 3)]), [1, 0], "missing");
        assert_eq!(check(sealed(), &[(0, 0), (1, 1), (2, 2)]), [1, 0], "missing at the end");
        assert_eq!(check(sealed(), &[(1, 1), (2, 2), (3, 3)]), [1, 0], "missing at the start");
        assert_eq!(check(sealed(), &[(0, 0), (1, 1)]), [1, 0], "a seal without events");
        let all = [(0, 0), (1, 1), (2, 2), (3, 3)];
        assert_eq!(check(sealed()[..1].to_vec(), &all), [2, 0], "the last seal is gone");
        assert_eq!(check(sealed()[1..].to_vec(), &all), [0, 2], "the first seal is gone");
        let mut other = sealed();
        other[0].root = event(7);
        assert_eq!(check(other, &all), [0, 2], "a root, and what follows from it");
        assert_eq!(check(vec![], &[(0, 0)]), [1, 0], "no seal at all");
        let mut turned = sealed();
        turned.push(Seal { from: 4, to: 3, root: event(8) });
        assert_eq!(check(turned, &all), [0, 1], "a seal that ends before it begins");
    }

    /// However far a position is away, a gap is one finding.
    #[test]
    fn a_gap_is_told_at_once() {
        let far = 1_000_000_000_000_000_000;
        let mut audit = Seals::new(sealed(), None);
        for position in [0, 1, 2, 3, far] {
            audit.event(position, Some(position), event(position.to_le_bytes()[0]));
        }
        let [positions, roots] = audit.finish();
        assert_eq!((positions.broken, roots.broken), (2, 0));
        assert_eq!(positions.findings[0].row, format!("event_positions 4..{}", far - 1));
    }

    #[test]
    fn a_root_of_the_log_must_be_there() {
        let since = |seals: Vec<Seal>, root| {
            let mut audit = Seals::new(seals, Some(root));
            for position in 0..4u8 {
                audit.event(position.into(), Some(position.into()), event(position));
            }
            audit.finish()[1].broken
        };
        let seals = sealed();
        assert_eq!(since(seals.clone(), seals[0].root), 0);
        assert_eq!(since(seals.clone(), seals[1].root), 0);
        assert_eq!(since(seals.clone(), event(1)), 1);
        // A row that only says so, under which nothing lies.
        let mut planted = seals;
        planted.push(Seal { from: 9, to: 8, root: event(1) });
        assert_eq!(since(planted, event(1)), 2);
    }
}
