//! What the tests share: where things are, both databases, a payer, a way to call.

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use keeper::{
    chain::{BlockTag, Chain},
    eip3009::{FiatToken, domain, sign},
    ledger::{Ledger, Settlement},
    x402::{Network, SignedAuthorization},
};
use sandbox::{Daemon, Postgres, Stack, StackOptions, Tools};
use serde_json::{Value, json};
use std::{
    env,
    future::Future,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::OnceCell, time::Instant};

/// How long anything may take on a busy machine before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The checkout.
pub(crate) fn tools() -> Tools {
    Tools::find(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The keeper that was built with these tests.
pub(crate) fn keeper() -> PathBuf {
    let suite = env::current_exe().unwrap();
    let binary = suite.parent().and_then(Path::parent).unwrap().join("keeper");
    assert!(binary.exists(), "{} is missing: run `make test`", binary.display());
    binary
}

/// A name that no other test of any run has.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}_{}_{count}", std::process::id())
}

/// A folder of this test's own in `target/`, emptied by `cargo clean`.
pub(crate) fn folder(name: &str) -> PathBuf {
    tools().root().join("target/suite").join(unique(name))
}

/// A stack of this test's own, with demo/echo registered.
pub(crate) async fn stack(name: &str, options: StackOptions) -> Stack {
    let stack = Stack::start(&tools(), &folder(name), options).await.unwrap();
    stack.register().await.unwrap();
    stack
}

/// A fresh database on the throwaway PostgreSQL that all tests share, or on the server that
/// TEST_DATABASE_URL names.
pub(crate) async fn postgres() -> String {
    static SERVER: OnceCell<Option<Postgres>> = OnceCell::const_new();
    let external = env::var("TEST_DATABASE_URL").ok();
    let server = SERVER
        .get_or_init(|| async {
            match external {
                Some(_) => None,
                None => Some(on_a_runtime_of_its_own(async { Postgres::start(&tools()).await })),
            }
        })
        .await;
    let name = unique("keeper");
    let (admin, url) = match server {
        Some(server) => (server.url("postgres"), server.url(&name)),
        None => {
            let admin = env::var("TEST_DATABASE_URL").unwrap();
            let (base, _) = admin.rsplit_once('/').unwrap();
            (admin.clone(), format!("{base}/{name}"))
        }
    };
    let pool = sqlx::PgPool::connect(&admin).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::query(create).execute(&pool).await.unwrap();
    url
}

/// A hub that the tests share which only look at it from outside: a daemon on SQLite.
pub(crate) struct Hub {
    pub(crate) stack: Stack,
    pub(crate) daemon: Daemon,
    pub(crate) database: String,
}

/// The shared hub.
pub(crate) async fn hub() -> &'static Hub {
    static HUB: OnceCell<Hub> = OnceCell::const_new();
    HUB.get_or_init(|| async {
        on_a_runtime_of_its_own(async {
            let stack = stack("hub", StackOptions::default()).await;
            let database = stack.sqlite();
            let daemon = stack.daemon(&keeper(), &database).await?;
            Ok(Hub { stack, daemon, database })
        })
    })
    .await
}

/// Whatever watches the server's output must outlive the test that happened to start it.
fn on_a_runtime_of_its_own<T: Send + 'static>(
    future: impl Future<Output = eyre::Result<T>> + Send + 'static,
) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        sender.send(runtime.block_on(future)).unwrap();
        runtime.block_on(std::future::pending::<()>());
    });
    receiver.recv().unwrap().unwrap()
}

/// Waits until `check` says yes; says what it waited for when it does not.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A good payment of demo/echo, to be spoilt.
pub(crate) struct Draft {
    pub(crate) payer: PrivateKeySigner,
    pub(crate) authorization: SignedAuthorization,
    pub(crate) network: &'static str,
    pub(crate) scheme: &'static str,
    pub(crate) version: u64,
}

