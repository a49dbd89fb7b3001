//! `POST /v1/invoke`: unpaid calls are told the price, paid calls are settled and served.

use super::{
    Edge, Site, TrustRoot,
    capability::{Capability, Registration},
    envelope::{Invocation, MAX_BODY_BYTES},
    error::ApiError,
    payment::{Paid, disabled, ledger_down, settle},
};
use crate::lifecycle::Status;
use crate::metrics::INVOKE_TOTAL;
use crate::telemetry::call_span;
use crate::x402::{
    MicroUsdc, PAYMENT_REQUIRED, PAYMENT_RESPONSE, PAYMENT_SIGNATURE, Payment, Receipt, Subcause,
    Version, X_PAYMENT, X_PAYMENT_RESPONSE, encode_header,
};
use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Number, Value, json};
use std::{sync::Arc, time::Instant};
use tracing::Instrument;

/// The handler.
pub(super) async fn invoke(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let request_id = parts.headers.get("x-request-id").cloned();
    let mut id = None;
    let mut called = None;
    let span = call_span(&parts.headers);
    let answered = async {
        // Before any money moves.
        let Some(_place) = edge.pools.invoke.enter() else {
            return Err(ApiError::Degraded(
                "too many calls are being answered now; no money moved".to_owned(),
            ));
        };
        answer(&edge, &parts.headers, body, &mut id, &mut called).await
    };
    let answered = answered.instrument(span.clone()).await;
    let code = match &answered {
        Ok(response) if response.status() == StatusCode::PAYMENT_REQUIRED => "PAYMENT_REQUIRED",
        Ok(_) => "",
        Err(error) => error.code(),
    };
    let mut response = answered.unwrap_or_else(|error| error.respond(id.as_deref()));
    let (capability, action) = called.unwrap_or_default();
    span.record("http.response.status_code", response.status().as_u16());
    INVOKE_TOTAL.add(1, [&capability, &action, response.status().as_str(), code]);
    if let Some(request_id) = request_id {
        response.headers_mut().insert("x-request-id", request_id);
    }
    response
}

async fn answer(
    edge: &Arc<Edge>,
    headers: &HeaderMap,
    body: Body,
    id: &mut Option<String>,
    called: &mut Option<(String, String)>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| ApiError::TooLarge)?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let invocation = Invocation::parse(content_type, &body)?;
    *id = Some(invocation.id.clone());
    let capability = edge
        .catalogue
        .all()
        .iter()
        .find(|capability| invocation.asks_for(&capability.namespace, &capability.action));
    let Some(capability) = capability else {
        let mut all = edge.catalogue.all().iter();
        let sold = all.any(|other| other.namespace == invocation.namespace());
        return Err(if sold { ApiError::ActionNotFound } else { ApiError::CapabilityNotFound });
    };
    *called = Some((capability.namespace.clone(), capability.action.clone()));

    let payment = payment_header(headers)?;
    let Some(site) = edge.health.site() else {
        return Err(match (edge.health.trust_root(), &payment) {
            (TrustRoot::Mismatch, Some(_)) => disabled(),
            _ => ApiError::Degraded("this hub cannot take payments yet".to_owned()),
        });
    };
    let Some((version, value)) = payment else {
        // Nobody shall sign what would not be taken. There is no other way to pay yet, so that a 402
        // would offer nothing.
        if let Some(shut) = site.intake.shut() {
            return Err(ApiError::Degraded(shut.message().to_owned()));
        }
        if site.is_held(capability).await.map_err(|error| ledger_down(&error))? {
            return Err(ApiError::NotSold);
        }
        return challenge(edge, &site, capability, &invocation);
    };
    let payment = Payment::decode(version, value.as_bytes()).map_err(|subcause| {
        if site.intake.is_disabled() {
            return disabled();
        }
        ApiError::PaymentInvalid {
            subcause,
            message: "the payment header cannot be read".to_owned(),
            tx_hash: None,
        }
    })?;
    // The work goes on when the caller hangs up: what is paid must be served and stored.
    let work = {
        let (edge, site) = (Arc::clone(edge), Arc::clone(&site));
        let (capability, invocation) = (capability.clone(), invocation.clone());
        async move { settle(&edge, &site, &capability, &invocation, &payment).await }
    };
    let paid = edge.work.spawn(work.in_current_span()).await.map_err(|panic| {
        tracing::error!(%panic, "ALARM: settling a payment panicked");
        ApiError::Pending { status: Status::SettlePending, tx_hash: None }
    })??;
    completed(&site, edge, &invocation, version, &paid, started)
}

