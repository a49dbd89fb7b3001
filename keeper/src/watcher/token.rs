//! What the token is and whom it bars, at one block.

use crate::{
    chain::{BlockTag, Chain, ChainError},
    eip3009::FiatToken,
    ledger::{SplitterRecord, TokenSighting},
};
use alloy::primitives::{Address, B256, KECCAK256_EMPTY, b256, keccak256};

/// Where the proxies of Circle keep their implementation: keccak256 of
/// "org.zeppelinos.proxy.implementation".
const ZEPPELINOS_SLOT: B256 =
    b256!("0x7050c9e0f4ca769c69bd3a8ef740bc37934f8e2c036e5a723fd8ee048ed3f8c3");
/// Where ERC-1967 has it: keccak256 of "eip1967.proxy.implementation", less one.
const ERC1967_SLOT: B256 =
    b256!("0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc");

/// Heads in a row that must show the same other token before it is one: an endpoint may be wrong once.
const HEADS: u32 = 2;
/// The same where nothing is shown, no code or no implementation any more: rather the endpoint's state
/// is missing than the token.
const HEADS_OF_NOTHING: u32 = 5;

/// A token that is not the known one, as the last looks have shown it.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    last: Option<(B256, TokenSighting)>,
    heads: u32,
}

impl Doubt {
    /// What was seen at a head. True when it is sure that the token is that from now on.
    pub(super) fn judge(
        &mut self,
        head: B256,
        seen: TokenSighting,
        known: Option<TokenSighting>,
    ) -> bool {
        if known == Some(seen) {
            *self = Self::default();
            return false;
        }
        match self.last {
            Some((at, before)) if before == seen => {
                self.heads = self.heads.saturating_add(u32::from(at != head));
            }
            _ => self.heads = 1,
        }
        self.last = Some((head, seen));
        let has_code = seen.code_hash != KECCAK256_EMPTY;
        let lacks_implementation = seen.implementation.is_zero()
            && known.is_some_and(|known| !known.implementation.is_zero());
        match known {
            // Nothing is no token to begin with.
            None => has_code && self.heads >= HEADS,
            Some(_) if !has_code || lacks_implementation => self.heads >= HEADS_OF_NOTHING,
            Some(_) => self.heads >= HEADS,
        }
    }
}

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

    /// Known, other and missing tokens, looked at head after head.
    #[test]
    fn another_token_must_be_seen_at_two_heads_in_a_row_and_a_missing_one_at_five() {
        let token = |implementation, code: &[u8]| TokenSighting {
            implementation: B256::with_last_byte(implementation),
            code_hash: keccak256(code),
        };
        let (known, other, third) = (token(1, b"a"), token(2, b"a"), token(1, b"b"));
        let (no_code, no_slot) = (token(1, b""), token(0, b"a"));
        let at = |known, seen: &[(u8, TokenSighting)]| {
            let mut doubt = Doubt::default();
            seen.iter()
                .position(|(head, seen)| doubt.judge(B256::with_last_byte(*head), *seen, known))
        };
        let row = |seen| [(1, seen), (2, seen), (3, seen), (4, seen), (5, seen), (6, seen)];
        assert_eq!(at(Some(known), &row(known)), None);
        assert_eq!(at(Some(known), &row(other)), Some(1));
        assert_eq!(at(Some(known), &[(1, other), (1, other), (2, other)]), Some(2), "one head");
        assert_eq!(at(Some(known), &[(1, other), (2, known), (3, other)]), None, "once only");
        assert_eq!(at(Some(known), &[(1, other), (2, third), (3, third)]), Some(2));
        assert_eq!(at(Some(known), &row(no_code)), Some(4));
        assert_eq!(at(Some(known), &row(no_slot)), Some(4));
        assert_eq!(at(None, &row(known)), Some(1));
        assert_eq!(at(None, &row(no_slot)), Some(1), "a token without a proxy");
        assert_eq!(at(None, &row(no_code)), None);
    }

    #[test]
    fn slots_are_what_their_names_hash_to() {
        assert_eq!(keccak256("org.zeppelinos.proxy.implementation"), ZEPPELINOS_SLOT);
        let erc1967 = U256::from_be_bytes(keccak256("eip1967.proxy.implementation").0);
        assert_eq!(B256::from(erc1967 - U256::ONE), ERC1967_SLOT);
    }
}
