//! `keeper replay`: what the ledger did with a log, and what it lacks.
//!
//! Looking needs database and chain. Whatever must be read again is written down as an order and
//! carried out by the daemon that leads, under its lease.

use super::{
    ConfigArgs, Exit,
    boot::{Obstacle, inspect},
    config::{Config, State},
};
use crate::{
    chain::Chain,
    failpoint::Point,
    ledger::{
        Action, Ledger, LogRef, MirrorWindow, Outcome, Settlement, SplitterRecord, Stream, Tx,
    },
    splitter::SplitterEvent,
    watcher::{Receipts, read},
};
use alloy::primitives::{Address, B256};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether an order was carried out.
const POLL: Duration = Duration::from_millis(200);

/// Have the ledger look again at a log, or at a range of blocks.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["tx", "from"])))]
pub(super) struct Replay {
    #[command(flatten)]
    config: ConfigArgs,
    /// Hash of the transaction that wrote the log.
    #[arg(long, requires = "log_index", conflicts_with = "from")]
    tx: Option<B256>,
    /// Position of the log in its block.
    #[arg(long, requires = "tx")]
    log_index: Option<u64>,
    /// First block of a range that is to be read again.
    #[arg(long, requires = "to")]
    from: Option<u64>,
    /// Its last block.
    #[arg(long, requires = "from")]
    to: Option<u64>,
    /// Whose blocks; the active Splitter's unless set.
    #[arg(long, requires = "from")]
    splitter: Option<Address>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Seconds to wait until the daemon has read them.
    #[arg(long, default_value_t = 60)]
    wait: u64,
}

/// A log as the chain has it, and where.
struct Found {
    record: SplitterRecord,
    at: LogRef,
    /// What it is, in the contract's words.
    what: String,
    /// The chain's word for the block, without whose payment it is.
    block: MirrorWindow,
}

impl Replay {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, _) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let ledger = Ledger::open_beside(&config.database).await?;
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        match (self.tx, self.log_index, self.from, self.to) {
            (Some(tx), Some(index), ..) => self.log(&config, &ledger, (tx, index), deadline).await,
            (_, _, Some(from), Some(to)) => {
                self.range(&config, &ledger, (from, to), deadline).await
            }
            _ => Err(Exit::misconfigured(eyre::eyre!("name a log or a range of blocks"))),
        }
    }

    /// One log.
    async fn log(
        &self,
        config: &Config,
        ledger: &Ledger,
        (tx_hash, index): (B256, u64),
        deadline: Instant,
    ) -> Result<(), Exit> {
        let found = find(config, tx_hash, index).await?;
        let SplitterRecord { chain_id, address, .. } = found.record;
        let block = found.at.block_number;
        wait_for_mirror(ledger, &found.record, block, deadline).await?;
        let (is_ingested, mut told) = tell(ledger, &found).await?;
        let outcome = if is_ingested {
            let mut tx = ledger.begin().await?;
            let settlement = payment(&mut tx, &found).await?.map(|settlement| settlement.id);
            let detail = json!({"tx_hash": tx_hash, "log_index": index});
            let splitter = Some((chain_id, address));
            tx.log_action(Action::ReplaySkipped, splitter, settlement, &detail).await?;
            tx.commit(Point::Order).await?;
            tracing::info!(%tx_hash, index, "x402.keeper.duplicate_ignored");
            "already ingested: nothing to do".to_owned()
        } else {
            let reason = format!("replay of log {index} of {tx_hash}");
            let range = (block, block);
            let outcome = order(ledger, (chain_id, address), range, &reason, deadline).await?;
            let (is_ingested, now) = tell(ledger, &found).await?;
            told = now;
            if !is_ingested {
                return Err(eyre::eyre!(
                    "block {block} was read again ({}), but the mirror still lacks the log; look \
                     at the daemon's log, and ask its endpoints for the block",
                    outcome.text
                )
                .into());
            }
            outcome.text
        };
        self.show(told, &outcome)
    }

    /// A range of blocks.
    async fn range(
        &self,
        config: &Config,
        ledger: &Ledger,
        (from, to): (u64, u64),
        deadline: Instant,
    ) -> Result<(), Exit> {
        if from > to {
            return Err(Exit::misconfigured(eyre::eyre!("--from must not be above --to")));
        }
        let splitter = config.splitter.iter().find(|splitter| match self.splitter {
            Some(wanted) => splitter.address == wanted,
            None => splitter.state == State::Active,
        });
        let Some(splitter) = splitter else {
            return Err(Exit::misconfigured(eyre::eyre!("the configuration has no such Splitter")));
        };
        let at = (splitter.chain, splitter.address);
        let reason = format!("replay of blocks {from} to {to}");
        let outcome = order(ledger, at, (from, to), &reason, deadline).await?;
        let told = json!({"chain_id": at.0, "splitter": at.1, "from": from, "to": to});
        self.show(told, &outcome.text)
    }

    fn show(&self, mut told: Value, outcome: &str) -> Result<(), Exit> {
        told["outcome"] = json!(outcome);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&told)?);
            return Ok(());
        }
        for (name, value) in told.as_object().into_iter().flatten() {
            match value {
                Value::String(text) => println!("{name}: {text}"),
                value => println!("{name}: {value}"),
            }
        }
        Ok(())
    }
}

