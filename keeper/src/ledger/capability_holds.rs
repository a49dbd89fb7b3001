//! Capabilities that are not sold for a while, because too many of their calls fail.

use super::{
    Result, Tx,
    audit_log::Action,
    columns::{bigint, hash, hex, now, unsigned},
    query::{execute, fetch_all, fetch_optional},
};
use crate::lifecycle::RefundPolicy;
use alloy::primitives::{Address, B256};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

/// Over which failures are counted.
const HOUR: TimeDelta = TimeDelta::hours(1);

/// A capability that is not sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityHold {
    /// Its id at the Splitter.
    pub capability: B256,
    /// Why, in words.
    pub detail: String,
    /// Since when.
    pub held_at: DateTime<Utc>,
}

/// Calls of a capability that ended within the last hour and say something of its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilityCalls {
    /// Its id at the Splitter.
    pub capability: B256,
    /// All of them.
    pub finished: u64,
    /// Those that the provider failed.
    pub failed: u64,
    /// By whom those were paid.
    pub failed_payers: u64,
}

#[derive(sqlx::FromRow)]
struct HoldRow {
    splitter_capability_id: String,
    detail: String,
    held_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct CallsRow {
    splitter_capability_id: String,
    finished: i64,
    failed: i64,
    failed_payers: i64,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

impl Tx {
    /// Capabilities of a Splitter that are sold although the policy says that too many of their calls
    /// fail. Calls before an operator resumed the sale do not count, nor those that an agent never
    /// came back for, nor those that the provider refused as wrong (4xx): their input is the agent's.
    /// 401, 408 and 429 say nothing of the input, and are the provider's failures.
    pub async fn failing_capabilities(
        &mut self,
        chain_id: u64,
        splitter: Address,
        policy: &RefundPolicy,
    ) -> Result<Vec<CapabilityCalls>> {
        const SELECT: &str = "SELECT s.splitter_capability_id, count(*) AS finished,
                count(*) FILTER (WHERE d.state <> 'delivered') AS failed,
                count(DISTINCT s.payer) FILTER (WHERE d.state <> 'delivered') AS failed_payers
            FROM deliveries d JOIN x402_settlements s ON s.id = d.settlement_id
            WHERE s.chain_id = $1 AND s.splitter = $2 AND d.finished_at > $3
            AND d.state IN ('delivered', 'failed', 'unknown')
            AND (d.failure IS NULL OR d.failure <> 'forgone')
            AND (d.http_status IS NULL OR d.http_status NOT BETWEEN 400 AND 499
                OR d.http_status IN (401, 408, 429))
            AND s.splitter_capability_id IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM capability_holds h
                WHERE h.chain_id = s.chain_id AND h.splitter = s.splitter
                AND h.splitter_capability_id = s.splitter_capability_id
                AND (h.lifted_at IS NULL OR h.lifted_at >= d.finished_at))
            GROUP BY s.splitter_capability_id";
        let chain = bigint("chain id", chain_id)?;
        let since = self.clock().await? - HOUR;
        let rows = fetch_all!(self, CallsRow, SELECT, chain, hex(splitter), since)?;
        let mut failing = Vec::new();
        for row in rows {
            let calls = CapabilityCalls {
                capability: hash(
                    "x402_settlements.splitter_capability_id",
                    &row.splitter_capability_id,
                )?,
                finished: unsigned("deliveries", row.finished)?,
                failed: unsigned("deliveries", row.failed)?,
                failed_payers: unsigned("deliveries", row.failed_payers)?,
            };
            if policy.is_failing(calls.finished, calls.failed, calls.failed_payers) {
                failing.push(calls);
            }
        }
        Ok(failing)
    }

    /// Capabilities of a Splitter that are held, oldest first.
    pub async fn capability_holds(
        &mut self,
        chain_id: u64,
        splitter: Address,
    ) -> Result<Vec<CapabilityHold>> {
        const SELECT: &str = "SELECT splitter_capability_id, detail, held_at FROM capability_holds
            WHERE chain_id = $1 AND splitter = $2 AND lifted_at IS NULL ORDER BY id";
        let chain = bigint("chain id", chain_id)?;
        let rows = fetch_all!(self, HoldRow, SELECT, chain, hex(splitter))?;
        rows.into_iter()
            .map(|row| {
                let column = "capability_holds.splitter_capability_id";
                Ok(CapabilityHold {
                    capability: hash(column, &row.splitter_capability_id)?,
                    detail: row.detail,
                    held_at: row.held_at,
                })
            })
            .collect()
    }

    /// Whether a capability is held.
    pub async fn capability_is_held(
        &mut self,
        chain_id: u64,
        splitter: Address,
        capability: B256,
    ) -> Result<bool> {
        const SELECT: &str = "SELECT count(*) AS number FROM capability_holds
            WHERE chain_id = $1 AND splitter = $2 AND splitter_capability_id = $3
            AND lifted_at IS NULL";
        let chain = bigint("chain id", chain_id)?;
        let row = fetch_optional!(self, Number, SELECT, chain, hex(splitter), hex(capability))?;
        Ok(row.is_some_and(|row| row.number > 0))
    }

    /// Holds a capability. False when it is held already.
    pub async fn hold_capability(
        &mut self,
        chain_id: u64,
        splitter: Address,
        capability: B256,
        detail: &str,
    ) -> Result<bool> {
        const INSERT: &str = "INSERT INTO capability_holds
            (chain_id, splitter, splitter_capability_id, detail, held_at)
            VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (chain_id, splitter, splitter_capability_id) WHERE lifted_at IS NULL
            DO NOTHING";
        let chain = bigint("chain id", chain_id)?;
        let (at, id) = (hex(splitter), hex(capability));
        if execute!(self, INSERT, chain, at, id, detail, now())? == 0 {
            return Ok(false);
        }
        let logged = json!({"capability": capability, "detail": detail});
        let place = Some((chain_id, splitter));
        self.log_action(Action::CapabilityHeld, place, None, &logged).await?;
        Ok(true)
    }

    /// Has a capability sold again. False when it was not held.
    pub async fn resume_capability(
        &mut self,
        chain_id: u64,
        splitter: Address,
        capability: B256,
        why: &str,
    ) -> Result<bool> {
        const UPDATE: &str = "UPDATE capability_holds SET lifted_at = $1, lifted_why = $2
            WHERE chain_id = $3 AND splitter = $4 AND splitter_capability_id = $5
            AND lifted_at IS NULL";
        let chain = bigint("chain id", chain_id)?;
        if execute!(self, UPDATE, now(), why, chain, hex(splitter), hex(capability))? == 0 {
            return Ok(false);
        }
        let logged = json!({"capability": capability, "why": why});
        let place = Some((chain_id, splitter));
        self.log_action(Action::CapabilityResumed, place, None, &logged).await?;
        Ok(true)
    }
}
