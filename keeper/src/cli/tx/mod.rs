//! `keeper tx`: what the outbox has sent, and what a human wants done about it.
//!
//! Looking needs only the database. Whatever changes something is written down as an order and
//! carried out by the daemon that leads, under its lease.

mod quarantine;
mod table;

use super::{ConfigArgs, Exit, config::Config};
use crate::{
    ledger::{Ledger, Order, OrderAction, SignerRecord, SignerRole, TransactionQuery, Tx as SqlTx},
    lifecycle::Limits,
};
use alloy::primitives::{Address, B256};
use clap::Subcommand;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How often it is looked whether an order was carried out.
const POLL: Duration = Duration::from_millis(200);

/// Look at the outbox, and tell it what to do.
#[derive(Debug, clap::Args)]
pub(super) struct Tx {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Signers, and their transactions whose fate is open.
    List {
        /// The newest transactions instead, open or not.
        #[arg(long)]
        newest: Option<u64>,
        /// Print JSON instead of tables.
        #[arg(long)]
        json: bool,
    },
    /// Everything that is known of one transaction.
    Show {
        #[command(flatten)]
        which: Which,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Hand a transaction's newest bytes to the nodes now.
    Rebroadcast {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
    },
    /// Sign a transaction again for higher fees, up to the hard limit.
    Bump {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
    },
    /// Have a transaction that does nothing take the account nonce. A pull is given up; a record or
    /// a split gets another account nonce once this one is final.
    Cancel {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
    },
    /// Decide a parked transaction by what took its account nonce; the chain must agree.
    Resolve {
        #[command(flatten)]
        which: Which,
        /// The transaction that took it.
        #[arg(long)]
        tx_hash: B256,
        #[command(flatten)]
        how: How,
    },
    /// Let a held payment go on.
    Release {
        /// Id of the payment.
        payment: Uuid,
        #[command(flatten)]
        how: How,
    },
    /// Begin nothing until every account nonce is final that may be used: after a restore or a
    /// failover.
    Quarantine(quarantine::Quarantine),
    /// Show what signers may spend, or change it at once.
    Limits(LimitsArgs),
}

/// One transaction.
#[derive(Debug, clap::Args)]
struct Which {
    /// Its account nonce.
    account_nonce: u64,
    /// Whose: "settler", "puller", or an address.
    #[arg(long, default_value = "settler")]
    signer: String,
}

/// How an order is given.
#[derive(Debug, clap::Args)]
struct How {
    /// Why; it is kept with the order.
    #[arg(long)]
    reason: String,
    /// Seconds to wait until the daemon has carried it out.
    #[arg(long, default_value_t = 60)]
    wait: u64,
}

#[derive(Debug, clap::Args)]
struct LimitsArgs {
    /// Whose: "settler", "puller", or an address.
    #[arg(long, default_value = "settler")]
    signer: String,
    /// Most that a new transaction may cost, wei.
    #[arg(long)]
    transaction: Option<u64>,
    /// Most that a transaction may cost that has its account nonce already, wei.
    #[arg(long)]
    hard_transaction: Option<u64>,
    /// Most that the transactions of 24 hours may cost, wei.
    #[arg(long)]
    day: Option<u64>,
    /// What must be left of the balance, wei.
    #[arg(long)]
    low_balance: Option<u64>,
    /// Go back to the configuration's.
    #[arg(long, conflicts_with_all = ["transaction", "hard_transaction", "day", "low_balance"])]
    reset: bool,
}

/// A signer that a command is about.
#[derive(Debug, Clone)]
struct Signer {
    chain_id: u64,
    record: SignerRecord,
    /// The configuration's limits.
    limits: Limits,
}

impl Tx {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, _) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        match self.command {
            Command::List { newest, json } => list(&config, newest, json).await,
            Command::Show { which, json } => show(&config, &which, json).await,
            Command::Rebroadcast { which, how } => {
                about(&config, &which, &how, OrderAction::Rebroadcast, None).await
            }
            Command::Bump { which, how } => {
                about(&config, &which, &how, OrderAction::Bump, None).await
            }
            Command::Cancel { which, how } => {
                about(&config, &which, &how, OrderAction::Cancel, None).await
            }
            Command::Resolve { which, tx_hash, how } => {
                about(&config, &which, &how, OrderAction::Resolve, Some(tx_hash)).await
            }
            Command::Release { payment, how } => release(&config, payment, &how).await,
            Command::Quarantine(quarantine) => quarantine.execute(&config).await,
            Command::Limits(arguments) => limits(&config, arguments).await,
        }
    }
}

