//! Settlements as they are stored, and how they are found.

use super::{
    LedgerError, LogRef, NewSettlement, Result, Tx,
    columns::{address, bigint, bps, hash, hex, money, now, unsigned, uuid, word},
    query::{execute, fetch_all, fetch_optional},
};
use crate::{
    lifecycle::{KeeperState, Status},
    splitter::SplitTerms,
    x402::MicroUsdc,
};
use alloy::primitives::{Address, B256};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

/// The shares of one settlement in its split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shares {
    /// Provider's.
    pub provider: MicroUsdc,
    /// Hub's.
    pub hub: MicroUsdc,
    /// Network reserve's.
    pub reserve: MicroUsdc,
}

/// A settlement as stored.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Id of the row; `transaction_id` in a JECP bill.
    pub id: Uuid,
    /// Id of its trace.
    pub trace_id: B256,
    /// Chain.
    pub chain_id: u64,
    /// The token.
    pub asset: Address,
    /// Payer.
    pub payer: Address,
    /// Authorization nonce.
    pub nonce: B256,
    /// Payee.
    pub pay_to: Address,
    /// Amount.
    pub amount: MicroUsdc,
    /// Valid before this second.
    pub valid_before: u64,
    /// When it was reserved.
    pub reserved_at: DateTime<Utc>,
    /// "namespace/action".
    pub capability_id: Option<String>,
    /// Id at the Splitter.
    pub splitter_capability_id: Option<B256>,
    /// Who is paid, and how much of it, as it was sold.
    pub terms: Option<SplitTerms>,
    /// Who asked.
    pub agent_id: Option<String>,
    /// Their request.
    pub request_id: Option<String>,
    /// Hash of what was asked.
    pub content_hash: Option<B256>,
    /// Hash of the decoded payment header.
    pub payment_hash: Option<B256>,
    /// What is known of the pull.
    pub status: Status,
    /// How far the keeper is.
    pub keeper_state: KeeperState,
    /// Where it was pulled.
    pub pull: Option<LogRef>,
    /// When that was seen.
    pub settled_at: Option<DateTime<Utc>>,
    /// When it was buried deep enough.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// Where it was recorded: transaction, log index, block number.
    pub record: Option<KeeperEvidence>,
    /// Where it was split.
    pub split: Option<KeeperEvidence>,
    /// Its shares in that split.
    pub shares: Option<Shares>,
}

/// Where the Splitter recorded or split a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct KeeperEvidence {
    /// Transaction.
    pub tx_hash: B256,
    /// Position in the block.
    pub log_index: u64,
    /// Block.
    pub block_number: u64,
}

impl KeeperEvidence {
    /// Order on the chain.
    pub const fn position(&self) -> (u64, u64) {
        (self.block_number, self.log_index)
    }
}

impl Settlement {
    /// Whether it pays somebody else than a Splitter: nothing is recorded or split of it.
    pub const fn passes_through(&self) -> bool {
        self.splitter_capability_id.is_none()
    }

    /// Whether it pays for this very request, with this very payment.
    pub fn is_of(
        &self,
        agent_id: &str,
        request_id: &str,
        content_hash: B256,
        payment_hash: B256,
    ) -> bool {
        self.agent_id.as_deref() == Some(agent_id)
            && self.request_id.as_deref() == Some(request_id)
            && self.content_hash == Some(content_hash)
            && self.payment_hash == Some(payment_hash)
    }
}

/// So long after a block's time it is in the mirror, or no payment is taken.
const MIRRORED_AFTER: TimeDelta = TimeDelta::minutes(2);

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    trace_id: String,
    chain_id: i64,
    asset: String,
    payer: String,
    eip3009_nonce: String,
    pay_to: String,
    amount_usdc_micro: i64,
    valid_before: i64,
    reserved_at: DateTime<Utc>,
    capability_id: Option<String>,
    splitter_capability_id: Option<String>,
    provider: Option<String>,
    provider_bps: Option<i64>,
    hub_bps: Option<i64>,
    reserve_bps: Option<i64>,
    agent_id: Option<String>,
    request_id: Option<String>,
    content_hash: Option<String>,
    payment_hash: Option<String>,
    status: String,
    keeper_state: String,
    tx_hash: Option<String>,
    log_index: Option<i64>,
    block_number: Option<i64>,
    block_hash: Option<String>,
    settled_at: Option<DateTime<Utc>>,
    chain_confirmed_at: Option<DateTime<Utc>>,
    record_tx_hash: Option<String>,
    record_log_index: Option<i64>,
    record_block_number: Option<i64>,
    split_tx_hash: Option<String>,
    split_log_index: Option<i64>,
    split_block_number: Option<i64>,
    provider_share_micro: Option<i64>,
    hub_share_micro: Option<i64>,
    network_share_micro: Option<i64>,
}

