//! The facilitator API: what resource servers of others have verified and settled. Over real HTTP, on a
//! real chain, on both databases.

mod once;
mod passing;
mod pending;
mod refusals;
mod way;

use crate::support::{Answer, Draft, keeper, postgres, stack};
use alloy::primitives::{Address, U256};
use keeper::x402::Network;
use sandbox::{Daemon, PRICE_MICRO, Stack, StackOptions};
use serde_json::{Value, json};

/// Micro-USDC of every test's payer.
pub(crate) const FUNDS: u64 = 10 * PRICE_MICRO;
/// Token of the caller that most tests are.
pub(crate) const SHOP: &str = "shop-token-of-a-test-0001";
/// Token of another.
pub(crate) const OTHER: &str = "other-token-of-a-test-0002";
/// Token of one that may do nearly nothing.
pub(crate) const RARE: &str = "rare-token-of-a-test-00003";
/// Whom shop and other may have paid.
pub(crate) const PAYEE: Address = Address::repeat_byte(0x5a);

/// A daemon with callers.
pub(crate) struct Api {
    pub(crate) stack: Stack,
    pub(crate) daemon: Daemon,
    pub(crate) database: String,
}

/// The callers that every test has, after a daemon's usual configuration.
pub(crate) fn with_callers(config: &str) -> String {
    let caller = |name: &str, token: &str, rest: &str| {
        format!("[[caller]]\nname = \"{name}\"\ntoken = \"{token}\"\n{rest}\n")
    };
    let usual = format!("capabilities = [\"demo/echo\"]\npay_to = [\"{PAYEE}\"]");
    [
        config.to_owned(),
        caller("shop", SHOP, &format!("{usual}\nrequests_per_minute = 100000")),
        caller("other", OTHER, &usual),
        caller("rare", RARE, "requests_per_minute = 2\ncapabilities = [\"demo/echo\"]"),
    ]
    .join("\n")
}

impl Api {
    pub(crate) async fn start(name: &str, database: Option<String>) -> Self {
        Self::start_with(name, database, StackOptions::default(), |config| config).await
    }

    pub(crate) async fn start_with(
        name: &str,
        database: Option<String>,
        options: StackOptions,
        change: impl Fn(String) -> String,
    ) -> Self {
        let stack = stack(name, options).await;
        let database = database.unwrap_or_else(|| stack.sqlite());
        let change = |config: String| change(with_callers(&config));
        let mut daemon = stack.spawn(&keeper(), &database, &[], change).await.unwrap();
        daemon.ready().await.unwrap();
        Self { stack, daemon, database }
    }

    /// A payment by a new payer to the Splitter, valid for ten minutes.
    pub(crate) async fn draft(&self) -> Draft {
        let payer = self.stack.agent(FUNDS).await.unwrap();
        let mut draft = Draft::new(&payer, self.stack.contracts.splitter);
        draft.authorization.valid_before += 500;
        draft
    }

    /// The same past the Splitter.
    pub(crate) async fn passing(&self) -> Draft {
        let mut draft = self.draft().await;
        draft.authorization.to = PAYEE;
        draft
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        post(&self.daemon.url, path, token, body).await
    }

    pub(crate) async fn settle(&self, version: u64, draft: &Draft) -> Answer {
        self.post("/settle", SHOP, &body(version, draft)).await
    }

    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        let mut request = reqwest::Client::new().get(format!("{}{path}", self.daemon.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        answer(request).await
    }
}

/// Runs a test on both databases.
pub(crate) async fn databases() -> [Option<String>; 2] {
    [None, Some(postgres().await)]
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.json().await.unwrap_or(Value::Null),
    }
}

pub(crate) async fn post(url: &str, path: &str, token: &str, body: &Value) -> Answer {
    let request = reqwest::Client::new().post(format!("{url}{path}"));
    answer(request.bearer_auth(token).json(body)).await
}

/// What a resource server sends: its requirements, and the payment that an agent made for them.
pub(crate) fn body(version: u64, draft: &Draft) -> Value {
    let signed = &draft.authorization;
    let usdc = Network::BaseSepolia.usdc();
    let network = network(version);
    let mut requirements = json!({
        "scheme": "exact",
        "network": network,
        "asset": usdc.address,
        "payTo": signed.to,
        "maxTimeoutSeconds": 600,
        "extra": {"name": usdc.name, "version": usdc.version},
    });
    let payload = json!({
        "signature": alloy::hex::encode_prefixed(draft.signature()),
        "authorization": signed,
    });
    let mut payment = json!({"x402Version": version, "payload": payload});
    if version == 1 {
        requirements["maxAmountRequired"] = json!(signed.value.to_string());
        requirements["resource"] = json!("https://shop.example/thing");
        requirements["description"] = json!("A thing");
        requirements["mimeType"] = json!("application/json");
        payment["scheme"] = json!("exact");
        payment["network"] = json!(network);
    } else {
        requirements["amount"] = json!(signed.value.to_string());
        payment["resource"] = json!({"url": "https://shop.example/thing"});
        payment["accepted"] = requirements.clone();
    }
    json!({"x402Version": version, "paymentPayload": payment, "paymentRequirements": requirements})
}

pub(crate) fn network(version: u64) -> &'static str {
    if version == 1 { "base-sepolia" } else { "eip155:84532" }
}

/// What an account has, micro-USDC.
pub(crate) async fn balance(stack: &Stack, account: Address) -> U256 {
    let call = keeper::eip3009::FiatToken::balanceOfCall { account };
    let chain = crate::support::chain(stack);
    chain.call(stack.contracts.usdc, &call, keeper::chain::BlockTag::Latest).await.unwrap()
}
