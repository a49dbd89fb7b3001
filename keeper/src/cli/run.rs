//! `keeper run`: the daemon.

use super::{
    ConfigArgs, Exit, FAILED, MISCONFIGURED, TRUST_ROOT_MISMATCH,
    boot::{self, Keys, Obstacle, Station, persist},
    config::{Config, State, Webhook},
    leader::{Halt, Leader, lease_name},
};
use crate::{
    chain::{Heads, Reader, SeenHead, follow_stream},
    edge::{
        self, Capability, Catalogue, Edge, Health, Intake, Pools, Registrations, Site, TrustRoot,
        Upstream, operators_router, router,
    },
    facilitator::Facilitator,
    ledger::{Ledger, LedgerError, SplitterRecord},
    lifecycle::{IntentKind, Mode, Status},
    metrics::{
        self, HEAD_BLOCK, HEAD_SEEN_TIMESTAMP_SECONDS, OLDEST_INTENT_AGE_SECONDS, OPEN_INTENTS,
        REORG_DEPTH_BLOCKS, REORGS_TOTAL, SETTLEMENTS,
    },
    outbound::Outbound,
    pulse::Pulse,
};
use chrono::Utc;
use clap::ValueEnum;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

/// How often the Splitter is asked what it knows of the catalogue.
const REGISTRATION_INTERVAL: Duration = Duration::from_secs(15);

/// How often it is counted what waits.
const BACKLOG_INTERVAL: Duration = Duration::from_secs(15);

/// How often it is looked whether payments are taken. What is reserved is looked at each time.
const INTAKE_INTERVAL: Duration = Duration::from_secs(1);

/// Run the daemon.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: ConfigArgs,
    /// What this process does.
    #[arg(long, value_enum, default_value = "all")]
    role: Role,
    /// Where to listen, instead of the configuration's http.listen: two processes with one
    /// configuration need two.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Write the log as JSON lines.
    #[arg(long)]
    pub(super) json_log: bool,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Edge and background services.
    All,
    /// Background services, and HTTP for the operator only.
    Keeper,
    /// HTTP only; another process must run the services.
    Edge,
}

impl Run {
    /// Where spans are sent; the log must know before it says anything. What is wrong with the
    /// configuration is told when it is loaded.
    pub(super) fn otlp_endpoint(&self) -> Option<Url> {
        Config::otlp_endpoint(&self.config.config)
    }

    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (mut config, catalogue) =
            Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let callers = config.callers(&catalogue).map_err(Exit::misconfigured)?;
        let stop = stop_on_signal()?;
        let metrics = metrics::install()?;
        tokio::spawn(metrics.clone().keep_up(stop.clone()));
        let health = Health::new();
        let edge = Arc::new(Edge {
            public_url: config.http.public_url.clone(),
            admin_token: config.http.admin_token.clone(),
            auth: config.http.auth()?,
            calls_per_minute: config.http.calls_per_minute,
            catalogue,
            upstream: config.upstream.clone().map(Upstream::new).transpose()?,
            hub: config.hub.clone(),
            callers,
            health,
            metrics,
            outbound: Outbound::new(config.guard())?,
            work: TaskTracker::new(),
            pools: Pools::new(config.http.pools.limits()),
        });
        let mut server = JoinSet::new();
        let listen = self.listen.unwrap_or(config.http.listen);
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| Exit::misconfigured(eyre::eyre!("http.listen {listen}: {error}")))?;
        tracing::info!(listen = %listener.local_addr()?, "edge is up");
        let app = match self.role {
            Role::Keeper => operators_router(Arc::clone(&edge)),
            Role::All | Role::Edge => router(Arc::clone(&edge)),
        };
        server.spawn(edge::serve(listener, app, config.http.connections, stop.clone()));
        let outcome = match serve(&config, self.role, &edge, &stop).await {
            Ok(()) => Ok(()),
            Err(Obstacle::TrustRoot(reason)) => {
                tracing::error!(reason, "ALARM: trust root mismatch: x402 is off");
                let exit = Exit { code: TRUST_ROOT_MISMATCH, error: eyre::eyre!("{reason}") };
                if self.role == Role::Keeper {
                    return Err(exit);
                }
                // The edge stays up and says so; an operator must look at it.
                stop.cancelled().await;
                Err(exit)
            }
            Err(Obstacle::Fatal(reason)) => {
                Err(Exit { code: MISCONFIGURED, error: eyre::eyre!("{reason}") })
            }
            Err(Obstacle::Wait(reason)) => {
                Err(Exit { code: FAILED, error: eyre::eyre!("{reason}") })
            }
        };
        stop.cancel();
        while let Some(ended) = server.join_next().await {
            ended?;
        }
        edge.work.close();
        edge.work.wait().await;
        tracing::info!("stopped");
        outcome
    }
}

