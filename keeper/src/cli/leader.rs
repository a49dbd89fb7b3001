//! Who runs the background services of a chain: one daemon at a time, by lease.

mod watch;

use super::boot::{Keys, Station};
use crate::{
    audit::Sealer,
    chain::{Chain, Heads},
    driver::Driver,
    failpoint::Point,
    ledger::{Lease, Ledger, LedgerError, SignerRole},
    metrics::{IS_LEADER, LEASE_EPOCH},
    outbound::Outbound,
    outbox::{Outbox, OutboxError},
    pulse::tasks,
    reconciler::{Reconciler, ReconcilerError},
    signer::Signer,
    watcher::{Watcher, WatcherError},
    webhooks::Endpoint,
};
use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A lease is renewed, and a standby asks for it, so many times in its time.
const RENEWALS: u32 = 5;
/// A lease that takes so long to ask for is never given: the connection is lost and does not know.
const STUCK: Duration = Duration::from_secs(60);
/// A standby asks for the lease at least this often, so that it leads within a lease's time and
/// five seconds.
const MAX_STANDBY: Duration = Duration::from_secs(2);
/// How long a service that panicked stays down.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// Blocks behind the head that the watcher reads again, beyond what a confirmation takes.
const EXTRA_WINDOW: u64 = 20;

/// The lease under which a chain's services run.
pub(super) fn lease_name(chain_id: u64) -> String {
    format!("chain:{chain_id}")
}

/// Something that only a human can resolve; the program ends and says what.
#[derive(Debug, Clone, Default)]
pub(super) struct Halt {
    token: CancellationToken,
    reason: Arc<Mutex<Option<String>>>,
}

impl Halt {
    /// It happened.
    fn call(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.token.cancel();
    }

    /// Waits for it.
    pub(super) async fn happened(&self) {
        self.token.cancelled().await;
    }

    /// What it was.
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs the background services of one chain while it holds the chain's lease.
#[derive(Debug)]
pub(super) struct Leader {
    chain_id: u64,
    name: String,
    /// How long the lease lasts without renewal; another daemon takes over after that.
    lease_time: Duration,
    ledger: Ledger,
    heads: Heads,
    stations: Vec<(Station, Keys)>,
    halt: Halt,
    /// Who is told what happened.
    webhooks: Vec<Endpoint>,
    /// Calls them.
    outbound: Outbound,
}

/// Who is told what happened, and what calls them.
pub(super) type Told = (Vec<Endpoint>, Outbound);

impl Leader {
    pub(super) fn new(
        chain_id: u64,
        lease_time: Duration,
        ledger: Ledger,
        heads: Heads,
        stations: Vec<(Station, Keys)>,
        halt: Halt,
        (webhooks, outbound): Told,
    ) -> Self {
        let name = lease_name(chain_id);
        Self { chain_id, name, lease_time, ledger, heads, stations, halt, webhooks, outbound }
    }

    fn interval(&self) -> Duration {
        self.lease_time / RENEWALS
    }

    /// Leads whenever it can, until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let holder = Uuid::new_v4().to_string();
        while !stop.is_cancelled() {
            let Ok(acquired) = tokio::time::timeout(STUCK, self.acquire(&holder)).await else {
                let reason = "the database has not answered for a minute while the lease was taken; \
                              the daemon ends, so that it is started anew";
                tracing::error!(lease = self.name, reason, "ALARM: service stopped");
                self.halt.call(reason.to_owned());
                return;
            };
            match acquired {
                Ok(Some(lease)) => {
                    tracing::info!(lease = lease.name, epoch = lease.epoch, "leading");
                    let chain_id = self.chain_id.to_string();
                    IS_LEADER.set(1, [&chain_id]);
                    LEASE_EPOCH.set(lease.epoch, [&chain_id]);
                    self.lead(&lease, &stop).await;
                    IS_LEADER.set(0, [&chain_id]);
                }
                Ok(None) => tracing::debug!(lease = self.name, "standing by"),
                Err(error) => tracing::warn!(%error, "cannot ask for the lease"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(self.interval().min(MAX_STANDBY)) => {}
            }
        }
    }

