//! Which tasks of this process are alive: each beats in every round of its loop.
//!
//! A process whose tasks stand still looks healthy from outside, because its HTTP answers. So
//! `/livez` asks when each beat last.

use crate::metrics::TASK_LAST_TICK_TIMESTAMP_SECONDS;
use chrono::Utc;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

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

/// How many tasks run.
pub fn running() -> usize {
    beats().len()
}

/// The tasks that stand still, and for how many seconds.
pub fn standing_still() -> BTreeMap<String, u64> {
    let beats = beats();
    let old = beats.iter().filter(|(_, beat)| beat.elapsed() >= STANDSTILL);
    old.map(|(task, beat)| (task.clone(), beat.elapsed().as_secs())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_stands_still_is_named_until_it_beats_or_ends() {
        let (slow, quick) = (Pulse::start("slow".to_owned()), Pulse::start("quick".to_owned()));
        tokio::time::advance(STANDSTILL).await;
        quick.beat();
        let mine = || {
            let mut all = standing_still();
            all.retain(|task, _| ["slow", "quick"].contains(&task.as_str()));
            all.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(mine(), ["slow"]);
        slow.beat();
        assert!(mine().is_empty());
        tokio::time::advance(STANDSTILL).await;
        drop(slow);
        assert_eq!(mine(), ["quick"]);
    }
}
