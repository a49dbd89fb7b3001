//! Reading a range of blocks from one node.

use super::{
    WatcherError,
    passing::{Moved, Passing, forget, passed},
};
use crate::{
    chain::{BlockTag, Chain},
    eip3009::{FiatToken, Inflow, inflows},
    ledger::{LogRef, MirrorWindow, Payout, Pull, SplitterLog, SplitterRecord},
    splitter::{PaymentIdentity, SplitterEvent, recorded_identity},
    x402::MicroUsdc,
};
use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::{Filter, Log},
    sol_types::SolEvent,
};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};

/// Most questions put to a node at once: anybody can fill a block with Transfers of nothing much.
pub(super) const AT_ONCE: usize = 16;

/// A transaction, and the block that it is in.
type Place = (B256, B256);

/// What was learned from receipts and transactions, by transaction and block; it holds as long as
/// that block does.
#[derive(Debug, Default)]
pub struct Receipts {
    inflows: BTreeMap<Place, Vec<Inflow>>,
    /// Identities that the settler appended to a call of the Splitter.
    identities: BTreeMap<Place, Option<PaymentIdentity>>,
    /// What authorizations moved past the Splitter.
    pub(super) passed: Moved,
}

/// Everything of the Splitter in a range of blocks, and what passed it by, as one node sees it. The range's last block
/// is looked at before and after: a reorg in between makes the reading worthless.
///
/// # Errors
/// When no endpoint has come as far, or what it says contradicts itself.
pub async fn read(
    chain: &Chain,
    splitter: &SplitterRecord,
    (from, to): (u64, u64),
    passing: &[Passing],
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

    receipts.learn_inflows(&node, splitter, &incoming).await?;
    receipts.learn_identities(&node, splitter, &own).await?;

    let mut window = MirrorWindow { from, to, head_hash: head.hash, ..MirrorWindow::default() };
    window.passed = passed(&node, splitter, (from, to), passing, receipts).await?;
    let mut times = BTreeMap::new();
    for log in &incoming {
        let at = log_ref(log)?;
        let time = block_time(&node, &mut times, log, &at).await?;
        let inflow = receipts.inflow(&at)?;
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
            SplitterEvent::SettlementRecorded { payer, .. } => receipts.recorded_nonce(&at, payer),
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
    /// Asks for the receipts of Transfers that are not known yet. A node may know a log before its
    /// receipt; then the range is read again later.
    async fn learn_inflows(
        &mut self,
        node: &Chain,
        splitter: &SplitterRecord,
        incoming: &[Log],
    ) -> Result<(), WatcherError> {
        let mut unknown = BTreeMap::new();
        for log in incoming {
            let at = log_ref(log)?;
            if !self.inflows.contains_key(&place(&at)) {
                unknown.insert(place(&at), at);
            }
        }
        let found: Vec<_> = stream::iter(unknown.into_values())
            .map(|at| received(node, splitter, at))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        self.inflows.extend(found);
        Ok(())
    }

    /// Asks for the transactions of records that are not known yet.
    async fn learn_identities(
        &mut self,
        node: &Chain,
        splitter: &SplitterRecord,
        own: &[Log],
    ) -> Result<(), WatcherError> {
        let mut unknown = BTreeMap::new();
        for log in own {
            let event = SplitterEvent::decode(&log.inner);
            if !matches!(event, Some(SplitterEvent::SettlementRecorded { .. })) {
                continue;
            }
            let at = log_ref(log)?;
            if !self.identities.contains_key(&place(&at)) {
                unknown.insert(place(&at), at);
            }
        }
        let found: Vec<_> = stream::iter(unknown.into_values())
            .map(|at| identified(node, splitter, at))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        self.identities.extend(found);
        Ok(())
    }

    /// The inflow behind a Transfer, with the authorization that moved it.
    fn inflow(&self, at: &LogRef) -> Result<Inflow, WatcherError> {
        let mut found = self.inflows.get(&place(at)).into_iter().flatten();
        found
            .find(|inflow| inflow.log_index == at.log_index)
            .cloned()
            .ok_or_else(|| inconsistent(at, "the receipt lacks the log"))
    }

    /// The authorization nonce of the identity appended to a record. It counts only if the contract
    /// saw the same payer.
    fn recorded_nonce(&self, at: &LogRef, payer: Address) -> Option<B256> {
        let identity = self.identities.get(&place(at)).copied().flatten();
        identity.filter(|identity| identity.payer == payer).map(|identity| identity.nonce)
    }

    /// Keeps only what the window still holds.
    fn forget_all_but(&mut self, window: &MirrorWindow) {
        let pulls: BTreeSet<_> = window.pulls.iter().map(|pull| place(&pull.at)).collect();
        let logs: BTreeSet<_> = window.logs.iter().map(|log| place(&log.at)).collect();
        self.inflows.retain(|known, _| pulls.contains(known));
        self.identities.retain(|known, _| logs.contains(known));
        forget(&mut self.passed, &window.passed);
    }
}

pub(super) const fn place(at: &LogRef) -> Place {
    (at.tx_hash, at.block_hash)
}

/// What a transaction brought in, by its receipt.
async fn received(
    node: &Chain,
    splitter: &SplitterRecord,
    at: LogRef,
) -> Result<(Place, Vec<Inflow>), WatcherError> {
    let receipt = node
        .receipt(at.tx_hash)
        .await?
        .filter(|receipt| receipt.block_hash == at.block_hash && receipt.success())
        .ok_or_else(|| inconsistent(&at, "no receipt of that block"))?;
    Ok((place(&at), inflows(&receipt.logs, splitter.asset, splitter.address)))
}

/// The identity appended to a transaction. It counts only in a call of the settler to the Splitter.
async fn identified(
    node: &Chain,
    splitter: &SplitterRecord,
    at: LogRef,
) -> Result<(Place, Option<PaymentIdentity>), WatcherError> {
    let transaction = node
        .transaction(at.tx_hash)
        .await?
        .ok_or_else(|| inconsistent(&at, "no such transaction"))?;
    let is_ours =
        transaction.from == splitter.authorized_settler && transaction.to == Some(splitter.address);
    let identity = recorded_identity(&transaction.input).filter(|_| is_ours);
    Ok((place(&at), identity))
}

pub(super) fn inconsistent(at: &LogRef, what: &str) -> WatcherError {
    WatcherError::Inconsistent(format!("{what} for log {} of {}", at.log_index, at.tx_hash))
}

pub(super) fn amount(value: U256) -> Result<MicroUsdc, WatcherError> {
    MicroUsdc::try_from(value).map_err(|error| WatcherError::Inconsistent(error.to_string()))
}

/// Where a log stands. A pending log has no place and does not count.
pub(super) fn log_ref(log: &Log) -> Result<LogRef, WatcherError> {
    match (log.transaction_hash, log.log_index, log.block_number, log.block_hash) {
        (Some(tx_hash), Some(log_index), Some(block_number), Some(block_hash)) if !log.removed => {
            Ok(LogRef { tx_hash, log_index, block_number, block_hash })
        }
        _ => Err(WatcherError::Inconsistent("a log without a place on the chain".to_owned())),
    }
}

/// The block's time, from the log where the node tells it.
pub(super) async fn block_time(
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