/// A token that SIGTERM and SIGINT cancel.
fn stop_on_signal() -> Result<CancellationToken, Exit> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: finishing what is begun, sending nothing new");
        token.cancel();
    });
    Ok(stop)
}

/// Boots and runs until `stop`.
async fn serve(
    config: &Config,
    role: Role,
    edge: &Arc<Edge>,
    stop: &CancellationToken,
) -> Result<(), Obstacle> {
    let health = &edge.health;
    let opened = persist(health, "database", stop, || boot::open_ledger(&config.database)).await?;
    let Some(ledger) = opened else { return Ok(()) };
    let mut stations = Vec::new();
    for settings in &config.splitter {
        let component = format!("chain {}", settings.chain);
        let found = persist(health, &component, stop, || boot::inspect(config, settings)).await?;
        let Some(station) = found else { return Ok(()) };
        let entered = persist(health, "database", stop, || boot::enter(&ledger, &station)).await?;
        if entered.is_none() {
            return Ok(());
        }
        if settings.state == State::Active {
            check_prices(&edge.catalogue, &station)?;
        }
        let mut keys = None;
        if role != Role::Edge {
            let connected = persist(health, "kms", stop, || boot::connect_keys(&station)).await;
            let fleet = &config.facilitator_fleet;
            let verified =
                persist(health, &component, stop, || boot::verify(fleet, &ledger, &station));
            keys = match connected {
                Ok(Some(keys)) => {
                    if verified.await?.is_none() {
                        return Ok(());
                    }
                    Some(keys)
                }
                Ok(None) => return Ok(()),
                Err(obstacle) => {
                    boot::mark(health, &obstacle);
                    return Err(obstacle);
                }
            };
        }
        stations.push((station, keys));
    }
    // Without keys there is nothing to hold against the contract.
    if role != Role::Edge {
        health.set_trust_root(TrustRoot::Ok);
    }

    let mut tasks = JoinSet::new();
    let mut by_chain = BTreeMap::<u64, Vec<(Station, Keys)>>::new();
    let mut followers = BTreeMap::<u64, Heads>::new();
    for (station, keys) in stations {
        let follow = || {
            let settings = &station.chain_settings;
            let heads = Heads::follow(station.chain.clone(), settings.poll_interval, stop.clone());
            if let Some(url) = settings.ws.clone() {
                let (heads, silence) = (heads.clone(), settings.max_silence);
                tasks.spawn(follow_stream(settings.id, url, heads, silence, stop.clone()));
            }
            heads
        };
        let heads = followers.entry(station.record.chain_id).or_insert_with(follow).clone();
        if station.settings.state == State::Active {
            let facilitator = boot::connect_facilitator(config, &station.settings).await?;
            let site = Arc::new(site(config, &ledger, &station, heads, facilitator));
            let seen = persist(health, "database", stop, || boot::look_at_intake(&site)).await?;
            if seen.is_none() {
                return Ok(());
            }
            tasks.spawn(watch_intake(Arc::clone(&site), stop.clone()));
            tasks.spawn(measure_backlog(Arc::clone(&site), stop.clone()));
            if role != Role::Keeper {
                let (edge, site) = (Arc::clone(edge), Arc::clone(&site));
                tasks.spawn(watch_registrations(edge, site, stop.clone()));
            }
            health.open(site);
        }
        if let Some(keys) = keys {
            by_chain.entry(station.record.chain_id).or_default().push((station, keys));
        }
    }
    for (chain_id, heads) in &followers {
        tasks.spawn(measure_head(*chain_id, heads.clone(), stop.clone()));
    }
    let halt = Halt::default();
    let told = Outbound::new(config.guard())
        .map_err(|error| Obstacle::Fatal(format!("the HTTP client: {error}")))?;
    for (chain_id, stations) in by_chain {
        let Some(heads) = followers.remove(&chain_id) else { continue };
        let (time, ledger) = (config.lease_time, ledger.clone());
        let endpoints = config.webhook.iter().map(Webhook::endpoint).collect();
        let told = (endpoints, told.clone());
        let leader = Leader::new(chain_id, time, ledger, heads, stations, halt.clone(), told);
        tasks.spawn(leader.run(stop.clone()));
    }
    tokio::select! {
        () = stop.cancelled() => {}
        () = halt.happened() => stop.cancel(),
    }
    while tasks.join_next().await.is_some() {}
    halt.reason().map_or(Ok(()), |reason| Err(Obstacle::Wait(reason)))
}

