//! The mirror of the chain's logs. Near the head a window of it is replaced as a whole, in one SQL
//! transaction, so that it always shows one chain.

use super::{
    LedgerError, Result, Tx,
    columns::{address, bigint, hash, hex, money, now, unsigned, uuid},
    query::{execute, fetch_all, fetch_optional},
};
use crate::{splitter::SplitterEvent, x402::MicroUsdc};
use alloy::primitives::{Address, B256};
use serde::Serialize;
use uuid::Uuid;

/// Beyond every block: after a reorg to a shorter chain the mirror holds some above its head.
pub const END: u64 = u64::MAX >> 1;

/// Where a log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct LogRef {
    /// Transaction.
    pub tx_hash: B256,
    /// Position in the block.
    pub log_index: u64,
    /// Block.
    pub block_number: u64,
    /// Its hash.
    pub block_hash: B256,
}

impl LogRef {
    /// Order on the chain.
    pub const fn position(&self) -> (u64, u64) {
        (self.block_number, self.log_index)
    }
}

/// USDC that came into a Splitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// Its Transfer.
    pub at: LogRef,
    /// Time of the block, seconds.
    pub block_timestamp: u64,
    /// Sender.
    pub payer: Address,
    /// The authorization that moved it, if one did.
    pub nonce: Option<B256>,
    /// How much.
    pub amount: MicroUsdc,
    /// The settlement that it pays, if any.
    pub settlement: Option<Uuid>,
}

/// USDC that went out of a Splitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payout {
    /// Its Transfer.
    pub at: LogRef,
    /// Time of the block, seconds.
    pub block_timestamp: u64,
    /// Receiver.
    pub recipient: Address,
    /// How much.
    pub amount: MicroUsdc,
}

/// An event of a Splitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitterLog {
    /// Where.
    pub at: LogRef,
    /// Time of the block, seconds.
    pub block_timestamp: u64,
    /// What.
    pub event: SplitterEvent,
    /// Authorization nonce of the identity that our settler appended to a record.
    pub nonce: Option<B256>,
}

/// Everything that a range of blocks holds of one Splitter.
#[derive(Debug, Clone, Default)]
pub struct MirrorWindow {
    /// First block.
    pub from: u64,
    /// Last block.
    pub to: u64,
    /// Hash of the last block.
    pub head_hash: B256,
    /// What came in.
    pub pulls: Vec<Pull>,
    /// Pulls of payments that pass through to another payee.
    pub passed: Vec<Pull>,
    /// What went out.
    pub payouts: Vec<Payout>,
    /// What the Splitter said.
    pub logs: Vec<SplitterLog>,
}

impl MirrorWindow {
    /// The same without what only the ledger knows: whose payment an inflow is.
    pub fn unattributed(mut self) -> Self {
        for pull in self.pulls.iter_mut().chain(&mut self.passed) {
            pull.settlement = None;
        }
        self
    }
}

/// Enters a pull into one of the two tables that hold some.
macro_rules! insert_into {
    ($table:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (chain_id, tx_hash, log_index, block_number, block_hash, block_timestamp, splitter,
             asset, payer, eip3009_nonce, amount_micro, settlement_id)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
        )
    };
}

#[derive(sqlx::FromRow)]
struct PullRow {
    tx_hash: String,
    log_index: i64,
    block_number: i64,
    block_hash: String,
    block_timestamp: i64,
    payer: String,
    eip3009_nonce: Option<String>,
    amount_micro: i64,
    settlement_id: Option<String>,
}

#[derive(sqlx::FromRow)]
struct PayoutRow {
    tx_hash: String,
    log_index: i64,
    block_number: i64,
    block_hash: String,
    block_timestamp: i64,
    recipient: String,
    amount_micro: i64,
}

#[derive(sqlx::FromRow)]
struct Cursor {
    next_block: i64,
}

#[derive(sqlx::FromRow)]
struct End {
    last_block: i64,
    head_hash: String,
}

/// How far something is with the blocks of a Splitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The mirror of the chain's logs.
    Mirror,
    /// The journal over the mirror.
    Journal,
    /// Where evidence must be looked at again after a deep reorg, from this block on.
    Evidence,
    /// Finalized blocks that a second endpoint has confirmed.
    Verified,
    /// Transfers that pay refunds.
    Refunds,
}

impl Stream {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Journal => "journal",
            Self::Evidence => "evidence",
            Self::Verified => "verified",
            Self::Refunds => "refunds",
        }
    }
}

