//! `keeper reconcile`: ledger, chain and contracts side by side, payment by payment and in sums.

use super::{
    ConfigArgs, Exit,
    boot::{Obstacle, Station, inspect},
    config::{Config, Splitter},
    progress::Progress,
};
use crate::{
    ledger::Ledger,
    reconciler::{Category, Line, Options, Reconciliation, Report, each_line, report},
};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use std::io::{self, BufWriter, Write};

/// Blocks that the mirror may be behind the head before somebody is told.
const BEHIND: u64 = 30;

/// Compare ledger, chain and contracts; exits 1 on any difference, 2 when one of them could not be asked.
#[derive(Debug, clap::Args)]
pub(super) struct Reconcile {
    #[command(flatten)]
    config: ConfigArgs,
    /// Read the chain's logs again from the first block, instead of trusting what was ingested.
    #[arg(long)]
    deep: bool,
    /// Most findings of one kind to show.
    #[arg(long, default_value_t = 10)]
    limit: u32,
    /// Show every finding.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Print one line per payment, and per finding that belongs to none.
    #[arg(long, conflicts_with_all = ["json", "limit", "all"])]
    csv: bool,
}

impl Reconcile {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, _) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let ledger = Ledger::open_beside(&config.database).await.map_err(Exit::incomplete)?;
        let (mut reports, mut missing) = (Vec::new(), Vec::new());
        for settings in &config.splitter {
            let outcome = match look_at(&config, settings).await {
                Ok(station) => self.compare(&ledger, &station).await,
                Err(exit) => Err(exit.error),
            };
            match outcome {
                Ok(report) => reports.push(report),
                Err(error) => missing.push(format!("Splitter {}: {error:#}", settings.address)),
            }
        }
        let printed = if self.csv {
            print_csv(&ledger, &reports).await
        } else if self.json {
            print_json(&reports)
        } else {
            print_tables(&reports)
        };
        if let Err(error) = printed
            && !is_broken_pipe(&error)
        {
            return Err(Exit::incomplete(error));
        }
        for report in &reports {
            if report.behind() > BEHIND {
                eprintln!(
                    "keeper: the ledger has not seen the last {} blocks of Splitter {}; let a \
                     daemon run, or compare with --deep",
                    report.behind(),
                    report.sums.splitter
                );
            }
        }
        for missing in &missing {
            eprintln!("keeper: not compared: {missing}");
        }
        if !reports.iter().all(Report::is_sound) {
            return Err(eyre::eyre!(
                "ledger and chain differ; find out why before anything is paid out"
            )
            .into());
        }
        if !missing.is_empty() {
            return Err(Exit::incomplete(eyre::eyre!(
                "nothing differs, but not everything could be compared"
            )));
        }
        Ok(())
    }

    async fn compare(&self, ledger: &Ledger, station: &Station) -> eyre::Result<Report> {
        let options = Options {
            confirmations: station.chain_settings.confirmations,
            deep: self.deep,
            limit: match (self.csv, self.all) {
                (true, _) => 0,
                (false, true) => u64::MAX >> 1,
                (false, false) => self.limit.into(),
            },
        };
        let record = &station.record;
        let progress = match self.deep {
            true => Progress::over(&station.chain, record.first_block).await?,
            false => Progress::spinner("comparing payment by payment")?,
        };
        if self.deep {
            progress.says("reading the chain");
        }
        let seen = |block| progress.reached(block);
        Ok(report(ledger, &station.chain, record, &options, &seen).await?)
    }
}

/// Looks at a Splitter of the configuration, once.
pub(super) async fn look_at(config: &Config, settings: &Splitter) -> Result<Station, Exit> {
    inspect(config, settings).await.map_err(|obstacle| match obstacle {
        Obstacle::Fatal(reason) => Exit::misconfigured(eyre::eyre!("{reason}")),
        Obstacle::TrustRoot(reason) | Obstacle::Wait(reason) => {
            Exit::incomplete(eyre::eyre!("{reason}"))
        }
    })
}

/// Whoever reads along may have seen enough.
fn is_broken_pipe(error: &eyre::Report) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

