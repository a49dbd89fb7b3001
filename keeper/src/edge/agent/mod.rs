//! Who calls, and whether it may: credentials, mandate, provenance, trust tier, rate (S02).
//!
//! With `auth = "credentials"` an agent is known before anything else is looked at. With
//! `auth = "payer"` there are no accounts: the paying address, proven by its payment's signature, is
//! the agent, and an unpaid call is nobody's.

mod credentials;
mod mandate;
mod provenance;
mod rate;
mod refusal;
mod trust;

pub use credentials::{AgentPrefix, ApiKey, Credentials, KeySecret};
pub use rate::CallsPerMinute;
pub use trust::Tier;

pub(super) use mandate::Mandate;
pub(super) use refusal::Refusal;

use super::{Capability, Edge, Site, envelope::Invocation, error::ApiError, payment::ledger_down};
use crate::{
    failpoint::Point,
    ledger::{LedgerError, Tx},
    x402::MicroUsdc,
};
use alloy::primitives::Address;
use axum::http::HeaderMap;
use chrono::Utc;
use provenance::Mismatch;
use rate::{Limited, WINDOW};
use std::sync::Arc;

/// How often a write is tried that collides with another of the same agent.
const MAX_ATTEMPTS: u32 = 8;

/// Who an agent is.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Who has credentials of this hub.
    Credentials(KeySecret),
    /// The paying address, proven by its signature. No accounts.
    Payer,
}

/// Who makes a call.
#[derive(Debug, Clone)]
pub(super) enum Invoker {
    /// Whoever pays.
    Payer,
    /// An agent of this hub.
    Agent(Agent),
}

/// An agent that has shown its credentials.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    id: String,
    tier: Tier,
    /// Most that this call may cost.
    budget: Option<MicroUsdc>,
}

impl Agent {
    /// Its id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Invoker {
    /// Who calls: key, then the mandate's end, then its provenance. A provenance is used up by
    /// this, whatever becomes of the call (C-77).
    pub(super) async fn identify(
        edge: &Edge,
        headers: &HeaderMap,
        invocation: &Invocation,
    ) -> Result<Self, ApiError> {
        let mandate = invocation.mandate.as_ref();
        let secret = match (&edge.auth, mandate) {
            (Auth::Credentials(secret), _) => secret,
            (Auth::Payer, None) => return Ok(Self::Payer),
            // Its limits could not be kept for nobody.
            (Auth::Payer, Some(_)) => {
                let why =
                    "mandate: this hub has no accounts; leave it out, and limit what you sign";
                return Err(ApiError::InvalidRequest(why.to_owned()));
            }
        };
        let credentials = Credentials::of_call(headers, mandate)?;
        let site = site(edge)?;
        let tier = sign_in(&site, secret, &credentials).await?;
        let Credentials { agent_id, api_key } = credentials;
        let now = Utc::now();
        if mandate.is_some_and(|mandate| mandate.is_expired(now)) {
            return Err(Refusal::Expired.into());
        }
        if let Some(wire) = mandate.and_then(|mandate| mandate.provenance_hash.as_deref()) {
            let nonce = provenance::verify(wire, &agent_id, &api_key, now.timestamp())
                .map_err(Refusal::Provenance)?;
            if !use_nonce(&site, &agent_id, &nonce).await.map_err(|error| ledger_down(&error))? {
                return Err(Refusal::Provenance(Mismatch::NonceReplay).into());
            }
        }
        let budget = mandate.and_then(|mandate| mandate.budget_usdc);
        Ok(Self::Agent(Agent { id: agent_id, tier, budget }))
    }

    /// Who asks about its own payments, by its headers alone.
    pub(super) async fn of_headers(edge: &Edge, headers: &HeaderMap) -> Result<Self, ApiError> {
        let Auth::Credentials(secret) = &edge.auth else { return Ok(Self::Payer) };
        let credentials = Credentials::of_call(headers, None)?;
        let tier = sign_in(&*site(edge)?, secret, &credentials).await?;
        Ok(Self::Agent(Agent { id: credentials.agent_id, tier, budget: None }))
    }

    /// Whether the agent may make another call now, and one of this capability. It counts from here on,
    /// whatever becomes of it. Who pays without an account is looked at when it pays.
    pub(super) async fn admit(&self, edge: &Edge, capability: &Capability) -> Result<(), ApiError> {
        let Self::Agent(agent) = self else { return Ok(()) };
        let site = site(edge)?;
        let limit = edge.calls_per_minute.of(agent.tier);
        let limited = take_place(&site, agent, limit).await.map_err(|error| ledger_down(&error))?;
        if let Some(limited) = limited {
            return Err(Refusal::Rate(limited).into());
        }
        trusted(capability, agent.tier)
    }

