//! A key in AWS KMS.

use super::SignerError;
use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718,
    network::TxSigner,
    primitives::{Address, B256, Bytes},
};
use alloy_signer_aws::{AwsSigner, AwsSignerError};
use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_kms::{
    Client,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};
use std::time::Duration;
use url::Url;

/// The SDK waits for ever by default. A signature takes some 100 ms.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// For all attempts together.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);
/// Signing again is safe: nothing is sent before it is stored.
const MAX_ATTEMPTS: u32 = 3;

/// Error codes of KMS for a key that does not exist, or cannot sign what we sign.
const PERMANENT: [&str; 4] = [
    "NotFoundException",
    "InvalidArnException",
    "InvalidKeyUsageException",
    "UnsupportedOperationException",
];

/// Which key, and where.
#[derive(Debug, Clone)]
pub struct KmsKey {
    /// Key id or ARN. An alias could be pointed elsewhere behind our back.
    pub key_id: String,
    /// AWS region; the SDK's own default when absent.
    pub region: Option<String>,
    /// Another endpoint than AWS's.
    pub endpoint: Option<Url>,
}

/// A key in KMS, with its address.
#[derive(Debug, Clone)]
pub struct KmsSigner {
    key_id: String,
    inner: AwsSigner,
}

/// A signed transaction.
#[derive(Debug, Clone)]
pub struct SignedTransaction {
    /// Its hash, computed here.
    pub hash: B256,
    /// Its bytes.
    pub raw: Bytes,
}

impl KmsSigner {
    /// Asks KMS for the public key, with the credentials of the environment. It signs for
    /// `chain_id` only.
    ///
    /// # Errors
    /// [`SignerError::Kms`].
    pub async fn connect(key: &KmsKey, chain_id: u64) -> Result<Self, SignerError> {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS));
        if let Some(region) = &key.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &key.endpoint {
            loader = loader.endpoint_url(endpoint.as_str());
        }
        let client = Client::new(&loader.load().await);
        Self::with_client(client, key.key_id.clone(), chain_id).await
    }

    /// The same with a client of the caller's.
    ///
    /// # Errors
    /// [`SignerError::Kms`].
    pub async fn with_client(
        client: Client,
        key_id: String,
        chain_id: u64,
    ) -> Result<Self, SignerError> {
        let inner = AwsSigner::new(client, key_id.clone(), Some(chain_id))
            .await
            .map_err(|error| refuse(&key_id, &error))?;
        Ok(Self { key_id, inner })
    }

    /// The key's address.
    pub fn address(&self) -> Address {
        TxSigner::address(&self.inner)
    }

    /// Signs a transaction.
    ///
    /// # Errors
    /// [`SignerError`]; nothing was sent then, and nothing will be.
    pub async fn sign(&self, mut transaction: TxEip1559) -> Result<SignedTransaction, SignerError> {
        let wrong = || SignerError::WrongSignature { key: self.key_id.clone() };
        let signature =
            self.inner.sign_transaction(&mut transaction).await.map_err(|error| match error {
                alloy::signers::Error::Other(other) => match other.downcast::<AwsSignerError>() {
                    Ok(error) => refuse(&self.key_id, &error),
                    Err(_) => wrong(),
                },
                _ => wrong(),
            })?;
        let signed = transaction.into_signed(signature);
        // KMS answers with either s; what goes out must be the low one, and recover to our key.
        let recovered = signed.recover_signer().map_err(|_| wrong())?;
        if signed.signature().normalize_s().is_some() || recovered != self.address() {
            return Err(wrong());
        }
        let hash = *signed.hash();
        Ok(SignedTransaction { hash, raw: TxEnvelope::from(signed).encoded_2718().into() })
    }
}

/// The SDK hides the cause in `Display`; the details go to the log, a short word to the caller.
fn refuse(key: &str, error: &AwsSignerError) -> SignerError {
    fn kind<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
        match error {
            SdkError::ConstructionFailure(_) => "the request could not be built".to_owned(),
            SdkError::TimeoutError(_) => "timeout".to_owned(),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => "timeout".to_owned(),
            SdkError::DispatchFailure(failure) if failure.is_io() => "no connection".to_owned(),
            SdkError::DispatchFailure(_) => "no credentials or no endpoint".to_owned(),
            SdkError::ResponseError(_) => "unreadable answer".to_owned(),
            SdkError::ServiceError(context) => {
                context.err().code().unwrap_or("service error").to_owned()
            }
            _ => "unknown error".to_owned(),
        }
    }
    let kind = match error {
        AwsSignerError::Sign(error) => {
            tracing::warn!(key, error = %DisplayErrorContext(error), "KMS did not sign");
            kind(error)
        }
        AwsSignerError::GetPublicKey(error) => {
            tracing::warn!(key, error = %DisplayErrorContext(error), "KMS gave no public key");
            kind(error)
        }
        error => {
            tracing::warn!(key, %error, "KMS answered with something unusable");
            "unusable answer".to_owned()
        }
    };
    let key = key.to_owned();
    if PERMANENT.contains(&kind.as_str()) {
        SignerError::Unusable { key, kind }
    } else {
        SignerError::Kms { key, kind }
    }
}
