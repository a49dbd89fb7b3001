//! From a decoded payment to a paid and served call.

use super::{
    Auth, Edge, Site,
    capability::{Capability, Registration},
    delivery::deliver,
    envelope::Invocation,
    error::{ApiError, Receipt},
    intake::Shut,
    refused,
};
use crate::{
    chain::{BlockTag, ChainError},
    eip3009::{Authorization, FiatToken, Unverified, Verified, domain},
    failpoint::Point,
    ledger::{LedgerError, LogRef, NewIntent, NewSettlement, Reservation, Settlement, Topic},
    lifecycle::{IntentKind, Status, StatusEvent},
    metrics::DUPLICATE_PREVENTED_TOTAL,
    telemetry::{settlement_span, trace_id},
    x402::{MicroUsdc, Payment, Subcause},
};
use alloy::primitives::{Address, B256, U256};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

/// Gas limit of a pull: 102,888 measured to a payee without balance.
const PULL_GAS: u64 = 250_000;
/// How often a reservation is tried that collides with another, or for which the payer seems short.
const MAX_ATTEMPTS: u32 = 8;
/// Between two looks at a payer's balance: eight are two blocks of Base.
const SHORT_DELAY: Duration = Duration::from_millis(500);
/// Most payments of one payer on their way.
const MAX_OPEN_PAYMENTS: u64 = 64;
/// How long a waiting request goes without looking when nothing is signalled.
const POLL: Duration = Duration::from_millis(250);

/// A paid call with its result.
#[derive(Debug)]
pub(super) struct Paid {
    /// Id of the settlement.
    pub(super) settlement: Uuid,
    /// Who paid.
    pub(super) payer: Address,
    /// How much.
    pub(super) amount: MicroUsdc,
    /// Where it was pulled.
    pub(super) pull: LogRef,
    /// What the provider answered.
    pub(super) result: Value,
    /// Whether this answer was given before.
    pub(super) replayed: bool,
}

fn invalid(subcause: Subcause, message: &str) -> ApiError {
    ApiError::PaymentInvalid { subcause, message: message.to_owned(), tx_hash: None }
}

/// No payment is taken at this hub.
pub(super) const fn disabled() -> ApiError {
    ApiError::NotAccepted(Subcause::X402Disabled)
}

/// Before anything is reserved. The payment may have been sent before, so nothing is said of money.
pub(super) fn ledger_down(error: &LedgerError) -> ApiError {
    tracing::error!(%error, "edge: the ledger failed");
    if error.is_unavailable() {
        ApiError::Degraded("the ledger does not answer; repeat this very call later".to_owned())
    } else {
        ApiError::Internal
    }
}

/// After it: the caller must ask again, not pay again.
fn ledger_lost(error: &LedgerError) -> ApiError {
    tracing::error!(%error, "edge: the ledger failed with a payment on its way");
    ApiError::Pending { status: Status::SettlePending, tx_hash: None }
}

fn chain_down(error: &ChainError) -> ApiError {
    tracing::error!(%error, "edge: the chain failed");
    ApiError::Degraded("the chain does not answer; no money moved".to_owned())
}