/// The columns of [`Row`], for every SELECT here.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, trace_id, chain_id, asset, payer, eip3009_nonce, pay_to,
                amount_usdc_micro, valid_before, reserved_at, capability_id,
                splitter_capability_id, provider, provider_bps, hub_bps, reserve_bps, agent_id,
                request_id, content_hash, payment_hash, status, keeper_state, tx_hash, log_index,
                block_number, block_hash, settled_at, chain_confirmed_at, record_tx_hash,
                record_log_index,
                record_block_number,
                split_tx_hash, split_log_index, split_block_number, provider_share_micro,
                hub_share_micro, network_share_micro FROM x402_settlements ",
            $rest
        )
    };
}

fn evidence(
    tx_hash: Option<&str>,
    log_index: Option<i64>,
    block_number: Option<i64>,
) -> Result<Option<KeeperEvidence>> {
    let (Some(tx_hash), Some(log_index), Some(block_number)) = (tx_hash, log_index, block_number)
    else {
        return Ok(None);
    };
    Ok(Some(KeeperEvidence {
        tx_hash: hash("x402_settlements.record_tx_hash", tx_hash)?,
        log_index: unsigned("x402_settlements.record_log_index", log_index)?,
        block_number: unsigned("x402_settlements.record_block_number", block_number)?,
    }))
}

impl TryFrom<Row> for Settlement {
    type Error = LedgerError;

    fn try_from(row: Row) -> Result<Self> {
        let pull = match (row.tx_hash, row.log_index, row.block_number, row.block_hash) {
            (Some(tx_hash), Some(log_index), Some(block_number), Some(block_hash)) => {
                Some(LogRef {
                    tx_hash: hash("x402_settlements.tx_hash", &tx_hash)?,
                    log_index: unsigned("x402_settlements.log_index", log_index)?,
                    block_number: unsigned("x402_settlements.block_number", block_number)?,
                    block_hash: hash("x402_settlements.block_hash", &block_hash)?,
                })
            }
            _ => None,
        };
        let shares = match (row.provider_share_micro, row.hub_share_micro, row.network_share_micro)
        {
            (Some(provider), Some(hub), Some(reserve)) => Some(Shares {
                provider: money("x402_settlements.provider_share_micro", provider)?,
                hub: money("x402_settlements.hub_share_micro", hub)?,
                reserve: money("x402_settlements.network_share_micro", reserve)?,
            }),
            _ => None,
        };
        let terms = match (row.provider, row.provider_bps, row.hub_bps, row.reserve_bps) {
            (Some(provider), Some(to_provider), Some(to_hub), Some(to_reserve)) => {
                Some(SplitTerms {
                    provider: address("x402_settlements.provider", &provider)?,
                    bps: [bps(to_provider)?, bps(to_hub)?, bps(to_reserve)?],
                })
            }
            _ => None,
        };
        Ok(Self {
            id: uuid("x402_settlements.id", &row.id)?,
            trace_id: hash("x402_settlements.trace_id", &row.trace_id)?,
            chain_id: unsigned("x402_settlements.chain_id", row.chain_id)?,
            asset: address("x402_settlements.asset", &row.asset)?,
            payer: address("x402_settlements.payer", &row.payer)?,
            nonce: hash("x402_settlements.eip3009_nonce", &row.eip3009_nonce)?,
            pay_to: address("x402_settlements.pay_to", &row.pay_to)?,
            amount: money("x402_settlements.amount_usdc_micro", row.amount_usdc_micro)?,
            valid_before: unsigned("x402_settlements.valid_before", row.valid_before)?,
            reserved_at: row.reserved_at,
            capability_id: row.capability_id,
            splitter_capability_id: row
                .splitter_capability_id
                .map(|id| hash("x402_settlements.splitter_capability_id", &id))
                .transpose()?,
            terms,
            agent_id: row.agent_id,
            request_id: row.request_id,
            content_hash: row
                .content_hash
                .map(|text| hash("x402_settlements.content_hash", &text))
                .transpose()?,
            payment_hash: row
                .payment_hash
                .map(|text| hash("x402_settlements.payment_hash", &text))
                .transpose()?,
            status: word("x402_settlements.status", &row.status, Status::from_word)?,
            keeper_state: word(
                "x402_settlements.keeper_state",
                &row.keeper_state,
                KeeperState::from_word,
            )?,
            pull,
            settled_at: row.settled_at,
            confirmed_at: row.chain_confirmed_at,
            record: evidence(
                row.record_tx_hash.as_deref(),
                row.record_log_index,
                row.record_block_number,
            )?,
            split: evidence(
                row.split_tx_hash.as_deref(),
                row.split_log_index,
                row.split_block_number,
            )?,
            shares,
        })
    }
}

