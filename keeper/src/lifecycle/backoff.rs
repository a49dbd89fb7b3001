//! How long to wait before something is tried again.

use std::time::Duration;

/// The first wait.
const INITIAL: Duration = Duration::from_secs(1);
/// No wait is longer.
const MAX: Duration = Duration::from_secs(60);
/// So often the wait doubles before it is longest.
const MAX_DOUBLINGS: u32 = 6;
/// Most that chance may add to a wait, or take from it, percent.
pub const JITTER_PERCENT: u32 = 20;

/// The wait after so many failures in a row: 1 s, 2 s, 4 s, up to 60 s. `chance` is a random number
/// from 0 to twice [`JITTER_PERCENT`], so that what failed together is not tried again together.
pub fn backoff(failures: u64, chance: u32) -> Duration {
    let doublings = u32::try_from(failures).unwrap_or(u32::MAX).min(MAX_DOUBLINGS);
    let wait = INITIAL.saturating_mul(1 << doublings).min(MAX);
    let percent = (100 - JITTER_PERCENT).saturating_add(chance.min(2 * JITTER_PERCENT));
    wait.saturating_mul(percent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_doubling_to_sixty() {
        let waits = (0..9).map(|failures| backoff(failures, JITTER_PERCENT).as_secs());
        assert_eq!(waits.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff(u64::MAX, JITTER_PERCENT), MAX);
    }

    #[test]
    fn a_fifth_more_or_less() {
        assert_eq!(backoff(3, 0), Duration::from_millis(6_400));
        assert_eq!(backoff(3, 40), Duration::from_millis(9_600));
        assert_eq!(backoff(3, u32::MAX), Duration::from_millis(9_600));
    }
}
