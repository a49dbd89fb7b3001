//! `/openapi.json` is what the program does: every route is in it and no other, and what is really
//! answered has the shape that it says.

use crate::{
    facilitator::{Api, SHOP, body},
    support::{Draft, call, hub, settlement_of, tools},
};
use boon::{Compiler, Draft as Dialect, Schemas};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path};

/// The operator's token.
const OPERATOR: &str = "the operator's token of a test";

/// Every source file of the edge.
fn sources(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(fs::read_to_string(path).unwrap());
        }
    }
    found
}

/// "get /livez" and all others, as they stand in the source: `.route("/livez", get(…))`.
fn routes_of_the_source() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources(&tools().root().join("keeper/src/edge")) {
        for route in source.split(".route(").skip(1) {
            let (_, rest) = route.split_once('"').expect("a path in quotes");
            let (path, rest) = rest.split_once('"').unwrap();
            let handler = rest.trim_start_matches(',').trim_start();
            // `get(one).post(other)` would be two; the second is looked for as well.
            let chain = handler.split(".route(").next().unwrap();
            let first = chain.split('(').next().unwrap();
            assert!(["get", "post"].contains(&first), "{path}: how is {first} a method?");
            found.insert(format!("{first} {path}"));
        }
    }
    found
}

async fn document(url: &str) -> Value {
    reqwest::get(format!("{url}/openapi.json")).await.unwrap().json().await.unwrap()
}

/// Both ways. A new route needs a row in keeper/src/edge/discovery/openapi.rs.
#[tokio::test]
async fn every_route_is_in_the_document_and_no_other() {
    let url = &hub().await.daemon.url;
    let document = document(url).await;
    let mut told = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            told.insert(format!("{method} {path}"));
        }
    }
    assert_eq!(told, routes_of_the_source());
    assert!(told.len() > 10, "the search is wrong: {told:?}");
    // And it is there: 405 for another method, or an answer; never axum's empty 404.
    let client = reqwest::Client::new();
    for path in document["paths"].as_object().unwrap().keys() {
        let real = path.replace("{", "").replace('}', "");
        let answer = client.delete(format!("{url}{real}")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 405, "{path}");
    }
}

/// The document, and which of its answers were seen.
struct Checked {
    api: Api,
    document: Value,
    seen: BTreeSet<String>,
}

impl Checked {
    /// Sends a request and holds what is answered against the document.
    async fn ask(&mut self, method: &str, path: &str, real: &str, what: Ask<'_>) -> u16 {
        let url = format!("{}{real}", self.api.daemon.url);
        let client = reqwest::Client::new();
        let mut request = if method == "get" { client.get(url) } else { client.post(url) };
        if let Some(token) = what.token {
            request = request.bearer_auth(token);
        }
        if let Some(payment) = what.payment {
            request = request.header("x-payment", payment);
        }
        if let Some(body) = what.body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").map_or("", |it| it.to_str().unwrap());
        let kind = kind.split(';').next().unwrap().to_owned();
        let text = response.text().await.unwrap();
        let answers = &self.document["paths"][path][method]["responses"];
        let shape = &answers[status.to_string()]["content"][&kind]["schema"];
        assert!(shape.is_object(), "{method} {path}: {status} {kind} is not told of: {text}");
        if kind == "application/json" {
            let answer: Value = serde_json::from_str(&text).unwrap();
            let fault = self.fault(shape, &answer);
            assert_eq!(fault, None, "{method} {path}: {status} {answer}");
        }
        self.seen.insert(format!("{method} {path} {status}"));
        status
    }