/// Verifies, reserves, waits for the pull, and has the provider serve.
pub(super) async fn settle(
    edge: &Edge,
    site: &Site,
    capability: &Capability,
    invocation: &Invocation,
    payment: &Payment,
) -> Result<Paid, ApiError> {
    let Auth::Payer = edge.auth;
    let content_hash = invocation.content_hash()?;
    // Switched off: what was taken before is finished, nothing else is even looked at.
    let place = edge.pools.provider.enter();
    let verified = match (site.intake.is_disabled(), &place) {
        (true, _) => Err(disabled()),
        // Before any money moves.
        (false, None) => Err(ApiError::Degraded(
            "too many calls are being served now; no money moved".to_owned(),
        )),
        (false, Some(_)) => verify(site, capability, payment),
    };
    let settlement = match verified {
        Ok(authorization) => {
            let new = NewSettlement {
                chain_id: site.network.chain_id(),
                splitter: site.splitter.address,
                asset: site.splitter.asset,
                amount: capability.price,
                version: payment.version,
                capability_id: capability.name(),
                splitter_capability_id: capability.id,
                terms: capability.terms,
                agent_id: agent_id(authorization.payer()),
                request_id: invocation.id.clone(),
                content_hash,
                payment_hash: payment.hash,
                authorization,
            };
            reserve(edge, site, capability, &new).await?
        }
        // Prices, windows and switches pass; a payment that was taken is answered all the same.
        Err(refusal) => {
            taken_before(site, payment, &invocation.id, content_hash).await?.ok_or(refusal)?
        }
    };
    let span = settlement_span(settlement.id);
    let served = async {
        let settlement = wait_for_pull(site, settlement).await?;
        deliver(edge, site, capability, invocation, &settlement, place).await
    };
    served.instrument(span).await
}

/// The paying address is the agent.
fn agent_id(payer: Address) -> String {
    payer.to_string().to_lowercase()
}

/// The settlement that took this very payment for this very request before.
async fn taken_before(
    site: &Site,
    payment: &Payment,
    request_id: &str,
    content_hash: B256,
) -> Result<Option<Settlement>, ApiError> {
    let (signed, chain_id) = (&payment.authorization, site.network.chain_id());
    let domain = domain(&site.network.usdc(), chain_id);
    let authorization = Authorization::<Unverified>::new(signed.clone(), payment.signature.clone());
    // Stored answers are the payer's; a stranger gets the refusal.
    if payment.network != site.network || authorization.signed_by_payer(&domain).is_err() {
        return Ok(None);
    }
    let found = async {
        let mut tx = site.ledger.read().await?;
        tx.settlement_by_identity(chain_id, site.splitter.asset, signed.from, signed.nonce).await
    };
    match found.await.map_err(|error| ledger_down(&error))? {
        Some(known) if known.status.is_void() => Ok(None),
        Some(known)
            if known.is_of(&agent_id(signed.from), request_id, content_hash, payment.hash) =>
        {
            Ok(Some(known))
        }
        Some(known) => Err(reused(&known)),
        None => Ok(None),
    }
}

fn reused(known: &Settlement) -> ApiError {
    ApiError::SettlementReused {
        tx_hash: known.pull.map(|pull| pull.tx_hash),
        request_id: known.request_id.clone(),
        settled_at: known.settled_at,
    }
}

/// Everything that needs no chain: is this authorization, by its signature, for this call?
fn verify(
    site: &Site,
    capability: &Capability,
    payment: &Payment,
) -> Result<Authorization<Verified>, ApiError> {
    if payment.network != site.network {
        return Err(invalid(Subcause::NetworkMismatch, "signed for another network"));
    }
    if let Some(accepted) = &payment.accepted {
        if accepted.asset != site.splitter.asset {
            return Err(invalid(Subcause::AssetMismatch, "another token than the one asked for"));
        }
        if accepted.pay_to != site.splitter.address {
            return Err(invalid(Subcause::PaytoMismatch, "another payee than the Splitter"));
        }
        if accepted.amount != capability.price.micro().to_string() {
            return Err(invalid(Subcause::AmountMismatch, "another price than the one asked for"));
        }
    }
    let Some(head) = site.heads.latest() else {
        return Err(ApiError::Degraded("no head of the chain was seen yet".to_owned()));
    };
    Authorization::<Unverified>::new(payment.authorization.clone(), payment.signature.clone())
        .verify(&site.terms(capability), head.now())
        .map_err(|subcause| {
            let message = match subcause {
                Subcause::PaytoMismatch => "to is not the Splitter",
                Subcause::AmountMismatch => "value is not the price",
                Subcause::Expired => {
                    "outside its time window, too close to its end, or ending too late"
                }
                Subcause::SignatureMalleable => "the signature's s is high",
                _ => "the signature is not the payer's",
            };
            invalid(subcause, message)
        })
}

