//! `keeper flags`: what an operator switches at run time, and what closes the intake.
//!
//! It works on the database alone, beside a running daemon: whatever is changed counts from the
//! daemon's next round on, within two seconds.

use super::{ConfigArgs, Exit, config::Config};
use crate::{
    failpoint::Point,
    ledger::{Closure, ClosureReason, Flag, FlagRecord, Ledger},
};
use alloy::primitives::Address;
use clap::{Subcommand, ValueEnum};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::json;

/// Show the switches and what closes the intake, and change them.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Move a switch. `x402_enabled`: payments are taken. `x402_keeper_enabled`: transactions are
    /// signed.
    Set {
        /// Which.
        #[arg(value_parser = flag)]
        flag: Flag,
        /// On or off.
        value: Value,
        /// Why; it is kept.
        #[arg(long)]
        reason: String,
    },
    /// Open the intake again that was closed for a reason which does not heal by itself.
    Lift {
        /// Which, as `keeper flags` shows it.
        #[arg(value_parser = closure_reason)]
        closure: ClosureReason,
        /// At which Splitter; may be left out when there is only one.
        #[arg(long)]
        splitter: Option<Address>,
        /// Why; it is kept.
        #[arg(long)]
        reason: String,
    },
}

/// Where a switch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Value {
    On,
    Off,
}

fn flag(word: &str) -> Result<Flag, String> {
    Flag::from_word(word).ok_or_else(|| unknown(Flag::ALL.iter().map(Flag::to_string)))
}

fn closure_reason(word: &str) -> Result<ClosureReason, String> {
    let all = ClosureReason::ALL.iter().map(ClosureReason::to_string);
    ClosureReason::from_word(word).ok_or_else(|| unknown(all))
}

fn unknown(words: impl Iterator<Item = String>) -> String {
    format!("must be one of {}", words.collect::<Vec<_>>().join(", "))
}

impl Flags {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, _) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let ledger = Ledger::open_beside(&config.database).await?;
        match self.command {
            None => {}
            Some(Command::Set { flag, value, reason }) => {
                set(&ledger, flag, value, &reason).await?;
            }
            Some(Command::Lift { closure, splitter, reason }) => {
                lift(&config, &ledger, closure, splitter, &reason).await?;
            }
        }
        show(&config, &ledger, self.json).await
    }
}

async fn set(ledger: &Ledger, flag: Flag, value: Value, reason: &str) -> Result<(), Exit> {
    let mut tx = ledger.begin().await?;
    tx.set_flag(flag, value == Value::On, reason).await?;
    tx.commit(Point::Order).await?;
    Ok(())
}

async fn lift(
    config: &Config,
    ledger: &Ledger,
    reason: ClosureReason,
    splitter: Option<Address>,
    why: &str,
) -> Result<(), Exit> {
    let mut all =
        config.splitter.iter().filter(|known| splitter.is_none_or(|at| known.address == at));
    let (Some(found), None) = (all.next(), all.next()) else {
        return Err(Exit::misconfigured(match splitter {
            Some(at) => eyre::eyre!("the configuration has no Splitter {at}"),
            None => eyre::eyre!("there are several Splitters; say which with --splitter"),
        }));
    };
    let mut tx = ledger.begin().await?;
    if !tx.lift(found.chain, found.address, reason, why).await? {
        return Err(eyre::eyre!(
            "Splitter {} is not closed for {reason}; `keeper flags` shows what closes it",
            found.address
        )
        .into());
    }
    tx.commit(Point::Order).await?;
    Ok(())
}

async fn show(config: &Config, ledger: &Ledger, json: bool) -> Result<(), Exit> {
    let mut tx = ledger.read().await?;
    let flags = tx.flags().await?;
    let mut closures = Vec::new();
    for splitter in &config.splitter {
        for closure in tx.closures(splitter.chain, splitter.address).await? {
            closures.push((splitter.chain, splitter.address, closure));
        }
    }
    if json {
        let closures: Vec<_> = closures
            .iter()
            .map(|(chain_id, splitter, Closure { reason, detail, closed_at })| {
                json!({
                    "chain_id": chain_id,
                    "splitter": splitter,
                    "reason": reason,
                    "detail": detail,
                    "closed_at": closed_at,
                    "heals_itself": reason.heals_itself(),
                    "stops_recording": reason.stops_recording(),
                })
            })
            .collect();
        let all = json!({"flags": flags, "closures": closures});
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["switch", "", "since", "reason"]);
    for FlagRecord { flag, value, reason, updated_at } in flags {
        let value = if value { "on" } else { "off" };
        table.add_row([flag.to_string(), value.to_owned(), updated_at.to_rfc3339(), reason]);
    }
    println!("{table}");
    if closures.is_empty() {
        println!("nothing closes the intake");
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["closed for", "splitter", "since", "what was found", "it ends"]);
    for (_, splitter, Closure { reason, detail, closed_at }) in closures {
        let end = match reason.heals_itself() {
            true => "by itself".to_owned(),
            false => format!("with `keeper flags lift {reason}`"),
        };
        let since = closed_at.to_rfc3339();
        table.add_row([reason.to_string(), splitter.to_string(), since, detail, end]);
    }
    println!("{table}");
    Ok(())
}
