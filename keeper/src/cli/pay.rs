//! `keeper pay`: an agent's side, for operators and testers.

use super::Exit;
use crate::{
    eip3009::{domain, sign},
    x402::{
        MicroUsdc, Network, PAYMENT_REQUIRED, PAYMENT_RESPONSE, PAYMENT_SIGNATURE, PaymentRequired,
        SignedAuthorization, encode_header,
    },
};
use alloy::{
    primitives::{B256, U256},
    signers::local::PrivateKeySigner,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::Utc;
use eyre::{WrapErr, bail, ensure, eyre};
use rand::{Rng, rngs::OsRng};
use reqwest::{Client, Response, StatusCode, header::RETRY_AFTER};
use serde_json::{Value, json};
use std::time::Duration;
use url::Url;

/// How long the hub may take.
const TIMEOUT: Duration = Duration::from_secs(90);
/// How often the same paid call is repeated.
const MAX_REPEATS: u32 = 20;
/// A hub that asks for more patience does not have the payment on its way.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Longest window, in seconds, that a signature is given.
const MAX_WINDOW: u64 = 600;

/// Pay for a call, as an agent.
///
/// Calls the URL without payment, shows what is asked for, signs an authorization over exactly that
/// and calls again. The key is read from the environment variable `KEEPER_PAY_KEY`: arguments can be
/// read by everybody on the machine.
#[derive(Debug, clap::Args)]
pub(super) struct Pay {
    /// Where: the hub's `/v1/invoke`.
    url: Url,
    /// What: the body of the call. By default a call of demo/echo.
    #[arg(long)]
    body: Option<String>,
    /// Never pay more than this.
    #[arg(long, default_value = "$1")]
    max: MicroUsdc,
    /// Print one line of JSON: status, receipt, answer.
    #[arg(long)]
    json: bool,
}

impl Pay {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let key = std::env::var("KEEPER_PAY_KEY")
            .map_err(|_| Exit::misconfigured(eyre!("KEEPER_PAY_KEY must hold the payer's key")))?;
        // The parser's own error would quote the key.
        let payer: PrivateKeySigner = key
            .trim()
            .parse()
            .map_err(|_| Exit::misconfigured(eyre!("KEEPER_PAY_KEY is not a private key")))?;
        let body = self.body.clone().unwrap_or_else(default_body);
        let client = Client::builder().timeout(TIMEOUT).build()?;
        let post = || client.post(self.url.clone()).header("content-type", "application/json");

        let unpaid = post().body(body.clone()).send().await?;
        if unpaid.status() != StatusCode::PAYMENT_REQUIRED {
            return self.finish(unpaid).await;
        }
        let payment = self.sign(&payer, &challenge(&unpaid)?)?;
        let mut repeats = 0;
        loop {
            let sent = post().header(PAYMENT_SIGNATURE, &payment).body(body.clone()).send().await;
            // Whatever became of it: the very same call again, never another payment.
            let (why, wait) = match sent {
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    let wait = retry_after(&answer);
                    if wait > MAX_WAIT || repeats == MAX_REPEATS {
                        return self.finish(answer).await;
                    }
                    ("the payment is on its way".to_owned(), wait)
                }
                Ok(answer) => return self.finish(answer).await,
                Err(error) if repeats == MAX_REPEATS => return Err(error.into()),
                Err(error) => (error.without_url().to_string(), Duration::from_secs(2)),
            };
            repeats += 1;
            if !self.json {
                eprintln!("{why}: asking again in {} s", wait.as_secs());
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Signs exactly what the challenge asks for, if it is what it should be.
    fn sign(&self, payer: &PrivateKeySigner, challenge: &PaymentRequired) -> eyre::Result<String> {
        let accepted = challenge
            .accepts
            .iter()
            .find(|accepted| accepted.scheme == "exact")
            .ok_or_else(|| eyre!("the hub takes no exact payment"))?;
        let network = Network::from_wire(&accepted.network).ok_or_else(|| {
            eyre!("{} is not a network that this program pays on", accepted.network)
        })?;
        let usdc = network.usdc();
        ensure!(accepted.asset == usdc.address, "{} is not {network}'s USDC", accepted.asset);
        let value: u64 = accepted.amount.parse().wrap_err("the price is not a number")?;
        let price = MicroUsdc::new(value)?;
        ensure!(price <= self.max, "the price is {price} USDC, more than --max {}", self.max);
        if !self.json {
            eprintln!("paying {price} USDC on {network} to {}", accepted.pay_to);
        }
        ensure!(
            accepted.max_timeout_seconds <= MAX_WINDOW,
            "the hub wants {} seconds to use the payment, more than {MAX_WINDOW}",
            accepted.max_timeout_seconds
        );
        let now = u64::try_from(Utc::now().timestamp())?;
        let authorization = SignedAuthorization {
            from: payer.address(),
            to: accepted.pay_to,
            value: U256::from(value),
            // Some clocks are slow, and the token compares strictly.
            valid_after: now.saturating_sub(600),
            valid_before: now.saturating_add(accepted.max_timeout_seconds),
            nonce: B256::new(OsRng.r#gen()),
        };
        let signature = sign(payer, &authorization, &domain(&usdc, network.chain_id()))?;
        Ok(encode_header(&json!({
            "x402Version": 2,
            "resource": challenge.resource,
            "accepted": accepted,
            "payload": {"signature": signature, "authorization": authorization},
        }))?)
    }

    async fn finish(&self, response: Response) -> Result<(), Exit> {
        let status = response.status();
        let receipt = match response.headers().get(PAYMENT_RESPONSE) {
            Some(value) => serde_json::from_slice(&BASE64_STANDARD.decode(value)?)?,
            None => Value::Null,
        };
        let text = response.text().await?;
        let answer: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.clone()));
        if self.json {
            let line = json!({"status": status.as_u16(), "receipt": receipt, "answer": answer});
            println!("{line}");
        } else {
            if let Some(transaction) = receipt["transaction"].as_str() {
                eprintln!("paid in transaction {transaction}");
            }
            println!("{}", serde_json::to_string_pretty(&answer)?);
        }
        if status.is_success() { Ok(()) } else { Err(eyre!("the hub answered {status}").into()) }
    }
}

/// How long the hub asks to wait.
fn retry_after(answer: &Response) -> Duration {
    let value = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).map_or(MAX_WAIT, Duration::from_secs)
}

fn default_body() -> String {
    let id: [u8; 8] = OsRng.r#gen();
    json!({
        "jecp": "1.0",
        "id": format!("pay-{}", alloy::hex::encode(id)),
        "capability": "demo/echo",
        "action": "echo",
        "input": {"text": "hello"},
    })
    .to_string()
}

/// The challenge in the header of x402 v2.
fn challenge(response: &Response) -> eyre::Result<PaymentRequired> {
    let Some(value) = response.headers().get(PAYMENT_REQUIRED) else {
        bail!("the hub's 402 has no PAYMENT-REQUIRED header");
    };
    let json = BASE64_STANDARD.decode(value).wrap_err("PAYMENT-REQUIRED is not base64")?;
    serde_json::from_slice(&json).wrap_err("PAYMENT-REQUIRED is not x402 v2")
}