/// What came of one attempt to reserve.
enum Taken {
    /// The ledger's answer; committed if it is a reservation.
    Answer(Box<Reservation>),
    /// The chain must be asked first.
    Unchecked,
    /// The payer's balance does not cover what is on its way and this.
    Short,
    /// Nothing is reserved now, and why.
    Closed(&'static str),
    /// An operator takes no payments.
    Disabled,
    /// Too many calls of this capability failed.
    NotSold,
    /// Nobody knows whether it is reserved.
    Unknown(LedgerError),
}

/// Takes the identity for this request and hands its pull to the outbox, in one SQL transaction.
async fn reserve(
    edge: &Edge,
    site: &Site,
    capability: &Capability,
    new: &NewSettlement,
) -> Result<Settlement, ApiError> {
    // Nothing is written for a payment that the chain would not let through.
    let known = is_known(site, new).await.map_err(|error| ledger_down(&error))?;
    let mut balance = match known {
        true => None,
        false => {
            // Nobody pays for a call that would not be made.
            refused::check(edge, site, capability, &new.agent_id).await?;
            Some(check_chain(site, capability, &new.authorization).await?)
        }
    };
    let mut attempts = 0;
    loop {
        let taken = match try_reserve(site, new, balance).await {
            Ok(taken) => taken,
            Err(error)
                if (error.is_conflict() || error.is_duplicate()) && attempts < MAX_ATTEMPTS =>
            {
                attempts += 1;
                continue;
            }
            Err(error) => return Err(ledger_down(&error)),
        };
        match taken {
            Taken::Answer(reservation) => return answer(site, new, *reservation),
            Taken::Unchecked => {}
            // What was pulled is off the balance at once, but on its way until the watcher sees it.
            Taken::Short if attempts < MAX_ATTEMPTS => {
                attempts += 1;
                tokio::time::sleep(SHORT_DELAY).await;
            }
            Taken::Short => {
                return Err(invalid(
                    Subcause::InsufficientFunds,
                    "the payer's balance does not cover this and what is on its way",
                ));
            }
            Taken::Disabled => return Err(disabled()),
            Taken::Closed(why) => return Err(ApiError::Degraded(why.to_owned())),
            Taken::NotSold => return Err(ApiError::NotSold),
            Taken::Unknown(error) => return Err(ledger_lost(&error)),
        }
        balance = Some(check_chain(site, capability, &new.authorization).await?);
    }
}

/// Whether the ledger knows this payment or this request; then the chain need not be asked, and could
/// only mislead: our own pull makes the authorization look used.
async fn is_known(site: &Site, new: &NewSettlement) -> Result<bool, LedgerError> {
    let mut tx = site.ledger.read().await?;
    let (payer, nonce) = (new.authorization.payer(), new.authorization.nonce());
    let known = tx.settlement_by_identity(new.chain_id, new.asset, payer, nonce).await?;
    if known.is_some_and(|known| !known.status.is_void()) {
        return Ok(true);
    }
    Ok(tx.settlement_by_request(&new.agent_id, &new.request_id).await?.is_some())
}

fn answer(
    site: &Site,
    new: &NewSettlement,
    reservation: Reservation,
) -> Result<Settlement, ApiError> {
    match reservation {
        Reservation::Reserved(settlement) => {
            tracing::info!(
                payment = %settlement.id, payer = %settlement.payer, amount = %new.amount,
                capability = new.capability_id, "reserved"
            );
            site.ledger.signal(Topic::Intents);
            Ok(settlement)
        }
        // The same call again, or the same request with a fresh authorization: whatever the first
        // one came to is the answer. The second authorization is never pulled.
        Reservation::Joined(settlement) => {
            DUPLICATE_PREVENTED_TOTAL.add(1, ["joined"]);
            Ok(settlement)
        }
        Reservation::PaidOtherwise(settlement) => {
            DUPLICATE_PREVENTED_TOTAL.add(1, ["paid_otherwise"]);
            Ok(settlement)
        }
        Reservation::NonceReused(settlement) => {
            DUPLICATE_PREVENTED_TOTAL.add(1, ["nonce_reused"]);
            Err(reused(&settlement))
        }
        Reservation::DuplicateRequest => {
            DUPLICATE_PREVENTED_TOTAL.add(1, ["duplicate_request"]);
            Err(ApiError::DuplicateRequest)
        }
    }
}

async fn try_reserve(
    site: &Site,
    new: &NewSettlement,
    balance: Option<U256>,
) -> Result<Taken, LedgerError> {
    let mut tx = site.ledger.begin().await?;
    let payer = new.authorization.payer();
    let open = tx.open_payments(new.chain_id, new.asset, payer).await?;
    let reservation = tx.reserve(new).await?;
    let Reservation::Reserved(settlement) = &reservation else {
        return Ok(Taken::Answer(Box::new(reservation)));
    };
    match site.shut(&mut tx).await? {
        Some(Shut::Disabled) => return Ok(Taken::Disabled),
        Some(shut) => return Ok(Taken::Closed(shut.message())),
        None => {}
    }
    // It was known a moment ago.
    let Some(balance) = balance else { return Ok(Taken::Unchecked) };
    if open.count >= MAX_OPEN_PAYMENTS {
        return Ok(Taken::Closed("too many payments of this payer are on their way"));
    }
    if balance < U256::from(open.micro) + U256::from(new.amount.micro()) {
        return Ok(Taken::Short);
    }
    // Nobody would pull it, or nobody would see it: then it must not be reserved either.
    if !site.is_led(&mut tx).await? {
        return Ok(Taken::Closed("nobody could settle the payment now"));
    }
    if !site.has_caught_up(&mut tx).await? {
        return Ok(Taken::Closed("the ledger is catching up with the chain"));
    }
    if site.is_unsigned(&mut tx).await? {
        return Ok(Taken::Closed("nothing is being signed now"));
    }
    if let Some(closed) = site.closed(&mut tx).await? {
        tracing::warn!(%closed, "edge: nothing new is begun");
        return Ok(Taken::Closed("no payment is begun now; no money moved"));
    }
    if tx.capability_is_held(new.chain_id, new.splitter, new.splitter_capability_id).await? {
        return Ok(Taken::NotSold);
    }
    tx.step_status(settlement, StatusEvent::Settle, &json!({"mode": "self"})).await?;
    if let Some(trace) = trace_id() {
        tx.keep_otel_trace(settlement.id, &trace).await?;
    }
    if !tx.reopen_pull(settlement.id).await? {
        tx.add_intent(&NewIntent {
            chain_id: new.chain_id,
            splitter: new.splitter,
            signer: site.puller,
            kind: IntentKind::Pull,
            settlement: Some(settlement.id),
            splitter_capability_id: new.splitter_capability_id,
            to: new.asset,
            calldata: new.authorization.pull_call(new.splitter_capability_id),
            gas_limit: PULL_GAS,
            valid_before: Some(new.authorization.valid_before()),
        })
        .await?;
    }
    match tx.commit(Point::Reserve).await {
        Ok(()) => Ok(Taken::Answer(Box::new(reservation))),
        Err(error) => Ok(Taken::Unknown(error)),
    }
}

/// What only the chain knows: would this pull go through, and may this capability be sold? Returns
/// the payer's balance.
async fn check_chain(
    site: &Site,
    capability: &Capability,
    authorization: &Authorization<Verified>,
) -> Result<U256, ApiError> {
    let token = site.splitter.asset;
    let (payer, nonce) = (authorization.payer(), authorization.nonce());
    let latest = BlockTag::Latest;
    let balance = FiatToken::balanceOfCall { account: payer };
    let state = FiatToken::authorizationStateCall { authorizer: payer, nonce };
    let payer_barred = FiatToken::isBlacklistedCall { account: payer };
    let splitter_barred = FiatToken::isBlacklistedCall { account: site.splitter.address };
    let (balance, used, payer_barred, splitter_barred, paused, code, registration) =
        tokio::try_join!(
            site.chain.call(token, &balance, latest),
            site.chain.call(token, &state, latest),
            site.chain.call(token, &payer_barred, latest),
            site.chain.call(token, &splitter_barred, latest),
            site.chain.call(token, &FiatToken::pausedCall {}, latest),
            site.chain.code(payer),
            Registration::read(&site.chain, site.splitter.address, capability),
        )
        .map_err(|error| chain_down(&error))?;
    if paused || splitter_barred {
        return Err(ApiError::Degraded("the token does not move now; no money moved".to_owned()));
    }
    if registration != Registration::Active {
        return Err(ApiError::NotAccepted(Subcause::CapabilityWalletOnly));
    }
    // The token would ask the payer's code, and that may say anything (C-48).
    if !code.is_empty() {
        let why = "the payer is a contract, or delegates to one (EIP-7702): not served yet";
        return Err(invalid(Subcause::SignatureInvalid, why));
    }
    if used {
        return Err(ApiError::PaymentInvalid {
            subcause: Subcause::NonceReused,
            message: "the authorization is already used or cancelled".to_owned(),
            tx_hash: used_in(site, payer, nonce).await,
        });
    }
    if payer_barred {
        return Err(invalid(Subcause::InsufficientFunds, "the token has blacklisted the payer"));
    }
    if balance < U256::from(capability.price.micro()) {
        return Err(invalid(Subcause::InsufficientFunds, "the payer's balance is below the price"));
    }
    Ok(balance)
}

/// The transaction that used an authorization, if it brought money to the Splitter.
async fn used_in(site: &Site, payer: Address, nonce: B256) -> Option<B256> {
    let found = async {
        let mut tx = site.ledger.read().await?;
        tx.pull_of(site.network.chain_id(), site.splitter.address, payer, nonce).await
    };
    match found.await {
        Ok(pull) => pull.map(|pull| pull.at.tx_hash),
        Err(error) => {
            tracing::warn!(%error, "edge: cannot look up who used an authorization");
            None
        }
    }
}

/// Waits until the watcher has seen the pull.
async fn wait_for_pull(site: &Site, mut settlement: Settlement) -> Result<Settlement, ApiError> {
    let deadline = Instant::now() + site.settle_timeout;
    let mut changes = site.ledger.listen(Topic::Settlements);
    loop {
        match settlement.status {
            Status::FacilitatorAttested | Status::ChainConfirmed => return Ok(settlement),
            Status::Released => {
                return Err(invalid(
                    Subcause::Expired,
                    "its window closed before it could be pulled",
                ));
            }
            Status::Failed => {
                return Err(invalid(
                    Subcause::NonceReused,
                    "the authorization was used elsewhere or cancelled",
                ));
            }
            Status::Mismatched => {
                return Err(ApiError::Held(Receipt {
                    settlement: settlement.id,
                    tx_hash: settlement.pull.map(|pull| pull.tx_hash),
                }));
            }
            Status::Reserved | Status::SettlePending | Status::Orphaned => {}
        }
        if Instant::now() >= deadline {
            let latest = async {
                let mut tx = site.ledger.read().await?;
                tx.latest_envelope(settlement.id, IntentKind::Pull).await
            };
            let tx_hash = latest.await.map_err(|error| ledger_lost(&error))?;
            return Err(ApiError::Pending { status: settlement.status, tx_hash });
        }
        changes.wait(POLL).await;
        let read = async {
            let mut tx = site.ledger.read().await?;
            tx.settlement(settlement.id).await
        };
        settlement = read.await.map_err(|error| ledger_lost(&error))?.ok_or(ApiError::Internal)?;
    }
}
