//! Mode `external`: somebody else pulls what was reserved (jecp.md E.1, A.4).
//!
//! Asked whether it would, then written down, then asked to: `settle_pending` is committed before the
//! facilitator has what it needs, so that nothing which it may have pulled is ever forgotten. What it
//! answers is kept as its word; the watcher sees the Transfer and moves the status, and whoever waits
//! waits for that. A provider is not called on a facilitator's word.

use super::{Capability, Edge, Site, checks::chain_down, error::ApiError};
use crate::{
    chain::{BlockTag, Heads},
    eip3009::FiatToken,
    facilitator::{Facilitator, Fault, Settled, Verified, request},
    failpoint::Point,
    ledger::{Action, LedgerError, NewSettlement, Settlement, Topic},
    lifecycle::{Status, StatusEvent},
    x402::Subcause,
};
use alloy::primitives::B256;
use serde_json::{Value, json};

/// So many blocks after a refusal the authorization must be unused still.
const PATIENCE_BLOCKS: u64 = 2;

/// What came of handing a payment over.
type Outcome = Result<(), ApiError>;

/// Has the facilitator settle a payment that this request has reserved. When it comes back without an
/// error the payment is on its way.
pub(super) async fn hand_over(
    edge: &Edge,
    site: &Site,
    facilitator: &Facilitator,
    capability: &Capability,
    new: &NewSettlement,
    settlement: &Settlement,
) -> Outcome {
    let hand = Hand { site, facilitator, settlement };
    let offer = site.offer(capability, &edge.public_url);
    let authorization = &new.authorization;
    let request = request(&offer, authorization.signed(), &authorization.signature());
    match facilitator.verify(&request).await {
        Ok(Verified::Valid) => {}
        Ok(Verified::Invalid { subcause, reason }) => {
            return hand.refuse(Status::Reserved, subcause, &reason).await;
        }
        Err(fault) => {
            if !hand.withdraw(Status::Reserved, &told(&fault)).await? {
                return Ok(());
            }
            return Err(hand.fault(fault, None).await);
        }
    }
    // what is paid is what it costs now, whatever the ledger remembers.
    if settlement.amount != capability.price {
        return hand.refuse(Status::Reserved, Subcause::AmountMismatch, "price_changed").await;
    }
    if !hand.begin().await? {
        // Another request with this payment has handed it over.
        return Ok(());
    }
    match facilitator.settle(&request).await {
        Ok(Settled::Pulled { transaction, answer }) => hand.pulled(transaction, &answer).await,
        Ok(Settled::Refused { subcause, reason }) => hand.refused(subcause, &reason).await,
        Ok(Settled::Unclear { reason }) => {
            // A second attempt finds its own first one (C-56): the chain knows.
            tracing::warn!(payment = %settlement.id, reason, "the facilitator does not say");
            Ok(())
        }
        Err(fault) if !fault.was_sent() => {
            if !hand.withdraw(Status::SettlePending, &told(&fault)).await? {
                return Ok(());
            }
            Err(hand.fault(fault, None).await)
        }
        Err(fault) => Err(hand.fault(fault, Some(Status::SettlePending)).await),
    }
}

/// What an agent is told whose payment was handed over and is not seen on the chain yet: the same for
/// the same call, until the chain knows (C-55).
pub(super) fn still_pending(site: &Site, facilitator: &Facilitator) -> ApiError {
    ApiError::FacilitatorTimeout {
        subcause: Subcause::FacilitatorSlow,
        url: facilitator.url().to_owned(),
        elapsed_ms: millis(site.settle_timeout),
        is_pending: true,
    }
}

