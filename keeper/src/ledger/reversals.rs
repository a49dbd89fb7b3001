//! What of the mirror is booked, and taking back what a reorg took: by new journals, never by
//! changing old ones.

use super::{
    LogRef, Result, Tx,
    columns::{bigint, hex, now, unsigned},
    mirror::log_ref,
    query::{execute, fetch_all, fetch_optional},
};
use alloy::primitives::{Address, B256};
use std::collections::HashSet;
use uuid::Uuid;

/// Journals that book a Splitter's log and are not reversed. Refunds cite other logs, or none.
macro_rules! booked {
    ($columns:literal, $condition:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM journals j WHERE j.chain_id = $1 AND j.splitter = $2
            AND j.kind IN ('pull', 'unattributed_inflow', 'record', 'unattributed_record', 'split',
                'escrow', 'withdrawal', 'payout', 'unexplained')
            AND NOT EXISTS (SELECT 1 FROM journals r WHERE r.reverses = j.id) ",
            $condition
        )
    };
}
pub(super) use booked;

/// The first block from $3 to $4 with a log of a mirror's table that no journal books.
macro_rules! unbooked {
    ($table:literal, $condition:literal) => {
        concat!(
            "SELECT e.block_number FROM ",
            $table,
            " e WHERE e.chain_id = $1 AND e.splitter = $2 AND e.block_number BETWEEN $3 AND $4
            AND ",
            $condition,
            " AND NOT EXISTS (SELECT 1 FROM journals j WHERE j.chain_id = e.chain_id
                AND j.splitter = e.splitter AND j.tx_hash = e.tx_hash AND j.log_index = e.log_index
                AND j.block_hash = e.block_hash
                AND NOT EXISTS (SELECT 1 FROM journals r WHERE r.reverses = j.id))
            ORDER BY e.block_number LIMIT 1"
        )
    };
}

#[derive(sqlx::FromRow)]
struct Place {
    tx_hash: String,
    log_index: i64,
    block_number: i64,
    block_hash: String,
}

#[derive(sqlx::FromRow)]
struct Id {
    id: String,
}

#[derive(sqlx::FromRow)]
struct Block {
    block_number: i64,
}

impl Place {
    fn log(&self) -> Result<LogRef> {
        log_ref(&self.tx_hash, self.log_index, self.block_number, &self.block_hash)
    }
}

impl Tx {
    /// Which logs of a range of blocks are booked: transaction, log index, block.
    pub async fn booked_in(
        &mut self,
        chain_id: u64,
        splitter: Address,
        (from, to): (u64, u64),
    ) -> Result<HashSet<(B256, u64, B256)>> {
        const SELECT: &str = booked!(
            "j.tx_hash, j.log_index, j.block_number, j.block_hash",
            "AND j.block_number BETWEEN $3 AND $4"
        );
        let chain = bigint("chain id", chain_id)?;
        let (from, to) = (bigint("block number", from)?, bigint("block number", to)?);
        let rows = fetch_all!(self, Place, SELECT, chain, hex(splitter), from, to)?;
        rows.iter()
            .map(|row| row.log().map(|at| (at.tx_hash, at.log_index, at.block_hash)))
            .collect()
    }

    /// The last log that is booked: block and log index.
    pub async fn last_booked(
        &mut self,
        chain_id: u64,
        splitter: Address,
    ) -> Result<Option<(u64, u64)>> {
        const SELECT: &str = booked!(
            "j.tx_hash, j.log_index, j.block_number, j.block_hash",
            "AND j.block_number >= 0 ORDER BY j.block_number DESC, j.log_index DESC LIMIT 1"
        );
        let chain = bigint("chain id", chain_id)?;
        fetch_optional!(self, Place, SELECT, chain, hex(splitter))?
            .map(|row| row.log().map(|at| at.position()))
            .transpose()
    }

    /// The first block of a range in which a log that moves money is not booked.
    pub async fn first_unbooked(
        &mut self,
        chain_id: u64,
        splitter: Address,
        (from, to): (u64, u64),
    ) -> Result<Option<u64>> {
        const SELECTS: [&str; 4] = [
            unbooked!("passed_events", "e.amount_micro > 0"),
            unbooked!("x402_pull_events", "e.amount_micro > 0"),
            unbooked!("payout_events", "e.amount_micro > 0"),
            unbooked!(
                "splitter_events",
                "e.event_name NOT IN ('CapabilityRegistered', 'CapabilityDeactivated')"
            ),
        ];
        let chain = bigint("chain id", chain_id)?;
        let at = hex(splitter);
        let (from, to) = (bigint("block number", from)?, bigint("block number", to)?);
        let mut first = None;
        for select in SELECTS {
            let row = fetch_optional!(self, Block, select, chain, &at, from, to)?;
            first = first.into_iter().chain(row.map(|row| row.block_number)).min();
        }
        first.map(|block| unsigned("mirror.block_number", block)).transpose()
    }

