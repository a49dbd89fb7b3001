//! What a provider was paid, from the mirror of the chain's logs, with the payments behind it.
//!
//! A log belongs to the provider who was registered for its capability when it was written.

use super::{
    LogRef, Result, Shares, Tx,
    columns::{address, bigint, hash, hex, money, unsigned, uuid},
    mirror::log_ref,
    query::{fetch_all, fetch_optional},
};
use crate::x402::MicroUsdc;
use alloy::primitives::{Address, B256};
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// Whose statement, of which Splitter, and when: seconds from `from` to before `to`, in blocks before
/// `end` only, which are booked.
#[derive(Debug, Clone, Copy)]
pub struct StatementScope {
    /// Chain.
    pub chain_id: u64,
    /// The Splitter.
    pub splitter: Address,
    /// The provider.
    pub provider: Address,
    /// First second.
    pub from: u64,
    /// The second after the last.
    pub to: u64,
    /// The block after the last.
    pub end: u64,
}

/// A `PaymentSplit` of a provider.
#[derive(Debug, Clone, Copy)]
pub struct SplitLine {
    /// The log.
    pub at: LogRef,
    /// Time of the block, seconds.
    pub block_timestamp: u64,
    /// Id of the capability at the Splitter.
    pub capability: B256,
    /// All of it.
    pub amount: MicroUsdc,
    /// Who got what.
    pub shares: Shares,
    /// What its transaction cost, wei; unknown for somebody else's.
    pub fee_wei: Option<u64>,
}

/// A payment in a split.
#[derive(Debug, Clone)]
pub struct PaymentLine {
    /// Id of the settlement.
    pub settlement: Uuid,
    /// "namespace/action".
    pub capability: Option<String>,
    /// Who paid.
    pub payer: Address,
    /// How much.
    pub amount: MicroUsdc,
    /// Who got what.
    pub shares: Shares,
    /// The transaction that pulled it.
    pub pull: Option<B256>,
    /// The transaction that recorded it.
    pub record: Option<B256>,
    /// What that cost, wei.
    pub record_fee_wei: Option<u64>,
}

/// A provider's share that went to escrow, or came out of it.
#[derive(Debug, Clone, Copy)]
pub struct EscrowLine {
    /// The log.
    pub at: LogRef,
    /// Time of the block, seconds.
    pub block_timestamp: u64,
    /// Whether it came out.
    pub is_withdrawal: bool,
    /// How much.
    pub amount: MicroUsdc,
}

/// A refund that the hub paid for a provider's failure.
#[derive(Debug, Clone)]
pub struct RefundLine {
    /// Id of the refund.
    pub refund: Uuid,
    /// Id of the settlement.
    pub settlement: Uuid,
    /// "namespace/action".
    pub capability: Option<String>,
    /// Who got it.
    pub payer: Address,
    /// How much.
    pub amount: MicroUsdc,
    /// Time of the block that paid it.
    pub paid_at: DateTime<Utc>,
    /// The transaction that paid it.
    pub tx_hash: B256,
}

/// Sums over everything of a provider before a moment, micro-USDC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProviderSums {
    /// Recorded for the provider's capabilities.
    pub recorded: u64,
    /// Split of it.
    pub split: u64,
    /// Gone to escrow.
    pub escrowed: u64,
    /// Come out of escrow.
    pub withdrawn: u64,
}

