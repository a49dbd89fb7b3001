//! Sums over the mirror, over capabilities and over accounts, up to a block.

use super::{
    Result, Scope, Tx,
    columns::{hash, unsigned},
    query::{fetch_all, fetch_optional},
};
use alloy::primitives::B256;
use serde::Serialize;
use std::collections::BTreeMap;

/// What the mirror's logs sum up to, micro-USDC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MirrorSums {
    /// Came in.
    pub inflow: u64,
    /// Went out.
    pub outflow: u64,
    /// Providers' shares of splits.
    pub provider: u64,
    /// Hub's shares.
    pub hub: u64,
    /// Reserve's shares.
    pub reserve: u64,
}

/// One capability, as ledger and mirror have it, micro-USDC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CapabilitySums {
    /// Id at the Splitter.
    pub capability: B256,
    /// Paid, by the settlements.
    pub paid_micro: u64,
    /// What the pulls of those settlements brought.
    pub inflow_micro: u64,
    /// Recorded, by the settlements.
    pub recorded_micro: u64,
    /// Recorded, by the contract's logs.
    pub recorded_logs_micro: u64,
    /// Split, by the settlements.
    pub split_micro: u64,
    /// Split, by the contract's logs.
    pub split_logs_micro: u64,
}

#[derive(sqlx::FromRow)]
struct SumsRow {
    inflow: i64,
    outflow: i64,
    provider: i64,
    hub: i64,
    reserve: i64,
}

#[derive(sqlx::FromRow)]
struct CapabilityRow {
    capability: String,
    paid: i64,
    inflow: i64,
    recorded: i64,
    recorded_logs: i64,
    split: i64,
    split_logs: i64,
}

#[derive(sqlx::FromRow)]
struct AccountRow {
    code: String,
    debits: i64,
    credits: i64,
    balance: i64,
}

impl Tx {
    /// Sums over the mirror.
    pub async fn mirror_sums(&mut self, scope: &Scope) -> Result<MirrorSums> {
        const SELECT: &str = "SELECT
            CAST(coalesce((SELECT sum(amount_micro) FROM x402_pull_events
                WHERE chain_id = $1 AND splitter = $2 AND block_number <= $3), 0) AS BIGINT)
                AS inflow,
            CAST(coalesce((SELECT sum(amount_micro) FROM payout_events
                WHERE chain_id = $1 AND splitter = $2 AND block_number <= $3), 0) AS BIGINT)
                AS outflow,
            CAST(coalesce(sum(provider_amount), 0) AS BIGINT) AS provider,
            CAST(coalesce(sum(hub_amount), 0) AS BIGINT) AS hub,
            CAST(coalesce(sum(reserve_amount), 0) AS BIGINT) AS reserve
            FROM splitter_events WHERE chain_id = $1 AND splitter = $2 AND block_number <= $3
            AND event_name = 'PaymentSplit'";
        let (chain, splitter, up_to, _) = scope.binds()?;
        let Some(row) = fetch_optional!(self, SumsRow, SELECT, chain, splitter, up_to)? else {
            return Ok(MirrorSums::default());
        };
        let sum = |value| unsigned("mirror", value);
        Ok(MirrorSums {
            inflow: sum(row.inflow)?,
            outflow: sum(row.outflow)?,
            provider: sum(row.provider)?,
            hub: sum(row.hub)?,
            reserve: sum(row.reserve)?,
        })
    }

