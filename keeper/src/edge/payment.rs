//! From a decoded payment to a paid and served call.

use super::{
    Edge, Site,
    agent::Invoker,
    capability::Capability,
    checks::{self, check_chain, check_passing, recovering},
    delivery::deliver,
    envelope::Invocation,
    error::{ApiError, Receipt},
    external,
    intake::Shut,
    refused,
};
use crate::{
    eip3009::{Authorization, Unverified, Verified, domain},
    failpoint::Point,
    ledger::{
        Identity, LedgerError, LogRef, NewIntent, NewSettlement, Reservation, Settlement, Topic,
    },
    lifecycle::{IntentKind, Mode, Status},
    metrics::DUPLICATE_PREVENTED_TOTAL,
    telemetry::{settlement_span, trace_id},
    x402::{MicroUsdc, Payment, Subcause},
};
use alloy::primitives::{Address, B256, U256};
use chrono::{TimeDelta, Utc};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

/// How often a reservation is tried that collides with another, or for which the payer seems short.
const MAX_ATTEMPTS: u32 = 8;
/// Between two looks at a payer's balance: eight are two blocks of Base.
const SHORT_DELAY: Duration = Duration::from_millis(500);
/// Most payments of one payer on their way.
const MAX_OPEN_PAYMENTS: u64 = 64;
/// Two questions to a facilitator take ten seconds at the most: a reservation that is older and was not
/// handed over never will be by whoever made it.
const LEFT_BEHIND_AFTER: TimeDelta = TimeDelta::seconds(15);
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

/// A payment that cannot be taken, and why.
pub(super) fn invalid(subcause: Subcause, message: &str) -> ApiError {
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

/// Verifies, reserves, waits for the pull, and has the provider serve. What is refused already is
/// looked up only: it may have been taken before.
pub(super) async fn settle(
    edge: &Edge,
    site: &Site,
    caller: &Invoker,
    capability: &Capability,
    invocation: &Invocation,
    payment: &Payment,
    refusal: Option<ApiError>,
) -> Result<Paid, ApiError> {
    let content_hash = invocation.content_hash()?;
    // Refused or switched off: what was taken before is finished, nothing else is even looked at
    //
    let place = edge.pools.provider.enter();
    let verified = match (refusal, &place) {
        (Some(refusal), _) => Err(refusal),
        (None, _) if site.intake.is_disabled() => Err(disabled()),
        // Before any money moves.
        (None, None) => Err(ApiError::Degraded(
            "too many calls are being served now; no money moved".to_owned(),
        )),
        (None, Some(_)) => verify(site, capability, payment).await,
    };
    let settlement = match verified {
        Ok(authorization) => {
            let request = (invocation.request_id(), authorization.payer());
            caller.admit_payer(edge, site, capability, request).await?;
            let new = NewSettlement {
                chain_id: site.network.chain_id(),
                splitter: site.splitter.address,
                asset: site.splitter.asset,
                amount: capability.price,
                mode: match site.facilitator {
                    Some(_) => Mode::External,
                    None => Mode::SelfPull,
                },
                version: payment.version,
                sale: Some(capability.sale()),
                agent_id: caller.agent_id(authorization.payer()),
                request_id: invocation.request_id().to_owned(),
                content_hash,
                payment_hash: payment.hash,
                authorization,
            };
            let reserved = reserve(site, Payee::Served(edge, capability), &new).await?;
            let Reserved { settlement, is_new } = reserved;
            if let Some(facilitator) = &site.facilitator
                && (is_new || is_left_behind(&settlement, &new))
            {
                external::hand_over(edge, site, facilitator, capability, &new, &settlement).await?;
            }
            settlement
        }
        // Prices, windows and switches pass; a payment that was taken is answered all the same.
        Err(refusal) => {
            let agent = caller.agent_id(payment.authorization.from);
            let request = invocation.request_id();
            let known = taken_before(site, payment, &agent, request, content_hash).await?;
            known.ok_or(refusal)?
        }
    };
    let span = settlement_span(settlement.id);
    let served = async {
        let settled = wait_for_pull(site, settlement, site.settle_timeout).await;
        let settlement = settled.map_err(|error| match (&site.facilitator, error) {
            (Some(facilitator), ApiError::Pending { .. }) => {
                external::still_pending(site, facilitator)
            }
            (_, error) => error,
        })?;
        deliver(edge, site, capability, invocation, &settlement, place).await
    };
    served.instrument(span).await
}

/// Whether whoever reserved this payment was gone before the facilitator could have it.
fn is_left_behind(settlement: &Settlement, new: &NewSettlement) -> bool {
    settlement.status == Status::Reserved
        && settlement.payment_hash == Some(new.payment_hash)
        && Utc::now() - settlement.reserved_at > LEFT_BEHIND_AFTER
}

/// Whom a payment pays.
#[derive(Debug, Clone, Copy)]
pub(super) enum Payee<'a> {
    /// The Splitter, for a call of a capability that we have served.
    Served(&'a Edge, &'a Capability),
    /// The Splitter, for a capability that somebody else serves.
    Splitter(&'a Capability),
    /// Somebody else: it passes through.
    Other,
}

impl Payee<'_> {
    /// What must be known before anything is written. Returns the payer's balance.
    pub(super) async fn check(
        self,
        site: &Site,
        agent_id: &str,
        authorization: &Authorization<Verified>,
        amount: MicroUsdc,
    ) -> Result<U256, ApiError> {
        match self {
            Self::Served(edge, capability) => {
                // Nobody pays for a call that would not be made.
                refused::check(edge, site, capability, agent_id).await?;
                check_chain(site, capability, authorization).await
            }
            Self::Splitter(capability) => check_chain(site, capability, authorization).await,
            Self::Other => check_passing(site, authorization, amount).await,
        }
    }
}

