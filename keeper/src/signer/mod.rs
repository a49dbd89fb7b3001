//! Keys. They live in AWS KMS and never leave it (S06 8.10); this room asks KMS to sign and checks
//! what comes back.

mod kms;

pub use kms::{KmsKey, KmsSigner, SignedTransaction};

/// Why a key could not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SignerError {
    /// KMS did not answer or refused.
    #[error("KMS key {key}: {kind}")]
    Kms {
        /// Which key.
        key: String,
        /// A short, closed description: "timeout", "dispatch", or the service's error code.
        kind: String,
    },
    /// The key is not what the configuration says: waiting will not help.
    #[error("KMS key {key}: {kind}; correct key_id and region, or the key in KMS")]
    Unusable {
        /// Which key.
        key: String,
        /// The service's error code.
        kind: String,
    },
    /// KMS signed something that does not fit its public key.
    #[error("KMS key {key} answered with a signature that is not this key's")]
    WrongSignature {
        /// Which key.
        key: String,
    },
}
