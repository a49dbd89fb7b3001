//! `keeper rebuild`: a ledger from the chain alone.

use super::{
    ConfigArgs, Exit,
    boot::{self, Obstacle, Station},
    config::Config,
    leader::lease_name,
    progress::Progress,
    reconcile::{look_at, short, usdc},
};
use crate::{
    chain::Heads,
    edge::Catalogue,
    failpoint::Point,
    ledger::{Lease, Ledger, SignerRole, SplitterRecord, Stream},
    outbox::seen_of,
    rebuild::{Comparison, Rebuild, Rebuilt, compare},
    reconciler::Reconciler,
    watcher::Watcher,
};
use alloy::primitives::{Address, B256};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use eyre::WrapErr;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    io::{self, Write},
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often is looked how far a service has come.
const LOOK: Duration = Duration::from_millis(100);
/// Blocks behind the head that the watcher reads again, beyond what a confirmation takes.
const EXTRA_WINDOW: u64 = 20;
/// Why the keys are quarantined.
const REASON: &str = "the ledger was rebuilt from the chain";

/// Recreate the ledger from the chain, in an empty database.
#[derive(Debug, clap::Args)]
pub(super) struct RebuildCommand {
    #[command(flatten)]
    config: ConfigArgs,
    /// The new database, `postgres://…` or `sqlite:path`. It must be empty.
    #[arg(long)]
    into: String,
    /// Compare it with the configuration's database afterwards; exits 1 on any difference.
    #[arg(long)]
    compare: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// What came of one Splitter.
#[derive(Debug, Serialize)]
struct Outcome {
    chain_id: u64,
    splitter: Address,
    /// Where the rebuilt mirror ends.
    block: u64,
    #[serde(flatten)]
    rebuilt: Rebuilt,
    /// With the configuration's database, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Comparison>,
}

impl RebuildCommand {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, catalogue) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let mut stations = BTreeMap::<u64, Vec<Station>>::new();
        for settings in &config.splitter {
            let station = look_at(&config, settings).await?;
            stations.entry(settings.chain).or_default().push(station);
        }
        let ledger = open_empty(&self.into).await?;
        let mut outcomes = Vec::new();
        for (chain_id, stations) in stations {
            let holder = Uuid::new_v4().to_string();
            let lease = ledger
                .acquire_lease(&lease_name(chain_id), &holder, config.lease_time)
                .await?
                .ok_or_else(|| eyre::eyre!("somebody else works on this database"))?;
            let work = Work { ledger: &ledger, lease: &lease, lease_time: config.lease_time };
            for station in &stations {
                outcomes.push(work.rebuild(station, &catalogue).await?);
            }
            work.quarantine(&stations).await?;
            let mut tx = ledger.begin().await?;
            tx.release_lease(&lease).await?;
            tx.commit(Point::Release).await?;
        }
        if self.compare {
            let old = Ledger::open_beside(&config.database).await?;
            for outcome in &mut outcomes {
                let at = (outcome.chain_id, outcome.splitter);
                let compared = compare(&old, &ledger, at, outcome.block).await?;
                outcome.comparison = Some(compared);
            }
        }
        print(&outcomes, self.json)?;
        let differences = |outcome: &Outcome| {
            outcome.comparison.as_ref().map_or(0, |compared| compared.differences.len())
        };
        if outcomes.iter().any(|outcome| differences(outcome) > 0) {
            return Err(eyre::eyre!("the two ledgers differ in what the chain tells").into());
        }
        Ok(())
    }
}

/// A database with the schema and nothing in it.
async fn open_empty(url: &str) -> Result<Ledger, Exit> {
    let ledger = boot::open_ledger(url).await.map_err(|obstacle| match obstacle {
        Obstacle::Fatal(reason) => Exit::misconfigured(eyre::eyre!("--into: {reason}")),
        Obstacle::TrustRoot(reason) | Obstacle::Wait(reason) => {
            eyre::eyre!("--into: {reason}").into()
        }
    })?;
    if ledger.read().await?.is_empty().await? {
        Ok(ledger)
    } else {
        Err(Exit::misconfigured(eyre::eyre!(
            "--into: the database is not empty, and a ledger is never overwritten; name a new one"
        )))
    }
}

