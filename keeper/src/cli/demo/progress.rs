//! What the demo is doing, while it does it: a spinner on a terminal, a line per step elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::{io::IsTerminal, time::Duration};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Shows steps.
pub(super) struct Progress {
    terminal: bool,
    started: std::time::Instant,
}

/// One step under way.
pub(super) struct Step {
    bar: ProgressBar,
    name: String,
    terminal: bool,
    started: std::time::Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), started: std::time::Instant::now() }
    }

    /// A step of unknown length.
    pub(super) fn step(&self, name: &str) -> Step {
        self.begin(ProgressBar::new_spinner(), name, "{spinner} {msg} ({elapsed})")
    }

    /// A step of so many parts.
    pub(super) fn count(&self, name: &str, length: u64) -> Step {
        self.begin(ProgressBar::new(length), name, "{spinner} {msg} {bar:20} {pos}/{len}")
    }

    fn begin(&self, bar: ProgressBar, name: &str, template: &str) -> Step {
        if self.terminal {
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(TICK);
        } else {
            bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
            eprintln!("... {name}");
        }
        Step { bar, name: name.to_owned(), terminal: self.terminal, started: self.started }
    }

    /// All steps are done.
    pub(super) fn finish(self) {
        eprintln!();
    }
}

impl Step {
    /// One part is done.
    pub(super) fn one(&self, good: bool) {
        self.bar.inc(1);
        if !good {
            self.bar.set_message(format!("{} (a call failed)", self.name));
        }
    }

    /// The step is done.
    pub(super) fn done(self, result: &str) {
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs();
        let mark = if self.terminal { "✓" } else { "done:" };
        if result.is_empty() {
            eprintln!("{mark} {} [{seconds} s]", self.name);
        } else {
            eprintln!("{mark} {}: {result} [{seconds} s]", self.name);
        }
    }
}
