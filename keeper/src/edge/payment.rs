//! From a decoded payment to a paid and served call.

use super::{
    Auth, Edge, Site,
    capability::{Capability, Registration},
    delivery::deliver,
    envelope::Invocation,
    error::ApiError,
};
use crate::{
    chain::{BlockTag, ChainError},
    eip3009::{Authorization, FiatToken, Unverified, Verified},
    ledger::{
        IntentKind, Ledger, LedgerError, LogRef, NewIntent, NewSettlement, Reservation, Settlement,
        Topic,
    },
    lifecycle::{Status, StatusEvent},
    x402::{MicroUsdc, Payment, Subcause},
};
use alloy::primitives::{Address, B256, U256};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Gas limit of a pull: 102,888 measured to a payee without balance.
const PULL_GAS: u64 = 250_000;
/// How often two callers may collide over one row before one gives up.
const MAX_CONFLICTS: u32 = 8;
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
    ApiError::PaymentInvalid { subcause, message: message.to_owned(), transaction: None }
}

fn ledger_down(error: &LedgerError) -> ApiError {
    tracing::error!(%error, "edge: the ledger failed");
    if matches!(error, LedgerError::LeaseLost(_)) {
        ApiError::Degraded("nobody could settle the payment now; no money moved".to_owned())
    } else if error.is_unavailable() {
        ApiError::Degraded("the ledger does not answer; no money moved".to_owned())
    } else {
        ApiError::Internal
    }
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
    let authorization = verify(site, capability, payment)?;
    let Auth::Payer = edge.auth;
    let new = NewSettlement {
        chain_id: site.network.chain_id(),
        splitter: site.splitter.address,
        asset: site.splitter.asset,
        amount: capability.price,
        version: payment.version,
        capability_id: capability.name(),
        splitter_capability_id: capability.id,
        agent_id: authorization.payer().to_string().to_lowercase(),
        request_id: invocation.id.clone(),
        content_hash: invocation.content_hash()?,
        payment_hash: payment.hash,
        authorization,
    };
    let settlement = reserve(site, capability, &new).await?;
    let settlement = wait_for_pull(site, settlement).await?;
    deliver(edge, site, capability, invocation, &settlement).await
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
                Subcause::Expired => "outside its time window, or too close to its end",
                Subcause::SignatureMalleable => "the signature's s is high",
                _ => "the signature is not the payer's",
            };
            invalid(subcause, message)
        })
}

/// Takes the identity for this request and hands its pull to the outbox, in one SQL transaction.
async fn reserve(
    site: &Site,
    capability: &Capability,
    new: &NewSettlement,
) -> Result<Settlement, ApiError> {
    let authorization = &new.authorization;
    if !is_known(&site.ledger, new).await.map_err(|error| ledger_down(&error))? {
        check_chain(site, capability, authorization).await?;
    }
    for _ in 0..MAX_CONFLICTS {
        match try_reserve(site, new).await {
            Ok(Reservation::Reserved(settlement)) => {
                tracing::info!(
                    payment = %settlement.id, payer = %settlement.payer, amount = %new.amount,
                    capability = new.capability_id, "reserved"
                );
                site.ledger.signal(Topic::Intents);
                return Ok(settlement);
            }
            // The same call again, or the same request with a fresh authorization: whatever the
            // first one came to is the answer. The second authorization is never pulled.
            Ok(Reservation::Joined(settlement) | Reservation::PaidOtherwise(settlement)) => {
                return Ok(settlement);
            }
            Ok(Reservation::NonceReused(settlement)) => {
                return Err(ApiError::SettlementReused {
                    transaction: settlement.pull.map(|pull| pull.tx_hash),
                });
            }
            Ok(Reservation::DuplicateRequest(_)) => return Err(ApiError::DuplicateRequest),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(ledger_down(&error)),
        }
    }
    Err(ApiError::Degraded("too many callers with this payment at once".to_owned()))
}

