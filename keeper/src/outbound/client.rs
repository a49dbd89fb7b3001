//! A client that cannot be led anywhere else than the guard looked.

use super::{Guard, Reason, Refused};
use reqwest::{
    Client, ClientBuilder, RequestBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use url::Url;

/// Calls what a guard admits. Each one has connections of its own.
#[derive(Debug, Clone)]
pub struct Outbound {
    guard: Guard,
    http: Client,
}

impl Outbound {
    /// A client of its own for a guard.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(guard: Guard) -> reqwest::Result<Self> {
        Self::build(guard, Client::builder())
    }

    /// The same, with a TLS configuration of the caller's.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn with_tls(guard: Guard, tls: rustls::ClientConfig) -> reqwest::Result<Self> {
        Self::build(guard, Client::builder().tls_backend_preconfigured(tls))
    }

    fn build(guard: Guard, builder: ClientBuilder) -> reqwest::Result<Self> {
        let http = builder
            // A redirect is a URL that nobody has looked at, and a proxy would look up names itself.
            .redirect(Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(Checked(guard.clone())))
            .build()?;
        Ok(Self { guard, http })
    }

    /// What it may call.
    pub const fn guard(&self) -> &Guard {
        &self.guard
    }

    /// A POST to a URL that is admitted. What DNS says of its host comes out when it is sent; see
    /// [`refusal`].
    ///
    /// # Errors
    /// [`Refused`].
    pub fn post(&self, url: &Url) -> Result<RequestBuilder, Refused> {
        Ok(self.http.post(self.guard.admit(url.as_str())?))
    }
}

/// Gives the connector checked addresses and no others.
struct Checked(Guard);

/// What the connector is told instead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotConnected(Reason);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let found = guard.addresses(name.as_str()).await.map_err(NotConnected)?;
            let at = |address: IpAddr| SocketAddr::new(address, 0);
            Ok(Box::new(found.into_iter().map(at)) as Addrs)
        })
    }
}

/// Why a call was not even connected, if the guard is the reason.
pub fn refusal(error: &reqwest::Error) -> Option<Reason> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(NotConnected(reason)) = error.downcast_ref() {
            return Some(*reason);
        }
        source = error.source();
    }
    None
}
