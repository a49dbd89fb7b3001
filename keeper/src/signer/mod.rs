//! Keys. They live in AWS KMS and never leave it (S06 8.10). Before KMS is asked to sign, this room
//! looks whether the key may sign that, and not too often; after it, whether the signature is good.

mod fault;
mod kms;
mod limit;
mod local;
mod policy;

pub use fault::KmsFault;
pub use kms::KmsKey;
pub use policy::{Policy, Refusal};

use crate::metrics::KMS_REFUSED_TOTAL;
use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718,
    hex,
    primitives::{Address, B256, Bytes, Signature, TxKind},
    signers::{SignerSync, local::PrivateKeySigner},
};
use kms::KmsSigner;
use limit::{Episode, Limit};
use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In KMS.
    Kms(KmsKey),
    /// In a file, as hexadecimal digits. For tests only: whoever reads the file has the key.
    Local(PathBuf),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kms(key) => write!(f, "KMS key {}", key.key_id),
            Self::Local(path) => write!(f, "key file {}", path.display()),
        }
    }
}

/// What a key may sign, and how often.
#[derive(Debug, Clone)]
pub struct Guard {
    /// What it may sign.
    pub policy: Policy,
    /// How often in any minute.
    pub max_per_minute: u32,
}

/// A key with its address and what it may do. Clones share the count of signatures.
#[derive(Debug, Clone)]
pub struct Signer {
    key: Key,
    chain_id: u64,
    policy: Policy,
    gate: Arc<Mutex<Gate>>,
}

#[derive(Debug, Clone)]
enum Key {
    Kms(KmsSigner),
    Local(PrivateKeySigner),
}

/// What is remembered between signatures.
#[derive(Debug)]
struct Gate {
    limit: Limit,
    forbidden: Episode,
    over: Episode,
    wrong: Episode,
}

/// A signed transaction.
#[derive(Debug, Clone)]
pub struct SignedTransaction {
    /// Its hash, computed here.
    pub hash: B256,
    /// Its bytes.
    pub raw: Bytes,
}

/// Why a key could not be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SignerError {
    /// KMS did not answer or refused.
    #[error("KMS key {key}: {kind}")]
    Kms {
        /// Which key.
        key: String,
        /// What was wrong.
        kind: KmsFault,
    },
    /// The key is not what the configuration says: waiting will not help.
    #[error("KMS key {key}: {kind}; correct key_id and region, or the key in KMS")]
    Unusable {
        /// Which key.
        key: String,
        /// What was wrong.
        kind: KmsFault,
    },
    /// The signature does not fit the public key.
    #[error("key {key} answered with a signature that is not this key's")]
    WrongSignature {
        /// Which key.
        key: String,
    },
    /// The file has no key.
    #[error("key file {path}: {problem}")]
    KeyFile {
        /// Which file.
        path: String,
        /// What is wrong with it, without its content.
        problem: String,
    },
    /// The key may not sign this. It was not asked.
    #[error("key {key} may not sign this: {refusal} (to {to}, selector {selector})")]
    Forbidden {
        /// The key's address.
        key: Address,
        /// What is wrong.
        refusal: Refusal,
        /// Where the transaction goes.
        to: String,
        /// The function that it calls.
        selector: String,
    },
    /// The key has signed as often as it may. It was not asked.
    #[error("key {key} has signed {most} times in a minute, as often as it may; again in {wait} s")]
    TooMany {
        /// The key's address.
        key: Address,
        /// How often it may in a minute.
        most: usize,
        /// Seconds until it may again.
        wait: u64,
    },
}

impl SignerError {
    /// Whether waiting will not help.
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Unusable { .. } | Self::KeyFile { .. })
    }

    fn kms(key: &str, kind: KmsFault) -> Self {
        let key = key.to_owned();
        match kind {
            KmsFault::WrongSignature => Self::WrongSignature { key },
            kind if kind.is_permanent() => Self::Unusable { key, kind },
            kind => Self::Kms { key, kind },
        }
    }
}

impl Signer {
    /// Finds a key, in KMS with the credentials of the environment. It signs for `chain_id` only.
    ///
    /// # Errors
    /// [`SignerError::Kms`], [`SignerError::Unusable`], [`SignerError::KeyFile`].
    pub async fn connect(
        source: &KeySource,
        chain_id: u64,
        guard: Guard,
    ) -> Result<Self, SignerError> {
        let key = match source {
            KeySource::Kms(key) => Key::Kms(KmsSigner::connect(key).await?),
            KeySource::Local(path) => Key::Local(local::read(path)?),
        };
        Ok(Self::new(key, chain_id, guard))
    }

