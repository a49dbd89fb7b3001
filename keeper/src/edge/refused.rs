//! URLs that this hub does not call, as the edge meets them.

use super::{Capability, Edge, Site, error::ApiError};
use crate::{
    failpoint::Point,
    outbound::{Field, Reason, Refused},
};

/// Looks at a provider's endpoint and its addresses, before anybody pays for a call to it.
pub(super) async fn check(
    edge: &Edge,
    site: &Site,
    capability: &Capability,
    agent_id: &str,
) -> Result<(), ApiError> {
    match edge.outbound.guard().check(capability.endpoint.as_str()).await {
        Ok(_) => Ok(()),
        Err(refused) => {
            keep(site, capability, Some(agent_id), &refused).await;
            Err(ApiError::UrlBlocked(Field::EndpointUrl, refused))
        }
    }
}

/// Keeps that an endpoint was refused. Whoever called is answered in any case.
pub(super) async fn keep(
    site: &Site,
    capability: &Capability,
    agent_id: Option<&str>,
    refused: &Refused,
) {
    let (name, url) = (capability.name(), &refused.blocked_url);
    if refused.reason == Reason::DnsResolveFailed {
        tracing::warn!(capability = name, url, "a provider's endpoint has no address");
    } else {
        tracing::error!(
            capability = name, url, reason = %refused.reason,
            "ALARM: a provider's endpoint leads where no call may go"
        );
    }
    let kept = async {
        let mut tx = site.ledger.begin().await?;
        let provider = Some(capability.namespace.as_str());
        tx.add_ssrf_attempt(agent_id, provider, Field::EndpointUrl, refused).await?;
        tx.commit(Point::Refuse).await
    };
    if let Err(error) = kept.await {
        tracing::warn!(%error, "edge: cannot keep that a URL was refused");
    }
}