/// The settlement that took this very payment for this very request before.
pub(super) async fn taken_before(
    site: &Site,
    payment: &Payment,
    agent_id: &str,
    request_id: &str,
    content_hash: B256,
) -> Result<Option<Settlement>, ApiError> {
    let (signed, chain_id) = (&payment.authorization, site.network.chain_id());
    let domain = domain(&site.network.usdc(), chain_id);
    let authorization = Authorization::<Unverified>::new(signed.clone(), payment.signature.clone());
    if payment.network != site.network {
        return Ok(None);
    }
    let is_signed = recovering(move || authorization.signed_by_payer(&domain).is_ok()).await?;
    let found = async {
        let mut tx = site.ledger.read().await?;
        tx.settlement_by_identity(chain_id, site.splitter.asset, signed.from, signed.nonce).await
    };
    match found.await.map_err(|error| ledger_down(&error))? {
        Some(known) if known.status.is_void() => Ok(None),
        Some(known) if known.is_of(agent_id, request_id, content_hash, payment.hash) => {
            Ok(Some(known))
        }
        // Stored answers are the payer's; a stranger gets the refusal. What a payer's code said of this
        // very payment once it need not say again.
        Some(known) if is_signed => Err(reused(&known, agent_id)),
        Some(_) | None => Ok(None),
    }
}

/// The authorization belongs to another request. Whose is not told to strangers (C-51).
fn reused(known: &Settlement, agent_id: &str) -> ApiError {
    let own = known.agent_id.as_deref() == Some(agent_id);
    ApiError::SettlementReused {
        tx_hash: known.pull.map(|pull| pull.tx_hash),
        request_id: known.request_id.clone().filter(|_| own),
        settled_at: known.settled_at.filter(|_| own),
    }
}

/// Is this authorization, by its signature, for this call?
async fn verify(
    site: &Site,
    capability: &Capability,
    payment: &Payment,
) -> Result<Authorization<Verified>, ApiError> {
    if payment.network != site.network {
        return Err(invalid(Subcause::NetworkMismatch, "signed for another network"));
    }
    let Some(head) = site.heads.latest() else {
        return Err(ApiError::Degraded("no head of the chain was seen yet".to_owned()));
    };
    let authorization =
        Authorization::new(payment.authorization.clone(), payment.signature.clone());
    checks::verify(site, authorization, site.terms(capability), head.now()).await
}

