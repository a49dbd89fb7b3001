//! The value of X-PAYMENT and PAYMENT-SIGNATURE.
#![no_main]

use keeper::x402::{MAX_PAYMENT_HEADER_BYTES, Payment, Subcause, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for version in [Version::V1, Version::V2] {
        let refused = Payment::decode(version, bytes).err() == Some(Subcause::HeaderTooLarge);
        assert_eq!(refused, bytes.len() > MAX_PAYMENT_HEADER_BYTES);
        // What is behind the base64, which no fuzzer gets right by chance.
        let _ = Payment::parse(version, bytes);
    }
});
