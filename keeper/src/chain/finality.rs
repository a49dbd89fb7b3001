//! Whether what was final still is.

use super::{BlockTag, Chain, Head, Result};
use alloy::primitives::B256;

/// A block that a node called final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinalBlock {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
}

impl From<Head> for FinalBlock {
    fn from(head: Head) -> Self {
        Self { number: head.number(), hash: head.hash }
    }
}

/// What a node says now, held against the last block that was known to be final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finality {
    /// More is final: remember this one.
    Advanced(FinalBlock),
    /// The same block is.
    Unchanged,
    /// The node has not come as far, or does not have that block. Remember the old one.
    Behind,
    /// Another block stands where one was final: the node is on another chain, or final blocks were
    /// taken back. Nothing may be concluded from it.
    Broken {
        /// Number of the block.
        number: u64,
        /// What was final there.
        remembered: B256,
        /// What stands there now.
        found: B256,
    },
}

impl Finality {
    /// Judges by hash: `safe` and `finalized` may move back by number where a node is replaced, and
    /// that alone is no fault. `found` is the block that the node has at the remembered number.
    pub fn judge(
        remembered: Option<FinalBlock>,
        finalized: FinalBlock,
        found: Option<B256>,
    ) -> Self {
        let Some(remembered) = remembered else { return Self::Advanced(finalized) };
        let FinalBlock { number, hash } = remembered;
        let found = if finalized.number == number { Some(finalized.hash) } else { found };
        match found {
            Some(found) if found != hash => Self::Broken { number, remembered: hash, found },
            Some(_) if finalized.number > number => Self::Advanced(finalized),
            Some(_) if finalized.number == number => Self::Unchanged,
            _ => Self::Behind,
        }
    }
}

impl Chain {
    /// What one node says of finality, held against what is remembered.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn finality(&self, remembered: Option<FinalBlock>) -> Result<Finality> {
        let node = self.pinned().await?;
        let finalized = node.head(BlockTag::Finalized).await?.into();
        let found = match remembered {
            Some(block) => node.head_if_any(BlockTag::Number(block.number)).await?,
            None => None,
        };
        Ok(Finality::judge(remembered, finalized, found.map(|head| head.hash)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64, fork: u8) -> FinalBlock {
        FinalBlock { number, hash: hash(fork) }
    }

    fn hash(fork: u8) -> B256 {
        B256::repeat_byte(fork)
    }

    /// Every case: remembered, finalized now, what stands at the remembered number.
    #[test]
    fn finality_is_judged_by_hash() {
        let broken = Finality::Broken { number: 10, remembered: hash(1), found: hash(2) };
        for (case, remembered, finalized, found, judged) in [
            ("first", None, block(10, 1), None, Finality::Advanced(block(10, 1))),
            ("same", Some(block(10, 1)), block(10, 1), Some(hash(1)), Finality::Unchanged),
            ("same, not found", Some(block(10, 1)), block(10, 1), None, Finality::Unchanged),
            ("sideways", Some(block(10, 1)), block(10, 2), Some(hash(2)), broken),
            ("sideways, contradicting", Some(block(10, 1)), block(10, 2), Some(hash(1)), broken),
            (
                "on",
                Some(block(10, 1)),
                block(12, 3),
                Some(hash(1)),
                Finality::Advanced(block(12, 3)),
            ),
            ("on, from another", Some(block(10, 1)), block(12, 3), Some(hash(2)), broken),
            ("on, without the old", Some(block(10, 1)), block(12, 3), None, Finality::Behind),
            ("lagging", Some(block(10, 1)), block(8, 3), None, Finality::Behind),
            (
                "lagging in finality",
                Some(block(10, 1)),
                block(8, 3),
                Some(hash(1)),
                Finality::Behind,
            ),
            ("lagging elsewhere", Some(block(10, 1)), block(8, 3), Some(hash(2)), broken),
        ] {
            assert_eq!(Finality::judge(remembered, finalized, found), judged, "{case}");
        }
    }
}
