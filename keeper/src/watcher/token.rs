//! What the token is and whom it bars, at one block.

use crate::{
    chain::{BlockTag, Chain, ChainError},
    eip3009::FiatToken,
    ledger::{SplitterRecord, TokenSighting},
};
use alloy::primitives::{Address, B256, b256, keccak256};

/// Where the proxies of Circle keep their implementation: keccak256 of
/// "org.zeppelinos.proxy.implementation".
const ZEPPELINOS_SLOT: B256 =
    b256!("0x7050c9e0f4ca769c69bd3a8ef740bc37934f8e2c036e5a723fd8ee048ed3f8c3");
/// Where ERC-1967 has it: keccak256 of "eip1967.proxy.implementation", less one.
const ERC1967_SLOT: B256 =
    b256!("0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc");

/// What the token is at a block.
pub(super) async fn sight(
    node: &Chain,
    asset: Address,
    at: BlockTag,
) -> Result<TokenSighting, ChainError> {
    let code = node.code_at(asset, at).await?;
    let mut implementation = node.storage(asset, ZEPPELINOS_SLOT, at).await?;
    if implementation.is_zero() {
        implementation = node.storage(asset, ERC1967_SLOT, at).await?;
    }
    Ok(TokenSighting { implementation, code_hash: keccak256(&code) })
}

/// Whether the token is paused at a block.
pub(super) async fn is_paused(
    node: &Chain,
    asset: Address,
    at: BlockTag,
) -> Result<bool, ChainError> {
    node.call(asset, &FiatToken::pausedCall {}, at).await
}

/// Who of those that every split needs is on the token's blacklist at a block.
pub(super) async fn barred(
    node: &Chain,
    splitter: &SplitterRecord,
    at: BlockTag,
) -> Result<Vec<&'static str>, ChainError> {
    let mut barred = Vec::new();
    for (who, account) in [
        ("the Splitter", splitter.address),
        ("the treasury", splitter.hub_treasury),
        ("the reserve", splitter.network_reserve),
    ] {
        let call = FiatToken::isBlacklistedCall { account };
        if node.call(splitter.asset, &call, at).await? {
            barred.push(who);
        }
    }
    Ok(barred)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::U256;

    #[test]
    fn slots_are_what_their_names_hash_to() {
        assert_eq!(keccak256("org.zeppelinos.proxy.implementation"), ZEPPELINOS_SLOT);
        let erc1967 = U256::from_be_bytes(keccak256("eip1967.proxy.implementation").0);
        assert_eq!(B256::from(erc1967 - U256::ONE), ERC1967_SLOT);
    }
}