#[derive(sqlx::FromRow)]
struct SplitRow {
    tx_hash: String,
    log_index: i64,
    block_number: i64,
    block_hash: String,
    block_timestamp: i64,
    splitter_capability_id: String,
    amount: i64,
    provider_amount: i64,
    hub_amount: i64,
    reserve_amount: i64,
    fee_wei: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct PaymentRow {
    id: String,
    capability_id: Option<String>,
    payer: String,
    amount_usdc_micro: i64,
    provider_share_micro: i64,
    hub_share_micro: i64,
    network_share_micro: i64,
    tx_hash: Option<String>,
    record_tx_hash: Option<String>,
    fee_wei: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct EscrowRow {
    tx_hash: String,
    log_index: i64,
    block_number: i64,
    block_hash: String,
    block_timestamp: i64,
    event_name: String,
    amount: i64,
}

#[derive(sqlx::FromRow)]
struct RefundRow {
    id: String,
    settlement_id: String,
    capability_id: Option<String>,
    payer: String,
    amount_micro: i64,
    paid_at: DateTime<Utc>,
    tx_hash: String,
}

#[derive(sqlx::FromRow)]
struct SumsRow {
    recorded: i64,
    split: i64,
    escrowed: i64,
    withdrawn: i64,
}

#[derive(sqlx::FromRow)]
struct AccountRow {
    account: String,
}

/// The provider who was registered for a log's capability when the log was written.
macro_rules! provider_of_e {
    () => {
        "(SELECT g.account FROM splitter_events g
            WHERE g.chain_id = e.chain_id AND g.splitter = e.splitter
            AND g.splitter_capability_id = e.splitter_capability_id
            AND g.event_name = 'CapabilityRegistered'
            AND (g.block_number < e.block_number
                OR g.block_number = e.block_number AND g.log_index < e.log_index)
            ORDER BY g.block_number DESC, g.log_index DESC LIMIT 1)"
    };
}

impl Tx {
    /// Every provider that a Splitter has had a registration of.
    pub async fn providers(&mut self, chain_id: u64, splitter: Address) -> Result<Vec<Address>> {
        const SELECT: &str = "SELECT DISTINCT account FROM splitter_events
            WHERE chain_id = $1 AND splitter = $2 AND event_name = 'CapabilityRegistered'
            ORDER BY account";
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, AccountRow, SELECT, chain, hex(splitter))?;
        rows.into_iter().map(|row| address("splitter_events.account", &row.account)).collect()
    }

    /// Splits of a provider, in chain order, behind the log at `after` (block, log index), so many at
    /// most.
    pub async fn provider_splits(
        &mut self,
        scope: &StatementScope,
        after: Option<(u64, u64)>,
        limit: u64,
    ) -> Result<Vec<SplitLine>> {
        const SELECT: &str = concat!(
            "SELECT e.tx_hash, e.log_index, e.block_number, e.block_hash, e.block_timestamp,
                e.splitter_capability_id, e.amount, e.provider_amount, e.hub_amount,
                e.reserve_amount,
                (SELECT max(t.l2_fee_wei + coalesce(t.l1_fee_wei, 0)) FROM transactions t
                    WHERE t.mined_hash = e.tx_hash) AS fee_wei
            FROM splitter_events e
            WHERE e.chain_id = $1 AND e.splitter = $2 AND e.event_name = 'PaymentSplit'
            AND e.block_timestamp >= $3 AND e.block_timestamp < $4 AND e.block_number < $5
            AND (e.block_number > $6 OR e.block_number = $6 AND e.log_index > $7)
            AND ",
            provider_of_e!(),
            " = $8 ORDER BY e.block_number, e.log_index LIMIT $9"
        );
        let (block, index) = match after {
            Some((block, index)) => (bigint("block", block)?, bigint("log index", index)?),
            None => (-1, -1),
        };
        let rows = fetch_all!(
            self,
            SplitRow,
            SELECT,
            bigint("chain id", scope.chain_id)?,
            hex(scope.splitter),
            bigint("time", scope.from)?,
            bigint("time", scope.to)?,
            bigint("block number", scope.end)?,
            block,
            index,
            hex(scope.provider),
            bigint("limit", limit)?,
        )?;
        rows.into_iter()
            .map(|row| {
                let column = "splitter_events.splitter_capability_id";
                Ok(SplitLine {
                    at: log_ref(&row.tx_hash, row.log_index, row.block_number, &row.block_hash)?,
                    block_timestamp: unsigned("mirror.block_timestamp", row.block_timestamp)?,
                    capability: hash(column, &row.splitter_capability_id)?,
                    amount: money("splitter_events.amount", row.amount)?,
                    shares: Shares {
                        provider: money("splitter_events.provider_amount", row.provider_amount)?,
                        hub: money("splitter_events.hub_amount", row.hub_amount)?,
                        reserve: money("splitter_events.reserve_amount", row.reserve_amount)?,
                    },
                    fee_wei: fee(row.fee_wei)?,
                })
            })
            .collect()
    }