/// Whether the ledger already knows this payment or this request; then the chain need not be asked,
/// and could only mislead: our own pull makes the authorization look used.
async fn is_known(ledger: &Ledger, new: &NewSettlement) -> Result<bool, LedgerError> {
    let mut tx = ledger.read().await?;
    let (payer, nonce) = (new.authorization.payer(), new.authorization.nonce());
    let known = tx.settlement_by_identity(new.chain_id, new.asset, payer, nonce).await?;
    if known.is_some_and(|known| !known.status.is_void()) {
        return Ok(true);
    }
    Ok(tx.settlement_by_request(&new.agent_id, &new.request_id).await?.is_some())
}

async fn try_reserve(site: &Site, new: &NewSettlement) -> Result<Reservation, LedgerError> {
    let mut tx = site.ledger.begin().await?;
    // Nobody would pull it: then it must not be reserved either.
    if !tx.lease_is_held(&site.lease).await? {
        return Err(LedgerError::LeaseLost(site.lease.clone()));
    }
    let reservation = tx.reserve(new).await?;
    if let Reservation::Reserved(settlement) = &reservation {
        tx.step_status(settlement, StatusEvent::Settle, &json!({"mode": "self"})).await?;
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
        tx.commit().await?;
    }
    Ok(reservation)
}

/// What only the chain knows: would this pull go through, and may this capability be sold?
async fn check_chain(
    site: &Site,
    capability: &Capability,
    authorization: &Authorization<Verified>,
) -> Result<(), ApiError> {
    let token = site.splitter.asset;
    let (payer, nonce) = (authorization.payer(), authorization.nonce());
    let latest = BlockTag::Latest;
    let balance = FiatToken::balanceOfCall { account: payer };
    let state = FiatToken::authorizationStateCall { authorizer: payer, nonce };
    let payer_barred = FiatToken::isBlacklistedCall { account: payer };
    let splitter_barred = FiatToken::isBlacklistedCall { account: site.splitter.address };
    let (balance, used, payer_barred, splitter_barred, paused, registration) = tokio::try_join!(
        site.chain.call(token, &balance, latest),
        site.chain.call(token, &state, latest),
        site.chain.call(token, &payer_barred, latest),
        site.chain.call(token, &splitter_barred, latest),
        site.chain.call(token, &FiatToken::pausedCall {}, latest),
        Registration::read(&site.chain, site.splitter.address, capability),
    )
    .map_err(|error| chain_down(&error))?;
    if paused || splitter_barred {
        return Err(ApiError::Degraded("the token does not move now; no money moved".to_owned()));
    }
    if registration != Registration::Active {
        return Err(ApiError::NotAccepted(Subcause::CapabilityWalletOnly));
    }
    if used {
        return Err(ApiError::PaymentInvalid {
            subcause: Subcause::NonceReused,
            message: "the authorization is already used or cancelled".to_owned(),
            transaction: used_in(site, payer, nonce).await,
        });
    }
    if payer_barred {
        return Err(invalid(Subcause::InsufficientFunds, "the token has blacklisted the payer"));
    }
    if balance < U256::from(capability.price.micro()) {
        return Err(invalid(Subcause::InsufficientFunds, "the payer's balance is below the price"));
    }
    Ok(())
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
            Status::Mismatched => return Err(ApiError::Held),
            Status::Reserved | Status::SettlePending | Status::Orphaned => {}
        }
        if Instant::now() >= deadline {
            let latest = async {
                let mut tx = site.ledger.read().await?;
                tx.latest_envelope(settlement.id, IntentKind::Pull).await
            };
            let transaction = latest.await.map_err(|error| ledger_down(&error))?;
            return Err(ApiError::Pending { transaction });
        }
        changes.wait(POLL).await;
        let read = async {
            let mut tx = site.ledger.read().await?;
            tx.settlement(settlement.id).await
        };
        settlement = read.await.map_err(|error| ledger_down(&error))?.ok_or(ApiError::Internal)?;
    }
}
