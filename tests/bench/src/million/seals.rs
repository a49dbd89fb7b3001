//! The seals over all events, as the leader sets them over the days.

use alloy::primitives::B256;
use keeper::{ledger::MAX_SEALED, lifecycle::SealHasher};
use std::fmt::Write;

/// Seals events that come in their order.
#[derive(Debug, Default)]
pub(crate) struct Sealing {
    root: B256,
    from: u64,
    /// What the next seal will cover.
    events: Vec<B256>,
    /// Lines of `event_seals`, in COPY's text format.
    lines: String,
}

impl Sealing {
    /// An event goes by.
    pub(crate) fn event(&mut self, hash: B256) -> eyre::Result<()> {
        self.events.push(hash);
        if self.events.len() as u64 == MAX_SEALED { self.seal() } else { Ok(()) }
    }

    fn seal(&mut self) -> eyre::Result<()> {
        let after = self.from.saturating_add(self.events.len() as u64);
        let Some(to) = after.checked_sub(1).filter(|_| after > self.from) else { return Ok(()) };
        let mut hasher = SealHasher::new(self.root, self.from, to);
        self.events.drain(..).for_each(|event| hasher.add(&event));
        self.root = hasher.root();
        writeln!(self.lines, "{}\t{to}\t{}\t1\tnow", self.from, self.root)?;
        self.from = after;
        Ok(())
    }

    /// All events have gone by.
    pub(crate) fn finish(mut self) -> eyre::Result<String> {
        self.seal()?;
        Ok(self.lines)
    }
}
