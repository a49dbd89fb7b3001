//! Sums over the ledger, to be held against the chain.

use super::{
    LedgerError, Result, Tx,
    columns::{address, bigint, hex, now},
    query::{execute, fetch_all, fetch_optional},
};
use crate::x402::MicroUsdc;
use alloy::primitives::Address;
use serde::Serialize;

/// A Splitter as the ledger knows it.
#[derive(Debug, Clone, Copy)]
pub struct SplitterRecord {
    /// Chain.
    pub chain_id: u64,
    /// The contract.
    pub address: Address,
    /// Its token.
    pub asset: Address,
    /// Receives the hub's share.
    pub hub_treasury: Address,
    /// Receives the reserve's share.
    pub network_reserve: Address,
    /// The only account that records.
    pub authorized_settler: Address,
    /// Largest record.
    pub per_tx_cap: MicroUsdc,
    /// First block that can hold anything of it.
    pub first_block: u64,
}

/// What the settlements of one Splitter sum up to, in micro-USDC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LedgerTotals {
    /// Settlements whose money is known to have come in.
    pub paid: u64,
    /// Of these, confirmed.
    pub confirmed: u64,
    /// Of these, recorded.
    pub recorded: u64,
    /// Of these, split.
    pub split: u64,
    /// Amount that came in.
    pub paid_micro: u64,
    /// Amount recorded.
    pub recorded_micro: u64,
    /// Amount split.
    pub split_micro: u64,
    /// Providers' shares.
    pub provider_micro: u64,
    /// Hub's shares.
    pub hub_micro: u64,
    /// Reserve's shares.
    pub reserve_micro: u64,
}

#[derive(sqlx::FromRow)]
struct Row {
    paid: i64,
    confirmed: i64,
    recorded: i64,
    split: i64,
    paid_micro: i64,
    recorded_micro: i64,
    split_micro: i64,
    provider_micro: i64,
    hub_micro: i64,
    reserve_micro: i64,
}

#[derive(sqlx::FromRow)]
struct SplitterRow {
    asset: String,
    hub_treasury: String,
    network_reserve: String,
    authorized_settler: String,
}

#[derive(sqlx::FromRow)]
struct PlaceRow {
    chain_id: i64,
    address: String,
}

#[derive(sqlx::FromRow)]
struct CapabilityRow {
    capability: String,
    micro: i64,
}

