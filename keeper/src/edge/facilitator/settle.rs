//! `POST /settle`: takes a payment's identity for this request, has it pulled, waits. The same request
//! again is the same settlement; any other use of the authorization is refused.

use super::{
    Caller,
    answer::{self, Endpoint, translate},
    requirements::deal,
    verify::{authorize, count, expired, refuse, starting},
    wire::{About, Order, Refusal, read},
};
use crate::{
    edge::{
        Edge, Site,
        error::ApiError,
        payment::{Reserved, disabled, reserve, taken_before, wait_for_pull},
    },
    ledger::{NewSettlement, Settlement},
};
use alloy::primitives::hex;
use axum::{
    extract::{Request, State},
    response::Response,
};
use serde_json::Value;
use std::sync::Arc;

pub(super) async fn settle(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let caller = match edge.caller(&parts.headers) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    let Some(site) = edge.health.site() else { return starting(Endpoint::Settle) };
    let (about, json) = read(body, site.network).await;
    match execute(&edge, &site, caller, &about, json).await {
        Ok((settlement, replayed)) => {
            count(Endpoint::Settle, if replayed { "replayed" } else { "ok" });
            let Some(pull) = settlement.pull else { return starting(Endpoint::Settle) };
            answer::settled(&about, settlement.amount, pull.tx_hash, replayed)
        }
        Err(refusal) => refuse(Endpoint::Settle, caller, &about, &refusal),
    }
}

async fn execute(
    edge: &Edge,
    site: &Site,
    caller: &Caller,
    about: &About,
    json: Result<Value, Refusal>,
) -> Result<(Settlement, bool), Refusal> {
    let order = Order::parse(about, &json?)?;
    let deal = deal(edge, site, caller, &order)?;
    let expired = expired(site, &order);
    let translated = |error: ApiError| translate(Endpoint::Settle, &error, expired);
    let (agent, request) = (caller.agent_id(), request_id(&order));
    // Switched off: what was taken before is finished, nothing else is even looked at.
    let authorized = match site.intake.is_disabled() {
        true => Err(translated(disabled())),
        false => authorize(Endpoint::Settle, site, &order, &deal),
    };
    let authorization = match authorized {
        Ok(authorization) => authorization,
        // Windows and switches pass; a payment that was taken is answered all the same.
        Err(refusal) => {
            let known =
                taken_before(site, &order.payment, &agent, &request, order.content_hash).await;
            let settlement = known.map_err(translated)?.ok_or(refusal)?;
            let paid = wait_for_pull(site, settlement, caller.patience()).await;
            return Ok((paid.map_err(translated)?, true));
        }
    };
    let new = NewSettlement {
        chain_id: site.network.chain_id(),
        splitter: site.splitter.address,
        asset: site.splitter.asset,
        amount: deal.amount,
        version: order.payment.version,
        sale: deal.capability.as_ref().map(|capability| capability.sale()),
        agent_id: agent,
        request_id: request,
        content_hash: order.content_hash,
        payment_hash: order.payment.hash,
        authorization,
    };
    let reserved = reserve(site, deal.payee(), &new).await.map_err(translated)?;
    let Reserved { settlement, is_new } = reserved;
    // The caller may hang up: what is reserved is pulled whether anybody waits or not.
    let paid = wait_for_pull(site, settlement, caller.patience()).await.map_err(translated)?;
    Ok((paid, !is_new))
}

/// The request's id: the authorization itself. One authorization is one request of a caller.
fn request_id(order: &Order) -> String {
    let signed = &order.payment.authorization;
    format!("{}:{}", hex::encode_prefixed(signed.from), signed.nonce)
}
