//! Payments that pass through to another payee than the Splitter: their pulls are looked for by their
//! authorizations, because nothing else of that payee's is any of ours.

use super::{
    Receipts, WatcherError,
    read::{AT_ONCE, amount, block_time, inconsistent, log_ref, place},
};
use crate::{
    chain::Chain,
    eip3009::{FiatToken, inflows},
    ledger::{LedgerError, LogRef, Pull, Settlement, SettlementQuery, SplitterRecord, Tx},
};
use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Filter,
    sol_types::SolEvent,
};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeMap;

/// Most authorization nonces in one question to a node.
const MAX_TOPICS: usize = 200;

/// The Transfers that authorizations moved, log index and value: by transaction, block and
/// authorization nonce.
pub(super) type Moved = BTreeMap<((B256, B256), B256), Option<(u64, U256)>>;

/// What to look for.
#[derive(Debug, Clone, Copy)]
pub struct Passing {
    /// Who pays.
    payer: Address,
    /// Authorization nonce.
    nonce: B256,
    /// Who is paid.
    pay_to: Address,
}

impl From<&Settlement> for Passing {
    fn from(settlement: &Settlement) -> Self {
        Self { payer: settlement.payer, nonce: settlement.nonce, pay_to: settlement.pay_to }
    }
}

/// The payments whose pulls may be in a block or behind it.
pub(super) async fn passing(
    tx: &mut Tx,
    splitter: &SplitterRecord,
    from: u64,
) -> Result<Vec<Passing>, LedgerError> {
    let query = SettlementQuery::Passing { from };
    let found = tx.settlements(splitter.chain_id, splitter.address, query).await?;
    Ok(found.iter().map(Passing::from).collect())
}

/// Their pulls in a range of blocks, in chain order. As everywhere, a pull is the token's
/// `AuthorizationUsed` directly before its Transfer to the payee, whoever sent it.
pub(super) async fn passed(
    node: &Chain,
    splitter: &SplitterRecord,
    (from, to): (u64, u64),
    passing: &[Passing],
    receipts: &mut Receipts,
) -> Result<Vec<Pull>, WatcherError> {
    let used = Filter::new()
        .address(splitter.asset)
        .event_signature(FiatToken::AuthorizationUsed::SIGNATURE_HASH);
    let mut found = Vec::new();
    for some in passing.chunks(MAX_TOPICS) {
        let nonces: Vec<_> = some.iter().map(|passing| passing.nonce).collect();
        for log in node.logs(&used.clone().topic2(nonces), from, to).await? {
            let Ok(event) = FiatToken::AuthorizationUsed::decode_log(&log.inner) else { continue };
            let wanted =
                some.iter().find(|one| (one.payer, one.nonce) == (event.authorizer, event.nonce));
            if let Some(wanted) = wanted {
                found.push((*wanted, log));
            }
        }
    }
    let mut unknown = BTreeMap::new();
    for (wanted, log) in &found {
        let at = log_ref(log)?;
        if !receipts.passed.contains_key(&(place(&at), wanted.nonce)) {
            unknown.insert((place(&at), wanted.nonce), (*wanted, at));
        }
    }
    let learned: Vec<_> = stream::iter(unknown)
        .map(|(key, (wanted, at))| async move {
            transfer(node, splitter.asset, &wanted, &at).await.map(|index| (key, index))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    receipts.passed.extend(learned);
    let mut pulls = Vec::new();
    let mut times = BTreeMap::new();
    for (wanted, log) in &found {
        let at = log_ref(log)?;
        let key = (place(&at), wanted.nonce);
        let Some((log_index, value)) = receipts.passed.get(&key).copied().flatten() else {
            continue;
        };
        let block_timestamp = block_time(node, &mut times, log, &at).await?;
        pulls.push(Pull {
            at: LogRef { log_index, ..at },
            block_timestamp,
            payer: wanted.payer,
            nonce: Some(wanted.nonce),
            amount: amount(value)?,
            settlement: None,
        });
    }
    pulls.sort_by_key(|pull| pull.at.position());
    Ok(pulls)
}

/// The Transfer to the payee that an authorization moved: log index and value.
async fn transfer(
    node: &Chain,
    asset: Address,
    wanted: &Passing,
    at: &LogRef,
) -> Result<Option<(u64, U256)>, WatcherError> {
    let receipt = node
        .receipt(at.tx_hash)
        .await?
        .filter(|receipt| receipt.block_hash == at.block_hash && receipt.success())
        .ok_or_else(|| inconsistent(at, "no receipt of that block"))?;
    let mut all = inflows(&receipt.logs, asset, wanted.pay_to).into_iter();
    let own = all.find(|inflow| inflow.payer == wanted.payer && inflow.nonce == Some(wanted.nonce));
    Ok(own.map(|inflow| (inflow.log_index, inflow.value)))
}

/// What of the logs' places is still of use.
pub(super) fn forget(known: &mut Moved, pulls: &[Pull]) {
    known.retain(|(of, nonce), _| {
        pulls.iter().any(|pull| place(&pull.at) == *of && pull.nonce == Some(*nonce))
    });
}
