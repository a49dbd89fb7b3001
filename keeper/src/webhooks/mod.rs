//! Webhooks: tells the operator's endpoints what the ledger says happened, at least once.
//!
//! What is told follows from the settlements' events alone. They are taken in the order of their
//! positions, which has no gaps and is that of commits, so that none is overlooked and none is told
//! twice under two ids: an answer that is given again appends no event, and so tells nobody.
//! Writing down what is to be told moves the cursor in the same SQL transaction. Sending is another
//! matter: each endpoint has a loop of its own, so that a slow one holds up nobody.

mod body;
mod send;

pub use body::EventType;

use crate::{
    failpoint::Point,
    ledger::{Contention, Lease, Ledger, LedgerError, WebhookOutcome, WebhookRecord, WebhookState},
    metrics::{WEBHOOKS_TOTAL, WEBHOOKS_WAITING},
    outbound::{Field, Outbound},
    pulse::Pulse,
};
use body::{message, message_id};
use chrono::{TimeDelta, Utc};
use futures::{
    StreamExt,
    future::try_join_all,
    stream::{self},
};
use send::{Refusal, send};
use std::{collections::BTreeSet, fmt, time::Duration};
use tokio_util::sync::CancellationToken;
use url::Url;

/// How often it is looked for new events and for what is due. Positions are given every ten seconds.
const INTERVAL: Duration = Duration::from_secs(2);
/// Most positions in one SQL transaction.
const MAX_RANGE: u64 = 1_000;
/// Most webhooks that are taken up in one look at an endpoint.
const MAX_DUE: u64 = 64;
/// Most webhooks on their way to one endpoint at a time.
const MAX_AT_ONCE: usize = 8;
/// So often a webhook is sent before it is given up.
const MAX_ATTEMPTS: u64 = 12;
/// Pause after the first attempt; each pause is twice the one before, up to [`MAX_PAUSE`].
const FIRST_PAUSE: TimeDelta = TimeDelta::seconds(60);
/// Longest pause between two attempts.
const MAX_PAUSE: TimeDelta = TimeDelta::hours(1);

/// Who wants to be told of what.
#[derive(Clone)]
pub struct Endpoint {
    /// Where.
    pub url: Url,
    /// Shared secret that signs what is told.
    pub secret: Vec<u8>,
    /// Of what.
    pub events: BTreeSet<EventType>,
}

impl fmt::Debug for Endpoint {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// Tells of one chain's payments.
#[derive(Debug)]
pub struct Webhooks {
    /// Which chain.
    pub chain_id: u64,
    /// The ledger.
    pub ledger: Ledger,
    /// The right to write.
    pub lease: Lease,
    /// Who is told.
    pub endpoints: Vec<Endpoint>,
    /// Calls them, after another look at where they lead.
    pub outbound: Outbound,
}

impl Webhooks {
    /// Runs until `stop`, or until the lease is lost.
    ///
    /// # Errors
    /// [`LedgerError::LeaseLost`]; everything else is retried.
    pub async fn run(self, stop: CancellationToken) -> Result<(), LedgerError> {
        let sending = self.endpoints.iter().map(|endpoint| self.tell(endpoint, &stop));
        tokio::try_join!(self.derive(&stop), try_join_all(sending))?;
        Ok(())
    }

    /// Writes down what is to be told.
    async fn derive(&self, stop: &CancellationToken) -> Result<(), LedgerError> {
        let pulse = Pulse::start(format!("webhooks {}", self.chain_id));
        let mut contention = Contention::default();
        while !stop.is_cancelled() {
            pulse.beat();
            match self.derive_some().await {
                Ok(true) => {
                    contention.over();
                    continue;
                }
                Ok(false) => contention.over(),
                Err(error) if error.is_lease_lost() => return Err(error),
                Err(error) if error.is_conflict() => contention.again("webhooks", &error).await,
                Err(error) => tracing::warn!(%error, "webhooks: trying again"),
            }
            pause(stop).await;
        }
        Ok(())
    }

    /// One range of positions. True when there are more.
    async fn derive_some(&self) -> Result<bool, LedgerError> {
        let chain_id = self.chain_id;
        let mut tx = self.ledger.read().await?;
        let from = tx.webhook_cursor(chain_id).await?;
        let end = tx.newest_seal().await?.map_or(0, |seal| seal.to.saturating_add(1));
        WEBHOOKS_WAITING.set(tx.waiting_webhooks(chain_id).await?, [&chain_id.to_string()]);
        // What happened before anybody could be told is history.
        let next = from.map_or(end, |from| end.min(from.saturating_add(MAX_RANGE)));
        if from == Some(next) {
            return Ok(false);
        }
        let events = match from {
            Some(from) if !self.endpoints.is_empty() => {
                tx.notable_events(chain_id, from, next).await?
            }
            _ => Vec::new(),
        };
        drop(tx);
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        for event in &events {
            let Some(kind) = EventType::of(&event.kind) else { continue };
            for endpoint in self.endpoints.iter().filter(|known| known.events.contains(&kind)) {
                let url = endpoint.url.as_str();
                let id = message_id(event, url);
                let body = message(kind, id, chain_id, event)?;
                tx.add_webhook(chain_id, event, url, id, kind.as_str(), &body).await?;
            }
        }
        tx.advance_webhooks(chain_id, from, next).await?;
        tx.commit(Point::Webhook).await?;
        Ok(next < end)
    }

