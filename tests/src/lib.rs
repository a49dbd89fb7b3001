//! Whole-system tests of the keeper; they are in `suite/`, what they stand on in `sandbox/`.