/// A payment that this request has.
#[derive(Debug)]
pub(super) struct Reserved {
    /// The payment.
    pub(super) settlement: Settlement,
    /// Whether it was reserved just now; else the request came before.
    pub(super) is_new: bool,
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

/// Takes the identity for this request and hands its pull to the outbox, in one SQL transaction; where
/// somebody else pulls, that comes after.
pub(super) async fn reserve(
    site: &Site,
    payee: Payee<'_>,
    new: &NewSettlement,
) -> Result<Reserved, ApiError> {
    // Nothing is written for a payment that the chain would not let through.
    let known = is_known(site, new).await.map_err(|error| ledger_down(&error))?;
    let mut balance = match known {
        true => None,
        false => Some(payee.check(site, &new.agent_id, &new.authorization, new.amount).await?),
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
        balance = Some(payee.check(site, &new.agent_id, &new.authorization, new.amount).await?);
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
) -> Result<Reserved, ApiError> {
    let is_new = matches!(reservation, Reservation::Reserved(_));
    match reservation {
        Reservation::Reserved(settlement) => {
            tracing::info!(
                payment = %settlement.id, payer = %settlement.payer, amount = %new.amount,
                capability = new.sale.as_ref().map(|sale| &sale.capability_id), "reserved"
            );
            site.ledger.signal(Topic::Intents);
            Ok(Reserved { settlement, is_new })
        }
        // The same call again, or the same request with a fresh authorization: whatever the first
        // one came to is the answer. The second authorization is never pulled.
        Reservation::Joined(settlement) => {
            DUPLICATE_PREVENTED_TOTAL.add(1, ["joined"]);
            Ok(Reserved { settlement, is_new })
        }
        // A facilitator that refused the first one could still pull it.
        Reservation::PaidOtherwise(first) if first.status == Status::Released => {
            DUPLICATE_PREVENTED_TOTAL.add(1, ["paid_otherwise"]);
            Err(ApiError::Pending { status: Status::SettlePending, tx_hash: None })
        }
        Reservation::PaidOtherwise(settlement) => {
            DUPLICATE_PREVENTED_TOTAL.add(1, ["paid_otherwise"]);
            Ok(Reserved { settlement, is_new })
        }
        // It was shown for another capability, and no money moved (C-46).
        Reservation::NonceReused(known)
            if known.status == Status::Released
                && known.splitter_capability_id
                    != new.sale.as_ref().map(|sale| sale.splitter_capability_id) =>
        {
            let why = "the authorization was given for another capability";
            Err(invalid(Subcause::BindingViolation, why))
        }
        Reservation::NonceReused(known) => {
            DUPLICATE_PREVENTED_TOTAL.add(1, ["nonce_reused"]);
            Err(reused(&known, &new.agent_id))
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
    let released = match tx.identity(new).await? {
        Identity::Taken(reservation) => return Ok(Taken::Answer(reservation)),
        Identity::Released(released) => Some(*released),
        Identity::Free => None,
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
    // What passes through has none.
    let capability = new.sale.as_ref().map_or(B256::ZERO, |sale| sale.splitter_capability_id);
    if tx.capability_is_held(new.chain_id, new.splitter, capability).await? {
        return Ok(Taken::NotSold);
    }
    let is_new = released.is_none();
    let settlement = match new.mode {
        Mode::External => tx.take(new, released).await?,
        Mode::SelfPull => tx.reserve_to_settle(new, released).await?,
    };
    if let Some(trace) = trace_id() {
        tx.keep_otel_trace(settlement.id, &trace).await?;
    }
    if new.mode == Mode::SelfPull && (is_new || !tx.reopen_pull(settlement.id).await?) {
        let Some(puller) = site.puller else { return Ok(Taken::Closed("nobody pulls here")) };
        let pull = new.authorization.pull(new.asset, capability);
        tx.add_intent(&NewIntent {
            chain_id: new.chain_id,
            splitter: new.splitter,
            signer: puller,
            kind: IntentKind::Pull,
            settlement: Some(settlement.id),
            splitter_capability_id: capability,
            to: pull.to,
            calldata: pull.calldata,
            gas_limit: pull.gas_limit,
            valid_before: Some(new.authorization.valid_before()),
        })
        .await?;
    }
    match tx.commit(Point::Reserve).await {
        Ok(()) => Ok(Taken::Answer(Box::new(Reservation::Reserved(settlement)))),
        Err(error) => Ok(Taken::Unknown(error)),
    }
}

/// Waits until the watcher has seen the pull.
pub(super) async fn wait_for_pull(
    site: &Site,
    mut settlement: Settlement,
    patience: Duration,
) -> Result<Settlement, ApiError> {
    let deadline = Instant::now() + patience;
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
            let tx_hash = latest_pull(site, &settlement).await?;
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

/// The newest envelope that pulls a payment, if one is signed.
pub(super) async fn latest_pull(
    site: &Site,
    settlement: &Settlement,
) -> Result<Option<B256>, ApiError> {
    let latest = async {
        let mut tx = site.ledger.read().await?;
        tx.latest_envelope(settlement.id, IntentKind::Pull).await
    };
    latest.await.map_err(|error| ledger_lost(&error))
}
