//! A provider's statement says what the chain says.
