//! Refunds: asked for once per payment, decided by the policy or by a human, paid by the treasury, and
//! closed by the Transfer that did it.
//!
//! The reconciler writes under its lease, commands beside it. What they could do to each other is
//! decided by a compare-and-set of the state; and whoever asks or agrees locks the Splitters first,
//! so that limits are counted by one at a time.

use super::{
    LedgerError, LogRef, Result, Tx,
    columns::{address, bigint, hash, hex, money, now, unsigned, uuid, word},
    mirror::log_ref,
    query::{execute, fetch_all, fetch_optional},
};
use crate::{
    lifecycle::{HoldReason, RefundState, Status},
    x402::MicroUsdc,
};
use alloy::primitives::{Address, B256};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// Most that are asked for in one round.
const MAX_WANTED: i64 = 100;

/// A refund as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// Its id.
    pub id: Uuid,
    /// Of which payment.
    pub settlement: Uuid,
    /// The payment's pull.
    pub pull: Option<B256>,
    /// What it paid for.
    pub capability: Option<String>,
    /// Whether its money is known to have come in, now.
    pub is_covered: bool,
    /// Chain.
    pub chain_id: u64,
    /// The Splitter that was paid.
    pub splitter: Address,
    /// Whose treasury pays it.
    pub treasury: Address,
    /// The token.
    pub asset: Address,
    /// Who asked for the call.
    pub agent_id: String,
    /// Who gets the money.
    pub payer: Address,
    /// Who was paid for the call; zero where the payment does not say.
    pub provider: Address,
    /// All of what was paid.
    pub amount: MicroUsdc,
    /// How `x402_refund_log` differs from the payment: somebody has written into it. Nothing is paid then.
    pub contradiction: Option<String>,
    /// Why.
    pub reason: String,
    /// Where it stands.
    pub state: RefundState,
    /// Why a human had to decide.
    pub hold_reason: Option<HoldReason>,
    /// What the human said.
    pub note: Option<String>,
    /// When it was asked for.
    pub requested_at: DateTime<Utc>,
    /// When it was agreed to or decided against.
    pub decided_at: Option<DateTime<Utc>>,
    /// When it was last handed to the Safe.
    pub proposed_at: Option<DateTime<Utc>>,
    /// Time of the block that paid it.
    pub paid_at: Option<DateTime<Utc>>,
    /// The Transfer that paid it.
    pub paid_by: Option<LogRef>,
}

/// What came of asking for a refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requested {
    /// It is asked for.
    New(Refund),
    /// It was before.
    Known(Refund),
    /// Nothing came in for this payment that is confirmed (C-33a).
    NotPaid,
    /// The call may still be answered.
    NotFinished,
}

/// Which refunds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundQuery {
    /// All, oldest first.
    All,
    /// In one state.
    In(RefundState),
    /// One.
    Id(Uuid),
    /// That of a payment.
    OfSettlement(Uuid),
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    settlement_id: String,
    log_payer: String,
    log_amount: i64,
    pull: Option<String>,
    capability_id: Option<String>,
    status: String,
    chain_id: i64,
    splitter: String,
    hub_treasury: String,
    asset: String,
    agent_id: String,
    payer: String,
    provider: String,
    amount_micro: i64,
    reason: String,
    state: String,
    hold_reason: Option<String>,
    note: Option<String>,
    requested_at: DateTime<Utc>,
    decided_at: Option<DateTime<Utc>>,
    proposed_at: Option<DateTime<Utc>>,
    paid_at: Option<DateTime<Utc>>,
    tx_hash: Option<String>,
    log_index: Option<i64>,
    block_number: Option<i64>,
    block_hash: Option<String>,
}

/// The columns of [`Row`], for every SELECT here.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT r.id, r.settlement_id, s.tx_hash AS pull, s.capability_id, s.status, r.chain_id,
                r.splitter, p.hub_treasury, p.asset, r.agent_id, s.payer, r.provider,
                s.amount_usdc_micro AS amount_micro, r.payer AS log_payer,
                r.amount_micro AS log_amount, r.reason, r.state, r.hold_reason, r.note, r.requested_at,
                r.decided_at, r.proposed_at, r.paid_at, r.tx_hash, r.log_index, r.block_number,
                r.block_hash
            FROM x402_refund_log r
            JOIN x402_settlements s ON s.id = r.settlement_id
            JOIN splitters p ON p.chain_id = r.chain_id AND p.address = r.splitter ",
            $rest
        )
    };
}