/// Shows the head and counts reorgs, until `stop`.
async fn measure_head(chain_id: u64, mut heads: Heads, stop: CancellationToken) {
    let chain_id = chain_id.to_string();
    let mut seen = 0;
    loop {
        if let Some(SeenHead { head, .. }) = heads.latest() {
            HEAD_BLOCK.set(head.number(), [&chain_id]);
            let now = Utc::now().timestamp();
            HEAD_SEEN_TIMESTAMP_SECONDS.set(u64::try_from(now).unwrap_or(0), [&chain_id]);
        }
        let reorgs = heads.reorgs();
        REORGS_TOTAL.add(reorgs.count.saturating_sub(seen), [&chain_id]);
        seen = reorgs.count;
        REORG_DEPTH_BLOCKS.set(reorgs.last.map_or(0, |last| last.depth), [&chain_id]);
        tokio::select! {
            () = stop.cancelled() => return,
            () = heads.changed() => {}
        }
    }
}

/// Shows how much waits, until `stop`.
async fn measure_backlog(site: Arc<Site>, stop: CancellationToken) {
    let SplitterRecord { chain_id, address, .. } = site.splitter;
    let mut ticks = tokio::time::interval(BACKLOG_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let looked = async {
            let mut tx = site.ledger.read().await?;
            let statuses = tx.open_statuses(chain_id, address).await?;
            Ok::<_, LedgerError>((tx.backlog(chain_id, address).await?, statuses))
        };
        let (backlog, statuses) = match looked.await {
            Ok(looked) => looked,
            Err(error) => {
                tracing::warn!(%error, "cannot look what waits");
                continue;
            }
        };
        for kind in IntentKind::ALL {
            let found = backlog.iter().find(|found| found.kind == kind.as_str());
            OPEN_INTENTS.set(found.map_or(0, |found| found.count), [kind.as_str()]);
            let oldest = found.map_or(0, |found| found.oldest.num_seconds());
            let oldest = u64::try_from(oldest).unwrap_or(0);
            OLDEST_INTENT_AGE_SECONDS.set(oldest, [kind.as_str()]);
        }
        for status in Status::ALL.iter().filter(|status| status.is_open()) {
            let found = statuses.iter().find(|(word, _)| word == status.as_str());
            SETTLEMENTS.set(found.map_or(0, |(_, count)| *count), [status.as_str()]);
        }
    }
}

/// A price above the contract's cap could be paid but never recorded (C-22).
fn check_prices(catalogue: &Catalogue, station: &Station) -> Result<(), Obstacle> {
    let cap = station.record.per_tx_cap;
    let unpayable = |sold: &&Capability| sold.methods.take_x402() && sold.price > cap;
    match catalogue.all().iter().find(unpayable) {
        None => Ok(()),
        Some(capability) => Err(Obstacle::Fatal(format!(
            "capability {}: its price {} is above the Splitter's PER_TX_CAP {}; lower it",
            capability.name(),
            capability.price,
            cap
        ))),
    }
}

fn site(
    config: &Config,
    ledger: &Ledger,
    station: &Station,
    heads: Heads,
    facilitator: Option<Arc<Facilitator>>,
) -> Site {
    Site {
        network: station.network,
        chain: station.chain.clone(),
        reader: Reader::start(station.chain.clone()),
        heads,
        ledger: ledger.clone(),
        lease: lease_name(station.record.chain_id),
        splitter: station.record,
        puller: match station.settings.mode {
            Mode::SelfPull => station.settings.puller.as_ref().map(|puller| puller.address),
            Mode::External => None,
        },
        facilitator,
        registrations: Registrations::default(),
        intake: Intake::default(),
        refunds: station.refunds,
        settle_timeout: config.http.settle_timeout,
        max_timeout_seconds: config.http.max_timeout_seconds,
        max_silence: station.chain_settings.max_silence,
        signature_factories: station.chain_settings.signature_factories.clone(),
    }
}

/// Keeps what the Splitter says of the catalogue fresh.
async fn watch_registrations(edge: Arc<Edge>, site: Arc<Site>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(REGISTRATION_INTERVAL);
    let pulse = Pulse::start("registrations".to_owned());
    loop {
        pulse.beat();
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let refreshed =
            site.registrations.refresh(&site.chain, site.splitter.address, edge.catalogue.all());
        if let Err(error) = refreshed.await {
            tracing::warn!(%error, "cannot ask the Splitter about the catalogue");
        }
    }
}

/// Keeps what is known of the intake fresh.
async fn watch_intake(site: Arc<Site>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTAKE_INTERVAL);
    let pulse = Pulse::start("intake".to_owned());
    loop {
        pulse.beat();
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = site.refresh_intake().await {
            tracing::warn!(%error, "cannot look whether payments are taken");
        }
    }
}
