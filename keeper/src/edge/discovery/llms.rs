//! `/llms.txt`: the same for readers of prose (S05 5).

use super::super::Edge;
use axum::{extract::State, http::header, response::IntoResponse};
use std::sync::Arc;

/// Bytes after which no more capabilities are listed; 50 KB are allowed.
const ENOUGH: usize = 40_000;

pub(super) async fn llms(State(edge): State<Arc<Edge>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text(&edge))
}

fn text(edge: &Edge) -> String {
    let mut text = format!(
        "# {name}\n\n\
         > A hub that sells calls, paid one by one.\n\n\
         ## How to call\n\n\
         POST {invoke} with JSON: {{\"jecp\": \"1.0\", \"id\": \"<yours, unique>\", \
         \"capability\": \"<namespace/action>\", \"action\": \"<action>\", \"input\": {{}}}}\n\
         Repeat a call with the same id to get the same answer; nothing is charged twice.\n\n\
         ## How to pay\n\n",
        name = edge.hub.name,
        invoke = edge.at("/v1/invoke"),
    );
    text.push_str(match edge.x402_offered() {
        Some(_) => {
            "An unpaid call is answered 402 with what it costs. Sign the EIP-3009 authorization that \
             it asks for and repeat the call with it in X-PAYMENT (x402 version 1) or \
             PAYMENT-SIGNATURE (version 2). Any x402 client does that. There is nothing to register \
             for.\n\n"
        }
        None => "Payments are not taken now.\n\n",
    });
    text.push_str("## Capabilities\n\n");
    for capability in edge.catalogue.all() {
        if text.len() > ENOUGH {
            text.push_str("- and more, at the address below\n");
            break;
        }
        // Whatever its provider wrote stays on its line.
        let description = capability.description.split_whitespace().collect::<Vec<_>>().join(" ");
        let (name, price) = (capability.name(), capability.price);
        text.push_str(&format!("- {name} (${price} a call): {description}\n"));
    }
    let links = [
        ("Capabilities", "/v1/capabilities"),
        ("Guide for agents", "/.well-known/agent-guide.json"),
        ("OpenAPI", "/openapi.json"),
    ];
    text.push_str("\n## More\n\n");
    for (name, path) in links {
        text.push_str(&format!("- [{name}]({})\n", edge.at(path)));
    }
    text
}
