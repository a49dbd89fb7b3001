//! `POST /v1/invoke`: unpaid calls are told the price, paid calls are settled and served.

use super::{
    Edge, PaymentMethods, Site, Sunset, Tier, TrustRoot,
    agent::Invoker,
    capability::{Capability, Registration},
    challenge::{Challenge, Tongue, header_text, usdc},
    envelope::{Invocation, MAX_BODY_BYTES, check_media_type},
    error::ApiError,
    payment::{Paid, disabled, latest_pull, ledger_down, settle},
    upstream::Passed,
};
use crate::{
    eip3009::{Authorization, Unverified, domain},
    lifecycle::Status,
    metrics::INVOKE_TOTAL,
    telemetry::call_span,
    x402::{
        Network, Offer, PAYMENT_RESPONSE, PAYMENT_SIGNATURE, Payment, Receipt, Subcause, Version,
        X_PAYMENT, X_PAYMENT_RESPONSE,
    },
};
use axum::{
    Json,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::Utc;
use serde_json::json;
use std::{sync::Arc, time::Instant};
use tracing::Instrument;

/// Largest body whose input is held against its schema at once; larger ones leave the async threads.
const MAX_INLINE_BYTES: usize = 16 * 1024;
/// Where the end of an action is explained.
const DEPRECATION: &str = "<https://jecp.dev/errors/capability_deprecated>; rel=\"deprecation\"";

/// What is known of a call, for its answer.
#[derive(Debug, Default)]
struct Asked<'a> {
    id: Option<String>,
    capability: Option<&'a Capability>,
}

/// A call that was read.
struct Call<'a> {
    capability: &'a Capability,
    invocation: Arc<Invocation>,
    headers: &'a HeaderMap,
    body: Bytes,
}

/// The handler.
pub(super) async fn invoke(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut asked = Asked::default();
    let span = call_span(&parts.headers);
    let answered = async {
        // Before any money moves.
        let Some(_place) = edge.pools.invoke.enter() else {
            return Err(ApiError::Degraded(
                "too many calls are being answered now; no money moved".to_owned(),
            ));
        };
        answer(&edge, &parts.headers, body, &mut asked).await
    };
    let answered = answered.instrument(span.clone()).await;
    let code = match &answered {
        Ok(response) if response.status() == StatusCode::PAYMENT_REQUIRED => "PAYMENT_REQUIRED",
        Ok(_) => "",
        Err(error) => error.code(),
    };
    let mut response = answered.unwrap_or_else(|error| {
        let methods = asked.capability.map(|capability| capability.methods);
        error.respond(asked.id.as_deref(), methods)
    });
    let (namespace, action) = asked
        .capability
        .map_or(("", ""), |capability| (capability.namespace.as_str(), capability.action.as_str()));
    span.record("http.response.status_code", response.status().as_u16());
    INVOKE_TOTAL.add(1, [namespace, action, response.status().as_str(), code]);
    if let Some(sunset) = asked.capability.and_then(|capability| capability.sunset.as_ref()) {
        announce(&edge, sunset, &mut response);
    }
    if let Some(request_id) = parts.headers.get("x-request-id") {
        response.headers_mut().insert("x-request-id", request_id.clone());
    }
    response
}

