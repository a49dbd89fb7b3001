//! Blocks that an operator wants read again. A command writes an order; the watcher carries it out
//! under its lease and says what came of it.

use super::{
    LedgerError, Outcome, Result, Tx,
    columns::{bigint, hex, now, unsigned},
    query::{execute, fetch_all, fetch_optional},
};
use alloy::primitives::{Address, B256};

/// A range of blocks that is to be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reread {
    /// Its number in the ledger.
    pub id: i64,
    /// First block.
    pub from: u64,
    /// Last block.
    pub to: u64,
    /// Why, in the operator's words.
    pub reason: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    from_block: i64,
    to_block: i64,
    reason: String,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

#[derive(sqlx::FromRow)]
struct Kind {
    kind: String,
}

#[derive(sqlx::FromRow)]
struct OutcomeRow {
    succeeded: bool,
    outcome: String,
}

impl Tx {
    /// Orders that a Splitter's blocks are read again, and returns the order's number.
    pub async fn add_reread(
        &mut self,
        chain_id: u64,
        splitter: Address,
        (from, to): (u64, u64),
        reason: &str,
    ) -> Result<i64> {
        const INSERT: &str = "INSERT INTO rereads
            (chain_id, splitter, from_block, to_block, reason, ordered_at)
            VALUES ($1, $2, $3, $4, $5, $6) RETURNING id AS number";
        let chain = bigint("chain id", chain_id)?;
        let (from, to) = (bigint("block number", from)?, bigint("block number", to)?);
        let at = hex(splitter);
        let row = fetch_optional!(self, Number, INSERT, chain, at, from, to, reason, now())?;
        row.map(|row| row.number).ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    /// Orders of a Splitter that wait, oldest first.
    pub async fn open_rereads(&mut self, chain_id: u64, splitter: Address) -> Result<Vec<Reread>> {
        const SELECT: &str = "SELECT id, from_block, to_block, reason FROM rereads
            WHERE chain_id = $1 AND splitter = $2 AND done_at IS NULL ORDER BY id";
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, Row, SELECT, chain, hex(splitter))?;
        rows.into_iter()
            .map(|row| {
                Ok(Reread {
                    id: row.id,
                    from: unsigned("rereads.from_block", row.from_block)?,
                    to: unsigned("rereads.to_block", row.to_block)?,
                    reason: row.reason,
                })
            })
            .collect()
    }

    /// As what a log is booked: the kinds of its journals, oldest first.
    pub async fn journals_of_log(
        &mut self,
        chain_id: u64,
        splitter: Address,
        tx_hash: B256,
        log_index: u64,
    ) -> Result<Vec<String>> {
        const SELECT: &str = "SELECT kind FROM journals j WHERE chain_id = $1 AND splitter = $2
            AND tx_hash = $3 AND log_index = $4
            AND NOT EXISTS (SELECT 1 FROM journals r WHERE r.reverses = j.id) ORDER BY at";
        let (chain, index) = (bigint("chain id", chain_id)?, bigint("log index", log_index)?);
        let rows = fetch_all!(self, Kind, SELECT, chain, hex(splitter), hex(tx_hash), index)?;
        Ok(rows.into_iter().map(|row| row.kind).collect())
    }

    /// Says what came of an order.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when that was said before.
    pub async fn finish_reread(&mut self, id: i64, outcome: &Outcome) -> Result<()> {
        const UPDATE: &str = "UPDATE rereads SET done_at = $1, succeeded = $2, outcome = $3
            WHERE id = $4 AND done_at IS NULL";
        if execute!(self, UPDATE, now(), outcome.succeeded, &outcome.text, id)? == 1 {
            Ok(())
        } else {
            Err(LedgerError::Conflict(format!("reread {id}")))
        }
    }

    /// What came of an order; `None` while it waits.
    pub async fn reread_outcome(&mut self, id: i64) -> Result<Option<Outcome>> {
        const SELECT: &str =
            "SELECT succeeded, outcome FROM rereads WHERE id = $1 AND done_at IS NOT NULL";
        let row = fetch_optional!(self, OutcomeRow, SELECT, id)?;
        Ok(row.map(|row| Outcome { succeeded: row.succeeded, text: row.outcome }))
    }
}