/// Every signer that configuration and ledger know.
async fn signers(config: &Config, tx: &mut SqlTx) -> Result<Vec<Signer>, Exit> {
    let mut found = Vec::new();
    for chain in &config.chain {
        for record in tx.signers(chain.id).await? {
            found.push(Signer { chain_id: chain.id, record, limits: chain.spending.limits() });
        }
    }
    Ok(found)
}

/// The one that an operator names.
async fn signer(config: &Config, tx: &mut SqlTx, name: &str) -> Result<Signer, Exit> {
    let role = SignerRole::from_word(name);
    let address = name.parse::<Address>().ok();
    let wanted = |signer: &Signer| match role {
        Some(role) => signer.record.role == role,
        None => Some(signer.record.address) == address,
    };
    let mut found = signers(config, tx).await?;
    found.retain(wanted);
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Exit::misconfigured(eyre::eyre!(
            "the ledger knows no signer {name}; `keeper tx list` shows those that it knows"
        ))),
        _ => Err(Exit::misconfigured(eyre::eyre!(
            "the ledger knows several signers {name}; name one by its address"
        ))),
    }
}

async fn list(config: &Config, newest: Option<u64>, json: bool) -> Result<(), Exit> {
    let ledger = Ledger::open_beside(&config.database).await?;
    let mut tx = ledger.read().await?;
    let query = newest.map_or(TransactionQuery::Open, TransactionQuery::Newest);
    let mut all = Vec::new();
    for signer in signers(config, &mut tx).await? {
        let Signer { chain_id, record, limits } = signer;
        let transactions = tx.transactions(chain_id, record.address, query).await?;
        let spending = tx.spending(chain_id, record.address).await?;
        let limits = tx.limits(chain_id, record.address).await?.unwrap_or(limits);
        if json {
            all.push(json!({
                "chain_id": chain_id,
                "signer": record.address,
                "role": record.role.as_str(),
                "next_account_nonce": record.next_account_nonce,
                "closed": record.closed.map(|closed| closed.as_str()),
                "quarantine": record.quarantine.as_ref().map(|quarantine| {
                    json!({"end": quarantine.end, "reason": quarantine.reason})
                }),
                "owed_wei": spending.owed,
                "day_wei": spending.day,
                "limits_wei": limits_json(&limits),
                "transactions": transactions,
            }));
        } else {
            println!("{}", table::heading(chain_id, &record, &spending, &limits));
            println!("{}", table::transactions(&transactions));
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

fn limits_json(limits: &Limits) -> Value {
    json!({
        "transaction": limits.transaction,
        "hard_transaction": limits.hard_transaction,
        "day": limits.day,
        "low_balance": limits.low_balance,
    })
}

async fn show(config: &Config, which: &Which, json: bool) -> Result<(), Exit> {
    let ledger = Ledger::open_beside(&config.database).await?;
    let mut tx = ledger.read().await?;
    let signer = signer(config, &mut tx, &which.signer).await?;
    let (address, nonce) = (signer.record.address, which.account_nonce);
    let query = TransactionQuery::AccountNonce(nonce);
    let found = tx.transactions(signer.chain_id, address, query).await?;
    let [transaction] = found.as_slice() else {
        return Err(eyre::eyre!("{address} has no transaction with account nonce {nonce}").into());
    };
    if json {
        println!("{}", serde_json::to_string_pretty(transaction)?);
    } else {
        println!("{}", table::transactions(&found));
        println!("{}", table::attempts(&transaction.attempts));
    }
    Ok(())
}

/// Orders something about one transaction.
async fn about(
    config: &Config,
    which: &Which,
    how: &How,
    action: OrderAction,
    tx_hash: Option<B256>,
) -> Result<(), Exit> {
    let ledger = Ledger::open_beside(&config.database).await?;
    let mut tx = ledger.read().await?;
    let signer = signer(config, &mut tx, &which.signer).await?;
    drop(tx);
    let order = Order {
        action,
        account_nonce: Some(which.account_nonce),
        settlement: None,
        tx_hash,
        reason: how.reason.clone(),
    };
    give(&ledger, &signer, &order, how.wait).await
}

/// A held payment belongs to the settler of its chain.
async fn release(config: &Config, payment: Uuid, how: &How) -> Result<(), Exit> {
    let ledger = Ledger::open_beside(&config.database).await?;
    let mut tx = ledger.read().await?;
    let Some(settlement) = tx.settlement(payment).await? else {
        return Err(eyre::eyre!("the ledger has no payment {payment}").into());
    };
    let splitter = config.splitter.iter().find(|splitter| {
        (splitter.chain, splitter.address) == (settlement.chain_id, settlement.pay_to)
    });
    let Some(splitter) = splitter else {
        let to = settlement.pay_to;
        return Err(Exit::misconfigured(eyre::eyre!(
            "payment {payment} went to Splitter {to}, which the configuration does not have"
        )));
    };
    let settler = signer(config, &mut tx, &splitter.settler.address.to_string()).await?;
    drop(tx);
    let order = Order {
        action: OrderAction::Release,
        account_nonce: None,
        settlement: Some(payment),
        tx_hash: None,
        reason: how.reason.clone(),
    };
    give(&ledger, &settler, &order, how.wait).await
}

/// Writes an order down and waits for what becomes of it.
async fn give(ledger: &Ledger, signer: &Signer, order: &Order, wait: u64) -> Result<(), Exit> {
    let mut tx = ledger.begin().await?;
    let id = tx.add_order(signer.chain_id, signer.record.address, order).await?;
    tx.commit(crate::failpoint::Point::Order).await?;
    let deadline = Instant::now() + Duration::from_secs(wait);
    loop {
        let mut tx = ledger.read().await?;
        let outcome = tx.order_outcome(id).await?;
        drop(tx);
        match outcome {
            Some(outcome) if outcome.succeeded => {
                println!("{}: {}", order.action, outcome.text);
                return Ok(());
            }
            Some(outcome) => {
                return Err(eyre::eyre!("{} was refused: {}", order.action, outcome.text).into());
            }
            None if Instant::now() >= deadline => {
                return Err(eyre::eyre!(
                    "order {id} is written down, but no daemon has carried it out in {wait} s; the \
                     next one that leads will: start one, or look why it does not"
                )
                .into());
            }
            None => tokio::time::sleep(POLL).await,
        }
    }
}

async fn limits(config: &Config, wanted: LimitsArgs) -> Result<(), Exit> {
    let ledger = Ledger::open_beside(&config.database).await?;
    let mut tx = ledger.read().await?;
    let Signer { chain_id, record, limits } = signer(config, &mut tx, &wanted.signer).await?;
    let now = tx.limits(chain_id, record.address).await?.unwrap_or(limits);
    drop(tx);
    let new = Limits {
        transaction: wanted.transaction.unwrap_or(now.transaction),
        hard_transaction: wanted.hard_transaction.unwrap_or(now.hard_transaction),
        day: wanted.day.unwrap_or(now.day),
        low_balance: wanted.low_balance.unwrap_or(now.low_balance),
    };
    if new.hard_transaction < new.transaction {
        return Err(Exit::misconfigured(eyre::eyre!(
            "--hard-transaction must be at least --transaction: what is begun must be finished"
        )));
    }
    let new = if wanted.reset { limits } else { new };
    if new != now || wanted.reset {
        let mut tx = ledger.begin().await?;
        let set = (!wanted.reset).then_some(&new);
        tx.set_limits(chain_id, record.address, set).await?;
        tx.commit(crate::failpoint::Point::Order).await?;
    }
    println!("{}", serde_json::to_string_pretty(&limits_json(&new))?);
    Ok(())
}
