//! The registry: closed, and with something to do for every refusal.

use super::*;
use crate::{edge::Tier, outbound::Reason, x402::MicroUsdc};
use axum::body::to_bytes;

const CATALOGUE: [(&str, u16); 29] = [
    ("UNSUPPORTED_MEDIA_TYPE", 415),
    ("INVALID_REQUEST", 400),
    ("UNSUPPORTED_VERSION", 400),
    ("INPUT_SCHEMA_VIOLATION", 400),
    ("INPUT_TOO_LARGE", 413),
    ("CAPABILITY_NOT_FOUND", 404),
    ("ACTION_NOT_FOUND", 404),
    ("CAPABILITY_DEPRECATED", 410),
    ("X402_PAYMENT_INVALID", 422),
    ("X402_NOT_ACCEPTED", 422),
    ("X402_SETTLEMENT_REUSED", 409),
    ("DUPLICATE_REQUEST", 409),
    ("SERVICE_DEGRADED", 503),
    ("PROVIDER_ERROR", 502),
    ("PROVIDER_UNAVAILABLE", 503),
    ("PROVIDER_TIMEOUT", 504),
    ("EXECUTION_FAILED", 500),
    ("INTERNAL_ERROR", 500),
    ("AUTH_REQUIRED", 401),
    ("INVALID_API_KEY", 401),
    ("MANDATE_EXPIRED", 401),
    ("INSUFFICIENT_BUDGET", 402),
    ("INSUFFICIENT_TRUST", 403),
    ("X402_SETTLEMENT_TIMEOUT", 504),
    ("X402_FACILITATOR_UNREACHABLE", 502),
    ("URL_BLOCKED_SSRF", 422),
    ("TRANSACTION_NOT_FOUND", 404),
    ("REFUND_NOT_DUE", 422),
    ("REFUND_INVESTIGATION_REQUIRED", 422),
];
const NEXT: [&str; 7] =
    ["register", "topup", "earn_trust", "renew_mandate", "wait", "lookup_schema", "x402_settle"];

fn all() -> Vec<ApiError> {
    let receipt = Receipt { settlement: Uuid::nil(), tx_hash: None };
    let sunset = |successor| Sunset { at: DateTime::UNIX_EPOCH, successor };
    let deprecated = |successor| ApiError::Deprecated {
        capability: "demo/old".to_owned(),
        sunset: sunset(successor),
    };
    let invalid = [Subcause::SignatureInvalid, Subcause::NonceReused, Subcause::BindingViolation];
    let invalid = invalid.map(|subcause| ApiError::PaymentInvalid {
        subcause,
        message: "why".to_owned(),
        tx_hash: Some(B256::ZERO),
    });
    let refused =
        [Subcause::CapabilityWalletOnly, Subcause::X402Disabled, Subcause::NetworkUnsupported];
    let failures =
        [Failure::Error, Failure::Lost, Failure::Timeout, Failure::Unavailable, Failure::Forgone];
    let fault = Fault {
        instance_path: "/a".to_owned(),
        schema_path: "/properties/a/type".to_owned(),
        reason: "want string".to_owned(),
    };
    let blocked = Refused { reason: Reason::Scheme, blocked_url: "ftp://a.example".to_owned() };
    let mut all = vec![
        ApiError::UnsupportedMediaType,
        ApiError::InvalidRequest("why".to_owned()),
        ApiError::UnsupportedVersion,
        ApiError::TooLarge("the body is larger than 10 MB"),
        ApiError::InputSchema(vec![fault]),
        ApiError::CapabilityNotFound,
        ApiError::ActionNotFound,
        deprecated(None),
        deprecated(Some("demo/new".to_owned())),
        ApiError::SettlementReused { tx_hash: None, request_id: None, settled_at: None },
        ApiError::DuplicateRequest,
        ApiError::Pending { status: Status::SettlePending, tx_hash: None },
        ApiError::Held(receipt),
        ApiError::NotSold,
        ApiError::Degraded("why".to_owned()),
        ApiError::Internal,
        ApiError::TxHashSeen(B256::ZERO),
        ApiError::UrlBlocked(Field::EndpointUrl, blocked),
        ApiError::PaymentUnknown,
        ApiError::RefundNotDue,
        ApiError::RefundInvestigation { threshold: 10 },
    ];
    for is_pending in [false, true] {
        let url = "https://facilitator.example".to_owned();
        let subcause = Subcause::FacilitatorSlow;
        let slow = ApiError::FacilitatorTimeout { subcause, url, elapsed_ms: 5_000, is_pending };
        let url = "https://facilitator.example".to_owned();
        let (subcause, last_error) = (Subcause::ConnectionRefused, "closed");
        let gone = ApiError::FacilitatorUnreachable { subcause, url, last_error, is_pending };
        all.extend([slow, gone]);
    }
    let (price, budget) = (MicroUsdc::new(200_000).unwrap(), MicroUsdc::ZERO);
    let (required, current) = (Tier::Gold, Tier::Bronze);
    let agents = [
        Refusal::Missing,
        Refusal::Wrong,
        Refusal::Expired,
        Refusal::Budget { price, budget },
        Refusal::Trust { required, current },
    ];
    all.extend(agents.map(ApiError::Agent));
    all.extend(invalid);
    all.extend(refused.map(ApiError::NotAccepted));
    all.extend(failures.map(|failure| ApiError::Provider(failure, receipt)));
    all
}

