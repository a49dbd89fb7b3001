//! The services beside those that move money: they look at the token and the clock and at what another
//! endpoint says, and tell others what happened.

use super::{Leader, Station};
use crate::{
    ledger::{Lease, LedgerError},
    watcher::{Lookout, Verifier, WatcherError},
    webhooks::Webhooks,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

impl Leader {
    pub(super) fn start_watch(
        &self,
        services: &mut JoinSet<()>,
        station: &Station,
        lease: &Lease,
        stop: &CancellationToken,
    ) {
        let splitter = station.record;
        let make = {
            let (chain, ledger, lease) =
                (station.chain.clone(), self.ledger.clone(), lease.clone());
            let (heads, token) = (self.heads.clone(), stop.clone());
            let settings = &station.chain_settings;
            let (max_clock_skew, max_silence) = (settings.max_clock_skew, settings.max_silence);
            let poll_interval = settings.poll_interval;
            move || {
                Lookout {
                    chain: chain.clone(),
                    heads: heads.clone(),
                    ledger: ledger.clone(),
                    lease: lease.clone(),
                    splitter,
                    max_clock_skew,
                    poll_interval,
                    max_silence,
                }
                .run(token.clone())
            }
        };
        let name = format!("lookout {}", splitter.address);
        services.spawn(self.supervise(name, stop.clone(), WatcherError::is_lease_lost, make));

        let make = {
            let (chain, ledger, lease) =
                (station.chain.clone(), self.ledger.clone(), lease.clone());
            let token = stop.clone();
            move || {
                Verifier {
                    chain: chain.clone(),
                    ledger: ledger.clone(),
                    lease: lease.clone(),
                    splitter,
                }
                .run(token.clone())
            }
        };
        let name = format!("verifier {}", splitter.address);
        services.spawn(self.supervise(name, stop.clone(), WatcherError::is_lease_lost, make));
    }

    pub(super) fn start_webhooks(
        &self,
        services: &mut JoinSet<()>,
        lease: &Lease,
        stop: &CancellationToken,
    ) {
        let make = {
            let (ledger, lease, token) = (self.ledger.clone(), lease.clone(), stop.clone());
            let (chain_id, endpoints) = (self.chain_id, self.webhooks.clone());
            // Connections of its own: a slow receiver takes none from the providers' calls.
            let outbound = self.outbound.clone();
            move || {
                Webhooks {
                    chain_id,
                    ledger: ledger.clone(),
                    lease: lease.clone(),
                    endpoints: endpoints.clone(),
                    outbound: outbound.clone(),
                }
                .run(token.clone())
            }
        };
        let name = format!("webhooks {}", self.chain_id);
        services.spawn(self.supervise(name, stop.clone(), LedgerError::is_lease_lost, make));
    }
}