pub(super) fn log_ref(
    tx_hash: &str,
    log_index: i64,
    number: i64,
    block_hash: &str,
) -> Result<LogRef> {
    Ok(LogRef {
        tx_hash: hash("mirror.tx_hash", tx_hash)?,
        log_index: unsigned("mirror.log_index", log_index)?,
        block_number: unsigned("mirror.block_number", number)?,
        block_hash: hash("mirror.block_hash", block_hash)?,
    })
}

impl Tx {
    /// The first block that the mirror, or the journal, of a Splitter does not hold yet.
    pub async fn cursor(
        &mut self,
        chain_id: u64,
        splitter: Address,
        stream: Stream,
    ) -> Result<Option<u64>> {
        const SELECT: &str = "SELECT next_block FROM cursors
            WHERE chain_id = $1 AND splitter = $2 AND stream = $3";
        let chain = bigint("chain id", chain_id)?;
        fetch_optional!(self, Cursor, SELECT, chain, hex(splitter), stream.as_str())?
            .map(|row| unsigned("cursors.next_block", row.next_block))
            .transpose()
    }

    /// The last block that the mirror of a Splitter holds: number and hash.
    pub async fn mirror_end(
        &mut self,
        chain_id: u64,
        splitter: Address,
    ) -> Result<Option<(u64, B256)>> {
        const SELECT: &str = "SELECT next_block - 1 AS last_block, head_hash FROM cursors
            WHERE chain_id = $1 AND splitter = $2 AND stream = 'mirror' AND head_hash IS NOT NULL";
        let chain = bigint("chain id", chain_id)?;
        let Some(row) = fetch_optional!(self, End, SELECT, chain, hex(splitter))? else {
            return Ok(None);
        };
        let number = unsigned("cursors.next_block", row.last_block)?;
        Ok(Some((number, hash("cursors.head_hash", &row.head_hash)?)))
    }

