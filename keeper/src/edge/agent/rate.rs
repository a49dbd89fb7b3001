//! How many calls an agent may make in any 60 seconds (S02 6.5, R-312).
//!
//! The ledger counts, so that all edges on one database share the limit.

use super::trust::Tier;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

/// What is counted.
pub(super) const WINDOW: TimeDelta = TimeDelta::seconds(60);
/// What `Retry-After` may say (S03 3.5).
const RETRY_AFTER: std::ops::RangeInclusive<i64> = 1..=600;

/// Calls in any 60 seconds, by tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallsPerMinute {
    bronze: u32,
    silver: u32,
    gold: u32,
    platinum: u32,
}

impl Default for CallsPerMinute {
    /// S02 6.2.
    fn default() -> Self {
        Self { bronze: 10, silver: 30, gold: 100, platinum: 500 }
    }
}

impl CallsPerMinute {
    /// Whether every tier may call at all.
    pub fn is_open(&self) -> bool {
        Tier::ALL.iter().all(|tier| self.of(*tier) > 0)
    }

    /// Those of a tier.
    pub(super) const fn of(&self, tier: Tier) -> u32 {
        match tier {
            Tier::Bronze => self.bronze,
            Tier::Silver => self.silver,
            Tier::Gold => self.gold,
            Tier::Platinum => self.platinum,
        }
    }
}

/// An agent has made as many calls as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) struct Limited {
    pub(super) tier: Tier,
    pub(super) limit: u32,
    /// When there is room for one more.
    pub(super) reset_at: DateTime<Utc>,
    /// Seconds until then, rounded up.
    pub(super) retry_after: u64,
}

impl Limited {
    /// `blocking` is the oldest call that must leave the window first.
    pub(super) fn new(tier: Tier, limit: u32, blocking: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let reset_at = blocking.checked_add_signed(WINDOW).unwrap_or(now);
        let left = reset_at.signed_duration_since(now).num_milliseconds();
        let seconds = left.saturating_add(999).div_euclid(1_000);
        let seconds = seconds.clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end());
        Self { tier, limit, reset_at, retry_after: seconds.unsigned_abs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// an integer of seconds within 1 and 600, never too short.
    #[test]
    fn the_wait_is_rounded_up_and_bounded() {
        let now = Utc::now();
        for (ago_ms, seconds) in
            [(0, 60), (1, 60), (999, 60), (1_000, 59), (59_999, 1), (60_000, 1), (90_000, 1)]
        {
            let blocking = now - TimeDelta::milliseconds(ago_ms);
            let limited = Limited::new(Tier::Bronze, 10, blocking, now);
            assert_eq!(limited.retry_after, seconds, "{ago_ms}");
        }
        // Clocks differ.
        let ahead = Limited::new(Tier::Bronze, 10, now + TimeDelta::hours(1), now);
        assert_eq!(ahead.retry_after, 600);
    }

    #[test]
    fn the_limits_are_those_of_the_specification() {
        let limits = CallsPerMinute::default();
        assert_eq!(Tier::ALL.iter().map(|tier| limits.of(*tier)).sum::<u32>(), 640);
        assert_eq!((limits.of(Tier::Bronze), limits.of(Tier::Platinum)), (10, 500));
        assert!(limits.is_open() && !CallsPerMinute { gold: 0, ..limits }.is_open());
    }
}
