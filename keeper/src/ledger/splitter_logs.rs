//! What a Splitter said, as the mirror holds it.

use super::{
    LedgerError, Result, SplitterLog, Tx,
    columns::{address, bigint, bps, hash, hex, unsigned},
    mirror::log_ref,
    query::{execute, fetch_all},
};
use crate::{
    splitter::{SplitTerms, SplitterEvent},
    x402::MicroUsdc,
};
use alloy::primitives::{Address, B256, U256};

#[derive(sqlx::FromRow)]
struct LogRow {
    tx_hash: String,
    log_index: i64,
    block_number: i64,
    block_hash: String,
    block_timestamp: i64,
    event_name: String,
    splitter_capability_id: Option<String>,
    account: Option<String>,
    eip3009_nonce: Option<String>,
    amount: Option<i64>,
    provider_amount: Option<i64>,
    hub_amount: Option<i64>,
    reserve_amount: Option<i64>,
    provider_bps: Option<i64>,
    hub_bps: Option<i64>,
    reserve_bps: Option<i64>,
}

/// Columns of an event that depend on what it says.
#[derive(Default)]
struct EventColumns {
    capability: Option<B256>,
    account: Address,
    amount: Option<U256>,
    shares: [Option<U256>; 3],
    bps: [Option<u16>; 3],
}

impl From<SplitterEvent> for EventColumns {
    fn from(event: SplitterEvent) -> Self {
        match event {
            SplitterEvent::CapabilityRegistered { capability_id, terms } => Self {
                capability: Some(capability_id),
                account: terms.provider,
                bps: terms.bps.map(Some),
                ..Self::default()
            },
            SplitterEvent::CapabilityDeactivated { capability_id, provider } => {
                Self { capability: Some(capability_id), account: provider, ..Self::default() }
            }
            SplitterEvent::SettlementRecorded { capability_id, amount, payer } => Self {
                capability: Some(capability_id),
                account: payer,
                amount: Some(amount),
                ..Self::default()
            },
            SplitterEvent::PaymentSplit {
                capability_id,
                payer,
                amount,
                provider_amount,
                hub_amount,
                reserve_amount,
            } => Self {
                capability: Some(capability_id),
                account: payer,
                amount: Some(amount),
                shares: [provider_amount, hub_amount, reserve_amount].map(Some),
                ..Self::default()
            },
            SplitterEvent::ProviderEscrowed { provider, amount }
            | SplitterEvent::ProviderWithdrew { provider, amount } => {
                Self { account: provider, amount: Some(amount), ..Self::default() }
            }
        }
    }
}

/// Logs of a Splitter ($1, $2), in chain order.
macro_rules! select_logs {
    ($and:literal) => {
        concat!(
            "SELECT tx_hash, log_index, block_number, block_hash, block_timestamp, event_name,
                splitter_capability_id, account, eip3009_nonce, amount, provider_amount,
                hub_amount, reserve_amount, provider_bps, hub_bps, reserve_bps
            FROM splitter_events WHERE chain_id = $1 AND splitter = $2 ",
            $and,
            " ORDER BY block_number, log_index"
        )
    };
}

/// Amounts of events are `uint256` on chain; what does not fit cannot be USDC.
fn amount(value: U256) -> Result<i64> {
    MicroUsdc::try_from(value)
        .map(MicroUsdc::column)
        .map_err(|_| LedgerError::OutOfRange { what: "event amount", value: value.to_string() })
}

