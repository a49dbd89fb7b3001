//! `/.well-known/agent.json`: the card that agents of A2A read (S05 3).

use super::super::Edge;
use axum::{Json, extract::State, response::IntoResponse};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn agent_card(State(edge): State<Arc<Edge>>) -> impl IntoResponse {
    let skills: Vec<Value> = edge
        .catalogue
        .all()
        .iter()
        .map(|capability| {
            json!({
                "id": capability.name(),
                "name": capability.action,
                "description": capability.description,
                "tags": [capability.namespace],
            })
        })
        .collect();
    Json(json!({
        "name": edge.hub.name,
        "description": "A hub that sells calls, paid one by one.",
        "url": edge.at(""),
        "version": env!("CARGO_PKG_VERSION"),
        "provider": {
            "organization": edge.hub.operator.as_ref().unwrap_or(&edge.hub.name),
            "url": edge.at(""),
        },
        "capabilities": {"streaming": false, "pushNotifications": false},
        // The words of S05 3; x402 needs neither.
        "authentication": {"schemes": ["api_key", "mandate"]},
        "defaultInputModes": ["application/json"],
        "defaultOutputModes": ["application/json"],
        "skills": skills,
        "jecp": {
            "version": "1.0",
            "endpoint": edge.at("/v1/invoke"),
            "capabilities_url": edge.at("/v1/capabilities"),
            "agent_guide": edge.at("/.well-known/agent-guide.json"),
        },
    }))
}