    /// The payments in a split, in the order of their pulls.
    pub async fn split_payments(
        &mut self,
        chain_id: u64,
        splitter: Address,
        split: &LogRef,
    ) -> Result<Vec<PaymentLine>> {
        const SELECT: &str = "SELECT s.id, s.capability_id, s.payer, s.amount_usdc_micro,
                s.provider_share_micro, s.hub_share_micro, s.network_share_micro, s.tx_hash,
                s.record_tx_hash,
                (SELECT max(t.l2_fee_wei + coalesce(t.l1_fee_wei, 0)) FROM transactions t
                    WHERE t.mined_hash = s.record_tx_hash) AS fee_wei
            FROM x402_settlements s
            WHERE s.chain_id = $1 AND s.splitter = $2 AND s.keeper_state = 'split'
            AND s.split_tx_hash = $3 AND s.split_log_index = $4
            ORDER BY s.block_number, s.log_index, s.id";
        let chain = bigint("chain id", chain_id)?;
        let index = bigint("log index", split.log_index)?;
        let (at, tx_hash) = (hex(splitter), hex(split.tx_hash));
        let rows = fetch_all!(self, PaymentRow, SELECT, chain, at, tx_hash, index)?;
        rows.into_iter()
            .map(|row| {
                let share = |value| money("x402_settlements.shares", value);
                let (pull, record) = (row.tx_hash.as_deref(), row.record_tx_hash.as_deref());
                Ok(PaymentLine {
                    settlement: uuid("x402_settlements.id", &row.id)?,
                    capability: row.capability_id,
                    payer: address("x402_settlements.payer", &row.payer)?,
                    amount: money("x402_settlements.amount_usdc_micro", row.amount_usdc_micro)?,
                    shares: Shares {
                        provider: share(row.provider_share_micro)?,
                        hub: share(row.hub_share_micro)?,
                        reserve: share(row.network_share_micro)?,
                    },
                    pull: pull.map(|pull| hash("x402_settlements.tx_hash", pull)).transpose()?,
                    record: record
                        .map(|record| hash("x402_settlements.record_tx_hash", record))
                        .transpose()?,
                    record_fee_wei: fee(row.fee_wei)?,
                })
            })
            .collect()
    }

    /// What went to a provider's escrow and came out of it, in chain order.
    pub async fn provider_escrow(&mut self, scope: &StatementScope) -> Result<Vec<EscrowLine>> {
        const SELECT: &str = "SELECT tx_hash, log_index, block_number, block_hash, block_timestamp,
                event_name, amount
            FROM splitter_events WHERE chain_id = $1 AND splitter = $2
            AND event_name IN ('ProviderEscrowed', 'ProviderWithdrew') AND account = $3
            AND block_timestamp >= $4 AND block_timestamp < $5 AND block_number < $6
            ORDER BY block_number, log_index";
        let rows = fetch_all!(
            self,
            EscrowRow,
            SELECT,
            bigint("chain id", scope.chain_id)?,
            hex(scope.splitter),
            hex(scope.provider),
            bigint("time", scope.from)?,
            bigint("time", scope.to)?,
            bigint("block number", scope.end)?,
        )?;
        rows.into_iter()
            .map(|row| {
                Ok(EscrowLine {
                    at: log_ref(&row.tx_hash, row.log_index, row.block_number, &row.block_hash)?,
                    block_timestamp: unsigned("mirror.block_timestamp", row.block_timestamp)?,
                    is_withdrawal: row.event_name == "ProviderWithdrew",
                    amount: money("splitter_events.amount", row.amount)?,
                })
            })
            .collect()
    }