/// The right to write into the new ledger.
struct Work<'a> {
    ledger: &'a Ledger,
    lease: &'a Lease,
    lease_time: Duration,
}

impl Work<'_> {
    async fn rebuild(&self, station: &Station, catalogue: &Catalogue) -> eyre::Result<Outcome> {
        let splitter = station.record;
        let confirmations = station.chain_settings.confirmations;
        boot::enter(self.ledger, station)
            .await
            .map_err(|obstacle| eyre::eyre!("the Splitter cannot be entered: {obstacle:?}"))?;
        let stop = CancellationToken::new();
        let poll = station.chain_settings.poll_interval;
        let heads = Heads::follow(station.chain.clone(), poll, stop.child_token());
        let ended = stop.drop_guard();

        let (end, head) = self.mirror(station, &heads).await.wrap_err("reading the chain")?;
        let names = catalogue.all().iter().map(|sold| (sold.id, sold.name()));
        let progress = Progress::over(&station.chain, splitter.first_block).await?;
        progress.says("entering the payments");
        let rebuild = Rebuild {
            chain: station.chain.clone(),
            ledger: self.ledger.clone(),
            lease: self.lease.clone(),
            lease_time: self.lease_time,
            splitter,
            puller: station.settings.puller.as_ref().map(|puller| puller.address),
            names: names.collect::<BTreeMap<B256, String>>(),
            confirmed_up_to: head.saturating_sub(confirmations.saturating_sub(1)),
        };
        let rebuilt = rebuild.run(end, &|block| progress.reached(block)).await?;
        drop(progress);
        self.book(station, &heads, end).await.wrap_err("booking")?;
        drop(ended);
        let SplitterRecord { chain_id, address, .. } = splitter;
        Ok(Outcome { chain_id, splitter: address, block: end, rebuilt, comparison: None })
    }

    /// Has the watcher read everything. Tells where the mirror ends, and the head.
    async fn mirror(&self, station: &Station, heads: &Heads) -> eyre::Result<(u64, u64)> {
        let splitter = station.record;
        let SplitterRecord { chain_id, address, first_block, .. } = splitter;
        let progress = Progress::over(&station.chain, first_block).await?;
        progress.says("reading the chain");
        let stop = CancellationToken::new();
        let watcher = Watcher {
            chain: station.chain.clone(),
            heads: heads.clone(),
            ledger: self.ledger.clone(),
            lease: self.lease.clone(),
            splitter,
            window: station.chain_settings.confirmations.saturating_add(EXTRA_WINDOW),
        };
        let service = tokio::spawn(watcher.run(stop.clone()));
        let look = || async {
            let mirrored = self.ledger.read().await?.mirror_end(chain_id, address).await?;
            let (Some((end, _)), Some(seen)) = (mirrored, heads.latest()) else { return Ok(false) };
            progress.reached(end);
            Ok(end >= seen.head.number())
        };
        self.until(service, &stop, look).await?;
        let mirrored = self.ledger.read().await?.mirror_end(chain_id, address).await?;
        let (end, _) = mirrored.ok_or_else(|| eyre::eyre!("nothing was read"))?;
        let head = heads.latest().map_or(end, |seen| seen.head.number());
        Ok((end, head.min(end)))
    }

    /// Has the reconciler book what the mirror holds.
    async fn book(&self, station: &Station, heads: &Heads, end: u64) -> eyre::Result<()> {
        let splitter = station.record;
        let SplitterRecord { chain_id, address, first_block, .. } = splitter;
        let confirmations = station.chain_settings.confirmations;
        let progress = Progress::over(&station.chain, first_block).await?;
        progress.says("booking");
        let stop = CancellationToken::new();
        let reconciler = Reconciler {
            chain: station.chain.clone(),
            heads: heads.clone(),
            ledger: self.ledger.clone(),
            lease: self.lease.clone(),
            splitter,
            confirmations,
            interval: LOOK,
            refunds: station.refunds,
        };
        let service = tokio::spawn(reconciler.run(stop.clone()));
        let bookable = end.saturating_add(1).saturating_sub(confirmations.saturating_sub(1));
        let look = || async {
            let mut tx = self.ledger.read().await?;
            let booked = tx.cursor(chain_id, address, Stream::Journal).await?;
            progress.reached(booked.unwrap_or(first_block));
            Ok(booked.unwrap_or(first_block) >= bookable)
        };
        self.until(service, &stop, look).await
    }

    /// Lets a service work until it has come far enough. The lease is kept meanwhile.
    async fn until<E: Display, F: Future<Output = eyre::Result<bool>>>(
        &self,
        mut service: JoinHandle<Result<(), E>>,
        stop: &CancellationToken,
        is_far_enough: impl Fn() -> F,
    ) -> eyre::Result<()> {
        loop {
            tokio::select! {
                ended = &mut service => return over(ended?),
                () = tokio::time::sleep(LOOK) => {}
            }
            let mut tx = self.ledger.begin().await?;
            tx.renew_lease(self.lease, self.lease_time).await?;
            tx.commit(Point::Renew).await?;
            if is_far_enough().await? {
                stop.cancel();
                return over(service.await?);
            }
        }
    }

    /// Envelopes of the lost ledger may be on their way: the keys begin nothing before the fate of
    /// every account nonce that may be used is known.
    async fn quarantine(&self, stations: &[Station]) -> eyre::Result<()> {
        for station in stations {
            let chain_id = station.record.chain_id;
            let puller = station.settings.puller.iter();
            let puller = puller.map(|puller| (puller.address, SignerRole::Puller));
            let settler = (station.record.authorized_settler, SignerRole::Settler);
            for (signer, role) in std::iter::once(settler).chain(puller) {
                let seen = seen_of(&station.chain, signer).await?;
                let mut tx = self.ledger.begin().await?;
                tx.adopt_signer(self.lease, chain_id, signer, role, seen).await?;
                tx.quarantine(self.lease, chain_id, signer, REASON).await?;
                tx.commit(Point::Quarantine).await?;
            }
        }
        Ok(())
    }
}

