//! The body of POST /verify and POST /settle.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| keeper::edge::fuzzing::order(body));
