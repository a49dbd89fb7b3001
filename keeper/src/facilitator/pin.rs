//! The two pins: the key of its TLS certificate, and the key that signs its answers.

use super::SetupError;
use base64::{Engine, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sha2::{Digest, Sha256};
use std::{error::Error, fmt, io, str::FromStr, sync::Arc};
use subtle::{Choice, ConstantTimeEq};

/// SHA-256 of a certificate's SubjectPublicKeyInfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The sentinel that stands for none (R-266).
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 32]
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&alloy::hex::encode(self.0))
    }
}

impl FromStr for Pin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        alloy::hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| "a pin is SHA-256 of a SubjectPublicKeyInfo, 64 hex digits")?;
        Ok(Self(bytes))
    }
}

/// The certificate is good, and its key is not a pinned one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the TLS key of the facilitator is {observed}, which is not pinned")]
pub struct PinMismatch {
    /// What it showed.
    pub observed: Pin,
    /// What it should have.
    pub expected: Vec<Pin>,
}

/// The usual checks first, then the pins.
#[derive(Debug)]
struct Pinned {
    usual: Arc<WebPkiServerVerifier>,
    pins: Vec<Pin>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        if self.pins.is_empty() {
            return Ok(verified);
        }
        let leaf = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let observed = Pin(Sha256::digest(leaf.subject_public_key_info()).into());
        // Every pin is compared, each in the same time.
        let known =
            self.pins.iter().fold(Choice::from(0), |known, pin| known | pin.0.ct_eq(&observed.0));
        if bool::from(known) {
            return Ok(verified);
        }
        let mismatch = PinMismatch { observed, expected: self.pins.clone() };
        Err(rustls::Error::Other(OtherError(Arc::new(mismatch))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// TLS that takes nobody else for the facilitator.
pub(super) fn tls(
    pins: Vec<Pin>,
    roots: Option<Vec<CertificateDer<'static>>>,
) -> Result<ClientConfig, SetupError> {
    let tls = |error: &dyn fmt::Display| SetupError::Tls(error.to_string());
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(
        roots.unwrap_or_else(|| rustls_native_certs::load_native_certs().certs),
    );
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
        .build()
        .map_err(|error| tls(&error))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { usual, pins }))
        .with_no_client_auth();
    Ok(config)
}

/// Whether a request failed because the TLS key is not a pinned one.
pub(super) fn mismatch(error: &reqwest::Error) -> Option<PinMismatch> {
    let mut source = error.source();
    while let Some(error) = source {
        // An io::Error's source is that of what it carries, not that itself; they stand in one another.
        let mut inner = error;
        while let Some(carried) = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            inner = carried;
        }
        if let Some(rustls::Error::Other(OtherError(other))) = inner.downcast_ref() {
            return other.downcast_ref::<PinMismatch>().cloned();
        }
        source = inner.source();
    }
    None
}

/// Whether one of the keys has signed a body. Without keys nothing is asked for.
pub(super) fn is_signed(keys: &[VerifyingKey], signature: Option<&[u8]>, body: &[u8]) -> bool {
    if keys.is_empty() {
        return true;
    }
    let signature = signature
        .and_then(|text| BASE64_STANDARD.decode(text).ok())
        .and_then(|bytes| Signature::from_slice(&bytes).ok());
    signature
        .is_some_and(|signature| keys.iter().any(|key| key.verify_strict(body, &signature).is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    /// R-072: one of the pinned keys, over these very bytes.
    #[test]
    fn an_answer_is_signed_by_a_pinned_key_or_not_read() {
        let [old, new, other] = [1, 2, 3].map(|byte| SigningKey::from_bytes(&[byte; 32]));
        let keys = [old.verifying_key(), new.verifying_key()];
        let body = br#"{"isValid":true}"#;
        let by = |key: &SigningKey| BASE64_STANDARD.encode(key.sign(body).to_bytes());
        assert!(is_signed(&keys, Some(by(&old).as_bytes()), body));
        assert!(is_signed(&keys, Some(by(&new).as_bytes()), body), "while keys change");
        assert!(!is_signed(&keys, Some(by(&other).as_bytes()), body));
        assert!(!is_signed(&keys, Some(by(&old).as_bytes()), br#"{"isValid": true}"#));
        assert!(!is_signed(&keys, Some(b"bm90aGluZw=="), body));
        assert!(!is_signed(&keys, Some(b"***"), body));
        assert!(!is_signed(&keys, None, body), "an answer without signature");
        assert!(is_signed(&[], None, body), "nobody asked for one");
    }

    #[test]
    fn a_pin_is_64_hex_digits() {
        let pin: Pin = "ab".repeat(32).parse().unwrap();
        assert_eq!(pin.to_string(), "ab".repeat(32));
        assert!(!pin.is_zero() && "0".repeat(64).parse::<Pin>().unwrap().is_zero());
        for bad in ["", "ab", &"ab".repeat(33), &"xy".repeat(32)] {
            assert!(bad.parse::<Pin>().is_err(), "{bad}");
        }
    }
}