impl TryFrom<Row> for Refund {
    type Error = LedgerError;

    fn try_from(row: Row) -> Result<Self> {
        let paid_by = match (row.tx_hash, row.log_index, row.block_number, row.block_hash) {
            (Some(tx_hash), Some(index), Some(number), Some(block_hash)) => {
                Some(log_ref(&tx_hash, index, number, &block_hash)?)
            }
            _ => None,
        };
        let status = word("x402_settlements.status", &row.status, Status::from_word)?;
        let hold_reason = row.hold_reason.as_deref();
        let agrees = (&row.log_payer, row.log_amount) == (&row.payer, row.amount_micro);
        let contradiction = (!agrees).then(|| {
            format!(
                "x402_refund_log says {} micro-USDC to {}, the payment is {} of {}",
                row.log_amount, row.log_payer, row.amount_micro, row.payer
            )
        });
        Ok(Self {
            id: uuid("x402_refund_log.id", &row.id)?,
            settlement: uuid("x402_refund_log.settlement_id", &row.settlement_id)?,
            pull: row.pull.map(|pull| hash("x402_settlements.tx_hash", &pull)).transpose()?,
            capability: row.capability_id,
            is_covered: status == Status::ChainConfirmed,
            chain_id: unsigned("x402_refund_log.chain_id", row.chain_id)?,
            splitter: address("x402_refund_log.splitter", &row.splitter)?,
            treasury: address("splitters.hub_treasury", &row.hub_treasury)?,
            asset: address("splitters.asset", &row.asset)?,
            agent_id: row.agent_id,
            payer: address("x402_settlements.payer", &row.payer)?,
            provider: address("x402_refund_log.provider", &row.provider)?,
            amount: money("x402_settlements.amount_usdc_micro", row.amount_micro)?,
            contradiction,
            reason: row.reason,
            state: word("x402_refund_log.state", &row.state, RefundState::from_word)?,
            hold_reason: hold_reason
                .map(|reason| word("x402_refund_log.hold_reason", reason, HoldReason::from_word))
                .transpose()?,
            note: row.note,
            requested_at: row.requested_at,
            decided_at: row.decided_at,
            proposed_at: row.proposed_at,
            paid_at: row.paid_at,
            paid_by,
        })
    }
}

#[derive(sqlx::FromRow)]
struct Id {
    id: String,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

impl Tx {
    /// Refunds, oldest first.
    pub async fn refunds(&mut self, query: RefundQuery) -> Result<Vec<Refund>> {
        const ALL: &str = select!("ORDER BY r.requested_at, r.id");
        const IN: &str = select!("WHERE r.state = $1 ORDER BY r.requested_at, r.id");
        const ID: &str = select!("WHERE r.id = $1");
        const OF_SETTLEMENT: &str = select!("WHERE r.settlement_id = $1");
        let rows = match query {
            RefundQuery::All => fetch_all!(self, Row, ALL)?,
            RefundQuery::In(state) => fetch_all!(self, Row, IN, state.as_str())?,
            RefundQuery::Id(id) => fetch_all!(self, Row, ID, id.to_string())?,
            RefundQuery::OfSettlement(id) => fetch_all!(self, Row, OF_SETTLEMENT, id.to_string())?,
        };
        rows.into_iter().map(Refund::try_from).collect()
    }

    /// One refund.
    pub async fn refund(&mut self, id: Uuid) -> Result<Option<Refund>> {
        Ok(self.refunds(RefundQuery::Id(id)).await?.pop())
    }

    /// Refunds of a Splitter that are owed and not paid, oldest first.
    pub async fn owed_refunds(&mut self, chain_id: u64, splitter: Address) -> Result<Vec<Refund>> {
        const OWED: &str = select!(
            "WHERE r.chain_id = $1 AND r.splitter = $2 AND r.state IN ('approved', 'proposed')
            ORDER BY r.requested_at, r.id"
        );
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, Row, OWED, chain, hex(splitter))?;
        rows.into_iter().map(Refund::try_from).collect()
    }