/// Whatever is refused has a code and a status of the catalogue (S03 3), a link, what to do next, and
/// one opinion on when to come back.
#[tokio::test]
async fn every_refusal_is_of_the_catalogue_and_says_what_to_do() {
    let ways = [
        None,
        Some(PaymentMethods::Stripe),
        Some(PaymentMethods::X402),
        Some(PaymentMethods::Both),
    ];
    for (error, methods) in all().iter().flat_map(|error| ways.map(|way| (error, way))) {
        let (parts, body) = error.respond(Some("call-1"), methods).into_parts();
        let body = to_bytes(body, 100_000).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let code = body["error"]["code"].as_str().unwrap();
        assert!(CATALOGUE.contains(&(code, parts.status.as_u16())), "{error:?}: {code}");
        assert_eq!((&body["id"], &body["status"]), (&json!("call-1"), &json!("failed")));
        assert!(!body["error"]["message"].as_str().unwrap().is_empty(), "{error:?}");
        let link = body["error"]["details"]["documentation_url"].as_str().unwrap();
        assert!(link.starts_with(body["error"]["documentation_url"].as_str().unwrap()));
        let next = body["next_action"]["type"].as_str().unwrap_or_default();
        assert!(NEXT.contains(&next), "{error:?}: {next}");
        if let Some(seconds) = parts.headers.get(header::RETRY_AFTER) {
            let told: u64 = seconds.to_str().unwrap().parse().unwrap();
            assert!((1..=600).contains(&told), "{error:?}");
            assert_eq!(body["next_action"]["retry_after_seconds"], told, "{error:?}");
        }
        if parts.status == StatusCode::SERVICE_UNAVAILABLE {
            assert!(parts.headers.contains_key(header::RETRY_AFTER), "{error:?}");
        }
    }
}

/// what is accepted instead is what the action takes.
#[test]
fn what_is_accepted_instead() {
    let accepted =
        |subcause, methods| ApiError::NotAccepted(subcause).details(methods)["accepted"].clone();
    let (only, off) = (Subcause::CapabilityWalletOnly, Subcause::X402Disabled);
    assert_eq!(accepted(only, Some(PaymentMethods::Stripe)), json!(["stripe"]));
    assert_eq!(accepted(off, Some(PaymentMethods::Both)), json!(["stripe"]));
    assert_eq!(accepted(off, Some(PaymentMethods::X402)), json!([]));
    let elsewhere = Subcause::NetworkUnsupported;
    assert_eq!(accepted(elsewhere, Some(PaymentMethods::X402)), json!(["x402"]));
}
