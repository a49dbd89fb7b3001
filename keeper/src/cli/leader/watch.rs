//! The services beside the watcher that only look: at the token and the clock, and at what another
//! endpoint says.

use super::{Leader, Station};
use crate::{
    ledger::Lease,
    watcher::{Lookout, Verifier, WatcherError},
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
}
