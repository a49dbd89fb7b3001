//! `keeper audit`: is the ledger what it says?

use super::{
    ConfigArgs, Exit,
    boot::{Obstacle, inspect},
    config::Config,
};
use crate::{
    audit::{AuditedSplitter, Options, Report, Verdict, audit, hold_against_chain},
    ledger::Ledger,
};
use alloy::primitives::B256;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{ProgressBar, ProgressStyle};
use std::{io::IsTerminal, time::Duration};

/// Between two looks at the progress.
const REDRAW: Duration = Duration::from_millis(100);

/// Recompute everything that the ledger says; exits 1 when something does not fit, 2 when not
/// everything could be looked at.
#[derive(Debug, clap::Args)]
pub(super) struct Audit {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Recover the signer of every envelope, too; takes minutes for a million.
    #[arg(long)]
    deep: bool,
    /// A root from the daemon's log ("events sealed"): it must still be in the ledger.
    #[arg(long, value_name = "HEX")]
    since_root: Option<B256>,
}

impl Audit {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, _) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let ledger = Ledger::open_beside(&config.database).await.map_err(Exit::incomplete)?;
        let options =
            Options { deep: self.deep, since_root: self.since_root, ..Options::default() };
        let report = offline(&ledger, options).await?;
        let mut splitters = Vec::new();
        let mut unreachable = Vec::new();
        for settings in &config.splitter {
            match inspect(&config, settings).await {
                Ok(station) => {
                    splitters.push(AuditedSplitter { chain: station.chain, record: station.record })
                }
                Err(Obstacle::Wait(why) | Obstacle::Fatal(why) | Obstacle::TrustRoot(why)) => {
                    unreachable.push(why);
                }
            }
        }
        let report = hold_against_chain(report, &ledger, &splitters, unreachable)
            .await
            .map_err(Exit::incomplete)?;
        conclude(&report, self.json)
    }
}

/// What needs no chain, with a bar where somebody looks at it.
pub(super) async fn offline(ledger: &Ledger, options: Options) -> Result<Report, Exit> {
    if !std::io::stderr().is_terminal() {
        return audit(ledger, &options).await.map_err(Exit::incomplete);
    }
    let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(
        "{bar:40} {human_pos} of {human_len} rows, {elapsed}",
    )?);
    let draw = async {
        loop {
            let (done, all) = options.progress.rows();
            bar.set_length(all);
            bar.set_position(done);
            tokio::time::sleep(REDRAW).await;
        }
    };
    let report = tokio::select! {
        report = audit(ledger, &options) => report,
        () = draw => return Err(eyre::eyre!("the audit was not finished").into()),
    };
    bar.finish_and_clear();
    report.map_err(Exit::incomplete)
}

/// Prints a report, and says how it ends.
pub(super) fn conclude(report: &Report, json: bool) -> Result<(), Exit> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print(report);
    }
    match report.verdict {
        Verdict::Sound => Ok(()),
        Verdict::Broken => Err(eyre::eyre!(
            "the ledger is not what it says; find out who wrote into it before anything is paid out"
        )
        .into()),
        Verdict::Incomplete => Err(Exit::incomplete(eyre::eyre!(
            "nothing contradicts, but not everything could be looked at: {}",
            report.missing.join("; ")
        ))),
    }
}

fn print(report: &Report) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["check", "rows", "broken", "what must hold"]);
    for check in &report.checks {
        table.add_row([
            check.name.to_owned(),
            check.checked.to_string(),
            check.broken.to_string(),
            check.promise.to_owned(),
        ]);
    }
    for column in 1..=2 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    println!("{table}");
    for check in report.checks.iter().filter(|check| check.broken > 0) {
        println!("{}: {} broken", check.name, check.broken);
        for finding in &check.findings {
            println!("  {}: {}", finding.row, finding.problem);
        }
    }
    let root = report.newest_root.map_or_else(|| "none".to_owned(), |root| root.to_string());
    println!(
        "{} events are sealed, {} are not yet; the newest root is {root}",
        report.sealed_events, report.unsealed_events
    );
}