/// The gates in their order, and what is behind them.
async fn answer<'a>(
    edge: &'a Arc<Edge>,
    headers: &HeaderMap,
    body: Body,
    asked: &mut Asked<'a>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    check_media_type(headers)?;
    let body = to_bytes(body, MAX_BODY_BYTES)
        .await
        .map_err(|_| ApiError::TooLarge("the body is larger than 10 MB"))?;
    let invocation = Invocation::parse(&body)?;
    asked.id = Some(invocation.id.clone());
    let invocation = Arc::new(invocation.keyed(headers)?);
    let caller = Invoker::identify(edge, headers, &invocation).await?;
    let capability = find(edge, &invocation)?;
    asked.capability = Some(capability);
    let admitted = caller.admit(edge, capability).await;
    let call = Call { capability, invocation, headers, body };

    // What was taken is answered, whatever is refused by now: so a payment is read in any case.
    let refusal = match admitted {
        Ok(()) => refusal(&call).await?,
        Err(refusal) => Some(refusal),
    };
    let payment = match (payment_header(headers), refusal) {
        (Err(_), Some(refusal)) | (Ok(None), Some(refusal)) => return Err(refusal),
        (Err(error), None) => return Err(error),
        (Ok(None), None) => {
            caller.afford(capability.price)?;
            return unpaid(edge, &caller, &call).await;
        }
        (Ok(Some(header)), refusal) => (header, refusal),
    };
    let ((version, header), refusal) = payment;
    let Some(site) = edge.health.site() else {
        return Err(refusal.unwrap_or_else(|| match edge.health.trust_root() {
            TrustRoot::Mismatch => disabled(),
            TrustRoot::Ok | TrustRoot::Unknown => closed(),
        }));
    };
    let payment = match Payment::decode(version, header.as_bytes()) {
        Ok(payment) => Arc::new(payment),
        Err(subcause) => return Err(refusal.unwrap_or_else(|| unreadable(&site, subcause))),
    };
    // The switch comes first: then nothing is said of a payment.
    let offer = site.offer(capability, &edge.public_url);
    let refusal = match refusal {
        None if !site.intake.is_disabled() => offer.is_claimed_by(&payment).err().map(misclaimed),
        refusal => refusal,
    };
    let refusal = refusal.or_else(|| caller.afford(capability.price).err());
    // The work goes on when the caller hangs up: what is paid must be served and stored.
    let work = {
        let (edge, site, caller) = (Arc::clone(edge), Arc::clone(&site), caller.clone());
        let (capability, invocation) = (capability.clone(), Arc::clone(&call.invocation));
        let payment = Arc::clone(&payment);
        async move { settle(&edge, &site, &caller, &capability, &invocation, &payment, refusal).await }
    };
    let settled = edge.work.spawn(work.in_current_span()).await.map_err(|panic| {
        tracing::error!(%panic, "ALARM: settling a payment panicked");
        ApiError::Pending { status: Status::SettlePending, tx_hash: None }
    })?;
    let paid = settled.map_err(|error| elsewhere(&site, &payment, error))?;
    let tier = caller.tier(&site, paid.payer).await;
    completed(&site, edge, &call.invocation, version, &paid, (tier, started))
}

/// What is called.
fn find<'a>(edge: &'a Edge, invocation: &Invocation) -> Result<&'a Capability, ApiError> {
    let all = edge.catalogue.all();
    let asked = |sold: &&Capability| invocation.asks_for(&sold.namespace, &sold.action);
    all.iter().find(asked).ok_or_else(|| {
        let known = all.iter().any(|other| other.namespace == invocation.namespace());
        if known { ApiError::ActionNotFound } else { ApiError::CapabilityNotFound }
    })
}

/// Why a call is refused before anybody asks how it is paid.
async fn refusal(call: &Call<'_>) -> Result<Option<ApiError>, ApiError> {
    let Call { capability, invocation, body, headers } = call;
    if let Some(sunset) = capability.sunset.as_ref().filter(|sunset| sunset.is_over(Utc::now())) {
        let (capability, sunset) = (capability.name(), sunset.clone());
        return Ok(Some(ApiError::Deprecated { capability, sunset }));
    }
    if let Some(schema) = &capability.input_schema {
        let bytes = body.len();
        let faults = if bytes > MAX_INLINE_BYTES {
            let (schema, invocation) = (Arc::clone(schema), Arc::clone(invocation));
            tokio::task::spawn_blocking(move || schema.faults(&invocation.input, bytes))
                .await
                .map_err(|_| ApiError::Internal)?
        } else {
            schema.faults(&invocation.input, bytes)
        };
        if !faults.is_empty() {
            return Ok(Some(ApiError::InputSchema(faults)));
        }
    }
    let pays = headers.contains_key(X_PAYMENT) || headers.contains_key(PAYMENT_SIGNATURE);
    if pays && !capability.methods.take_x402() {
        return Ok(Some(ApiError::NotAccepted(Subcause::CapabilityWalletOnly)));
    }
    Ok(None)
}