/// Payments on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenPayments {
    /// How many.
    pub count: u64,
    /// Their sum, micro-USDC.
    pub micro: u64,
}

/// Which settlements to list.
#[derive(Debug, Clone, Copy)]
pub enum SettlementQuery {
    /// Paid, pulled at this block or before, and not yet taken up by the keeper.
    Unrecorded {
        /// Last block that counts.
        up_to_block: u64,
    },
    /// Paid, pulled in this range of blocks.
    PulledIn {
        /// First block.
        from: u64,
        /// Last block.
        to: u64,
    },
    /// Paid and not taken up by the keeper, though the mirror has its record.
    RecordUnknown,
    /// Being recorded, but the record is kept for a human.
    RecordHeld,
    /// Recorded or split in this block or later, in a log that the mirror does not hold any more.
    EvidenceLost {
        /// First block.
        from: u64,
    },
    /// In this keeper state.
    InKeeperState(KeeperState),
    /// In this status.
    InStatus(Status),
    /// Passing through to another payee: not pulled yet, or pulled in this block or later.
    Passing {
        /// First block.
        from: u64,
    },
    /// All of them.
    All,
}

impl Tx {
    /// A settlement by id.
    pub async fn settlement(&mut self, id: Uuid) -> Result<Option<Settlement>> {
        const SELECT: &str = select!("WHERE id = $1");
        fetch_optional!(self, Row, SELECT, id.to_string())?.map(Settlement::try_from).transpose()
    }

    /// The settlement of an identity.
    pub async fn settlement_by_identity(
        &mut self,
        chain_id: u64,
        asset: Address,
        payer: Address,
        nonce: B256,
    ) -> Result<Option<Settlement>> {
        // The chain in an expression: no index that begins with it may be taken for this. To a
        // planner without statistics they are all alike, and one of them reads every payment.
        const SELECT: &str =
            select!("WHERE chain_id + 0 = $1 AND asset = $2 AND payer = $3 AND eip3009_nonce = $4");
        let chain_id = bigint("chain id", chain_id)?;
        fetch_optional!(self, Row, SELECT, chain_id, hex(asset), hex(payer), hex(nonce))?
            .map(Settlement::try_from)
            .transpose()
    }

