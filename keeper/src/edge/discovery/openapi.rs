//! `/openapi.json`: every route and what it answers, made from one table.
//!
//! A test holds the table against the routes in the source, both ways, and real answers against its
//! schemas (tests/suite/openapi.rs): a new route needs a row here.

use super::super::Edge;
use axum::{Json, extract::State, response::IntoResponse};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Shapes of bodies, by name: JSON Schema, as OpenAPI 3.1 takes it.
const SCHEMAS: &str = include_str!("schemas.json");
/// What a body that is no JSON is called in the table.
const TEXT: &str = "text";

/// Who may ask.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    /// Everybody.
    All,
    /// Who has the operator's token.
    Operator,
    /// Callers of the facilitator API.
    Callers,
}

/// A route.
struct Row {
    method: &'static str,
    path: &'static str,
    what: &'static str,
    who: For,
    /// Shape of the request's body.
    takes: Option<&'static str>,
    /// Names of the query's parameters.
    query: &'static [&'static str],
    /// Status and shape of its answers.
    answers: &'static [(u16, &'static str)],
}

/// A route without body and query.
const fn look(
    path: &'static str,
    what: &'static str,
    who: For,
    answers: &'static [(u16, &'static str)],
) -> Row {
    Row { method: "get", path, what, who, takes: None, query: &[], answers }
}

