//! Why a payment was refused, in the words of either version of x402.
//!
//! Those of version 1 are a closed enum: npm's x402 1.2.0 throws at any other. Those of version 2 are
//! what the TypeScript facilitator says.

use crate::x402::Version;

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    /// `x402Version` is neither 1 nor 2, or not the payload's.
    Version,
    /// The payload does not have the protocol's form.
    Payload,
    /// It pays in another way than an EIP-3009 authorization.
    PayloadType,
    /// The requirements are not such as are settled here for this caller, or not what was accepted.
    Requirements,
    /// Another scheme than `exact`.
    Scheme,
    /// Requirements for a network that is not served.
    Network,
    /// The payload is for another network than the requirements.
    NetworkMismatch,
    /// Requirements without the token's EIP-712 domain.
    MissingDomain,
    /// Another name in it than the token's.
    TokenName,
    /// Another version in it.
    TokenVersion,
    /// The authorization pays somebody else.
    Recipient,
    /// It pays another amount.
    Value,
    /// It is not valid yet.
    ValidAfter,
    /// It is not valid any more, hardly, or for too long.
    ValidBefore,
    /// The payer has not signed it.
    Signature,
    /// The payer does not have the money.
    Funds,
    /// It is used or cancelled.
    NonceUsed,
    /// It pays, or paid, for something else.
    Duplicate,
    /// It is on its way; nobody knows yet.
    Pending,
    /// The chain shows something else than was agreed.
    State,
    /// Not verified, for reasons of ours.
    VerifyFailed,
    /// Not settled, for reasons of ours.
    SettleFailed,
}

impl Reason {
    /// Its word.
    pub(super) const fn word(self, version: Version) -> &'static str {
        match version {
            Version::V1 => self.v1(),
            Version::V2 => self.v2(),
        }
    }

    const fn v1(self) -> &'static str {
        match self {
            Self::Version => "invalid_x402_version",
            Self::Payload | Self::PayloadType => "invalid_payload",
            Self::Requirements | Self::MissingDomain | Self::TokenName | Self::TokenVersion => {
                "invalid_payment_requirements"
            }
            Self::Scheme => "unsupported_scheme",
            Self::Network | Self::NetworkMismatch => "invalid_network",
            Self::Recipient => "invalid_exact_evm_payload_recipient_mismatch",
            Self::Value => "invalid_exact_evm_payload_authorization_value",
            Self::ValidAfter => "invalid_exact_evm_payload_authorization_valid_after",
            Self::ValidBefore => "invalid_exact_evm_payload_authorization_valid_before",
            Self::Signature => "invalid_exact_evm_payload_signature",
            Self::Funds => "insufficient_funds",
            Self::NonceUsed => "invalid_payment",
            Self::Duplicate => "duplicate_settlement",
            Self::Pending | Self::State => "invalid_transaction_state",
            Self::VerifyFailed => "unexpected_verify_error",
            Self::SettleFailed => "unexpected_settle_error",
        }
    }

    const fn v2(self) -> &'static str {
        match self {
            Self::Version => "invalid_x402_version",
            Self::Payload => "invalid_payload",
            Self::PayloadType => "unsupported_payload_type",
            Self::Requirements => "invalid_payment_requirements",
            Self::Scheme => "invalid_exact_evm_scheme",
            Self::Network => "invalid_network",
            Self::NetworkMismatch => "invalid_exact_evm_network_mismatch",
            Self::MissingDomain => "invalid_exact_evm_missing_eip712_domain",
            Self::TokenName => "invalid_exact_evm_token_name_mismatch",
            Self::TokenVersion => "invalid_exact_evm_token_version_mismatch",
            Self::Recipient => "invalid_exact_evm_recipient_mismatch",
            Self::Value => "invalid_exact_evm_payload_authorization_value_mismatch",
            Self::ValidAfter => "invalid_exact_evm_payload_authorization_valid_after",
            Self::ValidBefore => "invalid_exact_evm_payload_authorization_valid_before",
            Self::Signature => "invalid_exact_evm_signature",
            Self::Funds => "invalid_exact_evm_insufficient_balance",
            Self::NonceUsed => "invalid_exact_evm_nonce_already_used",
            Self::Duplicate => "duplicate_settlement",
            Self::Pending => "settlement_pending",
            Self::State => "invalid_transaction_state",
            Self::VerifyFailed => "unexpected_verify_error",
            Self::SettleFailed => "unexpected_settle_error",
        }
    }

    /// Whether the body itself is at fault, whoever pays.
    pub(super) const fn is_malformed(self) -> bool {
        matches!(self, Self::Version | Self::Payload)
    }

    /// Whether it lies with us.
    pub(super) const fn is_ours(self) -> bool {
        matches!(self, Self::VerifyFailed | Self::SettleFailed)
    }
}
