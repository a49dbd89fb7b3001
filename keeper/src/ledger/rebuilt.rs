//! Settlements that are recreated from the chain alone.

use super::{
    LedgerError, LogRef, Result, Settlement, Tx,
    columns::{bigint, hex, now},
    query::{execute, fetch_optional},
};
use crate::{
    lifecycle::{Delivery, Failure, Status, TraceTerms},
    splitter::SplitTerms,
    x402::MicroUsdc,
};
use alloy::primitives::{Address, B256};
use chrono::DateTime;
use serde_json::json;
use uuid::Uuid;

/// A payment as the chain tells it.
#[derive(Debug, Clone)]
pub struct RebuiltSettlement {
    /// Chain.
    pub chain_id: u64,
    /// The Splitter that was paid.
    pub splitter: Address,
    /// The token.
    pub asset: Address,
    /// Payer.
    pub payer: Address,
    /// Authorization nonce.
    pub nonce: B256,
    /// What came in.
    pub amount: MicroUsdc,
    /// Valid after and before these seconds, as far as the pull's calldata says so.
    pub window: (u64, u64),
    /// Whether our own puller sent it.
    pub is_own_pull: bool,
    /// "namespace/action", or the hex of the id where nobody knows the name.
    pub capability_id: String,
    /// Id at the Splitter.
    pub splitter_capability_id: B256,
    /// On which terms it was registered when it was paid.
    pub terms: Option<SplitTerms>,
    /// The pull.
    pub pull: LogRef,
    /// Time of its block, seconds.
    pub time: u64,
    /// The last block that is confirmed.
    pub confirmed_up_to: u64,
}

impl Tx {
    /// Whether nothing was ever entered.
    pub async fn is_empty(&mut self) -> Result<bool> {
        #[derive(sqlx::FromRow)]
        struct Number {
            number: i64,
        }
        const SELECT: &str = "SELECT (SELECT count(*) FROM splitters)
            + (SELECT count(*) FROM x402_settlements) + (SELECT count(*) FROM leases)
            + (SELECT count(*) FROM signers) + (SELECT count(*) FROM journals) AS number";
        Ok(fetch_optional!(self, Number, SELECT)?.is_none_or(|row| row.number == 0))
    }

    /// Enters a payment whose pull the mirror has, and attributes the pull to it.
    ///
    /// Whether it was served is not on the chain: its delivery is unknown, and no refund is due
    /// until somebody says so.
    pub async fn insert_rebuilt(&mut self, new: &RebuiltSettlement) -> Result<Settlement> {
        const INSERT: &str = "INSERT INTO x402_settlements
            (id, trace_id, chain_id, splitter, asset, payer, eip3009_nonce, pay_to,
             amount_usdc_micro, valid_after, valid_before, kind, mode, capability_id,
             splitter_capability_id, provider, provider_bps, hub_bps, reserve_bps, status,
             keeper_state, tx_hash, log_index, block_number, block_hash, reserved_at, settled_at,
             chain_confirmed_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $4, $8, $9, $10, 'capability', $11, $12, $13, $14,
             $15, $16, $17, $18, 'none', $19, $20, $21, $22, $23, $23, $24)";
        const ATTRIBUTE: &str = "UPDATE x402_pull_events SET settlement_id = $1
            WHERE chain_id = $2 AND tx_hash = $3 AND log_index = $4";
        let id = Uuid::new_v4();
        let trace_id = TraceTerms {
            chain_id: new.chain_id,
            asset: new.asset,
            payer: new.payer,
            pay_to: new.splitter,
            amount: new.amount,
            nonce: new.nonce,
        }
        .id()?;
        let is_confirmed = new.pull.block_number <= new.confirmed_up_to;
        let status =
            if is_confirmed { Status::ChainConfirmed } else { Status::FacilitatorAttested };
        let seconds = bigint("block time", new.time)?;
        let time = DateTime::from_timestamp(seconds, 0).ok_or_else(|| LedgerError::OutOfRange {
            what: "block time",
            value: new.time.to_string(),
        })?;
        let bps = new.terms.map(|terms| terms.bps.map(i64::from));
        let chain = bigint("chain id", new.chain_id)?;
        let log_index = bigint("log index", new.pull.log_index)?;
        execute!(
            self,
            INSERT,
            id.to_string(),
            hex(trace_id),
            chain,
            hex(new.splitter),
            hex(new.asset),
            hex(new.payer),
            hex(new.nonce),
            new.amount.column(),
            bigint("validAfter", new.window.0)?,
            bigint("validBefore", new.window.1)?,
            if new.is_own_pull { "self" } else { "external" },
            &new.capability_id,
            hex(new.splitter_capability_id),
            new.terms.map(|terms| hex(terms.provider)),
            bps.map(|[provider, _, _]| provider),
            bps.map(|[_, hub, _]| hub),
            bps.map(|[_, _, reserve]| reserve),
            status.as_str(),
            hex(new.pull.tx_hash),
            log_index,
            bigint("block number", new.pull.block_number)?,
            hex(new.pull.block_hash),
            time,
            is_confirmed.then(now),
        )?;
        execute!(self, ATTRIBUTE, id.to_string(), chain, hex(new.pull.tx_hash), log_index)?;
        let context = json!({
            "capability": new.capability_id,
            "own_pull": new.is_own_pull,
            "provider": new.terms.map(|terms| terms.provider),
            "split_bps": new.terms.map(|terms| terms.bps),
            "splitter_capability_id": new.splitter_capability_id,
        });
        let pending = Status::SettlePending.as_str();
        self.append_event(id, trace_id, "rebuilt", pending, &context).await?;
        let attested = Status::FacilitatorAttested.as_str();
        self.append_event(id, trace_id, "status.pull_seen", attested, &new.pull).await?;
        if is_confirmed {
            let body = json!({"at": new.pull, "confirmations_from": new.confirmed_up_to});
            self.append_event(id, trace_id, "status.confirm", status.as_str(), &body).await?;
        }
        self.deliver_unknown(id, trace_id).await?;
        self.settlement(id).await?.ok_or_else(|| LedgerError::Conflict(format!("payment {id}")))
    }

    async fn deliver_unknown(&mut self, id: Uuid, trace_id: B256) -> Result<()> {
        const INSERT: &str = "INSERT INTO deliveries
            (settlement_id, state, attempts, refund_due, failure, failure_text, started_at,
             finished_at)
            VALUES ($1, $2, 0, $3, $4, $5, $6, $6)";
        let state = Delivery::Unknown.as_str();
        let failure = Failure::Lost.as_str();
        let text = "the ledger was rebuilt from the chain, which does not tell";
        execute!(self, INSERT, id.to_string(), state, false, failure, text, now())?;
        let body = json!({"failure": failure, "refund_due": false, "text": text});
        self.append_event(id, trace_id, "delivery.rebuilt", state, &body).await
    }
}
