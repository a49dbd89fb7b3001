//! `keeper import`: an export, checked, or made a ledger again.

use super::{
    Exit,
    audit::{conclude, offline},
    progress::Progress,
};
use crate::{
    audit::{Options, Report},
    ledger::Ledger,
};
use eyre::WrapErr;
use std::{
    env::temp_dir,
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// Read an export, check that it is what it says, and audit it; exits 1 when something does not fit.
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The export.
    file: PathBuf,
    /// Only check it; no database is needed.
    #[arg(long, required_unless_present = "into", conflicts_with = "into")]
    verify: bool,
    /// Empty database to fill, `postgres://…` or `sqlite:path`.
    #[arg(long, value_name = "URL")]
    into: Option<String>,
    /// Print the audit as JSON.
    #[arg(long)]
    json: bool,
}

impl Import {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let report = match &self.into {
            Some(url) => self.import(url).await?,
            None => {
                let folder = temp_dir().join(format!("keeper-import-{}", Uuid::new_v4()));
                fs::create_dir(&folder)?;
                let url = format!("sqlite:{}", folder.join("keeper.db").display());
                let report = self.import(&url).await;
                fs::remove_dir_all(&folder)?;
                report?
            }
        };
        conclude(&report, self.json)
    }

    async fn import(&self, url: &str) -> Result<Report, Exit> {
        let path: &Path = &self.file;
        let file = File::open(path).wrap_err_with(|| format!("cannot open {}", path.display()))?;
        let ledger = Ledger::open(url).await?;
        let progress = Progress::spinner("reading the export")?;
        let footer = ledger.import(&mut BufReader::new(file)).await?;
        drop(progress);
        let rows: u64 = footer.counts.values().sum();
        eprintln!("{rows} rows read, sha256 {} as its last line says", footer.sha256);
        offline(&ledger, Options { is_copy: true, ..Options::default() }).await
    }
}
