//! How often a key may sign. Pure: the time is passed in.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What the limit is counted over.
const WINDOW: Duration = Duration::from_secs(60);

/// At most so many in any minute.
#[derive(Debug)]
pub(super) struct Limit {
    most: usize,
    /// When the last ones were admitted, the oldest first.
    admitted: VecDeque<Instant>,
}

impl Limit {
    pub(super) fn new(most: u32) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Self { most, admitted: VecDeque::new() }
    }

    /// How many may be in a minute.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// Admits one more, or says how long to wait.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        while let Some(oldest) = self.admitted.front() {
            let left = WINDOW.saturating_sub(now.saturating_duration_since(*oldest));
            if left.is_zero() {
                self.admitted.pop_front();
            } else if self.admitted.len() >= self.most {
                return Err(left);
            } else {
                break;
            }
        }
        self.admitted.push_back(now);
        Ok(())
    }
}

/// Something that goes on and should be alarmed once: a quiet minute ends it.
#[derive(Debug, Default)]
pub(super) struct Episode {
    last: Option<Instant>,
}

impl Episode {
    /// It happened; whether it has just begun.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        let last = self.last.replace(now);
        last.is_none_or(|last| now.saturating_duration_since(last) >= WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn no_minute_has_more_than_the_limit() {
        let start = Instant::now();
        let mut limit = Limit::new(10);
        let mut admitted = Vec::new();
        // Asked every 700 ms for ten minutes: far more often than it permits.
        for n in 0..857 {
            let now = start + Duration::from_millis(700) * n;
            if limit.admit(now).is_ok() {
                admitted.push(now);
            }
        }
        for window in admitted.windows(11) {
            assert!(window[10] - window[0] >= WINDOW, "eleven in {:?}", window[10] - window[0]);
        }
        assert_eq!(admitted.len(), 100, "and what it permits is used");
    }

    #[test]
    fn whoever_waits_as_long_as_told_is_admitted() {
        let start = Instant::now();
        let mut limit = Limit::new(2);
        limit.admit(start).unwrap();
        limit.admit(start + 10 * SECOND).unwrap();
        let asked = start + 20 * SECOND;
        let wait = limit.admit(asked).unwrap_err();
        assert_eq!(wait, 40 * SECOND);
        assert!(limit.admit(asked + wait - Duration::from_nanos(1)).is_err(), "not before");
        limit.admit(asked + wait).unwrap();
        assert_eq!(limit.admit(asked + wait), Err(10 * SECOND));
    }

    #[test]
    fn an_episode_begins_once_and_ends_with_a_quiet_minute() {
        let start = Instant::now();
        let mut episode = Episode::default();
        assert!(episode.begins(start));
        // It goes on for ten minutes, with half a minute between.
        for n in 1..=20 {
            assert!(!episode.begins(start + 30 * SECOND * n));
        }
        assert!(!episode.begins(start + 659 * SECOND));
        assert!(episode.begins(start + 719 * SECOND));
    }
}
