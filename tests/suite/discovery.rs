//! What anybody may read before they pay is complete, true, and no longer than it may be.

use crate::support::{Answer, call, eventually, flags, hub, invoke, keeper, stack, tools};
use boon::{Compiler, Draft, Schemas};
use sandbox::{Daemon, Stack, StackOptions};
use serde_json::{Value, json};
use std::{env, fs, path::PathBuf};

const GUIDE: &str = "/.well-known/agent-guide.json";
const CARD: &str = "/.well-known/agent.json";

/// A document, as a page in a browser asks for it.
async fn get(url: &str, path: &str) -> Answer {
    let request = reqwest::Client::new().get(format!("{url}{path}"));
    let response = request.header("origin", "https://page.example").send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}

/// What is wrong with a document, if the schemas that JECP publishes are here.
fn faults(schema: &str, document: &Value) -> Option<String> {
    let folder = env::var("JECP_SCHEMAS").map_or_else(
        |_| tools().root().join("../shared/data/jecp"),
        |folder| PathBuf::from(&folder),
    );
    let file = folder.join(schema);
    let Ok(text) = fs::read_to_string(&file) else {
        println!("skipped: {} is not here; JECP_SCHEMAS names its folder", file.display());
        return None;
    };
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.set_default_draft(Draft::V2020_12);
    compiler.enable_format_assertions();
    let at = "https://schema.invalid/published";
    compiler.add_resource(at, serde_json::from_str(&text).unwrap()).unwrap();
    let compiled = compiler.compile(at, &mut schemas).unwrap();
    schemas.validate(document, compiled).err().map(|error| error.to_string())
}

/// A daemon whose documents are those of a real hub, selling that many capabilities.
async fn public(name: &str, sold: usize) -> (Stack, Daemon) {
    let stack = stack(name, StackOptions::default()).await;
    let mut catalogue = stack.catalogue();
    for n in 1..sold {
        let more = stack.catalogue().replace("\"echo\"", &format!("\"echo-{n:03}\""));
        catalogue.push_str(&more.replace("Answers with", "Répond à ".repeat(40).as_str()));
    }
    fs::write(stack.folder.join("large.toml"), catalogue).unwrap();
    let change = |config: String| {
        let config = config.replace("\"catalogue.toml\"", "\"large.toml\"");
        let mut lines: Vec<_> = config.lines().map(ToOwned::to_owned).collect();
        for line in lines.iter_mut().filter(|line| line.starts_with("public_url")) {
            *line = "public_url = \"https://hub.example\"".to_owned();
        }
        lines.push(
            "[hub]\nname = \"Example Hub\"\noperator = \"Example Inc.\"\nvendor_prefix = \"ex\"\n\
             register_url = \"https://hub.example/register\"\nsupport = \"help@hub.example\"\n\
             security = \"security@hub.example\"\n"
                .to_owned(),
        );
        lines.join("\n")
    };
    let mut daemon = stack.spawn(&keeper(), &stack.sqlite(), &[], change).await.unwrap();
    daemon.ready().await.unwrap();
    (stack, daemon)
}

/// what is published validates, and says how this hub is paid.
#[tokio::test]
async fn the_documents_are_those_of_the_protocol() {
    let (stack, daemon) = public("documents", 1).await;
    let guide = get(&daemon.url, GUIDE).await.body;
    assert_eq!(faults("agent-guide.json", &guide), None, "{guide}");
    for field in ["version", "last_updated", "hub_name", "register_endpoint", "contact"] {
        assert!(!guide[field].is_null(), "{field}");
    }
    assert_eq!(guide["version"], "1.1.0");
    assert_eq!(guide["hub_operator"], "Example Inc.");
    assert_eq!(guide["supported_capabilities"], json!(["demo/echo"]));
    assert_eq!(guide["payment_methods_supported"], json!(["x402"]));
    for code in ["AUTH_REQUIRED", "INSUFFICIENT_BALANCE", "INSUFFICIENT_TRUST"] {
        assert!(guide["error_recovery"][code].is_string(), "{code}");
    }
    assert_eq!(
        guide["x402"],
        json!({
            "facilitator_url": "https://hub.example",
            "facilitator_operator": "Example Inc.",
            "supported_networks": ["base-sepolia"],
            "supported_assets": [{"address": stack.contracts.usdc, "symbol": "USDC", "decimals": 6,
                                  "network": "base-sepolia"}],
            "splitter_contract": stack.contracts.splitter,
            "split_ratio": "85/10/5",
            "x402_version": 1,
            "spec_url": "https://www.x402.org",
        })
    );
    let card = get(&daemon.url, CARD).await.body;
    assert_eq!(card["authentication"]["schemes"], json!(["api_key", "mandate"]));
    assert_eq!(card["jecp"]["endpoint"], "https://hub.example/v1/invoke");
    assert_eq!(card["skills"][0]["id"], "demo/echo");
    let unpaid = invoke(&daemon.url, &call("documents-1"), None).await;
    for entry in unpaid.body["payment"]["accepts"].as_array().unwrap() {
        assert_eq!(faults("payment-requirements.json", entry), None, "{entry}");
    }
}