    /// A key in KMS, reached as the caller says.
    ///
    /// # Errors
    /// [`SignerError::Kms`], [`SignerError::Unusable`].
    pub async fn with_kms(
        config: aws_sdk_kms::Config,
        key_id: String,
        chain_id: u64,
        guard: Guard,
    ) -> Result<Self, SignerError> {
        let key = Key::Kms(KmsSigner::with_config(config, key_id).await?);
        Ok(Self::new(key, chain_id, guard))
    }

    fn new(key: Key, chain_id: u64, guard: Guard) -> Self {
        let gate = Gate {
            limit: Limit::new(guard.max_per_minute),
            forbidden: Episode::default(),
            over: Episode::default(),
            wrong: Episode::default(),
        };
        Self { key, chain_id, policy: guard.policy, gate: Arc::new(Mutex::new(gate)) }
    }

    /// The key's address.
    pub fn address(&self) -> Address {
        match &self.key {
            Key::Kms(key) => key.address(),
            Key::Local(key) => key.address(),
        }
    }

    /// Permits what the same key may sign for another Splitter, too.
    pub fn permit_too(&mut self, other: &Self) {
        self.policy.extend(&other.policy);
    }

    /// Signs a transaction.
    ///
    /// # Errors
    /// [`SignerError`]; nothing was sent then, and nothing will be.
    pub async fn sign(&self, transaction: TxEip1559) -> Result<SignedTransaction, SignerError> {
        self.permit(&transaction)?;
        let hash = transaction.signature_hash();
        let answer = match &self.key {
            Key::Kms(key) => key.sign(&hash).await,
            Key::Local(key) => key.sign_hash_sync(&hash).map_err(|_| self.wrong()),
        };
        let signed = answer.and_then(|signature| self.check(transaction, signature));
        if matches!(signed, Err(SignerError::WrongSignature { .. }))
            && self.gate().wrong.begins(Instant::now())
        {
            tracing::error!(
                key = %self.address(),
                "ALARM: a signature is not the key's; nothing was sent"
            );
        }
        signed
    }

    /// Looks whether the key may sign this, now.
    fn permit(&self, transaction: &TxEip1559) -> Result<(), SignerError> {
        let (key, now) = (self.address(), Instant::now());
        if let Err(refusal) = self.policy.check(self.chain_id, key, transaction) {
            KMS_REFUSED_TOTAL.add(1, [refusal.as_str()]);
            let error = SignerError::Forbidden {
                key,
                refusal,
                to: match transaction.to {
                    TxKind::Call(to) => to.to_string(),
                    TxKind::Create => "a new contract".to_owned(),
                },
                selector: transaction
                    .input
                    .get(..4)
                    .map_or_else(|| "none".to_owned(), hex::encode_prefixed),
            };
            if self.gate().forbidden.begins(now) {
                tracing::error!(%error, "ALARM: asked to sign what the key may not");
            }
            return Err(error);
        }
        let mut gate = self.gate();
        gate.limit.admit(now).map_err(|wait| {
            KMS_REFUSED_TOTAL.add(1, ["rate"]);
            let wait = wait.saturating_add(Duration::from_millis(999)).as_secs();
            let error = SignerError::TooMany { key, most: gate.limit.most(), wait };
            if gate.over.begins(now) {
                tracing::error!(%error, "ALARM: too many signatures");
            }
            error
        })
    }

    /// KMS answers with either s; what goes out must have the low one, and recover to our key.
    fn check(
        &self,
        transaction: TxEip1559,
        signature: Signature,
    ) -> Result<SignedTransaction, SignerError> {
        let signed = transaction.into_signed(signature);
        let recovered = signed.recover_signer().map_err(|_| self.wrong())?;
        if signed.signature().normalize_s().is_some() || recovered != self.address() {
            return Err(self.wrong());
        }
        let hash = *signed.hash();
        Ok(SignedTransaction { hash, raw: TxEnvelope::from(signed).encoded_2718().into() })
    }

    fn wrong(&self) -> SignerError {
        let key = match &self.key {
            Key::Kms(key) => key.key_id().to_owned(),
            Key::Local(key) => key.address().to_string(),
        };
        SignerError::WrongSignature { key }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
