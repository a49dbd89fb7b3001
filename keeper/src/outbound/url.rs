//! What a URL says by itself.

use super::{Reason, Refused};
use std::net::IpAddr;
use url::{Host, Url};

/// Longest name of a host (RFC 1035).
const MAX_NAME: usize = 253;
/// Longest part of one.
const MAX_LABEL: usize = 63;
/// So much of what is no URL is shown.
const SHOWN: usize = 200;

/// Parses a URL for calls: RFC 3986, https (or http in tests), a host that is a name or an address.
/// The parser has percent-decoded the host, turned its IDN into punycode and found addresses in every
/// spelling that some resolver takes.
pub(super) fn parse(text: &str, test_mode: bool) -> Result<Url, Refused> {
    let unreadable =
        || Refused { reason: Reason::ParseError, blocked_url: without_credentials(text) };
    // The parser would drop or turn them silently.
    let is_odd = |byte: u8| byte.is_ascii_control() || byte == b' ' || byte == b'\\';
    if text.bytes().any(is_odd) {
        return Err(unreadable());
    }
    let mut url = Url::parse(text).map_err(|error| match error {
        url::ParseError::EmptyHost
        | url::ParseError::IdnaError
        | url::ParseError::InvalidDomainCharacter
        | url::ParseError::InvalidIpv4Address
        | url::ParseError::InvalidIpv6Address => {
            Refused { reason: Reason::HostSyntax, ..unreadable() }
        }
        _ => unreadable(),
    })?;
    if url.scheme() != "https" && !(test_mode && url.scheme() == "http") {
        return Err(Refused::of(Reason::Scheme, &url));
    }
    if let Some(Host::Domain(name)) = url.host() {
        let name = name.strip_suffix('.').unwrap_or(name).to_owned();
        if !is_name(&name) || url.set_host(Some(&name)).is_err() {
            return Err(Refused::of(Reason::HostSyntax, &url));
        }
    }
    Ok(url)
}

/// The address that stands where a name could.
pub(super) fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
    }
}

/// A name that is this machine by definition (RFC 6761), whatever DNS says.
pub(super) fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// A host's name as RFC 1123 has it.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= MAX_NAME && name.split('.').all(is_label)
}

/// A URL without what may be secret.
pub(super) fn redacted(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let host = url.host_str().unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

/// What cannot be parsed, without what stands before an "@" or after a "?".
fn without_credentials(text: &str) -> String {
    let text = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    text.split(['?', '#']).next().unwrap_or_default().chars().take(SHOWN).collect()
}
