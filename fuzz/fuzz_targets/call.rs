//! The body of POST /v1/invoke.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| keeper::edge::fuzzing::call(body));
