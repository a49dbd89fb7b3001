//! What is asked and answered (R-061 to R-064). Everything goes out in the words of x402 v1, whatever
//! the payer speaks: what was signed is the same.

use super::Fault;
use crate::x402::{Offer, SignedAuthorization, Subcause};
use alloy::primitives::{Address, B256, Bytes};
use serde::Deserialize;
use serde_json::{Value, json};

/// What the facilitator says of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// It would settle it.
    Valid,
    /// It would not.
    Invalid {
        /// Why, in the closed registry.
        subcause: Subcause,
        /// In its own word.
        reason: String,
    },
}

/// What the facilitator says it did. Its word; the chain decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It pulled.
    Pulled {
        /// In this transaction.
        transaction: B256,
        /// Its whole answer, which is kept.
        answer: Value,
    },
    /// It did not, and why.
    Refused {
        /// In the closed registry.
        subcause: Subcause,
        /// In its own word.
        reason: String,
    },
    /// It does not say.
    Unclear {
        /// In its own word.
        reason: String,
    },
}

/// The body of both questions: canonical names, and the specification's beside them (C-34).
pub fn request(offer: &Offer, signed: &SignedAuthorization, signature: &Bytes) -> Value {
    let mut requirements = offer.v1_requirements();
    for (alias, name) in [
        ("max_amount_required", "maxAmountRequired"),
        ("pay_to", "payTo"),
        ("mime_type", "mimeType"),
        ("max_timeout_seconds", "maxTimeoutSeconds"),
    ] {
        requirements[alias] = requirements[name].clone();
    }
    json!({
        "x402Version": 1,
        "paymentPayload": {
            "x402Version": 1,
            "scheme": "exact",
            "network": offer.network.v1(),
            "payload": {"signature": signature, "authorization": signed},
        },
        "paymentRequirements": requirements,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VerifyAnswer {
    #[serde(alias = "is_valid")]
    is_valid: bool,
    #[serde(default, alias = "invalid_reason")]
    invalid_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SettleAnswer {
    success: bool,
    #[serde(default, alias = "error_reason")]
    error_reason: Option<String>,
    #[serde(default, alias = "tx_hash", alias = "txHash")]
    transaction: Option<String>,
    #[serde(default)]
    payer: Option<Address>,
}

/// What an answer to `/verify` says.
pub(super) fn verified(body: &[u8]) -> Result<Verified, Fault> {
    let answer: VerifyAnswer = serde_json::from_slice(body).map_err(|_| Fault::unreadable())?;
    if answer.is_valid {
        return Ok(Verified::Valid);
    }
    let reason = word(answer.invalid_reason);
    match meaning(&reason) {
        Meaning::Refused(subcause) => Ok(Verified::Invalid { subcause, reason }),
        Meaning::Congested => Err(Fault::congested()),
        Meaning::Broken => Err(Fault::broken()),
        // Nothing was sent yet: it is a no, whatever it means.
        Meaning::Ambiguous => Ok(Verified::Invalid { subcause: Subcause::NonceReused, reason }),
        Meaning::Unknown => {
            Ok(Verified::Invalid { subcause: Subcause::PayloadDecodeError, reason })
        }
    }
}

/// What an answer to `/settle` says.
pub(super) fn settled(body: &[u8]) -> Result<Settled, Fault> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::unreadable())?;
    let answer = SettleAnswer::deserialize(&value).map_err(|_| Fault::unreadable())?;
    if answer.success {
        let named = answer.transaction.as_deref().and_then(|text| text.parse().ok());
        let Some(transaction) = named else { return Err(Fault::unreadable()) };
        let kept = json!({
            "success": true,
            "transaction": transaction,
            "network": value["network"].as_str(),
            "payer": answer.payer,
        });
        return Ok(Settled::Pulled { transaction, answer: kept });
    }
    let reason = word(answer.error_reason);
    match meaning(&reason) {
        Meaning::Refused(subcause) => Ok(Settled::Refused { subcause, reason }),
        Meaning::Congested => Err(Fault::congested()),
        Meaning::Broken => Err(Fault::broken()),
        Meaning::Ambiguous | Meaning::Unknown => Ok(Settled::Unclear { reason }),
    }
}

/// A reason as it may be shown: a word, not a page.
fn word(reason: Option<String>) -> String {
    let is_plain = |character: &char| {
        character.is_ascii_alphanumeric() || ['_', '-', '.', ' '].contains(character)
    };
    reason.unwrap_or_default().chars().filter(is_plain).take(100).collect()
}

/// What a facilitator means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// The payment is no good.
    Refused(Subcause),
    /// The chain is slow.
    Congested,
    /// Something is wrong with the facilitator.
    Broken,
    /// The authorization may be used already, by itself even.
    Ambiguous,
    /// Nobody knows.
    Unknown,
}

/// The reasons of x402 v1, v2 and of what is in use, and the registry's own words.
fn meaning(reason: &str) -> Meaning {
    // v1 puts the scheme before some of them.
    let plain = reason
        .trim_start_matches("invalid_exact_evm_payload_")
        .trim_start_matches("invalid_exact_evm_");
    Meaning::Refused(match plain {
        "signature" | "signature_invalid" | "invalid_signature" | "undeployed_smart_wallet" => {
            Subcause::SignatureInvalid
        }
        "signature_malleable" => Subcause::SignatureMalleable,
        "authorization_valid_before"
        | "authorization_valid_after"
        | "payment_expired"
        | "expired"
        | "invalid_payment_expired"
        | "invalid_payment_early" => Subcause::Expired,
        "authorization_value"
        | "authorization_value_mismatch"
        | "amount_mismatch"
        | "invalid_payment_amount" => Subcause::AmountMismatch,
        "recipient_mismatch" | "payto_mismatch" => Subcause::PaytoMismatch,
        "invalid_network" | "network_mismatch" | "chain_id_mismatch" | "unsupported_chain" => {
            Subcause::NetworkMismatch
        }
        "asset_mismatch" => Subcause::AssetMismatch,
        "invalid_scheme" | "unsupported_scheme" | "invalid_x402_version" => {
            Subcause::UnsupportedScheme
        }
        "invalid_payload"
        | "invalid_payment"
        | "invalid_payment_requirements"
        | "invalid_format"
        | "payload_decode_error"
        | "accepted_requirements_mismatch" => Subcause::PayloadDecodeError,
        "insufficient_funds" => Subcause::InsufficientFunds,
        "chain_congested" => return Meaning::Congested,
        "unexpected_verify_error" | "unexpected_settle_error" | "unexpected_error" => {
            return Meaning::Broken;
        }
        "duplicate_settlement"
        | "nonce_reused"
        | "authorization_nonce_used"
        | "nonce_already_used"
        | "invalid_transaction_state"
        | "transaction_simulation" => return Meaning::Ambiguous,
        _ => return Meaning::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(json: &Value) -> Vec<u8> {
        json.to_string().into_bytes()
    }

    /// R-062: a no at `/verify` has a word of the registry.
    #[test]
    fn what_is_invalid_is_told_in_the_registrys_words() {
        for (reason, subcause) in [
            ("invalid_exact_evm_payload_signature", Subcause::SignatureInvalid),
            ("invalid_exact_evm_payload_authorization_valid_before", Subcause::Expired),
            ("invalid_exact_evm_payload_authorization_value", Subcause::AmountMismatch),
            ("invalid_exact_evm_payload_recipient_mismatch", Subcause::PaytoMismatch),
            ("invalid_network", Subcause::NetworkMismatch),
            ("invalid_x402_version", Subcause::UnsupportedScheme),
            ("invalid_payment_requirements", Subcause::PayloadDecodeError),
            ("insufficient_funds", Subcause::InsufficientFunds),
            ("invalid_transaction_state", Subcause::NonceReused),
            ("what nobody ever said", Subcause::PayloadDecodeError),
        ] {
            let answer = verified(&says(&json!({"isValid": false, "invalidReason": reason})));
            let expected = Verified::Invalid { subcause, reason: reason.to_owned() };
            assert_eq!(answer, Ok(expected), "{reason}");
        }
        assert_eq!(verified(&says(&json!({"isValid": true}))), Ok(Verified::Valid));
        assert_eq!(verified(&says(&json!({"is_valid": true}))), Ok(Verified::Valid));
        for broken in ["{}", "null", "no", r#"{"isValid":"true"}"#] {
            assert_eq!(verified(broken.as_bytes()), Err(Fault::unreadable()), "{broken}");
        }
    }

    /// R-063, R-064, R-067, C-56: at `/settle` only what is clear counts.
    #[test]
    fn a_settlement_is_pulled_refused_or_unclear() {
        let hash = B256::repeat_byte(7);
        let answer = settled(&says(&json!({"success": true, "transaction": hash, "payer": null})));
        assert!(
            matches!(&answer, Ok(Settled::Pulled { transaction, answer })
                if *transaction == hash && answer["transaction"] == json!(hash)),
            "{answer:?}"
        );
        let says_no =
            |reason: &str| settled(&says(&json!({"success": false, "errorReason": reason})));
        let subcause = Subcause::InsufficientFunds;
        let reason = "insufficient_funds".to_owned();
        assert_eq!(says_no(&reason), Ok(Settled::Refused { subcause, reason }));
        for reason in ["duplicate_settlement", "invalid_transaction_state", "", "gas"] {
            let expected = Settled::Unclear { reason: reason.to_owned() };
            assert_eq!(says_no(reason), Ok(expected), "{reason}");
        }
        assert_eq!(says_no("chain_congested"), Err(Fault::congested()));
        assert_eq!(says_no("unexpected_settle_error"), Err(Fault::broken()));
        // A success without a transaction is no success.
        for odd in [json!({"success": true}), json!({"success": true, "transaction": "0x12"})] {
            assert_eq!(settled(&says(&odd)), Err(Fault::unreadable()), "{odd}");
        }
    }

    #[test]
    fn a_reason_is_a_word_and_not_a_page() {
        let page = format!("<script>\n{}", "a".repeat(1_000));
        let Ok(Settled::Unclear { reason }) =
            settled(&says(&json!({"success": false, "errorReason": page})))
        else {
            panic!("it is unclear");
        };
        assert!(reason.starts_with("scripta") && reason.len() == 100, "{reason}");
    }
}
