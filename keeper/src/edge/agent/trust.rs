//! Trust tiers: what an agent has earned by calls that were served (S02 6, R-311).

use crate::lifecycle::words;
use serde::{Deserialize, Serialize};

/// How far an agent is trusted. It rises with each served call and never falls.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Everybody.
    #[default]
    Bronze,
    /// From 100 calls on.
    Silver,
    /// From 500.
    Gold,
    /// From 2,000.
    Platinum,
}

words!(Tier {
    Bronze => "bronze",
    Silver => "silver",
    Gold => "gold",
    Platinum => "platinum",
});

impl Tier {
    /// More calls than this make no difference.
    pub(super) const MOST_CALLS: u64 = Self::Platinum.calls();

    /// Served calls that make an agent one of this tier.
    pub(super) const fn calls(self) -> u64 {
        match self {
            Self::Bronze => 0,
            Self::Silver => 100,
            Self::Gold => 500,
            Self::Platinum => 2_000,
        }
    }

    /// The tier of so many served calls.
    pub(super) fn of(calls: u64) -> Self {
        let reached = Self::ALL.iter().rev().find(|tier| calls >= tier.calls());
        reached.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// the bounds of S02 6.2, either side.
    #[test]
    fn tiers_begin_where_the_specification_says() {
        for (calls, tier) in [
            (0, Tier::Bronze),
            (99, Tier::Bronze),
            (100, Tier::Silver),
            (499, Tier::Silver),
            (500, Tier::Gold),
            (1_999, Tier::Gold),
            (2_000, Tier::Platinum),
            (u64::MAX, Tier::Platinum),
        ] {
            assert_eq!(Tier::of(calls), tier, "{calls}");
        }
        assert!(Tier::Bronze < Tier::Silver && Tier::Gold < Tier::Platinum);
    }
}
