//! What can be wrong with KMS, in few words: for errors, metrics and whoever has to act.

use alloy_signer_aws::AwsSignerError;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use std::{error::Error, fmt};

/// A kind of fault. The details are in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KmsFault {
    /// No answer in time, all attempts together.
    Timeout,
    /// No connection in time.
    DispatchTimeout,
    /// No connection, or it broke.
    DispatchIo,
    /// The request could not be sent for another reason, such as a region that nobody set.
    Dispatch,
    /// The environment has no credentials.
    NoCredentials,
    /// The credentials are wrong, or over.
    BadCredentials,
    /// More requests than KMS takes.
    Throttled,
    /// The role may not use the key.
    AccessDenied,
    /// The key is disabled.
    Disabled,
    /// There is no such key.
    NotFound,
    /// The key waits for its deletion, or for its material.
    InvalidState,
    /// It is not a key that signs for secp256k1.
    WrongKeyType,
    /// KMS took the request for malformed.
    BadRequest,
    /// An answer that is no signature, or no public key.
    UnusableAnswer,
    /// A signature that is not the key's.
    WrongSignature,
    /// KMS has a fault of its own, or one that is not in this list.
    Service,
}

impl KmsFault {
    /// Its word in errors and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::DispatchTimeout => "dispatch_timeout",
            Self::DispatchIo => "dispatch_io",
            Self::Dispatch => "dispatch",
            Self::NoCredentials => "no_credentials",
            Self::BadCredentials => "bad_credentials",
            Self::Throttled => "throttled",
            Self::AccessDenied => "access_denied",
            Self::Disabled => "disabled",
            Self::NotFound => "not_found",
            Self::InvalidState => "invalid_state",
            Self::WrongKeyType => "wrong_key_type",
            Self::BadRequest => "bad_request",
            Self::UnusableAnswer => "unusable_answer",
            Self::WrongSignature => "wrong_signature",
            Self::Service => "service",
        }
    }

    /// Whether waiting will not help: the key is not what the configuration says.
    pub const fn is_permanent(self) -> bool {
        matches!(self, Self::NotFound | Self::WrongKeyType)
    }

    /// What an error of the library comes to.
    pub(super) fn of(error: &AwsSignerError) -> Self {
        match error {
            AwsSignerError::Sign(error) => Self::of_request(error),
            AwsSignerError::GetPublicKey(error) => Self::of_request(error),
            AwsSignerError::SignatureRecoveryFailed => Self::WrongSignature,
            _ => Self::UnusableAnswer,
        }
    }

    fn of_request<E, R>(error: &SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
        R: fmt::Debug + 'static,
    {
        match error {
            SdkError::TimeoutError(_) => Self::Timeout,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Self::DispatchTimeout,
            SdkError::DispatchFailure(failure) if failure.is_io() => Self::DispatchIo,
            SdkError::ResponseError(_) => Self::UnusableAnswer,
            SdkError::ServiceError(context) => Self::of_code(context.err().code()),
            _ if lacks_credentials(error) => Self::NoCredentials,
            _ => Self::Dispatch,
        }
    }

    /// What an error code of KMS, or of AWS before it, comes to.
    fn of_code(code: Option<&str>) -> Self {
        match code.unwrap_or_default() {
            "ThrottlingException"
            | "Throttling"
            | "TooManyRequestsException"
            | "RequestLimitExceeded" => Self::Throttled,
            "AccessDeniedException" | "AccessDenied" => Self::AccessDenied,
            "DisabledException" => Self::Disabled,
            "NotFoundException" | "InvalidArnException" => Self::NotFound,
            "KMSInvalidStateException" => Self::InvalidState,
            "InvalidKeyUsageException" | "UnsupportedOperationException" => Self::WrongKeyType,
            "ValidationException" | "SerializationException" => Self::BadRequest,
            "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "ExpiredTokenException"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignatureException"
            | "MissingAuthenticationTokenException" => Self::BadCredentials,
            _ => Self::Service,
        }
    }
}

impl fmt::Display for KmsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The SDK gives the lack of credentials no kind of its own.
fn lacks_credentials(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<CredentialsError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