    /// The same for a payer whose signature was checked, before anything is reserved for it. What is
    /// counted are its payments, so that those which arrive in the same moment may slip through.
    pub(super) async fn admit_payer(
        &self,
        edge: &Edge,
        site: &Site,
        capability: &Capability,
        request: (&str, Address),
    ) -> Result<(), ApiError> {
        let (request_id, payer) = request;
        let Self::Payer = self else { return Ok(()) };
        let agent_id = self.agent_id(payer);
        let read = async {
            let mut tx = site.ledger.read().await?;
            // A call that is paid already is not another one.
            if tx.settlement_by_request(&agent_id, request_id).await?.is_some() {
                return Ok(None);
            }
            let tier = tier(&mut tx, &agent_id).await?;
            let limit = edge.calls_per_minute.of(tier);
            let now = tx.clock().await?;
            let since = now.checked_sub_signed(WINDOW).unwrap_or(now);
            let blocking = tx.payment_before_last(&agent_id, since, limit).await?;
            let limited = blocking.map(|blocking| Limited::new(tier, limit, blocking, now));
            Ok(Some((tier, limited)))
        };
        match read.await.map_err(|error: LedgerError| ledger_down(&error))? {
            None => Ok(()),
            Some((_, Some(limited))) => Err(Refusal::Rate(limited).into()),
            Some((tier, None)) => trusted(capability, tier),
        }
    }

    /// Whether the mandate covers a price, before anything is settled.
    pub(super) fn afford(&self, price: MicroUsdc) -> Result<(), ApiError> {
        match self {
            Self::Agent(Agent { budget: Some(budget), .. }) if *budget < price => {
                Err(Refusal::Budget { price, budget: *budget }.into())
            }
            _ => Ok(()),
        }
    }

    /// Whose a payment is: scope of the request's id.
    pub(super) fn agent_id(&self, payer: Address) -> String {
        match self {
            Self::Payer => payer.to_string().to_lowercase(),
            Self::Agent(agent) => agent.id.clone(),
        }
    }

    /// How far who paid is trusted.
    pub(super) async fn tier(&self, site: &Site, payer: Address) -> Tier {
        if let Self::Agent(agent) = self {
            return agent.tier;
        }
        let read = async {
            let mut tx = site.ledger.read().await?;
            tier(&mut tx, &self.agent_id(payer)).await
        };
        // The call is paid and served; this is decoration.
        read.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "edge: cannot look up a payer's tier");
            Tier::default()
        })
    }
}

fn site(edge: &Edge) -> Result<Arc<Site>, ApiError> {
    let why = "this hub cannot look up agents yet";
    edge.health.site().ok_or_else(|| ApiError::Degraded(why.to_owned()))
}

/// Checks credentials; an agent's tier if they are right.
async fn sign_in(
    site: &Site,
    secret: &KeySecret,
    credentials: &Credentials,
) -> Result<Tier, ApiError> {
    let Credentials { agent_id, api_key } = credentials;
    let read = async {
        let mut tx = site.ledger.read().await?;
        let known = tx.agent_key(agent_id).await?;
        // Nothing more is looked up for a guess.
        if !secret.is_right(agent_id, api_key, known) {
            return Ok(None);
        }
        tier(&mut tx, agent_id).await.map(Some)
    };
    let tier = read.await.map_err(|error: LedgerError| ledger_down(&error))?;
    Ok(tier.ok_or(Refusal::Wrong)?)
}

async fn tier(tx: &mut Tx, agent_id: &str) -> Result<Tier, LedgerError> {
    Ok(Tier::of(tx.served_calls(agent_id, Tier::MOST_CALLS).await?))
}

fn trusted(capability: &Capability, current: Tier) -> Result<(), ApiError> {
    let required = capability.trust_tier_required;
    if current < required {
        return Err(Refusal::Trust { required, current }.into());
    }
    Ok(())
}

/// Uses up a provenance's nonce. False when it was used before.
async fn use_nonce(site: &Site, agent_id: &str, nonce: &str) -> Result<bool, LedgerError> {
    let mut attempts: u32 = 0;
    loop {
        let used = async {
            let mut tx = site.ledger.begin().await?;
            let is_new = tx.use_nonce(agent_id, nonce).await?;
            tx.commit(Point::Admit).await?;
            Ok(is_new)
        };
        match used.await {
            Err(error) if is_passing(&error) && attempts < MAX_ATTEMPTS => {
                attempts = attempts.saturating_add(1);
            }
            used => return used,
        }
    }
}

/// Counts a call. Says why not when there were enough.
async fn take_place(
    site: &Site,
    agent: &Agent,
    limit: u32,
) -> Result<Option<Limited>, LedgerError> {
    let full = |blocking, now| Limited::new(agent.tier, limit, blocking, now);
    // Whoever calls too often is turned away without a write.
    let mut tx = site.ledger.read().await?;
    let now = tx.clock().await?;
    let since = now.checked_sub_signed(WINDOW).unwrap_or(now);
    if let Some(blocking) = tx.call_before_last(&agent.id, since, limit).await? {
        return Ok(Some(full(blocking, now)));
    }
    drop(tx);
    let mut attempts: u32 = 0;
    loop {
        let taken = async {
            let mut tx = site.ledger.begin().await?;
            tx.lock_calls(&agent.id).await?;
            let now = tx.clock().await?;
            let since = now.checked_sub_signed(WINDOW).unwrap_or(now);
            if let Some(blocking) = tx.call_before_last(&agent.id, since, limit).await? {
                return Ok(Some(full(blocking, now)));
            }
            tx.count_call(&agent.id, now, since).await?;
            tx.commit(Point::Admit).await?;
            Ok(None)
        };
        match taken.await {
            Err(error) if is_passing(&error) && attempts < MAX_ATTEMPTS => {
                attempts = attempts.saturating_add(1);
            }
            taken => return taken,
        }
    }
}

fn is_passing(error: &LedgerError) -> bool {
    error.is_conflict() || error.is_duplicate()
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Agent(refusal)
    }
}
