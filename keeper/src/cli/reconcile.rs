//! `keeper reconcile`: ledger, chain and contracts side by side.

use super::{
    ConfigArgs, Exit,
    boot::{Obstacle, inspect},
    config::Config,
};
use crate::{
    ledger::Ledger,
    reconciler::{Reconciliation, reconcile},
};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

/// Compare ledger, chain and contracts; exits 1 on any difference.
#[derive(Debug, clap::Args)]
pub(super) struct Reconcile {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Reconcile {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, _) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let ledger = Ledger::open_beside(&config.database).await?;
        let mut reports = Vec::new();
        for settings in &config.splitter {
            let station = inspect(&config, settings).await.map_err(|obstacle| match obstacle {
                Obstacle::Fatal(reason) => Exit::misconfigured(eyre::eyre!("{reason}")),
                Obstacle::TrustRoot(reason) | Obstacle::Wait(reason) => {
                    eyre::eyre!("{reason}").into()
                }
            })?;
            reports.push(reconcile(&ledger, &station.chain, &station.record).await?);
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&reports)?);
        } else {
            for report in &reports {
                println!(
                    "Splitter {} on chain {}, block {}",
                    report.splitter, report.chain_id, report.block
                );
                println!("{}", table(report));
            }
        }
        if reports.iter().all(Reconciliation::is_sound) {
            Ok(())
        } else {
            Err(eyre::eyre!(
                "ledger and chain differ; while payments are on their way that is normal, else find \
                 out why before anything is paid out"
            )
            .into())
        }
    }
}

/// The rows of a reconciliation, for people.
pub(super) fn table(report: &Reconciliation) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["USDC", "settlements", "journal", "chain's logs", "contract", ""]);
    for row in &report.rows {
        let show = |value: Option<i128>| value.map_or_else(|| "-".to_owned(), usdc);
        table.add_row([
            row.what.to_owned(),
            show(row.settlements_micro),
            show(row.journal_micro),
            show(row.logs_micro),
            show(row.contract_micro),
            if row.agrees() { "ok" } else { "DIFFERS" }.to_owned(),
        ]);
    }
    for column in 1..=4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Micro-USDC, signed, with all decimals.
pub(super) fn usdc(micro: i128) -> String {
    let sign = if micro < 0 { "-" } else { "" };
    let micro = micro.unsigned_abs();
    format!("{sign}{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}
