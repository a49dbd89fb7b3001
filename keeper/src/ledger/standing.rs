//! Sums as of the last booked block: what journal, settlements and mirror each say, to be held
//! against one another and against the contracts.

use super::{
    Account, Result, Stream, Tx,
    columns::{bigint, hash, hex, unsigned},
    query::{fetch_all, fetch_optional},
    reversals::booked,
};
use alloy::primitives::{Address, B256};
use std::collections::BTreeMap;

/// Blocks behind the journal's cursor that are looked at again, as far as the watcher reads behind
/// them: a node's logs may appear later than their blocks, and a reorg may take them.
pub const LOOK_BACK: u64 = 24;

/// What ledger and mirror say of one Splitter as of a block, in micro-USDC.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Up to which block everything is booked, and nothing of any after it.
    pub block: u64,
    /// The last block of the mirror.
    pub mirror_end: (u64, B256),
    /// Every account.
    pub accounts: Vec<Account>,
    /// Accounts below zero that may not be.
    pub overdrawn: u64,
    /// Journals that book a log and are not reversed.
    pub journals: u64,
    /// Logs in the mirror that move money.
    pub logs: u64,
    /// What pulls brought in, by the journal.
    pub pulled_by_journal: i64,
    /// What pulls brought in, by the settlements.
    pub pulled_by_settlements: i64,
    /// By capability.
    pub capabilities: BTreeMap<B256, Attribution>,
}

/// What was attributed to one capability, in micro-USDC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attribution {
    /// Recorded, by the settlements that are paid, or are being pulled again.
    pub settled: i64,
    /// Of paid settlements, not recorded.
    pub unrecorded: i64,
    /// Recorded, by the mirror.
    pub recorded: i64,
    /// Split, by the mirror.
    pub split: i64,
}