/// The log on the chain, at one of the configured Splitters.
async fn find(config: &Config, tx_hash: B256, index: u64) -> Result<Found, Exit> {
    let mut is_mined = false;
    for settings in &config.splitter {
        let station = inspect(config, settings).await.map_err(|obstacle| match obstacle {
            Obstacle::Fatal(reason) => Exit::misconfigured(eyre::eyre!("{reason}")),
            Obstacle::TrustRoot(reason) | Obstacle::Wait(reason) => eyre::eyre!("{reason}").into(),
        })?;
        let Some(receipt) = station.chain.receipt(tx_hash).await? else { continue };
        is_mined = true;
        let number = receipt.block_number();
        if let Some(found) =
            find_in(&station.chain, station.record, number, (tx_hash, index)).await?
        {
            return Ok(found);
        }
    }
    let what = if is_mined {
        "moves no USDC to or from a configured Splitter, and is none of its events that the ledger \
         keeps"
    } else {
        "is not on a configured chain: the transaction is not mined"
    };
    Err(eyre::eyre!("log {index} of {tx_hash} {what}").into())
}

async fn find_in(
    chain: &Chain,
    record: SplitterRecord,
    number: u64,
    log: (B256, u64),
) -> Result<Option<Found>, Exit> {
    let block = read(chain, &record, (number, number), &[], &mut Receipts::default()).await?;
    let is_it = |at: &LogRef| (at.tx_hash, at.log_index) == log;
    let pull = block.pulls.iter().find(|pull| is_it(&pull.at));
    let payout = block.payouts.iter().find(|payout| is_it(&payout.at));
    let event = block.logs.iter().find(|log| is_it(&log.at));
    let what = pull
        .map(|pull| (pull.at, format!("{} came in from {}", pull.amount, pull.payer)))
        .or(payout.map(|payout| {
            (payout.at, format!("{} went out to {}", payout.amount, payout.recipient))
        }))
        .or(event.map(|log| (log.at, log.event.name().to_owned())));
    Ok(what.map(|(at, what)| Found { record, at, what, block }))
}