impl Draft {
    pub(crate) fn new(payer: &PrivateKeySigner, splitter: Address) -> Self {
        Self {
            payer: payer.clone(),
            authorization: SignedAuthorization {
                from: payer.address(),
                to: splitter,
                value: U256::from(sandbox::PRICE_MICRO),
                valid_after: now() - 600,
                valid_before: now() + 60,
                nonce: B256::random(),
            },
            network: "base-sepolia",
            scheme: "exact",
            version: 1,
        }
    }

    /// 65 bytes over what the authorization says now.
    pub(crate) fn signature(&self) -> Vec<u8> {
        let domain = domain(&Network::BaseSepolia.usdc(), 84_532);
        sign(&self.payer, &self.authorization, &domain).unwrap().to_vec()
    }

    /// The header's JSON with a signature of its own.
    pub(crate) fn json(&self) -> Value {
        self.json_signed(&self.signature())
    }

    pub(crate) fn json_signed(&self, signature: &[u8]) -> Value {
        json!({
            "x402Version": self.version,
            "scheme": self.scheme,
            "network": self.network,
            "payload": {
                "signature": alloy::hex::encode_prefixed(signature),
                "authorization": self.authorization,
            },
        })
    }

    /// The X-PAYMENT header.
    pub(crate) fn header(&self) -> String {
        encode(&self.json())
    }
}

/// JSON as a payment header carries it.
pub(crate) fn encode(json: &Value) -> String {
    BASE64_STANDARD.encode(json.to_string())
}

/// A call of demo/echo.
pub(crate) fn call(id: &str) -> Value {
    json!({"jecp": "1.0", "id": id, "capability": "demo/echo", "action": "echo",
           "input": {"id": id}})
}

/// What a call was answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// Code of the error.
    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    /// Subcause of the error.
    pub(crate) fn subcause(&self) -> &str {
        self.body["error"]["details"]["subcause"].as_str().unwrap_or_default()
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The receipt of x402 v1.
    pub(crate) fn receipt(&self) -> Value {
        let text = BASE64_STANDARD.decode(self.header("x-payment-response")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

/// The settlement of a payment, if the ledger has one.
pub(crate) async fn settlement_of(
    database: &str,
    authorization: &SignedAuthorization,
) -> Option<Settlement> {
    let ledger = Ledger::open_beside(database).await.unwrap();
    let asset = Network::BaseSepolia.usdc().address;
    let mut tx = ledger.read().await.unwrap();
    tx.settlement_by_identity(84_532, asset, authorization.from, authorization.nonce).await.unwrap()
}

/// What the chain has: an account's micro-USDC, and whether an authorization nonce is used.
pub(crate) async fn on_chain(stack: &Stack, authorization: &SignedAuthorization) -> (u64, bool) {
    let chain = chain(stack);
    let usdc = stack.contracts.usdc;
    let balance = FiatToken::balanceOfCall { account: authorization.from };
    let state = FiatToken::authorizationStateCall {
        authorizer: authorization.from,
        nonce: authorization.nonce,
    };
    let balance = chain.call(usdc, &balance, BlockTag::Latest).await.unwrap();
    let used = chain.call(usdc, &state, BlockTag::Latest).await.unwrap();
    (u64::try_from(balance).unwrap(), used)
}

/// A stack's chain.
pub(crate) fn chain(stack: &Stack) -> Chain {
    Chain::new(&[stack.anvil.url().parse().unwrap()]).unwrap()
}

/// Calls a hub, with or without payment.
pub(crate) async fn invoke(url: &str, body: &Value, payment: Option<&str>) -> Answer {
    let client = reqwest::Client::new();
    let mut request = client.post(format!("{url}/v1/invoke")).json(body);
    if let Some(payment) = payment {
        request = request.header("x-payment", payment);
    }
    let response = request.send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.json().await.unwrap_or(Value::Null),
    }
}
