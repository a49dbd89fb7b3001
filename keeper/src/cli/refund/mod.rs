//! `keeper refund`: what agents get back, and what a human decides about it.
//!
//! Works beside a running daemon: every step is one SQL transaction that holds only if the refund
//! still stands where it was seen. No key of the keeper pays a refund; the treasury's Safe does.

mod safe;
mod table;

use super::{ConfigArgs, Exit, config::Config};
use crate::{
    edge::Catalogue,
    failpoint::Point,
    ledger::{Ledger, LedgerError, Refund, RefundQuery, Requested},
    lifecycle::{RefundEvent, RefundState},
};
use alloy::primitives::B256;
use clap::{Subcommand, ValueEnum};
use std::path::PathBuf;
use uuid::Uuid;

/// Give back what agents paid for nothing.
#[derive(Debug, clap::Args)]
pub(super) struct RefundCommand {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Refunds, oldest first, and capabilities that are not sold because too many calls fail.
    List {
        /// Only those in this state: held, approved, proposed, paid, denied.
        #[arg(long, value_parser = state)]
        state: Option<RefundState>,
        /// Sums instead of rows.
        #[arg(long, value_enum)]
        by: Option<By>,
        /// Sums over everything, the week's limit, and whether to escalate.
        #[arg(long, conflicts_with_all = ["state", "by"])]
        summary: bool,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Everything that is known of one refund.
    Show {
        /// Id of the refund, or of its payment.
        id: Uuid,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Agree to a refund that is held.
    Approve {
        /// Id of the refund.
        id: Uuid,
        /// Why; it is kept.
        #[arg(long)]
        note: String,
    },
    /// Decide against a refund, or take back that it was agreed to.
    Deny {
        /// Id of the refund.
        id: Uuid,
        /// Why; it is kept.
        #[arg(long)]
        note: String,
        /// It was proposed to the Safe, and that transaction was rejected there: it cannot be
        /// executed any more.
        #[arg(long)]
        rejected_in_safe: bool,
    },
    /// Ask for the refund of a payment. The same limits apply.
    Request {
        #[command(flatten)]
        which: Which,
        /// Why; it is kept.
        #[arg(long)]
        reason: String,
    },
    /// Write what is owed as a file for the Safe's Transaction Builder. Nothing is signed.
    Safe(safe::Safe),
    /// Sell a capability again that was stopped because too many of its calls failed.
    Resume {
        /// "namespace/action", or its id at the Splitter.
        #[arg(long)]
        capability: String,
        /// Why; it is kept.
        #[arg(long)]
        reason: String,
    },
}

/// A payment.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Its id.
    #[arg(long)]
    settlement: Option<Uuid>,
    /// The transaction that pulled it.
    #[arg(long)]
    tx: Option<B256>,
}

/// What is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Who was paid for what failed.
    Provider,
}

fn state(word: &str) -> Result<RefundState, String> {
    RefundState::from_word(word).ok_or_else(|| {
        let words: Vec<_> = RefundState::ALL.iter().map(|state| state.as_str()).collect();
        format!("one of {}", words.join(", "))
    })
}

impl RefundCommand {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, catalogue) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let ledger = Ledger::open_beside(&config.database).await?;
        match self.command {
            Command::List { summary: true, json, .. } => {
                table::summary(&ledger, &config, json).await
            }
            Command::List { by: Some(By::Provider), state, json, .. } => {
                table::by_provider(&chosen(&ledger, state).await?, json)
            }
            Command::List { state, json, .. } => {
                let refunds = chosen(&ledger, state).await?;
                table::list(&ledger, &config, &catalogue, &refunds, json).await
            }
            Command::Show { id, json } => show(&ledger, id, json).await,
            Command::Approve { id, note } => {
                decide(&ledger, id, RefundEvent::Approve, &note, false).await
            }
            Command::Deny { id, note, rejected_in_safe } => {
                decide(&ledger, id, RefundEvent::Deny, &note, rejected_in_safe).await
            }
            Command::Request { which, reason } => request(&ledger, &config, &which, &reason).await,
            Command::Safe(safe) => safe.execute(&ledger).await,
            Command::Resume { capability, reason } => {
                resume(&ledger, &config, &catalogue, &capability, &reason).await
            }
        }
    }
}

async fn chosen(ledger: &Ledger, state: Option<RefundState>) -> Result<Vec<Refund>, LedgerError> {
    let mut tx = ledger.read().await?;
    tx.refunds(state.map_or(RefundQuery::All, RefundQuery::In)).await
}

fn unknown(id: Uuid) -> Exit {
    Exit::misconfigured(eyre::eyre!(
        "the ledger has no refund {id}; `keeper refund list` shows those that it has"
    ))
}

async fn show(ledger: &Ledger, id: Uuid, json: bool) -> Result<(), Exit> {
    let mut tx = ledger.read().await?;
    let found = match tx.refund(id).await? {
        Some(found) => Some(found),
        None => tx.refunds(RefundQuery::OfSettlement(id)).await?.pop(),
    };
    let refund = found.ok_or_else(|| unknown(id))?;
    let events = tx.events(refund.settlement).await?;
    table::show(&refund, &events, json)
}

