//! Everything that the ledger knows of one payment.

use super::{
    KeeperEvidence, LogRef, Result, Shares, TraceEvent, Tx,
    columns::{bigint, hex},
    query::fetch_all,
};
use crate::lifecycle::{KeeperState, Status};
use alloy::primitives::{Address, B256};
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

/// A payment, its life, its evidence, its books.
#[derive(Debug, Serialize)]
pub struct Trace {
    /// Derived from the terms below.
    pub trace_id: B256,
    /// The payment.
    pub settlement: TracedSettlement,
    /// Its events; each follows from the one before by its hash, the first from the trace id.
    pub events: Vec<TraceEvent>,
    /// Whether they do.
    pub events_follow: bool,
    /// Its transactions, with every envelope that was signed.
    pub transactions: Vec<TracedTransaction>,
    /// The lines of the journal about it, and about its split.
    pub journal: Vec<TracedLine>,
}

/// What was agreed, and where it stands.
#[derive(Debug, Serialize)]
pub struct TracedSettlement {
    /// Id of the row.
    pub id: Uuid,
    /// Chain.
    pub chain_id: u64,
    /// The token.
    pub asset: Address,
    /// Payer.
    pub payer: Address,
    /// Payee.
    pub pay_to: Address,
    /// Micro-USDC.
    pub amount_micro: u64,
    /// Authorization nonce.
    pub authorization_nonce: B256,
    /// What was bought.
    pub capability: Option<String>,
    /// By whom.
    pub agent_id: Option<String>,
    /// With which request.
    pub request_id: Option<String>,
    /// What is known of the pull.
    pub status: String,
    /// How far the keeper is.
    pub keeper_state: String,
    /// When it was reserved.
    pub reserved_at: DateTime<Utc>,
    /// When the pull was seen.
    pub settled_at: Option<DateTime<Utc>>,
    /// Where it was pulled.
    pub pull: Option<LogRef>,
    /// Where it was recorded.
    pub record: Option<KeeperEvidence>,
    /// Where it was split.
    pub split: Option<KeeperEvidence>,
    /// Its shares, micro-USDC.
    pub shares_micro: Option<Shares>,
}

/// An envelope of one of its transactions.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub struct TracedTransaction {
    /// What it is for.
    pub purpose: String,
    /// Who sends it.
    pub signer: String,
    /// With which account nonce.
    pub account_nonce: i64,
    /// What became of it.
    pub state: String,
    /// Which envelope was mined.
    pub mined_hash: Option<String>,
    /// In which block.
    pub block_number: Option<i64>,
    /// This envelope.
    pub envelope: Option<String>,
    /// The first, a replacement, or one that does nothing.
    pub envelope_kind: Option<String>,
}

/// A line of a journal.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub struct TracedLine {
    /// Its journal.
    pub journal: String,
    /// What that books.
    pub kind: String,
    /// The journal that it takes back.
    pub reverses: Option<String>,
    /// The log that it cites.
    pub tx_hash: Option<String>,
    /// Its place in the block.
    pub log_index: Option<i64>,
    /// The account.
    pub account: String,
    /// Debit or credit.
    pub side: String,
    /// Micro-USDC.
    pub amount_micro: i64,
}

#[derive(sqlx::FromRow)]
struct Id {
    id: String,
}

impl Tx {
    /// The payment of a trace id.
    pub async fn trace(&mut self, trace_id: B256) -> Result<Option<Trace>> {
        const FIND: &str = "SELECT id FROM x402_settlements WHERE trace_id = $1";
        const TRANSACTIONS: &str = "SELECT i.kind AS purpose, t.signer, t.account_nonce, t.state,
                t.mined_hash, t.block_number, a.hash AS envelope, a.kind AS envelope_kind
            FROM transactions t JOIN transaction_intents ti ON ti.transaction_id = t.id
            JOIN intents i ON i.id = ti.intent_id
            LEFT JOIN attempts a ON a.transaction_id = t.id
            WHERE i.settlement_id = $1 OR t.chain_id = $2 AND t.mined_hash = $3
            ORDER BY t.id, a.n";
        const JOURNAL: &str = "SELECT j.id AS journal, j.kind, j.reverses, j.tx_hash, j.log_index,
                a.code AS account, p.side, p.amount_micro
            FROM journals j JOIN postings p ON p.journal_id = j.id
            JOIN accounts a ON a.id = p.account_id
            WHERE j.settlement_id = $1
            OR j.chain_id = $2 AND j.tx_hash = $3 AND j.log_index = $4
            ORDER BY j.block_number, j.log_index, j.id, p.line";
        let found = fetch_all!(self, Id, FIND, hex(trace_id))?.into_iter().next();
        let Some(found) = found else { return Ok(None) };
        let id = super::columns::uuid("x402_settlements.id", &found.id)?;
        let Some(known) = self.settlement(id).await? else { return Ok(None) };
        let chain = bigint("chain id", known.chain_id)?;
        let split_hash = known.split.map(|split| hex(split.tx_hash));
        let split_index =
            known.split.map(|split| bigint("log index", split.log_index)).transpose()?;
        let transactions =
            fetch_all!(self, TracedTransaction, TRANSACTIONS, &found.id, chain, &split_hash)?;
        let journal =
            fetch_all!(self, TracedLine, JOURNAL, &found.id, chain, &split_hash, split_index)?;
        let events = self.events(id).await?;
        let mut before = trace_id;
        let events_follow = (0..).zip(&events).all(|(n, event)| {
            let follows = event.n == n
                && event.prev_hash == before
                && event.expected_hash() == Some(event.hash);
            before = event.hash;
            follows
        });
        let settlement = TracedSettlement {
            id,
            chain_id: known.chain_id,
            asset: known.asset,
            payer: known.payer,
            pay_to: known.pay_to,
            amount_micro: known.amount.micro(),
            authorization_nonce: known.nonce,
            capability: known.capability_id,
            agent_id: known.agent_id,
            request_id: known.request_id,
            status: Status::as_str(known.status).to_owned(),
            keeper_state: KeeperState::as_str(known.keeper_state).to_owned(),
            reserved_at: known.reserved_at,
            settled_at: known.settled_at,
            pull: known.pull,
            record: known.record,
            split: known.split,
            shares_micro: known.shares,
        };
        Ok(Some(Trace { trace_id, settlement, events, events_follow, transactions, journal }))
    }
}