/// Whether the mirror holds the log as the chain has it, and what the ledger made of it.
async fn tell(ledger: &Ledger, found: &Found) -> Result<(bool, Value), Exit> {
    let SplitterRecord { chain_id, address, .. } = found.record;
    let at = found.at;
    let mut tx = ledger.read().await?;
    let range = (at.block_number, at.block_number);
    let held = tx.mirror_window(chain_id, address, range).await?.unattributed();
    let is_ingested = alike(&held.pulls, &found.block.pulls, |pull| pull.at == at)
        && alike(&held.payouts, &found.block.payouts, |payout| payout.at == at)
        && alike(&held.logs, &found.block.logs, |log| log.at == at);
    let journals = tx.journals_of_log(chain_id, address, at.tx_hash, at.log_index).await?;
    let settlement = payment(&mut tx, found).await?;
    let told = json!({
        "chain_id": chain_id,
        "splitter": address,
        "tx_hash": at.tx_hash,
        "log_index": at.log_index,
        "block_number": at.block_number,
        "block_hash": at.block_hash,
        "log": found.what,
        "mirrored": is_ingested,
        "payment": settlement.as_ref().map(|settlement| settlement.id),
        "status": settlement.as_ref().map(|settlement| settlement.status.as_str()),
        "keeper_state": settlement.as_ref().map(|settlement| settlement.keeper_state.as_str()),
        "booked": journals,
    });
    Ok((is_ingested, told))
}

/// Whether both have the same of what is wanted.
fn alike<T: PartialEq>(held: &[T], read: &[T], wanted: impl Fn(&T) -> bool) -> bool {
    held.iter().find(|log| wanted(log)) == read.iter().find(|log| wanted(log))
}

/// The payment that a log belongs to: by its authorization for an inflow and a record.
async fn payment(tx: &mut Tx, found: &Found) -> Result<Option<Settlement>, Exit> {
    let SplitterRecord { chain_id, asset, .. } = found.record;
    let inflow = found.block.pulls.iter().find(|pull| pull.at == found.at);
    let record = found.block.logs.iter().find(|log| log.at == found.at);
    let identity = match (inflow, record) {
        (Some(pull), _) => pull.nonce.map(|nonce| (pull.payer, nonce)),
        (None, Some(log)) => match log.event {
            SplitterEvent::SettlementRecorded { payer, .. } => {
                log.nonce.map(|nonce| (payer, nonce))
            }
            _ => None,
        },
        (None, None) => None,
    };
    match identity {
        Some((payer, nonce)) => {
            Ok(tx.settlement_by_identity(chain_id, asset, payer, nonce).await?)
        }
        None => Ok(None),
    }
}

/// A block that the mirror has not come to is read by itself.
async fn wait_for_mirror(
    ledger: &Ledger,
    record: &SplitterRecord,
    block: u64,
    deadline: Instant,
) -> Result<(), Exit> {
    loop {
        let mut tx = ledger.read().await?;
        let next = tx.cursor(record.chain_id, record.address, Stream::Mirror).await?;
        drop(tx);
        if next.is_some_and(|next| next > block) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(eyre::eyre!(
                "the mirror has not come to block {block}; start a daemon that leads, or look why \
                 it does not go on"
            )
            .into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Writes an order down and waits for what comes of it.
async fn order(
    ledger: &Ledger,
    (chain_id, splitter): (u64, Address),
    range: (u64, u64),
    reason: &str,
    deadline: Instant,
) -> Result<Outcome, Exit> {
    let mut tx = ledger.begin().await?;
    let id = tx.add_reread(chain_id, splitter, range, reason).await?;
    tx.commit(Point::Order).await?;
    loop {
        let mut tx = ledger.read().await?;
        let outcome = tx.reread_outcome(id).await?;
        drop(tx);
        match outcome {
            Some(outcome) if outcome.succeeded => return Ok(outcome),
            Some(outcome) => return Err(eyre::eyre!("{}", outcome.text).into()),
            None if Instant::now() >= deadline => {
                return Err(eyre::eyre!(
                    "reread {id} is written down, but no daemon has carried it out; the next one \
                     that leads will: start one, or look why it does not"
                )
                .into());
            }
            None => tokio::time::sleep(POLL).await,
        }
    }
}
