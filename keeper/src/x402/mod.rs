//! The x402 wire: amounts, networks, the header codec, payments as clients send them (v1 and v2)
//! and the challenges that invite them. Pure: bytes in, values or a named rejection out.
//!
//! Sources: the x402 specification v1 and v2 (HTTP transport), JECP S06 sections 2, 3 and 5.

mod amount;
mod challenge;
mod header;
mod network;
mod payment;
#[cfg(test)]
mod properties;
mod receipt;
mod subcause;

pub use amount::{AmountError, MicroUsdc};
pub use challenge::{Asset, Offer, PaymentRequired, PaymentRequirements};
pub use header::{
    MAX_PAYMENT_HEADER_BYTES, PAYMENT_REQUIRED, PAYMENT_RESPONSE, PAYMENT_SIGNATURE, X_PAYMENT,
    X_PAYMENT_RESPONSE, encode_header,
};
pub use network::Network;
pub use payment::{Payment, SignedAuthorization, Version};
pub use receipt::Receipt;
pub use subcause::Subcause;