    /// Sums per capability.
    pub async fn capability_sums(&mut self, scope: &Scope) -> Result<Vec<CapabilitySums>> {
        const SELECT: &str = "SELECT capability,
                CAST(sum(paid) AS BIGINT) AS paid, CAST(sum(inflow) AS BIGINT) AS inflow,
                CAST(sum(recorded) AS BIGINT) AS recorded,
                CAST(sum(recorded_logs) AS BIGINT) AS recorded_logs,
                CAST(sum(split) AS BIGINT) AS split, CAST(sum(split_logs) AS BIGINT) AS split_logs
            FROM (
                SELECT splitter_capability_id AS capability,
                    sum(CASE WHEN block_number <= $3 THEN amount_usdc_micro ELSE 0 END) AS paid,
                    0 AS inflow,
                    sum(CASE WHEN record_block_number <= $3 THEN amount_usdc_micro ELSE 0 END)
                        AS recorded,
                    0 AS recorded_logs,
                    sum(CASE WHEN split_block_number <= $3 AND keeper_state = 'split'
                        THEN amount_usdc_micro ELSE 0 END) AS split,
                    0 AS split_logs
                FROM x402_settlements
                WHERE chain_id = $1 AND splitter = $2
                AND status IN ('facilitator_attested', 'chain_confirmed')
                AND splitter_capability_id IS NOT NULL
                GROUP BY splitter_capability_id
                UNION ALL
                SELECT s.splitter_capability_id, 0, sum(p.amount_micro), 0, 0, 0, 0
                FROM x402_pull_events p JOIN x402_settlements s ON s.id = p.settlement_id
                WHERE p.chain_id = $1 AND p.splitter = $2 AND p.block_number <= $3
                AND s.status IN ('facilitator_attested', 'chain_confirmed')
                AND s.splitter_capability_id IS NOT NULL
                GROUP BY s.splitter_capability_id
                UNION ALL
                SELECT splitter_capability_id, 0, 0, 0,
                    sum(CASE WHEN event_name = 'SettlementRecorded' THEN amount ELSE 0 END), 0,
                    sum(CASE WHEN event_name = 'PaymentSplit' THEN amount ELSE 0 END)
                FROM splitter_events
                WHERE chain_id = $1 AND splitter = $2 AND block_number <= $3
                AND splitter_capability_id IS NOT NULL
                GROUP BY splitter_capability_id) parts
            GROUP BY capability ORDER BY capability";
        let (chain, splitter, up_to, _) = scope.binds()?;
        let rows = fetch_all!(self, CapabilityRow, SELECT, chain, splitter, up_to)?;
        let sum = |value| unsigned("capability", value);
        rows.into_iter()
            .map(|row| {
                Ok(CapabilitySums {
                    capability: hash("splitter_capability_id", &row.capability)?,
                    paid_micro: sum(row.paid)?,
                    inflow_micro: sum(row.inflow)?,
                    recorded_micro: sum(row.recorded)?,
                    recorded_logs_micro: sum(row.recorded_logs)?,
                    split_micro: sum(row.split)?,
                    split_logs_micro: sum(row.split_logs)?,
                })
            })
            .collect()
    }

    /// Debits, credits and balance of each account when everything up to a block was booked: those of
    /// [`Tx::accounts`] without the journals of later blocks.
    pub async fn accounts_up_to(&mut self, scope: &Scope) -> Result<BTreeMap<String, [i128; 3]>> {
        const LATER: &str = "SELECT a.code,
                CAST(coalesce(sum(CASE WHEN p.side = 'debit' THEN p.amount_micro END), 0)
                    AS BIGINT) AS debits,
                CAST(coalesce(sum(CASE WHEN p.side = 'credit' THEN p.amount_micro END), 0)
                    AS BIGINT) AS credits,
                CAST(sum(CASE WHEN p.side = a.side THEN p.amount_micro ELSE -p.amount_micro END)
                    AS BIGINT) AS balance
            FROM (
                SELECT id FROM journals j
                WHERE chain_id = $1 AND splitter = $2 AND block_number > $3
                AND NOT EXISTS (SELECT 1 FROM journals r WHERE r.reverses = j.id)) j
            JOIN postings p ON p.journal_id = j.id JOIN accounts a ON a.id = p.account_id
            GROUP BY a.code";
        let mut accounts = BTreeMap::new();
        for account in self.accounts(scope.chain_id, scope.splitter).await? {
            let sums = [account.debits.into(), account.credits.into(), account.balance.into()];
            accounts.insert(account.code, sums);
        }
        let (chain, splitter, up_to, _) = scope.binds()?;
        for later in fetch_all!(self, AccountRow, LATER, chain, splitter, up_to)? {
            let sums: &mut [i128; 3] = accounts.entry(later.code).or_default();
            let less = [later.debits, later.credits, later.balance];
            for (sum, less) in sums.iter_mut().zip(less) {
                *sum = sum.saturating_sub(less.into());
            }
        }
        Ok(accounts)
    }
}
