//! `POST /verify`: would this payment be settled now? It promises nothing and reserves nothing, and
//! does not ask the ledger: whoever serves for a payment settles it first.

use super::{
    Caller,
    answer::{self, Endpoint, translate},
    reason::Reason,
    requirements::{Deal, deal},
    wire::{About, Order, Refusal, read},
};
use crate::{
    edge::{
        Edge, Site,
        payment::{Payee, disabled, invalid},
    },
    eip3009::{Authorization, Unverified, Verified},
    metrics::FACILITATOR_REQUESTS_TOTAL,
    x402::Subcause,
};
use axum::{
    extract::{Request, State},
    response::Response,
};
use serde_json::Value;
use std::sync::Arc;

pub(super) async fn verify(State(edge): State<Arc<Edge>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let caller = match edge.caller(&parts.headers) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    let Some(site) = edge.health.site() else { return starting(Endpoint::Verify) };
    let (about, json) = read(body, site.network).await;
    match judge(&edge, &site, caller, &about, json).await {
        Ok(()) => {
            count(Endpoint::Verify, "ok");
            answer::valid(&about)
        }
        Err(refusal) => refuse(Endpoint::Verify, caller, &about, &refusal),
    }
}

async fn judge(
    edge: &Edge,
    site: &Site,
    caller: &Caller,
    about: &About,
    json: Result<Value, Refusal>,
) -> Result<(), Refusal> {
    let order = Order::parse(about, &json?)?;
    let deal = deal(edge, site, caller, &order)?;
    let expired = expired(site, &order);
    let refuse = |error| translate(Endpoint::Verify, &error, expired);
    if site.intake.shut().is_some() {
        return Err(refuse(disabled()));
    }
    let authorization = authorize(Endpoint::Verify, site, &order, &deal)?;
    let payee = deal.payee();
    payee.check(site, &authorization, deal.amount).await.map(drop).map_err(refuse)
}

impl Deal {
    /// Whom it pays.
    pub(super) const fn payee(&self) -> Payee<'_> {
        match &self.capability {
            Some(capability) => Payee::Splitter(capability),
            None => Payee::Other,
        }
    }
}

/// Everything that needs no chain: is this authorization, by its signature, for this?
pub(super) fn authorize(
    endpoint: Endpoint,
    site: &Site,
    order: &Order,
    deal: &Deal,
) -> Result<Authorization<Verified>, Refusal> {
    let Some(head) = site.heads.latest() else {
        let message = "no head of the chain was seen yet";
        return Err(Refusal::new(endpoint.failed(), message));
    };
    let payment = &order.payment;
    Authorization::<Unverified>::new(payment.authorization.clone(), payment.signature.clone())
        .verify(&deal.terms, head.now())
        .map_err(|subcause| {
            let message = match subcause {
                Subcause::PaytoMismatch => "authorization.to is not payTo",
                Subcause::AmountMismatch => {
                    "authorization.value is not the amount, to the last unit"
                }
                Subcause::Expired => {
                    "outside its time window, too close to its end, or ending too late"
                }
                Subcause::SignatureMalleable => "the signature's s is high",
                _ => "the signature is not the payer's",
            };
            let error = invalid(subcause, message);
            let refusal = translate(endpoint, &error, expired(site, order));
            Refusal { message: message.to_owned(), ..refusal }
        })
}

/// Which end of its window an authorization is beyond, if it is beyond one.
pub(super) fn expired(site: &Site, order: &Order) -> Reason {
    let now = site.heads.latest().map_or(0, |head| head.now());
    if order.payment.authorization.valid_after >= now {
        Reason::ValidAfter
    } else {
        Reason::ValidBefore
    }
}

/// Says no, and counts it.
pub(super) fn refuse(
    endpoint: Endpoint,
    caller: &Caller,
    about: &About,
    refusal: &Refusal,
) -> Response {
    let word = refusal.reason.word(about.version);
    count(endpoint, word);
    tracing::debug!(
        caller = caller.name(),
        endpoint = endpoint.as_str(),
        reason = word,
        payer = about.payer.map(tracing::field::display),
        message = refusal.message,
        "refused"
    );
    answer::refused(endpoint, about, refusal)
}

pub(super) fn count(endpoint: Endpoint, outcome: &str) {
    FACILITATOR_REQUESTS_TOTAL.add(1, [endpoint.as_str(), outcome]);
}

/// The daemon has not come so far.
pub(super) fn starting(endpoint: Endpoint) -> Response {
    let about = About { version: crate::x402::Version::V2, payer: None, network: String::new() };
    let refusal =
        Refusal::new(endpoint.failed(), "this daemon cannot take payments yet; see /readyz");
    answer::refused(endpoint, &about, &refusal)
}
