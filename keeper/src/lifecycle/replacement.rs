//! Whether a transaction that is not mined gets another envelope.

use super::AttemptKind;

/// Fees of an EIP-1559 transaction, wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// Most that is paid in all.
    pub max_fee_per_gas: u64,
    /// Most that is paid to the sequencer.
    pub max_priority_fee_per_gas: u64,
}

/// What inclusion costs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Market {
    /// Base fee of the newest block, wei per gas.
    pub base_fee: u64,
    /// What a new envelope offers.
    pub fees: Fees,
}

/// A transaction without a receipt, by its newest envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unmined {
    /// What the envelope was signed for.
    pub kind: AttemptKind,
    /// What it offers.
    pub fees: Fees,
    /// Seconds since it was signed.
    pub age: u64,
    /// Whether its work is still wanted.
    pub cause: Cause,
    /// Most that any envelope of it may offer, wei per gas.
    pub ceiling: u64,
    /// Most that a no-op in its place may offer: it takes less gas.
    pub noop_ceiling: u64,
}

/// Why a transaction's work is wanted, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It is wanted.
    Stands,
    /// What it follows from is not on the chain now, for so many seconds. It may come back.
    Missing {
        /// Seconds.
        since: u64,
    },
    /// It cannot succeed any more.
    Gone,
}

/// What becomes of a transaction that is not mined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacement {
    /// The same bytes again.
    Again,
    /// Nothing is sent for now.
    Wait,
    /// The same work for higher fees.
    Bump(Fees),
    /// Nothing, at the same account nonce.
    Noop(Fees),
    /// It should get higher fees and must not: the same bytes again, and somebody is told.
    Capped,
    /// It should give way and must not cost so much: nothing is sent, and somebody is told. What it
    /// follows from is not on the chain, so that its bytes could do harm.
    Stuck,
}

/// An envelope that could be mined gets so many seconds before it is paid more for: ten blocks of
/// Base and some.
const PATIENCE: u64 = 30;
/// A lost cause gets so many seconds to come back.
const MISSING_PATIENCE: u64 = 20;
/// Nodes replace an envelope for 10 % more in both fees; one eighth is more than that.
const BUMP_DIVISOR: u64 = 8;

impl Fees {
    /// Enough to replace these in every node's pool, and what the market asks if that is more.
    fn above(self, market: Self) -> Self {
        let bump = |fee: u64| fee.saturating_add(fee.div_ceil(BUMP_DIVISOR)).saturating_add(1);
        Self {
            max_fee_per_gas: bump(self.max_fee_per_gas).max(market.max_fee_per_gas),
            max_priority_fee_per_gas: bump(self.max_priority_fee_per_gas)
                .max(market.max_priority_fee_per_gas),
        }
    }

    /// The same, but nowhere above `ceiling` wei per gas.
    pub fn within(self, ceiling: u64) -> Self {
        Self {
            max_fee_per_gas: self.max_fee_per_gas.min(ceiling),
            max_priority_fee_per_gas: self.max_priority_fee_per_gas.min(ceiling),
        }
    }

    /// Whether a block of this base fee could include it at its full tip.
    const fn pays(self, base_fee: u64) -> bool {
        self.max_fee_per_gas >= base_fee.saturating_add(self.max_priority_fee_per_gas)
    }
}

impl Unmined {
    /// Another envelope is signed only when it must be: whatever is signed can be mined.
    pub fn replace(&self, market: &Market) -> Replacement {
        let higher = self.fees.above(market.fees);
        let is_noop = self.kind == AttemptKind::Noop || self.cause != Cause::Stands;
        let ceiling = if is_noop { self.noop_ceiling } else { self.ceiling };
        let within = higher.max_fee_per_gas <= ceiling;
        match (self.kind, self.cause) {
            (AttemptKind::First | AttemptKind::Bump, Cause::Gone) if within => {
                Replacement::Noop(higher)
            }
            // It could only revert; that takes the account nonce, too.
            (AttemptKind::First | AttemptKind::Bump, Cause::Gone) => Replacement::Capped,
            (AttemptKind::First | AttemptKind::Bump, Cause::Missing { since }) => {
                match since >= MISSING_PATIENCE {
                    false => Replacement::Wait,
                    true if within => Replacement::Noop(higher),
                    true => Replacement::Stuck,
                }
            }
            _ if self.fees.pays(market.base_fee) && self.age < PATIENCE => Replacement::Again,
            // An envelope that could not be mined at any time is replaced at once.
            _ if !within => Replacement::Capped,
            (AttemptKind::Noop, _) => Replacement::Noop(higher),
            (AttemptKind::First | AttemptKind::Bump, Cause::Stands) => Replacement::Bump(higher),
        }
    }

    /// What becomes of it while nothing may be signed: the same bytes again, unless what they follow
    /// from is not on the chain.
    pub const fn unsigned(&self) -> Replacement {
        match (self.kind, self.cause) {
            (AttemptKind::First | AttemptKind::Bump, Cause::Missing { .. }) => Replacement::Wait,
            _ => Replacement::Again,
        }
    }