/// A route that takes a body.
const fn give(
    path: &'static str,
    what: &'static str,
    who: For,
    takes: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Row {
    Row { method: "post", path, what, who, takes: Some(takes), query: &[], answers }
}

/// What a call may be answered.
const INVOKED: &[(u16, &str)] = &[
    (200, "Completed"),
    (400, "Failure"),
    (401, "Failure"),
    (402, "PaymentRequired"),
    (403, "Failure"),
    (404, "Failure"),
    (408, "Failure"),
    (409, "Failure"),
    (410, "Failure"),
    (413, "Failure"),
    (415, "Failure"),
    (422, "Failure"),
    (429, "Failure"),
    (500, "Failure"),
    (502, "Failure"),
    (503, "Failure"),
    (504, "Failure"),
];
/// What an agent may be answered that asks for money back.
const GIVEN_BACK: &[(u16, &str)] = &[
    (202, "Object"),
    (400, "Failure"),
    (401, "Failure"),
    (404, "Failure"),
    (408, "Failure"),
    (409, "Failure"),
    (413, "Failure"),
    (422, "Failure"),
    (429, "Failure"),
    (500, "Failure"),
    (503, "Failure"),
];
/// What the operator may be answered.
const ORDERED: &[(u16, &str)] = &[
    (200, "Object"),
    (202, "Object"),
    (400, "Error"),
    (401, "Error"),
    (404, "Error"),
    (408, "Failure"),
    (409, "Object"),
    (502, "Object"),
    (503, "Error"),
];
/// What a payment may be answered that somebody asks after.
const FOUND: &[(u16, &str)] =
    &[(200, "Payment"), (400, "Error"), (401, "Error"), (404, "Error"), (503, "Error")];

const ROWS: &[Row] = &[
    give(
        "/v1/invoke",
        "Call a capability; pay with X-PAYMENT or PAYMENT-SIGNATURE",
        For::All,
        "Call",
        INVOKED,
    ),
    give("/v1/jecp", "Its old name, until 2028", For::All, "Call", INVOKED),
    give(
        "/v1/refunds/request",
        "How the refund of a payment stands that came to nothing",
        For::All,
        "Object",
        GIVEN_BACK,
    ),
    give("/v1/refunds", "Its other name", For::All, "Object", GIVEN_BACK),
    give(
        "/verify",
        "Would this payment settle? Nothing is reserved",
        For::Callers,
        "Order",
        &[
            (200, "Verified"),
            (400, "Verified"),
            (401, "Error"),
            (404, "Error"),
            (408, "Failure"),
            (429, "Error"),
            (503, "Verified"),
        ],
    ),
    give(
        "/settle",
        "Settle a payment, once",
        For::Callers,
        "Order",
        &[
            (200, "Settled"),
            (400, "Settled"),
            (401, "Error"),
            (404, "Error"),
            (408, "Failure"),
            (429, "Error"),
            (503, "Settled"),
        ],
    ),
    look("/supported", "What is settled here", For::All, &[(200, "Supported"), (503, "Supported")]),
    Row {
        method: "get",
        path: "/v1/payments",
        what: "A payment, by its authorization",
        who: For::Callers,
        takes: None,
        query: &["payer", "nonce"],
        answers: FOUND,
    },
    look(
        "/v1/payments/{tx_hash}",
        "A payment, by any hash ever signed for it",
        For::Callers,
        FOUND,
    ),
    look(
        "/v1/traces/{trace_id}",
        "Everything that the ledger knows of a payment",
        For::Operator,
        &[(200, "Object"), (400, "Error"), (401, "Error"), (404, "Error"), (503, "Error")],
    ),
    look("/v1/status/x402", "Where everything stands", For::Operator, ORDERED),
    give("/admin/feature-flags", "Switch payments or signing", For::Operator, "Object", ORDERED),
    give("/admin/keeper/replay-log", "Have a log read again", For::Operator, "Object", ORDERED),
    look(
        "/admin/reconciler/attribution-audit",
        "What was settled, recorded and came in, per capability",
        For::Operator,
        ORDERED,
    ),
    look("/livez", "Whether the process runs", For::All, &[(200, TEXT), (503, "Object")]),
    look("/readyz", "Whether payments can be taken", For::All, &[(200, "Ready"), (503, "Ready")]),
    look("/health", "How the daemon is", For::All, &[(200, "Health"), (503, "Health")]),
    look("/metrics", "Numbers, for Prometheus", For::All, &[(200, TEXT)]),
    look(
        "/.well-known/agent-guide.json",
        "Who this hub is, and how it is called",
        For::All,
        &[(200, "AgentGuide")],
    ),
    look(
        "/.well-known/agent.json",
        "The card that agents of A2A read",
        For::All,
        &[(200, "AgentCard")],
    ),
    Row {
        method: "get",
        path: "/v1/capabilities",
        what: "What is sold, page by page",
        who: For::All,
        takes: None,
        query: &["limit", "cursor"],
        answers: &[(200, "Capabilities"), (400, "Failure")],
    },
    look(
        "/v1/capabilities/{namespace}",
        "One of them, its name as one segment",
        For::All,
        &[(200, "Capability"), (404, "Failure")],
    ),
    look(
        "/v1/capabilities/{namespace}/{action}",
        "One of them",
        For::All,
        &[(200, "Capability"), (404, "Failure")],
    ),
    look("/llms.txt", "The same as prose", For::All, &[(200, TEXT)]),
    look("/openapi.json", "This document", For::All, &[(200, "Object")]),
];

pub(super) async fn openapi(State(edge): State<Arc<Edge>>) -> impl IntoResponse {
    Json(document(&edge.hub.name, &edge.at("")))
}

fn document(name: &str, url: &str) -> Value {
    let mut paths = Map::new();
    for row in ROWS {
        let at = paths.entry(row.path).or_insert_with(|| json!({}));
        at[row.method] = row.operation();
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": name, "version": env!("CARGO_PKG_VERSION")},
        "servers": [{"url": url}],
        "paths": paths,
        "components": {
            // A test reads it; a broken one is empty here.
            "schemas": serde_json::from_str::<Value>(SCHEMAS).unwrap_or_default(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    })
}

impl Row {
    fn operation(&self) -> Value {
        let parameter = |name: &str, place: &str| {
            json!({"name": name, "in": place, "required": place == "path",
                   "schema": {"type": "string"}})
        };
        let mut parameters: Vec<_> = self
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| parameter(name, "path"))
            .collect();
        parameters.extend(self.query.iter().map(|name| parameter(name, "query")));
        if self.path == "/v1/invoke" {
            let headers = ["X-PAYMENT", "PAYMENT-SIGNATURE", "X-Request-Id"];
            parameters.extend(headers.map(|name| parameter(name, "header")));
        }
        let mut responses = Map::new();
        for (status, shape) in self.answers {
            let mut response = json!({"description": reason(*status)});
            response["content"] = content(shape);
            responses.insert(status.to_string(), response);
        }
        let mut operation =
            json!({"summary": self.what, "parameters": parameters, "responses": responses});
        if let Some(shape) = self.takes {
            operation["requestBody"] = json!({"required": true, "content": content(shape)});
        }
        if self.who != For::All {
            operation["security"] = json!([{"bearer": []}]);
        }
        operation
    }
}

fn content(shape: &str) -> Value {
    if shape == TEXT {
        return json!({"text/plain": {"schema": {"type": "string"}}});
    }
    let shape = format!("#/components/schemas/{shape}");
    json!({"application/json": {"schema": {"$ref": shape}}})
}

fn reason(status: u16) -> &'static str {
    axum::http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every shape that the table names is there, and none that nothing names.
    #[test]
    fn the_shapes_are_those_of_the_table() {
        let schemas: Map<String, Value> = serde_json::from_str(SCHEMAS).unwrap();
        let document = document("hub", "https://hub.example").to_string();
        for name in schemas.keys() {
            let reference = format!("#/components/schemas/{name}\"");
            assert!(document.contains(&reference), "nothing is a {name}");
        }
        for reference in document.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "there is no {name}");
        }
    }
}