async fn print_csv(ledger: &Ledger, reports: &[Report]) -> eyre::Result<()> {
    let mut writer = csv::Writer::from_writer(BufWriter::new(io::stdout().lock()));
    for report in reports {
        each_line(ledger, report, |line| writer.serialize(line).map_err(eyre::Report::from))
            .await?;
    }
    writer.flush()?;
    Ok(())
}

fn print_json(reports: &[Report]) -> eyre::Result<()> {
    writeln!(io::stdout().lock(), "{}", serde_json::to_string_pretty(reports)?)?;
    Ok(())
}

fn print_tables(reports: &[Report]) -> eyre::Result<()> {
    let mut out = io::stdout().lock();
    for report in reports {
        let Reconciliation { splitter, chain_id, block, .. } = report.sums;
        writeln!(out, "Splitter {splitter} on chain {chain_id}, block {block}")?;
        writeln!(out, "{}", table(&report.sums))?;
        writeln!(out, "{}", categories(report))?;
        if report.capabilities.iter().any(|row| row.drift_micro != 0) {
            writeln!(out, "{}", capabilities(report))?;
        }
        if !report.findings.is_empty() {
            writeln!(out, "{}", findings(&report.findings))?;
        }
    }
    Ok(())
}

fn categories(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["payments", "count", "USDC", ""]);
    for sum in &report.categories {
        let verdict = match (sum.count, sum.is_drift) {
            (0, _) => "",
            (_, true) => "DIFFERS",
            (_, false) if sum.category == Category::UnattributedInflow.as_str() => "in suspense",
            (_, false) => "ok",
        };
        table.add_row([
            sum.category.to_owned(),
            sum.count.to_string(),
            usdc(sum.amount_micro.into()),
            verdict.to_owned(),
        ]);
    }
    align_right(&mut table, 1..=2);
    table
}

fn capabilities(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "capability",
        "paid",
        "came in",
        "recorded",
        "by logs",
        "split",
        "by logs",
        "accounted",
        "by contract",
        "drift",
    ]);
    for row in report.capabilities.iter().filter(|row| row.drift_micro != 0) {
        let sums = row.sums;
        let amounts = [
            sums.paid_micro,
            sums.inflow_micro,
            sums.recorded_micro,
            sums.recorded_logs_micro,
            sums.split_micro,
            sums.split_logs_micro,
        ];
        let mut cells = vec![short(Some(&sums.capability.to_string()))];
        cells.extend(amounts.map(|micro| usdc(micro.into())));
        cells.push(usdc(row.accounted_journal_micro));
        cells.push(usdc(row.accounted_contract_micro));
        cells.push(usdc(i128::try_from(row.drift_micro).unwrap_or(i128::MAX)));
        table.add_row(cells);
    }
    align_right(&mut table, 1..=9);
    table
}

fn findings(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["finding", "payment", "payer", "USDC", "found", "block", "tx", "what"]);
    for line in lines {
        let amount = |micro: Option<i64>| micro.map_or_else(String::new, |it| usdc(it.into()));
        table.add_row([
            line.category.to_owned(),
            line.settlement_id.clone().unwrap_or_default(),
            short(line.payer.as_deref()),
            amount(line.amount_micro),
            amount(line.found_micro),
            line.block_number.map_or_else(String::new, |number| number.to_string()),
            short(line.tx_hash.as_deref()),
            line.what.to_owned(),
        ]);
    }
    align_right(&mut table, 3..=5);
    table
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
    align_right(&mut table, 1..=4);
    table
}

fn align_right(table: &mut Table, columns: std::ops::RangeInclusive<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Enough of a hash to find it.
pub(super) fn short(hash: Option<&str>) -> String {
    let hash = hash.unwrap_or_default();
    match (hash.get(..8), hash.get(hash.len().saturating_sub(4)..)) {
        (Some(first), Some(last)) => format!("{first}…{last}"),
        _ => hash.to_owned(),
    }
}

/// Micro-USDC, signed, with all decimals.
pub(super) fn usdc(micro: i128) -> String {
    let sign = if micro < 0 { "-" } else { "" };
    let micro = micro.unsigned_abs();
    format!("{sign}{}.{:06}", micro / 1_000_000, micro % 1_000_000)
}
