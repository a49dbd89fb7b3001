//! `/.well-known/agent-guide.json` (S05 4): who this hub is, how it is called and paid.

use super::super::{Edge, PaymentMethods};
use axum::{Json, extract::State, response::IntoResponse};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use std::sync::Arc;

/// The protocol's version; digits only (C-90).
const VERSION: &str = "1.1.0";

pub(super) async fn agent_guide(State(edge): State<Arc<Edge>>) -> impl IntoResponse {
    Json(guide(&edge))
}

fn guide(edge: &Edge) -> Value {
    let hub = &edge.hub;
    let names: Vec<_> = edge.catalogue.all().iter().map(|one| one.name()).collect();
    let page = edge.at("/llms.txt");
    let mut contact = json!({"support": hub.support.as_ref().unwrap_or(&page)});
    if let Some(security) = &hub.security {
        contact["security"] = json!(security);
    }
    let register = hub.register_url.as_ref().map_or(page, ToString::to_string);
    let mut guide = json!({
        "version": VERSION,
        "spec_version_pinned": VERSION,
        "last_updated": Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        "vendor_prefix": hub.vendor_prefix,
        "hub_name": hub.name,
        "hub_url": edge.at(""),
        "identity": {
            "protocol": "JECP",
            "operator": hub.operator.as_ref().unwrap_or(&hub.name),
        },
        "endpoints": {
            "invoke": edge.at("/v1/invoke"),
            "capabilities": edge.at("/v1/capabilities"),
            "openapi": edge.at("/openapi.json"),
            "health": edge.at("/health"),
        },
        "supported_capabilities": names,
        "capabilities": names,
        "conformance_levels": ["Hub-Core"],
        "register_endpoint": register,
        "contact": contact,
        "currencies_accepted": ["USDC"],
        "payment_methods_supported": edge.payment_methods(PaymentMethods::Both),
        "quickstart": [
            {"step": 1, "action": "Choose a capability", "method": "GET",
             "url": edge.at("/v1/capabilities")},
            {"step": 2, "action": "Call it; the answer is 402 with what it costs", "method": "POST",
             "url": edge.at("/v1/invoke")},
            {"step": 3, "action": "Sign one of its accepts and repeat the call with it in X-PAYMENT",
             "method": "POST", "url": edge.at("/v1/invoke")},
        ],
        "error_recovery": {
            "AUTH_REQUIRED": "Send X-Agent-ID and X-API-Key, or pay with x402 where the hub asks for no account.",
            "INSUFFICIENT_BALANCE": "Pay with x402, or top up the wallet at the hub that holds it.",
            "INSUFFICIENT_TRUST": "Complete more calls: tiers are earned by calls that were served.",
        },
        "related_resources": {
            "capabilities_url": edge.at("/v1/capabilities"),
            "openapi_url": edge.at("/openapi.json"),
            "llms_txt": edge.at("/llms.txt"),
            "agent_card": edge.at("/.well-known/agent.json"),
        },
    });
    if let Some(operator) = &hub.operator {
        guide["hub_operator"] = json!(operator);
    }
    if let Some(site) = edge.x402_offered() {
        let network = site.network.v1();
        guide["x402"] = json!({
            "facilitator_url": site.facilitator_url(&edge.public_url),
            "facilitator_operator": hub.operator.as_ref().unwrap_or(&hub.name),
            "supported_networks": [network],
            "supported_assets": [{
                "address": site.splitter.asset,
                "symbol": "USDC",
                "decimals": 6,
                "network": network,
            }],
            "splitter_contract": site.splitter.address,
            "split_ratio": "85/10/5",
            "x402_version": 1,
            "spec_url": "https://www.x402.org",
        });
    }
    guide
}