    /// A payer's payments on their way: reserved, and not seen in a block. Until this transaction
    /// ends nobody else counts for this payer.
    pub async fn open_payments(
        &mut self,
        chain_id: u64,
        asset: Address,
        payer: Address,
    ) -> Result<OpenPayments> {
        #[derive(sqlx::FromRow)]
        struct Open {
            number: i64,
            micro: i64,
        }
        const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 3009))";
        // The chain in an expression: see `settlement_by_identity`.
        const SELECT: &str = "SELECT count(*) AS number,
                CAST(coalesce(sum(amount_usdc_micro), 0) AS BIGINT) AS micro
            FROM x402_settlements WHERE chain_id + 0 = $1 AND asset = $2 AND payer = $3
            AND status IN ('reserved', 'settle_pending', 'orphaned')";
        // On SQLite this is the only writer.
        if matches!(self, Self::Postgres(_)) {
            execute!(self, LOCK, hex(payer))?;
        }
        let chain = bigint("chain id", chain_id)?;
        let open = fetch_optional!(self, Open, SELECT, chain, hex(asset), hex(payer))?;
        let Some(open) = open else { return Ok(OpenPayments::default()) };
        Ok(OpenPayments {
            count: unsigned("count", open.number)?,
            micro: unsigned("x402_settlements.amount_usdc_micro", open.micro)?,
        })
    }

    /// The settlement that pays, or paid, a request.
    pub async fn settlement_by_request(
        &mut self,
        agent_id: &str,
        request_id: &str,
    ) -> Result<Option<Settlement>> {
        const SELECT: &str = select!(
            "WHERE agent_id = $1 AND request_id = $2 AND status NOT IN ('released', 'failed')"
        );
        fetch_optional!(self, Row, SELECT, agent_id, request_id)?
            .map(Settlement::try_from)
            .transpose()
    }

    /// The settlement of a payment's identity, and another one that pays, paid or may still pay its
    /// request: both in one question, as every reservation asks it.
    ///
    /// What an external facilitator refused may still pay: it has the signature, and could use it until
    /// its window is over and every block of that time is in the mirror.
    pub(super) async fn identity_and_request(
        &mut self,
        new: &NewSettlement,
    ) -> Result<(Option<Settlement>, Option<Settlement>)> {
        // The chain in an expression: see `settlement_by_identity`.
        const SELECT: &str = concat!(
            select!("WHERE chain_id + 0 = $1 AND asset = $2 AND payer = $3 AND eip3009_nonce = $4"),
            " UNION ALL ",
            select!(
                "WHERE agent_id = $5 AND request_id = $6 AND status NOT IN ('released', 'failed')"
            ),
            " UNION ALL ",
            select!(
                "WHERE agent_id = $5 AND request_id = $6 AND status = 'released'
                AND mode = 'external' AND valid_before > $7"
            ),
        );
        let authorization = &new.authorization;
        let identity = (new.chain_id, new.asset, authorization.payer(), authorization.nonce());
        let rows = fetch_all!(
            self,
            Row,
            SELECT,
            bigint("chain id", new.chain_id)?,
            hex(new.asset),
            hex(authorization.payer()),
            hex(authorization.nonce()),
            &new.agent_id,
            &new.request_id,
            (now() - MIRRORED_AFTER).timestamp(),
        )?;
        let (mut by_identity, mut by_request) = (None, None);
        for row in rows {
            let found = Settlement::try_from(row)?;
            if (found.chain_id, found.asset, found.payer, found.nonce) == identity {
                by_identity = Some(found);
            } else if by_request.is_none() || found.status != Status::Released {
                by_request = Some(found);
            }
        }
        Ok((by_identity, by_request))
    }

    /// The payments that a transaction pulled, or that one of our envelopes of this hash was to pull.
    pub async fn settlements_of_pull(
        &mut self,
        chain_id: u64,
        tx_hash: B256,
    ) -> Result<Vec<Settlement>> {
        const SELECT: &str = select!(
            "WHERE chain_id = $1 AND (tx_hash = $2 OR id IN (
                SELECT i.settlement_id FROM attempts a
                JOIN transaction_intents t ON t.transaction_id = a.transaction_id
                JOIN intents i ON i.id = t.intent_id AND i.kind = 'pull'
                WHERE a.hash = $2 AND a.kind <> 'noop'))
             ORDER BY log_index, id"
        );
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, Row, SELECT, chain, hex(tx_hash))?;
        rows.into_iter().map(Settlement::try_from).collect()
    }

    /// Settlements at one Splitter, oldest first.
    pub async fn settlements(
        &mut self,
        chain_id: u64,
        splitter: Address,
        query: SettlementQuery,
    ) -> Result<Vec<Settlement>> {
        const UNRECORDED: &str = select!(
            "WHERE chain_id = $1 AND splitter = $2 AND keeper_state = 'none'
               AND kind = 'capability'
               AND status IN ('facilitator_attested', 'chain_confirmed') AND block_number <= $3
             ORDER BY block_number, log_index"
        );
        const PULLED_IN: &str = select!(
            "WHERE chain_id = $1 AND splitter = $2 AND block_number BETWEEN $3 AND $4
               AND status IN ('facilitator_attested', 'chain_confirmed')
             ORDER BY block_number, log_index"
        );
        const RECORD_UNKNOWN: &str = select!(
            "WHERE chain_id = $1 AND splitter = $2 AND keeper_state = 'none'
               AND status IN ('facilitator_attested', 'chain_confirmed')
               AND splitter_capability_id IS NOT NULL
               AND EXISTS (SELECT 1 FROM splitter_events e
                   WHERE e.eip3009_nonce = x402_settlements.eip3009_nonce
                   AND e.account = x402_settlements.payer
                   AND e.chain_id = x402_settlements.chain_id
                   AND e.splitter = x402_settlements.splitter
                   AND e.event_name = 'SettlementRecorded')
             ORDER BY reserved_at, id"
        );
        const RECORD_HELD: &str = select!(
            "WHERE chain_id = $1 AND splitter = $2 AND keeper_state = 'recording'
               AND EXISTS (SELECT 1 FROM intents i WHERE i.settlement_id = x402_settlements.id
                   AND i.kind = 'record' AND i.state = 'held')
             ORDER BY reserved_at, id"
        );
        const EVIDENCE_LOST: &str = select!(
            "WHERE chain_id = $1 AND splitter = $2 AND keeper_state IN ('recorded', 'splitting', 'split')
               AND (record_block_number >= $3 AND NOT EXISTS (SELECT 1 FROM splitter_events e
                       WHERE e.chain_id = x402_settlements.chain_id AND e.tx_hash = record_tx_hash
                       AND e.log_index = record_log_index AND e.block_number = record_block_number)
                   OR split_block_number >= $3 AND NOT EXISTS (SELECT 1 FROM splitter_events e
                       WHERE e.chain_id = x402_settlements.chain_id AND e.tx_hash = split_tx_hash
                       AND e.log_index = split_log_index AND e.block_number = split_block_number))
             ORDER BY reserved_at, id"
        );
        const IN_KEEPER_STATE: &str = select!(
            "WHERE chain_id = $1 AND splitter = $2 AND keeper_state = $3 ORDER BY reserved_at, id"
        );
        const IN_STATUS: &str = select!(
            "WHERE chain_id = $1 AND splitter = $2 AND status = $3 ORDER BY reserved_at, id"
        );
        const PASSING: &str = select!(
            "WHERE chain_id = $1 AND splitter = $2 AND kind = 'pass_through'
               AND (status IN ('reserved', 'settle_pending', 'orphaned')
                   OR status IN ('facilitator_attested', 'chain_confirmed', 'mismatched')
                   AND block_number >= $3)
             ORDER BY reserved_at, id"
        );
        const ALL: &str = select!("WHERE chain_id = $1 AND splitter = $2 ORDER BY reserved_at, id");
        let chain = bigint("chain id", chain_id)?;
        let at = hex(splitter);
        let rows = match query {
            SettlementQuery::Unrecorded { up_to_block } => {
                let block = bigint("block number", up_to_block)?;
                fetch_all!(self, Row, UNRECORDED, chain, &at, block)?
            }
            SettlementQuery::PulledIn { from, to } => {
                let (from, to) = (bigint("block number", from)?, bigint("block number", to)?);
                fetch_all!(self, Row, PULLED_IN, chain, &at, from, to)?
            }
            SettlementQuery::RecordUnknown => fetch_all!(self, Row, RECORD_UNKNOWN, chain, &at)?,
            SettlementQuery::RecordHeld => fetch_all!(self, Row, RECORD_HELD, chain, &at)?,
            SettlementQuery::EvidenceLost { from } => {
                let from = bigint("block number", from)?;
                fetch_all!(self, Row, EVIDENCE_LOST, chain, &at, from)?
            }
            SettlementQuery::InKeeperState(state) => {
                fetch_all!(self, Row, IN_KEEPER_STATE, chain, &at, state.as_str())?
            }
            SettlementQuery::InStatus(status) => {
                fetch_all!(self, Row, IN_STATUS, chain, &at, status.as_str())?
            }
            SettlementQuery::Passing { from } => {
                let from = bigint("block number", from)?;
                fetch_all!(self, Row, PASSING, chain, &at, from)?
            }
            SettlementQuery::All => fetch_all!(self, Row, ALL, chain, &at)?,
        };
        rows.into_iter().map(Settlement::try_from).collect()
    }
}
