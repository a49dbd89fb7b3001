//! An agent that pays: signs authorizations and calls with them.

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use keeper::{
    eip3009::{Authorization, Terms, Verified, domain, sign},
    x402::{MicroUsdc, Network, SignedAuthorization},
};
use sandbox::PRICE_MICRO;
use serde_json::json;

/// Chain of the sandbox.
pub(crate) const CHAIN_ID: u64 = 84_532;
/// Seconds since which an authorization is valid.
const VALID_SINCE: u64 = 600;
/// Seconds that it is valid when it pays for a call.
const TIMEOUT: u64 = 60;
/// And when it is only made in advance: a chain whose blocks are laid at once runs ahead of the clock.
pub(crate) const IN_ADVANCE: u64 = 600;

/// Seconds since 1970.
pub(crate) fn now() -> eyre::Result<u64> {
    Ok(u64::try_from(chrono::Utc::now().timestamp())?)
}

/// A fresh authorization for one call of demo/echo, with its signature.
pub(crate) fn authorize(
    payer: &PrivateKeySigner,
    splitter: Address,
    valid_for: u64,
) -> eyre::Result<(SignedAuthorization, Vec<u8>)> {
    let now = now()?;
    let authorization = SignedAuthorization {
        from: payer.address(),
        to: splitter,
        value: U256::from(PRICE_MICRO),
        valid_after: now.saturating_sub(VALID_SINCE),
        valid_before: now.saturating_add(valid_for),
        nonce: B256::new(rand::random()),
    };
    let domain = domain(&Network::BaseSepolia.usdc(), CHAIN_ID);
    let signature = sign(payer, &authorization, &domain)?.to_vec();
    Ok((authorization, signature))
}

/// The same, verified, and valid for longer.
pub(crate) fn verified(
    payer: &PrivateKeySigner,
    splitter: Address,
) -> eyre::Result<Authorization<Verified>> {
    let (authorization, signature) = authorize(payer, splitter, IN_ADVANCE)?;
    let terms = Terms {
        domain: domain(&Network::BaseSepolia.usdc(), CHAIN_ID),
        pay_to: splitter,
        amount: MicroUsdc::new(PRICE_MICRO)?,
        longest: VALID_SINCE.saturating_add(IN_ADVANCE),
    };
    Authorization::new(authorization, signature.into())
        .verify(&terms, now()?)
        .map_err(|subcause| eyre::eyre!("the authorization is not valid: {subcause:?}"))
}

/// Pays for a call of demo/echo and returns the status of the answer.
pub(crate) async fn pay(
    client: &reqwest::Client,
    hub: &str,
    payer: &PrivateKeySigner,
    splitter: Address,
    request: &str,
) -> eyre::Result<u16> {
    let (authorization, signature) = authorize(payer, splitter, TIMEOUT)?;
    let header = json!({
        "x402Version": 1,
        "scheme": "exact",
        "network": "base-sepolia",
        "payload": {
            "signature": alloy::hex::encode_prefixed(signature),
            "authorization": authorization,
        },
    });
    let call = json!({"jecp": "1.0", "id": request, "capability": "demo/echo", "action": "echo",
        "input": {"id": request}});
    let answer = client
        .post(format!("{hub}/v1/invoke"))
        .header("x-payment", BASE64_STANDARD.encode(header.to_string()))
        .json(&call)
        .send()
        .await?;
    Ok(answer.status().as_u16())
}
