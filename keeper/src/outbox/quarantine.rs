//! What is done when the ledger may know less than was sent, and when the chain takes back what was
//! final.

use super::{Outbox, OutboxError, follow::NOOP_GAS};
use crate::{
    chain::{BlockTag, Chain, ChainError, FinalBlock, Finality},
    failpoint::Point,
    ledger::{Quarantine, SignerRecord},
    lifecycle::{Closed, certainly_free, knows_less},
    metrics::PAUSED,
};
use alloy::primitives::Address;

impl Outbox {
    /// Takes the signer over. When the chain has seen more of it than the ledger, the ledger is an
    /// old copy or somebody else has the key: quarantine, before anything is allocated.
    pub(super) async fn adopt(&self) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        let seen = self.seen().await?;
        let mut tx = self.ledger.begin().await?;
        // A signer that is seen for the first time begins behind what is mined or waits in a pool.
        let adopted = tx.adopt_signer(&self.lease, self.chain_id, signer, self.role, seen).await?;
        let allocated = adopted.next_account_nonce;
        if knows_less(allocated, seen) {
            let reason = format!(
                "the chain has seen {seen} transactions, the ledger has allocated {allocated}"
            );
            tx.quarantine(&self.lease, self.chain_id, signer, &reason).await?;
            tracing::error!(
                %signer, seen, allocated,
                "ALARM: the ledger is an old copy, or another program uses the key: quarantine"
            );
        }
        tx.commit(Point::Adopt).await?;
        Ok(())
    }

    /// How many transactions of the signer any node has seen, mined or in its pool.
    async fn seen(&self) -> Result<u64, OutboxError> {
        Ok(seen_of(&self.chain, self.signer.address()).await?)
    }

    /// Occupies every account nonce that may be used, and lets work begin again once all of them
    /// are final and the mirror has seen what was done with them.
    pub(super) async fn heal(
        &self,
        known: &SignerRecord,
        quarantine: &Quarantine,
    ) -> Result<(), OutboxError> {
        let signer = self.signer.address();
        PAUSED.set(1, [&self.label(), Closed::Quarantine.as_str()]);
        let Some(end) = quarantine.end else {
            let end = certainly_free(known.next_account_nonce, self.seen().await?);
            let mut tx = self.ledger.begin().await?;
            tx.occupy(&self.lease, self.chain_id, signer, end, NOOP_GAS).await?;
            tx.commit(Point::Quarantine).await?;
            tracing::warn!(
                %signer, reason = quarantine.reason, from = known.next_account_nonce, end,
                "quarantine: account nonces that may be used are being occupied"
            );
            return Ok(());
        };
        let node = self.chain.pinned().await?;
        if node.transaction_count(signer, BlockTag::Finalized).await? < end {
            return Ok(());
        }
        let seen = self.seen().await?;
        if knows_less(known.next_account_nonce, seen) {
            let mut tx = self.ledger.begin().await?;
            tx.quarantine(&self.lease, self.chain_id, signer, &quarantine.reason).await?;
            tx.commit(Point::Quarantine).await?;
            tracing::warn!(%signer, seen, "quarantine begins anew: more was sent than was thought");
            return Ok(());
        }
        let finalized = node.head(BlockTag::Finalized).await?;
        let newest = (finalized.number(), finalized.hash);
        let mut tx = self.ledger.begin().await?;
        // The mirror never goes back behind what is remembered as final.
        tx.set_finalized(&self.lease, self.chain_id, newest).await?;
        let ended = tx
            .end_quarantine(&self.lease, self.chain_id, signer, &self.splitters, newest.0)
            .await?;
        if ended {
            tx.commit(Point::Quarantine).await?;
            tracing::warn!(%signer, "quarantine is over");
        }
        Ok(())
    }

    /// Remembers the newest final block, and stops everything when one is gone that was final.
    pub(super) async fn guard(&self) -> Result<(), OutboxError> {
        let chain_id = self.chain_id;
        let mut tx = self.ledger.read().await?;
        let remembered = tx.finalized(chain_id).await?;
        drop(tx);
        let remembered = remembered.map(|(number, hash)| FinalBlock { number, hash });
        let newest = match self.chain.finality(remembered).await? {
            Finality::Advanced(block) => (block.number, block.hash),
            Finality::Unchanged | Finality::Behind => return Ok(()),
            Finality::Broken { number, remembered, found } => {
                return Err(OutboxError::FinalityBroken { chain_id, number, remembered, found });
            }
        };
        let mut tx = self.ledger.begin().await?;
        tx.set_finalized(&self.lease, chain_id, newest).await?;
        tx.commit(Point::Finality).await?;
        Ok(())
    }
}

/// How many transactions of a key any node has seen, mined or in its pool.
pub(crate) async fn seen_of(chain: &Chain, signer: Address) -> Result<u64, ChainError> {
    let mut seen = 0;
    for tag in [BlockTag::Latest, BlockTag::Pending] {
        seen = seen.max(chain.highest_transaction_count(signer, tag).await?);
    }
    Ok(seen)
}
