//! The gateway over real HTTP: what is refused in which words, how repeats are known, what is passed
//! on to the hub that has wallets.

mod answers;
mod payments;
mod refusals;
mod wallets;

use crate::support::{Answer, Draft, keeper, on_a_runtime_of_its_own, stack};
use alloy::primitives::{Address, B256, keccak256};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use keeper::splitter::JecpSplitter;
use sandbox::{Daemon, Stack, StackOptions};
use serde_json::{Value, json};
use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, sync::OnceCell};

/// Micro-USDC of every test's payer.
const FUNDS: u64 = 1_000_000;

/// Capabilities beside demo/echo: name, whether the Splitter knows it, and how its entry differs.
const MORE: [(&str, bool, &str); 7] = [
    ("both", true, "payment_methods = [\"stripe\", \"x402\"]"),
    ("wallet", false, "payment_methods = [\"stripe\"]"),
    ("twin", true, "payment_methods = [\"x402\"]"),
    ("unknown", false, "payment_methods = [\"x402\"]"),
    (
        "strict",
        true,
        "payment_methods = [\"stripe\", \"x402\"]\n\
         input_schema = { type = \"object\", required = [\"size\"], additionalProperties = false, \
         properties = { size = { type = \"integer\", minimum = 1 } } }",
    ),
    (
        "old",
        true,
        "payment_methods = [\"stripe\", \"x402\"]\nsunset_at = \"2026-01-31T00:00:00Z\"\n\
         successor = \"demo/echo\"",
    ),
    ("ending", true, "payment_methods = [\"x402\"]\nsunset_at = \"SOON\""),
];

/// What the hub behind ours was sent.
#[derive(Debug, Clone)]
struct Passed {
    headers: HeaderMap,
    body: Value,
}

/// A hub that has wallets. What it answers is written in the input of the call.
#[derive(Debug, Clone, Default)]
struct Wallets {
    calls: Arc<Mutex<Vec<Passed>>>,
}

impl Wallets {
    async fn start(self) -> String {
        let app = Router::new().route("/hub/v1/invoke", post(wallet_call)).with_state(self);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hub", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }

    /// The calls of one request.
    fn of(&self, id: &str) -> Vec<Passed> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.body["id"] == id).cloned().collect()
    }
}

async fn wallet_call(State(wallets): State<Wallets>, headers: HeaderMap, body: String) -> Response {
    let body: Value = serde_json::from_str(&body).unwrap();
    wallets.calls.lock().unwrap().push(Passed { headers, body: body.clone() });
    let refused = |status: StatusCode, code: &str| {
        let details = json!({"remaining_usdc": 0.05, "host": "wallets.internal"});
        let error = json!({"code": code, "message": "no", "details": details});
        let headers = [("www-authenticate", "x402, Bearer"), ("server", "wallets.internal")];
        (status, headers, axum::Json(json!({"jecp": "1.0", "error": error}))).into_response()
    };
    match body["input"]["wallet"].as_str().unwrap_or("pays") {
        "pays" => {
            let answer = json!({"jecp": "1.0", "id": body["id"], "status": "completed",
                                "result": {"from": "wallet"}, "billing": {"method": "wallet"}});
            let headers = [
                ("x-payment-response", "bm90aGluZw=="),
                ("server", "wallets.internal"),
                ("set-cookie", "session=1"),
                ("retry-after", "7"),
            ];
            (headers, axum::Json(answer)).into_response()
        }
        "short" => refused(StatusCode::PAYMENT_REQUIRED, "INSUFFICIENT_BALANCE"),
        "budget" => refused(StatusCode::PAYMENT_REQUIRED, "INSUFFICIENT_BUDGET"),
        "stranger" => refused(StatusCode::UNAUTHORIZED, "INVALID_API_KEY"),
        "html" => {
            let page = "<h1>502 Bad Gateway</h1> wallets.internal";
            (StatusCode::BAD_GATEWAY, [("content-type", "text/html")], page).into_response()
        }
        "elsewhere" => {
            let headers =
                [("location", "http://127.0.0.1:1/"), ("content-type", "application/json")];
            (StatusCode::TEMPORARY_REDIRECT, headers, "{}").into_response()
        }
        "silent" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            StatusCode::OK.into_response()
        }
        "endless" => {
            let part = Ok::<_, std::io::Error>("x".repeat(1024 * 1024));
            let parts = futures::stream::repeat_with(move || part.as_ref().unwrap().clone());
            let parts = futures::StreamExt::map(parts, Ok::<_, std::io::Error>);
            ([("content-type", "application/json")], Body::from_stream(parts)).into_response()
        }
        other => panic!("{other}"),
    }
}

/// A hub with everything that can be said of a capability, before a hub with wallets.
struct Gate {
    stack: Stack,
    daemon: Daemon,
    database: String,
    wallets: Wallets,
}

