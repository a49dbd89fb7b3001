//! What a Splitter's token was, each time it was another one than before.

use super::{
    Result, Tx,
    columns::{bigint, hash, hex, now},
    query::{execute, fetch_optional},
};
use alloy::primitives::{Address, B256};
use serde::Serialize;

/// What decides how a token behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TokenSighting {
    /// The proxy's word for its implementation; zero where it has none.
    pub implementation: B256,
    /// Hash of the code at the token's address.
    pub code_hash: B256,
}

#[derive(sqlx::FromRow)]
struct Row {
    implementation: String,
    code_hash: String,
}

impl Tx {
    /// What the token was when it was last another one than before.
    pub async fn token_sighting(
        &mut self,
        chain_id: u64,
        splitter: Address,
    ) -> Result<Option<TokenSighting>> {
        const SELECT: &str = "SELECT implementation, code_hash FROM token_sightings
            WHERE chain_id = $1 AND splitter = $2 ORDER BY id DESC LIMIT 1";
        let chain = bigint("chain id", chain_id)?;
        let Some(row) = fetch_optional!(self, Row, SELECT, chain, hex(splitter))? else {
            return Ok(None);
        };
        Ok(Some(TokenSighting {
            implementation: hash("token_sightings.implementation", &row.implementation)?,
            code_hash: hash("token_sightings.code_hash", &row.code_hash)?,
        }))
    }

    /// The token is this one from now on.
    pub async fn add_token_sighting(
        &mut self,
        chain_id: u64,
        splitter: Address,
        asset: Address,
        seen: &TokenSighting,
    ) -> Result<()> {
        const INSERT: &str = "INSERT INTO token_sightings
            (chain_id, splitter, asset, implementation, code_hash, seen_at)
            VALUES ($1, $2, $3, $4, $5, $6)";
        let chain = bigint("chain id", chain_id)?;
        let (implementation, code) = (hex(seen.implementation), hex(seen.code_hash));
        execute!(self, INSERT, chain, hex(splitter), hex(asset), implementation, code, now())?;
        Ok(())
    }
}
