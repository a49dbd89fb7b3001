//! What an operator wants of the outbox. A command writes an order; the leader carries it out under
//! its lease, like everything else that allocates, signs or persists.

use super::{
    Lease, LedgerError, Result, Tx,
    columns::{bigint, hash, hex, now, unsigned, uuid, word},
    query::{execute, fetch_all, fetch_optional},
};
use crate::lifecycle::words;
use alloy::primitives::{Address, B256};
use uuid::Uuid;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderAction {
    /// Hand a transaction's newest bytes to the nodes now.
    Rebroadcast,
    /// Replace a transaction's envelope for higher fees now.
    Bump,
    /// Have a transaction that does nothing take its account nonce.
    Cancel,
    /// Decide a parked transaction by the one that took its account nonce.
    Resolve,
    /// Begin nothing until every account nonce is decided that may be used.
    Quarantine,
    /// Let a held payment go on.
    Release,
}

words!(OrderAction {
    Rebroadcast => "rebroadcast",
    Bump => "bump",
    Cancel => "cancel",
    Resolve => "resolve",
    Quarantine => "quarantine",
    Release => "release",
});

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is wanted.
    pub action: OrderAction,
    /// Of which transaction.
    pub account_nonce: Option<u64>,
    /// Of which payment.
    pub settlement: Option<Uuid>,
    /// The transaction that took the account nonce.
    pub tx_hash: Option<B256>,
    /// Why, in the operator's words.
    pub reason: String,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it was carried out.
    pub succeeded: bool,
    /// In words.
    pub text: String,
}

#[derive(sqlx::FromRow)]
struct OrderRow {
    id: i64,
    action: String,
    account_nonce: Option<i64>,
    settlement_id: Option<String>,
    tx_hash: Option<String>,
    reason: String,
}

#[derive(sqlx::FromRow)]
struct OutcomeRow {
    succeeded: bool,
    outcome: String,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

impl Tx {
    /// Writes an order down and returns its id.
    pub async fn add_order(
        &mut self,
        chain_id: u64,
        signer: Address,
        order: &Order,
    ) -> Result<i64> {
        const INSERT: &str = "INSERT INTO outbox_orders (chain_id, signer, action, account_nonce,
            settlement_id, tx_hash, reason, ordered_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
            RETURNING id AS number";
        let nonce = order.account_nonce;
        let nonce = nonce.map(|nonce| bigint("account nonce", nonce)).transpose()?;
        let row = fetch_optional!(
            self,
            Number,
            INSERT,
            bigint("chain id", chain_id)?,
            hex(signer),
            order.action.as_str(),
            nonce,
            order.settlement.map(|id| id.to_string()),
            order.tx_hash.map(hex),
            &order.reason,
            now(),
        )?;
        row.map(|row| row.number).ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    /// Orders that wait, oldest first, with their ids.
    pub async fn orders(&mut self, chain_id: u64, signer: Address) -> Result<Vec<(i64, Order)>> {
        const SELECT: &str = "SELECT id, action, account_nonce, settlement_id, tx_hash, reason
            FROM outbox_orders WHERE chain_id = $1 AND signer = $2 AND done_at IS NULL ORDER BY id";
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, OrderRow, SELECT, chain, hex(signer))?;
        rows.into_iter()
            .map(|row| {
                let (settlement, tx_hash) = (row.settlement_id.as_deref(), row.tx_hash.as_deref());
                let order = Order {
                    action: word("outbox_orders.action", &row.action, OrderAction::from_word)?,
                    account_nonce: row
                        .account_nonce
                        .map(|nonce| unsigned("outbox_orders.account_nonce", nonce))
                        .transpose()?,
                    settlement: settlement
                        .map(|id| uuid("outbox_orders.settlement_id", id))
                        .transpose()?,
                    tx_hash: tx_hash
                        .map(|tx_hash| hash("outbox_orders.tx_hash", tx_hash))
                        .transpose()?,
                    reason: row.reason,
                };
                Ok((row.id, order))
            })
            .collect()
    }

    /// Says what became of an order.
    pub async fn finish_order(&mut self, lease: &Lease, id: i64, outcome: &Outcome) -> Result<()> {
        const UPDATE: &str = "UPDATE outbox_orders SET done_at = $1, succeeded = $2, outcome = $3
            WHERE id = $4 AND done_at IS NULL";
        self.hold_lease(lease).await?;
        if execute!(self, UPDATE, now(), outcome.succeeded, &outcome.text, id)? == 1 {
            Ok(())
        } else {
            Err(LedgerError::Conflict(format!("order {id}")))
        }
    }

    /// What became of an order; `None` while it waits.
    pub async fn order_outcome(&mut self, id: i64) -> Result<Option<Outcome>> {
        const SELECT: &str = "SELECT succeeded, outcome FROM outbox_orders
            WHERE id = $1 AND done_at IS NOT NULL";
        let row = fetch_optional!(self, OutcomeRow, SELECT, id)?;
        Ok(row.map(|row| Outcome { succeeded: row.succeeded, text: row.outcome }))
    }
}
