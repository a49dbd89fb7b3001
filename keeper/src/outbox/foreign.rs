//! Bytes that took an account nonce of ours and are none of the envelopes that the ledger has.

use super::{Outbox, OutboxError};
use crate::{
    chain::Chain as Rpc,
    ledger::{Envelope, MinedCost, Outgoing, Tx},
    lifecycle::Fees,
};
use alloy::{
    consensus::{Transaction as _, TxEnvelope},
    eips::eip2718::Decodable2718,
    primitives::{Bytes, keccak256},
};

/// What was mined in place of a known envelope.
pub(super) enum Foreign {
    /// One of the known ones was, or nothing.
    No,
    /// These bytes.
    Bytes(Envelope),
    /// Bytes that no node has any more.
    Unknown,
}

/// Looks whether what was mined is known, and for its bytes if not.
pub(super) async fn foreign(
    node: &Rpc,
    transaction: &Outgoing,
    mined: Option<&MinedCost>,
) -> Foreign {
    let Some(mined) = mined.map(|mined| mined.mined) else { return Foreign::No };
    if transaction.envelopes.iter().any(|envelope| envelope.hash == mined.hash) {
        return Foreign::No;
    }
    let raw = match node.raw_transaction(mined.hash).await {
        Ok(raw) => raw.filter(|raw| keccak256(raw) == mined.hash),
        // Not every node has this method.
        Err(error) => {
            tracing::warn!(hash = %mined.hash, %error, "its bytes cannot be read");
            None
        }
    };
    let envelope = raw.and_then(|raw| {
        let fees = fees(&raw)?;
        Some(Envelope { hash: mined.hash, kind: mined.kind, raw, fees, age: 0 })
    });
    envelope.map_or(Foreign::Unknown, Foreign::Bytes)
}

fn fees(raw: &Bytes) -> Option<Fees> {
    let envelope = TxEnvelope::decode_2718_exact(raw).ok()?;
    let priority = envelope.max_priority_fee_per_gas().unwrap_or_default();
    Some(Fees {
        max_fee_per_gas: u64::try_from(envelope.max_fee_per_gas()).ok()?.max(1),
        max_priority_fee_per_gas: u64::try_from(priority).ok()?,
    })
}

impl Outbox {
    /// Enters what [`foreign`] found, in the SQL transaction that enters what it did.
    pub(super) async fn enter_foreign(
        &self,
        tx: &mut Tx,
        transaction: &Outgoing,
        mined: Option<&MinedCost>,
        foreign: &Foreign,
    ) -> Result<(), OutboxError> {
        let envelope = match foreign {
            Foreign::No => return Ok(()),
            Foreign::Bytes(envelope) => Some(envelope),
            Foreign::Unknown => None,
        };
        let Some(mined) = mined else { return Ok(()) };
        let found = mined.mined.hash;
        Ok(tx.adopt_envelope(&self.lease, transaction.id, found, envelope).await?)
    }
}