impl Tx {
    pub(super) async fn insert_log(
        &mut self,
        chain: i64,
        splitter: &str,
        log: &SplitterLog,
    ) -> Result<()> {
        const INSERT: &str = "INSERT INTO splitter_events
            (chain_id, tx_hash, log_index, block_number, block_hash, block_timestamp, splitter,
             event_name, splitter_capability_id, account, eip3009_nonce, amount, provider_amount,
             hub_amount, reserve_amount, provider_bps, hub_bps, reserve_bps)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
             $18)";
        let columns = EventColumns::from(log.event);
        let [provider, hub, reserve] = columns.shares.map(|share| share.map(amount).transpose());
        let [provider_bps, hub_bps, reserve_bps] = columns.bps.map(|bps| bps.map(i64::from));
        execute!(
            self,
            INSERT,
            chain,
            hex(log.at.tx_hash),
            bigint("log index", log.at.log_index)?,
            bigint("block number", log.at.block_number)?,
            hex(log.at.block_hash),
            bigint("block timestamp", log.block_timestamp)?,
            splitter,
            log.event.name(),
            columns.capability.map(hex),
            hex(columns.account),
            log.nonce.map(hex),
            columns.amount.map(amount).transpose()?,
            provider?,
            hub?,
            reserve?,
            provider_bps,
            hub_bps,
            reserve_bps,
        )?;
        Ok(())
    }

    /// What a Splitter said, in a range of blocks, in chain order.
    pub async fn splitter_logs(
        &mut self,
        chain_id: u64,
        splitter: Address,
        from: u64,
        to: u64,
    ) -> Result<Vec<SplitterLog>> {
        const SELECT: &str = select_logs!("AND block_number BETWEEN $3 AND $4");
        let chain = bigint("chain id", chain_id)?;
        let (from, to) = (bigint("block number", from)?, bigint("block number", to)?);
        let rows = fetch_all!(self, LogRow, SELECT, chain, hex(splitter), from, to)?;
        rows.into_iter().map(SplitterLog::try_from).collect()
    }

    /// Every record whose identity is this payment; more than one is a contradiction.
    pub async fn records_of(
        &mut self,
        chain_id: u64,
        splitter: Address,
        payer: Address,
        nonce: B256,
    ) -> Result<Vec<SplitterLog>> {
        const SELECT: &str = select_logs!(
            "AND event_name = 'SettlementRecorded' AND account = $3 AND eip3009_nonce = $4"
        );
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, LogRow, SELECT, chain, hex(splitter), hex(payer), hex(nonce))?;
        rows.into_iter().map(SplitterLog::try_from).collect()
    }

    /// Every registration and deactivation of a capability, in chain order.
    pub async fn registrations_of(
        &mut self,
        chain_id: u64,
        splitter: Address,
        capability: B256,
    ) -> Result<Vec<SplitterLog>> {
        const SELECT: &str = select_logs!(
            "AND event_name IN ('CapabilityRegistered', 'CapabilityDeactivated')
             AND splitter_capability_id = $3"
        );
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, LogRow, SELECT, chain, hex(splitter), hex(capability))?;
        rows.into_iter().map(SplitterLog::try_from).collect()
    }

    /// The splits of a capability that none of our known transactions made, in chain order.
    pub async fn foreign_splits(
        &mut self,
        chain_id: u64,
        splitter: Address,
        capability: B256,
    ) -> Result<Vec<SplitterLog>> {
        const SELECT: &str = select_logs!(
            "AND event_name = 'PaymentSplit' AND splitter_capability_id = $3
             AND NOT EXISTS (SELECT 1 FROM transactions t
                 WHERE t.mined_hash = splitter_events.tx_hash)"
        );
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, LogRow, SELECT, chain, hex(splitter), hex(capability))?;
        rows.into_iter().map(SplitterLog::try_from).collect()
    }

    /// The splits of a capability from a block on, in chain order.
    pub async fn splits_of(
        &mut self,
        chain_id: u64,
        splitter: Address,
        capability: B256,
        from: u64,
    ) -> Result<Vec<SplitterLog>> {
        const SELECT: &str = select_logs!(
            "AND event_name = 'PaymentSplit' AND splitter_capability_id = $3
             AND block_number >= $4"
        );
        let chain = bigint("chain id", chain_id)?;
        let from = bigint("block number", from)?;
        let rows = fetch_all!(self, LogRow, SELECT, chain, hex(splitter), hex(capability), from)?;
        rows.into_iter().map(SplitterLog::try_from).collect()
    }
}

impl TryFrom<LogRow> for SplitterLog {
    type Error = LedgerError;

    fn try_from(row: LogRow) -> Result<Self> {
        let missing = |column| LedgerError::Corrupt {
            column,
            value: "NULL".to_owned(),
            expected: "value of this event",
        };
        let number = |column: &'static str, value: Option<i64>| {
            let value = value.ok_or_else(|| missing(column))?;
            Ok::<_, LedgerError>(U256::from(unsigned(column, value)?))
        };
        let capability = row.splitter_capability_id.as_deref();
        let capability_id = || {
            let column = "splitter_events.splitter_capability_id";
            hash(column, capability.ok_or_else(|| missing(column))?)
        };
        let account = row.account.as_deref().ok_or_else(|| missing("splitter_events.account"))?;
        let account = address("splitter_events.account", account)?;
        let amount = || number("splitter_events.amount", row.amount);
        let share = |column: &'static str, value: Option<i64>| {
            value.ok_or_else(|| missing(column)).and_then(bps)
        };
        let event = match row.event_name.as_str() {
            "CapabilityRegistered" => SplitterEvent::CapabilityRegistered {
                capability_id: capability_id()?,
                terms: SplitTerms {
                    provider: account,
                    bps: [
                        share("splitter_events.provider_bps", row.provider_bps)?,
                        share("splitter_events.hub_bps", row.hub_bps)?,
                        share("splitter_events.reserve_bps", row.reserve_bps)?,
                    ],
                },
            },
            "CapabilityDeactivated" => SplitterEvent::CapabilityDeactivated {
                capability_id: capability_id()?,
                provider: account,
            },
            "SettlementRecorded" => SplitterEvent::SettlementRecorded {
                capability_id: capability_id()?,
                amount: amount()?,
                payer: account,
            },
            "PaymentSplit" => SplitterEvent::PaymentSplit {
                capability_id: capability_id()?,
                payer: account,
                amount: amount()?,
                provider_amount: number("splitter_events.provider_amount", row.provider_amount)?,
                hub_amount: number("splitter_events.hub_amount", row.hub_amount)?,
                reserve_amount: number("splitter_events.reserve_amount", row.reserve_amount)?,
            },
            "ProviderEscrowed" => {
                SplitterEvent::ProviderEscrowed { provider: account, amount: amount()? }
            }
            "ProviderWithdrew" => {
                SplitterEvent::ProviderWithdrew { provider: account, amount: amount()? }
            }
            _ => {
                return Err(LedgerError::Corrupt {
                    column: "splitter_events.event_name",
                    value: row.event_name,
                    expected: "event of the Splitter",
                });
            }
        };
        Ok(Self {
            at: log_ref(&row.tx_hash, row.log_index, row.block_number, &row.block_hash)?,
            block_timestamp: unsigned("mirror.block_timestamp", row.block_timestamp)?,
            event,
            nonce: row
                .eip3009_nonce
                .as_deref()
                .map(|nonce| hash("splitter_events.eip3009_nonce", nonce))
                .transpose()?,
        })
    }
}