    /// Moves a cursor.
    pub async fn set_cursor(
        &mut self,
        chain_id: u64,
        splitter: Address,
        stream: Stream,
        next_block: u64,
        head_hash: Option<B256>,
    ) -> Result<()> {
        const CURSOR: &str = "INSERT INTO cursors
            (chain_id, splitter, stream, next_block, head_hash, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (chain_id, splitter, stream)
            DO UPDATE SET next_block = excluded.next_block, head_hash = excluded.head_hash,
            updated_at = excluded.updated_at";
        let chain = bigint("chain id", chain_id)?;
        let next = bigint("block number", next_block)?;
        let at = hex(splitter);
        execute!(self, CURSOR, chain, at, stream.as_str(), next, head_hash.map(hex), now())?;
        Ok(())
    }

    /// Replaces what the mirror holds from a range's first block on, and moves the cursor behind its
    /// last.
    pub async fn replace_window(
        &mut self,
        chain_id: u64,
        splitter: Address,
        asset: Address,
        window: &MirrorWindow,
    ) -> Result<()> {
        self.replace_logs(chain_id, splitter, asset, window, END).await?;
        let next = window.to.saturating_add(1);
        self.set_cursor(chain_id, splitter, Stream::Mirror, next, Some(window.head_hash)).await
    }

    /// Replaces what the mirror holds from a range's first block up to block `end`. The cursor stays:
    /// what is above is not touched.
    pub async fn replace_logs(
        &mut self,
        chain_id: u64,
        splitter: Address,
        asset: Address,
        window: &MirrorWindow,
        end: u64,
    ) -> Result<()> {
        const DELETES: [&str; 4] = [
            "DELETE FROM passed_events
                WHERE chain_id = $1 AND splitter = $2 AND block_number BETWEEN $3 AND $4",
            "DELETE FROM x402_pull_events
                WHERE chain_id = $1 AND splitter = $2 AND block_number BETWEEN $3 AND $4",
            "DELETE FROM payout_events
                WHERE chain_id = $1 AND splitter = $2 AND block_number BETWEEN $3 AND $4",
            "DELETE FROM splitter_events
                WHERE chain_id = $1 AND splitter = $2 AND block_number BETWEEN $3 AND $4",
        ];
        const FORGET: [&str; 4] = [
            "DELETE FROM x402_pull_events
                WHERE chain_id = $1 AND tx_hash = $2 AND log_index = $3",
            "DELETE FROM payout_events WHERE chain_id = $1 AND tx_hash = $2 AND log_index = $3",
            "DELETE FROM splitter_events WHERE chain_id = $1 AND tx_hash = $2 AND log_index = $3",
            "DELETE FROM passed_events WHERE chain_id = $1 AND tx_hash = $2 AND log_index = $3",
        ];
        const PULL: &str = insert_into!("x402_pull_events");
        const PASSED: &str = insert_into!("passed_events");
        let chain = bigint("chain id", chain_id)?;
        let at = hex(splitter);
        let (from, end) = (bigint("block number", window.from)?, bigint("block number", end)?);
        for delete in DELETES {
            execute!(self, delete, chain, &at, from, end)?;
        }
        // A reorg may have moved a log here from a block outside of the range.
        let moved = window.pulls.iter().map(|pull| (FORGET[0], pull.at));
        let moved = moved.chain(window.payouts.iter().map(|payout| (FORGET[1], payout.at)));
        let moved = moved.chain(window.logs.iter().map(|log| (FORGET[2], log.at)));
        let moved = moved.chain(window.passed.iter().map(|pull| (FORGET[3], pull.at)));
        for (forget, at) in moved {
            let index = bigint("log index", at.log_index)?;
            execute!(self, forget, chain, hex(at.tx_hash), index)?;
        }
        for pull in &window.pulls {
            self.insert_pull(PULL, chain, &at, &hex(asset), pull).await?;
        }
        for pull in &window.passed {
            self.insert_pull(PASSED, chain, &at, &hex(asset), pull).await?;
        }
        for payout in &window.payouts {
            self.insert_payout(chain, &at, &hex(asset), payout).await?;
        }
        for log in &window.logs {
            self.insert_log(chain, &at, log).await?;
        }
        Ok(())
    }

    async fn insert_pull(
        &mut self,
        insert: &'static str,
        chain: i64,
        splitter: &str,
        asset: &str,
        pull: &Pull,
    ) -> Result<()> {
        execute!(
            self,
            insert,
            chain,
            hex(pull.at.tx_hash),
            bigint("log index", pull.at.log_index)?,
            bigint("block number", pull.at.block_number)?,
            hex(pull.at.block_hash),
            bigint("block timestamp", pull.block_timestamp)?,
            splitter,
            asset,
            hex(pull.payer),
            pull.nonce.map(hex),
            pull.amount.column(),
            pull.settlement.map(|id| id.to_string()),
        )?;
        Ok(())
    }

    async fn insert_payout(
        &mut self,
        chain: i64,
        splitter: &str,
        asset: &str,
        payout: &Payout,
    ) -> Result<()> {
        const INSERT: &str = "INSERT INTO payout_events
            (chain_id, tx_hash, log_index, block_number, block_hash, block_timestamp, splitter,
             asset, recipient, amount_micro)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        execute!(
            self,
            INSERT,
            chain,
            hex(payout.at.tx_hash),
            bigint("log index", payout.at.log_index)?,
            bigint("block number", payout.at.block_number)?,
            hex(payout.at.block_hash),
            bigint("block timestamp", payout.block_timestamp)?,
            splitter,
            asset,
            hex(payout.recipient),
            payout.amount.column(),
        )?;
        Ok(())
    }

    /// What came in, in a range of blocks, in chain order.
    pub async fn pulls(
        &mut self,
        chain_id: u64,
        splitter: Address,
        from: u64,
        to: u64,
    ) -> Result<Vec<Pull>> {
        const SELECT: &str = "SELECT tx_hash, log_index, block_number, block_hash, block_timestamp,
            payer, eip3009_nonce, amount_micro, settlement_id FROM x402_pull_events
            WHERE chain_id = $1 AND splitter = $2 AND block_number BETWEEN $3 AND $4
            ORDER BY block_number, log_index";
        let chain = bigint("chain id", chain_id)?;
        let (from, to) = (bigint("block number", from)?, bigint("block number", to)?);
        let rows = fetch_all!(self, PullRow, SELECT, chain, hex(splitter), from, to)?;
        rows.into_iter().map(Pull::try_from).collect()
    }

    /// What passed through to other payees, in a range of blocks, in chain order.
    pub async fn passed(
        &mut self,
        chain_id: u64,
        splitter: Address,
        from: u64,
        to: u64,
    ) -> Result<Vec<Pull>> {
        const SELECT: &str = "SELECT tx_hash, log_index, block_number, block_hash, block_timestamp,
            payer, eip3009_nonce, amount_micro, settlement_id FROM passed_events
            WHERE chain_id = $1 AND splitter = $2 AND block_number BETWEEN $3 AND $4
            ORDER BY block_number, log_index";
        let chain = bigint("chain id", chain_id)?;
        let (from, to) = (bigint("block number", from)?, bigint("block number", to)?);
        let rows = fetch_all!(self, PullRow, SELECT, chain, hex(splitter), from, to)?;
        rows.into_iter().map(Pull::try_from).collect()
    }

    /// What the mirror holds of a range of blocks.
    pub async fn mirror_window(
        &mut self,
        chain_id: u64,
        splitter: Address,
        (from, to): (u64, u64),
    ) -> Result<MirrorWindow> {
        Ok(MirrorWindow {
            from,
            to,
            head_hash: B256::ZERO,
            pulls: self.pulls(chain_id, splitter, from, to).await?,
            passed: self.passed(chain_id, splitter, from, to).await?,
            payouts: self.payouts(chain_id, splitter, from, to).await?,
            logs: self.splitter_logs(chain_id, splitter, from, to).await?,
        })
    }

    /// What a payment's authorization moved, to the Splitter or past it, if the mirror holds it.
    pub async fn pull_of(
        &mut self,
        chain_id: u64,
        splitter: Address,
        payer: Address,
        nonce: B256,
    ) -> Result<Option<Pull>> {
        const SELECT: &str = "SELECT tx_hash, log_index, block_number, block_hash, block_timestamp,
            payer, eip3009_nonce, amount_micro, settlement_id FROM x402_pull_events
            WHERE chain_id = $1 AND splitter = $2 AND payer = $3 AND eip3009_nonce = $4
            UNION ALL
            SELECT tx_hash, log_index, block_number, block_hash, block_timestamp,
            payer, eip3009_nonce, amount_micro, settlement_id FROM passed_events
            WHERE chain_id = $1 AND splitter = $2 AND payer = $3 AND eip3009_nonce = $4";
        let chain = bigint("chain id", chain_id)?;
        fetch_optional!(self, PullRow, SELECT, chain, hex(splitter), hex(payer), hex(nonce))?
            .map(Pull::try_from)
            .transpose()
    }

    /// What went out, in a range of blocks, in chain order.
    pub async fn payouts(
        &mut self,
        chain_id: u64,
        splitter: Address,
        from: u64,
        to: u64,
    ) -> Result<Vec<Payout>> {
        const SELECT: &str = "SELECT tx_hash, log_index, block_number, block_hash, block_timestamp,
            recipient, amount_micro FROM payout_events
            WHERE chain_id = $1 AND splitter = $2 AND block_number BETWEEN $3 AND $4
            ORDER BY block_number, log_index";
        let chain = bigint("chain id", chain_id)?;
        let (from, to) = (bigint("block number", from)?, bigint("block number", to)?);
        let rows = fetch_all!(self, PayoutRow, SELECT, chain, hex(splitter), from, to)?;
        rows.into_iter()
            .map(|row| {
                Ok(Payout {
                    at: log_ref(&row.tx_hash, row.log_index, row.block_number, &row.block_hash)?,
                    block_timestamp: unsigned("mirror.block_timestamp", row.block_timestamp)?,
                    recipient: address("payout_events.recipient", &row.recipient)?,
                    amount: money("payout_events.amount_micro", row.amount_micro)?,
                })
            })
            .collect()
    }
}

impl TryFrom<PullRow> for Pull {
    type Error = LedgerError;

    fn try_from(row: PullRow) -> Result<Self> {
        let nonce = row.eip3009_nonce.as_deref();
        let settlement = row.settlement_id.as_deref();
        Ok(Self {
            at: log_ref(&row.tx_hash, row.log_index, row.block_number, &row.block_hash)?,
            block_timestamp: unsigned("mirror.block_timestamp", row.block_timestamp)?,
            payer: address("x402_pull_events.payer", &row.payer)?,
            nonce: nonce.map(|nonce| hash("x402_pull_events.eip3009_nonce", nonce)).transpose()?,
            amount: money("x402_pull_events.amount_micro", row.amount_micro)?,
            settlement: settlement
                .map(|id| uuid("x402_pull_events.settlement_id", id))
                .transpose()?,
        })
    }
}
