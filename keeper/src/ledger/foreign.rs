//! Transactions that took one of our account nonces and are not in this ledger: it was restored, or
//! promoted, and its key has signed them before.

use super::{Envelope, Lease, Result, Tx, query::execute};
use alloy::primitives::B256;

/// Begins the reason of a transaction that was done by bytes that no node has any more. The audit
/// accepts no other transaction without its envelope.
const UNKNOWN_BYTES: &str = "found on the chain, its bytes are not known: ";

impl Tx {
    /// Enters the bytes that took a transaction's account nonce among its envelopes. Where no node
    /// has them it is marked. Nothing is signed, so nothing else changes.
    pub async fn adopt_envelope(
        &mut self,
        lease: &Lease,
        transaction: i64,
        found: B256,
        envelope: Option<&Envelope>,
    ) -> Result<()> {
        const MARK: &str = "UPDATE transactions SET reason = $1 WHERE id = $2";
        self.hold_lease(lease).await?;
        let Some(envelope) = envelope else {
            execute!(self, MARK, format!("{UNKNOWN_BYTES}{found}"), transaction)?;
            return Ok(());
        };
        self.insert_attempt(transaction, envelope).await
    }
}