fn over<E: Display>(ended: Result<(), E>) -> eyre::Result<()> {
    ended.map_err(|error| eyre::eyre!("{error}"))
}

fn print(outcomes: &[Outcome], json: bool) -> eyre::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(outcomes)?)?;
        return Ok(());
    }
    for outcome in outcomes {
        let Outcome { chain_id, splitter, block, rebuilt, comparison } = outcome;
        writeln!(
            out,
            "Splitter {splitter} on chain {chain_id}, up to block {block}: {} payments of {} USDC, \
             {} recorded, {} split, {} contradicted; {} inflows of {} USDC that the chain \
             attributes to nobody",
            rebuilt.settlements,
            usdc(rebuilt.amount_micro.into()),
            rebuilt.recorded,
            rebuilt.split,
            rebuilt.violations,
            rebuilt.unattributed,
            usdc(rebuilt.unattributed_micro.into()),
        )?;
        let Some(compared) = comparison else { continue };
        writeln!(
            out,
            "{} payments are equal in both ledgers, {} differences",
            compared.equal,
            compared.differences.len()
        )?;
        if !compared.differences.is_empty() {
            writeln!(out, "{}", differences(compared))?;
        }
    }
    Ok(())
}

fn differences(compared: &Comparison) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["payer", "authorization nonce", "what", "old", "rebuilt"]);
    for difference in &compared.differences {
        table.add_row([
            short(Some(&difference.payer.to_string())),
            short(Some(&difference.authorization_nonce.to_string())),
            difference.what.to_owned(),
            difference.old.clone(),
            difference.rebuilt.clone(),
        ]);
    }
    table
}
