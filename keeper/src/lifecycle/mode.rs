//! Who pulls.

use super::words;
use serde::{Deserialize, Serialize};

/// How a payment comes into the Splitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The daemon's own puller key pulls it.
    #[serde(rename = "self")]
    SelfPull,
    /// An external facilitator does.
    External,
}

words!(Mode {
    SelfPull => "self",
    External => "external",
});