    async fn acquire(&self, holder: &str) -> Result<Option<Lease>, LedgerError> {
        self.ledger.acquire_lease(&self.name, holder, self.lease_time).await
    }

    /// Runs the services until the lease is lost or the program stops, then gives it back.
    async fn lead(&self, lease: &Lease, stop: &CancellationToken) {
        let stop = stop.child_token();
        let mut services = self.start(lease, &stop);
        self.keep(lease, &stop).await;
        stop.cancel();
        let all = async { while services.join_next().await.is_some() {} };
        if tokio::time::timeout(STUCK, all).await.is_err() {
            let reason = "a service has not stopped for a minute; the daemon ends, so that it is \
                          started anew";
            let running = tasks().join(", ");
            tracing::error!(lease = lease.name, running, reason, "ALARM: service stopped");
            self.halt.call(reason.to_owned());
            services.abort_all();
        }
        let released = async {
            let mut tx = self.ledger.begin().await?;
            tx.release_lease(lease).await?;
            tx.commit(Point::Release).await
        };
        match tokio::time::timeout(self.lease_time, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the lease could not be given back; it runs out by itself");
            }
            Err(_) => tracing::warn!("the lease could not be given back; it runs out by itself"),
        }
    }

    /// Renews the lease until that fails for good or the services stop.
    async fn keep(&self, lease: &Lease, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.interval()) => {}
            }
            let renewal = async {
                let mut tx = self.ledger.begin().await?;
                tx.renew_lease(lease, self.lease_time).await?;
                tx.commit(Point::Renew).await
            };
            // A connection that is lost and does not know must not hold up the end of the lease.
            let Ok(renewal) = tokio::time::timeout(self.lease_time, renewal).await else {
                tracing::error!("could not renew the lease in its time: stopping the services");
                return;
            };
            match renewal {
                Ok(()) => renewed = Instant::now(),
                Err(LedgerError::LeaseLost(name)) => {
                    tracing::error!(lease = name, "lost the lease: stopping the services");
                    return;
                }
                // Every write checks the lease by itself; this only stops useless work.
                Err(error) if renewed.elapsed() > self.lease_time => {
                    tracing::error!(%error, "could not renew the lease: stopping the services");
                    return;
                }
                Err(error) => tracing::warn!(%error, "could not renew the lease: trying again"),
            }
        }
    }

    fn start(&self, lease: &Lease, stop: &CancellationToken) -> JoinSet<()> {
        let mut services = JoinSet::new();
        let mut signers = BTreeMap::new();
        for (station, keys) in &self.stations {
            let puller = keys.puller.iter().map(|puller| (puller, SignerRole::Puller));
            for (signer, role) in
                std::iter::once((&keys.settler, SignerRole::Settler)).chain(puller)
            {
                // A key that serves several Splitters has one outbox, and may do what each needs.
                signers
                    .entry(signer.address())
                    .and_modify(|(_, known, _): &mut (_, Signer, _)| known.permit_too(signer))
                    .or_insert_with(|| (station, signer.clone(), role));
            }
            self.start_station(&mut services, station, lease, stop);
        }
        let make = {
            let (ledger, lease, token) = (self.ledger.clone(), lease.clone(), stop.clone());
            move || Sealer { ledger: ledger.clone(), lease: lease.clone() }.run(token.clone())
        };
        let name = "sealer".to_owned();
        services.spawn(self.supervise(name, stop.clone(), LedgerError::is_lease_lost, make));
        self.start_webhooks(&mut services, lease, stop);
        for (address, (station, signer, role)) in signers {
            let (ledger, lease) = (self.ledger.clone(), lease.clone());
            let chain_id = station.record.chain_id;
            let (chain, heads) = (station.chain.clone(), self.heads.clone());
            let stopped = stop.clone();
            let splitters: Vec<_> =
                self.stations.iter().map(|(station, _)| station.record.address).collect();
            let limits = station.chain_settings.spending.limits();
            let max_pending = station.chain_settings.max_pending;
            let make = move || {
                Outbox {
                    chain_id,
                    chain: chain.clone(),
                    heads: heads.clone(),
                    ledger: ledger.clone(),
                    lease: lease.clone(),
                    signer: signer.clone(),
                    role,
                    limits,
                    max_pending,
                    splitters: splitters.clone(),
                    stop: stopped.clone(),
                }
                .run()
            };
            let name = format!("outbox {address}");
            services.spawn(self.supervise(name, stop.clone(), OutboxError::is_lease_lost, make));
        }
        services
    }

    fn start_station(
        &self,
        services: &mut JoinSet<()>,
        station: &Station,
        lease: &Lease,
        stop: &CancellationToken,
    ) {
        let splitter = station.record;
        let settings = &station.chain_settings;
        let heads = self.heads.clone();
        let (chain, ledger, lease) = (station.chain.clone(), self.ledger.clone(), lease.clone());
        let window = settings.confirmations.saturating_add(EXTRA_WINDOW);

        let make = {
            let (chain, ledger, lease) = (chain.clone(), ledger.clone(), lease.clone());
            let (heads, token) = (heads.clone(), stop.clone());
            move || {
                Watcher {
                    chain: chain.clone(),
                    heads: heads.clone(),
                    ledger: ledger.clone(),
                    lease: lease.clone(),
                    splitter,
                    window,
                }
                .run(token.clone())
            }
        };
        let name = format!("watcher {}", splitter.address);
        services.spawn(self.supervise(name, stop.clone(), WatcherError::is_lease_lost, make));

        let make = {
            let (ledger, lease, heads) = (ledger.clone(), lease.clone(), heads.clone());
            let (token, record_confirmations) = (stop.clone(), settings.record_confirmations);
            move || {
                Driver {
                    heads: heads.clone(),
                    ledger: ledger.clone(),
                    lease: lease.clone(),
                    splitter,
                    record_confirmations,
                    window,
                }
                .run(token.clone())
            }
        };
        let name = format!("driver {}", splitter.address);
        services.spawn(self.supervise(name, stop.clone(), LedgerError::is_lease_lost, make));

        self.start_watch(services, station, &lease, stop);

        // Connections of its own: a stalled reconciliation must not stall a request.
        let own = Chain::new(&settings.rpc).unwrap_or(chain);
        let (confirmations, interval) = (settings.confirmations, settings.reconcile_interval);
        let (token, refunds) = (stop.clone(), station.refunds);
        let make = move || {
            Reconciler {
                chain: own.clone(),
                heads: heads.clone(),
                ledger: ledger.clone(),
                lease: lease.clone(),
                splitter,
                confirmations,
                interval,
                refunds,
            }
            .run(token.clone())
        };
        let name = format!("reconciler {}", splitter.address);
        services.spawn(self.supervise(name, stop.clone(), ReconcilerError::is_lease_lost, make));
    }

    /// Keeps a service running: a panic restarts it, a lost lease ends the leadership, and
    /// what it could not retry itself ends the program.
    fn supervise<F, E>(
        &self,
        name: String,
        stop: CancellationToken,
        is_lease_lost: fn(&E) -> bool,
        make: impl Fn() -> F + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let halt = self.halt.clone();
        async move {
            while !stop.is_cancelled() {
                match tokio::spawn(make()).await {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => {
                        if is_lease_lost(&error) {
                            tracing::warn!(service = name, %error, "service stopped");
                        } else {
                            tracing::error!(service = name, %error, "ALARM: service stopped");
                            halt.call(error.to_string());
                        }
                        stop.cancel();
                        return;
                    }
                    Err(panic) => {
                        tracing::error!(
                            service = name, %panic, "ALARM: service panicked: restarting"
                        );
                        tokio::time::sleep(RESTART_DELAY).await;
                    }
                }
            }
        }
    }
}
