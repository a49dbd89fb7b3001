//! What signs calls to providers and webhooks (E.5), and the secrets for it.

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::env;

/// A shorter secret could be guessed.
const MIN_SECRET: usize = 16;

/// `v1=base64(HMAC-SHA256(secret, timestamp "." body))`.
pub fn signature(secret: &[u8], timestamp: &str, body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    Some(format!("v1={}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
}

/// What a configuration keeps to itself: "$NAME" for what the environment has, else the text.
///
/// # Errors
/// When the variable is not set.
pub fn from_environment(field: &str, text: &str) -> Result<String, String> {
    match text.strip_prefix('$') {
        Some(name) => env::var(name).map_err(|_| {
            format!("{field}: the environment has no variable {name}, or it is not set to text")
        }),
        None => Ok(text.to_owned()),
    }
}

/// A base64 secret, or "$NAME" for one in the environment; `field` is its name in the file.
///
/// # Errors
/// When it is none.
pub fn secret(field: &str, text: &str) -> Result<Vec<u8>, String> {
    let value = from_environment(field, text)?;
    let secret = BASE64_STANDARD.decode(value).map_err(|_| format!("{field} is not base64"))?;
    if secret.len() < MIN_SECRET {
        return Err(format!("{field} is shorter than {MIN_SECRET} bytes"));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// computed with Python's hmac and base64.
    #[test]
    fn the_signature_is_the_one_that_others_compute() {
        let secret = secret("secret", "MDEyMzQ1Njc4OWFiY2RlZg==").unwrap();
        let signature = signature(&secret, "1700000000", b"{\"a\":1}").unwrap();
        assert_eq!(signature, "v1=nrGPST+OwTXZ6y2tgXw2m7Tpy/qBhleJenQ3wc2MOiM=");
    }
}
