//! A key in AWS KMS.

use super::{KmsFault, SignerError};
use crate::metrics::{KMS_ERRORS_TOTAL, KMS_SIGN_SECONDS};
use alloy::{
    primitives::{Address, B256, Signature},
    signers::{Error, Signer},
};
use alloy_signer_aws::{AwsSigner, AwsSignerError};
use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_kms::{Client, Config, error::DisplayErrorContext};
use std::time::{Duration, Instant};
use url::Url;

/// The SDK waits for ever by default. A signature takes some 100 ms.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// For all attempts together.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);
/// Signing again is safe: nothing is sent before it is stored.
const MAX_ATTEMPTS: u32 = 3;

/// Which key, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
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
pub(super) struct KmsSigner {
    key_id: String,
    inner: AwsSigner,
}

impl KmsSigner {
    /// Asks KMS for the public key, with the credentials of the environment.
    pub(super) async fn connect(key: &KmsKey) -> Result<Self, SignerError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = &key.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &key.endpoint {
            loader = loader.endpoint_url(endpoint.as_str());
        }
        let config = aws_sdk_kms::config::Builder::from(&loader.load().await);
        Self::with_config(config.build(), key.key_id.clone()).await
    }

    /// The same with a client configuration of the caller's. Patience and retries are ours.
    pub(super) async fn with_config(config: Config, key_id: String) -> Result<Self, SignerError> {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let config = config
            .to_builder()
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
            .build();
        let inner = AwsSigner::new(Client::from_conf(config), key_id.clone(), None)
            .await
            .map_err(|error| refuse(&key_id, &error))?;
        Ok(Self { key_id, inner })
    }

    /// The key's address.
    pub(super) fn address(&self) -> Address {
        self.inner.address()
    }

    /// Key id or ARN.
    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Signs a transaction's hash.
    pub(super) async fn sign(&self, hash: &B256) -> Result<Signature, SignerError> {
        let asked = Instant::now();
        let answer = self.inner.sign_hash(hash).await;
        KMS_SIGN_SECONDS.record(asked.elapsed(), []);
        answer.map_err(|error| {
            if let Error::Other(error) = &error
                && let Some(error) = error.downcast_ref::<AwsSignerError>()
            {
                return refuse(&self.key_id, error);
            }
            tracing::warn!(key = self.key_id, %error, "KMS was not asked");
            fault(&self.key_id, KmsFault::Dispatch)
        })
    }
}

/// The SDK hides the cause in `Display`; the details go to the log, a short word to the caller.
fn refuse(key: &str, error: &AwsSignerError) -> SignerError {
    match error {
        AwsSignerError::Sign(error) => {
            tracing::warn!(key, error = %DisplayErrorContext(error), "KMS did not sign");
        }
        AwsSignerError::GetPublicKey(error) => {
            tracing::warn!(key, error = %DisplayErrorContext(error), "KMS gave no public key");
        }
        error => tracing::warn!(key, %error, "KMS answered with something unusable"),
    }
    fault(key, KmsFault::of(error))
}

/// Counts a fault.
fn fault(key: &str, kind: KmsFault) -> SignerError {
    KMS_ERRORS_TOTAL.add(1, [kind.as_str()]);
    SignerError::kms(key, kind)
}
