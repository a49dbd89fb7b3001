//! How far a long reading of the chain is, for people: on stderr, and only on a terminal.

use crate::chain::{BlockTag, Chain};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over blocks. It ends with this value.
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