/// The one payment header of a call, if it has any. Two are refused, whatever their spelling
///
fn payment_header(headers: &HeaderMap) -> Result<Option<(Version, &HeaderValue)>, ApiError> {
    let v1 = headers.get_all(X_PAYMENT).iter().map(|value| (Version::V1, value));
    let v2 = headers.get_all(PAYMENT_SIGNATURE).iter().map(|value| (Version::V2, value));
    let mut found = v1.chain(v2);
    let first = found.next();
    // Proxies fold repeated headers into one with commas; base64 has none.
    let folded = first.is_some_and(|(_, value)| value.as_bytes().contains(&b','));
    if found.next().is_some() || folded {
        return Err(ApiError::PaymentInvalid {
            subcause: Subcause::DuplicatePaymentHeader,
            message: "more than one payment header".to_owned(),
            tx_hash: None,
        });
    }
    Ok(first)
}

/// 402: canonical x402 v1 in the body, x402 v2 in the header, the JECP block beside them.
///
/// Stock clients want `error` to be a string (docs/decisions/0002); JECP agents, who will have
/// credentials, will get the envelope's object there.
fn challenge(
    edge: &Edge,
    site: &Site,
    capability: &Capability,
    invocation: &Invocation,
) -> Result<Response, ApiError> {
    if site.registrations.get(capability.id) != Some(Registration::Active) {
        return Err(ApiError::Degraded(
            "this capability is not registered at the Splitter, so it cannot be paid".to_owned(),
        ));
    }
    let offer = site.offer(capability, &edge.public_url);
    let error = "payment required: repeat the call with a signed EIP-3009 authorization";
    let body = json!({
        "x402Version": 1,
        "error": error,
        "accepts": [offer.v1_requirements()],
        "jecp": "1.0",
        "id": invocation.id,
        "status": "failed",
        "code": "PAYMENT_REQUIRED",
        "details": {
            "required_usdc": usdc(capability.price)?,
            "remaining_usdc": 0.0,
            "subcause": "x402_or_wallet",
        },
        "documentation_url": "https://jecp.dev/errors/payment_required",
        "payment": offer.jecp_block(),
        "next_action": {"type": "x402_settle", "hint": error},
    });
    let v2 = encode_header(&offer.v2_challenge(error)).map_err(|_| ApiError::Internal)?;
    let mut response = (StatusCode::PAYMENT_REQUIRED, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(PAYMENT_REQUIRED, text(&v2)?);
    headers.insert(
        header::WWW_AUTHENTICATE,
        text(&format!("x402, scheme=\"exact\", network=\"{}\"", site.network))?,
    );
    headers.insert(header::RETRY_AFTER, HeaderValue::from(30));
    Ok(response)
}

/// 200: the provider's result, the bill, and the receipt in the client's own header.
fn completed(
    site: &Site,
    edge: &Edge,
    invocation: &Invocation,
    version: Version,
    paid: &Paid,
    started: Instant,
) -> Result<Response, ApiError> {
    let receipt =
        Receipt { transaction: paid.pull.tx_hash, network: site.network, payer: paid.payer };
    let (name, network) = match version {
        Version::V1 => (X_PAYMENT_RESPONSE, site.network.v1()),
        Version::V2 => (PAYMENT_RESPONSE, site.network.caip2()),
    };
    let body = json!({
        "jecp": "1.0",
        "id": invocation.id,
        "status": "completed",
        "result": paid.result,
        "replayed": paid.replayed,
        "billing": {
            "method": "x402",
            "charged": !paid.replayed,
            "cost_usdc": usdc(paid.amount)?,
            "transaction_id": paid.settlement,
            "x402": {
                "settlement_tx": paid.pull.tx_hash,
                "network": network,
                "payer": paid.payer,
                "facilitator": edge.public_url.as_str().trim_end_matches('/'),
                "chain_id": site.network.chain_id(),
                "log_index": paid.pull.log_index,
            },
        },
        "execution": {
            "duration_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "engine": "x402-keeper",
            // Without accounts nobody has a history.
            "trust_tier": "bronze",
        },
    });
    let mut response = Json(body).into_response();
    let receipt = receipt.encode(version).map_err(|_| ApiError::Internal)?;
    response.headers_mut().insert(HeaderName::from_static(name), text(&receipt)?);
    Ok(response)
}

/// An amount as the JSON number that JECP shows people. It is parsed from decimal text; nothing is
/// computed with it.
fn usdc(amount: MicroUsdc) -> Result<Value, ApiError> {
    let number: Number = amount.to_string().parse().map_err(|_| ApiError::Internal)?;
    Ok(Value::Number(number))
}

fn text(value: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(value).map_err(|_| ApiError::Internal)
}
