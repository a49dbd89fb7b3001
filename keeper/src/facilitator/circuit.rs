//! Who does not answer is left alone for a while: each question holds up an agent for five
//! seconds.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// So many questions without an answer …
const MOST: usize = 5;
/// … in this time, and nothing more is asked until the first of them is as old.
const WINDOW: Duration = Duration::from_secs(30);

/// When the last questions were given up.
#[derive(Debug, Default)]
pub(super) struct Circuit(Mutex<VecDeque<Instant>>);

impl Circuit {
    /// A question was given up.
    pub(super) fn timed_out(&self, now: Instant) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.push_back(now);
        if times.len() > MOST {
            times.pop_front();
        }
    }

    /// Whether nothing is asked now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.len() == MOST
            && times.front().is_some_and(|first| now.duration_since(*first) < WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// five in thirty seconds, not four, and not five in a minute.
    #[test]
    fn five_timeouts_in_thirty_seconds_open_it() {
        let circuit = Circuit::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        for n in 0..4 {
            circuit.timed_out(at(n * 7));
        }
        assert!(!circuit.is_open(at(28)));
        circuit.timed_out(at(28));
        assert!(circuit.is_open(at(28)), "the first was 28 s ago");
        assert!(!circuit.is_open(at(31)), "now it is 31 s ago");
        circuit.timed_out(at(31));
        assert!(circuit.is_open(at(31)), "the second was 24 s ago");
    }
}