/// A fault as the event log keeps it.
fn told(fault: &Fault) -> Value {
    match fault {
        Fault::Timeout { subcause, .. } => json!({"subcause": subcause.as_str()}),
        Fault::Unreachable { subcause, last_error, .. } => {
            json!({"subcause": subcause.as_str(), "last_error": last_error})
        }
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One payment at one facilitator.
struct Hand<'a> {
    site: &'a Site,
    facilitator: &'a Facilitator,
    settlement: &'a Settlement,
}

impl Hand<'_> {
    /// As it stands in this status.
    fn at(&self, status: Status) -> Settlement {
        Settlement { status, ..self.settlement.clone() }
    }

    /// Writes down that the facilitator gets it. False when it has it already, or never will.
    async fn begin(&self) -> Result<bool, ApiError> {
        let evidence = json!({"mode": "external", "facilitator": self.facilitator.url()});
        let begun = async {
            let mut tx = self.site.ledger.begin().await?;
            tx.step_status(&self.at(Status::Reserved), StatusEvent::Settle, &evidence).await?;
            tx.commit(Point::HandOver).await
        };
        match begun.await {
            Ok(()) => {
                tracing::info!(payment = %self.settlement.id, "handed to the facilitator");
                Ok(true)
            }
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// Keeps the facilitator's word. The payment waits for the chain's.
    async fn pulled(&self, transaction: B256, answer: &Value) -> Outcome {
        let id = self.settlement.id;
        tracing::info!(payment = %id, %transaction, "the facilitator says that it has pulled");
        let kept = async {
            let mut tx = self.site.ledger.begin().await?;
            tx.facilitator_answered(id, answer).await?;
            let other = tx.pulled_instead(self.settlement, transaction).await?;
            if let Some(other) = other {
                let splitter = Some((self.settlement.chain_id, self.settlement.pay_to));
                let detail = json!({"tx_hash": transaction, "settlement": other});
                tx.log_action(Action::TxHashSeen, splitter, Some(id), &detail).await?;
            }
            tx.commit(Point::Attest).await?;
            Ok(other)
        };
        match kept.await {
            Ok(None) => Ok(()),
            Ok(Some(other)) => {
                tracing::error!(
                    payment = %id, %other, %transaction,
                    "ALARM: the facilitator named another payment's transaction"
                );
                Err(ApiError::TxHashSeen(transaction))
            }
            // The chain says the same, and is asked anyway.
            Err(error) => {
                let error: LedgerError = error;
                tracing::warn!(payment = %id, %error, "cannot keep what the facilitator said");
                Ok(())
            }
        }
    }

    /// It will not settle. That is believed only when the chain has the authorization unused some blocks
    /// later (C-56): it may have pulled all the same, in a transaction that is not mined yet.
    async fn refused(&self, subcause: Subcause, reason: &str) -> Outcome {
        if !self.blocks_have_passed().await {
            return Err(self.timeout(Subcause::ChainCongested, millis(self.site.settle_timeout)));
        }
        let Settlement { payer, nonce, asset, .. } = *self.settlement;
        let state = FiatToken::authorizationStateCall { authorizer: payer, nonce };
        match self.site.chain.call(asset, &state, BlockTag::Latest).await {
            Ok(false) => self.refuse(Status::SettlePending, subcause, reason).await,
            Ok(true) => {
                tracing::warn!(
                    payment = %self.settlement.id, reason,
                    "the facilitator says that it has not pulled, and the authorization is used"
                );
                Ok(())
            }
            Err(error) => {
                let ApiError::Degraded(why) = chain_down(&error) else {
                    return Err(ApiError::Internal);
                };
                tracing::warn!(payment = %self.settlement.id, why, "the chain cannot be asked");
                Err(self.timeout(Subcause::ChainCongested, 0))
            }
        }
    }

    /// Waits for a few blocks. False when they do not come in time.
    async fn blocks_have_passed(&self) -> bool {
        let mut heads = self.site.heads.clone();
        let number = |heads: &Heads| heads.latest().map(|seen| seen.head.number());
        let Some(begun) = number(&heads) else { return false };
        let passed = async {
            while number(&heads).is_none_or(|now| now < begun.saturating_add(PATIENCE_BLOCKS)) {
                heads.changed().await;
            }
        };
        tokio::time::timeout(self.site.settle_timeout, passed).await.is_ok()
    }

    /// Ends the reservation and says why.
    async fn refuse(&self, from: Status, subcause: Subcause, reason: &str) -> Outcome {
        let why = json!({"subcause": subcause.as_str(), "reason": reason});
        if !self.withdraw(from, &why).await? {
            return Ok(());
        }
        Err(ApiError::PaymentInvalid {
            subcause,
            message: format!("the facilitator will not settle it: {reason}"),
            tx_hash: None,
        })
    }

    /// Frees identity and request. False when the payment has moved on in between.
    async fn withdraw(&self, from: Status, why: &Value) -> Result<bool, ApiError> {
        let Settlement { id, chain_id, pay_to, payer, nonce, .. } = *self.settlement;
        let withdrawn = async {
            let mut tx = self.site.ledger.begin().await?;
            if tx.pull_of(chain_id, pay_to, payer, nonce).await?.is_some() {
                return Ok(false);
            }
            tx.step_status(&self.at(from), StatusEvent::Refuse, why).await?;
            tx.log_action(Action::PaymentRejected, Some((chain_id, pay_to)), Some(id), why).await?;
            tx.commit(Point::Withdraw).await?;
            Ok(true)
        };
        match withdrawn.await {
            Ok(withdrawn) => {
                self.site.ledger.signal(Topic::Settlements);
                Ok(withdrawn)
            }
            Err(error) if LedgerError::is_conflict(&error) => Ok(false),
            // It stays reserved and is closed with its window.
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// A fault as the agent is told, and the operator if it may be an attack.
    async fn fault(&self, fault: Fault, standing: Option<Status>) -> ApiError {
        let is_pending = standing.is_some();
        let url = self.facilitator.url().to_owned();
        match fault {
            Fault::Timeout { subcause, elapsed } => ApiError::FacilitatorTimeout {
                subcause,
                url,
                elapsed_ms: millis(elapsed),
                is_pending,
            },
            Fault::Unreachable { subcause, last_error, observed, .. } => {
                let id = self.settlement.id;
                match subcause {
                    Subcause::CertPinMismatch => {
                        tracing::error!(
                            payment = %id, facilitator = url,
                            "ALARM: the facilitator's TLS key is not the pinned one"
                        );
                        let detail = json!({
                            "facilitator": url,
                            "observed": observed.as_ref().map(|it| it.observed.to_string()),
                            "expected": observed.map(|it| {
                                it.expected.iter().map(ToString::to_string).collect::<Vec<_>>()
                            }),
                        });
                        self.note(Action::CertPinMismatch, &detail).await;
                    }
                    Subcause::SignaturePinMismatch => {
                        tracing::error!(
                            payment = %id, facilitator = url,
                            "ALARM: an answer of the facilitator is not signed by the pinned key"
                        );
                        let detail = json!({"facilitator": url, "settlement": id});
                        self.note(Action::SignaturePinMismatch, &detail).await;
                    }
                    _ => tracing::warn!(payment = %id, facilitator = url, last_error, "no answer"),
                }
                ApiError::FacilitatorUnreachable { subcause, url, last_error, is_pending }
            }
        }
    }

    async fn note(&self, action: Action, detail: &Value) {
        let Settlement { chain_id, pay_to, .. } = *self.settlement;
        let noted = async {
            let mut tx = self.site.ledger.begin().await?;
            tx.log_action(action, Some((chain_id, pay_to)), None, detail).await?;
            tx.commit(Point::Attest).await
        };
        if let Err(error) = noted.await {
            let error: LedgerError = error;
            tracing::warn!(%error, "edge: cannot keep what was seen of the facilitator");
        }
    }

    fn timeout(&self, subcause: Subcause, elapsed_ms: u64) -> ApiError {
        let url = self.facilitator.url().to_owned();
        ApiError::FacilitatorTimeout { subcause, url, elapsed_ms, is_pending: true }
    }

    fn lost(&self, error: &LedgerError) -> ApiError {
        tracing::error!(
            payment = %self.settlement.id, %error, "edge: the ledger failed with a payment reserved"
        );
        ApiError::Pending { status: Status::SettlePending, tx_hash: None }
    }
}