/// Settlements whose money came in for them. One that turned out to disagree with its receipt only
/// after its pull was booked still stands there.
macro_rules! paid {
    () => {
        "s.splitter_capability_id IS NOT NULL
        AND (s.status IN ('facilitator_attested', 'chain_confirmed')
            OR s.status = 'mismatched' AND EXISTS (SELECT 1 FROM journals j
                WHERE j.settlement_id = s.id AND j.kind = 'pull'
                AND NOT EXISTS (SELECT 1 FROM journals r WHERE r.reverses = j.id)))"
    };
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

#[derive(sqlx::FromRow)]
struct Pair {
    capability: String,
    first: i64,
    second: i64,
}

impl Tx {
    /// What is said of a Splitter as of the last booked block. `None` while the books are not whole:
    /// nothing is booked yet, a log waits, or a reorg is not followed to its end.
    pub async fn standing(
        &mut self,
        chain_id: u64,
        splitter: Address,
        first_block: u64,
    ) -> Result<Option<Standing>> {
        let Some(next) = self.cursor(chain_id, splitter, Stream::Journal).await? else {
            return Ok(None);
        };
        let Some(mirror_end) = self.mirror_end(chain_id, splitter).await? else { return Ok(None) };
        let Some(block) = next.checked_sub(1).filter(|block| *block <= mirror_end.0) else {
            return Ok(None);
        };
        let from = next.saturating_sub(LOOK_BACK).max(first_block);
        let lost = self.first_lost(chain_id, splitter, from, next).await?;
        if lost.is_some() || self.is_booked_from(chain_id, splitter, next).await? {
            return Ok(None);
        }
        Ok(Some(Standing {
            block,
            mirror_end,
            accounts: self.accounts(chain_id, splitter).await?,
            overdrawn: self.overdrawn(chain_id, splitter).await?,
            journals: self.journals(chain_id, splitter).await?,
            logs: self.money_logs(chain_id, splitter, block).await?,
            pulled_by_journal: self.pulled_by_journal(chain_id, splitter).await?,
            pulled_by_settlements: self.pulled_by_settlements(chain_id, splitter, block).await?,
            capabilities: self.attributions(chain_id, splitter, block).await?,
        }))
    }

    async fn overdrawn(&mut self, chain_id: u64, splitter: Address) -> Result<u64> {
        const SELECT: &str = "SELECT count(*) AS number FROM accounts
            WHERE chain_id = $1 AND splitter = $2 AND floor_zero
            AND (side = 'debit' AND debits_micro < credits_micro
                OR side = 'credit' AND credits_micro < debits_micro)";
        let chain = bigint("chain id", chain_id)?;
        let row = fetch_optional!(self, Number, SELECT, chain, hex(splitter))?;
        unsigned("count", row.map_or(0, |row| row.number))
    }

    async fn journals(&mut self, chain_id: u64, splitter: Address) -> Result<u64> {
        const SELECT: &str = booked!("count(*) AS number", "");
        let chain = bigint("chain id", chain_id)?;
        let row = fetch_optional!(self, Number, SELECT, chain, hex(splitter))?;
        unsigned("count", row.map_or(0, |row| row.number))
    }

    async fn money_logs(&mut self, chain_id: u64, splitter: Address, block: u64) -> Result<u64> {
        const SELECT: &str = "SELECT
            (SELECT count(*) FROM x402_pull_events WHERE chain_id = $1 AND splitter = $2
                AND block_number <= $3 AND amount_micro > 0)
            + (SELECT count(*) FROM passed_events WHERE chain_id = $1 AND splitter = $2
                AND block_number <= $3 AND amount_micro > 0)
            + (SELECT count(*) FROM payout_events WHERE chain_id = $1 AND splitter = $2
                AND block_number <= $3 AND amount_micro > 0)
            + (SELECT count(*) FROM splitter_events WHERE chain_id = $1 AND splitter = $2
                AND block_number <= $3
                AND event_name NOT IN ('CapabilityRegistered', 'CapabilityDeactivated'))
            AS number";
        let (chain, block) = (bigint("chain id", chain_id)?, bigint("block number", block)?);
        let row = fetch_optional!(self, Number, SELECT, chain, hex(splitter), block)?;
        unsigned("count", row.map_or(0, |row| row.number))
    }

    async fn pulled_by_journal(&mut self, chain_id: u64, splitter: Address) -> Result<i64> {
        const SELECT: &str = "SELECT CAST(coalesce(sum(p.amount_micro), 0) AS BIGINT) AS number
            FROM journals j JOIN postings p ON p.journal_id = j.id
            JOIN accounts a ON a.id = p.account_id
            WHERE j.chain_id = $1 AND j.splitter = $2 AND j.kind = 'pull'
            AND a.code = 'asset:splitter'
            AND NOT EXISTS (SELECT 1 FROM journals r WHERE r.reverses = j.id)";
        let chain = bigint("chain id", chain_id)?;
        let row = fetch_optional!(self, Number, SELECT, chain, hex(splitter))?;
        Ok(row.map_or(0, |row| row.number))
    }

    async fn pulled_by_settlements(
        &mut self,
        chain_id: u64,
        splitter: Address,
        block: u64,
    ) -> Result<i64> {
        const SELECT: &str = concat!(
            "SELECT CAST(coalesce(sum(s.amount_usdc_micro), 0) AS BIGINT) AS number
            FROM x402_settlements s WHERE s.chain_id = $1 AND s.splitter = $2
            AND s.block_number <= $3 AND ",
            paid!()
        );
        let (chain, block) = (bigint("chain id", chain_id)?, bigint("block number", block)?);
        let row = fetch_optional!(self, Number, SELECT, chain, hex(splitter), block)?;
        Ok(row.map_or(0, |row| row.number))
    }

    async fn attributions(
        &mut self,
        chain_id: u64,
        splitter: Address,
        block: u64,
    ) -> Result<BTreeMap<B256, Attribution>> {
        // A record whose pull a reorg took counts while the pull is on its way again.
        const SETTLEMENTS: &str = concat!(
            "SELECT s.splitter_capability_id AS capability,
            CAST(coalesce(sum(s.amount_usdc_micro)
                FILTER (WHERE s.record_block_number <= $3), 0) AS BIGINT) AS first,
            CAST(coalesce(sum(s.amount_usdc_micro) FILTER (WHERE s.block_number <= $3
                AND (s.record_block_number IS NULL OR s.record_block_number > $3)), 0)
                AS BIGINT) AS second
            FROM x402_settlements s WHERE s.chain_id = $1 AND s.splitter = $2 AND (",
            paid!(),
            " OR s.splitter_capability_id IS NOT NULL AND s.status IN ('settle_pending', 'orphaned'))
            GROUP BY s.splitter_capability_id"
        );
        const MIRROR: &str = "SELECT splitter_capability_id AS capability,
            CAST(coalesce(sum(amount)
                FILTER (WHERE event_name = 'SettlementRecorded'), 0) AS BIGINT) AS first,
            CAST(coalesce(sum(amount)
                FILTER (WHERE event_name = 'PaymentSplit'), 0) AS BIGINT) AS second
            FROM splitter_events WHERE chain_id = $1 AND splitter = $2 AND block_number <= $3
            AND event_name IN ('SettlementRecorded', 'PaymentSplit')
            GROUP BY splitter_capability_id";
        let (chain, at) = (bigint("chain id", chain_id)?, hex(splitter));
        let block = bigint("block number", block)?;
        let mut found = BTreeMap::<B256, Attribution>::new();
        for row in fetch_all!(self, Pair, SETTLEMENTS, chain, &at, block)? {
            let capability = hash("splitter_capability_id", &row.capability)?;
            let one = found.entry(capability).or_default();
            (one.settled, one.unrecorded) = (row.first, row.second);
        }
        for row in fetch_all!(self, Pair, MIRROR, chain, &at, block)? {
            let capability = hash("splitter_capability_id", &row.capability)?;
            let one = found.entry(capability).or_default();
            (one.recorded, one.split) = (row.first, row.second);
        }
        Ok(found)
    }
}
