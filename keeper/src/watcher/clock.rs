//! Whether this machine's clock is right, by the chain's. Pure.

use std::time::Duration;

/// New heads that must agree before anything is concluded: one of them may have been late.
const HEADS: u32 = 3;

/// What a row of new heads says of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Open,
    /// It is right.
    Right,
    /// It is wrong; the chain's time less the machine's, seconds.
    Wrong(i64),
}

/// Judges the clock at each new head. A head's age afterwards says nothing: blocks may stay away.
#[derive(Debug)]
pub(super) struct Clock {
    max_skew: u64,
    /// How old a head may be when it is seen: it is made in a block's time and found in a poll's.
    longest_way: u64,
    in_a_row: u32,
}

impl Clock {
    pub(super) fn new(max_skew: Duration, block_time: Duration, poll: Duration) -> Self {
        // Timestamps are whole seconds.
        let whole = |time: Duration| time.as_secs().saturating_add(1);
        let longest_way = whole(block_time).saturating_add(whole(poll));
        Self { max_skew: max_skew.as_secs(), longest_way, in_a_row: 0 }
    }

    /// A head has just come: its time and the machine's.
    pub(super) fn judge(&mut self, head: u64, machine: u64) -> Verdict {
        let ahead = head.saturating_sub(machine);
        let behind = machine.saturating_sub(head);
        if ahead <= self.max_skew && behind <= self.max_skew.saturating_add(self.longest_way) {
            self.in_a_row = 0;
            return Verdict::Right;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row < HEADS {
            return Verdict::Open;
        }
        let skew = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        Verdict::Wrong(skew(ahead).saturating_sub(skew(behind)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock::new(Duration::from_secs(5), Duration::from_secs(2), Duration::from_secs(1))
    }

    /// Heads as Base makes them, seen within a block's and a poll's time.
    #[test]
    fn a_clock_is_wrong_when_three_heads_say_so() {
        use Verdict::{Open, Right, Wrong};
        for (case, offsets, verdicts) in [
            ("on time", vec![0, -2, -3, -10, 5], vec![Right; 5]),
            ("six seconds slow", vec![6, 6, 6, 7], vec![Open, Open, Wrong(6), Wrong(7)]),
            ("eleven seconds fast", vec![-11, -12, -11], vec![Open, Open, Wrong(-11)]),
            (
                "one late head",
                vec![-1, -40, -2, -40, -40, -1],
                vec![Right, Open, Right, Open, Open, Right],
            ),
            ("set right", vec![60, 60, 60, 1], vec![Open, Open, Wrong(60), Right]),
        ] {
            let mut clock = clock();
            let judged = offsets
                .into_iter()
                .map(|offset| clock.judge(1_000_000_u64.saturating_add_signed(offset), 1_000_000));
            assert_eq!(judged.collect::<Vec<_>>(), verdicts, "{case}");
        }
    }
}
