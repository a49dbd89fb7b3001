//! That a long reading goes on, and how far it is, for people: on stderr, and only on a terminal.

use crate::chain::{BlockTag, Chain};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// Between two pictures of a spinner.
const REDRAW: Duration = Duration::from_millis(100);

/// A bar over blocks, or a spinner where nobody knows how far it is. It ends with this value.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    first: u64,
}

impl Progress {
    /// Nothing is shown.
    pub(super) fn none() -> Self {
        Self { bar: ProgressBar::hidden(), first: 0 }
    }

    /// Something that takes its time.
    pub(super) fn spinner(what: &'static str) -> eyre::Result<Self> {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}, {elapsed}")?);
        bar.set_message(what);
        bar.enable_steady_tick(REDRAW);
        Ok(Self { bar, first: 0 })
    }

    /// From a block to the chain's head.
    pub(super) async fn over(chain: &Chain, first: u64) -> eyre::Result<Self> {
        let head = chain.head(BlockTag::Latest).await?.number();
        // Hidden by itself where stderr is no terminal.
        let bar = ProgressBar::with_draw_target(
            Some(head.saturating_sub(first)),
            ProgressDrawTarget::stderr(),
        );
        bar.set_style(ProgressStyle::with_template(
            "{msg} {wide_bar} {pos}/{len} blocks, {eta} left",
        )?);
        Ok(Self { bar, first })
    }

    /// What is being done.
    pub(super) fn says(&self, what: &'static str) {
        self.bar.set_message(what);
    }

    /// Everything up to a block is done.
    pub(super) fn reached(&self, block: u64) {
        self.bar.set_position(block.saturating_sub(self.first));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