    /// Refunds that the hub's treasury paid for a provider's failures.
    pub async fn provider_refunds(&mut self, scope: &StatementScope) -> Result<Vec<RefundLine>> {
        const SELECT: &str = "SELECT r.id, r.settlement_id, s.capability_id, r.payer,
                r.amount_micro, r.paid_at, r.tx_hash
            FROM x402_refund_log r JOIN x402_settlements s ON s.id = r.settlement_id
            WHERE r.chain_id = $1 AND r.splitter = $2 AND r.provider = $3 AND r.state = 'paid'
            AND r.paid_at >= $4 AND r.paid_at < $5 ORDER BY r.block_number, r.log_index";
        let time = |seconds: u64| {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
        };
        let rows = fetch_all!(
            self,
            RefundRow,
            SELECT,
            bigint("chain id", scope.chain_id)?,
            hex(scope.splitter),
            hex(scope.provider),
            time(scope.from),
            time(scope.to),
        )?;
        rows.into_iter()
            .map(|row| {
                Ok(RefundLine {
                    refund: uuid("x402_refund_log.id", &row.id)?,
                    settlement: uuid("x402_refund_log.settlement_id", &row.settlement_id)?,
                    capability: row.capability_id,
                    payer: address("x402_refund_log.payer", &row.payer)?,
                    amount: money("x402_refund_log.amount_micro", row.amount_micro)?,
                    paid_at: row.paid_at,
                    tx_hash: hash("x402_refund_log.tx_hash", &row.tx_hash)?,
                })
            })
            .collect()
    }

    /// Sums over everything of a provider before a second.
    pub async fn provider_sums(
        &mut self,
        scope: &StatementScope,
        before: u64,
    ) -> Result<ProviderSums> {
        const SELECT: &str = concat!(
            "SELECT
                CAST(coalesce(sum(amount) FILTER (WHERE event_name = 'SettlementRecorded'), 0)
                    AS BIGINT) AS recorded,
                CAST(coalesce(sum(amount) FILTER (WHERE event_name = 'PaymentSplit'), 0)
                    AS BIGINT) AS split,
                CAST(coalesce(sum(amount) FILTER (WHERE event_name = 'ProviderEscrowed'), 0)
                    AS BIGINT) AS escrowed,
                CAST(coalesce(sum(amount) FILTER (WHERE event_name = 'ProviderWithdrew'), 0)
                    AS BIGINT) AS withdrawn
            FROM splitter_events e
            WHERE e.chain_id = $1 AND e.splitter = $2 AND e.block_timestamp < $3
            AND e.block_number < $4
            AND CASE WHEN e.event_name IN ('ProviderEscrowed', 'ProviderWithdrew') THEN e.account
                WHEN e.event_name IN ('SettlementRecorded', 'PaymentSplit') THEN ",
            provider_of_e!(),
            " END = $5"
        );
        let row = fetch_optional!(
            self,
            SumsRow,
            SELECT,
            bigint("chain id", scope.chain_id)?,
            hex(scope.splitter),
            bigint("time", before)?,
            bigint("block number", scope.end)?,
            hex(scope.provider),
        )?;
        let Some(row) = row else { return Ok(ProviderSums::default()) };
        Ok(ProviderSums {
            recorded: unsigned("splitter_events", row.recorded)?,
            split: unsigned("splitter_events", row.split)?,
            escrowed: unsigned("splitter_events", row.escrowed)?,
            withdrawn: unsigned("splitter_events", row.withdrawn)?,
        })
    }
}

fn fee(wei: Option<i64>) -> Result<Option<u64>> {
    wei.map(|wei| unsigned("transactions.fee_wei", wei)).transpose()
}