    /// Fees for another envelope of this kind that a human asks for. `None` when they would be above the
    /// ceiling.
    pub fn higher(&self, market: &Market, kind: AttemptKind) -> Option<Fees> {
        let ceiling = if kind == AttemptKind::Noop { self.noop_ceiling } else { self.ceiling };
        Some(self.fees.above(market.fees)).filter(|fees| fees.max_fee_per_gas <= ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Fees = Fees { max_fee_per_gas: 1_000, max_priority_fee_per_gas: 100 };
    const HIGHER: Fees = Fees { max_fee_per_gas: 1_126, max_priority_fee_per_gas: 114 };

    fn unmined() -> Unmined {
        Unmined {
            kind: AttemptKind::First,
            fees: OLD,
            age: 5,
            cause: Cause::Stands,
            ceiling: 5_000,
            noop_ceiling: 5_000,
        }
    }

    const fn market(base_fee: u64) -> Market {
        let max_fee_per_gas = base_fee * 2 + 100;
        Market { base_fee, fees: Fees { max_fee_per_gas, max_priority_fee_per_gas: 100 } }
    }

    #[test]
    fn the_same_bytes_while_they_can_be_mined() {
        assert_eq!(unmined().replace(&market(100)), Replacement::Again);
        assert_eq!(unmined().replace(&market(900)), Replacement::Again, "to the last wei");
        for kind in [AttemptKind::Bump, AttemptKind::Noop] {
            assert_eq!(Unmined { kind, ..unmined() }.replace(&market(900)), Replacement::Again);
        }
    }

    #[test]
    fn more_when_they_cannot_or_take_too_long() {
        let dear = market(901);
        assert_eq!(
            unmined().replace(&dear),
            Replacement::Bump(Fees { max_fee_per_gas: 1_902, ..HIGHER })
        );
        let late = Unmined { age: 30, ..unmined() };
        assert_eq!(late.replace(&market(100)), Replacement::Bump(HIGHER));
        let noop = Unmined { kind: AttemptKind::Noop, age: 30, ..unmined() };
        assert_eq!(noop.replace(&market(100)), Replacement::Noop(HIGHER), "a no-op stays one");
    }

    #[test]
    fn never_above_the_ceiling() {
        let capped = Unmined { ceiling: 1_125, noop_ceiling: 1_125, age: 30, ..unmined() };
        assert_eq!(capped.replace(&market(100)), Replacement::Capped);
        assert_eq!(
            Unmined { cause: Cause::Gone, ..capped }.replace(&market(100)),
            Replacement::Capped
        );
        assert_eq!(
            Unmined { ceiling: 1_126, ..capped }.replace(&market(100)),
            Replacement::Bump(HIGHER)
        );
    }

    #[test]
    fn what_is_not_wanted_any_more_gives_way() {
        let gone = Unmined { cause: Cause::Gone, ..unmined() };
        assert_eq!(gone.replace(&market(100)), Replacement::Noop(HIGHER));
        let missing = |since| Unmined { cause: Cause::Missing { since }, ..unmined() };
        assert_eq!(missing(19).replace(&market(100)), Replacement::Wait, "it may come back");
        assert_eq!(missing(20).replace(&market(100)), Replacement::Noop(HIGHER));
        // Its bytes do harm without their cause, however dear a no-op is.
        let capped = Unmined { noop_ceiling: 1_125, ..missing(20) };
        assert_eq!(capped.replace(&market(100)), Replacement::Stuck);
        // What has given way does not care.
        let noop = Unmined { kind: AttemptKind::Noop, ..missing(0) };
        assert_eq!(noop.replace(&market(100)), Replacement::Again);
    }

    #[test]
    fn nothing_new_while_nothing_may_be_signed() {
        let late = Unmined { age: 30, ..unmined() };
        assert_eq!(late.unsigned(), Replacement::Again);
        let missing = Unmined { cause: Cause::Missing { since: 20 }, ..late };
        assert_eq!(missing.unsigned(), Replacement::Wait, "its bytes do harm without their cause");
        let gone = Unmined { cause: Cause::Gone, ..late };
        assert_eq!(gone.unsigned(), Replacement::Again, "it can only revert");
        assert_eq!(Unmined { kind: AttemptKind::Noop, ..missing }.unsigned(), Replacement::Again);
    }

    /// Every pool's rule: at least a tenth more in both fees, for any fees.
    #[test]
    fn a_bump_replaces_in_every_pool() {
        for fee in [0, 1, 7, 8, 9, 1_000_000, u64::MAX / 2] {
            let fees = Fees { max_fee_per_gas: fee, max_priority_fee_per_gas: fee };
            let nothing = Fees { max_fee_per_gas: 0, max_priority_fee_per_gas: 0 };
            let higher = fees.above(nothing);
            for (old, new) in [
                (fees.max_fee_per_gas, higher.max_fee_per_gas),
                (fees.max_priority_fee_per_gas, higher.max_priority_fee_per_gas),
            ] {
                assert!(new > old && u128::from(new) * 1_000 >= u128::from(old) * 1_125, "{fee}");
            }
        }
    }
}