/// A human's decision.
async fn decide(
    ledger: &Ledger,
    id: Uuid,
    event: RefundEvent,
    note: &str,
    rejected_in_safe: bool,
) -> Result<(), Exit> {
    let mut tx = ledger.begin().await?;
    let refund = tx.refund(id).await?.ok_or_else(|| unknown(id))?;
    if event == RefundEvent::Deny && refund.state == RefundState::Proposed && !rejected_in_safe {
        return Err(eyre::eyre!(
            "refund {id} was proposed to the Safe {}: reject that transaction there first, so that \
             it cannot be executed any more, then say --rejected-in-safe",
            refund.treasury
        )
        .into());
    }
    if event == RefundEvent::Approve {
        agrees(&refund)?;
    }
    if event == RefundEvent::Approve && !refund.is_covered {
        return Err(eyre::eyre!(
            "payment {} of refund {id} is not confirmed on the chain: there is nothing to give back",
            refund.settlement
        )
        .into());
    }
    let state =
        tx.step_refund(&refund, event, Some(note)).await.map_err(|error| refused(id, error))?;
    tx.commit(Point::Refund).await?;
    println!("refund {id} of {} USDC to {}: {state}", refund.amount, refund.payer);
    Ok(())
}

/// Refuses what somebody has written into the log of refunds past the keeper.
fn agrees(refund: &Refund) -> Result<(), Exit> {
    refund.contradiction.as_ref().map_or(Ok(()), |how| {
        Err(eyre::eyre!(
            "refund {} of payment {}: {how}. Nothing is paid; find out who wrote into the database, \
             and run `keeper audit`",
            refund.id,
            refund.settlement
        )
        .into())
    })
}

fn refused(id: Uuid, error: LedgerError) -> Exit {
    match error {
        LedgerError::Illegal(step) => eyre::eyre!("refund {id}: {step}").into(),
        error if error.is_conflict() => {
            eyre::eyre!("refund {id} has just changed ({error}); look at it, and repeat").into()
        }
        error => error.into(),
    }
}

async fn request(
    ledger: &Ledger,
    config: &Config,
    which: &Which,
    reason: &str,
) -> Result<(), Exit> {
    let mut tx = ledger.begin().await?;
    let payment = match (which.settlement, which.tx) {
        (Some(id), _) => id,
        (None, Some(hash)) => match tx.payments_pulled_in(hash).await?.as_slice() {
            [only] => *only,
            [] => {
                return Err(Exit::misconfigured(eyre::eyre!(
                    "the ledger has no payment that transaction {hash} pulled"
                )));
            }
            several => {
                let ids: Vec<_> = several.iter().map(ToString::to_string).collect();
                return Err(Exit::misconfigured(eyre::eyre!(
                    "transaction {hash} pulled several payments, name one with --settlement: {}",
                    ids.join(", ")
                )));
            }
        },
        (None, None) => return Err(Exit::misconfigured(eyre::eyre!("which payment?"))),
    };
    if tx.settlement(payment).await?.is_none() {
        return Err(Exit::misconfigured(eyre::eyre!("the ledger has no payment {payment}")));
    }
    match tx.request_refund(payment, reason, &config.refunds.policy()).await? {
        Requested::New(refund) => {
            tx.commit(Point::Refund).await?;
            let held = refund.hold_reason.map(|why| format!(" ({why})")).unwrap_or_default();
            println!(
                "refund {} of {} USDC to {}: {}{held}",
                refund.id, refund.amount, refund.payer, refund.state
            );
            Ok(())
        }
        Requested::Known(refund) => Err(eyre::eyre!(
            "payment {payment} has refund {} already: it is {}",
            refund.id,
            refund.state
        )
        .into()),
        Requested::NotPaid => Err(eyre::eyre!(
            "payment {payment} is not confirmed on the chain: there is nothing to give back"
        )
        .into()),
        Requested::NotFinished => Err(eyre::eyre!(
            "the call that payment {payment} paid for may still be answered; ask again when it is \
             not, ten minutes after it was paid at the latest"
        )
        .into()),
    }
}

/// Id at the Splitter of a capability that an operator names.
fn capability_id(catalogue: &Catalogue, name: &str) -> Result<B256, Exit> {
    let sold = catalogue.all().iter().find(|capability| capability.name() == name);
    match (sold, name.parse::<B256>()) {
        (Some(capability), _) => Ok(capability.id),
        (None, Ok(id)) => Ok(id),
        (None, Err(_)) => Err(Exit::misconfigured(eyre::eyre!(
            "the catalogue has no capability {name}; name it as it does, or by its id at the Splitter"
        ))),
    }
}

async fn resume(
    ledger: &Ledger,
    config: &Config,
    catalogue: &Catalogue,
    name: &str,
    reason: &str,
) -> Result<(), Exit> {
    let id = capability_id(catalogue, name)?;
    let mut tx = ledger.begin().await?;
    let mut resumed = false;
    for splitter in &config.splitter {
        resumed |= tx.resume_capability(splitter.chain, splitter.address, id, reason).await?;
    }
    if !resumed {
        return Err(eyre::eyre!("capability {name} is not stopped").into());
    }
    tx.commit(Point::Hold).await?;
    println!("capability {name}: sold again");
    Ok(())
}

/// The temporary name under which a file is written.
fn beside(path: &std::path::Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}
