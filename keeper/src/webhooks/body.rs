//! What a webhook says, and under which id.

use crate::{ledger::NotableEvent, lifecycle::words};
use chrono::SecondsFormat;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

/// What may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum EventType {
    /// A paid call was answered.
    #[serde(rename = "invocation.completed")]
    InvocationCompleted,
    /// The treasury has given a payment back.
    #[serde(rename = "invocation.refunded")]
    InvocationRefunded,
    /// A payment is buried deep enough.
    #[serde(rename = "settlement.confirmed")]
    SettlementConfirmed,
    /// It is recorded at the Splitter.
    #[serde(rename = "settlement.recorded")]
    SettlementRecorded,
    /// The chain shows something else than was agreed.
    #[serde(rename = "settlement.mismatched")]
    SettlementMismatched,
}

words!(EventType {
    InvocationCompleted => "invocation.completed",
    InvocationRefunded => "invocation.refunded",
    SettlementConfirmed => "settlement.confirmed",
    SettlementRecorded => "settlement.recorded",
    SettlementMismatched => "settlement.mismatched",
});

impl EventType {
    /// What an event of a settlement is to others, if it is anything.
    pub(super) fn of(kind: &str) -> Option<Self> {
        match kind {
            "delivery.answer" => Some(Self::InvocationCompleted),
            "refund.pay" => Some(Self::InvocationRefunded),
            "status.confirm" => Some(Self::SettlementConfirmed),
            "keeper.record_seen" => Some(Self::SettlementRecorded),
            "status.disagree" => Some(Self::SettlementMismatched),
            _ => None,
        }
    }
}

/// The receiver's idempotency key: it follows from the event and the endpoint, so that it is the same
/// whoever tells it, and however often.
pub(super) fn message_id(event: &NotableEvent, endpoint: &str) -> Uuid {
    let hash: [u8; 32] =
        Sha256::new().chain_update(event.hash).chain_update(endpoint).finalize().into();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash).for_each(|(byte, hashed)| *byte = hashed);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// The body: `{type, id, created_at, data}`. What was asked and answered is between agent and
/// provider; it is not told.
pub(super) fn message(
    kind: EventType,
    id: Uuid,
    chain_id: u64,
    event: &NotableEvent,
) -> Result<String, serde_json::Error> {
    let evidence: Value = serde_json::from_str(&event.body)?;
    let body = json!({
        "type": kind.as_str(),
        "id": id,
        "created_at": event.at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "data": {
            "transaction_id": event.settlement,
            "trace_id": event.trace_id,
            "chain_id": chain_id,
            "payer": event.payer,
            "amount_usdc_micro": event.amount_micro.to_string(),
            "capability": event.capability,
            "agent_id": event.agent_id,
            "request_id": event.request_id,
            "settlement_tx": event.tx_hash,
            "evidence": evidence,
        },
    });
    serde_json::to_string(&body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::B256;
    use chrono::Utc;

    fn event(hash: u8) -> NotableEvent {
        NotableEvent {
            seq: 1,
            kind: "status.confirm".to_owned(),
            body: r#"{"at":null}"#.to_owned(),
            hash: B256::repeat_byte(hash),
            at: Utc::now(),
            settlement: Uuid::nil(),
            trace_id: B256::ZERO,
            payer: "0x01".to_owned(),
            amount_micro: 200_000,
            capability: Some("demo/echo".to_owned()),
            agent_id: None,
            request_id: None,
            tx_hash: None,
        }
    }

    #[test]
    fn an_id_is_that_of_its_event_and_endpoint() {
        let id = message_id(&event(1), "https://a.example/");
        assert_eq!(id, message_id(&event(1), "https://a.example/"));
        assert_ne!(id, message_id(&event(2), "https://a.example/"));
        assert_ne!(id, message_id(&event(1), "https://b.example/"));
        assert_eq!(id.get_version_num(), 8);
    }

    /// R-328: type, id and created_at are there; the verifiers of SDKs demand them.
    #[test]
    fn a_body_has_what_receivers_demand() {
        let id = Uuid::nil();
        let body = message(EventType::SettlementConfirmed, id, 84_532, &event(1)).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["type"], "settlement.confirmed");
        assert_eq!(body["id"], id.to_string());
        assert!(body["created_at"].as_str().unwrap().ends_with('Z'));
        assert_eq!(body["data"]["amount_usdc_micro"], "200000");
    }

    #[test]
    fn every_type_has_its_event() {
        let kinds = [
            "delivery.answer",
            "refund.pay",
            "status.confirm",
            "keeper.record_seen",
            "status.disagree",
        ];
        let types: Vec<_> = kinds.iter().filter_map(|kind| EventType::of(kind)).collect();
        assert_eq!(types, EventType::ALL);
        assert_eq!(EventType::of("status.pull_seen"), None);
    }
}