    /// Sends one endpoint what it is to be told.
    async fn tell(&self, endpoint: &Endpoint, stop: &CancellationToken) -> Result<(), LedgerError> {
        while !stop.is_cancelled() {
            match self.tell_some(endpoint, stop).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) if error.is_lease_lost() => return Err(error),
                Err(error) if error.is_conflict() => {}
                Err(error) => tracing::warn!(%error, "webhooks: trying again"),
            }
            pause(stop).await;
        }
        Ok(())
    }

    /// What is due now. True when there is more.
    async fn tell_some(
        &self,
        endpoint: &Endpoint,
        stop: &CancellationToken,
    ) -> Result<bool, LedgerError> {
        let mut tx = self.ledger.read().await?;
        let clock = tx.clock().await?;
        let due = tx.due_webhooks(self.chain_id, endpoint.url.as_str(), clock, MAX_DUE).await?;
        drop(tx);
        let all = due.len();
        let mut outcomes = stream::iter(due)
            .map(|webhook| async move {
                let sent = send(&self.outbound, endpoint, &webhook).await;
                (webhook, sent)
            })
            .buffer_unordered(MAX_AT_ONCE);
        loop {
            // What is sent and not stored is sent again by whoever leads next.
            let next = tokio::select! {
                () = stop.cancelled() => return Ok(false),
                next = outcomes.next() => next,
            };
            let Some((webhook, sent)) = next else { break };
            self.store(&webhook, sent).await?;
        }
        Ok(u64::try_from(all).unwrap_or(u64::MAX) >= MAX_DUE)
    }

    async fn store(
        &self,
        webhook: &WebhookRecord,
        sent: Result<u16, Refusal>,
    ) -> Result<(), LedgerError> {
        let mut tx = self.ledger.begin().await?;
        tx.hold_lease(&self.lease).await?;
        let refused = sent.as_ref().err().and_then(|refusal| refusal.refused.clone());
        if let Some(refused) = &refused {
            let field = Field::WebhookDestinationUrl;
            tx.add_ssrf_attempt(None, None, field, refused).await?;
        }
        let outcome = outcome(webhook.attempts, tx.clock().await?, sent);
        tx.finish_webhook(webhook, &outcome).await?;
        tx.commit(Point::Webhook).await?;
        let result = match (outcome.state, outcome.reason) {
            (WebhookState::Delivered, _) => "delivered",
            (WebhookState::Waiting, reason) => {
                tracing::debug!(webhook = %webhook.id, reason, "not taken: sent again later");
                "refused"
            }
            (WebhookState::Abandoned, reason) => {
                tracing::error!(
                    webhook = %webhook.id, kind = webhook.kind, reason,
                    "ALARM: a webhook was given up"
                );
                "abandoned"
            }
        };
        WEBHOOKS_TOTAL.add(1, [&webhook.kind, result]);
        Ok(())
    }
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(INTERVAL) => {}
    }
}

/// What follows from an attempt, when so many were made before it.
fn outcome(
    before: u64,
    clock: chrono::DateTime<Utc>,
    sent: Result<u16, Refusal>,
) -> WebhookOutcome {
    let refusal = match sent {
        Ok(status) => {
            return WebhookOutcome {
                state: WebhookState::Delivered,
                due_at: clock,
                http_status: Some(status),
                reason: None,
            };
        }
        Err(refusal) => refusal,
    };
    let is_last = refusal.refused.is_some() || before.saturating_add(1) >= MAX_ATTEMPTS;
    let doublings = u32::try_from(before).unwrap_or(u32::MAX);
    let factor = 2i32.checked_pow(doublings);
    let pause = factor.and_then(|factor| FIRST_PAUSE.checked_mul(factor));
    let pause = pause.map_or(MAX_PAUSE, |pause| pause.min(MAX_PAUSE));
    WebhookOutcome {
        state: if is_last { WebhookState::Abandoned } else { WebhookState::Waiting },
        due_at: clock.checked_add_signed(pause).unwrap_or(clock),
        http_status: refusal.http_status,
        reason: Some(refusal.why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::{Reason, Refused};

    fn refused() -> Result<u16, Refusal> {
        Err(Refusal { http_status: Some(500), why: "HTTP status 500".to_owned(), refused: None })
    }

    /// Twelve attempts: a minute, two, four, up to an hour; then it is over.
    #[test]
    fn pauses_double_up_to_an_hour_and_end() {
        let clock = Utc::now();
        let minutes: Vec<_> = (0..11)
            .map(|before| {
                let outcome = outcome(before, clock, refused());
                assert_eq!(outcome.state, WebhookState::Waiting, "{before}");
                (outcome.due_at - clock).num_minutes()
            })
            .collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]);
        assert_eq!(outcome(11, clock, refused()).state, WebhookState::Abandoned);
        assert_eq!(outcome(u64::MAX, clock, refused()).state, WebhookState::Abandoned);
    }

    /// what must not be called is not called again.
    #[test]
    fn what_may_not_be_called_is_given_up_at_once() {
        let refused = Refused {
            reason: Reason::ResolvedToDenyCidr,
            blocked_url: "https://10.0.0.1/".to_owned(),
        };
        let blocked =
            Refusal { http_status: None, why: "blocked".to_owned(), refused: Some(refused) };
        let outcome = outcome(0, Utc::now(), Err(blocked));
        assert_eq!(outcome.state, WebhookState::Abandoned);
        assert_eq!(outcome.reason.as_deref(), Some("blocked"));
    }
}
