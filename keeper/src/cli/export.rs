//! `keeper export`: the whole ledger as lines of JSON.

use super::{ConfigArgs, Exit, config::Config, progress::Progress};
use crate::ledger::Ledger;
use eyre::WrapErr;
use std::{
    fs::File,
    io::{BufWriter, IsTerminal, stdout},
    path::PathBuf,
};

/// Write the whole ledger as lines of JSON, for an auditor, an archive or another database.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    config: ConfigArgs,
    /// File to write; the standard output unless named.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Payers' signatures, too. Anybody can submit one as long as its authorization can be used; a
    /// daemon that is to go on from this export needs them.
    #[arg(long)]
    with_signatures: bool,
}

impl Export {
    pub(super) async fn execute(self) -> Result<(), Exit> {
        let (config, _) = Config::load(&self.config.config).map_err(Exit::misconfigured)?;
        let ledger = Ledger::open_beside(&config.database).await?;
        // Between lines of the export a spinner would only be in the way.
        let progress = match self.out.is_none() && stdout().is_terminal() {
            true => Progress::none(),
            false => Progress::spinner("writing the ledger")?,
        };
        let footer = match &self.out {
            Some(path) => {
                let file = File::create_new(path)
                    .wrap_err_with(|| format!("cannot create {}", path.display()))?;
                let mut to = BufWriter::new(file);
                let footer = ledger.export(&mut to, self.with_signatures).await?;
                to.into_inner().map_err(|error| error.into_error())?.sync_all()?;
                footer
            }
            None => ledger.export(&mut BufWriter::new(stdout()), self.with_signatures).await?,
        };
        drop(progress);
        let rows: u64 = footer.counts.values().sum();
        eprintln!("{rows} rows of {} tables, sha256 {}", footer.counts.len(), footer.sha256);
        Ok(())
    }
}