impl Gate {
    /// The one that the tests share.
    async fn get() -> &'static Self {
        static GATE: OnceCell<Gate> = OnceCell::const_new();
        GATE.get_or_init(|| async {
            on_a_runtime_of_its_own(async { Ok(Self::start("gate").await) })
        })
        .await
    }

    async fn start(name: &str) -> Self {
        let stack = stack(name, StackOptions::default()).await;
        let echo = stack.catalogue();
        let mut catalogue = echo.clone();
        let soon = now_and(10 * 24 * 3_600);
        for (action, registered, differs) in MORE {
            let differs = differs.replace("SOON", &soon);
            let entry = echo
                .replace("action = \"echo\"", &format!("action = \"{action}\""))
                .replace("payment_methods = [\"x402\"]", &differs);
            catalogue.push_str(&entry);
            if registered {
                register(&stack, action).await;
            }
        }
        fs::write(stack.folder.join("gate.toml"), catalogue).unwrap();
        let wallets = Wallets::default();
        let url = wallets.clone().start().await;
        let upstream = format!(
            "[upstream]\nurl = \"{url}\"\ntopup_url = \"https://wallets.example/topup\"\n\
             timeout = \"2s\"\n\n[http]"
        );
        let database = stack.sqlite();
        let mut daemon = stack
            .spawn(&keeper(), &database, &[], |config| {
                config.replace("\"catalogue.toml\"", "\"gate.toml\"").replace("[http]", &upstream)
            })
            .await
            .unwrap();
        daemon.ready().await.unwrap();
        Self { stack, daemon, database, wallets }
    }

    /// A payer and a good payment, to be spoilt.
    async fn draft(&self) -> Draft {
        let payer = self.stack.agent(FUNDS).await.unwrap();
        Draft::new(&payer, self.stack.contracts.splitter)
    }

    /// A call of one of the capabilities.
    async fn call(&self, body: &Value, headers: &[(&str, &str)]) -> Answer {
        send(&format!("{}/v1/invoke", self.daemon.url), body, headers).await
    }
}

/// Now and so many seconds, as RFC 3339.
fn now_and(seconds: u64) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_secs(crate::support::now() + seconds);
    let at: chrono::DateTime<chrono::Utc> = at.into();
    at.to_rfc3339()
}

/// Registers demo/`action` as demo/echo is.
async fn register(stack: &Stack, action: &str) {
    let id = keccak256(format!("demo:{action}"));
    let signed = stack.registration(|registration| registration.capability_id = id).unwrap();
    let call = JecpSplitter::registerCall {
        capabilityId: signed.capability_id,
        provider: signed.provider,
        providerBps: signed.provider_bps,
        hubBps: signed.hub_bps,
        reserveBps: signed.reserve_bps,
        nonce: signed.nonce,
        deadline: alloy::primitives::U256::from(signed.deadline),
        providerSig: signed.signature,
    };
    let anybody: Address = Address::from_word(B256::repeat_byte(0x77));
    crate::support::send_as(stack, anybody, stack.contracts.splitter, call).await;
}

/// A call of demo/`action`.
fn call(id: &str, action: &str, input: Value) -> Value {
    json!({"jecp": "1.0", "id": id, "capability": "demo", "action": action, "input": input})
}

/// Posts a call with headers.
async fn send(url: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let mut request = reqwest::Client::new().post(url).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap_or_default();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    proper(&Answer { status, headers, body }, &text)
}

/// What holds for every answer, a next step for every refusal, and nothing that is
/// nobody's business.
fn proper(answer: &Answer, text: &str) -> Answer {
    assert_eq!(answer.header("cache-control"), "no-store", "{answer:?}");
    let exposed = answer.header("access-control-expose-headers").to_lowercase();
    for name in ["x-payment-response", "x-request-id", "retry-after", "www-authenticate"] {
        assert!(exposed.contains(name), "{name}: {exposed}");
    }
    if answer.status >= 400 && answer.body["error"]["details"]["host"].is_null() {
        let next = answer.body["next_action"]["type"].as_str().unwrap_or_default();
        let known = [
            "register",
            "topup",
            "earn_trust",
            "renew_mandate",
            "wait",
            "lookup_schema",
            "x402_settle",
        ];
        assert!(known.contains(&next), "{answer:?}");
        for secret in
            ["wallets.internal", "sqlx", "/root", ".rs:", "panicked", "Connection refused"]
        {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
        if answer.status != 402 {
            let code = answer.code();
            let link = answer.body["error"]["documentation_url"].as_str().unwrap();
            assert_eq!(link, format!("https://jecp.dev/errors/{}", code.to_lowercase()));
            assert_eq!(answer.body["status"], "failed");
        }
    }
    if [429, 503, 504].contains(&answer.status) {
        let seconds: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=600).contains(&seconds), "{answer:?}");
    }
    answer.clone()
}
