//! The Splitter contracts as the keeper sees them: bindings from `abi/`, capability ids,
//! registered terms, calls and events. Pure.
//!
//! Source: JECP S06 section 8 and its errata; contracts/src/interfaces/IJecpSplitter.sol.

mod bindings;
mod calls;
mod capability;
mod code;
mod events;

pub use bindings::{IJecpSplitterV2, JecpSplitter, JecpSplitterV2};
pub use calls::{
    PaymentIdentity, RECORD_CALL_BYTES, SPLIT_CALL_BYTES, record_call, recorded_identity,
    split_call,
};
pub use capability::{SplitTerms, capability_id};
pub use code::SplitterVersion;
pub use events::SplitterEvent;

/// Name in the EIP-712 domain of every Splitter.
pub const DOMAIN_NAME: &str = "JecpSplitter";
