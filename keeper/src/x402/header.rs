//! The header codec: base64 of UTF-8 JSON, strict on the way in.

use super::Subcause;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;

/// Request header of x402 v1.
pub const X_PAYMENT: &str = "x-payment";
/// Request header of x402 v2.
pub const PAYMENT_SIGNATURE: &str = "payment-signature";
/// Response header of x402 v1.
pub const X_PAYMENT_RESPONSE: &str = "x-payment-response";
/// Response header of x402 v2.
pub const PAYMENT_RESPONSE: &str = "payment-response";
/// Challenge header of x402 v2.
pub const PAYMENT_REQUIRED: &str = "payment-required";

/// Longest payment header, in bytes (S06 3.2).
pub const MAX_PAYMENT_HEADER_BYTES: usize = 8_192;

/// Decodes a payment header to the JSON bytes that the payer sent. Standard alphabet with padding,
/// no white space, no URL-safe spelling (R-042, C-35).
pub(super) fn decode_header(value: &[u8]) -> Result<Vec<u8>, Subcause> {
    if value.len() > MAX_PAYMENT_HEADER_BYTES {
        return Err(Subcause::HeaderTooLarge);
    }
    BASE64_STANDARD.decode(value).map_err(|_| Subcause::PayloadDecodeError)
}

/// Encodes a message for a header.
///
/// # Errors
/// When the message cannot be written as JSON.
pub fn encode_header<T: Serialize>(message: &T) -> Result<String, serde_json::Error> {
    Ok(BASE64_STANDARD.encode(serde_json::to_vec(message)?))
}
