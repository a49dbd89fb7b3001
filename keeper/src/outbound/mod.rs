//! The guard of every URL that somebody else chose: a provider's endpoint, a webhook's destination,
//! the facilitator (jecp.md E.2, R-235).
//!
//! [`Guard::admit`] looks at what is written: form, scheme, host, literal addresses; that is done when
//! a URL is taken on. [`Guard::check`] asks DNS, too. [`Outbound`] does both for each connection: its
//! resolver hands out nothing but the addresses that it has just looked at, so that a name which
//! changes its mind between look and connection leads nowhere else. It follows no redirect
//! and uses no proxy.

mod address;
mod client;
mod url;

pub use address::Lookup;
pub use client::{Outbound, refusal};

use crate::lifecycle::words;
use ::url::Url;
use ipnet::IpNet;
use std::{net::IpAddr, sync::Arc};

/// Why a URL is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It is none.
    ParseError,
    /// Not https, nor http where tests are.
    Scheme,
    /// Its host is no name and no address.
    HostSyntax,
    /// An address of its host is not for us.
    ResolvedToDenyCidr,
    /// Its host has no address now.
    DnsResolveFailed,
    /// Reserved by the specification: connections go to checked addresses only.
    ConnectPinViolation,
}

words!(Reason {
    ParseError => "parse_error",
    Scheme => "scheme",
    HostSyntax => "host_syntax",
    ResolvedToDenyCidr => "resolved_to_deny_cidr",
    DnsResolveFailed => "dns_resolve_failed",
    ConnectPinViolation => "connect_pin_violation",
});

/// What a URL is for, as the specification names the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// A provider's.
    EndpointUrl,
    /// An agent's.
    CallbackUrl,
    /// Of a webhook.
    WebhookDestinationUrl,
}

words!(Field {
    EndpointUrl => "endpoint_url",
    CallbackUrl => "callback_url",
    WebhookDestinationUrl => "webhook_destination_url",
});

/// A URL that is not called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{blocked_url} is not called: {reason}")]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// The URL without credentials, query and fragment: those may be secrets.
    pub blocked_url: String,
}

impl Refused {
    /// A URL that is not called, without what may be secret.
    pub fn of(reason: Reason, url: &Url) -> Self {
        Self { reason, blocked_url: url::redacted(url) }
    }
}

/// What may be called.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Permits http and this machine.
    test_mode: bool,
    /// What an operator denies beyond what nobody may call.
    denied: Arc<[IpNet]>,
    lookup: Lookup,
}

impl Guard {
    /// A guard that asks the system's resolver.
    pub fn new(test_mode: bool, denied: &[IpNet]) -> Self {
        Self { test_mode, denied: denied.into(), lookup: Lookup::system() }
    }

    /// The same with another resolver.
    #[must_use]
    pub fn with_lookup(self, lookup: Lookup) -> Self {
        Self { lookup, ..self }
    }

    /// Looks at a URL as it is written. What comes back has its host in one spelling.
    ///
    /// # Errors
    /// [`Refused`] with the first thing that is wrong.
    pub fn admit(&self, text: &str) -> Result<Url, Refused> {
        let parsed = url::parse(text, self.test_mode)?;
        let deny = || Refused::of(Reason::ResolvedToDenyCidr, &parsed);
        match url::literal(&parsed) {
            Some(literal) if self.denies(literal) => Err(deny()),
            None if !self.test_mode && parsed.host_str().is_some_and(url::is_localhost) => {
                Err(deny())
            }
            _ => Ok(parsed),
        }
    }

    /// Looks at a URL and at every address that its host has now.
    ///
    /// # Errors
    /// [`Refused`] with the first thing that is wrong.
    pub async fn check(&self, text: &str) -> Result<Url, Refused> {
        let url = self.admit(text)?;
        if url::literal(&url).is_none() {
            let host = url.host_str().unwrap_or_default();
            self.addresses(host).await.map_err(|reason| Refused::of(reason, &url))?;
        }
        Ok(url)
    }

    /// Every address of a name, if all of them may be called: one bad answer spoils the others.
    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Reason> {
        let found = self.lookup.ask(host).await.map_err(|error| {
            tracing::debug!(host, %error, "outbound: no address");
            Reason::DnsResolveFailed
        })?;
        if found.is_empty() {
            return Err(Reason::DnsResolveFailed);
        }
        if found.iter().any(|address| self.denies(*address)) {
            return Err(Reason::ResolvedToDenyCidr);
        }
        Ok(found)
    }

    fn denies(&self, address: IpAddr) -> bool {
        if self.denied.iter().any(|net| net.contains(&address)) {
            return true;
        }
        !(self.test_mode && address.is_loopback()) && address::is_denied(address)
    }
}

#[cfg(test)]
mod tests;
