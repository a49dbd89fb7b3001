//! The newest final block that was seen: what must never change again.

use super::{
    Lease, Result, Tx,
    columns::{bigint, hash, hex, now, unsigned},
    query::{execute, fetch_optional},
};
use alloy::primitives::B256;

#[derive(sqlx::FromRow)]
struct BlockRow {
    finalized_number: i64,
    finalized_hash: String,
}

impl Tx {
    /// Number and hash of the newest final block that was seen.
    pub async fn finalized(&mut self, chain_id: u64) -> Result<Option<(u64, B256)>> {
        const SELECT: &str =
            "SELECT finalized_number, finalized_hash FROM chains WHERE chain_id = $1";
        let chain = bigint("chain id", chain_id)?;
        let Some(row) = fetch_optional!(self, BlockRow, SELECT, chain)? else { return Ok(None) };
        let number = unsigned("chains.finalized_number", row.finalized_number)?;
        Ok(Some((number, hash("chains.finalized_hash", &row.finalized_hash)?)))
    }

    /// Remembers a newer final block.
    pub async fn set_finalized(
        &mut self,
        lease: &Lease,
        chain_id: u64,
        (number, block_hash): (u64, B256),
    ) -> Result<()> {
        const UPSERT: &str = "INSERT INTO chains
            (chain_id, finalized_number, finalized_hash, updated_at) VALUES ($1, $2, $3, $4)
            ON CONFLICT (chain_id) DO UPDATE SET finalized_number = excluded.finalized_number,
            finalized_hash = excluded.finalized_hash, updated_at = excluded.updated_at
            WHERE chains.finalized_number < excluded.finalized_number";
        self.hold_lease(lease).await?;
        let (chain, number) = (bigint("chain id", chain_id)?, bigint("block number", number)?);
        execute!(self, UPSERT, chain, number, hex(block_hash), now())?;
        Ok(())
    }

    /// Takes another block for final in the place of one that is gone: a human has decided.
    pub async fn replace_finalized(
        &mut self,
        lease: &Lease,
        chain_id: u64,
        (number, block_hash): (u64, B256),
    ) -> Result<()> {
        const UPDATE: &str = "UPDATE chains SET finalized_number = $1, finalized_hash = $2,
            updated_at = $3 WHERE chain_id = $4";
        self.hold_lease(lease).await?;
        let (chain, number) = (bigint("chain id", chain_id)?, bigint("block number", number)?);
        execute!(self, UPDATE, number, hex(block_hash), now(), chain)?;
        Ok(())
    }
}
