//! Why a payment was refused.

use std::fmt;

/// The closed registry of S03 3.8.6, as far as this release emits it. `insufficient_funds` is not
/// in the registry's table but demanded by S06 4.4 (C-44).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subcause {
    /// Recovered signer is not `from`, or no signer can be recovered.
    SignatureInvalid,
    /// High `s` (EIP-2).
    SignatureMalleable,
    /// Value is not the price, neither below nor above (C-47).
    AmountMismatch,
    /// `to` is not the Splitter.
    PaytoMismatch,
    /// Signed for another network than the client names.
    NetworkMismatch,
    /// Another token than the one asked for.
    AssetMismatch,
    /// Outside its time window, or too close to its end to be settled; or accepted on terms that are
    /// not offered any more.
    Expired,
    /// The chain has the authorization nonce as used or cancelled, and the ledger knows nothing
    /// of it (C-45).
    NonceReused,
    /// Scheme is not `exact`, or an unknown version.
    UnsupportedScheme,
    /// The action takes x402, but not on the network that the client names.
    NetworkUnsupported,
    /// The authorization was shown for another capability before, and was not settled (C-46).
    BindingViolation,
    /// The header is longer than 8 KB.
    HeaderTooLarge,
    /// More than one payment header.
    DuplicatePaymentHeader,
    /// Not base64 of the JSON that the version prescribes.
    PayloadDecodeError,
    /// The payer's balance is below the price.
    InsufficientFunds,
    /// The action does not take x402.
    CapabilityWalletOnly,
    /// x402 is switched off at this hub.
    X402Disabled,
    /// The facilitator named a transaction that is another payment's.
    TxHashSeen,
    /// The facilitator did not answer in time.
    FacilitatorSlow,
    /// It says that the chain is the reason.
    ChainCongested,
    /// Its host has no address.
    DnsFail,
    /// It cannot be reached, or answers nothing usable.
    ConnectionRefused,
    /// Its TLS key is not a pinned one.
    CertPinMismatch,
    /// Its answer is not signed by a pinned key.
    SignaturePinMismatch,
}

impl Subcause {
    /// The registry's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignatureInvalid => "signature_invalid",
            Self::SignatureMalleable => "signature_malleable",
            Self::AmountMismatch => "amount_mismatch",
            Self::PaytoMismatch => "payto_mismatch",
            Self::NetworkMismatch => "network_mismatch",
            Self::AssetMismatch => "asset_mismatch",
            Self::Expired => "expired",
            Self::NonceReused => "nonce_reused",
            Self::UnsupportedScheme => "unsupported_scheme",
            Self::NetworkUnsupported => "network_unsupported",
            Self::BindingViolation => "payment_capability_binding_violation",
            Self::HeaderTooLarge => "header_too_large",
            Self::DuplicatePaymentHeader => "duplicate_payment_header",
            Self::PayloadDecodeError => "payload_decode_error",
            Self::InsufficientFunds => "insufficient_funds",
            Self::CapabilityWalletOnly => "capability_wallet_only",
            Self::X402Disabled => "x402_disabled",
            Self::TxHashSeen => "tx_hash_seen",
            Self::FacilitatorSlow => "facilitator_slow",
            Self::ChainCongested => "chain_congested",
            Self::DnsFail => "dns_fail",
            Self::ConnectionRefused => "connection_refused",
            Self::CertPinMismatch => "cert_pin_mismatch",
            Self::SignaturePinMismatch => "signature_pin_mismatch",
        }
    }
}

impl fmt::Display for Subcause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