    /// Whether anything is booked of a block or of one after it.
    pub async fn is_booked_from(
        &mut self,
        chain_id: u64,
        splitter: Address,
        from: u64,
    ) -> Result<bool> {
        const SELECT: &str = booked!("j.id", "AND j.block_number >= $3 LIMIT 1");
        let chain = bigint("chain id", chain_id)?;
        let from = bigint("block number", from)?;
        Ok(fetch_optional!(self, Id, SELECT, chain, hex(splitter), from)?.is_some())
    }

    /// The first log that is booked, from one block on and before another, and that the mirror does
    /// not hold in exactly that place.
    pub async fn first_lost(
        &mut self,
        chain_id: u64,
        splitter: Address,
        from: u64,
        before: u64,
    ) -> Result<Option<LogRef>> {
        const SELECT: &str = booked!(
            "j.tx_hash, j.log_index, j.block_number, j.block_hash",
            "AND j.block_number >= $3 AND j.block_number < $4
            AND NOT EXISTS (SELECT 1 FROM x402_pull_events e WHERE e.chain_id = j.chain_id
                AND e.tx_hash = j.tx_hash AND e.log_index = j.log_index
                AND e.block_hash = j.block_hash AND e.splitter = j.splitter)
            AND NOT EXISTS (SELECT 1 FROM passed_events e WHERE e.chain_id = j.chain_id
                AND e.tx_hash = j.tx_hash AND e.log_index = j.log_index
                AND e.block_hash = j.block_hash AND e.splitter = j.splitter)
            AND NOT EXISTS (SELECT 1 FROM payout_events e WHERE e.chain_id = j.chain_id
                AND e.tx_hash = j.tx_hash AND e.log_index = j.log_index
                AND e.block_hash = j.block_hash AND e.splitter = j.splitter)
            AND NOT EXISTS (SELECT 1 FROM splitter_events e WHERE e.chain_id = j.chain_id
                AND e.tx_hash = j.tx_hash AND e.log_index = j.log_index
                AND e.block_hash = j.block_hash AND e.splitter = j.splitter)
            ORDER BY j.block_number, j.log_index LIMIT 1"
        );
        let chain = bigint("chain id", chain_id)?;
        let (from, before) = (bigint("block number", from)?, bigint("block number", before)?);
        fetch_optional!(self, Place, SELECT, chain, hex(splitter), from, before)?
            .map(|row| row.log())
            .transpose()
    }

    /// Reverses what is booked of a Splitter from a log on, newest first, at most so many journals.
    /// Says how many.
    ///
    /// Newest first, so that every account stands where it stood before, one log after the other.
    ///
    /// # Errors
    /// [`super::LedgerError::Database`] when an account would fall below zero.
    pub async fn reverse_from(
        &mut self,
        chain_id: u64,
        splitter: Address,
        first: &LogRef,
        most: usize,
    ) -> Result<usize> {
        const SELECT: &str = booked!(
            "j.id",
            "AND (j.block_number > $3 OR j.block_number = $3 AND j.log_index >= $4)
            ORDER BY j.block_number DESC, j.log_index DESC LIMIT $5"
        );
        let chain = bigint("chain id", chain_id)?;
        let block = bigint("block number", first.block_number)?;
        let index = bigint("log index", first.log_index)?;
        let most = bigint("number of journals", most)?;
        let found = fetch_all!(self, Id, SELECT, chain, hex(splitter), block, index, most)?;
        for journal in &found {
            self.reverse(&journal.id).await?;
        }
        Ok(found.len())
    }

    /// The same lines the other way round, last first.
    async fn reverse(&mut self, journal: &str) -> Result<()> {
        const POSTINGS: &str = "INSERT INTO postings
            (journal_id, line, account_id, side, amount_micro)
            SELECT $1, (SELECT max(line) FROM postings WHERE journal_id = $2) - line, account_id,
                CASE side WHEN 'debit' THEN 'credit' ELSE 'debit' END, amount_micro
            FROM postings WHERE journal_id = $2 ORDER BY line DESC";
        const JOURNAL: &str = "INSERT INTO journals
            (id, chain_id, splitter, kind, settlement_id, reverses, at)
            SELECT $1, chain_id, splitter, 'reversal', settlement_id, id, $3
            FROM journals WHERE id = $2";
        let id = Uuid::new_v4().to_string();
        execute!(self, POSTINGS, &id, journal)?;
        execute!(self, JOURNAL, &id, journal, now())?;
        Ok(())
    }
}
