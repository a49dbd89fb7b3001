//! Reading a range of blocks from one node.

use super::WatcherError;
use crate::{
    chain::{BlockTag, Chain},
    eip3009::{FiatToken, Inflow, inflows},
    ledger::{LogRef, MirrorWindow, Payout, Pull, SplitterLog, SplitterRecord},
    splitter::{SplitterEvent, recorded_identity},
    x402::MicroUsdc,
};
use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::{Filter, Log},
    sol_types::SolEvent,
};
use std::collections::{BTreeMap, btree_map::Entry};

/// What was learned from receipts and transactions, by transaction and block; it holds as long as
/// that block does.
#[derive(Debug, Default)]
pub struct Receipts {
    inflows: BTreeMap<(B256, B256), Vec<Inflow>>,
    nonces: BTreeMap<(B256, B256), Option<B256>>,
}

/// Everything of the Splitter in a range of blocks, as one node sees it. The range's last block
/// is looked at before and after: a reorg in between makes the reading worthless.
///
/// # Errors
/// When no endpoint has come as far, or what it says contradicts itself.
pub async fn read(
    chain: &Chain,
    splitter: &SplitterRecord,
    (from, to): (u64, u64),
    receipts: &mut Receipts,
) -> Result<MirrorWindow, WatcherError> {
    let SplitterRecord { address, asset, .. } = *splitter;
    let node = chain.pinned_at(to).await?;
    let head = node.head(BlockTag::Number(to)).await?;

    let transfers =
        Filter::new().address(asset).event_signature(FiatToken::Transfer::SIGNATURE_HASH);
    let incoming = node.logs(&transfers.clone().topic2(address), from, to).await?;
    let outgoing = node.logs(&transfers.topic1(address), from, to).await?;
    let own = node.logs(&Filter::new().address(address), from, to).await?;

    let mut window = MirrorWindow { from, to, head_hash: head.hash, ..MirrorWindow::default() };
    let mut times = BTreeMap::new();
    for log in &incoming {
        let at = log_ref(log)?;
        let time = block_time(&node, &mut times, log, &at).await?;
        let inflow = receipts.inflow(&node, &at, asset, address).await?;
        window.pulls.push(Pull {
            at,
            block_timestamp: time,
            payer: inflow.payer,
            nonce: inflow.nonce,
            amount: amount(inflow.value)?,
            settlement: None,
        });
    }
    for log in &outgoing {
        let at = log_ref(log)?;
        let transfer = FiatToken::Transfer::decode_log(&log.inner)
            .map_err(|error| inconsistent(&at, &error.to_string()))?;
        window.payouts.push(Payout {
            at,
            block_timestamp: block_time(&node, &mut times, log, &at).await?,
            recipient: transfer.to,
            amount: amount(transfer.value)?,
        });
    }
    for log in &own {
        let Some(event) = SplitterEvent::decode(&log.inner) else { continue };
        let at = log_ref(log)?;
        let nonce = match event {
            SplitterEvent::SettlementRecorded { payer, .. } => {
                receipts.recorded_nonce(&node, &at, splitter, payer).await?
            }
            _ => None,
        };
        let block_timestamp = block_time(&node, &mut times, log, &at).await?;
        window.logs.push(SplitterLog { at, block_timestamp, event, nonce });
    }
    window.pulls.sort_by_key(|pull| pull.at.position());
    window.payouts.sort_by_key(|payout| payout.at.position());
    window.logs.sort_by_key(|log| log.at.position());

    if node.head(BlockTag::Number(to)).await?.hash != head.hash {
        return Err(WatcherError::Inconsistent(format!("block {to} changed while it was read")));
    }
    receipts.forget_all_but(&window);
    Ok(window)
}

impl Receipts {
    /// The inflow behind a Transfer, with the authorization that moved it. A node may know a log
    /// before its receipt; then the range is read again later.
    async fn inflow(
        &mut self,
        node: &Chain,
        at: &LogRef,
        asset: Address,
        splitter: Address,
    ) -> Result<Inflow, WatcherError> {
        let found = match self.inflows.entry((at.tx_hash, at.block_hash)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let receipt = node
                    .receipt(at.tx_hash)
                    .await?
                    .filter(|receipt| receipt.block_hash == at.block_hash && receipt.success())
                    .ok_or_else(|| inconsistent(at, "no receipt of that block"))?;
                entry.insert(inflows(&receipt.logs, asset, splitter))
            }
        };
        found
            .iter()
            .find(|inflow| inflow.log_index == at.log_index)
            .cloned()
            .ok_or_else(|| inconsistent(at, "the receipt lacks the log"))
    }

    /// The authorization nonce of the identity appended to a record. It counts only in a call of
    /// the settler to the Splitter, and only if the contract saw the same payer.
    async fn recorded_nonce(
        &mut self,
        node: &Chain,
        at: &LogRef,
        splitter: &SplitterRecord,
        payer: Address,
    ) -> Result<Option<B256>, WatcherError> {
        if let Some(nonce) = self.nonces.get(&(at.tx_hash, at.block_hash)) {
            return Ok(*nonce);
        }
        let transaction = node
            .transaction(at.tx_hash)
            .await?
            .ok_or_else(|| inconsistent(at, "no such transaction"))?;
        let nonce = recorded_identity(&transaction.input)
            .filter(|identity| {
                transaction.from == splitter.authorized_settler
                    && transaction.to == Some(splitter.address)
                    && identity.payer == payer
            })
            .map(|identity| identity.nonce);
        self.nonces.insert((at.tx_hash, at.block_hash), nonce);
        Ok(nonce)
    }

    /// Keeps only what the window still holds.
    fn forget_all_but(&mut self, window: &MirrorWindow) {
        let key = |at: &LogRef| (at.tx_hash, at.block_hash);
        self.inflows.retain(|known, _| window.pulls.iter().any(|pull| key(&pull.at) == *known));
        self.nonces.retain(|known, _| window.logs.iter().any(|log| key(&log.at) == *known));
    }
}

fn inconsistent(at: &LogRef, what: &str) -> WatcherError {
    WatcherError::Inconsistent(format!("{what} for log {} of {}", at.log_index, at.tx_hash))
}

fn amount(value: U256) -> Result<MicroUsdc, WatcherError> {
    MicroUsdc::try_from(value).map_err(|error| WatcherError::Inconsistent(error.to_string()))
}

/// Where a log stands. A pending log has no place and does not count.
fn log_ref(log: &Log) -> Result<LogRef, WatcherError> {
    match (log.transaction_hash, log.log_index, log.block_number, log.block_hash) {
        (Some(tx_hash), Some(log_index), Some(block_number), Some(block_hash)) if !log.removed => {
            Ok(LogRef { tx_hash, log_index, block_number, block_hash })
        }
        _ => Err(WatcherError::Inconsistent("a log without a place on the chain".to_owned())),
    }
}

/// The block's time, from the log where the node tells it.
async fn block_time(
    node: &Chain,
    known: &mut BTreeMap<B256, u64>,
    log: &Log,
    at: &LogRef,
) -> Result<u64, WatcherError> {
    if let Some(time) = log.block_timestamp {
        return Ok(time);
    }
    if let Some(time) = known.get(&at.block_hash) {
        return Ok(*time);
    }
    let block = node.head(BlockTag::Number(at.block_number)).await?;
    if block.hash != at.block_hash {
        return Err(inconsistent(at, "another block at that height"));
    }
    known.insert(at.block_hash, block.timestamp());
    Ok(block.timestamp())
}
