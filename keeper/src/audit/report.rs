//! What an audit says.

use serde::Serialize;

/// Findings of a check that are named; the others are only counted.
const MAX_FINDINGS: usize = 20;

/// What an audit came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything fits.
    Sound,
    /// Something does not.
    Broken,
    /// Nothing contradicts, but not everything could be looked at.
    Incomplete,
}

/// One row that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which: its table and key.
    pub row: String,
    /// What is wrong with it.
    pub problem: String,
}

/// One property that was checked.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What must hold.
    pub promise: &'static str,
    /// Rows that were looked at.
    pub checked: u64,
    /// Rows that do not fit.
    pub broken: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

impl Check {
    pub(super) const fn new(name: &'static str, promise: &'static str) -> Self {
        Self { name, promise, checked: 0, broken: 0, findings: Vec::new() }
    }

    pub(super) const fn pass(&mut self) {
        self.checked = self.checked.saturating_add(1);
    }

    pub(super) fn fail(&mut self, row: impl Into<String>, problem: impl Into<String>) {
        self.broken = self.broken.saturating_add(1);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { row: row.into(), problem: problem.into() });
        }
    }

    /// Looks at one more row.
    pub(super) fn expect(&mut self, holds: bool, finding: impl FnOnce() -> (String, String)) {
        self.pass();
        if !holds {
            let (row, problem) = finding();
            self.fail(row, problem);
        }
    }
}

/// An audit.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What it came to.
    pub verdict: Verdict,
    /// Events under a seal.
    pub sealed_events: u64,
    /// Events that no seal covers yet: they could be taken away unnoticed by the seals.
    pub unsealed_events: u64,
    /// The newest root.
    pub newest_root: Option<alloy::primitives::B256>,
    /// What was checked.
    pub checks: Vec<Check>,
    /// What could not be.
    pub missing: Vec<String>,
}

impl Report {
    /// Draws the conclusion.
    pub(super) fn conclude(mut self) -> Self {
        self.verdict = if self.checks.iter().any(|check| check.broken > 0) {
            Verdict::Broken
        } else if self.missing.is_empty() {
            Verdict::Sound
        } else {
            Verdict::Incomplete
        };
        self
    }
}
