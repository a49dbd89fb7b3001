//! The outbox's transactions as an operator looks at them.

use super::{
    LedgerError, Result, Tx,
    columns::{address, bigint, hash, hex, unsigned, uuid, word},
    query::fetch_all,
};
use crate::lifecycle::{AttemptKind, IntentKind, TransactionState};
use alloy::primitives::{Address, B256};
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use std::fmt::Display;
use uuid::Uuid;

/// Which transactions are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionQuery {
    /// Those whose fate is open.
    Open,
    /// The newest so many.
    Newest(u64),
    /// The one of an account nonce.
    AccountNonce(u64),
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransactionView {
    /// Account nonce.
    pub account_nonce: u64,
    /// Where it stands.
    #[serde(serialize_with = "as_word")]
    pub state: TransactionState,
    /// Whether that can still change.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// What it is for; nothing if it only occupies its account nonce.
    #[serde(serialize_with = "as_words")]
    pub kind: Option<IntentKind>,
    /// For which payment; a split has none.
    pub payment: Option<Uuid>,
    /// Contract that it calls.
    pub to: Address,
    /// What took the account nonce.
    pub mined_hash: Option<B256>,
    /// In which block.
    pub block_number: Option<u64>,
    /// Most that it can cost, wei.
    pub max_cost_wei: u64,
    /// What it cost for execution, wei.
    pub l2_fee_wei: Option<u64>,
    /// What it cost for its data, wei.
    pub l1_fee_wei: Option<u64>,
    /// When its account nonce was allocated.
    pub created_at: DateTime<Utc>,
    /// Everything that was signed for it, oldest first.
    pub attempts: Vec<AttemptView>,
}

/// A signed envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptView {
    /// Its hash.
    pub hash: B256,
    /// What it was signed for.
    #[serde(serialize_with = "as_word")]
    pub kind: AttemptKind,
    /// Wei per gas.
    pub max_fee_per_gas: u64,
    /// Wei per gas.
    pub max_priority_fee_per_gas: u64,
    /// When.
    pub signed_at: DateTime<Utc>,
}

fn as_word<W: Display, S: Serializer>(word: &W, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(word)
}

fn as_words<W: Display, S: Serializer>(word: &Option<W>, to: S) -> Result<S::Ok, S::Error> {
    match word {
        Some(word) => to.collect_str(word),
        None => to.serialize_none(),
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    account_nonce: i64,
    state: String,
    r#final: bool,
    kind: Option<String>,
    settlement_id: Option<String>,
    to_address: String,
    mined_hash: Option<String>,
    block_number: Option<i64>,
    max_cost_wei: i64,
    l2_fee_wei: Option<i64>,
    l1_fee_wei: Option<i64>,
    created_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct AttemptRow {
    hash: String,
    kind: String,
    max_fee_per_gas: i64,
    max_priority_fee_per_gas: i64,
    created_at: DateTime<Utc>,
}

/// The columns of [`Row`], for every SELECT here.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT t.id, t.account_nonce, t.state, t.final, i.kind, i.settlement_id, t.to_address,
                t.mined_hash, t.block_number, t.max_cost_wei, t.l2_fee_wei, t.l1_fee_wei,
                t.created_at
            FROM transactions t
            LEFT JOIN transaction_intents ti ON ti.transaction_id = t.id
            LEFT JOIN intents i ON i.id = ti.intent_id
            WHERE t.chain_id = $1 AND t.signer = $2 ",
            $rest
        )
    };
}

impl Tx {
    /// Transactions of a signer, newest first.
    pub async fn transactions(
        &mut self,
        chain_id: u64,
        signer: Address,
        query: TransactionQuery,
    ) -> Result<Vec<TransactionView>> {
        const OPEN: &str = select!("AND NOT t.final ORDER BY t.account_nonce DESC");
        const NEWEST: &str = select!("ORDER BY t.account_nonce DESC LIMIT $3");
        const ONE: &str = select!("AND t.account_nonce = $3");
        const ATTEMPTS: &str = "SELECT hash, kind, max_fee_per_gas, max_priority_fee_per_gas,
            created_at FROM attempts WHERE transaction_id = $1 ORDER BY n";
        let (chain, at) = (bigint("chain id", chain_id)?, hex(signer));
        let rows = match query {
            TransactionQuery::Open => fetch_all!(self, Row, OPEN, chain, at)?,
            TransactionQuery::Newest(limit) => {
                fetch_all!(self, Row, NEWEST, chain, at, bigint("limit", limit)?)?
            }
            TransactionQuery::AccountNonce(nonce) => {
                fetch_all!(self, Row, ONE, chain, at, bigint("account nonce", nonce)?)?
            }
        };
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let attempts = fetch_all!(self, AttemptRow, ATTEMPTS, row.id)?;
            found.push(row.view(attempts)?);
        }
        Ok(found)
    }
}

impl Row {
    fn view(self, attempts: Vec<AttemptRow>) -> Result<TransactionView> {
        let number =
            |column, value: Option<i64>| value.map(|value| unsigned(column, value)).transpose();
        let (kind, payment) = (self.kind.as_deref(), self.settlement_id.as_deref());
        let mined = self.mined_hash.as_deref();
        Ok(TransactionView {
            account_nonce: unsigned("transactions.account_nonce", self.account_nonce)?,
            state: word("transactions.state", &self.state, TransactionState::from_word)?,
            is_final: self.r#final,
            kind: kind.map(|kind| word("intents.kind", kind, IntentKind::from_word)).transpose()?,
            payment: payment.map(|id| uuid("intents.settlement_id", id)).transpose()?,
            to: address("transactions.to_address", &self.to_address)?,
            mined_hash: mined.map(|mined| hash("transactions.mined_hash", mined)).transpose()?,
            block_number: number("transactions.block_number", self.block_number)?,
            max_cost_wei: unsigned("transactions.max_cost_wei", self.max_cost_wei)?,
            l2_fee_wei: number("transactions.l2_fee_wei", self.l2_fee_wei)?,
            l1_fee_wei: number("transactions.l1_fee_wei", self.l1_fee_wei)?,
            created_at: self.created_at,
            attempts: attempts.into_iter().map(AttemptView::try_from).collect::<Result<_>>()?,
        })
    }
}

impl TryFrom<AttemptRow> for AttemptView {
    type Error = LedgerError;

    fn try_from(row: AttemptRow) -> Result<Self> {
        Ok(Self {
            hash: hash("attempts.hash", &row.hash)?,
            kind: word("attempts.kind", &row.kind, AttemptKind::from_word)?,
            max_fee_per_gas: unsigned("attempts.max_fee_per_gas", row.max_fee_per_gas)?,
            max_priority_fee_per_gas: unsigned(
                "attempts.max_priority_fee_per_gas",
                row.max_priority_fee_per_gas,
            )?,
            signed_at: row.created_at,
        })
    }
}
