//! Taking the identity of a payment for a request, at most once.

use super::{
    LedgerError, Result, Settlement, Tx,
    columns::{bigint, hex, now},
    query::execute,
};
use crate::{
    eip3009::{Authorization, Verified},
    lifecycle::{KeeperState, Mode, Status, StatusEvent, TraceTerms},
    splitter::SplitTerms,
    x402::{MicroUsdc, Version},
};
use alloy::primitives::{Address, B256};
use serde_json::{Value, json};
use uuid::Uuid;

/// A payment about to be settled. Only a verified authorization gets here.
#[derive(Debug, Clone)]
pub struct NewSettlement {
    /// Chain.
    pub chain_id: u64,
    /// The Splitter that is paid.
    pub splitter: Address,
    /// The token.
    pub asset: Address,
    /// What the payer signed.
    pub authorization: Authorization<Verified>,
    /// Its amount.
    pub amount: MicroUsdc,
    /// Who pulls it.
    pub mode: Mode,
    /// Version of x402 that the payer speaks.
    pub version: Version,
    /// What is sold; nothing for a payment that passes through to another payee than the Splitter.
    pub sale: Option<Sale>,
    /// Who asks.
    pub agent_id: String,
    /// The request's id, unique per agent.
    pub request_id: String,
    /// Hash of what is asked.
    pub content_hash: B256,
    /// Hash of the decoded payment header.
    pub payment_hash: B256,
}

/// What a payment to a Splitter buys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    /// "namespace/action".
    pub capability_id: String,
    /// Id at the Splitter.
    pub splitter_capability_id: B256,
    /// Who is paid, and how much of it.
    pub terms: SplitTerms,
}

/// What came of an attempt to reserve. The identity of a payment is (chain, asset, payer,
/// authorization nonce).
#[derive(Debug, Clone)]
pub enum Reservation {
    /// It is this caller's.
    Reserved(Settlement),
    /// It already was: same agent, request, content and payment.
    Joined(Settlement),
    /// The same request is already being paid, was paid, or could still be paid by another authorization.
    PaidOtherwise(Settlement),
    /// The identity belongs to another request.
    NonceReused(Settlement),
    /// The request id was used for something else.
    DuplicateRequest,
}

/// Whose an identity is.
#[derive(Debug, Clone)]
pub enum Identity {
    /// Nobody's, and its request is not being paid either.
    Free,
    /// This request's, which let go of it.
    Released(Box<Settlement>),
    /// Somebody's: what an attempt to reserve it comes to.
    Taken(Box<Reservation>),
}

impl Tx {
    /// Whose the identity of a payment is.
    pub async fn identity(&mut self, new: &NewSettlement) -> Result<Identity> {
        let (known, request) = self.identity_and_request(new).await?;
        let taken = request.map(|request| {
            Box::new(match request.content_hash == Some(new.content_hash) {
                true => Reservation::PaidOtherwise(request),
                false => Reservation::DuplicateRequest,
            })
        });
        Ok(match (known, taken) {
            (None, None) => Identity::Free,
            (None, Some(taken)) => Identity::Taken(taken),
            (Some(known), taken) => {
                let (agent, request) = (&new.agent_id, &new.request_id);
                if !known.is_of(agent, request, new.content_hash, new.payment_hash) {
                    Identity::Taken(Box::new(Reservation::NonceReused(known)))
                } else if known.status != Status::Released {
                    Identity::Taken(Box::new(Reservation::Joined(known)))
                } else {
                    // The request may have been paid otherwise in between.
                    taken.map_or_else(|| Identity::Released(Box::new(known)), Identity::Taken)
                }
            }
        })
    }

    /// Takes an identity for a request, or tells whose it is.
    ///
    /// # Errors
    /// [`LedgerError::Conflict`] when another caller took it in this very moment; call again.
    pub async fn reserve(&mut self, new: &NewSettlement) -> Result<Reservation> {
        Ok(match self.identity(new).await? {
            Identity::Taken(reservation) => *reservation,
            Identity::Released(known) => Reservation::Reserved(self.take(new, Some(*known)).await?),
            Identity::Free => Reservation::Reserved(self.take(new, None).await?),
        })
    }

    /// Takes a free identity, or one that was released.
    ///
    /// # Errors
    /// As [`Tx::reserve`].
    pub async fn take(
        &mut self,
        new: &NewSettlement,
        released: Option<Settlement>,
    ) -> Result<Settlement> {
        match released {
            Some(released) => self.reserve_again(new, released).await,
            None => self.insert_settlement(new, None).await,
        }
    }

    /// Takes a free identity and begins to settle it, or one that was released. Both steps are in its
    /// log; its row, which a dozen indexes hold, is written once.
    ///
    /// # Errors
    /// As [`Tx::reserve`].
    pub async fn reserve_to_settle(
        &mut self,
        new: &NewSettlement,
        released: Option<Settlement>,
    ) -> Result<Settlement> {
        let evidence = json!({"mode": new.mode});
        let Some(released) = released else {
            let settled = Status::Reserved.step(StatusEvent::Settle)?;
            return self.insert_settlement(new, Some((settled, &evidence))).await;
        };
        let known = self.reserve_again(new, released).await?;
        let status = self.step_status(&known, StatusEvent::Settle, &evidence).await?;
        Ok(Settlement { status, ..known })
    }

