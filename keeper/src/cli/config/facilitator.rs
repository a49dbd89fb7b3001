//! `[facilitator]`: who pulls in mode `external`, and how it is known. The environment's
//! `JECP_X402_FACILITATOR_*` override the file; nothing changes it at run time.

use crate::{
    facilitator::{Pin, Settings},
    outbound::Guard,
};
use ed25519_dalek::VerifyingKey;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use std::{
    env,
    path::{Path, PathBuf},
};

/// As the file has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli) struct Facilitator {
    url: Option<String>,
    /// Ed25519 keys of its answers, hex, with commas between them.
    pubkey: Option<String>,
    /// SHA-256 of the SubjectPublicKeyInfo of its certificates, hex, with commas between them.
    cert_pin: Option<String>,
    /// "allow": it signs nothing.
    unsigned: Option<String>,
    /// Who vouches for its certificate instead of the system's roots, PEM.
    ca_file: Option<PathBuf>,
}

/// The parts of a list with commas.
fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// One key.
fn key(text: &str) -> Result<VerifyingKey, String> {
    let mut bytes = [0; 32];
    alloy::hex::decode_to_slice(text, &mut bytes)
        .ok()
        .and_then(|()| VerifyingKey::from_bytes(&bytes).ok())
        // A key of small order would take any signature.
        .filter(|key| !key.is_weak())
        .ok_or_else(|| {
            format!("facilitator.pubkey {text:?} is no Ed25519 public key of 64 hex digits")
        })
}

impl Facilitator {
    /// The environment's word where it has one.
    pub(super) fn overridden(self) -> Self {
        let said = |name: &str| env::var(format!("JECP_X402_FACILITATOR_{name}")).ok();
        Self {
            url: said("URL").or(self.url),
            pubkey: said("PUBKEY").or(self.pubkey),
            cert_pin: said("CERT_PIN").or(self.cert_pin),
            unsigned: said("UNSIGNED").or(self.unsigned),
            ca_file: self.ca_file,
        }
    }

    /// Relative to the configuration.
    pub(super) fn relative_to(&mut self, folder: &Path) {
        self.ca_file = self.ca_file.take().map(|file| folder.join(file));
    }

    /// What the client needs.
    ///
    /// # Errors
    /// A sentence that says what to change.
    pub(in crate::cli) fn settings(
        &self,
        guard: &Guard,
        test_mode: bool,
    ) -> Result<Settings, String> {
        let Some(url) = &self.url else {
            return Err("mode = \"external\" needs facilitator.url".to_owned());
        };
        let url = guard.admit(url).map_err(|refused| format!("facilitator.url {refused}"))?;
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let keys = parts(&text(&self.pubkey)).map(key).collect::<Result<Vec<_>, _>>()?;
        let pins = parts(&text(&self.cert_pin))
            .map(|pin| pin.parse().map_err(|why| format!("facilitator.cert_pin {pin:?}: {why}")))
            .collect::<Result<Vec<Pin>, _>>()?;
        let is_sentinel = !pins.is_empty() && pins.iter().all(Pin::is_zero);
        if pins.iter().any(Pin::is_zero) && !is_sentinel {
            return Err("facilitator.cert_pin has a pin of zeros beside others".to_owned());
        }
        let pins = if is_sentinel { Vec::new() } else { pins };
        if pins.is_empty() && !test_mode {
            return Err(
                "facilitator.cert_pin is missing, or all zeros, which is for test_mode = true \
                        only; pin the key of its TLS certificate"
                    .to_owned(),
            );
        }
        let may_be_unsigned = match self.unsigned.as_deref() {
            None => false,
            Some("allow") => test_mode || !pins.is_empty(),
            Some(other) => {
                return Err(format!("facilitator.unsigned is \"allow\" or nothing, not {other:?}"));
            }
        };
        if keys.is_empty() && !may_be_unsigned {
            return Err("facilitator.pubkey is missing: its answers must be signed (unsigned = \
                        \"allow\" needs test_mode = true or a pinned certificate)"
                .to_owned());
        }
        let roots = self.ca_file.as_deref().map(roots).transpose()?;
        Ok(Settings { url, keys, pins, roots })
    }
}

/// The certificates of a PEM file.
fn roots(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |why: &str| format!("facilitator.ca_file {}: {why}", file.display());
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(&error.to_string()))?;
    if found.is_empty() { Err(unreadable("it holds no certificate")) } else { Ok(found) }
}
