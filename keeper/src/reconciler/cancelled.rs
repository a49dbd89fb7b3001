//! A payer who cancelled: the authorization is consumed at a final block, and nothing came of it.
//! The reservation need not wait until its window closes.

use super::{Reconciler, ReconcilerError};
use crate::{
    chain::{BlockTag, Chain, Head},
    eip3009::FiatToken,
    failpoint::Point,
    ledger::{LogRef, Settlement, SplitterRecord, Topic},
    lifecycle::{KeeperState, StatusEvent},
};
use alloy::{rpc::types::Filter, sol_types::SolEvent};
use serde_json::json;

/// Blocks that are searched at once.
const STEP: u64 = 2_000;
/// Most blocks in which a cancellation is searched for: two days of Base, and longer than any window.
/// What is not found is closed when its window is.
const MAX_REACH: u64 = 90_000;
/// Blocks before the reservation that are searched too: two clocks need not agree.
const MARGIN: u64 = 600;

impl Reconciler {
    /// Ends a reservation whose authorization the payer cancelled at a final block or before. False
    /// when there is no such log: `authorizationState` alone does not tell cancelled from used.
    ///
    /// `is_held`: the mirror holds everything up to that block, or a pull could be overlooked.
    pub(super) async fn end_cancelled(
        &self,
        settlement: &Settlement,
        node: &Chain,
        finalized: &Head,
        is_held: bool,
    ) -> Result<bool, ReconcilerError> {
        let SplitterRecord { chain_id, address, asset, .. } = self.splitter;
        let (payer, nonce) = (settlement.payer, settlement.nonce);
        // It was unused when the payment was reserved. What was recorded or served meanwhile needs
        // more than this: it is looked at when the window is closed.
        let reserved = u64::try_from(settlement.reserved_at.timestamp()).unwrap_or(0);
        let is_early = !is_held || finalized.timestamp() < reserved;
        if is_early || settlement.keeper_state != KeeperState::None {
            return Ok(false);
        }
        let state = FiatToken::authorizationStateCall { authorizer: payer, nonce };
        if !node.call(asset, &state, BlockTag::Number(finalized.number())).await? {
            return Ok(false);
        }
        let reach = finalized.timestamp().saturating_sub(reserved);
        let Some(log) = self.cancellation(settlement, node, finalized, reach).await? else {
            return Ok(false);
        };
        let evidence = json!({
            "finalized_block": finalized.number(),
            "finalized_hash": finalized.hash,
            "cancelled": log,
        });
        let mut tx = self.ledger.begin_on_snapshot().await?;
        tx.hold_lease(&self.lease).await?;
        if tx.pull_of(chain_id, address, payer, nonce).await?.is_some()
            || tx.delivery(settlement.id).await?.is_some()
        {
            return Ok(false);
        }
        tx.step_status(settlement, StatusEvent::Consumed, &evidence).await?;
        tx.give_up_pull(settlement.id).await?;
        tx.commit(Point::Close).await?;
        tracing::info!(
            payment = %settlement.id, tx_hash = %log.tx_hash, "its payer cancelled the authorization"
        );
        self.ledger.signal(Topic::Settlements);
        Ok(true)
    }

    /// The token's log that the authorization was cancelled, searched for from the newest final
    /// block back over so many seconds.
    async fn cancellation(
        &self,
        settlement: &Settlement,
        node: &Chain,
        finalized: &Head,
        reach: u64,
    ) -> Result<Option<LogRef>, ReconcilerError> {
        let SplitterRecord { asset, .. } = self.splitter;
        let filter = Filter::new()
            .address(asset)
            .event_signature(FiatToken::AuthorizationCanceled::SIGNATURE_HASH)
            .topic1(settlement.payer)
            .topic2(settlement.nonce);
        // No chain makes more than a block a second.
        let lowest = finalized.number().saturating_sub(reach.saturating_add(MARGIN).min(MAX_REACH));
        let mut to = finalized.number();
        loop {
            let from = to.saturating_sub(STEP - 1).max(lowest);
            let logs = node.logs(&filter, from, to).await?;
            if let Some(log) = logs.first()
                && let (Some(tx_hash), Some(log_index), Some(block_number), Some(block_hash)) =
                    (log.transaction_hash, log.log_index, log.block_number, log.block_hash)
            {
                return Ok(Some(LogRef { tx_hash, log_index, block_number, block_hash }));
            }
            match from.checked_sub(1) {
                Some(next) if from > lowest => to = next,
                _ => return Ok(None),
            }
        }
    }
}