/// A call without payment: from the caller's wallet, if he has one, else its price.
async fn unpaid(edge: &Edge, caller: &Invoker, call: &Call<'_>) -> Result<Response, ApiError> {
    let Call { capability, invocation, headers, body } = call;
    let tongue = Tongue::of(headers);
    let upstream = edge.upstream.as_ref().filter(|_| capability.methods.take_stripe());
    let mut remaining = None;
    // Who has no credentials has no wallet; the hub says so where nothing else would do.
    if let Some(upstream) = upstream
        && (tongue == Tongue::Jecp || capability.methods == PaymentMethods::Stripe)
    {
        not_paid_already(edge, caller, invocation).await?;
        match upstream.pass(headers, body.clone()).await? {
            Passed::Answer(response) => return Ok(response),
            Passed::Short(known) => remaining = known,
        }
    }
    let offer = match capability.methods.take_x402() {
        true => offer(edge, capability).map(Some),
        false => Ok(None),
    };
    let offer = match (offer, upstream) {
        (Ok(offer), _) => offer,
        // The wallet goes on without it.
        (Err(_), Some(_)) => None,
        // Nobody shall sign what would not be taken, and no 402 is without a way to pay (C-38).
        (Err(error), None) => return Err(error),
    };
    let topup = upstream.map(|upstream| upstream.topup_url().clone());
    if offer.is_none() && topup.is_none() {
        return Err(closed());
    }
    let price = capability.price;
    Challenge { invocation, price, offer, topup, remaining, tongue }.respond()
}

/// A wallet does not pay for a request for which an x402 payment is on its way, or came in (C-55).
async fn not_paid_already(
    edge: &Edge,
    caller: &Invoker,
    invocation: &Invocation,
) -> Result<(), ApiError> {
    let (Invoker::Agent(agent), Some(site)) = (caller, edge.health.site()) else { return Ok(()) };
    let found = async {
        let mut tx = site.ledger.read().await?;
        tx.settlement_by_request(agent.id(), invocation.request_id()).await
    };
    match found.await.map_err(|error| ledger_down(&error))? {
        Some(known) if known.status.is_paid() => Err(ApiError::DuplicateRequest),
        Some(known) => {
            let tx_hash = latest_pull(&site, &known).await?;
            Err(ApiError::Pending { status: known.status, tx_hash })
        }
        None => Ok(()),
    }
}

/// What is asked for with x402, if a payment would be taken now, by what was seen of the ledger last;
/// who pays is told by the ledger itself.
fn offer(edge: &Edge, capability: &Capability) -> Result<Offer, ApiError> {
    let site = edge.health.site().ok_or_else(closed)?;
    if let Some(shut) = site.intake.shut() {
        return Err(ApiError::Degraded(shut.message().to_owned()));
    }
    if site.intake.is_held(capability.id) {
        return Err(ApiError::NotSold);
    }
    if site.registrations.get(capability.id) != Some(Registration::Active) {
        return Err(ApiError::Degraded(
            "this capability is not registered at the Splitter, so it cannot be paid".to_owned(),
        ));
    }
    Ok(site.offer(capability, &edge.public_url))
}

fn closed() -> ApiError {
    ApiError::Degraded("this hub cannot take payments yet".to_owned())
}

/// A payment header that is none.
fn unreadable(site: &Site, subcause: Subcause) -> ApiError {
    match subcause {
        _ if site.intake.is_disabled() => disabled(),
        Subcause::NetworkUnsupported => ApiError::NotAccepted(subcause),
        _ => refused(subcause, "the payment header cannot be read"),
    }
}

