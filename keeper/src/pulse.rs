//! Which tasks of this process are alive: each beats in every round of its loop.
//!
//! A process whose tasks stand still looks healthy from outside, because its HTTP answers. So
//! `/livez` asks when each beat last.

use crate::metrics::TASK_LAST_TICK_TIMESTAMP_SECONDS;
use chrono::Utc;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A task that has not beaten for so long stands still. A round may wait long for a chain that does
/// not answer, once per payment; starting the process anew would not help that.
pub const STANDSTILL: Duration = Duration::from_secs(900);

/// When each running task beat last.
static BEATS: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());

fn beats() -> MutexGuard<'static, BTreeMap<String, Instant>> {
    BEATS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A task that runs as long as this value lives.
#[derive(Debug)]
pub struct Pulse {
    task: String,
}

impl Pulse {
    /// It begins.
    pub fn start(task: String) -> Self {
        let pulse = Self { task };
        pulse.beat();
        pulse
    }

    /// It begins a round.
    pub fn beat(&self) {
        beats().insert(self.task.clone(), Instant::now());
        let now = u64::try_from(Utc::now().timestamp()).unwrap_or(0);
        TASK_LAST_TICK_TIMESTAMP_SECONDS.set(now, [&self.task]);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        beats().remove(&self.task);
    }
}

/// The tasks that run.
pub fn tasks() -> Vec<String> {
    beats().keys().cloned().collect()
}

/// The tasks that stand still, and for how many seconds.
pub fn standing_still() -> BTreeMap<String, u64> {
    old(&beats(), Instant::now())
}

fn old(beats: &BTreeMap<String, Instant>, now: Instant) -> BTreeMap<String, u64> {
    let ages = beats.iter().map(|(task, beat)| (task, now.saturating_duration_since(*beat)));
    let old = ages.filter(|(_, age)| *age >= STANDSTILL);
    old.map(|(task, age)| (task.clone(), age.as_secs())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_stands_still_is_named() {
        let begun = Instant::now();
        let beats = BTreeMap::from([
            ("slow".to_owned(), begun),
            ("quick".to_owned(), begun + Duration::from_secs(1)),
        ]);
        assert!(old(&beats, begun).is_empty());
        let named = old(&beats, begun + STANDSTILL);
        assert_eq!(named, BTreeMap::from([("slow".to_owned(), STANDSTILL.as_secs())]));
    }

    #[test]
    fn a_task_is_there_while_its_pulse_is() {
        let named = || tasks().contains(&"passing".to_owned());
        let pulse = Pulse::start("passing".to_owned());
        assert!(named());
        drop(pulse);
        assert!(!named());
    }
}
