//! Ways in for fuzz/fuzz_targets: parsers that nobody else outside may call.

use super::{envelope::Invocation, facilitator};

/// Reads the body of a call.
pub fn call(body: &[u8]) {
    if let Ok(invocation) = Invocation::parse(None, body) {
        // What was read can be written in canonical form, or is refused.
        drop(invocation.content_hash());
    }
}

/// Reads the body of `/verify` and `/settle`.
pub fn order(body: &[u8]) {
    facilitator::read_order(body);
}
