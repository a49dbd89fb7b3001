//! `[outbound]`: what is never called.

use crate::outbound::Guard;
use ipnet::IpNet;
use serde::Deserialize;

/// Addresses that an operator denies beyond those that nobody may call.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::cli) struct Outbound {
    /// Nets in CIDR notation.
    deny: Vec<Net>,
}

/// A net as the file has it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct Net(IpNet);

impl TryFrom<String> for Net {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let net = text.parse().map_err(|_| format!("{text:?} is no net like \"192.0.2.0/24\""))?;
        Ok(Self(net))
    }
}

impl Outbound {
    /// What may be called.
    pub(in crate::cli) fn guard(&self, test_mode: bool) -> Guard {
        let denied: Vec<_> = self.deny.iter().map(|net| net.0).collect();
        Guard::new(test_mode, &denied)
    }
}