    /// What is wrong with an answer.
    fn fault(&self, shape: &Value, answer: &Value) -> Option<String> {
        let all = json!({"$defs": self.document["components"]["schemas"], "$ref": shape["$ref"]});
        let all = all.to_string().replace("#/components/schemas/", "#/$defs/");
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.set_default_draft(Dialect::V2020_12);
        let at = "https://schema.invalid/openapi";
        compiler.add_resource(at, serde_json::from_str(&all).unwrap()).unwrap();
        let compiled = compiler.compile(at, &mut schemas).unwrap();
        schemas.validate(answer, compiled).err().map(|error| error.to_string())
    }
}

/// What a request carries.
#[derive(Default)]
struct Ask<'a> {
    token: Option<&'a str>,
    payment: Option<&'a str>,
    body: Option<String>,
}

impl<'a> Ask<'a> {
    fn body(body: impl ToString) -> Self {
        Self { body: Some(body.to_string()), ..Self::default() }
    }

    const fn by(mut self, token: &'a str) -> Self {
        self.token = Some(token);
        self
    }

    const fn with(mut self, payment: &'a str) -> Self {
        self.payment = Some(payment);
        self
    }
}

/// Good answers and refusals of every route.
#[tokio::test]
async fn what_is_answered_has_the_shape_that_is_told() {
    let token = format!("admin_token = \"{OPERATOR}\"\nauth = \"payer\"");
    let change = |config: String| config.replace("auth = \"payer\"", &token);
    let api = Api::start_with("openapi", None, Default::default(), change).await;
    let document = document(&api.daemon.url).await;
    let mut hub = Checked { api, document, seen: BTreeSet::new() };
    let draft: Draft = hub.api.draft().await;
    let header = draft.header();

    // A call: the price, the good way, and what is refused.
    let invoke = "/v1/invoke";
    let good = || Ask::body(call("openapi-1"));
    assert_eq!(hub.ask("post", invoke, invoke, good()).await, 402);
    assert_eq!(hub.ask("post", invoke, invoke, good().with(&header)).await, 200);
    assert_eq!(hub.ask("post", invoke, invoke, good().with(&header)).await, 200);
    assert_eq!(hub.ask("post", invoke, invoke, good().with("AAAA")).await, 422);
    assert_eq!(hub.ask("post", invoke, invoke, Ask::body("{")).await, 400);
    let other = Ask::body(call("openapi-2"));
    assert_eq!(hub.ask("post", invoke, invoke, other.with(&header)).await, 409);
    let mut unknown = call("openapi-3");
    unknown["capability"] = json!("nobody/sells");
    assert_eq!(hub.ask("post", invoke, invoke, Ask::body(unknown)).await, 404);
    let large = Ask::body(" ".repeat(11 << 20));
    assert_eq!(hub.ask("post", invoke, invoke, large).await, 413);

    // The facilitator API.
    for version in [1, 2] {
        let draft = hub.api.draft().await;
        let order = body(version, &draft);
        let mut bad = order.clone();
        bad["paymentPayload"]["payload"]["signature"] = json!("0x00");
        for path in ["/verify", "/settle"] {
            for (order, token, status) in
                [(&bad, SHOP, 200), (&order, "no token at all", 401), (&order, SHOP, 200)]
            {
                let ask = Ask::body(order).by(token);
                assert_eq!(hub.ask("post", path, path, ask).await, status, "{path}");
            }
            assert_eq!(hub.ask("post", path, path, Ask::body("{").by(SHOP)).await, 400);
        }
        let signed = &draft.authorization;
        let find = format!("/v1/payments?payer={}&nonce={}", signed.from, signed.nonce);
        let by = || Ask::default().by(SHOP);
        assert_eq!(hub.ask("get", "/v1/payments", &find, by()).await, 200);
        assert_eq!(hub.ask("get", "/v1/payments", "/v1/payments?payer=1", by()).await, 400);
        let one = "/v1/payments/{tx_hash}";
        let nothing = format!("/v1/payments/0x{}", "00".repeat(32));
        assert_eq!(hub.ask("get", one, &nothing, by()).await, 404);
    }

    // For the operator.
    let traces = "/v1/traces/{trace_id}";
    let nothing = format!("/v1/traces/0x{}", "00".repeat(32));
    let settlement = settlement_of(&hub.api.database, &draft.authorization).await;
    let known = format!("/v1/traces/{}", settlement.unwrap().trace_id);
    let by = || Ask::default().by(OPERATOR);
    assert_eq!(hub.ask("get", traces, &known, by()).await, 200);
    assert_eq!(hub.ask("get", traces, &nothing, by()).await, 404);
    assert_eq!(hub.ask("get", traces, "/v1/traces/0x1", by()).await, 400);
    assert_eq!(hub.ask("get", traces, &nothing, Ask::default()).await, 401);

    for (path, ask, status) in [
        ("/admin/feature-flags", Ask::body("{").by(OPERATOR), 400),
        ("/admin/keeper/replay-log", Ask::body("{").by(OPERATOR), 400),
        ("/admin/feature-flags", Ask::body("{}"), 401),
    ] {
        assert_eq!(hub.ask("post", path, path, ask).await, status, "{path}");
    }
    for path in ["/v1/status/x402", "/admin/reconciler/attribution-audit"] {
        assert_eq!(hub.ask("get", path, path, by()).await, 200);
        assert_eq!(hub.ask("get", path, path, Ask::default()).await, 401);
    }

    // For agents whose calls came to nothing, and under the old name.
    for path in ["/v1/refunds/request", "/v1/refunds"] {
        assert_eq!(hub.ask("post", path, path, Ask::body("{")).await, 400);
        let nothing = format!("0x{}", "00".repeat(32));
        let ask = Ask::body(json!({"tx_hash": nothing, "reason": "it broke"}));
        assert_eq!(hub.ask("post", path, path, ask).await, 404);
    }
    assert_eq!(hub.ask("post", "/v1/jecp", "/v1/jecp", good()).await, 402);

    // For everybody.
    let capabilities = "/v1/capabilities";
    assert_eq!(hub.ask("get", capabilities, capabilities, Ask::default()).await, 200);
    let wrong = "/v1/capabilities?limit=x";
    assert_eq!(hub.ask("get", capabilities, wrong, Ask::default()).await, 400);
    for (path, name, status) in [
        ("/v1/capabilities/{namespace}", "/v1/capabilities/demo%2Fecho", 200),
        ("/v1/capabilities/{namespace}", "/v1/capabilities/demo", 404),
        ("/v1/capabilities/{namespace}/{action}", "/v1/capabilities/demo/echo", 200),
        ("/v1/capabilities/{namespace}/{action}", "/v1/capabilities/demo/none", 404),
    ] {
        assert_eq!(hub.ask("get", path, name, Ask::default()).await, status);
    }
    for path in [
        "/supported",
        "/livez",
        "/readyz",
        "/health",
        "/metrics",
        "/.well-known/agent-guide.json",
        "/.well-known/agent.json",
        "/llms.txt",
        "/openapi.json",
    ] {
        assert_eq!(hub.ask("get", path, path, Ask::default()).await, 200);
    }

    // Without its token it takes nothing, and says so in the same shapes.
    let fresh = hub.api.draft().await;
    let code = json!([hub.api.stack.contracts.usdc, "0x"]);
    hub.api.stack.anvil.rpc("anvil_setCode", code).await.unwrap();
    let header = fresh.header();
    let last = Ask::body(call("openapi-9"));
    assert_eq!(hub.ask("post", invoke, invoke, last.with(&header)).await, 503);
    let order = Ask::body(body(2, &fresh)).by(SHOP);
    assert_eq!(hub.ask("post", "/verify", "/verify", order).await, 503);

    // Nothing that the document has is forgotten here.
    for (path, methods) in hub.document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let prefix = format!("{method} {path} ");
            assert!(hub.seen.iter().any(|seen| seen.starts_with(&prefix)), "{prefix}was not asked");
        }
    }
}
