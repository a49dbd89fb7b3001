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
    failpoint::Point,
    ledger::{Ledger, Outcome, SplitterRecord, Stream},
    watcher::FoundLog,
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
        let (is_ingested, mut told) = found.tell(ledger).await?;
        let outcome = if is_ingested {
            found.skip(ledger).await?;
            "already ingested: nothing to do".to_owned()
        } else {
            let reason = format!("replay of log {index} of {tx_hash}");
            let range = (block, block);
            let outcome = order(ledger, (chain_id, address), range, &reason, deadline).await?;
            let (is_ingested, now) = found.tell(ledger).await?;
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
async fn find(config: &Config, tx_hash: B256, index: u64) -> Result<FoundLog, Exit> {
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
            FoundLog::read(&station.chain, station.record, number, (tx_hash, index)).await?
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