/// x402 is in no document while it is off, and back with the switch.
#[tokio::test]
async fn x402_is_offered_while_it_can_be_paid_with() {
    let (stack, daemon) = public("offered", 1).await;
    for on in [false, true] {
        let value = if on { "on" } else { "off" };
        let arguments = ["set", "x402_enabled", value, "--reason", "a test"];
        let output = flags(&daemon.config, &stack, &arguments).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        eventually("the documents say so", || async {
            let guide = get(&daemon.url, GUIDE).await.body;
            let sold = get(&daemon.url, "/v1/capabilities").await.body;
            let methods = if on { json!(["x402"]) } else { json!([]) };
            guide["x402"].is_object() == on
                && guide["payment_methods_supported"] == methods
                && sold["capabilities"][0]["actions"][0]["payment_methods"] == methods
                && sold["capabilities"][0]["available"] == on
        })
        .await;
    }
}

/// page after page until the end; one by its name; a page of prose that stays short.
#[tokio::test]
async fn a_large_catalogue_is_read_page_by_page() {
    let (_stack, daemon) = public("large", 230).await;
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = get(&daemon.url, &format!("/v1/capabilities?limit=100{cursor}")).await.body;
        assert_eq!(page["total"], 230);
        for capability in page["capabilities"].as_array().unwrap() {
            seen.push(capability["id"].as_str().unwrap().to_owned());
        }
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={}", next.replace('/', "%2F"));
    }
    assert_eq!((pages, seen.len()), (3, 230));
    assert!(seen.is_sorted(), "each once, in order");
    seen.dedup();
    assert_eq!(seen.len(), 230);
    let short = get(&daemon.url, "/v1/capabilities").await.body;
    assert_eq!(short["capabilities"].as_array().unwrap().len(), 50);
    for path in ["/v1/capabilities/demo/echo", "/v1/capabilities/demo%2Fecho"] {
        let one = get(&daemon.url, path).await;
        assert_eq!((one.status, &one.body["id"]), (200, &json!("demo/echo")), "{path}");
        assert_eq!(one.body["actions"][0]["price_usdc"].to_string(), "0.2");
        assert_eq!(one.body["actions"][0]["payment_methods"], json!(["x402"]));
    }
    let none = get(&daemon.url, "/v1/capabilities/demo/none").await;
    assert_eq!((none.status, none.code()), (404, "CAPABILITY_NOT_FOUND"));
    assert_eq!(none.header("cache-control"), "no-store");
    for limit in ["0", "101", "x", "-1", ""] {
        let refused = get(&daemon.url, &format!("/v1/capabilities?limit={limit}")).await;
        assert_eq!((refused.status, refused.code()), (400, "INVALID_REQUEST"), "{limit:?}");
    }
    let prose = get(&daemon.url, "/llms.txt").await;
    let text = prose.body.as_str().unwrap();
    assert!(text.len() <= 50 * 1024, "{}", text.len());
    assert!(text.contains("demo/echo") && text.contains("/v1/capabilities"), "{text}");
}

/// any page may read them, and caches know for how long they hold.
#[tokio::test]
async fn the_documents_may_be_read_and_kept_by_anybody() {
    let url = &hub().await.daemon.url;
    for (path, how) in [
        (GUIDE, "public, max-age=300, s-maxage=600"),
        (CARD, "public, max-age=3600, s-maxage=86400"),
        ("/v1/capabilities", "public, max-age=300, s-maxage=600"),
        ("/v1/capabilities/demo/echo", "public, max-age=300, s-maxage=600"),
        ("/llms.txt", "public, max-age=300, s-maxage=600"),
        ("/openapi.json", "public, max-age=300, s-maxage=600"),
    ] {
        let answer = get(url, path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("cache-control"), how, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{path}");
    }
    assert_eq!(get(url, "/health").await.header("cache-control"), "no-cache");
}
