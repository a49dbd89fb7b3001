//! `make bench`: what the keeper can do on this machine, in figures. Every case starts what it needs,
//! runs several times, and enters median, minimum and maximum into one report:
//! target/bench/report.json and target/bench/report.md.

mod challenge;
mod ingest;
mod load;
mod memory;
mod million;
mod payer;
mod record;
mod report;
mod reserve;
mod verify;

use clap::{Parser, ValueEnum};
use report::Report;
use sandbox::Tools;
use std::path::{Path, PathBuf};

/// A case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Reservations at 500 a second.
    Reserve,
    /// From pull to record at 5 payments a second.
    Record,
    /// A hundred thousand logs of the chain into the mirror.
    Ingest,
    /// Audit and reconciliation of a million settlements.
    Million,
    /// Payments verified for resource servers, beside the npm facilitator.
    Verify,
    /// Unpaid calls, and ten thousand connections that stay open.
    Challenge,
}

/// Measure the keeper.
#[derive(Debug, Parser)]
struct Bench {
    /// Which cases; all when none is named.
    #[arg(value_enum)]
    cases: Vec<Case>,
    /// How often each is run.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Divides the size of each case, to try it out. Such figures are not written down.
    #[arg(long, default_value_t = 1)]
    divide: u64,
}

/// Where things are, and how much is measured.
#[derive(Debug)]
struct Ground {
    tools: Tools,
    /// The keeper that was built with this program.
    keeper: PathBuf,
    /// Where this run may write.
    folder: PathBuf,
    runs: u32,
    divide: u64,
}

#[tokio::main]
async fn main() -> eyre::Result<()> {
    let bench = Bench::parse();
    let tools = Tools::find(Path::new(env!("CARGO_MANIFEST_DIR")))?;
    let folder = tools.root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let here = std::env::current_exe()?;
    let keeper = here.with_file_name("keeper");
    eyre::ensure!(keeper.exists(), "{} is missing: run `make bench`", keeper.display());
    let ground = Ground { tools, keeper, folder, runs: bench.runs, divide: bench.divide };
    let cases = match bench.cases.as_slice() {
        [] => Case::value_variants(),
        named => named,
    };
    let mut report = Report::open(&ground.folder)?;
    for case in cases {
        let figures = match case {
            Case::Reserve => reserve::measure(&ground).await?,
            Case::Record => record::measure(&ground).await?,
            Case::Ingest => ingest::measure(&ground).await?,
            Case::Million => million::measure(&ground).await?,
            Case::Verify => verify::measure(&ground).await?,
            Case::Challenge => challenge::measure(&ground).await?,
        };
        report.add(&figures);
        if ground.divide == 1 {
            report.write()?;
        }
    }
    println!("{}", report.table());
    Ok(())
}