/// A payment whose claims are not what was offered.
fn misclaimed(subcause: Subcause) -> ApiError {
    let message = match subcause {
        Subcause::NetworkUnsupported => return ApiError::NotAccepted(subcause),
        Subcause::NetworkMismatch => "accepted.network is not the one that was offered",
        Subcause::AssetMismatch => "accepted has another token than was offered",
        Subcause::PaytoMismatch => "accepted.payTo is not the Splitter",
        Subcause::AmountMismatch => "accepted.amount is not the price",
        Subcause::Expired => "accepted.maxTimeoutSeconds is not what is offered now",
        _ => "accepted is not what was offered",
    };
    refused(subcause, message)
}

/// A signature that is good on another network says so.
fn elsewhere(site: &Site, payment: &Payment, error: ApiError) -> ApiError {
    let ApiError::PaymentInvalid { subcause: Subcause::SignatureInvalid, .. } = error else {
        return error;
    };
    let signed = || {
        let (authorization, signature) = (&payment.authorization, &payment.signature);
        Authorization::<Unverified>::new(authorization.clone(), signature.clone())
    };
    let mut others = Network::ALL.into_iter().filter(|network| *network != site.network);
    let found = others.find(|network| {
        signed().signed_by_payer(&domain(&network.usdc(), network.chain_id())).is_ok()
    });
    match found {
        Some(_) => refused(Subcause::NetworkMismatch, "signed for another network"),
        None => error,
    }
}

fn refused(subcause: Subcause, message: &str) -> ApiError {
    ApiError::PaymentInvalid { subcause, message: message.to_owned(), tx_hash: None }
}

/// The end of an action, on what it answers: when it is refused for it, and for 30 days before
///
fn announce(edge: &Edge, sunset: &Sunset, response: &mut Response) {
    let told = response.status().is_success()
        || [StatusCode::PAYMENT_REQUIRED, StatusCode::GONE].contains(&response.status());
    if !told || !sunset.is_near(Utc::now()) {
        return;
    }
    let at = sunset.at.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let headers = response.headers_mut();
    if let Ok(at) = HeaderValue::from_str(&at) {
        headers.insert(HeaderName::from_static("sunset"), at);
    }
    headers.insert(HeaderName::from_static("deprecation"), HeaderValue::from_static("true"));
    headers.insert(header::LINK, HeaderValue::from_static(DEPRECATION));
    if let Some(successor) = &sunset.successor {
        let base = edge.public_url.as_str().trim_end_matches('/');
        let link = format!("<{base}/v1/capabilities/{successor}>; rel=\"successor-version\"");
        if let Ok(link) = HeaderValue::from_str(&link) {
            headers.append(header::LINK, link);
        }
    }
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
        return Err(refused(Subcause::DuplicatePaymentHeader, "more than one payment header"));
    }
    Ok(first)
}

/// 200: the provider's result, the bill, and the receipt in the client's own header.
fn completed(
    site: &Site,
    edge: &Edge,
    invocation: &Invocation,
    version: Version,
    paid: &Paid,
    (tier, started): (Tier, Instant),
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
            "cost_usdc": usdc(paid.amount),
            "transaction_id": paid.settlement,
            "x402": {
                "settlement_tx": paid.pull.tx_hash,
                "network": network,
                "payer": paid.payer,
                "facilitator": site.facilitator_url(&edge.public_url),
                "chain_id": site.network.chain_id(),
                "log_index": paid.pull.log_index,
            },
        },
        "execution": {
            "duration_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "engine": "x402-keeper",
            "trust_tier": tier,
        },
    });
    let mut response = Json(body).into_response();
    let receipt = receipt.encode(version).map_err(|_| ApiError::Internal)?;
    response.headers_mut().insert(HeaderName::from_static(name), header_text(&receipt)?);
    Ok(response)
}
