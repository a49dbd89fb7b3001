//! What only the chain knows of a payment.

use super::{
    Site,
    capability::{Capability, Registration},
    error::ApiError,
    payment::invalid,
};
use crate::{
    chain::{BlockTag, ChainError},
    eip3009::{Authorization, FiatToken, Verified},
    x402::{MicroUsdc, Subcause},
};
use alloy::primitives::{Address, B256, U256};

fn chain_down(error: &ChainError) -> ApiError {
    tracing::error!(%error, "edge: the chain failed");
    ApiError::Degraded("the chain does not answer; no money moved".to_owned())
}

/// What only the chain knows: would this pull go through, and may this capability be sold? Returns
/// the payer's balance.
pub(super) async fn check_chain(
    site: &Site,
    capability: &Capability,
    authorization: &Authorization<Verified>,
) -> Result<U256, ApiError> {
    let token = site.splitter.asset;
    let (payer, nonce) = (authorization.payer(), authorization.nonce());
    let latest = BlockTag::Latest;
    let balance = FiatToken::balanceOfCall { account: payer };
    let state = FiatToken::authorizationStateCall { authorizer: payer, nonce };
    let payer_barred = FiatToken::isBlacklistedCall { account: payer };
    let splitter_barred = FiatToken::isBlacklistedCall { account: site.splitter.address };
    let (balance, used, payer_barred, splitter_barred, paused, code, registration) =
        tokio::try_join!(
            site.chain.call(token, &balance, latest),
            site.chain.call(token, &state, latest),
            site.chain.call(token, &payer_barred, latest),
            site.chain.call(token, &splitter_barred, latest),
            site.chain.call(token, &FiatToken::pausedCall {}, latest),
            site.chain.code(payer),
            Registration::read(&site.chain, site.splitter.address, capability),
        )
        .map_err(|error| chain_down(&error))?;
    if paused || splitter_barred {
        return Err(ApiError::Degraded("the token does not move now; no money moved".to_owned()));
    }
    if registration != Registration::Active {
        return Err(ApiError::NotAccepted(Subcause::CapabilityWalletOnly));
    }
    // The token would ask the payer's code, and that may say anything (C-48).
    if !code.is_empty() {
        let why = "the payer is a contract, or delegates to one (EIP-7702): not served yet";
        return Err(invalid(Subcause::SignatureInvalid, why));
    }
    if used {
        return Err(ApiError::PaymentInvalid {
            subcause: Subcause::NonceReused,
            message: "the authorization is already used or cancelled".to_owned(),
            tx_hash: used_in(site, payer, nonce).await,
        });
    }
    if payer_barred {
        return Err(invalid(Subcause::InsufficientFunds, "the token has blacklisted the payer"));
    }
    if balance < U256::from(capability.price.micro()) {
        return Err(invalid(Subcause::InsufficientFunds, "the payer's balance is below the price"));
    }
    Ok(balance)
}

/// The same of a payment that passes the Splitter by: would this pull go through?
pub(super) async fn check_passing(
    site: &Site,
    authorization: &Authorization<Verified>,
    amount: MicroUsdc,
) -> Result<U256, ApiError> {
    let token = site.splitter.asset;
    let (payer, nonce) = (authorization.payer(), authorization.nonce());
    let latest = BlockTag::Latest;
    let balance = FiatToken::balanceOfCall { account: payer };
    let state = FiatToken::authorizationStateCall { authorizer: payer, nonce };
    let payer_barred = FiatToken::isBlacklistedCall { account: payer };
    let payee_barred = FiatToken::isBlacklistedCall { account: authorization.pay_to() };
    let (balance, used, payer_barred, payee_barred, paused, code) = tokio::try_join!(
        site.chain.call(token, &balance, latest),
        site.chain.call(token, &state, latest),
        site.chain.call(token, &payer_barred, latest),
        site.chain.call(token, &payee_barred, latest),
        site.chain.call(token, &FiatToken::pausedCall {}, latest),
        site.chain.code(payer),
    )
    .map_err(|error| chain_down(&error))?;
    if paused || payee_barred {
        let why = "the token does not move to this payee now; no money moved";
        return Err(ApiError::Degraded(why.to_owned()));
    }
    if !code.is_empty() {
        let why = "the payer is a contract, or delegates to one (EIP-7702): not served yet";
        return Err(invalid(Subcause::SignatureInvalid, why));
    }
    if used {
        return Err(ApiError::PaymentInvalid {
            subcause: Subcause::NonceReused,
            message: "the authorization is already used or cancelled".to_owned(),
            tx_hash: used_in(site, payer, nonce).await,
        });
    }
    if payer_barred {
        return Err(invalid(Subcause::InsufficientFunds, "the token has blacklisted the payer"));
    }
    if balance < U256::from(amount.micro()) {
        return Err(invalid(
            Subcause::InsufficientFunds,
            "the payer's balance is below the amount",
        ));
    }
    Ok(balance)
}

/// The transaction that used an authorization, if it brought money to the Splitter.
async fn used_in(site: &Site, payer: Address, nonce: B256) -> Option<B256> {
    let found = async {
        let mut tx = site.ledger.read().await?;
        tx.pull_of(site.network.chain_id(), site.splitter.address, payer, nonce).await
    };
    match found.await {
        Ok(pull) => pull.map(|pull| pull.at.tx_hash),
        Err(error) => {
            tracing::warn!(%error, "edge: cannot look up who used an authorization");
            None
        }
    }
}