    async fn reserve_again(
        &mut self,
        new: &NewSettlement,
        released: Settlement,
    ) -> Result<Settlement> {
        const AGAIN: &str = "UPDATE x402_settlements SET mode = $1, reserved_at = $2 WHERE id = $3";
        // It may be another one's turn to pull it, and its time begins anew.
        let reserved_at = now();
        execute!(self, AGAIN, new.mode.as_str(), reserved_at, released.id.to_string())?;
        let evidence = json!({"mode": new.mode});
        let status = self.step_status(&released, StatusEvent::Reserve, &evidence).await?;
        Ok(Settlement { status, reserved_at, ..released })
    }

    /// Inserts a settlement with the event of its reservation, and with the next one if it has gone on
    /// already.
    async fn insert_settlement(
        &mut self,
        new: &NewSettlement,
        settled: Option<(Status, &Value)>,
    ) -> Result<Settlement> {
        const INSERT: &str = "INSERT INTO x402_settlements
            (id, trace_id, chain_id, splitter, asset, payer, eip3009_nonce, pay_to,
             amount_usdc_micro, valid_after, valid_before, signature, kind, mode, x402_version,
             capability_id, splitter_capability_id, provider, provider_bps, hub_bps, reserve_bps,
             agent_id, request_id, content_hash, payment_hash, status, keeper_state, reserved_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
             $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, 'none', $27)
            ON CONFLICT DO NOTHING";
        let authorization = &new.authorization;
        let sale = new.sale.as_ref();
        let kind = if sale.is_some() { "capability" } else { "pass_through" };
        let status = settled.map_or(Status::Reserved, |(status, _)| status);
        let id = Uuid::new_v4();
        let reserved_at = now();
        let trace_id = TraceTerms {
            chain_id: new.chain_id,
            asset: new.asset,
            payer: authorization.payer(),
            pay_to: authorization.pay_to(),
            amount: new.amount,
            nonce: authorization.nonce(),
        }
        .id()?;
        let inserted = execute!(
            self,
            INSERT,
            id.to_string(),
            hex(trace_id),
            bigint("chain id", new.chain_id)?,
            hex(new.splitter),
            hex(new.asset),
            hex(authorization.payer()),
            hex(authorization.nonce()),
            hex(authorization.pay_to()),
            new.amount.column(),
            bigint("validAfter", authorization.valid_after())?,
            bigint("validBefore", authorization.valid_before())?,
            authorization.signature().to_vec(),
            kind,
            new.mode.as_str(),
            bigint("x402Version", new.version.number())?,
            sale.map(|sale| sale.capability_id.clone()),
            sale.map(|sale| hex(sale.splitter_capability_id)),
            sale.map(|sale| hex(sale.terms.provider)),
            sale.map(|sale| i64::from(sale.terms.bps[0])),
            sale.map(|sale| i64::from(sale.terms.bps[1])),
            sale.map(|sale| i64::from(sale.terms.bps[2])),
            &new.agent_id,
            &new.request_id,
            hex(new.content_hash),
            hex(new.payment_hash),
            status.as_str(),
            reserved_at,
        )?;
        if inserted == 0 {
            return Err(LedgerError::Conflict(format!("payment {trace_id}")));
        }
        let context = json!({
            "agent_id": new.agent_id,
            "capability": sale.map(|sale| &sale.capability_id),
            "content_hash": new.content_hash,
            "kind": kind,
            "mode": new.mode,
            "payment_hash": new.payment_hash,
            "provider": sale.map(|sale| sale.terms.provider),
            "request_id": new.request_id,
            "split_bps": sale.map(|sale| sale.terms.bps),
            "splitter_capability_id": sale.map(|sale| sale.splitter_capability_id),
            "valid_before": authorization.valid_before().to_string(),
            "x402_version": new.version.number(),
        });
        let reserved = ("status.reserve", Status::Reserved.as_str(), &context);
        match settled {
            None => {
                let (kind, state, body) = reserved;
                self.append_to_locked(id, trace_id, kind, state, body).await?;
            }
            Some((status, evidence)) => {
                let kind = format!("status.{}", StatusEvent::Settle);
                let settled = (kind.as_str(), status.as_str(), evidence);
                self.begin_events(id, trace_id, [reserved, settled]).await?;
            }
        }
        Ok(Settlement {
            id,
            trace_id,
            chain_id: new.chain_id,
            asset: new.asset,
            payer: authorization.payer(),
            nonce: authorization.nonce(),
            pay_to: authorization.pay_to(),
            amount: new.amount,
            valid_before: authorization.valid_before(),
            reserved_at,
            capability_id: sale.map(|sale| sale.capability_id.clone()),
            splitter_capability_id: sale.map(|sale| sale.splitter_capability_id),
            terms: sale.map(|sale| sale.terms),
            agent_id: Some(new.agent_id.clone()),
            request_id: Some(new.request_id.clone()),
            content_hash: Some(new.content_hash),
            payment_hash: Some(new.payment_hash),
            status,
            keeper_state: KeeperState::None,
            pull: None,
            settled_at: None,
            confirmed_at: None,
            record: None,
            split: None,
            shares: None,
        })
    }
}
