//! What was noticed and decided beside the payments' own events. Append-only.

use super::{
    LedgerError, Result, Tx,
    columns::{bigint, hex, now, uuid, word},
    query::{execute, fetch_all},
};
use crate::lifecycle::words;
use alloy::primitives::Address;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

/// What happened. Names as the conformance suites spell them, where they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A switch was moved.
    FlagSet,
    /// A Splitter takes no payments any more.
    Closed,
    /// It does again.
    Lifted,
    /// A payment's record was seen, and how long after its pull.
    SettlementRecorded,
    /// A payment was recorded later after its pull than the specification allows (I-8).
    LatencyExceeded,
    /// It was split later than that.
    SplitLatencyExceeded,
    /// A record or a split was tried for twelve seconds and is not on the chain; it is tried on.
    RetryExhausted,
    /// A payment's amount or payee is not what its Transfer says (I-7); it is never recorded.
    AmountViolation,
    /// A refund was asked for.
    RefundRequested,
    /// A human must decide about it.
    RefundHeld,
    /// It was agreed to.
    RefundApproved,
    /// It was decided against.
    RefundDenied,
    /// It was handed to the treasury's Safe.
    RefundProposed,
    /// The treasury has paid it.
    RefundPaid,
    /// It was not paid within 24 hours.
    RefundOverdue,
    /// A capability is not sold any more: too many of its calls fail.
    CapabilityHeld,
    /// It is sold again.
    CapabilityResumed,
    /// Blocks were read again, and the mirror was not as the chain.
    Reread,
    /// What was to be read again is held already, and nothing was done.
    ReplaySkipped,
    /// Chain, journal and settlements of a Splitter disagree.
    DriftDetected,
    /// A payment has had no outcome for ten minutes.
    OrphanDetected,
    /// The chain shows something else of a payment than was agreed.
    MismatchFlagged,
    /// Money came in that no payment asked for (R-127, C-33c).
    UnattributedBalance,
    /// An agent got credentials.
    AgentAdded,
    /// Its key was taken away.
    AgentRevoked,
    /// A payment was refused after it was reserved.
    PaymentRejected,
    /// The facilitator's TLS key is not a pinned one.
    CertPinMismatch,
    /// An answer of the facilitator is not signed by a pinned key.
    SignaturePinMismatch,
    /// The facilitator named another payment's transaction.
    TxHashSeen,
    /// The key in KMS is the contract's settler.
    TrustRootVerified,
    /// Accounts of facilitators tried to record, without sending it.
    UnauthorizedSimulation,
}

words!(Action {
    FlagSet => "x402.flag_set",
    Closed => "x402.closed",
    Lifted => "x402.lifted",
    SettlementRecorded => "x402.settlement_recorded",
    LatencyExceeded => "x402.settlement_latency_exceeded",
    SplitLatencyExceeded => "x402.split_latency_exceeded",
    RetryExhausted => "x402.record_retry_exhausted",
    AmountViolation => "invariant_i7_violation",
    RefundRequested => "x402.refund_requested",
    RefundHeld => "x402.refund_held",
    RefundApproved => "x402.refund_approved",
    RefundDenied => "x402.refund_denied",
    RefundProposed => "x402.refund_proposed",
    RefundPaid => "x402.refund_paid",
    RefundOverdue => "x402.refund_overdue",
    CapabilityHeld => "x402.capability_held",
    CapabilityResumed => "x402.capability_resumed",
    Reread => "x402.reread",
    ReplaySkipped => "x402.replay_skipped",
    DriftDetected => "x402.attribution_drift_detected",
    OrphanDetected => "x402.orphan_detected",
    MismatchFlagged => "x402.mismatch_flagged",
    UnattributedBalance => "x402.unattributed_balance",
    AgentAdded => "x402.agent_added",
    AgentRevoked => "x402.agent_revoked",
    PaymentRejected => "x402.payment_rejected",
    CertPinMismatch => "x402.facilitator.cert_pin_mismatch",
    SignaturePinMismatch => "x402.facilitator.signature_pin_mismatch",
    TxHashSeen => "x402.facilitator.tx_hash_seen",
    TrustRootVerified => "x402.trust_root_verified",
    UnauthorizedSimulation => "x402.unauthorized_settler_simulation",
});

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRecord {
    /// What happened.
    pub action: Action,
    /// To which payment, if to one.
    pub settlement: Option<Uuid>,
    /// JSON.
    pub detail: String,
    /// When.
    pub at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Row {
    action: String,
    settlement_id: Option<String>,
    detail: String,
    at: DateTime<Utc>,
}

impl Tx {
    /// Logs that something happened, to a Splitter and a payment if it did to one. Once per action
    /// and payment: false when it stands there already.
    pub async fn log_action<D: Serialize>(
        &mut self,
        action: Action,
        splitter: Option<(u64, Address)>,
        settlement: Option<Uuid>,
        detail: &D,
    ) -> Result<bool> {
        const INSERT: &str = "INSERT INTO audit_log
            (action, chain_id, splitter, settlement_id, detail, at) VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (action, settlement_id) DO NOTHING";
        let detail =
            String::from_utf8(serde_json_canonicalizer::to_vec(detail)?).map_err(|_| {
                LedgerError::OutOfRange { what: "audit detail", value: "not UTF-8".to_owned() }
            })?;
        let chain = splitter.map(|(chain_id, _)| bigint("chain id", chain_id)).transpose()?;
        let at = splitter.map(|(_, address)| hex(address));
        let settlement = settlement.map(|id| id.to_string());
        let done = execute!(self, INSERT, action.as_str(), chain, at, settlement, &detail, now())?;
        Ok(done == 1)
    }

    /// Every line of one action, oldest first.
    pub async fn actions(&mut self, action: Action) -> Result<Vec<ActionRecord>> {
        const SELECT: &str = "SELECT action, settlement_id, detail, at FROM audit_log
            WHERE action = $1 ORDER BY seq";
        let rows = fetch_all!(self, Row, SELECT, action.as_str())?;
        rows.into_iter()
            .map(|row| {
                let settlement = row.settlement_id.as_deref();
                Ok(ActionRecord {
                    action: word("audit_log.action", &row.action, Action::from_word)?,
                    settlement: settlement
                        .map(|id| uuid("audit_log.settlement_id", id))
                        .transpose()?,
                    detail: row.detail,
                    at: row.at,
                })
            })
            .collect()
    }
}