    /// Confirmed payments of a Splitter whose delivery makes a refund due that nobody has asked for,
    /// oldest first. One whose outcome is unknown may still be repeated for as long as `patience`.
    pub async fn refunds_wanted(
        &mut self,
        chain_id: u64,
        splitter: Address,
        patience: TimeDelta,
    ) -> Result<Vec<Uuid>> {
        const SELECT: &str = "SELECT s.id FROM deliveries d
            JOIN x402_settlements s ON s.id = d.settlement_id
            WHERE d.refund_due AND s.chain_id = $1 AND s.splitter = $2
            AND s.status = 'chain_confirmed'
            AND (d.state = 'failed' OR d.state = 'unknown' AND d.finished_at < $3)
            AND NOT EXISTS (SELECT 1 FROM x402_refund_log r WHERE r.settlement_id = s.id)
            ORDER BY d.finished_at, s.id LIMIT $4";
        let chain = bigint("chain id", chain_id)?;
        let before = self.clock().await? - patience;
        let rows = fetch_all!(self, Id, SELECT, chain, hex(splitter), before, MAX_WANTED)?;
        rows.into_iter().map(|row| uuid("x402_settlements.id", &row.id)).collect()
    }

    /// Whether a confirmed payment is to be given back by what became of its call, as
    /// [`Tx::refunds_wanted`] judges it, or was asked back before.
    pub async fn is_refund_due(&mut self, settlement: Uuid, patience: TimeDelta) -> Result<bool> {
        const SELECT: &str = "SELECT count(*) AS number FROM x402_settlements s
            LEFT JOIN deliveries d ON d.settlement_id = s.id AND d.refund_due
                AND (d.state = 'failed' OR d.state = 'unknown' AND d.finished_at < $2)
            LEFT JOIN x402_refund_log r ON r.settlement_id = s.id
            WHERE s.id = $1 AND (r.id IS NOT NULL
                OR s.status = 'chain_confirmed' AND d.settlement_id IS NOT NULL)";
        let before = self.clock().await? - patience;
        let row = fetch_optional!(self, Number, SELECT, settlement.to_string(), before)?;
        Ok(row.is_some_and(|row| row.number > 0))
    }

    /// Payments that a transaction pulled.
    pub async fn payments_pulled_in(&mut self, transaction: B256) -> Result<Vec<Uuid>> {
        const SELECT: &str =
            "SELECT id FROM x402_settlements WHERE tx_hash = $1 ORDER BY log_index";
        let rows = fetch_all!(self, Id, SELECT, hex(transaction))?;
        rows.into_iter().map(|row| uuid("x402_settlements.id", &row.id)).collect()
    }

    /// The oldest refund of a Splitter that a Transfer of its treasury pays: the same payer, the same
    /// amount, and a payment that was made before. `None` when it pays none, or has paid one.
    pub async fn refund_paid_by(
        &mut self,
        chain_id: u64,
        splitter: Address,
        payer: Address,
        amount: MicroUsdc,
        by: &LogRef,
    ) -> Result<Option<Refund>> {
        const USED: &str = "SELECT count(*) AS number FROM x402_refund_log
            WHERE chain_id = $1 AND tx_hash = $2 AND log_index = $3";
        const OLDEST: &str = select!(
            "WHERE r.chain_id = $1 AND r.splitter = $2 AND r.state IN ('approved', 'proposed')
            AND s.payer = $3 AND s.amount_usdc_micro = $4 AND coalesce(s.block_number, 0) <= $5
            ORDER BY r.requested_at, r.id LIMIT 1"
        );
        let chain = bigint("chain id", chain_id)?;
        let index = bigint("log index", by.log_index)?;
        let used = fetch_optional!(self, Number, USED, chain, hex(by.tx_hash), index)?;
        if used.is_some_and(|used| used.number > 0) {
            return Ok(None);
        }
        let block = bigint("block number", by.block_number)?;
        let (at, payer, amount) = (hex(splitter), hex(payer), amount.column());
        fetch_optional!(self, Row, OLDEST, chain, at, payer, amount, block)?
            .map(Refund::try_from)
            .transpose()
    }

    /// Moves the cursor over the treasury's Transfers, unless somebody has moved it back meanwhile.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] then.
    pub async fn advance_refunds(
        &mut self,
        chain_id: u64,
        splitter: Address,
        from: u64,
        next: u64,
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE cursors SET next_block = $1, updated_at = $2
            WHERE chain_id = $3 AND splitter = $4 AND stream = 'refunds' AND next_block = $5";
        let (from, next) = (bigint("block number", from)?, bigint("block number", next)?);
        let chain = bigint("chain id", chain_id)?;
        if execute!(self, UPDATE, next, now(), chain, hex(splitter), from)? != 1 {
            return Err(LedgerError::Conflict(format!("refunds of splitter {splitter}")));
        }
        Ok(())
    }
}