impl Tx {
    /// Enters a Splitter, or checks that it is the one entered before.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] when its immutables differ from what was entered: then this is the
    /// ledger of another deployment.
    pub async fn enter_splitter(&mut self, splitter: &SplitterRecord) -> Result<()> {
        const INSERT: &str = "INSERT INTO splitters
            (chain_id, address, version, asset, hub_treasury, network_reserve, authorized_settler,
             per_tx_cap_micro, first_block, created_at)
            VALUES ($1, $2, '1.1.1', $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";
        const SELECT: &str = "SELECT asset, hub_treasury, network_reserve, authorized_settler
            FROM splitters WHERE chain_id = $1 AND address = $2";
        let chain = bigint("chain id", splitter.chain_id)?;
        let at = hex(splitter.address);
        execute!(
            self,
            INSERT,
            chain,
            &at,
            hex(splitter.asset),
            hex(splitter.hub_treasury),
            hex(splitter.network_reserve),
            hex(splitter.authorized_settler),
            splitter.per_tx_cap.column(),
            bigint("block number", splitter.first_block)?,
            now(),
        )?;
        let row = fetch_optional!(self, SplitterRow, SELECT, chain, &at)?
            .ok_or_else(|| LedgerError::Conflict(format!("splitter {at}")))?;
        for (column, stored, actual) in [
            ("splitters.asset", &row.asset, splitter.asset),
            ("splitters.hub_treasury", &row.hub_treasury, splitter.hub_treasury),
            ("splitters.network_reserve", &row.network_reserve, splitter.network_reserve),
            ("splitters.authorized_settler", &row.authorized_settler, splitter.authorized_settler),
        ] {
            if address(column, stored)? != actual {
                return Err(LedgerError::Corrupt {
                    column,
                    value: stored.clone(),
                    expected: "value that the contract has",
                });
            }
        }
        Ok(())
    }

    /// Every Splitter of this ledger: chain and address.
    pub async fn splitters(&mut self) -> Result<Vec<(u64, Address)>> {
        const SELECT: &str = "SELECT chain_id, address FROM splitters ORDER BY chain_id, address";
        let rows = fetch_all!(self, PlaceRow, SELECT)?.into_iter();
        rows.map(|row| {
            Ok((
                super::columns::unsigned("splitters.chain_id", row.chain_id)?,
                address("splitters.address", &row.address)?,
            ))
        })
        .collect()
    }

    /// Sums over the settlements of a Splitter; what happened after block `up_to` does not count.
    pub async fn totals(
        &mut self,
        chain_id: u64,
        splitter: Address,
        up_to: u64,
    ) -> Result<LedgerTotals> {
        // The casts undo PostgreSQL's NUMERIC of a sum over BIGINT; an overflow is an error there.
        const SELECT: &str = "SELECT
                count(*) AS paid,
                count(*) FILTER (WHERE status = 'chain_confirmed') AS confirmed,
                count(*) FILTER (WHERE record_block_number <= $3) AS recorded,
                count(*) FILTER (WHERE is_split) AS split,
                CAST(coalesce(sum(amount_usdc_micro), 0) AS BIGINT) AS paid_micro,
                CAST(coalesce(sum(amount_usdc_micro) FILTER (WHERE record_block_number <= $3), 0)
                    AS BIGINT) AS recorded_micro,
                CAST(coalesce(sum(amount_usdc_micro) FILTER (WHERE is_split), 0)
                    AS BIGINT) AS split_micro,
                CAST(coalesce(sum(provider_share_micro) FILTER (WHERE is_split), 0)
                    AS BIGINT) AS provider_micro,
                CAST(coalesce(sum(hub_share_micro) FILTER (WHERE is_split), 0)
                    AS BIGINT) AS hub_micro,
                CAST(coalesce(sum(network_share_micro) FILTER (WHERE is_split), 0)
                    AS BIGINT) AS reserve_micro
            FROM (SELECT *, keeper_state = 'split' AND split_block_number <= $3 AS is_split
                FROM x402_settlements) s
            WHERE chain_id = $1 AND splitter = $2 AND block_number <= $3 AND kind = 'capability'
            AND status IN ('facilitator_attested', 'chain_confirmed')";
        let chain = bigint("chain id", chain_id)?;
        let up_to = bigint("block number", up_to)?;
        let Some(row) = fetch_optional!(self, Row, SELECT, chain, hex(splitter), up_to)? else {
            return Ok(LedgerTotals::default());
        };
        let number = |value| super::columns::unsigned("totals", value);
        Ok(LedgerTotals {
            paid: number(row.paid)?,
            confirmed: number(row.confirmed)?,
            recorded: number(row.recorded)?,
            split: number(row.split)?,
            paid_micro: number(row.paid_micro)?,
            recorded_micro: number(row.recorded_micro)?,
            split_micro: number(row.split_micro)?,
            provider_micro: number(row.provider_micro)?,
            hub_micro: number(row.hub_micro)?,
            reserve_micro: number(row.reserve_micro)?,
        })
    }

    /// Per capability, what the mirror says was recorded less what was split, up to a block.
    pub async fn recorded_less_split(
        &mut self,
        chain_id: u64,
        splitter: Address,
        block: u64,
    ) -> Result<Vec<(String, i128)>> {
        const SELECT: &str = "SELECT splitter_capability_id AS capability,
                CAST(sum(CASE WHEN event_name = 'SettlementRecorded' THEN amount ELSE -amount END)
                    AS BIGINT) AS micro
            FROM splitter_events WHERE chain_id = $1 AND splitter = $2 AND block_number <= $3
            AND event_name IN ('SettlementRecorded', 'PaymentSplit')
            GROUP BY splitter_capability_id ORDER BY splitter_capability_id";
        let chain = bigint("chain id", chain_id)?;
        let block = bigint("block number", block)?;
        let rows = fetch_all!(self, CapabilityRow, SELECT, chain, hex(splitter), block)?;
        Ok(rows.into_iter().map(|row| (row.capability, i128::from(row.micro))).collect())
    }
}
